//! Where a connection leads, told as a URI.

use nbd_transport::{Endpoint, NbdUri, Stream, UriError};

/// How a connection was made.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// From a URI.
    Uri(Box<NbdUri>),
    /// From an endpoint.
    Endpoint(Endpoint),
    /// It was handed over.
    Given,
}

impl Origin {
    /// The URI that leads to the same export once more.
    ///
    /// What was connected to comes first, because a host name says more than the address
    /// it was resolved to. Where there is none, the socket knows its peer: so it is for
    /// an activated program, whose socket lives as long as the connection, and for a
    /// socket that was handed over.
    pub(crate) fn to_uri(
        &self,
        stream: &Stream,
        export: &str,
        tls: bool,
    ) -> Result<NbdUri, UriError> {
        let uri = match self {
            Self::Uri(uri) => {
                let again = NbdUri::new(uri.address().clone(), tls || uri.tls_required())?
                    .with_tls(uri.tls().clone())?;
                match uri.username() {
                    Some(name) => again.with_username(name)?,
                    None => again,
                }
            }
            Self::Endpoint(endpoint @ (Endpoint::Command(_) | Endpoint::SocketActivation(_))) => {
                let found = peer(stream).ok_or_else(|| UriError::NoUri(endpoint.to_string()))?;
                NbdUri::from_endpoint(&found, tls)?
            }
            Self::Endpoint(endpoint) => NbdUri::from_endpoint(endpoint, tls)?,
            Self::Given => {
                let nameless = || UriError::NoUri("a socket without an address".to_owned());
                NbdUri::from_endpoint(&peer(stream).ok_or_else(nameless)?, tls)?
            }
        };
        uri.with_export_name(export)
    }
}

/// What the socket is connected to, if that has a name.
fn peer(stream: &Stream) -> Option<Endpoint> {
    match stream {
        Stream::Tcp(socket) => socket.peer_addr().ok().map(Endpoint::Address),
        Stream::Unix(socket) => {
            let address = socket.peer_addr().ok()?;
            address.as_pathname().map(|path| Endpoint::Unix(path.to_owned()))
        }
        Stream::Vsock(_) | Stream::Other(_) => None,
    }
}
