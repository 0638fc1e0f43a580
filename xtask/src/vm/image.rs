//! The root file system of the machine: busybox, the kernel's modules, a script and its files.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::steps::capture;
use crate::workspace::target_dir;

use super::kit::{Kit, list};

/// Each after those that it needs. Some kernels have one or the other built in.
const MODULES: [&str; 9] = [
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vsock_loopback",
    "nbd",
];

/// What the machine says, with the script's exit status behind it, when the script has ended.
pub(super) const LAST_WORD: &str = "vm: the script ended with ";

/// The first program. Without `/dev/nbd0` and vsock the machine is not what was asked for.
const INIT: &str = r#"#!/bin/busybox sh
# Behind /bin, for programs of their own do more.
/bin/busybox mkdir /applets
/bin/busybox --install -s /applets
export PATH=/bin:/applets:/usr/bin:/usr/sbin:/sbin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
ip link set lo up; hostname vm
for module in @MODULES@; do
    [ ! -e /lib/$module.ko ] || insmod /lib/$module.ko
done
# What the script says goes to no terminal. What it leaves running may go on to hold the other end.
mkfifo /tmp/output
cat /tmp/output &
exec 3> /tmp/output
if [ -b /dev/nbd0 ] && [ -e /dev/vsock ]; then
    sh -eu /script < /dev/null >&3 2>&1 3>&-
    status=$?
else
    echo "the kernel has no network block devices, or no vsock" >&3
    status=70
fi
echo "@LAST_WORD@$status" >&3
# Whoever reads that ends the machine.
while :; do sleep 1000; done
"#;

/// A packed image, removed when dropped.
#[derive(Debug)]
pub(super) struct Image(PathBuf);

impl Image {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap_or(&self.0));
    }
}

/// Packs an image with the script. Programs among the files are in its search path, with the
/// libraries that they need; libraries stay where they are.
///
/// # Errors
///
/// Names the file that is not there or cannot be packed.
pub(super) fn pack(kit: &Kit, script: &Path, files: &[PathBuf]) -> Outcome<Image> {
    let work = target_dir()?.join(format!("vm-run-{}", std::process::id()));
    let image = Image(work.join("image"));
    let root = work.join("root");
    for dir in ["bin", "lib", "proc", "sys", "dev", "tmp", "mnt", "run", "etc"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).map_err(|error| told(&dir, error))?;
    }
    let tools = [
        ["bin/busybox", "usr/bin/busybox"],
        ["sbin/mkfs.ext4", "usr/sbin/mkfs.ext4"],
        ["sbin/fsck.ext4", "usr/sbin/fsck.ext4"],
        ["sbin/nbd-client", "usr/sbin/nbd-client"],
    ];
    for places in tools {
        let found = places.iter().map(|place| kit.root.join(place)).find(|path| path.is_file());
        let program = found.ok_or_else(|| format!("the kit has no {}", places[0]))?;
        add_program(&root, &program)?;
    }
    for file in files {
        if file.extension().is_some_and(|end| end == "so") {
            copy(file, &inside(&root, file))?;
            add_libraries(&root, file)?;
        } else {
            add_program(&root, file)?;
        }
    }
    for module in MODULES {
        add_module(&root, &kit.modules, module)?;
    }
    copy(script, &root.join("script"))?;
    let init = INIT.replace("@MODULES@", &MODULES.join(" ")).replace("@LAST_WORD@", LAST_WORD);
    let first = root.join("init");
    fs::write(&first, init).map_err(|error| told(&first, error))?;
    fs::set_permissions(&first, fs::Permissions::from_mode(0o755))
        .map_err(|error| told(&first, error))?;
    archive(&root.join("bin/busybox"), &root, image.path())?;
    Ok(image)
}

fn told(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn copy(from: &Path, to: &Path) -> Outcome {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).map_err(|error| told(parent, error))?;
    fs::copy(from, to).map_err(|error| told(from, error))?;
    Ok(())
}

/// The same place below the root.
fn inside(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}

fn add_program(root: &Path, program: &Path) -> Outcome {
    let name = program.file_name().ok_or_else(|| format!("{} has no name", program.display()))?;
    copy(program, &root.join("bin").join(name))?;
    add_libraries(root, program)
}

/// Whatever the program is linked with on this machine.
fn add_libraries(root: &Path, program: &Path) -> Outcome {
    // It ends with 1 for what is linked with nothing.
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| format!("cannot start ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        return Err(format!("{} does not find its libraries here:\n{text}", program.display()));
    }
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let library = Path::new(library);
        let place = inside(root, library);
        if !place.exists() {
            copy(library, &place)?;
        }
    }
    Ok(())
}

/// A module that is built in is nowhere.
fn add_module(root: &Path, modules: &Path, name: &str) -> Outcome {
    let Some(file) = find(modules, name)? else { return Ok(()) };
    let place = root.join("lib").join(format!("{name}.ko"));
    if file.extension().is_some_and(|end| end == "xz") {
        let unpacked = File::create(&place).map_err(|error| told(&place, error))?;
        let xz = Command::new("xz").arg("-dc").arg(&file).stdout(Stdio::from(unpacked)).status();
        return match xz {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("xz {} ended with {status}", file.display())),
            Err(error) => Err(format!("cannot start xz: {error}")),
        };
    }
    copy(&file, &place)
}

fn find(dir: &Path, module: &str) -> Outcome<Option<PathBuf>> {
    let names = [format!("{module}.ko"), format!("{module}.ko.xz")];
    for path in list(dir)? {
        let is_link = path.symlink_metadata().is_ok_and(|data| data.is_symlink());
        if path.is_dir() && !is_link {
            if let Some(found) = find(&path, module)? {
                return Ok(Some(found));
            }
        } else if path
            .file_name()
            .is_some_and(|file| names.iter().any(|name| file == name.as_str()))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Packs the directory in the form that kernels take.
fn archive(busybox: &Path, root: &Path, image: &Path) -> Outcome {
    let (names, _) = capture(Command::new("find").arg(".").current_dir(root))?;
    let packed = File::create(image).map_err(|error| told(image, error))?;
    let mut cpio = Command::new(busybox);
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(root);
    cpio.stdin(Stdio::piped()).stdout(Stdio::from(packed)).stderr(Stdio::null());
    let mut child = cpio.spawn().map_err(|error| told(busybox, error))?;
    let written = child.stdin.take().map(|mut input| input.write_all(names.as_bytes()));
    let status = child.wait().map_err(|error| told(busybox, error))?;
    match written {
        Some(Ok(())) if status.success() => Ok(()),
        _ => Err(format!("the image cannot be packed: cpio ended with {status}")),
    }
}
