//! How a server comes and goes.

use nbd_server::{Event, Listener, MemoryExport, Server};
use nbd_sim::peer::{run, tool};
use nbd_sim::raw::{READ, Raw, request};

/// Whoever waits for the server hears when nobody can come in any more.
#[test]
fn the_end_of_the_acceptor_is_the_end_of_the_server() {
    let server = Server::new(MemoryExport::new(1 << 20))
        .on_event(|event| assert!(!matches!(event, Event::Connected { .. }), "as it was told"))
        .listen_tcp("127.0.0.1:0")
        .unwrap()
        .start()
        .unwrap();
    let uri: nbd_transport::NbdUri = server.uris()[0].parse().unwrap();
    let connection = uri.endpoint().connect(None).unwrap();
    let error = server.wait().unwrap_err();
    assert!(error.to_string().contains("has failed"), "{error}");
    drop(connection);
}

#[test]
fn one_client_in_the_thread_of_the_caller() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| Server::new(MemoryExport::new(1 << 20)).serve_one(theirs));
        let mut client = Raw { stream: ours };
        client.read(18);
        client.write(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0");
        client.read(10);
        assert_eq!(client.get(0, 4), [0; 4]);
        drop(client);
        served.join().unwrap().unwrap();
    });
}

/// Clients that nobody here wrote find their way to each kind of socket.
#[test]
fn it_listens_in_several_places_at_once() {
    let name = format!("nbd-server-test-{}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let passed = std::os::unix::net::UnixListener::bind(directory.path().join("passed")).unwrap();
    let server = Server::new(MemoryExport::new(1 << 20))
        .listen_tcp("localhost:0")
        .unwrap()
        .listen_unix(directory.path().join("made"))
        .unwrap()
        .listener(Listener::unix_abstract(name.as_bytes()).unwrap())
        .listener(Listener::passed(passed.into()).unwrap())
        .start()
        .unwrap();
    let uris = server.uris();
    assert_eq!(uris.len(), 4);
    for uri in [&uris[0], &uris[1], &uris[3]] {
        let size = run(tool("nbdinfo").unwrap().args(["--size", uri])).unwrap().success().unwrap();
        assert_eq!(size, "1048576", "{uri}");
    }
    let uri: nbd_transport::NbdUri = uris[2].parse().unwrap();
    uri.endpoint().connect(None).unwrap();
    server.stop().unwrap();
    assert!(!directory.path().join("made").exists());
    assert!(directory.path().join("passed").exists(), "whoever made it removes it");
}

/// A client at two pipes is a client; what was asked is answered although no more comes.
#[test]
fn two_pipes_are_a_stream() {
    use std::io::{Read, Write};
    let server = Server::new(MemoryExport::new(1 << 20)).start().unwrap();
    let (input, mut to_server) = std::io::pipe().unwrap();
    let (mut from_server, output) = std::io::pipe().unwrap();
    server.serve_stream(input, output).unwrap();
    to_server.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    to_server.write_all(&request(READ, 1, 0, 512 << 10)).unwrap();
    // NBD_CMD_DISC
    to_server.write_all(&request(2, 2, 0, 0)).unwrap();
    drop(to_server);
    let mut bytes = Vec::new();
    from_server.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 18 + 10 + 16 + (512 << 10));
    server.stop().unwrap();
}

#[test]
fn what_does_not_listen_is_no_listener() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Listener::passed(socket.into()).is_err());
    let error = Listener::tcp("127.0.0.1:port").unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:port"), "{error}");
}

/// Whatever the umask is, who may connect is as was asked for.
#[test]
fn a_unix_socket_has_the_mode_that_was_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o660, 0o666] {
        let path = directory.path().join("socket");
        let server = Server::new(MemoryExport::new(1 << 20))
            .listener(Listener::unix_with_mode(&path, mode).unwrap())
            .start()
            .unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        let size = run(tool("nbdinfo").unwrap().args(["--size", &server.uris()[0]])).unwrap();
        assert_eq!(size.success().unwrap(), "1048576");
        server.stop().unwrap();
        assert!(!path.exists());
    }
}
