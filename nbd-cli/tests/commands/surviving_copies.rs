//! Copies whose servers die, and copies that are interrupted and go on.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nbd_sim::peer::{Scratch, Server, run_while_crashing, run_within};

use super::support::{
    Content, LIMIT, MIB, NBD, TestResult, arg, ended_by_signals, eventually, fail, nbd, succeed,
    told_in_one_line,
};

/// How fast a copy of 8 MiB goes, and how long its server lives: longer where the machine is so
/// busy that nothing comes of it.
const TRIES: [(&str, Duration); 3] = [
    ("--rate=16M", Duration::from_millis(300)),
    ("--rate=4M", Duration::from_millis(1200)),
    ("--rate=1M", Duration::from_millis(4800)),
];

/// A copy to a server, or from one, that is killed all the time.
fn survives(to_server: bool, more: &[&str]) -> TestResult {
    for (rate, life) in TRIES {
        let scratch = Scratch::new()?;
        let image = Content::Sparse.image(&scratch, "image", 24 * MIB);
        let disk = scratch.raw_image("disk", 24 * MIB)?;
        let served = if to_server { &disk } else { &image };
        let other = if to_server { arg(&image) } else { arg(&scratch.join("copy")) };
        let mut server = Server::nbdkit(&["file"]).arg(served).start()?;
        let mut copy = Command::new(NBD);
        copy.args(["copy", rate]).args(more);
        let ends = [server.uri(), other];
        let ends = if to_server { [&ends[1], &ends[0]] } else { [&ends[0], &ends[1]] };
        copy.args(ends);
        let (finished, crashes) = run_while_crashing(&mut server, life, LIMIT, &mut copy)?;
        finished.success()?;
        let copy = if to_server { disk } else { scratch.join("copy") };
        assert!(fs::read(copy).unwrap() == fs::read(&image).unwrap(), "it came changed");
        if crashes > 0 {
            return Ok(());
        }
        println!("{rate}: no crashes");
    }
    panic!("it was never killed");
}

#[test]
fn the_destination_is_killed() -> TestResult {
    survives(true, &[])
}

#[test]
fn the_source_is_killed() -> TestResult {
    survives(false, &[])
}

#[test]
fn what_is_written_is_looked_at() -> TestResult {
    survives(true, &["--verify", "--connections=1"])
}

/// A stream cannot be read again: what is not durable is kept.
#[test]
fn a_stream_goes_on() -> TestResult {
    for (rate, life) in TRIES {
        let scratch = Scratch::new()?;
        let image = Content::Random.image(&scratch, "image", 8 * MIB);
        let disk = scratch.raw_image("disk", 8 * MIB)?;
        let mut server = Server::nbdkit(&["file"]).arg(&disk).start()?;
        let mut copy = Command::new(NBD);
        copy.args(["copy", rate, "-", &server.uri()]).stdin(fs::File::open(&image).unwrap());
        let (finished, crashes) = run_while_crashing(&mut server, life, LIMIT, &mut copy)?;
        finished.success()?;
        assert!(fs::read(&disk).unwrap() == fs::read(&image).unwrap(), "it came changed");
        if crashes > 0 {
            return Ok(());
        }
    }
    panic!("it was never killed");
}

/// Stops a copy in the middle, by a signal, and lets it go on.
fn interrupted(to_server: bool, signal: &str) -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 160 * MIB);
    let (disk, state) = (scratch.join("disk"), scratch.join("state"));
    fs::File::create(&disk).unwrap().set_len(160 * MIB).unwrap();
    let server = Server::nbdkit(&["file"]).arg(&disk).start()?;
    let to = if to_server { server.uri() } else { arg(&disk) };
    let resume = format!("--resume={}", arg(&state));
    let args = ["copy", &resume, "--rate=100M", &arg(&image), &to];
    let mut copy = ended_by_signals().args(args).stderr(Stdio::piped()).spawn().unwrap();
    eventually("something is safe", || state.exists());
    let pid = copy.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let mut said = String::new();
    copy.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = copy.wait().unwrap();
    assert!(!status.success());
    if signal == "-INT" {
        assert_eq!(status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted") && said.contains("goes on from here"), "{said}");
    }
    // Another copy does not go on from there, nor does one of a source that has changed.
    let other = scratch.raw_image("other", 160 * MIB)?;
    let told = fail(&["copy", &resume, &arg(&other), &to])?;
    assert!(told.contains("of another copy") && told.contains("remove the file"), "{told}");
    succeed(&["copy", &resume, &arg(&image), &to])?;
    assert!(!state.exists());
    assert!(fs::read(&disk).unwrap() == fs::read(&image).unwrap(), "it came changed");
    Ok(())
}

#[test]
fn an_interrupted_copy_to_a_file_goes_on() -> TestResult {
    interrupted(false, "-INT")
}

#[test]
fn a_killed_copy_to_a_server_goes_on() -> TestResult {
    interrupted(true, "-KILL")
}

/// A server that has another disk than before, or the source is another one by now: what was copied
/// is not taken for granted, nor is anything written.
#[test]
fn a_server_that_was_made_anew_is_refused() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 160 * MIB);
    let (disk, state) = (scratch.join("disk"), scratch.join("state"));
    let anew = || {
        let disk = fs::File::create(&disk).unwrap();
        disk.set_len(160 * MIB).unwrap();
    };
    anew();
    // nbdkit 1.32 aborts when a client is gone that has reads under way.
    let serve = ["serve", "--unix", "{socket}", "--read-only", "--file", &arg(&image)];
    let source = Server::command(NBD, &serve).start()?;
    let mut to = Server::nbdkit(&["file"]).arg(&disk).start()?;
    let (resume, from) = (format!("--resume={}", arg(&state)), source.uri());
    let at = to.uri();
    let args = ["copy", &resume, &from, &at];
    let mut copy =
        Command::new(NBD).args(args).arg("--rate=100M").stderr(Stdio::null()).spawn().unwrap();
    eventually("something is safe", || state.exists());
    copy.kill().unwrap();
    copy.wait().unwrap();
    // A server goes on with what a client has asked for that is gone, until it is gone too.
    to.kill();
    anew();
    to.start_again()?;
    let told = fail(&args)?;
    assert!(told.contains("does not hold what was copied to it, or the source"), "{told}");
    assert!(told.contains("remove the file"), "{told}");
    assert_eq!(fs::metadata(&disk).unwrap().blocks(), 0, "something was written");
    fs::remove_file(&state).unwrap();
    succeed(&args)?;
    assert!(fs::read(&disk).unwrap() == fs::read(&image).unwrap(), "it came changed");
    Ok(())
}

/// The same while the copy runs: what the server had said was durable is gone with its memory.
#[test]
fn a_server_that_comes_back_empty_is_noticed() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", 160 * MIB));
    let state = scratch.join("state");
    let mut server = Server::nbdkit(&["memory", "160M"]).start()?;
    let (resume, to) = (format!("--resume={}", arg(&state)), server.uri());
    let args = ["copy", &resume, "--rate=100M", &image, &to];
    let told = thread::scope(|scope| {
        let copy = scope.spawn(|| fail(&args));
        eventually("something is safe", || state.exists());
        server.kill();
        server.start_again()?;
        copy.join().unwrap()
    })?;
    assert!(told.contains("has lost what it had made durable"), "{told}");
    assert!(!told.contains("goes on from here") && !state.exists(), "{told}");
    succeed(&["copy", &resume, &image, &to])?;
    succeed(&["compare", &image, &to]).map(drop)
}

/// A copy to a name that is new, and relative. What was copied is gone with the file: nobody
/// goes on behind it.
#[test]
fn a_destination_that_is_another_one_is_refused() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 160 * MIB);
    let copy = || {
        let mut copy = Command::new(NBD);
        copy.current_dir(scratch.path()).args(["copy", "--resume", "image", "new"]);
        copy
    };
    let interrupted = || {
        let mut child = copy().arg("--rate=100M").stderr(Stdio::null()).spawn().unwrap();
        let state = scratch.join("new.nbd-resume");
        eventually("something is safe", || state.exists());
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let refused = |how: &str| -> TestResult {
        let finished = run_within(LIMIT, &mut copy())?;
        let told = told_in_one_line(&finished, &["copy"]);
        assert!(told.contains(how) && told.contains("remove the file"), "{told}");
        Ok(())
    };
    interrupted();
    let (new, away) = (scratch.join("new"), scratch.join("away"));
    fs::rename(&new, &away).unwrap();
    refused("another file")?;
    fs::File::create(&new).unwrap();
    refused("another file")?;
    fs::rename(&away, &new).unwrap();
    run_within(LIMIT, &mut copy())?.success()?;
    assert!(fs::read(&new).unwrap() == fs::read(&image).unwrap(), "it came changed");
    interrupted();
    fs::File::options().write(true).open(&new).unwrap().set_len(4096).unwrap();
    refused("shorter than what was copied")
}

#[test]
fn a_source_that_has_changed_is_refused() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", MIB);
    let (disk, state) = (scratch.join("disk"), scratch.join("disk.nbd-resume"));
    let full = "pwrite=echo ENOSPC full >&2; exit 1";
    let failing = Server::nbdkit(&["eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero"])
        .arg(full)
        .start()?;
    // Nothing was safe: no state.
    let resume = format!("--resume={}", arg(&state));
    fail(&["copy", &resume, &arg(&image), &failing.uri()])?;
    assert!(!state.exists());
    let to = arg(&disk);
    fs::write(&state, "{}").unwrap();
    assert!(fail(&["copy", "--resume", &arg(&image), &to])?.contains("no state of a copy"));
    fs::remove_file(&state).unwrap();
    let told = fail(&["copy", "--resume", &arg(&image), &failing.uri()])?;
    assert!(told.contains("--resume=FILE"), "{told}");
    let told = fail(&["copy", "--resume", "-", &to])?;
    assert!(told.contains("size is known"), "{told}");
    Ok(())
}

#[test]
fn what_is_not_as_it_was_written_is_found() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Sparse.image(&scratch, "image", MIB));
    let forgetful = Server::nbdkit(&["eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero"])
        .arg("pwrite=cat > /dev/null")
        .start()?;
    succeed(&["copy", &image, &forgetful.uri()])?;
    let told = fail(&["copy", "--verify", &image, &forgetful.uri()])?;
    assert!(told.contains("does not hold what was written"), "{told}");
    let memory = Server::nbdkit(&["memory", "1M"]).start()?;
    for to in [memory.uri(), arg(&scratch.join("file"))] {
        succeed(&["copy", "--verify", &image, &to])?;
        succeed(&["copy", "--verify-only", &image, &to])?;
    }
    let told = fail(&["copy", "--verify-only", &image, &forgetful.uri()])?;
    assert!(told.contains("they differ: the byte at 0 is the first"), "{told}");
    Ok(())
}

#[test]
fn parts_of_both_ends() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", MIB);
    let bytes = fs::read(&image).unwrap();
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let part = ["--offset=4k", "--length=8k", "--destination-offset=64k"];
    let all =
        |from: &str, to: &str| succeed(&[&["copy"], &part[..], &[from, to]].concat()).map(|_| ());
    all(&arg(&image), &server.uri())?;
    let read = nbd(&["read", "--offset=64k", "--length=8k", &server.uri()])?;
    assert!(read.stdout == bytes[4096..12288]);
    // A file keeps what is around it.
    let file = scratch.join("file");
    fs::write(&file, vec![7; 70_000]).unwrap();
    all(&arg(&image), &arg(&file))?;
    let kept = fs::read(&file).unwrap();
    assert_eq!(kept.len(), (64 << 10) + 8192);
    assert!(kept[..64 << 10].iter().all(|byte| *byte == 7));
    assert!(kept[64 << 10..] == bytes[4096..12288]);
    for args in [
        &["--offset=2M"][..],
        &["--offset=1", "--length=1M"],
        &["--destination-offset=16E"],
        &["--destination-offset=1k"],
    ] {
        let (image, uri) = (arg(&image), server.uri());
        let copy = [&["copy"], args, &[&image, &uri]].concat();
        assert!(!nbd(&copy)?.status.success(), "{args:?}");
    }
    Ok(())
}

/// The clean parts of the destination stay as they are.
#[test]
fn what_a_bitmap_says_has_changed() -> TestResult {
    let scratch = Scratch::new()?;
    let disk = arg(&scratch.join("disk.qcow2"));
    let tool = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &disk, "4M"]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 4M", &disk]);
    tool("qemu-img", &["bitmap", "--add", "-g", "64k", &disk, "b0"]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 9 1M 128k", &disk]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 8 3M 1", &disk]);
    let server = Server::qemu_nbd(&["-f", "qcow2", "-B", "b0", "-r"]).arg(&disk).start()?;
    // One connection at a time is enough.
    let single = Server::qemu_nbd(&["-f", "qcow2", "-B", "b0", "-r", "-e", "1"]);
    let single = single.arg(&disk).start()?;
    let other = scratch.join("other");
    fs::write(&other, vec![5; 4 * MIB as usize]).unwrap();
    let backup = scratch.join("backup");
    fs::write(&backup, vec![5; 4 * MIB as usize]).unwrap();
    let bitmap = "--context=qemu:dirty-bitmap:b0";
    succeed(&["copy", bitmap, &server.uri(), &arg(&backup)])?;
    let bytes = fs::read(&backup).unwrap();
    let at = |offset: u64| bytes[offset as usize];
    assert_eq!(bytes.len() as u64, 4 * MIB);
    assert_eq!((at(0), at(MIB), at(MIB + 131_071), at(MIB + 131_072)), (5, 9, 9, 5));
    assert_eq!((at(3 * MIB), at(3 * MIB + 1), at(3 * MIB + 65_536)), (8, 1, 5));
    succeed(&["copy", bitmap, &single.uri(), &arg(&other)])?;
    assert!(fs::read(&other).unwrap() == bytes);
    let told = fail(&["copy", "--context=qemu:dirty-bitmap:b9", &single.uri(), "null:"])?;
    assert!(told.contains("no meta context `qemu:dirty-bitmap:b9`; it has "), "{told}");
    let told = fail(&["copy", "--context=b0", &server.uri(), "null:"])?;
    assert!(told.contains("begins with qemu:dirty-bitmap:"), "{told}");
    Ok(())
}

#[test]
fn checksums_of_what_passes() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 20 * MIB + 1);
    let known = Command::new("sha256sum").arg(&image).output().unwrap().stdout;
    let known = String::from_utf8(known).unwrap();
    let sum = known.split(' ').next().unwrap();
    let server = Server::nbdkit(&["file"]).arg(&image).start()?;
    let copy = arg(&scratch.join("copy"));
    let told = succeed(&["copy", "--checksum=sha256", &server.uri(), &copy])?;
    assert_eq!(told, format!("{sum}  {}", server.uri()));
    assert_eq!(succeed(&["checksum", &arg(&image)])?, known.trim_end());
    assert_eq!(succeed(&["checksum", &server.uri()])?, format!("{sum}  {}", server.uri()));
    let same = |kind: &str| {
        let kind = format!("--kind={kind}");
        let sum = |of: &str| {
            let told = succeed(&["checksum", &kind, of]).unwrap();
            told.split(' ').next().unwrap().to_owned()
        };
        assert_eq!(sum(&arg(&image)), sum(&server.uri()), "{kind}");
    };
    ["blake3", "blkhash", "blkhash:sha512/4k"].iter().for_each(|kind| same(kind));
    Ok(())
}

#[test]
fn servers_that_come_late() -> TestResult {
    let scratch = Scratch::new()?;
    let socket = scratch.join("socket");
    let uri = format!("nbd+unix:///?socket={}", arg(&socket));
    assert!(fail(&["info", "--size", &uri])?.starts_with(&uri));
    let waiting = thread::spawn(move || nbd(&["info", "--wait=300", "--size", &uri]));
    let socket = arg(&socket);
    let serve = ["serve", "--memory=1M", "--exit-with-last", "--unix", &socket];
    let served = nbd(&serve);
    let told = waiting.join().unwrap()?.success();
    served?.success()?;
    assert_eq!(told?, "1048576");
    Ok(())
}

#[test]
fn slower_than_it_could_be() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 64 << 10);
    let copy = scratch.join("copy");
    succeed(&["copy", "--rate=1M", &arg(&image), &arg(&copy)])?;
    assert!(fs::read(copy).unwrap() == fs::read(image).unwrap());
    assert!(fail(&["copy", "--rate=0", "a", "b"])?.contains("more than 0"));
    Ok(())
}

#[test]
fn comparing() -> TestResult {
    let scratch = Scratch::new()?;
    let one = Content::Sparse.image(&scratch, "one", 3 * MIB);
    let other = scratch.join("other");
    fs::copy(&one, &other).unwrap();
    let server = Server::nbdkit(&["file"]).arg(&other).start()?;
    let compare = |more: &[&str], to: &str| {
        let one = arg(&one);
        let args = [&["compare"], more, &[&one, to]].concat();
        let run = nbd(&args).unwrap();
        (run.status.code().unwrap(), String::from_utf8(run.stdout).unwrap())
    };
    for to in [arg(&other), server.uri()] {
        assert_eq!(compare(&[], &to), (0, String::new()));
    }
    change(&other, 2 * MIB + 5);
    change(&other, MIB + 700);
    for to in [arg(&other), server.uri()] {
        let first = format!("they differ: the byte at {} is the first\n", MIB + 700);
        assert_eq!(compare(&[], &to), (1, first));
        assert_eq!(compare(&["--quiet"], &to), (1, String::new()));
        let (status, all) = compare(&["--all"], &to);
        let rows: Vec<&str> = all.split_whitespace().collect();
        assert_eq!((status, rows), (1, vec!["1049088", "512", "2097152", "512"]));
        let (status, json) = compare(&["--json"], &to);
        let json = super::support::json(&json);
        assert_eq!((status, &json["first"]), (1, &(MIB + 700).into()));
        assert_eq!(json["differences"].as_array().unwrap().len(), 2);
    }
    let longer = arg(&scratch.raw_image("longer", 4 * MIB)?);
    let (status, told) = compare(&[], &longer);
    assert!(status == 1 && told.contains("has 3145728 bytes"), "{told}");
    assert_eq!(compare(&[], "/nowhere").0, 2);
    Ok(())
}

/// Makes a byte another one.
fn change(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

#[test]
fn one_thing_and_done() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    let mut write = Command::new(NBD)
        .args(["write", "--offset=1000", &uri])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    write.stdin.take().unwrap().write_all(b"hello, world").unwrap();
    assert!(write.wait().unwrap().success());
    let read = |offset: &str, length: &str| {
        nbd(&["read", "-o", offset, "-n", length, &uri]).unwrap().stdout
    };
    assert_eq!(read("1000", "12"), b"hello, world");
    succeed(&["zero", "--offset=1005", "--length=2", &uri])?;
    assert_eq!(read("1000", "12"), b"hello\0\0world");
    succeed(&["trim", "--offset=0", "--length=1M", &uri])?;
    succeed(&["cache", &uri])?;
    succeed(&["flush", &uri])?;
    assert_eq!(read("1000", "12"), [0; 12]);
    for args in [
        &["zero", "--offset=1M", "--length=1"][..],
        &["trim", "--offset=2M"],
        &["read", "--offset=2M"],
    ] {
        assert!(fail(&[args, &[&uri]].concat())?.contains("beyond the 1048576 bytes"), "{args:?}");
    }
    let read_only = Server::nbdkit(&["-r", "memory", "1M"]).start()?;
    for command in ["zero", "trim"] {
        assert!(fail(&[command, &read_only.uri()])?.contains("read-only"));
    }
    Ok(())
}

#[test]
fn maps_and_lists() -> TestResult {
    let data = ["--filter=extentlist", "memory", "1M"];
    let scratch = Scratch::new()?;
    let list = scratch.join("list");
    fs::write(&list, "0 32768 data\n32768 1015808 hole,zero\n").unwrap();
    let server = Server::nbdkit(&data).arg(format!("extentlist={}", arg(&list))).start()?;
    let uri = server.uri();
    let map = succeed(&["map", &uri])?;
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["0", "32768", "data"]);
    let part = succeed(&["map", "--offset=16k", "--length=32k", &uri])?;
    let rows: Vec<Vec<&str>> = part.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["16384", "16384", "data"], ["32768", "16384", "hole,zero"]]);
    let json = super::support::json(&succeed(&["map", "--json", &uri])?);
    let first = &json["segments"][0]["contexts"]["base:allocation"];
    assert_eq!((&json["version"], &first["description"]), (&1.into(), &"data".into()));
    let bar = succeed(&["map", "--bar", "--no-color", &uri])?;
    assert!(
        bar.starts_with("##") && bar.contains(" # data") && bar.contains("   hole,zero "),
        "{bar}"
    );
    assert!(!bar.contains('\x1b'), "{bar}");
    assert!(succeed(&["map", "--bar", "--color", &uri])?.contains("\x1b[44m"));
    let svg = scratch.join("map.svg");
    assert_eq!(succeed(&["map", "--svg", &arg(&svg), &uri])?, "");
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(fail(&["map", "--offset=2M", &uri])?.contains("beyond"));
    assert!(fail(&["map", "-c", "x:y", &uri])?.contains("no meta context `x:y`"));
    let exports = ["--filter=exportname", "memory", "1M", "exportname=hello", "exportname=bye"];
    let server = Server::nbdkit(&exports)
        .arg("exportname-list=explicit")
        .arg("exportdesc=fixed:a world")
        .start()?;
    let list = succeed(&["list", &server.uri()])?;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "EXPORT      SIZE  ACCESS    DESCRIPTION");
    assert!(lines.contains(&"hello   1.00 MiB  writable  a world"), "{list}");
    Ok(())
}
