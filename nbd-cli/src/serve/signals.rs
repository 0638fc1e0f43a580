//! What signals ask for.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// SIGTERM, SIGINT and SIGHUP, from now on. The first that asks for the end is noted; the second
/// ends the process at once.
#[derive(Debug)]
pub(super) struct Signals {
    arrived: UnixStream,
    stop: Arc<AtomicBool>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// The end.
    Stop,
    /// That what was read at the start is read again.
    Reload,
}

impl Signals {
    /// Takes charge of the signals, and of SIGXFSZ: a write beyond the limit for the size of a
    /// file is to fail, not to end the server.
    ///
    /// # Errors
    ///
    /// When the system is short of descriptors.
    pub(super) fn register() -> io::Result<Self> {
        let (arrived, notify) = UnixStream::pair()?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The actions run in this order, so the first signal finds the flag
            // down.
            flag::register_conditional_default(signal, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
            pipe::register(signal, notify.try_clone()?)?;
        }
        pipe::register(SIGHUP, notify)?;
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(Self { arrived, stop })
    }

    /// Waits for the next signal.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub(super) fn next(&mut self) -> io::Result<SignalAction> {
        self.arrived.read_exact(&mut [0])?;
        Ok(if self.stop.load(Ordering::Acquire) {
            SignalAction::Stop
        } else {
            SignalAction::Reload
        })
    }
}
