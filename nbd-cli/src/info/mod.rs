//! `nbd info`: what a server offers.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `describe` | what is known of one export |
//! | `ability` | questions with yes or no |
//! | `content` | what an export holds, by file(1) |
//! | `text` | for people |
//! | `json` | for programs, with nbdinfo's keys |
//! | `tls` | what was agreed on for TLS, and who the server is |
//! | `map` | extents |

mod ability;
mod content;
mod describe;
mod json;
mod map;
mod text;
mod tls;

use std::ffi::OsString;
use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;

use crate::Patience;
use crate::failure::{Context, Failure, Result};
use crate::output::print;
use crate::target::{Server, Target};

use ability::Ability;
pub(crate) use describe::Described;
use describe::Session;

/// The exit status of a question whose answer is no.
const NO: u8 = 2;

const EXAMPLES: &str = "Examples:
  nbd info localhost
  nbd info /run/disk.sock
  nbd info --list nbd://host
  nbd info --can trim nbd://host/export && echo yes
  nbd info --map --totals [ nbdkit file disk.img ]";

/// Show what a server offers: size, abilities, extents, exports.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the size in bytes and nothing else
    #[arg(long, group = "mode")]
    size: bool,
    /// Describe every export the server lists
    #[arg(long, short = 'L', group = "mode")]
    list: bool,
    /// Print the extents of a meta context
    #[arg(long, value_name = "CONTEXT", num_args = 0..=1, require_equals = true,
          default_missing_value = "base:allocation", group = "mode")]
    map: Option<String>,
    /// With --map, print how much there is of each kind
    #[arg(long, alias = "total", requires = "map")]
    totals: bool,
    /// Print the URI that leads to the export
    #[arg(long, group = "mode")]
    uri: bool,
    /// Exit with status 0 if it can do that, 2 if not: --can trim, --is tls, --has
    /// structured-reply
    #[arg(long, visible_aliases = ["is", "has"], alias = "have", value_name = "ABILITY",
          group = "mode")]
    can: Option<String>,
    /// Exit with status 0 if it cannot do that, 2 if it can
    #[arg(long, visible_aliases = ["isnt", "hasnt"], value_name = "ABILITY", group = "mode",
          aliases = ["cant", "can-not", "isnot", "is-not", "hasnot", "has-not", "havent",
                     "havenot", "have-not"])]
    cannot: Option<String>,
    /// Ask file(1) what the export holds
    #[arg(long, overrides_with = "no_content")]
    content: bool,
    /// Read nothing of the export
    #[arg(long, overrides_with = "content")]
    no_content: bool,
    /// Print in colour, which is never done otherwise
    #[arg(long, aliases = ["colors", "colour", "colours"], hide = true)]
    color: bool,
    #[arg(long, aliases = ["no-colors", "no-colour", "no-colours"], hide = true)]
    no_color: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets: [ nbdkit memory 1M ]
    #[arg(value_name = "URI")]
    server: OsString,
}

impl Args {
    /// What the content is, is shown unless it is not wanted or there may be many exports.
    pub(crate) fn with_content(mut self) -> Self {
        self.content |= !self.no_content && !self.list;
        self
    }
}

/// Whether the words of a command line are a question, which the exit status answers.
pub(crate) fn is_question(words: &[OsString]) -> bool {
    if words.get(1).is_none_or(|command| command != "info") {
        return false;
    }
    let command = <Args as clap::Args>::augment_args(clap::Command::new("info"));
    let asks = |name: &str| {
        let options = command
            .get_arguments()
            .filter(|option| [Some("can"), Some("cannot")].contains(&option.get_long()));
        options.into_iter().any(|option| {
            option.get_long() == Some(name)
                || option.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        })
    };
    let options = words.iter().take_while(|word| *word != "--");
    options
        .filter_map(|word| word.to_str()?.strip_prefix("--"))
        .any(|word| asks(word.split_once('=').map_or(word, |(name, _)| name)))
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?.waiting(args.patience.wait());
    let timeout = args.patience.limit();
    if let Some(name) = &args.can {
        return answer(Ability::named(name)?, true, &server, timeout);
    }
    if let Some(name) = &args.cannot {
        return answer(Ability::named(name)?, false, &server, timeout);
    }
    if args.size || args.uri {
        let client = server.connect(ClientConfig::new(), timeout)?;
        let told = match args.size {
            true => client.size().to_string(),
            false => client.to_uri().context(&server.name)?.to_string(),
        };
        // It is known, however the goodbye goes.
        let _ = client.disconnect();
        return print(&format!("{told}\n"));
    }
    if let Some(context) = &args.map {
        return map::run(&server, context, args.json, args.totals, timeout);
    }
    let (session, exports) = if args.list {
        describe::all(&server, args.content, timeout)?
    } else {
        let (session, export) = describe::chosen(&server, args.content, timeout)?;
        (session, vec![export])
    };
    print(&render(args, &session, &exports))?;
    // What is known has been told; that it is not all is a failure.
    match exports.iter().find_map(Described::unknown) {
        Some(reason) => Err(Failure::new(format!("not everything is known: {reason}"))),
        None => Ok(()),
    }
}

/// Every export that a server lists.
pub(crate) fn describe_all(server: &Server, limit: Option<Duration>) -> Result<Vec<Described>> {
    describe::all(server, false, limit).map(|(_, exports)| exports)
}

/// Answers by the exit status.
fn answer(ability: Ability, wanted: bool, server: &Server, limit: Option<Duration>) -> Result<()> {
    let connected = server.connect(ability.config(), limit);
    let holds = match connected {
        Ok(client) => {
            let holds = ability.holds(&client);
            // It is known, however the goodbye goes.
            let _ = client.disconnect();
            holds
        }
        Err(_) if ability == Ability::Connect => false,
        Err(failure) => return Err(failure),
    };
    if holds == wanted { Ok(()) } else { Err(Failure::silent(NO)) }
}

fn render(args: &Args, session: &Session, exports: &[Described]) -> String {
    if args.json { json::render(session, exports) } else { text::render(session, exports) }
}
