//! Option mode in all its parts.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{ClientConfig, HeaderStyle, MetaContext, TlsPolicy};
use nbd_client_blocking::transport::Connection;
use nbd_client_blocking::transport::tls::TlsConfig;
use nbd_client_blocking::{ConnectOptions, Options, State};
use nbd_sim::peer::{Scratch, Server, run, tool};

use crate::support::{MIB, Qemu, defaults, nbdkit, negotiate, qemu};
use nbd_sim::peer::pki::Pki;

fn names(contexts: &[MetaContext]) -> Vec<&str> {
    contexts.iter().map(|context| context.name.as_str()).collect()
}

/// A qcow2 image with two bitmaps, and the allocation depth besides.
fn qcow2() -> (Server, Scratch) {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.qcow2_image("disk", MIB).expect("an image is made");
    for bitmap in ["monday", "tuesday"] {
        let mut add = tool("qemu-img").expect("it is installed");
        add.args(["bitmap", "--add", "--enable", "-f", "qcow2"]).arg(&image).arg(bitmap);
        run(&mut add).and_then(|done| done.success()).expect("the bitmap is added");
    }
    let server = Server::qemu_nbd(&["-f", "qcow2", "-A", "-B", "monday", "-B", "tuesday"])
        .arg(image)
        .start()
        .expect("qemu-nbd starts");
    (server, scratch)
}

#[test]
fn as_often_as_one_likes() {
    let Qemu { server, .. } = &qemu(MIB, &["-x", "hello", "-D", "world"]);
    let mut options = negotiate(server, ClientConfig::new().full_info(true));
    options.set_export_name("hello").expect("the name is sound");
    assert_eq!(options.state(), State::Choosing);
    for _ in 0..50 {
        let exports = options.list().expect("it lists");
        assert_eq!((exports.len(), exports[0].name.as_str()), (1, "hello"));
        assert_eq!(exports[0].description, "world");
        let told = options.info().expect("it tells").export.expect("the export");
        assert_eq!(told.size, MIB);
        assert_eq!(told.canonical_name.as_deref(), Some("hello"));
        assert_eq!(told.description.as_deref(), Some("world"));
    }
    options.go().expect("it is there").disconnect().expect("an orderly end");
}

#[test]
fn abort_ends_in_good_order() {
    let server = nbdkit(&["-v", "memory", "1M"]);
    let options = negotiate(&server, ClientConfig::new());
    options.abort().expect("an orderly end");
    let end = Instant::now() + Duration::from_secs(60);
    while !server.log().contains("NBD_OPT_ABORT") {
        assert!(Instant::now() < end, "{}", server.log());
        thread::sleep(Duration::from_millis(1));
    }
    negotiate(&server, ClientConfig::new()).go().expect("the server lives on");
}

#[test]
fn contexts_listed_by_query_and_as_configured() {
    let (server, _scratch) = qcow2();
    let config = ClientConfig::new().meta_context("qemu:dirty-bitmap:").meta_context("base:");
    let mut options = negotiate(&server, config);
    assert_eq!(options.config().meta_contexts(), ["qemu:dirty-bitmap:", "base:"]);
    let all = options.list_meta_contexts(&[]).expect("it lists");
    assert_eq!(all.len(), 4, "{all:?}");
    let bitmaps = options.list_meta_contexts(&["qemu:dirty-bitmap:"]).expect("it lists");
    let mut found = names(&bitmaps);
    found.sort_unstable();
    assert_eq!(found, ["qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"]);
    let standing = options.list_configured_meta_contexts().expect("it lists");
    assert_eq!(standing.len(), 3, "{standing:?}");
    assert!(options.list_meta_contexts(&["qemu:nothing"]).expect("it lists").is_empty());
    // Listing selects nothing.
    assert!(options.negotiated().contexts.is_empty());
}

#[test]
fn contexts_selected_by_hand_survive_go() {
    let (server, _scratch) = qcow2();
    let mut options = negotiate(&server, ClientConfig::new().request_meta_contexts(false));
    let granted = options.set_meta_contexts(&["base:allocation", "qemu:dirty-bitmap:monday"]);
    assert_eq!(granted.expect("it grants").len(), 2);
    let granted = options.set_meta_contexts(&["qemu:dirty-bitmap:tuesday"]).expect("it grants");
    assert_eq!(names(&granted), ["qemu:dirty-bitmap:tuesday"]);
    let client = options.go().expect("it is there");
    assert!(client.context("qemu:dirty-bitmap:tuesday").is_some());
    assert!(client.context("base:allocation").is_none(), "the first selection is gone");

    let config = ClientConfig::new().meta_context("base:allocation").request_meta_contexts(false);
    let mut options = negotiate(&server, config.clone());
    assert_eq!(
        names(&options.set_configured_meta_contexts().expect("it grants")),
        ["base:allocation"]
    );
    assert!(options.go().expect("it is there").context("base:allocation").is_some());
    let client = negotiate(&server, config.clone()).go().expect("it is there");
    assert!(client.negotiated().contexts.is_empty(), "nobody selected any");
    // As configured, by itself; and after the configuration took them back.
    let config = config.request_meta_contexts(true);
    let client = negotiate(&server, config.clone()).go().expect("it is there");
    assert!(client.context("base:allocation").is_some());
    let client = negotiate(&server, config.clear_meta_contexts()).go().expect("it is there");
    assert!(client.negotiated().contexts.is_empty());
}

#[test]
fn another_name_forgets_what_was_known() {
    let Qemu { server, .. } = &qemu(MIB, &["-x", "hello"]);
    let mut options = negotiate(server, ClientConfig::new().meta_context("base:allocation"));
    options.set_export_name("hello").expect("the name is sound");
    options.info().expect("it tells");
    assert!(options.negotiated().export.is_some());
    assert_eq!(options.negotiated().contexts.len(), 1);
    options.set_export_name("hello").expect("the name is sound");
    assert!(options.negotiated().export.is_some(), "it is the same");
    options.set_export_name("other").expect("the name is sound");
    assert_eq!(options.export_name(), "other");
    assert!(options.negotiated().export.is_none());
    assert!(options.negotiated().contexts.is_empty());
}

#[test]
fn structured_replies_and_extended_headers_by_hand() {
    let plain = ClientConfig::new().structured_replies(false);
    let server = nbdkit(&["memory", "1M"]);
    let mut options = negotiate(&server, plain.clone());
    assert_eq!(options.negotiated().headers, HeaderStyle::Simple);
    assert!(!options.extended_headers().expect("a refusal is an answer"), "nbdkit has none");
    assert!(options.structured_replies().expect("an answer"));
    assert_eq!(options.negotiated().headers, HeaderStyle::Structured);
    let client = options.go().expect("it is there");
    assert_eq!(client.negotiated().headers, HeaderStyle::Structured);

    let Qemu { server, .. } = &qemu(MIB, &[]);
    let mut options = negotiate(server, plain);
    assert!(options.structured_replies().expect("an answer"));
    assert!(options.extended_headers().expect("an answer"));
    assert_eq!(options.negotiated().headers, HeaderStyle::Extended);
    // What is agreed on is not taken back by asking for less.
    assert!(!options.structured_replies().expect("an answer"), "refused: it is agreed on");
    assert_eq!(options.negotiated().headers, HeaderStyle::Extended);
    let mut client = options.go().expect("it is there");
    client.read_exact_at(&mut [0; 512], 0).expect("it reads");
}

#[test]
fn tls_by_hand_forgets_everything() {
    let pki = Pki::new();
    let certificates = format!("--tls-certificates={}", pki.dir().display());
    let server = nbdkit(&["--tls=on", &certificates, "memory", "1M"]);
    let connector = TlsConfig::new()
        .directory(pki.dir())
        .server_name("localhost")
        .connector()
        .expect("the files are sound");
    let mut options = defaults()
        .tls_connector(TlsPolicy::Disable, connector)
        .uri(&server.uri())
        .and_then(Options::connect)
        .expect("the server greets");
    assert_eq!(options.negotiated().headers, HeaderStyle::Structured);
    options.info().expect("it tells");
    assert!(options.session().tls_info().is_none() && !options.negotiated().tls);
    assert!(options.start_tls().expect("an answer"));
    assert!(options.session().tls_info().is_some() && options.negotiated().tls);
    assert_eq!(options.negotiated().headers, HeaderStyle::Simple);
    assert!(options.negotiated().export.is_none());
    assert!(options.structured_replies().expect("an answer"));
    let mut client = options.go().expect("it is there");
    client.read_exact_at(&mut [0; 512], 0).expect("it reads");
    client.disconnect().expect("an orderly end");
}

/// More queries than all buffers between the two hold.
#[test]
fn a_huge_list_of_queries_arrives() {
    let (server, _scratch) = qcow2();
    let mut options = negotiate(&server, ClientConfig::new());
    let long = format!("x-nobody:{}", "y".repeat(4000));
    let mut queries = vec![long.as_str(); 2000];
    queries.push("base:allocation");
    let granted = options.list_meta_contexts(&queries).expect("it lists");
    assert_eq!(names(&granted), ["base:allocation"]);
}

/// A server that answers before it has read the question: who only writes until all is
/// written waits for ever.
#[test]
fn a_server_that_answers_first_is_listened_to() {
    const REPLIES: usize = 2000;
    let (near, mut far) = UnixStream::pair().expect("a pair is made");
    let server = thread::spawn(move || -> std::io::Result<()> {
        far.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
        far.read_exact(&mut [0; 4])?;
        let mut header = [0; 16];
        let reply = |option: u32, kind: u32, data: &[u8]| {
            let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            for number in [option, kind, data.len() as u32] {
                bytes.extend(number.to_be_bytes());
            }
            bytes.extend(data);
            bytes
        };
        far.read_exact(&mut header)?;
        far.write_all(&reply(11, 1, &[]))?;
        far.read_exact(&mut header)?;
        let mut context = 0_u32.to_be_bytes().to_vec();
        context.extend(format!("x-long:{}", "z".repeat(4000)).bytes());
        for _ in 0..REPLIES {
            far.write_all(&reply(9, 4, &context))?;
        }
        let [.., a, b, c, d] = header;
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        std::io::copy(&mut Read::by_ref(&mut far).take(length), &mut std::io::sink())?;
        far.write_all(&reply(9, 1, &[]))
    });
    let connection = Connection::from_socket(near.into()).expect("it is connected");
    let mut options = Options::connect_over(defaults(), connection).expect("it greets");
    let query = format!("x-long:{}", "q".repeat(4000));
    let found = options.list_meta_contexts(&vec![query.as_str(); 2000]).expect("no deadlock");
    assert_eq!(found.len(), REPLIES);
    server.join().expect("it ends").expect("nothing failed");
}

#[test]
fn ten_thousand_exports() {
    let server = nbdkit(&["eval", "list_exports=echo NAMES; seq 1 10000", "get_size=echo 1M"]);
    let mut options = negotiate(&server, ClientConfig::new());
    let exports = options.list().expect("it lists");
    assert_eq!(exports.len(), 10_000);
    assert_eq!((exports[0].name.as_str(), exports[9999].name.as_str()), ("1", "10000"));
}

/// An option that takes longer than connecting may is the end: its answer could be taken for
/// that to the next one.
#[test]
fn a_silent_server_ends_the_negotiation() {
    let server = nbdkit(&["memory", "1M"]);
    let hasty = ConnectOptions::new().connect_timeout(Duration::from_millis(300));
    let end = Instant::now() + Duration::from_secs(60);
    // A busy machine may take longer than that even to greet.
    let mut options = loop {
        match hasty.clone().uri(&server.uri()).and_then(Options::connect) {
            Ok(options) => break options,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    server.stop().expect("it is stopped");
    assert_eq!(options.list().expect_err("it is silent").errno(), 110);
    assert_eq!(options.state(), State::Closed);
    let end = options.session().end().expect("it is over");
    assert!(end.is_timeout(), "{end}");
    options.list().expect_err("it is over");
    server.cont().expect("it goes on");
}
