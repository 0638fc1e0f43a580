//! A URI written and read again is the same, and no text at all makes the parser panic.

use nbd_transport::{NbdUri, SshRemote, SshTarget, UriAddress, UriTls};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

fn text() -> impl Strategy<Value = String> {
    "[^\0]{1,40}"
}

fn path() -> impl Strategy<Value = PathBuf> {
    vec(1..=255u8, 1..40).prop_map(|bytes| OsString::from_vec(bytes).into())
}

fn host() -> impl Strategy<Value = String> {
    let address = any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from_bits(bits).to_string());
    let zoned = (address.clone(), text()).prop_map(|(address, zone)| format!("{address}%{zone}"));
    prop_oneof![text(), "[a-z.-]{1,20}", address, zoned, Just("::1%".to_owned())]
}

fn address() -> impl Strategy<Value = UriAddress> {
    let remote = prop_oneof![
        (1..=u16::MAX).prop_map(|port| SshRemote::Tcp { port }),
        path().prop_map(SshRemote::Unix),
    ];
    let ssh = ("[a-z.:%é][a-z.:%é-]{0,9}", option::of(1..=u16::MAX), any::<bool>(), remote);
    prop_oneof![
        (host(), 1..=u16::MAX).prop_map(|(host, port)| UriAddress::Tcp { host, port }),
        path().prop_map(|path| UriAddress::Unix { path }),
        vec(any::<u8>(), 1..40).prop_map(|name| UriAddress::UnixAbstract { name }),
        any::<(u32, u32)>().prop_map(|(cid, port)| UriAddress::Vsock { cid, port }),
        ssh.prop_map(|(host, port, compress, remote)| {
            let mut target = SshTarget::new(host, remote);
            (target.port, target.compress) = (port, compress);
            UriAddress::Ssh(target)
        }),
    ]
}

fn tls() -> impl Strategy<Value = UriTls> {
    (option::of(path()), option::of(path()), option::of(text()), option::of(any::<bool>()))
        .prop_map(|(certificates, psk_file, hostname, verify_peer)| {
            let mut tls = UriTls::default();
            (tls.certificates, tls.psk_file) = (certificates, psk_file);
            (tls.hostname, tls.verify_peer) = (hostname, verify_peer);
            tls
        })
}

fn uri() -> impl Strategy<Value = NbdUri> {
    (address(), any::<bool>(), "[^\0]{0,60}", option::of("[a-z:@/%é][a-z:@/%é-]{0,9}"), tls())
        .prop_map(|(address, tls_required, export, user, tls)| {
            let uri = NbdUri::new(address, tls_required).unwrap();
            let uri = uri.with_export_name(export).unwrap().with_tls(tls).unwrap();
            match user {
                Some(user) => uri.with_username(user).unwrap(),
                None => uri,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_and_read_again(uri in uri()) {
        let text = uri.to_string();
        let again: NbdUri = text.parse().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(&again, &uri, "{}", text);
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,80}") {
        let _ = text.parse::<NbdUri>();
    }

    #[test]
    fn what_is_accepted_has_a_canonical_form(
        text in "(nbds?(\\+(unix|vsock|ssh))?)://[a-z0-9@:%\\[\\].-]{0,12}[/a-z0-9%25?=&;#]{0,30}"
    ) {
        if let Ok(uri) = text.parse::<NbdUri>() {
            let again: NbdUri = uri.to_string().parse()
                .map_err(|e| TestCaseError::fail(format!("{text} -> {uri}: {e}")))?;
            prop_assert_eq!(again, uri);
        }
    }
}
