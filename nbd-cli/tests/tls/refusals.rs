//! Clients and servers that do not know each other: one line tells why, and the
//! server lives on.

use nbd_sim::peer::{Server, run, tool};

use crate::support::{Serving, TestResult, fail, succeed};
use nbd_sim::peer::pki::Pki;

/// The server still serves those who fit.
fn assert_lives(server: &Serving, pki: &Pki) -> TestResult {
    assert_eq!(succeed(&["info", "--size", &server.with(pki.dir())])?, "12582912");
    Ok(())
}

#[test]
fn clients_in_clear_are_refused() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    let error = fail(&["info", &server.plain()])?;
    assert!(error.contains("the server wants TLS first"), "{error}");
    let error = fail(&["copy", &server.plain(), "null:"])?;
    assert!(error.contains("the server wants TLS"), "{error}");
    // Not `--size`: what nbdinfo says there of a server that refuses changes with its releases.
    for (args, words) in
        [(["nbdinfo", "--map"], "requires TLS encryption first"), (["qemu-img", "info"], "TLS")]
    {
        let finished = run(tool(args[0])?.args([args[1], &server.plain()]))?;
        assert!(!finished.status.success(), "{args:?}");
        let said = String::from_utf8_lossy(&finished.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_lives(&server, &pki)
}

#[test]
fn a_wrong_authority() -> TestResult {
    let (pki, other) = (Pki::new(), Pki::new());
    for server in [
        Serving::unix(&["--tls-certificates", pki.arg()]),
        Serving::tcp(&["--tls-certificates", pki.arg()]),
    ] {
        let error = fail(&["info", &server.with(other.dir())])?;
        assert!(error.contains("the server's certificate is not accepted"), "{error}");
        assert!(error.contains("wrong CA?"), "{error}");
        let said = server.said(1);
        assert!(said[0].contains("the client refused: "), "{said:?}");
        assert_lives(&server, &pki)?;
        assert_eq!(server.said(1).len(), 1);
    }
    Ok(())
}

#[test]
fn a_wrong_name() -> TestResult {
    let pki = Pki::with_server(&["disk.example"]);
    let server = Serving::tcp(&["--tls-certificates", pki.arg()]);
    let error = fail(&["info", &server.with(pki.dir())])?;
    let expected = "it is not for \"127.0.0.1\" but for disk.example";
    assert!(error.ends_with(expected), "{error}");
    let named = server.with(pki.dir()) + "&tls-hostname=disk.example";
    assert_eq!(succeed(&["info", "--size", &named])?, "12582912");
    Ok(())
}

#[test]
fn no_client_certificate_or_that_of_a_stranger() -> TestResult {
    let pki = Pki::new();
    let nobody = pki.trust_only();
    for server in [
        Serving::unix(&["--tls-certificates", pki.arg(), "--tls-verify-peer"]),
        Serving::tcp(&["--tls-certificates", pki.arg(), "--tls-verify-peer"]),
    ] {
        let error = fail(&["info", &server.with(nobody.path())])?;
        assert!(error.contains("the server refused: "), "{error}");
        assert!(error.contains("client certificate"), "{error}");
        let said = server.said(1);
        assert!(said[0].contains("the client's certificate is not accepted: "), "{said:?}");
        let stranger = Pki::new();
        std::fs::copy(nobody.join("ca-cert.pem"), stranger.dir().join("ca-cert.pem")).unwrap();
        let error = fail(&["info", &server.with(stranger.dir())])?;
        assert!(error.contains("the server refused: "), "{error}");
        assert_eq!(server.said(2).len(), 2);
        assert_lives(&server, &pki)?;
    }
    Ok(())
}

#[test]
fn a_server_without_tls() -> TestResult {
    let pki = Pki::new();
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri().replacen("nbd", "nbds", 1);
    let error = fail(&["info", &format!("{uri}&tls-certificates={}", pki.arg())])?;
    assert!(error.contains("STARTTLS"), "{error}");
    Ok(())
}
