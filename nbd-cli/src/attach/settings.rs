//! How a device is attached: from the command line, or from a file of many.
//!
//! ```toml
//! [nbd0]
//! uri = "nbds://server/disk"
//! connections = 4
//!
//! [nbd1]
//! uri = "nbd+unix:///?socket=/run/nbd.sock"
//! read-only = true
//! ```

use std::fs;
use std::path::Path;
use std::time::Duration;

use nbd_client_mio::ConnectOptions;
use nbd_client_mio::proto::{ClientConfig, Limits};
use nbd_client_mio::session::replay::Reconnect;
use serde::Deserialize;

use super::device::Device;
use super::queue::IN_FLIGHT;
use crate::connections::{KEPT, Others, Servers};
use crate::failure::{Context, Failure, Result};
use crate::{YEAR, size};

/// A device is to go on as soon as it can.
const DELAY: Duration = Duration::from_secs(1);

/// What the settings are called.
pub(super) const NAMES: [&str; 9] = [
    "also",
    "spread",
    "connections",
    "keep_unflushed",
    "reconnect",
    "once",
    "wait",
    "read_only",
    "timeout",
];

/// How a device is attached.
#[derive(Clone, Debug, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    /// Most connections to the server, where it says that several are safe; and queues of the
    /// kernel's. While writes are kept (--keep-unflushed) there is one connection: what one
    /// sends again could replace what another has written since. --keep-unflushed=0, --once and
    /// --read-only allow several
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: u32,
    /// Keep so many bytes of what was written and not flushed, in up to twice as much memory,
    /// and send them again when the server may have lost them; 0 keeps nothing, and a write that
    /// the server loses after it has acknowledged it is lost without a word
    #[arg(long, value_name = "SIZE", default_value = KEPT)]
    keep_unflushed: String,
    /// How long to wait for a server that is lost before the device fails (default: for ever)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    reconnect: Option<u64>,
    /// Do not connect again: the device is gone when the server is lost
    #[arg(long, conflicts_with = "reconnect")]
    once: bool,
    /// Wait until there is a server
    #[arg(long)]
    pub(super) wait: bool,
    /// Let nobody write to the device
    #[arg(long)]
    pub(super) read_only: bool,
    /// Longest time to connect and negotiate, and longest silence of a server that owes an
    /// answer to a read or write; 0 for no limit
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(..=YEAR))]
    timeout: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 1,
            keep_unflushed: KEPT.to_owned(),
            reconnect: None,
            once: false,
            wait: false,
            read_only: false,
            timeout: 30,
        }
    }
}

impl Settings {
    /// How many queues the kernel gets.
    pub(super) const fn queues(&self) -> usize {
        self.connections as usize
    }

    /// How many connections there are at most. Each to a command of ours would be one to another
    /// server.
    pub(super) fn connections(&self, servers: &Servers) -> usize {
        if servers.is_command() { 1 } else { self.queues() }
    }

    /// How many bytes to keep.
    pub(super) fn kept(&self) -> Result<u64> {
        size::parse(&self.keep_unflushed).context("--keep-unflushed")
    }

    /// Longest time to connect, if there is one.
    pub(super) fn limit(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.timeout)).filter(|limit| !limit.is_zero())
    }

    /// How to connect to the server.
    pub(super) fn options(&self, servers: &Servers) -> Result<ConnectOptions> {
        let limits = Limits::default().max_in_flight(IN_FLIGHT * self.connections);
        let config = ClientConfig::new().limits(limits);
        let limit = self.limit();
        // A server that is a command of ours dies with its connection, and what it held with it.
        let policy = match (self.once || servers.is_command(), self.reconnect) {
            (true, _) => return Ok(servers.options(config, limit)),
            (false, Some(seconds)) => Reconnect::new().give_up_after(Duration::from_secs(seconds)),
            (false, None) => Reconnect::new().give_up_after(Duration::MAX),
        };
        let policy = policy.max_delay(DELAY).allow_growth(true);
        let policy = match self.kept()? {
            bytes if bytes > 0 && !self.read_only => policy.keep_unflushed(bytes),
            _ => policy,
        };
        Ok(servers.options(config, limit).reconnect(policy))
    }

    /// What the command line does not let through, in a file.
    fn check(&self) -> std::result::Result<(), String> {
        if !(1..=16).contains(&self.connections) {
            return Err("there can be 1 to 16 connections".to_owned());
        }
        if self.reconnect.is_some_and(|seconds| !(1..=YEAR).contains(&seconds)) {
            return Err(format!("reconnect: 1 to {YEAR} seconds"));
        }
        if self.timeout > YEAR {
            return Err(format!("timeout: 0 to {YEAR} seconds"));
        }
        if self.once && self.reconnect.is_some() {
            return Err("once and reconnect exclude each other".to_owned());
        }
        size::parse(&self.keep_unflushed)
            .map(drop)
            .map_err(|error| format!("keep-unflushed: {error}"))
    }

    /// The same where the server can make nothing durable, so that keeping is of no use.
    pub(super) fn without_keeping(&self) -> Self {
        Self { keep_unflushed: "0".to_owned(), ..self.clone() }
    }

    /// Whether the user has not said what is to be kept.
    pub(super) fn keeps_by_default(&self) -> bool {
        self.keep_unflushed == KEPT
    }
}

/// One device of a file of many.
#[derive(Clone, Debug, Deserialize)]
struct Entry {
    uri: String,
    #[serde(flatten)]
    others: Others,
    #[serde(flatten)]
    rest: toml::Table,
}

/// A device, and what it is to be attached to.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) device: Device,
    pub(super) uri: String,
    pub(super) others: Others,
    pub(super) settings: Settings,
}

/// Reads a file of many devices.
pub(super) fn read(path: &Path) -> Result<Vec<Planned>> {
    let text = fs::read_to_string(path).context(path.display())?;
    parse(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn parse(text: &str) -> std::result::Result<Vec<Planned>, String> {
    let line = |error: &toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        before.map_or(1, |before| before.matches('\n').count() + 1)
    };
    let tables: toml::Table =
        toml::from_str(text).map_err(|e| format!("line {}: {}", line(&e), e.message()))?;
    let mut planned: Vec<Planned> = Vec::with_capacity(tables.len());
    for (name, table) in tables {
        let device: Device = name.parse()?;
        if planned.iter().any(|planned| planned.device == device) {
            return Err(format!("{device} is there twice"));
        }
        let toml::Value::Table(table) = table else {
            return Err(format!("{name}: write [{name}], and what belongs to it below"));
        };
        let told = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        let Entry { uri, others, rest } =
            table.try_into().map_err(|e: toml::de::Error| told(&e.message()))?;
        let settings: Settings =
            rest.try_into().map_err(|e: toml::de::Error| told(&e.message()))?;
        settings.check().and_then(|()| others.check()).map_err(|error| told(&error))?;
        planned.push(Planned { device, uri, others, settings });
    }
    planned.sort_by_key(|planned| planned.device);
    if planned.is_empty() {
        return Err("it names no device; write [nbd0], and what belongs to it below".to_owned());
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_devices_and_what_they_are_attached_to() {
        let text = "[nbd1]\nuri = \"nbd://a\"\n[nbd0]\nuri = \"nbd://b/c\"\nconnections = 4\n\
                    keep-unflushed = \"1M\"\nwait = true\n";
        let planned = parse(text).unwrap();
        assert_eq!(planned[0].device, Device::new(0));
        assert_eq!((planned[0].uri.as_str(), planned[0].settings.connections), ("nbd://b/c", 4));
        assert!(planned[0].settings.wait && !planned[1].settings.wait);
        assert_eq!(planned[0].settings.kept().unwrap(), 1 << 20);
        assert_eq!(planned[1].settings.kept().unwrap(), 64 << 20);
    }

    #[test]
    fn what_a_file_says_wrong_is_told() {
        for (text, expected) in [
            ("", "names no device"),
            ("[disk]\nuri = \"nbd://a\"", "`disk` is no device"),
            ("[nbd0]\nuir = \"nbd://a\"", "missing field `uri`"),
            ("[nbd0]\nuri = \"nbd://a\"\nconections = 4", "unknown field `conections`"),
            ("[nbd0]\nuri = \"nbd://a\"\nconnections = 99", "1 to 16"),
            ("[nbd0]\nuri = \"nbd://a\"\nkeep-unflushed = \"lots\"", "nbd0: keep-unflushed"),
            ("uri = \"nbd://a\"", "`uri` is no device"),
            ("nbd0 = \"nbd://a\"", "write [nbd0]"),
            ("[nbd0]\nuri = \"nbd://a\"\n[nbd1", "line 3: "),
            ("[nbd0]\nuri = \"nbd://a\"\n[nbd0]\nuri = \"nbd://b\"", "line 3: duplicate"),
            ("[nbd0]\nuri = \"nbd://a\"\n[\"/dev/nbd0\"]\nuri = \"nbd://b\"", "there twice"),
            ("[nbd0]\n[nbd1]\nuri = \"nbd://b\"", "nbd0: missing field `uri`"),
            ("[nbd0]\nuri = 5", "nbd0: invalid type"),
            ("[nbd0]\nuri = \"nbd://a\"\nreconnect = 0", "nbd0: reconnect: 1 to"),
            ("[nbd0]\nuri = \"nbd://a\"\nreconnect = 1\nonce = true", "exclude each other"),
            ("[nbd0]\nuri = \"nbd://a\"\nalso = \"nbd://b\"", "nbd0: invalid type"),
            ("[nbd0]\nuri = \"nbd://a\"\nspread = true", "nbd0: spread: there is nobody else"),
            ("[nbd0]\nuri = \"nbd://a\"\ntimeout = 99999999999", "nbd0: timeout: 0 to"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
