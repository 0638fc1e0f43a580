//! `nbd bench --verify --reconnect` while its server is killed, over and over.

use std::process::Command;
use std::time::Duration;

use nbd_sim::peer::{Scratch, Server, ServerBuilder, run_while_crashing};
use serde_json::Value;

use super::support::{
    LIMIT, MIB, NBD, TestResult, arg, eventually, json, nbd, serve, told_in_one_line,
};

/// How long a server lives.
const LIFE: Duration = Duration::from_millis(400);

/// How many seconds a load runs: longer when the machine is so busy that nothing comes of it.
/// The server lives longer then, too.
const SECONDS: [u32; 3] = [1, 4, 16];

/// Four seconds of load, or more, on a server of a file that is killed all the time.
fn survive(server: impl Fn(&str) -> ServerBuilder, load: &[&str]) -> TestResult {
    for times in SECONDS {
        let scratch = Scratch::new()?;
        let image = scratch.raw_image("disk", 8 * MIB)?;
        let mut server = server(&arg(&image)).start()?;
        let mut bench = Command::new(NBD);
        bench.args(["bench", "--verify", "--reconnect=60", "--json"]);
        bench.arg(format!("--seconds={}", 4 * times)).args(load).arg(server.uri());
        let (finished, crashes) =
            run_while_crashing(&mut server, times * LIFE, 4 * LIMIT, &mut bench)?;
        let report = json(&finished.success()?);
        let count = |key: &str| report["verify"][key].as_u64().unwrap();
        assert_eq!((count("mismatches"), count("unread")), (0, 0), "{report:#}");
        let wanted =
            [("reconnects", 2), ("sent_again", 1), ("looked_at", 1), ("reads", 50), ("writes", 50)];
        if crashes >= 2 && wanted.iter().all(|(key, least)| count(key) >= *least) {
            return Ok(());
        }
        println!("{times} times as long is not enough: {crashes} crashes: {report:#}");
    }
    panic!("nothing comes of any load");
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
    for times in SECONDS {
        let mut server = serve(&["--memory", "1M"])?;
        let mut bench = Command::new(NBD);
        bench.args(["bench", "--verify", "--reconnect=60"]);
        bench.arg(format!("--seconds={}", 2 * times)).arg(server.uri());
        let (finished, crashes) =
            run_while_crashing(&mut server, times * LIFE, 4 * LIMIT, &mut bench)?;
        let said = String::from_utf8_lossy(&finished.stderr);
        if !finished.status.success() {
            assert_eq!(finished.status.code(), Some(1));
            assert!(said.contains(", found zeroes\n") && said.contains("did not hold"), "{said}");
            return Ok(());
        }
        println!("{times} times as long is not enough: {crashes} crashes: {said}");
    }
    panic!("it was not found out");
}

#[test]
fn a_server_that_stays_away_is_told_in_time() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MIB)?;
    let mut server = nbd_serve(&arg(&image)).start()?;
    let uri = server.uri();
    let run = std::thread::spawn(move || {
        nbd(&["bench", "--verify", "--reconnect=1", "--seconds=1000", &uri])
    });
    // The load is under way when the first of its blocks is on the disk.
    eventually("the load starts", || {
        assert!(!run.is_finished(), "the load ends");
        std::fs::read(&image).unwrap().iter().any(|byte| *byte != 0)
    });
    server.kill();
    let told = told_in_one_line(&run.join().unwrap()?, &["bench"]);
    assert!(told.contains("not made again"), "{told}");
    Ok(())
}

/// The plain load goes on too.
#[test]
fn reads_go_on() -> TestResult {
    for times in SECONDS {
        let scratch = Scratch::new()?;
        let image = scratch.raw_image("disk", MIB)?;
        let mut server = nbdkit(&arg(&image)).start()?;
        let mut bench = Command::new(NBD);
        bench.args(["bench", "--reconnect=60", "--json"]);
        bench.arg(format!("--seconds={}", 2 * times)).arg(server.uri());
        let (finished, crashes) =
            run_while_crashing(&mut server, times * LIFE, 4 * LIMIT, &mut bench)?;
        let report: Value = json(&finished.success()?);
        if crashes > 0 && report["operations"].as_u64().unwrap() > 100 {
            return Ok(());
        }
        println!("{times} times as long is not enough: {crashes} crashes: {report:#}");
    }
    panic!("nothing comes of any load");
}
