//! A server that looks for the next request without going to sleep.

use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use nbd_server::{MemoryExport, Server};
use nbd_sim::raw::Raw;

use super::support::start;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn one_that_is_awake_does_not_sleep_between_requests() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::new(MemoryExport::new(1 << 20)).busy_poll(LONG);
    let served = thread::spawn(move || {
        let before = sleeps();
        server.serve_one(theirs).unwrap();
        sleeps() - before
    });
    let mut client = Raw::over(ours);
    client.negotiate();
    assert!(client.choose());
    for _ in 0..1000 {
        assert_eq!(client.get(0, 4), [0; 4]);
    }
    drop(client);
    let sleeps = served.join().unwrap();
    assert!(sleeps < 100, "it slept {sleeps} times over 1000 requests");
}

#[test]
fn one_that_is_awake_can_be_stopped() {
    let (server, _endings) = start(Server::new(MemoryExport::new(1 << 20)).busy_poll(LONG));
    let mut client = Raw::established(&server);
    assert_eq!(client.get(0, 4), [0; 4]);
    server.stop();
    assert!(client.is_hung_up());
}
