//! Many requests of one client at once.

use std::io;

use nbd_server::Server;

use nbd_sim::raw::{FLUSH, READ, Raw, WRITE};

use super::support::{Gated, ending, start};

/// One that is slow holds up no other, and each is answered when it is ready.
#[test]
fn replies_come_as_they_are_ready() {
    let (export, gate) = Gated::new();
    let (server, _endings) = start(Server::new(export));
    let mut client = Raw::established(&server);
    for offset in 2..50 {
        client.ask(READ, offset, offset, 4);
    }
    let mut arrived: Vec<u64> = (2..50).map(|_| gate.arrival()).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (2..50).collect::<Vec<_>>());
    for offset in (2..50).rev() {
        gate.release(offset, Ok(()));
        assert_eq!(client.reply(), (0, offset));
        assert_eq!(client.read(4), [offset as u8; 4]);
    }
    drop(client);
    server.stop();
}

#[test]
fn a_flush_and_a_write_that_wait_hold_up_no_read() {
    let (export, gate) = Gated::new();
    let (server, _endings) = start(Server::new(export));
    let mut client = Raw::established(&server);
    client.ask(WRITE, 1, 7, 1);
    client.write(b"x");
    assert_eq!(gate.arrival(), 7);
    client.ask(FLUSH, 2, 0, 0);
    assert_eq!(gate.arrival(), u64::MAX);
    assert_eq!(client.get(0, 8), [0; 8]);
    gate.release(u64::MAX, Err(io::Error::from_raw_os_error(5)));
    assert_eq!(client.reply(), (5, 2));
    gate.release(7, Ok(()));
    assert_eq!(client.reply(), (0, 1));
}

/// What an export does after its client has left concerns nobody.
#[test]
fn a_client_leaves_its_requests_behind() {
    let (export, gate) = Gated::new();
    let (server, endings) = start(Server::new(export));
    let mut leaver = Raw::established(&server);
    leaver.ask(READ, 2, 2, 4096);
    leaver.ask(READ, 3, 3, 4096);
    let arrived = [gate.arrival(), gate.arrival()];
    let mut stayer = Raw::established(&server);
    drop(leaver);
    assert_eq!(stayer.get(0, 4), [0; 4]);
    for offset in arrived {
        gate.release(offset, Ok(()));
    }
    let told = ending(&endings);
    assert_eq!(told.as_deref(), Some("the client left while it had requests open"));
    assert_eq!(stayer.get(0, 4), [0; 4]);
}
