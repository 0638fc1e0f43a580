//! One load through the client that is named first:
//!
//! ```text
//! nbd-bench blocking|mio|tokio|tokio-threads|smol|by-hand|unread
//!           --rw read|write --pattern rand|check|count --size 4k --depth N --count N
//!           [--busy-poll-us N] URI
//! ```
//!
//! All keep as many requests in flight, of one length, at the same random offsets, with a
//! buffer for each that is used over and over; connecting is not measured. Prints one JSON
//! object: see `measured`. With `--pattern check` each block is written or read once, so that
//! what is written is known, and what is read is compared; with `count` the offsets are random, and
//! what requests took is not put in order, which would count among the instructions.
//!
//! `nbd-bench connect --count N URI` makes so many connections one after the other,
//! `connect-at-once` all at the same time, and keeps them until its standard input ends.

mod by_hand;
mod connect;
mod load;
mod loops;
mod measured;
mod tasks;
mod unread;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use load::Load;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome<()> {
    let (client, options) = words.split_first().ok_or("which client?")?;
    let load = Load::parse(options)?;
    let measured = match client.as_str() {
        "connect" => return connect::one_by_one(&load),
        "connect-at-once" => return connect::at_once(&load),
        "blocking" => loops::blocking(&load)?,
        "mio" => loops::mio(&load)?,
        "tokio" => tasks::tokio(&load, &mut tokio::runtime::Builder::new_current_thread())?,
        "tokio-threads" => tasks::tokio(&load, &mut tokio::runtime::Builder::new_multi_thread())?,
        "smol" => tasks::smol(&load)?,
        "by-hand" => by_hand::by_hand(&load)?,
        "unread" => unread::unread(&load)?,
        other => return Err(format!("no client is called {other}").into()),
    };
    println!("{measured}");
    Ok(())
}
