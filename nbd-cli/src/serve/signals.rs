//! The wish to stop, as a signal.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// SIGTERM and SIGINT, from now on. The first is noted; the second ends the
/// process at once.
#[derive(Debug)]
pub(super) struct StopSignal {
    arrived: UnixStream,
}

impl StopSignal {
    /// Takes charge of the signals.
    ///
    /// # Errors
    ///
    /// When the system is short of descriptors.
    pub(super) fn register() -> io::Result<Self> {
        let (arrived, notify) = UnixStream::pair()?;
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The actions run in this order, so the first signal finds the flag
            // down.
            flag::register_conditional_default(signal, Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
            pipe::register(signal, notify.try_clone()?)?;
        }
        Ok(Self { arrived })
    }

    /// Waits for the first signal.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub(super) fn wait(mut self) -> io::Result<()> {
        self.arrived.read_exact(&mut [0])
    }
}
