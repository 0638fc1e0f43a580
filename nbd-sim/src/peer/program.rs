//! Where programs are, and which Debian package has them.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::PeerError;
use super::error::while_doing;

/// The packages of every program the tests start.
const PACKAGES: [(&str, &str); 20] = [
    ("cc", "gcc"),
    ("certtool", "gnutls-bin"),
    ("fio", "fio"),
    ("nbd-server", "nbd-server"),
    ("nbdcopy", "libnbd-bin"),
    ("nbddump", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("nbdsh", "python3-libnbd"),
    ("openssl", "openssl"),
    ("psktool", "gnutls-bin"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-storage-daemon", "qemu-utils"),
    ("setpriv", "util-linux"),
    ("sh", "dash"),
    ("socat", "socat"),
    ("strace", "strace"),
    ("valgrind", "valgrind"),
];

/// The search path for programs: the system's own directories, then the
/// caller's. `nbdsh` is a Python script whose module belongs to the system's
/// own interpreter, so another `python3` must not come first.
pub(super) fn search_path() -> OsString {
    let mut path = OsString::from("/usr/bin:/usr/sbin:/bin:/sbin");
    if let Some(inherited) = env::var_os("PATH") {
        path.push(":");
        path.push(inherited);
    }
    path
}

/// The absolute path of an installed program.
///
/// # Errors
///
/// [`PeerError::Missing`].
pub(super) fn find(program: &str) -> Result<PathBuf, PeerError> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|p| is_program(p))
        .ok_or_else(|| PeerError::Missing {
            program: program.to_owned(),
            package: PACKAGES
                .iter()
                .find(|(name, _)| *name == program)
                .map_or("of that name", |(_, package)| package),
        })
}

/// The path of this project's own `nbd` program: the environment variable
/// `NBD_PROGRAM`, or else the one in the target directory that the running test
/// comes from.
///
/// # Errors
///
/// [`PeerError::NotBuilt`] when there is none.
pub fn nbd_program() -> Result<PathBuf, PeerError> {
    if let Some(path) = env::var_os("NBD_PROGRAM").map(PathBuf::from) {
        return if is_program(&path) {
            Ok(path)
        } else {
            Err(PeerError::NotBuilt { looked_in: path.display().to_string() })
        };
    }
    let test = env::current_exe().map_err(while_doing("finding the running test"))?;
    // A test is target/PROFILE/deps/NAME, an example target/PROFILE/examples/NAME.
    let dir = test.parent().unwrap_or_else(|| Path::new("."));
    dir.ancestors()
        .take(2)
        .map(|dir| dir.join("nbd"))
        .find(|p| is_program(p))
        .ok_or_else(|| PeerError::NotBuilt { looked_in: dir.display().to_string() })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
