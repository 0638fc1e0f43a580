//! How a server comes to its end.

use std::time::Duration;

use nbd_server::{Limits, MemoryExport, Server};

use nbd_sim::raw::{READ, Raw, WRITE, request};

use super::support::{Gated, ending, start};

#[test]
fn a_stop_answers_what_has_arrived_and_waits_for_nobody_else() {
    let (server, endings) = start(Server::new(MemoryExport::new(1 << 30)));
    let mut negotiating = Raw::negotiating(&server);
    let mut idle = Raw::established(&server);
    let mut busy = Raw::established(&server);
    for cookie in 0..8 {
        busy.ask(READ, cookie, 0, 1 << 20);
    }
    server.shut_down();
    for cookie in 0..8 {
        assert_eq!(busy.reply(), (0, cookie));
        busy.read(1 << 20);
    }
    assert!(busy.is_hung_up() && idle.is_hung_up() && negotiating.is_hung_up());
    drop((busy, idle, negotiating));
    server.wait();
    for _ in 0..3 {
        assert_eq!(ending(&endings), None);
    }
}

/// What a stop cuts in the middle is no fault of its client's.
#[test]
fn half_a_request_is_nobodys_fault() {
    let half = [request(WRITE, 2, 0, 4096), vec![1; 1000]].concat();
    for length in [half.len(), 20] {
        let mut limits = Limits::default();
        limits.stop_timeout = Duration::from_millis(50);
        let (server, endings) = start(Server::new(MemoryExport::new(1 << 30)).limits(limits));
        let mut client = Raw::established(&server);
        // It is waited for in the read itself from then on.
        for cookie in 0..20 {
            client.ask(READ, cookie, 0, 512);
            assert_eq!(client.reply(), (0, cookie));
            client.read(512);
        }
        client.write(&half[..length]);
        server.shut_down();
        server.wait();
        assert_eq!(ending(&endings), None, "{length} bytes");
    }
}

/// A request that never comes back holds up the end no longer than it may.
#[test]
fn an_export_that_hangs_is_not_waited_for() {
    let mut limits = Limits::default();
    limits.stop_timeout = Duration::from_millis(50);
    let (export, gate) = Gated::new();
    let (server, endings) = start(Server::new(export).limits(limits));
    let mut client = Raw::established(&server);
    client.ask(READ, 2, 2, 4);
    assert_eq!(gate.arrival(), 2);
    server.shut_down();
    let error = server.wait_for_all().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("0 clients and 1 requests still wait"), "{error}");
    // Told before that, and not a second time.
    let told = "the server stopped before the client had its last replies";
    assert_eq!(endings.try_recv().unwrap().as_deref(), Some(told));
    gate.release(2, Ok(()));
    assert!(endings.recv().is_err());
}

#[test]
fn a_client_that_takes_no_replies_is_cut_after_the_grace() {
    let mut limits = Limits::default();
    limits.stop_timeout = Duration::from_millis(50);
    let (server, endings) = start(Server::new(MemoryExport::new(1 << 30)).limits(limits));
    let mut client = Raw::established(&server);
    client.ask(READ, 1, 0, 32 << 20);
    client.reply();
    server.stop();
    assert_eq!(
        ending(&endings).as_deref(),
        Some("the server stopped before the client had its last replies")
    );
}
