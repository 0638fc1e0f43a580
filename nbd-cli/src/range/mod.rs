//! Commands that do one thing to a range of an export, and are done: `nbd read`, `write`,
//! `zero`, `trim`, `cache` and `flush`.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the commands |
//! | `window` | the part that is wanted of what is read in whole blocks |

mod window;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, HeaderStyle, TransmissionFlags,
};
use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::{Client, Error};
use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result, in_words};
use crate::interrupt::{self, UnderWay};
use crate::output::{Form, is_open};
use crate::target::{Server, Target};
use crate::{Patience, copy, size};

use window::Window;

/// A range, as it is asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Span {
    /// Begin at so many bytes from the start
    #[arg(long, short = 'o', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// So many bytes [default: to the end of the export]
    #[arg(long, short = 'n', value_name = "SIZE", value_parser = size::parse)]
    length: Option<u64>,
}

/// Where, and of which server.
#[derive(Debug, clap::Args)]
pub(crate) struct RangeArgs {
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    server: ServerArgs,
}

const CHANGED: &str =
    "With --json: offset and length of what was done, in bytes, and durable, which is true if the
server has flushed it.";

/// A server.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
}

/// Write a range of an export, or a file, to standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, the command of a server in brackets, or a file
    #[arg(value_name = "SOURCE")]
    source: OsString,
}

/// Write a file, or standard input, to an export.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGED)]
pub(crate) struct WriteArgs {
    /// Begin at so many bytes from the start of the export
    #[arg(long, short = 'o', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// Leave it to the server when it becomes durable
    #[arg(long)]
    no_flush: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// The file, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: OsString,
}

/// Make a range of an export zeroes.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGED)]
pub(crate) struct ZeroArgs {
    /// Take up space for them
    #[arg(long)]
    no_hole: bool,
    /// Only if that is quicker than writing them
    #[arg(long)]
    fast: bool,
    /// Leave it to the server when it becomes durable
    #[arg(long)]
    no_flush: bool,
    #[command(flatten)]
    range_args: RangeArgs,
}

/// Tell a server that nobody needs what a range of an export holds.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGED)]
pub(crate) struct TrimArgs {
    /// Leave it to the server when it becomes durable
    #[arg(long)]
    no_flush: bool,
    #[command(flatten)]
    range_args: RangeArgs,
}

/// Have a server get a range of an export ready for reading.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --json: offset and length of what was asked for, in bytes.")]
pub(crate) struct CacheArgs {
    #[command(flatten)]
    range_args: RangeArgs,
}

/// Have a server make durable what was written.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --json: durable, which is true.")]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn read(args: &ReadArgs) -> Result<()> {
    let source = Target::parse(&args.source)?.waiting(args.patience.wait());
    let source = source.reconnecting(Some(Reconnect::new()));
    is_open(io::stdout(), "standard output")?;
    let wanted = |size| args.span.range(size);
    copy::read(&source, wanted, args.patience.limit(), |range| {
        let stdout = BufWriter::with_capacity(256 << 10, io::stdout().lock());
        Box::new(Window::new(stdout, range))
    })
}

/// The most that is written at once, in bytes.
const PART: usize = 1 << 20;

pub(crate) fn write(args: &WriteArgs) -> Result<()> {
    let (server, mut client) = args.server.connect()?;
    let (mut stdin, mut file);
    // Of what is to be written, where it is known.
    let mut size = None;
    let input: &mut dyn Read = match Target::parse(&args.file)? {
        Target::Stdio => {
            is_open(io::stdin(), "standard input")?;
            stdin = io::stdin().lock();
            &mut stdin
        }
        Target::File(path) => {
            file = File::open(&path).context(path.display())?;
            let data = file.metadata().context(path.display())?;
            size = data.is_file().then_some(data.len());
            &mut file
        }
        Target::Nbd(_) | Target::Null => {
            return Err(Failure::new("a file is wanted here, or -; `nbd copy` takes servers"));
        }
    };
    writable(&server, &client)?;
    let room = client.size().checked_sub(args.offset);
    if room.is_none_or(|room| size.is_some_and(|size| size > room)) {
        return Err(too_much(&server, &client, None));
    }
    let end = size.map(|size| args.offset + size);
    whole_blocks(&server, &client, args.offset, end)?;
    let mut buffer = vec![0; PART.min(client.session().max_request())];
    let done = ChangeProgress::begin(&server, args.offset);
    let mut offset = args.offset;
    loop {
        let filled = fill(input, &mut buffer).context(args.file.display())?;
        if filled == 0 {
            break;
        }
        if offset.checked_add(filled as u64).is_none_or(|end| end > client.size()) {
            return Err(too_much(&server, &client, Some(args.offset..offset)));
        }
        let sent = client.write_all_at(&buffer[..filled], offset);
        sent.map_err(|error| incomplete(&error, args.offset..offset)).context(&server.name)?;
        offset += filled as u64;
        done.up_to(offset);
    }
    let durable = finish(&server, client, !args.no_flush)?;
    args.server.form.print(String::new, || changed(&(args.offset..offset), Some(durable)))
}

pub(crate) fn zero(args: &ZeroArgs) -> Result<()> {
    let mut flags = CommandFlags::empty();
    flags.set(CommandFlags::NO_HOLE, args.no_hole);
    flags.set(CommandFlags::FAST_ZERO, args.fast);
    let zero = |offset, length| Command::write_zeroes(offset, length).with(flags);
    change(&args.range_args, zero, !args.no_flush)
}

pub(crate) fn trim(args: &TrimArgs) -> Result<()> {
    change(&args.range_args, Command::trim, !args.no_flush)
}

pub(crate) fn cache(args: &CacheArgs) -> Result<()> {
    change(&args.range_args, Command::cache, false)
}

pub(crate) fn flush(args: &FlushArgs) -> Result<()> {
    let (server, mut client) = args.server.connect()?;
    client.flush().context(&server.name)?;
    // What was asked for is done, however the goodbye goes.
    let _ = client.disconnect();
    args.server.form.print(String::new, || json!({"durable": true}))
}

impl ServerArgs {
    fn connect(&self) -> Result<(Server, Client)> {
        let server = Target::server(&self.server)?.waiting(self.patience.wait());
        let client = server.connect(ClientConfig::new(), self.patience.limit())?;
        Ok((server, client))
    }
}

impl Span {
    /// The range in an export of this size.
    pub(crate) fn range(self, size: u64) -> Result<Range<u64>> {
        let end = self.length.map_or(Some(size), |length| self.offset.checked_add(length));
        match end {
            Some(end) if self.offset <= end && end <= size => Ok(self.offset..end),
            _ => Err(Failure::new(format!("the range is beyond the {size} bytes there are"))),
        }
    }
}

/// How far a change of an export is, for whoever ends it.
struct ChangeProgress {
    at: Arc<AtomicU64>,
    _under_way: UnderWay,
}

impl ChangeProgress {
    fn begin(server: &Server, start: u64) -> Self {
        let at = Arc::new(AtomicU64::new(start));
        let (name, reached) = (server.name.clone(), Arc::clone(&at));
        let under_way = interrupt::leaves(move || match reached.load(Ordering::Relaxed) {
            at if at == start => format!("{name} may have been changed from byte {start} on"),
            at => format!("{name} was changed from byte {start} up to {at}, and perhaps further"),
        });
        Self { at, _under_way: under_way }
    }

    fn up_to(&self, at: u64) {
        self.at.store(at, Ordering::Relaxed);
    }
}

/// What was done, for a program.
fn changed(range: &Range<u64>, durable: Option<bool>) -> Value {
    let mut value = json!({"offset": range.start, "length": range.end - range.start});
    if let Some(durable) = durable {
        value["durable"] = json!(durable);
    }
    value
}

/// Sends a command for every part of a range.
fn change(
    range_args: &RangeArgs,
    command: impl Fn(u64, u64) -> Command,
    flush: bool,
) -> Result<()> {
    let (server, mut client) = range_args.server.connect()?;
    let range = range_args.span.range(client.size()).context(&server.name)?;
    let changes = command(0, 0).kind != CommandType::Cache;
    if changes {
        writable(&server, &client)?;
    }
    whole_blocks(&server, &client, range.start, Some(range.end))?;
    let done = changes.then(|| ChangeProgress::begin(&server, range.start));
    let block = u64::from(client.export().minimum_block());
    // Requests with compact headers have 32 bits for the length.
    let extended = client.negotiated().headers == HeaderStyle::Extended;
    let longest = if extended { 1 << 40 } else { (1 << 32) - block.max(1 << 16) };
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(longest);
        let sent = client.submit_and_wait(command(offset, length));
        sent.map_err(|error| incomplete(&error, range.start..offset)).context(&server.name)?;
        offset += length;
        if let Some(done) = &done {
            done.up_to(offset);
        }
    }
    let durable = finish(&server, client, flush)?;
    let durable = changes.then_some(durable);
    range_args.server.form.print(String::new, || changed(&range, durable))
}

/// What was to be written goes beyond the end; this is written of it.
fn too_much(server: &Server, client: &Client, done: Option<Range<u64>>) -> Failure {
    let failure = Failure::new(format!(
        "{}: there is more than fits in the {} bytes of the export",
        server.name,
        client.size()
    ));
    match done.filter(|done| !done.is_empty()) {
        Some(done) => failure.and(format!("up to byte {} it is written", done.end)),
        None => failure.and("nothing was written"),
    }
}

fn writable(server: &Server, client: &Client) -> Result<()> {
    match client.is_read_only() {
        true => Err(Failure::new(format!("{}: the export is read-only", server.name))),
        false => Ok(()),
    }
}

/// Makes sure, before anything is sent, that the server is asked for whole blocks only.
fn whole_blocks(server: &Server, client: &Client, start: u64, end: Option<u64>) -> Result<()> {
    let block = u64::from(client.export().minimum_block());
    if [Some(start), end].into_iter().flatten().all(|at| at.is_multiple_of(block)) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: takes whole blocks of {block} bytes only; nothing was sent",
        server.name
    )))
}

/// Tells how far it is.
fn incomplete(error: &Error, done: Range<u64>) -> String {
    match done.is_empty() {
        true => in_words(error),
        false => format!("{}; up to byte {} it is done", in_words(error), done.end),
    }
}

/// Makes it durable, if that is wanted and can be done; tells whether it is.
fn finish(server: &Server, mut client: Client, flush: bool) -> Result<bool> {
    if flush && client.flags().contains(TransmissionFlags::SEND_FLUSH) {
        client.flush().context(&server.name)?;
        // It is safe, however the goodbye goes.
        let _ = client.disconnect();
        return Ok(true);
    }
    client.disconnect().context(&server.name)?;
    Ok(false)
}

/// Reads until the buffer is full, or there is no more.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
