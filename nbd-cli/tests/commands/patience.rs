//! How long a copy waits for a server, and for what.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_sim::hostile::bytes::{
    DONE, FLAGS, MORE, ack, chunk, context, data, error, export, kind, opt, status,
};
use nbd_sim::peer::{Scratch, Server};

use super::stub::{Request, Script, stub};
use super::support::{Content, MIB, TestResult, arg, fail, succeed};

const READ: u16 = 0;
const BLOCK_STATUS: u16 = 7;

/// A server that takes its time for something that takes time is not dead, and need not
/// answer anything else meanwhile.
#[test]
fn long_operations_are_no_silence() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Sparse.image(&scratch, "image", MIB));
    for slow in ["flush=sleep 3", "zero=[ -e $tmpdir/slow ] || { touch $tmpdir/slow; sleep 3; }"] {
        let server = Server::nbdkit(&["eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero"])
            .arg("pwrite=cat > /dev/null")
            .arg("can_flush=exit 0")
            .arg("can_zero=exit 0")
            .arg(slow)
            .arg(if slow.starts_with("zero") { "can_trim=exit 3" } else { "zero=exit 0" })
            .start()?;
        succeed(&["copy", "--timeout=1", &image, &server.uri()])?;
    }
    Ok(())
}

#[test]
fn no_limit_is_none() -> TestResult {
    let slow = ["eval", "get_size=echo 1M", "open=sleep 1", "pread=sleep 1; head -c $3 /dev/zero"];
    let server = Server::nbdkit(&slow).start()?;
    let uri = server.uri();
    assert_eq!(succeed(&["info", "--timeout=0", "--size", &uri])?, "1048576");
    let request = ["--request-size=1M", "--no-extents"];
    succeed(&[&["copy", "--timeout=0"], &request[..], &[&uri, "null:"]].concat())?;
    let bench = ["bench", "--timeout=0", "--count=1", "--depth=1", &uri];
    succeed(&bench)?;
    Ok(())
}

/// Answers reads with something that never comes to an end.
struct Endless(fn(u64) -> Vec<u8>);

impl Script for Endless {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(1 << 20, FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            _ => None,
        }
    }

    fn request(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        loop {
            client.write_all(&(self.0)(request.cookie).repeat(100))?;
        }
    }
}

#[test]
fn streams_without_end_that_bring_nothing() -> TestResult {
    let talkers: [fn(u64) -> Vec<u8>; 3] = [
        |cookie| chunk(MORE, kind::ERROR, cookie, &error(5, b"again")),
        |cookie| chunk(DONE, kind::ERROR, cookie + 77, &error(5, b"who?")),
        |cookie| chunk(MORE, kind::NONE, cookie, &[]),
    ];
    for talk in talkers {
        let told = fail(&["copy", "--timeout=2", &stub(Endless(talk)), "null:"])?;
        assert!(
            told.contains("no answer from the server for 2s")
                || told.contains("violation")
                // It did say that the read has failed, if not that it is over.
                || told.contains("server said \"again\""),
            "{told}"
        );
    }
    Ok(())
}

/// Tells of one byte of its map at a time.
#[derive(Clone, Default)]
struct Grains(Arc<AtomicU64>);

impl Script for Grains {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(self.size(), FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            opt::SET_META_CONTEXT => Some([context(0, b"base:allocation"), ack(option)].concat()),
            _ => None,
        }
    }

    fn request(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        let answer = match request.kind {
            BLOCK_STATUS => {
                self.0.fetch_add(1, Ordering::Relaxed);
                let zero = if request.offset.is_multiple_of(2) { 3 } else { 0 };
                chunk(DONE, kind::BLOCK_STATUS, request.cookie, &status(0, &[(1, zero)]))
            }
            READ => {
                let body = data(request.offset, request.length as usize);
                chunk(DONE, kind::OFFSET_DATA, request.cookie, &body)
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        client.write_all(&answer)
    }
}

/// To ask for holes is to save reading; here it does not.
#[test]
fn a_map_that_tells_nothing_is_not_asked_for_any_more() -> TestResult {
    let grains = Grains::default();
    let uri = stub(grains.clone());
    succeed(&["copy", "--connections=1", &uri, "null:"])?;
    let asked = grains.0.load(Ordering::Relaxed);
    assert!((1..=100).contains(&asked), "asked {asked} times");
    Ok(())
}
