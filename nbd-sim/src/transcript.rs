//! Recorded sessions and byte vectors, as small text files.
//!
//! A transcript holds one connection. Each line is one burst: all that one side
//! sent before the other side was heard again.
//!
//! ```text
//! # nbdkit, oldstyle                  a comment
//! S: 4e42444d41474943 00*124          server to client
//! C: 25609513 0000 0002               client to server
//! ```
//!
//! Bytes are hex pairs; spaces between them are free. `HEX*N` is the bytes of
//! `HEX`, `N` times over, so that long runs stay short.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// The most bytes that one file may unfold to, so that a mistyped repeat count is an
/// error and not a full memory.
const MAX_BYTES: usize = 64 << 20;

/// The shortest run of one byte that is written as `HEX*N`.
const MIN_RUN: usize = 12;

/// What the name of every transcript file ends with.
const EXTENSION: &str = "transcript";

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that asks.
    Client,
    /// The end that serves an export.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Why a transcript or vector file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line does not follow the format.
    #[error("{file}:{line}: {problem}")]
    Syntax {
        /// The name of the transcript or vector file.
        file: String,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What can be wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The line of a transcript starts with neither `C:`, `S:` nor `#`.
    #[error("a line starts with 'C:', 'S:' or '#'")]
    NoSide,
    /// The line of a vector file is neither `name = hex` nor a comment.
    #[error("a line is 'name = hex' or starts with '#'")]
    NoName,
    /// Two vectors have the same name.
    #[error("the name '{0}' is used twice")]
    NameTwice(String),
    /// A burst holds no bytes.
    #[error("no bytes on this line")]
    Empty,
    /// A word is not pairs of hex digits.
    #[error("'{0}' is not pairs of hex digits")]
    BadHex(String),
    /// A repeat count is not a positive number.
    #[error("'{0}' is not a repeat count of at least 1")]
    BadCount(String),
    /// The file unfolds to more than 64 MiB.
    #[error("the bytes of this file are more than {MAX_BYTES}")]
    TooLong,
}

/// One recorded connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The file's name without its extension.
    pub name: String,
    /// What was sent, in the order in which it was sent.
    pub bursts: Vec<(Side, Vec<u8>)>,
}

impl Transcript {
    /// Loads the committed transcript of that name.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or does not follow the format.
    pub fn load(name: &str) -> Result<Self, TranscriptError> {
        let path = directory().join(format!("{name}.{EXTENSION}"));
        Self::parse(name, &read(&path)?)
    }

    /// Reads a transcript from text; `name` is for the error messages.
    ///
    /// # Errors
    ///
    /// A line that does not follow the format.
    pub fn parse(name: &str, text: &str) -> Result<Self, TranscriptError> {
        let mut bursts = Vec::new();
        let mut total = 0;
        for (number, line) in numbered(text) {
            let syntax = |problem| syntax(name, number, problem);
            let (side, hex) = match line.split_at_checked(2) {
                Some(("C:", hex)) => (Side::Client, hex),
                Some(("S:", hex)) => (Side::Server, hex),
                _ => return Err(syntax(Problem::NoSide)),
            };
            let bytes = unfold(hex, &mut total).map_err(syntax)?;
            if bytes.is_empty() {
                return Err(syntax(Problem::Empty));
            }
            bursts.push((side, bytes));
        }
        let name = name.to_owned();
        Ok(Self { name, bursts })
    }

    /// Writes the transcript as text, with `comments` on top.
    pub fn to_text(&self, comments: &[&str]) -> String {
        let mut text = String::new();
        for comment in comments {
            text.push_str("# ");
            text.push_str(comment);
            text.push('\n');
        }
        for (side, bytes) in &self.bursts {
            text.push_str(match side {
                Side::Client => "C:",
                Side::Server => "S:",
            });
            fold(bytes, &mut text);
            text.push('\n');
        }
        text
    }

    /// All that the client sent.
    pub fn client_bytes(&self) -> Vec<u8> {
        self.bytes_of(Side::Client)
    }

    /// All that the server sent.
    pub fn server_bytes(&self) -> Vec<u8> {
        self.bytes_of(Side::Server)
    }

    fn bytes_of(&self, wanted: Side) -> Vec<u8> {
        let ours = self.bursts.iter().filter(|(side, _)| *side == wanted);
        ours.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}

/// Loads every committed transcript, in the order of their names.
///
/// # Errors
///
/// A file that cannot be read or does not follow the format.
pub fn all() -> Result<Vec<Transcript>, TranscriptError> {
    let directory = directory();
    let failed = |source| TranscriptError::Read { path: directory.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    names.iter().map(|name| Transcript::load(name)).collect()
}

/// A message written out by hand from the layouts of the protocol text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vector {
    /// What it is, such as `request.read`.
    pub name: String,
    /// The whole message as it is on the wire.
    pub bytes: Vec<u8>,
}

/// Loads the golden vectors of `transcripts/vectors.txt`, in the order of the file.
///
/// # Errors
///
/// A file that cannot be read or does not follow the format.
pub fn vectors() -> Result<Vec<Vector>, TranscriptError> {
    parse_vectors("vectors.txt", &read(&directory().join("vectors.txt"))?)
}

fn parse_vectors(file: &str, text: &str) -> Result<Vec<Vector>, TranscriptError> {
    let mut vectors: Vec<Vector> = Vec::new();
    let mut total = 0;
    for (number, line) in numbered(text) {
        let syntax = |problem| syntax(file, number, problem);
        let (name, hex) = line.split_once('=').ok_or_else(|| syntax(Problem::NoName))?;
        let name = name.trim().to_owned();
        if name.is_empty() {
            return Err(syntax(Problem::NoName));
        }
        if vectors.iter().any(|vector| vector.name == name) {
            return Err(syntax(Problem::NameTwice(name)));
        }
        let bytes = unfold(hex, &mut total).map_err(syntax)?;
        if bytes.is_empty() {
            return Err(syntax(Problem::Empty));
        }
        vectors.push(Vector { name, bytes });
    }
    Ok(vectors)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

fn read(path: &Path) -> Result<String, TranscriptError> {
    fs::read_to_string(path)
        .map_err(|source| TranscriptError::Read { path: path.to_owned(), source })
}

fn syntax(file: &str, line: usize, problem: Problem) -> TranscriptError {
    TranscriptError::Syntax { file: file.to_owned(), line, problem }
}

/// The lines that say something, each with its number.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Turns the words of one line into bytes; `total` counts the bytes of the file.
fn unfold(words: &str, total: &mut usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    for word in words.split_whitespace() {
        let (hex, times) = match word.split_once('*') {
            None => (word, 1),
            Some((hex, count)) => match count.parse() {
                Ok(times) if times > 0 => (hex, times),
                _ => return Err(Problem::BadCount(count.to_owned())),
            },
        };
        let piece = pairs(hex).ok_or_else(|| Problem::BadHex(hex.to_owned()))?;
        let more = piece.len().checked_mul(times).and_then(|more| total.checked_add(more));
        *total = more.filter(|total| *total <= MAX_BYTES).ok_or(Problem::TooLong)?;
        bytes.extend(piece.repeat(times));
    }
    Ok(bytes)
}

fn pairs(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn fold(bytes: &[u8], text: &mut String) {
    let mut in_word = false;
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() >= MIN_RUN {
            // Writing to a String cannot fail.
            let _ = write!(text, " {:02x}*{}", run[0], run.len());
            in_word = false;
        } else {
            if !in_word {
                text.push(' ');
            }
            for byte in run {
                let _ = write!(text, "{byte:02x}");
            }
            in_word = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, Problem) {
        match Transcript::parse("t", text) {
            Err(TranscriptError::Syntax { file, line, problem }) => {
                assert_eq!(file, "t");
                (line, problem)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_transcript_is_read_and_written_back() {
        let text = "# top\nS: 0102 ff*300 0a\nC: 00*12 01\n";
        let transcript = Transcript::parse("t", text).unwrap();
        assert_eq!(transcript.bursts.len(), 2);
        assert_eq!(transcript.server_bytes().len(), 303);
        assert_eq!(transcript.client_bytes()[12], 1);
        assert_eq!(transcript.to_text(&["top"]), text);
    }

    #[test]
    fn a_repeat_may_have_several_bytes() {
        let transcript = Transcript::parse("t", "C: dead*2 be").unwrap();
        assert_eq!(transcript.client_bytes(), [0xde, 0xad, 0xde, 0xad, 0xbe]);
        assert!(transcript.server_bytes().is_empty());
    }

    #[test]
    fn every_problem_names_its_line() {
        assert_eq!(problem("# c\nX: 00"), (2, Problem::NoSide));
        assert_eq!(problem("é"), (1, Problem::NoSide));
        assert_eq!(problem("C: 00\nS:"), (2, Problem::Empty));
        assert_eq!(problem("C: 000"), (1, Problem::BadHex("000".into())));
        assert_eq!(problem("C: 0g"), (1, Problem::BadHex("0g".into())));
        assert_eq!(problem("C: *4"), (1, Problem::BadHex(String::new())));
        assert_eq!(problem("C: 00*0"), (1, Problem::BadCount("0".into())));
        assert_eq!(problem("C: 00*x"), (1, Problem::BadCount("x".into())));
        assert_eq!(problem("C: 00*18446744073709551615"), (1, Problem::TooLong));
        assert_eq!(problem("C: 00*67108864\nC: 00"), (2, Problem::TooLong));
    }

    #[test]
    fn every_problem_of_a_vector_names_its_line() {
        let problem = |text| match parse_vectors("v", text) {
            Err(TranscriptError::Syntax { line, problem, .. }) => (line, problem),
            other => panic!("{other:?}"),
        };
        assert_eq!(problem("# c\nname 00"), (2, Problem::NoName));
        assert_eq!(problem("= 00"), (1, Problem::NoName));
        assert_eq!(problem("a ="), (1, Problem::Empty));
        assert_eq!(problem("a = 00\na = 01"), (2, Problem::NameTwice("a".into())));
        assert_eq!(problem("a = 0"), (1, Problem::BadHex("0".into())));
    }

    #[test]
    fn a_missing_transcript_names_its_path() {
        let error = Transcript::load("no-such").unwrap_err().to_string();
        assert!(error.contains("no-such.transcript"), "{error}");
    }

    #[test]
    fn an_error_names_file_and_line() {
        let error = Transcript::parse("cut", "C: 0").unwrap_err().to_string();
        assert_eq!(error, "cut:1: '0' is not pairs of hex digits");
    }
}
