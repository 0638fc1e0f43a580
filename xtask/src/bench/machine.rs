//! Where and when it was measured: what a reader needs to judge a figure, and no more.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::steps::capture;
use crate::workspace::root;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Day, in UTC.
    pub(super) date: String,
    /// The state of the project.
    pub(super) commit: String,
    pub(super) kernel: String,
    pub(super) processors: usize,
    pub(super) processor: String,
    pub(super) memory_gib: u64,
    /// Processes that wanted to run in the minute before.
    pub(super) busy: f64,
    pub(super) rounds: usize,
    pub(super) versions: BTreeMap<String, String>,
}

/// Who says which version it is, and in which word of the first line that begins with the second
/// word here.
const PROGRAMS: [(&str, &[&str], &str); 8] = [
    ("nbdkit", &["nbdkit", "--version"], "nbdkit"),
    ("qemu-nbd", &["qemu-nbd", "--version"], "qemu-nbd"),
    ("nbd-server", &["nbd-server", "--version"], "This is nbd-server version"),
    ("libnbd", &["nbdcopy", "--version"], "libnbd"),
    ("nbdcopy", &["nbdcopy", "--version"], "nbdcopy"),
    ("qemu-img", &["qemu-img", "--version"], "qemu-img version"),
    ("fio", &["fio", "--version"], "fio-"),
    ("rustc", &["rustc", "--version"], "rustc"),
];

impl Machine {
    pub(super) fn here(rounds: usize) -> Outcome<Self> {
        let said = |words: &[&str]| capture(Command::new(words[0]).args(&words[1..])).ok();
        let line = |words: &[&str]| {
            let (text, _) = said(words)?;
            Some(text.trim().to_owned())
        };
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        let memory = memory.and_then(|kib| kib.strip_suffix(" kB")?.parse::<u64>().ok());
        let versions = PROGRAMS.iter().filter_map(|(name, words, start)| {
            let (text, more) = said(words)?;
            Some(((*name).to_owned(), version(&format!("{text}\n{more}"), start)?))
        });
        let root = root().display().to_string();
        Ok(Self {
            date: line(&["date", "-u", "+%F"]).ok_or("there is no date")?,
            commit: line(&["git", "-C", &root, "rev-parse", "--short=9", "HEAD"])
                .unwrap_or_default(),
            // Without what a distributor has put behind the version.
            kernel: line(&["uname", "-sr"])
                .and_then(|kernel| kernel.split('-').next().map(str::to_owned))
                .unwrap_or_default(),
            processors: available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
            memory_gib: memory.unwrap_or_default() >> 20,
            busy: read("/proc/loadavg")?
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_default(),
            rounds,
            versions: versions.collect(),
        })
    }
}

/// The word behind some text at the beginning of a line.
fn version(text: &str, start: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_found() {
        let both = "nbdcopy 1.14.2\nlibnbd 1.24.0\n";
        assert_eq!(version(both, "libnbd").as_deref(), Some("1.24.0"));
        assert_eq!(version("fio-3.33\n", "fio-").as_deref(), Some("3.33"));
        assert_eq!(version("qemu-nbd 10.0.2 (Debian)\n", "qemu-nbd").as_deref(), Some("10.0.2"));
        assert_eq!(version("", "x"), None);
    }
}
