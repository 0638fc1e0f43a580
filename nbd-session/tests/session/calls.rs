//! Commands, their limits, and their line.

use std::time::Duration;

use nbd_proto::{Command, ReadChunk, RequestStatus, SubmitError};
use nbd_session::{ErrorKind, Limit, Request};

use nbd_sim::rig::{Rig, options};

#[test]
fn a_write_and_a_read_of_it() {
    let mut rig = Rig::ready(options());
    let write = rig.submit(Command::write(512, 512));
    rig.turn();
    assert_eq!(rig.outcomes(), [(write, true)]);
    let read = rig.submit(Command::read(0, 1024));
    rig.turn();
    assert_eq!(rig.data(read), [[0xee; 512], [1; 512]].concat());
    assert_eq!(rig.session.status(read), RequestStatus::Completed);
    let done = rig.session.take(read).expect("it is finished");
    assert!(done.result.is_ok() && !done.held);
    assert_eq!(rig.session.status(read), RequestStatus::Retired);
    assert_eq!(rig.session.in_flight(), 0);
}

#[test]
fn extents_come_with_the_completion() {
    let mut rig = Rig::ready(options().meta_context("base:allocation"));
    let context = rig.session.context("base:allocation").expect("it is granted");
    let id = rig.session.submit(Command::block_status(0, 4096), Limit::Default, rig.now).unwrap();
    rig.turn();
    let done = rig.session.take(id).expect("it is finished");
    assert_eq!(done.extents.len(), 1);
    assert_eq!((done.extents[0].0, done.extents[0].1.length), (context, 4096));
}

#[test]
fn the_parts_of_a_read_come_with_the_completion_of_who_wants_them() {
    let mut rig = Rig::ready(options());
    let command = Command::read(0, 4096);
    let reporting = rig.session.submit_request(Request::new(command).report_chunks(), rig.now);
    let reporting = reporting.expect("it can be submitted");
    rig.lend(reporting, command);
    let silent = rig.submit(command);
    rig.turn();
    let done = rig.session.take(reporting).expect("it is finished");
    assert_eq!(done.chunks, [ReadChunk { at: 0, length: 4096, hole: false }]);
    assert!(rig.session.take(silent).expect("it is finished").chunks.is_empty());
    // The slot is used again, by one that does not want them.
    let again = rig.submit(command);
    assert!([reporting, silent].iter().any(|old| old.slot() == again.slot()));
    rig.turn();
    assert!(rig.session.take(again).expect("it is finished").chunks.is_empty());
}

#[test]
fn a_call_of_several_commands_has_one_limit() {
    let mut rig = Rig::ready(options().request_timeout(Duration::from_secs(5)));
    let limit = rig.session.fixed(Limit::Default, rig.now);
    assert_eq!(limit, Limit::within(Duration::from_secs(5), rig.now));
    assert_eq!(rig.session.fixed(Limit::Never, rig.now), Limit::Never);
    rig.session.set_request_timeout(None);
    assert_eq!(rig.session.fixed(Limit::Default, rig.now), Limit::Never);
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    assert_eq!(rig.session.next_deadline(), None);
    rig.session.set_request_timeout(Duration::from_secs(1));
    let late = rig.submit(Command::read(0, 512));
    rig.sleep(2.0);
    assert_eq!(rig.outcomes(), [(late, false)]);
}

#[test]
fn a_payload_of_the_wrong_length_is_told_last() {
    let rig = Rig::ready(options());
    let check = |command, given| rig.session.check_payload(&command, given);
    check(Command::read(0, 512), 512).expect("it fits");
    check(Command::flush(), 0).expect("it fits");
    let error = check(Command::write(0, 512), 511).unwrap_err();
    assert!(error.to_string().contains("a buffer of 511 bytes"), "{error}");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NotSent, 22));
    let error = check(Command::read(1 << 20, 512), 0).unwrap_err();
    assert_eq!(error.submit_error(), Some(SubmitError::OutOfBounds), "{error}");
}

/// Who has the buffer in hand need not know whether its data are kept.
#[test]
fn a_lent_buffer_is_copied_where_the_session_keeps_it() {
    let mut plain = Rig::ready(options());
    let keeping =
        options().reconnect(nbd_session::replay::Reconnect::new().keep_unflushed(1 << 20));
    let mut keeping = Rig::ready(keeping);
    let data = [7; 512];
    let write = || Request::new(Command::write(0, 512));
    for rig in [&mut plain, &mut keeping] {
        let now = rig.now;
        for wrong in [None, Some(&data[..511])] {
            let error = rig.session.submit_lent(write(), wrong, now).unwrap_err();
            assert_eq!((error.kind(), error.errno()), (ErrorKind::NotSent, 22));
        }
        rig.session.submit_lent(Request::new(Command::flush()), None, now).expect("no data");
        let id = rig.session.submit_lent(write(), Some(&data), now).expect("it fits");
        rig.buffers.insert(id, data.to_vec());
        if rig.session.keeps_payload(write().command()) {
            // Nobody looks at the buffer any more.
            rig.buffers.insert(id, vec![0; 512]);
        }
        rig.turn();
        assert_eq!(rig.outcomes().last(), Some(&(id, true)));
        assert_eq!(rig.server(|server| server.disk()[..512].to_vec()), data);
    }
    let shared = || write().payload(bytes::Bytes::copy_from_slice(&[8; 512]));
    let now = keeping.now;
    let id = keeping.session.submit_lent(shared(), None, now).expect("it shares its data");
    keeping.turn();
    assert_eq!(keeping.outcomes(), [(id, true)]);
    assert_eq!(keeping.server(|server| server.disk()[0]), 8);
    assert!(plain.session.submit_lent(shared(), None, now).is_err(), "nothing is kept there");
}

#[test]
fn what_takes_too_long_is_finished_and_does_no_harm() {
    let mut rig = Rig::ready(options().request_timeout(Duration::from_secs(5)));
    rig.server(|server| server.withhold());
    let late = rig.submit(Command::read(0, 512));
    let patient = rig.try_submit(Command::read(512, 512), Limit::Never).unwrap();
    let hasty = Limit::within(Duration::from_secs(1), rig.now);
    let hasty = rig.try_submit(Command::read(1024, 512), hasty).unwrap();
    assert_eq!(rig.session.next_deadline(), Some(rig.now + Duration::from_secs(1)));
    rig.sleep(2.0);
    let done = rig.session.take(hasty).expect("it is finished");
    let error = done.result.expect_err("it took too long");
    assert!(error.is_timeout() && error.errno() == 110, "{error}");
    assert!(error.to_string().starts_with("read of 512 bytes at 1024 took longer than 1s"));
    rig.buffers.remove(hasty);
    // The other one is finished, but the id is its own until it is taken.
    rig.sleep(10.0);
    assert_eq!(rig.session.status(late), RequestStatus::Completed);
    rig.server(|server| server.release());
    let fresh = rig.submit(Command::read(0, 512));
    assert_ne!(fresh.slot(), late.slot());
    rig.turn();
    // The answers have come meanwhile, so it was not too late after all.
    let done = rig.completions();
    let mut ids: Vec<_> = done.iter().map(|done| done.id).collect();
    ids.sort_unstable();
    let mut all = vec![late, patient, fresh];
    all.sort_unstable();
    assert_eq!(ids, all);
    assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
    assert_eq!((rig.session.in_flight(), rig.session.next_deadline()), (0, None));
    assert_eq!(rig.session.stats().timed_out, 2);
}

/// However late in its time a call is submitted.
#[test]
fn the_limit_that_is_told_is_the_one_that_was_set() {
    let mut rig = Rig::ready(options().max_in_flight(1));
    rig.server(|server| server.withhold());
    let limit = Limit::within(Duration::from_millis(200), rig.now);
    rig.sleep(0.0015);
    let late = rig.try_submit(Command::read(0, 512), limit).unwrap();
    let line = rig.session.wait_for_room(limit, rig.now);
    rig.sleep(1.0);
    let done = rig.session.take(late).expect("it is finished");
    let told = done.result.unwrap_err().to_string();
    assert!(told.contains("took longer than 200ms"), "{told}");
    assert_eq!(rig.session.next_admission(), Some(line));
    let request = Request::new(Command::flush()).ticket(line);
    let told = rig.session.submit_request(request, rig.now).unwrap_err().to_string();
    assert!(told.contains("took longer than 200ms"), "{told}");
}

#[test]
fn a_slot_is_not_used_again_while_the_late_reply_is_to_come() {
    let mut rig = Rig::ready(options().max_in_flight(1));
    rig.server(|server| server.withhold());
    let limit = Limit::within(Duration::from_secs(1), rig.now);
    let late = rig.try_submit(Command::read(0, 512), limit).unwrap();
    rig.sleep(2.0);
    assert_eq!(rig.outcomes(), [(late, false)]);
    let full = rig.try_submit(Command::read(0, 512), Limit::Default).unwrap_err();
    assert!(full.is_full() && rig.session.is_full());
    rig.server(|server| server.release());
    rig.turn();
    let next = rig.submit(Command::read(0, 512));
    rig.turn();
    assert_eq!(rig.outcomes(), [(next, true)]);
}

/// Nothing is in flight whose completion would make room, so waiting for one is no help.
#[test]
fn room_that_given_up_commands_hold_has_a_limit() {
    let limit = Duration::from_secs(1);
    let mut rig = Rig::ready(options().max_in_flight(2).request_timeout(limit));
    rig.server(|server| server.withhold());
    let late = [rig.submit(Command::read(0, 512)), rig.submit(Command::read(512, 512))];
    rig.sleep(1.0);
    assert!(rig.session.is_full() && !rig.session.has_room());
    assert_eq!(rig.outcomes(), late.map(|id| (id, false)));
    assert_eq!(rig.session.in_flight(), 0);
    rig.sleep(0.5);
    assert!(rig.session.is_full(), "there is time left");
    let refused = rig.try_submit(Command::flush(), Limit::Default).unwrap_err();
    assert!(refused.is_full(), "{refused}");
    rig.sleep(0.5);
    assert!(!rig.session.is_full() && !rig.session.has_room());
    assert_eq!(rig.session.next_deadline(), None);
    let refused = rig.try_submit(Command::flush(), Limit::Default).unwrap_err();
    assert!(refused.is_timeout(), "{refused}");
    let told = refused.to_string();
    assert!(told.contains("room for one more command took longer than 1s"), "{told}");
    rig.server(|server| server.release());
    rig.turn();
    assert!(rig.session.has_room());
    let next = rig.submit(Command::read(0, 512));
    let more = rig.submit(Command::read(0, 512));
    assert!(rig.session.is_full(), "its completion will make room");
    rig.turn();
    assert_eq!(rig.outcomes(), [(next, true), (more, true)]);
}

#[test]
fn those_who_wait_for_room_get_it_in_turn() {
    let mut rig = Rig::ready(options().max_in_flight(2));
    rig.server(|server| server.withhold());
    let first = rig.submit(Command::read(0, 512));
    rig.submit(Command::read(512, 512));
    rig.turn();
    assert!(rig.try_submit(Command::flush(), Limit::Default).unwrap_err().is_full());
    let tickets: Vec<_> =
        (0..3).map(|_| rig.session.wait_for_room(Limit::Default, rig.now)).collect();
    assert!(rig.session.next_admission().is_none());
    rig.server(|server| server.answer(1));
    rig.turn();
    assert!(rig.session.next_admission().is_none(), "its completion is not taken");
    assert_eq!(rig.outcomes(), [(first, true)]);
    assert_eq!(rig.session.next_admission(), Some(tickets[0]));
    assert!(rig.session.next_admission().is_none());
    // Nobody gets in between.
    assert!(rig.try_submit(Command::flush(), Limit::Default).unwrap_err().is_full());
    rig.session.stop_waiting(tickets[0], rig.now);
    assert_eq!(rig.session.next_admission(), Some(tickets[1]), "it was given back");
    let request = Request::new(Command::flush()).ticket(tickets[1]);
    let id = rig.session.submit_request(request, rig.now).expect("there is room");
    rig.server(|server| server.release());
    rig.turn();
    assert_eq!(rig.outcomes().last(), Some(&(id, true)));
    assert_eq!(rig.session.next_admission(), Some(tickets[2]));
}

#[test]
fn a_limit_counts_in_the_line_too() {
    let mut rig = Rig::ready(options().max_in_flight(1).request_timeout(Duration::from_secs(3)));
    rig.server(|server| server.withhold());
    rig.try_submit(Command::read(0, 512), Limit::Never).unwrap();
    let ticket = rig.session.wait_for_room(Limit::Default, rig.now);
    rig.sleep(4.0);
    assert_eq!(rig.session.next_admission(), Some(ticket), "its time is over");
    let request = Request::new(Command::flush()).ticket(ticket);
    assert!(rig.session.submit_request(request.clone(), rig.now).unwrap_err().is_timeout());
    assert!(rig.session.submit_request(request, rig.now).unwrap_err().is_full(), "it is void");
    assert!(rig.session.next_admission().is_none());
}

/// Whoever comes to the front has as much time as was left, whatever the request says.
#[test]
fn the_limit_of_the_line_is_the_limit_of_the_call() {
    let mut rig = Rig::ready(options().max_in_flight(1).request_timeout(Duration::from_secs(3)));
    rig.server(|server| server.withhold());
    let first = rig.try_submit(Command::read(0, 512), Limit::Never).unwrap();
    let ticket = rig.session.wait_for_room(Limit::Default, rig.now);
    rig.sleep(2.0);
    rig.server(|server| server.answer(1));
    rig.turn();
    assert_eq!(rig.outcomes(), [(first, true)]);
    assert_eq!(rig.session.next_admission(), Some(ticket));
    let request = Request::new(Command::flush()).ticket(ticket);
    let late = rig.session.submit_request(request, rig.now).unwrap();
    rig.sleep(0.9);
    assert_eq!(rig.outcomes(), []);
    rig.sleep(0.2);
    let done = rig.session.take(late).expect("its time is over");
    let told = done.result.unwrap_err().to_string();
    assert!(told.contains("took longer than 3s"), "{told}");
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let mut rig = Rig::ready(options());
    let error = rig.try_submit(Command::read(1 << 20, 512), Limit::Default).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NotSent, 22), "{error}");
    let error = rig.try_submit(Command::write(1 << 20, 512), Limit::Default).unwrap_err();
    assert_eq!(error.errno(), 28, "{error}");
    assert!(size_of::<Result<(), nbd_session::Error>>() <= 2 * size_of::<usize>());
}
