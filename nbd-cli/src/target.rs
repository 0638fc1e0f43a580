//! What a command works on: an NBD server, a file, a stream, or nothing.
//!
//! ```text
//!   nbd://host/export   nbd+unix:///export?socket=PATH   ...    a URI
//!   [ nbdkit memory 1M ]                                        a server to start
//!   PATH                                                        a file
//!   -                                                           standard input or output
//!   null:                                                       nothing: zeroes, or a sink
//! ```

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{ClientConfig, TlsPolicy};
use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_blocking::transport::{CommandSpec, Endpoint, NbdUri, UriPolicy};
use nbd_client_blocking::{Builder, Client, Options};

use crate::failure::{Context, Failure, Result};

/// How long to wait for a server that is not there yet, before another look.
const AGAIN: Duration = Duration::from_millis(50);

/// One argument, or one group of words in brackets.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Nbd(Server),
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
    /// What an nbds URI asks for.
    tls: Option<TlsConnector>,
}

impl Target {
    /// Reads the words of a command line: each is a target, but words in brackets are one.
    pub(crate) fn parse_all(words: &[String]) -> Result<Vec<Self>> {
        let mut targets = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word != "[" {
                targets.push(Self::parse(word)?);
                continue;
            }
            let mut command = Vec::new();
            loop {
                match words.next() {
                    Some(word) if word == "]" => break,
                    Some(word) => command.push(word.as_str()),
                    None => return Err(Failure::new("`[` without a `]` that ends the command")),
                }
            }
            targets.push(Self::Nbd(Server::command(&command)?));
        }
        Ok(targets)
    }

    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "-" => Self::Stdio,
            "null:" => Self::Null,
            _ if is_uri(word) => Self::Nbd(Server::uri(word)?),
            _ => Self::File(PathBuf::from(word)),
        })
    }

    /// The only target of a command that wants a server.
    pub(crate) fn server(words: &[String]) -> Result<Server> {
        let mut targets = Self::parse_all(words)?;
        match (targets.pop(), targets.is_empty()) {
            (Some(Self::Nbd(server)), true) => Ok(server),
            (Some(Self::File(path)), true) => Err(Failure::new(format!(
                "`{}` is no NBD URI; write nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or \
                 [ COMMAND ]",
                path.display()
            ))),
            (Some(Self::Stdio | Self::Null), true) => {
                Err(Failure::new("an NBD URI or [ COMMAND ] is needed here"))
            }
            (Some(_), false) => Err(Failure::new("one NBD URI or [ COMMAND ] is needed, not more")),
            (None, _) => Err(Failure::new("an NBD URI or [ COMMAND ] is needed")),
        }
    }
}

fn is_uri(word: &str) -> bool {
    let scheme = word.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| {
        let base = scheme.split_once('+').map_or(scheme.as_str(), |(base, _)| base);
        matches!(base, "nbd" | "nbds")
    })
}

impl Server {
    fn uri(word: &str) -> Result<Self> {
        let uri: NbdUri = word.parse().context(word)?;
        // The user wrote the URI, so it may name the user's files.
        let policy = UriPolicy { local_files: true, ..UriPolicy::default() };
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
        })
    }

    fn command(words: &[&str]) -> Result<Self> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new("`[ ]` names no command"));
        };
        let spec = CommandSpec::new(*program, arguments.iter().map(OsString::from));
        Ok(Self {
            name: format!("[ {} ]", words.join(" ")),
            endpoint: Endpoint::SocketActivation(spec.into()),
            export: String::new(),
            tls: None,
        })
    }

    /// Whether the server lives and dies with the connection, so that one is all there is.
    pub(crate) fn is_command(&self) -> bool {
        matches!(self.endpoint, Endpoint::SocketActivation(_) | Endpoint::Command(_))
    }

    /// Connects and negotiates with this configuration; the export is that of the URI.
    pub(crate) fn connect(&self, config: ClientConfig, timeout: Duration) -> Result<Client> {
        self.builder(config, timeout).connect(&self.endpoint).context(&self.name)
    }

    /// Connects as [`connect`](Self::connect), as soon as there is a server, and again
    /// whenever the connection is lost.
    pub(crate) fn connect_lasting(
        &self,
        config: ClientConfig,
        timeout: Duration,
        policy: Reconnect,
    ) -> Result<Client> {
        let builder = self.builder(config, timeout).reconnect(policy);
        let begin = Instant::now();
        loop {
            match builder.connect(&self.endpoint) {
                Err(error) if error.is_transient() && begin.elapsed() < policy.patience() => {
                    std::thread::sleep(AGAIN);
                }
                result => return result.context(&self.name),
            }
        }
    }

    /// Connects and stops before an export is chosen.
    pub(crate) fn negotiate(&self, config: ClientConfig, timeout: Duration) -> Result<Options> {
        self.builder(config, timeout).negotiate(&self.endpoint).context(&self.name)
    }

    fn builder(&self, config: ClientConfig, timeout: Duration) -> Builder {
        let builder = Builder::new().config(config.export(&self.export)).timeout(timeout);
        match &self.tls {
            Some(connector) => builder.tls(TlsPolicy::Require, connector.clone()),
            None => builder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Vec<Target>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Target::parse_all(&words)
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
        assert!(Target::server(&["disk.img".to_owned()]).is_err());
        assert!(Target::server(&[]).is_err());
    }
}
