//! Credentials that cannot be used are told of before anything else happens.

use std::fs;
use std::path::Path;
use std::process::Command;

use nbd_sim::peer::{Scratch, run_within};

use crate::support::{LIMIT, NBD, TestResult, arg, fail, nbd};
use nbd_sim::peer::pki::Pki;

/// What `nbd serve` says of these credentials, with no socket left behind.
fn refused(args: &[&str]) -> Result<String, nbd_sim::peer::PeerError> {
    let scratch = Scratch::new()?;
    let socket = scratch.join("s");
    let place = ["serve", "--memory", "1M", "--unix", arg(&socket)];
    let error = fail(&[&place[..], args].concat())?;
    assert!(!socket.exists(), "it has listened");
    Ok(error)
}

#[test]
fn certificates() -> TestResult {
    type Spoil = fn(&Path, &Path);
    let spoiled: [(Spoil, &str, &str); 5] = [
        (|file, _| fs::remove_file(file).unwrap(), "server-key.pem", "are needed"),
        (|file, _| fs::write(file, "").unwrap(), "server-cert.pem", "is empty"),
        (|file, _| fs::write(file, "no PEM").unwrap(), "server-key.pem", "in PEM form"),
        (
            |file, other| {
                fs::copy(other, file).unwrap();
            },
            "server-key.pem",
            "does not belong to the certificate",
        ),
        (|file, _| fs::remove_file(file).unwrap(), "ca-cert.pem", "cannot read"),
    ];
    for (spoil, name, expected) in spoiled {
        let (pki, other) = (Pki::new(), Pki::new());
        let file = pki.dir().join(name);
        spoil(&file, &other.dir().join(name));
        let error = refused(&["--tls-certificates", pki.arg(), "--tls-verify-peer"])?;
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(arg(&file)), "{error}");
    }
    Ok(())
}

#[test]
fn keys() -> TestResult {
    let scratch = Scratch::new()?;
    let file = scratch.join("keys.psk");
    for (text, expected) in [
        ("bob 0011\n", ", line 1: not of the form username:hexkey"),
        ("# alice\nbob:xyz\n", ", line 2: the key is not an even number of hexadecimal digits"),
        ("\n", " is empty"),
    ] {
        fs::write(&file, text).unwrap();
        let error = refused(&["--tls-psk", arg(&file)])?;
        assert_eq!(error, format!("nbd: {}{expected}", file.display()));
    }
    fs::remove_file(&file).unwrap();
    let error = refused(&["--tls-psk", arg(&file)])?;
    assert!(error.starts_with("nbd: cannot read "), "{error}");
    assert!(error.contains(arg(&file)), "{error}");
    Ok(())
}

/// A sound key is no use to a program that cannot do anything with it.
#[cfg(not(feature = "psk"))]
#[test]
fn a_program_without_keys_tells_how_to_get_one_with() -> TestResult {
    let scratch = Scratch::new()?;
    let file = scratch.join("keys.psk");
    fs::write(&file, "alice:000102030405060708090a0b0c0d0e0f\n").unwrap();
    let uri = format!("nbds://alice@127.0.0.1:1/?tls-psk-file={}", file.display());
    for error in [refused(&["--tls-psk", arg(&file)])?, fail(&["info", &uri])?] {
        assert!(error.contains("build it with feature `psk`"), "{error}");
        assert!(error.contains("libssl-dev"), "{error}");
    }
    Ok(())
}

/// Nobody listens at these addresses, and nobody is tried.
#[test]
fn those_of_clients() -> TestResult {
    let (pki, empty) = (Pki::new(), Scratch::new()?);
    let nowhere = "nbds+unix:///?socket=/nowhere&tls-certificates=";
    let uri = format!("{nowhere}{}", empty.path().display());
    for args in
        [&["info", &uri][..], &["bench", &uri], &["copy", &uri, "null:"], &["copy", "null:", &uri]]
    {
        let error = fail(args)?;
        assert!(error.contains(arg(&empty.join("ca-cert.pem"))), "{args:?}: {error}");
    }
    fs::remove_file(pki.dir().join("client-key.pem")).unwrap();
    let error = fail(&["info", &format!("{nowhere}{}", pki.arg())])?;
    assert!(error.contains("both are needed"), "{error}");
    Ok(())
}

/// Without credentials the system's authorities are trusted; without those, nobody is.
#[test]
fn a_system_without_authorities() -> TestResult {
    let empty = Scratch::new()?;
    let file = empty.join("none.pem");
    fs::write(&file, "").unwrap();
    let mut program = Command::new(NBD);
    program.env("SSL_CERT_FILE", &file).env("SSL_CERT_DIR", empty.path());
    program.env("HOME", empty.path()).args(["info", "nbds+unix:///?socket=/nowhere"]);
    let finished = run_within(LIMIT, &mut program)?;
    let words = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "{words}");
    assert!(words.contains("the system has no trusted certificate authorities"), "{words}");
    assert!(words.trim_end().ends_with("name a directory instead"), "{words}");
    Ok(())
}

#[test]
fn options_that_make_no_sense_together() -> TestResult {
    let place = ["serve", "--memory", "1M", "--unix", "/nowhere/s"];
    for (args, expected) in [
        (&["--tls-verify-peer"][..], "--tls-certificates"),
        (&["--tls", "require"], "--tls-certificates"),
        (&["--tls-psk", "a", "--tls-certificates", "b"], "cannot be used with"),
        (&["--tls-psk", "a", "--tls-verify-peer"], "cannot be used with"),
        (&["--tls-psk", "a", "--tls", "maybe"], "[possible values: require, allow]"),
    ] {
        let finished = nbd(&[&place[..], args].concat())?;
        let words = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {words}");
        assert!(words.contains(expected), "{args:?}: {words}");
    }
    Ok(())
}
