//! `nbd info`: what a server offers.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `describe` | what is known of one export |
//! | `text` | for people |
//! | `json` | for programs, with nbdinfo's keys |
//! | `tls` | what was agreed on for TLS, and who the server is |
//! | `map` | extents |

mod describe;
mod json;
mod map;
mod text;
mod tls;

use std::ffi::OsString;
use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;

use crate::Patience;
use crate::failure::{Failure, Result};
use crate::output::print;
use crate::target::{Server, Target};

use describe::{Described, Session};

/// Show what a server offers: size, abilities, extents, exports.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the size in bytes and nothing else
    #[arg(long, conflicts_with_all = ["list", "map"])]
    size: bool,
    /// Describe every export the server lists
    #[arg(long, short = 'L', conflicts_with = "map")]
    list: bool,
    /// Print the extents of a meta context
    #[arg(long, value_name = "CONTEXT", num_args = 0..=1, require_equals = true,
          default_missing_value = "base:allocation")]
    map: Option<String>,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets: [ nbdkit memory 1M ]
    #[arg(value_name = "URI")]
    server: OsString,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?;
    let timeout = args.patience.limit();
    if args.size {
        let client = server.connect(ClientConfig::new(), timeout)?;
        let size = client.size();
        // It is known, however the goodbye goes.
        let _ = client.disconnect();
        return print(&format!("{size}\n"));
    }
    if let Some(context) = &args.map {
        return print(&map::run(&server, context, args.json, timeout)?);
    }
    let (session, exports) = describe(args, &server, timeout)?;
    print(&render(args, &session, &exports))?;
    // What is known has been told; that it is not all is a failure.
    match exports.iter().find_map(Described::unknown) {
        Some(reason) => Err(Failure::new(format!("not everything is known: {reason}"))),
        None => Ok(()),
    }
}

fn describe(
    args: &Args,
    server: &Server,
    timeout: Option<Duration>,
) -> Result<(Session, Vec<Described>)> {
    if args.list {
        return describe::all(server, timeout);
    }
    let (session, export) = describe::chosen(server, timeout)?;
    Ok((session, vec![export]))
}

fn render(args: &Args, session: &Session, exports: &[Described]) -> String {
    if args.json { json::render(session, exports) } else { text::render(session, exports) }
}
