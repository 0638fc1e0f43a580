//! The Debian packages that the tests need, and their installation.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::steps;
use crate::workspace::has_program;

/// What shows that a package is there, on any distribution.
enum Evidence {
    Program(&'static str),
    Header(&'static str),
}

use Evidence::{Header, Program};

/// Everything that the tests, the benchmarks and their peers are made with.
const PACKAGES: [(&str, Evidence); 14] = [
    ("fio", Program("fio")),
    ("gcc", Program("cc")),
    ("gnutls-bin", Program("certtool")),
    ("libnbd-bin", Program("nbdinfo")),
    ("libnbd-dev", Header("libnbd.h")),
    ("libssl-dev", Header("openssl/ssl.h")),
    ("nbd-server", Program("nbd-server")),
    ("nbdkit", Program("nbdkit")),
    ("pkg-config", Program("pkg-config")),
    ("python3-libnbd", Program("nbdsh")),
    ("qemu-utils", Program("qemu-nbd")),
    ("socat", Program("socat")),
    ("strace", Program("strace")),
    ("valgrind", Program("valgrind")),
];

/// A machine that has just started may be updating itself: its lock on the packages is waited
/// for, in seconds. Nor is one download that fails the end.
const PATIENCE: [&str; 4] = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"];

/// The lock on the lists of packages is another one, which apt-get does not wait for.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60)];

impl Evidence {
    fn is_there(&self) -> bool {
        match self {
            Program(name) => {
                // nbd-server may be where only the superuser looks.
                has_program(name) || Path::new("/usr/sbin").join(name).is_file()
            }
            Header(name) => Path::new("/usr/include").join(name).is_file(),
        }
    }
}

/// Makes sure that every package is there, installing those that are not.
///
/// # Errors
///
/// Names the packages that are missing and cannot be installed.
pub(crate) fn ensure() -> Outcome {
    let wanted = missing();
    if wanted.is_empty() {
        eprintln!("    nothing to install");
        return Ok(());
    }
    let names = wanted.join(" ");
    eprintln!("    missing: {names}");
    let how = format!("missing Debian packages: {names}. Install them, then run this again");
    if !has_program("apt-get") {
        return Err(format!("{how} (there is no apt-get here)"));
    }
    let apt_get = |args: &[&str]| {
        let mut command = privileged("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(PATIENCE).args(args);
        steps::run(&mut command)
    };
    if let Err(error) = again_and_again(PAUSES, || apt_get(&["update"])) {
        // One source of many may be out of reach, and not the one that is needed.
        eprintln!("    {error}; going on with the lists that are there");
    }
    apt_get(&[&["install", "-y", "--no-install-recommends"], &wanted[..]].concat())
        .map_err(|error| format!("{how} ({error})"))?;
    let still = missing();
    if still.is_empty() { Ok(()) } else { Err(format!("still missing: {}", still.join(" "))) }
}

/// Does some work until it succeeds, with these pauses before it is tried once more. Each
/// failure is shown.
fn again_and_again<const N: usize>(
    pauses: [Duration; N],
    mut work: impl FnMut() -> Outcome,
) -> Outcome {
    for pause in pauses {
        let Err(error) = work() else { return Ok(()) };
        eprintln!("    {error}; once more in {pause:?}");
        thread::sleep(pause);
    }
    work()
}

/// A command with the superuser's rights, without asking for a password.
fn privileged(program: &str) -> Command {
    if fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0) {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, evidence)| !evidence.is_there()).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_once_more_after_each_pause() {
        let tried = |failures: u32| {
            let mut calls = 0;
            let result = again_and_again([Duration::ZERO; 2], || {
                calls += 1;
                if calls > failures { Ok(()) } else { Err(format!("failure {calls}")) }
            });
            (calls, result)
        };
        assert_eq!(tried(0), (1, Ok(())));
        assert_eq!(tried(2), (3, Ok(())));
        assert_eq!(tried(9), (3, Err("failure 3".to_owned())));
    }

    #[test]
    fn evidence_tells_present_from_absent() {
        assert!(Program("sh").is_there());
        assert!(!Program("no-such-program").is_there());
        assert!(!Header("no-such-header.h").is_there());
    }
}
