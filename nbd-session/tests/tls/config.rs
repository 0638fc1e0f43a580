//! Credentials that are wrong, each told before any connection.

use nbd_sim::peer::pki::{LOCAL, Pki, Special};
use nbd_sim::peer::{Scratch, run, tool};
use nbd_transport::NbdUri;
use nbd_transport::tls::{Credentials, TlsConfig, TlsServerConfig};
use std::fs;
use std::path::Path;

fn client_error(config: TlsConfig) -> String {
    config.connector().expect_err("it is wrong").to_string()
}

fn server_error(config: TlsServerConfig) -> String {
    config.acceptor().expect_err("it is wrong").to_string()
}

fn in_directory(dir: &Path) -> String {
    let shown = format!("{}/", dir.display());
    client_error(TlsConfig::new().directory(dir)).replace(&shown, "")
}

#[test]
fn a_directory_without_an_authority_is_refused() {
    let empty = Scratch::new().expect("a directory is made");
    let expected = "cannot read the CA certificate ca-cert.pem: No such file or directory \
                    (os error 2)";
    assert_eq!(in_directory(empty.path()), expected);
    assert!(in_directory(Path::new("/nonexistent")).starts_with("cannot read"));
}

#[test]
fn files_that_are_no_credentials_are_named() {
    let pki = Pki::new();
    let cases = [
        ("ca-cert.pem", "", "ca-cert.pem is empty"),
        ("ca-cert.pem", " \n", "ca-cert.pem is empty"),
        ("ca-cert.pem", "hello", "ca-cert.pem contains no certificate in PEM form"),
        (
            "ca-cert.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "ca-cert.pem cannot be used: ",
        ),
        (
            "ca-cert.pem",
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            "ca-cert.pem is damaged: what is between its BEGIN and its END is not base64",
        ),
        ("client-cert.pem", "hello", "client-cert.pem contains no certificate in PEM form"),
        ("client-key.pem", "", "client-key.pem is empty"),
        ("client-key.pem", "hello", "client-key.pem contains no private key in PEM form"),
        (
            "client-key.pem",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "client-key.pem is damaged, or no private key at all",
        ),
        (
            "client-key.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "client-key.pem is encrypted; remove its password",
        ),
        (
            "client-key.pem",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
             AAAA\n-----END RSA PRIVATE KEY-----\n",
            "client-key.pem is encrypted; remove its password",
        ),
        ("ca-crl.pem", "hello", "ca-crl.pem contains no certificate revocation list"),
        (
            "ca-crl.pem",
            "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            "ca-crl.pem is damaged, or no certificate revocation list at all",
        ),
    ];
    for (file, content, expected) in cases {
        let before = fs::read(pki.file(file)).ok();
        fs::write(pki.file(file), content).expect("it is written");
        let error = in_directory(pki.dir());
        assert!(error.starts_with(expected), "{error}");
        match before {
            Some(before) => fs::write(pki.file(file), before).expect("it is written"),
            None => fs::remove_file(pki.file(file)).expect("it is removed"),
        }
    }
    TlsConfig::new().directory(pki.dir()).connector().expect("all is well again");
}

#[test]
fn a_key_that_was_encrypted_by_openssl_is_recognised() {
    let pki = Pki::new();
    let (key, encrypted) = (pki.file("client-key.pem"), pki.file("encrypted.pem"));
    let mut openssl = tool("openssl").expect("openssl is installed");
    openssl.args(["pkey", "-aes256", "-passout", "pass:x", "-in"]);
    openssl.arg(&key).arg("-out").arg(&encrypted);
    run(&mut openssl).and_then(|done| done.success()).expect("it is encrypted");
    fs::rename(encrypted, key).expect("it is renamed");
    let error = in_directory(pki.dir());
    assert!(error.starts_with("client-key.pem is encrypted"), "{error}");
}

#[test]
fn half_a_pair_and_a_wrong_pair_are_refused() {
    let pki = Pki::new();
    let (certificate, key) = (pki.file("client-cert.pem"), pki.file("client-key.pem"));
    fs::copy(pki.file("server-key.pem"), &key).expect("it is copied");
    let error = in_directory(pki.dir());
    let expected = "the key in client-key.pem does not belong to the certificate in \
                    client-cert.pem";
    assert_eq!(error, expected);
    fs::remove_file(&key).expect("it is removed");
    let expected = "client-cert.pem is there but client-key.pem is not: both are needed";
    assert_eq!(in_directory(pki.dir()), expected);
    fs::rename(certificate, key).expect("it is renamed");
    let expected = "client-key.pem is there but client-cert.pem is not: both are needed";
    assert_eq!(in_directory(pki.dir()), expected);
}

#[test]
fn an_unreadable_file_is_refused_and_not_passed_over() {
    let pki = Pki::new();
    let key = pki.file("client-key.pem");
    fs::remove_file(&key).expect("it is removed");
    fs::create_dir(&key).expect("a directory in its place");
    let error = in_directory(pki.dir());
    let expected = "cannot read the private key client-key.pem: Is a directory (os error 21)";
    assert_eq!(error, expected);
}

#[test]
fn a_file_that_is_far_too_long_is_not_read_on() {
    let pki = Pki::new();
    let file = fs::File::create(pki.file("ca-cert.pem")).expect("it is made");
    file.set_len(1 << 40).expect("it takes no room");
    assert_eq!(in_directory(pki.dir()), "ca-cert.pem is longer than 16777216 bytes");
    let keys = TlsConfig::new().psk_file(pki.file("ca-cert.pem")).username("alice");
    assert!(client_error(keys).ends_with("ca-cert.pem is longer than 16777216 bytes"));
}

#[test]
fn a_key_from_the_caller_is_checked_too() {
    let with = |name: &str, key: &[u8]| TlsConfig::new().psk_key_bytes(key).username(name);
    let cases = [
        (with("alice", &[]), "the key is empty"),
        (with("alice", &[0; 257]), "the key is longer than 256 bytes"),
        (with("", &[0; 16]), "the user name is empty"),
        (with("a\0b", &[0; 16]), "not text"),
    ];
    for (config, expected) in cases {
        assert_eq!(client_error(config), format!("the pre-shared key is wrong: {expected}"));
    }
    let digits = TlsConfig::new().psk_key_hex("0g").username("alice");
    let expected =
        "the pre-shared key is wrong: the key is not an even number of hexadecimal digits";
    assert_eq!(client_error(digits), expected);
    let secret = [TlsConfig::new().psk_key_hex("ab12"), TlsConfig::new().psk_key_bytes([171; 9])];
    let shown = format!("{secret:?} {:?}", TlsServerConfig::psk_key_hex("alice", "ab12"));
    assert!(!shown.contains("ab12") && !shown.contains("171"), "{shown}");
    let error = client_error(TlsConfig::new().psk_key_bytes([0; 16]));
    assert!(error.starts_with("whose pre-shared key? Give a user name"), "{error}");
    let error = server_error(TlsServerConfig::psk_key_bytes("alice", Vec::new()));
    assert_eq!(error, "the pre-shared key is wrong: the key is empty");
}

#[test]
fn credentials_may_come_from_memory() {
    let pki = Pki::new();
    let text = |name: &str| Credentials::Pem(fs::read(pki.file(name)).expect("it is there"));
    TlsConfig::new()
        .authorities(text("ca-cert.pem"))
        .identity(text("client-cert.pem"), text("client-key.pem"))
        .connector()
        .expect("it is sound");
    let server = |authorities| {
        let identity = (text("server-cert.pem"), text("server-key.pem"));
        TlsServerConfig::identity(identity.0, identity.1, authorities)
    };
    server(Some(text("ca-cert.pem"))).verify_clients(true).acceptor().expect("it is sound");
    let expected = "clients cannot be verified without a CA certificate";
    assert_eq!(server_error(server(None).verify_clients(true)), expected);
    let error = client_error(TlsConfig::new().authorities(Credentials::Pem(Vec::new())));
    assert_eq!(error, "the CA certificate that was given is empty");
    let shown = format!("{:?}", server(None));
    assert!(!shown.contains("BEGIN") && !shown.contains("[45"), "{shown}");
}

#[test]
fn a_server_needs_both_files() {
    let pki = Pki::authority();
    let error = server_error(TlsServerConfig::directory(pki.dir()));
    assert!(error.contains("server-cert.pem: No such file"), "{error}");
    pki.issue("server", Special::names(&LOCAL));
    TlsServerConfig::directory(pki.dir()).acceptor().expect("it is sound");
}

#[test]
fn a_name_that_no_certificate_could_have_is_refused() {
    let pki = Pki::new();
    let config = TlsConfig::new().directory(pki.dir()).server_name("no such name");
    let expected = "\"no such name\" is neither a host name nor an IP address that a certificate \
                    could name";
    assert_eq!(client_error(config), expected);
}

#[test]
fn a_uri_names_the_directory() {
    let uri: NbdUri =
        "nbds://localhost/?tls-certificates=/nonexistent".parse().expect("it is sound");
    let error = client_error(TlsConfig::from_uri(&uri));
    assert!(error.contains("/nonexistent/ca-cert.pem"), "{error}");
}

#[cfg(not(feature = "psk"))]
#[test]
fn without_openssl_it_says_how_to_get_keys() {
    let scratch = Scratch::new().expect("a directory is made");
    let path = scratch.join("keys.psk");
    fs::write(&path, "alice:00\n").expect("it is written");
    let error = client_error(TlsConfig::new().psk_file(&path).username("alice"));
    let expected = "this program was built without TLS with pre-shared keys: build it with \
                    feature `psk` of nbd-transport, which nbd-cli, nbd-server and the client \
                    crates have by the same name; it needs the files for developers of OpenSSL \
                    (libssl-dev)";
    assert_eq!(error, expected);
}

#[test]
fn a_user_without_a_key_is_told_before_any_connection() {
    let scratch = Scratch::new().expect("a directory is made");
    let path = scratch.join("keys.psk");
    fs::write(&path, "alice:00\n").expect("it is written");
    let uri = format!("nbds://bob@localhost/?tls-psk-file={}", path.display());
    let uri: NbdUri = uri.parse().expect("it is sound");
    let error = client_error(TlsConfig::from_uri(&uri));
    assert!(error.ends_with("keys.psk has no key for user \"bob\""), "{error}");
}
