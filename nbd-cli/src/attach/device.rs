//! A network block device of the kernel's, by its number.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, fsync, open};

/// The smallest block that the kernel's devices have, in bytes.
pub(super) const SMALLEST_BLOCK: u32 = 512;

/// The largest: a page.
pub(super) const LARGEST_BLOCK: u32 = 4096;

/// How long a request may be, in bytes: twice what the kernel has as its default. With each half
/// as many have to be passed on; what is written is in our memory, so many times as there are
/// requests in a queue.
const LONG_REQUEST: usize = 256 << 10;

/// `/dev/nbdN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device(u32);

impl Device {
    pub(super) const fn new(index: u32) -> Self {
        Self(index)
    }

    pub(super) const fn index(self) -> u32 {
        self.0
    }

    /// `nbdN`.
    pub(super) fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    pub(super) fn path(self) -> PathBuf {
        Path::new("/dev").join(self.name())
    }

    fn setting(self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.name()).join(name)
    }

    /// The process that has set it up, if there is one: it may be gone meanwhile.
    pub(super) fn owner(self) -> Option<u32> {
        fs::read_to_string(self.setting("pid")).ok()?.trim().parse().ok()
    }

    /// Has the kernel send long requests, but none that is longer than that.
    pub(super) fn limit_requests(self, bytes: usize) -> io::Result<()> {
        let path = self.setting("queue/max_sectors_kb");
        fs::write(path, (bytes.min(LONG_REQUEST) / 1024).to_string())
    }

    /// Writes out what the kernel has not written yet. Nobody else may use it: a file system on
    /// it would lose what it has open.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] when somebody does, and what comes of writing.
    pub(super) fn settle(self) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = match open(self.path(), flags, Mode::empty()) {
            // It is read-only, and nobody has written anything.
            Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => {
                let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
                open(self.path(), flags, Mode::empty())?
            }
            opened => opened?,
        };
        Ok(fsync(opened)?)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/nbd{}", self.0)
    }
}

impl FromStr for Device {
    type Err = String;

    /// From `/dev/nbdN`, `nbdN` or `N`.
    fn from_str(word: &str) -> Result<Self, String> {
        let name = word.strip_prefix("/dev/").unwrap_or(word);
        let digits = name.strip_prefix("nbd").unwrap_or(name);
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let index = digits.parse().ok().filter(|_| plain);
        index.map(Self).ok_or_else(|| format!("`{word}` is no device; they are /dev/nbdN"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_path_name_or_number() {
        for word in ["/dev/nbd7", "nbd7", "7"] {
            assert_eq!(word.parse(), Ok(Device(7)), "{word}");
        }
        for word in ["", "/dev/sda", "nbd", "nbd+7", "/dev/nbd7p1", "nbd99999999999"] {
            assert!(word.parse::<Device>().is_err(), "{word}");
        }
        assert_eq!(Device(7).to_string(), "/dev/nbd7");
    }
}
