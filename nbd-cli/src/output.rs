//! Standard output, which may be full or closed: that is a failure, not a panic. And what is
//! said on standard error, which never holds anything up.

use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, major, minor};
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use crate::failure::{Context, Failure, Result, without_numbers};

/// Prints text as it is, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    wrote(written)
}

/// In which form a command prints.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Form {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Form {
    /// Prints a text, or a document.
    pub(crate) fn print(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> Value,
    ) -> Result<()> {
        match self.json {
            true => print(&self::document(document())),
            false => print(&text()),
        }
    }
}

/// A document, with the version of its keys. `docs/json.md` tells them.
pub(crate) fn document(mut keys: Value) -> String {
    keys["version"] = 1.into();
    format!("{keys:#}\n")
}

/// Prints a text, and then what a file holds from its start.
pub(crate) fn print_file(text: &str, file: &mut (impl Read + Seek)) -> Result<()> {
    file.rewind().context("a temporary file")?;
    let mut stdout = io::stdout().lock();
    let copied = stdout.write_all(text.as_bytes()).and_then(|()| io::copy(file, &mut stdout));
    wrote(copied.and_then(|_| stdout.flush()))
}

/// Whether to print in colour: as is said, or else on a terminal, unless it is unwanted.
pub(crate) fn in_color(yes: bool, no: bool) -> bool {
    // https://no-color.org: whatever it is set to, unless that is nothing.
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    yes || (!no && !unwanted && io::stdout().is_terminal())
}

/// How many columns a terminal has, or most have.
pub(crate) fn columns(terminal: impl AsFd) -> u16 {
    let columns = tcgetwinsize(terminal).map_or(0, |size| size.ws_col);
    if columns == 0 { 80 } else { columns }
}

/// Makes sure that a standard stream, by this name, was not closed when the program was started.
/// The standard library has opened `/dev/null` in its place then, for reading and writing: an
/// image that comes from there would be empty, and one that goes there be lost.
pub(crate) fn is_open(stream: impl AsFd, name: &str) -> Result<()> {
    /// The device numbers of `/dev/null`.
    const NULL: (u32, u32) = (1, 3);
    let both = fcntl_getfl(&stream).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    let null = fstat(&stream).is_ok_and(|stat| {
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == NULL
    });
    match both && null {
        true => Err(Failure::new(format!("{name} is closed"))),
        false => Ok(()),
    }
}

/// What became of writing to standard output.
pub(crate) fn wrote(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::no_reader()),
        result => result.context("standard output"),
    }
}

/// How long somebody may take to make room for the last words, in seconds.
const PATIENCE: i64 = 1;

/// Whether a bar stands on the last line of the terminal.
static BAR: AtomicBool = AtomicBool::new(false);

/// From now on a bar stands on the last line, or none does.
pub(crate) fn show_bar(there: bool) {
    BAR.store(there, Ordering::Relaxed);
}

/// Says on standard error why the command fails. With nowhere to say it, or when nobody
/// reads, the exit status still tells.
pub(crate) fn complain(text: &str) {
    if is_heard(PATIENCE) {
        let clear = if BAR.load(Ordering::Relaxed) { "\r\x1b[2K" } else { "" };
        let text = without_numbers(text);
        let _ = io::stderr().write_all(format!("{clear}{text}").as_bytes());
    }
}

/// Says something in passing, unless it would have to wait for whoever reads it.
pub(crate) fn mention(text: &str) {
    if is_heard(0) {
        let _ = io::stderr().write_all(without_numbers(text).as_bytes());
    }
}

/// Whether standard error has room for a line, after so many seconds at the latest.
pub(crate) fn is_heard(seconds: i64) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
    // A pipe that is writable has room for a line.
    !matches!(poll(&mut fds, Some(&limit)), Ok(0))
}
