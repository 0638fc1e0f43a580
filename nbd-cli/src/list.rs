//! `nbd list`: all exports of a server, in a table.

use std::ffi::OsString;
use std::fmt::Write;
use std::io::{self, IsTerminal};

use nbd_client_blocking::proto::escape;
use serde_json::{Value, json};

use crate::Patience;
use crate::failure::{Failure, Result};
use crate::info::{Described, describe_all};
use crate::output::{Form, columns};
use crate::target::Target;

const KEYS: &str = "With --json: exports, a list of name, size in bytes, read_only, and description
where there is one; of an export that cannot be opened name and error.";

/// List the exports of a server.
#[derive(Debug, clap::Args)]
#[command(after_help = KEYS)]
pub(crate) struct Args {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?.waiting(args.patience.wait());
    let exports = describe_all(&server, args.patience.limit())?;
    let columns = io::stdout().is_terminal().then(|| columns(io::stdout()));
    let text = || table(&exports.iter().map(row).collect::<Vec<_>>(), columns);
    args.form.print(text, || json!({"exports": exports.iter().map(export).collect::<Vec<_>>()}))?;
    match exports.iter().find_map(Described::unknown) {
        Some(reason) => Err(Failure::new(format!("not everything is known: {reason}"))),
        None => Ok(()),
    }
}

/// The same for a program.
fn export(export: &Described) -> Value {
    let mut value = json!({"name": export.name});
    if let Some(description) = &export.description {
        value["description"] = json!(description);
    }
    match (export.size_and_access(), export.unknown()) {
        (Some((size, read_only)), _) => {
            value["size"] = json!(size);
            value["read_only"] = json!(read_only);
        }
        (None, reason) => value["error"] = json!(reason),
    }
    value
}

/// Name, size, access and description.
fn row(export: &Described) -> [String; 4] {
    let name = escape(export.name.as_bytes());
    let name = if name.is_empty() { "\"\"".to_owned() } else { name };
    let description = escape(export.description.as_deref().unwrap_or_default().as_bytes());
    match export.size_and_access() {
        Some((size, read_only)) => {
            let access = if read_only { "read-only" } else { "writable" };
            [name, indicatif::BinaryBytes(size).to_string(), access.to_owned(), description]
        }
        None => [name, "?".to_owned(), "?".to_owned(), description],
    }
}

/// Columns as wide as they need be; sizes stand to the right. Lines that a terminal of so many
/// columns has no room for are cut off.
fn table(rows: &[[String; 4]], columns: Option<u16>) -> String {
    let head = ["EXPORT", "SIZE", "ACCESS", "DESCRIPTION"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]);
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let (name, size, access) = (width(0), width(1), width(2));
    let mut text = String::new();
    for row in [&head].into_iter().chain(rows) {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write!(line, "{:name$}  {:>size$}  {:access$}  {}", row[0], row[1], row[2], row[3]);
        let line = line.trim_end();
        let _ = match columns.map(usize::from).filter(|columns| line.chars().count() > *columns) {
            Some(columns) => {
                let part: String = line.chars().take(columns.saturating_sub(1)).collect();
                writeln!(text, "{part}…")
            }
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_be() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned);
        let rows =
            [row(["a", "1.00 GiB", "writable", ""]), row(["longer-name", "5 B", "?", "x y"])];
        assert_eq!(
            table(&rows, None),
            "EXPORT           SIZE  ACCESS    DESCRIPTION\n\
             a            1.00 GiB  writable\n\
             longer-name       5 B  ?         x y\n"
        );
        let cut = table(&rows, Some(20));
        assert!(cut.lines().all(|line| line.chars().count() == 20 && line.ends_with('…')), "{cut}");
    }
}
