//! What is told of a round: numbers that follow from those that were measured.

use std::collections::BTreeMap;

use super::data::{Rounds, Row};
use super::stats::ratio;

/// Something to compare by.
pub(super) struct Metric {
    pub(super) heading: &'static str,
    pub(super) better: Better,
    of: fn(&Round<'_>) -> Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// The numbers of one round.
pub(super) struct Round<'a> {
    rounds: &'a BTreeMap<String, Vec<f64>>,
    number: usize,
}

impl Round<'_> {
    fn get(&self, name: &str) -> Option<f64> {
        self.rounds.get(name)?.get(self.number).copied()
    }

    /// One number in so many of another one.
    fn per(&self, what: &str, of: &str, unit: f64) -> Option<f64> {
        Some(self.get(what)? / self.get(of)? * unit)
    }

    fn sum(&self, names: [&str; 2]) -> Option<f64> {
        Some(self.get(names[0])? + self.get(names[1])?)
    }
}

const GIB: f64 = (1 << 30) as f64;
const MIB: f64 = (1 << 20) as f64;
const MILLION: f64 = 1e6;

macro_rules! metric {
    ($name:ident, $heading:literal, $better:ident, $of:expr) => {
        pub(super) const $name: Metric =
            Metric { heading: $heading, better: Better::$better, of: $of };
    };
}

metric!(PER_SECOND, "requests/s", More, |round| round.per("operations", "seconds", 1.0));
metric!(RATE, "MiB/s", More, |round| round.per("bytes", "seconds", 1.0 / MIB));
metric!(SECONDS, "s", Less, |round| round.get("seconds"));
metric!(MILLIS, "ms", Less, |round| Some(round.get("seconds")? * 1000.0));
metric!(KIB, "KiB", Less, |round| round.get("kib"));
metric!(P50, "p50, µs", Less, |round| round.get("p50_us"));
metric!(P99, "p99, µs", Less, |round| round.get("p99_us"));
metric!(P99_9, "p99.9, µs", Less, |round| round.get("p99_9_us"));
metric!(USER, "user, s/million", Less, |round| round.per("user_s", "operations", MILLION));
metric!(SYSTEM, "system, s/million", Less, |round| round.per("system_s", "operations", MILLION));
metric!(USER_GIB, "user, s/GiB", Less, |round| round.per("user_s", "bytes", GIB));
metric!(SYSTEM_GIB, "system, s/GiB", Less, |round| round.per("system_s", "bytes", GIB));
metric!(CPU, "processor, s/million", Less, |round| {
    Some(round.sum(["user_s", "system_s"])? / round.get("operations")? * MILLION)
});
metric!(CPU_GIB, "processor, s/GiB", Less, |round| {
    Some(round.sum(["user_s", "system_s"])? / round.get("bytes")? * GIB)
});
metric!(SERVER, "server, s/million", Less, |round| {
    Some(round.sum(["server_user_s", "server_system_s"])? / round.get("operations")? * MILLION)
});
metric!(SERVER_GIB, "server, s/GiB", Less, |round| {
    Some(round.sum(["server_user_s", "server_system_s"])? / round.get("bytes")? * GIB)
});
metric!(CALLS, "system calls/request", Less, |round| round.get("syscalls_per_op"));
metric!(INSTRUCTIONS, "instructions/request", Less, |round| round.get("instructions_per_op"));

impl Metric {
    /// What each round of a contender came to; nothing if it has failed.
    pub(super) fn of(&self, row: &Row) -> Vec<f64> {
        let Rounds::Rounds(rounds) = &row.result else { return Vec::new() };
        let most = rounds.values().map(Vec::len).max().unwrap_or_default();
        let values = (0..most).filter_map(|number| (self.of)(&Round { rounds, number }));
        values.filter(|value| value.is_finite()).collect()
    }

    /// Whether a number is better than another one.
    pub(super) fn is_better(&self, one: f64, other: f64) -> bool {
        match self.better {
            Better::More => one > other,
            Better::Less => one < other,
        }
    }

    /// One contender beside another; nothing if either has failed, or has no such number.
    pub(super) fn beside(&self, one: &Row, other: &Row) -> Option<f64> {
        ratio(&self.of(one), &self.of(other))
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::Side;
    use super::super::data::tests::{failed, row};
    use super::*;

    #[test]
    fn numbers_follow_from_those_that_were_measured() {
        let numbers: &[(&str, &[f64])] = &[
            ("operations", &[1000.0, 1000.0]),
            ("bytes", &[4_096_000.0, 4_096_000.0]),
            ("seconds", &[0.5, 0.25]),
            ("user_s", &[0.002, 0.001]),
            ("system_s", &[0.001, 0.001]),
            ("syscalls_per_op", &[0.5]),
        ];
        let row = row(["p", "l", "c"], Side::Ours, numbers);
        assert_eq!(PER_SECOND.of(&row), [2000.0, 4000.0]);
        assert_eq!(RATE.of(&row), [7.8125, 15.625]);
        assert_eq!(CPU.of(&row), [3.0, 2.0]);
        assert_eq!(CALLS.of(&row), [0.5]);
        assert!(SERVER.of(&row).is_empty(), "it was not measured");
    }

    #[test]
    fn who_failed_is_beside_nobody() {
        let good = row(["p", "l", "c"], Side::Ours, &[("seconds", &[1.0, 3.0])]);
        let half = row(["p", "l", "d"], Side::Theirs, &[("seconds", &[1.0])]);
        let bad = failed(["p", "l", "e"], Side::Theirs);
        assert_eq!(SECONDS.beside(&good, &good), Some(1.0));
        assert_eq!(SECONDS.beside(&good, &bad), None);
        assert_eq!(SECONDS.beside(&bad, &good), None);
        assert_eq!(SECONDS.beside(&good, &half), None, "not of the same rounds");
    }
}
