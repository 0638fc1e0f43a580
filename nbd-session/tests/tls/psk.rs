//! Pre-shared keys against real servers, good and bad.

use crate::driver::{connector, negotiate, refusal, require};
use crate::servers::{nbdkit, pattern, unix};
use nbd_sim::peer::pki::Pki;
use nbd_sim::peer::{Scratch, Server};
use nbd_transport::NbdUri;
use nbd_transport::tls::{TlsConfig, TlsPeer, TlsVersion};
use std::fs;
use std::path::PathBuf;

/// With lines of no use to anybody, and a name in hexadecimal form: `dave`.
const KEYS: &str = "# made: by hand\ncarol\nerin:0\nbob:0123456789abcdef0123456789abcdef\n\
    alice:000102030405060708090a0b0c0d0e0f\nalice:ffff\n\
    #64617665:0f0e0d0c0b0a09080706050403020100\n";

/// A directory with the keys in the file that both servers look for.
struct Keys(Scratch);

impl Keys {
    fn new() -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        fs::write(scratch.join("keys.psk"), KEYS).expect("it is written");
        Self(scratch)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.psk")
    }

    fn nbdkit(&self) -> nbd_sim::peer::ServerBuilder {
        let keys = format!("--tls-psk={}", self.file().display());
        Server::nbdkit(&["--tls=require", &keys, "pattern", "64M"])
    }

    fn of(&self, user: &str) -> TlsConfig {
        TlsConfig::new().psk_file(self.file()).username(user)
    }
}

#[test]
fn nbdkit_takes_either_user_with_a_fast_cipher() {
    let keys = Keys::new();
    let server = keys.nbdkit().start().expect("nbdkit starts");
    for user in ["alice", "bob", "dave"] {
        let uri =
            format!("nbds+unix://{user}@/?socket=/unused&tls-psk-file={}", keys.file().display());
        let uri: NbdUri = uri.parse().expect("it is sound");
        let connector = connector(TlsConfig::from_uri(&uri));
        let mut session = negotiate(unix(&server), require(), connector, None).expect("accepted");
        let info = session.info();
        assert_eq!(info.version, TlsVersion::Tls13);
        assert_eq!(info.cipher_suite, "TLS_AES_128_GCM_SHA256");
        let username = user.to_owned();
        assert_eq!(info.peer, TlsPeer::PresharedKey { username });
        assert!(session.read(8, 32 << 20).expect("it reads") == pattern(8, 32 << 20));
        session.disconnect().expect("an orderly end");
    }
}

#[test]
fn each_protocol_version_alone() {
    let keys = Keys::new();
    for (disabled, version) in [
        ("tls1.3", TlsVersion::Tls12),
        ("tls1.2\ndisabled-version = tls1.1\ndisabled-version = tls1.0", TlsVersion::Tls13),
    ] {
        let file = keys.0.join("priority");
        let rules = format!("[overrides]\ndisabled-version = {disabled}\n");
        fs::write(&file, rules).expect("it is written");
        let server =
            keys.nbdkit().env("GNUTLS_SYSTEM_PRIORITY_FILE", &file).start().expect("nbdkit starts");
        let connector = connector(keys.of("alice"));
        let mut session = negotiate(unix(&server), require(), connector, None).expect("accepted");
        assert_eq!(session.info().version, version);
        assert!(session.read(0, 1 << 20).expect("it reads") == pattern(0, 1 << 20));
        session.disconnect().expect("an orderly end");
    }
}

#[test]
fn qemu_nbd_takes_it_in_both_versions() {
    let keys = Keys::new();
    let image = keys.0.raw_image("disk.img", 1 << 20).expect("an image is made");
    fs::write(&image, pattern(0, 1 << 20)).expect("it is written");
    let dir = keys.0.path().display();
    let priority = ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK:+PSK";
    for (priority, version) in [("", TlsVersion::Tls13), (priority, TlsVersion::Tls12)] {
        let credentials = format!("tls-creds-psk,id=t,endpoint=server,dir={dir}{priority}");
        let server = Server::qemu_nbd(&["-f", "raw", "--object", &credentials, "--tls-creds", "t"])
            .arg(&image)
            .start()
            .expect("qemu-nbd starts");
        let connector = connector(keys.of("bob"));
        let mut session = negotiate(unix(&server), require(), connector, None).expect("accepted");
        assert_eq!(session.info().version, version);
        assert!(session.read(0, 1 << 20).expect("it reads") == pattern(0, 1 << 20));
        session.disconnect().expect("an end without close_notify is one after all");
    }
}

/// TL12.
#[test]
fn a_wrong_key_and_an_unknown_user_get_a_hint() {
    let keys = Keys::new();
    let server = keys.nbdkit().start().expect("nbdkit starts");
    for (user, key) in [("alice", [9; 16]), ("carol", [0; 16])] {
        let config = TlsConfig::new().psk_key_bytes(key).username(user);
        let error = refusal(unix(&server), connector(config), None);
        assert!(error.contains("user name or key"), "{error}");
    }
}

#[test]
fn a_server_with_a_certificate_in_place_of_the_key_is_refused() {
    let (keys, pki) = (Keys::new(), Pki::new());
    let server = nbdkit(&pki, &["--tls=require"]).start().expect("nbdkit starts");
    let error = refusal(unix(&server), connector(keys.of("alice")), None);
    let expected = "the server did not prove that it knows the pre-shared key";
    assert_eq!(error, expected);
}

#[test]
fn a_server_that_wants_a_key_refuses_certificates() {
    let (keys, pki) = (Keys::new(), Pki::new());
    let server = keys.nbdkit().start().expect("nbdkit starts");
    let error = refusal(unix(&server), connector(TlsConfig::new().directory(pki.dir())), None);
    assert!(error.contains("key"), "{error}");
}
