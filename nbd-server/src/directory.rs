//! The files of a directory as exports.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
    open: OpenFiles,
}

/// Files that are open: all clients of a file share it, and what a failed sync means.
#[derive(Debug, Default)]
struct OpenFiles(Mutex<HashMap<String, Weak<FileExport>>>);

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
        Ok(Self { path, read_only: false, open: OpenFiles::default() })
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

impl OpenFiles {
    /// A file that somebody has open, or opens it. That may take its time, on a network for
    /// instance, and holds up nobody else. Of two who open one at once the later gets the file of
    /// the other.
    fn get_or_open(
        &self,
        name: &str,
        open: impl FnOnce() -> io::Result<FileExport>,
    ) -> io::Result<Arc<FileExport>> {
        let known = self.lock().get(name).and_then(Weak::upgrade);
        if let Some(file) = known {
            return Ok(file);
        }
        let opened = Arc::new(open()?);
        let mut files = self.lock();
        files.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = files.get(name).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.insert(name.to_owned(), Arc::downgrade(&opened));
        drop(files);
        Ok(opened)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<FileExport>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let open = || FileExport::open_no_follow(&path, self.read_only);
        let file = self.open.get_or_open(name, open)?;
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
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// Longer than anything takes that is waited for, so that a hang is a failure.
    const LIMIT: Duration = Duration::from_secs(60);

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

    /// A file system that takes its time holds up those who want the same file, and no others.
    #[test]
    fn files_are_opened_beside_each_other_and_shared_all_the_same() {
        let path = tempfile::tempdir().unwrap();
        for name in ["slow", "quick"] {
            File::create(path.path().join(name)).unwrap();
        }
        let files = Arc::new(OpenFiles::default());
        let (begin, begun) = channel();
        let (opened, all) = channel();
        let open = |name: &'static str, gate: Option<Receiver<()>>| {
            let (files, path) = (Arc::clone(&files), path.path().join(name));
            let (begin, opened) = (Sender::clone(&begin), Sender::clone(&opened));
            std::thread::spawn(move || {
                let file = files.get_or_open(name, || {
                    begin.send(()).unwrap();
                    gate.map(|gate| gate.recv_timeout(LIMIT));
                    FileExport::open(path)
                });
                opened.send(file.unwrap()).unwrap();
            });
        };
        let gates = [(); 2].map(|()| {
            let (let_go, gate) = channel();
            open("slow", Some(gate));
            begun.recv_timeout(LIMIT).expect("the other one is waited for");
            let_go
        });
        open("quick", None);
        let quick = all.recv_timeout(LIMIT).expect("the slow one is waited for");
        drop(gates);
        let slow = [(); 2].map(|()| all.recv_timeout(LIMIT).unwrap());
        assert!(Arc::ptr_eq(&slow[0], &slow[1]) && !Arc::ptr_eq(&slow[0], &quick));
    }

    /// A pipe in the place of a file, however quickly it came there, is refused at once.
    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let path = tempfile::tempdir().unwrap();
        let pipe = path.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let (opened, all) = channel();
        std::thread::spawn(move || {
            let peer = Peer { address: PeerAddress::Unknown, tls: None };
            for read_only in [false, true] {
                let directory = Directory::new(path.path()).unwrap().read_only(read_only);
                opened.send(directory.open("pipe", &peer).map(drop)).unwrap();
                opened.send(FileExport::open_no_follow(&pipe, read_only).map(drop)).unwrap();
            }
        });
        for _ in 0..4 {
            all.recv_timeout(LIMIT).expect("it is waited for").unwrap_err();
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
