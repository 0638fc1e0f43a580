//! Servers of a file whose every read takes a millisecond.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Entry, Run, by_nbdkit, by_qemu, ours};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::Load;
use crate::bench::server::{Directory, unmount, wait_until, with_server};
use crate::steps::capture;

/// A disk on which neighbours of what was read are hardly ever asked for.
const DISK: &str = "64G";

const LOADS: [Load; 2] = [
    Load { name: "1 ms away, depth 64", direction: "read", size: "4k", depth: 64, count: 4000 },
    Load { name: "1 ms away, depth 1", direction: "read", size: "4k", depth: 1, count: 300 },
];

pub(super) fn run(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("slow")?;
    let dir = directory.path();
    let mount = Mount::new(dir)?;
    let file = mount.file.display().to_string();
    let client = Contender::blocking()?;
    let servers = [
        Entry::new("nbd serve", Side::Ours, ours(dir, &[&file])?),
        Entry::new("nbdkit", Side::Theirs, by_nbdkit(dir, &["file", &file])?),
        Entry::new("qemu-nbd", Side::Theirs, by_qemu(dir, &file)?),
    ];
    for load in &LOADS {
        run.race(
            load.name,
            None,
            &servers,
            |_| Ok(()),
            |entry| {
                // Nobody finds in the cache what the one before has read.
                let mut dd = Command::new("dd");
                dd.args(["iflag=nocache", "count=0", "status=none"]).arg(format!("if={file}"));
                capture(&mut dd)?;
                with_server(&entry.what, || client.measure(load, &entry.what.uri()))
            },
        );
    }
    Ok(())
}

/// A file system with one file, whose every read takes a millisecond.
struct Mount {
    child: Child,
    file: PathBuf,
}

impl Mount {
    fn new(dir: &Path) -> Outcome<Self> {
        let file = dir.join("slow");
        let failed = |error: std::io::Error| format!("nbdfuse {}: {error}", file.display());
        File::create(&file).map_err(failed)?;
        let mut nbdfuse = Command::new("nbdfuse");
        nbdfuse.arg(&file).args(["[", "nbdkit", "--exit-with-parent", "--filter=delay", "memory"]);
        nbdfuse.args([DISK, "rdelay=1ms", "]"]);
        let mount = Self { child: nbdfuse.stdin(Stdio::null()).spawn().map_err(failed)?, file };
        wait_until("nbdfuse did not mount", || {
            Ok(fs::metadata(&mount.file).map_or(0, |found| found.len()) > 0)
        })?;
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.file);
        // It has ended by itself, unless it could not be unmounted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
