//! `nbd checksum`, and checksums of what is copied.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `digest` | the checksums |

mod digest;

use std::ffi::OsString;

use nbd_client_blocking::session::replay::Reconnect;
use serde_json::json;

use crate::failure::Result;
use crate::output::Form;
use crate::target::Target;
use crate::{Patience, copy, size};

pub(crate) use digest::{Digest, Kind};

const KEYS: &str = "With --json: checksum in hexadecimal, kind, source, and length, the bytes that were summed up.";

/// Print a checksum of everything an export or file holds.
#[derive(Debug, clap::Args)]
#[command(after_help = KEYS)]
pub(crate) struct Args {
    /// sha256, blake3, or blkhash, which is quick where there are holes
    #[arg(long, value_name = "KIND", default_value = "sha256", value_parser = Kind::parse)]
    kind: Kind,
    /// Begin at so many bytes from the start
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    offset: Option<u64>,
    /// So many bytes [default: to the end]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    length: Option<u64>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, the command of a server in brackets, a file, or - for standard input
    #[arg(value_name = "SOURCE")]
    source: OsString,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let source = Target::parse(&args.source)?.waiting(args.patience.wait());
    let source = source.reconnecting(Some(Reconnect::new()));
    let range = (args.offset, args.length);
    let (sum, length) = copy::checksum(&source, range, args.kind, args.patience.limit())?;
    let name = args.source.display();
    args.form.print(
        // As sha256sum prints it, so that it can check it.
        || format!("{sum}  {name}\n"),
        || {
            let kind = args.kind.to_string();
            json!({"checksum": sum, "kind": kind, "source": name.to_string(), "length": length})
        },
    )
}
