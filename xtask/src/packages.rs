//! The Debian packages that the tests need, and their installation.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::steps::{self, capture};
use crate::workspace::{has_program, target_dir};

/// What shows that a package is there, on any distribution.
enum Evidence {
    Program(&'static str),
    Header(&'static str),
    /// Of OCaml.
    Module(&'static str),
}

use Evidence::{Header, Module, Program};

/// Everything that the tests, the benchmarks and their peers are made with.
const PACKAGES: [(&str, Evidence); 23] = [
    ("e2fsprogs", Program("mkfs.ext4")),
    // nbdinfo asks it what an export holds.
    ("file", Program("file")),
    ("fio", Program("fio")),
    ("g++", Program("c++")),
    ("gcc", Program("cc")),
    ("gnutls-bin", Program("certtool")),
    ("libnbd-bin", Program("nbdinfo")),
    ("libnbd-dev", Header("libnbd.h")),
    ("libnbd-ocaml-dev", Module("nbd")),
    ("libssl-dev", Header("openssl/ssl.h")),
    ("nbd-client", Program("nbd-client")),
    ("nbd-server", Program("nbd-server")),
    ("nbdkit", Program("nbdkit")),
    ("ocaml-findlib", Program("ocamlfind")),
    ("ocaml-nox", Program("ocamlopt")),
    ("pkg-config", Program("pkg-config")),
    ("python3-libnbd", Program("nbdsh")),
    ("qemu-utils", Program("qemu-nbd")),
    ("socat", Program("socat")),
    ("strace", Program("strace")),
    ("systemd", Program("systemd-analyze")),
    ("valgrind", Program("valgrind")),
    // What the kernel of the virtual machine is packed with.
    ("xz-utils", Program("xz")),
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
                // nbd-client and nbd-server may be where only the superuser looks.
                has_program(name) || Path::new("/usr/sbin").join(name).is_file()
            }
            Header(name) => Path::new("/usr/include").join(name).is_file(),
            Module(name) => capture(Command::new("ocamlfind").args(["query", name])).is_ok(),
        }
    }
}

/// What to do about packages that are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    /// Say which, and install them.
    Missing,
    /// Say which: the machine's owner installs them.
    Nothing,
}

/// The first version of QEMU with extended headers, which the tests speak with it.
const QEMU: (u32, u32) = (8, 2);

/// Makes sure that every package is there, installing those that are not.
///
/// # Errors
///
/// Names the packages that are missing, or too old, and cannot be installed.
pub(crate) fn ensure(install: Install) -> Outcome {
    ensure_all(install)?;
    ensure_qemu(install)
}

fn ensure_all(install: Install) -> Outcome {
    let wanted = missing();
    if wanted.is_empty() {
        eprintln!("    nothing to install");
        return Ok(());
    }
    let names = wanted.join(" ");
    eprintln!("    missing: {names}");
    let how = format!("missing Debian packages: {names}. Install them, then run this again");
    if install == Install::Nothing {
        return Err(how);
    }
    if !has_program("apt-get") {
        return Err(format!("{how} (there is no apt-get here)"));
    }
    update_lists();
    apt_get(&[&["install", "-y", "--no-install-recommends"], &wanted[..]].concat())
        .map_err(|error| format!("{how} ({error})"))?;
    let still = missing();
    if still.is_empty() { Ok(()) } else { Err(format!("still missing: {}", still.join(" "))) }
}

/// Has apt-get look what there is.
pub(crate) fn update_lists() {
    if let Err(error) = again_and_again(PAUSES, || apt_get(&["update"])) {
        // One source of many may be out of reach, and not the one that is needed.
        eprintln!("    {error}; going on with the lists that are there");
    }
}

/// Debian 12 has an older QEMU, and a newer one among its backports.
fn ensure_qemu(install: Install) -> Outcome {
    let version = || Ok(qemu_version(&capture(Command::new("qemu-nbd").arg("--version"))?.0));
    let old = match version()? {
        Some(found) if found < QEMU => found,
        // What has no number in a known place is most likely newer.
        Some(_) | None => return Ok(()),
    };
    let told = format!(
        "qemu-nbd here is of version {}.{}, and the tests need {}.{} for extended headers",
        old.0, old.1, QEMU.0, QEMU.1
    );
    if install == Install::Nothing {
        return Err(told);
    }
    eprintln!("    {told}");
    let newer = install_backport("qemu-utils").and_then(|()| version());
    match newer {
        Ok(Some(found)) if found < QEMU => Err(format!("{told}; the newest to be had is older")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{told}. Install a newer qemu-utils ({error})")),
    }
}

fn qemu_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("qemu-nbd ")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Installs a package from the backports of this Debian, which need not be among the machine's
/// own sources, and do not become one of them.
fn install_backport(package: &str) -> Outcome {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = format!("{}-backports", codename.ok_or("this is no Debian")?);
    let sources = target_dir()?.join("sources.list");
    let own = read("/etc/apt/sources.list");
    let text = format!("{own}\ndeb http://deb.debian.org/debian {suite} main\n");
    fs::write(&sources, text).map_err(|error| format!("{}: {error}", sources.display()))?;
    let sources = format!("Dir::Etc::SourceList={}", sources.display());
    again_and_again(PAUSES, || apt_get(&["-o", &sources, "update"]))?;
    let install = ["install", "-y", "--no-install-recommends"];
    apt_get(&[&["-o", &sources][..], &install, &["-t", &suite, package]].concat())
}

fn apt_get(args: &[&str]) -> Outcome {
    let mut command = privileged("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(PATIENCE).args(args);
    steps::run(&mut command)
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
    fn versions_of_qemu_are_told_apart() {
        let debian_12 = "qemu-nbd 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(qemu_version(debian_12), Some((7, 2)));
        assert!(qemu_version("qemu-nbd 10.0.2").is_some_and(|found| found >= QEMU));
        assert!(qemu_version("qemu-nbd 8.2.0").is_some_and(|found| found >= QEMU));
        assert_eq!(qemu_version("another program 1.2"), None);
    }

    #[test]
    fn evidence_tells_present_from_absent() {
        assert!(Program("sh").is_there());
        assert!(!Program("no-such-program").is_there());
        assert!(!Header("no-such-header.h").is_there());
    }
}
