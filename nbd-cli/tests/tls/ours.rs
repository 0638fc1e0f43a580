//! This program's own commands behind TLS.

use std::fs;

use nbd_client_blocking::transport::UriPolicy;
use nbd_client_blocking::{Client, ConnectOptions};
use nbd_sim::peer::{Scratch, run, tool};

use crate::support::{LIMIT, Serving, TestResult, arg, assert_same, image, succeed};
use nbd_sim::peer::pki::Pki;

#[test]
fn the_printed_uri_asks_for_tls() {
    let pki = Pki::new();
    for policy in ["require", "allow"] {
        let args = ["--tls-certificates", pki.arg(), "--tls", policy];
        let unix = Serving::unix(&args);
        assert!(unix.printed().starts_with("nbds+unix:///?socket=/"), "{}", unix.printed());
        let tcp = Serving::tcp(&args);
        assert!(tcp.printed().starts_with("nbds://127.0.0.1:"), "{}", tcp.printed());
    }
}

#[test]
fn info_tells_of_tls() -> TestResult {
    let pki = Pki::new();
    let server = Serving::tcp(&["--tls-certificates", pki.arg(), "--tls-verify-peer"]);
    let uri = server.with(pki.dir());
    let text = succeed(&["info", &uri])?;
    let mut openssl = tool("openssl")?;
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    let shown = run(openssl.arg(pki.dir().join("server-cert.pem")))?.success()?;
    let (_, fingerprint) = shown.trim().split_once('=').expect("NAME=DIGEST");
    let expected = format!(
        "protocol: newstyle-fixed with TLS, using extended packets\n\
         tls: TLS 1.3 with TLS13_AES_128_GCM_SHA256\n\
         server: localhost, SHA-256 {fingerprint}\n"
    );
    assert!(text.starts_with(&expected), "{text}");
    let json = succeed(&["info", "--json", &uri])?;
    for expected in [
        r#""TLS": true"#,
        r#""TLS-version": "TLS 1.3""#,
        r#""TLS-cipher-suite": "TLS13_AES_128_GCM_SHA256""#,
        &format!(r#""TLS-server-sha256": "{fingerprint}""#),
    ] {
        assert!(json.contains(expected), "{json}");
    }
    let list = succeed(&["info", "--list", &uri])?;
    assert!(list.contains("\tdescription: 12M of memory\n"), "{list}");
    assert_eq!(server.log(), "");
    Ok(())
}

#[test]
fn every_parameter_of_the_uri_counts() -> TestResult {
    let pki = Pki::with_server(&["disk.example"]);
    let server = Serving::tcp(&["--tls-certificates", pki.arg()]);
    let certificates = format!("tls-certificates={}", pki.dir().display());
    for parameter in ["tls-hostname=disk.example", "tls-verify-peer=false"] {
        let uri = server.uri(&[&certificates, parameter]);
        assert_eq!(succeed(&["info", "--size", &uri])?, "12582912");
    }
    Ok(())
}

#[test]
fn copies_come_back_the_same() -> TestResult {
    let pki = Pki::new();
    let scratch = Scratch::new()?;
    let (from, to) = (image(&scratch), scratch.join("back"));
    let certificates = ["--tls-certificates", pki.arg()];
    for server in [Serving::tcp(&certificates), Serving::unix(&certificates)] {
        let second = Serving::unix(&certificates);
        let [uri, other] = [&server, &second].map(|server| server.with(pki.dir()));
        succeed(&["copy", arg(&from), &uri])?;
        succeed(&["copy", &uri, &other])?;
        succeed(&["copy", &other, arg(&to)])?;
        assert_same(&from, &to);
        // What arrived, as another program sees it.
        fs::remove_file(&to).unwrap();
        run(tool("nbdcopy")?.args([&uri, arg(&to)]))?.success()?;
        assert_same(&from, &to);
        assert_eq!((server.log(), second.log()), (String::new(), String::new()));
        fs::remove_file(&to).unwrap();
    }
    Ok(())
}

/// The server answers so many requests at a time, and TLS hands over what is
/// behind them only when it is asked to.
#[test]
fn more_requests_than_the_server_takes_at_once() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    for (rw, size, depth) in
        [("write", "512", "4096"), ("read", "512", "4096"), ("read", "1M", "64")]
    {
        let count = if size == "1M" { "256" } else { "20000" };
        let args = ["bench", "--rw", rw, "--size", size, "--depth", depth];
        let uri = server.with(pki.dir());
        succeed(&[&args[..], &["--connections=2", "--count", count, &uri]].concat())?;
    }
    assert_eq!(server.log(), "");
    Ok(())
}

#[test]
fn where_tls_is_allowed_clients_choose() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg(), "--tls", "allow"]);
    let plain = server.plain();
    let text = succeed(&["info", &plain])?;
    assert!(text.contains("newstyle-fixed without TLS") && !text.contains("tls:"), "{text}");
    assert!(succeed(&["info", &server.with(pki.dir())])?.contains("newstyle-fixed with TLS"));
    let size = run(tool("nbdinfo")?.args(["--size", &plain]))?.success()?;
    assert_eq!(size, "12582912");
    assert_eq!(server.log(), "");
    Ok(())
}

fn connect(uri: &str) -> Client {
    let policy = UriPolicy::default().local_files(true);
    let options = ConnectOptions::new().uri_policy(policy);
    let options = options.connect_timeout(LIMIT).request_timeout(LIMIT);
    options.uri(uri).and_then(Client::connect).unwrap_or_else(|error| panic!("{error}"))
}

/// An end without `close_notify` could be the work of somebody in between.
#[test]
fn a_server_that_stops_says_so() {
    let pki = Pki::new();
    for args in [
        &["--tls-certificates", pki.arg()][..],
        &["--tls-certificates", pki.arg(), "--tls-verify-peer"],
    ] {
        let server = Serving::tcp(args);
        let mut client = connect(&server.with(pki.dir()));
        client.write_all_at(&[7; 512], 4096).expect("it is writable");
        server.terminate();
        let error = loop {
            match client.read_exact_at(&mut [0; 512], 4096) {
                Ok(()) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(!error.contains("cut off"), "{error}");
        assert_eq!(server.log(), "");
    }
}
