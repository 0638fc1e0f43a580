//! Which tests ran and passed, by full name: crate, file, modules, test.
//!
//! The output of `cargo test` names the program of each block of tests, and cargo tells
//! which crate and which file a program was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Outcome;
use crate::steps::capture;
use crate::workspace::{cargo, target_dir};

/// Keeps the names of the tests that passed, for [`known`], of a run in which none failed.
///
/// # Errors
///
/// When cargo cannot tell which program is which, or the list cannot be written.
pub(crate) fn note(output: &str) -> Outcome {
    let mut build = cargo(["test", "--workspace", "--all-features"]);
    let (messages, _) = capture(build.args(["--no-run", "--message-format=json"]))?;
    let names = passed(output, &programs(&messages));
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    let list = list()?;
    fs::write(&list, text).map_err(|error| format!("writing {}: {error}", list.display()))
}

/// The tests that passed when all were run last.
///
/// # Errors
///
/// When they never were.
pub(super) fn known() -> Outcome<BTreeSet<String>> {
    let text = fs::read_to_string(list()?)
        .map_err(|_| "no tests have run yet: run `cargo xtask test`".to_owned())?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn list() -> Outcome<PathBuf> {
    Ok(target_dir()?.join("tests-passed.txt"))
}

/// By file name of the program, which has a hash in it: the names that its tests begin
/// with.
fn programs(messages: &str) -> BTreeMap<String, String> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    artifacts
        .filter_map(|message: Value| {
            let program = file_name(message["executable"].as_str()?)?;
            let manifest = Path::new(message["manifest_path"].as_str()?);
            let krate = manifest.parent()?.file_name()?.to_str()?.replace('-', "_");
            let target = &message["target"];
            let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
            let name =
                if is_test { format!("{krate}::{}", target["name"].as_str()?) } else { krate };
            Some((program, name))
        })
        .collect()
}

fn file_name(path: &str) -> Option<String> {
    Some(Path::new(path).file_name()?.to_str()?.to_owned())
}

fn passed(output: &str, programs: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut place: Option<&String> = None;
    for line in output.lines() {
        let line = line.trim();
        if line.starts_with("Running ") {
            let program = line.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')'));
            place = program.and_then(file_name).and_then(|name| programs.get(&name));
        } else if line.starts_with("Doc-tests ") {
            place = None;
        } else if let (Some(place), Some(rest)) = (place, line.strip_prefix("test "))
            && let Some((test, outcome)) = rest.split_once(" ... ")
            && !outcome.starts_with("ignored")
            && outcome != "FAILED"
        {
            // With one test at a time, what its children say comes before its outcome.
            names.insert(format!("{place}::{test}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_get_the_names_of_their_crate_and_file() {
        let messages = r#"{"reason":"compiler-artifact","executable":"/t/deps/servers-1a","manifest_path":"/w/nbd-x/Cargo.toml","target":{"kind":["test"],"name":"servers"}}
{"reason":"compiler-artifact","executable":"/t/deps/nbd_x-2b","manifest_path":"/w/nbd-x/Cargo.toml","target":{"kind":["lib"],"name":"nbd_x"}}
{"reason":"compiler-artifact","executable":null,"manifest_path":"/w/nbd-x/Cargo.toml","target":{"kind":["lib"],"name":"nbd_x"}}
{"reason":"build-finished","success":true}"#;
        let output = "
     Running unittests src/lib.rs (t/deps/nbd_x-2b)
test uri::tests::parses ... ok
     Running tests/servers.rs (/t/deps/servers-1a)
test slow has been running for over 60 seconds
test reads ... ok
test alone ... nbdkit: a word of a server
ok
test writes ... FAILED
test later ... ignored
     Running tests/other.rs (/t/deps/other-3c)
test unknown ... ok
   Doc-tests nbd_x
test src/lib.rs - (line 1) ... ok
";
        let names = passed(output, &programs(messages));
        let expected =
            ["nbd_x::servers::alone", "nbd_x::servers::reads", "nbd_x::uri::tests::parses"];
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
