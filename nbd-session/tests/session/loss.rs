//! Lost connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nbd_proto::{Command, Disconnect, Errno, RequestId};
use nbd_session::replay::Reconnect;
use nbd_session::{
    ConnectOptions, Error, ErrorKind, Event, Limit, Request, State, Target, Withdrawn,
};
use nbd_sim::memory_server::MemoryServer;
use nbd_transport::Endpoint;

use nbd_sim::rig::{Rig, options, server};

fn reconnecting() -> ConnectOptions {
    options().reconnect(Reconnect::new())
}

/// Submits with data of its own.
fn write(rig: &mut Rig, offset: u64, fill: u8) -> RequestId {
    let command = Command::write(offset, 512);
    let request = Request::new(command).payload(Bytes::from(vec![fill; 512]));
    rig.session.submit_request(request, rig.now).expect("it can be submitted")
}

#[test]
fn what_was_under_way_is_sent_again() {
    let mut rig = Rig::ready(reconnecting());
    rig.server(|server| server.withhold());
    let read = rig.submit(Command::read(0, 512));
    let put = rig.submit(Command::write(512, 512));
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    assert_eq!(rig.session.state(), State::Reconnecting);
    let meanwhile = rig.submit(Command::read(1024, 512));
    rig.sleep(1.0);
    assert_eq!(rig.session.state(), State::Ready);
    assert_eq!(rig.outcomes(), [(read, true), (put, true), (meanwhile, true)]);
    assert_eq!(rig.server(|server| server.disk()[512]), 1);
    let stats = rig.session.stats();
    assert_eq!((stats.connections, stats.sent_again), (2, 2));
    assert!(matches!(rig.session.next_event(), Some(Event::Lost { .. })));
    assert!(matches!(rig.session.next_event(), Some(Event::Reconnected { .. })));
    assert!(rig.session.next_event().is_none());
    assert_eq!(rig.steps, ["connect 1", "close 1", "connect 2"]);
}

#[test]
fn half_an_answer_is_forgotten_with_its_connection() {
    let mut rig = Rig::ready(reconnecting().meta_context("base:allocation"));
    let command = Command::block_status(0, 4096);
    let id = rig.session.submit(command, Limit::Default, rig.now).expect("it can be submitted");
    rig.server(|server| server.withhold());
    rig.turn();
    rig.server(|server| {
        server.release();
        // All but the chunk that ends it.
        let unsent = server.unsent();
        unsent.truncate(unsent.len() - 32);
        server.hang_up();
    });
    rig.sleep(1.0);
    let done = rig.session.take(id).expect("it is finished");
    done.result.expect("by the second connection");
    assert_eq!(done.extents.len(), 1, "{:?}", done.extents);
    assert_eq!(rig.session.stats().sent_again, 1);
}

#[test]
fn an_attempt_that_patience_ends_is_told_of() {
    let policy = Reconnect::new().give_up_after(Duration::from_secs(3));
    let first = Cell::new(true);
    let dial = move |_: &_| first.take().then(|| Ok(server(1 << 20)));
    let mut rig = Rig::dialling(options().reconnect(policy), Box::new(dial));
    rig.turn();
    rig.submit(Command::read(0, 512));
    rig.server(MemoryServer::hang_up);
    rig.sleep(10.0);
    let error = rig.completions().remove(0).result.unwrap_err();
    assert!(error.is_timeout() && error.is_closed(), "{error}");
    assert!(error.to_string().contains("not made again in 3s: making the connection"), "{error}");
    assert_eq!(rig.steps.last().map(String::as_str), Some("close 2"));
}

#[test]
fn without_it_every_call_is_told() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let read = rig.submit(Command::read(0, 512));
    let ticket = rig.session.wait_for_room(Limit::Default, rig.now);
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    let done = rig.completions();
    assert_eq!(done[0].id, read);
    let error = done[0].result.clone().unwrap_err();
    assert!(error.is_closed() && error.errno() == 107, "{error}");
    assert_eq!(error.to_string(), "the server closed the connection");
    let later = rig.try_submit(Command::flush(), Limit::Default).unwrap_err();
    assert_eq!(later.to_string(), error.to_string());
    // There was room, so it was let in before.
    assert_eq!(rig.session.next_admission(), Some(ticket), "the end is told in the line too");
    let request = Request::new(Command::flush()).ticket(ticket);
    assert!(rig.session.submit_request(request, rig.now).unwrap_err().is_closed());
}

#[test]
fn a_black_hole_is_got_out_of() {
    // The first connection goes silent; the server can still be reached.
    let mut rig = Rig::ready(reconnecting().request_timeout(Duration::from_secs(10)));
    rig.limited().brings = 0;
    let mut failed = 0;
    for _ in 0..6 {
        rig.submit(Command::read(0, 512));
        rig.sleep(11.0);
        failed += rig.completions().iter().filter(|done| done.result.is_err()).count();
    }
    assert_eq!(failed, 2, "the third one waits for the other connection");
    assert_eq!(rig.session.stats().connections, 2);
}

/// Each connection lasts as long as its silence is borne, which is longer than any wait between
/// attempts.
#[test]
fn patience_has_an_end_where_every_connection_falls_silent() {
    let patience = Duration::from_secs(100);
    let silent = |_: &_| {
        let stream = server(1 << 20);
        stream.with(MemoryServer::withhold);
        Some(Ok(stream))
    };
    let options = options().reconnect(Reconnect::new().give_up_after(patience));
    let mut rig = Rig::dialling(options, Box::new(silent));
    rig.turn();
    let id = rig.submit(Command::write(0, 512));
    rig.sleep(200.0);
    assert_eq!(rig.outcomes(), [(id, false)]);
    assert!(rig.session.is_over());
}

#[test]
fn a_hanging_write_is_got_out_of_too() {
    let mut rig = Rig::ready(reconnecting());
    rig.server(|server| server.withhold());
    let id = rig.submit(Command::write(0, 512));
    rig.sleep(29.0);
    assert_eq!(rig.outcomes(), []);
    rig.sleep(3.0);
    assert_eq!(rig.outcomes(), [(id, true)]);
}

#[test]
fn kept_writes_are_put_back_and_a_flush_does_not_lie() {
    let mut rig = Rig::ready(options().reconnect(Reconnect::new().keep_unflushed(1 << 20)));
    assert!(rig.session.keeps_payload(&Command::write(0, 512)));
    let refused = rig.try_submit(Command::write(0, 512), Limit::Default).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSent, "its data are needed");
    write(&mut rig, 0, 1);
    write(&mut rig, 0, 2);
    rig.turn();
    assert!(rig.completions().iter().all(|done| done.result.is_ok()));
    // Another server, that has lost everything.
    rig.server(MemoryServer::hang_up);
    rig.turn();
    let read = rig.submit(Command::read(0, 512));
    rig.sleep(1.0);
    assert_eq!(rig.data(read), [2; 512]);
    // The read was never sent to the first.
    assert_eq!(rig.session.stats().sent_again, 2);
    let flush = rig.submit(Command::flush());
    rig.turn();
    assert_eq!(rig.outcomes(), [(read, true), (flush, true)]);
    assert_eq!(rig.server(|server| server.disk()[0]), 2);
}

#[test]
fn without_keeping_one_flush_tells_of_the_loss() {
    let mut rig = Rig::ready(reconnecting());
    rig.submit(Command::write(0, 512));
    rig.turn();
    rig.completions();
    rig.server(MemoryServer::hang_up);
    rig.sleep(1.0);
    let flush = rig.session.submit(Command::flush(), Limit::Default, rig.now).unwrap();
    let done = rig.session.take(flush).expect("it is told at once");
    let error = done.result.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Recovery, 5), "{error}");
    rig.submit(Command::flush());
    rig.turn();
    assert!(rig.completions().iter().all(|done| done.result.is_ok()));
}

#[test]
fn a_goodbye_between_two_connections_puts_back_first() {
    let far = Rc::new(RefCell::new(server(1 << 20)));
    let last = Rc::clone(&far);
    let mut rig = Rig::dialling(
        options().reconnect(Reconnect::new().keep_unflushed(1 << 20)),
        Box::new(move |_| {
            let stream = server(1 << 20);
            last.replace(stream.clone());
            Some(Ok(stream))
        }),
    );
    rig.turn();
    write(&mut rig, 512, 9);
    rig.turn();
    rig.completions();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    rig.session.disconnect(Disconnect::AfterReplies, Limit::Default, rig.now);
    assert!(!rig.session.is_over());
    rig.sleep(1.0);
    assert!(rig.session.is_over() && rig.session.farewell().is_ok(), "{:?}", rig.session);
    assert_eq!(far.borrow().with(|server| server.disk()[512]), 9);
}

#[test]
fn a_goodbye_without_kept_writes_tells_that_they_may_be_lost() {
    let mut rig = Rig::ready(reconnecting());
    rig.submit(Command::write(0, 512));
    rig.turn();
    rig.completions();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    rig.session.disconnect(Disconnect::AfterReplies, Limit::Default, rig.now);
    let error = rig.session.farewell().expect_err("the write may be lost");
    assert_eq!(error.kind(), ErrorKind::Recovery, "{error}");
    assert!(rig.session.is_over());
}

#[test]
fn attempts_are_spread_and_end_with_patience() {
    let policy = Reconnect::new().give_up_after(Duration::from_secs(60));
    let mut first = true;
    let mut rig = Rig::dialling(
        options().reconnect(policy),
        Box::new(move |_| {
            if std::mem::take(&mut first) {
                return Some(Ok(server(1 << 20)));
            }
            Some(Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()))
        }),
    );
    rig.turn();
    let read = rig.submit(Command::read(0, 512));
    rig.server(MemoryServer::hang_up);
    rig.turn();
    rig.sleep(59.0);
    assert!(!rig.session.is_over());
    let attempts = rig.steps.iter().filter(|step| step.starts_with("connect")).count();
    assert!((15..60).contains(&attempts), "{attempts}");
    rig.sleep(2.0);
    assert_eq!(rig.outcomes(), [(read, false)]);
    let end = rig.session.end().expect("it is over");
    assert!(end.is_closed() && end.to_string().contains("not made again in 60s"), "{end}");
    let mut last = None;
    while let Some(event) = rig.session.next_event() {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::GaveUp { .. })));
}

#[test]
fn a_limit_of_a_call_goes_on_while_there_is_no_connection() {
    let mut first = true;
    let mut rig = Rig::dialling(
        reconnecting(),
        Box::new(move |_| std::mem::take(&mut first).then(|| Ok(server(1 << 20)))),
    );
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    let limit = Limit::within(Duration::from_secs(3), rig.now);
    let id = rig.try_submit(Command::read(0, 512), limit).unwrap();
    rig.sleep(4.0);
    let done = rig.session.take(id).expect("its time is over");
    let error = done.result.unwrap_err();
    assert!(error.is_timeout() && error.to_string().ends_with("(reconnecting)"), "{error}");
}

#[test]
fn another_export_is_refused_and_one_that_has_grown_by_policy_is_not() {
    for allowed in [false, true] {
        for size in [1 << 19, 1 << 21] {
            let policy = Reconnect::new().allow_growth(allowed);
            let mut sizes = vec![size, 1 << 20];
            let mut rig = Rig::dialling(
                options().reconnect(policy),
                Box::new(move |_| Some(Ok(server(sizes.pop().expect("two connections"))))),
            );
            rig.turn();
            rig.server(MemoryServer::hang_up);
            rig.sleep(1.0);
            let grown = allowed && size > 1 << 20;
            assert_eq!(rig.session.is_over(), !grown);
            if grown {
                assert_eq!(rig.session.export().unwrap().size, size as u64);
                let id = rig.submit(Command::read((1 << 20) + 512, 512));
                rig.turn();
                assert_eq!(rig.outcomes(), [(id, true)]);
            } else {
                let end = rig.session.end().unwrap();
                assert_eq!(end.kind(), ErrorKind::Recovery, "{end}");
            }
        }
    }
}

#[test]
fn after_a_loss_each_server_is_tried_in_turn() {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&asked);
    let options = ConnectOptions::new()
        .endpoint(Endpoint::Unix("one".into()))
        .endpoint(Endpoint::Unix("two".into()))
        .reconnect(Reconnect::new());
    let mut rig = Rig::dialling(
        options,
        Box::new(move |connect| {
            let Target::Endpoint(endpoint) = &connect.target else { panic!() };
            let name = endpoint.to_string();
            told.borrow_mut().push(name.clone());
            if told.borrow().len() > 1 && name.ends_with("one") {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Some(Err(Error::from(refused)));
            }
            Some(Ok(server(1 << 20)))
        }),
    );
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.sleep(1.0);
    assert!(rig.session.core().is_some());
    assert_eq!(*asked.borrow(), ["Unix socket one", "Unix socket one", "Unix socket two"]);
    let mut failed = std::iter::from_fn(|| rig.session.next_event()).filter_map(|event| {
        let Event::Failed { endpoint, .. } = event else { return None };
        endpoint.map(|endpoint| endpoint.to_string())
    });
    assert_eq!(failed.next().as_deref(), Some("Unix socket one"));
    drop(failed);
    let in_use = rig.session.endpoint().map(ToString::to_string);
    assert_eq!(in_use.as_deref(), Some("Unix socket two"));
}

#[test]
fn a_server_that_takes_a_request_and_hangs_up_is_of_no_use_however_late_it_does() {
    let policy =
        Reconnect::new().max_delay(Duration::from_secs(1)).give_up_after(Duration::from_secs(20));
    let mut rig = Rig::dialling(
        options().reconnect(policy),
        Box::new(|_| {
            let server = server(1 << 20);
            server.with(MemoryServer::withhold);
            Some(Ok(server))
        }),
    );
    rig.turn();
    let id = rig.submit(Command::read(0, 512));
    for _ in 0..20 {
        rig.sleep(3.0);
        if rig.session.is_over() {
            break;
        }
        rig.server(MemoryServer::hang_up);
        rig.sleep(1.0);
    }
    assert!(rig.session.is_over(), "patience has an end");
    assert_eq!(rig.outcomes(), [(id, false)]);
}

#[test]
fn a_withdrawn_write_is_not_sent_again() {
    let mut rig = Rig::ready(reconnecting());
    rig.server(|server| server.withhold());
    let id = rig.submit(Command::write(512, 512));
    rig.turn();
    let _ = rig.withdraw(id);
    rig.server(MemoryServer::hang_up);
    rig.sleep(1.0);
    assert_eq!(rig.server(|server| server.requests().len()), 0);
    assert_eq!((rig.outcomes(), rig.session.in_flight()), (vec![], 0));
}

#[test]
fn what_cannot_be_put_back_ends_everything() {
    let mut first = true;
    let mut rig = Rig::dialling(
        options().reconnect(Reconnect::new().keep_unflushed(1 << 20)),
        Box::new(move |_| {
            let stream = server(1 << 20);
            if !std::mem::take(&mut first) {
                stream.with(|server| server.fail_changes(Errno::Io));
            }
            Some(Ok(stream))
        }),
    );
    rig.turn();
    write(&mut rig, 512, 9);
    rig.turn();
    rig.completions();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    // It would tell what was there before.
    let read = rig.submit(Command::read(512, 512));
    let sent = rig.session.stats().wire.bytes_sent;
    rig.sleep(1.0);
    assert_eq!(rig.outcomes(), [(read, false)]);
    let end = rig.session.end().expect("it is over");
    assert_eq!((end.kind(), end.errno()), (ErrorKind::Recovery, 5), "{end}");
    assert!(rig.session.farewell().is_err());
    assert!(rig.session.stats().wire.bytes_sent > sent, "counters only grow");
    rig.sleep(100.0);
    assert_eq!(rig.steps, ["connect 1", "close 1", "connect 2", "close 2"]);
}

/// It told only a command that nobody waits for, and says nothing more.
#[test]
fn a_server_that_shuts_down_is_left_whoever_was_told_so() {
    for lasts in [true, false] {
        let policy = lasts.then(Reconnect::new);
        let mut rig = Rig::ready(options().reconnect(policy));
        rig.server(|server| {
            server.withhold();
            server.fail_changes(Errno::Shutdown);
        });
        let write = rig.submit(Command::write(0, 512));
        rig.turn();
        assert_eq!(rig.withdraw(write), Withdrawn::Free);
        // Nor does it close the connection: it never hears the goodbye.
        rig.limited().room = 0;
        rig.server(|server| server.answer(1));
        rig.turn();
        rig.sleep(6.0);
        assert_eq!(rig.session.generation(), if lasts { 2 } else { 1 });
        assert_eq!(rig.session.is_over(), !lasts, "{:?}", rig.session);
        assert_eq!(rig.session.is_ready(), lasts);
    }
}

/// Between the end of sending and that of the connection, before and after the last reply.
#[test]
fn what_comes_after_the_stream_takes_no_more_is_told_so() {
    for replies in [0, 1] {
        let mut rig = Rig::ready(options());
        rig.server(|server| server.withhold());
        rig.submit(Command::read(0, 512));
        rig.turn();
        rig.session.stop_sending(rig.now);
        rig.server(|server| server.answer(replies));
        rig.turn();
        assert!(!rig.session.is_over(), "the end is still to come");
        let refused = rig.try_submit(Command::flush(), Limit::Default).unwrap_err();
        let told = refused.to_string();
        assert!(told.starts_with("connection failed: ") && told.contains("roken pipe"), "{told}");
        assert_eq!(refused.errno(), Errno::NotConn.to_linux());
        assert!(!rig.session.may_wait(&refused), "there is nothing to wait for");
    }
}
