//! Emulator, kernel and tools, fetched once and kept in the user's cache.
//!
//! Packages are unpacked there and not installed: an emulator of another version than the
//! machine's own programs would replace those.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::packages;
use crate::steps::{capture, run};
use crate::workspace::target_dir;

/// What is unpacked, besides the kernel and what the emulator depends on.
const TOOLS: [&str; 4] = ["busybox-static", "e2fsprogs", "nbd-client", "seabios"];

/// What the machine is made of.
#[derive(Debug)]
pub(super) struct Kit {
    /// The packages, unpacked.
    pub(super) root: PathBuf,
    /// The emulator.
    pub(super) emulator: PathBuf,
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Its modules, somewhere below.
    pub(super) modules: PathBuf,
}

/// The kit, fetched if it is not there.
///
/// # Errors
///
/// Says what cannot be fetched or is not there.
pub(super) fn ready() -> Outcome<Kit> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the virtual machine has programs for x86_64 only".to_owned());
    }
    let cache = cache()?;
    // It gets its name when it is whole, whatever ended an earlier attempt.
    let root = cache.join("kit-1");
    if !root.is_dir() {
        let unfinished = cache.join(format!("unfinished-{}", std::process::id()));
        let fetched = fetch(&unfinished);
        if fetched.is_ok() && !root.is_dir() {
            rename(&unfinished.join("root"), &root)?;
        }
        let _ = fs::remove_dir_all(&unfinished);
        fetched?;
    }
    let own = root.join("usr/bin/qemu-system-x86_64");
    // Where it was installed there was nothing to fetch.
    let emulator = if own.is_file() { own } else { "qemu-system-x86_64".into() };
    let kernel = first(&root.join("boot"), "vmlinuz-")?;
    let modules = ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir));
    let modules = modules.into_iter().find(|dir| dir.is_dir());
    let modules = modules.ok_or_else(|| format!("no kernel modules in {}", root.display()))?;
    Ok(Kit { root, emulator, kernel, modules })
}

fn cache() -> Outcome<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(own.map_or(target_dir()?.join("vm"), |own| own.join("nbd-vm")))
}

fn rename(from: &Path, to: &Path) -> Outcome {
    fs::rename(from, to).map_err(|error| format!("cannot make {}: {error}", to.display()))
}

/// Downloads all packages into a directory and unpacks them into its `root`.
fn fetch(dir: &Path) -> Outcome {
    let debs = dir.join("debs");
    fs::create_dir_all(debs.join("partial"))
        .map_err(|error| format!("cannot make {}: {error}", debs.display()))?;
    packages::update_lists();
    let mut emulator = Command::new("apt-get");
    let archives = format!("Dir::Cache::archives={}", debs.display());
    emulator.args(["install", "-y", "-qq", "--no-install-recommends", "--download-only"]);
    emulator.args(["-o", &archives, "-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=3"]);
    run(emulator.arg("qemu-system-x86"))?;
    let mut tools = Command::new("apt-get");
    tools.args(["download", "-qq", "-o", "Acquire::Retries=3"]).args(TOOLS);
    run(tools.arg(kernel_package()?).current_dir(&debs))?;
    for deb in list(&debs)?.iter().filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(dir.join("root")))?;
    }
    Ok(())
}

/// The package behind the name of the newest kernel.
fn kernel_package() -> Outcome<String> {
    let (depends, _) = capture(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let mut words = depends.split_whitespace();
    let package =
        words.find(|word| word.starts_with("linux-image-") && *word != "linux-image-amd64");
    package.map(str::to_owned).ok_or_else(|| "there is no package of a kernel".to_owned())
}

/// What is in a directory, by name.
pub(super) fn list(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut entries = entries.map_err(|error| format!("cannot list {}: {error}", dir.display()))?;
    entries.sort();
    Ok(entries)
}

fn first(dir: &Path, prefix: &str) -> Outcome<PathBuf> {
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let found = list(dir)?.into_iter().find(is_it);
    found.ok_or_else(|| format!("there is no {prefix}* in {}", dir.display()))
}
