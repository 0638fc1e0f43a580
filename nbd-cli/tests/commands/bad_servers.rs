//! Servers that are none, or that stop being one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use nbd_sim::peer::Server;

use super::support::{TestResult, fail};

/// Answers every connection with these bytes, then closes it in good order.
fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&mut stream.unwrap(), bytes);
        }
    });
    uri
}

fn answer(stream: &mut TcpStream, bytes: &[u8]) {
    // A client may have had enough before the end.
    if stream.write_all(bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn what_they_say_is_no_nbd() -> TestResult {
    let table: [(&[u8], &str); 9] = [
        (b"", "closed"),
        (b"N", "closed"),
        (b"NBDMAGICIHAVEOPT", "closed"),
        (b"NBDMAGICIHAVEOPT\0\x03", "closed"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "NBDMAGIC"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "NBDMAGIC"),
        (b"NBDMAGICIHAVEOPTIONS", "closed"),
        (b"NBDMAGIC????????\0\x03", "second magic number"),
        // A reply to an option nobody sent.
        (
            b"NBDMAGICIHAVEOPT\0\x03\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x63\0\0\0\x01\0\0\0\0",
            "option",
        ),
    ];
    for (bytes, expected) in table {
        let uri = answering(bytes);
        let copy = ["copy", &uri, "null:"];
        for args in [&["info", &uri][..], &["info", "--size", &uri], &copy, &["bench", &uri]] {
            let told = fail(args)?;
            assert!(told.starts_with(&uri), "{told}");
            assert!(told.contains("peer") || told.contains("server"), "{told}");
            assert!(told.contains(expected), "{}: {told}", bytes.escape_ascii());
        }
    }
    Ok(())
}

/// It accepts, by way of its backlog, and never says a word.
#[test]
fn one_that_never_speaks() -> TestResult {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    let copy = ["copy", "--timeout=1", &uri, "null:"];
    let bench = ["bench", "--timeout=1", &uri];
    for args in [&["info", "--timeout=1", &uri][..], &copy, &bench] {
        let started = Instant::now();
        let told = fail(args)?;
        let seconds = started.elapsed().as_secs_f64();
        assert!((1.0..2.5).contains(&seconds), "{seconds} seconds");
        assert!(told.starts_with(&uri), "{told}");
        assert!(told.contains("no answer from the server for 1s"), "{told}");
    }
    Ok(())
}

/// It was a server a moment ago.
#[test]
fn one_that_is_frozen() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    server.stop()?;
    let uri = server.uri();
    let told = fail(&["info", "--timeout=1", &uri])?;
    assert!(told.contains("no answer from the server for 1s"), "{told}");
    server.cont()
}
