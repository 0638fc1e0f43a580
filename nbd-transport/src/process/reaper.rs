//! Waiting for processes to end.

use crate::connect::Deadline;
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

/// How long a process may take to end after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// The pauses between two looks at a process: short at first, for most end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits for `child` until `deadline`. There is no portable call that waits for one child for a
/// limited time, so this looks again and again.
pub(super) fn wait(child: &mut Child, deadline: Deadline<'_>) -> io::Result<Option<ExitStatus>> {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if deadline.has_passed() {
            return Ok(None);
        }
        thread::sleep(deadline.remaining().map_or(pause, |left| left.min(pause)));
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Collects `child`, which has been told to end, without keeping the caller.
pub(super) fn retire(mut child: Child) {
    let ended = !matches!(child.try_wait(), Ok(None));
    if ended {
        return;
    }
    let pid = Pid::from_child(&child);
    let reaper = thread::Builder::new().name("nbd-reaper".to_owned()).spawn(move || {
        if let Ok(None) = wait(&mut child, Deadline::after(GRACE)) {
            // Neither can fail in a way that leaves anything to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    });
    if reaper.is_err() {
        // No thread to be patient with: the process ends now. Nobody has collected it, so the
        // id is still its own.
        let _ = kill_process(pid, Signal::KILL);
    }
}
