//! The names of libnbd's tools: called by one of them, the program takes its options and
//! prints in its form. Whatever it does is done by a command of its own.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use clap::{CommandFactory, Parser};

use crate::{copy, dump, info, range};

/// The release of libnbd whose tools these are in every form that is printed. Options of later
/// ones are taken too: a script that goes by the version then asks for none of them.
const LIKE: &str = "1.14.2";

/// What the program was called, in what it says.
static PROGRAM: OnceLock<Tool> = OnceLock::new();

/// A name the program can be called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Nbdinfo,
    Nbdcopy,
    Nbddump,
    Nbddiscard,
    Nbdzero,
}

/// Show what an NBD server offers: size, abilities, extents, exports.
#[derive(Debug, Parser)]
#[command(name = "nbdinfo")]
pub(crate) struct Nbdinfo {
    #[command(flatten)]
    pub(crate) args: info::Args,
    #[command(flatten)]
    about: About,
}

/// Copy between NBD servers, files and streams.
#[derive(Debug, Parser)]
#[command(name = "nbdcopy")]
pub(crate) struct Nbdcopy {
    #[command(flatten)]
    pub(crate) args: copy::Args,
    #[command(flatten)]
    about: About,
}

/// Print the content of an NBD export in hexadecimal.
#[derive(Debug, Parser)]
#[command(name = "nbddump")]
pub(crate) struct Nbddump {
    #[command(flatten)]
    pub(crate) args: dump::Args,
    #[command(flatten)]
    about: About,
}

/// Tell an NBD server that nobody needs what a range of an export holds.
#[derive(Debug, Parser)]
#[command(name = "nbddiscard")]
pub(crate) struct Nbddiscard {
    #[command(flatten)]
    pub(crate) args: range::TrimArgs,
    #[command(flatten)]
    about: About,
}

/// Make a range of an NBD export zeroes.
#[derive(Debug, Parser)]
#[command(name = "nbdzero")]
pub(crate) struct Nbdzero {
    #[command(flatten)]
    pub(crate) args: range::ZeroArgs,
    #[command(flatten)]
    about: About,
}

/// What each of the tools tells of itself. These are answered before the others are looked at.
#[derive(Debug, clap::Args)]
struct About {
    /// Print the version
    #[arg(long, short = 'V')]
    version: bool,
    /// Print the long options, for completion in a shell
    #[arg(long, hide = true)]
    long_options: bool,
    /// Print the short options, for completion in a shell
    #[arg(long, hide = true)]
    short_options: bool,
}

impl Tool {
    /// The tool that the program was called as, if it is one of them.
    pub(crate) fn called(name: &Path) -> Option<Self> {
        let tool = match name.file_name()?.to_str()? {
            "nbdinfo" => Self::Nbdinfo,
            "nbdcopy" => Self::Nbdcopy,
            "nbddump" => Self::Nbddump,
            "nbddiscard" => Self::Nbddiscard,
            "nbdzero" => Self::Nbdzero,
            _ => return None,
        };
        // The first call decides.
        let _ = PROGRAM.set(tool);
        Some(tool)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Nbdinfo => "nbdinfo",
            Self::Nbdcopy => "nbdcopy",
            Self::Nbddump => "nbddump",
            Self::Nbddiscard => "nbddiscard",
            Self::Nbdzero => "nbdzero",
        }
    }

    /// What is printed for an option that asks of the tool itself.
    pub(crate) fn about(self, words: &[OsString]) -> Option<String> {
        let options = words.iter().skip(1).take_while(|word| *word != "--");
        options.filter_map(|word| word.to_str()).find_map(|word| match word {
            "--version" | "-V" => Some(format!("{} {LIKE}\nlibnbd {LIKE}\n", self.name())),
            "--long-options" => Some(self.options(true)),
            "--short-options" => Some(self.options(false)),
            _ => None,
        })
    }

    /// What it takes.
    fn command(self) -> clap::Command {
        match self {
            Self::Nbdinfo => Nbdinfo::command(),
            Self::Nbdcopy => Nbdcopy::command(),
            Self::Nbddump => Nbddump::command(),
            Self::Nbddiscard => Nbddiscard::command(),
            Self::Nbdzero => Nbdzero::command(),
        }
    }

    fn options(self, long: bool) -> String {
        let mut command = self.command();
        command.build();
        let mut options = Vec::new();
        for option in command.get_arguments().filter(|option| !option.is_positional()) {
            if long {
                let names = option.get_long_and_visible_aliases().unwrap_or_default();
                options.extend(names.iter().map(|name| format!("--{name}\n")));
            } else {
                let names = option.get_short_and_visible_aliases().unwrap_or_default();
                options.extend(names.iter().map(|name| format!("-{name}\n")));
            }
        }
        options.concat()
    }
}

/// Each tool's command line, by its name.
pub(crate) fn commands() -> [(&'static str, clap::Command); 5] {
    use Tool::{Nbdcopy, Nbddiscard, Nbddump, Nbdinfo, Nbdzero};
    [Nbdinfo, Nbdcopy, Nbddump, Nbddiscard, Nbdzero].map(|tool| (tool.name(), tool.command()))
}

/// The name in front of what the program says.
pub(crate) fn program() -> &'static str {
    PROGRAM.get().map_or("nbd", |tool| tool.name())
}
