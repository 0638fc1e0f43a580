//! A hundred thousand reads, most of them given up at a point chosen by lot. In a process of
//! its own, because what is left of them is counted.

use std::alloc::System;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use nbd_client_tokio::Client;
use nbd_sim::peer::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const READS: u64 = 100_000;
const TASKS: u64 = 10;
const SIZE: usize = 4 << 20;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

/// What may stay behind after all these reads, in bytes: less than one for each.
const MOST: isize = READS as isize / 2;

fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Bytes in use on the heap since the region began.
fn heap(region: &Region<'_, System>) -> isize {
    let stats = region.change();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

async fn once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// Reads here and there; every fourth to its end, which is checked. Returns how many were
/// given up before theirs.
async fn read_and_give_up(client: Client, data: Arc<Vec<u8>>, seed: u64, reads: u64) -> u64 {
    let (mut state, mut given_up) = (seed, 0);
    for _ in 0..reads {
        let length = [512, 4096, 300, 16384][next(&mut state) % 4];
        let at = next(&mut state) % (data.len() - length);
        let mut read = Box::pin(client.read(at as u64, length));
        if next(&mut state).is_multiple_of(4) {
            let got = read.await.unwrap();
            assert!(got == data[at..at + length], "{length} bytes at {at}");
            continue;
        }
        // Never polled, once, or now and then while the driver is at work.
        let mut ready = false;
        for _ in 0..next(&mut state) % 5 {
            if let Poll::Ready(got) = once(&mut read).await {
                assert!(got.unwrap() == data[at..at + length], "{length} bytes at {at}");
                ready = true;
                break;
            }
            for _ in 0..next(&mut state) % 4 {
                tokio::task::yield_now().await;
            }
        }
        given_up += u64::from(!ready);
    }
    given_up
}

async fn round(client: &Client, data: &Arc<Vec<u8>>, seed: u64, reads: u64) -> u64 {
    let tasks = (0..TASKS).map(|task| {
        let (client, data) = (client.clone(), Arc::clone(data));
        tokio::spawn(read_and_give_up(client, data, seed * TASKS + task, reads / TASKS))
    });
    let tasks: Vec<_> = tasks.collect();
    let mut given_up = 0;
    for task in tasks {
        given_up += task.await.unwrap();
    }
    assert_eq!(client.in_flight(), 0);
    given_up
}

#[test]
fn a_hundred_thousand_reads_are_given_up_at_random() {
    let server = Server::nbdkit(&["memory", "4M"]).start().expect("nbdkit");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = nbd_client_tokio::connect(&server.uri()).await.unwrap();
        let mut state = 1;
        let data: Arc<Vec<u8>> = Arc::new((0..SIZE).map(|_| next(&mut state) as u8).collect());
        client.write_all_at(data.to_vec(), 0).await.unwrap();
        // What is allocated once and kept.
        round(&client, &data, 1, READS / 10).await;
        let region = Region::new(ALLOCATOR);
        let given_up = round(&client, &data, 2, READS).await;
        // Those that are polled once at most are given up for sure.
        assert!(given_up > READS / 4 && given_up < READS, "{given_up} were given up");
        // The replies to the last of them may still be on their way.
        let end = Instant::now() + LONG;
        while heap(&region) >= MOST {
            assert!(Instant::now() < end, "{} bytes are left of {READS} reads", heap(&region));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("{given_up} reads given up, {} bytes left", heap(&region));
        assert_eq!(client.stats().wire.anomalies, 0);
        let all = client.read(0, SIZE).await.unwrap();
        assert!(all == data[..]);
        client.disconnect().await.unwrap();
    });
}
