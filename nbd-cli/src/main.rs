//! `nbd`: looks at, copies, measures and serves network block devices.

mod about;
mod attach;
mod bench;
mod checksum;
mod compare;
mod compat;
mod connections;
mod copy;
mod demo;
mod dump;
mod extents;
mod failure;
mod info;
mod interrupt;
mod list;
mod map;
mod mount;
mod output;
mod range;
mod serve;
mod size;
mod target;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use compat::{Nbdcopy, Nbddiscard, Nbddump, Nbdinfo, Nbdzero, Tool};

const EXAMPLES: &str = "Examples:
  nbd info nbd://localhost
  nbd copy disk.img nbd+unix:///?socket=/run/disk.sock
  nbd serve disk.img
  nbd copy [ nbdkit memory 1G ] null:

A server is named by a URI, or by the command that starts it, in brackets.
Exit status: 0 done, 1 failed, 2 wrong use; 130 after ^C. Questions\n\
(nbd info --can and the like) end with 0 for yes, 2 for no and 1 for everything else.";

/// Network Block Device tool.
#[derive(Debug, Parser)]
#[command(name = "nbd", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a server offers: size, abilities, extents, exports
    Info(info::Args),
    /// List the exports of a server
    List(list::Args),
    /// Show what is where in an export
    Map(map::Args),
    /// Copy between servers, files and streams
    Copy(Box<copy::Args>),
    /// Print the content of an export or file in hexadecimal
    Dump(dump::Args),
    /// Compare two exports or files
    Compare(compare::Args),
    /// Print a checksum of an export or file
    Checksum(checksum::Args),
    /// Write a range of an export to standard output
    Read(range::ReadArgs),
    /// Write a file or standard input to an export
    Write(range::WriteArgs),
    /// Make a range of an export zeroes
    Zero(range::ZeroArgs),
    /// Tell a server that nobody needs a range of an export
    #[command(visible_alias = "discard")]
    Trim(range::TrimArgs),
    /// Have a server get a range of an export ready for reading
    Cache(range::CacheArgs),
    /// Have a server make durable what was written
    Flush(range::FlushArgs),
    /// Measure a server
    Bench(bench::Args),
    /// Serve memory or a file
    Serve(Box<serve::Args>),
    /// Make an export a block device of the kernel's
    Attach(Box<attach::Args>),
    /// Make an export a file in a directory, by FUSE
    Mount(mount::Args),
    /// End such devices
    Detach(attach::DetachArgs),
    /// Show such devices
    Attached(attach::AttachedArgs),
    /// Show it all at work, with nothing installed
    Demo,
    /// Print what completes commands and options in a shell
    Completions(about::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(about::ManArgs),
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
    /// Wait so long for a server that is not there yet
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(..=YEAR))]
    wait: u64,
}

impl Patience {
    /// The limit, if there is one.
    fn limit(self) -> Option<Duration> {
        Some(Duration::from_secs(self.timeout)).filter(|limit| !limit.is_zero())
    }

    /// How long to wait for a server that is not there yet.
    const fn wait(self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

/// The exit status when the command line makes no sense.
const WRONG_USE: u8 = 2;
/// The same where 2 is an answer, and by the names of libnbd's tools, which fail with 1 only.
const WRONG_QUESTION: u8 = 1;

fn main() -> ExitCode {
    let words = target::join_brackets(std::env::args_os());
    let tool = words.first().and_then(|name| Tool::called(Path::new(name)));
    if let Some(text) = tool.and_then(|tool| tool.about(&words)) {
        return end(output::print(&text));
    }
    let wrong = match tool {
        Some(_) => WRONG_QUESTION,
        None if info::is_question(&words) => WRONG_QUESTION,
        None => WRONG_USE,
    };
    let command = match tool {
        None => Program::try_parse_from(words).map(|program| program.command),
        Some(Tool::Nbdinfo) => {
            Nbdinfo::try_parse_from(words).map(|nbdinfo| Command::Info(nbdinfo.args.with_content()))
        }
        Some(Tool::Nbdcopy) => Nbdcopy::try_parse_from(words)
            .map(|nbdcopy| Command::Copy(Box::new(nbdcopy.args.with_short_zeroes()))),
        Some(Tool::Nbddiscard) => {
            Nbddiscard::try_parse_from(words).map(|discard| Command::Trim(discard.args))
        }
        Some(Tool::Nbdzero) => Nbdzero::try_parse_from(words).map(|zero| Command::Zero(zero.args)),
        Some(Tool::Nbddump) => {
            Nbddump::try_parse_from(words).map(|nbddump| Command::Dump(nbddump.args))
        }
    };
    match command {
        Ok(command) => start(command),
        Err(error) => explain(&error, wrong),
    }
}

/// Runs a command, and has signals end it. Those that stay have their own ways to end.
fn start(command: Command) -> ExitCode {
    use Command::{Attach, Mount, Serve};
    match command {
        Serve(_) | Attach(_) | Mount(_) => run(command),
        command => interrupt::run(|| run(command)),
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Info(args) => end(info::run(&args)),
        Command::List(args) => end(list::run(&args)),
        Command::Map(args) => end(map::run(&args)),
        Command::Read(args) => end(range::read(&args)),
        Command::Write(args) => end(range::write(&args)),
        Command::Zero(args) => end(range::zero(&args)),
        Command::Trim(args) => end(range::trim(&args)),
        Command::Cache(args) => end(range::cache(&args)),
        Command::Flush(args) => end(range::flush(&args)),
        Command::Copy(args) => end(copy::run(&args)),
        Command::Dump(args) => end(dump::run(&args)),
        Command::Compare(args) => compare::run(&args),
        Command::Checksum(args) => end(checksum::run(&args)),
        Command::Bench(args) => end(bench::run(&args)),
        // It may exit as a command does that it ran.
        Command::Serve(args) => serve::run(*args).unwrap_or_else(|failure| end(Err(failure))),
        Command::Attach(args) => end(attach::run(&args)),
        Command::Mount(args) => end(mount::run(&args)),
        Command::Detach(args) => end(attach::detach(&args)),
        Command::Attached(args) => end(attach::attached(&args)),
        Command::Demo => end(demo::run()),
        Command::Completions(args) => end(about::completions(&args, Program::command())),
        Command::Man(args) => end(about::manual(&args, Program::command())),
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

/// Prints the help that was asked for; or what is wrong with the command line, and ends with
/// the status `wrong`.
fn explain(error: &clap::Error, wrong: u8) -> ExitCode {
    let text = target::show_brackets(&error.render().to_string());
    if error.use_stderr() {
        output::complain(&text);
        return ExitCode::from(wrong);
    }
    end(output::print(&text))
}
