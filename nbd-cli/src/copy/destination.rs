//! Writing: to a server, a file, a stream or nowhere.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nbd_server::{Export, FileExport};

use super::NO_STREAM;
use super::filters::nothing_waits;
use super::job::Job;
use super::piece::{Piece, Sink};
use super::place::{Place, reach};
use super::plan::Plan;
use super::progress::Progress;
use super::server::{self, Connected};
use super::written::{Written, look_at};
use crate::failure::{Context, Failure, Result};
use crate::output::{is_open, wrote};
use crate::target::Target;

/// Where the bytes go.
pub(super) enum Destination<'a> {
    /// `null:`.
    Nowhere,
    Server(Box<Connected>),
    /// A file or block device of the right size.
    File {
        path: PathBuf,
        store: Arc<FileExport>,
        place: Arc<Place>,
        is_zero: bool,
    },
    /// A file that grows: the size is not known before the end.
    Growing {
        path: PathBuf,
        file: File,
        place: Arc<Place>,
    },
    Stdout,
    /// A pipe or a character device.
    Device {
        path: PathBuf,
        file: File,
    },
    /// An export that is only compared.
    Against(Box<Connected>),
    /// A file or block device that is only compared.
    AgainstFile {
        path: PathBuf,
        store: Arc<FileExport>,
    },
    /// A part of this program that takes bytes in order, from this offset on.
    Program(Box<dyn Write + 'a>, u64),
}

/// Opens a destination once more, for another worker.
pub(super) type Another = Box<dyn FnOnce() -> Result<Destination<'static>> + Send>;

impl Destination<'_> {
    /// Opens it and makes sure, before anything is written, that all of it fits.
    pub(super) fn open(
        target: &Target,
        size: Option<u64>,
        plan: &Plan,
    ) -> Result<(Destination<'static>, Arc<Place>)> {
        match target {
            Target::Nbd(server) if plan.compare.is_some() => {
                let against = Connected::to_read(server, plan)?;
                Ok((Destination::Against(Box::new(against)), Arc::new(Place::Nowhere)))
            }
            Target::File(path) if plan.compare.is_some() => {
                let store = Arc::new(FileExport::open_read_only(path).context(path.display())?);
                let against = Destination::AgainstFile { path: path.clone(), store };
                Ok((against, Arc::new(Place::Nowhere)))
            }
            Target::Stdio | Target::Null if plan.compare.is_some() => Err(Failure::new(NO_STREAM)),
            Target::Nbd(server) => {
                let destination = server::open_to_write(server, size, plan.limit)?;
                let place = Place::Fixed { name: server.name.clone(), device: None };
                Ok((Destination::Server(Box::new(destination)), Arc::new(place)))
            }
            Target::File(path) => match fs::metadata(path).map(|data| data.file_type()) {
                Ok(kind) if kind.is_socket() => Err(is_socket(path)),
                Ok(kind) if kind.is_block_device() => block_device(path, size),
                Ok(kind) if kind.is_fifo() || kind.is_char_device() => device(path),
                // What else it may be shows when it is opened.
                Ok(_) | Err(_) => file(path, size, plan.keep),
            },
            Target::Stdio if io::stdout().is_terminal() => Err(Failure::new(
                "standard output is a terminal; send it to a file or a program, or name one",
            )),
            Target::Stdio => {
                is_open(io::stdout(), "standard output")?;
                Ok((Destination::Stdout, Arc::new(Place::Nowhere)))
            }
            Target::Null => Ok((Destination::Nowhere, Arc::new(Place::Nowhere))),
        }
    }

    /// What writes must be whole multiples of, in bytes.
    pub(super) fn block(&self) -> usize {
        match self {
            Self::Server(server) => server.block(),
            Self::Against(server) => server.block(),
            Self::File { .. }
            | Self::AgainstFile { .. }
            | Self::Growing { .. }
            | Self::Stdout
            | Self::Device { .. }
            | Self::Program(..)
            | Self::Nowhere => 1,
        }
    }

    /// How many workers it can be written on, of those that are wanted.
    pub(super) fn workers(&self, wanted: usize) -> usize {
        match self {
            Self::Server(server) => server.workers(wanted),
            Self::Against(server) => server.workers(wanted),
            Self::File { .. } | Self::AgainstFile { .. } | Self::Nowhere => wanted,
            Self::Growing { .. } | Self::Stdout | Self::Device { .. } | Self::Program(..) => 1,
        }
    }

    /// Bytes in all, of what is only compared.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Against(server) => Some(server.size()),
            Self::AgainstFile { store, .. } => Some(store.size()),
            Self::Nowhere
            | Self::Server(_)
            | Self::File { .. }
            | Self::Growing { .. }
            | Self::Stdout
            | Self::Device { .. }
            | Self::Program(..) => None,
        }
    }

    /// The same once more; none of what is written in order.
    pub(super) fn another(&self) -> Option<Another> {
        Some(match self {
            Self::Nowhere => Box::new(|| Ok(Destination::Nowhere)),
            Self::Server(server) => {
                let another = server.another();
                Box::new(move || Ok(Destination::Server(Box::new(another()?))))
            }
            Self::Against(server) => {
                let another = server.another();
                Box::new(move || Ok(Destination::Against(Box::new(another()?))))
            }
            Self::AgainstFile { path, store } => {
                let (path, store) = (path.clone(), Arc::clone(store));
                Box::new(move || Ok(Destination::AgainstFile { path, store }))
            }
            Self::File { path, store, place, is_zero } => {
                let (path, store, place) = (path.clone(), Arc::clone(store), Arc::clone(place));
                let is_zero = *is_zero;
                Box::new(move || Ok(Destination::File { path, store, place, is_zero }))
            }
            Self::Growing { .. } | Self::Stdout | Self::Device { .. } | Self::Program(..) => {
                return None;
            }
        })
    }

    /// Lets `body` send it pieces, and returns when it has acknowledged all of them.
    pub(super) fn run(
        self,
        job: &Job,
        body: impl FnOnce(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let (plan, progress) = (&job.plan, &*job.progress);
        match self {
            Self::Nowhere => body(&mut Nowhere { progress }),
            Self::Server(server) => server::write(*server, job, body),
            Self::Against(server) => server::compare(*server, job, body),
            Self::AgainstFile { path, store } => {
                let mut bytes = Vec::new();
                let look = |piece: &Piece| -> Result<()> {
                    look_at(&store, piece, &mut bytes, job).context(path.display())
                };
                body(&mut Positioned { write: look, progress })
            }
            Self::File { path, store, place, is_zero } => {
                let skip = (is_zero || plan.skip_zeroes) && !plan.allocated;
                let mut written = Written::new(job, &path, &store);
                let write = |piece: &Piece| {
                    place.prepare()?;
                    written.piece(piece, skip)
                };
                body(&mut Positioned { write, progress })?;
                written.finish()
            }
            Self::Growing { path, file, place } => {
                // Whatever is not written reads as zeroes. The last piece is data.
                let write = |piece: &Piece| {
                    place.prepare()?;
                    let written = match piece {
                        Piece::Data { offset, bytes } => file.write_all_at(bytes.as_ref(), *offset),
                        Piece::Zeroes { offset, length } => reach(&file, offset + length),
                    };
                    written.context(path.display())
                };
                body(&mut Positioned { write, progress })
            }
            Self::Stdout => {
                let mut ordered = Ordered::new(io::stdout().lock(), 0, wrote, progress);
                body(&mut ordered)?;
                ordered.finish()
            }
            Self::Device { path, file } => {
                let told = |result: io::Result<()>| result.context(path.display());
                let mut ordered = Ordered::new(file, 0, told, progress);
                body(&mut ordered)?;
                ordered.finish()
            }
            Self::Program(program, begin) => {
                let mut ordered = Ordered::new(program, begin, wrote, progress);
                body(&mut ordered)?;
                ordered.finish()
            }
        }
    }
}

fn file(path: &Path, size: Option<u64>, keep: bool) -> Result<(Destination<'static>, Arc<Place>)> {
    let place = Arc::new(Place::file(path, size, keep)?);
    let opened = in_place(path, size, keep, &place);
    if opened.is_err() {
        place.withdraw();
    }
    opened.map(|destination| (destination, place))
}

/// Opens a file as a destination, and makes sure that it can become as large.
fn in_place(
    path: &Path,
    size: Option<u64>,
    keep: bool,
    place: &Arc<Place>,
) -> Result<Destination<'static>> {
    let Some((file, name)) = place.opened() else {
        return Err(Failure::new(format!("{} is no file", path.display())));
    };
    let path = path.to_owned();
    let destination = match size {
        Some(size) => {
            // A store is as large as it was when it was opened; and what is too large for the
            // file system is known now, when nothing is lost yet.
            let named = || format!("destination {}", path.display());
            let before = file.metadata().context(named())?.len();
            file.set_len(before.max(size)).context(named())?;
            let store = Arc::new(FileExport::open(name).context("destination")?);
            file.set_len(before).context(named())?;
            Destination::File { path, store, place: Arc::clone(place), is_zero: !keep }
        }
        None => {
            let file = file.try_clone().context(path.display())?;
            Destination::Growing { path, file, place: Arc::clone(place) }
        }
    };
    Ok(destination)
}

/// A server may listen there, but it is not named like that.
pub(super) fn is_socket(path: &Path) -> Failure {
    let path = path.display();
    Failure::new(format!("{path} is a socket; the server there is nbd+unix:///?socket={path}"))
}

fn block_device(path: &Path, size: Option<u64>) -> Result<(Destination<'static>, Arc<Place>)> {
    let store = FileExport::open(path).context("destination")?;
    let name = format!("destination {}", path.display());
    if size.is_some_and(|size| size > store.size()) {
        return Err(too_small(&name, store.size(), size));
    }
    let device = File::open(path).context(&name)?;
    let place = Place::Fixed { name: path.display().to_string(), device: Some(device) };
    let place = Arc::new(place);
    let (path, store) = (path.to_owned(), Arc::new(store));
    let destination = Destination::File { path, store, place: Arc::clone(&place), is_zero: false };
    Ok((destination, place))
}

fn device(path: &Path) -> Result<(Destination<'static>, Arc<Place>)> {
    let named = || format!("destination {}", path.display());
    let file = OpenOptions::new().write(true).open(path).context(named())?;
    if file.is_terminal() {
        return Err(Failure::new(format!("{} is a terminal", named())));
    }
    Ok((Destination::Device { path: path.to_owned(), file }, Arc::new(Place::Nowhere)))
}

pub(super) fn too_small(name: &str, room: u64, size: Option<u64>) -> Failure {
    match size {
        Some(size) => Failure::new(format!(
            "{name}: has room for {room} bytes, but the copy would end at byte {size}; nothing was \
             written"
        )),
        None => Failure::new(format!("{name}: the source has more than the {room} bytes it holds")),
    }
}

impl Progress {
    fn count(&self, piece: &Piece) {
        match piece {
            Piece::Data { bytes, .. } => self.data(bytes.len() as u64),
            Piece::Zeroes { length, .. } => self.zeroes(*length),
        }
    }
}

struct Nowhere<'a> {
    progress: &'a Progress,
}

impl Sink for Nowhere<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        self.progress.count(&piece);
        Ok(())
    }
}

/// Takes pieces in whatever order they come.
struct Positioned<'a, W> {
    write: W,
    progress: &'a Progress,
}

impl<W: FnMut(&Piece) -> Result<()>> Sink for Positioned<'_, W> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        self.progress.begin();
        (self.write)(&piece)?;
        self.progress.count(&piece);
        Ok(())
    }
}

/// A stream takes bytes in order only: what comes early waits.
struct Ordered<'a, S, T> {
    stream: S,
    /// What a failure of the stream is told as.
    told: T,
    progress: &'a Progress,
    early: BTreeMap<u64, Piece>,
    position: u64,
}

impl<'a, S: Write, T: Fn(io::Result<()>) -> Result<()>> Ordered<'a, S, T> {
    fn new(stream: S, position: u64, told: T, progress: &'a Progress) -> Self {
        Self { stream, told, progress, early: BTreeMap::new(), position }
    }

    fn finish(mut self) -> Result<()> {
        (self.told)(self.stream.flush())?;
        nothing_waits(&self.early)
    }
}

impl<S: Write, T: Fn(io::Result<()>) -> Result<()>> Sink for Ordered<'_, S, T> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        let offset = match &piece {
            Piece::Data { offset, .. } | Piece::Zeroes { offset, .. } => *offset,
        };
        self.early.insert(offset, piece);
        while let Some(piece) = self.early.remove(&self.position) {
            match &piece {
                Piece::Data { bytes, .. } => {
                    (self.told)(self.stream.write_all(bytes.as_ref()))?;
                    self.position += bytes.len() as u64;
                }
                Piece::Zeroes { length, .. } => {
                    (self.told)(write_zeroes(&mut self.stream, *length))?;
                    self.position += length;
                }
            }
            self.progress.count(&piece);
        }
        Ok(())
    }
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
