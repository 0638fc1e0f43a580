//! What calls allocate. In a process of its own, because all that is allocated is counted.

use std::alloc::System;

use bytes::Bytes;
use nbd_client_tokio::Client;
use nbd_sim::peer::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: u64 = 4096;
const TASKS: u64 = 64;

/// What may be allocated besides: tasks, tables that grow, timers.
const SPARE: usize = 600;

async fn reads(client: Client, count: u64) {
    let mut buffer = vec![0; 4096];
    for index in 0..count {
        let result;
        (result, buffer) = client.read_exact_at(buffer, index % 256 * 4096).await;
        result.unwrap();
    }
}

async fn writes(client: Client, count: u64) {
    let data = Bytes::from(vec![1; 4096]);
    for index in 0..count {
        client.write_all_at(data.clone(), index % 256 * 4096).await.unwrap();
    }
}

async fn reads_into_new_memory(client: Client, count: u64) {
    for index in 0..count {
        assert_eq!(client.read(index % 256 * 4096, 4096).await.unwrap().len(), 4096);
    }
}

/// Allocations of so many calls, one after the other and in many tasks.
async fn allocations<F>(client: &Client, calls: fn(Client, u64) -> F) -> [usize; 2]
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut counts = [0; 2];
    for (count, tasks) in counts.iter_mut().zip([1, TASKS]) {
        let region = Region::new(ALLOCATOR);
        let tasks: Vec<_> =
            (0..tasks).map(|_| tokio::spawn(calls(client.clone(), CALLS / tasks))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        *count = region.change().allocations;
    }
    counts
}

/// Nobody answers, and nothing is held for those who wait.
async fn holds_nothing_for_what_was_not_answered(server: &Server, client: &Client) {
    const LENGTH: usize = 1 << 20;
    server.stop().unwrap();
    let region = Region::new(ALLOCATOR);
    let sent = client.stats().wire.messages_sent;
    let reads: Vec<_> = (0..TASKS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.read(0, LENGTH).await.unwrap().len() })
        })
        .collect();
    while client.stats().wire.messages_sent < sent + TASKS {
        tokio::task::yield_now().await;
    }
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    assert!(held < LENGTH, "{held} bytes are held for {TASKS} reads");
    server.cont().unwrap();
    for read in reads {
        assert_eq!(read.await.unwrap(), LENGTH);
    }
}

#[test]
fn a_call_allocates_at_most_the_memory_it_returns() {
    let server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = nbd_client_tokio::connect(&server.uri()).await.unwrap();
        // Tables grow to their size.
        allocations(&client, reads).await;
        let read = allocations(&client, reads).await;
        let written = allocations(&client, writes).await;
        let new = allocations(&client, reads_into_new_memory).await;
        println!("of {CALLS} calls: {read:?} read, {written:?} written, {new:?} read anew");
        for count in read.into_iter().chain(written) {
            assert!(count < SPARE, "{count} allocations of {CALLS} calls");
        }
        for count in new {
            assert!(count < CALLS as usize + SPARE, "{count} allocations of {CALLS} calls");
        }
        holds_nothing_for_what_was_not_answered(&server, &client).await;
    });
}
