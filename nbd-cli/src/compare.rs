//! `nbd compare`: whether two exports or files hold the same.

use std::ffi::OsString;
use std::fmt::Write;
use std::process::ExitCode;

use nbd_client_blocking::session::replay::Reconnect;
use serde_json::{Value, json};

use crate::copy::{self, Comparison};
use crate::failure::Result;
use crate::output::Form;
use crate::target::Target;
use crate::{Patience, WRONG_USE, end, output};

/// The exit status when they differ. Whatever fails has that of wrong use, as with cmp(1).
const DIFFERENT: u8 = 1;

const KEYS: &str =
    "With --json: same, sizes of both in bytes, first (the first byte that differs, or null),
differences (a list of offset and length), and complete: whether these are all.";

/// Compare two exports or files.
///
/// Exits with status 0 if they hold the same, 1 if they differ, and 2 if that could not be
/// found out.
#[derive(Debug, clap::Args)]
#[command(after_help = KEYS)]
pub(crate) struct Args {
    /// Print all ranges that differ, in blocks of 512 bytes, and not only the first byte
    #[arg(long, short = 'a')]
    all: bool,
    #[command(flatten)]
    form: Form,
    /// Print nothing: the exit status tells
    #[arg(long, short = 'q', conflicts_with_all = ["all", "json"])]
    quiet: bool,
    #[command(flatten)]
    patience: Patience,
    /// A URI, a command in brackets, or a file
    #[arg(value_name = "ONE")]
    one: OsString,
    /// What it is compared with
    #[arg(value_name = "OTHER")]
    other: OsString,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match compare(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DIFFERENT),
        Err(failure) => {
            let told = end(Err(failure));
            if told == ExitCode::from(DIFFERENT) { ExitCode::from(WRONG_USE) } else { told }
        }
    }
}

fn compare(args: &Args) -> Result<bool> {
    let open = |word: &OsString| {
        let target = Target::parse(word)?.waiting(args.patience.wait());
        Ok(target.reconnecting(Some(Reconnect::new())))
    };
    let (one, other) = (open(&args.one)?, open(&args.other)?);
    let all = args.all || args.form.json;
    let found = copy::compare(&one, &other, all, args.patience.limit())?;
    let same = found.first.is_none() && found.sizes.0 == found.sizes.1;
    if !args.quiet {
        args.form.print(|| as_text(args, &found), || as_json(&found, same))?;
    }
    if found.more {
        output::mention("nbd: there are more differences than are told\n");
    }
    Ok(same)
}

fn as_text(args: &Args, found: &Comparison) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    match found.first {
        Some(_) if args.all => {
            for range in &found.ranges {
                let _ = writeln!(text, "{:>12} {:>12}", range.start, range.end - range.start);
            }
        }
        Some(first) => drop(writeln!(text, "they differ: the byte at {first} is the first")),
        None => {}
    }
    let (one, other) = found.sizes;
    if one != other {
        let (one_name, other_name) = (args.one.display(), args.other.display());
        let _ = writeln!(text, "{one_name} has {one} bytes, {other_name} {other}");
    }
    text
}

fn as_json(found: &Comparison, same: bool) -> Value {
    let ranges = found.ranges.iter();
    let ranges: Vec<_> = ranges
        .map(|range| json!({"offset": range.start, "length": range.end - range.start}))
        .collect();
    json!({
        "same": same,
        "sizes": [found.sizes.0, found.sizes.1],
        "first": found.first,
        "differences": ranges,
        "complete": !found.more,
    })
}
