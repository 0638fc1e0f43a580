//! The server of an export, or several with the same data.
//!
//! A server's word that several connections are safe is about connections to itself. So there is
//! one connection at a time where there are several servers, unless the user says that they are
//! to be spread; and what a server that is not in use is like is looked at before it is needed.

use std::ffi::OsStr;
use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;
use nbd_client_blocking::session::Session;
use nbd_client_blocking::{Client, ConnectOptions, Endpoint};
use serde::Deserialize;

use super::alike;
use crate::failure::{Failure, Result, in_words};
use crate::output;
use crate::target::{Server, Target};

/// What else there is to say of the server than its URI.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default)]
pub(crate) struct Others {
    /// Another server of the same data, connected to when the one in use is lost; may be repeated.
    /// What one has acknowledged has to be there on all, but for what is not flushed: that is sent
    /// again (see --keep-unflushed). A server that is cut off and still writes is not noticed
    #[arg(long, value_name = "URI")]
    also: Vec<String>,
    /// Spread the connections over all servers, where each says that several are safe. Only for
    /// servers that share what they cache, or cache nothing: what is written by way of one has to
    /// be there at once by way of the others
    #[arg(long, requires = "also")]
    spread: bool,
}

impl Others {
    /// What the command line does not let through, in a file.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        match self.spread && self.also.is_empty() {
            true => Err("spread: there is nobody else; name other servers by also".to_owned()),
            false => Ok(()),
        }
    }
}

/// Servers with the same data: one, or several.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    first: Server,
    others: Vec<Server>,
    spread: bool,
}

impl Servers {
    /// The server that is named by a word, and the others.
    ///
    /// # Errors
    /// When a word names no server, or they cannot be taken for one another.
    pub(crate) fn named(word: &OsStr, others: &Others) -> Result<Self> {
        let first = Target::server(word)?;
        let named = others.also.iter().map(|word| Target::server(OsStr::new(word)));
        let named = named.collect::<Result<Vec<_>>>()?;
        for (number, other) in named.iter().enumerate() {
            if let Some(command) = [&first, other].into_iter().find(|server| server.is_command()) {
                return Err(Failure::new(format!(
                    "{}: a server that is a command has its data for itself; name servers by \
                     their URIs",
                    command.name
                )));
            }
            first.check_other(other)?;
            let before = [&first].into_iter().chain(&named[..number]);
            if before.into_iter().any(|server| server.is_same(other)) {
                return Err(Failure::new(format!("{}: that server is named twice", other.name)));
            }
        }
        Ok(Self { first, others: named, spread: others.spread })
    }

    /// The name of the first, as the user wrote it.
    pub(crate) fn name(&self) -> &str {
        &self.first.name
    }

    /// The names of the others.
    pub(crate) fn other_names(&self) -> Vec<String> {
        self.others.iter().map(|server| server.name.clone()).collect()
    }

    /// The name of the server at that place, where there are several.
    pub(crate) fn name_at(&self, place: Option<&Endpoint>) -> Option<&str> {
        let endpoint = place.filter(|_| !self.others.is_empty())?;
        self.iter().find(|server| server.is_at(endpoint)).map(|server| server.name.as_str())
    }

    /// Whether the server lives and dies with the connection.
    pub(crate) fn is_command(&self) -> bool {
        self.first.is_command()
    }

    fn iter(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// What it takes to connect to the first that there is; see [`Server::options`].
    pub(crate) fn options(&self, config: ClientConfig, limit: Option<Duration>) -> ConnectOptions {
        let options = self.first.options(config, limit).spread(self.spread);
        self.others.iter().fold(options, |options, other| other.is_next_in(options))
    }

    /// The names of those that these connections are to, where there are several.
    pub(crate) fn in_use<'a>(&self, sessions: impl Iterator<Item = &'a Session>) -> Vec<String> {
        let places: Vec<_> =
            sessions.filter(|session| session.is_ready()).map(Session::endpoint).collect();
        let is_in_use = |name: &str| places.iter().any(|place| self.name_at(*place) == Some(name));
        let names = self.iter().map(|server| &server.name);
        names.filter(|name| is_in_use(name)).cloned().collect()
    }

    /// Looks whether the servers that are not in use are like the one that is, by this connection.
    /// One that is away cannot be asked, which is told.
    ///
    /// # Errors
    /// How they differ, or why one of them would never do.
    pub(crate) fn compare(&self, in_use: &Session, limit: Option<Duration>) -> Result<()> {
        let (known, facts) = (self.name_at(in_use.endpoint()), in_use.negotiated());
        let (Some(known), Some(facts)) = (known, facts) else { return Ok(()) };
        let config = in_use.options().negotiation();
        for other in self.iter().filter(|server| server.name != known) {
            let name = &other.name;
            match Client::connect(other.options(config.clone(), limit)) {
                Ok(client) => {
                    alike::check(facts, client.negotiated(), self.spread).map_err(
                        |difference| {
                            Failure::new(format!(
                                "{known} and {name} are not the same: {difference}"
                            ))
                        },
                    )?;
                    // It has been asked for nothing.
                    let _ = client.disconnect();
                }
                Err(error) if error.is_transient() => output::mention(&format!(
                    "nbd: {name}: {}: whether it is like {known} is seen when it is needed\n",
                    in_words(&error)
                )),
                Err(error) => {
                    return Err(Failure::new(format!("{name}: {}", in_words(&error))));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(words: &[&str], spread: bool) -> Result<Servers> {
        let also = words[1..].iter().map(|&word| word.to_owned()).collect();
        Servers::named(OsStr::new(words[0]), &Others { also, spread })
    }

    #[test]
    fn several_servers_are_connected_to_in_order() {
        let servers = named(&["nbd://a/x", "nbd://b/x", "c:1/x"], false);
        assert!(servers.unwrap_err().to_string().contains("c:1/x"));
        let servers = named(&["nbd://a/x", "nbd://b/x", "nbd+unix:///x?socket=/c"], true).unwrap();
        let options = servers.options(ClientConfig::new(), None);
        let places: Vec<_> = options.endpoints().iter().collect();
        assert_eq!(places.len(), 3);
        let names: Vec<_> = places.iter().map(|place| servers.name_at(Some(place))).collect();
        let expected = ["nbd://a/x", "nbd://b/x", "nbd+unix:///x?socket=/c"].map(Some);
        assert_eq!(names, expected);
        let alone = named(&["nbd://a"], false).unwrap();
        let options = alone.options(ClientConfig::new(), None);
        assert_eq!(alone.name_at(options.endpoints().first()), None);
    }

    #[test]
    fn servers_that_cannot_be_taken_for_one_another_are_refused() {
        for (words, expected) in [
            (&["nbd://a/x", "nbd://b/y"][..], "nbd://b/y: the export has another name"),
            (&["nbd://a", "nbd://a:10809/"], "nbd://a:10809/: that server is named twice"),
            (&["nbd://a", "nbd://b", "nbd://b"], "nbd://b: that server is named twice"),
            (&["nbd://a", "disk.img"], "`disk.img` is no NBD URI"),
            (&["nbd://a", "[\0nbdkit\0memory\0]"], "has its data for itself"),
            (&["[\0nbdkit\0memory\0]", "nbd://a"], "has its data for itself"),
        ] {
            let told = named(words, false).unwrap_err().to_string();
            assert!(told.contains(expected), "{words:?}: {told}");
        }
    }

    #[test]
    fn nothing_can_be_spread_over_one_server() {
        let alone = Others { also: Vec::new(), spread: true };
        assert!(alone.check().unwrap_err().contains("also"));
        assert_eq!(Others::default().check(), Ok(()));
    }
}
