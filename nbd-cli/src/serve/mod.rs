//! `nbd serve`: a server over the stores.
//!
//! ```text
//!   listener ──► acceptor ──► one thread a client:
//!                               transport ◄─► negotiate ─► connection
//!                                                            │    ▲
//!                                                   requests ▼    │ replies
//!                                                           answer
//!                                                             │
//!                                                         dyn Store
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `signals` | SIGTERM, SIGINT and SIGHUP |
//! | `listener` | the listening socket and its URI |
//! | `log` | standard error, which may be full or gone |
//! | `running` | threads, and how they come to an end |
//! | `tls` | what TLS takes, from the command line |
//! | `transport` | the socket of a client: reading, writing, waiting |
//! | `negotiate` | from the greeting to the data phase |
//! | `connection` | the data phase: what is read, answered and sent when |
//! | `answer` | what a request does to the store |
//! | `buffers` | memory for payload |
//! | `export` | what clients are told of the store |

mod answer;
mod buffers;
mod connection;
mod export;
mod listener;
mod log;
mod negotiate;
mod running;
mod signals;
mod tls;
mod transport;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use export::Export;
pub(crate) use listener::{Address, Listener};
pub(crate) use log::Log;
pub(crate) use running::Running;

use crate::failure::{Failure, Result};
use crate::size;
use crate::store::{FileStore, MemoryStore, Store};
use signals::StopSignal;
use tls::TlsArgs;

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
    let export = Export {
        description: args.description.or_else(|| args.source.description()),
        store: args.source.open(args.read_only)?,
        name: args.export,
        read_only: args.read_only,
    };
    let tls = args.tls.read()?;
    let listener = Listener::bind(&args.place.address()?)?;
    let running = Running::start(listener, export, args.max_connections, tls, Log::start()?)?;
    writeln!(io::stdout(), "{}", running.uri())?;
    signal.wait()?;
    running.stop().map_err(|error| {
        let text = format!("what clients wrote may be lost, flushing it failed: {error}");
        io::Error::new(error.kind(), text)
    })
}

impl Source {
    fn open(&self, read_only: bool) -> io::Result<Arc<dyn Store>> {
        match (self.memory, &self.file) {
            (Some(size), None) => Ok(Arc::new(MemoryStore::new(size))),
            (None, Some(path)) => Ok(Arc::new(FileStore::open(path, read_only)?)),
            (None, None) | (Some(_), Some(_)) => Err(one_of("--memory", "--file")),
        }
    }

    fn description(&self) -> Option<String> {
        self.memory.map(|size| format!("{} of memory", size::format(size)))
    }
}

impl Place {
    fn address(self) -> io::Result<Address> {
        match (self.unix, self.tcp) {
            (Some(path), None) => Ok(Address::Unix(path)),
            (None, Some(text)) => Ok(Address::Tcp(text)),
            (None, None) | (Some(_), Some(_)) => Err(one_of("--unix", "--tcp")),
        }
    }
}

fn one_of(first: &str, second: &str) -> io::Error {
    let message = format!("give one of {first} and {second}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
