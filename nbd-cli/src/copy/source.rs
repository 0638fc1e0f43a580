//! Reading: from a server, a file or standard input.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nbd_server::{Export, ExtentKind, FileExport};

use super::destination::is_socket;
use super::job::Job;
use super::piece::{Piece, PieceSender};
use super::plan::Plan;
use super::server::{self, Connected};
use super::sparse;
use crate::failure::{Context, Failure, Result};
use crate::output::is_open;
use crate::target::Target;

/// Where the bytes come from.
pub(super) enum Source {
    Server(Box<Connected>),
    File {
        path: PathBuf,
        store: Arc<FileExport>,
    },
    Stdin,
    /// A pipe or a character device.
    Device {
        path: PathBuf,
        file: File,
    },
}

/// Opens a source once more, for another worker.
pub(super) type Another = Box<dyn FnOnce() -> Result<Source> + Send>;

impl Source {
    pub(super) fn open(target: &Target, plan: &Plan) -> Result<Self> {
        match target {
            Target::Nbd(server) => Ok(Self::Server(Box::new(Connected::to_read(server, plan)?))),
            Target::File(path) => match fs::metadata(path).map(|data| data.file_type()) {
                Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                    let file = File::open(path).context(path.display())?;
                    Ok(Self::Device { path: path.clone(), file })
                }
                Ok(kind) if kind.is_socket() => Err(is_socket(path)),
                // What else it may be shows when it is opened.
                Ok(_) | Err(_) => {
                    let store = FileExport::open_read_only(path).context("source")?;
                    Ok(Self::File { path: path.clone(), store: Arc::new(store) })
                }
            },
            Target::Stdio => {
                is_open(io::stdin(), "standard input")?;
                Ok(Self::Stdin)
            }
            Target::Null => {
                Err(Failure::new("null: has nothing to read; it can only be a destination"))
            }
        }
    }

    /// Bytes in all; unknown for a stream.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Server(server) => Some(server.size()),
            Self::File { store, .. } => Some(store.size()),
            Self::Stdin | Self::Device { .. } => None,
        }
    }

    /// What reads must be whole multiples of, in bytes.
    pub(super) fn block(&self) -> usize {
        match self {
            Self::Server(server) => server.block(),
            Self::File { .. } | Self::Stdin | Self::Device { .. } => 1,
        }
    }

    /// How many workers it can be read on, of those that are wanted.
    pub(super) fn workers(&self, wanted: usize) -> usize {
        match self {
            Self::Server(server) => server.workers(wanted),
            Self::File { .. } => wanted,
            Self::Stdin | Self::Device { .. } => 1,
        }
    }

    /// The same once more; none of what is read in order.
    pub(super) fn another(&self) -> Option<Another> {
        Some(match self {
            Self::Server(server) => {
                let another = server.another();
                Box::new(move || Ok(Self::Server(Box::new(another()?))))
            }
            Self::File { path, store } => {
                let (path, store) = (path.clone(), Arc::clone(store));
                Box::new(move || Ok(Self::File { path, store }))
            }
            Self::Stdin | Self::Device { .. } => return None,
        })
    }

    /// Sends every byte on of the regions it takes.
    pub(super) fn read_all(self, job: &Job, sender: &PieceSender<'_>) -> Result<()> {
        match self {
            Self::Server(server) => server::read_all(*server, job, sender),
            Self::File { path, store } => {
                while let Some(region) = job.take() {
                    read_file(&path, &store, region, job, sender)?;
                }
                Ok(())
            }
            Self::Stdin => read_stream(&mut io::stdin().lock(), "standard input", job, sender),
            Self::Device { path, mut file } => {
                let name = path.display().to_string();
                read_stream(&mut file, &name, job, sender)
            }
        }
    }
}

fn read_file(
    path: &Path,
    store: &FileExport,
    region: Range<u64>,
    job: &Job,
    sender: &PieceSender<'_>,
) -> Result<()> {
    let mut extents = Vec::new();
    let plan = &job.plan;
    if plan.use_extents {
        let collect = &mut |extent| {
            extents.push(extent);
            ControlFlow::Continue(())
        };
        let length = region.end - region.start;
        store.extents(region.start, length, collect).context(path.display())?;
    }
    let block = plan.block as u64;
    // All before `read` has been sent on, and all before `start` is known.
    let (mut read, mut start) = (region.start, region.start);
    for extent in extents {
        let end = start + extent.length;
        // Blocks that are zeroes only in part are read.
        let zeroes = start.next_multiple_of(block)..end - end % block;
        start = end;
        if extent.kind == ExtentKind::Data || zeroes.is_empty() {
            continue;
        }
        read_range(path, store, read..zeroes.start, job, sender)?;
        sender.send(Piece::Zeroes { offset: zeroes.start, length: zeroes.end - zeroes.start })?;
        read = zeroes.end;
    }
    read_range(path, store, read..region.end, job, sender)
}

fn read_range(
    path: &Path,
    store: &FileExport,
    range: Range<u64>,
    job: &Job,
    sender: &PieceSender<'_>,
) -> Result<()> {
    let plan = &job.plan;
    let mut offset = range.start;
    while offset < range.end.min(job.until()) && !job.stop.is_requested() {
        let length = (range.end - offset).min(plan.request_size as u64);
        let mut buffer = job.memory.buffer(length as usize);
        store.read_exact_at(&mut buffer, offset).context(path.display())?;
        job.let_pass(length);
        sparse::send(sender, offset, buffer, &job.memory, plan.sparse)?;
        offset += length;
    }
    Ok(())
}

/// Reads until the stream ends; every piece but the last is full.
fn read_stream(
    stream: &mut (impl Read + AsFd),
    name: &str,
    job: &Job,
    sender: &PieceSender<'_>,
) -> Result<()> {
    let plan = &job.plan;
    let mut offset = 0;
    loop {
        let mut buffer = job.memory.buffer(plan.request_size);
        let mut filled = 0;
        while filled < buffer.len() {
            match job.stop.read(stream, &mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(name),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        buffer.truncate(filled);
        job.let_pass(filled as u64);
        let last = filled < plan.request_size;
        if last {
            // A short piece is sent as it is: the end of a stream is data even when it is
            // zeroes, so that the destination becomes as long.
            sender.send(Piece::Data { offset, bytes: buffer.into() })?;
            return Ok(());
        }
        sparse::send(sender, offset, buffer, &job.memory, plan.sparse)?;
        offset += filled as u64;
    }
}
