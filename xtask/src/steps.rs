//! A run of steps: each announced and timed, the first failure ends the run.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Outcome, silence};

/// How long a command may print nothing: longer than any test takes on a busy machine.
pub(crate) const SILENCE: Duration = Duration::from_secs(15 * 60);

/// The steps done so far.
pub(crate) struct Steps {
    total: usize,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// Starts a run of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: Vec::with_capacity(total) }
    }

    /// Does one step.
    ///
    /// # Errors
    ///
    /// The step's own error, with its number and name in front.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce() -> Outcome) -> Outcome {
        let label = format!("{}/{} {name}", self.done.len() + 1, self.total);
        eprintln!("==> {label}");
        let start = Instant::now();
        work().map_err(|error| format!("FAILED at step {label}: {error}"))?;
        let took = start.elapsed();
        eprintln!("    {label}: ok in {:.1} s", took.as_secs_f64());
        self.done.push((name, took));
        Ok(())
    }

    /// Prints what was done and how long it took.
    pub(crate) fn summarise(&self) {
        eprintln!("==> summary");
        for (name, took) in &self.done {
            eprintln!("    {name:<36}{:>8.1} s", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took)| took).sum();
        eprintln!("    all {} steps passed in {:.1} s", self.done.len(), total.as_secs_f64());
    }
}

/// Runs a command whose output goes to the terminal.
///
/// # Errors
///
/// When it cannot be started, or its exit status is not 0.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let line = command_line(command);
    eprintln!("    $ {line}");
    let status = command.status().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` ended with {status}")) }
}

/// Runs a command whose output goes to the terminal, and returns that output: both kinds
/// in the order they were written.
///
/// # Errors
///
/// When it cannot be started, or its exit status is not 0. When it prints nothing for as long
/// as `silence`, it is killed, and what it was doing is told.
pub(crate) fn tee(command: &mut Command, silence: Duration) -> Outcome<String> {
    let line = command_line(command);
    eprintln!("    $ {line}");
    let failed = |error: io::Error| format!("cannot run `{line}`: {error}");
    let (reader, writer) = io::pipe().map_err(failed)?;
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // The command holds copies of the writing end, without whose end there is no end.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let (lines, printed) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut bytes = Vec::new();
            match reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return,
                // Nobody listens any more to a command that was given up.
                result => drop(lines.send(result.map(|_| bytes))),
            }
        }
    });
    let mut output = String::new();
    loop {
        let bytes = match printed.recv_timeout(silence) {
            Ok(bytes) => bytes.map_err(failed)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let doing = silence::describe(child.id());
                silence::kill(child.id());
                child.wait().map_err(failed)?;
                return Err(format!("`{line}` printed nothing for {silence:?}:\n{doing}"));
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        eprint!("{text}");
        output.push_str(&text);
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(output) } else { Err(format!("`{line}` ended with {status}")) }
}

/// Runs a command and returns its standard output and its standard error.
///
/// # Errors
///
/// When it cannot be started, or its exit status is not 0.
pub(crate) fn capture(command: &mut Command) -> Outcome<(String, String)> {
    let line = command_line(command);
    let output = command.output().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("`{line}` ended with {}:\n{stderr}", output.status));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), stderr))
}

fn command_line(command: &Command) -> String {
    let program = command.get_program();
    // cargo is known by a long path here; its name says enough.
    let name = std::path::Path::new(program).file_name().unwrap_or(program);
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_names_its_step() {
        let mut steps = Steps::new(2);
        assert_eq!(steps.step("one", || Ok(())), Ok(()));
        let failed = steps.step("two", || run(Command::new("sh").args(["-c", "exit 3"])));
        let message = failed.expect_err("the shell ends with 3");
        assert_eq!(message, "FAILED at step 2/2 two: `sh -c exit 3` ended with exit status: 3");
    }

    #[test]
    fn both_outputs_are_kept_in_order() {
        let output = tee(Command::new("sh").args(["-c", "echo a; echo b >&2; echo c"]), SILENCE);
        assert_eq!(output, Ok("a\nb\nc\n".to_owned()));
        assert!(tee(Command::new("sh").args(["-c", "exit 4"]), SILENCE).is_err());
    }

    #[test]
    fn who_prints_nothing_any_more_is_described_and_killed() {
        let mut command = Command::new("sh");
        let told = tee(command.args(["-c", "echo a; sleep 1000"]), Duration::from_millis(500));
        let told = told.expect_err("it is silent");
        assert!(told.contains("sleep 1000` printed nothing for 500ms:\nprocess "), "{told}");
    }

    #[test]
    fn a_captured_failure_carries_its_error_output() {
        let failed = capture(Command::new("sh").args(["-c", "echo why >&2; exit 1"]));
        assert!(failed.expect_err("the shell ends with 1").ends_with("exit status: 1:\nwhy\n"));
    }
}
