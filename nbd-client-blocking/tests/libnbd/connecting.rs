//! Every way to a server, and the way back to a URI.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::TlsPolicy;
use nbd_client_blocking::transport::{
    Activation, AllowedTransports, CommandSpec, Connection, Endpoint, FdName, NbdUri, Signal,
    UriPolicy,
};
use nbd_client_blocking::{Client, Options, State};
use nbd_sim::peer::{ClosedPort, Server};

use crate::support::{MIB, defaults, nbdkit};

fn tcp() -> Server {
    Server::nbdkit(&["memory", "1M"]).tcp().start().expect("nbdkit starts")
}

/// Its URI leads to the same server, and says the same once more.
fn comes_back(mut client: Client) {
    assert_eq!(client.size(), MIB);
    client.write_all_at(b"left here", 0).expect("it is written");
    let uri = client.to_uri().expect("it has one").to_string();
    let mut again = defaults().uri(&uri).and_then(Client::connect).expect("it leads there");
    assert_eq!(again.to_uri().expect("it has one").to_string(), uri);
    assert_eq!(again.session().export_name(), client.session().export_name());
    let mut data = [0; 9];
    again.read_exact_at(&mut data, 0).expect("it is read");
    assert_eq!(&data, b"left here");
    again.disconnect().expect("an orderly end");
}

#[test]
fn by_uri_by_endpoint_and_by_socket() {
    let tcp = tcp();
    let address = tcp.tcp_address().expect("it listens on TCP");
    let (host, port) = (address.ip().to_string(), address.port());
    let strange = "a&b=c#d%e f/é";
    comes_back(defaults().uri(&tcp.uri()).and_then(Client::connect).expect("it accepts"));
    comes_back(
        defaults().uri(&tcp.export_uri(strange)).and_then(Client::connect).expect("it accepts"),
    );
    comes_back(
        Client::connect(defaults().endpoint(Endpoint::Tcp { host, port })).expect("it accepts"),
    );
    comes_back(
        Client::connect(defaults().export(strange).endpoint(Endpoint::Address(address)))
            .expect("accepts"),
    );
    let socket = TcpStream::connect(address).expect("it listens");
    let connection = Connection::from_socket(socket.into()).expect("it is connected");
    comes_back(Client::connect_over(defaults(), connection).expect("it accepts"));

    let unix = nbdkit(&["memory", "1M"]);
    let path = unix.unix_path().expect("it has a socket").to_owned();
    comes_back(defaults().uri(&unix.uri()).and_then(Client::connect).expect("it accepts"));
    comes_back(
        Client::connect(defaults().export(strange).endpoint(Endpoint::Unix(path.clone())))
            .expect("accepts"),
    );
    let socket = UnixStream::connect(&path).expect("it listens");
    let connection = Connection::from_socket(socket.into()).expect("it is connected");
    comes_back(Client::connect_over(defaults(), connection).expect("it accepts"));
}

#[test]
fn another_export_than_the_uri_says() {
    let server = tcp();
    let mut options =
        defaults().uri(&server.export_uri("one")).and_then(Options::connect).expect("it greets");
    assert_eq!(options.export_name(), "one");
    options.set_export_name("two").expect("the name is sound");
    let client = options.go().expect("it is there");
    assert_eq!(client.to_uri().expect("it has one").export_name(), "two");
    comes_back(client);
}

#[test]
fn a_command_and_its_process() {
    let command = CommandSpec::new("nbdkit", ["-s", "memory", "1M"]);
    let mut client =
        Client::connect(defaults().endpoint(Endpoint::Command(command))).expect("it starts");
    assert_eq!(client.size(), MIB);
    let error = client.to_uri().expect_err("it has no address");
    assert_eq!(error.errno(), 22, "{error}");
    assert!(error.to_string().contains("nbdkit"), "{error}");
    let process = client.peer_process().expect("there is one");
    assert!(process.pid() > 1);
    // In this mode nbdkit puts off a polite request until its client has gone.
    process.kill(Signal::KILL).expect("it is ours");
    let limit = Instant::now() + Duration::from_secs(60);
    let ended = process.wait_until(Some(limit)).expect("it is ours");
    assert!(ended.is_some());
    let error = client.read_exact_at(&mut [0; 512], 0).expect_err("nobody is there");
    assert_eq!(error.errno(), 107, "{error}");
    assert_eq!(client.state(), State::Closed);

    let missing = CommandSpec::new("no-such-program", ["x"]);
    let error = Client::connect(defaults().endpoint(Endpoint::Command(missing)))
        .expect_err("it is not there");
    assert_eq!(error.errno(), 2, "{error}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let server = nbdkit(&["memory", "1M"]);
    let mut client = defaults().uri(&server.uri()).and_then(Client::connect).expect("it accepts");
    assert!(client.peer_process().is_none(), "nobody was started");
}

#[test]
fn an_activated_program_has_a_socket_while_it_lives() {
    let command = CommandSpec::new("nbdkit", ["memory", "1M"]);
    let name = FdName::new("disk").expect("it is a name");
    let endpoint = Endpoint::SocketActivation(Activation::new(command, name));
    let mut client = Client::connect(defaults().endpoint(endpoint)).expect("it starts");
    assert!(client.peer_process().is_some());
    comes_back(client);
}

#[test]
fn what_a_uri_may_do_is_for_the_policy() {
    let none = UriPolicy::default().transports(AllowedTransports::NONE);
    let tls_only = UriPolicy::default().tls(TlsPolicy::Require);
    let no_tls = UriPolicy::default().tls(TlsPolicy::Disable);
    let default = UriPolicy::default();
    for (policy, uri, words) in [
        (none, "nbd://localhost", "TCP"),
        (none, "nbd+unix:///?socket=/s", "Unix"),
        (none, "nbd+vsock://2", "vsock"),
        (none, "nbd+ssh://host", "ssh"),
        (tls_only, "nbd://localhost", "without TLS"),
        (no_tls, "nbds://localhost", "TLS"),
        (default, "nbds://localhost?tls-certificates=/etc", "local files"),
        (default, "nbds://localhost?tls-psk-file=/etc/passwd", "local files"),
    ] {
        let error = defaults()
            .uri_policy(policy)
            .uri(uri)
            .and_then(Client::connect)
            .expect_err("forbidden");
        assert_eq!(error.errno(), 1, "{uri}: {error}");
        assert!(error.to_string().contains(words), "{uri}: {error}");
    }
    for (uri, words) in [
        ("localhost", "://"),
        ("http://localhost", "http"),
        ("nbd://localhost?colour=red", "colour"),
        ("nbd+ssh://-oProxyCommand=x", "-oProxyCommand"),
        ("nbd+unix:///", "socket"),
        ("nbd://localhost?socket=/s", "socket"),
    ] {
        let error = Client::connect(uri).expect_err("malformed");
        assert_eq!(error.errno(), 22, "{uri}: {error}");
        assert!(error.to_string().contains(words), "{uri}: {error}");
    }
    assert!(NbdUri::is_uri("NBD+Unix:///?socket=s") && NbdUri::is_uri("nbds+ssh://h"));
    assert!(!NbdUri::is_uri("/disk.img") && !NbdUri::is_uri("http://h") && !NbdUri::is_uri("nbd:"));
}

#[test]
fn nobody_there() {
    let port = ClosedPort::new().expect("a port is free");
    let uri = format!("nbd://127.0.0.1:{}", port.number());
    let error = Client::connect(&uri).expect_err("nobody is there");
    assert_eq!(error.errno(), 111, "{error}");
    let error = Client::connect("nbd+unix:///?socket=/nowhere/s").expect_err("nobody is there");
    assert_eq!(error.errno(), 2, "{error}");
    let long = "x".repeat(200);
    let error = Client::connect(format!("nbd+unix:///?socket=/{long}")).expect_err("too long");
    assert_eq!(error.errno(), 36, "{error}");
}
