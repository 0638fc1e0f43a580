//! What a request costs on its way from the kernel to the server, counted: no memory but what is
//! kept of it until it is flushed.
//!
//! The allocator counts for the whole process, so the test is a process of its own.

use std::alloc::System;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nbd_client_mio::ConnectOptions;
use nbd_client_mio::proto::{CommandType, TransmissionFlags};
use nbd_client_mio::session::replay::Reconnect;
use nbd_sim::peer::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use super::relay::Relay;
use super::status::Status;
use crate::connections::{Others, Servers};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Set in the process that counts.
const COUNTS: &str = "NBD_COUNTS_ALLOCATIONS";

const LENGTH: u32 = 4096;
const DEPTH: u64 = 16;

/// What is kept of what was written and not flushed: many times as much is written.
const KEPT: usize = 1 << 20;

/// The kernel, as far as it matters here.
struct Kernel {
    socket: UnixStream,
    requests: Vec<u8>,
    payload: Vec<u8>,
}

impl Kernel {
    /// Sends as many requests as fit and waits for all replies.
    fn round(&mut self, kind: CommandType, number: u64) {
        let length = if kind == CommandType::Flush { 0 } else { LENGTH };
        self.requests.clear();
        for cookie in 0..DEPTH {
            let offset = (number * DEPTH + cookie) % 4096 * u64::from(length);
            self.requests.extend(0x2560_9513_u32.to_be_bytes());
            self.requests.extend([0, 0, 0, kind.to_wire() as u8]);
            self.requests.extend(cookie.to_be_bytes());
            self.requests.extend(offset.to_be_bytes());
            self.requests.extend(length.to_be_bytes());
            if kind == CommandType::Write {
                self.requests.extend_from_slice(&self.payload);
            }
        }
        self.socket.write_all(&self.requests).unwrap();
        for _ in 0..DEPTH {
            let mut reply = [0; 16];
            self.socket.read_exact(&mut reply).unwrap();
            assert_eq!(&reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
            if kind == CommandType::Read {
                self.socket.read_exact(&mut self.payload).unwrap();
            }
        }
    }
}

fn count() {
    let server = Server::nbdkit(&["memory", "16M"]).start().unwrap();
    let policy = Reconnect::new().keep_unflushed(KEPT as u64);
    let options = ConnectOptions::new().uri(&server.uri()).unwrap().reconnect(policy);
    let servers = Servers::named(OsStr::new(&server.uri()), &Others::default()).unwrap();
    let status = Arc::new(Status::default());
    let mut relay = Relay::connect(&servers, &options, 1, KEPT, status).unwrap();
    let flags = relay.export().unwrap().flags & !TransmissionFlags::SEND_FAST_ZERO;
    let (ours, socket) = UnixStream::pair().unwrap();
    relay.serve(ours, flags).unwrap();
    let relay = thread::spawn(move || relay.run());
    let (payload, requests) = (vec![7; LENGTH as usize], Vec::with_capacity(1 << 20));
    let mut kernel = Kernel { socket, requests, payload };
    let mut rounds = |kind, count: u64| {
        let before = ALLOCATOR.stats();
        (0..count).for_each(|number| kernel.round(kind, number));
        let after = ALLOCATOR.stats();
        let times = after.allocations - before.allocations;
        (times + after.reallocations - before.reallocations, count * DEPTH)
    };
    // Tables grow to what they need.
    let kinds = [CommandType::Write, CommandType::Read, CommandType::Flush];
    for kind in kinds {
        rounds(kind, 256);
    }
    let (times, requests) = rounds(CommandType::Read, 256);
    assert_eq!(times, 0, "{times} allocations for {requests} reads");
    // A server that is slow to flush has more kept than was before: a buffer and its count of
    // users for each write that may be, once, and what tables grow by.
    let most = 2 * (KEPT / LENGTH as usize + DEPTH as usize) + 32;
    let (times, requests) = rounds(CommandType::Write, 1024);
    assert!(times <= most, "{times} allocations for {requests} writes");
    drop(kernel);
    relay.join().unwrap().unwrap();
}

#[test]
fn no_request_allocates() {
    if std::env::var_os(COUNTS).is_some() {
        return count();
    }
    let mut counting = Command::new(std::env::current_exe().unwrap());
    counting.args(["--exact", "attach::costs::no_request_allocates", "--test-threads=1"]);
    let counted = counting.env(COUNTS, "1").output().unwrap();
    let told = String::from_utf8_lossy(&counted.stdout);
    assert!(counted.status.success() && told.contains("1 passed"), "{told}");
}
