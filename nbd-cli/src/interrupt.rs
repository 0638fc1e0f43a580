//! What becomes of a command when a signal asks for the end: SIGINT, SIGTERM or SIGHUP.
//!
//! ```text
//!   thread of the command ── ended ──►
//!                                       main thread ─► exit status
//!   thread of the signals ── signal ──►
//! ```
//!
//! The first signal ends the program, with 128 and its number as the exit status, after what is
//! left behind has been told. Work that can end in good order is asked to instead; then the
//! second signal ends the program.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::compat;
use crate::failure::{Context, Failure, Result};
use crate::output::complain;

/// What a command has under way.
enum Work {
    /// It can be ended at any time, and nothing is left behind.
    Harmless,
    /// It can be ended at any time, and this is told of it.
    Leaves(Box<dyn Fn() -> String + Send>),
    /// It is asked to end: by which signal, and whether that is the last time.
    Asked(Box<dyn Fn(u8, bool) + Send>),
}

static WORK: Mutex<Work> = Mutex::new(Work::Harmless);

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that is under way, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct UnderWay(());

impl Drop for UnderWay {
    fn drop(&mut self) {
        *work() = Work::Harmless;
    }
}

/// From now on, whoever ends the program is told what it leaves behind.
pub(crate) fn leaves(told: impl Fn() -> String + Send + 'static) -> UnderWay {
    *work() = Work::Leaves(Box::new(told));
    UnderWay(())
}

/// From now on, the work is asked to end: by which signal, and whether it is ended now, done or
/// not.
pub(crate) fn asks(ask: impl Fn(u8, bool) + Send + 'static) -> UnderWay {
    *work() = Work::Asked(Box::new(ask));
    UnderWay(())
}

enum Event {
    Ended(ExitCode),
    Signal(u8),
}

/// As much as the main thread has, in bytes.
const STACK: usize = 8 << 20;
/// The exit status after a panic.
const PANICKED: u8 = 101;

/// Runs a command until it ends, or is ended.
pub(crate) fn run(command: impl FnOnce() -> ExitCode + Send + 'static) -> Result<ExitCode> {
    let (events, next) = mpsc::channel();
    watch(events.clone()).context("signals")?;
    let command = move || {
        let status = catch_unwind(AssertUnwindSafe(command));
        let status = status.unwrap_or_else(|_| ExitCode::from(PANICKED));
        // It may have been ended before.
        let _ = events.send(Event::Ended(status));
    };
    let thread = thread::Builder::new().name("command".to_owned()).stack_size(STACK);
    thread.spawn(command).context("cannot start a thread")?;
    let mut asked = false;
    for event in next {
        let signal = match event {
            Event::Ended(status) => return Ok(status),
            Event::Signal(signal) => signal,
        };
        let failure = Failure::interrupted(signal);
        let failure = match &*work() {
            Work::Harmless => failure,
            Work::Leaves(told) => failure.and(told()),
            Work::Asked(ask) => {
                ask(signal, asked);
                if !asked {
                    asked = true;
                    continue;
                }
                failure
            }
        };
        complain(&format!("{}: {failure}\n", compat::program()));
        end_children();
        return Ok(ExitCode::from(failure.status()));
    }
    Ok(ExitCode::from(PANICKED))
}

/// Takes charge of the signals, but for those that whoever started the program wants ignored, as
/// nohup(1) does.
fn watch(events: Sender<Event>) -> io::Result<()> {
    let ignored = ignored();
    let signals = [SIGINT, SIGTERM, SIGHUP];
    let wanted = signals.into_iter().filter(|signal| ignored & 1 << (signal - 1) == 0);
    let mut signals = Signals::new(wanted)?;
    let watch = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal as u8)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}

/// The signals that are ignored, one bit each; none where that cannot be known.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Ends the servers that were started, which nobody else would.
fn end_children() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = Pid::from_raw(child) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}
