//! Clients that do not behave, or behave as few do.

use std::net::Shutdown;
use std::process::Command;

use nbd_sim::peer::{run, tool};
use nbd_sim::raw::{READ, Raw, WRITE, reply, request};

use super::support::{NBD, TestResult, eventually, nbdsh, serve};

const MEGABYTE: usize = 1 << 20;

#[test]
fn a_client_may_send_all_it_has_before_it_reads() -> TestResult {
    let server = serve(&["--memory", "64M"]).start()?;
    let mut client = Raw::established(&server);
    let mut sent = Vec::new();
    // Far more than the sockets hold, in both directions.
    for i in 0..16 {
        sent.extend(request(READ, i, 0, MEGABYTE as u32));
    }
    for i in 16..32 {
        let length = (MEGABYTE + 1) as u32;
        sent.extend(request(WRITE, i, (i - 16) * 3 * MEGABYTE as u64, length));
        sent.extend(vec![i as u8; MEGABYTE + 1]);
    }
    client.write(&sent);
    for i in 0..16 {
        assert_eq!(client.read(16), reply(0, i));
        assert!(client.read(MEGABYTE) == vec![0; MEGABYTE]);
    }
    assert_eq!(client.replies(16), (16..32).map(|i| (0, i)).collect::<Vec<_>>());
    nbdsh(&server.uri(), "assert h.pread(3, (13 << 20) - 1) == b'\\x14\\x14\\0'")?;
    Ok(())
}

#[test]
fn writes_of_full_length_follow_each_other() -> TestResult {
    let server = serve(&["--memory", "128M"]).start()?;
    let mut client = Raw::established(&server);
    let length = 32 * MEGABYTE;
    for i in 0..4 {
        client.write(&request(WRITE, i, i * length as u64, length as u32));
        client.write(&vec![i as u8 + 1; length]);
    }
    assert_eq!(client.replies(4), (0..4).map(|i| (0, i)).collect::<Vec<_>>());
    nbdsh(&server.uri(), "assert h.pread(2, (64 << 20) - 1) == b'\\x02\\x03'")?;
    Ok(())
}

#[test]
fn many_small_requests_in_one_go() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let mut client = Raw::established(&server);
    // More than the server keeps in flight, so that some wait unparsed.
    for round in 0..3 {
        let requests: Vec<u8> = (0..2000).flat_map(|i| request(READ, i, i, 1)).collect();
        client.write(&requests);
        for i in 0..2000 {
            assert_eq!(client.read(16), reply(0, i), "round {round}");
            assert_eq!(client.read(1), [0]);
        }
    }
    Ok(())
}

#[test]
fn refused_requests_do_not_disturb_the_rest() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let mut client = Raw::established(&server);
    let too_long = 33 * MEGABYTE;
    let mut sent = request(READ, 1, 1 << 40, 512);
    sent.extend(request(77, 2, 0, 0));
    sent.extend(request(WRITE, 3, u64::MAX, 4));
    sent.extend(b"????");
    sent.extend(request(WRITE, 4, 0, too_long as u32));
    sent.extend(vec![9; too_long]);
    sent.extend(request(WRITE, 5, 0, 0));
    client.write(&sent);
    assert_eq!(client.replies(5), [(22, 1), (22, 2), (28, 3), (28, 4), (0, 5)]);
    client.write(&request(READ, 6, 0, 2));
    assert_eq!(client.read(16), reply(0, 6));
    assert_eq!(client.read(2), [0, 0]);
    Ok(())
}

#[test]
fn a_fault_ends_one_connection_and_is_told_in_one_line() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let mut good = Raw::established(&server);
    let mut bad = Raw::established(&server);
    bad.write(&[0xff; 28]);
    // Unread bytes may turn the end into a reset.
    assert!(bad.rest().map_or(true, |bytes| bytes.is_empty()));
    good.write(&request(READ, 1, 0, 1));
    assert_eq!(good.read(16), reply(0, 1));
    eventually("the fault is in the log", || {
        server.log().contains("wrong magic number in a request")
    });
    let log = server.log();
    let faults: Vec<&str> = log.lines().filter(|line| line.contains("nbd: process")).collect();
    assert_eq!(faults.len(), 1, "{log}");
    Ok(())
}

#[test]
fn clients_that_only_look_are_not_worth_a_line() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    // The socket is there a little earlier than the line.
    eventually("the line", || server.log().ends_with('\n'));
    for _ in 0..20 {
        Raw::connect(&server).read(18);
        drop(Raw::connect(&server));
    }
    let mut leaving = Raw::established(&server);
    leaving.stream.shutdown(Shutdown::Write).unwrap();
    assert!(leaving.rest().unwrap().is_empty());
    nbdsh(&server.uri(), "assert h.pread(1, 0) == b'\\0'")?;
    let log = server.log();
    assert_eq!(log.lines().count(), 1, "only the URI: {log}");
    Ok(())
}

#[test]
fn a_client_beyond_the_limit_is_told_so_and_may_look() -> TestResult {
    let server = serve(&["--memory", "1M", "--max-connections", "2"]).start()?;
    let mut clients = [Raw::established(&server), Raw::established(&server)];
    assert!(!Raw::negotiating(&server).choose());
    let list = run(tool("nbdinfo")?.args(["--list", "--json", &server.uri()]))?.success()?;
    assert!(list.contains("1048576"), "{list}");
    let refused = run(Command::new(NBD).args(["bench", "--count", "1", &server.uri()]))?;
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("there are 2 clients already"), "{text}");
    assert!(clients.iter_mut().all(|client| client.get(0, 1) == [0]));
    drop(clients);
    eventually("both have left and another comes", || Raw::negotiating(&server).choose());
    assert!(server.log().contains("turned away"), "{}", server.log());
    Ok(())
}
