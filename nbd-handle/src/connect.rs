//! To whom.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use nbd_proto::TlsPolicy;
use nbd_session::{ConnectOptions, Target};
use nbd_transport::{Activation, CommandSpec, Connection, Endpoint, FdName, NbdUri};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::fail::Fail;
use crate::handle::{Handle, Memory, not_connected};
use crate::state::State;

/// Whom to connect to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Destination {
    /// What a URI says; it sets the export, and whatever else it speaks of.
    Uri(String),
    /// A Unix socket.
    Unix(PathBuf),
    /// A Unix socket of the abstract namespace, by its name without the leading NUL.
    UnixAbstract(Vec<u8>),
    /// A port of a host.
    Tcp {
        /// Name or address.
        host: String,
        /// Number.
        port: String,
    },
    /// A port of an address.
    Address(SocketAddr),
    /// A vsock port.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A socket that is connected already.
    Socket(OwnedFd),
    /// A program that serves its standard input and output, and its arguments.
    Command(Vec<OsString>),
    /// A program that takes its socket from systemd's convention, and its arguments.
    Activation(Vec<OsString>),
}

impl<B: Memory> Handle<B> {
    /// Connects, and waits until commands or, in option mode, options are accepted.
    ///
    /// # Errors
    /// When that is not reached.
    pub fn connect(&mut self, destination: Destination) -> Result<(), Fail> {
        self.start_connecting(destination)?;
        while self.state == State::Connecting {
            self.turn()?;
        }
        match self.state {
            State::Negotiating | State::Ready | State::Processing => Ok(()),
            State::Created | State::Connecting | State::Dead | State::Closed => {
                self.take_cause()?;
                Err(not_connected())
            }
        }
    }

    /// Begins to connect, and does what can be done without waiting. The name of a host is
    /// looked up, though, which may take its time.
    ///
    /// # Errors
    /// When it has failed already.
    pub fn start_connecting(&mut self, destination: Destination) -> Result<(), Fail> {
        let now = Instant::now();
        let (target, given) = match self.target(destination)? {
            Way::To(endpoint) => (Target::Endpoint(endpoint), None),
            Way::Given(connection) => (Target::Given, Some(connection)),
        };
        let local = matches!(
            &target,
            Target::Endpoint(
                Endpoint::Unix(_)
                    | Endpoint::UnixAbstract(_)
                    | Endpoint::Command(_)
                    | Endpoint::SocketActivation(_)
            )
        );
        let options = ConnectOptions::new()
            .config(self.settings.config(self.level))
            .tls(self.settings.tls, self.settings.tls_config(local))
            .late_credentials(true)
            .target(target);
        let engine = Engine::start(options, given, self.level.has_large_buffers(), now)?;
        self.engine = Some(engine);
        self.state = State::Connecting;
        self.send(now);
        if matches!(self.state, State::Dead | State::Created) { self.take_cause() } else { Ok(()) }
    }

    fn target(&mut self, destination: Destination) -> Result<Way, Fail> {
        let endpoint = match destination {
            Destination::Uri(text) => return self.take_uri(&text),
            Destination::Unix(path) => Endpoint::Unix(path),
            Destination::UnixAbstract(name) => Endpoint::UnixAbstract(name),
            Destination::Tcp { host, port } => {
                let number = match port.parse() {
                    Ok(number) => number,
                    Err(_) if port == "nbd" => nbd_transport::DEFAULT_PORT,
                    Err(_) => return Err(Fail::invalid(format!("{port:?} is no port number"))),
                };
                Endpoint::Tcp { host, port: number }
            }
            Destination::Address(address) => Endpoint::Address(address),
            Destination::Vsock { cid, port } => Endpoint::Vsock { cid, port },
            Destination::Socket(socket) => {
                let connection = Connection::from_socket(socket);
                let connection = connection.map_err(nbd_session::Error::from)?;
                return Ok(Way::Given(connection));
            }
            Destination::Command(argv) => Endpoint::Command(command(argv)?),
            Destination::Activation(argv) => {
                let name = match self.settings.activation_name.as_str() {
                    "" => FdName::default(),
                    name => FdName::new(name).map_err(|error| Fail::invalid(error.to_string()))?,
                };
                Endpoint::SocketActivation(Activation::new(command(argv)?, name))
            }
        };
        self.address = Some(endpoint.clone());
        Ok(Way::To(endpoint))
    }

    /// Nothing is set before all of it is known to be right.
    fn take_uri(&mut self, text: &str) -> Result<Way, Fail> {
        let parsed = text.parse::<NbdUri>().map_err(nbd_session::Error::from)?;
        self.settings.uri_policy().check(&parsed).map_err(nbd_session::Error::from)?;
        let settings = &mut self.settings;
        if parsed.tls_required() {
            settings.tls = TlsPolicy::Require;
        }
        parsed.export_name().clone_into(&mut settings.export_name);
        if let Some(name) = parsed.username() {
            settings.username = Some(name.to_owned());
        }
        let tls = parsed.tls();
        if let Some(dir) = &tls.certificates {
            settings.certificates = Some(dir.clone());
        }
        if let Some(file) = &tls.psk_file {
            settings.psk_file = Some(file.clone());
        }
        if let Some(name) = &tls.hostname {
            settings.hostname = Some(name.clone());
        }
        if let Some(verify) = tls.verify_peer {
            settings.verify_peer = Some(verify);
        }
        self.address = Some(parsed.endpoint());
        Ok(Way::To(parsed.endpoint()))
    }
}

enum Way {
    To(Endpoint),
    Given(Connection),
}

fn command(argv: Vec<OsString>) -> Result<CommandSpec, Fail> {
    let mut argv = argv.into_iter();
    let program = argv.next().ok_or_else(|| Fail::new(Errno::INVAL, "no program to start"))?;
    Ok(CommandSpec::new(program, argv))
}
