//! Clients that come by other ways than a listening socket.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nbd_server::proto::{Discard, Machine, ServerConfig, ServerNegotiation};
use nbd_server::{Limits, MemoryExport, Opened, Server};
use nbd_sim::raw::{Raw, WRITE};

use super::support::{ending, start};

/// The machine for a client that knows the export without a word.
fn negotiated(disk: &Opened) -> nbd_server::proto::Server {
    let info = disk.info(32 << 20);
    let mut negotiation = ServerNegotiation::oldstyle(ServerConfig::new(), info);
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.finish().unwrap()
}

#[test]
fn a_handshake_may_be_somebody_else_s() {
    let mut limits = Limits::default();
    limits.max_connections = 2;
    let (server, endings) = start(Server::new(MemoryExport::new(1 << 20)).limits(limits));
    let disk = Opened::new("elsewhere", Arc::new(MemoryExport::new(2 << 20)));
    let mut clients = [(); 2].map(|()| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.serve_negotiated(theirs, negotiated(&disk), disk.clone()).unwrap();
        Raw::over(ours)
    });
    clients[0].ask(WRITE, 1, (2 << 20) - 3, 3);
    clients[0].write(b"end");
    assert_eq!(clients[0].reply(), (0, 1));
    assert_eq!(clients[1].get((2 << 20) - 3, 3), b"end");
    // It counts like any other.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let refused = server.serve_negotiated(theirs, negotiated(&disk), disk.clone()).unwrap_err();
    assert!(refused.to_string().contains("there are 2 clients already"), "{refused}");
    assert!(!Raw::negotiating(&server).choose());
    drop(clients);
    for _ in 0..3 {
        assert_eq!(ending(&endings), None);
    }
}

/// What is under way is answered when the server stops.
#[test]
fn a_handshake_elsewhere_is_no_way_around_the_end() {
    let (server, endings) = start(Server::new(MemoryExport::new(1 << 20)));
    let disk = Opened::new("", Arc::new(MemoryExport::new(1 << 20)));
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve_negotiated(theirs, negotiated(&disk), disk).unwrap();
    let mut client = Raw::over(ours);
    assert_eq!(client.get(0, 4), [0; 4]);
    server.shut_down();
    assert!(client.is_hung_up());
    server.wait();
    assert_eq!(ending(&endings), None);
}
