//! Where others are faster: the part of the page that is read first by those who doubt the rest.

use std::fmt::Write;

use super::data::{Data, Row, Side};
use super::metric::{Better, CPU, CPU_GIB, Metric, P99_9};
use super::stats::median;
use super::table::{loads, metrics, short};

/// What a ratio may be against us before it is called a loss: less is chance.
const CHANCE: f64 = 0.03;

/// A row for all of ours that are behind the same one of theirs, in the same.
struct Loss<'a> {
    metric: &'static Metric,
    theirs: &'a Row,
    /// Each with the ratio to theirs.
    ours: Vec<(&'a Row, f64)>,
    limit: Option<&'a Row>,
}

/// Where contenders of ours are behind the best of the others, and by how much.
pub(super) fn losses(data: &Data, parts: &[&str]) -> String {
    let mut text = String::new();
    for part in parts {
        for (load, rows) in loads(data, part) {
            for metric in judged(&rows) {
                if let Some(loss) = Loss::of(metric, &rows) {
                    let _ = writeln!(text, "| {part}: {load} | {loss} |");
                }
            }
        }
    }
    if text.is_empty() {
        return "\nNowhere, in what was measured.\n".to_owned();
    }
    format!(
        "\n| where | what | ours (÷ theirs) | the best of theirs | the limit |\n\
         |---|---|---|---|---|\n{text}"
    )
}

impl<'a> Loss<'a> {
    fn of(metric: &'static Metric, rows: &[&'a Row]) -> Option<Self> {
        let side = |side| rows.iter().copied().filter(move |row| row.side == side);
        let theirs = side(Side::Theirs)
            .filter_map(|row| Some((row, median(&metric.of(row))?)))
            .reduce(|best, other| if metric.is_better(other.1, best.1) { other } else { best })?
            .0;
        let lost = |ratio: f64, chance| match metric.better {
            Better::More => ratio < 1.0 - chance,
            Better::Less => ratio > 1.0 + chance,
        };
        let ours: Vec<_> = side(Side::Ours)
            .filter(|row| {
                metric
                    .of(row)
                    .iter()
                    .zip(metric.of(theirs))
                    .all(|(ours, theirs)| lost(ours / theirs, 0.0))
            })
            .filter_map(|row| Some((row, metric.beside(row, theirs)?)))
            .filter(|(_, ratio)| lost(*ratio, CHANCE))
            .collect();
        let limit = side(Side::Limit).next();
        (!ours.is_empty()).then_some(Self { metric, theirs, ours, limit })
    }
}

impl std::fmt::Display for Loss<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |row| median(&self.metric.of(row)).map_or_else(|| "–".to_owned(), short);
        let ours = self
            .ours
            .iter()
            .map(|(row, ratio)| format!("{} {} ({})", row.contender, told(row), short(*ratio)));
        let ours: Vec<_> = ours.collect();
        let limit = self.limit.map_or_else(String::new, told);
        let theirs = format!("{} {}", self.theirs.contender, told(self.theirs));
        write!(f, "{} | {} | {theirs} | {limit}", self.metric.heading, ours.join("; "))
    }
}

/// What counts as a loss: what matters most of a load, its longest latencies, and processors.
fn judged(rows: &[&Row]) -> Vec<&'static Metric> {
    let all = metrics(rows);
    let first = all.first().copied();
    let also: &[&Metric] = match first.map(|metric| metric.heading) {
        Some("requests/s") => &[&P99_9, &CPU],
        Some("MiB/s") => &[&P99_9, &CPU_GIB],
        Some("s") => &[&CPU_GIB],
        _ => &[],
    };
    first.into_iter().chain(also.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::failed;
    use super::super::table::tests::{data, timed};
    use super::*;

    #[test]
    fn losses_are_those_beyond_chance() {
        let of = |ours: f64| {
            let rows = vec![
                timed("nbd copy", Side::Ours, &[ours]),
                timed("nbdcopy", Side::Theirs, &[1.0]),
            ];
            losses(&data(rows), &["copies"])
        };
        let lost = "| copies: a file | s | nbd copy 1.10 (1.10) | nbdcopy 1.00 |  |\n";
        assert!(of(1.1).ends_with(lost), "{}", of(1.1));
        assert!(of(1.02).contains("Nowhere") && of(0.5).contains("Nowhere"));
    }

    #[test]
    fn one_round_that_was_won_is_chance() {
        let rows = vec![
            timed("nbd copy", Side::Ours, &[1.5, 0.9, 1.5]),
            timed("nbdcopy", Side::Theirs, &[1.0, 1.0, 1.0]),
        ];
        assert!(losses(&data(rows), &["copies"]).contains("Nowhere"));
    }

    #[test]
    fn all_of_ours_stand_beside_the_best_of_theirs_and_the_limit() {
        let rows = vec![
            timed("by hand", Side::Limit, &[0.5]),
            timed("one", Side::Ours, &[3.0]),
            timed("two", Side::Ours, &[2.0]),
            timed("three", Side::Ours, &[1.0]),
            timed("slow", Side::Theirs, &[2.5]),
            timed("best", Side::Theirs, &[1.0]),
        ];
        let told = losses(&data(rows), &["copies"]);
        let lost = "| copies: a file | s | one 3.00 (3.00); two 2.00 (2.00) | best 1.00 | 0.50 |\n";
        assert!(told.ends_with(lost), "{told}");
    }

    #[test]
    fn who_failed_is_behind_nobody_and_nobody_behind_him() {
        for (ours, theirs) in [(Side::Ours, Side::Theirs), (Side::Theirs, Side::Ours)] {
            let bad = Row { part: "copies".into(), ..failed(["", "a file", "bad"], ours) };
            let told = losses(&data(vec![bad, timed("good", theirs, &[2.0])]), &["copies"]);
            assert!(told.contains("Nowhere"), "{told}");
        }
    }
}
