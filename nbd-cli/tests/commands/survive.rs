//! `nbd bench --verify --reconnect` while its server is killed, over and over.

use std::process::Command;
use std::time::{Duration, Instant};

use nbd_sim::peer::{Scratch, Server, ServerBuilder, run_while_crashing};
use serde_json::Value;

use super::support::{LIMIT, MIB, NBD, TestResult, arg, json, nbd, serve, told_in_one_line};

/// How long a server lives.
const LIFE: Duration = Duration::from_millis(400);

/// Four seconds of load on a server of a file that is killed all the time.
fn survive(server: impl Fn(&str) -> ServerBuilder, load: &[&str]) -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 8 * MIB)?;
    let mut server = server(&arg(&image)).start()?;
    let mut bench = Command::new(NBD);
    bench.args(["bench", "--verify", "--reconnect=15", "--seconds=4", "--json"]);
    bench.args(load).arg(server.uri());
    let (finished, crashes) = run_while_crashing(&mut server, LIFE, 2 * LIMIT, &mut bench)?;
    let report = json(&finished.success()?);
    let count = |key: &str| report["verify"][key].as_u64().unwrap();
    assert_eq!((count("mismatches"), count("unread")), (0, 0), "{report:#}");
    assert!(crashes >= 2 && count("reconnects") >= 2, "{crashes} crashes: {report:#}");
    assert!(count("sent_again") > 0 && count("looked_at") > 0, "{report:#}");
    for key in ["reads", "writes"] {
        assert!(count(key) > 50, "{report:#}");
    }
    Ok(())
}

fn nbdkit(image: &str) -> ServerBuilder {
    Server::nbdkit(&["file", image])
}

fn nbd_serve(image: &str) -> ServerBuilder {
    Server::command(NBD, &["serve", "--unix", "{socket}", "--file", image])
}

#[test]
fn nbd_serve_is_killed_and_nothing_is_lost() -> TestResult {
    survive(nbd_serve, &["--depth=64"])
}

#[test]
fn nbdkit_is_killed_and_nothing_is_lost() -> TestResult {
    survive(nbdkit, &["--size=64k", "--depth=8", "--keep-unflushed=1M"])
}

#[test]
fn several_connections_survive() -> TestResult {
    survive(nbdkit, &["--size=512", "--depth=16", "--connections=2"])
}

/// A disk in memory dies with its server; what was acknowledged comes back with
/// `--keep-unflushed`, up to the last flush, and is missed without.
#[test]
fn a_server_that_forgets_is_found_out() -> TestResult {
    let mut server = serve(&["--memory", "1M"])?;
    let mut bench = Command::new(NBD);
    bench.args(["bench", "--verify", "--reconnect=15", "--seconds=2", &server.uri()]);
    let (finished, _) = run_while_crashing(&mut server, LIFE, LIMIT, &mut bench)?;
    assert_eq!(finished.status.code(), Some(1));
    let said = String::from_utf8_lossy(&finished.stderr);
    assert!(said.contains(", found zeroes\n") && said.contains("did not hold"), "{said}");
    Ok(())
}

#[test]
fn a_server_that_stays_away_is_told_in_time() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MIB)?;
    let mut server = nbd_serve(&arg(&image)).start()?;
    let uri = server.uri();
    let begin = Instant::now();
    let run = std::thread::spawn(move || {
        nbd(&["bench", "--verify", "--reconnect=1", "--seconds=60", &uri])
    });
    // The load is under way when the first of its blocks is on the disk.
    while std::fs::read(&image).unwrap().iter().all(|byte| *byte == 0) {
        assert!(begin.elapsed() < LIMIT && !run.is_finished(), "the load does not start");
        std::thread::yield_now();
    }
    server.kill();
    let told = told_in_one_line(&run.join().unwrap()?, &["bench"]);
    assert!(told.contains("not made again"), "{told}");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    Ok(())
}

/// The plain load goes on too.
#[test]
fn reads_go_on() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MIB)?;
    let mut server = nbdkit(&arg(&image)).start()?;
    let mut bench = Command::new(NBD);
    bench.args(["bench", "--reconnect=15", "--seconds=2", "--json", &server.uri()]);
    let (finished, crashes) = run_while_crashing(&mut server, LIFE, LIMIT, &mut bench)?;
    let report: Value = json(&finished.success()?);
    assert!(crashes > 0 && report["operations"].as_u64().unwrap() > 100, "{report:#}");
    Ok(())
}
