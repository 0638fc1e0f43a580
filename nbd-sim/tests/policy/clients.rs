//! The part of the page about clients.

use std::collections::BTreeMap;

use nbd_sim::rude::{End, all};

const INTRODUCTION: &str = "
# What becomes of a client's faults

A server refuses what it cannot do, by name of the option or by number of the request,
as long as it is certain where the next message begins. Where that is not certain, it
hangs up, without answering what it was asked before. Nothing that one client does is
felt by another.

The cases are those of the table in `nbd-sim/src/rude`, played in memory and to
`nbd serve` over sockets.
";

/// What a row stands for.
fn row(end: &End) -> (u8, String) {
    match end {
        End::Haggles => (0, "an answer to each option, and waits for the next".to_owned()),
        End::Lives => (1, "a reply to each request, and waits for the next".to_owned()),
        End::Leaves => (2, "nothing more, and closes; nobody is blamed".to_owned()),
        End::Dies(error) => (3, error.to_string()),
    }
}

pub(crate) fn page() -> String {
    let mut rows: BTreeMap<(u8, String), Vec<&str>> = BTreeMap::new();
    for case in all() {
        rows.entry(row(&case.end)).or_default().push(case.id);
    }
    let mut page = INTRODUCTION.to_owned();
    let mut part = None;
    for ((of, text), cases) in &rows {
        let fatal = *of == 3;
        if part.replace(fatal) != Some(fatal) {
            let says = if fatal { "hangs up and says" } else { "sends" };
            page += &format!("\n| The server {says} | Cases |\n|---|---|\n");
        }
        page += &format!("| {text} | {} |\n", cases.join(", "));
    }
    page
}
