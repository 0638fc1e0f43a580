//! What one request costs: instructions, counted by valgrind, and system calls, by perf.
//!
//! Other work on the machine does not change either, but for how many replies share a read.

use std::ffi::OsString;
use std::process::Command;

use super::contender::Contender;
use super::load::Load;
use super::stats::median;
use crate::Outcome;
use crate::steps::capture;
use crate::workspace::has_program;

/// The two run lengths, in parts of 16 of a load. Start, handshake and end cost the same in
/// both, so their difference is the cost of the requests between.
const SHORT: u64 = 1;
const LONG: u64 = 5;

/// Counts of which the middle one is told: how many replies share a read is chance.
const COUNTS: usize = 3;

/// User instructions for a request of a load, where valgrind is installed.
pub(super) fn instructions_per_request(
    contender: &Contender,
    load: &Load,
    uri: &str,
) -> Outcome<Option<f64>> {
    per_request("valgrind", contender, load, uri, instructions)
}

/// System calls for a request of a load, where perf is installed and may count them.
pub(super) fn system_calls_per_request(
    contender: &Contender,
    load: &Load,
    uri: &str,
) -> Outcome<Option<f64>> {
    match per_request("perf", contender, load, uri, system_calls) {
        Err(error) if error.contains("perf") => {
            eprintln!("    system calls are not counted: {error}");
            Ok(None)
        }
        result => result,
    }
}

fn per_request(
    tool: &str,
    contender: &Contender,
    load: &Load,
    uri: &str,
    count: impl Fn(&Command) -> Outcome<u64>,
) -> Outcome<Option<f64>> {
    if !contender.is_countable() {
        return Ok(None);
    }
    if !has_program(tool) {
        eprintln!("    {tool} is not installed: nothing is counted with it");
        return Ok(None);
    }
    let requests = |parts| load.count * parts / 16;
    let count = |requests| {
        let words: Vec<OsString> = contender.words(load, requests, "count", uri);
        let (program, args) = words.split_first().ok_or("no program to count")?;
        Ok::<_, String>(count(Command::new(program).args(args))? as f64)
    };
    let mut costs = [0.0; COUNTS];
    for cost in &mut costs {
        let (long, short) = (requests(LONG), requests(SHORT));
        *cost = (count(long)? - count(short)?) / (long - short) as f64;
    }
    Ok(median(&costs))
}

/// All user instructions of one run of a program.
pub(super) fn instructions(program: &Command) -> Outcome<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, report) = capture(valgrind.arg(program.get_program()).args(program.get_args()))?;
    collected(&report).ok_or_else(|| format!("callgrind printed no count but: {report}"))
}

/// All system calls of one run of a program.
fn system_calls(program: &Command) -> Outcome<u64> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "--"]);
    let (_, report) = capture(perf.arg(program.get_program()).args(program.get_args()))?;
    calls(&report).ok_or_else(|| format!("perf printed no count but: {report}"))
}

/// The count in the line "==PID== Collected : N".
fn collected(report: &str) -> Option<u64> {
    let (_, after) = report.split_once("Collected :")?;
    after.lines().next()?.trim().parse().ok()
}

/// The count in the line "N,,raw_syscalls:sys_enter,...".
fn calls(report: &str) -> Option<u64> {
    let line = report.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{calls, collected};

    #[test]
    fn the_counts_are_found() {
        let report = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(report), Some(123_456));
        assert_eq!(collected("==7== Collected : none\n"), None);
        assert_eq!(collected(""), None);
        assert_eq!(calls("# started\n29,,raw_syscalls:sys_enter,1234,100.00,,\n"), Some(29));
        assert_eq!(calls("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
    }
}
