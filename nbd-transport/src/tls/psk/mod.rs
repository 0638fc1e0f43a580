//! Pre-shared keys.
//!
//! | file | what |
//! |---|---|
//! | `mod` | a user's key, and a file of them |
//! | `context` | how TLS is set up for keys, on either side |
//! | `session` | the stage |
//!
//! Most of the time goes into AES, and how fast that is depends on the library's age: OpenSSL 3.0
//! does not use the wide instructions of newer processors, as AWS-LC does for certificates.

#[cfg(feature = "psk")]
mod context;
#[cfg(feature = "psk")]
mod session;

#[cfg(feature = "psk")]
pub(super) use context::{acceptor, connector};

use super::config_error::{CredentialsFault, Origin, PskFault, TlsConfigError};
use super::credentials::read;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// The longest user name, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// The longest key, in bytes.
pub(super) const MAX_KEY: usize = 256;

/// A key as the caller gave it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum GivenKey {
    Bytes(Vec<u8>),
    Hex(String),
}

/// It is a secret.
impl fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenKey").finish_non_exhaustive()
    }
}

/// A user's name and key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct UserKey {
    pub(super) name: String,
    pub(super) key: Vec<u8>,
}

impl UserKey {
    pub(super) fn new(name: String, key: Vec<u8>) -> Result<Self, PskFault> {
        match (name.len(), key.len()) {
            (0, _) => Err(PskFault::NoName),
            (1.., _) if name.contains('\0') => Err(PskFault::NotText),
            (1..=MAX_NAME, 0) => Err(PskFault::NoKey),
            (1..=MAX_NAME, 1..=MAX_KEY) => Ok(Self { name, key }),
            (1..=MAX_NAME, _) => Err(PskFault::LongKey),
            (_, _) => Err(PskFault::LongName),
        }
    }

    pub(super) fn given(name: String, key: &GivenKey) -> Result<Self, PskFault> {
        match key {
            GivenKey::Bytes(bytes) => Self::new(name, bytes.clone()),
            GivenKey::Hex(digits) => Self::from_hex(name, digits),
        }
    }

    fn from_hex(name: String, key: &str) -> Result<Self, PskFault> {
        Self::new(name, hex(key).ok_or(PskFault::NotHex)?)
    }
}

/// The key is a secret.
impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserKey").field("name", &self.name).finish_non_exhaustive()
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16).map(|digit| digit as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

/// The keys of a file, by user name.
pub(super) type Keys = BTreeMap<String, Vec<u8>>;

/// A line of a file of keys that speaks of a user.
struct Line<'a> {
    number: usize,
    name: String,
    key: &'a [u8],
}

impl Line<'_> {
    fn user(self, path: &Path) -> Result<UserKey, TlsConfigError> {
        let key = str::from_utf8(self.key).map_err(|_| PskFault::NotHex);
        key.and_then(|key| UserKey::from_hex(self.name, key)).map_err(|fault| {
            TlsConfigError::PskLine { path: path.to_owned(), line: self.number, fault }
        })
    }
}

/// The lines `username:hexkey`, read as GnuTLS does, so that one file serves all programs: the
/// first line of a user counts, `#` begins a name in hexadecimal form (and, as there is hardly
/// one that is, a comment), and whatever is of no other use is passed over.
fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    text.split(|byte| *byte == b'\n').zip(1..).filter_map(|(line, number)| {
        let line = line.trim_ascii_end();
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, key) = line.split_at(colon);
        let name = match str::from_utf8(name).ok()?.strip_prefix('#') {
            Some(digits) => String::from_utf8(hex(digits)?).ok()?,
            None => str::from_utf8(name).ok()?.to_owned(),
        };
        Some(Line { number, name, key: &key[1..] })
    })
}

fn read_text(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    let text = read("the file of pre-shared keys", path)?;
    if text.trim_ascii().is_empty() {
        let origin = Origin::File(path.to_owned());
        return Err(TlsConfigError::Credentials { origin, fault: CredentialsFault::Empty });
    }
    Ok(text)
}

/// The users of a file. A line that is wrong takes nothing from the others; if there is nothing
/// but wrong ones, the first is told.
pub(super) fn read_keys(path: &Path) -> Result<Keys, TlsConfigError> {
    let text = read_text(path)?;
    let (mut keys, mut seen, mut first_fault) = (Keys::new(), BTreeSet::new(), None);
    for line in lines(&text).filter(|line| seen.insert(line.name.clone())) {
        match line.user(path) {
            Ok(user) => drop(keys.insert(user.name, user.key)),
            Err(fault) => first_fault = first_fault.or(Some(fault)),
        }
    }
    if keys.is_empty() {
        let path = path.to_owned();
        let no_line = || TlsConfigError::PskLine { path, line: 1, fault: PskFault::NoColon };
        return Err(first_fault.unwrap_or_else(no_line));
    }
    Ok(keys)
}

/// The key of one user.
pub(super) fn read_key(path: &Path, username: Option<String>) -> Result<UserKey, TlsConfigError> {
    let text = read_text(path)?;
    let username = match username {
        Some(username) => username,
        None => login_name().ok_or(TlsConfigError::NoUsername)?,
    };
    match lines(&text).find(|line| line.name == username) {
        Some(line) => line.user(path),
        None => Err(TlsConfigError::PskUser { path: path.to_owned(), username }),
    }
}

/// Who runs this program: `LOGNAME`, or else what `/etc/passwd` says.
fn login_name() -> Option<String> {
    if let Some(name) = std::env::var("LOGNAME").ok().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &[u8]) -> Result<Keys, String> {
        let file = tempfile::NamedTempFile::new().expect("a file is made");
        std::fs::write(file.path(), text).expect("it is written");
        let name = file.path().display().to_string();
        read_keys(file.path()).map_err(|error| error.to_string().replace(&name, "FILE"))
    }

    #[test]
    fn lines_end_in_any_way() {
        let expected =
            Keys::from([("alice".to_owned(), vec![0x0a, 0xBC]), ("b o".to_owned(), vec![0xff])]);
        let read = keys(b"alice:0abC\r\n\nb o:fF");
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn what_is_wrong_with_others_spoils_nothing() {
        let text: &[u8] =
            b"# keys: of this year\ncarol\n\xff:00\nbob:0\nalice:00\nalice:11\nbob:22\n\
            :33\n#ff:44\n#6461766500:55\n#64617665:66\n";
        let alice_and_dave =
            Keys::from([("alice".to_owned(), vec![0x00]), ("dave".to_owned(), vec![0x66])]);
        assert_eq!(keys(text), Ok(alice_and_dave));
        // Bob's first line counts, though it is wrong.
        let file = tempfile::NamedTempFile::new().expect("a file is made");
        std::fs::write(file.path(), text).expect("it is written");
        let key = |name: &str| read_key(file.path(), Some(name.to_owned()));
        assert_eq!(key("alice").expect("she has one").key, [0]);
        assert_eq!(key("dave").expect("his name is in hexadecimal form").key, [0x66]);
        let error = key("bob").expect_err("it is wrong").to_string();
        assert!(error.contains("line 4: the key is not an even number"), "{error}");
        for name in ["carol", "# keys", "#ff"] {
            let error = key(name).expect_err("there is none").to_string();
            assert!(error.ends_with(&format!("has no key for user {name:?}")), "{error}");
        }
    }

    #[test]
    fn when_nothing_is_right_the_first_fault_is_told() {
        let long = [vec![b'x'; MAX_NAME + 1], b":00".to_vec()].concat();
        let long_key = [b"a:".to_vec(), vec![b'0'; 2 * MAX_KEY + 2]].concat();
        let cases: [(&[u8], &str); 10] = [
            (b"", "FILE is empty"),
            (b"\r\n \n", "FILE is empty"),
            (&long_key, "FILE, line 1: the key is longer than 256 bytes"),
            (b"alice", "FILE, line 1: not of the form username:hexkey"),
            (b"alice\n:00", "FILE, line 2: the user name is empty"),
            (b"# comment\r\n\r\nb:\nc:0", "FILE, line 3: the key is empty"),
            (b"a:0", "FILE, line 1: the key is not an even number of hexadecimal digits"),
            (b"a:+1", "FILE, line 1: the key is not an even number of hexadecimal digits"),
            (b"a:0\xff", "FILE, line 1: the key is not an even number of hexadecimal digits"),
            (&long, "FILE, line 1: the user name is longer than 255 bytes"),
        ];
        for (text, expected) in cases {
            assert_eq!(keys(text), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let user = UserKey::from_hex("alice".to_owned(), "deadbeef").expect("it is sound");
        let shown = format!("{user:?}");
        assert!(shown.contains("alice") && !shown.contains("222"), "{shown}");
    }

    #[test]
    fn a_user_without_a_key_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file is made");
        std::fs::write(file.path(), "alice:00").expect("it is written");
        let error = read_key(file.path(), Some("bob".to_owned())).expect_err("no bob");
        assert!(error.to_string().ends_with("has no key for user \"bob\""), "{error}");
    }
}
