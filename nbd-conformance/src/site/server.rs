//! The servers: one description of a disk, and what each program makes of it.

use nbd_sim::peer::{PeerError, Scratch, Server, ServerBuilder};
use nbd_sim::relay::{Beyond, Relay};

use super::{Credentials, Kind, Security, Site};

/// Size of the disk that most cases share, in bytes: more than one command can carry.
pub(crate) const SIZE: u64 = 34 << 20;

/// The export's name where it has one, with characters that a URI has to escape.
pub(crate) const NAME: &str = "größe ディスク/1";

/// Text for people where there is one.
pub(crate) const TEXT: &str = "a disk, für alle";

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// [`SIZE`] bytes under the empty name.
    Plain,
    /// This many bytes, sparse.
    Sized(u64),
    /// 1 MiB that cannot be changed.
    ReadOnly,
    /// 1 MiB called [`NAME`], and nothing else.
    Named,
}

impl Disk {
    fn size(self) -> u64 {
        match self {
            Self::Plain => SIZE,
            Self::Sized(size) => size,
            Self::ReadOnly | Self::Named => 1 << 20,
        }
    }
}

/// A server that runs.
pub(crate) struct Running {
    site: Site,
    pub(crate) server: Server,
    /// Holds the image, if there is one.
    _scratch: Option<Scratch>,
}

impl Site {
    /// Starts a server for a disk on a Unix socket.
    ///
    /// # Errors
    /// When the program is missing or does not start.
    pub(crate) fn start(self, disk: Disk) -> Result<Running, PeerError> {
        self.running(disk, |builder| builder)
    }

    /// Starts a server for a disk on a TCP port.
    ///
    /// # Errors
    /// When the program is missing or does not start.
    pub(crate) fn start_on_tcp(self, disk: Disk) -> Result<Running, PeerError> {
        self.running(disk, ServerBuilder::tcp)
    }

    fn running(
        self,
        disk: Disk,
        place: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Result<Running, PeerError> {
        let (builder, scratch) = match self.kind {
            Kind::Nbdkit => (nbdkit(disk), None),
            Kind::Qemu => {
                let scratch = Scratch::new()?;
                (qemu(disk, &scratch)?, Some(scratch))
            }
            Kind::Ours => (ours(disk), None),
        };
        let server = place(self.secured(builder)).start()?;
        Ok(Running { site: self, server, _scratch: scratch })
    }

    /// A server with arguments of its own, behind this site's security.
    ///
    /// # Errors
    /// When the program is missing or does not start.
    pub(crate) fn start_with(self, args: &[&str]) -> Result<Running, PeerError> {
        let builder = match self.kind {
            Kind::Nbdkit => Server::nbdkit(&[]),
            Kind::Qemu => Server::qemu_nbd(&[]),
            Kind::Ours => Server::nbd(&[]),
        };
        // nbdkit's own options go before its plugin.
        let builder = args.iter().fold(self.secured(builder), |builder, arg| builder.arg(*arg));
        Ok(Running { site: self, server: builder.start()?, _scratch: None })
    }

    fn secured(self, builder: ServerBuilder) -> ServerBuilder {
        let credentials = Credentials::ours();
        let dir = credentials.dir().display();
        let keys = credentials.keys().display().to_string();
        let args = match (self.kind, self.security) {
            (_, Security::Plain) => Vec::new(),
            (Kind::Nbdkit, Security::Tls) => vec![
                "--tls=require".to_owned(),
                "--tls-verify-peer".to_owned(),
                format!("--tls-certificates={dir}"),
            ],
            (Kind::Nbdkit, Security::Psk) => {
                vec!["--tls=require".to_owned(), format!("--tls-psk={keys}")]
            }
            (Kind::Qemu, Security::Tls) => vec![
                "--object".to_owned(),
                format!("tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir={dir}"),
                "--tls-creds=t".to_owned(),
            ],
            (Kind::Qemu, Security::Psk) => vec![
                "--object".to_owned(),
                format!("tls-creds-psk,id=t,endpoint=server,dir={dir}"),
                "--tls-creds=t".to_owned(),
            ],
            (Kind::Ours, Security::Tls) => {
                vec!["--tls-verify-peer".to_owned(), format!("--tls-certificates={dir}")]
            }
            (Kind::Ours, Security::Psk) => vec![format!("--tls-psk={keys}")],
        };
        args.into_iter().fold(builder, ServerBuilder::arg)
    }
}

fn nbdkit(disk: Disk) -> ServerBuilder {
    let size = disk.size().to_string();
    match disk {
        Disk::Plain | Disk::Sized(_) => Server::nbdkit(&["memory", &size]),
        Disk::ReadOnly => Server::nbdkit(&["-r", "memory", &size]),
        Disk::Named => Server::nbdkit(&[
            "--filter=exportname",
            "memory",
            &size,
            &format!("exportname={NAME}"),
            "exportname-list=explicit",
            "exportname-strict=true",
            &format!("exportdesc=fixed:{TEXT}"),
        ]),
    }
}

/// qcow2 tells holes from data whatever the file system can do; and nothing here has to
/// survive a power cut.
fn qemu(disk: Disk, scratch: &Scratch) -> Result<ServerBuilder, PeerError> {
    let raw = matches!(disk, Disk::Sized(size) if size < 1 << 30);
    let (format, image) = match raw {
        true => ("raw", scratch.raw_image("disk", disk.size())?),
        false => ("qcow2", scratch.qcow2_image("disk", disk.size())?),
    };
    let builder = Server::qemu_nbd(&["--cache=unsafe", "--discard=unmap", "-A", "-f", format]);
    let builder = match disk {
        Disk::Plain | Disk::Sized(_) => builder,
        Disk::ReadOnly => builder.arg("-r"),
        Disk::Named => builder.arg("-x").arg(NAME).arg("-D").arg(TEXT),
    };
    Ok(builder.arg(image))
}

fn ours(disk: Disk) -> ServerBuilder {
    let builder = Server::nbd(&["--memory"]).arg(disk.size().to_string());
    match disk {
        Disk::Plain | Disk::Sized(_) => builder,
        Disk::ReadOnly => builder.arg("--read-only"),
        Disk::Named => builder.arg("--export").arg(NAME).arg("--description").arg(TEXT),
    }
}

impl Running {
    /// Passes on so many connections; what comes after those is accepted and hears nothing.
    pub(crate) fn relayed(&self, served: usize) -> Relay {
        let socket = self.server.unix_path().expect("it has a Unix socket");
        Relay::start(socket, served, Beyond::Silence)
    }

    /// The URI of the default export, with the right credentials.
    pub(crate) fn uri(&self) -> String {
        self.uri_as("", self.site.security, Credentials::ours())
    }

    /// The URI of an export, with the right credentials.
    pub(crate) fn export_uri(&self, name: &str) -> String {
        self.uri_as(name, self.site.security, Credentials::ours())
    }

    /// The URI of an export, for a client that thinks so of the security.
    pub(crate) fn uri_as(
        &self,
        name: &str,
        security: Security,
        credentials: &Credentials,
    ) -> String {
        let plain = self.server.export_uri(name);
        let sign = if plain.contains('?') { '&' } else { '?' };
        let secure = plain.replacen("nbd", "nbds", 1);
        match security {
            Security::Plain => plain,
            Security::Tls => {
                let dir = credentials.dir().display();
                format!("{secure}{sign}tls-certificates={dir}")
            }
            Security::Psk => {
                let secure = secure.replacen("://", &format!("://{}@", Credentials::USER), 1);
                format!("{secure}{sign}tls-psk-file={}", credentials.keys().display())
            }
        }
    }
}
