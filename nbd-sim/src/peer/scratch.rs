//! A fresh directory for one test.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::while_doing;
use super::{PeerError, run, tool};

/// A new temporary directory, removed with all it holds when dropped.
///
/// Its path is absolute (QEMU and nbd-server want that) and short, because the
/// address of a Unix socket holds at most 107 bytes.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`].
    pub fn new() -> Result<Self, PeerError> {
        let dir = tempfile::Builder::new()
            .prefix("nbd-")
            .tempdir()
            .map_err(while_doing("making a temporary directory"))?;
        Ok(Self { dir })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in the directory.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a sparse raw image of `len` zero bytes.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`].
    pub fn raw_image(&self, name: &str, len: u64) -> Result<PathBuf, PeerError> {
        let path = self.join(name);
        File::create(&path)
            .and_then(|file| file.set_len(len))
            .map_err(while_doing(format!("making {}", path.display())))?;
        Ok(path)
    }

    /// Makes an empty qcow2 image with `qemu-img` whose disk has `len` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`tool`] and [`run`].
    pub fn qcow2_image(&self, name: &str, len: u64) -> Result<PathBuf, PeerError> {
        let path = self.join(name);
        let mut create = tool("qemu-img")?;
        create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(len.to_string());
        run(&mut create)?.success()?;
        Ok(path)
    }
}
