//! `nbd copy` when something goes wrong, before or after the first byte.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nbd_sim::hostile::bytes::{DONE, FLAGS, ack, chunk, data, export, kind, opt};
use nbd_sim::peer::{Scratch, Server, run_within};

use super::stub::{Request, Script, stub};
use super::support::{
    Content, LIMIT, MIB, NBD, TestResult, arg, eventually, fail, fail_in_time, succeed,
    told_in_one_line,
};

#[test]
fn a_destination_that_is_too_small_is_not_touched() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB + 1));
    let source = Server::nbdkit(&["pattern", "2M"]).start()?;
    let destination = Server::nbdkit(&["memory", "1M"]).start()?;
    for from in [&image, &source.uri()] {
        let told = fail(&["copy", from, &destination.uri()])?;
        assert!(told.starts_with(&destination.uri()), "{told}");
        assert!(told.contains("has room for 1048576 bytes"), "{told}");
        assert!(told.ends_with("nothing was written"), "{told}");
    }
    let back = scratch.join("back");
    succeed(&["copy", &destination.uri(), &arg(&back)])?;
    assert!(fs::read(back).unwrap() == vec![0; MIB as usize]);
    Ok(())
}

#[test]
fn a_stream_that_is_too_long() -> TestResult {
    let destination = Server::nbdkit(&["memory", "1M"]).start()?;
    let mut copy = Command::new(NBD);
    let endless = fs::File::open("/dev/urandom").unwrap();
    let uri = destination.uri();
    copy.args(["copy", "-", &uri]).stdin(endless);
    let told = told_in_one_line(&run_within(LIMIT, &mut copy)?, &["copy", "-"]);
    assert!(told.contains("more than the 1048576 bytes it holds"), "{told}");
    Ok(())
}

#[test]
fn a_size_in_parts_of_blocks() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", 4097));
    let blocks = ["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096"];
    let server = Server::nbdkit(&blocks).arg("blocksize-preferred=4096");
    let server = server.arg("blocksize-maximum=1M").start()?;
    let told = fail(&["copy", &image, &server.uri()])?;
    assert!(told.contains("whole blocks of 4096 bytes"), "{told}");
    assert!(told.ends_with("nothing was written"), "{told}");
    Ok(())
}

#[test]
fn a_destination_that_cannot_be_written() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let read_only = Server::nbdkit(&["-r", "memory", "1M"]).start()?;
    let told = fail(&["copy", &image, &read_only.uri()])?;
    assert!(told.ends_with("the export is read-only"), "{told}");
    let failing = ["--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-rate=100%"];
    let failing = Server::nbdkit(&failing).start()?;
    let told = fail(&["copy", &image, &failing.uri()])?;
    assert!(told.starts_with(&failing.uri()), "{told}");
    assert!(told.contains("no space left on device (ENOSPC)"), "{told}");
    Ok(())
}

#[test]
fn a_file_is_not_copied_onto_itself() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 10_000);
    let link = scratch.join("link");
    fs::hard_link(&image, &link).unwrap();
    let before = fs::read(&image).unwrap();
    let told = fail(&["copy", &arg(&image), &arg(&link)])?;
    assert!(told.contains("one file"), "{told}");
    assert!(fs::read(&image).unwrap() == before);
    Ok(())
}

/// However it is written.
#[test]
fn an_export_is_not_copied_onto_itself() -> TestResult {
    let unix = Server::nbdkit(&["memory", "1M"]).start()?;
    let tcp = Server::nbdkit(&["memory", "1M"]).tcp().start()?;
    let link = unix.scratch().join("link");
    std::os::unix::fs::symlink(unix.unix_path().unwrap(), &link).unwrap();
    let port = tcp.tcp_address().unwrap().port();
    for (from, to) in [
        (unix.uri(), unix.uri()),
        (unix.uri(), format!("nbd+unix:///?socket={}", link.display())),
        (tcp.uri(), format!("NBD://127.0.0.1:{port}/")),
        (format!("nbd://localhost:{port}"), format!("nbd://LOCALHOST:{port}/")),
    ] {
        let told = fail(&["copy", "--destination-offset=512", "--length=1k", &from, &to])?;
        assert!(told.contains("are one export"), "{from} {to}: {told}");
    }
    let socket = arg(unix.unix_path().unwrap());
    for args in [&["copy", &socket, "null:"][..], &["copy", &tcp.uri(), &socket]] {
        assert!(fail(args)?.contains(&format!("nbd+unix:///?socket={socket}")), "{args:?}");
    }
    succeed(&["copy", &unix.uri(), &tcp.uri()]).map(drop)
}

/// Every read from the middle on fails.
const BAD_MIDDLE: [&str; 3] = [
    "eval",
    "get_size=echo 4M",
    "pread=[ $4 -lt 2097152 ] || { echo EIO the disk is scratched >&2; exit 1; }; head -c $3 /dev/zero",
];

#[test]
fn a_source_that_fails_half_way() -> TestResult {
    let scratch = Scratch::new()?;
    let source = Server::nbdkit(&BAD_MIDDLE).start()?;
    let memory = Server::nbdkit(&["memory", "4M"]).start()?;
    let file = arg(&scratch.join("file"));
    for to in [&file, &memory.uri(), "null:"] {
        // How long a read is would else follow from how long the answers take.
        let told = fail(&["copy", "--request-size=128k", &source.uri(), to])?;
        assert!(told.starts_with(&source.uri()), "{told}");
        assert!(told.contains("read of 131072 bytes at "), "{told}");
        assert!(told.contains("input/output error (EIO)"), "{told}");
    }
    Ok(())
}

/// To know of holes only saves reading them.
#[test]
fn a_source_that_does_not_tell_its_holes() -> TestResult {
    let scratch = Scratch::new()?;
    let source =
        ["--filter=error", "pattern", "1M", "error-extents=EIO", "error-extents-rate=100%"];
    let source = Server::nbdkit(&source).start()?;
    let (copy, plain) = (scratch.join("copy"), scratch.join("plain"));
    succeed(&["copy", &source.uri(), &arg(&copy)])?;
    succeed(&["copy", "--no-extents", &source.uri(), &arg(&plain)])?;
    assert!(fs::read(copy).unwrap() == fs::read(plain).unwrap());
    Ok(())
}

#[test]
fn a_source_that_dies_half_way() -> TestResult {
    let scratch = Scratch::new()?;
    let slow = ["--filter=rate", "pattern", "1G", "rate=64M"];
    let mut source = Server::nbdkit(&slow).start()?;
    let (uri, file) = (source.uri(), scratch.raw_image("file", 0)?);
    let args = ["copy", "--reconnect=0", &uri, &arg(&file)];
    let told = thread::scope(|scope| {
        let copy = scope.spawn(|| fail(&args));
        eventually("data has arrived", || fs::metadata(&file).is_ok_and(|file| file.blocks() > 0));
        source.kill();
        copy.join().unwrap()
    })?;
    assert!(told.starts_with(&uri), "{told}");
    assert!(told.contains("connection"), "{told}");
    Ok(())
}

#[test]
fn a_destination_that_dies_half_way() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", 16 * MIB));
    let log = scratch.join("log");
    let slow = ["--filter=log", "--filter=rate", "memory", "1G", "rate=16M"];
    let logfile = format!("logfile={}", log.display());
    let mut destination = Server::nbdkit(&slow).arg(&logfile).start()?;
    let uri = destination.uri();
    let args = ["copy", "--reconnect=0", &image, &uri];
    let told = thread::scope(|scope| {
        let copy = scope.spawn(|| fail(&args));
        eventually("a write is done", || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("...Write"))
        });
        destination.kill();
        copy.join().unwrap()
    })?;
    assert!(told.starts_with(&uri), "{told}");
    assert!(told.contains("connection"), "{told}");
    Ok(())
}

/// Answers the first reads and then none.
struct Freezing(AtomicU64);

impl Script for Freezing {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(64 << 20, FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            _ => None,
        }
    }

    fn request(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= 8 {
            return Ok(());
        }
        let body = data(request.offset, request.length as usize);
        client.write_all(&chunk(DONE, kind::OFFSET_DATA, request.cookie, &body))
    }
}

/// It keeps its connections and says nothing more.
#[test]
fn a_source_that_freezes() -> TestResult {
    let scratch = Scratch::new()?;
    let (uri, file) = (stub(Freezing(AtomicU64::new(0))), scratch.raw_image("file", 0)?);
    let (limit, told) =
        fail_in_time(&["copy", "--connections=1", "--reconnect=0", &uri, &arg(&file)])?;
    assert!(told.starts_with(&uri), "{told}");
    assert!(told.contains(&format!("no answer from the server for {limit}s")), "{told}");
    Ok(())
}
