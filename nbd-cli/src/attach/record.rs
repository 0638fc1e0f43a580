//! What others can know of a device: a file for each, in `/run/nbd`, as long as it is attached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::status::Health;

/// The directory of root's.
const ROOT: &str = "/run/nbd";

/// A device that is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Record {
    /// Its path.
    pub(super) device: String,
    /// What it is attached to.
    pub(super) uri: String,
    /// Other servers that may take its place.
    #[serde(default)]
    pub(super) also: Vec<String>,
    /// Where there are several servers, those that are connected to.
    #[serde(default)]
    pub(super) in_use: Vec<String>,
    /// The process that serves it.
    pub(super) pid: u32,
    /// When that process was started, as the kernel counts: process ids are used again.
    pub(super) process_start: u64,
    pub(super) state: Health,
    /// In bytes.
    pub(super) size: u64,
    pub(super) block_size: u32,
    /// To the server.
    pub(super) connections: usize,
    /// How often a connection was made again.
    pub(super) reconnects: u64,
    /// When it was attached, in seconds since 1970.
    pub(super) since: u64,
    /// What was the matter with the server last.
    pub(super) last_error: Option<String>,
    /// What may be lost, told at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) loss: Option<String>,
}

impl Record {
    /// Whether the process is still there.
    pub(super) fn is_served(&self) -> bool {
        process_start(self.pid) == Some(self.process_start)
    }

    /// The device.
    pub(super) fn device(&self) -> Option<Device> {
        self.device.parse().ok()
    }

    /// Writes it where it is looked for.
    pub(super) fn write(&self) -> io::Result<()> {
        let Some(device) = self.device() else { return Ok(()) };
        let dir = directory();
        let path = path(&dir, device);
        fs::create_dir_all(&dir)?;
        // Whoever reads it finds the old one or the new one.
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(unfinished, path)
    }
}

/// When a process was started, as the kernel counts; none when it is gone.
pub(super) fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name comes second, in parentheses, and may contain any character.
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(19)?.parse().ok()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Where those are that this user attaches.
fn directory() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match own {
        Some(dir) if !rustix::process::geteuid().is_root() => Path::new(&dir).join("nbd"),
        _ => PathBuf::from(ROOT),
    }
}

/// Where they are looked for: what root attaches is there for everybody to see.
fn directories() -> impl Iterator<Item = PathBuf> {
    let own = directory();
    let root = Some(PathBuf::from(ROOT)).filter(|root| *root != own);
    std::iter::once(own).chain(root)
}

fn path(directory: &Path, device: Device) -> PathBuf {
    directory.join(format!("{}.json", device.name()))
}

/// What is known of a device.
pub(super) fn read(device: Device) -> Option<Record> {
    let read = |directory: PathBuf| fs::read(path(&directory, device)).ok();
    directories().find_map(|directory| serde_json::from_slice(&read(directory)?).ok())
}

/// Nothing is known of the device any more.
pub(super) fn remove(device: Device) {
    // There may be none.
    let _ = fs::remove_file(path(&directory(), device));
}

/// All devices that something is known of, in order.
pub(super) fn all() -> Vec<Record> {
    let entries = directories().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let devices = names.filter_map(|name| name.strip_suffix(".json")?.parse().ok());
    let mut records: Vec<_> = devices.filter_map(read).collect();
    records.sort_by_key(Record::device);
    records.dedup_by_key(|record| record.device());
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_start() {
        let own = process_start(std::process::id());
        assert!(own.is_some());
        assert_eq!(own, process_start(std::process::id()));
        assert_eq!(process_start(u32::MAX), None);
    }
}
