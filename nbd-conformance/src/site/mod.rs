//! Where a cell of the matrix happens: which server, how it is reached, which disk it has.

mod credentials;
mod quitter;
mod server;

pub(crate) use credentials::Credentials;
pub(crate) use quitter::Quitter;
pub(crate) use server::{Disk, NAME, Running, SIZE, TEXT};

/// The server's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nbdkit.
    Nbdkit,
    /// qemu-nbd.
    Qemu,
    /// This project's own `nbd serve`.
    Ours,
}

/// What lies between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing.
    Plain,
    /// TLS, both sides showing certificates.
    Tls,
    /// TLS with a pre-shared key.
    Psk,
}

/// A kind of server behind a kind of security.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) kind: Kind,
    pub(crate) security: Security,
}
