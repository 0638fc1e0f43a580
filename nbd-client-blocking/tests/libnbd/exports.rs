//! What a client can know of its export, and in which words.

use nbd_client_blocking::proto::{ClientConfig, HandshakeFlags, HeaderStyle, Protocol};
use nbd_client_blocking::transport::supports;
use nbd_client_blocking::{Client, ConnectOptions, Options, PACKAGE, VERSION};

use crate::support::{MIB, Qemu, connect, defaults, nbdkit, negotiate, qemu};

#[test]
fn abilities_by_server() {
    let server = nbdkit(&["memory", "1M"]);
    let client = connect(&server, ClientConfig::new());
    let export = client.export();
    let seen = [
        export.is_read_only(),
        export.is_rotational(),
        export.can_flush(),
        export.can_fua(),
        export.can_trim(),
        export.can_zero(),
        export.can_fast_zero(),
        export.can_df(),
        export.can_multi_conn(),
        export.can_cache(),
        export.can_block_status_payload(),
    ];
    assert_eq!(
        seen,
        [false, false, true, true, true, true, true, true, true, true, false],
        "{:?}",
        client.flags()
    );
    let server = nbdkit(&["-r", "eval", "get_size=echo 1M", "is_rotational=exit 0"]);
    let client = connect(&server, ClientConfig::new());
    let export = client.export();
    assert!(export.is_read_only() && export.is_rotational());
    assert!(!export.can_trim() && !export.can_zero() && !export.can_fast_zero());
    // What needs structured replies or extended headers is not offered without.
    let Qemu { server, .. } = &qemu(MIB, &["-A"]);
    // QEMU offers the choice of contexts to those who have one.
    let two =
        ClientConfig::new().meta_context("base:allocation").meta_context("qemu:allocation-depth");
    let client = connect(server, two.clone());
    assert!(client.export().can_df() && client.export().can_block_status_payload());
    let client = connect(server, two.extended_headers(false));
    assert!(client.export().can_df() && !client.export().can_block_status_payload());
    let client = connect(server, ClientConfig::new().structured_replies(false));
    assert!(!client.export().can_df());
}

#[test]
fn size_block_sizes_and_names() {
    let Qemu { server, .. } = &qemu(3 * MIB, &["-x", "hello", "-D", "world"]);
    let config = ClientConfig::new().export("hello");
    let brief = defaults()
        .config(config.clone())
        .uri(&server.export_uri("hello"))
        .and_then(Client::connect);
    let brief = brief.expect("it is there");
    assert_eq!(brief.size(), 3 * MIB);
    assert_eq!(brief.export().canonical_name, None, "nobody asked");
    let sizes = brief.export().block_sizes.expect("qemu-nbd tells them");
    assert_eq!((sizes.minimum, sizes.preferred, sizes.maximum), (1, 4096, 32 << 20));
    let config = config.full_info(true).block_sizes(false);
    let full = defaults().config(config).uri(&server.export_uri("hello")).and_then(Client::connect);
    let full = full.expect("it is there");
    assert_eq!(full.session().export_name(), "hello");
    assert_eq!(full.export().canonical_name.as_deref(), Some("hello"));
    assert_eq!(full.export().description.as_deref(), Some("world"));
}

#[test]
fn protocols_and_handshake_flags() {
    let config = ClientConfig::new;
    let older = nbdkit(&["-o", "memory", "1M"]);
    let unfixed = nbdkit(&["--mask-handshake=0", "memory", "1M"]);
    let fixed = nbdkit(&["memory", "1M"]);
    for (server, config, protocol, name, flags) in [
        (&older, config(), Protocol::Oldstyle, "oldstyle", HandshakeFlags::empty()),
        (&unfixed, config(), Protocol::Newstyle, "newstyle", HandshakeFlags::empty()),
        (&fixed, config(), Protocol::FixedNewstyle, "newstyle-fixed", HandshakeFlags::all()),
        (
            &fixed,
            config().handshake_flags(HandshakeFlags::NO_ZEROES),
            Protocol::Newstyle,
            "newstyle",
            HandshakeFlags::NO_ZEROES,
        ),
        (
            &fixed,
            config().handshake_flags(HandshakeFlags::FIXED_NEWSTYLE),
            Protocol::FixedNewstyle,
            "newstyle-fixed",
            HandshakeFlags::FIXED_NEWSTYLE,
        ),
        (
            &fixed,
            config().handshake_flags(HandshakeFlags::empty()),
            Protocol::Newstyle,
            "newstyle",
            HandshakeFlags::empty(),
        ),
    ] {
        let mut client = connect(server, config);
        let facts = client.negotiated();
        assert_eq!(facts.protocol, protocol);
        assert_eq!(facts.protocol.name(), name);
        assert_eq!(facts.handshake_flags, flags, "{name}");
        assert_eq!(client.size(), MIB);
        client.write_all_at(&[3; 512], 0).expect("it is written");
        client.read_exact_at(&mut [0; 512], 0).expect("it is read");
        client.disconnect().expect("an orderly end");
    }
}

#[test]
fn replies_and_headers_as_asked_for() {
    let Qemu { server, .. } = &qemu(MIB, &[]);
    for (structured, extended, headers) in [
        (true, true, HeaderStyle::Extended),
        (true, false, HeaderStyle::Structured),
        (false, true, HeaderStyle::Simple),
        (false, false, HeaderStyle::Simple),
    ] {
        let config = ClientConfig::new()
            .structured_replies(structured)
            .extended_headers(extended)
            .meta_context("base:allocation");
        let client = connect(server, config);
        assert_eq!(client.negotiated().headers, headers);
        let granted = client.context("base:allocation").is_some();
        assert_eq!(granted, headers != HeaderStyle::Simple);
        assert!(client.context("base:nothing").is_none());
    }
}

#[test]
fn counters_only_grow() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    let before = client.session().stats().wire;
    assert!(before.bytes_received > 0, "the negotiation counts");
    client.read_exact_at(&mut [0; 4096], 0).expect("it is read");
    let after = client.session().stats().wire;
    assert_eq!(after.messages_sent, before.messages_sent + 1);
    assert_eq!(after.bytes_sent, before.bytes_sent + 28, "a compact request");
    assert!(after.bytes_received >= before.bytes_received + 4096);
    assert!(after.messages_received > before.messages_received);
}

#[test]
fn connections_have_names_and_the_library_a_version() {
    let server = nbdkit(&["memory", "1M"]);
    let connect = |builder: ConnectOptions| {
        builder.uri(&server.uri()).and_then(Client::connect).expect("it accepts")
    };
    let (one, two) = (connect(defaults()), connect(defaults()));
    assert!(one.name().starts_with("nbd") && one.name() != two.name());
    assert_eq!(connect(defaults().name("left")).name(), "left");
    let options =
        defaults().name("right").uri(&server.uri()).and_then(Options::connect).expect("it greets");
    assert_eq!(options.name(), "right");
    assert_eq!(PACKAGE, "nbd-client-blocking");
    assert_eq!(VERSION.split('.').count(), 3);
    let built = [supports::TLS, supports::PSK, supports::VSOCK];
    assert_eq!(built, [true, cfg!(feature = "psk"), cfg!(target_os = "linux")]);
    // Several handles in one place keep apart.
    let options = negotiate(&server, ClientConfig::new());
    assert_eq!(options.config().meta_contexts().len(), 0);
}
