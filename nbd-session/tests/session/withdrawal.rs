//! Commands that are withdrawn at every point.

use std::time::Duration;

use nbd_proto::{ClientConfig, Command, Direction};
use nbd_session::replay::Reconnect;
use nbd_session::{Limit, Withdrawn};
use nbd_sim::memory_server::MemoryServer;

use nbd_sim::rig::{Lent, Rig, options};

#[test]
fn what_was_not_sent_is_not_sent() {
    let mut rig = Rig::ready(options());
    let id = rig.submit(Command::write(0, 512));
    assert_eq!(rig.withdraw(id), Withdrawn::Free);
    rig.turn();
    assert_eq!(rig.server(|server| server.requests().len()), 0);
    assert_eq!(rig.session.in_flight(), 0);
}

#[test]
fn a_half_sent_write_is_finished_wherever_it_is_cut() {
    for lasting in [false, true] {
        for room in [1, 27, 28, 29, 100, 539, 540] {
            let policy = lasting.then(Reconnect::new);
            let mut rig = Rig::ready(options().reconnect(policy));
            rig.limited().room = room;
            let id = rig.submit(Command::write(512, 512));
            rig.turn();
            let withdrawn = rig.withdraw(id);
            // Simple requests have 28 bytes, extended ones 32.
            let whole = room >= 544;
            let expected = if whole { Withdrawn::Free } else { Withdrawn::HalfSent };
            assert_eq!(withdrawn, expected, "{room}");
            // Until its last byte has left, its place in every side table is its own.
            let beside = rig.submit(Command::read(4096, 512));
            assert_eq!(beside.slot() == id.slot(), whole, "{room}");
            let _ = rig.withdraw(beside);
            rig.limited().room = usize::MAX;
            rig.turn();
            assert!(rig.buffers.get(id).is_none(), "it is released");
            rig.turn();
            assert_eq!(rig.server(|server| server.disk()[512]), 1);
            // The connection is as good as before, and no completion comes.
            let next = rig.submit(Command::read(0, 512));
            rig.turn();
            assert_eq!(rig.outcomes(), [(next, true)]);
            assert_eq!((rig.session.stats().connections, rig.session.in_flight()), (1, 0));
        }
    }
}

/// Before its first byte, between any two of it, and at any point of its answer.
#[test]
fn a_command_is_withdrawn_at_every_byte() {
    let commands = [
        Command::read(512, 512),
        Command::write(512, 512),
        Command::flush(),
        Command::trim(512, 512),
        Command::block_status(0, 4096),
    ];
    for (command, lasting) in commands.into_iter().flat_map(|one| [(one, false), (one, true)]) {
        let mut point = 0;
        loop {
            let policy = lasting.then(Reconnect::new);
            let config = ClientConfig::new().meta_context("base:allocation");
            let mut rig = Rig::ready(options().config(config).reconnect(policy));
            let sent = rig.session.stats().wire.bytes_sent;
            (rig.limited().room, rig.limited().brings) = (point, 0);
            let id = rig.submit(command);
            rig.turn();
            // What is left of the point when all is sent is for the answer.
            let request = (rig.session.stats().wire.bytes_sent - sent) as usize;
            rig.limited().brings = point - request;
            rig.turn();
            let done = rig.session.has_completed();
            let _ = rig.withdraw(id);
            (rig.limited().room, rig.limited().brings) = (usize::MAX, usize::MAX);
            rig.turn();
            let at = format!("{command}, {point}, {lasting}");
            assert_eq!((rig.outcomes(), rig.session.in_flight()), (vec![], 0), "{at}");
            assert!(rig.buffers.get(id).is_none(), "{at}");
            let next = rig.submit(Command::read(0, 512));
            rig.turn();
            assert!(rig.data(next).iter().all(|byte| *byte == 0xee), "{at}");
            assert_eq!(rig.outcomes(), [(next, true)], "{at}");
            assert_eq!(rig.session.stats().connections, 1, "{at}");
            if done {
                break;
            }
            point += 1;
        }
        assert!(point > 28 + 16, "{command}: {point}");
    }
}

#[test]
fn a_slice_that_goes_is_copied() {
    for lasting in [false, true] {
        let policy = lasting.then(Reconnect::new);
        let mut rig = Rig::ready(options().reconnect(policy));
        rig.limited().room = 100;
        let data = [5; 512];
        let limit = Limit::within(Duration::from_secs(1), rig.now);
        let id = rig.session.submit(Command::write(512, 512), limit, rig.now).unwrap();
        let mut lent = Lent { id, read: &mut [], write: &data };
        let (_, stream) = rig.stream.as_mut().unwrap();
        rig.session.write(stream, &mut lent, rig.now);
        rig.now += Duration::from_secs(2);
        rig.session.handle_timeout(rig.now);
        let done = rig.session.take(id).expect("its time is over");
        assert!(done.held && done.result.is_err());
        assert_eq!(rig.session.held(), Some(id));
        rig.session.copy_held(id, lent.write);
        assert_eq!(rig.session.next_released(), None);
        rig.limited().room = usize::MAX;
        rig.turn();
        assert_eq!(rig.server(|server| server.disk()[1023]), 5);
        assert_eq!(rig.session.next_released(), None);
        assert_eq!(rig.session.direction(), Direction::READ);
    }
}

#[test]
fn everything_is_withdrawn_at_once() {
    for lasting in [false, true] {
        let policy = lasting.then(Reconnect::new);
        let mut rig = Rig::ready(options().reconnect(policy));
        rig.server(|server| server.withhold());
        let read = rig.submit(Command::read(0, 512));
        rig.turn();
        rig.limited().room = 100;
        let half = rig.submit(Command::write(512, 512));
        let unsent = rig.submit(Command::write(1024, 512));
        rig.turn();
        assert_eq!(rig.session.withdraw_all(rig.now), Withdrawn::HalfSent);
        assert_eq!(rig.session.held(), Some(half));
        rig.buffers.remove(read);
        rig.buffers.remove(unsent);
        rig.limited().room = usize::MAX;
        rig.turn();
        rig.server(MemoryServer::release);
        rig.turn();
        assert_eq!((rig.outcomes(), rig.session.in_flight()), (vec![], 0));
        assert_eq!(rig.server(|server| server.disk()[1024]), 0xee);
        assert_eq!(rig.server(|server| server.disk()[512]), 1);
    }
}

#[test]
fn a_withdrawn_flush_vouches_for_nothing() {
    let mut rig = Rig::ready(options());
    rig.submit(Command::write(0, 512));
    rig.turn();
    rig.completions();
    let flush = rig.submit(Command::flush());
    let _ = rig.withdraw(flush);
    rig.server(MemoryServer::hang_up);
    rig.turn();
    assert!(rig.session.farewell().is_err());
}
