//! What is told about a handle, and to whom.

use std::io::Write;
use std::{env, fmt, io};

/// Told what a handle does: the name of the call and one line.
pub type DebugCallback = Box<dyn FnMut(&str, &str) + Send>;

/// Whether and where.
pub(crate) struct Debug {
    pub(crate) on: bool,
    /// In place of standard error.
    callback: Option<DebugCallback>,
}

impl Debug {
    /// As the environment says.
    pub(crate) fn new() -> Self {
        Self { on: env::var_os("LIBNBD_DEBUG").is_some_and(|value| value == "1"), callback: None }
    }

    pub(crate) fn set_callback(&mut self, callback: Option<DebugCallback>) {
        self.callback = callback;
    }

    #[cold]
    pub(crate) fn tell(&mut self, handle: &str, call: &str, line: &str) {
        match &mut self.callback {
            Some(callback) => callback(call, line),
            // Where it cannot be written nobody reads it, and that ends no call.
            None => drop(writeln!(io::stderr(), "libnbd: debug: {handle}: {call}: {line}")),
        }
    }
}

impl fmt::Debug for Debug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debug").field("on", &self.on).finish_non_exhaustive()
    }
}
