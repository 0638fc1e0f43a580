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

use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;

use crate::Patience;
use crate::failure::{Context, Failure, Result};
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
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "URI")]
    server: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?;
    let timeout = args.patience.duration();
    // All of the output or none of it: a failure half-way prints nothing.
    let output = if args.size {
        let client = server.connect(ClientConfig::new(), timeout)?;
        let size = client.size();
        client.disconnect().context(&server.name)?;
        format!("{size}\n")
    } else if let Some(context) = &args.map {
        map::run(&server, context, args.json, timeout)?
    } else {
        describe(args, &server, timeout)?
    };
    print(&output)
}

fn describe(args: &Args, server: &Server, timeout: Duration) -> Result<String> {
    let config = ClientConfig::new().full_info(true);
    let mut options = server.negotiate(config, timeout)?;
    if args.list && !describe::can_be_asked(&mut options) {
        return Err(Failure::new(format!(
            "{}: the server speaks an older protocol that cannot list exports",
            server.name
        )));
    }
    let (session, exports) =
        if args.list { describe::all(options) } else { describe::chosen(options) }
            .context(&server.name)?;
    Ok(render(args, &session, &exports))
}

fn render(args: &Args, session: &Session, exports: &[Described]) -> String {
    if args.json { json::render(session, exports) } else { text::render(session, exports) }
}
