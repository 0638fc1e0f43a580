//! Arguments nobody should have given: one line that says what is wrong with them.

use std::fs;
use std::process::Command;

use nbd_sim::peer::{ClosedPort, Scratch, Server, run_within};

use super::compat::Links;
use super::support::{LIMIT, NBD, TestResult, arg, fail, nbd, told_in_one_line};

#[test]
fn uris() -> TestResult {
    // Longer than any label of a name may be, so that no server is asked.
    let nowhere = format!("nbd://{}/", "x".repeat(70));
    let table = [
        ("nbd://", "Connection refused"),
        ("nbd://127.0.0.1:99999/", "\"99999\" is not a valid port"),
        ("nbd://%zz/", "not followed by two hexadecimal digits"),
        ("nbd://[::1/", "nbd://[::1/: "),
        ("nbd://a b/", "nbd://a b/: "),
        ("nbd+unix:///disk", "socket"),
        ("nbd+unix:///disk?socket=", "the socket path is empty"),
        ("nbd+unix://host/disk?socket=/x", "host"),
        ("nbd+carrier-pigeon://coop/", "carrier-pigeon"),
        (nowhere.as_str(), "cannot resolve host"),
        ("http://127.0.0.1/", "unknown URI scheme \"http\""),
        ("disk.img", "is no NBD URI"),
        ("nbd:unix:/run/socket", "did you mean \"nbd+unix:///?socket=/run/socket\"?"),
        ("-", "an NBD URI or [ COMMAND ] is needed"),
        ("null:", "an NBD URI or [ COMMAND ] is needed"),
        ("[", "without a `]`"),
    ];
    for (uri, expected) in table {
        // Nothing listens on the default port here.
        for command in [&["info"][..], &["info", "--map"], &["bench"]] {
            let told = fail(&[command, &[uri]].concat())?;
            assert!(told.contains(expected), "{uri}: {told}");
        }
    }
    Ok(())
}

#[test]
fn commands() -> TestResult {
    let table: [(&[&str], &str); 3] = [
        (&["[", "]"], "`[ ]` names no command"),
        (&["[", "nbdkit", "memory"], "without a `]`"),
        (&["[", "false", "]"], "\"false\" closed the connection before it spoke NBD"),
    ];
    for (words, expected) in table {
        let told = fail(&[&["info"], words].concat())?;
        assert!(told.contains(expected), "{words:?}: {told}");
    }
    let two = ["bench", "--connections=2", "[", "nbdkit", "memory", "1M", "]"];
    assert!(fail(&two)?.ends_with("takes one connection only"));
    Ok(())
}

#[test]
fn where_nobody_listens() -> TestResult {
    let scratch = Scratch::new()?;
    let plain_file = arg(&scratch.raw_image("file", 1)?);
    let missing = arg(&scratch.join("missing"));
    let port = ClosedPort::new()?;
    let table = [
        (
            format!("nbd://127.0.0.1:{}", port.number()),
            "cannot connect to 127.0.0.1:",
            "Connection refused",
        ),
        (format!("nbd+unix:///?socket={missing}"), &missing, "No such file or directory"),
        (format!("nbd+unix:///?socket={plain_file}"), &plain_file, "Connection refused"),
    ];
    for (uri, who, what) in table {
        let copy = ["copy", &uri, "null:"];
        for args in [&["info", &uri][..], &["info", "--list", &uri], &copy, &["bench", &uri]] {
            let told = fail(args)?;
            assert!(told.starts_with(&uri), "{told}");
            assert!(told.contains(who) && told.contains(what), "{told}");
        }
    }
    Ok(())
}

#[test]
fn an_export_that_the_server_does_not_have() -> TestResult {
    let strict =
        ["--filter=exportname", "memory", "1M", "exportname=disk", "exportname-strict=true"];
    let server = Server::nbdkit(&strict).start()?;
    let uri = server.export_uri("dsk");
    for args in [&["info", &uri][..], &["copy", &uri, "null:"], &["map", &uri]] {
        let told = fail(args)?;
        assert!(told.starts_with(&uri) && told.contains("no such export"), "{told}");
        assert!(told.ends_with("`nbd list` shows those it has"), "{told}");
    }
    Ok(())
}

#[test]
fn files() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&scratch.raw_image("image", 512)?);
    let missing = arg(&scratch.join("missing"));
    let directory = arg(scratch.path());
    let nowhere = arg(&scratch.join("none/file"));
    let table: [(&[&str], &str); 7] = [
        (&[&missing, "null:"], "No such file or directory"),
        (&[&directory, "null:"], "neither a regular file nor a block device"),
        (&[&image, &nowhere], "No such file or directory"),
        (&[&image, &directory], "Is a directory"),
        (&[&image, "/dev/full"], "/dev/full: No space left on device"),
        (&["null:", &image], "null: has nothing to read"),
        (&["--request-size=3", &image, "null:"], "--request-size must be a power of two"),
    ];
    for (words, expected) in table {
        let told = fail(&[&["copy"], words].concat())?;
        assert!(told.contains(expected), "{words:?}: {told}");
    }
    assert!(!scratch.join("missing").exists());
    assert_eq!(fs::read(&image).unwrap(), [0; 512]);
    Ok(())
}

#[test]
fn exports_that_are_not_there() -> TestResult {
    let scratch = Scratch::new()?;
    let raw = arg(&scratch.raw_image("raw", 512)?);
    let config = format!("[there]\nexportname = {raw}\n");
    let servers = [
        Server::qemu_nbd(&["-f", "raw", "-x", "there", &raw]),
        Server::nbd_server(&config),
        Server::command(NBD, &["serve", "--unix", "{socket}", "--memory=1M", "--export=there"]),
        Server::nbdkit(&[
            "--filter=exportname",
            "memory",
            "1M",
            "exportname-strict=true",
            "exportname=there",
        ]),
    ];
    for server in servers {
        let server = server.start()?;
        let uri = server.export_uri("elsewhere");
        for args in [&["info", &uri][..], &["info", "--size", &uri], &["copy", &uri, "null:"]] {
            let told = fail(args)?;
            assert!(told.starts_with(&uri), "{told}");
            assert!(told.contains("server"), "{told}");
        }
    }
    Ok(())
}

#[test]
fn measurements_that_make_no_sense() -> TestResult {
    let server = Server::nbdkit(&["-r", "memory", "64K"]).start()?;
    let uri = server.uri();
    let table: [(&[&str], &str); 5] = [
        (&["--size=0"], "--size must be from 1"),
        (&["--size=64M"], "--size must be from 1"),
        (&["--size=128K"], "less than one request"),
        (&["--rw=write"], "the export is read-only"),
        (&["--size=32M", "--depth=65536"], "bytes of memory"),
    ];
    for (options, expected) in table {
        let told = fail(&[&["bench"], options, &[&uri]].concat())?;
        assert!(told.contains(expected), "{options:?}: {told}");
    }
    Ok(())
}

/// What the command line alone shows to be wrong.
#[test]
fn usage() -> TestResult {
    let table: [&[&str]; 18] = [
        &[],
        &["copy", "--context=a:b", "--checksum=sha256", "nbd://h", "x"],
        &["checksum", "--kind=blkhash:", "nbd://h"],
        &["copy", "--can=trim", "nbd://h"],
        &["frobnicate"],
        &["info"],
        &["info", "--frobnicate", "nbd://h"],
        &["info", "--timeout=never", "nbd://h"],
        &["info", "--timeout=18446744073709551615", "nbd://h"],
        &["info", "--list", "--map", "nbd://h"],
        &["info", "nbd://h", "nbd://h"],
        &["info", "[", "cat", "]", "disk.img"],
        &["copy", "only-one"],
        &["copy", "a", "b", "c"],
        &["copy", "--requests=0", "a", "b"],
        &["bench", "--size=4X", "nbd://h"],
        &["bench", "--depth=0", "nbd://h"],
        &["bench", "--rw=sideways", "nbd://h"],
    ];
    for args in table {
        let finished = nbd(args)?;
        let told = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {told}");
        assert!(!told.contains("panicked") && !told.is_empty(), "{told}");
        assert!(finished.stdout.is_empty());
    }
    Ok(())
}

/// Where 2 is an answer, wrong use is not told by it.
#[test]
fn questions_that_make_no_sense() -> TestResult {
    let links = Links::new()?;
    let questions: [&[&str]; 5] = [
        &["--can=trim"],
        &["--is", "tls", "--frobnicate", "nbd://h"],
        &["--cannot=trim", "--list", "nbd://h"],
        &["--hasnt", "tls", "nbd://h", "nbd://h"],
        &["--timeout=never", "--have-not=tls", "nbd://h"],
    ];
    for question in questions {
        let finished = nbd(&[&["info"], question].concat())?;
        assert_eq!(finished.status.code(), Some(1), "{question:?}");
        let finished = links.run("nbdinfo", question)?;
        assert_eq!(finished.status.code(), Some(1), "{question:?}");
    }
    for name in ["nbdinfo", "nbdcopy", "nbddump"] {
        let finished = links.run(name, &["--frobnicate"])?;
        assert_eq!(finished.status.code(), Some(1), "{name}");
    }
    Ok(())
}

/// So many bytes are wanted, and no fewer.
#[test]
fn more_than_there_is() -> TestResult {
    let server = Server::nbdkit(&["-r", "memory", "512K"]).start()?;
    let uri = server.uri();
    let table: [&[&str]; 3] = [
        &["read", "--length=1M", &uri],
        &["checksum", "--length=1M", &uri],
        &["copy", "--length=1M", &uri, "-"],
    ];
    for args in table {
        let finished = nbd(args)?;
        assert_eq!(finished.status.code(), Some(1), "{args:?}");
        assert!(finished.stdout.is_empty(), "{args:?}");
        told_in_one_line(&finished, args);
    }
    Ok(())
}

/// A stream that never ends is refused before it is read.
#[test]
fn streams_are_not_compared() -> TestResult {
    let server = Server::nbdkit(&["-r", "memory", "512K"]).start()?;
    let uri = server.uri();
    for args in [["compare", "/dev/zero", &uri], ["compare", &uri, "-"]] {
        let finished = nbd(&args)?;
        // Of a comparison, 1 is an answer.
        assert_eq!(finished.status.code(), Some(2), "{args:?}");
        let told = String::from_utf8_lossy(&finished.stderr);
        assert!(told.contains("only servers and files can be compared"), "{told}");
    }
    let told = fail(&["copy", "--verify-only", "/dev/zero", &uri])?;
    assert!(told.contains("only servers and files can be compared"), "{told}");
    Ok(())
}

/// What a server takes in whole blocks only is refused before any of it is sent.
#[test]
fn less_than_a_block() -> TestResult {
    let server = Server::nbdkit(&[
        "--filter=blocksize-policy",
        "memory",
        "4M",
        "blocksize-minimum=512",
        "blocksize-preferred=4096",
        "blocksize-error-policy=error",
    ])
    .start()?;
    let scratch = Scratch::new()?;
    // Longer than what is written at once.
    let long = arg(&scratch.raw_image("long", (2 << 20) + 100)?);
    let uri = server.uri();
    let table: [&[&str]; 4] = [
        &["write", &uri, &long],
        &["write", "--offset=100", &uri, &long],
        &["zero", "--length=100", &uri],
        &["trim", "--offset=100", &uri],
    ];
    for args in table {
        let told = fail(args)?;
        assert!(told.contains("whole blocks of 512 bytes only; nothing was sent"), "{told}");
    }
    Ok(())
}

#[test]
fn progress_for_nobody() -> TestResult {
    let server = Server::nbdkit(&["-r", "memory", "64K"]).start()?;
    let told = fail(&["copy", "--progress=77", &server.uri(), "null:"])?;
    assert!(told.contains("descriptor 77 is not open"), "{told}");
    Ok(())
}

/// A stream has no place for what is left out.
#[test]
fn gaps_in_a_stream() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    for option in ["--destination-offset=4k", "--context=qemu:dirty-bitmap:b0"] {
        let finished = nbd(&["copy", option, &uri, "-"])?;
        let told = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(1), "{option}: {told}");
        assert!(told.contains("a stream cannot") && finished.stdout.is_empty(), "{told}");
    }
    let finished = nbd(&["copy", "--destination-offset=0", &uri, "-"])?;
    assert!(finished.status.success() && finished.stdout.len() == 1 << 20);
    Ok(())
}

/// Runs with standard output on a device that is always full.
#[test]
fn nowhere_to_print_to() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&scratch.raw_image("image", 512)?);
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    let table: [&[&str]; 6] = [
        &["info", &uri],
        &["info", "--map", &uri],
        &["bench", "--count=10", &uri],
        &["copy", &uri, "-"],
        &["copy", &image, "-"],
        &["demo"],
    ];
    for args in table {
        // The test kit captures standard output itself, so a shell redirects it.
        let script = "exec \"$@\" > /dev/full";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", NBD]).args(args);
        let told = told_in_one_line(&run_within(LIMIT, &mut shell)?, args);
        assert!(told.contains("standard output"), "{told}");
    }
    Ok(())
}
