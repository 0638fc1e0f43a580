//! What a command works on: an NBD server, a file, a stream, or nothing.
//!
//! ```text
//!   nbd://host/export   nbd+unix:///export?socket=PATH   ...    a URI
//!   localhost   HOST:PORT   /run/disk.sock                      where only a server will do
//!   [ nbdkit memory 1M ]                                        a server to start
//!   PATH                                                        a file
//!   -                                                           standard input or output
//!   null:                                                       nothing: zeroes, or a sink
//! ```

mod words;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{ClientConfig, TlsPolicy};
use nbd_client_blocking::session::replay::{Reconnect, RecoveryError};
use nbd_client_blocking::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_blocking::transport::{CommandSpec, Endpoint, NbdUri, TcpKeepAlive, UriPolicy};
use nbd_client_blocking::{Client, ConnectOptions, Error, Options};

use crate::failure::{Context, Failure, Result};
use words::Word;

pub(crate) use words::{join_brackets, show_brackets};

/// How long to wait for a server that is not there yet, before another look.
const AGAIN: Duration = Duration::from_millis(50);

/// One argument, or one group of words in brackets.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Nbd(Box<Server>),
    File(PathBuf),
    Stdio,
    Null,
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// As the user wrote it.
    pub(crate) name: String,
    endpoint: Endpoint,
    export: String,
    /// What leads there, if that can be written.
    uri: Option<Box<NbdUri>>,
    /// What an nbds URI asks for.
    tls: Option<TlsConnector>,
    /// How long to wait for a server that is not there yet.
    wait: Duration,
    /// What is done when the connection is lost.
    reconnect: Option<Reconnect>,
}

impl Target {
    /// What a word names; a command in brackets is one word, see [`join_brackets`].
    pub(crate) fn parse(word: &OsStr) -> Result<Self> {
        let shown = word.display();
        Ok(match words::look(word) {
            Word::Stdio => Self::Stdio,
            Word::Null => Self::Null,
            Word::NearlyNull => {
                return Err(Failure::new(format!("`{shown}` is not known; did you mean `null:`?")));
            }
            Word::Uri => Self::Nbd(Box::new(Server::parse_uri(word)?)),
            Word::Command(words) => Self::Nbd(Box::new(Server::command(&words)?)),
            Word::Unclosed => {
                return Err(Failure::new("`[` without a `]` that ends the command"));
            }
            Word::Option => {
                return Err(Failure::new(format!(
                    "`{shown}` is no option here; a file of that name is written `./{shown}`"
                )));
            }
            Word::Other if word.is_empty() => return Err(Failure::new("an empty file name")),
            Word::Other => Self::File(PathBuf::from(word)),
        })
    }

    /// What it is, in the words of nbdcopy.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Nbd(server) => format!("nbd_ops \"{}\"", server.name),
            Self::File(path) => format!("file_ops \"{}\"", path.display()),
            Self::Stdio => "pipe_ops".to_owned(),
            Self::Null => "null_ops".to_owned(),
        }
    }

    /// Waits so long for a server that is not there yet.
    #[must_use]
    pub(crate) fn waiting(self, wait: Duration) -> Self {
        match self {
            Self::Nbd(server) => Self::Nbd(Box::new(server.waiting(wait))),
            other => other,
        }
    }

    /// What is done when the connection to a server is lost.
    #[must_use]
    pub(crate) fn reconnecting(self, policy: Option<Reconnect>) -> Self {
        match self {
            Self::Nbd(server) => Self::Nbd(Box::new(server.reconnecting(policy))),
            other => other,
        }
    }

    /// What a word names for a command that wants a server.
    pub(crate) fn server(word: &OsStr) -> Result<Server> {
        if let Some(uri) = words::short_uri(word) {
            return Server::parse_uri(OsStr::new(&uri));
        }
        match Self::parse(word)? {
            Self::Nbd(server) => Ok(*server),
            Self::File(path) => Err(Failure::new(format!(
                "`{}` is no NBD URI; write HOST:PORT, nbd://HOST/EXPORT, \
                 nbd+unix:///EXPORT?socket=PATH, or [ COMMAND ]",
                path.display()
            ))),
            Self::Stdio | Self::Null => {
                Err(Failure::new("an NBD URI or [ COMMAND ] is needed here"))
            }
        }
    }
}

impl Server {
    fn parse_uri(word: &OsStr) -> Result<Self> {
        let Some(word) = word.to_str() else {
            return Err(Failure::new(format!("{}: a URI is UTF-8", word.display())));
        };
        let uri: NbdUri = word.parse().context(word)?;
        // The user wrote the URI, so it may name the user's files.
        let policy = UriPolicy::default().local_files(true);
        policy.check(&uri).context(word)?;
        // Here, so that credentials are found wrong before anybody is connected to.
        let tls = match uri.tls_required() {
            true => Some(TlsConfig::from_uri(&uri).connector().context(word)?),
            false => None,
        };
        Ok(Self {
            name: word.to_owned(),
            endpoint: uri.endpoint(),
            export: uri.export_name().to_owned(),
            tls,
            uri: Some(Box::new(uri)),
            wait: Duration::ZERO,
            reconnect: None,
        })
    }

    fn command(words: &[&OsStr]) -> Result<Self> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new("`[ ]` names no command"));
        };
        let spec = CommandSpec::new(*program, arguments.iter().map(OsString::from));
        let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        Ok(Self {
            name: format!("[ {} ]", shown.join(" ")),
            endpoint: Endpoint::SocketActivation(spec.into()),
            export: String::new(),
            uri: None,
            tls: None,
            wait: Duration::ZERO,
            reconnect: None,
        })
    }

    /// The same server, asked for another export.
    pub(crate) fn with_export(&self, name: &str) -> Self {
        let uri = self.uri.clone().and_then(|uri| uri.with_export_name(name).ok().map(Box::new));
        Self { export: name.to_owned(), uri, ..self.clone() }
    }

    /// The URI that leads there.
    pub(crate) fn uri(&self) -> Option<&NbdUri> {
        self.uri.as_deref()
    }

    /// Whether the server lives and dies with the connection, so that one is all there is.
    pub(crate) fn is_command(&self) -> bool {
        matches!(self.endpoint, Endpoint::SocketActivation(_) | Endpoint::Command(_))
    }

    /// Whether both are certain to be one export, however they are written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let place = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
        let same = match (&self.endpoint, &other.endpoint) {
            (Endpoint::Unix(one), Endpoint::Unix(other)) => {
                one == other || (place(one).is_some() && place(one) == place(other))
            }
            (Endpoint::Tcp { host: one, port }, Endpoint::Tcp { host, port: other }) => {
                one.eq_ignore_ascii_case(host) && port == other
            }
            (Endpoint::Address(one), Endpoint::Address(other)) => one == other,
            // Others may be started anew for each connection.
            _ => false,
        };
        same && self.export == other.export
    }

    /// Whether that is where this server is.
    pub(crate) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.endpoint == *endpoint
    }

    /// Whether another server is asked for the same, in the same way, so that it can take the place
    /// of this one.
    ///
    /// # Errors
    /// What is asked for differently.
    pub(crate) fn check_other(&self, other: &Self) -> Result<()> {
        if self.export != other.export {
            return Err(Failure::new(format!(
                "{}: the export has another name than that of {}; it is one for all servers",
                other.name, self.name
            )));
        }
        let tls = |server: &Self| {
            let uri = server.uri.as_deref().filter(|uri| uri.tls_required())?;
            Some((uri.tls().clone(), uri.username().map(str::to_owned)))
        };
        if tls(self) != tls(other) {
            return Err(Failure::new(format!(
                "{}: TLS is asked for in another way than by {}; it is one way for all servers",
                other.name, self.name
            )));
        }
        Ok(())
    }

    /// The same options, with this server as one more.
    pub(crate) fn is_next_in(&self, options: ConnectOptions) -> ConnectOptions {
        options.endpoint(self.endpoint.clone())
    }

    /// Waits so long for a server that is not there yet.
    #[must_use]
    pub(crate) fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// What is done when the connection is lost. A server that is a command of ours dies with
    /// its connection: another one would hold something else.
    #[must_use]
    pub(crate) fn reconnecting(self, policy: Option<Reconnect>) -> Self {
        let reconnect = policy.filter(|_| !self.is_command());
        Self { reconnect, ..self }
    }

    /// What is done when the connection is lost.
    pub(crate) const fn reconnect(&self) -> Option<Reconnect> {
        self.reconnect
    }

    /// Connects and negotiates with this configuration; the export is that of the URI.
    pub(crate) fn connect(&self, config: ClientConfig, limit: Option<Duration>) -> Result<Client> {
        let plain = self.options(config, limit);
        let options = plain.clone().reconnect(self.reconnect);
        self.soon(|| match Client::connect(&options) {
            // A server that makes nothing durable can be used, but not be lost.
            Err(error) if error.recovery() == Some(&RecoveryError::CannotKeep) => {
                Client::connect(&plain)
            }
            result => result,
        })
    }

    /// Connects and stops before an export is chosen.
    pub(crate) fn negotiate(
        &self,
        config: ClientConfig,
        limit: Option<Duration>,
    ) -> Result<Options> {
        let options = self.options(config, limit);
        self.soon(|| Options::connect(&options))
    }

    /// Tries as long as it is worth waiting for.
    fn soon<T>(&self, connect: impl Fn() -> std::result::Result<T, Error>) -> Result<T> {
        let begin = Instant::now();
        loop {
            match connect() {
                Err(error) if error.is_transient() && begin.elapsed() < self.wait => {
                    std::thread::sleep(AGAIN);
                }
                result => return result.context(&self.name),
            }
        }
    }

    /// What it takes to connect; `limit` is the longest time for connecting and negotiating, the
    /// longest silence of the server, and how soon a network that is dead is noticed.
    pub(crate) fn options(&self, config: ClientConfig, limit: Option<Duration>) -> ConnectOptions {
        let keep_alive =
            limit.map(|limit| TcpKeepAlive::new().idle(limit / 2).interval(limit / 6).count(3));
        let options = ConnectOptions::new()
            .endpoint(self.endpoint.clone())
            .config(config.export(&self.export))
            .connect_timeout(limit)
            .silence(limit)
            .tcp_keep_alive(keep_alive);
        match &self.tls {
            Some(connector) => options.tls_connector(TlsPolicy::Require, connector.clone()),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Vec<Target>> {
        let words = join_brackets(words.iter().map(OsString::from));
        words.iter().map(|word| Target::parse(word)).collect()
    }

    #[test]
    fn brackets_make_one_target() {
        let targets = parse(&["[", "nbdkit", "memory", "1M", "]", "disk.img"]).unwrap();
        assert!(matches!(&targets[..], [Target::Nbd(server), Target::File(_)]
            if server.name == "[ nbdkit memory 1M ]"));
    }

    #[test]
    fn every_kind_is_told_apart() {
        let targets = parse(&["NBD://localhost", "-", "null:", "./nbd:x", "nbd+unix:///?socket=s"]);
        assert!(matches!(
            &targets.unwrap()[..],
            [Target::Nbd(_), Target::Stdio, Target::Null, Target::File(_), Target::Nbd(_)]
        ));
    }

    #[test]
    fn what_was_meant_is_told() {
        for (word, expected) in [
            ("nbd:localhost:10809", "nbd://localhost"),
            ("nbd:host:1:exportname=a b", "nbd://host:1/a%20b"),
            ("nbd:unix:/run/s:exportname=x", "nbd+unix:///x?socket=/run/s"),
            ("localhost:10809", "nbd://localhost"),
            ("ndb://localhost", "unknown URI scheme"),
            ("null:x", "nbd://"),
            ("--flush", "./--flush"),
        ] {
            let error = parse(&[word]).unwrap_err().to_string();
            assert!(error.contains(expected), "{word}: {error}");
        }
    }

    #[test]
    fn credentials_are_read_before_anything_else_happens() {
        let uri = "NBDS+unix:///?socket=s&tls-certificates=/nowhere";
        let error = parse(&[uri]).unwrap_err().to_string();
        assert!(error.starts_with(uri), "{error}");
        assert!(error.contains("/nowhere/ca-cert.pem"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse(&["[", "nbdkit"]).is_err());
        assert!(parse(&["[", "]"]).is_err());
        assert!(parse(&["nbd+unix:///"]).is_err());
        assert!(parse(&[""]).is_err());
        assert!(Target::server(OsStr::new("disk.img")).is_err());
    }
}
