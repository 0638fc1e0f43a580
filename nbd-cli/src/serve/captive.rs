//! A command that the server runs for.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nbd_server::ServerHandle;
use rustix::process::{Pid, Signal, kill_process};

/// A command that runs as long as the server, and the server as long as it.
#[derive(Debug)]
pub(super) struct Captive {
    waiter: JoinHandle<io::Result<ExitStatus>>,
    pid: Option<Pid>,
}

impl Captive {
    /// Runs `command` with a shell, which finds the first URI in `$uri` and all in `$uris`. When
    /// it ends, so does the server.
    ///
    /// # Errors
    ///
    /// When no process can be started.
    pub(super) fn start(
        command: &str,
        uris: &[String],
        server: Arc<ServerHandle>,
    ) -> io::Result<Self> {
        let mut child: Child = Command::new("/bin/sh")
            .args(["-c", command])
            .env("uri", uris.first().map_or("", String::as_str))
            .env("uris", uris.join(" "))
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let waiter = thread::Builder::new().name("captive".to_owned()).spawn(move || {
            let status = child.wait();
            server.shut_down();
            status
        })?;
        Ok(Self { waiter, pid })
    }

    /// Ends the command, if it runs still, and exits as it has.
    ///
    /// # Errors
    ///
    /// When nobody knows how it has ended.
    pub(super) fn finish(self) -> io::Result<ExitCode> {
        if !self.waiter.is_finished()
            && let Some(pid) = self.pid
        {
            // It has ended meanwhile, if this fails.
            let _ = kill_process(pid, Signal::TERM);
        }
        let status = self.waiter.join().map_err(|_| io::Error::other("nobody waited for it"))??;
        Ok(match status.code() {
            Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            // By a signal, as shells tell it.
            None => ExitCode::from(128_u8.saturating_add(status.signal().unwrap_or(0) as u8)),
        })
    }
}
