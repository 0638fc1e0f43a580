//! Who may use an export, and how.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;

use nbd_transport::tls::TlsPeer;

use crate::peer::{Peer, PeerAddress};

/// What a client may be known by. Written as text:
///
/// | text | matches |
/// |---|---|
/// | `10.0.0.0/8`, `::1` | clients on TCP with such an address |
/// | `uid:1000`, `gid:100` | processes on this machine, on Unix sockets |
/// | `vsock:3` | the virtual machine with this context id |
/// | `cert:host.example` | clients whose certificate has this name; nobody, unless the server verifies clients (`TlsServerConfig::verify_clients`) |
/// | `psk:alice` | clients with the pre-shared key of this user |
/// | `*` | every client |
///
/// Users and groups have the numbers that the server's user name space gives them. All who have
/// none there look alike, as `overflowuid` and `overflowgid` of the system, usually 65534: no
/// rule for that number matches anybody, for it would match all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessRule {
    /// Every client.
    Anybody,
    /// A network, by one of its addresses and the length of its prefix in bits.
    Network(IpAddr, u8),
    /// A user of this machine.
    User(u32),
    /// A group of this machine, the effective one of the process.
    Group(u32),
    /// A virtual machine.
    Vsock(u32),
    /// A name in a certificate.
    Certificate(String),
    /// A user of a pre-shared key.
    PresharedKey(String),
}

/// A text that is no [`AccessRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct AccessRuleError(BadRule);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum BadRule {
    #[error(
        "`{0}` names nobody: it should be an address, a network such as 10.0.0.0/8, uid:, gid:, \
         vsock:, cert:, psk: or *"
    )]
    NamesNobody(String),
    #[error("`{0}` would be for everybody who has no number here: give those whom you mean one")]
    NamesStrangers(String),
}

/// The numbers of users and groups who have none in this user name space.
#[derive(Clone, Copy, Debug)]
struct Strangers {
    uid: u32,
    gid: u32,
}

static STRANGERS: LazyLock<Strangers> = LazyLock::new(|| {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    // What the kernel has unless it was told otherwise.
    let or_usual = |number: Option<u32>| number.unwrap_or(65534);
    Strangers {
        uid: or_usual(number("/proc/sys/kernel/overflowuid")),
        gid: or_usual(number("/proc/sys/kernel/overflowgid")),
    }
});

impl AccessRule {
    /// Whether a client is meant.
    #[must_use]
    pub fn matches(&self, peer: &Peer) -> bool {
        if self.names_strangers() {
            return false;
        }
        let proof = peer.tls.as_ref().map(|tls| &tls.peer);
        match (self, &peer.address) {
            (Self::Anybody, _) => true,
            (Self::Network(network, prefix), PeerAddress::Tcp(address)) => {
                is_within(address.ip().to_canonical(), *network, *prefix)
            }
            (Self::User(wanted), PeerAddress::Unix { uid, .. }) => wanted == uid,
            (Self::Group(wanted), PeerAddress::Unix { gid, .. }) => wanted == gid,
            (Self::Vsock(wanted), PeerAddress::Vsock { cid, .. }) => wanted == cid,
            (Self::Certificate(wanted), _) => {
                matches!(proof, Some(TlsPeer::Certificate { names, .. })
                    if names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
            }
            (Self::PresharedKey(wanted), _) => {
                matches!(proof, Some(TlsPeer::PresharedKey { username }) if username == wanted)
            }
            (Self::Network(..) | Self::User(_) | Self::Group(_) | Self::Vsock(_), _) => false,
        }
    }

    /// Whether it means a user or a group who may be anybody.
    fn names_strangers(&self) -> bool {
        match self {
            Self::User(uid) => *uid == STRANGERS.uid,
            Self::Group(gid) => *gid == STRANGERS.gid,
            Self::Anybody
            | Self::Network(..)
            | Self::Vsock(_)
            | Self::Certificate(_)
            | Self::PresharedKey(_) => false,
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

impl FromStr for AccessRule {
    type Err = AccessRuleError;

    fn from_str(text: &str) -> Result<Self, AccessRuleError> {
        let bad = || AccessRuleError(BadRule::NamesNobody(text.to_owned()));
        let number = |text: &str| text.parse().map_err(|_| bad());
        if text == "*" {
            return Ok(Self::Anybody);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        if let Ok(address) = address.parse::<IpAddr>() {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| bad()))?;
            return if prefix <= longest { Ok(Self::Network(address, prefix)) } else { Err(bad()) };
        }
        let rule = match text.split_once(':') {
            Some((_, "")) | None => return Err(bad()),
            Some(("uid", id)) => Self::User(number(id)?),
            Some(("gid", id)) => Self::Group(number(id)?),
            Some(("vsock", cid)) => Self::Vsock(number(cid)?),
            Some(("cert", name)) => Self::Certificate(name.to_owned()),
            Some(("psk", user)) => Self::PresharedKey(user.to_owned()),
            Some(_) => return Err(bad()),
        };
        if rule.names_strangers() {
            return Err(AccessRuleError(BadRule::NamesStrangers(text.to_owned())));
        }
        Ok(rule)
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("*"),
            Self::Network(address, prefix) => write!(f, "{address}/{prefix}"),
            Self::User(uid) => write!(f, "uid:{uid}"),
            Self::Group(gid) => write!(f, "gid:{gid}"),
            Self::Vsock(cid) => write!(f, "vsock:{cid}"),
            Self::Certificate(name) => write!(f, "cert:{name}"),
            Self::PresharedKey(user) => write!(f, "psk:{user}"),
        }
    }
}

/// Who may use an export, and who may only read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    users: Vec<AccessRule>,
    readers: Vec<AccessRule>,
}

impl Access {
    /// For nobody.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { users: Vec::new(), readers: Vec::new() }
    }

    /// Who matches may use it as the export allows.
    #[must_use]
    pub fn users(mut self, rules: impl IntoIterator<Item = AccessRule>) -> Self {
        self.users.extend(rules);
        self
    }

    /// Who matches, and is no user, may read it.
    #[must_use]
    pub fn readers(mut self, rules: impl IntoIterator<Item = AccessRule>) -> Self {
        self.readers.extend(rules);
        self
    }

    /// Whether a client may use the export, and if so whether it may only read it.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Option<ReadOnly> {
        let any = |rules: &[AccessRule]| rules.iter().any(|rule| rule.matches(peer));
        if any(&self.users) {
            Some(ReadOnly(false))
        } else {
            any(&self.readers).then_some(ReadOnly(true))
        }
    }
}

/// Whether a client may only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a yes or no with a name")]
pub struct ReadOnly(pub bool);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: PeerAddress) -> Peer {
        Peer { address, tls: None }
    }

    fn tcp(address: &str) -> Peer {
        peer(PeerAddress::Tcp(address.parse().unwrap()))
    }

    #[test]
    fn rules_are_read_and_written_alike() {
        for text in
            ["*", "10.0.0.0/8", "::1/128", "uid:0", "gid:7", "vsock:3", "cert:a.b", "psk:al"]
        {
            assert_eq!(text.parse::<AccessRule>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1".parse::<AccessRule>().unwrap().to_string(), "10.0.0.1/32");
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "uid:", "uid:me", "user:1", "host.example"]
        {
            assert!(text.parse::<AccessRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_means_its_own_kind_only() {
        let local = peer(PeerAddress::Unix { pid: 1, uid: 1000, gid: 100 });
        for (rule, peer, expected) in [
            ("10.0.0.0/8", tcp("10.1.2.3:4"), true),
            ("10.0.0.0/8", tcp("11.1.2.3:4"), false),
            // An IPv4 client on a socket of IPv6.
            ("10.0.0.0/8", tcp("[::ffff:10.1.2.3]:4"), true),
            ("0.0.0.0/0", tcp("[2001:db8::1]:4"), false),
            ("2001:db8::/32", tcp("[2001:db8:1::1]:4"), true),
            ("0.0.0.0/0", local.clone(), false),
            ("uid:1000", local.clone(), true),
            ("uid:1001", local.clone(), false),
            ("gid:100", local.clone(), true),
            ("cert:any", local, false),
            ("*", peer(PeerAddress::Unknown), true),
        ] {
            let rule: AccessRule = rule.parse().unwrap();
            assert_eq!(rule.matches(&peer), expected, "{rule} and {peer}");
        }
    }

    #[test]
    fn nobody_is_let_in_by_the_number_of_those_who_have_none() {
        let Strangers { uid, gid } = *STRANGERS;
        let stranger = peer(PeerAddress::Unix { pid: 0, uid, gid });
        assert!(!AccessRule::User(uid).matches(&stranger));
        assert!(!AccessRule::Group(gid).matches(&stranger));
        for text in [format!("uid:{uid}"), format!("gid:{gid}")] {
            let error = text.parse::<AccessRule>().unwrap_err();
            assert!(error.to_string().contains("no number here"), "{error}");
        }
    }

    #[test]
    fn users_write_and_readers_read() {
        let access = Access::nobody()
            .users(["127.0.0.1".parse().unwrap()])
            .readers(["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(access.of(&tcp("127.0.0.1:1")), Some(ReadOnly(false)));
        assert_eq!(access.of(&tcp("127.0.0.2:1")), Some(ReadOnly(true)));
        assert_eq!(access.of(&tcp("192.0.2.1:1")), None);
    }
}
