//! `cargo xtask api-map`: what became of each call of libnbd, rendered and proved.
//!
//! ```text
//!   docs/libnbd-map.toml ──┬──► docs/libnbd-map.md            for readers
//!   #[doc(alias = "nbd_…")] ┘└─► coming_from_libnbd.md        for rustdoc, with links
//! ```
//!
//! | that | is shown by |
//! |---|---|
//! | every call has a row | `docs/libnbd-calls.txt` |
//! | every call has an item | rustdoc, which tells the aliases of all items |
//! | every test has passed | the output of the last run of all tests |

mod aliases;
mod ran;
mod render;
mod table;

use std::collections::BTreeSet;
use std::fs;

use crate::Outcome;
use crate::workspace::root;
use aliases::Aliases;
use table::Row;

pub(crate) use ran::note as note_tests;

const MAP: &str = "docs/libnbd-map.toml";
const CALLS: &str = "docs/libnbd-calls.txt";
const FOR_READERS: &str = "docs/libnbd-map.md";
const FOR_RUSTDOC: &str = "nbd-client-blocking/src/coming_from_libnbd.md";

/// Renders the map, or checks it.
pub(crate) fn run(args: &[String]) -> Outcome {
    match args {
        [] => {
            for (path, text) in rendered(&rows()?, &aliases::all()?) {
                fs::write(root().join(path), text)
                    .map_err(|error| format!("writing {path}: {error}"))?;
                eprintln!("{path}");
            }
            Ok(())
        }
        [only] if only == "--check" => check(),
        _ => Err("usage: cargo xtask api-map [--check]".to_owned()),
    }
}

/// Proves the map.
///
/// # Errors
///
/// Naming the calls without a row or an item, the aliases of no call, the tests that did not
/// run, and the files that are out of date.
pub(crate) fn check() -> Outcome {
    let rows = rows()?;
    let mut faults = missing_calls(&rows, &read(CALLS)?);
    faults.extend(missing_tests(&rows, &ran::known()?));
    let aliases = aliases::all()?;
    faults.extend(missing_items(&rows, &aliases));
    for (path, text) in rendered(&rows, &aliases) {
        if read(path)? != text {
            faults.push(format!("{path} is out of date: run `cargo xtask api-map`"));
        }
    }
    if !faults.is_empty() {
        return Err(format!("{MAP}:\n  {}", faults.join("\n  ")));
    }
    eprintln!("    {} calls have what they need", rows.len());
    Ok(())
}

fn rows() -> Outcome<Vec<Row>> {
    table::parse(&read(MAP)?).map_err(|error| format!("{MAP}: {error}"))
}

fn rendered(rows: &[Row], aliases: &Aliases) -> [(&'static str, String); 2] {
    [
        (FOR_READERS, render::for_readers(rows, aliases)),
        (FOR_RUSTDOC, render::for_rustdoc(rows, aliases)),
    ]
}

fn read(path: &str) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("reading {path}: {error}"))
}

fn missing_calls(rows: &[Row], calls: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let twice = rows.iter().filter(|row| !seen.insert(row.name.as_str()));
    let mut faults: Vec<_> = twice.map(|row| format!("`{}` has two rows", row.name)).collect();
    let lost = calls.lines().filter(|call| !seen.contains(call));
    faults.extend(lost.map(|call| format!("no row for `{call}`")));
    faults
}

fn missing_items(rows: &[Row], aliases: &Aliases) -> Vec<String> {
    let none = rows.iter().filter(|row| !aliases.contains_key(&row.alias));
    let mut faults: Vec<_> =
        none.map(|row| format!("no item has the alias {}", row.alias)).collect();
    let lost = aliases.keys().filter(|call| rows.iter().all(|row| row.alias != **call));
    faults.extend(lost.map(|call| format!("the alias {call} is of no call")));
    faults
}

fn missing_tests(rows: &[Row], ran: &BTreeSet<String>) -> Vec<String> {
    let named = rows.iter().flat_map(|row| row.tests.iter().map(move |test| (row, test)));
    named
        .filter(|(_, test)| !ran.contains(*test))
        .map(|(row, test)| format!("`{}`: the test {test} did not run and pass", row.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, test: &str) -> Row {
        Row {
            name: name.to_owned(),
            alias: format!("nbd_{name}"),
            group: "g".to_owned(),
            tests: vec![test.to_owned()],
            note: String::new(),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let rows = [row("one", "t::passed"), row("two", "t::lost"), row("two", "t::passed")];
        assert_eq!(
            missing_calls(&rows, "one\ntwo\nthree\n"),
            ["`two` has two rows", "no row for `three`"]
        );
        let aliases =
            Aliases::from(["nbd_one", "nbd_four"].map(|alias| (alias.to_owned(), Vec::new())));
        assert_eq!(
            missing_items(&rows[..2], &aliases),
            ["no item has the alias nbd_two", "the alias nbd_four is of no call"]
        );
        let ran = BTreeSet::from(["t::passed".to_owned()]);
        assert_eq!(missing_tests(&rows, &ran), ["`two`: the test t::lost did not run and pass"]);
    }

    #[test]
    fn the_map_can_be_read_and_misses_no_call() {
        let rows = rows().expect("it is sound");
        assert_eq!(missing_calls(&rows, &read(CALLS).expect("it is there")), [""; 0]);
    }
}
