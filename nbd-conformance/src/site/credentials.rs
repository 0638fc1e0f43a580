//! Certificates and keys, made once for all tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nbd_sim::peer::pki::Pki;

/// The group ffdhe2048 of RFC 7919. Without it each start of qemu-nbd looks for a prime of
/// its own, which can take seconds.
const GROUP: &str = "\
-----BEGIN DH PARAMETERS-----
MIIBDAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAgICAQA=
-----END DH PARAMETERS-----
";

/// A directory with an authority, a server, a client, and a file of keys, by the names
/// that all servers and clients look for.
pub(crate) struct Credentials(Pki);

impl Credentials {
    /// The user that the pre-shared key is for.
    pub(crate) const USER: &str = "alice";

    /// Those that clients and servers share.
    pub(crate) fn ours() -> &'static Self {
        static OURS: OnceLock<Credentials> = OnceLock::new();
        OURS.get_or_init(|| Self::new("000102030405060708090a0b0c0d0e0f"))
    }

    /// Those of somebody else, whom no server knows.
    pub(crate) fn strange() -> &'static Self {
        static STRANGE: OnceLock<Credentials> = OnceLock::new();
        STRANGE.get_or_init(|| Self::new("ffffffffffffffffffffffffffffffff"))
    }

    fn new(psk: &str) -> Self {
        let pki = Pki::new();
        let write = |name, text: &str| fs::write(pki.file(name), text).expect("it is written");
        write("dh-params.pem", GROUP);
        write("keys.psk", &format!("{}:{psk}\n", Self::USER));
        Self(pki)
    }

    /// The directory of all files.
    pub(crate) fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// The file of keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.0.file("keys.psk")
    }
}
