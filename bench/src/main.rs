//! One load through the client that is named first:
//!
//! ```text
//! nbd-bench blocking|mio|tokio|tokio-threads|smol|unread
//!           --rw read|write --pattern rand --size 4k --depth N --count N URI
//! ```
//!
//! All keep as many requests in flight, of one length, at the same random places, with a
//! buffer for each that is used over and over; connecting is not measured. Prints one JSON
//! object with `ops_per_s` and `mib_per_s`, like the programs it is compared with.
//!
//! `nbd-bench idle --count N URI` keeps so many connections until its standard input ends.

mod idle;
mod load;
mod loops;
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
    if client == "idle" {
        return idle::hold(&load);
    }
    let took = match client.as_str() {
        "blocking" => loops::blocking(&load)?,
        "mio" => loops::mio(&load)?,
        "tokio" => tasks::tokio(&load, &mut tokio::runtime::Builder::new_current_thread())?,
        "tokio-threads" => tasks::tokio(&load, &mut tokio::runtime::Builder::new_multi_thread())?,
        "smol" => tasks::smol(&load)?,
        "unread" => unread::unread(&load)?,
        other => return Err(format!("no client is called {other}").into()),
    };
    let per_second = load.count as f64 / took.as_secs_f64();
    let mib = per_second * load.length as f64 / f64::from(1 << 20);
    println!(r#"{{"ops_per_s": {per_second:.1}, "mib_per_s": {mib:.2}}}"#);
    Ok(())
}
