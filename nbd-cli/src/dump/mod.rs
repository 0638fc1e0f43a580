//! `nbd dump`: what an export or file holds, in hexadecimal.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `hex` | lines of sixteen bytes |

mod hex;

use std::ffi::OsString;
use std::io::{self, BufWriter};

use crate::failure::{Failure, Result};
use crate::output::in_color;
use crate::target::Target;
use crate::{Patience, copy, size};

use hex::HexDump;

/// Print the content of an export or file in hexadecimal. Equal lines are left out, and `*`
/// stands for them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print no more than so many bytes
    #[arg(long, short = 'n', visible_alias = "limit", value_name = "SIZE",
          value_parser = size::parse)]
    length: Option<u64>,
    /// Begin at so many bytes from the start
    #[arg(long, short, visible_alias = "skip", value_name = "SIZE", default_value = "0",
          value_parser = size::parse)]
    offset: u64,
    /// Print in colour, also where standard output is no terminal
    #[arg(long, aliases = ["colors", "colour", "colours"], overrides_with = "no_color")]
    color: bool,
    /// Print without colour
    #[arg(long, aliases = ["no-colors", "no-colour", "no-colours"], overrides_with = "color")]
    no_color: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, the command of a server in brackets, or a file
    #[arg(value_name = "SOURCE")]
    source: OsString,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let source = Target::parse(&args.source)?.waiting(args.patience.wait());
    let color = in_color(args.color, args.no_color);
    let wanted = |size| {
        if args.offset > size {
            return Err(Failure::new(format!("the offset is beyond the {size} bytes there are")));
        }
        let end = args.length.map_or(size, |length| args.offset.saturating_add(length).min(size));
        Ok(args.offset..end)
    };
    copy::read(&source, wanted, args.patience.limit(), |range| {
        let stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Box::new(HexDump::new(stdout, range, color))
    })
}
