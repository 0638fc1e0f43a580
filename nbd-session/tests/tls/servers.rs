//! Certificates against real servers, good and bad.

use crate::driver::{connector, negotiate, refusal, require};
use nbd_proto::{ClientConfig, TlsPolicy};
use nbd_sim::peer::pki::{LOCAL, Pki, Special, Usage};
use nbd_sim::peer::{Scratch, Server};
use nbd_transport::tls::{ServerCheck, TlsConfig, TlsVersion};
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What nbdkit's `pattern` plugin has at an offset.
pub(crate) fn pattern(offset: u64, len: usize) -> Vec<u8> {
    let words = offset / 8..(offset + len as u64).div_ceil(8);
    words.flat_map(|word| (word * 8).to_be_bytes()).collect()
}

pub(crate) fn nbdkit(pki: &Pki, args: &[&str]) -> nbd_sim::peer::ServerBuilder {
    let certificates = format!("--tls-certificates={}", pki.dir().display());
    let args = [&[certificates.as_str()], args, &["pattern", "64M"]].concat();
    Server::nbdkit(&args)
}

pub(crate) fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(server.tcp_address().expect("it listens on TCP")).expect("it listens")
}

pub(crate) fn unix(server: &Server) -> UnixStream {
    UnixStream::connect(server.unix_path().expect("it has a socket")).expect("it listens")
}

fn trusting(dir: &Path) -> TlsConfig {
    TlsConfig::new().directory(dir)
}

#[test]
fn nbdkit_by_name_and_by_address() {
    let pki = Pki::new();
    let server =
        nbdkit(&pki, &["--tls=require", "--tls-verify-peer"]).tcp().start().expect("nbdkit starts");
    for host in LOCAL {
        let connector = connector(trusting(pki.dir()));
        let mut session =
            negotiate(tcp(&server), require(), connector, Some(host)).expect("accepted");
        assert_eq!(session.info().version, TlsVersion::Tls13);
        for (offset, len) in [(0, 4096), (1 << 20, 32 << 20), (8, 8)] {
            let data = session.read(offset, len).expect("it reads");
            assert!(data == pattern(offset, len as usize), "wrong data at {offset}");
        }
        session.disconnect().expect("an orderly end");
    }
}

#[test]
fn each_protocol_version_alone() {
    let pki = Pki::new();
    let scratch = Scratch::new().expect("a directory is made");
    let cases = [
        ("tls1.3", Ok(TlsVersion::Tls12)),
        ("tls1.2\ndisabled-version = tls1.1\ndisabled-version = tls1.0", Ok(TlsVersion::Tls13)),
        ("tls1.3\ndisabled-version = tls1.2", Err(())),
    ];
    for (disabled, expected) in cases {
        let file = scratch.join("priority");
        let rules = format!("[overrides]\ndisabled-version = {disabled}\n");
        fs::write(&file, rules).expect("it is written");
        let server = nbdkit(&pki, &["--tls=require", "--tls-verify-peer"])
            .env("GNUTLS_SYSTEM_PRIORITY_FILE", &file)
            .start()
            .expect("nbdkit starts");
        let connector = connector(trusting(pki.dir()).server_name("localhost"));
        match (expected, negotiate(unix(&server), require(), connector, None)) {
            (Ok(version), Ok(mut session)) => {
                assert_eq!(session.info().version, version);
                assert!(session.read(0, 1 << 20).expect("it reads") == pattern(0, 1 << 20));
                session.disconnect().expect("an orderly end");
            }
            (Err(()), Err(error)) => {
                let expected = "the server closed the connection during the TLS handshake: is it \
                                too old for TLS 1.2, ";
                assert!(error.to_string().starts_with(expected), "{error}");
            }
            (_, result) => panic!("without {disabled}: {:?}", result.map(|s| s.link)),
        }
    }
}

/// TL01, TL02 and TL04: of another time, for another name, for another use.
#[test]
fn certificates_that_are_not_accepted() {
    let year = |from, to| Special { years: Some((from, to)), ..Special::names(&LOCAL) };
    let for_clients = Special { usage: vec![Usage::ClientAuth], ..Special::names(&LOCAL) };
    let prefix = "the server's certificate is not accepted: ";
    let cases = [
        (
            Special::names(&["nbd.example", "*.disk.example"]),
            "it is not for \"localhost\" but for nbd.example, *.disk.example",
        ),
        // A wildcard stands for one label of a name, not for any.
        (Special::names(&["*"]), "it is not for \"localhost\""),
        (Special::names(&["*.localhost"]), "it is not for \"localhost\" but for *.localhost"),
        (Special::default(), "it is not for \"localhost\": it has no subjectAltName"),
        (year(2000, 2001), "it has expired "),
        (year(4000, 4001), "it is not valid yet, only in "),
        (for_clients, "its extended key usage does not allow this use"),
    ];
    for (special, expected) in cases {
        let pki = Pki::authority();
        pki.issue("server", special);
        let server = nbdkit(&pki, &["--tls=require"]).tcp().start().expect("nbdkit starts");
        let connector = connector(trusting(pki.dir()));
        let error = refusal(tcp(&server), connector, Some("localhost"));
        let rest = error.strip_prefix(prefix).unwrap_or_else(|| panic!("{error}"));
        assert!(rest.starts_with(expected), "{error}");
    }
}

/// TL02: an authority that nobody knows, which is the server itself.
#[test]
fn a_certificate_that_signed_itself() {
    let pki = Pki::authority();
    pki.sign_itself();
    let server = nbdkit(&pki, &["--tls=require"]).start().expect("nbdkit starts");
    for check in [ServerCheck::Full, ServerCheck::AnyName] {
        let connector = connector(trusting(pki.dir()).server_check(check));
        let error = refusal(unix(&server), connector, None);
        assert!(error.starts_with("the server's certificate is not accepted: "), "{error}");
    }
}

#[test]
fn an_unknown_authority_is_refused_over_every_transport() {
    let (pki, other) = (Pki::new(), Pki::called("Another CA"));
    let expected = "the server's certificate is not accepted: no authority that is trusted here \
                    has signed it (wrong CA?)";
    let over_tcp = nbdkit(&pki, &["--tls=require"]).tcp().start().expect("nbdkit starts");
    let over_unix = nbdkit(&pki, &["--tls=require"]).start().expect("nbdkit starts");
    for check in [ServerCheck::Full, ServerCheck::AnyName] {
        let strict = || connector(trusting(other.dir()).server_check(check));
        assert_eq!(refusal(tcp(&over_tcp), strict(), Some("localhost")), expected);
        assert_eq!(refusal(unix(&over_unix), strict(), None), expected);
    }
    let namesake = Pki::authority();
    let error = refusal(unix(&over_unix), connector(trusting(namesake.dir())), None);
    assert!(error.contains("has not signed it (wrong CA?)"), "{error}");
    let lax = trusting(other.dir()).server_check(ServerCheck::DangerouslyNothing);
    negotiate(unix(&over_unix), require(), connector(lax), None).expect("nothing is checked");
}

#[test]
fn without_a_name_the_chain_is_checked_and_with_one_the_name_too() {
    let pki = Pki::new();
    let server = nbdkit(&pki, &["--tls=require"]).start().expect("nbdkit starts");
    negotiate(unix(&server), require(), connector(trusting(pki.dir())), None).expect("accepted");
    let named = |name: &str| connector(trusting(pki.dir()).server_name(name));
    negotiate(unix(&server), require(), named("localhost"), None).expect("accepted");
    let error = refusal(unix(&server), named("nbd.example"), None);
    let expected = "it is not for \"nbd.example\" but for localhost, 127.0.0.1, ::1";
    assert!(error.ends_with(expected), "{error}");
    // The name that was asked for counts, not that of the host.
    let error = refusal(unix(&server), named("nbd.example"), Some("localhost"));
    assert!(error.ends_with(expected), "{error}");
    let any = trusting(pki.dir()).server_check(ServerCheck::AnyName);
    negotiate(unix(&server), require(), connector(any), Some("nbd.example")).expect("accepted");
}

#[test]
fn a_revoked_certificate_is_refused() {
    for check in [ServerCheck::Full, ServerCheck::AnyName] {
        let pki = Pki::authority();
        let special = |serial| Special { serial: Some(serial), ..Special::names(&LOCAL) };
        pki.issue("server", special(77));
        pki.revoke(78);
        let server = nbdkit(&pki, &["--tls=require"]).start().expect("nbdkit starts");
        let strict = || connector(trusting(pki.dir()).server_check(check));
        negotiate(unix(&server), require(), strict(), Some("localhost")).expect("another one");
        pki.revoke(77);
        for host in [Some("localhost"), None] {
            let error = refusal(unix(&server), strict(), host);
            assert!(error.ends_with("it is revoked"), "{error}");
        }
    }
}

#[test]
fn a_server_that_wants_a_client_certificate_says_so() {
    let pki = Pki::new();
    let server =
        nbdkit(&pki, &["--tls=require", "--tls-verify-peer"]).start().expect("nbdkit starts");
    let nobody = pki.trust_only();
    let error = refusal(unix(&server), connector(trusting(nobody.path())), None);
    assert!(error.contains("client certificate"), "{error}");
    // One of another authority.
    let other = Pki::new();
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::copy(other.file(name), nobody.join(name)).expect("it is copied");
    }
    let error = refusal(unix(&server), connector(trusting(nobody.path())), None);
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn qemu_nbd_with_and_without_verified_clients() {
    let pki = Pki::new();
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk.img", 1 << 20).expect("an image is made");
    fs::write(&image, pattern(0, 1 << 20)).expect("it is written");
    for verify in ["yes", "no"] {
        let dir = pki.dir().display();
        let credentials =
            format!("tls-creds-x509,id=t,endpoint=server,verify-peer={verify},dir={dir}");
        let server = Server::qemu_nbd(&["-f", "raw", "--object", &credentials, "--tls-creds", "t"])
            .arg(&image)
            .start()
            .expect("qemu-nbd starts");
        let sound = connector(trusting(pki.dir()).server_name("localhost"));
        let mut session = negotiate(unix(&server), require(), sound, None).expect("accepted");
        assert!(session.read(0, 1 << 20).expect("it reads") == pattern(0, 1 << 20));
        session.disconnect().expect("an end without close_notify is one after all");
        let nobody = pki.trust_only();
        let result = negotiate(unix(&server), require(), connector(trusting(nobody.path())), None);
        match (verify, result) {
            ("yes", Err(error)) => {
                let text = error.to_string();
                assert!(text.contains("certificate"), "{text}");
            }
            ("no", Ok(session)) => session.disconnect().expect("an orderly end"),
            (_, result) => panic!("verify-peer={verify}: {:?}", result.map(|s| s.link)),
        }
    }
}

/// The server takes the certificate and then looks at whose it is (`--tls-authz`). TLS has no word
/// for that, so it just leaves.
#[test]
fn qemu_nbd_with_a_list_of_those_who_may() {
    let pki = Pki::new();
    let image = pki.dir().join("disk.img");
    fs::write(&image, pattern(0, 1 << 20)).expect("it is written");
    let dir = pki.dir().display();
    let credentials = format!("tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir={dir}");
    for (name, welcome) in [("CN=client", true), ("CN=somebody else", false)] {
        let authz = format!("authz-simple,id=who,identity={name}");
        let objects = ["--object", &credentials, "--object", &authz];
        let tls = ["--tls-creds", "t", "--tls-authz", "who"];
        let server = Server::qemu_nbd(&[&["-f", "raw"], &objects[..], &tls].concat())
            .arg(&image)
            .start()
            .expect("qemu-nbd starts");
        let connector = || connector(trusting(pki.dir()).server_name("localhost"));
        if welcome {
            let mut session =
                negotiate(unix(&server), require(), connector(), None).expect("accepted");
            assert!(session.read(0, 1 << 20).expect("it reads") == pattern(0, 1 << 20));
            session.disconnect().expect("an end without close_notify is one after all");
        } else {
            let expected = "the server closed the connection right after the TLS handshake: \
                            does it want a client certificate, or another one, or a pre-shared \
                            key?";
            assert_eq!(refusal(unix(&server), connector(), None), expected);
        }
    }
}

#[test]
fn a_server_without_tls_is_refused_or_used_in_clear_as_the_policy_says() {
    let pki = Pki::new();
    let server = Server::nbdkit(&["--tls=off", "pattern", "64M"]).start().expect("it starts");
    let error = refusal(unix(&server), connector(trusting(pki.dir())), None);
    assert!(error.contains("STARTTLS"), "{error}");
    let allow = ClientConfig::new().tls(TlsPolicy::Allow);
    let mut session = negotiate(unix(&server), allow.clone(), connector(trusting(pki.dir())), None)
        .expect("in clear");
    assert!(session.link.tls_info().is_none());
    assert!(session.read(0, 4096).expect("it reads") == pattern(0, 4096));
    let oldstyle = Server::nbdkit(&["-o", "pattern", "64M"]).start().expect("it starts");
    let error = refusal(unix(&oldstyle), connector(trusting(pki.dir())), None);
    assert!(error.contains("TLS"), "{error}");
    // With TLS on offer it is used, and its failure is final.
    let server = nbdkit(&pki, &["--tls=on"]).start().expect("it starts");
    let session = negotiate(unix(&server), allow.clone(), connector(trusting(pki.dir())), None)
        .expect("accepted");
    assert!(session.link.tls_info().is_some());
    let other = Pki::authority();
    negotiate(unix(&server), allow, connector(trusting(other.dir())), None)
        .map(|session| session.link)
        .expect_err("no way back to clear text");
}
