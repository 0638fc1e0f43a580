//! Of which release an installed program is: what a peer is expected to do may depend on it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{PeerError, run, tool};

/// The major and the minor number of a release, in the order of releases.
pub type Version = (u32, u32);

/// What each program said when it was first asked.
static KNOWN: Mutex<BTreeMap<String, Version>> = Mutex::new(BTreeMap::new());

/// The version of an installed program, which is asked for it once.
///
/// # Errors
///
/// Those of [`tool`], [`run`] and [`Finished::success`](super::Finished::success);
/// [`PeerError::NoVersion`] when what it says begins with no number like `1.42`.
pub fn version(program: &str) -> Result<Version, PeerError> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = known.get(program) {
        return Ok(*version);
    }
    let told = run(tool(program)?.arg("--version"))?.success()?;
    let version = first_in(&told)
        .ok_or_else(|| PeerError::NoVersion { program: program.to_owned(), told: told.clone() })?;
    known.insert(program.to_owned(), version);
    Ok(version)
}

/// The first two numbers of the first word that begins with two.
fn first_in(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (told, version) in [
            ("nbdkit 1.42.3", Some((1, 42))),
            ("nbdinfo 1.22.2\nlibnbd 1.23.0", Some((1, 22))),
            ("qemu-nbd 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright 2003", Some((10, 0))),
            ("This is nbd-server version 3.26.1", Some((3, 26))),
            ("fio-3.33", None),
            ("version 7", None),
            ("", None),
        ] {
            assert_eq!(first_in(told), version, "{told:?}");
        }
        assert!((1, 9) < (1, 42) && (1, 42) < (10, 0));
    }

    #[test]
    fn installed_programs_have_one() -> Result<(), PeerError> {
        for program in ["nbdkit", "nbdinfo", "nbdcopy", "qemu-nbd", "qemu-img"] {
            let found = version(program)?;
            assert!(found >= (1, 0), "{program}: {found:?}");
            assert_eq!(version(program)?, found);
        }
        assert!(matches!(version("no-such-program"), Err(PeerError::Missing { .. })));
        Ok(())
    }
}
