//! Waiting for processes to end.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// The pauses between two looks at a process: short at first, for most end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits for `child` until `deadline`.
pub(super) fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    look_until(deadline, || child.try_wait())
}

/// There is no portable call that waits for one child for a limited time, so this looks again
/// and again.
fn look_until<T>(
    deadline: Instant,
    mut look: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(left.min(pause));
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Collects a process that has been told to end, without keeping the caller. It must not have
/// been collected before, so that the id is its own.
pub(super) fn retire(process: Pid) {
    let reaper = thread::Builder::new().name("nbd-reaper".to_owned()).spawn(move || {
        let look = || Ok(waitpid(Some(process), WaitOptions::NOHANG)?);
        if let Ok(None) = look_until(Instant::now() + GRACE, look) {
            // Neither can fail in a way that leaves anything to do.
            let _ = kill_process(process, Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(process), WaitOptions::empty()));
        }
    });
    if reaper.is_err() {
        // No thread to be patient with: the process ends now.
        let _ = kill_process(process, Signal::KILL);
    }
}
