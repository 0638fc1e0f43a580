//! What was measured, as it is kept in the repository.
//!
//! A file begins with a line for the machine; each further line is one contender at one load,
//! with a list of numbers of each kind, one number a round, or with why it has none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::Outcome;
use crate::workspace::root;

/// The numbers of one round, by what they are.
pub(super) type Sample = BTreeMap<String, f64>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Data {
    pub(super) machine: Machine,
    pub(super) rows: Vec<Row>,
}

/// One contender at one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) part: String,
    pub(super) load: String,
    /// What a curve is drawn over: requests in flight, or connections.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) at: Option<u64>,
    pub(super) contender: String,
    pub(super) side: Side,
    #[serde(flatten)]
    pub(super) result: Rounds,
}

/// Whose a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Ours,
    Theirs,
    /// Nobody's: what cannot be beaten.
    Limit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rounds {
    Rounds(BTreeMap<String, Vec<f64>>),
    /// Why there is nothing to compare.
    Failed(String),
}

impl Row {
    /// Takes the samples of all rounds apart.
    pub(super) fn collect(samples: Vec<Sample>) -> Rounds {
        let mut rounds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, value) in samples.into_iter().flatten() {
            rounds.entry(name).or_default().push(rounded(value));
        }
        Rounds::Rounds(rounds)
    }

    /// Adds a number that is not of a round, if there are any.
    pub(super) fn add(&mut self, name: &str, value: f64) {
        if let Rounds::Rounds(rounds) = &mut self.result {
            rounds.insert(name.to_owned(), vec![rounded(value)]);
        }
    }
}

/// Six places are more than anything here is measured by.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

impl Data {
    pub(super) fn render(&self) -> Outcome<String> {
        let failed = |error: serde_json::Error| format!("cannot write what was measured: {error}");
        let mut text = serde_json::to_string(&self.machine).map_err(failed)?;
        text.push('\n');
        for row in &self.rows {
            text.push_str(&serde_json::to_string(row).map_err(failed)?);
            text.push('\n');
        }
        Ok(text)
    }

    pub(super) fn parse(text: &str) -> Outcome<Self> {
        let failed = |error: serde_json::Error| format!("not what was measured: {error}");
        let (first, rest) = text.split_once('\n').ok_or("nothing was measured")?;
        let rows = rest.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let machine = serde_json::from_str(first).map_err(failed)?;
        Ok(Self { machine, rows: rows.map_err(failed)? })
    }

    /// Takes over what another one has of other parts.
    pub(super) fn keep_others(&mut self, old: Self) {
        let has = |row: &Row| self.rows.iter().any(|new| new.part == row.part);
        let kept: Vec<Row> = old.rows.into_iter().filter(|row| !has(row)).collect();
        self.rows.extend(kept);
    }

    pub(super) fn part<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.part == part)
    }
}

/// Where it is kept.
pub(super) fn directory() -> PathBuf {
    root().join("docs/performance")
}

/// The newest of what is kept there: names begin with the date.
pub(super) fn newest(directory: &Path) -> Outcome<Option<Data>> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(None) };
    let files = entries.flatten().map(|entry| entry.path());
    let newest = files.filter(|path| path.extension().is_some_and(|word| word == "jsonl")).max();
    newest.as_deref().map(read).transpose()
}

/// What a file holds.
pub(super) fn read(path: &Path) -> Outcome<Data> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Data::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with these rounds of some numbers.
    pub(in crate::bench) fn row(words: [&str; 3], side: Side, numbers: &[(&str, &[f64])]) -> Row {
        let [part, load, contender] = words.map(str::to_owned);
        let numbers = numbers.iter().map(|(name, rounds)| ((*name).to_owned(), rounds.to_vec()));
        Row { part, load, at: None, contender, side, result: Rounds::Rounds(numbers.collect()) }
    }

    pub(in crate::bench) fn failed(words: [&str; 3], side: Side) -> Row {
        let result = Rounds::Failed("it moved wrong data".to_owned());
        Row { result, ..row(words, side, &[]) }
    }

    #[test]
    fn what_is_written_is_read() {
        let rows = vec![
            row(["a", "b", "c"], Side::Ours, &[("seconds", &[1.0, 2.5])]),
            failed(["a", "b", "d"], Side::Theirs),
            Row { at: Some(16), ..row(["x", "b", "d"], Side::Limit, &[]) },
        ];
        let data = Data { machine: Machine::default(), rows };
        let text = data.render().expect("it can be written");
        assert_eq!(text.lines().count(), 4);
        assert_eq!(Data::parse(&text), Ok(data));
        assert!(Data::parse("").is_err() && Data::parse("{}\n{}\n").is_err());
    }

    #[test]
    fn parts_that_were_not_measured_again_are_kept() {
        let of = |parts: [&str; 2], load| Data {
            machine: Machine::default(),
            rows: parts.map(|part| row([part, load, "c"], Side::Ours, &[])).to_vec(),
        };
        let mut new = of(["a", "b"], "new");
        new.keep_others(of(["b", "c"], "old"));
        let told: Vec<_> =
            new.rows.iter().map(|row| format!("{} {}", row.part, row.load)).collect();
        assert_eq!(told, ["a new", "b new", "c old"]);
    }

    #[test]
    fn samples_are_taken_apart() {
        let sample = |seconds| Sample::from([("seconds".to_owned(), seconds)]);
        let Rounds::Rounds(rounds) = Row::collect(vec![sample(1.0), sample(2.000_000_01)]) else {
            panic!("nothing has failed");
        };
        assert_eq!(rounds["seconds"], [1.0, 2.0]);
    }
}
