//! `nbd bench --verify`: writes blocks that say what they are, and compares every block that
//! is read with the last one that the server has acknowledged.
//!
//! | file | what |
//! |---|---|
//! | `mod` | all connections together |
//! | `load` | one connection: what is sent, and what becomes of it |
//! | `blocks` | what each block is to hold |
//! | `stamp` | what a block says of itself |
//! | `count` | what is counted and told |

mod blocks;
mod count;
mod load;
mod stamp;

use std::hash::{BuildHasher, RandomState};

use nbd_client_blocking::Client;

use super::report::{Tally, report_verified};
use super::{Args, spread};
use crate::failure::{Failure, Result};
use crate::output::print;
use crate::target::Server;
use blocks::Blocks;
use count::Mismatches;
pub(super) use count::{Counts, STALL};
use load::Load;
pub(super) use stamp::MIN_SIZE;

/// Runs the load over these connections and tells what came of it.
///
/// # Errors
///
/// When a block does not hold what it should, cannot be read at the end, or a connection
/// fails.
pub(super) fn run(args: &Args, server: &Server, clients: Vec<Client>) -> Result<()> {
    // Another one each time.
    let run = RandomState::new().hash_one(std::process::id());
    let connections = clients.len() as u64;
    let mismatches = Mismatches::default();
    let results = spread(server, clients, |client, index| {
        let blocks = Blocks::new(run, args.size, client.size(), index, connections);
        let count = args.share(index, connections);
        Load::new(args, blocks, &mismatches, index).run(client, count)
    })?;
    let mut total = Tally::new();
    let mut counts = Counts::default();
    for (tally, counted) in &results {
        total.add(tally);
        counts.add(counted);
    }
    print(&report_verified(args, &total, &counts))?;
    let refuse = |why: String| Err(Failure::new(format!("{}: {why}", server.name)));
    match counts {
        Counts { mismatches: 1.., .. } => refuse(format!(
            "{} times a block did not hold what was written to it",
            counts.mismatches
        )),
        Counts { unread: 1.., .. } => {
            refuse(format!("{} blocks could not be read at the end", counts.unread))
        }
        _ => Ok(()),
    }
}
