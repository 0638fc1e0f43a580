//! `nbd bench` and `nbd demo`.

use nbd_sim::peer::{PeerError, Server};
use serde_json::Value;

use super::support::{TestResult, json, serve, succeed};

/// Measures a server and looks whether the numbers can be true.
fn measure(args: &[&str], uri: &str) -> Result<Value, PeerError> {
    let args = [&["bench", "--json"], args, &[uri]].concat();
    let report = json(&succeed(&args)?);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{report:#}"));
    let latency = &report["latency_us"];
    let [p50, p99, p99_9] = ["p50", "p99", "p99_9"].map(|key| number(&latency[key]));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= p99_9, "{report:#}");
    for key in ["ops_per_s", "mib_per_s", "seconds", "syscalls_per_op"] {
        assert!(number(&report[key]) > 0.0, "{key} in {report:#}");
    }
    let per_second = number(&report["operations"]) / number(&report["seconds"]);
    let ratio = per_second / number(&report["ops_per_s"]);
    assert!((0.999..1.001).contains(&ratio), "{report:#}");
    assert!(p99_9 <= number(&report["seconds"]) * 1e6 * 1.001, "{report:#}");
    Ok(report)
}

#[test]
fn every_way_to_measure() -> TestResult {
    let server = Server::nbdkit(&["memory", "64M"]).start()?;
    let table: [&[&str]; 8] = [
        &["--count=1000"],
        &["--count=1000", "--rw=write"],
        &["--count=1000", "--pattern=seq", "--size=16k", "--depth=1"],
        &["--count=1000", "--pattern=seq", "--rw=write", "--size=1000"],
        &["--count=1000", "--connections=4"],
        &["--count=1000", "--connections=4", "--rw=write", "--pattern=seq"],
        &["--count=1000", "--depth=1000"],
        &["--count=1000", "--size=1", "--connections=3"],
    ];
    for args in table {
        let report = measure(args, &server.uri())?;
        assert_eq!(report["operations"], 1000, "{args:?}");
    }
    // Not every connection gets one.
    let few = measure(&["--count=2", "--connections=4"], &server.uri())?;
    assert_eq!(few["operations"], 2);
    Ok(())
}

#[test]
fn bytes_per_second() -> TestResult {
    let server = Server::nbdkit(&["memory", "64M"]).start()?;
    let report = measure(&["--count=500", "--size=128k"], &server.uri())?;
    let [operations, mib] = ["ops_per_s", "mib_per_s"].map(|key| report[key].as_f64().unwrap());
    assert!((operations / 8.0 / mib - 1.0).abs() < 0.001, "{report:#}");
    Ok(())
}

/// Each sequential write happens once, on whichever connection.
#[test]
fn writes_arrive_and_do_not_compress() -> TestResult {
    let server = Server::nbdkit(&["memory", "4M"]).start()?;
    let args = ["--count=1024", "--rw=write", "--pattern=seq", "--connections=2"];
    measure(&args, &server.uri())?;
    let script = "import zlib; d = h.pread(4 << 20, 0); \
                  assert all(any(d[i:i + 4096]) for i in range(0, len(d), 4096)); \
                  assert len(zlib.compress(d[:65536])) > 65000";
    let mut shell = nbd_sim::peer::tool("nbdsh")?;
    nbd_sim::peer::run(shell.args(["-u", &server.uri(), "-c", script]))?.success()?;
    Ok(())
}

/// A server that keeps up answers many requests at a time, and each system call then
/// carries many of them.
#[test]
fn few_system_calls() -> TestResult {
    let server = serve(&["--memory", "64M"])?;
    for direction in ["--rw=read", "--rw=write"] {
        let report = measure(&["--count=100000", "--depth=64", direction], &server.uri())?;
        let calls = report["syscalls_per_op"].as_f64().unwrap();
        assert!(calls <= 0.2, "{direction}: {calls} system calls per request");
    }
    Ok(())
}

#[test]
fn large_reads_are_not_copied() -> TestResult {
    let args = ["--count=2000", "--size=256k", "--depth=16"];
    let servers = [
        serve(&["--memory", "64M"])?,
        Server::nbdkit(&["memory", "64M"]).start()?,
        Server::nbdkit(&["--no-sr", "memory", "64M"]).start()?,
    ];
    for server in servers {
        // A hole has no bytes to place.
        measure(&["--count=256", "--size=256k", "--rw=write", "--pattern=seq"], &server.uri())?;
        let report = measure(&args, &server.uri())?;
        let share = report["placed_share"].as_f64().unwrap();
        assert!((0.99..=1.0).contains(&share), "{report:#}");
    }
    Ok(())
}

#[test]
fn for_people() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let text = succeed(&["bench", "--count=100", "--rw=write", &server.uri()])?;
    assert!(text.starts_with("100 writes of 4K in "), "{text}");
    let command = ["bench", "--count=100", "[", "nbdkit", "memory", "1M", "]"];
    assert!(succeed(&command)?.contains("\nsystem calls per request: "));
    Ok(())
}

#[test]
fn the_demonstration() -> TestResult {
    let text = succeed(&["demo"])?;
    for said in [
        "Serving a disk in memory at\n  nbd+unix://",
        "Its exports:\n  demo: ",
        "Wrote 256M in requests of 256K: ",
        "Its extents:\n",
        "    64M    32M  hole\n",
        " times 4K at random, 64 at once: ",
        "Copied it to a file: 224M of data, 288M known to be zeroes: ",
        "The copy has the disk's checksum: sha256 ",
        "Everything was right.",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    Ok(())
}
