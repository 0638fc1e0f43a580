//! The table of clients that break rules, and clients that harm by what they do with
//! their socket.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd_proto::{Error, PeerMisbehaved};
use nbd_sim::peer::Server;
use nbd_sim::raw::{READ, Raw, WRITE, reply, request};
use nbd_sim::rude::{Case, End, Wire, all};

use super::support::{LIMIT, TestResult, eventually, serve};

const MEGABYTE: usize = 1 << 20;

/// Everybody else: a client that was there before, and one that comes now.
struct Witness<'a> {
    server: &'a Server,
    before: Raw,
    asked: u64,
}

impl<'a> Witness<'a> {
    fn new(server: &'a Server) -> Self {
        Self { server, before: Raw::established(server), asked: 0 }
    }

    fn assert_served(&mut self) {
        self.asked += 1;
        for client in [&mut self.before, &mut Raw::established(self.server)] {
            client.write(&request(READ, self.asked, 1 << 29, 4096));
            assert_eq!(client.read(16), reply(0, self.asked));
            assert_eq!(client.read(4096), [0; 4096]);
        }
    }
}

/// What the server says of a client, if anything.
fn blame(case: &Case) -> Option<String> {
    match &case.end {
        // It only looked, as port scanners do.
        End::Dies(Error::Misbehaved(PeerMisbehaved::Closed)) => None,
        End::Dies(error) => Some(error.to_string()),
        End::Haggles | End::Lives | End::Leaves => None,
    }
}

fn perform<S: Wire>(case: &Case, socket: S) {
    let visit = case.perform(socket).unwrap_or_else(|error| panic!("{}: {error}", case.id));
    assert!(visit.words == case.hears, "{}: {:?}", case.id, visit.words);
    let lives = matches!(case.end, End::Haggles | End::Lives);
    assert_eq!((visit.lives, visit.closed), (lives, !lives), "{}", case.id);
}

/// As in memory: what is answered, who is blamed, and whether the connection lives.
#[test]
fn every_case_ends_over_a_socket_as_in_memory() -> TestResult {
    let unix = [false, true].map(|read_only| {
        let access: &[&str] = if read_only { &["--read-only"] } else { &[] };
        serve(&[&["--memory", "1T"], access].concat()).start()
    });
    let [writable, read_only] = unix;
    let servers = [writable?, read_only?];
    let tcp = Server::nbd(&["--memory", "1T"]).tcp().start()?;
    let mut witnesses = servers.each_ref().map(Witness::new);
    let memory = peak_memory(&servers[0]);
    let mut blamed = servers.each_ref().map(|_| Vec::new());
    for case in all() {
        let which = usize::from(case.read_only);
        let socket = UnixStream::connect(servers[which].unix_path().unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        perform(&case, socket);
        witnesses[which].assert_served();
        blamed[which].extend(blame(&case));
        let log = || faults(&servers[which]);
        eventually(case.id, || log().len() >= blamed[which].len());
        assert_eq!(log(), blamed[which], "{}", case.id);
        if !case.read_only {
            let socket = TcpStream::connect(tcp.tcp_address().unwrap()).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.set_write_timeout(Some(LIMIT)).unwrap();
            perform(&case, socket);
        }
    }
    let grown = grown_since(memory, &servers[0]);
    assert!(grown < 16 * MEGABYTE, "{grown} bytes");
    Ok(())
}

/// What the server has said of its clients, without their names.
fn faults(server: &Server) -> Vec<String> {
    let told =
        |line: &str| Some(line.strip_prefix("nbd: process ")?.split_once(": ")?.1.to_owned());
    server
        .log()
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| told(line.trim_end()))
        .collect()
}

/// The most memory that a server has had at any time, in bytes.
fn peak_memory(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Says something over and over, without ever reading, until the server has stopped to
/// listen; returns how many bytes it took.
fn talk_without_listening(client: &mut Raw, words: &[u8]) -> usize {
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let words = words.repeat(1 + (64 << 10) / words.len());
    let mut taken = 0;
    loop {
        match client.stream.write(&words) {
            Ok(n) if n < words.len() => return taken + n,
            Ok(n) => taken += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// By how many bytes the peak has grown. The kernel only estimates it, so it may seem to sink.
fn grown_since(before: usize, server: &Server) -> usize {
    peak_memory(server).saturating_sub(before)
}

/// The server stops reading from a client that does not take its replies, whatever they
/// are to, and keeps no more than it says.
#[test]
fn whoever_never_reads_is_not_listened_to_for_long() -> TestResult {
    let server = serve(&["--memory", "1G"]).start()?;
    let mut witness = Witness::new(&server);
    witness.assert_served();
    let memory = peak_memory(&server);
    let list = b"IHAVEOPT\0\0\0\x03\0\0\0\0".to_vec();
    let data = request(READ, 0, 0, MEGABYTE as u32);
    // Only what carries data is kept, and that is bounded.
    let kinds = [
        (request(READ, 0, 0, 1), Raw::established(&server), 16),
        (request(77, 0, 0, 0), Raw::established(&server), 16),
        (list, Raw::negotiating(&server), 16),
        (data, Raw::established(&server), 96),
    ];
    let mut silent = Vec::new();
    for (words, mut client, most) in kinds {
        let before = peak_memory(&server);
        let taken = talk_without_listening(&mut client, &words);
        assert!(taken < 32 * MEGABYTE, "{taken} bytes of {words:?}");
        witness.assert_served();
        let grown = grown_since(before, &server);
        assert!(grown < most * MEGABYTE, "{grown} bytes for {words:?}");
        silent.push(client);
    }
    assert!(grown_since(memory, &server) < 128 * MEGABYTE);
    drop(silent);
    witness.assert_served();
    Ok(())
}

/// In the middle of a handshake, of a request, of its payload and of a reply.
#[test]
fn whoever_stops_in_the_middle_is_in_nobodys_way() -> TestResult {
    let server = serve(&["--memory", "1G"]).start()?;
    let mut witness = Witness::new(&server);
    witness.assert_served();
    let memory = peak_memory(&server);
    let mut stalled = Vec::new();
    for n in 0..50 {
        let mut haggling = Raw::negotiating(&server);
        haggling.write(&b"IHAVEOPT\0\0\0\x07\0\0\0\x06"[..n % 16]);
        let mut asking = Raw::established(&server);
        asking.write(&request(READ, 1, 0, 512)[..n % 28]);
        let mut writing = Raw::established(&server);
        writing.write(&request(WRITE, 1, 0, 32 << 20));
        writing.write(&vec![7; n * 100]);
        let mut reading = Raw::established(&server);
        reading.write(&request(READ, 1, 0, 1 << 20));
        assert_eq!(reading.read(16 + n)[..16], reply(0, 1));
        stalled.extend([haggling, asking, writing, reading]);
        witness.assert_served();
    }
    // A page or two of each payload, a reply of 1 MiB each, and the threads.
    let grown = grown_since(memory, &server);
    assert!(grown < 192 * MEGABYTE, "{grown} bytes");
    drop(stalled);
    witness.assert_served();
    eventually("all are told of", || faults(&server).len() >= 100);
    let mut after = Raw::established(&server);
    after.write(&request(READ, 1, 0, 4096));
    assert_eq!(after.read(16 + 4096)[16..], [0; 4096], "half a write has come through");
    Ok(())
}
