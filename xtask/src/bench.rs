//! `cargo xtask bench`: this project's clients, servers and programs beside others.
//!
//! All contenders of a load take turns, each as often before another as behind it, so that a
//! machine that slows down slows all of them down. Before that each has moved data that is known;
//! who has moved it wrongly, or fails, has no figures.

mod all;
mod attach;
mod contender;
pub(crate) mod core;
mod costs;
mod data;
mod load;
mod losses;
mod machine;
mod metric;
mod page;
mod parts;
mod pictures;
mod rounds;
mod server;
mod stats;
mod table;
mod whole_program;

use crate::Outcome;

const USAGE: &str = "usage: cargo xtask bench all [--rounds N] [--only PART[,PART...]], \
                     bench PART [--rounds N], bench attach [--rounds N], bench page [--check], or \
                     bench core [--check]";

/// Measures, or makes the page of what was measured.
pub(crate) fn run(args: &[String]) -> Outcome {
    match args.split_first() {
        Some((word, rest)) if word == "core" => core::run(rest),
        Some((word, rest)) if word == "attach" => attach::run(rest),
        Some((word, rest)) if word == "page" => page::run(rest),
        Some((word, rest)) if word == "all" => all::run(rest),
        Some((part, rest)) => all::run_one(part, rest),
        None => Err(format!("{USAGE}\nparts: {}", all::names().join(" "))),
    }
}
