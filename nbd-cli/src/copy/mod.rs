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
//! | `mod` | the command: checks, opens both ends, tells how it ended |
//! | `plan` | what reading and writing go by |
//! | `transfer` | the copy itself, in threads |
//! | `lanes` | sharing the work out among several connections |
//! | `piece` | what travels from the source to the destination |
//! | `sparse` | finds zeroes in data |
//! | `source` | reading from a file or stream |
//! | `destination` | writing to a file or stream, or nowhere |
//! | `place` | where a copy comes to be, and what is left when it fails |
//! | `progress` | how far it is |
//! | `job` | what all lanes share |
//! | `stop` | what ends it early |
//! | `server/` | both ends, with an NBD server |

mod destination;
mod job;
mod lanes;
mod piece;
mod place;
mod plan;
mod progress;
mod server;
mod source;
mod sparse;
mod stop;
mod transfer;

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

use crate::Patience;
use crate::failure::{Context, Failure, Result};
use crate::output::mention;
use crate::size;
use crate::target::Target;

use destination::Destination;
use job::Job;
use lanes::Regions;
use place::Place;
use plan::Plan;
use progress::{Display, Form, Progress};
use source::Source;
use stop::Stop;

/// Copy between servers, files and streams.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show progress even if standard error is no terminal; as lines N/100 on a descriptor of
    /// that number, or as lines of JSON
    #[arg(long, short = 'p', value_name = "FD|json", num_args = 0..=1, require_equals = true,
          default_missing_value = "bar", value_parser = Form::parse)]
    progress: Option<Form>,
    /// Make a file durable before exit, as an export always is that can be
    #[arg(long)]
    flush: bool,
    /// Connections to each server that allows several at once [default: one for each
    /// processor, at most 4]
    #[arg(long, short = 'C', value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: Option<u16>,
    /// No more connections than this; 0 for no such limit
    #[arg(long, short = 'T', value_name = "N", default_value_t = 0)]
    threads: u16,
    /// Requests in flight on each connection
    #[arg(long, short = 'R', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    requests: u32,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "256k", value_parser = size::parse)]
    request_size: u64,
    /// Bytes in flight on each connection
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    queue_size: Option<u64>,
    /// One request after the other, for servers that take no more
    #[arg(long)]
    synchronous: bool,
    /// Shortest run of zeroes in data that becomes a hole; 0 copies zeroes as data
    #[arg(long, short = 'S', value_name = "SIZE", default_value = "4k",
          value_parser = size::parse)]
    sparse: u64,
    /// Do not ask the source for its holes
    #[arg(long)]
    no_extents: bool,
    /// Do not write zeroes: the destination has nothing else
    #[arg(long, alias = "target-is-zero")]
    destination_is_zero: bool,
    /// Make the zeroes of the destination take up space
    #[arg(long)]
    allocated: bool,
    /// Say what is copied
    #[arg(long, short = 'v')]
    verbose: bool,
    #[command(flatten)]
    patience: Patience,
    /// Longest request to zero, for the compatible face
    #[arg(skip)]
    longest_zero: Option<u64>,
    /// A URI, a command in brackets, a file, or - for standard input
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// A URI, a command in brackets, a file, - for standard output, or null:
    #[arg(value_name = "DESTINATION")]
    destination: OsString,
}

impl Args {
    /// Zeroes in pieces of 128 MiB, each within such a part of the disk, as nbdcopy does.
    pub(crate) fn with_short_zeroes(mut self) -> Self {
        self.longest_zero = Some(128 << 20);
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

pub(crate) fn run(args: &Args) -> Result<()> {
    let (from, to) = (Target::parse(&args.source)?, Target::parse(&args.destination)?);
    let request_size = usize::try_from(args.request_size).unwrap_or(usize::MAX);
    if !(512..=32 << 20).contains(&request_size) || !request_size.is_power_of_two() {
        return Err(Failure::new("--request-size must be a power of two from 512 to 32M"));
    }
    let queue = usize::try_from(args.queue_size.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let requests = (args.requests as usize).min(queue / request_size).max(1);
    let connections = args.connections.map_or_else(default_connections, usize::from);
    let threads = if args.threads == 0 { connections } else { usize::from(args.threads) };
    let (connections, requests) =
        if args.synchronous { (1, 1) } else { (connections.min(threads), requests) };
    if connections * requests * request_size > MAX_MEMORY {
        return Err(Failure::new(
            "--connections times --requests times --request-size must not be more than 4G",
        ));
    }
    let sparse = usize::try_from(args.sparse).unwrap_or(usize::MAX);
    if sparse != 0 && (!sparse.is_power_of_two() || sparse < 512) {
        return Err(Failure::new("--sparse must be 0 or a power of two from 512"));
    }
    if is_same(&from, &to) {
        return Err(Failure::new("the source and the destination are one file"));
    }
    let plan = Plan {
        connections,
        requests,
        request_size,
        // What is to take up space is written as it is.
        sparse: if args.allocated { 0 } else { sparse },
        block: 1,
        use_extents: !args.no_extents,
        skip_zeroes: args.destination_is_zero,
        allocated: args.allocated,
        flush: args.flush,
        limit: args.patience.limit(),
        longest_zero: args.longest_zero.unwrap_or(u64::MAX),
    };
    // A limit to the size of files is told by the call that meets it.
    flag::register(SIGXFSZ, Arc::default()).context("signals")?;
    let form = args.progress.or_else(|| io::stderr().is_terminal().then_some(Form::Bar));
    let manner = Manner { form, interruptible: true, verbose: args.verbose };
    copy(&from, &to, plan, manner).map(|_| ())
}

/// Copies between two targets with the defaults, for `nbd demo`.
pub(crate) fn between(from: &Target, to: &Target, limit: Duration) -> Result<Copied> {
    let plan = Plan { limit: Some(limit), ..Plan::default() };
    let form = io::stderr().is_terminal().then_some(Form::Bar);
    copy(from, to, plan, Manner { form, interruptible: false, verbose: false })
}

/// Reads a part of a server or file, in order, into what `writer` makes. It is told where
/// reading begins, and which bytes are wanted: those before and behind are there because
/// reads are in whole blocks.
pub(crate) fn read<'a>(
    from: &Target,
    offset: u64,
    length: Option<u64>,
    limit: Option<Duration>,
    writer: impl FnOnce((u64, Range<u64>)) -> Box<dyn Write + 'a>,
) -> Result<()> {
    let plan = Plan { limit, ..Plan::default() };
    let source = Source::open(from, &plan)?;
    let size = source.size().ok_or_else(|| Failure::new("a server or a file is needed"))?;
    if offset > size {
        return Err(Failure::new(format!("the offset is beyond the {size} bytes there are")));
    }
    let end = length.map_or(size, |length| offset.saturating_add(length).min(size));
    let block = source.block() as u64;
    let begin = offset - offset % block;
    let whole = begin..end.next_multiple_of(block).min(size);
    let writer = writer((begin, offset..end));
    let destination = Destination::Program(writer, begin);
    let plan = plan.between(&source, &destination);
    let regions = Regions::new(whole, 1, plan.request_size as u64);
    let (progress, stop) = (Arc::default(), Arc::new(Stop::new()?));
    transfer::transfer(source, destination, &Arc::new(Job { plan, progress, stop, regions }), 1)
}

/// More than there are processors would only take turns.
fn default_connections() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Whether to write to the one would destroy what is still to be read of the other.
fn is_same(from: &Target, to: &Target) -> bool {
    let source = match from {
        Target::File(path) => fs::metadata(path).ok(),
        Target::Stdio => metadata_of(io::stdin()),
        Target::Nbd(_) | Target::Null => None,
    };
    let destination = match to {
        Target::File(path) => fs::metadata(path).ok(),
        Target::Stdio => metadata_of(io::stdout()),
        Target::Nbd(_) | Target::Null => None,
    };
    // Whatever is wrong shows when it is opened.
    let (Some(from), Some(to)) = (source, destination) else {
        return false;
    };
    let kinds = (from.file_type(), to.file_type());
    if kinds.0.is_file() && kinds.1.is_file() {
        return (from.dev(), from.ino()) == (to.dev(), to.ino());
    }
    kinds.0.is_block_device() && kinds.1.is_block_device() && from.rdev() == to.rdev()
}

fn metadata_of(stream: impl AsFd) -> Option<Metadata> {
    File::from(stream.as_fd().try_clone_to_owned().ok()?).metadata().ok()
}

/// What is copied, in the words of nbdcopy.
fn told(from: &Target, to: &Target, total: Option<u64>, plan: &Plan) -> String {
    let size = total
        .map_or_else(|| "unknown".to_owned(), |total| format!("{total} ({})", size::format(total)));
    let name = crate::compat::program();
    format!(
        "{name}: src: {}\n{name}: src: size={size}\n{name}: dst: {}\n\
         {name}: connections={} requests={} request-size={} sparse={}\n",
        from.kind(),
        to.kind(),
        plan.connections,
        plan.requests,
        plan.request_size,
        plan.sparse
    )
}

/// How a copy behaves towards people.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// How progress is shown, if it is.
    form: Option<Form>,
    /// Signals end it in good order.
    interruptible: bool,
    verbose: bool,
}

fn copy(from: &Target, to: &Target, plan: Plan, manner: Manner) -> Result<Copied> {
    let source = Source::open(from, &plan)?;
    let total = source.size();
    let (destination, place) = Destination::open(to, total, &plan)?;
    let plan = plan.between(&source, &destination);
    if manner.verbose {
        mention(&told(from, to, total, &plan));
    }
    let lanes = transfer::lanes(&source, &destination, &plan);
    let regions = Regions::new(0..total.unwrap_or(0), lanes, plan.request_size as u64);
    let (progress, stop) = (Arc::new(Progress::default()), Arc::new(Stop::new()?));
    // What leaves nothing behind is ended as ever.
    if manner.interruptible && !matches!(*place, Place::Nowhere) {
        stop.on_signals()?;
    }
    let job = Arc::new(Job { plan, progress, stop, regions });
    let display = manner.form.map(|form| Display::start(&job.progress, total, form));
    let copied = transfer::transfer(source, destination, &job, lanes);
    let copied = match job.stop.interruption() {
        Some(interruption) => Err(interruption),
        None => copied.and_then(|()| place.finish(plan.flush)),
    };
    drop(display);
    let progress = &job.progress;
    match copied {
        Ok(()) => Ok(progress.copied()),
        Err(failure) => {
            place.abandon();
            Err(match place.left_behind(progress, total) {
                Some(left) => failure.and(left),
                None => failure,
            })
        }
    }
}
