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
    /// Longest time to connect and negotiate, and longest silence of a server that owes an
    /// answer to a read or write; 0 for no limit
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(..=YEAR))]
    timeout: u64,
}

impl Patience {
    /// The limit, if there is one.
    fn limit(self) -> Option<Duration> {
        Some(Duration::from_secs(self.timeout)).filter(|limit| !limit.is_zero())
    }
}

/// The exit status when the command line makes no sense.
const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    let words = target::join_brackets(std::env::args_os());
    let program = match Program::try_parse_from(words) {
        Ok(program) => program,
        Err(error) => return explain(&error),
    };
    let result = match program.command {
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
            if !failure.is_silent() {
                output::complain(&format!("nbd: {failure}\n"));
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn explain(error: &clap::Error) -> ExitCode {
    let text = target::show_brackets(&error.render().to_string());
    if error.use_stderr() {
        output::complain(&text);
        return ExitCode::from(WRONG_USE);
    }
    match output::print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.status()),
    }
}
