//! No request allocates: neither one at a time, nor many in flight.
//!
//! This is a test binary of its own with one test in it: the allocator counts for the whole
//! process.

use std::alloc::System;
use std::time::Duration;

use nbd_client_blocking::{Client, ConnectOptions};
use nbd_sim::peer::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DEPTH: u64 = 64;

fn many(client: &mut Client, buffers: &mut Vec<Vec<u8>>, rounds: u64) {
    let mut pipeline = client.pipeline();
    for round in 0..rounds {
        while let Some(buffer) = buffers.pop() {
            pipeline.read(buffer, round % 256 * 4096).unwrap();
        }
        while let Some(done) = pipeline.wait() {
            done.result.unwrap();
            buffers.extend(done.buffer);
        }
    }
}

#[test]
fn no_request_allocates() {
    let server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit starts");
    let limit = Duration::from_secs(60);
    let options = ConnectOptions::new().request_timeout(limit).silence(limit);
    let options = options.uri(&server.uri()).unwrap();
    let mut client = Client::connect(options).unwrap();
    let mut buffers: Vec<_> = (0..DEPTH).map(|_| vec![0; 4096]).collect();
    let mut block = vec![7; 4096];
    let mut single = |client: &mut Client| {
        for at in 0..256 {
            client.write_all_at(&block, at * 4096).unwrap();
            client.read_exact_at(&mut block, at * 4096).unwrap();
        }
    };
    // Tables grow to what they need.
    many(&mut client, &mut buffers, 4);
    single(&mut client);
    let before = ALLOCATOR.stats().allocations;
    single(&mut client);
    assert_eq!(ALLOCATOR.stats().allocations - before, 0, "one at a time");
    let before = ALLOCATOR.stats().allocations;
    many(&mut client, &mut buffers, 64);
    // A pipeline's table of buffers grows a few times, however many commands there are.
    let grown = ALLOCATOR.stats().allocations - before;
    assert!(grown <= 8, "{grown} allocations for {} commands", 64 * DEPTH);
}
