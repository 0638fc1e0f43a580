//! The project's own tasks, started with `cargo xtask COMMAND`.
//!
//! Each command is a file of its own and one line of [`COMMANDS`].

mod api_map;
mod args;
mod bare;
mod bench;
mod capi;
mod coverage;
mod dist;
#[cfg(test)]
mod front_pages;
mod fuzz;
mod packages;
mod platforms;
mod public_api;
mod release;
mod rustdoc_json;
mod silence;
mod sim;
mod steps;
mod survive;
mod test;
mod vm;
mod workspace;

use std::env;
use std::process::ExitCode;

/// A task's result; the error is one clear message for the person at the terminal.
type Outcome<T = ()> = Result<T, String>;

/// One task.
struct Command {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: [Command; 13] = [
    Command {
        name: "test",
        about: "install what is missing (unless [--no-install]), then check everything: format, lints, tests, documentation",
        run: test::run,
    },
    Command {
        name: "ci",
        about: "the same for machines: no colours, no questions",
        run: test::run_ci,
    },
    Command {
        name: "api-map",
        about: "render the map of libnbd's calls from docs/libnbd-map.toml and doc aliases, or prove it [--check]",
        run: api_map::run,
    },
    Command {
        name: "public-api",
        about: "list what each crate shows to its users, or compare it with the lists [--check]",
        run: public_api::run,
    },
    Command {
        name: "bench",
        about: "measure beside other programs and write docs/performance.md: all [--rounds N] [--only PART,...]; one part, printed: PART [--rounds N]; the kernel's device: attach [--rounds N]; the page anew: page [--check]; instructions of the core: core [--check]",
        run: bench::run,
    },
    Command {
        name: "capi",
        about: "build the C library: --prefix DIR [--level 1.14.2], or prove its interface: --check",
        run: capi::run,
    },
    Command {
        name: "coverage",
        about: "report which lines of nbd-proto the tests and the fuzzer's seeds reach",
        run: coverage::run,
    },
    Command {
        name: "dist",
        about: "make what a system gets: a tree and Debian packages [--out DIRECTORY]",
        run: dist::run,
    },
    Command {
        name: "fuzz",
        about: "feed a fuzz target with arbitrary bytes: TARGET [--seconds N]",
        run: fuzz::run,
    },
    Command {
        name: "release",
        about: "check packages and licences, and since a revision what has changed for users [--baseline-rev REV]",
        run: release::run,
    },
    Command {
        name: "sim",
        about: "run simulated sessions on every processor [--seeds N] [--first K]",
        run: sim::run,
    },
    Command {
        name: "survive",
        about: "load servers that are killed and started again every second [--seconds N]",
        run: survive::run,
    },
    Command {
        name: "vm",
        about: "run a script as root in a small virtual machine [--seconds N] [--] SCRIPT [FILE...]",
        run: vm::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let command = args.split_first().and_then(|(name, rest)| {
        COMMANDS.iter().find(|command| command.name == name).map(|command| (command, rest))
    });
    let Some((command, rest)) = command else {
        eprintln!("usage: cargo xtask COMMAND\n");
        for command in &COMMANDS {
            eprintln!("  {:<12}{}", command.name, command.about);
        }
        return ExitCode::from(2);
    };
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {}: {message}", command.name);
            ExitCode::FAILURE
        }
    }
}
