//! `nbd copy`: from a server, file or stream to another.
//!
//! ```text
//!   source thread                        destination thread
//!   map ─► reads in flight ── pieces ──► writes in flight ─► flush
//!                 ▲                            │
//!                 └───────── buffers ◄─────────┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command: opens both ends, checks sizes, runs the two threads |
//! | `piece` | what travels between them |
//! | `sparse` | finds zeroes in data |
//! | `source` | reading from a file or stream |
//! | `destination` | writing to a file, stream or nothing |
//! | `server` | both, with an NBD server |

mod destination;
mod piece;
mod server;
mod source;
mod sparse;

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Patience;
use crate::failure::{Failure, Result};
use crate::size;
use crate::target::Target;

use destination::Destination;
use piece::channel;
use source::Source;

/// Copy between servers, files and streams.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show a progress bar even if standard error is no terminal
    #[arg(long, short = 'p')]
    progress: bool,
    /// Requests in flight
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
    pub(super) requests: usize,
    pub(super) request_size: usize,
    pub(super) sparse: usize,
    pub(super) use_extents: bool,
    pub(super) skip_zeroes: bool,
    pub(super) allocated: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copied {
    /// Bytes that travelled as data.
    pub(crate) data: u64,
    /// Bytes that travelled as "so many zeroes".
    pub(crate) zeroes: u64,
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
    let sparse = usize::try_from(args.sparse).unwrap_or(usize::MAX);
    if sparse != 0 && (!sparse.is_power_of_two() || sparse < 512) {
        return Err(Failure::new("--sparse must be 0 or a power of two from 512"));
    }
    let plan = Plan {
        requests: args.requests as usize,
        request_size,
        sparse,
        use_extents: !args.no_extents,
        skip_zeroes: args.destination_is_zero,
        allocated: args.allocated,
    };
    let timeout = args.patience.duration();
    let source = Source::open(&from, &plan, timeout)?;
    let destination = Destination::open(&to, source.size(), timeout)?;
    let show = args.progress || std::io::stderr().is_terminal();
    let bar = progress_bar(source.size(), show);
    let result = transfer(source, destination, &plan, &bar);
    bar.finish_and_clear();
    result.map(|_| ())
}

/// A progress bar over so many bytes, or a counter where the size is unknown.
pub(crate) fn progress_bar(size: Option<u64>, show: bool) -> ProgressBar {
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

/// Copies all of it.
pub(crate) fn transfer(
    source: Source,
    destination: Destination,
    plan: &Plan,
    bar: &ProgressBar,
) -> Result<Copied> {
    let (outlet, inlet) = channel(plan.requests);
    let (read, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || source.read_all(plan, outlet));
        let written = destination.write_all(plan, inlet, bar);
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
pub(crate) fn between(
    from: &Target,
    to: &Target,
    timeout: std::time::Duration,
    show: bool,
) -> Result<Copied> {
    let plan = Plan {
        requests: 64,
        request_size: 256 << 10,
        sparse: 4096,
        use_extents: true,
        skip_zeroes: false,
        allocated: false,
    };
    let source = Source::open(from, &plan, timeout)?;
    let destination = Destination::open(to, source.size(), timeout)?;
    let bar = progress_bar(source.size(), show);
    let copied = transfer(source, destination, &plan, &bar);
    bar.finish_and_clear();
    copied
}
