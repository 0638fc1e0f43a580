//! What to start, where it listens, and how to know that it is ready.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{getpid, set_child_subreaper};

use super::error::while_doing;
use super::process::{Process, wait_until};
use super::server::{Endpoint, LOG};
use super::{PeerError, Scratch, Server, program};

/// How long a server may take until a client can connect.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(60);

/// Moves the listening socket from standard input to descriptor 3, where
/// socket activation expects it. The shell becomes the server, so `$$` is the
/// server's own process id.
const ACTIVATE: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

/// A server about to be started. See [`Server::nbdkit`] and its siblings.
///
/// In arguments given as text, `{dir}` stands for the server's scratch
/// directory and `{socket}` for the Unix socket it is to listen on.
#[derive(Debug)]
pub struct ServerBuilder {
    kind: Kind,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    tcp: Option<SocketAddr>,
}

#[derive(Debug)]
enum Kind {
    Nbdkit,
    QemuNbd,
    StorageDaemon,
    NbdServer { generic: String, exports: String },
    Nbd,
    Other { program: String },
}

impl Kind {
    fn program(&self) -> &str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::QemuNbd => "qemu-nbd",
            Self::StorageDaemon => "qemu-storage-daemon",
            Self::NbdServer { .. } => "nbd-server",
            Self::Nbd => "nbd",
            Self::Other { program } => program,
        }
    }

    /// Whether readiness shows by a pid file, written once the server listens.
    /// That is better than a trial connection, which a server that serves one
    /// client and exits would take for its only one.
    fn writes_pid_file(&self) -> bool {
        match self {
            Self::Nbdkit | Self::QemuNbd | Self::StorageDaemon => true,
            Self::NbdServer { .. } | Self::Nbd | Self::Other { .. } => false,
        }
    }
}

impl Server {
    /// nbdkit with a plugin, filters and parameters: `&["memory", "1M"]`.
    #[must_use]
    pub fn nbdkit(args: &[&str]) -> ServerBuilder {
        ServerBuilder::new(Kind::Nbdkit, args)
    }

    /// qemu-nbd, which stays after a client has gone (`-t`) and serves any
    /// number of them (`-e 0`): `&["-f", "raw", "/path/disk.img"]`.
    /// Later options win, so `-e 1` can be given.
    #[must_use]
    pub fn qemu_nbd(args: &[&str]) -> ServerBuilder {
        ServerBuilder::new(Kind::QemuNbd, args)
    }

    /// qemu-storage-daemon with its `--blockdev` and `--export` options; the
    /// `--nbd-server` option is added.
    #[must_use]
    pub fn storage_daemon(args: &[&str]) -> ServerBuilder {
        ServerBuilder::new(Kind::StorageDaemon, args)
    }

    /// nbd-server with the export sections of a configuration file, such as
    /// `"[rw]\nexportname = /path/disk.img\n"`. Listing is allowed.
    #[must_use]
    pub fn nbd_server(exports: &str) -> ServerBuilder {
        let exports = exports.to_owned();
        ServerBuilder::new(Kind::NbdServer { generic: String::new(), exports }, &[])
    }

    /// This project's own program, `nbd serve`: `&["--memory", "1M"]`. See
    /// [`nbd_program`](super::nbd_program).
    #[must_use]
    pub fn nbd(args: &[&str]) -> ServerBuilder {
        ServerBuilder::new(Kind::Nbd, args)
    }

    /// Any program that listens on `{socket}` and stays in the foreground. It
    /// is ready when the socket accepts a connection.
    #[must_use]
    pub fn command(program: &str, args: &[&str]) -> ServerBuilder {
        ServerBuilder::new(Kind::Other { program: program.to_owned() }, args)
    }
}

impl ServerBuilder {
    fn new(kind: Kind, args: &[&str]) -> Self {
        Self { kind, args: args.iter().map(Into::into).collect(), env: Vec::new(), tcp: None }
    }

    /// Adds one argument, taken literally when it is not UTF-8.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable, such as `GNUTLS_SYSTEM_PRIORITY_FILE`.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds lines to the `[generic]` section of nbd-server's configuration,
    /// such as `certfile = ...`. Other servers have no such section.
    #[must_use]
    pub fn generic(mut self, lines: &str) -> Self {
        if let Kind::NbdServer { generic, .. } = &mut self.kind {
            generic.push_str(lines);
            generic.push('\n');
        }
        self
    }

    /// Listens on a free TCP port of 127.0.0.1 (nbdkit, qemu-nbd and nbd only).
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = Some((Ipv4Addr::LOCALHOST, 0).into());
        self
    }

    /// Listens on a free TCP port of ::1 (nbdkit, qemu-nbd and nbd only).
    #[must_use]
    pub fn tcp6(mut self) -> Self {
        self.tcp = Some((Ipv6Addr::LOCALHOST, 0).into());
        self
    }

    /// Starts the server and waits until it can be connected to.
    ///
    /// # Errors
    ///
    /// [`PeerError::Missing`] when it is not installed, [`PeerError::Exited`]
    /// with its own words when it ends at once, [`PeerError::NotReady`] after
    /// a minute, [`PeerError::NoTcp`], [`PeerError::Io`].
    pub fn start(self) -> Result<Server, PeerError> {
        let scratch = Scratch::new()?;
        let (endpoint, listener) = self.endpoint(&scratch)?;
        let process = self.launch(&endpoint, listener, &scratch)?;
        let mut server = Server::new(process, endpoint, scratch, self);
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Starts once more what has ended, at the same place.
    pub(super) fn start_again(
        &self,
        endpoint: &Endpoint,
        scratch: &Scratch,
    ) -> Result<Process, PeerError> {
        let listener = match endpoint {
            Endpoint::Unix(path) => {
                // nbdkit and nbd-server leave a socket alone that a crash has left behind.
                match self.kind {
                    Kind::Nbdkit | Kind::NbdServer { .. } => remove(path)?,
                    Kind::QemuNbd | Kind::StorageDaemon | Kind::Nbd | Kind::Other { .. } => {}
                }
                None
            }
            Endpoint::Tcp(_) if matches!(self.kind, Kind::Nbd) => None,
            Endpoint::Tcp(address) => Some(listen(*address)?.into()),
        };
        remove(&scratch.join("pid"))?;
        self.launch(endpoint, listener, scratch)
    }

    fn launch(
        &self,
        endpoint: &Endpoint,
        listener: Option<OwnedFd>,
        scratch: &Scratch,
    ) -> Result<Process, PeerError> {
        let program = self.kind.program();
        let path = match self.kind {
            Kind::Nbd => program::nbd_program()?,
            _ => program::find(program)?,
        };
        let log = File::options().create(true).append(true).open(scratch.join(LOG));
        let log = log.map_err(while_doing("making a log"))?;
        if let Kind::NbdServer { generic, exports } = &self.kind {
            return self.start_daemon(&path, generic, exports, scratch, log);
        }
        let mut command = Command::new(program::find("setpriv")?);
        command.args(["--pdeathsig", "KILL"]);
        match listener {
            Some(socket) => {
                command.arg(program::find("sh")?).args(["-c", ACTIVATE, "sh"]).stdin(socket);
            }
            None => {
                command.stdin(Stdio::null());
            }
        }
        command.arg(&path).args(self.arguments(endpoint, scratch));
        self.set_environment(&mut command);
        let stderr = log.try_clone().map_err(while_doing("sharing the log"))?;
        command.stdout(log).stderr(stderr);
        Process::spawn_lasting(program, command)
    }

    /// Whether a client can connect by now.
    pub(super) fn is_ready(&self, endpoint: &Endpoint, scratch: &Scratch) -> bool {
        match endpoint {
            Endpoint::Unix(path) if !self.kind.writes_pid_file() => {
                UnixStream::connect(path).is_ok()
            }
            Endpoint::Tcp(_) if !self.kind.writes_pid_file() => {
                let address = self.printed_address(scratch);
                address.is_some_and(|address| TcpStream::connect(address).is_ok())
            }
            Endpoint::Unix(_) | Endpoint::Tcp(_) => read_pid(&scratch.join("pid")).is_some(),
        }
    }

    /// The address in the URI that `nbd serve` prints, where it was to take any port.
    pub(super) fn printed_address(&self, scratch: &Scratch) -> Option<SocketAddr> {
        let Kind::Nbd = self.kind else {
            return None;
        };
        let log = fs::read_to_string(scratch.join(LOG)).ok()?;
        let (uri, _) = log.split_once('\n')?;
        let (_, place) = uri.split_once("://")?;
        place.split(['/', '?']).next()?.parse().ok()
    }

    /// Where the server listens, with the socket when it is made here: nbdkit
    /// cannot be told to take any free port, so the port is bound here and the
    /// bound socket handed over. Nobody can take the port in between.
    fn endpoint(&self, scratch: &Scratch) -> Result<(Endpoint, Option<OwnedFd>), PeerError> {
        let Some(address) = self.tcp else {
            return Ok((Endpoint::Unix(scratch.join("s")), None));
        };
        match self.kind {
            Kind::Nbdkit | Kind::QemuNbd => {}
            // It takes any free port by itself, and prints which.
            Kind::Nbd => return Ok((Endpoint::Tcp(address), None)),
            Kind::StorageDaemon | Kind::NbdServer { .. } | Kind::Other { .. } => {
                return Err(PeerError::NoTcp { program: self.kind.program().to_owned() });
            }
        }
        let listener = listen(address)?;
        let bound = listener.local_addr().map_err(while_doing("asking for the TCP port"))?;
        Ok((Endpoint::Tcp(bound), Some(listener.into())))
    }

    fn arguments(&self, endpoint: &Endpoint, scratch: &Scratch) -> Vec<OsString> {
        let pid = scratch.join("pid").into_os_string();
        let socket = match endpoint {
            Endpoint::Unix(path) => Some(path.clone().into_os_string()),
            Endpoint::Tcp(_) => None,
        };
        let mut args: Vec<OsString> = Vec::new();
        match self.kind {
            Kind::Nbdkit => {
                args.extend(["-f".into(), "-P".into(), pid]);
                args.extend(socket.into_iter().flat_map(|path| ["-U".into(), path]));
            }
            Kind::QemuNbd => {
                args.extend(["-t", "-e", "0", "--pid-file"].map(Into::into));
                args.push(pid);
                args.extend(socket.into_iter().flat_map(|path| ["-k".into(), path]));
            }
            Kind::StorageDaemon => {
                args.extend(["--pidfile".into(), pid]);
                let listen = "addr.type=unix,addr.path={socket},max-connections=0";
                args.extend(["--nbd-server", listen].map(Into::into));
            }
            Kind::Nbd => {
                args.push("serve".into());
                match endpoint {
                    Endpoint::Unix(path) => args.extend(["--unix".into(), path.into()]),
                    Endpoint::Tcp(address) => {
                        args.extend(["--tcp".into(), address.to_string().into()]);
                    }
                }
            }
            Kind::NbdServer { .. } | Kind::Other { .. } => {}
        }
        args.extend(self.args.iter().cloned());
        args.into_iter().map(|arg| fill_in(arg, scratch)).collect()
    }

    fn set_environment(&self, command: &mut Command) {
        command.env("PATH", program::search_path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }

    /// nbd-server always goes to the background: the process that was started
    /// ends, and a grandchild in a session of its own writes its number to a
    /// file. This process asks to inherit such orphans, so as to reap it.
    fn start_daemon(
        &self,
        path: &Path,
        generic: &str,
        exports: &str,
        scratch: &Scratch,
        log: File,
    ) -> Result<Process, PeerError> {
        let program = self.kind.program();
        let config = fill_in(
            format!("[generic]\nunixsock = {{socket}}\nallowlist = true\n{generic}{exports}\n")
                .into(),
            scratch,
        );
        let config_path = scratch.join("nbd-server.conf");
        let pid_path = scratch.join("pid");
        fs::write(&config_path, config.as_encoded_bytes())
            .map_err(while_doing("writing the configuration of `nbd-server`"))?;
        set_child_subreaper(Some(getpid()))
            .map_err(|errno| while_doing("becoming a subreaper")(errno.into()))?;

        let mut command = Command::new(path);
        command.arg("-C").arg(&config_path).arg("-p").arg(&pid_path).args(&self.args);
        self.set_environment(&mut command);
        let starting = || while_doing(format!("starting `{program}`"));
        let stderr = log.try_clone().map_err(while_doing("sharing the log"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        let status = command.status().map_err(starting())?;
        let log = || fs::read_to_string(scratch.join(LOG)).unwrap_or_default();
        if !status.success() {
            return Err(PeerError::Exited { program: program.to_owned(), status, log: log() });
        }
        let pid = wait_until(READY_WITHIN, || read_pid(&pid_path)).ok_or_else(|| {
            PeerError::NotReady { program: program.to_owned(), waited: READY_WITHIN, log: log() }
        })?;
        Process::adopt(program, pid)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, PeerError> {
    TcpListener::bind(address).map_err(while_doing("binding a TCP port"))
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), PeerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(while_doing(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The number in a pid file, once it has been written in full.
fn read_pid(path: &PathBuf) -> Option<u32> {
    fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

fn fill_in(arg: OsString, scratch: &Scratch) -> OsString {
    match arg.to_str() {
        Some(text) if text.contains('{') => text
            .replace("{dir}", &scratch.path().to_string_lossy())
            .replace("{socket}", &scratch.join("s").to_string_lossy())
            .into(),
        _ => arg,
    }
}
