//! From [`NbdUri`] to text that parses back to the same value.

use super::text::path_bytes;
use super::{NbdUri, UriAddress};
use crate::DEFAULT_PORT;
use crate::ssh::SshRemote;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};
use std::fmt;
use std::net::Ipv6Addr;

/// All but the unreserved characters of RFC 3986 section 2.3.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A slash means itself in an export name and in a query.
const RESERVED_BUT_SLASH: AsciiSet = RESERVED.remove(b'/');

fn escape(bytes: &[u8]) -> PercentEncode<'_> {
    percent_encode(bytes, &RESERVED)
}

fn escape_path(bytes: &[u8]) -> PercentEncode<'_> {
    percent_encode(bytes, &RESERVED_BUT_SLASH)
}

impl fmt::Display for NbdUri {
    /// The canonical URI: default ports are left out, and everything that could be mistaken for
    /// syntax is percent-encoded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme().as_str())?;
        if let Some(user) = self.username() {
            write!(f, "{}@", escape(user.as_bytes()))?;
        }
        match &self.address {
            UriAddress::Tcp { host, port } => {
                write_host(f, host)?;
                write_port(f, u32::from(*port), Some(DEFAULT_PORT))?;
            }
            UriAddress::Vsock { cid, port } => {
                write!(f, "{cid}")?;
                write_port(f, *port, Some(DEFAULT_PORT))?;
            }
            UriAddress::Ssh(target) => {
                write_host(f, &target.host)?;
                if let Some(port) = target.port {
                    write_port(f, u32::from(port), None)?;
                }
            }
            UriAddress::Unix { .. } | UriAddress::UnixAbstract { .. } => {}
        }
        write!(f, "/{}", escape_path(self.export_name.as_bytes()))?;
        self.write_query(f)
    }
}

impl NbdUri {
    fn write_query(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = QueryWriter { f, separator: '?' };
        match &self.address {
            UriAddress::Tcp { .. } | UriAddress::Vsock { .. } => {}
            UriAddress::Unix { path } => query.item("socket", path_bytes(path))?,
            UriAddress::UnixAbstract { name } => {
                query.item("socket", &[b"\0", name.as_slice()].concat())?;
            }
            UriAddress::Ssh(target) => {
                match &target.remote {
                    SshRemote::Unix(path) => query.item("socket", path_bytes(path))?,
                    SshRemote::Tcp { port: DEFAULT_PORT } => {}
                    SshRemote::Tcp { port } => {
                        query.item("nbd-port", port.to_string().as_bytes())?;
                    }
                }
                if target.compress {
                    query.item("compress", b"1")?;
                }
            }
        }
        if let Some(path) = &self.tls.certificates {
            query.item("tls-certificates", path_bytes(path))?;
        }
        if let Some(path) = &self.tls.psk_file {
            query.item("tls-psk-file", path_bytes(path))?;
        }
        if let Some(name) = &self.tls.hostname {
            query.item("tls-hostname", name.as_bytes())?;
        }
        if let Some(verify) = self.tls.verify_peer {
            query.item("tls-verify-peer", if verify { b"1" } else { b"0" })?;
        }
        Ok(())
    }
}

struct QueryWriter<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    separator: char,
}

impl QueryWriter<'_, '_> {
    fn item(&mut self, name: &str, value: &[u8]) -> fmt::Result {
        let separator = std::mem::replace(&mut self.separator, '&');
        write!(self.f, "{separator}{name}={}", escape_path(value))
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    match split_ipv6(host) {
        Some((address, None)) => write!(f, "[{address}]"),
        Some((address, Some(zone))) => write!(f, "[{address}%25{}]", escape(zone.as_bytes())),
        None => write!(f, "{}", escape(host.as_bytes())),
    }
}

/// An IPv6 address and its zone, if `host` is one.
fn split_ipv6(host: &str) -> Option<(&str, Option<&str>)> {
    let (address, zone) = match host.split_once('%') {
        Some((_, "")) => return None,
        Some((address, zone)) => (address, Some(zone)),
        None => (host, None),
    };
    address.parse::<Ipv6Addr>().ok().map(|_| (address, zone))
}

fn write_port(f: &mut fmt::Formatter<'_>, port: u32, default: Option<u16>) -> fmt::Result {
    if default.map(u32::from) == Some(port) {
        return Ok(());
    }
    write!(f, ":{port}")
}
