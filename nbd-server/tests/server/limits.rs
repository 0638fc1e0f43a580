//! Clients that take their time, and clients that take memory.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use nbd_server::tls::TlsServerConfig;
use nbd_server::{Event, Exports, Limits, Listed, MemoryExport, Opened, Peer, Server, TlsPolicy};
use nbd_sim::peer::pki::Pki;
use nbd_sim::raw::{LIMIT, READ, Raw, WRITE, request};

use super::support::{Running, ending, start};

const SHORT: Duration = Duration::from_millis(50);
const MEGABYTE: usize = 1 << 20;

fn server(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits::default();
    change(&mut limits);
    Server::new(MemoryExport::new(1 << 30)).limits(limits)
}

#[test]
fn a_client_that_stalls_in_the_negotiation_is_cut() {
    let (server, endings) = start(server(|limits| limits.handshake_timeout = SHORT));
    for said in [&[] as &[u8], &[0, 0, 0, 3], b"\0\0\0\x03IHAVEOPT\0\0"] {
        let mut client = Raw::connect(&server);
        client.write(said);
        let told = ending(&endings).expect("it is cut");
        assert!(told.contains("said nothing for 0 s"), "{told}");
    }
}

/// Talks to a server until it hangs up; returns how that ended.
fn talk(mut talk: impl FnMut(&mut Raw) -> io::Result<()>) -> String {
    let (server, endings) = start(server(|limits| limits.handshake_timeout = SHORT));
    let mut client = Raw::negotiating(&server);
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline && talk(&mut client).is_ok() {}
    ending(&endings).expect("it is cut")
}

#[test]
fn a_client_that_takes_its_time_over_one_message_is_cut() {
    let mut begun = false;
    let told = talk(|client| {
        if !std::mem::replace(&mut begun, true) {
            client.stream.write_all(b"IHAVEOPT\0\0\0\x07\0\x10\0\0")?;
        }
        std::thread::sleep(SHORT / 50);
        client.stream.write_all(&[0])
    });
    assert!(told.contains("said nothing"), "{told}");
}

/// Asks on and on without ever reading the answers; tells how often the server took it.
fn ask_on(client: &mut Raw, words: &[u8]) {
    client.stream.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + LIMIT;
    let mut sent = 0;
    while Instant::now() < deadline {
        match client.stream.write(&words[sent..]) {
            Ok(n) => sent = (sent + n) % words.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => return,
        }
    }
}

#[test]
fn a_client_that_never_reads_is_cut() {
    let (server, endings) = start(server(|limits| {
        limits.handshake_timeout = SHORT;
        limits.stall_timeout = SHORT;
    }));
    let mut negotiating = Raw::negotiating(&server);
    ask_on(&mut negotiating, b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert!(ending(&endings).expect("it is cut").contains("said nothing"));
    let mut reading = Raw::established(&server);
    ask_on(&mut reading, &request(READ, 1, 0, MEGABYTE as u32));
    assert!(ending(&endings).expect("it is cut").contains("neither sent nor took anything"));
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_write_is_cut() {
    let (server, endings) = start(server(|limits| limits.stall_timeout = SHORT));
    let mut idle = Raw::established(&server);
    let mut client = Raw::established(&server);
    client.ask(WRITE, 1, 0, 32 << 20);
    client.write(&[1; 100]);
    assert!(ending(&endings).expect("it is cut").contains("neither sent nor took anything"));
    assert!(client.is_hung_up());
    // Who is in the middle of nothing may stay as long as it likes.
    assert_eq!(idle.get(0, 4), [0; 4]);
}

/// An honest client is served beside any number that choose no export.
#[test]
fn silent_clients_keep_nobody_out() {
    let (server, endings) = start(server(|limits| {
        limits.max_handshakes = 4;
    }));
    let mut settled = Raw::established(&server);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(Raw::connect(&server));
        let mut honest = Raw::established(&server);
        assert_eq!(honest.get(0, 4), [0; 4]);
    }
    silent[0].read(18);
    assert!(silent[0].is_hung_up(), "the oldest gives way");
    assert_eq!(settled.get(0, 4), [0; 4]);
    let displaced = (0..60).filter_map(|_| ending(&endings)).count();
    assert!(displaced > 0);
}

/// Who is told why TLS has failed, and stays, is one of those who have chosen no export.
#[test]
fn clients_that_do_not_leave_are_bounded() {
    let pki = Pki::new();
    let acceptor = TlsServerConfig::directory(pki.dir()).acceptor().unwrap();
    let (server, endings) =
        start(server(|limits| limits.max_handshakes = 2).tls(TlsPolicy::Require, acceptor));
    let mut stay = Vec::new();
    for _ in 0..64 {
        let mut client = Raw::negotiating(&server);
        // NBD_OPT_STARTTLS
        client.write(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
        client.read(20);
        client.write(b"no TLS at all");
        assert_ne!(ending(&endings), None);
        // One whose socket is closed can send no more.
        stay.retain_mut(|client: &mut Raw| client.stream.write(&[0]).is_ok());
        stay.push(client);
        // Those who were told to go a moment ago may still be on their way.
        assert!(stay.len() <= 16, "{} clients stay", stay.len());
    }
}

/// All who come at once are served, also when each says something only after all have come.
#[test]
fn a_crowd_that_comes_at_once_is_no_flood() {
    let (server, _endings) = start(server(|_| {}));
    let mut crowd: Vec<_> = (0..1000).map(|_| Raw::connect(&server)).collect();
    crowd.iter_mut().for_each(Raw::negotiate);
    assert!(crowd.iter_mut().all(Raw::choose));
    assert!(crowd.iter_mut().all(|client| client.get(0, 4) == [0; 4]));
}

/// Who asks on and on gets answers, and others get theirs meanwhile.
#[test]
fn a_client_that_never_stops_asking_holds_up_nobody() {
    let (server, _endings) = start(server(|_| {}));
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let mut asking = Raw::negotiating(&server);
        let mut reader = asking.stream.try_clone().unwrap();
        scope.spawn(move || {
            // An option that nobody knows.
            let words = b"IHAVEOPT\0\0\0\x7f\0\0\0\0".repeat(1000);
            while is_done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty)
                && asking.stream.write_all(&words).is_ok()
            {}
            let _ = asking.stream.shutdown(std::net::Shutdown::Both);
        });
        scope.spawn(move || io::copy(&mut reader, &mut io::sink()));
        for _ in 0..20 {
            assert_eq!(Raw::established(&server).get(0, 4), [0; 4]);
        }
        drop(done);
    });
}

/// What stalled clients hold is bounded, and they give way to others.
#[test]
fn memory_is_bounded_for_all_together() {
    let (server, endings) = start(server(|limits| {
        limits.max_payload = MEGABYTE as u32;
        limits.max_memory = 4 * MEGABYTE;
    }));
    let mut honest = Raw::established(&server);
    let mut stalled = Vec::new();
    for n in 0..16 {
        let mut client = Raw::established(&server);
        if n % 2 == 0 {
            client.ask(WRITE, 1, 0, MEGABYTE as u32);
            // As much as it gets rid of.
            client.stream.set_write_timeout(Some(SHORT)).unwrap();
            let _ = client.stream.write(&vec![1; MEGABYTE - 1]);
        } else {
            // More than the socket holds is never taken.
            for cookie in 0..8 {
                client.ask(READ, cookie, 0, MEGABYTE as u32);
            }
        }
        stalled.push(client);
        assert_eq!(honest.get(0, 4096), [0; 4096], "small requests are served at once");
    }
    // Nor are large ones kept waiting for ever.
    for round in 0..4 {
        assert_eq!(honest.get(0, MEGABYTE).len(), MEGABYTE, "round {round}");
        honest.ask(WRITE, 9, 0, MEGABYTE as u32);
        honest.write(&vec![0; MEGABYTE]);
        assert_eq!(honest.reply(), (0, 9));
    }
    let told = ending(&endings).expect("somebody gives way");
    assert!(told.contains("memory was short"), "{told}");
}

/// Exports with names that are as long as they may be.
struct Many;

impl Exports for Many {
    fn list(&self, _peer: &Peer) -> io::Result<Vec<Listed>> {
        Ok((0..1000).map(|number| Listed::new(format!("{number:04096}"))).collect())
    }

    fn open(&self, _name: &str, _peer: &Peer) -> io::Result<Opened> {
        Err(ErrorKind::NotFound.into())
    }
}

/// Lists are memory, too: as long as too many clients have not taken theirs, others are told to
/// ask again.
#[test]
fn lists_that_nobody_takes_are_bounded() {
    const LIST: &[u8] = b"IHAVEOPT\0\0\0\x03\0\0\0\0";
    let mut limits = Limits::default();
    limits.max_payload = MEGABYTE as u32;
    limits.max_memory = 10 * MEGABYTE;
    let (server, _endings) = start(Server::with_exports(Many).limits(limits));
    let ask = || {
        let mut client = Raw::negotiating(&server);
        client.write(LIST);
        // The type of the first answer: NBD_REP_SERVER, or NBD_REP_ERR_POLICY.
        let kind = client.read(20)[12..16].to_vec();
        (client, kind)
    };
    let (clients, kinds): (Vec<_>, Vec<_>) = (0..4).map(|_| ask()).unzip();
    let (listed, refused) = ([0, 0, 0, 2], [0x80, 0, 0, 2]);
    assert_eq!(kinds, [listed, listed, refused, refused]);
    drop(clients);
    while ask().1 == refused {}
}

/// What an observer does keeps no thread from serving others.
#[test]
fn an_observer_that_panics_at_refusals_hurts_nobody() {
    let observer = |event: &Event<'_>| {
        assert!(!matches!(event, Event::Refused { .. }), "as it was told");
    };
    let server = Server::with_exports(Many).on_event(observer).start().unwrap();
    let server = Running::Threads(server);
    for _ in 0..100 {
        assert!(!Raw::negotiating(&server).choose(), "there is none of that name");
    }
    server.stop();
}

/// Honest clients that together want more than there is wait for each other, and all get it.
#[test]
fn a_crowd_that_wants_more_than_there_is_gets_it_in_turn() {
    let (server, endings) = start(server(|limits| {
        limits.max_payload = MEGABYTE as u32;
        limits.max_memory = 4 * MEGABYTE;
    }));
    std::thread::scope(|scope| {
        for n in 0..12_u8 {
            let mut client = Raw::established(&server);
            scope.spawn(move || {
                for round in 0..8 {
                    let offset = u64::from(n) * MEGABYTE as u64;
                    client.ask(WRITE, round, offset, MEGABYTE as u32);
                    client.write(&vec![n + 1; MEGABYTE]);
                    assert_eq!(client.reply(), (0, round));
                    assert!(client.get(offset, MEGABYTE).iter().all(|byte| *byte == n + 1));
                }
            });
        }
    });
    for _ in 0..12 {
        assert_eq!(ending(&endings), None);
    }
}
