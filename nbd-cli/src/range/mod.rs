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

use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, HeaderStyle, TransmissionFlags,
};
use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::{Client, Error};

use crate::failure::{Context, Failure, Result};
use crate::target::{Server, Target};
use crate::{Patience, copy, size};

use window::Window;

/// Where, and of which server.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Begin at so many bytes from the start
    #[arg(long, short = 'o', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// So many bytes [default: to the end of the export]
    #[arg(long, short = 'n', value_name = "SIZE", value_parser = size::parse)]
    length: Option<u64>,
    #[command(flatten)]
    server: At,
}

/// A server.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
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
    place: Place,
}

/// Write a file, or standard input, to an export.
#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    /// Begin at so many bytes from the start of the export
    #[arg(long, short = 'o', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// Leave it to the server when it becomes durable
    #[arg(long)]
    no_flush: bool,
    #[command(flatten)]
    server: At,
    /// The file, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: OsString,
}

/// Make a range of an export zeroes.
#[derive(Debug, clap::Args)]
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
    place: Place,
}

/// Tell a server that nobody needs what a range of an export holds.
#[derive(Debug, clap::Args)]
pub(crate) struct TrimArgs {
    /// Leave it to the server when it becomes durable
    #[arg(long)]
    no_flush: bool,
    #[command(flatten)]
    place: Place,
}

/// Have a server get a range of an export ready for reading.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(flatten)]
    place: Place,
}

/// Have a server make durable what was written.
#[derive(Debug, clap::Args)]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    server: At,
}

pub(crate) fn read(args: &ReadArgs) -> Result<()> {
    let Place { offset, length, server: At { patience, server } } = &args.place;
    let source = Target::parse(server)?.waiting(patience.wait());
    let source = source.reconnecting(Some(Reconnect::new()));
    copy::read(&source, *offset, *length, patience.limit(), |range| {
        let stdout = BufWriter::with_capacity(256 << 10, io::stdout().lock());
        Box::new(Window::new(stdout, range))
    })
}

/// The most that is written at once, in bytes.
const PART: usize = 1 << 20;

pub(crate) fn write(args: &WriteArgs) -> Result<()> {
    let (server, mut client) = args.server.connect()?;
    let (mut stdin, mut file);
    let input: &mut dyn Read = match Target::parse(&args.file)? {
        Target::Stdio => {
            stdin = io::stdin().lock();
            &mut stdin
        }
        Target::File(path) => {
            file = File::open(&path).context(path.display())?;
            &mut file
        }
        Target::Nbd(_) | Target::Null => {
            return Err(Failure::new("a file is wanted here, or -; `nbd copy` takes servers"));
        }
    };
    writable(&server, &client)?;
    let mut buffer = vec![0; PART.min(client.session().max_request())];
    let mut offset = args.offset;
    loop {
        let filled = fill(input, &mut buffer).context(args.file.display())?;
        if filled == 0 {
            break;
        }
        if offset.checked_add(filled as u64).is_none_or(|end| end > client.size()) {
            return Err(Failure::new(format!(
                "{}: there is more than fits in the {} bytes of the export; up to byte {offset} \
                 it is written",
                server.name,
                client.size()
            )));
        }
        client.write_all_at(&buffer[..filled], offset).context(&server.name)?;
        offset += filled as u64;
    }
    finish(&server, client, !args.no_flush)
}

pub(crate) fn zero(args: &ZeroArgs) -> Result<()> {
    let mut flags = CommandFlags::empty();
    flags.set(CommandFlags::NO_HOLE, args.no_hole);
    flags.set(CommandFlags::FAST_ZERO, args.fast);
    let zero = |offset, length| Command::write_zeroes(offset, length).with(flags);
    change(&args.place, zero, !args.no_flush)
}

pub(crate) fn trim(args: &TrimArgs) -> Result<()> {
    change(&args.place, Command::trim, !args.no_flush)
}

pub(crate) fn cache(args: &CacheArgs) -> Result<()> {
    change(&args.place, Command::cache, false)
}

pub(crate) fn flush(args: &FlushArgs) -> Result<()> {
    let (server, mut client) = args.server.connect()?;
    client.flush().context(&server.name)?;
    // What was asked for is done, however the goodbye goes.
    let _ = client.disconnect();
    Ok(())
}

impl At {
    fn connect(&self) -> Result<(Server, Client)> {
        let server = Target::server(&self.server)?.waiting(self.patience.wait());
        let client = server.connect(ClientConfig::new(), self.patience.limit())?;
        Ok((server, client))
    }
}

impl Place {
    /// The range in an export of this size.
    fn range(&self, size: u64) -> Result<Range<u64>> {
        let end = self.length.map_or(Some(size), |length| self.offset.checked_add(length));
        match end {
            Some(end) if self.offset <= end && end <= size => Ok(self.offset..end),
            _ => Err(Failure::new(format!("the range is beyond the {size} bytes of the export"))),
        }
    }
}

/// Sends a command for every part of a range.
fn change(place: &Place, command: impl Fn(u64, u64) -> Command, flush: bool) -> Result<()> {
    let (server, mut client) = place.server.connect()?;
    let range = place.range(client.size()).context(&server.name)?;
    if command(0, 0).kind != CommandType::Cache {
        writable(&server, &client)?;
    }
    let block = u64::from(client.export().minimum_block());
    // Requests with compact headers have 32 bits for the length.
    let extended = client.negotiated().headers == HeaderStyle::Extended;
    let longest = if extended { 1 << 40 } else { (1 << 32) - block.max(1 << 16) };
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(longest);
        let done = client.submit_and_wait(command(offset, length));
        done.map_err(|error| incomplete(&error, range.start..offset)).context(&server.name)?;
        offset += length;
    }
    finish(&server, client, flush)
}

fn writable(server: &Server, client: &Client) -> Result<()> {
    match client.is_read_only() {
        true => Err(Failure::new(format!("{}: the export is read-only", server.name))),
        false => Ok(()),
    }
}

/// Tells how far it is.
fn incomplete(error: &Error, done: Range<u64>) -> String {
    match done.is_empty() {
        true => error.to_string(),
        false => format!("{error}; up to byte {} it is done", done.end),
    }
}

fn finish(server: &Server, mut client: Client, flush: bool) -> Result<()> {
    if flush && client.flags().contains(TransmissionFlags::SEND_FLUSH) {
        client.flush().context(&server.name)?;
    }
    client.disconnect().context(&server.name)
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
