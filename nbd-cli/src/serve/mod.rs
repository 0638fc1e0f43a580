//! `nbd serve`: the server of `nbd-server`, from the command line.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `signals` | SIGTERM, SIGINT and SIGHUP |
//! | `tls` | what TLS takes, from the command line |
//! | `log` | standard error, which may be full or gone |

mod log;
mod signals;
mod tls;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use nbd_server::{
    Event, Export, ExportList, FileExport, Limits, Listener, MemoryExport, Opened, Server,
};

use crate::failure::{Failure, Result};
use crate::size;
use log::Log;
use signals::StopSignal;
use tls::{Tls, TlsArgs};

/// Serve a file, a block device or memory to NBD clients.
///
/// Prints the URI to connect to as soon as clients can, and runs until SIGTERM,
/// SIGINT or SIGHUP.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    place: Place,
    /// Name of the export; clients that ask for no name get it too
    #[arg(long, value_name = "NAME", default_value = "")]
    export: String,
    /// What clients are told the export is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Refuse all changes
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    tls: TlsArgs,
    /// Most clients at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    max_connections: usize,
}

/// What to serve.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A disk in memory of this size, such as 64M or 1T; only what is written
    /// takes up memory
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// A file or a block device that exists
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Where to listen.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// A Unix socket
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// A TCP address: HOST or HOST:PORT, with IPv6 in brackets; port 0 is any free one
    #[arg(long, value_name = "ADDRESS")]
    tcp: Option<String>,
}

/// Serves until a signal asks for the end.
///
/// # Errors
///
/// When the credentials for TLS cannot be used, the source cannot be opened, the
/// address cannot be listened on, or the store cannot be flushed at the end.
pub(crate) fn run(args: Args) -> Result<()> {
    serve(args).map_err(|error| Failure::new(error.to_string()))
}

fn serve(args: Args) -> io::Result<()> {
    // Before the socket is there: from then on a signal must not leave it
    // behind.
    let signal = StopSignal::register()?;
    let export = args.source.open(args.read_only)?;
    let mut opened = Opened::new(&args.export, Arc::clone(&export)).read_only(args.read_only);
    if let Some(description) = args.description.or_else(|| args.source.description()) {
        opened = opened.described(description);
    }
    let mut limits = Limits::default();
    limits.max_connections = args.max_connections;
    let log = Arc::new(Log::start()?);
    let mut server = Server::with_exports(ExportList::new().opened(opened))
        .limits(limits)
        .on_event(tell(Arc::clone(&log)));
    let tls = args.tls.read()?;
    let has_tls = tls.is_some();
    if let Some(Tls { policy, acceptor }) = tls {
        server = server.tls(policy, acceptor);
    }
    let listener = args.place.listen()?;
    let uri = listener.uri(&args.export, has_tls)?;
    let server = Arc::new(server.listener(listener).start()?);
    writeln!(io::stdout(), "{uri}")?;
    let stopping = Arc::clone(&server);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signal.wait().is_ok() {
            stopping.shut_down();
        }
    })?;
    let served = server.wait();
    let flushed = export.flush().map_err(|error| {
        let text = format!("what clients wrote may be lost, flushing it failed: {error}");
        io::Error::new(error.kind(), text)
    });
    log.finish();
    served.and(flushed)
}

/// Says what goes wrong with a client.
fn tell(log: Arc<Log>) -> impl Fn(&Event<'_>) + Send + Sync {
    move |event| match event {
        Event::Closed { peer, error: Some(error) } => log.line(&format!("{peer}: {error}")),
        Event::TurnedAway { peer, connections } => {
            log.line(&format!("{peer}: turned away, there are {connections} connections already"))
        }
        Event::AcceptFailed { error } => log.line(&format!("cannot take a client in: {error}")),
        _ => {}
    }
}

impl Source {
    fn open(&self, read_only: bool) -> io::Result<Arc<dyn Export>> {
        match (self.memory, &self.file) {
            (Some(size), None) => Ok(Arc::new(MemoryExport::new(size))),
            (None, Some(path)) => Ok(Arc::new(FileExport::open(path, read_only)?)),
            (None, None) | (Some(_), Some(_)) => Err(one_of("--memory", "--file")),
        }
    }

    fn description(&self) -> Option<String> {
        self.memory.map(|size| format!("{} of memory", size::format(size)))
    }
}

impl Place {
    fn listen(self) -> io::Result<Listener> {
        match (self.unix, self.tcp) {
            (Some(path), None) => Listener::unix(path),
            (None, Some(text)) => Listener::tcp(&text),
            (None, None) | (Some(_), Some(_)) => Err(one_of("--unix", "--tcp")),
        }
    }
}

fn one_of(first: &str, second: &str) -> io::Error {
    let message = format!("give one of {first} and {second}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
