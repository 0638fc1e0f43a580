//! `nbd serve`: the server of `nbd-server`, from the command line.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `limits` | what clients can make it hold |
//! | `sources` | what is served |
//! | `listen` | where clients come in |
//! | `tls` | what TLS takes |
//! | `signals` | SIGTERM, SIGINT and SIGHUP |
//! | `captive` | a command that the server runs for |
//! | `report` | what happens, in lines of text or JSON |
//! | `log` | standard error, which may be full or gone |

mod captive;
mod limits;
mod listen;
mod log;
mod report;
mod signals;
mod sources;
mod tls;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nbd_server::{Event, Server, ServerHandle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Failure, Result};
use captive::Captive;
use limits::LimitArgs;
use listen::ListenArgs;
use log::Log;
use report::{LastClient, LogFormat, Report};
use signals::{SignalAction, Signals};
use sources::SourceArgs;
use tls::{Tls, TlsArgs};

/// Serve a file, a block device or memory to NBD clients.
///
/// Prints the URI to connect to as soon as clients can, and runs until SIGTERM
/// or SIGINT. SIGHUP has credentials for TLS read again; without any it ends the server too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Look for the next request for so many microseconds awake before going to sleep: quicker
    /// with one request at a time, for a processor for each busy client
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    busy_poll: u64,
    /// End when the last client has left
    #[arg(long)]
    exit_with_last: bool,
    /// Write the process id into this file once clients can connect
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Tell of clients that come and go
    #[arg(short, long)]
    verbose: bool,
    /// What standard error gets
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Serves until a signal, or what else was given, asks for the end.
///
/// # Errors
///
/// When the credentials for TLS cannot be used, the source cannot be opened, the
/// address cannot be listened on, or the store cannot be flushed at the end.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    serve(args).map_err(|error| Failure::new(error.to_string()))
}

fn serve(args: Args) -> io::Result<ExitCode> {
    // Before the socket is there: from then on a signal must not leave it
    // behind.
    let signals = Signals::register()?;
    let report = Arc::new(Report::new(Log::start()?, args.log_format, args.verbose));
    use_all_descriptors();
    let sources = Arc::new(args.source.open(&|warning| report.warn(warning))?);
    let last_client = Arc::new(LastClient::new(args.exit_with_last || args.listen.single));
    let mut server = Server::with_exports(Arc::clone(&sources.exports))
        .limits(args.limits.limits())
        .busy_poll(Duration::from_micros(args.busy_poll));
    let (telling, counting) = (Arc::clone(&report), Arc::clone(&last_client));
    server = server.on_event(move |event: &Event<'_>| {
        telling.tell(event);
        counting.count(event);
    });
    let tls = args.tls.read()?;
    let has_tls = tls.is_some();
    if let Some(Tls { policy, acceptor }) = tls {
        server = server.tls(policy, acceptor);
    }
    let listening = args.listen.listen()?;
    if !has_tls && listening.listeners.iter().any(|listener| listener.is_reachable_from_afar()) {
        report.warn("clients on other machines are served in clear, and everybody may come");
    }
    let mut uris = Vec::new();
    for listener in &listening.listeners {
        uris.push(listener.uri(&sources.name, has_tls)?);
    }
    server = listening.listeners.into_iter().fold(server, Server::listener);
    let server = Arc::new(server.start()?);
    last_client.ends(&server);
    if let Some(client) = listening.client {
        client.be_served_by(&server)?;
    } else if args.listen.run.is_none() && !listening.passed {
        for uri in &uris {
            writeln!(io::stdout(), "{uri}")?;
        }
    }
    obey(signals, Arc::downgrade(&server), args.tls, Arc::clone(&report))?;
    let captive = match &args.listen.run {
        Some(command) => Some(Captive::start(command, &uris, Arc::clone(&server))?),
        None => None,
    };
    ready(args.pid_file.as_deref())?;
    let served = server.wait();
    let status = captive.map_or(Ok(ExitCode::SUCCESS), Captive::finish);
    let flushed = sources.flush();
    if let Some(path) = &args.pid_file {
        // Who looks finds that there is no such process.
        let _ = fs::remove_file(path);
    }
    report.finish();
    served.and(flushed).and(status)
}

/// Lets as many clients in as the system allows, rather than as it suggests to programs that may
/// use select(2).
fn use_all_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Fewer do as well.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Does what signals ask for.
fn obey(
    mut signals: Signals,
    server: Weak<ServerHandle>,
    tls: TlsArgs,
    report: Arc<Report>,
) -> io::Result<()> {
    let obey = move || {
        while let (Ok(action), Some(server)) = (signals.next(), server.upgrade()) {
            match action {
                SignalAction::Stop => server.shut_down(),
                SignalAction::Reload => match tls.read() {
                    Ok(Some(Tls { acceptor, .. })) => {
                        server.set_tls(acceptor);
                        report.note("credentials for TLS were read again");
                    }
                    Ok(None) => server.shut_down(),
                    Err(error) => {
                        report.warn(&format!("the credentials for TLS stay as they are: {error}"));
                    }
                },
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(obey).map(drop)
}

/// Tells everybody who waits for it that clients can connect.
fn ready(pid_file: Option<&std::path::Path>) -> io::Result<()> {
    if let Some(path) = pid_file {
        fs::write(path, format!("{}\n", std::process::id())).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
        })?;
    }
    // Without an init system that waits there is nothing to do.
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
}
