//! What surrounds the server fails: standard error, the terminal, the room for its file.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nbd_sim::peer::Server;
use nbd_sim::raw::Raw;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::support::{NBD, TestResult, eventually, nbdsh};

/// `nbd serve` with a standard error of the test's choice.
struct Serve {
    child: Child,
    directory: TempDir,
}

impl Serve {
    fn start(stderr: impl Into<Stdio>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut child = Command::new(NBD)
            .args(["serve", "--memory", "1M", "--max-connections", "2", "--unix"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("nbd+unix:"), "{line}");
        Self { child, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    fn assert_served(&self) {
        eventually("it is served", || self.greeted());
    }

    fn greeted(&self) -> bool {
        self.connect().read_exact(&mut [0; 18]).is_ok()
    }

    /// Has it say something: that a client is turned away.
    fn provoke(&self) {
        eventually("a client is turned away", || {
            let mut clients = [(); 3].map(|()| Raw::over(self.connect()));
            let mut chosen = clients.iter_mut().map(|client| {
                client.negotiate();
                client.choose()
            });
            !chosen.all(|chosen| chosen)
        });
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(!self.socket().exists(), "the socket was left behind");
        status.unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn it_serves_on_when_nobody_can_be_told() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for stderr in [Stdio::from(writer), Stdio::from(full)] {
        let mut server = Serve::start(stderr);
        for _ in 0..3 {
            server.provoke();
            server.assert_served();
        }
        assert!(server.stop(Signal::TERM).success());
    }
}

#[test]
fn it_serves_on_when_what_it_says_is_not_read() {
    let (_unread, writer): (PipeReader, _) = pipe().unwrap();
    // Full to the last byte, but for what others have it wait for.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut filler = File::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()));
    while filler.write(&[b'.'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut server = Serve::start(writer);
    for _ in 0..3 {
        server.provoke();
        server.assert_served();
    }
    assert!(server.stop(Signal::TERM).success());
}

#[test]
fn a_hangup_stops_it_like_the_other_signals() {
    for signal in [Signal::HUP, Signal::INT] {
        let mut server = Serve::start(Stdio::null());
        assert!(server.stop(signal).success(), "{signal:?}");
    }
}

/// A write beyond the limit for the size of a file is the client's error, not the
/// server's end.
#[test]
fn a_file_that_may_not_grow_is_no_end() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(4 << 20).unwrap();
    let log = directory.path().join("log");
    let script = format!(
        "ulimit -f 1024; exec '{NBD}' serve --unix {{socket}} --file '{}' 2> '{}'",
        path.display(),
        log.display()
    );
    let server = Server::command("sh", &["-c", &script]).start()?;
    let output = nbdsh(
        &server.uri(),
        "h.pwrite(b'x' * 512, 0)\n\
         try: h.pwrite(b'x' * 512, 2 << 20)\n\
         except nbd.Error as e: print(e.errno)\n\
         print(h.pread(1, 0))",
    )?;
    assert_eq!(output, "ENOSPC\nbytearray(b'x')");
    let words = "write of 512 bytes at 2097152 of export \"\" has failed: File too large\n";
    eventually("it is told", || fs::read_to_string(&log).is_ok_and(|told| told.ends_with(words)));
    Ok(())
}
