//! What a copy makes of its destination, above all when it does not succeed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nbd_sim::peer::{PeerError, Scratch, Server, run, run_within, tool};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{
    Content, LIMIT, MIB, NBD, TestResult, arg, ended_by_signals, eventually, fail, succeed,
    told_in_one_line,
};

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every read fails.
const UNREADABLE: [&str; 5] =
    ["--filter=error", "--filter=noextents", "pattern", "1M", "error-pread-rate=100%"];
/// Every read from the middle on fails.
const BAD_MIDDLE: [&str; 3] = [
    "eval",
    "get_size=echo 4M",
    "pread=[ $4 -lt 2097152 ] || { echo EIO the disk is scratched >&2; exit 1; }; head -c $3 /dev/zero",
];

/// Found out before anything is copied, and nothing is left of it.
#[test]
fn names_that_cannot_be() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let new = arg(&scratch.join("new"));
    let (slash, dot) = (format!("{new}/"), format!("{new}/."));
    let table: [(&[&str], &str); 6] = [
        (&[&image, &slash], "Is a directory"),
        (&[&image, &dot], "No such file or directory"),
        (&["--destination-offset=8E", &image, &new], "too large"),
        (&["--destination-offset=7E", &image, &new], "too large"),
        (&["--destination-offset=9223372036854775807", &image, &new], "too large"),
        (&["--resume", "--destination-offset=7E", &image, &new], "too large"),
    ];
    for (args, expected) in table {
        let told = fail(&[&["copy"], args].concat())?;
        assert!(told.contains(expected) && !told.contains("was not made"), "{args:?}: {told}");
        assert_eq!(names(scratch.path()), ["image"], "{args:?}");
    }
    Ok(())
}

/// What a copy writes for itself is neither of its ends, and can be written.
#[test]
fn files_of_the_copy_itself() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", MIB);
    let (before, image) = (fs::read(&image).unwrap(), arg(&image));
    let (new, old, link) = (scratch.join("new"), scratch.join("old"), scratch.join("link"));
    fs::write(&old, "old").unwrap();
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let (new, old, link) = (arg(&new), arg(&old), arg(&link));
    let nowhere = arg(&scratch.join("no/state"));
    let near = scratch.join(".").join("new");
    for (option, to, told) in [
        (format!("--resume={new}"), &new, "is the destination"),
        (format!("--resume={}", near.display()), &new, "is the destination"),
        (format!("--resume={link}"), &old, "is the destination"),
        (format!("--resume={image}"), &new, "is the source"),
        (format!("--blkhash-file={new}"), &new, "is the destination"),
        (format!("--blkhash-file={image}"), &new, "is the source"),
        (format!("--resume={nowhere}"), &new, "no/state: No such file or directory"),
    ] {
        let blkhash = if option.contains("blkhash") { "--blkhash" } else { "--flush" };
        let said = fail(&["copy", &option, blkhash, &image, to])?;
        assert!(said.ends_with(told), "{option}: {said}");
        assert_eq!(names(scratch.path()), ["image", "link", "old"], "{option}");
        assert!(fs::read(&image).unwrap() == before && fs::read(&old).unwrap() == b"old");
    }
    Ok(())
}

/// Nothing comes from a stream that is closed, and nothing arrives there.
#[test]
fn streams_that_are_closed() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let new = arg(&scratch.join("new"));
    for (script, told) in [
        ("exec \"$0\" copy - \"$1\" <&-", "standard input is closed"),
        ("exec \"$0\" write \"$3\" <&-", "standard input is closed"),
        ("exec \"$0\" copy \"$2\" - >&-", "standard output is closed"),
        ("exec \"$0\" read \"$2\" >&-", "standard output is closed"),
    ] {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, NBD, &new, &image, &server.uri()]);
        let finished = run_within(LIMIT, &mut shell)?;
        assert_eq!(told_in_one_line(&finished, &[script]), told);
    }
    assert!(!fs::exists(&new).unwrap());
    Ok(())
}

#[test]
fn what_cannot_be_made_right_is_not_emptied() -> TestResult {
    let scratch = Scratch::new()?;
    let file = scratch.join("file");
    let old = vec![7; 100];
    fs::write(&file, &old).unwrap();
    let unreadable = Server::nbdkit(&UNREADABLE).start()?;
    let large = Server::nbdkit(&["null", "1G"]).start()?;
    let table = [
        // Larger than a file may be here.
        ("ulimit -f 2; \"$0\" copy \"$1\" \"$2\"", large.uri(), "File too large"),
        ("\"$0\" copy \"$1\" \"$2\"", unreadable.uri(), "EIO"),
        ("\"$0\" copy - \"$2\" < /", "-".to_owned(), "Is a directory"),
        ("\"$0\" copy - \"$2\" < \"$2\"", "-".to_owned(), "one file"),
        ("\"$0\" copy - \"$2\" 0<> \"$2\"", "-".to_owned(), "one file"),
    ];
    for (script, source, expected) in table {
        let mut shell = tool("sh")?;
        shell.args(["-c", script, NBD, &source]).arg(&file);
        let told = told_in_one_line(&run_within(LIMIT, &mut shell)?, &[script]);
        assert!(told.contains(expected), "{script}: {told}");
        assert!(!told.contains("incomplete"), "{script}: {told}");
        assert!(fs::read(&file).unwrap() == old, "{script}");
        assert_eq!(names(scratch.path()), ["file"]);
    }
    Ok(())
}

#[test]
fn a_file_that_is_new_is_whole_or_not_there() -> TestResult {
    let scratch = Scratch::new()?;
    let file = scratch.join("file");
    for source in [&BAD_MIDDLE[..], &UNREADABLE] {
        let source = Server::nbdkit(source).start()?;
        let told = fail(&["copy", &source.uri(), &arg(&file)])?;
        assert!(told.ends_with(&format!("{} was not made", file.display())), "{told}");
        assert_eq!(names(scratch.path()), [""; 0]);
    }
    succeed(&["copy", "[", "nbdkit", "pattern", "1M", "]", &arg(&file)])?;
    fs::write(scratch.join("other"), "").unwrap();
    let mode = |name| fs::metadata(scratch.join(name)).unwrap().permissions().mode();
    assert_eq!(mode("file"), mode("other"));
    assert_eq!(names(scratch.path()), ["file", "other"]);
    Ok(())
}

/// It says so, and how far it came.
#[test]
fn what_is_left_incomplete_is_told() -> TestResult {
    let scratch = Scratch::new()?;
    let file = scratch.raw_image("file", 1)?;
    let source = Server::nbdkit(&BAD_MIDDLE).start()?;
    let memory = Server::nbdkit(&["memory", "4M"]).start()?;
    for to in [&arg(&file), &memory.uri()] {
        let told = fail(&["copy", "--requests=1", &source.uri(), to])?;
        let left = format!("; {to} is incomplete: 2097152 of 4194304 bytes were copied");
        assert!(told.ends_with(&left), "{told}");
    }
    // What was sent is not what was taken.
    let full = ["--filter=error", "memory", "4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let full = Server::nbdkit(&full).start()?;
    let image = arg(&Content::Random.image(&scratch, "image", 4 * MIB));
    let told = fail(&["copy", &image, &full.uri()])?;
    assert!(told.ends_with("is incomplete: 0 of 4194304 bytes were copied"), "{told}");
    Ok(())
}

#[test]
fn an_interrupted_copy_tells_what_it_leaves() -> TestResult {
    let scratch = Scratch::new()?;
    let (file, old) = (scratch.join("file"), scratch.raw_image("old", 1)?);
    let apart = Scratch::new()?;
    let (started, hold, pid) = (apart.join("started"), apart.join("hold"), apart.join("pid"));
    // Nothing more comes after the first read.
    let read = format!(
        "[ $4 -eq 0 ] || {{ touch {}; while [ -e {} ]; do sleep 0.02; done; }}
         head -c $3 /dev/zero | tr '\\0' x",
        started.display(),
        hold.display()
    );
    let (reads, pid_file) = (format!("pread={read}"), arg(&pid));
    let command = ["[", "nbdkit", "-P", &pid_file, "eval", "get_size=echo 4M", &reads, "]"];
    for (signal, status, to, left) in [
        (Signal::INT, 130, &file, format!("{} was not made", file.display())),
        (Signal::TERM, 143, &old, format!("{} is incomplete", old.display())),
        (Signal::HUP, 129, &old, format!("{} is incomplete", old.display())),
    ] {
        let _ = fs::remove_file(&started);
        fs::write(&hold, "").unwrap();
        let said = fs::File::create(apart.join("said")).unwrap();
        let mut copy = ended_by_signals();
        copy.args(["copy", "--requests=1"]).args(command).arg(to).stderr(said);
        let mut copy = copy.spawn().unwrap();
        eventually("a read", || started.exists());
        kill_process(Pid::from_child(&copy), signal).unwrap();
        let code = copy.wait().unwrap().code();
        let said = fs::read_to_string(apart.join("said")).unwrap();
        assert_eq!(code, Some(status), "{said}");
        assert!(said.starts_with("nbd: interrupted; ") && said.contains(&left), "{said}");
        // Its server was told to end, and does.
        fs::remove_file(&hold).unwrap();
        let server = fs::read_to_string(&pid).unwrap();
        let server = Path::new("/proc").join(server.trim());
        eventually("the server is gone", || {
            !fs::read_to_string(server.join("cmdline")).is_ok_and(|line| line.contains("nbdkit"))
        });
    }
    assert_eq!(names(scratch.path()), ["old"]);
    Ok(())
}

/// Counts the calls by which a run makes something durable.
fn syncs(args: &[&str]) -> Result<usize, PeerError> {
    let scratch = Scratch::new()?;
    let log = scratch.join("log");
    let mut strace = tool("strace")?;
    strace.args(["-f", "-e", "trace=fsync,fdatasync", "-o"]).arg(&log).arg(NBD).args(args);
    run(&mut strace)?.success()?;
    let log = fs::read_to_string(log).unwrap();
    Ok(log.lines().filter(|line| line.contains("sync") && line.ends_with("= 0")).count())
}

#[test]
fn files_are_flushed_on_request() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let old = arg(&scratch.raw_image("old", 5)?);
    // The file, and the directory that has its new name.
    let new = arg(&scratch.join("new"));
    assert_eq!(syncs(&["copy", "--flush", &image, &new])?, 2);
    assert_eq!(syncs(&["copy", "--flush", &image, &old])?, 1);
    assert_eq!(syncs(&["copy", "--flush", "[", "nbdkit", "memory", "1M", "]", &old])?, 1);
    assert_eq!(syncs(&["copy", &image, &old])?, 0);
    Ok(())
}

/// A server whose flush fails has not made anything durable, whatever it calls the failure.
#[test]
fn a_flush_that_fails_is_a_failure() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    for error in ["EINVAL", "EIO", "ENOTSUP"] {
        let server = Server::nbdkit(&["eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero"])
            .arg("pwrite=cat > /dev/null")
            .arg(format!("flush=echo {error} gone >&2; exit 1"))
            .arg("can_flush=exit 0")
            .start()?;
        let told = fail(&["copy", &image, &server.uri()])?;
        assert!(told.contains("flush"), "{error}: {told}");
    }
    Ok(())
}

#[test]
fn streams_and_devices() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 3 * MIB + 5);
    let (fifo, back) = (scratch.join("fifo"), scratch.join("back"));
    run(tool("mkfifo")?.arg(&fifo))?.success()?;
    let script = "\"$0\" copy \"$1\" \"$2\" & \"$0\" copy \"$2\" \"$3\"; wait";
    let mut shell = tool("sh")?;
    shell.args(["-c", script, NBD]).args([&image, &fifo, &back]);
    run_within(LIMIT, &mut shell)?.success()?;
    assert!(fs::read(&back).unwrap() == fs::read(&image).unwrap());
    succeed(&["copy", &arg(&image), "/dev/null"])?;
    assert_eq!(fs::metadata(&fifo).unwrap().size(), 0);
    Ok(())
}

#[test]
fn a_disk_is_not_written_to_a_terminal() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.join("image");
    fs::File::create(&image).unwrap().write_all(b"not for a terminal").unwrap();
    for destination in ["-", "/dev/stdout", "/dev/tty"] {
        let mut script = tool("script")?;
        let command = format!("{NBD} copy {} {destination}", image.display());
        script.args(["-qec", &command, "/dev/null"]);
        let finished = run_within(LIMIT, &mut script)?;
        let shown = String::from_utf8_lossy(&finished.stdout);
        assert_eq!(finished.status.code(), Some(1), "{destination}: {shown}");
        assert!(shown.contains("is a terminal"), "{destination}: {shown}");
        assert!(!shown.contains("not for a terminal"), "{destination}: {shown}");
    }
    Ok(())
}
