//! `nbd copy`: from a server, file or stream to another.
//!
//! ```text
//!   source thread                        destination thread
//!   map ─► reads in flight ── pieces ──► writes in flight ─► flush
//!                 ▲                            │
//!                 └───────── buffers ◄─────────┘
//! ```
//!
//! To `null:` there is nothing to write, and no thread for it: the source counts its pieces.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command: opens both ends, checks sizes, runs the two threads |
//! | `lanes` | sharing the work out among several connections |
//! | `piece` | what travels between them |
//! | `sparse` | finds zeroes in data |
//! | `source` | reading from a file or stream |
//! | `destination` | writing to a file or stream, or nowhere |
//! | `server/` | both, with an NBD server |

mod destination;
mod lanes;
mod piece;
mod server;
mod source;
mod sparse;

use std::fs;
use std::io::IsTerminal;
use std::ops::Add;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Patience;
use crate::failure::{Failure, Result};
use crate::size;
use crate::target::Target;

use destination::Destination;
use lanes::Regions;
use piece::{Outlet, channel};
use source::Source;

/// Copy between servers, files and streams.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show a progress bar even if standard error is no terminal
    #[arg(long, short = 'p')]
    progress: bool,
    /// Connections to each server that allows several at once [default: one for each
    /// processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: Option<u16>,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    requests: u32,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "256k", value_parser = size::parse)]
    request_size: u64,
    /// Shortest run of zeroes in data that becomes a hole; 0 copies zeroes as data
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    sparse: u64,
    /// Do not ask the source for its holes
    #[arg(long)]
    no_extents: bool,
    /// Do not write zeroes: the destination has nothing else
    #[arg(long)]
    destination_is_zero: bool,
    /// Make the zeroes of the destination take up space
    #[arg(long)]
    allocated: bool,
    #[command(flatten)]
    patience: Patience,
    /// Source and destination: each a URI, a command in brackets, a file, - or null:
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true,
          value_names = ["SOURCE", "DESTINATION"])]
    targets: Vec<String>,
}

/// What reading and writing go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) connections: usize,
    pub(super) requests: usize,
    pub(super) request_size: usize,
    pub(super) sparse: usize,
    /// Pieces start and end on multiples of this many bytes, a power of two.
    pub(super) block: usize,
    pub(super) use_extents: bool,
    pub(super) skip_zeroes: bool,
    pub(super) allocated: bool,
}

impl Plan {
    /// In whole blocks of both ends. Where nothing is written, no zeroes are looked for.
    fn between(mut self, source: &Source, destination: &Destination) -> Self {
        let block = destination.block();
        self.block = block;
        self.request_size = self.request_size.max(block).max(source.block());
        self.sparse = match destination {
            Destination::To(_) if self.sparse > 0 => self.sparse.max(block),
            Destination::To(_) | Destination::Nowhere => 0,
        };
        self
    }
}

/// The most that requests may hold in memory, in bytes.
const MAX_MEMORY: usize = 4 << 30;

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copied {
    /// Bytes that travelled as data.
    pub(crate) data: u64,
    /// Bytes that travelled as "so many zeroes".
    pub(crate) zeroes: u64,
}

impl Add for Copied {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { data: self.data + other.data, zeroes: self.zeroes + other.zeroes }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut targets = Target::parse_all(&args.targets)?.into_iter();
    let (Some(from), Some(to), None) = (targets.next(), targets.next(), targets.next()) else {
        return Err(Failure::new("one source and one destination are needed"));
    };
    let request_size = usize::try_from(args.request_size).unwrap_or(usize::MAX);
    if !(512..=32 << 20).contains(&request_size) || !request_size.is_power_of_two() {
        return Err(Failure::new("--request-size must be a power of two from 512 to 32M"));
    }
    let requests = args.requests as usize;
    let connections = args.connections.map_or_else(default_connections, usize::from);
    if connections * requests * request_size > MAX_MEMORY {
        return Err(Failure::new(
            "--connections times --requests times --request-size must not be more than 4G",
        ));
    }
    let sparse = usize::try_from(args.sparse).unwrap_or(usize::MAX);
    if sparse != 0 && (!sparse.is_power_of_two() || sparse < 512) {
        return Err(Failure::new("--sparse must be 0 or a power of two from 512"));
    }
    if is_same_file(&from, &to) {
        return Err(Failure::new("the source and the destination are one file"));
    }
    let plan = Plan {
        connections,
        requests,
        request_size,
        sparse,
        block: 1,
        use_extents: !args.no_extents,
        skip_zeroes: args.destination_is_zero,
        allocated: args.allocated,
    };
    let show = args.progress || std::io::stderr().is_terminal();
    copy(&from, &to, plan, args.patience.duration(), show).map(|_| ())
}

/// More than there are processors would only take turns.
fn default_connections() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// To write to it would destroy what is still to be read.
fn is_same_file(from: &Target, to: &Target) -> bool {
    let (Target::File(from), Target::File(to)) = (from, to) else {
        return false;
    };
    match (fs::metadata(from), fs::metadata(to)) {
        (Ok(from), Ok(to)) => (from.dev(), from.ino()) == (to.dev(), to.ino()),
        // Whatever is wrong shows when it is opened.
        _ => false,
    }
}

/// A progress bar over so many bytes, or a counter where the size is unknown.
fn progress_bar(size: Option<u64>, show: bool) -> ProgressBar {
    let target = if show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(size, target);
    let template = match size {
        Some(_) => "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Copies all of it, on as many lanes as both ends have.
fn transfer(
    source: Source,
    destination: Destination,
    plan: &Plan,
    bar: &ProgressBar,
) -> Result<Copied> {
    let size = source.size().unwrap_or(0);
    let wanted = destination.lanes(source.lanes(lanes::worthwhile(size, plan.connections)));
    let sources = source.split(wanted);
    let destinations = destination.split(sources.len());
    let lanes = sources.len().min(destinations.len());
    let regions = &Regions::new(size, lanes, plan.request_size as u64);
    thread::scope(|scope| {
        let run = |(source, destination)| {
            scope.spawn(move || {
                let copied = lane(source, destination, plan, regions, bar);
                if copied.is_err() {
                    regions.stop();
                }
                copied
            })
        };
        // All are started before one is waited for.
        let lanes: Vec<_> = sources.into_iter().zip(destinations).map(run).collect();
        let mut total = Ok(Copied::default());
        for lane in lanes {
            let copied = lane.join().map_err(|_| Failure::new("a thread failed"))?;
            total = total.and_then(|total| Ok(total + copied?));
        }
        total
    })
}

/// Copies the regions that one lane takes.
fn lane(
    source: Source,
    destination: Destination,
    plan: &Plan,
    regions: &Regions,
    bar: &ProgressBar,
) -> Result<Copied> {
    let Destination::To(writer) = destination else {
        let outlet = Outlet::nowhere(bar.clone());
        source.read_all(plan, regions, &outlet)?;
        return Ok(outlet.counted());
    };
    let (outlet, inlet) = channel(plan.requests);
    let (read, written) = thread::scope(|scope| {
        let reader = scope.spawn(move || source.read_all(plan, regions, &outlet));
        let written = writer.write_all(plan, inlet, bar);
        (reader.join(), written)
    });
    let read = read.map_err(|_| Failure::new("the reading thread failed"))?;
    match (read, written) {
        // The source stops because the destination did: that is the failure to tell.
        (_, Err(failure)) => Err(failure),
        (Err(failure), Ok(_)) => Err(failure),
        (Ok(()), Ok(copied)) => Ok(copied),
    }
}

/// Copies between two targets with the defaults, for `nbd demo`.
pub(crate) fn between(from: &Target, to: &Target, timeout: Duration, show: bool) -> Result<Copied> {
    let plan = Plan {
        connections: default_connections(),
        requests: 64,
        request_size: 256 << 10,
        sparse: 4096,
        block: 1,
        use_extents: true,
        skip_zeroes: false,
        allocated: false,
    };
    copy(from, to, plan, timeout, show)
}

fn copy(from: &Target, to: &Target, plan: Plan, timeout: Duration, show: bool) -> Result<Copied> {
    let source = Source::open(from, &plan, timeout)?;
    let destination = Destination::open(to, source.size(), timeout)?;
    let plan = plan.between(&source, &destination);
    let bar = progress_bar(source.size(), show);
    let copied = transfer(source, destination, &plan, &bar);
    bar.finish_and_clear();
    copied
}
