//! Servers that are none, or that stop being one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use nbd_sim::hostile::bytes::{self, opt, rep};
use nbd_sim::peer::{Server, run_within};

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
fn endless(option: u32, kind: u32, data: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            // It ends when the client has had enough.
            let _ = go_on(&mut stream.unwrap(), option, kind, &data);
        }
    });
    uri
}

fn go_on(stream: &mut TcpStream, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    const UNSUPPORTED: u32 = 0x8000_0001;
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let [.., a, b, c, d, e, f, g, h] = header;
        let asked = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([e, f, g, h]);
        stream.read_exact(&mut vec![0; length as usize])?;
        if asked != option {
            stream.write_all(&bytes::reply(asked, UNSUPPORTED, &[]))?;
            continue;
        }
        let replies = bytes::reply(option, kind, data).repeat(100);
        loop {
            stream.write_all(&replies)?;
        }
    }
}

/// The program comes to its end with 16 MiB beside what it needs to do nothing.
#[test]
fn one_that_never_stops_speaking() -> TestResult {
    let info = [&[0, 42][..], &[7; 8000]].concat();
    let long = [&4096_u32.to_be_bytes()[..], &[b'x'; 8192]].concat();
    let talkers = [
        (vec!["info"], endless(opt::GO, rep::INFO, info)),
        (vec!["info", "--list"], endless(opt::LIST, rep::SERVER, long)),
        (vec!["info", "--list"], endless(opt::LIST, rep::SERVER, vec![0; 4])),
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
