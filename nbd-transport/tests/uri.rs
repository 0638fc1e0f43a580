//! Every rule of the URI grammar, with the errno and the text of what breaks it.

use nbd_proto::TlsPolicy;
use nbd_transport::{
    AllowedTransports, Endpoint, MAX_PART_LEN, NbdUri, SshRemote, Transport, UriError, UriPolicy,
};
use rustix::io::Errno;
use std::path::Path;

fn parse(text: &str) -> NbdUri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Parses a bad URI; checks the errno and that the message says `words`.
#[track_caller]
fn refused(text: &str, errno: Errno, words: &str) -> UriError {
    let error = text.parse::<NbdUri>().expect_err(text);
    assert_eq!(error.errno(), errno.raw_os_error(), "{text}: {error}");
    assert!(error.to_string().contains(words), "{text}: {error}");
    error
}

#[track_caller]
fn invalid(text: &str, words: &str) {
    refused(text, Errno::INVAL, words);
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port }
}

#[test]
fn tcp_hosts_and_ports() {
    for (text, host, port) in [
        ("nbd://example.com", "example.com", 10809),
        ("nbd://example.com:1", "example.com", 1),
        ("nbd://example.com:", "example.com", 10809),
        ("nbd://example.com:0", "example.com", 10809),
        ("nbd://", "localhost", 10809),
        ("nbd:///", "localhost", 10809),
        ("nbd://:10", "localhost", 10),
        ("nbd://192.0.2.1:65535", "192.0.2.1", 65535),
        ("nbd://[2001:db8::1]:7", "2001:db8::1", 7),
        ("nbd://[::1]", "::1", 10809),
        ("nbd://[fe80::1%25eth0]:7/x", "fe80::1%eth0", 7),
        ("nbd://u@[fe80::1%25a%2525b]", "fe80::1%a%25b", 10809),
        ("nbd://ex%61mple.com", "example.com", 10809),
    ] {
        assert_eq!(parse(text).endpoint(), tcp(host, port), "{text}");
    }
}

#[test]
fn schemes_are_case_insensitive_and_say_whether_tls_is_required() {
    for (text, tls) in [
        ("nbd://h", false),
        ("NBD://h", false),
        ("nbdS://h", true),
        ("NBD+Unix:///?socket=s", false),
        ("nbds+unix:///?socket=s", true),
        ("nbd+VSOCK://2", false),
        ("nbds+vsock://2", true),
        ("nbd+ssh://h", false),
        ("nbds+ssh://h", true),
    ] {
        assert_eq!(parse(text).tls_required(), tls, "{text}");
    }
    invalid("nbdx://h", "unknown URI scheme \"nbdx\"");
    invalid("http://h", "nbds+unix");
}

#[test]
fn export_name_is_all_that_follows_one_slash() {
    for (text, name) in [
        ("nbd://h", ""),
        ("nbd://h/", ""),
        ("nbd://h/disk", "disk"),
        ("nbd://h//disk", "/disk"),
        ("nbd://h///", "//"),
        ("nbd://h/a/../b/", "a/../b/"),
        ("nbd://h/hello%20world", "hello world"),
        ("nbd://h/a+b", "a+b"),
        ("nbd://h/%C3%A9%25", "é%"),
        ("nbd+unix:///disk?socket=sock", "disk"),
        ("nbd+unix:////disk?socket=sock", "/disk"),
        ("nbd://h?x-a=/b", ""),
    ] {
        assert_eq!(parse(text).export_name(), name, "{text}");
    }
    invalid("nbd://h/%FF", "the export name is not UTF-8");
    invalid("nbd://h/a%00b", "the export name contains a NUL");
    let longest = "é".repeat(MAX_PART_LEN / 2);
    let escaped = "%C3%A9".repeat(MAX_PART_LEN / 2);
    assert_eq!(parse(&format!("nbd://h/{escaped}")).export_name(), longest);
    refused(&format!("nbd://h/{escaped}a"), Errno::NAMETOOLONG, "4097 bytes, more than the 4096");
    refused(&format!("nbd://h/{}", "a".repeat(200_000)), Errno::NAMETOOLONG, "the URI has");
}

#[test]
fn user_name() {
    assert_eq!(parse("nbd://alice@h").username(), Some("alice"));
    assert_eq!(parse("nbd://a%3Ab%40c@h").username(), Some("a:b@c"));
    assert_eq!(parse("nbds+unix://bob@/x?socket=s").username(), Some("bob"));
    assert_eq!(parse("nbd://@h").username(), None);
    assert_eq!(parse("nbd://h").username(), None);
    invalid("nbd://alice:secret@h", "no password");
    invalid("nbd://%FF@h", "the user name is not UTF-8");
    invalid("nbd://%00@h", "the user name contains a NUL");
}

#[test]
fn unix_sockets() {
    let unix = |text| parse(text).endpoint();
    assert_eq!(unix("nbd+unix:///?socket=/tmp/s"), Endpoint::Unix("/tmp/s".into()));
    assert_eq!(unix("nbd+unix:///?socket=a%20b%26"), Endpoint::Unix("a b&".into()));
    // The authority has no meaning here.
    assert_eq!(unix("nbd+unix://host:1/?socket=s"), Endpoint::Unix("s".into()));
    // The last one counts.
    assert_eq!(unix("nbd+unix:///?socket=a&socket=b"), Endpoint::Unix("b".into()));
    assert_eq!(
        unix("nbd+unix:///?socket=%00/abstract"),
        Endpoint::UnixAbstract(b"/abstract".to_vec())
    );
    invalid("nbd+unix:///disk", "needs the socket parameter");
    invalid("nbd+unix:///?socket=", "the socket path is empty");
    invalid("nbd+unix:///?socket", "the socket path is empty");
    invalid("nbd+unix:///?socket=a%00b", "the socket path contains a NUL");
    invalid("nbd+unix:///?socket=%00", "the abstract socket name is empty");
    refused(
        &format!("nbd+unix:///?socket={}", "a".repeat(4097)),
        Errno::NAMETOOLONG,
        "the socket path has 4097 bytes",
    );
    invalid("nbd://h/?socket=s", "the socket parameter cannot be used in a nbd URI");
    invalid("nbds+vsock://2/?socket=s", "cannot be used in a nbds+vsock URI");
}

#[test]
fn vsock() {
    for (text, cid, port) in [
        ("nbd+vsock://", 2, 10809),
        ("nbd+vsock:///disk", 2, 10809),
        ("nbd+vsock://3", 3, 10809),
        ("nbd+vsock://4294967295:4294967295", u32::MAX, u32::MAX),
    ] {
        assert_eq!(parse(text).endpoint(), Endpoint::Vsock { cid, port }, "{text}");
    }
    for bad in ["4294967296", "host", "2x", "+2", "-1", "0x2"] {
        invalid(&format!("nbd+vsock://{bad}"), "is not a valid vsock context id");
    }
    invalid("nbd+vsock://2:4294967296", "is not a valid vsock port");
}

#[test]
fn ssh() {
    let Endpoint::Ssh(target) =
        parse("nbd+ssh://alice@box:2222/disk?socket=/run/nbd.sock&compress=on").endpoint()
    else {
        panic!("not ssh");
    };
    assert_eq!(target.host, "box");
    assert_eq!(target.user.as_deref(), Some("alice"));
    assert_eq!(target.port, Some(2222));
    assert!(target.compress);
    assert_eq!(target.remote, SshRemote::Unix("/run/nbd.sock".into()));

    let Endpoint::Ssh(target) = parse("nbd+ssh://box?nbd-port=99").endpoint() else {
        panic!("not ssh");
    };
    assert_eq!((target.user, target.port, target.compress), (None, None, false));
    assert_eq!(target.remote, SshRemote::Tcp { port: 99 });
    let Endpoint::Ssh(target) = parse("nbd+ssh://box").endpoint() else { panic!("not ssh") };
    assert_eq!(target.remote, SshRemote::Tcp { port: 10809 });

    invalid("nbd+ssh:///disk", "needs a host");
    invalid("nbd+ssh://-oProxyCommand=id/", "starts with \"-\"");
    invalid("nbd+ssh://-l@box/", "the user name \"-l\" starts with \"-\"");
    invalid("nbd+ssh://$(id)/", "special to a shell");
    invalid("nbd+ssh://box/?socket=%00x", "contains a NUL");
    invalid("nbd+ssh://box/?socket=s&nbd-port=1", "beside the socket parameter");
    invalid("nbd+ssh://box:70000", "is not a valid ssh port");
    invalid("nbd+ssh://box?nbd-port=70000", "is not a valid nbd-port");
    invalid("nbd+ssh://box?compress=maybe", "is not a valid compress");
    invalid("nbd://box?compress=1", "the compress parameter cannot be used in a nbd URI");
    invalid("nbd+vsock://?nbd-port=1", "the nbd-port parameter cannot be used");
}

#[test]
fn tls_parameters() {
    let uri = parse(
        "nbds://h/?tls-certificates=/etc/a%20b&tls-psk-file=keys;tls-hostname=n.example;tls-verify-peer=No",
    );
    let tls = uri.tls();
    assert_eq!(tls.certificates.as_deref(), Some(Path::new("/etc/a b")));
    assert_eq!(tls.psk_file.as_deref(), Some(Path::new("keys")));
    assert_eq!(tls.hostname.as_deref(), Some("n.example"));
    assert_eq!(tls.verify_peer, Some(false));
    for word in ["1", "true", "t", "yes", "y", "on", "ON"] {
        let uri = parse(&format!("nbds://h/?tls-verify-peer={word}"));
        assert_eq!(uri.tls().verify_peer, Some(true), "{word}");
    }
    for word in ["0", "false", "f", "no", "n", "off"] {
        let uri = parse(&format!("nbds://h/?tls-verify-peer={word}"));
        assert_eq!(uri.tls().verify_peer, Some(false), "{word}");
    }
    assert_eq!(parse("nbds://h").tls().verify_peer, None);
    invalid("nbds://h?tls-verify-peer=2", "is not a valid tls-verify-peer");
    invalid("nbds://h?tls-verify-peer", "is not a valid tls-verify-peer");
    invalid("nbds://h?tls-hostname=", "the tls-hostname is empty");
    invalid("nbds://h?tls-psk-file=", "the tls-psk-file path is empty");
    invalid("nbds://h?tls-certificates=%00", "contains a NUL");
    refused("nbds://h?tls-priority=NORMAL", Errno::NOTSUP, "\"tls-priority\" is not supported");
    refused("nbds://h?tls-type=psk", Errno::NOTSUP, "\"tls-type\" is not supported");
}

#[test]
fn unknown_parameters_are_named_and_experiments_ignored() {
    invalid("nbd://h?sokcet=s", "unknown query parameter \"sokcet\"");
    invalid("nbd://h?Socket=s", "unknown query parameter \"Socket\"");
    invalid("nbd://h?=s", "unknown query parameter \"\"");
    assert_eq!(parse("nbd://h?x-new=1&x-;&&;").endpoint(), tcp("h", 10809));
}

#[test]
fn syntax_errors_say_where() {
    invalid("nbd://h/a b", "' ' at byte 9");
    invalid("nbd://h/é", "'é' at byte 8");
    invalid("nbd://[::1%25e]/a b", "' ' at byte 17");
    invalid("nbd://h/a%2", "\"%\" at byte 9");
    invalid("nbd://h/a%zz", "\"%\" at byte 9");
    invalid("nbd://h:port", "'p' at byte 8");
    invalid("nbd://h:65536", "is not a valid port");
    invalid("nbd://h/a#b", "no fragment");
    invalid("nbd://[::g]/", "not an IPv6 address");
    invalid("nbd://[::1%25]/", "the IPv6 zone is empty");
    invalid("nbd://[::1%eth0]/", "not an IPv6 address");
    invalid("nbd://[v1.x]/", "not an IPv6 address");
    invalid("nbd://[::1", "ends too early");
}

#[test]
fn texts_without_a_scheme_get_a_hint() {
    for (text, hint) in [
        ("/run/nbd.sock", "\"nbd+unix:///?socket=/run/nbd.sock\""),
        ("./a b", "\"nbd+unix:///?socket=./a%20b\""),
        ("localhost", "\"nbd://localhost/\""),
        ("localhost:10810/x", "\"nbd://localhost:10810/x\""),
        ("nbd:host:1234", "\"nbd://host:1234/\""),
        ("nbd:host:1234:exportname=a b", "\"nbd://host:1234/a%20b\""),
        ("nbd:unix:/tmp/s:exportname=d", "\"nbd+unix:///d?socket=/tmp/s\""),
        ("nbd:/host", "\"nbd://host/\""),
        ("[::1]:5", "\"nbd://[::1]:5/\""),
        ("", "must start with a scheme"),
        ("nbd:", "must start with a scheme"),
        ("a b c", "must start with a scheme"),
    ] {
        let error = refused(text, Errno::INVAL, hint);
        assert!(matches!(error, UriError::MissingScheme { .. }), "{text}: {error:?}");
    }
    let long = refused(&"x ".repeat(5000), Errno::INVAL, "…");
    assert!(long.to_string().len() < 300);
}

#[test]
fn policy_defaults_allow_all_but_local_files() {
    let policy = UriPolicy::default();
    for text in ["nbd://h", "nbds://h", "nbd+unix:///?socket=s", "nbd+vsock://", "nbds+ssh://h"] {
        policy.check(&parse(text)).unwrap();
    }
    for text in ["nbds://h?tls-psk-file=f", "nbd://h?tls-certificates=d"] {
        let error = policy.check(&parse(text)).unwrap_err();
        assert_eq!(error.errno(), Errno::PERM.raw_os_error());
        assert!(error.to_string().contains("local files"), "{error}");
        policy.local_files(true).check(&parse(text)).unwrap();
    }
}

#[test]
fn policy_refuses_transports_and_tls() {
    let denied = |policy: UriPolicy, text: &str, words: &str| {
        let error = policy.check(&parse(text)).expect_err(text);
        assert_eq!(error.errno(), Errno::PERM.raw_os_error(), "{text}");
        assert!(error.to_string().contains(words), "{text}: {error}");
    };
    for (text, word) in [
        ("nbd://h", "TCP"),
        ("nbd+unix:///?socket=%00s", "Unix"),
        ("nbd+vsock://", "vsock"),
        ("nbd+ssh://h", "ssh"),
    ] {
        let none = UriPolicy::default().transports(AllowedTransports::NONE);
        denied(none, text, word);
    }
    let only_unix = AllowedTransports::NONE.with(Transport::Unix);
    let policy = UriPolicy::default().transports(only_unix);
    policy.check(&parse("nbd+unix:///?socket=s")).unwrap();
    denied(policy, "nbds://h?tls-psk-file=f", "TCP");

    let disable = UriPolicy::default().tls(TlsPolicy::Disable);
    disable.check(&parse("nbd://h")).unwrap();
    denied(disable, "nbds://h", "TLS (an nbds scheme)");
    let require = UriPolicy::default().tls(TlsPolicy::Require);
    require.check(&parse("nbds://h")).unwrap();
    denied(require, "nbd://h", "without TLS");
}

#[test]
fn endpoints_to_uris() {
    let uri = |endpoint: Endpoint| NbdUri::from_endpoint(&endpoint, false).unwrap().to_string();
    assert_eq!(uri(tcp("::1", 10809)), "nbd://[::1]/");
    assert_eq!(uri(Endpoint::Address("[fe80::1%7]:5".parse().unwrap())), "nbd://[fe80::1%257]:5/");
    assert_eq!(uri(Endpoint::Address("192.0.2.1:10809".parse().unwrap())), "nbd://192.0.2.1/");
    assert_eq!(uri(Endpoint::Unix("/a&b#%".into())), "nbd+unix:///?socket=/a%26b%23%25");
    assert_eq!(uri(Endpoint::UnixAbstract(b"x".to_vec())), "nbd+unix:///?socket=%00x");
    let command = Endpoint::Command(nbd_transport::CommandSpec::new("nbdkit", ["-s"]));
    let error = NbdUri::from_endpoint(&command, false).unwrap_err();
    assert_eq!(error.to_string(), "command nbdkit has no URI");
    assert_eq!(error.errno(), Errno::INVAL.raw_os_error());
    assert!(NbdUri::from_endpoint(&tcp("h", 0), false).is_err());
}
