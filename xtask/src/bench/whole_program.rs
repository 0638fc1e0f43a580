//! What a program takes from its start to its end.

use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::data::Sample;
use crate::Outcome;

/// Runs it once, which moves so many bytes.
///
/// # Errors
/// It could not be started, or did not succeed.
pub(super) fn time(program: &mut Command, bytes: u64) -> Outcome<Sample> {
    let used = || getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| error.to_string());
    let before = used()?;
    let begin = Instant::now();
    let output = program.stderr(Stdio::piped()).output();
    let seconds = begin.elapsed().as_secs_f64();
    let name = program.get_program().display();
    let output = output.map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} ended with {}: {why}", output.status));
    }
    let after = used()?;
    let took = |of: fn(&Usage) -> TimeVal| {
        let micros = |time: TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
        (micros(of(&after)) - micros(of(&before))) / 1e6
    };
    let numbers = [
        ("operations", 1.0),
        ("bytes", bytes as f64),
        ("seconds", seconds),
        ("user_s", took(Usage::user_time)),
        ("system_s", took(Usage::system_time)),
    ];
    Ok(Sample::from(numbers.map(|(name, value)| (name.to_owned(), value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_has_no_time() {
        let mut sh = Command::new("sh");
        let told = time(sh.args(["-c", "echo why >&2; exit 3"]), 1).expect_err("it ends with 3");
        assert_eq!(told, "sh ended with exit status: 3: why\n");
        let sample = time(&mut Command::new("true"), 7).expect("it succeeds");
        assert_eq!(sample["bytes"], 7.0);
    }
}
