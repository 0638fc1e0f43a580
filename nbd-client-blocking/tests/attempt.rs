//! An attempt to connect again lives longer than the calls that wait for it.

use std::error::Error as _;
use std::fs;
use std::io::{Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::Command;
use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::transport::{
    CommandSpec, Connection, Endpoint, NbdUri, PeerStderr, Signal,
};
use nbd_client_blocking::{Client, ConnectOptions, Error, State, Woken};
use nbd_sim::peer::Scratch;
use nbd_sim::scripted::{Life, Scripted};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

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
    ConnectOptions::new()
        .reconnect(policy)
        .connect_timeout(LONG)
        .request_timeout(LONG)
        .uri(&server.uri())
        .and_then(Client::connect)
        .unwrap()
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
            assert!(pipeline.try_wait().is_none());
        }
        server.release();
        let end = Instant::now() + LONG;
        while (pipeline.client().session().stats().connections - 1) == 0 {
            assert!(Instant::now() < end, "it never connects again");
            pipeline.poll(Some(timeout)).unwrap();
        }
        drop(pipeline);
        client.read_exact_at(&mut [0; 512], 0).unwrap();
        assert_eq!(((client.session().stats().connections - 1), server.connections()), (1, 2));
    }
}

/// Neither does it end with a single call.
#[test]
fn it_outlives_the_timeout_of_a_call() {
    let server = server();
    let mut client = connect(&server, POLICY);
    until_attempted(&server, &mut client, MOMENT);
    client.set_request_timeout(MOMENT);
    for _ in 0..20 {
        let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("reconnecting"), "{error}");
    }
    server.release();
    client.set_request_timeout(LONG);
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!(((client.session().stats().connections - 1), server.connections()), (1, 2));
}

/// What is wrong with a command is told as ever, though there is nobody to send it to.
#[test]
fn a_wrong_buffer_is_refused_meanwhile() {
    let server = server();
    let mut client = connect(&server, POLICY);
    until_attempted(&server, &mut client, MOMENT);
    let refused =
        |error: Error| assert!(error.to_string().contains("with a buffer of 0 bytes"), "{error}");
    refused(client.pipeline::<Vec<u8>>().submit(Command::read(0, 512), None).unwrap_err().error);
    refused(client.submit_and_wait(Command::read(0, 512)).unwrap_err());
    assert_eq!(client.state(), State::Reconnecting);
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
    assert_eq!(
        (client.state(), (client.session().stats().connections - 1)),
        (State::Reconnecting, 0)
    );
    server.release();
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!(server.connections(), 2);
}

/// Nobody waits for it when the client goes, and it takes no connection away from others.
#[test]
fn a_client_that_is_dropped_does_not_wait_for_it() {
    let server = server();
    let mut client = connect_otherwise(&server, {
        let endpoint = server.uri().parse::<NbdUri>().unwrap().endpoint();
        move |deadline| endpoint.connect(deadline).unwrap()
    });
    until_attempted(&server, &mut client, MOMENT);
    let (tell, told) = channel();
    thread::spawn(move || {
        drop(client);
        tell.send(()).unwrap();
    });
    told.recv_timeout(LONG).expect("it goes without waiting");
    // One client after the other: this one is next when the connection is closed.
    server.release();
    connect(&server, POLICY).read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!(server.connections(), 3);
}

/// Far longer than a test lasts.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Connects to the server, and another time with `dial`; without any limit of time.
fn connect_otherwise(
    server: &Scripted,
    dial: impl Fn(Option<Instant>) -> Connection + Send + Sync + 'static,
) -> Client {
    let endpoint = server.uri().parse::<NbdUri>().unwrap().endpoint();
    let first = AtomicBool::new(true);
    let dial = move |deadline| match first.swap(false, Ordering::Relaxed) {
        true => Ok(endpoint.connect(deadline)?),
        false => Ok(dial(deadline)),
    };
    let options = ConnectOptions::new().reconnect(POLICY.give_up_after(FOR_EVER));
    Client::connect_with(options, dial).unwrap()
}

/// Nor does it go on for nobody: the connection to a server that says nothing is closed.
#[test]
fn it_ends_with_the_client() {
    let server = server();
    let (sender, dialled) = channel();
    let mut client = connect_otherwise(&server, move |_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        sender.send(theirs).unwrap();
        Connection::from_socket(ours.into()).unwrap()
    });
    let mut far = eventually(|| {
        client.pipeline::<Vec<u8>>().poll(Some(MOMENT)).unwrap();
        dialled.try_recv().ok()
    });
    drop(client);
    far.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

/// Nor does it use up all patience, when nobody said how long anything may take.
#[test]
fn a_single_one_does_not_go_on_for_ever() {
    let server = server();
    let (sender, asked) = channel();
    let mut client = connect_otherwise(&server, move |deadline| {
        sender.send((deadline, Instant::now())).unwrap();
        Connection::from_socket(UnixStream::pair().unwrap().0.into()).unwrap()
    });
    let (deadline, asked) = eventually(|| {
        client.pipeline::<Vec<u8>>().poll(Some(MOMENT)).unwrap();
        asked.try_recv().ok()
    });
    let end = deadline.expect("it has an end");
    assert!(end <= asked + Reconnect::LONGEST_ATTEMPT, "{:?}", end - asked);
}

/// And a program that was started is told to end.
#[test]
fn it_ends_with_the_client_while_a_program_starts() {
    let scratch = Scratch::new().unwrap();
    let (been, pid) = (scratch.join("been"), scratch.join("pid"));
    let (been, pid_file) = (been.display(), pid.display());
    let again = format!("echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 100");
    let text = format!("mkdir {been} && exec nbdkit --single memory 1M; {again}");
    let command = CommandSpec::new("sh", ["-c", &text]).stderr(PeerStderr::Null);
    let options = ConnectOptions::new().reconnect(POLICY.give_up_after(FOR_EVER));
    let mut client = Client::connect(options.endpoint(Endpoint::Command(command))).unwrap();
    client.peer_process().unwrap().kill(Signal::KILL).unwrap();
    let pid = eventually(|| {
        client.pipeline::<Vec<u8>>().poll(Some(MOMENT)).unwrap();
        fs::read_to_string(&pid).ok()
    });
    drop(client);
    let process = Path::new("/proc").join(pid.trim());
    eventually(|| (!process.exists()).then_some(()));
}

/// A panic in a caller's way to connect would come again: all calls fail, and none waits.
#[test]
fn it_fails_for_good_when_it_panics() {
    let server = server();
    let mut client = connect_otherwise(&server, |_| panic!("the caller's own panic"));
    let mut pipeline = client.pipeline();
    for at in [0, 512] {
        pipeline.read(vec![0; 512], at).unwrap();
    }
    let ended = |error: Error| {
        let cause = error.source().expect("it has a cause").to_string();
        assert!(cause.contains("panicked"), "{cause}");
        assert!(error.to_string().contains("not made again"), "{error}");
    };
    for _ in 0..2 {
        let done = pipeline.wait().unwrap();
        assert_eq!(done.buffer.unwrap().len(), 512);
        ended(done.result.unwrap_err());
    }
    ended(pipeline.read(vec![0; 512], 0).unwrap_err().error);
    drop(pipeline);
    ended(client.flush().unwrap_err());
    assert_eq!((client.state(), server.connections()), (State::Closed, 1));
}

/// Asks again and again, until there is an answer.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "it takes too long");
        thread::sleep(MOMENT);
    }
}

#[test]
fn it_ends_with_patience() {
    let server = server();
    let patience = Duration::from_millis(500);
    let mut client = connect(&server, POLICY.give_up_after(patience));
    let begun = Instant::now();
    let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert!(error.to_string().contains("not made again in "), "{error}");
    assert!(begun.elapsed() >= patience, "{:?}", begun.elapsed());
    assert_eq!(client.state(), State::Closed);
}

/// Some programs end with the thread that started them: that is not to be the attempt's.
#[test]
fn a_program_does_not_end_with_it() {
    let arguments = ["--pdeathsig", "KILL", "nbdkit", "--single", "memory", "1M"];
    let command = CommandSpec::new("setpriv", arguments);
    let options =
        ConnectOptions::new().reconnect(POLICY).connect_timeout(LONG).request_timeout(LONG);
    let mut client = Client::connect(options.endpoint(Endpoint::Command(command))).unwrap();
    client.peer_process().unwrap().kill(Signal::KILL).unwrap();
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    // It would notice a while after.
    let mut pipeline = client.pipeline::<Vec<u8>>();
    let idle = pipeline.poll(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(idle, Woken::TimedOut);
    drop(pipeline);
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!((client.session().stats().connections - 1), 1);
}
