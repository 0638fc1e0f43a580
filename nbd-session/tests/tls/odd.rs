//! Credentials that are weak or odd, as other tools make them: each is told what it is.

use crate::driver::{connector, negotiate, refusal, require};
use crate::servers::tcp;
use nbd_sim::peer::{Scratch, Server, run, tool};
use nbd_transport::tls::{Credentials, TlsConfig, TlsServerConfig};
use std::fs;
use std::path::Path;

/// Runs a script of the shell in a directory.
fn sh(dir: &Path, script: &str) {
    let mut shell = tool("sh").expect("there is a shell");
    shell.args(["-ec", script]).current_dir(dir);
    run(&mut shell).and_then(|done| done.success()).unwrap_or_else(|e| panic!("{script}: {e}"));
}

/// A directory with an authority.
fn authority() -> Scratch {
    let dir = Scratch::new().expect("a directory is made");
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem \
                  -subj /CN=CA -days 100 -addext keyUsage=critical,keyCertSign,cRLSign";
    sh(dir.path(), script);
    dir
}

/// Makes a certificate of version 1 from `csr`, as OpenSSL 3.5 does no more.
const VERSION_1: &str = "echo expiration_days=10 >template; certtool --generate-certificate --v1 \
                         --load-request csr --load-ca-certificate ca-cert.pem \
                         --load-ca-privkey ca-key.pem --template template --outfile";

/// A server's key and certificate. No `extensions` make version 1 of it, with SHA-256.
fn issue(dir: &Path, key: &str, digest: &str, extensions: &str) {
    fs::write(dir.join("extensions"), extensions).expect("it is written");
    let sign = match extensions {
        "" => format!("{VERSION_1} server-cert.pem"),
        _ => format!(
            "openssl x509 -req -in csr -CA ca-cert.pem -CAkey ca-key.pem -days 10 -{digest} \
             -extfile extensions -out server-cert.pem"
        ),
    };
    let script = format!(
        "openssl req -newkey {key} -nodes -keyout server-key.pem -out csr -subj /CN=localhost; {sign}"
    );
    sh(dir, &script);
}

fn nbdkit(dir: &Path) -> Server {
    let certificates = format!("--tls-certificates={}", dir.display());
    let arguments = [certificates.as_str(), "--tls=require", "memory", "1M"];
    Server::nbdkit(&arguments).tcp().start().expect("nbdkit starts")
}

const BOTH: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

const KEYS: &str = ", which is not accepted; take RSA with 2048 to 8192 bits, one of the curves \
                    P-256 and P-384, or Ed25519";

#[test]
fn a_servers_certificate_that_is_not_accepted_is_explained() {
    let anew = ", which is not accepted; have it signed anew with SHA-256";
    let signed =
        |how: &str| format!("it, or one between it and the authority, is signed with {how}{anew}");
    let address = "it has 127.0.0.1 as a host name and not as an address; have it issued with \
                   IP:127.0.0.1 in its subjectAltName";
    let critical = format!("{BOTH}\n1.2.3.4=critical,DER:0500");
    let ca = format!("{BOTH}\nbasicConstraints=CA:TRUE");
    let names = "subjectAltName=DNS:nbd.example,email:a@b";
    let cases = [
        ("rsa:2048", "sha1", BOTH, signed("SHA-1")),
        ("rsa:2048", "md5", BOTH, signed("MD5")),
        ("rsa:2048", "sha224", BOTH, signed("SHA-224")),
        (
            "rsa:2048",
            "sha256",
            "",
            "it is of X.509 version 1; have it issued as version 3, with a subjectAltName".into(),
        ),
        ("rsa:2048", "sha256", "subjectAltName=DNS:127.0.0.1", address.into()),
        ("rsa:2048", "sha256", "subjectAltName=DNS:x,DNS:127.0.0.1,DNS:y", address.into()),
        (
            "rsa:2048",
            "sha256",
            "subjectAltName=email:a@b",
            "it is not for \"127.0.0.1\": it has no subjectAltName for hosts, and the common \
             name does not count"
                .into(),
        ),
        ("rsa:2048", "sha256", names, "it is not for \"127.0.0.1\" but for nbd.example".into()),
        ("rsa:1536", "sha256", BOTH, format!("it has an RSA key of 1536 bits{KEYS}")),
        (
            "rsa:2048",
            "sha256",
            critical.as_str(),
            "it has a critical extension that is not known here".into(),
        ),
        (
            "rsa:2048",
            "sha256",
            ca.as_str(),
            "it is a CA certificate, which cannot be that of a host".into(),
        ),
    ];
    let dir = authority();
    for (key, digest, extensions, expected) in cases {
        issue(dir.path(), key, digest, extensions);
        let server = nbdkit(dir.path());
        let connector = connector(TlsConfig::new().directory(dir.path()));
        let error = refusal(tcp(&server), connector, Some("127.0.0.1"));
        assert_eq!(error, format!("the server's certificate is not accepted: {expected}"));
    }
}

/// A server that has no key for what we accept says nothing but goodbye.
#[test]
fn a_server_with_a_key_that_nobody_accepts_is_suspected() {
    let dir = authority();
    for key in ["ec -pkeyopt ec_paramgen_curve:P-224", "ed448"] {
        issue(dir.path(), key, "sha256", BOTH);
        let server = nbdkit(dir.path());
        let connector = connector(TlsConfig::new().directory(dir.path()));
        let error = refusal(tcp(&server), connector, Some("localhost"));
        let expected = "the server closed the connection during the TLS handshake: is it too old \
                        for TLS 1.2, has it a key that is not accepted here, or does it want a \
                        pre-shared key?";
        assert_eq!(error, expected);
    }
}

#[test]
fn a_file_that_is_something_else_is_told_what_it_is() {
    let dir = authority();
    let path = dir.path();
    issue(path, "rsa:2048", "sha256", BOTH);
    let one = |key: &str| {
        format!(
            "openssl req -x509 -newkey {key} -nodes -keyout client-key.pem -out client-cert.pem -subj /CN=x"
        )
    };
    let cases = [
        (
            "sed '$d' server-cert.pem >client-cert.pem",
            "client-cert.pem is cut off: the line -----END CERTIFICATE----- is missing",
        ),
        (
            "sed '3s/./!/' server-cert.pem >client-cert.pem",
            "client-cert.pem is damaged: what is between its BEGIN and its END is not base64",
        ),
        (
            "sed '3,5d' server-cert.pem >client-cert.pem",
            "client-cert.pem cannot be used: it is damaged, or no certificate at all",
        ),
        (
            "cp csr client-cert.pem",
            "client-cert.pem contains no certificate in PEM form but CERTIFICATE REQUEST",
        ),
        (
            "cp server-key.pem client-cert.pem",
            "client-cert.pem contains no certificate in PEM form but PRIVATE KEY",
        ),
        (
            "openssl x509 -in server-cert.pem -trustout -out client-cert.pem",
            "client-cert.pem contains no certificate in PEM form but TRUSTED CERTIFICATE",
        ),
        (
            "openssl x509 -in server-cert.pem -outform der -out client-cert.pem",
            "client-cert.pem contains no certificate in PEM form but bytes; if they are DER, `openssl` with `-inform der` converts them",
        ),
        (
            &format!("{VERSION_1} client-cert.pem"),
            "client-cert.pem cannot be used: it is of X.509 version 1; have it issued as version 3, with a subjectAltName",
        ),
        (
            "sed '$d' server-key.pem >client-key.pem",
            "client-key.pem is cut off: the line -----END PRIVATE KEY----- is missing",
        ),
        (
            "sed '3,5d' server-key.pem >client-key.pem",
            "client-key.pem is damaged, or no private key at all",
        ),
        (
            "openssl pkey -in server-key.pem -pubout -out client-key.pem",
            "client-key.pem contains no private key in PEM form but PUBLIC KEY",
        ),
        (
            "openssl pkey -in server-key.pem -outform der -out client-key.pem",
            "client-key.pem contains no private key in PEM form but bytes; if they are DER, `openssl` with `-inform der` converts them",
        ),
        (&one("rsa:1024"), &format!("client-key.pem is an RSA key of 1024 bits{KEYS}")),
        (&one("rsa-pss"), &format!("client-key.pem is an RSA-PSS key{KEYS}")),
        (&one("ed448"), &format!("client-key.pem is an Ed448 key{KEYS}")),
        (
            &one("ec -pkeyopt ec_paramgen_curve:secp256k1"),
            &format!("client-key.pem is an elliptic curve key on the curve secp256k1{KEYS}"),
        ),
        (
            "openssl dsaparam -genkey -out client-key.pem 2048",
            &format!("client-key.pem is a DSA key{KEYS}"),
        ),
    ];
    let shown = format!("{}/", path.display());
    for (script, expected) in cases {
        sh(path, "cp server-cert.pem client-cert.pem; cp server-key.pem client-key.pem");
        sh(path, script);
        let error = TlsConfig::new().directory(path).connector().expect_err("it is wrong");
        assert_eq!(error.to_string().replace(&shown, ""), expected);
    }
    // Nothing is wrong with these.
    for script in [
        "{ printf '\\357\\273\\277'; cat server-cert.pem; } >client-cert.pem",
        "sed 's/$/\\r/' server-cert.pem >client-cert.pem",
        "openssl pkey -in server-key.pem -traditional -out client-key.pem",
        &one("ed25519"),
        "openssl ecparam -name prime256v1 -genkey -out client-key.pem; \
         openssl req -x509 -key client-key.pem -out client-cert.pem -subj /CN=x",
    ] {
        sh(path, "cp server-cert.pem client-cert.pem; cp server-key.pem client-key.pem");
        sh(path, script);
        let sound = TlsConfig::new().directory(path).connector();
        sound.unwrap_or_else(|error| panic!("{script}: {error}"));
    }
}

#[test]
fn credentials_in_memory_may_be_in_der_form() {
    let dir = authority();
    let path = dir.path();
    issue(path, "rsa:2048", "sha256", BOTH);
    sh(
        path,
        "openssl x509 -in ca-cert.pem -outform der -out ca; \
         openssl x509 -in server-cert.pem -outform der -out certificate; \
         openssl pkey -in server-key.pem -outform der -out pkcs8; \
         openssl rsa -in server-key.pem -traditional -outform der -out pkcs1",
    );
    let bytes = |name: &str| fs::read(path.join(name)).expect("it is there");
    let der = |name: &str| Credentials::Der(vec![bytes(name)]);
    let server = nbdkit(path);
    let trusting = TlsConfig::new().authorities(der("ca"));
    for key in ["pkcs8", "pkcs1"] {
        let config = trusting.clone().identity(der("certificate"), der(key));
        negotiate(tcp(&server), require(), connector(config), Some("localhost")).expect("accepted");
        TlsServerConfig::identity(der("certificate"), der(key), None).acceptor().expect("sound");
    }
    let error = |config: TlsConfig| config.connector().expect_err("it is wrong").to_string();
    let own = |certificate, key| error(trusting.clone().identity(certificate, key));
    let nothing = || Credentials::Der(Vec::new());
    assert_eq!(
        error(TlsConfig::new().authorities(nothing())),
        "the CA certificate that was given is empty"
    );
    assert_eq!(own(der("certificate"), nothing()), "the private key that was given is empty");
    let two = Credentials::Der(vec![bytes("pkcs8"); 2]);
    assert_eq!(
        own(der("certificate"), two),
        "the private key that was given has 2 keys, and not one"
    );
    let damaged = "the private key that was given is damaged, or no private key at all";
    assert_eq!(own(der("certificate"), der("ca")), damaged);
    let damaged =
        "the certificate that was given cannot be used: it is damaged, or no certificate at all";
    assert_eq!(own(der("pkcs8"), der("pkcs8")), damaged);
}
