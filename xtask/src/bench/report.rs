//! The table that a benchmark ends with.

use std::fmt;

use super::contender::Measurement;

/// Rows of values, one for each program, and the ratio of the first two.
pub(super) struct Report {
    names: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    label: String,
    unit: &'static str,
    values: Vec<Option<f64>>,
    ratio: Option<f64>,
}

impl Report {
    pub(super) fn new(names: Vec<&'static str>) -> Self {
        Self { names, rows: Vec::new() }
    }

    /// Adds the medians of a load's rounds; `results` has a list for each program.
    pub(super) fn throughput(&mut self, label: &str, results: &[Vec<Measurement>]) {
        self.medians(label, "ops/s", results, |one| Some(one.ops_per_s));
        self.medians("", "MiB/s", results, |one| Some(one.mib_per_s));
        self.medians("", "system calls/op", results, |one| one.syscalls_per_op);
    }

    /// Adds the medians of a load's rounds in requests alone.
    pub(super) fn operations(&mut self, label: &str, results: &[Vec<Measurement>]) {
        self.medians(label, "ops/s", results, |one| Some(one.ops_per_s));
    }

    /// Adds the medians of a load's rounds in bytes alone.
    pub(super) fn rate(&mut self, label: &str, results: &[Vec<Measurement>]) {
        self.medians(label, "MiB/s", results, |one| Some(one.mib_per_s));
    }

    /// Adds a row of counts.
    pub(super) fn instructions(&mut self, label: &str, counts: &[f64]) {
        let values = counts.iter().copied().map(Some).collect();
        let ratio = match counts {
            [ours, theirs, ..] => Some(ours / theirs),
            _ => None,
        };
        self.rows.push(Row { label: label.to_owned(), unit: "Ir", values, ratio });
    }

    fn medians(
        &mut self,
        label: &str,
        unit: &'static str,
        results: &[Vec<Measurement>],
        value: fn(&Measurement) -> Option<f64>,
    ) {
        let rounds: Vec<Vec<f64>> =
            results.iter().map(|rounds| rounds.iter().filter_map(value).collect()).collect();
        let values = rounds.iter().map(|rounds| median(rounds.iter().copied())).collect();
        let ratio = match &rounds[..] {
            [ours, theirs, ..] => ratio(ours, theirs),
            _ => None,
        };
        self.rows.push(Row { label: label.to_owned(), unit, values, ratio });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.label.len() + 2).fold(34, usize::max);
        write!(f, "{:<width$}{:<16}", "median of all rounds", "")?;
        for name in &self.names {
            write!(f, "{name:>12}")?;
        }
        writeln!(f, "{:>8}", "ratio")?;
        for Row { label, unit, values, ratio } in &self.rows {
            write!(f, "{label:<width$}{unit:<16}")?;
            for value in values {
                match value {
                    Some(value) => write!(f, "{value:>12.decimals$}", decimals = decimals(*value))?,
                    None => write!(f, "{:>12}", "-")?,
                }
            }
            match ratio {
                Some(ratio) => writeln!(f, "{ratio:>8.2}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Small numbers need their fraction, large ones would only be blurred by it.
fn decimals(value: f64) -> usize {
    if value < 100.0 { 2 } else { 0 }
}

/// How one did beside another: the median of each round's ratio. Both met a round with the
/// same machine, and a later one perhaps with a slower one.
pub(super) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn a_ratio_is_of_rounds_not_of_medians() {
        assert_eq!(ratio(&[2.0, 20.0, 300.0], &[1.0, 10.0, 100.0]), Some(2.0));
        assert_eq!(ratio(&[90.0, 20.0, 10.0], &[100.0, 10.0, 20.0]), Some(0.9));
        assert_eq!(ratio(&[1.0], &[]), None);
    }

    #[test]
    fn a_table_has_a_ratio_where_both_have_a_value() {
        let round = |ops_per_s, syscalls_per_op| Measurement {
            ops_per_s,
            mib_per_s: ops_per_s / 256.0,
            syscalls_per_op,
        };
        let mut report = Report::new(vec!["nbd", "libnbd"]);
        report.throughput("a load", &[vec![round(300.0, Some(0.5))], vec![round(200.0, None)]]);
        let table = report.to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "load", "ops/s", "300", "200", "1.50"]);
        assert_eq!(lines[2], ["MiB/s", "1.17", "0.78", "1.50"]);
        assert_eq!(lines[3], ["system", "calls/op", "0.50", "-"]);
    }
}
