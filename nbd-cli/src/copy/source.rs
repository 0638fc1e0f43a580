//! Reading: from a server, a file or standard input.

use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nbd_server::{Export, ExtentKind, FileExport};

use super::Plan;
use super::lanes::Regions;
use super::piece::{Outlet, Piece, Slice};
use super::server::ServerSource;
use super::sparse;
use crate::failure::{Context, Failure, Result};
use crate::target::Target;

/// Where the bytes come from.
pub(crate) enum Source {
    Server(Box<ServerSource>),
    File { path: PathBuf, store: Arc<FileExport> },
    Stdin,
}

impl Source {
    pub(crate) fn open(target: &Target, plan: &Plan, timeout: Duration) -> Result<Self> {
        match target {
            Target::Nbd(server) => {
                Ok(Self::Server(Box::new(ServerSource::open(server, plan, timeout)?)))
            }
            Target::File(path) => {
                let store = FileExport::open(path, true).context("source")?;
                Ok(Self::File { path: path.clone(), store: Arc::new(store) })
            }
            Target::Stdio => Ok(Self::Stdin),
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
            Self::Stdin => None,
        }
    }

    /// What reads must be whole multiples of, in bytes.
    pub(super) fn block(&self) -> usize {
        match self {
            Self::Server(server) => server.block(),
            Self::File { .. } | Self::Stdin => 1,
        }
    }

    /// How many lanes it can be read on, of those that are wanted.
    pub(super) fn lanes(&self, wanted: usize) -> usize {
        match self {
            Self::Server(server) => server.lanes(wanted),
            Self::File { .. } => wanted,
            Self::Stdin => 1,
        }
    }

    /// One for each lane, or fewer.
    pub(super) fn split(self, lanes: usize) -> Vec<Self> {
        match self {
            Self::Server(server) => {
                server.split(lanes).into_iter().map(Box::new).map(Self::Server).collect()
            }
            Self::File { path, store } => {
                let with = |store| Self::File { path: path.clone(), store };
                vec![store; lanes].into_iter().map(with).collect()
            }
            Self::Stdin => vec![Self::Stdin],
        }
    }

    /// Sends every byte on of the regions it takes.
    pub(super) fn read_all(self, plan: &Plan, regions: &Regions, outlet: &Outlet) -> Result<()> {
        match self {
            Self::Server(server) => server.read_all(plan, regions, outlet),
            Self::File { path, store } => {
                while let Some(region) = regions.take() {
                    read_file(&path, &store, region, plan, outlet)?;
                }
                Ok(())
            }
            Self::Stdin => read_stream(&mut io::stdin().lock(), plan, outlet),
        }
    }
}

fn read_file(
    path: &Path,
    store: &FileExport,
    region: Range<u64>,
    plan: &Plan,
    outlet: &Outlet,
) -> Result<()> {
    let mut extents = Vec::new();
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
        read_range(path, store, read..zeroes.start, plan, outlet)?;
        outlet.send(Piece::Zeroes { offset: zeroes.start, length: zeroes.end - zeroes.start })?;
        read = zeroes.end;
    }
    read_range(path, store, read..region.end, plan, outlet)
}

fn read_range(
    path: &Path,
    store: &FileExport,
    range: Range<u64>,
    plan: &Plan,
    outlet: &Outlet,
) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(plan.request_size as u64);
        let mut buffer = outlet.buffer(length as usize);
        store.read_exact_at(&mut buffer, offset).context(path.display())?;
        sparse::send(outlet, offset, buffer, plan.sparse)?;
        offset += length;
    }
    Ok(())
}

/// Reads until the stream ends; every piece but the last is full.
fn read_stream(stream: &mut dyn Read, plan: &Plan, outlet: &Outlet) -> Result<()> {
    let mut offset = 0;
    loop {
        let mut buffer = outlet.buffer(plan.request_size);
        let mut filled = 0;
        while filled < buffer.len() {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("standard input"),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        buffer.truncate(filled);
        let last = filled < plan.request_size;
        if last {
            // A short piece is sent as it is: the end of a stream is data even when it is
            // zeroes, so that the destination becomes as long.
            outlet.send(Piece::Data { offset, bytes: Slice::new(buffer, 0..filled) })?;
            return Ok(());
        }
        sparse::send(outlet, offset, buffer, plan.sparse)?;
        offset += filled as u64;
    }
}
