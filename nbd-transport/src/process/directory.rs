//! Where an activated program listens.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder};
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

/// How many names are tried. They are random, so one should do.
const ATTEMPTS: usize = 16;

/// A fresh directory that nobody else may enter, removed with all that is in it when dropped by
/// the process that made it: one that was forked from it has nothing to clean up.
#[derive(Debug)]
pub(crate) struct OwnDirectory {
    path: PathBuf,
    owner: u32,
}

impl OwnDirectory {
    pub(crate) fn new() -> io::Result<Self> {
        let owner = process::id();
        let mut result = Err(io::ErrorKind::AlreadyExists.into());
        for _ in 0..ATTEMPTS {
            // Each state of a hasher has random keys of its own.
            let name = format!("nbd-{:016x}", RandomState::new().hash_one(owner));
            let path = std::env::temp_dir().join(name);
            // Whatever is there already is not used, so nobody can prepare it.
            result = DirBuilder::new().mode(0o700).create(&path).map(|()| Self { path, owner });
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                _ => break,
            }
        }
        result
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        if process::id() == self.owner {
            // Whoever removed it before has done this.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_leaves_nothing_behind() {
        use std::os::unix::fs::PermissionsExt;
        let (one, other) = (OwnDirectory::new().unwrap(), OwnDirectory::new().unwrap());
        assert_ne!(one.path(), other.path());
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = one.path().to_owned();
        fs::write(path.join("sock"), "").unwrap();
        drop(one);
        assert!(!path.exists());
    }
}
