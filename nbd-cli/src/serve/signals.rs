//! The wish to stop, as a signal.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// SIGTERM, SIGINT and SIGHUP, from now on. The first is noted; the second ends the
/// process at once.
#[derive(Debug)]
pub(super) struct StopSignal {
    arrived: UnixStream,
}

impl StopSignal {
    /// Takes charge of the signals, and of SIGXFSZ: a write beyond the limit for the size of a
    /// file is to fail, not to end the server.
    ///
    /// # Errors
    ///
    /// When the system is short of descriptors.
    pub(super) fn register() -> io::Result<Self> {
        let (arrived, notify) = UnixStream::pair()?;
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            // The actions run in this order, so the first signal finds the flag
            // down.
            flag::register_conditional_default(signal, Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
            pipe::register(signal, notify.try_clone()?)?;
        }
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
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
