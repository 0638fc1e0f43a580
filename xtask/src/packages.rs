//! The Debian packages that the tests need, and their installation.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

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
    let as_root = |args: &[&str]| {
        let mut command = privileged("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
        steps::run(&mut command).map_err(|error| format!("{how} ({error})"))
    };
    as_root(&["update"])?;
    as_root(&[&["install", "-y", "--no-install-recommends"], &wanted[..]].concat())?;
    let still = missing();
    if still.is_empty() { Ok(()) } else { Err(format!("still missing: {}", still.join(" "))) }
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
    fn evidence_tells_present_from_absent() {
        assert!(Program("sh").is_there());
        assert!(!Program("no-such-program").is_there());
        assert!(!Header("no-such-header.h").is_there());
    }
}
