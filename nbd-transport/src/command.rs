//! Descriptions of programs to start.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::{Command, Stdio};
use thiserror::Error;

/// What becomes of the standard error of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PeerStderr {
    /// It goes where the caller's goes.
    #[default]
    Inherit,
    /// It is thrown away.
    Null,
    /// It is read by a thread, which keeps the last 16 KiB for error messages.
    Capture,
}

/// A program with its arguments and environment, not yet started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias("nbd_connect_command", "nbd_aio_connect_command"))]
pub struct CommandSpec {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    stderr: PeerStderr,
}

impl CommandSpec {
    /// `program`, searched for in `PATH` when it has no slash, run with `args`. No shell is
    /// involved.
    pub fn new<A: Into<OsString>>(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stderr: PeerStderr::default(),
        }
    }

    /// Sets an environment variable for the program. `PATH` also decides where it is searched.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Takes an inherited environment variable away from the program.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    /// Says what becomes of the program's standard error.
    #[must_use]
    pub const fn stderr(mut self, stderr: PeerStderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// Its arguments.
    #[must_use]
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    /// The program itself as a process to start.
    pub(crate) fn to_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        self.apply(&mut command);
        command
    }

    /// The program started by a shell script which finds it, and its arguments, in `"$@"`.
    pub(crate) fn to_scripted_command(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(&self.program).args(&self.args);
        self.apply(&mut command);
        command
    }

    fn apply(&self, command: &mut Command) {
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stderr(match self.stderr {
            PeerStderr::Inherit => Stdio::inherit(),
            PeerStderr::Null => Stdio::null(),
            PeerStderr::Capture => Stdio::piped(),
        });
    }
}

/// The name a socket-activated program sees in `LISTEN_FDNAMES`: 1 to 32 ASCII letters and
/// digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdName(String);

/// A text that cannot be an [`FdName`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no name for an activation socket: use 1 to 32 ASCII letters and digits")]
pub struct FdNameError(String);

impl FdName {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`FdNameError`] when it is empty, longer than 32 bytes, or holds anything but ASCII
    /// letters and digits.
    #[doc(alias("nbd_set_socket_activation_name", "nbd_get_socket_activation_name"))]
    pub fn new(name: &str) -> Result<Self, FdNameError> {
        let fits = (1..=32).contains(&name.len());
        if !fits || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(FdNameError(name.chars().take(40).collect()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl Default for FdName {
    /// `unknown`, as systemd has it.
    fn default() -> Self {
        Self("unknown".to_owned())
    }
}

impl fmt::Display for FdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A program to start by systemd socket activation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias("nbd_connect_systemd_socket_activation", "nbd_aio_connect_systemd_socket_activation"))]
pub struct Activation {
    command: CommandSpec,
    name: FdName,
}

impl Activation {
    /// Activation of `command` with the socket named `name`.
    #[must_use]
    pub const fn new(command: CommandSpec, name: FdName) -> Self {
        Self { command, name }
    }

    /// The program.
    #[must_use]
    pub const fn command(&self) -> &CommandSpec {
        &self.command
    }

    /// The name of its socket.
    #[must_use]
    #[doc(alias("nbd_set_socket_activation_name", "nbd_get_socket_activation_name"))]
    pub const fn name(&self) -> &FdName {
        &self.name
    }
}

impl From<CommandSpec> for Activation {
    fn from(command: CommandSpec) -> Self {
        Self::new(command, FdName::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_names_are_short_and_alphanumeric() {
        assert_eq!(FdName::new("nbd0").unwrap().to_string(), "nbd0");
        assert!(FdName::new(&"x".repeat(32)).is_ok());
        for bad in ["", "a:b", "a b", "é", "a_b", &"x".repeat(33)] {
            let error = FdName::new(bad).unwrap_err().to_string();
            assert!(error.contains("32 ASCII letters"), "{error}");
        }
        assert_eq!(FdName::default().to_string(), "unknown");
    }
}
