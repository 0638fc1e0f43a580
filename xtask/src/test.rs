//! `cargo xtask test`: everything that must hold before a change is merged.

use crate::packages::Install;
use crate::steps::{SILENCE, Steps, run as command, tee};
use crate::workspace::{cargo, root};
use crate::{Outcome, api_map, bare, bench, packages, platforms, public_api, vm};

/// The files at the root that every reader counts on.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Runs every check, for a person.
pub(crate) fn run(args: &[String]) -> Outcome {
    check(args, "auto")
}

/// Runs every check, for a machine that keeps the log.
pub(crate) fn run_ci(args: &[String]) -> Outcome {
    check(args, "never")
}

fn check(args: &[String], colour: &str) -> Outcome {
    let install = match args {
        [] => Install::Missing,
        [option] if option == "--no-install" => Install::Nothing,
        [unexpected, ..] => return Err(format!("unexpected argument {unexpected:?}")),
    };
    let cargo_step = |args: &[&str], variables: &[(&str, &std::ffi::OsStr)]| {
        let mut cargo = cargo(["--color", colour]);
        command(cargo.args(args).envs(variables.iter().copied()))
    };
    let mut steps = Steps::new(13);
    steps.step("programs and libraries", || packages::ensure(install))?;
    steps.step("documents", documents)?;
    steps.step("format", || cargo_step(&["fmt", "--all", "--check"], &[]))?;
    steps.step("lints", || {
        let lints = ["clippy", "--workspace", "--all-targets", "--all-features"];
        cargo_step(&[&lints[..], &["--", "-D", "warnings"]].concat(), &[])
    })?;
    steps.step("protocol core without std", || {
        cargo_step(&["build", "-p", "nbd-proto", "--no-default-features"], &[])
    })?;
    steps.step("everything without TLS", bare::check)?;
    steps.step("other platforms", platforms::check)?;
    steps.step("instructions of the core", bench::core::check)?;
    steps.step("tests", || {
        let mut tests = cargo(["test", "--workspace", "--all-features"]);
        tests.env_remove("NBD_PROGRAM").env("CARGO_TERM_COLOR", "never");
        let output = tee(&mut tests, SILENCE)?;
        api_map::note_tests(&output)
    })?;
    steps.step("the kernel's client and vsock", vm::check)?;
    steps.step("map of libnbd's calls", api_map::check)?;
    steps.step("public surface", public_api::check)?;
    steps.step("documentation", || {
        cargo_step(
            &["doc", "--workspace", "--all-features", "--no-deps"],
            &[("RUSTDOCFLAGS", "-D warnings".as_ref())],
        )
    })?;
    steps.summarise();
    Ok(())
}

fn documents() -> Outcome {
    let missing: Vec<&str> =
        DOCUMENTS.into_iter().filter(|name| !root().join(name).is_file()).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not there: {}", missing.join(" "))) }
}
