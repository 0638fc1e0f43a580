//! From an NBD URI, or an endpoint, to a connected socket.
//!
//! ```text
//!   "nbd://host/export"          [ "nbdkit", … ]        a socket you have
//!           │ parse, all or nothing      │                     │
//!        NbdUri ── UriPolicy::check      │                     │
//!           │ endpoint()                 │                     │
//!        Endpoint ◄──────────────────────┘                     │
//!           │ connect(deadline)                                │ Connection::from_socket
//!        Connection { stream: Tcp | Unix | Vsock | Other, peer: the child process, if any }
//! ```
//!
//! Nothing here speaks the protocol: a [`Connection`] stands just before the first byte of the
//! server's greeting. The stream is in blocking mode and closed on exec, of a kind that converts
//! into the types of the standard library and of event loops.
//!
//! ```no_run
//! use nbd_transport::NbdUri;
//! use std::time::{Duration, Instant};
//!
//! let uri: NbdUri = "nbd://localhost/disk".parse()?;
//! let connection = uri.endpoint().connect(Some(Instant::now() + Duration::from_secs(10)))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-transport = "0.1"
//! ```
//!
//! The clients have it as their module `transport`: `nbd-client-blocking`, `nbd-client-mio`,
//! `nbd-client-tokio`, `nbd-client-futures`.
//!
//! # Platforms
//!
//! Linux, whole and tested. macOS and FreeBSD compile.

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
compile_error!("nbd-transport runs on Linux, macOS and FreeBSD; nbd-proto runs everywhere");

mod command;
mod connect;
mod connection;
mod endpoint;
mod keep_alive;
mod process;
mod socket;
mod ssh;
pub mod tls;
mod transient;
mod uri;

pub use command::{Activation, CommandSpec, FdName, FdNameError, PeerStderr};
pub use connect::{AddressOrder, Attempt, ConnectError, Dial, DialFd, DialStep, Step};
pub use connection::{Connection, Stream};
pub use endpoint::Endpoint;
pub use keep_alive::TcpKeepAlive;
pub use process::{OnDrop, PeerProcess, Signal, Spawn};
pub use socket::SocketIo;
pub use ssh::{SshRemote, SshTarget};
pub use uri::{
    AllowedTransports, MAX_PART_LEN, MAX_URI_LEN, NbdUri, Transport, UriAddress, UriError,
    UriPolicy, UriTls,
};

/// What this build can do.
pub mod supports {
    /// TLS with certificates: feature `tls` or `ring`.
    #[doc(alias = "nbd_supports_tls")]
    pub const TLS: bool = cfg!(feature = "x509");

    /// TLS with pre-shared keys: feature `psk`.
    #[doc(alias = "nbd_supports_tls")]
    pub const PSK: bool = cfg!(feature = "psk");

    /// Sockets between a virtual machine and its host.
    #[doc(alias = "nbd_supports_vsock")]
    pub const VSOCK: bool = cfg!(target_os = "linux");
}

/// The TCP and vsock port assigned to NBD, used where none is given.
pub const DEFAULT_PORT: u16 = 10809;

/// The vsock context id of the host, used where none is given.
pub const VSOCK_HOST_CID: u32 = 2;
