//! Where an activated program listens.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process;
use tempfile::TempDir;

/// A fresh directory that nobody else may enter, removed when dropped by the process that made
/// it: one that was forked from it has nothing to clean up.
#[derive(Debug)]
pub(crate) struct OwnDirectory {
    directory: TempDir,
    owner: u32,
}

impl OwnDirectory {
    pub(crate) fn new() -> io::Result<Self> {
        let permissions = Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("nbd-").permissions(permissions).tempdir();
        Ok(Self { directory: directory?, owner: process::id() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        self.directory.disable_cleanup(process::id() != self.owner);
    }
}
