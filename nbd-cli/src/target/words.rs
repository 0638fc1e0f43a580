//! What a word of a command line names, by its look alone.
//!
//! A word that is not recognised is never taken for something else: what looks like an
//! option or like a URI is one, or an error. A file of such a name is written `./NAME`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// Joins the words of a command in brackets. An argument never contains it.
const JOINT: u8 = 0;

/// What the schemes of NBD URIs are called, and what others use for the same ends.
const SCHEMES: [&str; 8] =
    ["nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock", "nbd+ssh", "nbds+ssh"];
const OTHERS: [&str; 6] = ["unix", "tcp", "vsock", "ssh", "file", "json"];

/// What a word looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    Stdio,
    Null,
    /// `nul:` and its like.
    NearlyNull,
    /// A URI, or something that was meant as one.
    Uri,
    /// The words between brackets.
    Command(Vec<&'a OsStr>),
    /// `[` without `]`.
    Unclosed,
    /// An option that no command has.
    Option,
    /// A path, or whatever else the command takes.
    Other,
}

/// Makes one word of each command in brackets, so that what is between them is not looked at
/// by whoever looks for options.
pub(crate) fn join_brackets(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word != "[" {
            joined.push(word);
            continue;
        }
        let mut group = word.into_vec();
        for word in words.by_ref() {
            let last = word == "]";
            group.push(JOINT);
            group.extend(word.into_vec());
            if last {
                break;
            }
        }
        joined.push(OsString::from_vec(group));
    }
    joined
}

/// A text about words, as they were before they were joined.
pub(crate) fn show_brackets(text: &str) -> String {
    text.replace(char::from(JOINT), " ")
}

pub(super) fn look(word: &OsStr) -> Word<'_> {
    let bytes = word.as_bytes();
    if bytes == b"[" || bytes.starts_with(&[b'[', JOINT]) {
        return command(bytes);
    }
    if bytes == b"-" {
        return Word::Stdio;
    }
    if bytes.starts_with(b"-") {
        return Word::Option;
    }
    if word.eq_ignore_ascii_case("null:") {
        return Word::Null;
    }
    if word.to_str().is_some_and(|word| word.ends_with(':') && near("null:", word)) {
        return Word::NearlyNull;
    }
    if is_meant_as_uri(word) { Word::Uri } else { Word::Other }
}

/// The URI of a server that is named by less, where nothing but a server will do: the host
/// itself, `HOST:PORT`, or the path of a socket.
pub(super) fn short_uri(word: &OsStr) -> Option<String> {
    if let Ok(data) = fs::metadata(word) {
        let is_socket = data.file_type().is_socket();
        let path = percent_encoding::percent_encode(word.as_bytes(), PATH);
        return is_socket.then(|| format!("nbd+unix:///?socket={path}"));
    }
    let word = word.to_str()?;
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        Some(_) | None => (word, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return None;
    }
    let address = host.parse::<Ipv4Addr>().is_ok() || is_bracketed(host);
    // A name with a dot may be a file's that is not there; with a port it is none.
    let name = !host.is_empty()
        && !SCHEMES.contains(&host.to_ascii_lowercase().as_str())
        && !OTHERS.contains(&host.to_ascii_lowercase().as_str())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
        && (host == "localhost" || port.is_some());
    (address || name).then(|| format!("nbd://{word}"))
}

/// An IPv6 address as URIs have it.
fn is_bracketed(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// What a path in a query keeps as it is.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

fn command(bytes: &[u8]) -> Word<'_> {
    let mut words: Vec<&OsStr> =
        bytes.split(|byte| *byte == JOINT).skip(1).map(OsStr::from_bytes).collect();
    match words.pop() {
        Some(last) if last == "]" => Word::Command(words),
        Some(_) | None => Word::Unclosed,
    }
}

/// Whether the one is a slip of the keyboard away from the other.
fn near(known: &str, word: &str) -> bool {
    strsim::osa_distance(known, &word.to_ascii_lowercase()) <= 1
}

/// Whether it begins with a scheme that is known, or nearly.
fn is_meant_as_uri(word: &OsStr) -> bool {
    let text = word.to_string_lossy();
    let Some((scheme, rest)) = text.trim_start().split_once(':') else {
        return false;
    };
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    if !is_scheme {
        return false;
    }
    rest.starts_with("//")
        || scheme.starts_with("nbd+")
        || scheme.starts_with("nbds+")
        || OTHERS.contains(&scheme.as_str())
        || scheme == "null"
        || SCHEMES.iter().any(|known| near(known, &scheme))
        // HOST:PORT, unless there is such a file.
        || (rest.parse::<u16>().is_ok() && !Path::new(word).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(words: &[&str]) -> Vec<OsString> {
        join_brackets(words.iter().map(OsString::from))
    }

    #[test]
    fn options_inside_brackets_are_not_outside() {
        let words = joined(&["copy", "[", "nbdkit", "-f", "memory", "]", "-p", "x"]);
        assert_eq!(words.len(), 4);
        let Word::Command(command) = look(&words[1]) else { panic!("no command") };
        assert_eq!(command, ["nbdkit", "-f", "memory"]);
        assert_eq!(show_brackets(&words[1].to_string_lossy()), "[ nbdkit -f memory ]");
    }

    #[test]
    fn brackets_without_an_end_are_noticed() {
        for words in [&["["][..], &["[", "nbdkit"], &["[", ""]] {
            assert_eq!(look(&joined(words)[0]), Word::Unclosed, "{words:?}");
        }
        assert_eq!(look(&joined(&["[", "]"])[0]), Word::Command(Vec::new()));
    }

    #[test]
    fn servers_may_be_named_by_less() {
        for (word, uri) in [
            ("localhost", "nbd://localhost"),
            ("localhost:10809", "nbd://localhost:10809"),
            ("disk.example.com:1", "nbd://disk.example.com:1"),
            ("127.0.0.1", "nbd://127.0.0.1"),
            ("[::1]:10809", "nbd://[::1]:10809"),
            ("[::1]", "nbd://[::1]"),
        ] {
            assert_eq!(short_uri(OsStr::new(word)).as_deref(), Some(uri), "{word}");
        }
        for word in ["disk.img", "a:b", "nbd:10809", "nbd://h", "", ":1", "x/y:1", "::1", "-"] {
            assert_eq!(short_uri(OsStr::new(word)), None, "{word}");
        }
    }

    #[test]
    fn what_may_be_meant_as_a_uri_is_no_file() {
        let uris = [
            "nbd://h",
            "NBD+UNIX:///?socket=s",
            "nbd:localhost:10809",
            "nbd:unix:/s",
            "nbd:",
            "ndb://h",
            "nbd+unx:/s",
            "nbd-unix:/s",
            "nbs://h",
            " nbd://h",
            "nbd+foo:x",
            "null:x",
            "http://h/",
            "unix:/s",
            "json:{}",
            "localhost:10809",
            "nbd:/h",
        ];
        for word in uris {
            assert_eq!(look(OsStr::new(word)), Word::Uri, "{word}");
        }
        let others = [
            "disk.img",
            "./nbd:x",
            "/nbd://x",
            "nbd",
            "nbd/x",
            "a:b",
            "2026-11-29T21:00",
            "C:x",
            "dir/nbd:x",
            "backup: nbd://",
            "",
            "localhost:99999",
            "localhost:",
        ];
        for word in others {
            assert_eq!(look(OsStr::new(word)), Word::Other, "{word}");
        }
        assert_eq!(look(OsStr::new("NULL:")), Word::Null);
        for word in ["nul:", "nulll:", "Nukl:"] {
            assert_eq!(look(OsStr::new(word)), Word::NearlyNull, "{word}");
        }
        for word in ["-x", "--flush", "--"] {
            assert_eq!(look(OsStr::new(word)), Word::Option, "{word}");
        }
        assert_eq!(look(OsStr::from_bytes(b"\xff:1")), Word::Other);
    }
}
