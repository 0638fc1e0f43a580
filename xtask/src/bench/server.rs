//! The one server that both programs are measured against.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::Outcome;

/// The size of the disk. Small enough to stay in memory, large enough not to
/// stay in the processor's caches.
pub(super) const DISK: &str = "256M";

/// A directory that nobody else uses and that whoever gets it removes.
pub(super) fn fresh_directory(name: &str) -> Outcome<PathBuf> {
    let dir = env::temp_dir().join(format!("nbd-bench-{name}-{}", process::id()));
    fs::create_dir(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
    Ok(dir)
}

/// nbdkit with a disk in memory, killed and reaped when dropped.
pub(super) struct Server {
    child: Child,
    dir: PathBuf,
    uri: String,
}

impl Server {
    /// Starts nbdkit and waits until it listens.
    pub(super) fn start() -> Outcome<Self> {
        let dir = fresh_directory("plain")?;
        let uri = format!("nbd+unix:///?socket={}", dir.join("s").display());
        Self::launch(dir, DISK, &[], uri)
    }

    /// Starts nbdkit in a directory, with a disk of some size and more options, and waits until
    /// it listens there.
    pub(super) fn launch(
        dir: PathBuf,
        disk: &str,
        options: &[String],
        uri: String,
    ) -> Outcome<Self> {
        let (socket, pid) = (dir.join("s"), dir.join("pid"));
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["-f", "--exit-with-parent", "-U"]).arg(&socket).arg("-P").arg(&pid);
        nbdkit.args(options);
        let child =
            nbdkit.args(["memory", disk]).stdin(Stdio::null()).spawn().map_err(|error| {
                format!("cannot start `nbdkit` (Debian package nbdkit): {error}")
            })?;
        let mut server = Self { child, dir, uri };

        // nbdkit writes its pid file once it listens.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pid.is_file() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("`nbdkit` ended with {status} before it listened"));
            }
            if Instant::now() > deadline {
                return Err("`nbdkit` did not listen within 10 s".to_owned());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failing means that it has ended already, or that there is nothing to remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
