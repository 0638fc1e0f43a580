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

use super::config_error::{Origin, PemFault, PskFault, TlsConfigError};
use super::pem::read;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The longest user name, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// The longest key, in bytes.
pub(super) const MAX_KEY: usize = 256;

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

    /// `username:hexkey`.
    fn parse(line: &[u8]) -> Result<Self, PskFault> {
        let line = str::from_utf8(line).map_err(|_| PskFault::NotText)?;
        let (name, key) = line.split_once(':').ok_or(PskFault::NoColon)?;
        Self::new(name.to_owned(), hex(key).ok_or(PskFault::NotHex)?)
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

/// Reads a file of `username:hexkey` lines. All of it is checked, whichever line is used.
pub(super) fn read_keys(path: &Path) -> Result<Keys, TlsConfigError> {
    let bytes = read("the file of pre-shared keys", path)?;
    let mut keys = Keys::new();
    let mut lines = BTreeMap::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let number = at + 1;
        let wrong = |fault| TlsConfigError::PskLine { path: path.to_owned(), line: number, fault };
        let UserKey { name, key } = UserKey::parse(line).map_err(wrong)?;
        if let Some(first) = lines.insert(name.clone(), number) {
            return Err(wrong(PskFault::Duplicate { name, first }));
        }
        keys.insert(name, key);
    }
    if keys.is_empty() {
        let origin = Origin::File(path.to_owned());
        return Err(TlsConfigError::Pem { origin, fault: PemFault::Empty });
    }
    Ok(keys)
}

/// The key of one user.
pub(super) fn read_key(path: &Path, username: Option<String>) -> Result<UserKey, TlsConfigError> {
    let mut keys = read_keys(path)?;
    let username = match username {
        Some(username) => username,
        None => login_name().ok_or(TlsConfigError::NoUsername)?,
    };
    match keys.remove(&username) {
        Some(key) => UserKey::new(username, key).map_err(TlsConfigError::Psk),
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
        let read = keys(b"alice:0abC\r\n\n  b o:fF");
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn every_fault_names_its_line() {
        let long = [vec![b'x'; MAX_NAME + 1], b":00".to_vec()].concat();
        let long_key = [b"a:".to_vec(), vec![b'0'; 2 * MAX_KEY + 2]].concat();
        let cases: [(&[u8], &str); 11] = [
            (b"", "FILE is empty"),
            (b"\r\n \n", "FILE is empty"),
            (&long_key, "FILE, line 1: the key is longer than 256 bytes"),
            (b"alice", "FILE, line 1: not of the form username:hexkey"),
            (b"a:00\n:00", "FILE, line 2: the user name is empty"),
            (b"a:00\r\n\r\nb:", "FILE, line 3: the key is empty"),
            (b"a:0", "FILE, line 1: the key is not an even number of hexadecimal digits"),
            (b"a:+1", "FILE, line 1: the key is not an even number of hexadecimal digits"),
            (b"a:00\na:11", "FILE, line 2: user \"a\" is already on line 1"),
            (b"\xff:00", "FILE, line 1: not text"),
            (&long, "FILE, line 1: the user name is longer than 255 bytes"),
        ];
        for (text, expected) in cases {
            assert_eq!(keys(text), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let user = UserKey::parse(b"alice:deadbeef").expect("it is sound");
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
