//! nbdinfo, nbdcopy and qemu-img, with certificates.

use std::fs;
use std::path::Path;

use nbd_sim::peer::{Finished, PeerError, Scratch, run, tool};

use crate::support::{Serving, TestResult, arg, assert_same, image};
use nbd_sim::peer::pki::Pki;

/// A server with certificates, and the two ways it may treat its clients.
fn servers(pki: &Pki) -> [Serving; 2] {
    let certificates = ["--tls-certificates", pki.arg()];
    [
        Serving::unix(&certificates),
        Serving::unix(&[certificates[0], certificates[1], "--tls-verify-peer"]),
    ]
}

#[test]
fn nbdinfo_finds_tls() -> TestResult {
    let pki = Pki::new();
    for server in servers(&pki) {
        let json = run(tool("nbdinfo")?.args(["--json", &server.with(pki.dir())]))?.success()?;
        assert!(json.contains(r#""TLS": true"#), "{json}");
        assert!(json.contains(r#""structured": true"#), "{json}");
        assert!(json.contains(r#""export-size": 12582912"#), "{json}");
        assert_eq!(server.log(), "");
    }
    Ok(())
}

#[test]
fn nbdinfo_in_each_version_of_tls() -> TestResult {
    let pki = Pki::new();
    let scratch = Scratch::new()?;
    let server = Serving::tcp(&["--tls-certificates", pki.arg(), "--tls-verify-peer"]);
    let not_one_two = "tls1.2\ndisabled-version = tls1.1\ndisabled-version = tls1.0";
    for disabled in ["tls1.3", not_one_two] {
        let rules = scratch.join("priority");
        fs::write(&rules, format!("[overrides]\ndisabled-version = {disabled}\n")).unwrap();
        let mut nbdinfo = tool("nbdinfo")?;
        nbdinfo.env("GNUTLS_SYSTEM_PRIORITY_FILE", &rules);
        let size = run(nbdinfo.args(["--size", &server.with(pki.dir())]))?.success()?;
        assert_eq!(size, "12582912", "without {disabled}");
    }
    Ok(())
}

#[test]
fn nbdcopy_there_and_back() -> TestResult {
    let pki = Pki::new();
    let scratch = Scratch::new()?;
    let (from, to) = (image(&scratch), scratch.join("back"));
    for server in servers(&pki) {
        let uri = server.with(pki.dir());
        for (from, to) in [(arg(&from), uri.as_str()), (&uri, arg(&to))] {
            let speed = ["--connections=3", "--threads=3", "--requests=64"];
            run(tool("nbdcopy")?.args(speed).args([from, to]))?.success()?;
        }
        assert_same(&from, &to);
        assert_eq!(server.log(), "");
        fs::remove_file(&to).unwrap();
    }
    Ok(())
}

/// Runs qemu-img with the credentials in a directory.
fn qemu_img(verb: &str, priority: &str, dir: &Path, args: &[&str]) -> Result<Finished, PeerError> {
    let credentials =
        format!("tls-creds-x509,id=t,endpoint=client,dir={}{priority}", dir.display());
    run(tool("qemu-img")?.args([verb, "--object", &credentials]).args(args))
}

/// The server and its name as qemu-img wants them.
fn node(server: &Serving) -> String {
    server.node() + ",file.tls-hostname=localhost"
}

#[test]
fn qemu_img_there_and_back_in_each_version_of_tls() -> TestResult {
    let pki = Pki::new();
    let scratch = Scratch::new()?;
    let (from, to) = (image(&scratch), scratch.join("back"));
    for server in servers(&pki) {
        for priority in ["", ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.2"] {
            let node = node(&server);
            let run = |verb, args: &[&str]| qemu_img(verb, priority, pki.dir(), args)?.success();
            run("convert", &["-f", "raw", "-n", "--target-image-opts", arg(&from), &node])?;
            run("convert", &["--image-opts", "-O", "raw", &node, arg(&to)])?;
            assert_same(&from, &to);
            fs::remove_file(&to).unwrap();
        }
    }
    Ok(())
}

#[test]
fn those_without_a_certificate_are_turned_away_where_one_is_needed() -> TestResult {
    let pki = Pki::new();
    let nobody = pki.trust_only();
    let [anybody, known] = servers(&pki);
    let size =
        |server: &Serving, dir: &Path| run(tool("nbdinfo")?.args(["--size", &server.with(dir)]));
    assert_eq!(size(&anybody, nobody.path())?.success()?, "12582912");
    qemu_img("info", "", nobody.path(), &["--image-opts", &node(&anybody)])?.success()?;
    assert!(!size(&known, nobody.path())?.status.success());
    assert!(
        !qemu_img("info", "", nobody.path(), &["--image-opts", &node(&known)])?.status.success()
    );
    // One of another authority, which the clients themselves trust the server by.
    let stranger = Pki::new();
    fs::copy(pki.dir().join("ca-cert.pem"), stranger.dir().join("ca-cert.pem")).unwrap();
    assert!(!size(&known, stranger.dir())?.status.success());
    let said = known.said(3);
    assert_eq!(said.len(), 3, "{said:?}");
    let expected = "the client's certificate is not accepted: ";
    assert!(said.iter().all(|line| line.contains(expected)), "{said:?}");
    // The server lives on.
    assert_eq!(size(&known, pki.dir())?.success()?, "12582912");
    Ok(())
}
