//! What servers refuse in the negotiation: the number, and their own words.

use nbd_client_blocking::proto::{ClientConfig, RefusalCode, TlsPolicy};
use nbd_client_blocking::{Client, Error, Options, proto};
use nbd_sim::peer::{Scratch, Server};

use crate::support::{MIB, Qemu, defaults, nbdkit, negotiate, qemu};
use nbd_sim::peer::pki::Pki;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const ENOTSUP: i32 = 95;

type Ask = fn(&mut Options) -> Result<(), Error>;

fn refusal(error: &Error) -> &proto::Refusal {
    error.refusal().unwrap_or_else(|| panic!("not a refusal: {error}"))
}

#[test]
fn unknown_export() {
    let Qemu { server, .. } = &qemu(MIB, &["-x", "hello"]);
    let mut options = negotiate(server, ClientConfig::new());
    options.set_export_name("nowhere").expect("the name is sound");
    for error in [options.info().expect_err("no such export"), {
        let failed = options.go().expect_err("no such export");
        options = *failed.options.expect("it goes on");
        failed.error
    }] {
        assert_eq!(error.errno(), ENOENT, "{error}");
        assert_eq!(refusal(&error).code, RefusalCode::UnknownExport);
        assert!(refusal(&error).message.contains("nowhere"), "the server's words: {error}");
        assert!(error.to_string().contains(&refusal(&error).message), "{error}");
    }
    options.set_export_name("hello").expect("the name is sound");
    let client = options.go().expect("it is there");
    assert_eq!(client.session().export_name(), "hello");
    // Without option mode the refusal is the end.
    let error = defaults()
        .uri(&server.export_uri("nowhere"))
        .and_then(Client::connect)
        .expect_err("no such export");
    assert_eq!(error.errno(), ENOENT, "{error}");
}

#[test]
fn block_sizes_must_be_asked_for() {
    // Without -f the format is probed, and the first sector must not be written to.
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk", MIB).expect("an image is made");
    let server = Server::qemu_nbd(&[]).arg(image).start().expect("qemu-nbd starts");
    let mut options = negotiate(&server, ClientConfig::new().block_sizes(false));
    let error = options.info().expect_err("it wants to be asked");
    assert_eq!(refusal(&error).code, RefusalCode::BlockSizeRequired, "{error}");
    assert_eq!(error.errno(), EINVAL);
    options.reconfigure(|config| config.block_sizes(true)).expect("nothing is wrong with it");
    assert_eq!(
        options.info().expect("now it was asked").export.expect("told").minimum_block(),
        512
    );
}

#[test]
fn tls_wanted_and_tls_refused() {
    let pki = Pki::new();
    let certificates = format!("--tls-certificates={}", pki.dir().display());
    let forced = nbdkit(&["--tls=require", &certificates, "memory", "1M"]);
    let mut options = negotiate(&forced, ClientConfig::new());
    for error in
        [options.list().expect_err("not in clear"), options.info().expect_err("not in clear")]
    {
        assert_eq!(refusal(&error).code, RefusalCode::TlsRequired, "{error}");
        assert_eq!(error.errno(), ENOTSUP);
    }
    let error = defaults().uri(&forced.uri()).and_then(Client::connect).expect_err("not in clear");
    assert_eq!(error.errno(), ENOTSUP, "{error}");
    assert!(error.to_string().contains("wants TLS"), "{error}");

    let Qemu { server, .. } = &qemu(MIB, &[]);
    let config = ClientConfig::new().tls(TlsPolicy::Require);
    let error = defaults()
        .config(config)
        .uri(&server.uri())
        .and_then(Client::connect)
        .expect_err("it has no TLS");
    assert_eq!(refusal(&error).code, RefusalCode::Policy, "{error}");
    assert_eq!(error.errno(), EPERM);
    assert!(!refusal(&error).message.is_empty(), "the server's words: {error}");
    let mut options = negotiate(server, ClientConfig::new());
    assert!(!options.start_tls().expect("a refusal is an answer"));
    options.list().expect("the connection is unharmed");
    for older in [&["-o", "memory", "1M"][..], &["--mask-handshake=0", "memory", "1M"]] {
        let server = nbdkit(older);
        let config = ClientConfig::new().tls(TlsPolicy::Require);
        let error = defaults()
            .config(config)
            .uri(&server.uri())
            .and_then(Client::connect)
            .expect_err("it has none");
        assert_eq!(error.errno(), ENOTSUP, "{error}");
        assert!(error.to_string().contains("older protocol"), "{error}");
    }
}

#[test]
fn a_list_that_policy_forbids() {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk", MIB).expect("an image is made");
    let exports = format!("[one]\nexportname = {}\n", image.display());
    let server = Server::nbd_server(&exports)
        .generic("allowlist = false")
        .start()
        .expect("nbd-server starts");
    let mut options = negotiate(&server, ClientConfig::new());
    let error = options.list().expect_err("it is forbidden");
    assert_eq!(refusal(&error).code, RefusalCode::Policy, "{error}");
    assert_eq!(error.errno(), EPERM);
    options.set_export_name("one").expect("the name is sound");
    options.go().expect("it can be chosen all the same").disconnect().expect("an orderly end");
}

/// Who speaks no fixed newstyle cannot be asked anything.
#[test]
fn servers_that_cannot_be_asked() {
    let server = nbdkit(&["--mask-handshake=0", "memory", "1M"]);
    let mut options = negotiate(&server, ClientConfig::new());
    let asks: [Ask; 6] = [
        |options| options.list().map(drop),
        |options| options.info().map(drop),
        |options| options.list_meta_contexts(&[]).map(drop),
        |options| options.structured_replies().map(drop),
        |options| options.extended_headers().map(drop),
        |options| options.start_tls().map(drop),
    ];
    for ask in asks {
        let error = ask(&mut options).expect_err("it cannot be asked");
        assert_eq!(error.errno(), ENOTSUP, "{error}");
        assert!(error.to_string().contains("fixed newstyle"), "{error}");
    }
    options.go().expect("what is left").read_exact_at(&mut [0; 512], 0).expect("it reads");
    let error = negotiate(&server, ClientConfig::new()).abort().expect_err("not even that");
    assert_eq!(error.errno(), ENOTSUP, "{error}");

    let oldstyle = nbdkit(&["-o", "memory", "1M"]);
    let mut options = negotiate(&oldstyle, ClientConfig::new());
    assert!(!options.is_negotiating());
    assert_eq!(options.list().expect_err("it has chosen").errno(), EINVAL);
    options.go().expect("what is left").read_exact_at(&mut [0; 512], 0).expect("it reads");
}

#[test]
fn names_that_cannot_be_sent() {
    let server = nbdkit(&["memory", "1M"]);
    let long = "x".repeat(4097);
    let table =
        [(long.as_str(), ENAMETOOLONG, "longer than 4096 bytes"), ("a\0b", EINVAL, "with NUL")];
    let mut options = negotiate(&server, ClientConfig::new());
    for (name, errno, words) in table {
        let errors = [
            Client::connect_over(defaults().export(name), unconnected()).expect_err("a bad name"),
            Client::connect_over(defaults().meta_context(name), unconnected())
                .expect_err("a bad name"),
            options.set_export_name(name).expect_err("a bad name"),
            options.list_meta_contexts(&[name]).expect_err("a bad name"),
            options.set_meta_contexts(&[name]).expect_err("a bad name"),
            options.reconfigure(|config| config.meta_context(name)).expect_err("a bad name"),
        ];
        for error in errors {
            assert_eq!(error.errno(), errno, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    // 4096 bytes are sound, and a server may still not like them.
    options.set_export_name("x".repeat(4096)).expect("as long as it may be");
    options.list().expect("the connection is unharmed");
}

/// A connection whose other end is silent.
fn unconnected() -> nbd_client_blocking::transport::Connection {
    let (near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair is made");
    nbd_client_blocking::transport::Connection::from_socket(near.into()).expect("it is connected")
}

#[test]
fn contexts_need_structured_replies() {
    let server = nbdkit(&["--no-sr", "memory", "1M"]);
    let mut options = negotiate(&server, ClientConfig::new());
    assert!(!options.structured_replies().expect("a refusal is an answer"));
    let error = options.list_meta_contexts(&[]).expect_err("not without");
    assert_eq!(error.errno(), ENOTSUP, "{error}");
    assert!(error.to_string().contains("need structured replies"), "{error}");
    // Asked for automatically they are done without.
    let config = ClientConfig::new().meta_context("base:allocation");
    let client = defaults()
        .config(config)
        .uri(&server.uri())
        .and_then(Client::connect)
        .expect("all the same");
    assert!(client.context("base:allocation").is_none());
}
