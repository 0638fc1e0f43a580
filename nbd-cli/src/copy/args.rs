//! The command line of `nbd copy`.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nbd_client_blocking::session::replay::Reconnect;
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

use super::display::Form;
use super::part::Asked;
use super::plan::{Compare, Plan, REQUESTS, connections};
use super::record::{Record, real};
use super::{CopyOptions, Reporting, copy};
use crate::checksum::Kind;
use crate::compat;
use crate::failure::{Context, Failure, Result};
use crate::output::{mention, print};
use crate::target::Target;
use crate::{Patience, YEAR, size};

const EXAMPLES: &str = "Examples:
  nbd copy nbd://host/export disk.img
  nbd copy --resume=state disk.img nbd://host/export
  nbd copy --context=qemu:dirty-bitmap:b0 nbd://host backup.img
  nbd copy --verify --rate=50M disk.img nbd://host
  zcat disk.img.gz | nbd copy - nbd://host";

/// Copy between servers, files and streams.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
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
    /// Requests in flight on each connection [default: 32, or what the distance asks for]
    #[arg(long, short = 'R', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    requests: Option<u32>,
    /// Bytes per request [default: 256k, or what the distance asks for]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    request_size: Option<u64>,
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
    /// Begin at so many bytes of the source
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    offset: Option<u64>,
    /// Copy so many bytes [default: to the end of the source]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    length: Option<u64>,
    /// Write to the destination from so many bytes on, and leave the rest of it alone
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    destination_offset: Option<u64>,
    /// Copy only what a dirty bitmap says has changed, such as qemu:dirty-bitmap:NAME
    #[arg(long, value_name = "BITMAP", conflicts_with_all = ["checksum", "blkhash"])]
    context: Option<String>,
    /// Copy no more than so many bytes of data in a second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    rate: Option<u64>,
    /// Read again what is written, and compare
    #[arg(long, conflicts_with = "verify_only")]
    verify: bool,
    /// Write nothing: compare both
    #[arg(long, conflicts_with_all = ["resume", "checksum"])]
    verify_only: bool,
    /// Keep a state file, and go on from it after an interruption, where a sample of what was
    /// copied is still there [default: DESTINATION with .nbd-resume behind it, if that is a file]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          conflicts_with_all = ["checksum", "context"])]
    resume: Option<Option<PathBuf>>,
    /// Print a checksum of everything that passes: sha256, blake3 or blkhash
    #[arg(long, value_name = "KIND", value_parser = Kind::parse)]
    checksum: Option<Kind>,
    /// The same as --checksum=blkhash:DIGEST/SIZE, and nothing else is printed
    #[arg(long, value_name = "DIGEST/SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = Kind::parse_blkhash, hide = true,
          conflicts_with = "checksum")]
    blkhash: Option<Kind>,
    /// Write the sum of --blkhash to a file
    #[arg(long, value_name = "FILE", requires = "blkhash", hide = true)]
    blkhash_file: Option<PathBuf>,
    /// Go on for so long after a connection is lost; 0 to give up at once
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(..=YEAR))]
    reconnect: u64,
    /// Say what is copied
    #[arg(long, short = 'v')]
    verbose: bool,
    /// Say nothing but what goes wrong
    #[arg(long, short = 'q', conflicts_with_all = ["verbose", "progress"])]
    quiet: bool,
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

    /// How many connections, and requests on each of them.
    fn width(&self, request_size: usize) -> (usize, usize) {
        if self.synchronous {
            return (1, 1);
        }
        let queue = usize::try_from(self.queue_size.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let requests = self
            .requests
            .map_or(REQUESTS, |requests| requests as usize)
            .min(queue / request_size)
            .max(1);
        let wanted = self.connections.map_or_else(connections, usize::from);
        let threads = if self.threads == 0 { wanted } else { usize::from(self.threads) };
        (wanted.min(threads), requests)
    }

    /// Whether nobody has said how much is to be in flight.
    fn adapts(&self) -> bool {
        let Self { connections, requests, request_size, queue_size, .. } = self;
        connections.is_none()
            && requests.is_none()
            && request_size.is_none()
            && queue_size.is_none()
            && self.threads == 0
            && !self.synchronous
            && self.rate.is_none()
    }

    fn plan(&self) -> Result<Plan> {
        let request_size = self.request_size.unwrap_or(256 << 10);
        let request_size = usize::try_from(request_size).unwrap_or(usize::MAX);
        if !(512..=32 << 20).contains(&request_size) || !request_size.is_power_of_two() {
            return Err(Failure::new("--request-size must be a power of two from 512 to 32M"));
        }
        let (connections, requests) = self.width(request_size);
        if connections * requests * request_size > MAX_MEMORY {
            return Err(Failure::new(
                "--connections times --requests times --request-size must not be more than 4G",
            ));
        }
        let sparse = usize::try_from(self.sparse).unwrap_or(usize::MAX);
        if sparse != 0 && (!sparse.is_power_of_two() || sparse < 512) {
            return Err(Failure::new("--sparse must be 0 or a power of two from 512"));
        }
        if self.rate == Some(0) {
            return Err(Failure::new("--rate must be more than 0"));
        }
        let slow = self.rate.map_or(request_size, |rate| usize::try_from(rate / 4).unwrap_or(1));
        Ok(Plan {
            connections,
            requests,
            // A slow copy moves a little at a time, not much now and then.
            request_size: request_size.min(slow.max(4096).next_power_of_two()),
            adapts: self.adapts(),
            // What is to take up space is written as it is.
            sparse: if self.allocated { 0 } else { sparse },
            block: 1,
            use_extents: !self.no_extents,
            skip_zeroes: self.destination_is_zero,
            allocated: self.allocated,
            flush: self.flush,
            verify: self.verify,
            keep: false,
            flush_every: match (&self.resume, self.reconnect) {
                (Some(_), _) => 64 << 20,
                (None, 0) => u64::MAX,
                (None, _) => 1 << 30,
            },
            compare: self.verify_only.then_some(Compare::First),
            limit: self.patience.limit(),
            longest_zero: self.longest_zero.unwrap_or(u64::MAX),
        })
    }

    fn options(&self, to: &Target) -> Result<CopyOptions> {
        let state = match &self.resume {
            Some(Some(path)) => Some(path.clone()),
            Some(None) => Some(Record::beside(to)?),
            None => None,
        };
        Ok(CopyOptions {
            part: Asked { offset: self.offset, length: self.length, to: self.destination_offset },
            bitmap: self.context.clone(),
            state,
            rate: self.rate,
            checksum: self.checksum.or(self.blkhash),
            patience: Duration::from_secs(self.reconnect),
        })
    }

    /// What is written in order only cannot leave anything out.
    fn refuse_gaps(&self) -> Result<()> {
        let option = match (&self.context, self.destination_offset) {
            (Some(_), _) => "--context",
            (None, Some(1..)) => "--destination-offset",
            (None, None | Some(0)) => return Ok(()),
        };
        Err(Failure::new(format!(
            "{option} leaves parts of the destination alone, which a stream cannot; \
             give a file or a server as the destination"
        )))
    }

    /// Whether one export may be both ends. nbdcopy is used so with servers that compare what is
    /// written with what they hold, such as nbdkit's sparse-random; what is not moved stays right.
    fn may_stay(&self) -> bool {
        compat::program() == "nbdcopy"
            && self.offset.unwrap_or(0) == self.destination_offset.unwrap_or(0)
    }

    /// Prints a checksum, where it does not mix with what is copied.
    fn tell(&self, to: &Target, sum: &str) -> Result<()> {
        let line = match self.checksum {
            Some(_) => format!("{sum}  {}\n", self.source.display()),
            None => format!("{sum}\n"),
        };
        match (&self.blkhash_file, to) {
            (Some(path), _) => fs::write(path, line).context(path.display()),
            (None, Target::Stdio) => {
                mention(&line);
                Ok(())
            }
            (None, _) => print(&line),
        }
    }
}

/// The most that requests may hold in memory, in bytes.
const MAX_MEMORY: usize = 4 << 30;

/// What a stream to a server may hold in memory until the server has it for sure, in bytes.
const KEPT: u64 = 64 << 20;

pub(crate) fn run(args: &Args) -> Result<()> {
    let (from, to) = (Target::parse(&args.source)?, Target::parse(&args.destination)?);
    let plan = args.plan()?;
    if let (Target::Nbd(from), Target::Nbd(to)) = (&from, &to)
        && !args.verify_only
        && !args.may_stay()
        && from.is_same(to)
    {
        return Err(Failure::new("the source and the destination are one export"));
    }
    if is_same(&from, &to) {
        return Err(Failure::new("the source and the destination are one file"));
    }
    let options = args.options(&to)?;
    for own in options.state.iter().chain(&args.blkhash_file) {
        // They would be replaced by it, or go away with it.
        for (end, name) in [(&from, "source"), (&to, "destination")] {
            if is_same(end, &Target::File(own.clone())) || is_at(end, own) {
                return Err(Failure::new(format!("{} is the {name}", own.display())));
            }
        }
    }
    if is_stream(&to) && !args.verify_only {
        args.refuse_gaps()?;
    }
    let policy = (args.reconnect != 0)
        .then(|| Reconnect::new().give_up_after(options.patience).max_delay(DELAY));
    // What cannot be read again is kept until it is durable.
    let kept = match is_stream(&from) {
        true => policy.map(|policy| policy.keep_unflushed(KEPT)),
        false => policy,
    };
    let from = from.reconnecting(policy).waiting(args.patience.wait());
    let to = to.reconnecting(kept).waiting(args.patience.wait());
    // A limit to the size of files is told by the call that meets it.
    flag::register(SIGXFSZ, Arc::default()).context("signals")?;
    let on_terminal = io::stderr().is_terminal() && !args.quiet;
    let form = args.progress.or_else(|| on_terminal.then_some(Form::Bar));
    if let Some(form) = form {
        form.check()?;
    }
    let summary = compat::program() == "nbd" && (form == Some(Form::Bar) || args.verbose);
    let reporting = Reporting { form, verbose: args.verbose, summary };
    let outcome = copy(&from, &to, plan, &options, reporting)?;
    if let Some(at) = outcome.found.first {
        return Err(Failure::new(format!("they differ: the byte at {at} is the first")));
    }
    if args.verify_only && outcome.sizes.0 != outcome.sizes.1 {
        return Err(Failure::new("they differ in size, and are the same as far as both go"));
    }
    outcome.checksum.map_or(Ok(()), |sum| args.tell(&to, &sum))
}

/// Whether it can be read only once.
fn is_stream(target: &Target) -> bool {
    match target {
        Target::Nbd(_) | Target::Null => false,
        Target::Stdio => true,
        Target::File(path) => fs::metadata(path).is_ok_and(|data| {
            let kind = data.file_type();
            kind.is_fifo() || kind.is_char_device()
        }),
    }
}

/// The longest wait before another attempt to connect.
const DELAY: Duration = Duration::from_secs(1);

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

/// Whether a target has this name, be there a file or not.
fn is_at(target: &Target, name: &Path) -> bool {
    matches!(target, Target::File(path) if real(path) == real(name))
}

fn metadata_of(stream: impl AsFd) -> Option<Metadata> {
    File::from(stream.as_fd().try_clone_to_owned().ok()?).metadata().ok()
}
