//! What the documents say of faults is what the tables of hostile servers and of rude
//! clients show.

mod clients;
mod elsewhere;

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use nbd_proto::{CommandError, Error, PeerMisbehaved};
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::{Observed, all};

const INTRODUCTION: &str = "\
# What becomes of a server's faults

By default a client bears a fault as long as it is certain where the next message
begins: what the fault spoils fails, and the connection goes on. Where that is not
certain, or where the server contradicts what was agreed on, the connection ends and
every command in flight fails with it. With `ClientConfig::strict_peer` each breach of
the protocol ends the connection, as the protocol text demands.

The cases are those of the table in `nbd-sim/src/hostile`: scripted servers, each
played in memory and, through every client, over sockets. A test compares this page
with what they show.
";

/// What a row stands for.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// One command is lost.
    Spoilt,
    /// Nothing is lost unless the client is strict.
    Borne,
    /// The connection is lost, or never made.
    Fatal,
    /// The server said no.
    Refused,
    /// All is well, or only a deadline ends it.
    Sound,
}

impl Part {
    const fn heading(&self) -> &'static str {
        match self {
            Self::Spoilt => {
                "## One command fails with `EPROTO`; strict: the connection ends\n\n\
                 | The server sends | Cases |\n|---|---|\n"
            }
            Self::Borne => {
                "## Nothing is lost; strict: the connection ends\n\n\
                 | The server sends | Cases |\n|---|---|\n"
            }
            Self::Fatal => {
                "## The connection ends, strict or not\n\n\
                 | The client says | Cases |\n|---|---|\n"
            }
            Self::Refused => {
                "## The server refuses, which is no fault\n\n\
                 | The client says | Cases |\n|---|---|\n"
            }
            Self::Sound => {
                "## No fault, strict or not\n\n\
                 Commands succeed, fail as the server says, or wait for a deadline:\n"
            }
        }
    }
}

fn classify(usual: &Observed, strict: &Observed) -> (Part, String) {
    let fault = usual.answers.iter().find_map(|answer| match answer {
        Some(Err(CommandError::Fault(fault))) => Some(*fault),
        _ => None,
    });
    match (&usual.error, &strict.error, fault) {
        (Some(error @ Error::Refused(_)), ..) => (Part::Refused, error.to_string()),
        (Some(error), Some(same), _) => {
            assert_eq!(error, same);
            (Part::Fatal, error.to_string())
        }
        (None, Some(error), Some(fault)) => {
            assert_eq!(*error, PeerMisbehaved::Strict(fault).into());
            (Part::Spoilt, fault.to_string())
        }
        (None, Some(Error::Misbehaved(what)), None) => (Part::Borne, what.to_string()),
        (None, None, None) => (Part::Sound, String::new()),
        other => panic!("strictness changes too much: {other:?}"),
    }
}

fn page() -> String {
    let mut rows: BTreeMap<(Part, String), Vec<&str>> = BTreeMap::new();
    for mut case in all() {
        let usual = case.play(Delivery::Whole, None);
        case.config = case.config.strict_peer(true);
        let strict = case.play(Delivery::Whole, None);
        rows.entry(classify(&usual, &strict)).or_default().push(case.id);
    }
    let mut page = INTRODUCTION.to_owned();
    let mut part = None;
    for ((of, text), cases) in &rows {
        if part.replace(of) != Some(of) {
            page = page + "\n" + of.heading();
        }
        let cases = cases.join(", ");
        page += &match of {
            Part::Sound => format!("{cases}.\n"),
            _ => format!("| {text} | {cases} |\n"),
        };
    }
    page + &elsewhere::page() + &clients::page()
}

/// `NBD_UPDATE_DOCS` writes the page.
#[test]
fn the_page_says_what_the_table_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    let page = page();
    if env::var_os("NBD_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{} is old: set NBD_UPDATE_DOCS", path.display());
}
