//! Connecting to servers that already listen.

use crate::support::{LIMIT, assert_given_up, assert_greets, shortly, soon};
use nbd_transport::{
    ConnectError, Connection, Endpoint, NbdUri, SocketIo, Step, Stream, TcpKeepAlive,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An `nbdkit` with a disk of 1 MiB in memory, which listens on a socket made by the test: no
/// port is guessed and no start waited for. Ended and reaped on drop.
struct Nbdkit(Child);

impl Nbdkit {
    fn listening_on(listener: impl Into<OwnedFd>) -> Self {
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec nbdkit memory 1M";
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .env("LISTEN_FDS", "1")
            .stdin(Stdio::from(listener.into()))
            .spawn()
            .expect("cannot start /bin/sh for nbdkit");
        Self(child)
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("nbdkit is gone");
        self.0.wait().expect("nbdkit cannot be reaped");
    }
}

fn connect(uri: &str) -> Connection {
    let uri: NbdUri = uri.parse().unwrap();
    uri.endpoint().connect(soon()).unwrap_or_else(|error| panic!("{uri}: {error}"))
}

fn refused(endpoint: &Endpoint) -> ConnectError {
    endpoint.connect(soon()).expect_err("nobody is there")
}

fn assert_blocking_and_closed_on_exec(stream: &Stream) {
    assert_eq!(fcntl_getfd(stream.as_fd()).unwrap(), FdFlags::CLOEXEC);
    let socket = Socket::from(stream.as_fd().try_clone_to_owned().unwrap());
    assert!(!socket.nonblocking().unwrap());
}

#[test]
fn the_system_is_told_when_to_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = Endpoint::Address(listener.local_addr().unwrap()).connect(soon()).unwrap();
    let socket = Socket::from(connection.stream.as_fd().try_clone_to_owned().unwrap());
    assert!(!socket.keepalive().unwrap());
    let (idle, interval) = (Duration::from_millis(1500), Duration::from_millis(10));
    let probes = TcpKeepAlive::new().idle(idle).interval(interval).count(4);
    connection.set_tcp_keep_alive(probes).unwrap();
    assert!(socket.keepalive().unwrap());
    // Whole seconds are all the system knows.
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(2));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(6)));
    let endless = TcpKeepAlive::new().idle(Duration::MAX);
    assert!(connection.set_tcp_keep_alive(endless).is_err());
    // Other families know when they end.
    let (one, _two) = UnixStream::pair().unwrap();
    Connection::from_socket(one.into()).unwrap().set_tcp_keep_alive(probes).unwrap();
}

#[test]
fn tcp_over_ipv4_ipv6_and_by_name() {
    for (address, host) in
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("127.0.0.1:0", "localhost")]
    {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let _server = Nbdkit::listening_on(listener);
        let mut connection = connect(&format!("nbd://{host}:{}", address.port()));
        assert_blocking_and_closed_on_exec(&connection.stream);
        let Stream::Tcp(stream) = &connection.stream else { panic!("not TCP") };
        assert!(stream.nodelay().unwrap());
        assert_greets(&mut connection);
        assert!(connection.peer.is_none());

        assert_greets(&mut Endpoint::Address(address).connect(None).unwrap());
    }
}

#[test]
fn unix_socket_by_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a&b %");
    let _server = Nbdkit::listening_on(UnixListener::bind(&path).unwrap());
    let endpoint = Endpoint::Unix(path);
    let mut connection = connect(&NbdUri::from_endpoint(&endpoint, false).unwrap().to_string());
    assert_blocking_and_closed_on_exec(&connection.stream);
    let socket = Socket::from(connection.stream.as_fd().try_clone_to_owned().unwrap());
    let default = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    assert!(socket.send_buffer_size().unwrap() > default.send_buffer_size().unwrap());
    assert_eq!(socket.write_timeout().unwrap(), None);
    assert_greets(&mut connection);
    assert_greets(&mut endpoint.connect(None).unwrap());
}

#[test]
fn abstract_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("nbd-transport{}", directory.path().display());
    let address = net::SocketAddr::from_abstract_name(&name).unwrap();
    let _server = Nbdkit::listening_on(UnixListener::bind_addr(&address).unwrap());
    let endpoint = Endpoint::UnixAbstract(name.into_bytes());
    assert_greets(&mut connect(&NbdUri::from_endpoint(&endpoint, false).unwrap().to_string()));
}

#[test]
fn closed_port_is_refused_with_reason() {
    // Bound but not listening: the port stays closed, and nobody else gets it.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let error = refused(&Endpoint::Address(address));
    assert_eq!(error.errno(), Errno::CONNREFUSED.raw_os_error());
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot connect to {address}: Connection refused")),
        "{text}"
    );
}

#[test]
fn name_that_cannot_be_resolved_is_named() {
    // Longer than any label of a name may be, so that no server is asked.
    let host = "x".repeat(70);
    for deadline in [None, soon()] {
        let error = Endpoint::Tcp { host: host.clone(), port: 1 }.connect(deadline).unwrap_err();
        assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("cannot resolve host {host:?}")), "{error}");
        assert_eq!(error.errno(), Errno::HOSTUNREACH.raw_os_error());
    }
}

/// Asserts that `endpoint` runs into a short deadline while connecting.
fn assert_times_out(endpoint: &Endpoint) {
    let start = Instant::now();
    let error = endpoint.connect(shortly()).expect_err("nobody accepts");
    assert!(matches!(error, ConnectError::TimedOut { step: Step::Connect, .. }), "{error:?}");
    assert!(error.to_string().contains("timed out while connecting"), "{error}");
    assert_eq!(error.errno(), Errno::TIMEDOUT.raw_os_error());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(start.elapsed() < LIMIT / 2, "the deadline did not hold");
}

#[test]
fn silent_host_runs_into_the_deadline() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    // With the backlog full, the system drops what else arrives.
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    let endpoint = Endpoint::Address(address);
    assert_times_out(&endpoint);
    assert_given_up(&endpoint);
}

#[test]
fn busy_unix_server_runs_into_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let address = SockAddr::unix(&path).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        if socket.connect(&address).is_err() {
            break;
        }
        waiting.push(socket);
    }
    let endpoint = Endpoint::Unix(path);
    assert_times_out(&endpoint);
    assert_given_up(&endpoint);
}

#[test]
fn passed_deadline_is_noticed_before_anything_is_tried() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    for endpoint in [Endpoint::Unix(path), Endpoint::Address(tcp.local_addr().unwrap())] {
        let error = endpoint.connect(Some(Instant::now())).unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    }
}

#[test]
fn unix_errors() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = refused(&Endpoint::Unix(missing.clone()));
    assert_eq!(error.errno(), Errno::NOENT.raw_os_error());
    let path = missing.display();
    assert!(
        error.to_string().starts_with(&format!("cannot connect to Unix socket {path}: No such"))
    );

    let error = refused(&Endpoint::Unix(format!("/{}", "x".repeat(107)).into()));
    assert_eq!(error.errno(), Errno::NAMETOOLONG.raw_os_error());
    assert!(error.to_string().contains("108 bytes, too long"), "{error}");
    let error = refused(&Endpoint::Unix(format!("/{}", "x".repeat(106)).into()));
    assert_eq!(error.errno(), Errno::NOENT.raw_os_error());
    let error = refused(&Endpoint::UnixAbstract(vec![b'x'; 108]));
    assert_eq!(error.errno(), Errno::NAMETOOLONG.raw_os_error());
    let error = refused(&Endpoint::UnixAbstract(b"nbd-transport nobody".to_vec()));
    assert_eq!(error.errno(), Errno::CONNREFUSED.raw_os_error());
    for endpoint in
        [Endpoint::Unix("".into()), Endpoint::Unix("\0x".into()), Endpoint::UnixAbstract(vec![])]
    {
        assert_eq!(refused(&endpoint).errno(), Errno::INVAL.raw_os_error(), "{endpoint:?}");
    }
}

#[test]
fn vsock_that_leads_nowhere_is_an_error() {
    // Context id 0 is the hypervisor's, which no NBD server runs in.
    let error = refused(&Endpoint::Vsock { cid: 0, port: 10809 });
    assert!(error.to_string().contains("connect to vsock 0:10809: "), "{error}");
    assert_ne!(error.errno(), 0);
}

#[test]
fn connected_socket_is_taken_over() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let connection = Connection::from_socket(ours.into()).unwrap();
    assert!(matches!(connection.stream, Stream::Unix(_)));
    assert_blocking_and_closed_on_exec(&connection.stream);
    drop(theirs);

    let listener = TcpListener::bind("[::1]:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = Connection::from_socket(stream.into()).unwrap();
    let Stream::Tcp(stream) = &connection.stream else { panic!("not TCP") };
    assert!(stream.nodelay().unwrap());
    assert_blocking_and_closed_on_exec(&connection.stream);
}

#[test]
fn unusable_descriptors_are_refused() {
    let listener: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let datagrams: OwnedFd = UnixDatagram::pair().unwrap().0.into();
    let file: OwnedFd = File::open(Path::new("/dev/null")).unwrap().into();
    for (fd, errno) in [
        (listener, Errno::NOTCONN),
        (udp, Errno::PROTOTYPE),
        (datagrams, Errno::PROTOTYPE),
        (file, Errno::NOTSOCK),
    ] {
        let error = Connection::from_socket(fd).unwrap_err();
        assert_eq!(error.errno(), errno.raw_os_error(), "{error}");
        assert!(error.to_string().contains("not a connected stream"), "{error}");
    }
}

/// What the peer sent before it reset the connection can still be read, so this is said of
/// sending alone: it is over, however many buffers were to be sent.
#[test]
fn a_reset_is_the_end_to_whoever_sends() {
    let send: [fn(&mut SocketIo<'_>) -> std::io::Result<usize>; 2] =
        [|io| io.write(b"x"), |io| io.write_vectored(&[IoSlice::new(b"x"), IoSlice::new(b"y")])];
    for send in send {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = Socket::from(listener.accept().unwrap().0);
        server.set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        let mut fds = [PollFd::new(&client, PollFlags::empty())];
        poll(&mut fds, Some(&LIMIT.try_into().unwrap())).unwrap();
        assert!(fds[0].revents().contains(PollFlags::ERR), "the reset has come");
        let error = send(&mut SocketIo::non_blocking(client.as_fd())).unwrap_err();
        assert!(nbd_proto::io::is_gone(error.kind()), "{error}");
    }
}
