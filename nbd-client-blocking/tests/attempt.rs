//! An attempt to connect again lives longer than the calls that wait for it.

use std::io::{Write, pipe};
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::recovery::Reconnect;
use nbd_client_blocking::transport::{CommandSpec, Endpoint, Signal};
use nbd_client_blocking::{Builder, Client, Error, State, Woken};
use nbd_sim::scripted::{Life, Scripted};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(20);

const MOMENT: Duration = Duration::from_millis(1);

const POLICY: Reconnect = Reconnect::new()
    .first_delay(Duration::from_millis(2))
    .max_delay(Duration::from_millis(10))
    .give_up_after(LONG);

/// Its first connection is over at once, and the second is not answered until told.
fn server() -> Scripted {
    Scripted::start(|n| Life {
        held: n == 1,
        replies: if n == 0 { 0 } else { usize::MAX },
        waits: n > 0,
        ..Life::default()
    })
}

fn connect(server: &Scripted, policy: Reconnect) -> Client {
    Builder::new().reconnect(policy).timeout(LONG).connect_uri(&server.uri()).unwrap()
}

/// Polls until the server has a second connection, which says nothing.
fn until_attempted(server: &Scripted, client: &mut Client, timeout: Duration) {
    let end = Instant::now() + LONG;
    let mut pipeline = client.pipeline::<Vec<u8>>();
    while server.connections() < 2 {
        assert!(Instant::now() < end, "nobody tries");
        pipeline.poll(Some(timeout)).unwrap();
    }
}

#[test]
fn it_outlives_the_calls_that_wait() {
    for timeout in [Duration::ZERO, MOMENT] {
        let server = server();
        let mut client = connect(&server, POLICY);
        until_attempted(&server, &mut client, timeout);
        let mut pipeline = client.pipeline::<Vec<u8>>();
        for _ in 0..50 {
            assert_eq!(pipeline.poll(Some(timeout)).unwrap(), Woken::TimedOut);
            // Not a call that waits, and no other loss.
            assert!(pipeline.try_wait().unwrap().is_none());
        }
        server.release();
        let end = Instant::now() + LONG;
        while pipeline.client().reconnects() == 0 {
            assert!(Instant::now() < end, "it never connects again");
            pipeline.poll(Some(timeout)).unwrap();
        }
        drop(pipeline);
        client.read_at(0, &mut [0; 512]).unwrap();
        assert_eq!((client.reconnects(), server.connections()), (1, 2));
    }
}

/// Neither does it end with a single call.
#[test]
fn it_outlives_the_timeout_of_a_call() {
    let server = server();
    let mut client = connect(&server, POLICY);
    until_attempted(&server, &mut client, MOMENT);
    client.set_timeout(Some(MOMENT)).unwrap();
    for _ in 0..20 {
        let error = client.read_at(0, &mut [0; 512]).unwrap_err();
        assert!(matches!(error, Error::TimedOut { state: "reconnecting", .. }), "{error}");
    }
    server.release();
    client.set_timeout(Some(LONG)).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!((client.reconnects(), server.connections()), (1, 2));
}

#[test]
fn another_descriptor_is_watched_meanwhile() {
    let server = server();
    let mut client = connect(&server, POLICY);
    let (reader, mut writer) = pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let end = Instant::now() + LONG;
            while server.connections() < 2 && Instant::now() < end {
                thread::yield_now();
            }
            writer.write_all(b"!").unwrap();
        });
        let mut pipeline = client.pipeline::<Vec<u8>>();
        let woken = loop {
            match pipeline.poll_with(&reader, Some(LONG)).unwrap() {
                // The loss.
                Woken::Progress => {}
                woken => break woken,
            }
        };
        assert_eq!(woken, Woken::Other);
    });
    assert_eq!((client.state(), client.reconnects()), (State::Reconnecting, 0));
    server.release();
    client.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(server.connections(), 2);
}

/// Nobody waits for it when the client goes, and it takes no connection away from others.
#[test]
fn a_client_that_is_dropped_does_not_wait_for_it() {
    let server = server();
    let mut client = connect(&server, POLICY);
    until_attempted(&server, &mut client, MOMENT);
    let begun = Instant::now();
    drop(client);
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    // One client after the other: this one is next when the connection is closed.
    server.release();
    connect(&server, POLICY).read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(server.connections(), 3);
}

#[test]
fn it_ends_with_patience() {
    let server = server();
    let patience = Duration::from_millis(500);
    let mut client = connect(&server, POLICY.give_up_after(patience));
    let begun = Instant::now();
    let error = client.read_at(0, &mut [0; 512]).unwrap_err();
    let Error::NotReconnected { after, cause } = &error else { panic!("{error}") };
    assert!(matches!(**cause, Error::TimedOut { .. }), "{cause}");
    assert!(*after >= patience && begun.elapsed() < LONG, "{after:?}");
    assert_eq!((client.state(), server.connections()), (State::Dead, 2));
}

/// Some programs end with the thread that started them: that is not to be the attempt's.
#[test]
fn a_program_does_not_end_with_it() {
    let arguments = ["--pdeathsig", "KILL", "nbdkit", "--single", "memory", "1M"];
    let command = CommandSpec::new("setpriv", arguments);
    let builder = Builder::new().reconnect(POLICY).timeout(LONG);
    let mut client = builder.connect(&Endpoint::Command(command)).unwrap();
    client.peer_process().unwrap().kill(Signal::KILL).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    // It would notice a while after.
    let mut pipeline = client.pipeline::<Vec<u8>>();
    let idle = pipeline.poll(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(idle, Woken::TimedOut);
    drop(pipeline);
    client.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(client.reconnects(), 1);
}
