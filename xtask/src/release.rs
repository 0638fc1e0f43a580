//! `cargo xtask release`: what must hold before the crates are published.
//!
//! Two programs are asked for that the test command does without: they take minutes to build, and
//! what they say changes without the project changing. `cargo install --locked cargo-deny
//! cargo-semver-checks` installs them.

use std::process::Command;

use serde_json::Value;

use crate::Outcome;
use crate::public_api::LIBRARIES;
use crate::steps::{Steps, capture, run as command};
use crate::workspace::{cargo, has_program, root};

const USAGE: &str = "usage: cargo xtask release [--baseline-rev REV]";

/// Checks the packages, licences, and what has changed for users since a revision, if one is
/// named.
pub(crate) fn run(args: &[String]) -> Outcome {
    let baseline = match args {
        [] => None,
        [option, revision] if option == "--baseline-rev" => Some(revision),
        _ => return Err(USAGE.to_owned()),
    };
    let published = published()?;
    let mut steps = Steps::new(if baseline.is_some() { 4 } else { 3 });
    steps.step("what is said of each package", || complaints(&published))?;
    steps.step("licences, duplicates and sources", || {
        let mut deny = with("cargo-deny")?;
        command(deny.args(["deny", "check", "bans", "licenses", "sources"]))
    })?;
    if let Some(revision) = baseline {
        steps.step("what has changed for users", || {
            let mut check = with("cargo-semver-checks")?;
            check.args(["semver-checks", "--baseline-rev", revision]);
            let libraries = LIBRARIES.iter().filter(|name| is_among(&published, name));
            command(check.args(libraries.flat_map(|name| ["-p", name])))
        })?;
    }
    // The longest: each is built from what would be uploaded.
    steps.step("packages", || {
        let mut package = cargo(["package", "--locked"]);
        command(package.args(published.iter().flat_map(|one| ["-p", name(one)])))
    })?;
    steps.summarise();
    Ok(())
}

/// cargo, where a program is there that it calls.
fn with(program: &str) -> Outcome<Command> {
    if has_program(program) {
        return Ok(cargo([]));
    }
    Err(format!("{program} is not installed: `cargo install --locked {program}`"))
}

/// What cargo knows of the packages of this workspace that are published.
fn published() -> Outcome<Vec<Value>> {
    let (json, _) = capture(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let all = metadata["packages"].as_array().cloned().unwrap_or_default();
    // An empty list of registries is what `publish = false` becomes.
    Ok(all.into_iter().filter(|package| package["publish"].is_null()).collect())
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

fn is_among(packages: &[Value], wanted: &str) -> bool {
    packages.iter().any(|package| name(package) == wanted)
}

/// What is missing in the descriptions of packages.
fn complaints(packages: &[Value]) -> Outcome {
    let told: Vec<String> = packages.iter().flat_map(complaints_of).collect();
    if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
}

fn complaints_of(package: &Value) -> Vec<String> {
    let said = |key: &str| match &package[key] {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    let keys = ["description", "license", "readme", "rust_version", "keywords", "categories"];
    let mut missing: Vec<String> =
        keys.iter().filter(|key| !said(key)).map(|key| (*key).to_owned()).collect();
    if package["keywords"].as_array().is_some_and(|words| words.len() > 5) {
        missing.push("at most five keywords".to_owned());
    }
    let is_library = package["targets"].as_array().is_some_and(|targets| {
        let is =
            |target: &Value| target["kind"].as_array().is_some_and(|k| k.contains(&"lib".into()));
        targets.iter().any(is)
    });
    if is_library && package["metadata"]["docs"]["rs"]["all-features"] != Value::Bool(true) {
        missing.push("documentation of all features".to_owned());
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        if !root().join(name(package)).join(file).is_file() {
            missing.push(file.to_owned());
        }
    }
    missing.into_iter().map(|what| format!("{} lacks {what}", name(package))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_published_package_says_what_it_is() {
        let published = published().expect("cargo tells");
        assert!(is_among(&published, "nbd-proto") && is_among(&published, "nbd-cli"));
        assert!(!is_among(&published, "xtask"), "it is not published");
        assert_eq!(complaints(&published), Ok(()));
    }

    #[test]
    fn what_is_missing_is_told() {
        let package = json!({
            "name": "nbd-proto", "description": "", "license": "MIT", "readme": "README.md",
            "rust_version": "1.88", "keywords": ["a", "b", "c", "d", "e", "f"],
            "categories": [], "targets": [{"kind": ["lib"]}], "metadata": null
        });
        let told = complaints(&[package]).expect_err("much is missing");
        assert_eq!(
            told,
            "nbd-proto lacks description; nbd-proto lacks categories; nbd-proto lacks at most five \
             keywords; nbd-proto lacks documentation of all features"
        );
    }
}
