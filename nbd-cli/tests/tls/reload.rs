//! Credentials that change while the server runs, and exports for who has proved who it is.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nbd_sim::peer::{Scratch, Server};

use crate::support::{LIMIT, NBD, Serving, TestResult, arg, nbd, succeed};
use nbd_sim::peer::pki::{LOCAL, Pki, Special};

fn is_served(server: &Serving, credentials: &Path) -> bool {
    nbd(&["info", "--size", &server.with(credentials)]).unwrap().status.success()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// SIGHUP has credentials read again; those that cannot be used change nothing.
#[test]
fn certificates_are_read_again_when_the_server_is_told() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (old, new) = (pki.trust_only(), other.trust_only());
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        fs::copy(other.dir().join(name), pki.dir().join(name)).unwrap();
    }
    assert!(is_served(&server, old.path()) && !is_served(&server, new.path()), "not told yet");
    server.reload();
    eventually("the new ones are used", || is_served(&server, new.path()));
    assert!(!is_served(&server, old.path()));
    fs::write(pki.dir().join("server-key.pem"), "no key").unwrap();
    server.reload();
    eventually("they are looked at", || server.log().contains("stay as they are"));
    assert!(is_served(&server, new.path()));
}

/// Both ends are told which certificate it is; who is connected already stays.
#[test]
fn a_certificate_that_expires_is_told_and_can_be_replaced() {
    let pki = Pki::new();
    let expired = |names: &[&str]| Special { years: Some((2000, 2001)), ..Special::names(names) };
    let server = Serving::unix(&["--tls-certificates", pki.arg(), "--tls-verify-peer", "-v"]);
    let told = |server: &Serving| {
        let refused = nbd(&["info", "--size", &server.with(pki.dir())]).unwrap();
        assert!(!refused.status.success());
        String::from_utf8(refused.stderr).unwrap()
    };
    pki.issue("server", expired(&["localhost"]));
    server.reload();
    eventually("it is read", || server.log().contains("read again"));
    let error = told(&server);
    assert!(
        error.contains("the server's certificate") && error.contains("it has expired"),
        "{error}"
    );
    eventually("the server is told", || server.log().contains("certificate expired"));
    pki.issue("server", Special::names(&LOCAL));
    server.reload();
    eventually("the new one is used", || is_served(&server, pki.dir()));
    pki.issue("client", expired(&["client.example"]));
    let error = told(&server);
    assert!(error.contains("certificate expired"), "{error}");
    eventually("whose it is, is told", || server.log().contains("it has expired"));
}

/// A server of what is in a file of exports, on a Unix socket.
fn serve(scratch: &Scratch, exports: &str, credentials: &[&str]) -> Server {
    let config = scratch.join("exports.toml");
    fs::write(&config, exports).unwrap();
    let args = ["serve", "--unix", "{socket}", "--config", arg(&config)];
    Server::command(NBD, &[&args[..], credentials].concat()).start().unwrap()
}

#[test]
fn a_certificate_s_name_opens_its_export_and_no_other() -> TestResult {
    let (pki, scratch) = (Pki::new(), Scratch::new()?);
    let exports = "[[export]]\nname = 'ours'\nmemory = '1M'\nusers = ['cert:client.example']\n\
                   [[export]]\nname = 'theirs'\nmemory = '2M'\nusers = ['cert:other.example']\n\
                   [[export]]\nname = 'all'\nmemory = '3M'\nreaders = ['*']\n";
    let credentials = ["--tls-certificates", pki.arg(), "--tls-verify-peer"];
    let server = serve(&scratch, exports, &credentials);
    let socket = server.unix_path().unwrap().display().to_string();
    let uri = |name: &str| {
        let dir = pki.dir().display();
        format!("nbds+unix:///{name}?socket={socket}&tls-certificates={dir}")
    };
    assert_eq!(succeed(&["info", "--size", &uri("ours")])?, "1048576");
    assert_eq!(succeed(&["info", "--size", &uri("all")])?, "3145728");
    assert!(!nbd(&["info", "--size", &uri("theirs")])?.status.success());
    Ok(())
}

#[test]
#[cfg(feature = "psk")]
fn a_key_opens_its_user_s_export_and_no_other() -> TestResult {
    let scratch = Scratch::new()?;
    let keys = scratch.join("keys.psk");
    fs::write(&keys, "alice:000102030405060708090a0b0c0d0e0f\nbob:00ff\n").unwrap();
    let exports = "[[export]]\nname = 'a'\nmemory = '1M'\nusers = ['psk:alice']\n\
                   [[export]]\nname = 'b'\nmemory = '2M'\nusers = ['psk:bob']\nreaders = ['psk:alice']\n";
    let server = serve(&scratch, exports, &["--tls-psk", arg(&keys)]);
    let socket = server.unix_path().unwrap().display().to_string();
    let uri = |user: &str, name: &str| {
        let file = keys.display();
        format!("nbds+unix://{user}@/{name}?socket={socket}&tls-psk-file={file}")
    };
    assert_eq!(succeed(&["info", "--size", &uri("alice", "a")])?, "1048576");
    assert_eq!(succeed(&["info", "--size", &uri("bob", "b")])?, "2097152");
    assert!(!nbd(&["info", "--size", &uri("bob", "a")])?.status.success());
    let words = |user| succeed(&["info", "--json", &uri(user, "b")]);
    assert!(words("alice")?.contains("\"is_read_only\": true"), "{}", words("alice")?);
    assert!(words("bob")?.contains("\"is_read_only\": false"), "{}", words("bob")?);
    Ok(())
}
