//! How long a copy waits for a server, and for what.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_sim::hostile::bytes::{
    DONE, FLAGS, MORE, ack, chunk, context, data, error, export, kind, opt, status,
};
use nbd_sim::peer::{Scratch, Server};

use super::stub::{Request, Script, stub};
use super::support::{Content, MIB, NBD, PATIENCE, TestResult, arg, fail_in_time, nbd, succeed};

const READ: u16 = 0;
const BLOCK_STATUS: u16 = 7;

/// A server that takes its time for something that takes time is not dead, and need not
/// answer anything else meanwhile.
#[test]
fn long_operations_are_no_silence() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Sparse.image(&scratch, "image", MIB));
    'slow: for slow in ["flush", "zero"] {
        for limit in PATIENCE {
            let wait = format!("sleep {}", 2 * limit + 1);
            let (flush, zero) = match slow {
                "flush" => (format!("flush={wait}"), "zero=exit 0".to_owned()),
                _ => {
                    let once = format!("[ -e $tmpdir/slow ] || {{ touch $tmpdir/slow; {wait}; }}");
                    ("flush=exit 0".to_owned(), format!("zero={once}"))
                }
            };
            let server = Server::nbdkit(&["eval", "get_size=echo 1M", "can_flush=exit 0"])
                .arg("pread=head -c $3 /dev/zero")
                .arg("pwrite=cat > /dev/null")
                .arg("can_zero=exit 0")
                .arg("can_trim=exit 3")
                .arg(&flush)
                .arg(&zero)
                .start()?;
            let copied = nbd(&["copy", &format!("--timeout={limit}"), &image, &server.uri()])?;
            if copied.status.success() {
                continue 'slow;
            }
            // A write may have taken longer, too.
            println!("{limit} s: {}", String::from_utf8_lossy(&copied.stderr));
        }
        panic!("a slow {slow} is taken for silence");
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
    let silence = |limit: u32| format!("no answer from the server for {limit}s");
    let violation = |_: u32| "an empty reply chunk that is not the last one".to_owned();
    type Talk = fn(u64) -> Vec<u8>;
    let talkers: [(Talk, &dyn Fn(u32) -> String); 3] = [
        (|cookie| chunk(MORE, kind::ERROR, cookie, &error(5, b"again")), &silence),
        (|cookie| chunk(DONE, kind::ERROR, cookie + 77, &error(5, b"who?")), &silence),
        (|cookie| chunk(MORE, kind::NONE, cookie, &[]), &violation),
    ];
    for (talk, expected) in talkers {
        let (limit, told) =
            fail_in_time(&["copy", "--reconnect=0", &stub(Endless(talk)), "null:"])?;
        assert!(told.contains(&expected(limit)), "{told}");
    }
    Ok(())
}

/// Tells of one byte of its map at a time.
#[derive(Clone, Default)]
struct Grains {
    asked: Arc<AtomicU64>,
    size: Option<u64>,
}

impl Script for Grains {
    fn size(&self) -> u64 {
        self.size.unwrap_or(MIB)
    }

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
                self.asked.fetch_add(1, Ordering::Relaxed);
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
    let asked = grains.asked.load(Ordering::Relaxed);
    assert!((1..=100).contains(&asked), "asked {asked} times");
    Ok(())
}

/// Byte by byte it would take years.
#[test]
fn a_map_that_leads_nowhere_is_given_up() -> TestResult {
    let endless = || stub(Grains { size: Some(1 << 50), ..Grains::default() });
    for args in
        [&["info", "--map"][..], &["info", "--map", "--totals"], &["info", "--map", "--json"]]
    {
        let (_, told) = fail_in_time(&[args, &[&endless()]].concat())?;
        assert!(told.contains("1 bytes at a time"), "{told}");
    }
    Ok(())
}

/// A small map may come byte by byte.
#[test]
fn a_small_map_may_come_in_grains() -> TestResult {
    let uri = stub(Grains { size: Some(100), ..Grains::default() });
    assert_eq!(succeed(&["info", "--map", &uri])?.lines().count(), 100);
    Ok(())
}

/// Half a million extents and more, in answers as long as they may be.
#[derive(Clone)]
struct Crumbs;

/// How many there are.
const CRUMBS: u64 = 500_000;

impl Script for Crumbs {
    fn size(&self) -> u64 {
        CRUMBS * 4096
    }

    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(self.size(), FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            opt::SET_META_CONTEXT => Some([context(0, b"base:allocation"), ack(option)].concat()),
            _ => None,
        }
    }

    fn request(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        if request.kind != BLOCK_STATUS {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let first = (request.offset / 4096) as u32;
        let count = request.length / 4096;
        let extents: Vec<_> = (first..first + count).map(|n| (4096, 3 * (n % 2))).collect();
        client.write_all(&chunk(DONE, kind::BLOCK_STATUS, request.cookie, &status(0, &extents)))
    }
}

/// However long the map is, it is not held in memory.
#[test]
fn a_long_map_takes_little_memory() -> TestResult {
    let uri = stub(Crumbs);
    for form in [&["info", "--map"][..], &["info", "--map", "--json"]] {
        let mut child =
            Command::new(NBD).args(form).arg(&uri).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        // All of the map is there when the first byte of it is printed.
        output.read_exact(&mut [0]).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        let mut lines = String::new();
        output.read_to_string(&mut lines).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(lines.lines().count() as u64 >= CRUMBS, "{}", lines.lines().count());
        assert!(peak < 40 << 10, "{form:?}: {peak} KiB");
    }
    Ok(())
}
