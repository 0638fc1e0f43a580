//! The page of what was measured: nothing but a function of it.

use std::fs;
use std::path::PathBuf;

use super::data::{self, Data};
use super::losses::losses;
use super::parts::PARTS;
use super::table::{loads, short, tables};
use super::{USAGE, pictures};
use crate::Outcome;
use crate::workspace::root;

/// What does not depend on figures, with `{{...}}` where those go.
const TEMPLATE: &str = include_str!("page.md");

/// A page and its pictures, by their names.
#[derive(Debug, PartialEq)]
struct Page {
    text: String,
    pictures: Vec<(String, String)>,
}

/// Writes the page anew, or compares it.
pub(super) fn run(args: &[String]) -> Outcome {
    match args {
        [] => write(),
        [option] if option == "--check" => check(),
        _ => Err(USAGE.to_owned()),
    }
}

/// Makes the page of the newest measurement.
pub(super) fn write() -> Outcome {
    let newest = data::newest(&data::directory())?.ok_or("nothing was measured yet")?;
    let page = Page::of(&newest)?;
    let put = |path: PathBuf, text: &str| {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    for (path, _) in drawn() {
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    for (name, svg) in &page.pictures {
        put(data::directory().join(name), svg)?;
    }
    put(path(), &page.text)
}

/// Whether the page in the repository is that of the newest measurement.
fn check() -> Outcome {
    let Some(newest) = data::newest(&data::directory())? else {
        return if path().exists() { Err("a page, and no figures".to_owned()) } else { Ok(()) };
    };
    let text = fs::read_to_string(path());
    let text = text.map_err(|error| format!("{}: {error}", path().display()))?;
    let mut pictures = Vec::new();
    for (path, name) in drawn() {
        let svg = fs::read_to_string(&path);
        pictures.push((name, svg.map_err(|error| format!("{}: {error}", path.display()))?));
    }
    let mut page = Page::of(&newest)?;
    page.pictures.sort();
    if page == (Page { text, pictures }) {
        return Ok(());
    }
    Err("docs/performance.md is not that of the figures: `cargo xtask bench page` writes it".into())
}

fn path() -> PathBuf {
    root().join("docs/performance.md")
}

/// The pictures that are there, in order.
fn drawn() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(data::directory()).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.ends_with(".svg").then(|| (entry.path(), name))
    };
    let mut drawn: Vec<_> = entries.filter_map(named).collect();
    drawn.sort();
    drawn
}

impl Page {
    fn of(data: &Data) -> Outcome<Self> {
        let mut page = Self { text: String::new(), pictures: Vec::new() };
        let mut rest = TEMPLATE;
        while let Some((before, after)) = rest.split_once("{{") {
            let (words, after) = after.split_once("}}").ok_or("{{ without }} in the template")?;
            page.text.push_str(before);
            let words: Vec<&str> = words.split(' ').collect();
            let put = page.fill(data, &words)?;
            page.text.push_str(put.trim());
            rest = after;
        }
        page.text.push_str(rest);
        Ok(page)
    }

    /// What stands in one of the places.
    fn fill(&mut self, data: &Data, words: &[&str]) -> Outcome<String> {
        Ok(match words {
            ["machine"] => machine(data),
            ["rounds"] => data.machine.rounds.to_string(),
            ["file"] => format!("performance/{}.jsonl", data.machine.date),
            ["tables", part] => tables(data, part),
            ["losses"] => losses(data, &PARTS.map(|part| part.name)),
            ["bars", part, count] => {
                let count = count.parse().map_err(|error| format!("{count}: {error}"))?;
                let mut text = String::new();
                for (number, (load, rows)) in loads(data, part).iter().take(count).enumerate() {
                    let svg = pictures::bars(load, rows)?;
                    text.push_str(&self.picture(&format!("{part}-{}", number + 1), load, svg));
                }
                text
            }
            ["latencies", part] => match loads(data, part).first() {
                Some((load, rows)) => {
                    let svg = pictures::latencies(load, rows)?;
                    self.picture("latencies", &format!("latencies, {load}"), svg)
                }
                None => String::new(),
            },
            ["curves", part] => {
                let (title, over) = match *part {
                    "depth" => ("Reads of 4 KiB over one connection", "requests in flight"),
                    _ => ("Reads of 4 KiB, one in flight on each connection", "connections"),
                };
                let svg = pictures::curves(data, part, title, over)?;
                self.picture(part, title, svg)
            }
            _ => return Err(format!("the template asks for {words:?}")),
        })
    }

    /// Adds a picture, if there is anything to see, and returns the line that shows it.
    fn picture(&mut self, name: &str, title: &str, svg: Option<String>) -> String {
        let Some(svg) = svg else { return String::new() };
        let file = format!("{name}.svg");
        let line = format!("![{title}](performance/{file})\n\n");
        self.pictures.push((file, svg));
        line
    }
}

fn machine(data: &Data) -> String {
    let machine = &data.machine;
    let mut lines = vec![
        format!("| measured on | {} |", machine.date),
        format!("| state of this project | {} |", machine.commit),
        format!("| processors | {} of {} |", machine.processors, machine.processor),
        format!("| memory | {} GiB |", machine.memory_gib),
        format!("| kernel | {} |", machine.kernel),
        format!("| processes that wanted to run before | {} |", short(machine.busy)),
    ];
    let versions = machine.versions.iter().map(|(name, version)| format!("| {name} | {version} |"));
    lines.extend(versions);
    format!("| | |\n|---|---|\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::data::Side;
    use super::super::data::tests::{failed, row};
    use super::super::machine::Machine;
    use super::*;

    #[test]
    fn the_page_is_that_of_the_newest_figures() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn a_page_can_be_made_of_next_to_nothing() {
        let data = Data { machine: Machine::default(), rows: Vec::new() };
        let page = Page::of(&data).expect("every place of the template is known");
        assert!(page.pictures.is_empty());
        assert!(page.text.contains("Not measured."));
        assert!(!page.text.contains("{{"));
    }

    #[test]
    fn figures_become_tables_and_pictures_always_the_same() {
        let numbers: &[(&str, &[f64])] = &[
            ("operations", &[1000.0, 1000.0]),
            ("bytes", &[4_096_000.0, 4_096_000.0]),
            ("seconds", &[0.5, 0.25]),
            ("p50_us", &[10.0, 11.0]),
            ("p99_us", &[20.0, 21.0]),
            ("p99_9_us", &[900.0, 1000.0]),
        ];
        let at = |at, part| data::Row {
            at: Some(at),
            ..row([part, &format!("{at} of them"), "blocking"], Side::Ours, numbers)
        };
        let rows = vec![
            row(["clients", "a load", "blocking"], Side::Ours, numbers),
            failed(["clients", "a load", "libnbd"], Side::Theirs),
            at(1, "depth"),
            at(64, "depth"),
        ];
        let data = Data { machine: Machine::default(), rows };
        let page = Page::of(&data).expect("a page");
        let names: Vec<&str> = page.pictures.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["clients-1.svg", "latencies.svg", "depth.svg"] {
            assert!(names.contains(&name), "{names:?}");
            assert!(page.text.contains(&format!("(performance/{name})")), "{name}");
        }
        assert!(page.text.contains("| libnbd | failed: it moved wrong data |"), "{}", page.text);
        assert_eq!(Page::of(&data), Ok(page));
    }
}
