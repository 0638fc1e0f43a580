//! Pre-shared keys.
#![cfg(feature = "psk")]

use std::fs;
use std::path::PathBuf;

use nbd_sim::peer::{Finished, PeerError, Scratch, run, tool};

use crate::support::{Serving, TestResult, arg, assert_same, fail, image, succeed};
use nbd_sim::peer::pki::Pki;

const KEYS: &str = "bob:0123456789abcdef0123456789abcdef\nalice:000102030405060708090a0b0c0d0e0f\n";

/// A file of keys, by the name that QEMU looks for.
struct Keys(Scratch);

impl Keys {
    fn new(text: &str) -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        fs::write(scratch.join("keys.psk"), text).expect("it is written");
        Self(scratch)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.psk")
    }

    fn serve(&self) -> Serving {
        Serving::unix(&["--tls-psk", arg(&self.file())])
    }

    /// The URI for a user of these keys.
    fn uri(&self, server: &Serving, user: &str) -> String {
        let file = format!("tls-psk-file={}", self.file().display());
        server.uri(&[&file]).replacen("://", &format!("://{user}@"), 1)
    }
}

#[test]
fn nbdinfo_and_nbdcopy() -> TestResult {
    let keys = Keys::new(KEYS);
    let (from, to) = (image(&keys.0), keys.0.join("back"));
    let server = keys.serve();
    for user in ["alice", "bob"] {
        let uri = keys.uri(&server, user);
        let json = run(tool("nbdinfo")?.args(["--json", &uri]))?.success()?;
        assert!(json.contains(r#""TLS": true"#), "{json}");
        run(tool("nbdcopy")?.args([arg(&from), &uri]))?.success()?;
        run(tool("nbdcopy")?.args(["--connections=3", &uri, arg(&to)]))?.success()?;
        assert_same(&from, &to);
        fs::remove_file(&to).unwrap();
    }
    assert_eq!(server.log(), "");
    Ok(())
}

fn qemu_img(keys: &Keys, user: &str, rest: &str, args: &[&str]) -> Result<Finished, PeerError> {
    let dir = keys.0.path().display();
    let credentials = format!("tls-creds-psk,id=t,endpoint=client,username={user},dir={dir}{rest}");
    let (verb, args) = args.split_first().expect("a verb");
    run(tool("qemu-img")?.args([verb, "--object", &credentials]).args(args))
}

#[test]
fn qemu_img_in_each_version_of_tls() -> TestResult {
    let keys = Keys::new(KEYS);
    let (from, to) = (image(&keys.0), keys.0.join("back"));
    let server = keys.serve();
    let node = server.node();
    for rest in ["", ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK:+PSK"] {
        let there = ["convert", "-f", "raw", "-n", "--target-image-opts", arg(&from), &node];
        qemu_img(&keys, "alice", rest, &there)?.success()?;
        let back = ["convert", "--image-opts", "-O", "raw", &node, arg(&to)];
        qemu_img(&keys, "bob", rest, &back)?.success()?;
        assert_same(&from, &to);
        fs::remove_file(&to).unwrap();
    }
    assert_eq!(server.log(), "");
    Ok(())
}

#[test]
fn our_own_commands() -> TestResult {
    let keys = Keys::new(KEYS);
    let (from, to) = (image(&keys.0), keys.0.join("back"));
    let server = keys.serve();
    let uri = keys.uri(&server, "alice");
    let text = succeed(&["info", &uri])?;
    let expected = "\ntls: TLS 1.3 with TLS_AES_128_GCM_SHA256\nserver: knows the key of alice\n";
    assert!(text.contains("newstyle-fixed with TLS") && text.contains(expected), "{text}");
    let json = succeed(&["info", "--json", &uri])?;
    assert!(json.contains(r#""TLS-username": "alice""#), "{json}");
    succeed(&["copy", arg(&from), &uri])?;
    succeed(&["copy", &uri, arg(&to)])?;
    assert_same(&from, &to);
    succeed(&["bench", "--depth=2048", "--count=20000", &uri])?;
    assert_eq!(server.log(), "");
    Ok(())
}

/// A wrong key and an unknown user look the same from outside, to give nothing
/// away; the server's owner is told which it was.
#[test]
fn wrong_keys_and_unknown_users() -> TestResult {
    let keys = Keys::new(KEYS);
    let server = keys.serve();
    let other = Keys::new(
        "alice:ffffffffffffffffffffffffffffffff\ncarol:0123456789abcdef0123456789abcdef\n",
    );
    let users = ["alice", "carol"];
    for (seen, user) in (1..).zip(users) {
        let error = fail(&["info", &other.uri(&server, user)])?;
        assert!(error.contains("user name or key"), "{error}");
        assert_eq!(server.said(seen).len(), seen, "{:?}", server.said(seen));
    }
    for (seen, user) in (3..).zip(users) {
        let finished = run(tool("nbdinfo")?.args(["--size", &other.uri(&server, user)]))?;
        assert!(!finished.status.success());
        assert_eq!(server.said(seen).len(), seen, "{:?}", server.said(seen));
    }
    // The server lives on.
    assert_eq!(succeed(&["info", "--size", &keys.uri(&server, "bob")])?, "12582912");
    Ok(())
}

#[test]
fn a_user_that_the_clients_own_file_lacks_is_told_at_once() -> TestResult {
    let keys = Keys::new(KEYS);
    let server = keys.serve();
    let error = fail(&["info", &keys.uri(&server, "dave")])?;
    assert!(error.ends_with("has no key for user \"dave\""), "{error}");
    assert_eq!(server.log(), "");
    Ok(())
}

#[test]
fn certificates_and_clear_text_are_no_way_around() -> TestResult {
    let (keys, pki) = (Keys::new(KEYS), Pki::new());
    let server = keys.serve();
    let error = fail(&["info", &server.with(pki.dir())])?;
    assert!(error.contains("TLS") || error.contains("the server refused"), "{error}");
    let error = fail(&["info", &server.plain()])?;
    assert!(error.contains("the server wants TLS first"), "{error}");
    assert_eq!(succeed(&["info", "--size", &keys.uri(&server, "bob")])?, "12582912");
    Ok(())
}
