//! What is said, to whom, and that nobody has to listen.

use std::process::{Command, Stdio};

use nbd_sim::peer::{Scratch, Server, run_within};

use super::support::{Content, LIMIT, MIB, NBD, TestResult, arg, nbd};

/// Where standard error is no terminal it is lines.
#[test]
fn progress_is_shown_where_it_is_asked_for() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let finished = nbd(&["copy", "--progress", &server.uri(), "null:"])?;
    let said = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert_eq!(finished.success()?, "");
    let lines: Vec<_> = said.lines().collect();
    let [.., bar, summary] = lines[..] else { panic!("{said}") };
    assert!(bar.starts_with("nbd: 100% 1.00 MiB of 1.00 MiB"), "{said}");
    assert!(summary.starts_with("nbd: 1.00 MiB in "), "{said}");
    let stream = "cat /dev/null | \"$0\" copy -p - null:";
    let mut shell = Command::new("sh");
    let finished = run_within(LIMIT, shell.args(["-c", stream, NBD]))?;
    assert!(String::from_utf8_lossy(&finished.stderr).starts_with("nbd: 0 B"));
    Ok(())
}

/// Whoever reads the output has had enough.
#[test]
fn a_reader_that_leaves_is_no_failure_to_tell() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    let table: [&[&str]; 6] = [
        &["info", &uri],
        &["info", "--size", &uri],
        &["info", "--map", &uri],
        &["copy", &image, "-"],
        &["--help"],
        &["--version"],
    ];
    for args in table {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = Command::new(NBD).args(args).stdout(writer).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(141), ""), "{args:?}");
    }
    Ok(())
}

/// Nobody reads what is said, and no room is left for more.
#[test]
fn nobody_has_to_listen() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", 8 * MIB));
    let missing = arg(&scratch.join("missing"));
    let table: [(&[&str], i32); 3] = [
        (&["copy", "--progress", &image, "null:"], 0),
        (&["copy", "--progress", &missing, "null:"], 1),
        (&["copy", "--unknown"], 2),
    ];
    // A pipe that is full, and a device that always is.
    let full = "exec 3<> \"$F\"; dd if=/dev/zero of=\"$F\" bs=64k count=1 oflag=nonblock,append \
                conv=notrunc 2> /dev/null; exec \"$@\" 2> \"$F\"";
    let fifo = scratch.join("fifo");
    nbd_sim::peer::run(nbd_sim::peer::tool("mkfifo")?.arg(&fifo))?.success()?;
    for (args, status) in table {
        for script in [full, "exec \"$@\" 2> /dev/full"] {
            let mut shell = Command::new("sh");
            shell.env("F", &fifo).args(["-c", script, "sh", NBD]).args(args);
            let finished = run_within(LIMIT, &mut shell)?;
            assert_eq!(finished.status.code(), Some(status), "{args:?}: {script}");
        }
    }
    Ok(())
}
