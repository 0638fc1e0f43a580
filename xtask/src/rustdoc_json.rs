//! What rustdoc knows of a crate, as data.

use std::path::PathBuf;

use crate::Outcome;
use crate::steps::capture;
use crate::workspace::{cargo, target_dir};

/// Documents one crate with all its features, and tells where the result lies.
///
/// The form is not stable yet, so it has to be asked for the way the toolchain's own
/// developers do.
///
/// # Errors
///
/// When the crate cannot be documented.
pub(crate) fn build(package: &str) -> Outcome<PathBuf> {
    let mut rustdoc = cargo(["rustdoc", "--quiet", "--lib", "--all-features", "--package"]);
    rustdoc.arg(package).args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    rustdoc.args(["--cap-lints", "allow"]).env("RUSTC_BOOTSTRAP", "1");
    capture(&mut rustdoc)?;
    Ok(target_dir()?.join("doc").join(package.replace('-', "_")).with_extension("json"))
}
