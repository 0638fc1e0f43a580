//! A TCP port on which nobody listens.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use super::PeerError;
use super::error::while_doing;

/// A TCP port of this machine, on every address of it, that stays closed as long as this is
/// there: it is bound, so nobody else gets it, and nobody listens.
#[derive(Debug)]
pub struct ClosedPort {
    number: u16,
    _socket: OwnedFd,
}

impl ClosedPort {
    /// Takes any port that is free.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`].
    pub fn new() -> Result<Self, PeerError> {
        Self::bind().map_err(while_doing("binding a port that stays closed"))
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    fn bind() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_ipv6_v6only(&socket, false)?;
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { number: bound.port(), _socket: socket })
    }
}
