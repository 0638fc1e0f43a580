//! The handle from Rust, against a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nbd_handle::{
    Ability, Destination, Errno, Handle, Level, OptionCall, Published, Request, Shutdown, State,
    Woken,
};
use nbd_sim::peer::Server;

fn server() -> Server {
    Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit starts")
}

fn connected(server: &Server) -> Handle<Vec<u8>> {
    let mut handle = Handle::new(Level::NEWEST, "test");
    handle.add_meta_context("base:allocation").unwrap();
    handle.connect(Destination::Uri(server.uri())).expect("the server accepts");
    handle
}

/// Counts how often it is dropped.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn commands_and_questions() {
    let server = server();
    let mut handle = connected(&server);
    assert_eq!(handle.size(), Ok(1 << 20));
    assert_eq!(handle.can(Ability::Flush), Ok(true));
    assert_eq!(handle.can_meta_context("base:allocation"), Ok(true));
    handle.perform(Request::write(vec![7; 512], 512, 0)).unwrap();
    handle.perform(Request::flush(0)).unwrap();
    let error = handle.perform(Request::write(vec![7; 512], 1 << 20, 0)).unwrap_err();
    assert_eq!(error.errno(), Errno::NOSPC.raw_os_error());
    let seen = Arc::new(AtomicU32::new(0));
    let length = Arc::clone(&seen);
    handle
        .perform(Request::block_status(
            0,
            1 << 20,
            0,
            Box::new(move |name, offset, extents, error| {
                assert_eq!((name, offset, *error), ("base:allocation", 0, 0));
                let sum: u64 = extents.iter().map(|extent| extent.length).sum();
                length.store(sum as u32, Ordering::Relaxed);
                0
            }),
        ))
        .unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1 << 20);
    handle.shutdown(Shutdown::AfterRequests).unwrap();
    assert_eq!(handle.state(), State::Closed);
    handle.close();
}

#[test]
fn callbacks_go_when_their_command_does() {
    let server = server();
    let mut handle = connected(&server);
    let dropped = Arc::new(AtomicU32::new(0));
    let note = || {
        let note = Dropped(Arc::clone(&dropped));
        move |_: &mut i32| {
            let _ = &note;
            0
        }
    };
    // Refused.
    let flush = Request::flush(1).on_completion(Some(Box::new(note())));
    assert_eq!(handle.submit(flush).unwrap_err().errno(), Errno::INVAL.raw_os_error());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    // Finished, and retired later.
    let cookie = handle.submit(Request::flush(0).on_completion(Some(Box::new(note())))).unwrap();
    while handle.in_flight() > 0 {
        assert_eq!(handle.poll(None, None), Ok(Woken::Progress));
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!(handle.peek_completed(), Ok(cookie));
    assert_eq!(handle.retire(cookie as u64), Ok(true));
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert_eq!(handle.retire(cookie as u64), Ok(false));
    // Closed.
    handle.submit(Request::flush(0).on_completion(Some(Box::new(note())))).unwrap();
    handle.close();
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

/// In a loop of `poll` what is submitted leaves together; for others it leaves at once.
#[test]
fn requests_are_put_off_only_for_those_who_come_back() {
    let server = server();
    let mut handle = connected(&server);
    let sent = |handle: &Handle<Vec<u8>>| handle.stats().messages_sent;
    let before = sent(&handle);
    for offset in 0..3 {
        handle.submit(Request::read(vec![0; 512], offset * 512, 0)).unwrap();
    }
    assert_eq!(sent(&handle), before + 3);
    while handle.in_flight() > 0 {
        handle.poll(None, None).unwrap();
    }
    for offset in 0..3 {
        handle.submit(Request::read(vec![0; 512], offset * 512, 0)).unwrap();
    }
    assert_eq!(sent(&handle), before + 4, "the first one leaves at once");
    let published = Published::default();
    handle.publish(&published);
    assert_eq!((published.direction(), published.in_flight()), (3, 3));
    // Nothing is in the way of more.
    assert_eq!(published.state(), State::Ready);
    while handle.in_flight() > 0 {
        handle.poll(None, None).unwrap();
    }
    assert_eq!(sent(&handle), before + 6);
    handle.close();
}

#[test]
fn options_and_their_answers() {
    let server = server();
    let mut handle = Handle::<Vec<u8>>::new(Level::NEWEST, "test");
    handle.set_option_mode(true);
    handle.connect(Destination::Uri(server.uri())).unwrap();
    assert_eq!(handle.state(), State::Negotiating);
    assert_eq!(handle.size().unwrap_err().errno(), Errno::INVAL.raw_os_error());
    assert_eq!(handle.option(OptionCall::list(Box::new(|name, _| assert_eq!(name, "")))), Ok(1));
    assert_eq!(handle.option(OptionCall::start_tls()), Ok(0));
    assert_eq!(handle.option(OptionCall::go()), Ok(0));
    assert_eq!(handle.poll(Some(Duration::ZERO), None), Ok(Woken::TimedOut));
    handle.close();
}

/// The release decides what exists, and what a new handle asks for.
#[test]
fn levels_differ() {
    let server = server();
    for (minor, extended) in [(14, false), (24, false)] {
        let mut handle = Handle::<Vec<u8>>::new(Level::new(minor), "test");
        assert_eq!(handle.strict(), Level::new(minor).strict_mask());
        assert_eq!(handle.set_strict(0x40).is_ok(), minor >= 18);
        handle.connect(Destination::Uri(server.uri())).unwrap();
        // nbdkit has none.
        assert_eq!(handle.has_extended_headers(), extended);
        handle.close();
    }
}
