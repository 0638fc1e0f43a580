//! `cargo xtask coverage`: which lines of the protocol core the tests and the fuzzer's
//! seeds reach.
//!
//! The compiler counts, the LLVM tools that belong to it (rustup's component
//! `llvm-tools`) report; nothing else has to be installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Outcome;
use crate::steps::{capture, run as command};
use crate::workspace::{cargo, root, target_dir};

/// The packages whose tests count.
const PACKAGES: [&str; 4] = ["-p", "nbd-proto", "-p", "nbd-sim"];

/// Runs the tests with counters and reports line by line what they did not reach.
pub(crate) fn run(args: &[String]) -> Outcome {
    if !args.is_empty() {
        return Err("usage: cargo xtask coverage".to_owned());
    }
    let tools = tools()?;
    let target = target_dir()?.join("coverage");
    let profiles = target.join("profiles");
    // Old counts would be added to the new ones.
    let _ = fs::remove_dir_all(&profiles);
    let counting = |verb: &str, more: &[&str]| {
        let mut counting = cargo([verb]);
        counting
            .args(PACKAGES)
            .args(more)
            .env("CARGO_TARGET_DIR", &target)
            // The first thousands reach all that any reach.
            .env("NBD_SIM_SEEDS", "3000")
            .env("RUSTFLAGS", "-Cinstrument-coverage")
            .env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw"));
        counting
    };
    let tests = ["--lib", "--tests"];
    // Some tests start them.
    command(&mut counting("build", &["--examples"]))?;
    let told = [&tests[..], &["--no-run", "--message-format=json"]].concat();
    let (messages, _) = capture(&mut counting("test", &told))?;
    let binaries = binaries(&messages);
    command(&mut counting("test", &tests))?;
    let merged = target.join("tests.profdata");
    let mut merge = Command::new(tools.join("llvm-profdata"));
    command(merge.args(["merge", "--sparse", "-o"]).arg(&merged).arg(&profiles))?;
    let mut export = Command::new(tools.join("llvm-cov"));
    export.args(["export", "--format=lcov"]).arg("--instr-profile").arg(&merged);
    for binary in &binaries {
        export.arg("--object").arg(binary);
    }
    let (lcov, _) = capture(export.arg("--sources").arg(root().join("nbd-proto/src")))?;
    report(&lcov);
    Ok(())
}

/// Where the LLVM tools of this compiler are.
fn tools() -> Outcome<PathBuf> {
    let (sysroot, _) = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    let (version, _) = capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let tools = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    if tools.join("llvm-cov").exists() {
        Ok(tools)
    } else {
        Err("llvm-cov is missing: rustup component add llvm-tools".to_owned())
    }
}

/// The test programs in what cargo told.
fn binaries(messages: &str) -> Vec<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| Some(message.get("executable")?.as_str()?.to_owned())).collect()
}

/// Prints for each file how much was reached, and which lines were not.
fn report(lcov: &str) {
    let mut total = (0, 0);
    for (file, lines) in lines(lcov) {
        let missed: Vec<u32> =
            lines.iter().filter(|(_, count)| **count == 0).map(|(line, _)| *line).collect();
        let reached = lines.len() - missed.len();
        total = (total.0 + reached, total.1 + lines.len());
        println!("{file}: {}{}", share(reached, lines.len()), listed(&missed));
    }
    println!("nbd-proto: {} of {} lines", share(total.0, total.1), total.1);
}

/// The count of each line of each file, under its name in the package. A generic
/// function has counts in many programs: the highest is the one that matters.
fn lines(lcov: &str) -> BTreeMap<String, BTreeMap<u32, u64>> {
    let mut files: BTreeMap<String, BTreeMap<u32, u64>> = BTreeMap::new();
    let mut file = String::new();
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            let short = path.split_once("nbd-proto/src/").map_or(path, |(_, rest)| rest);
            short.clone_into(&mut file);
        } else if let Some((number, count)) =
            line.strip_prefix("DA:").and_then(|data| data.split_once(','))
            && let (Ok(number), Ok(count)) = (number.parse(), count.parse::<u64>())
        {
            let most = files.entry(file.clone()).or_default().entry(number).or_default();
            *most = count.max(*most);
        }
    }
    files
}

fn share(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// Line numbers in runs: `; not 3-5, 9`.
fn listed(lines: &[u32]) -> String {
    let runs = lines.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(u32::to_string).collect(),
    });
    let runs = runs.collect::<Vec<_>>().join(", ");
    if runs.is_empty() { runs } else { format!("; not {runs}") }
}

#[cfg(test)]
mod tests {
    use super::{lines, listed, share};

    #[test]
    fn lines_that_were_not_reached_are_told_in_runs() {
        assert_eq!(listed(&[]), "");
        assert_eq!(listed(&[3, 4, 5, 9, 11, 12]), "; not 3-5, 9, 11-12");
    }

    #[test]
    fn the_highest_count_of_a_line_counts() {
        let lcov = "SF:/x/nbd-proto/src/a.rs\nDA:1,0\nDA:2,0\nend_of_record\n\
                    SF:/x/nbd-proto/src/a.rs\nDA:1,7\nDA:2,0\nend_of_record\n";
        let files = lines(lcov);
        assert_eq!(files["a.rs"].iter().collect::<Vec<_>>(), [(&1, &7), (&2, &0)]);
        assert_eq!(share(1, 2), "50.0 %");
    }
}
