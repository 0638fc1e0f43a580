//! What the program tells of itself to others: completions for shells, and manual pages. Both
//! are made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use crate::compat;
use crate::failure::{Context, Result};
use crate::output::print;

/// Print what completes commands and options in a shell.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the manual pages.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The directory they go to, such as /usr/share/man/man1
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut program, "nbd", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// A page for the program, for each of its commands, and for each name it answers to.
pub(crate) fn manual(args: &ManArgs, mut program: Command) -> Result<()> {
    program.build();
    page(&args.directory, "nbd", &program)?;
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    for command in commands.filter(|command| command.get_name() != "help") {
        page(&args.directory, &format!("nbd-{}", command.get_name()), command)?;
    }
    for (name, command) in compat::commands() {
        page(&args.directory, name, &command)?;
    }
    Ok(())
}

fn page(directory: &Path, name: &str, command: &Command) -> Result<()> {
    let mut text = Vec::new();
    let shown = name.replacen("nbd-", "nbd ", 1);
    let command = command.clone().name(name.to_owned()).bin_name(shown);
    let path = directory.join(format!("{name}.1"));
    clap_mangen::Man::new(command).render(&mut text).context(path.display())?;
    fs::write(&path, text).context(path.display())
}
