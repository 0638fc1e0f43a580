//! Where to listen.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use listenfd::ListenFd;
use nbd_server::{Listener, ServerHandle};
use rustix::fs::{FileType, fstat};
use tempfile::TempDir;

/// Where to listen; in several places at once if wanted.
#[derive(Debug, clap::Args)]
pub(super) struct ListenArgs {
    /// A Unix socket
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// A TCP address: HOST, HOST:PORT or :PORT, IPv6 in brackets; port 0 is any free one
    #[arg(long, value_name = "ADDRESS")]
    tcp: Vec<String>,
    /// A Unix socket in the abstract namespace of Linux
    #[arg(long = "abstract", value_name = "NAME")]
    abstract_name: Option<String>,
    /// A vsock port, for virtual machines
    #[arg(long, value_name = "PORT")]
    vsock: Option<u32>,
    /// Serve the one client at standard input, as inetd wants it, or at standard input and
    /// output, if they are pipes, and end with it
    #[arg(long, conflicts_with_all = ["unix", "tcp", "abstract_name", "vsock", "run"])]
    pub(super) single: bool,
    /// Serve for as long as this shell command runs, which finds the URI in $uri,
    /// and exit as it does; without a place to listen, at a socket of its own
    #[arg(long, value_name = "COMMAND")]
    pub(super) run: Option<String>,
}

/// Where clients come in.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listeners: Vec<Listener>,
    /// A client that is there already.
    pub(super) client: Option<Client>,
    /// Whether the sockets were passed by who started us, and so need not be told.
    pub(super) passed: bool,
    /// Where a socket of our own is.
    _directory: Option<TempDir>,
}

/// A client that is there already.
#[derive(Debug)]
pub(super) enum Client {
    /// At a socket.
    Socket(OwnedFd),
    /// At two pipes, or whatever standard input and output are.
    Pipes(File, File),
}

impl Client {
    fn at_standard_input() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let is_socket = FileType::from_raw_mode(fstat(&input)?.st_mode) == FileType::Socket;
        Ok(if is_socket {
            Self::Socket(input)
        } else {
            Self::Pipes(input.into(), io::stdout().as_fd().try_clone_to_owned()?.into())
        })
    }

    /// # Errors
    ///
    /// When it is no stream.
    pub(super) fn be_served_by(self, server: &ServerHandle) -> io::Result<()> {
        match self {
            Self::Socket(socket) => server.serve(socket),
            Self::Pipes(input, output) => server.serve_stream(input, output),
        }
    }
}

impl ListenArgs {
    /// Begins to listen. Sockets that an init system, or a client, passes are used too.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, or there is none; the message says which.
    pub(super) fn listen(&self) -> io::Result<Listening> {
        let mut listening =
            Listening { listeners: Vec::new(), client: None, passed: false, _directory: None };
        if self.single {
            listening.client = Some(Client::at_standard_input()?);
            return Ok(listening);
        }
        let mut passed = ListenFd::from_env();
        for i in 0..passed.len() {
            if let Some(listener) = passed.take_unix_listener(i).ok().flatten() {
                listening.listeners.push(Listener::passed(listener.into())?);
            } else if let Some(listener) = passed.take_tcp_listener(i)? {
                listening.listeners.push(Listener::passed(listener.into())?);
            }
        }
        listening.passed = !listening.listeners.is_empty();
        if let Some(path) = &self.unix {
            listening.listeners.push(Listener::unix(path)?);
        }
        for address in &self.tcp {
            listening.listeners.push(Listener::tcp(address)?);
        }
        if let Some(name) = &self.abstract_name {
            listening.listeners.push(Listener::unix_abstract(name.as_bytes())?);
        }
        if let Some(port) = self.vsock {
            listening.listeners.push(Listener::vsock(port)?);
        }
        if listening.listeners.is_empty() {
            if self.run.is_none() {
                let text = "there is nowhere to listen: give --unix, --tcp, --abstract, --vsock or --single";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let directory = tempfile::tempdir()?;
            listening.listeners.push(Listener::unix(directory.path().join("socket"))?);
            listening._directory = Some(directory);
        }
        Ok(listening)
    }
}
