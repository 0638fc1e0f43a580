//! Where the workspace is, and how to call cargo in it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The root directory of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The directory that cargo builds into: this program lies in TARGET/PROFILE.
pub(crate) fn target_dir() -> Outcome<PathBuf> {
    let this = env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    this.ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} is in no target directory", this.display()))
}

/// The release build of the `nbd` program, whether built yet or not.
pub(crate) fn nbd_program() -> Outcome<PathBuf> {
    Ok(target_dir()?.join("release/nbd"))
}

/// A cargo command in the root directory, by the cargo that started this program.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    cargo
}

/// The program of this name on the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Whether a program of this name is on the search path.
pub(crate) fn has_program(name: &str) -> bool {
    find_program(name).is_some()
}
