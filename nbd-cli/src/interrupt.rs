//! What becomes of a command when a signal asks for the end: SIGINT, SIGTERM or SIGHUP.
//!
//! ```text
//!   a thread for the command ── ended ──►  main thread ─► exit status
//!                      signals ──────────►
//! ```
//!
//! The first signal ends the program, with 128 and its number as the exit status, after what is
//! left behind has been told. Work that can end in good order is asked to instead; then the
//! second signal ends the program.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::compat;
use crate::failure::Failure;
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

/// The exit status after a panic.
const PANICKED: u8 = 101;

/// Runs a command until it ends, or is ended. Where no thread is to be had for it, signals end
/// the program as ever.
pub(crate) fn run(command: impl FnOnce() -> ExitCode + Send + 'static) -> ExitCode {
    let command = Arc::new(Mutex::new(Some(command)));
    let panicked = ExitCode::from(PANICKED);
    let carry_out = move |command: &Mutex<Option<_>>| {
        let command = command.lock().unwrap_or_else(PoisonError::into_inner).take();
        let status = command.and_then(|command| catch_unwind(AssertUnwindSafe(command)).ok());
        status.unwrap_or(panicked)
    };
    let (watched, watch) = mpsc::channel::<Handle>();
    let thread = thread::Builder::new().name("command".to_owned());
    let there = Arc::clone(&command);
    let thread = thread.spawn(move || {
        // Nothing is begun before it is known how to end it.
        let watch = watch.recv();
        let status = carry_out(&there);
        if let Ok(watch) = watch {
            watch.close();
        }
        status
    });
    let Ok(thread) = thread else {
        return carry_out(&command);
    };
    let Ok(mut signals) = watch_for() else {
        drop(watched);
        return thread.join().unwrap_or(panicked);
    };
    // The thread waits for it.
    let _ = watched.send(signals.handle());
    obey(&mut signals).unwrap_or_else(|| thread.join().unwrap_or(panicked))
}

/// Takes charge of the signals, but for those that whoever started the program wants ignored, as
/// nohup(1) does.
fn watch_for() -> io::Result<Signals> {
    let ignored = ignored();
    let signals = [SIGINT, SIGTERM, SIGHUP];
    Signals::new(signals.into_iter().filter(|signal| ignored & 1 << (signal - 1) == 0))
}

/// Does what signals ask for; nothing when the command has ended by itself.
fn obey(signals: &mut Signals) -> Option<ExitCode> {
    let mut asked = false;
    for signal in signals.forever() {
        let failure = Failure::interrupted(signal as u8);
        let failure = match &*work() {
            Work::Harmless => failure,
            Work::Leaves(told) => failure.and(told()),
            Work::Asked(ask) => {
                ask(signal as u8, asked);
                if !asked {
                    asked = true;
                    continue;
                }
                failure
            }
        };
        complain(&format!("{}: {failure}\n", compat::program()));
        end_children();
        return Some(ExitCode::from(failure.status()));
    }
    None
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
