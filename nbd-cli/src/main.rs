//! `nbd`: looks at, copies, measures and serves network block devices.

mod bench;
mod copy;
mod demo;
mod failure;
mod info;
mod output;
mod serve;
mod size;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Network Block Device tool.
#[derive(Debug, Parser)]
#[command(name = "nbd", version, about, disable_help_subcommand = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a server offers: size, abilities, extents, exports
    Info(info::Args),
    /// Copy between servers, files and streams
    Copy(copy::Args),
    /// Measure a server
    Bench(bench::Args),
    /// Serve memory or a file
    Serve(Box<serve::Args>),
    /// Show it all at work, with nothing installed
    Demo,
}

/// In seconds. Longer ones overflow clocks, and nobody waits for them.
const YEAR: u64 = 365 * 24 * 60 * 60;

/// What every command that connects has in common.
#[derive(Clone, Copy, Debug, Args)]
struct Patience {
    /// Longest time to connect and negotiate, and longest silence of a server afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(..=YEAR))]
    timeout: u64,
}

impl Patience {
    fn duration(self) -> Duration {
        // A socket takes 0 for "wait for ever", which is not what 0 seconds say.
        Duration::from_secs(self.timeout).max(Duration::from_millis(1))
    }
}

fn main() -> ExitCode {
    let result = match Program::parse().command {
        Command::Info(args) => info::run(&args),
        Command::Copy(args) => copy::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Serve(args) => match serve::run(*args) {
            // It may exit as a command does that it ran.
            Ok(status) => return status,
            Err(failure) => Err(failure),
        },
        Command::Demo => demo::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&format!("nbd: {failure}\n"));
            ExitCode::FAILURE
        }
    }
}
