//! `nbd`: looks at, copies, measures and serves network block devices.

mod bench;
mod compat;
mod copy;
mod demo;
mod dump;
mod extents;
mod failure;
mod info;
mod output;
mod serve;
mod size;
mod target;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use compat::{Nbdcopy, Nbddump, Nbdinfo, Tool};

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
    /// Print the content of an export or file in hexadecimal
    Dump(dump::Args),
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
    let tool = words.first().and_then(|name| Tool::called(Path::new(name)));
    if let Some(text) = tool.and_then(|tool| tool.about(&words)) {
        return end(output::print(&text));
    }
    let command = match tool {
        None => Program::try_parse_from(words).map(|program| program.command),
        Some(Tool::Nbdinfo) => {
            Nbdinfo::try_parse_from(words).map(|nbdinfo| Command::Info(nbdinfo.args.with_content()))
        }
        Some(Tool::Nbdcopy) => Nbdcopy::try_parse_from(words)
            .map(|nbdcopy| Command::Copy(nbdcopy.args.with_short_zeroes())),
        Some(Tool::Nbddump) => {
            Nbddump::try_parse_from(words).map(|nbddump| Command::Dump(nbddump.args))
        }
    };
    match command {
        Ok(command) => run(command),
        Err(error) => explain(&error),
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Info(args) => end(info::run(&args)),
        Command::Copy(args) => end(copy::run(&args)),
        Command::Dump(args) => end(dump::run(&args)),
        Command::Bench(args) => end(bench::run(&args)),
        // It may exit as a command does that it ran.
        Command::Serve(args) => serve::run(*args).unwrap_or_else(|failure| end(Err(failure))),
        Command::Demo => end(demo::run()),
    }
}

/// Tells how it went.
fn end(result: failure::Result<()>) -> ExitCode {
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    if !failure.is_silent() {
        output::complain(&format!("{}: {failure}\n", compat::program()));
    }
    ExitCode::from(failure.status())
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn explain(error: &clap::Error) -> ExitCode {
    let text = target::show_brackets(&error.render().to_string());
    if error.use_stderr() {
        output::complain(&text);
        return ExitCode::from(WRONG_USE);
    }
    end(output::print(&text))
}
