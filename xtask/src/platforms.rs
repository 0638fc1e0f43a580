//! Other platforms than Linux: what compiles there goes on compiling.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::steps::{capture, run};
use crate::workspace::cargo;

const TARGETS: [&str; 2] = ["aarch64-apple-darwin", "x86_64-unknown-freebsd"];

/// What promises to compile there. TLS is C, which would need a compiler for the target.
const PACKAGES: [&str; 7] = [
    "nbd-proto",
    "nbd-transport",
    "nbd-session",
    "nbd-client-blocking",
    "nbd-client-mio",
    "nbd-client-tokio",
    "nbd-client-futures",
];

/// Checks the libraries for each target whose standard library is installed, and names the
/// others.
///
/// # Errors
///
/// When something does not compile.
pub(crate) fn check() -> Outcome {
    let (sysroot, _) = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    let installed = Path::new(sysroot.trim()).join("lib/rustlib");
    for target in TARGETS {
        if !installed.join(target).is_dir() {
            eprintln!("    {target} is not checked: `rustup target add {target}` installs it");
            continue;
        }
        let mut check = cargo(["check", "--quiet", "--no-default-features", "--target", target]);
        run(check.args(PACKAGES.iter().flat_map(|package| ["-p", package])))?;
    }
    Ok(())
}
