//! What TLS takes, from the command line.

use std::io;
use std::path::PathBuf;

use nbd_proto::TlsPolicy;
use nbd_transport::tls::{TlsAcceptor, TlsServerConfig};

/// How clients get TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    /// Whether they need it.
    pub(super) policy: TlsPolicy,
    /// Who this server is, and who may connect.
    pub(super) acceptor: TlsAcceptor,
}

/// Who this server is, who may connect, and whether clients may do without.
#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    #[command(flatten)]
    credentials: Credentials,
    /// Take only clients that show a certificate signed by one in ca-cert.pem
    #[arg(long, requires = "tls_certificates", conflicts_with = "tls_psk")]
    tls_verify_peer: bool,
    /// Whether clients may do without TLS
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Need::Require,
          requires = "credentials")]
    tls: Need,
}

/// What the two sides know each other by.
#[derive(Debug, clap::Args)]
#[group(id = "credentials", multiple = false)]
struct Credentials {
    /// A directory with server-cert.pem, server-key.pem, and ca-cert.pem to
    /// verify clients
    #[arg(long, value_name = "DIR")]
    tls_certificates: Option<PathBuf>,
    /// A file of pre-shared keys, one `username:hexkey` a line
    #[arg(long, value_name = "FILE")]
    tls_psk: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Need {
    /// Every client has to use TLS
    Require,
    /// Clients that do not ask for TLS are served in clear
    Allow,
}

impl TlsArgs {
    /// Reads the credentials; none without any.
    ///
    /// # Errors
    ///
    /// When they cannot be used; the message names the file.
    pub(super) fn read(&self) -> io::Result<Option<Tls>> {
        let Credentials { tls_certificates, tls_psk } = &self.credentials;
        let config = tls_certificates
            .as_ref()
            .map(|dir| TlsServerConfig::directory(dir).verify_clients(self.tls_verify_peer))
            .or_else(|| tls_psk.as_ref().map(TlsServerConfig::psk_file));
        let Some(config) = config else {
            return Ok(None);
        };
        let policy = match self.tls {
            Need::Require => TlsPolicy::Require,
            Need::Allow => TlsPolicy::Allow,
        };
        let acceptor = config
            .acceptor()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Some(Tls { policy, acceptor }))
    }
}
