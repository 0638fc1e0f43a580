//! `nbd bench`: measures a server, with many requests in flight.

mod random;
mod report;
mod run;
mod verify;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nbd_client_blocking::proto::ClientConfig;
use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::{Client, Error};

use crate::failure::{Context, Failure, Result};
use crate::output::print;
use crate::size;
use crate::target::{Server, Target};
use crate::{Patience, YEAR};
use report::{Tally, report};
use run::Worker;

/// The most that all buffers together may take, in bytes.
const MAX_MEMORY: u128 = 4 << 30;

/// The longest wait before it is tried once more to connect to a server that is gone.
const DELAY: Duration = Duration::from_millis(200);

/// Measure a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read, or write data that does not compress (this destroys what the export holds)
    #[arg(long, value_enum, default_value_t = Direction::Read)]
    rw: Direction,
    /// Random or sequential offsets
    #[arg(long, value_enum, default_value_t = Pattern::Rand)]
    pattern: Pattern,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    size: u64,
    /// Requests in flight per connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    depth: u32,
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    count: u64,
    /// Go by time, not by number of requests
    #[arg(long, value_name = "N", conflicts_with = "count",
          value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    seconds: Option<u64>,
    /// Read, write and flush in turn, and check that each block that is read holds what was
    /// last written to it (this destroys what the export holds)
    #[arg(long, conflicts_with = "rw")]
    verify: bool,
    /// Connect again when a connection is lost, and go on; wait so long for the server each
    /// time, the first included
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    reconnect: Option<u64>,
    /// Keep so many bytes of what was written and not flushed, in case that the server
    /// loses it when it is lost
    #[arg(long, value_name = "SIZE", requires = "reconnect", value_parser = size::parse)]
    keep_unflushed: Option<u64>,
    /// Connections, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Read,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pattern {
    Rand,
    Seq,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let policy = args.policy();
    let wait = policy.map_or(Duration::ZERO, |policy| policy.patience());
    let server = Target::server(&args.server)?;
    let server = server.reconnecting(policy).waiting(wait.max(args.patience.wait()));
    if args.connections > 1 && server.is_command() {
        return Err(Failure::new(format!("{}: takes one connection only", server.name)));
    }
    let memory = u128::from(args.size) * u128::from(args.depth) * u128::from(args.connections);
    if memory > MAX_MEMORY {
        return Err(Failure::new(format!(
            "--size, --depth and --connections together take {memory} bytes of memory; the \
             most is {MAX_MEMORY}"
        )));
    }
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(connect(args, &server)?);
    }
    if args.verify {
        return verify::run(args, &server, clients);
    }
    let started = Instant::now();
    let workers = clients.len() as u64;
    let results = spread(&server, clients, |client, index| {
        Worker::new(args, index, workers).run(client, args.share(index, workers))
    })?;
    let elapsed = started.elapsed();
    let mut total = Tally::new();
    for tally in &results {
        total.add(tally);
    }
    print(&report(args, &total, elapsed))
}

/// Gives each connection a thread and a number.
fn spread<T: Send>(
    server: &Server,
    clients: Vec<Client>,
    work: impl Fn(Client, u64) -> std::result::Result<T, Error> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(0..)
            .map(|(client, index)| scope.spawn(move || work(client, index)))
            .collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    results
        .into_iter()
        .map(|result| {
            let result = result.map_err(|_| Failure::new("a measuring thread failed"))?;
            result.context(&server.name)
        })
        .collect()
}

impl Args {
    /// How long to go on, where that is what ends it.
    fn seconds(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs)
    }

    /// What to do when a connection is lost, if it is more than to stop.
    fn policy(&self) -> Option<Reconnect> {
        let patience = Duration::from_secs(self.reconnect?);
        // A load is to go on as soon as it can.
        let policy = Reconnect::new().give_up_after(patience).max_delay(DELAY);
        Some(match self.keep_unflushed {
            Some(bytes) => policy.keep_unflushed(bytes),
            None => policy,
        })
    }

    /// The requests of one connection.
    fn share(&self, index: u64, connections: u64) -> u64 {
        match self.seconds {
            Some(_) => u64::MAX,
            None => self.count / connections + u64::from(index < self.count % connections),
        }
    }
}

fn connect(args: &Args, server: &Server) -> Result<Client> {
    let limits = nbd_client_blocking::proto::Limits::default().max_in_flight(args.depth.max(64));
    let config = ClientConfig::new().limits(limits);
    let client = server.connect(config, args.patience.limit())?;
    let refuse = |why: String| Err(Failure::new(format!("{}: {why}", server.name)));
    if args.size == 0 || args.size > client.session().max_request() as u64 {
        return refuse(format!(
            "--size must be from 1 to {} bytes",
            client.session().max_request()
        ));
    }
    if client.size() < args.size {
        return refuse(format!("the export has {} bytes, less than one request", client.size()));
    }
    if args.verify && args.size < verify::MIN_SIZE {
        return refuse(format!("--size must be {} bytes or more to verify", verify::MIN_SIZE));
    }
    if (args.verify || args.rw == Direction::Write) && client.is_read_only() {
        return refuse("the export is read-only".to_owned());
    }
    Ok(client)
}
