//! Where a copy comes to be, and what of it is left when it fails.
//!
//! A file that is not there yet is made under another name and renamed when it is whole. One
//! that is there is emptied when the first byte for it has come, and not before it is certain
//! that it can become as large as the source.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::NamedTempFile;

use super::progress::Progress;
use crate::failure::{Context, Failure, Result};

/// Where a copy comes to be.
#[derive(Debug)]
pub(super) enum Place {
    /// Nothing stays behind: a stream, or nowhere.
    Nowhere,
    /// An export or a block device, which stays as large as it is.
    Fixed { name: String, device: Option<File> },
    /// A file that is there. It is emptied first, unless what it holds is kept.
    Existing {
        path: PathBuf,
        file: File,
        /// It was not there before.
        made: bool,
        size: Option<u64>,
        keep: bool,
        ready: Mutex<bool>,
    },
    /// A file that is made.
    New { path: PathBuf, temporary: NamedTempFile },
}

impl Place {
    /// A regular file, of this size if it is known. Whatever it held is still there, and stays
    /// if it is to be kept, but for what is written.
    pub(super) fn file(path: &Path, size: Option<u64>, keep: bool) -> Result<Self> {
        let named = || format!("destination {}", path.display());
        if !keep
            && let Err(error) = fs::symlink_metadata(path)
            && error.kind() == io::ErrorKind::NotFound
            && let Some(temporary) = beside(path)
        {
            temporary.as_file().set_len(size.unwrap_or(0)).context(named())?;
            return Ok(Self::New { path: path.to_owned(), temporary });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (file, made) = match options.open(path) {
            // Not create_new: it may be a link to a file that is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (options.create(true).truncate(false).open(path), true)
            }
            file => (file, false),
        };
        let (path, file, ready) = (path.to_owned(), file.context(named())?, Mutex::new(false));
        Ok(Self::Existing { path, file, made, size, keep, ready })
    }

    /// The path under which it can be opened, if it is a file.
    pub(super) fn opened(&self) -> Option<(&File, &Path)> {
        match self {
            Self::Nowhere | Self::Fixed { .. } => None,
            Self::Existing { file, path, .. } => Some((file, path)),
            Self::New { temporary, .. } => Some((temporary.as_file(), temporary.path())),
        }
    }

    /// Makes a file as large as the source and all hole, the first time.
    pub(super) fn prepare(&self) -> Result<()> {
        let Self::Existing { path, file, size, keep, ready, made: _ } = self else {
            return Ok(());
        };
        let Ok(mut ready) = ready.lock() else {
            return Err(Failure::new("another worker failed"));
        };
        if !*ready {
            let size = size.unwrap_or(0);
            let resized = match keep {
                true => reach(file, size),
                false => file.set_len(0).and_then(|()| file.set_len(size)),
            };
            resized.context(path.display())?;
            *ready = true;
        }
        Ok(())
    }

    /// Everything is there: gives it its name, and makes it durable if that is wanted.
    pub(super) fn finish(&self, flush: bool) -> Result<()> {
        self.prepare()?;
        match self {
            Self::Nowhere | Self::Fixed { device: None, .. } => Ok(()),
            Self::Fixed { name, device: Some(file) } => sync(file, flush).context(name),
            Self::Existing { path, file, .. } => sync(file, flush).context(path.display()),
            Self::New { path, temporary } => {
                sync(temporary.as_file(), flush).context(path.display())?;
                rename(temporary.path(), path).context(path.display())?;
                if flush {
                    // The name too.
                    let directory = File::open(directory(path));
                    directory.and_then(|directory| directory.sync_all()).context(path.display())?;
                }
                Ok(())
            }
        }
    }

    /// What became of the destination of a copy that has failed.
    pub(super) fn left_behind(&self, progress: &Progress, total: Option<u64>) -> Option<String> {
        let name = match self {
            Self::Nowhere => return None,
            Self::New { path, .. } => return Some(format!("{} was not made", path.display())),
            Self::Fixed { name, .. } => name.clone(),
            Self::Existing { path, .. } => path.display().to_string(),
        };
        Some(match progress.has_begun() {
            true => format!("{name} is incomplete: {}", progress.in_words(total)),
            false => "nothing was written".to_owned(),
        })
    }

    /// Takes away what was made, before anything is in it.
    pub(super) fn withdraw(&self) {
        if let Self::Existing { path, made: true, .. } = self {
            // What is left is empty.
            let _ = fs::remove_file(path);
        }
    }

    /// Takes away what has no name yet: the program ends at once.
    pub(super) fn abandon(&self) {
        if let Self::New { temporary, .. } = self {
            // Somebody else may have been sooner.
            let _ = fs::remove_file(temporary.path());
        }
    }
}

/// A file of another name in the same directory; none where that cannot be, nor for the name of
/// a directory, such as `name/` or `name/.`.
fn beside(path: &Path) -> Option<NamedTempFile> {
    let name = path.file_name()?;
    if !path.as_os_str().as_encoded_bytes().ends_with(name.as_encoded_bytes()) {
        return None;
    }
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".partial")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory(path))
        .ok()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Renames, and replaces nothing.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // The file does not give it up by itself while a worker has it that still connects, and
        // such a one ends with the program. The copy is there, whatever comes of the old name.
        Ok(()) => {
            let _ = fs::remove_file(from);
            Ok(())
        }
        // A file system without links.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !to.exists() => {
            fs::rename(from, to)
        }
        Err(error) => Err(error),
    }
}

/// Makes a file as long, if it is not.
pub(super) fn reach(file: &File, end: u64) -> io::Result<()> {
    if file.metadata()?.len() < end { file.set_len(end) } else { Ok(()) }
}

fn sync(file: &File, flush: bool) -> io::Result<()> {
    if flush { file.sync_all() } else { Ok(()) }
}
