//! The end of what a process writes to its standard error.

use std::io::{self, Read};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How much is kept, in bytes.
const KEPT: usize = 16 * 1024;

/// How long to wait for the rest of the output of a process that has ended. A child of its own
/// may hold the pipe open for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The shared end of the output. A thread appends to it, and so the process never blocks on a
/// full pipe.
#[derive(Debug)]
pub(super) struct StderrTail(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    at_end: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tail: Vec<u8>,
    ended: bool,
}

impl StderrTail {
    /// Reads `pipe` to its end in a thread.
    pub(super) fn follow(mut pipe: ChildStderr) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        thread::Builder::new().name("nbd-stderr".to_owned()).spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                match pipe.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(read) => ours.lock().append(&chunk[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            ours.lock().ended = true;
            ours.at_end.notify_all();
        })?;
        Ok(Self(shared))
    }

    /// Whether all of it was read.
    pub(super) fn has_ended(&self) -> bool {
        self.0.lock().ended
    }

    /// What is kept, after waiting for the end of the output if `complete` is wanted.
    pub(super) fn text(&self, complete: bool) -> String {
        let mut state = self.0.lock();
        if complete {
            (state, _) = self
                .0
                .at_end
                .wait_timeout_while(state, PATIENCE, |state| !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
        String::from_utf8_lossy(&state.tail).into_owned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing done under the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let excess = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut state = State::default();
        state.append(&[b'a'; KEPT]);
        state.append(b"the end");
        assert_eq!(state.tail.len(), KEPT);
        assert!(state.tail.ends_with(b"athe end"));
    }
}
