//! Writing: to a server, a file, standard output or nowhere.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use nbd_server::{Export, FileExport, Zeroing};

use super::piece::{Inlet, Next, Piece};
use super::server::ServerDestination;
use super::{Copied, Plan};
use crate::failure::{Context, Failure, Result};
use crate::target::Target;

/// Where the bytes go.
pub(crate) enum Destination {
    /// `null:`.
    Nowhere,
    To(Writer),
}

/// What takes bytes, in a thread of its own for each lane.
pub(crate) enum Writer {
    Server(Box<ServerDestination>),
    /// A file or block device of the right size.
    File {
        path: PathBuf,
        store: Arc<FileExport>,
        is_zero: bool,
    },
    /// A file that grows: the size is not known before the end.
    Growing {
        path: PathBuf,
        file: fs::File,
    },
    Stdout,
}

impl Destination {
    /// Opens it and makes sure, before anything is written, that all of it fits.
    pub(crate) fn open(target: &Target, size: Option<u64>, timeout: Duration) -> Result<Self> {
        match target {
            Target::Nbd(server) => {
                let server = ServerDestination::open(server, size, timeout)?;
                Ok(Self::To(Writer::Server(Box::new(server))))
            }
            Target::File(path) => Writer::file(path, size).map(Self::To),
            Target::Stdio => Ok(Self::To(Writer::Stdout)),
            Target::Null => Ok(Self::Nowhere),
        }
    }

    /// What writes must be whole multiples of, in bytes.
    pub(super) fn block(&self) -> usize {
        match self {
            Self::To(Writer::Server(server)) => server.block(),
            Self::To(_) | Self::Nowhere => 1,
        }
    }

    /// How many lanes it can be written on, of those that are wanted.
    pub(super) fn lanes(&self, wanted: usize) -> usize {
        match self {
            Self::To(Writer::Server(server)) => server.lanes(wanted),
            Self::To(Writer::File { .. }) | Self::Nowhere => wanted,
            Self::To(Writer::Growing { .. } | Writer::Stdout) => 1,
        }
    }

    /// One for each lane, or fewer.
    pub(super) fn split(self, lanes: usize) -> Vec<Self> {
        match self {
            Self::Nowhere => std::iter::repeat_with(|| Self::Nowhere).take(lanes).collect(),
            Self::To(writer) => writer.split(lanes).into_iter().map(Self::To).collect(),
        }
    }
}

impl Writer {
    fn file(path: &Path, size: Option<u64>) -> Result<Self> {
        let named = || format!("destination {}", path.display());
        let existing = fs::metadata(path).ok().filter(|data| !data.is_file());
        if existing.is_some() {
            let store = FileExport::open(path, false).context("destination")?;
            if size.is_some_and(|size| size > store.size()) {
                return Err(too_small(&named(), store.size(), size));
            }
            let store = Arc::new(store);
            return Ok(Self::File { path: path.to_owned(), store, is_zero: false });
        }
        // Emptied and set to the size of the source, a file is all hole.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .context(named())?;
        let Some(size) = size else {
            return Ok(Self::Growing { path: path.to_owned(), file });
        };
        file.set_len(size).context(named())?;
        let store = FileExport::open(path, false).context("destination")?;
        Ok(Self::File { path: path.to_owned(), store: Arc::new(store), is_zero: true })
    }

    fn split(self, lanes: usize) -> Vec<Self> {
        match self {
            Self::Server(server) => {
                server.split(lanes).into_iter().map(Box::new).map(Self::Server).collect()
            }
            Self::File { path, store, is_zero } => {
                let with = |store| Self::File { path: path.clone(), store, is_zero };
                vec![store; lanes].into_iter().map(with).collect()
            }
            Self::Growing { .. } | Self::Stdout => vec![self],
        }
    }

    /// Writes every piece; returns what there was.
    pub(super) fn write_all(self, plan: &Plan, inlet: Inlet, bar: &ProgressBar) -> Result<Copied> {
        match self {
            Self::Server(server) => server.write_all(plan, &inlet, bar),
            Self::File { path, store, is_zero } => {
                let skip = (is_zero || plan.skip_zeroes) && !plan.allocated;
                let zeroing = Zeroing { may_punch: !plan.allocated, fast_only: false };
                each(&inlet, bar, |piece| match piece {
                    Piece::Data { offset, bytes } => store.write_all_at(bytes.as_ref(), *offset),
                    Piece::Zeroes { .. } if skip => Ok(()),
                    Piece::Zeroes { offset, length } => {
                        store.write_zeroes(*offset, *length, zeroing)
                    }
                })
                .context(path.display())
            }
            Self::Growing { path, file } => {
                use std::os::unix::fs::FileExt;
                // Whatever is not written reads as zeroes. The last piece is data.
                each(&inlet, bar, |piece| match piece {
                    Piece::Data { offset, bytes } => file.write_all_at(bytes.as_ref(), *offset),
                    Piece::Zeroes { offset, length } => {
                        let end = offset + length;
                        if file.metadata()?.len() < end { file.set_len(end) } else { Ok(()) }
                    }
                })
                .context(path.display())
            }
            Self::Stdout => write_stream(&inlet, bar).context("standard output"),
        }
    }
}

pub(super) fn too_small(name: &str, room: u64, size: Option<u64>) -> Failure {
    match size {
        Some(size) => Failure::new(format!(
            "{name}: has room for {room} bytes, but the source has {size}; nothing was written"
        )),
        None => Failure::new(format!("{name}: the source has more than the {room} bytes it holds")),
    }
}

/// Writes piece by piece, in whatever order they come.
fn each(
    inlet: &Inlet,
    bar: &ProgressBar,
    mut write: impl FnMut(&Piece) -> io::Result<()>,
) -> io::Result<Copied> {
    let mut copied = Copied::default();
    while let Next::Piece(piece) = inlet.wait() {
        write(&piece)?;
        copied.count(&piece, bar);
        if let Piece::Data { bytes, .. } = piece {
            inlet.give_back(bytes);
        }
    }
    Ok(copied)
}

impl Copied {
    pub(super) fn count(&mut self, piece: &Piece, bar: &ProgressBar) {
        let length = match piece {
            Piece::Data { bytes, .. } => {
                self.data += bytes.len() as u64;
                bytes.len() as u64
            }
            Piece::Zeroes { length, .. } => {
                self.zeroes += length;
                *length
            }
        };
        bar.inc(length);
    }
}

/// A stream takes bytes in order only: what comes early waits.
fn write_stream(inlet: &Inlet, bar: &ProgressBar) -> io::Result<Copied> {
    let mut stream = io::stdout().lock();
    let mut early: BTreeMap<u64, Piece> = BTreeMap::new();
    let mut position = 0;
    let copied = each_in_turn(inlet, bar, |piece| {
        let offset = match &piece {
            Piece::Data { offset, .. } | Piece::Zeroes { offset, .. } => *offset,
        };
        early.insert(offset, piece);
        let mut used = Vec::new();
        while let Some(piece) = early.remove(&position) {
            match piece {
                Piece::Data { bytes, .. } => {
                    stream.write_all(bytes.as_ref())?;
                    position += bytes.len() as u64;
                    used.push(bytes);
                }
                Piece::Zeroes { length, .. } => {
                    write_zeroes(&mut stream, length)?;
                    position += length;
                }
            }
        }
        for bytes in used {
            inlet.give_back(bytes);
        }
        Ok(())
    })?;
    stream.flush()?;
    Ok(copied)
}

fn each_in_turn(
    inlet: &Inlet,
    bar: &ProgressBar,
    mut write: impl FnMut(Piece) -> io::Result<()>,
) -> io::Result<Copied> {
    let mut copied = Copied::default();
    while let Next::Piece(piece) = inlet.wait() {
        copied.count(&piece, bar);
        write(piece)?;
    }
    Ok(copied)
}

fn write_zeroes(stream: &mut impl Write, length: u64) -> io::Result<()> {
    let zeroes = [0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let n = left.min(zeroes.len() as u64);
        stream.write_all(&zeroes[..n as usize])?;
        left -= n;
    }
    Ok(())
}
