//! The URI of a connection.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use nbd_proto::TlsPolicy;
use nbd_transport::{Endpoint, NbdUri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::io::Errno;

use crate::fail::Fail;
use crate::handle::{Handle, Memory};

/// What stands as it is in a path or a query (RFC 3986, "Path").
const KEPT: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b',');

fn escaped(bytes: &[u8]) -> String {
    percent_encode(bytes, &KEPT).to_string()
}

/// Whether a text begins like an NBD URI. It may still be refused.
#[must_use]
pub fn is_uri(text: &str) -> bool {
    NbdUri::is_uri(text)
}

impl<B: Memory> Handle<B> {
    /// A URI that leads to the same export. Ports are always told, as libnbd does.
    ///
    /// # Errors
    /// When the server has no address: a program on its standard input and output, or a socket
    /// that was handed over; an abstract socket.
    pub fn uri(&self) -> Result<String, Fail> {
        let none = |what: &str| Fail::invalid(format!("{what} has no URI"));
        let engine = self.engine.as_ref();
        let meant = self.address.as_ref();
        let address = match meant {
            Some(Endpoint::SocketActivation(_)) => {
                engine.and_then(|engine| engine.address.as_ref())
            }
            Some(Endpoint::Command(_)) => return Err(none("a program")),
            meant => meant,
        };
        let address = address.ok_or_else(|| none("a socket that was handed over"))?;
        let (transport, place, socket) = match address {
            Endpoint::Tcp { host, port } if host.contains(':') => {
                ("", format!("[{host}]:{port}"), None)
            }
            Endpoint::Tcp { host, port } => ("", format!("{host}:{port}"), None),
            Endpoint::Address(address) => ("", address.to_string(), None),
            Endpoint::Vsock { cid, port } => ("+vsock", format!("{cid}:{port}"), None),
            Endpoint::Unix(path) => ("+unix", String::new(), Some(path)),
            Endpoint::UnixAbstract(_) => {
                return Err(Fail::new(Errno::PROTONOSUPPORT, "an abstract socket has no URI"));
            }
            Endpoint::Ssh(_) => {
                let uri = NbdUri::from_endpoint(address, self.facts.tls);
                let uri = uri.and_then(|uri| uri.with_export_name(&self.settings.export_name));
                return Ok(uri.map_err(nbd_session::Error::from)?.to_string());
            }
            Endpoint::Command(_) | Endpoint::SocketActivation(_) => return Err(none("a program")),
            _ => return Err(none("a connection of this kind")),
        };
        let settings = &self.settings;
        let tls = settings.tls == TlsPolicy::Require || self.facts.tls;
        let mut uri = format!("{}{transport}://", if tls { "nbds" } else { "nbd" });
        if let Some(name) = &settings.username {
            uri.push_str(&escaped(name.as_bytes()));
            uri.push('@');
        }
        uri.push_str(&place);
        uri.push('/');
        uri.push_str(&escaped(settings.export_name.as_bytes()));
        let mut separator = '?';
        let mut add = |name: &str, value: &[u8]| {
            // Writing to a string does not fail.
            let _ = write!(uri, "{separator}{name}={}", escaped(value));
            separator = '&';
        };
        if let Some(path) = socket {
            add("socket", path.as_os_str().as_bytes());
        }
        if let Some(dir) = &settings.certificates {
            add("tls-certificates", dir.as_os_str().as_bytes());
        }
        if let Some(file) = &settings.psk_file {
            add("tls-psk-file", file.as_os_str().as_bytes());
        }
        Ok(uri)
    }
}
