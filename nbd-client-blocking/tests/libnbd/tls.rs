//! TLS through the builder and through URIs.

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::TlsPolicy;
use nbd_client_blocking::transport::tls::{ServerCheck, TlsConfig};

use crate::support::{defaults, nbdkit, with_local_files};
use nbd_sim::peer::pki::Pki;

fn serve(pki: &Pki, mode: &str) -> nbd_sim::peer::Server {
    let certificates = format!("--tls-certificates={}", pki.dir().display());
    nbdkit(&[&format!("--tls={mode}"), &certificates, "memory", "1M"])
}

#[test]
fn by_uri_with_files() {
    let pki = Pki::new();
    let server = serve(&pki, "require");
    let path = server.unix_path().expect("it has a socket").display().to_string();
    let dir = pki.dir().display();
    let uri = format!(
        "nbds+unix://alice@/disk?socket={path}&tls-certificates={dir}&tls-hostname=localhost"
    );
    let error = defaults()
        .uri(&uri)
        .and_then(Client::connect)
        .expect_err("local files are for those who allow them");
    assert_eq!(error.errno(), 1, "{error}");
    let policy = with_local_files();
    let mut client =
        defaults().uri_policy(policy).uri(&uri).and_then(Client::connect).expect("it accepts");
    assert!(client.negotiated().tls && client.session().tls_info().is_some());
    client.write_all_at(&[6; 65536], 0).expect("it is written");
    let mut data = [0; 65536];
    client.read_exact_at(&mut data, 0).expect("it is read");
    assert_eq!(data, [6; 65536]);
    let back = client.to_uri().expect("it has one");
    assert!(back.tls_required());
    assert_eq!(back.username(), Some("alice"));
    assert_eq!(back.tls().certificates.as_deref(), Some(pki.dir()));
    let again = defaults()
        .uri_policy(policy)
        .uri(&back.to_string())
        .and_then(Client::connect)
        .expect("it leads there");
    assert_eq!(again.to_uri().expect("it has one"), back);
    again.disconnect().expect("an orderly end");
    client.disconnect().expect("an orderly end");
    // Another name than the certificate's.
    let wrong = uri.replace("=localhost", "=elsewhere");
    let error = defaults()
        .uri_policy(policy)
        .uri(&wrong)
        .and_then(Client::connect)
        .expect_err("not its name");
    assert_eq!(error.errno(), 107, "{error}");
    let unchecked = format!("{wrong}&tls-verify-peer=false");
    defaults().uri_policy(policy).uri(&unchecked).and_then(Client::connect).expect("nobody looks");
    // Credentials that are not there.
    let nowhere = format!("nbds+unix:///?socket={path}&tls-certificates=/nowhere");
    let error = defaults()
        .uri_policy(policy)
        .uri(&nowhere)
        .and_then(Client::connect)
        .expect_err("no files");
    assert_eq!(error.errno(), 22, "{error}");
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[test]
fn by_builder_and_policy() {
    let pki = Pki::new();
    let config = TlsConfig::new().directory(pki.dir()).username("alice");
    let connector = config.clone().server_name("localhost").connector().expect("sound files");
    let plain = nbdkit(&["--tls=off", "memory", "1M"]);
    let on = serve(&pki, "on");
    for (policy, server, tls) in [
        (TlsPolicy::Disable, &on, Some(false)),
        (TlsPolicy::Allow, &on, Some(true)),
        (TlsPolicy::Require, &on, Some(true)),
        (TlsPolicy::Allow, &plain, Some(false)),
        (TlsPolicy::Require, &plain, None),
    ] {
        let builder = defaults().tls_connector(policy, connector.clone());
        let result = builder.uri(&server.uri()).and_then(Client::connect);
        assert_eq!(result.ok().map(|client| client.negotiated().tls), tls, "{policy:?}");
    }
    let elsewhere = Pki::new();
    let stranger = TlsConfig::new().directory(elsewhere.dir()).server_name("localhost");
    let stranger = stranger.connector();
    assert!(stranger.is_ok(), "files that are sound, of another authority");
    let error = defaults()
        .tls_connector(TlsPolicy::Allow, stranger.expect("they are sound"))
        .uri(&on.uri())
        .and_then(Client::connect)
        .expect_err("not even where clear is allowed");
    assert_eq!(error.errno(), 107, "{error}");
    let lax = config.server_check(ServerCheck::AnyName).connector().expect("sound files");
    let client =
        defaults().tls_connector(TlsPolicy::Require, lax).uri(&on.uri()).and_then(Client::connect);
    assert!(client.expect("any name will do").session().tls_info().is_some());
}

#[cfg(feature = "psk")]
#[test]
fn by_a_key_known_to_both() {
    let scratch = nbd_sim::peer::Scratch::new().expect("a directory is made");
    let file = scratch.join("keys.psk");
    std::fs::write(&file, format!("alice:{}\n", "ab".repeat(32))).expect("it is written");
    let server =
        nbdkit(&["--tls=require", &format!("--tls-psk={}", file.display()), "memory", "1M"]);
    let connector = TlsConfig::new().psk_file(&file).username("alice").connector();
    let mut client = defaults()
        .tls_connector(TlsPolicy::Require, connector.expect("the user has a key"))
        .uri(&server.uri())
        .and_then(Client::connect)
        .expect("it accepts");
    client.read_exact_at(&mut [0; 512], 0).expect("it is read");
    let info = client.session().tls_info().expect("it is in use").to_string();
    assert!(info.contains("alice"), "{info}");
    let path = server.unix_path().expect("it has a socket").display().to_string();
    let uri = format!("nbds+unix://alice@/?socket={path}&tls-psk-file={}", file.display());
    let client = defaults()
        .uri_policy(with_local_files())
        .uri(&uri)
        .and_then(Client::connect)
        .expect("it accepts");
    assert_eq!(client.to_uri().expect("it has one").username(), Some("alice"));
}
