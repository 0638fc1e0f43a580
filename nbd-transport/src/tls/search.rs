//! Where credentials are looked for when nobody says where.

use super::credentials::CA;
use std::path::{Path, PathBuf};

/// The directory of the whole system.
const SYSTEM: &str = "/etc/pki/libnbd";

/// The first directory that has a CA certificate. The order and the names are those of other NBD
/// clients, so that one set of credentials serves all.
pub(super) fn directory() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let root = rustix::process::getuid().is_root();
    candidates(home.map(PathBuf::from), root).into_iter().find(|dir| dir.join(CA).exists())
}

fn candidates(home: Option<PathBuf>, root: bool) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let (Some(home), false) = (home, root) {
        dirs.push(home.join(".pki/libnbd"));
        dirs.push(home.join(".config/pki/libnbd"));
    }
    dirs.push(Path::new(SYSTEM).to_owned());
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_directories_come_first_but_not_for_root() {
        let home = Some(PathBuf::from("/home/a"));
        let own = ["/home/a/.pki/libnbd", "/home/a/.config/pki/libnbd", SYSTEM];
        assert_eq!(candidates(home.clone(), false), own.map(PathBuf::from));
        assert_eq!(candidates(home, true), [PathBuf::from(SYSTEM)]);
        assert_eq!(candidates(None, false), [PathBuf::from(SYSTEM)]);
    }
}
