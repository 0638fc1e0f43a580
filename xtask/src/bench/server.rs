//! Servers that programs are measured against.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::Outcome;

/// The size of the disk. Small enough to stay in memory, large enough not to
/// stay in the processor's caches.
pub(super) const DISK: &str = "256M";

/// A directory that nobody else uses, removed when dropped.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn fresh(name: &str) -> Outcome<Self> {
        let dir = env::temp_dir().join(format!("nbd-bench-{name}-{}", process::id()));
        fs::create_dir(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Failing means that there is nothing to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server at a Unix socket, killed and reaped when dropped.
pub(super) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts a server that is told to listen at a socket, and waits until somebody listens there.
    pub(super) fn start(program: &mut Command, socket: &Path) -> Outcome<Self> {
        let name = program.get_program().display().to_string();
        // It may be left from a run that was killed.
        let _ = fs::remove_file(socket);
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start `{name}`: {error}"))?;
        let mut server = Self { child, socket: socket.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_listening(socket)? {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("`{name}` ended with {status} before it listened"));
            }
            if Instant::now() > deadline {
                return Err(format!("`{name}` did not listen within 30 s"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// nbdkit with a disk in memory.
    pub(super) fn memory(directory: &Path) -> Outcome<Self> {
        let socket = directory.join("s");
        Self::start(nbdkit(&socket).args(["memory", DISK]), &socket)
    }

    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Whether somebody listens at a Unix socket. Whoever connects to see has been a client.
fn is_listening(socket: &Path) -> Outcome<bool> {
    const LISTENING: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix");
    let sockets = sockets.map_err(|error| format!("/proc/net/unix: {error}"))?;
    let path = socket.display().to_string();
    Ok(sockets.lines().any(|line| {
        let flags = line.split_whitespace().nth(3);
        flags == Some(LISTENING) && line.ends_with(&path)
    }))
}

/// The start of nbdkit's command line.
pub(super) fn nbdkit(socket: &Path) -> Command {
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["-f", "--exit-with-parent", "-U"]).arg(socket);
    nbdkit
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failing means that it has ended already, or that there is nothing to remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
