//! Servers that are none, or that stop being one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use nbd_sim::hostile::bytes::{self, opt, rep};
use nbd_sim::peer::{Server, run_within};

use super::stub::{Script, stub};
use super::support::{LIMIT, NBD, TestResult, fail, told_in_one_line};

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
        // Flags, and then more before anything was asked.
        (b"NBDMAGICIHAVEOPTIONS", "option"),
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
        let told = fail(args)?;
        assert!(told.starts_with(&uri), "{told}");
        assert!(
            told.contains(
                "the server did not say anything within 1s: it hangs or serves somebody else"
            ),
            "{told}"
        );
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
    assert!(
        told.contains(
            "the server did not say anything within 1s: it hangs or serves somebody else"
        ),
        "{told}"
    );
    server.cont()
}

/// Refuses every option but one, to which its answer has no end.
struct Endless {
    option: u32,
    reply: Vec<u8>,
}

impl Endless {
    fn start(option: u32, kind: u32, data: &[u8]) -> String {
        stub(Self { option, reply: bytes::reply(option, kind, data) })
    }
}

impl Script for Endless {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        (option == self.option).then(|| self.reply.repeat(100))
    }

    fn repeats(&self) -> bool {
        true
    }
}

/// The program comes to its end with 16 MiB beside what it needs to do nothing.
#[test]
fn one_that_never_stops_speaking() -> TestResult {
    let info = [&[0, 42][..], &[7; 8000]].concat();
    let long = [&4096_u32.to_be_bytes()[..], &[b'x'; 8192]].concat();
    let talkers = [
        (vec!["info"], Endless::start(opt::GO, rep::INFO, &info)),
        (vec!["info", "--list"], Endless::start(opt::LIST, rep::SERVER, &long)),
        (vec!["info", "--list"], Endless::start(opt::LIST, rep::SERVER, &[0; 4])),
    ];
    let data = |kib: u32, args: &[&str]| {
        let limited = format!("ulimit -d {kib}; exec \"$0\" \"$@\"");
        run_within(LIMIT, Command::new("sh").args(["-c", &limited, NBD]).args(args))
    };
    let least = (1..)
        .map(|n| n * 1024)
        .find(|kib| data(*kib, &["--version"]).is_ok_and(|finished| finished.status.success()));
    let least = least.expect("some size is enough");
    for (words, uri) in &talkers {
        let args: Vec<&str> = words.iter().copied().chain([uri.as_str()]).collect();
        let told = told_in_one_line(&data(least + (16 << 10), &args)?, &args);
        assert!(told.contains("than the limit"), "{told}");
    }
    Ok(())
}
