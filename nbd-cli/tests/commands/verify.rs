//! `nbd bench --verify` and `--seconds`: what an honest server passes and others do not.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nbd_sim::peer::{Finished, PeerError, Scratch, Server, run_within};
use serde_json::Value;

use super::support::{
    LIMIT, MIB, NBD, TestResult, arg, eventually, fail, json, nbd, serve, succeed, told_in_one_line,
};

/// Runs to the end, and what it counted.
fn verify(args: &[&str], uri: &str) -> Result<Value, PeerError> {
    let args = [&["bench", "--verify", "--json"], args, &[uri]].concat();
    let report = json(&succeed(&args)?);
    assert_eq!(report["verify"]["mismatches"], 0, "{report:#}");
    assert_eq!(report["verify"]["unread"], 0, "{report:#}");
    Ok(report)
}

fn count(report: &Value, key: &str) -> u64 {
    report["verify"][key].as_u64().unwrap_or_else(|| panic!("{key} in {report:#}"))
}

/// What a run that fails says: all of its lines.
fn caught(args: &[&str]) -> Result<(Finished, Vec<String>), PeerError> {
    let finished = nbd(&[&["bench", "--verify"], args].concat())?;
    assert_eq!(finished.status.code(), Some(1), "{args:?}");
    let text = String::from_utf8_lossy(&finished.stderr);
    let lines = text.lines().map(|line| line.strip_prefix("nbd: ").unwrap_or(line).to_owned());
    let lines = lines.collect();
    Ok((finished, lines))
}

#[test]
fn honest_servers_pass() -> TestResult {
    let servers = [
        serve(&["--memory", "16M"])?,
        Server::nbdkit(&["memory", "16M"]).start()?,
        Server::nbdkit(&["--no-sr", "--filter=fua", "memory", "16M", "fuamode=pass"]).start()?,
    ];
    let table: [&[&str]; 6] = [
        &[],
        &["--depth=1", "--size=512"],
        &["--pattern=seq", "--size=64k"],
        &["--connections=3", "--depth=16"],
        // More requests than blocks: none is lent twice.
        &["--size=4M", "--depth=32", "--count=60"],
        &["--size=33"],
    ];
    for (index, server) in servers.iter().enumerate() {
        for args in table {
            let number = if args.last() == Some(&"--count=60") { 60 } else { 3000 };
            let with_count = [args, &["--count=3000"][..usize::from(number == 3000)]].concat();
            let report = verify(&with_count, &server.uri())?;
            assert_eq!(report["operations"], number, "server {index}: {args:?}");
            let done: u64 =
                ["reads", "writes", "flushes"].iter().map(|key| count(&report, key)).sum();
            assert_eq!(done, number, "{report:#}");
            assert!(count(&report, "writes") >= count(&report, "looked_at"), "{report:#}");
            assert!(count(&report, "looked_at") > 0, "{report:#}");
        }
    }
    Ok(())
}

#[test]
fn what_the_server_forgets_is_told() -> TestResult {
    let server = Server::nbdkit(&["null", "1M"]).start()?;
    let (finished, lines) = caught(&["--count=1000", &server.uri()])?;
    // Twenty in full, then that there are more, then the outcome.
    assert_eq!(lines.len(), 22, "{lines:#?}");
    for line in &lines[..20] {
        let (offset, rest) = line.strip_prefix("offset ").unwrap().split_once(':').unwrap();
        assert_eq!(offset.parse::<u64>().unwrap() % 4096, 0, "{line}");
        assert!(rest.starts_with(" wanted generation "), "{line}");
        assert!(rest.ends_with(", found zeroes"), "{line}");
    }
    assert!(lines[20].contains("more mismatches"), "{lines:#?}");
    let outcome = format!("{}: ", server.uri());
    assert!(lines[21].starts_with(&outcome) && lines[21].contains("did not hold"), "{lines:#?}");
    // The counts are there all the same, and they are those of every mismatch.
    let told: u64 = lines[21][outcome.len()..].split(' ').next().unwrap().parse().unwrap();
    let report = String::from_utf8_lossy(&finished.stdout);
    assert!(told > 20 && report.contains(&format!("mismatches: {told}\n")), "{report}");
    Ok(())
}

/// The server takes every write but loses what falls into one block.
#[test]
fn one_lost_write_is_found() -> TestResult {
    let script = "if [ $4 -ne 8192 ]; then \
                  dd of=$tmpdir/disk oflag=seek_bytes conv=notrunc seek=$4 status=none; \
                  else cat >/dev/null; fi";
    let server = Server::nbdkit(&[
        "eval",
        "get_size=truncate -s 32768 $tmpdir/disk; echo 32768",
        "pread=dd if=$tmpdir/disk iflag=skip_bytes,count_bytes,fullblock skip=$4 count=$3 \
         status=none",
        &format!("pwrite={script}"),
    ])
    .start()?;
    let (_, lines) = caught(&["--count=60", "--depth=1", "--pattern=seq", &server.uri()])?;
    assert!(lines.len() >= 2, "{lines:#?}");
    for line in &lines[..lines.len() - 1] {
        assert!(line.starts_with("offset 8192: wanted generation "), "{lines:#?}");
    }
    Ok(())
}

/// A write that fails may or may not have happened; the load goes on.
#[test]
fn a_write_that_the_server_fails_is_no_mismatch() -> TestResult {
    let server = Server::nbdkit(&[
        "--filter=error",
        "memory",
        "1M",
        "error-pwrite=EIO",
        "error-pwrite-rate=20%",
    ])
    .start()?;
    let report = verify(&["--count=5000"], &server.uri())?;
    assert!(count(&report, "failed") > 100, "{report:#}");
    assert!(count(&report, "reads") > 1000, "{report:#}");
    Ok(())
}

#[test]
fn blocks_that_cannot_be_read_at_the_end_are_a_failure() -> TestResult {
    let failing = ["error-pread=EIO", "error-pread-rate=100%"];
    let server = Server::nbdkit(&[&["--filter=error", "memory", "1M"][..], &failing].concat());
    let server = server.start()?;
    let (_, lines) = caught(&["--count=1000", &server.uri()])?;
    assert!(lines[0].ends_with("blocks could not be read at the end"), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    Ok(())
}

#[test]
fn a_connection_that_ends_is_told() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MIB)?;
    let mut server = Server::nbdkit(&["file", &arg(&image)]).start()?;
    let mut bench = Command::new(NBD);
    bench.args(["bench", "--verify", "--seconds=30", &server.uri()]);
    let run = std::thread::spawn(move || run_within(LIMIT, &mut bench));
    eventually("a write", || image.metadata().unwrap().blocks() > 0);
    server.kill();
    let told = told_in_one_line(&run.join().unwrap()?, &["bench"]);
    assert!(told.contains("connect") || told.contains("reset"), "{told}");
    Ok(())
}

#[test]
fn by_time() -> TestResult {
    let server = serve(&["--memory", "1M"])?;
    let uri = server.uri();
    for args in [&["--verify"][..], &[], &["--rw=write", "--connections=2"]] {
        let args = [&["bench", "--json", "--seconds=1"], args, &[uri.as_str()]].concat();
        let report = json(&succeed(&args)?);
        let seconds = report["seconds"].as_f64().unwrap();
        assert!(seconds >= 1.0, "{report:#}");
        assert!(report["operations"].as_u64().unwrap() > 0, "{report:#}");
    }
    Ok(())
}

#[test]
fn for_people() -> TestResult {
    let server = serve(&["--memory", "1M"])?;
    let text = succeed(&["bench", "--verify", "--count=500", "--size=4k", &server.uri()])?;
    assert!(text.starts_with("500 commands of 4K in "), "{text}");
    for said in ["\ndone: ", "; failed: 0\n", "mismatches: 0\n", "; the longest: "] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> TestResult {
    let server = serve(&["--memory", "1M", "--read-only"])?;
    let told = fail(&["bench", "--verify", &server.uri()])?;
    assert!(told.contains("read-only"), "{told}");
    let told = fail(&["bench", "--verify", "--size=31", &server.uri()])?;
    assert!(told.contains("32 bytes"), "{told}");
    for args in [["--verify", "--rw=read"], ["--seconds=1", "--count=1"]] {
        let finished = nbd(&[&["bench"], &args[..], &[&server.uri()]].concat())?;
        assert_eq!(finished.status.code(), Some(2), "{args:?}");
    }
    Ok(())
}
