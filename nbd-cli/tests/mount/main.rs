//! `nbd mount` on this machine, by FUSE.

mod servers;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nbd_sim::peer::{PeerError, Scratch, Server, run_while_crashing, run_within};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};
use rustix::process::{Pid, Signal, kill_process};

type TestResult = Result<(), PeerError>;

const NBD: &str = env!("CARGO_BIN_EXE_nbd");

/// Longer than anything here takes on a busy machine, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(300);

const MIB: u64 = 1 << 20;

/// An export as a file. A test that fails leaves nothing mounted.
struct Mount {
    process: Child,
    directory: PathBuf,
    file: PathBuf,
    /// What it said on standard error.
    told: PathBuf,
}

impl Mount {
    fn new(options: &[&str], uri: &str, scratch: &Scratch) -> Self {
        let directory = scratch.join("mounted");
        fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new(NBD);
        command.arg("mount").args(options).arg(uri).arg(&directory).stdout(Stdio::piped());
        let told = scratch.join("told");
        command.stderr(File::create(&told).unwrap());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let file = PathBuf::from(line.trim_end());
        let mount = Self { process, directory, file, told };
        assert!(mount.file.starts_with(&mount.directory), "{line:?}");
        mount
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.file).unwrap()
    }

    /// Ends it as a user does. Returns what it said on standard error.
    fn end(mut self, how: Signal) -> String {
        kill_process(Pid::from_child(&self.process), how).unwrap();
        assert!(self.process.wait().unwrap().success());
        assert!(!self.file.exists(), "it is still mounted");
        fs::read_to_string(&self.told).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

fn succeed(command: &mut Command) -> TestResult {
    run_within(LIMIT, command)?.success().map(drop)
}

fn check(file: &Path) -> TestResult {
    succeed(Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(file))
}

#[test]
fn a_file_system_in_the_file_is_sound() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 32 * MIB)?;
    let server = Server::nbdkit(&["file", &image.display().to_string()]).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    assert_eq!(fs::metadata(&mount.file).unwrap().len(), 32 * MIB);
    succeed(Command::new("/usr/sbin/mkfs.ext4").arg("-q").arg(&mount.file))?;
    check(&mount.file)?;
    mount.end(Signal::TERM);
    check(&image)
}

#[test]
fn what_was_written_is_read_while_the_server_dies_and_comes_back() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 16 * MIB)?;
    let image = image.display().to_string();
    let mut server =
        Server::command(NBD, &["serve", "--unix", "{socket}", "--file", &image]).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--bs=4k", "--size=16M", "--verify=crc32c"]);
    fio.args(["--ioengine=libaio", "--iodepth=16", "--direct=1", "--do_verify=1", "--loops=4"]);
    fio.args(["--fsync=256", "--numjobs=1"]);
    // It leaves a file behind where it runs.
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    let (finished, _) =
        run_while_crashing(&mut server, Duration::from_millis(700), LIMIT, &mut fio)?;
    finished.success()?;
    let told = mount.end(Signal::INT);
    assert!(told.contains("the server closed the connection\n"), "{told}");
    assert!(told.contains("connected again\n") && !told.contains("os error"), "{told}");
    Ok(())
}

#[test]
fn requests_around_the_page_cache_are_under_way_together() -> TestResult {
    const TOGETHER: u64 = 4;
    let scratch = Scratch::new()?;
    let asked = scratch.join("asked");
    fs::create_dir(&asked).unwrap();
    // Nothing is answered before all of them have come.
    let asked = asked.display();
    let pread = format!(
        "pread=: > {asked}/$4; until [ $(ls {asked} | wc -l) -ge {TOGETHER} ]; do sleep 0.01; \
         done; head -c $3 /dev/zero"
    );
    let eval = ["eval", "get_size=echo 1M", "thread_model=echo parallel", &pread];
    let server = Server::nbdkit(&eval).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let mut fio = Command::new("fio");
    fio.args(["--name=together", "--rw=read", "--bs=4k", "--ioengine=libaio", "--direct=1"]);
    fio.args([format!("--iodepth={TOGETHER}"), format!("--size={}k", TOGETHER * 4)]);
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    succeed(&mut fio)?;
    mount.end(Signal::TERM);
    Ok(())
}

#[test]
fn one_request_at_a_time_wakes_one_thread() -> TestResult {
    const READS: u64 = 1000;
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    // How often the thread that waits for the server has gone to sleep.
    let slept = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", mount.process.id())).unwrap();
        let mut statuses =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        let status = statuses.find(|status| status.starts_with("Name:\trequests\n")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(&mount.file)
        .unwrap();
    let mut bytes = [0; 4096];
    let before = slept();
    for number in 0..READS {
        file.read_exact_at(&mut bytes, number % 256 * 4096).unwrap();
    }
    let woken = slept() - before;
    assert!(woken < READS / 2, "{woken} times for {READS} reads");
    drop(file);
    mount.end(Signal::TERM);
    Ok(())
}

#[test]
fn what_takes_several_steps_goes_on_beside_other_requests() -> TestResult {
    let scratch = Scratch::new()?;
    let arguments = ["--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=4096"];
    let server =
        Server::nbdkit(&[&arguments[..], &["blocksize-error-policy=error"]].concat()).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let mut fio = Command::new("fio");
    fio.args(["--name=beside", "--rw=randrw", "--bs=4k", "--ioengine=libaio", "--direct=1"]);
    fio.args(["--iodepth=16", "--size=8M", "--time_based", "--runtime=100000", "--thread"]);
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    let mut fio = fio.stdout(Stdio::null()).spawn().unwrap();
    let file = mount.open();
    for number in 0..200 {
        let at = 8 * MIB + number * 10_000;
        file.write_all_at(&[7; 10_000], at).unwrap();
        fallocate(&file, FallocateFlags::ZERO_RANGE, at + 1, 9998).unwrap();
        let mut bytes = [1; 10_000];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert_eq!((bytes[0], bytes[9999]), (7, 7));
        assert_eq!(bytes[1..9999], [0; 9998]);
        seek(&file, SeekFrom::Data(at)).unwrap();
    }
    drop(file);
    assert!(fio.try_wait().unwrap().is_none(), "there was nothing beside");
    fio.kill().unwrap();
    fio.wait().unwrap();
    mount.end(Signal::TERM);
    Ok(())
}

#[test]
fn several_connections_serve_one_file_where_that_is_safe() -> TestResult {
    let scratch = Scratch::new()?;
    let log = scratch.join("log");
    let logfile = format!("logfile={}", log.display());
    let server = Server::nbdkit(&["--filter=log", "memory", "16M", &logfile]).start()?;
    let opened = || fs::read_to_string(&log).unwrap().matches(" Connect ").count();
    let before = opened();
    // Writes are kept by default, and sent again over the one connection.
    let told = Mount::new(&["--connections=4"], &server.uri(), &scratch).end(Signal::TERM);
    assert!(told.contains("1 of 4, since what is written is kept"), "{told}");
    assert_eq!(opened(), before + 1);
    let options = ["--connections=4", "--keep-unflushed=0"];
    let mount = Mount::new(&options, &server.uri(), &scratch);
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--bs=16k", "--size=16M", "--verify=crc32c"]);
    fio.args(["--ioengine=libaio", "--iodepth=16", "--direct=1", "--fsync=64"]);
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    succeed(&mut fio)?;
    assert_eq!(mount.end(Signal::TERM), "");
    assert_eq!(opened(), before + 1 + 4);
    Ok(())
}

#[test]
fn a_server_that_cannot_flush_is_left_in_good_order() -> TestResult {
    let scratch = Scratch::new()?;
    let pwrite = format!("pwrite=cat > {}", scratch.join("written").display());
    let eval = ["eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero", "can_write=exit 0"];
    let server = Server::nbdkit(&[&eval[..], &[&pwrite]].concat()).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let file = mount.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let told = mount.end(Signal::TERM);
    assert!(told.contains("cannot make anything durable"), "{told}");
    assert_eq!(fs::read(scratch.join("written")).unwrap(), [7; 4096]);
    Ok(())
}

#[test]
fn holes_are_found_and_made() -> TestResult {
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "16M"]).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let file = mount.open();
    let find = |from| seek(&file, from).map_err(|errno| errno.raw_os_error());
    let nothing = Err(rustix::io::Errno::NXIO.raw_os_error());
    assert_eq!(find(SeekFrom::Data(0)), nothing);
    file.write_all_at(&[7; 1 << 20], 4 * MIB).unwrap();
    file.sync_all().unwrap();
    assert_eq!(find(SeekFrom::Data(0)), Ok(4 * MIB));
    assert_eq!(find(SeekFrom::Data(4 * MIB + 5)), Ok(4 * MIB + 5));
    assert_eq!(find(SeekFrom::Hole(4 * MIB + 5)), Ok(5 * MIB));
    assert_eq!(find(SeekFrom::Hole(5 * MIB + 5)), Ok(5 * MIB + 5));
    assert_eq!(find(SeekFrom::Data(16 * MIB)), nothing);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 4 * MIB, MIB / 2).unwrap();
    assert_eq!(find(SeekFrom::Data(0)), Ok(4 * MIB + MIB / 2));
    fallocate(&file, FallocateFlags::ZERO_RANGE, 4 * MIB + MIB / 2 + 3, 10).unwrap();
    let mut bytes = [1; 14];
    file.read_exact_at(&mut bytes, 4 * MIB + MIB / 2).unwrap();
    assert_eq!(bytes, [7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    drop(file);
    mount.end(Signal::HUP);
    Ok(())
}

#[test]
fn a_server_of_whole_blocks_gets_whole_blocks() -> TestResult {
    let scratch = Scratch::new()?;
    let arguments = ["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096"];
    let server =
        Server::nbdkit(&[&arguments[..], &["blocksize-error-policy=error"]].concat()).start()?;
    let mount = Mount::new(&[], &server.uri(), &scratch);
    let file = mount.open();
    for (at, length) in [(5, 3), (4090, 10), (8192, 4096), (MIB - 1, 1)] {
        file.write_all_at(&vec![9; length], at).unwrap();
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(bytes, vec![9; length]);
    }
    drop(file);
    mount.end(Signal::TERM);
    let read = run_within(LIMIT, Command::new(NBD).args(["read", "-n", "16", &server.uri()]))?;
    assert_eq!(read.stdout, [0, 0, 0, 0, 0, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ok(())
}

#[test]
fn the_file_is_like_a_disk() -> TestResult {
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let mount = Mount::new(&["--name=disk"], &server.uri(), &scratch);
    assert_eq!(mount.file.file_name().unwrap(), "disk");
    assert_eq!(fs::read_dir(&mount.directory).unwrap().count(), 1);
    let file = mount.open();
    assert!(file.set_len(5).is_err());
    assert!(file.write_all_at(&[1; 4096], MIB - 512).is_err());
    assert!(fs::write(mount.directory.join("other"), "x").is_err());
    // Opened for being written anew, it keeps its size.
    drop(File::create(&mount.file).unwrap());
    assert_eq!(fs::metadata(&mount.file).unwrap().len(), MIB);
    // In use when it is to end, it stays for those who use it.
    kill_process(Pid::from_child(&mount.process), Signal::TERM).unwrap();
    while mount.file.exists() {
        thread::yield_now();
    }
    file.write_all_at(&[5; 512], 0).unwrap();
    drop(file);
    let mut mount = mount;
    assert!(mount.process.wait().unwrap().success());
    let mount = Mount::new(&["--read-only"], &server.uri(), &scratch);
    assert!(OpenOptions::new().write(true).open(&mount.file).is_err());
    assert_eq!(fs::read(&mount.file).unwrap().len() as u64, MIB);
    // Unmounted by somebody else, it ends as well.
    let Mount { directory, .. } = &mount;
    succeed(Command::new("umount").arg(directory))?;
    let mut mount = mount;
    assert!(mount.process.wait().unwrap().success());
    Ok(())
}

#[test]
fn what_goes_wrong_is_told() -> TestResult {
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let (uri, nowhere) = (server.uri(), scratch.join("nowhere").display().to_string());
    let directory = scratch.join("empty").display().to_string();
    fs::create_dir(&directory).unwrap();
    let file = scratch.join("file").display().to_string();
    fs::write(&file, "").unwrap();
    let long = format!("--name={}", "x".repeat(256));
    let refused = |words: &[&str], expected: &str| -> TestResult {
        let finished = run_within(LIMIT, Command::new(NBD).arg("mount").args(words))?;
        let told = String::from_utf8_lossy(&finished.stderr).into_owned();
        assert_eq!(finished.status.code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told}");
        Ok(())
    };
    refused(&[&uri, &nowhere], "nowhere: No such file or directory")?;
    refused(&[&uri, &file], "is no directory")?;
    for full in [&scratch.path().display().to_string(), "/proc"] {
        refused(&[&uri, full], "is not empty: what is in it could not be reached")?;
    }
    refused(&["nbd+unix:///?socket=/nothing", &directory], "/nothing")?;
    for name in ["--name=a/b", "--name=", "--name=.", "--name=..", &long] {
        refused(&[name, &uri, &directory], "no name of a file")?;
    }
    // Killed, it leaves something behind that nobody serves.
    let mut mount = Mount::new(&[], &uri, &scratch);
    mount.process.kill().unwrap();
    mount.process.wait().unwrap();
    let left = mount.directory.display().to_string();
    refused(&[&uri, &left], &format!("fusermount3 -u {left} takes it away"))?;
    succeed(Command::new("umount").arg(left))?;
    Mount::new(&[], &uri, &scratch).end(Signal::TERM);
    Ok(())
}

/// Others than root need a program that mounts for them, and a device that they may open.
#[test]
fn another_user_is_told_what_is_missing() -> TestResult {
    // All of it is there for this process alone, in a name space of its own.
    const SCRIPT: &str = r#"
        mount -t tmpfs -o mode=755 tmpfs "$1"
        mknod -m "$2" "$1/fuse" c 10 229
        mount --bind "$1/fuse" /dev/fuse
        install -o nobody -d "$1/empty"
        install "$3" "$1/nbd"
        cd "$1"
        export FUSERMOUNT_PATH=/nothing
        exec setpriv --reuid=nobody --clear-groups ./nbd mount "$4" empty
    "#;
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start()?;
    for (mode, expected) in [
        ("0666", "users other than root need fusermount3 for that (package fuse3)"),
        ("0600", "root can let everybody (chmod 666 /dev/fuse)"),
    ] {
        let scratch = Scratch::new()?;
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-ec", SCRIPT, "sh"]).arg(scratch.path());
        let finished = run_within(LIMIT, shell.args([mode, NBD, &server.uri()]))?;
        let told = String::from_utf8_lossy(&finished.stderr).into_owned();
        assert_eq!(finished.status.code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told}");
    }
    Ok(())
}
