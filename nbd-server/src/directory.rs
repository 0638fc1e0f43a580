//! The files of a directory as exports.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::export::{Export, FileExport};
use crate::exports::{Exports, Listed, Opened, unknown_export};
use crate::peer::Peer;

/// Every regular file of a directory, under its name, as it is when a client asks.
///
/// Nothing else can be reached: no files in directories below, no names that lead elsewhere, no
/// symbolic links, and no hidden files. There is no default export.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    read_only: bool,
    /// Files that are open: all clients of a file share it, and what a failed sync means.
    open: Mutex<HashMap<String, Weak<FileExport>>>,
}

impl Directory {
    /// The files in `path`, to read and write.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        if !path.metadata()?.is_dir() {
            let text = format!("{} is no directory", path.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        Ok(Self { path, read_only: false, open: Mutex::default() })
    }

    /// Whether files are opened to read only (default: to read and write).
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let inside = is_plain(name) && path.parent() == Some(&self.path);
        let is_file = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if inside && is_file() { Ok(path) } else { Err(unknown_export()) }
    }
}

/// Whether a name is that of a file in a directory, and of no other.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

impl Exports for Directory {
    fn list(&self, _peer: &Peer) -> io::Result<Vec<Listed>> {
        let mut all = Vec::new();
        for entry in self.path.read_dir()? {
            let name = entry?.file_name().into_string();
            // One whose name is no text cannot be asked for.
            if let Ok(name) = name
                && self.file(&name).is_ok()
            {
                all.push(Listed::new(name));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn open(&self, name: &str, _peer: &Peer) -> io::Result<Opened> {
        let path = self.file(name)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, file| file.strong_count() > 0);
        let file = match open.get(name).and_then(Weak::upgrade) {
            Some(file) => file,
            None => {
                let file = Arc::new(FileExport::open_no_follow(&path, self.read_only)?);
                open.insert(name.to_owned(), Arc::downgrade(&file));
                file
            }
        };
        Ok(Opened::new(name, file as Arc<dyn Export>).read_only(self.read_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::AnyExport;
    use crate::peer::PeerAddress;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_but_the_files_in_it_can_be_reached() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::create_dir(inside.join("below")).unwrap();
        for file in ["secret", "inside/disk", "inside/.hidden", "inside/below/deep"] {
            File::create(outside.path().join(file)).unwrap();
        }
        symlink(outside.path().join("secret"), inside.join("link")).unwrap();
        let directory = Directory::new(&inside).unwrap();
        let peer = Peer { address: PeerAddress::Unknown, tls: None };
        let names: Vec<_> =
            directory.list(&peer).unwrap().into_iter().map(|listed| listed.name).collect();
        assert_eq!(names, ["disk"]);
        assert!(directory.open("disk", &peer).is_ok());
        let absolute = outside.path().join("secret").display().to_string();
        for name in [
            "",
            ".",
            "..",
            "../secret",
            "below/deep",
            "./disk",
            "below/../disk",
            ".hidden",
            "link",
            "below",
            "disk/",
            "missing",
            "disk\0",
            &absolute,
        ] {
            let error = directory.open(name, &peer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name:?}: {error}");
        }
    }

    #[test]
    fn who_opens_a_file_twice_shares_it() {
        let path = tempfile::tempdir().unwrap();
        fs::write(path.path().join("disk"), [1; 10]).unwrap();
        let directory = Directory::new(path.path()).unwrap().read_only(true);
        let peer = Peer { address: PeerAddress::Unknown, tls: None };
        let [one, two] = [0, 1].map(|_| directory.open("disk", &peer).unwrap());
        let file = |opened: &Opened| match &opened.export {
            AnyExport::Blocking(file) => Arc::as_ptr(file).cast::<u8>(),
            AnyExport::Async(_) => panic!("a file is none"),
        };
        assert_eq!(file(&one), file(&two));
        assert!(one.read_only);
        drop((one, two));
        fs::write(path.path().join("disk"), [1; 20]).unwrap();
        assert_eq!(directory.open("disk", &peer).unwrap().export.size(), 20);
    }
}
