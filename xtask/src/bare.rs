//! A build without TLS: it is a choice, and who does not take it builds no C.

use crate::Outcome;
use crate::steps::{capture, run};
use crate::workspace::cargo;

/// Whatever a user adds to a project, or installs.
const PACKAGES: [&str; 7] = [
    "nbd-client-blocking",
    "nbd-client-mio",
    "nbd-client-tokio",
    "nbd-client-futures",
    "nbd-client-compio",
    "nbd-server",
    "nbd-cli",
];

/// What is made of C.
const OF_C: [&str; 3] = ["aws-lc-sys", "openssl-sys", "ring"];

/// Where build scripts look for what compiles and finds C: there is nothing there.
const TOOLS: [(&str, &str); 4] = [
    ("CC", "/no-c-compiler"),
    ("CXX", "/no-c-compiler"),
    ("CMAKE", "/no-cmake"),
    ("PKG_CONFIG", "/no-pkg-config"),
];

/// As many packages as the client for tokio may be made of, itself included.
const MOST: usize = 30;

/// Builds each package without its features where no C can be compiled, and looks at
/// what it is made of.
pub(crate) fn check() -> Outcome {
    for package in PACKAGES {
        run(cargo(["check", "--quiet", "--no-default-features", "-p", package]).envs(TOOLS))?;
        let made_of = made_of(package)?;
        let of_c: Vec<_> =
            OF_C.iter().filter(|name| made_of.contains(&(**name).to_owned())).collect();
        if !of_c.is_empty() {
            return Err(format!("{package} without TLS depends on {of_c:?}"));
        }
        if package == "nbd-client-tokio" && made_of.len() > MOST {
            let count = made_of.len();
            return Err(format!(
                "{package} is made of {count} packages, more than {MOST}: {made_of:?}"
            ));
        }
    }
    run(&mut cargo([
        "check",
        "--quiet",
        "--no-default-features",
        "--features=ring",
        "-p",
        "nbd-cli",
    ]))
}

/// The names of all packages that go into one.
fn made_of(package: &str) -> Outcome<Vec<String>> {
    let tree = ["tree", "--no-default-features", "-e", "normal,build", "--prefix", "none", "-p"];
    let (lines, _) = capture(cargo(tree).arg(package))?;
    let mut names: Vec<_> =
        lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}
