//! An export as a file, by FUSE: `nbd mount` beside nbdfuse and the export of QEMU's storage daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Entry, Run};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::Load;
use crate::bench::server::{Directory, Server, unmount, wait_until};
use crate::workspace::{has_program, nbd_program};

const LOADS: [Load; 5] = [
    Load { name: "read 4 KiB, depth 1", direction: "read", size: "4k", depth: 1, count: 8000 },
    Load { name: "read 4 KiB, depth 32", direction: "read", size: "4k", depth: 32, count: 16_000 },
    Load {
        name: "write 4 KiB, depth 32",
        direction: "write",
        size: "4k",
        depth: 32,
        count: 16_000,
    },
    Load {
        name: "read 256 KiB, depth 16",
        direction: "read",
        size: "256k",
        depth: 16,
        count: 3000,
    },
    Load {
        name: "write 256 KiB, depth 16",
        direction: "write",
        size: "256k",
        depth: 16,
        count: 3000,
    },
];

pub(super) fn run(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("mount")?;
    let dir = directory.path();
    let server = Server::memory(dir)?;
    let fio = Contender::fio_on_file().ok_or("fio is not installed")?;
    let mut mounts =
        vec![Entry::new("nbd mount", Side::Ours, Mount::ours(&dir.join("ours"), &server.uri())?)];
    if has_program("nbdfuse") {
        let mount = Mount::nbdfuse(&dir.join("nbdfuse"), &server.uri())?;
        mounts.push(Entry::new("nbdfuse", Side::Theirs, mount));
    }
    if has_program("qemu-storage-daemon") {
        let mount = Mount::qemu(&dir.join("qemu"), &dir.join("s"))?;
        mounts.push(Entry::new("qemu-storage-daemon", Side::Theirs, mount));
    }
    for load in &LOADS {
        run.race(
            load.name,
            None,
            &mounts,
            |entry| fio.check(load, &entry.what.file()),
            |entry| fio.measure(load, &entry.what.file()),
        );
    }
    Ok(())
}

/// A file that is an export, unmounted when dropped.
struct Mount {
    child: Child,
    /// What is mounted on.
    place: PathBuf,
    file: PathBuf,
}

impl Mount {
    fn ours(place: &Path, uri: &str) -> Outcome<Self> {
        fs::create_dir(place).map_err(|error| format!("{}: {error}", place.display()))?;
        let mut program = Command::new(nbd_program()?);
        Self::start(program.arg("mount").arg(uri).arg(place), place, place.join("nbd"))
    }

    fn nbdfuse(place: &Path, uri: &str) -> Outcome<Self> {
        File::create(place).map_err(|error| format!("{}: {error}", place.display()))?;
        Self::start(Command::new("nbdfuse").arg(place).arg(uri), place, place.to_owned())
    }

    fn qemu(place: &Path, socket: &Path) -> Outcome<Self> {
        File::create(place).map_err(|error| format!("{}: {error}", place.display()))?;
        let (socket, file) = (socket.display(), place.display());
        let mut program = Command::new("qemu-storage-daemon");
        program.arg("--blockdev");
        program.arg(format!("driver=nbd,node-name=n,server.type=unix,server.path={socket}"));
        program.arg("--export");
        program.arg(format!("fuse,id=e,node-name=n,mountpoint={file},writable=on"));
        Self::start(&mut program, place, place.to_owned())
    }

    fn start(program: &mut Command, place: &Path, file: PathBuf) -> Outcome<Self> {
        let name = program.get_program().display().to_string();
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start `{name}`: {error}"))?;
        let mount = Self { child, place: place.to_owned(), file };
        wait_until(&format!("`{name}` did not mount"), || {
            Ok(fs::metadata(&mount.file).map_or(0, |found| found.len()) > 0)
        })?;
        Ok(mount)
    }

    fn file(&self) -> String {
        self.file.display().to_string()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.place);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
