//! Reaching a socket of another machine: `ssh HOST nc …` run as a command.

use crate::command::CommandSpec;
use crate::connect::ConnectError;
use crate::uri::path_bytes;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A server behind `ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SshTarget {
    /// Host to log in to.
    pub host: String,
    /// Login name; absent means that of ssh's configuration.
    pub user: Option<String>,
    /// Port of the ssh server; absent means that of ssh's configuration.
    pub port: Option<u16>,
    /// Whether ssh compresses the data.
    pub compress: bool,
    /// Where the NBD server listens on that host.
    pub remote: SshRemote,
}

/// Where an NBD server listens, seen from the host that `ssh` logs in to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SshRemote {
    /// A TCP port of `localhost`.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl SshTarget {
    /// A server on `host`, with user, port and compression as ssh's configuration has them.
    #[must_use]
    pub fn new(host: impl Into<String>, remote: SshRemote) -> Self {
        Self { host: host.into(), user: None, port: None, compress: false, remote }
    }

    /// The command to run: `ssh [-C] [-p PORT] [-l USER] -- HOST nc …`.
    ///
    /// # Errors
    ///
    /// [`ConnectError::SshUnsafe`] when the host or the user could be taken for an option.
    pub fn command(&self) -> Result<CommandSpec, ConnectError> {
        if let Some((part, value)) = self.unsafe_part() {
            return Err(ConnectError::SshUnsafe { part, value: value.to_owned() });
        }
        let mut args: Vec<OsString> = Vec::new();
        if self.compress {
            args.push("-C".into());
        }
        if let Some(port) = self.port {
            args.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &self.user {
            args.extend(["-l".into(), user.into()]);
        }
        args.extend(["--".into(), OsString::from(&self.host), self.remote_command()]);
        Ok(CommandSpec::new("ssh", args))
    }

    /// One word, which the shell of the other host takes apart again.
    fn remote_command(&self) -> OsString {
        match &self.remote {
            SshRemote::Tcp { port } => format!("nc localhost {port}").into(),
            SshRemote::Unix(path) => {
                let mut command = b"nc -U ".to_vec();
                command.extend(shell_quote(path));
                OsString::from_vec(command)
            }
        }
    }

    /// A part that must not reach the command line. `--` protects the host from being an option,
    /// but not ssh's own configuration, which may pass both names to a shell.
    pub(crate) fn unsafe_part(&self) -> Option<(&'static str, &str)> {
        let user = self.user.as_deref().map(|user| ("user name", user));
        [Some(("ssh host", self.host.as_str())), user]
            .into_iter()
            .flatten()
            .find(|(_, value)| value.starts_with('-') || value.contains(is_special))
    }
}

fn is_special(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "'\"`$\\;&<>|(){}".contains(c)
}

/// `path` in single quotes, within which only the single quote is special. A leading dash would
/// make it an option of `nc`.
fn shell_quote(path: &Path) -> Vec<u8> {
    let bytes = path_bytes(path);
    let mut quoted = b"'".to_vec();
    if bytes.starts_with(b"-") {
        quoted.extend(b"./");
    }
    for &byte in bytes {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remote {
            SshRemote::Tcp { port } => write!(f, "port {port} of {} through ssh", self.host),
            SshRemote::Unix(path) => {
                write!(f, "socket {} of {} through ssh", path.display(), self.host)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SshTarget {
        SshTarget {
            host: "box.example".into(),
            user: None,
            port: None,
            compress: false,
            remote: SshRemote::Tcp { port: 10809 },
        }
    }

    fn words(target: &SshTarget) -> Vec<String> {
        let spec = target.command().unwrap();
        spec.args().iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn plain_target_uses_nc_on_the_default_port() {
        assert_eq!(target().command().unwrap().program(), "ssh");
        assert_eq!(words(&target()), ["--", "box.example", "nc localhost 10809"]);
    }

    #[test]
    fn every_setting_is_a_word_before_the_double_dash() {
        let full = SshTarget {
            user: Some("alice".into()),
            port: Some(2222),
            compress: true,
            remote: SshRemote::Unix("/run/it's here".into()),
            ..target()
        };
        assert_eq!(
            words(&full),
            ["-C", "-p", "2222", "-l", "alice", "--", "box.example", r"nc -U '/run/it'\''s here'"]
        );
    }

    #[test]
    fn remote_path_cannot_be_an_option_of_nc() {
        let dash = SshTarget { remote: SshRemote::Unix("-e".into()), ..target() };
        assert_eq!(words(&dash).last().unwrap(), "nc -U './-e'");
    }

    #[test]
    fn option_like_and_shell_special_names_are_refused() {
        for name in ["-oProxyCommand=x", "a b", "$(id)", "a`id`", "a\nb"] {
            let host = SshTarget { host: name.into(), ..target() };
            assert!(matches!(
                host.command(),
                Err(ConnectError::SshUnsafe { part: "ssh host", .. })
            ));
            let user = SshTarget { user: Some(name.into()), ..target() };
            assert!(matches!(
                user.command(),
                Err(ConnectError::SshUnsafe { part: "user name", .. })
            ));
        }
    }
}
