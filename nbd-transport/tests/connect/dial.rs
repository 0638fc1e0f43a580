//! Connecting in steps: time is a value here, and nothing waits but for what must come.

use crate::support::{LIMIT, assert_greets};
use nbd_proto::Direction;
use nbd_transport::{
    AddressOrder, CommandSpec, ConnectError, Connection, Dial, DialStep, Endpoint, PeerStderr,
    Step, Stream,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// RFC 8305, "Connection Attempt Delay".
const STAGGER: Duration = Duration::from_millis(250);

fn by_name() -> Dial {
    Dial::new(Endpoint::Tcp { host: "disk.example".to_owned(), port: 10809 })
}

/// Answers the resolver's question with `addresses`.
fn resolved(mut dial: Dial, now: Instant, addresses: &[SocketAddr]) -> Dial {
    let step = dial.advance(now).unwrap();
    let DialStep::Resolve { host, port } = step else { panic!("{step:?}") };
    assert_eq!((host.as_str(), port), ("disk.example", 10809));
    assert!(matches!(dial.advance(now), Ok(DialStep::Wait)), "it is asked once");
    assert_eq!((dial.fds().count(), dial.next_deadline()), (0, None));
    dial.resolved(Ok(addresses.to_vec()));
    dial
}

fn waits(dial: &mut Dial, now: Instant) {
    let step = dial.advance(now).unwrap();
    assert!(matches!(step, DialStep::Wait), "{step:?}");
}

/// Waits until a descriptor of `dial` is ready.
#[track_caller]
fn until_ready(dial: &Dial) {
    let mut fds: Vec<_> = dial
        .fds()
        .map(|waited| {
            let flags = match waited.direction {
                Direction::READ => PollFlags::IN,
                Direction::WRITE => PollFlags::OUT,
                other => panic!("{other:?}"),
            };
            PollFd::from_borrowed_fd(waited.fd, flags)
        })
        .collect();
    assert_ne!(poll(&mut fds, Some(&LIMIT.try_into().unwrap())).unwrap(), 0, "nothing came");
}

/// Goes on as an event loop would, with the time standing still.
fn connection(dial: &mut Dial, now: Instant) -> Connection {
    loop {
        match dial.advance(now).unwrap() {
            DialStep::Connected(connection) => return connection,
            DialStep::Wait => until_ready(dial),
            step => panic!("{step:?}"),
        }
    }
}

fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Bound but not listening: the port stays closed, and nobody else gets it.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address whose system drops what arrives, for its backlog is full.
fn silent_port() -> (Socket, SocketAddr, Vec<TcpStream>) {
    let (socket, address) = closed_port();
    socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (socket, address, waiting)
}

fn peer(connection: &Connection) -> SocketAddr {
    match &connection.stream {
        Stream::Tcp(stream) => stream.peer_addr().unwrap(),
        other => panic!("not TCP: {other:?}"),
    }
}

#[test]
fn an_address_needs_no_resolver() {
    let now = Instant::now();
    let (_listener, address) = listener("127.0.0.1:0");
    for endpoint in [
        Endpoint::Address(address),
        Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: address.port() },
    ] {
        assert_eq!(peer(&connection(&mut Dial::new(endpoint), now)), address);
    }
}

#[test]
fn silence_is_overtaken_when_time_has_come_and_not_before() {
    let now = Instant::now();
    let (_silent, mute, _waiting) = silent_port();
    let (_listener, good) = listener("[::1]:0");
    let mut dial = resolved(by_name(), now, &[mute, good]);
    waits(&mut dial, now);
    assert_eq!(dial.next_deadline(), Some(now + STAGGER));
    let sockets: Vec<_> = dial.fds().map(|waited| (waited.id, waited.direction)).collect();
    assert_eq!(sockets, [(0, Direction::WRITE)]);
    // Stale events are hints.
    waits(&mut dial, now + STAGGER - Duration::from_nanos(1));
    assert_eq!(dial.fds().count(), 1);
    let won = connection(&mut dial, now + STAGGER);
    assert_eq!(peer(&won), good);
    assert_eq!(dial.fds().count(), 0, "the silent one is closed");
}

#[test]
fn all_silent_ones_are_waited_for_at_once() {
    let now = Instant::now();
    let ports: Vec<_> = (0..3).map(|_| silent_port()).collect();
    let addresses: Vec<_> = ports.iter().map(|(_, address, _)| *address).collect();
    let mut dial = resolved(by_name(), now, &addresses);
    for (started, when) in [(1, now), (2, now + STAGGER), (3, now + 2 * STAGGER)] {
        waits(&mut dial, when);
        let ids: Vec<_> = dial.fds().map(|waited| waited.id).collect();
        assert_eq!(ids, (0..started).collect::<Vec<_>>());
    }
    assert_eq!(dial.next_deadline(), None, "there is nothing left to start");
    waits(&mut dial, now + Duration::from_secs(3600));
    let error = dial.timed_out();
    assert!(matches!(error, ConnectError::TimedOut { step: Step::Connect, .. }), "{error:?}");
}

#[test]
fn a_time_that_was_given_ends_it_wherever_it_is() {
    let now = Instant::now();
    let until = now + Duration::from_secs(5);
    let mut dial = by_name().until(Some(until));
    assert!(matches!(dial.advance(until), Ok(DialStep::Resolve { .. })), "it is asked first");
    assert_eq!(dial.next_deadline(), Some(until));
    let error = dial.advance(until).unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { step: Step::Resolve, .. }), "{error:?}");

    let (_silent, mute, _waiting) = silent_port();
    let mut dial = resolved(by_name(), now, &[mute]).until(Some(until));
    waits(&mut dial, now);
    assert_eq!(dial.next_deadline(), Some(until));
    waits(&mut dial, until - Duration::from_nanos(1));
    let error = dial.advance(until).unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { step: Step::Connect, .. }), "{error:?}");

    // What is there already is not too late.
    let (_listener, good) = listener("127.0.0.1:0");
    let mut dial = resolved(by_name(), now, &[good]).until(Some(until));
    waits(&mut dial, now);
    until_ready(&dial);
    assert!(matches!(dial.advance(until), Ok(DialStep::Connected(_))));
}

#[test]
fn one_by_one_waits_for_each() {
    let now = Instant::now();
    let ((_silent, mute, _waiting), (_listener, good)) = (silent_port(), listener("127.0.0.1:0"));
    let dial = by_name().address_order(AddressOrder::OneByOne);
    let mut dial = resolved(dial, now, &[mute, good]);
    waits(&mut dial, now);
    assert_eq!(dial.next_deadline(), None);
    waits(&mut dial, now + Duration::from_secs(3600));
    assert_eq!(dial.fds().count(), 1);

    let (_closed, closed) = closed_port();
    let dial = by_name().address_order(AddressOrder::OneByOne);
    let mut dial = resolved(dial, now, &[closed, good]);
    assert_eq!(peer(&connection(&mut dial, now)), good);
}

#[test]
fn refusal_moves_on_at_once() {
    let now = Instant::now();
    let (_listener, good) = listener("[::1]:0");
    let ((_one, one), (_two, two)) = (closed_port(), closed_port());
    let mut dial = resolved(by_name(), now, &[one, two, good]);
    assert_eq!(peer(&connection(&mut dial, now)), good);
}

/// Though an earlier one is still silent.
#[test]
fn refusal_moves_on_at_once_beside_a_silent_one() {
    let now = Instant::now();
    let ((_silent, mute, _waiting), (_listener, good)) = (silent_port(), listener("127.0.0.1:0"));
    let (_closed, closed) = closed_port();
    let mut dial = resolved(by_name(), now, &[mute, closed, good]);
    waits(&mut dial, now);
    assert_eq!(peer(&connection(&mut dial, now + STAGGER)), good);
}

#[test]
fn every_failure_is_told() {
    let now = Instant::now();
    let ((_one, one), (_two, two)) = (closed_port(), closed_port());
    let mut dial = resolved(by_name(), now, &[one, two]);
    let error = loop {
        match dial.advance(now) {
            Ok(DialStep::Wait) => until_ready(&dial),
            Ok(step) => panic!("{step:?}"),
            Err(error) => break error,
        }
    };
    let text = error.to_string();
    for address in [one, two] {
        assert!(text.contains(&format!("{address}: Connection refused")), "{text}");
    }
    assert_eq!(error.errno(), Errno::CONNREFUSED.raw_os_error());
    // It is over, and says so without end.
    for _ in 0..2 {
        let again = dial.advance(now).unwrap_err().to_string();
        assert!(again.contains("this attempt is over"), "{again}");
    }

    let error = resolved(by_name(), now, &[]).advance(now).unwrap_err();
    let text = "cannot connect to disk.example:10809: the host has no address";
    assert_eq!(error.to_string(), text);
}

#[test]
fn failures_are_told_when_patience_ends() {
    let now = Instant::now();
    let ((_closed, closed), (_silent, mute, _waiting)) = (closed_port(), silent_port());
    let mut dial = resolved(by_name(), now, &[closed, mute]);
    while dial.fds().any(|waited| waited.id == 0) || dial.fds().count() == 0 {
        waits(&mut dial, now);
        if dial.fds().any(|waited| waited.id == 0) {
            until_ready(&dial);
        }
    }
    let text = dial.timed_out().to_string();
    let wanted = format!("timed out while connecting; {closed}: Connection refused");
    assert!(text.contains(&wanted), "{text}");
}

#[test]
fn a_name_that_is_not_there() {
    let now = Instant::now();
    let mut dial = by_name();
    assert!(matches!(dial.advance(now), Ok(DialStep::Resolve { .. })));
    dial.resolved(Err(io::Error::other("no such host")));
    let error = dial.advance(now).unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve host \"disk.example\": no such host");

    let mut dial = by_name();
    assert!(matches!(dial.advance(now), Ok(DialStep::Resolve { .. })));
    let error = dial.timed_out();
    assert!(matches!(error, ConnectError::TimedOut { step: Step::Resolve, .. }), "{error:?}");
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let now = Instant::now();
    let (_listener, address) = listener("127.0.0.1:0");
    let mut dial = Dial::new(Endpoint::Address(address));
    dial.resolved(Err(io::Error::other("unasked")));
    dial.spawned(Err(io::Error::other("unasked")));
    assert_eq!(peer(&connection(&mut dial, now)), address);
}

#[test]
fn a_name_is_looked_up_beside_the_caller() {
    let (_listener, address) = listener("127.0.0.1:0");
    let look_up = |host: &str| {
        let mut dial = Dial::new(Endpoint::Tcp { host: host.to_owned(), port: address.port() });
        let Ok(DialStep::Resolve { host, port }) = dial.advance(Instant::now()) else { panic!() };
        dial.look_up(host, port);
        let waited = dial.fds().next().expect("there is something to wait for");
        let mut fds = [PollFd::from_borrowed_fd(waited.fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&LIMIT.try_into().unwrap())).unwrap(), 1);
        dial
    };
    assert_eq!(peer(&connection(&mut look_up("localhost"), Instant::now())), address);
    // Longer than any label of a name may be, so that no server is asked.
    let error = look_up(&"x".repeat(70)).advance(Instant::now()).unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
}

#[test]
fn a_lookup_nobody_asked_for_changes_nothing() {
    let now = Instant::now();
    let (_listener, address) = listener("127.0.0.1:0");
    let mut dial = Dial::new(Endpoint::Address(address));
    dial.look_up("localhost".to_owned(), 7);
    assert_eq!(peer(&connection(&mut dial, now)), address);
}

#[test]
fn a_unix_server_whose_backlog_is_full_is_tried_again_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let address = SockAddr::unix(&path).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let waiting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    waiting.connect(&address).unwrap();

    let mut now = Instant::now();
    let mut dial = Dial::new(Endpoint::Unix(path));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        waits(&mut dial, now);
        assert_eq!(dial.fds().count(), 0, "there is nothing to poll for");
        let next = dial.next_deadline().unwrap();
        pauses.push(next - now);
        waits(&mut dial, next - Duration::from_nanos(1));
        assert_eq!(dial.next_deadline(), Some(next), "it is not tried before");
        now = next;
    }
    let milliseconds: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
    assert_eq!(milliseconds, [1, 2, 4, 8, 16, 32, 50, 50, 50]);
    listener.accept().unwrap();
    assert!(matches!(connection(&mut dial, now).stream, Stream::Unix(_)));
}

#[test]
fn the_buffer_of_a_unix_socket_is_the_callers_choice() {
    let now = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let usual = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap().send_buffer_size().unwrap();
    let size = |dial: Dial| {
        let stream = connection(&mut { dial }, now).stream;
        Socket::from(stream.as_fd().try_clone_to_owned().unwrap()).send_buffer_size().unwrap()
    };
    let dial = || Dial::new(Endpoint::Unix(path.clone()));
    assert!(size(dial()) > usual);
    assert_eq!(size(dial().unix_send_buffer(None)), usual);
}

fn script(text: &str) -> CommandSpec {
    CommandSpec::new("sh", ["-c", text]).stderr(PeerStderr::Capture)
}

fn both_ways(spec: &CommandSpec) -> [Endpoint; 2] {
    [Endpoint::Command(spec.clone()), Endpoint::SocketActivation(spec.clone().into())]
}

/// Starts what is asked for.
fn spawned(mut dial: Dial, now: Instant) -> Dial {
    let step = dial.advance(now).unwrap();
    let DialStep::Spawn(spawn) = step else { panic!("{step:?}") };
    assert!(matches!(dial.advance(now), Ok(DialStep::Wait)), "it is asked once");
    assert_eq!((dial.fds().count(), dial.next_deadline()), (0, None));
    dial.spawned(spawn.start());
    dial
}

#[test]
fn a_program_counts_as_connected_before_it_says_anything() {
    let now = Instant::now();
    for endpoint in both_ways(&script("exec sleep 60")) {
        let connection = connection(&mut spawned(Dial::new(endpoint), now), now);
        assert!(connection.peer.unwrap().try_status().unwrap().is_none());
    }
    for program in [["nbdkit", "-s"].as_slice(), &["nbdkit"]] {
        let spec = CommandSpec::new(program[0], program[1..].iter().chain(&["memory", "1M"]));
        let endpoint = both_ways(&spec)[usize::from(program.len() == 1)].clone();
        assert_greets(&mut connection(&mut spawned(Dial::new(endpoint), now), now));
    }
}

#[test]
fn a_greeting_is_waited_for_on_demand() {
    let now = Instant::now();
    let dial = Dial::new(Endpoint::Command(script("read line; printf x"))).await_greeting(true);
    let mut dial = spawned(dial, now);
    waits(&mut dial, now);
    let waited: Vec<_> = dial.fds().map(|waited| (waited.id, waited.direction)).collect();
    assert_eq!(waited, [(0, Direction::READ)]);
    let text = dial.timed_out().to_string();
    assert!(text.ends_with("timed out while waiting for the program to greet"), "{text}");

    let dial = Dial::new(Endpoint::Command(script("printf x; read line"))).await_greeting(true);
    let greeted = connection(&mut spawned(dial, now), now);
    let mut byte = [0; 1];
    let (_, read) = rustix::net::recv(&greeted.stream, &mut byte, rustix::net::RecvFlags::PEEK)
        .expect("it is still there to be read");
    assert_eq!((read, byte), (1, *b"x"));
}

#[test]
fn a_program_that_ends_is_looked_at_in_time() {
    for endpoint in both_ways(&script("echo reasons >&2; exit 3")) {
        let now = Instant::now();
        let mut dial = spawned(Dial::new(endpoint).await_greeting(true), now);
        let error = loop {
            match dial.advance(now) {
                Ok(DialStep::Wait) if dial.fds().count() > 0 => until_ready(&dial),
                // The time stands still while the program ends.
                Ok(DialStep::Wait) => {
                    assert!(now.elapsed() < LIMIT, "it is not seen to end");
                    assert!(dial.next_deadline().is_some_and(|next| next > now));
                    std::thread::yield_now();
                }
                Ok(step) => panic!("{step:?}"),
                Err(error) => break error,
            }
        };
        let text = "\"sh\" closed the connection before it spoke NBD and ended: exit status: 3; \
                    it wrote: reasons";
        assert_eq!(error.to_string(), text);
    }
    // One that has only closed its socket is not waited for.
    let mut now = Instant::now();
    let text = "exec </dev/null >/dev/null; sleep 60";
    let dial = Dial::new(Endpoint::Command(script(text))).await_greeting(true);
    let mut dial = spawned(dial, now);
    let error = loop {
        match dial.advance(now) {
            Ok(DialStep::Wait) => match dial.next_deadline() {
                Some(next) => now = next,
                None => until_ready(&dial),
            },
            Ok(step) => panic!("{step:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConnectError::PeerClosed { status: None, .. }), "{error:?}");
}

#[test]
fn a_program_that_cannot_be_started_is_told() {
    let now = Instant::now();
    let dial = Dial::new(Endpoint::Command(CommandSpec::new("no-such-server", ["-s"])));
    let error = spawned(dial, now).advance(now).unwrap_err();
    assert!(matches!(error, ConnectError::Spawn { .. }), "{error:?}");

    let mut dial = Dial::new(Endpoint::Command(script("exit 0")));
    assert!(matches!(dial.advance(now), Ok(DialStep::Spawn(_))));
    let text = dial.timed_out().to_string();
    assert!(text.ends_with("timed out while starting the program"), "{text}");
}

#[test]
fn what_is_dropped_on_its_way_leaves_nothing_behind() {
    let now = Instant::now();
    let (_silent, mute, _waiting) = silent_port();
    let mut dial = Dial::new(Endpoint::Address(mute));
    waits(&mut dial, now);
    let socket = dial.fds().next().unwrap().fd.try_clone_to_owned().unwrap();
    let inode = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let ours = inode(socket.as_raw_fd());
    drop(dial);
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    assert_eq!(open.filter(|link| *link == ours).count(), 1, "only the duplicate is left");

    let dial = Dial::new(Endpoint::SocketActivation(script("exec sleep 60").into()));
    let mut dial = spawned(dial, now).await_greeting(true);
    waits(&mut dial, now);
    let address = SockRef::from(&dial.fds().next().unwrap().fd).peer_addr().unwrap();
    let path = address.as_pathname().unwrap();
    assert!(path.exists());
    drop(dial);
    assert!(!path.exists());
}
