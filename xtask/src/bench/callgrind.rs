//! User instructions for one request, counted by valgrind.

use std::process::Command;

use super::{Load, contender::Contender, report::median};
use crate::Outcome;
use crate::steps::capture;

/// The two run lengths, in requests. Start, handshake and end cost the same in
/// both, so their difference is the cost of the requests between.
const SHORT: u32 = 2_000;
const LONG: u32 = 12_000;

/// Counts of which the middle one is told: how many replies share a read is chance.
const COUNTS: usize = 5;

/// The cost of one request of a load, in user instructions.
pub(super) fn instructions_per_request(
    contender: &Contender,
    load: &Load,
    uri: &str,
) -> Outcome<f64> {
    let count = |requests| {
        let words = contender.words(load, requests, uri);
        let (program, args) = words.split_first().ok_or("no program to count")?;
        Ok::<_, String>(instructions(Command::new(program).args(args))? as f64)
    };
    let mut costs = [0.0; COUNTS];
    for cost in &mut costs {
        *cost = (count(LONG)? - count(SHORT)?) / f64::from(LONG - SHORT);
    }
    Ok(median(costs.into_iter()).unwrap_or_default())
}

/// All user instructions of one run of a program.
pub(super) fn instructions(program: &Command) -> Outcome<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, report) = capture(valgrind.arg(program.get_program()).args(program.get_args()))?;
    collected(&report).ok_or_else(|| format!("callgrind printed no count but: {report}"))
}

/// The count in the line "==PID== Collected : N".
fn collected(report: &str) -> Option<u64> {
    let (_, after) = report.split_once("Collected :")?;
    after.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::collected;

    #[test]
    fn the_count_is_found() {
        let report = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(report), Some(123_456));
        assert_eq!(collected("==7== Collected : none\n"), None);
        assert_eq!(collected(""), None);
    }
}
