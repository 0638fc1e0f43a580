//! What a process can be told.

use std::fmt;

/// A signal, by its number in this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(rustix::process::Signal);

impl Signal {
    /// The terminal is gone; many servers read their configuration again.
    pub const HUP: Self = Self(rustix::process::Signal::HUP);
    /// Interrupted from the keyboard.
    pub const INT: Self = Self(rustix::process::Signal::INT);
    /// Asked to quit from the keyboard.
    pub const QUIT: Self = Self(rustix::process::Signal::QUIT);
    /// Ended without being asked.
    pub const KILL: Self = Self(rustix::process::Signal::KILL);
    /// For the program to define.
    pub const USR1: Self = Self(rustix::process::Signal::USR1);
    /// For the program to define.
    pub const USR2: Self = Self(rustix::process::Signal::USR2);
    /// Asked to end.
    pub const TERM: Self = Self(rustix::process::Signal::TERM);
    /// Goes on after a stop.
    pub const CONT: Self = Self(rustix::process::Signal::CONT);
    /// Stopped without being asked.
    pub const STOP: Self = Self(rustix::process::Signal::STOP);

    /// The signal with this number, real-time signals included; `None` when the system has none.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        #[cfg(target_os = "linux")]
        use rustix_libc_wrappers::process::SignalExt;
        #[cfg(target_os = "linux")]
        let signal = rustix::process::Signal::from_raw(number);
        #[cfg(not(target_os = "linux"))]
        let signal = rustix::process::Signal::from_named_raw(number);
        signal.map(Self)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0.as_raw()
    }

    pub(super) const fn to_system(self) -> rustix::process::Signal {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signal {}", self.number())
    }
}
