//! `nbd map`: what is where in an export, by one meta context or several side by side.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `words` | what a status means |
//! | `cells` | a range cut into as many cells as a line has |
//! | `bar` | a coloured line for a terminal |
//! | `svg` | a picture |

mod bar;
mod cells;
mod svg;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use nbd_client_blocking::Segment;
use nbd_client_blocking::proto::ClientConfig;
use serde_json::json;
use tempfile::SpooledTempFile;

use crate::failure::{Context, Result};
use crate::output::{in_color, print_file};
use crate::range::Span;
use crate::target::Target;
use crate::{Patience, extents};

use cells::Cells;
pub(crate) use words::describe;

/// The context that is shown where none is named.
const ALLOCATION: &str = "base:allocation";
/// A map that is longer than this many bytes waits for its end in a file.
const IN_MEMORY: usize = 1 << 20;

const EXAMPLES: &str = "Examples:
  nbd map nbd://host
  nbd map -c base:allocation -c qemu:dirty-bitmap:b0 nbd://host
  nbd map --svg map.svg --offset 1G --length 64M nbd://host";

/// Show what is where in an export.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A meta context to show; may be given several times [default: base:allocation]
    #[arg(long, short = 'c', value_name = "CONTEXT")]
    context: Vec<String>,
    #[command(flatten)]
    span: Span,
    /// Print a bar and a legend, also where standard output is no terminal
    #[arg(long, conflicts_with_all = ["json", "no_bar"])]
    bar: bool,
    /// Print the table only
    #[arg(long)]
    no_bar: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a picture to a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print in colour, also where standard output is no terminal
    #[arg(long, aliases = ["colors", "colour", "colours"], overrides_with = "no_color")]
    color: bool,
    /// Print without colour
    #[arg(long, aliases = ["no-colors", "no-colour", "no-colours"], overrides_with = "color")]
    no_color: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?.waiting(args.patience.wait());
    let limit = args.patience.limit();
    let mut names: Vec<&str> = args.context.iter().map(String::as_str).collect();
    if names.is_empty() {
        names.push(ALLOCATION);
    }
    let config = names.iter().fold(ClientConfig::new(), |config, name| config.meta_context(*name));
    let mut client = server.connect(config, limit)?;
    if let Some(missing) = names.iter().find(|name| client.context(name).is_none()) {
        // There are servers that serve one connection at a time.
        drop(client);
        return Err(extents::no_context(&server, missing, limit));
    }
    let range = args.span.range(client.size()).context(&server.name)?;
    let terminal = bar::width();
    let mut cells = Cells::new(range.clone(), names.len(), terminal);
    let mut picture = Cells::new(range.clone(), names.len(), svg::CELLS);
    let mut table = Rows::new(args.json, &names);
    extents::walk(&mut client, &server, &names, range, limit, |segment| {
        cells.add(&segment);
        picture.add(&segment);
        table.add(&segment)
    })?;
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    if let Some(path) = &args.svg {
        fs::write(path, svg::render(&names, &picture)).context(path.display())?;
        if !args.bar && !args.json {
            return Ok(());
        }
    }
    let with_bar = args.bar || (!args.json && !args.no_bar && io::stdout().is_terminal());
    let color = in_color(args.color, args.no_color);
    table.print(if with_bar { bar::render(&names, &cells, color) } else { String::new() })
}

/// One row for each segment; printed when all are there.
struct Rows<'a> {
    as_json: bool,
    names: &'a [&'a str],
    count: usize,
    spool: SpooledTempFile,
}

impl<'a> Rows<'a> {
    fn new(as_json: bool, names: &'a [&'a str]) -> Self {
        Self { as_json, names, count: 0, spool: SpooledTempFile::new(IN_MEMORY) }
    }

    fn add(&mut self, segment: &Segment) -> Result<()> {
        let line = if self.as_json { self.json(segment) } else { self.text(segment) };
        self.count += 1;
        self.spool.write_all(line.as_bytes()).context("a temporary file")
    }

    fn json(&self, segment: &Segment) -> String {
        let status: serde_json::Map<_, _> = self
            .names
            .iter()
            .zip(&segment.statuses)
            .map(|(name, status)| {
                let words = describe(name, *status);
                ((*name).to_owned(), json!({"status": status, "description": words}))
            })
            .collect();
        let before = if self.count == 0 { "" } else { ",\n" };
        let row = json!({"offset": segment.offset, "length": segment.length, "contexts": status});
        format!("{before}    {row}")
    }

    fn text(&self, segment: &Segment) -> String {
        let mut line = format!("{:>14} {:>14}", segment.offset, segment.length);
        for (name, status) in self.names.iter().zip(&segment.statuses) {
            let words = describe(name, *status).unwrap_or_else(|| status.to_string());
            line += &format!("  {words:12}");
        }
        format!("{}\n", line.trim_end())
    }

    fn print(mut self, bar: String) -> Result<()> {
        let (begin, end) = match self.as_json {
            true => ("{\n  \"version\": 1,\n  \"segments\": [\n".to_owned(), "\n  ]\n}\n"),
            false => (bar, ""),
        };
        self.spool.write_all(end.as_bytes()).context("a temporary file")?;
        print_file(&begin, &mut self.spool)
    }
}
