//! From text to [`NbdUri`]. Everything is checked before anything is returned.
//!
//! ```text
//! uri    = scheme "://" [ user "@" ] [ host ] [ ":" port ] [ "/" export ] [ "?" query ]
//! query  = item *( ( "&" / ";" ) item )          item = name [ "=" value ]
//! ```

use super::error::{MAX_URI_LEN, UriError, shorten};
use super::query::{Query, decimal, port};
use super::scheme::{Scheme, Transport};
use super::text::{check_given, decode, path};
use super::{NbdUri, UriAddress, hint};
use crate::ssh::{SshRemote, SshTarget};
use crate::{DEFAULT_PORT, VSOCK_HOST_CID};
use fluent_uri::component::{Authority, Host};
use fluent_uri::{ParseError, ParseErrorKind, Uri};
use std::ops::Range;

pub(super) fn parse(text: &str) -> Result<NbdUri, UriError> {
    if text.len() > MAX_URI_LEN {
        return Err(UriError::TooLong { part: "URI", len: text.len(), max: MAX_URI_LEN });
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(UriError::MissingScheme { input: shorten(text), hint: hint::for_text(text) });
    };
    let scheme = Scheme::parse(scheme).ok_or_else(|| UriError::UnknownScheme(shorten(scheme)))?;

    let zone = zone(text);
    let plain = zone.as_ref().map_or_else(
        || text.to_owned(),
        |zone| format!("{}{}", &text[..zone.start], &text[zone.end..]),
    );
    let uri = Uri::parse(plain.as_str()).map_err(|error| syntax(text, error, zone.as_ref()))?;
    if uri.fragment().is_some() {
        return Err(UriError::Fragment);
    }
    let query = Query::parse(uri.query().map_or("", |query| query.as_str()))?;
    let authority = uri.authority();
    let zone = zone.map_or("", |zone| &text[zone]);
    let address = address(scheme, authority, zone, &query)?;

    let mut parsed = NbdUri::new(address, scheme.tls_required)?.with_tls(query.tls)?;
    if let Some(user) = authority.map(username).transpose()?.flatten() {
        parsed = parsed.with_username(user)?;
    }
    // Only ONE slash separates the export name from the authority: what follows belongs to the
    // name (uri.md, "NBD URI export name").
    let export = uri.path().as_str();
    parsed.with_export_name(decode("export name", export.strip_prefix('/').unwrap_or(export))?)
}

/// Where the text between the brackets of an IPv6 address stands.
fn brackets(text: &str) -> Option<Range<usize>> {
    let start = text.find("://")? + 3;
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |len| start + len);
    let open = start + text[start..end].find('[')? + 1;
    let close = text[open..end].find(']').map_or(end, |len| open + len);
    Some(open..close)
}

/// Where the zone of an IPv6 address stands, with the `%25` before it (RFC 6874).
///
/// RFC 3986 alone does not know zones, so the zone is cut out before the rest is parsed.
fn zone(text: &str) -> Option<Range<usize>> {
    let literal = brackets(text)?;
    let zone = literal.start + text[literal.clone()].find("%25")?;
    Some(zone..literal.end)
}

fn syntax(text: &str, error: ParseError, zone: Option<&Range<usize>>) -> UriError {
    // The parser saw the text without its zone.
    let index = match zone {
        Some(zone) if error.index() >= zone.start => error.index() + zone.len(),
        _ => error.index(),
    };
    if let Some(literal) = brackets(text).filter(|literal| literal.contains(&index)) {
        return UriError::Ipv6(shorten(&text[literal]));
    }
    match (error.kind(), text.get(index..).and_then(|rest| rest.chars().next())) {
        (_, None) => UriError::Truncated,
        (ParseErrorKind::InvalidPctEncodedOctet, Some(_)) => UriError::PercentEncoding { index },
        (ParseErrorKind::UnexpectedChar | ParseErrorKind::InvalidIpv6Addr, Some(found)) => {
            UriError::Character { found, index }
        }
    }
}

fn username(authority: Authority<'_>) -> Result<Option<String>, UriError> {
    let raw = authority.userinfo().map_or("", |user| user.as_str());
    if raw.contains(':') {
        return Err(UriError::Password);
    }
    let user = decode("user name", raw)?;
    Ok(if user.is_empty() { None } else { Some(user) })
}

fn address(
    scheme: Scheme,
    authority: Option<Authority<'_>>,
    zone: &str,
    query: &Query,
) -> Result<UriAddress, UriError> {
    let misplaced = |part| Err(UriError::Misplaced { scheme: scheme.as_str(), part });
    if scheme.transport != Transport::Ssh {
        if query.nbd_port.is_some() {
            return misplaced("the nbd-port parameter");
        }
        if query.compress.is_some() {
            return misplaced("the compress parameter");
        }
    }
    let port_text =
        authority.and_then(|authority| authority.port()).map_or("", |port| port.as_str());
    match scheme.transport {
        Transport::Tcp | Transport::Vsock if query.socket.is_some() => {
            misplaced("the socket parameter")
        }
        Transport::Tcp => {
            let host = host(authority, zone)?;
            let host = if host.is_empty() { "localhost".to_owned() } else { host };
            let port = port("port", port_text)?.unwrap_or(DEFAULT_PORT);
            Ok(UriAddress::Tcp { host, port })
        }
        Transport::Vsock => {
            let (cid, expected) = (host(authority, zone)?, "a decimal number below 2^32");
            Ok(UriAddress::Vsock {
                cid: match cid.as_str() {
                    "" => VSOCK_HOST_CID,
                    cid => decimal("vsock context id", cid, expected)?,
                },
                port: match port_text {
                    "" => u32::from(DEFAULT_PORT),
                    port => decimal("vsock port", port, expected)?,
                },
            })
        }
        // A Unix socket has no host: what the authority says is ignored, but for the user name.
        Transport::Unix => match query.socket.as_deref() {
            None => Err(UriError::Missing {
                scheme: scheme.as_str(),
                what: "the socket parameter, as in nbd+unix:///?socket=/path",
            }),
            Some([0, name @ ..]) => Ok(UriAddress::UnixAbstract { name: name.to_vec() }),
            Some(bytes) => Ok(UriAddress::Unix { path: path(bytes.to_vec()) }),
        },
        Transport::Ssh => {
            let host = host(authority, zone)?;
            if host.is_empty() {
                return Err(UriError::Missing { scheme: scheme.as_str(), what: "a host" });
            }
            let remote = match &query.socket {
                Some(_) if query.nbd_port.is_some() => {
                    return misplaced("the nbd-port parameter beside the socket parameter");
                }
                Some(bytes) => {
                    check_given("socket path", bytes)?;
                    SshRemote::Unix(path(bytes.clone()))
                }
                None => SshRemote::Tcp { port: query.nbd_port.unwrap_or(DEFAULT_PORT) },
            };
            let port = port("ssh port", port_text)?;
            let compress = query.compress.unwrap_or(false);
            Ok(UriAddress::Ssh(SshTarget { host, user: None, port, compress, remote }))
        }
    }
}

/// The host as text: a name, an IPv4 address, or an IPv6 address without brackets and with its
/// zone after a single `%`.
fn host(authority: Option<Authority<'_>>, zone: &str) -> Result<String, UriError> {
    let Some(authority) = authority else {
        return Ok(String::new());
    };
    match authority.host_parsed() {
        Host::Ipv4 { .. } => Ok(authority.host().to_owned()),
        Host::RegName(name) => decode("host", name.as_str()),
        Host::Ipv6 { .. } => {
            let address = authority.host().trim_matches(['[', ']']);
            let Some(zone) = zone.strip_prefix("%25") else {
                return Ok(address.to_owned());
            };
            let zone = decode("IPv6 zone", zone)?;
            check_given("IPv6 zone", zone.as_bytes())?;
            Ok(format!("{address}%{zone}"))
        }
        _ => Err(UriError::Ipv6(shorten(authority.host().trim_matches(['[', ']'])))),
    }
}
