//! What rustdoc knows of a crate, as data.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::Outcome;
use crate::steps::capture;
use crate::workspace::{cargo, target_dir};

/// The form is not stable yet, so it has to be asked for the way the toolchain's own
/// developers do. Only rustdoc is told so: build scripts look at this variable too, and with
/// it everything would be compiled again.
const RUSTDOC: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";

/// Documents one crate with all its features, and tells where the result lies.
///
/// # Errors
///
/// When the crate cannot be documented.
pub(crate) fn build(package: &str) -> Outcome<PathBuf> {
    let mut rustdoc = cargo(["rustdoc", "--quiet", "--lib", "--all-features", "--package"]);
    rustdoc.arg(package).args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    rustdoc.args(["--cap-lints", "allow"]).env("RUSTDOC", wrapper()?);
    capture(&mut rustdoc)?;
    Ok(target_dir()?.join("doc").join(package.replace('-', "_")).with_extension("json"))
}

fn wrapper() -> Outcome<PathBuf> {
    let path = target_dir()?.join("rustdoc-json.sh");
    let failed = |error| format!("cannot write {}: {error}", path.display());
    fs::write(&path, RUSTDOC).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(path)
}
