//! `nbd copy --connections`: several connections share a copy where the servers allow it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nbd_sim::peer::{PeerError, Scratch, Server, ServerBuilder, run};

use super::support::{Content, MIB, NBD, TestResult, arg, fail, succeed};

/// More regions than workers, and the last one short.
const SIZE: u64 = 70 * MIB + 512;

/// An nbdkit that writes down who connects.
fn nbdkit(filters: &[&str], log: &Path, plugin: &[&str]) -> ServerBuilder {
    let logfile = format!("logfile={}", log.display());
    Server::nbdkit(&[&["--filter=log"], filters, plugin].concat()).arg(logfile)
}

fn connections(log: &Path) -> usize {
    fs::read_to_string(log).unwrap().matches(" Connect ").count()
}

/// A server of an image that answers no read before a log shows so many clients.
fn waiting(filters: &[&str], image: &Path, log: &Path, clients: usize) -> ServerBuilder {
    let read = format!(
        "pread=until [ $(grep -c ' Connect ' {}) -ge {clients} ]
         do kill -0 $PPID || exit 1; sleep 0.01; done
         dd if={} bs=4M iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
        log.display(),
        image.display()
    );
    Server::nbdkit(&[filters, &["eval", "thread_model=echo parallel"]].concat())
        .arg("can_multi_conn=exit 0")
        .arg(format!("get_size=echo {SIZE}"))
        .arg(read)
}

/// Copies an image out of a server that waits for so many connections; returns how many were
/// made.
fn taken(expected: usize, limits: [&[&str]; 2], args: &[&str]) -> Result<usize, PeerError> {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", SIZE);
    let (log, copy) = (scratch.join("log"), scratch.join("copy"));
    let [filters, parameters] = limits;
    // The server is looked at once before.
    let filters = [&["--filter=log"], filters].concat();
    let mut server = waiting(&filters, &image, &log, expected + 1);
    for parameter in parameters {
        server = server.arg(parameter);
    }
    let server = server.arg(format!("logfile={}", log.display())).start()?;
    assert_eq!(succeed(&["info", "--size", &server.uri()])?, SIZE.to_string());
    let before = connections(&log);
    assert_eq!(before, 1);
    let copy_args = ["copy", "--request-size=4M", "--requests=8", "--timeout=0"];
    succeed(&[&copy_args, args, &[&server.uri(), &arg(&copy)]].concat())?;
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap(), "it came changed");
    Ok(connections(&log) - before)
}

#[test]
fn as_many_as_are_asked_for() -> TestResult {
    assert_eq!(taken(1, [&[], &[]], &["--connections=1"])?, 1);
    assert_eq!(taken(3, [&[], &[]], &["--connections=3"])?, 3);
    // More would have too little to do.
    assert_eq!(taken(5, [&[], &[]], &["--connections=64"])?, 5);
    assert_eq!(taken(3, [&[], &[]], &["--connections=3", "--no-extents"])?, 3);
    Ok(())
}

#[test]
fn one_where_several_are_not_safe() -> TestResult {
    let limits = [&["--filter=multi-conn"][..], &["multi-conn-mode=disable"]];
    assert_eq!(taken(1, limits, &["--connections=3"])?, 1);
    Ok(())
}

/// The server takes two clients and turns the third away.
#[test]
fn as_many_as_the_server_will_have() -> TestResult {
    let limits = [&["--filter=limit"][..], &["limit=2"]];
    assert_eq!(taken(2, limits, &["--connections=4"])?, 2);
    Ok(())
}

#[test]
fn from_server_to_server() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", SIZE);
    let (log, copy) = (scratch.join("log"), scratch.join("copy"));
    let to = nbdkit(&[], &log, &["memory", &SIZE.to_string()]).start()?;
    let before = connections(&log);
    let from = waiting(&[], &image, &log, before + 3).start()?;
    let args = ["copy", "--connections=3", "--request-size=4M", "--timeout=0"];
    succeed(&[&args[..], &[&from.uri(), &to.uri()]].concat())?;
    assert_eq!(connections(&log) - before, 3);
    succeed(&["copy", "--connections=1", &to.uri(), &arg(&copy)])?;
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap(), "it came changed");
    Ok(())
}

/// The copy ends while the second connection is still being made.
#[test]
fn whoever_comes_too_late_leaves_nothing_behind() -> TestResult {
    let scratch = Scratch::new()?;
    let (first, copies) = (scratch.join("first"), scratch.join("copies"));
    fs::create_dir(&copies).unwrap();
    let open = format!(
        "open=mkdir '{}' 2>/dev/null || while kill -0 $PPID 2>/dev/null; do sleep 0.01; done",
        first.display()
    );
    let server = Server::nbdkit(&["eval", "can_multi_conn=exit 0", "thread_model=echo parallel"])
        .arg(format!("get_size=echo {SIZE}"))
        .arg("pread=head -c $3 /dev/zero")
        .arg(open)
        .start()?;
    let copy = arg(&copies.join("copy"));
    succeed(&["copy", "--connections=2", "--request-size=4M", &server.uri(), &copy])?;
    let names: Vec<_> =
        fs::read_dir(&copies).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(names, ["copy"]);
    Ok(())
}

/// What is written in order is read over one connection.
#[test]
fn a_stream_has_one() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", SIZE);
    let log = scratch.join("log");
    let server = nbdkit(&[], &log, &["file"]).arg(&image).start()?;
    let before = connections(&log);
    let copied = run(Command::new(NBD).args(["copy", "--connections=3", &server.uri(), "-"]))?;
    assert!(copied.stdout == fs::read(&image).unwrap(), "it came changed");
    assert_eq!(connections(&log) - before, 1);
    Ok(())
}

/// The failure of one worker is that of the copy, and is told once.
#[test]
fn one_failure_ends_all() -> TestResult {
    let failing = ["--filter=error", "--filter=delay", "pattern", "1G"];
    let server = Server::nbdkit(&failing).arg("error-pread-rate=1%").arg("rdelay=20ms").start()?;
    let told = fail(&["copy", "--connections=4", "--requests=2", &server.uri(), "null:"])?;
    assert!(told.starts_with(&server.uri()), "{told}");
    Ok(())
}

/// One worker fails while the other waits for its first read; that one reads no more of its
/// region then than was under way.
#[test]
fn a_failure_stops_the_other_worker() -> TestResult {
    /// Workers take regions of this many bytes, here in requests of 256 KiB.
    const REGION: u64 = 4 * MIB;
    let scratch = Scratch::new()?;
    let (log, failed) = (scratch.join("reads"), scratch.join("failed"));
    let read = format!(
        "if [ $4 -ge {REGION} ]; then touch '{failed}'; echo EIO there >&2; exit 1; fi
         echo $4 >> '{log}'
         until [ -e '{failed}' ]; do kill -0 $PPID || exit 1; sleep 0.01; done
         head -c $3 /dev/zero",
        failed = failed.display(),
        log = log.display(),
    );
    let server = Server::nbdkit(&["eval", "can_multi_conn=exit 0", "thread_model=echo parallel"])
        .arg(format!("get_size=echo {}", 32 * MIB))
        .arg(format!("pread={read}"))
        .start()?;
    let told = fail(&["copy", "--connections=2", "--requests=1", &server.uri(), "null:"])?;
    assert!(told.contains("EIO"), "{told}");
    let reads = fs::read_to_string(&log).unwrap().lines().count() as u64;
    assert!(reads < REGION / (256 << 10), "{reads} reads");
    Ok(())
}
