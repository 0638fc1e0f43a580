//! `nbd bench`: measures a server, with many requests in flight.

mod random;
mod report;
mod run;

use std::time::Instant;

use clap::ValueEnum;
use nbd_client_blocking::Client;
use nbd_client_blocking::proto::ClientConfig;

use crate::Patience;
use crate::failure::{Context, Failure, Result};
use crate::output::print;
use crate::size;
use crate::target::{Server, Target};
use report::{Tally, report};
use run::Worker;

/// The most that all buffers together may take, in bytes.
const MAX_MEMORY: u128 = 4 << 30;

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
    /// Connections, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "URI")]
    server: Vec<String>,
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
    let server = Target::server(&args.server)?;
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
    let started = Instant::now();
    let workers = clients.len() as u64;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(0..)
            .map(|(client, index)| {
                let share = args.count / workers + u64::from(index < args.count % workers);
                scope.spawn(move || Worker::new(args, index, workers).run(client, share))
            })
            .collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = started.elapsed();
    let mut total = Tally::new();
    for result in results {
        let tally = result.map_err(|_| Failure::new("a measuring thread failed"))?;
        total.add(&tally.context(&server.name)?);
    }
    print(&report(args, &total, elapsed))
}

fn connect(args: &Args, server: &Server) -> Result<Client> {
    let limits = nbd_client_blocking::proto::Limits::default().max_in_flight(args.depth.max(64));
    let config = ClientConfig::new().limits(limits);
    let client = server.connect(config, args.patience.duration())?;
    let refuse = |why: String| Err(Failure::new(format!("{}: {why}", server.name)));
    if args.size == 0 || args.size > client.max_request() as u64 {
        return refuse(format!("--size must be from 1 to {} bytes", client.max_request()));
    }
    if client.size() < args.size {
        return refuse(format!("the export has {} bytes, less than one request", client.size()));
    }
    if args.rw == Direction::Write && client.is_read_only() {
        return refuse("the export is read-only".to_owned());
    }
    Ok(client)
}
