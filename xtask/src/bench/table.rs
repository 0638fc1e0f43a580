//! Tables of what was measured.

use std::fmt::Write;

use super::data::{Data, Rounds, Row, Side};
use super::metric::{
    CALLS, INSTRUCTIONS, KIB, MILLIS, Metric, P50, P99, P99_9, PER_SECOND, RATE, SECONDS, SERVER,
    SERVER_GIB, SYSTEM, SYSTEM_GIB, USER, USER_GIB,
};
use super::stats::{median, spread};

const SMALL: &[&Metric] =
    &[&PER_SECOND, &P50, &P99, &P99_9, &USER, &SYSTEM, &SERVER, &CALLS, &INSTRUCTIONS];
const LARGE: &[&Metric] = &[&RATE, &P50, &P99, &P99_9, &USER_GIB, &SYSTEM_GIB, &SERVER_GIB, &CALLS];
const COPIES: &[&Metric] = &[&SECONDS, &USER_GIB, &SYSTEM_GIB];
const SETUP: &[&Metric] = &[&MILLIS];
const MEMORY: &[&Metric] = &[&KIB];

/// Requests of which somebody thinks in bytes.
const LARGE_REQUEST: f64 = 65_536.0;

/// The loads of a part, in order, with their rows.
pub(super) fn loads<'a>(data: &'a Data, part: &'a str) -> Vec<(&'a str, Vec<&'a Row>)> {
    let mut loads: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in data.part(part) {
        match loads.iter_mut().find(|(load, _)| *load == row.load) {
            Some((_, rows)) => rows.push(row),
            None => loads.push((&row.load, vec![row])),
        }
    }
    loads
}

/// What to tell of a load, what matters most first.
pub(super) fn metrics(rows: &[&Row]) -> &'static [&'static Metric] {
    let has = |metric: &Metric| rows.iter().any(|row| !metric.of(row).is_empty());
    let bytes = rows.iter().find_map(|row| match &row.result {
        Rounds::Rounds(rounds) => {
            Some(rounds.get("bytes")?.first()? / rounds.get("operations")?.first()?)
        }
        Rounds::Failed(_) => None,
    });
    match rows.first().map(|row| row.part.as_str()) {
        Some("setup") => SETUP,
        _ if has(&KIB) => MEMORY,
        // Whole programs: one operation.
        _ if bytes.is_some_and(|bytes| bytes >= f64::from(1 << 20)) => COPIES,
        _ if bytes.is_some_and(|bytes| bytes >= LARGE_REQUEST) => LARGE,
        _ => SMALL,
    }
}

/// The one that others are compared with.
fn reference<'a>(rows: &[&'a Row]) -> Option<&'a Row> {
    rows.iter().find(|row| row.side == Side::Theirs).copied()
}

/// A table for each load of a part.
pub(super) fn tables(data: &Data, part: &str) -> String {
    let mut text = String::new();
    for (load, rows) in loads(data, part) {
        let _ = write!(text, "\n**{load}**\n\n{}", table(&rows));
    }
    if text.is_empty() { "\nNot measured.\n".to_owned() } else { text }
}

fn table(rows: &[&Row]) -> String {
    let told = metrics(rows).iter().filter(|metric| rows.iter().any(|r| !metric.of(r).is_empty()));
    let told: Vec<&Metric> = told.copied().collect();
    let reference = reference(rows);
    let mut text = String::from("| |");
    for metric in &told {
        let _ = write!(text, " {} |", metric.heading);
    }
    if let (Some(reference), Some(_)) = (reference, told.first()) {
        let _ = write!(text, " beside {} |", reference.contender);
    }
    let columns = text.matches('|').count() - 2;
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(columns));
    for row in rows {
        let _ = write!(text, "| {} |", name(row));
        if let Rounds::Failed(why) = &row.result {
            // What it says may hold what divides cells.
            let _ = write!(text, " failed: {} |", why.replace('|', "\\|"));
            let _ = writeln!(text, "{}", " |".repeat(columns.saturating_sub(1)));
            continue;
        }
        for metric in &told {
            let _ = write!(text, " {} |", cell(&metric.of(row)));
        }
        if let (Some(reference), Some(first)) = (reference, told.first()) {
            let ratio = first.beside(row, reference).map_or_else(|| "–".to_owned(), short);
            let _ = write!(text, " {ratio} |");
        }
        text.push('\n');
    }
    text
}

fn name(row: &Row) -> String {
    match row.side {
        Side::Ours => format!("**{}**", row.contender),
        Side::Theirs => row.contender.clone(),
        Side::Limit => format!("*{}*", row.contender),
    }
}

/// The median, and how far the farthest round is from it.
fn cell(values: &[f64]) -> String {
    match (median(values), spread(values)) {
        (None, _) => "–".to_owned(),
        (Some(middle), Some(spread)) if values.len() > 1 => {
            format!("{} ±{:.0} %", short(middle), spread * 100.0)
        }
        (Some(middle), _) => short(middle),
    }
}

/// A number with three digits that count, or all of a whole one.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number, thousands apart.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && digit.is_ascii_digit() && (digits.len() - place) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text.replace("-\u{202f}", "-")
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::data::tests::{failed, row};
    use super::super::machine::Machine;
    use super::*;

    pub(in crate::bench) fn data(rows: Vec<Row>) -> Data {
        Data { machine: Machine::default(), rows }
    }

    pub(in crate::bench) fn timed(contender: &str, side: Side, seconds: &[f64]) -> Row {
        let ones = vec![1.0; seconds.len()];
        let bytes = vec![f64::from(1 << 30); seconds.len()];
        let numbers: &[(&str, &[f64])] =
            &[("operations", &ones), ("bytes", &bytes), ("seconds", seconds)];
        row(["copies", "a file", contender], side, numbers)
    }

    #[test]
    fn numbers_are_short() {
        let told = [0.126, 9.999, 12.34, 123.4, 1234.4, 1_234_567.0].map(short);
        let expected = ["0.13", "10.00", "12.3", "123", "1\u{202f}234", "1\u{202f}234\u{202f}567"];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_table_has_medians_spread_and_ratios() {
        let rows = vec![
            timed("nbd copy", Side::Ours, &[1.0, 2.0, 1.5]),
            timed("nbdcopy", Side::Theirs, &[2.0, 2.0, 3.0]),
        ];
        let told = tables(&data(rows), "copies");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[1], "**a file**");
        assert_eq!(lines[3], "| | s | beside nbdcopy |");
        assert_eq!(lines[4], "|---|---:|---:|");
        assert_eq!(lines[5], "| **nbd copy** | 1.50 ±33 % | 0.50 |");
        assert_eq!(lines[6], "| nbdcopy | 2.00 ±50 % | 1.00 |");
    }

    #[test]
    fn no_ratio_is_told_of_who_failed_or_moved_wrong_data() {
        let bad = Row { part: "copies".into(), ..failed(["", "a file", "nbdcopy"], Side::Theirs) };
        let told =
            tables(&data(vec![timed("nbd copy", Side::Ours, &[1.0]), bad.clone()]), "copies");
        assert!(told.contains("| **nbd copy** | 1.00 | – |\n"), "{told}");
        assert!(told.contains("| nbdcopy | failed: it moved wrong data | |\n"), "{told}");

        let ours = Row { side: Side::Ours, contender: "nbd copy".into(), ..bad };
        let rows = vec![ours, timed("nbdcopy", Side::Theirs, &[2.0])];
        let told = tables(&data(rows), "copies");
        assert!(told.contains("| **nbd copy** | failed: it moved wrong data | |\n"), "{told}");
    }
}
