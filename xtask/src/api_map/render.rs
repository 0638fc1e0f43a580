//! The map for people.

use std::fmt::Write;

use super::aliases::Aliases;
use super::table::Row;

const INTRODUCTION: &str = "\
Every call and constant of libnbd, and what does its job here. Names of calls are without
`nbd_`. A setter and its getter are often one of the options; what a handle may be in at a
time is often a type: `ConnectOptions` before connecting, `Options` while negotiating, `Client`
and `Pipeline` afterwards. An `aio_` call without an entry of its own under *Commands, many at
a time* is the sans-IO core's form of the same thing, which every adapter drives.

Errors are values: each has a message, `errno()`, and a type that says who erred. A peer that
is gone is `ENOTCONN` to every command that was under way, and to every later one (libnbd:
`EINVAL`); one that broke the protocol is `EPROTO` to all of them (libnbd: to the call that
finds it; `ENOTCONN` to the others).
";

/// Markdown with the tests, to be read beside the source.
pub(super) fn for_readers(rows: &[Row], aliases: &Aliases) -> String {
    let mut text = format!(
        "<!-- Rendered from libnbd-map.toml by `cargo xtask api-map`. -->\n\n# Coming from libnbd\n\n\
         {INTRODUCTION}\nEach row names the tests that show it against a real server.\n"
    );
    table(rows, aliases, &mut text, |path| format!("`{}`", short(path)), true);
    text
}

/// Markdown whose items are links that rustdoc resolves.
pub(super) fn for_rustdoc(rows: &[Row], aliases: &Aliases) -> String {
    let mut text = INTRODUCTION.to_owned();
    // The page is in the documentation of the client for threads, which knows itself as `crate`
    // only, and the other clients not at all.
    let link = |path: &str| {
        if let Some(own) = path.strip_prefix("nbd_client_blocking::") {
            format!("[`{own}`](crate::{own})")
        } else if path.starts_with("nbd_client_") {
            format!("`{}`", short(path))
        } else {
            format!("[`{}`]({path})", short(path))
        }
    };
    table(rows, aliases, &mut text, link, false);
    text
}

fn table(
    rows: &[Row],
    aliases: &Aliases,
    text: &mut String,
    item: impl Fn(&str) -> String,
    tests: bool,
) {
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = &row.group;
            let _ = write!(text, "\n## {group}\n\n");
            text.push_str(if tests {
                "| libnbd | here | shown by | |\n|---|---|---|---|\n"
            } else {
                "| libnbd | here | |\n|---|---|---|\n"
            });
        }
        let paths = aliases.get(&row.alias).into_iter().flatten();
        let items: Vec<String> = paths.map(|path| item(path)).collect();
        let _ = write!(text, "| `{}` | {} | ", row.name, items.join(", "));
        if tests {
            let names: Vec<String> = row.tests.iter().map(|path| test(path)).collect();
            let _ = write!(text, "{} | ", names.join(", "));
        }
        let _ = writeln!(text, "{} |", row.note.replace('|', "\\|"));
    }
}

/// `Type::item`, with its crate in front where the client for threads has a type of the same
/// name.
fn short(path: &str) -> String {
    let (krate, rest) = path.split_once("::").unwrap_or(("", path));
    match (krate, krate.strip_prefix("nbd_client_")) {
        ("nbd_proto", _) if rest.starts_with("Client::") => format!("proto::{rest}"),
        (_, Some(adapter)) if adapter != "blocking" => format!("{adapter}::{rest}"),
        _ => rest.to_owned(),
    }
}

/// The last two parts of a test's path: enough to find it.
fn test(path: &str) -> String {
    let parts: Vec<&str> = path.rsplitn(3, "::").collect();
    match parts.as_slice() {
        [name, module, _] => format!("`{module}::{name}`"),
        _ => format!("`{path}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_links_for_rustdoc_and_names_for_readers() {
        let row = Row {
            name: "pread".to_owned(),
            alias: "nbd_pread".to_owned(),
            group: "Commands".to_owned(),
            tests: vec!["k::libnbd::commands::reads".to_owned()],
            note: "a|b".to_owned(),
        };
        let rows = [row];
        let items = ["nbd_client_blocking::Client::read", "nbd_client_mio::Connection::read"];
        let aliases = Aliases::from([("nbd_pread".to_owned(), items.map(str::to_owned).to_vec())]);
        let link =
            "| `pread` | [`Client::read`](crate::Client::read), `mio::Connection::read` | a\\|b |";
        let text = for_rustdoc(&rows, &aliases);
        assert!(text.contains(link), "{text}");
        let plain =
            "| `pread` | `Client::read`, `mio::Connection::read` | `commands::reads` | a\\|b |";
        let text = for_readers(&rows, &aliases);
        assert!(text.contains(plain), "{text}");
    }
}
