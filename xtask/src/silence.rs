//! A command that prints nothing any more: what it is doing, and its end.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is told of one process at most, in threads.
const THREADS: usize = 40;

/// Describes a process and all that descend from it: the command line of each, and where in the
/// system each of its threads stands, with the number of the system call, its arguments and
/// what the thread waits in. The threads of tests have the names of the tests.
pub(crate) fn describe(root: u32) -> String {
    let mut told = String::new();
    for pid in family(root) {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let words = fs::read(directory.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // Writing to a String cannot fail.
        let _ = writeln!(told, "process {pid}: {:.200}", words.trim_end());
        let threads = numbers(&directory.join("task"));
        for thread in threads.iter().take(THREADS) {
            let thread = directory.join(format!("task/{thread}"));
            let told_by = |file: &str| {
                fs::read_to_string(thread.join(file)).unwrap_or_default().trim_end().to_owned()
            };
            let stat = told_by("stat");
            // The state follows the name, which is in parentheses and may hold any.
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            let state = state.chars().next().unwrap_or('?');
            let _ = writeln!(
                told,
                "    {} {state} in {}, system call {}",
                told_by("comm"),
                told_by("wchan"),
                told_by("syscall"),
            );
        }
        if let Some(more) = threads.len().checked_sub(THREADS + 1) {
            let _ = writeln!(told, "    and {} threads more", more + 1);
        }
        for number in numbers(&directory.join("fd")) {
            if let Ok(to) = fs::read_link(directory.join(format!("fd/{number}"))) {
                let _ = writeln!(told, "    descriptor {number} is {}", to.display());
            }
        }
    }
    told
}

/// Kills a process and all that descend from it.
pub(crate) fn kill(root: u32) {
    let family: Vec<_> = family(root).iter().map(u32::to_string).collect();
    // Some may have ended meanwhile.
    let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {}", family.join(" "))).status();
}

/// A process and its descendants, parents first.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = numbers(Path::new("/proc"))
        .into_iter()
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![root];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|one| one.1 == parent).map(|one| one.0));
        at += 1;
    }
    family
}

/// The entries of a directory that are numbers, in order.
fn numbers(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_family_is_described_and_killed() {
        let script = "sleep 1000 & echo there; wait";
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh");
        let mut output = shell.stdout.take().expect("it is a pipe");
        output.read_exact(&mut [0; 6]).expect("it says that its child was started");
        let told = describe(shell.id());
        assert!(told.contains("process ") && told.contains(script), "{told}");
        assert!(told.contains("    sh ") && told.contains(", system call "), "{told}");
        assert_eq!(family(shell.id()).len(), 2, "{told}");
        kill(shell.id());
        assert!(!shell.wait().expect("it has ended").success());
        // The child held the other end.
        output.read_to_end(&mut Vec::new()).expect("nobody is left");
    }
}
