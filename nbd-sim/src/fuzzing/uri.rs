//! URIs: what is accepted means the same when written back.

use nbd_proto::TlsPolicy;
use nbd_transport::{AllowedTransports, NbdUri, UriPolicy};

/// Parses the bytes as a URI, if they are text.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(uri) = text.parse::<NbdUri>() else {
        return;
    };
    assert!(NbdUri::is_uri(text), "{text:?} parses, but is no URI");
    let written = uri.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&uri), "{text:?} became {written:?}");
    judge(&uri);
}

/// Asks every kind of policy; what the widest one refuses is refused by all.
fn judge(uri: &NbdUri) {
    let widest = UriPolicy::default().local_files(true);
    assert_eq!(widest.check(uri), Ok(()), "{uri}");
    let none = widest.transports(AllowedTransports::NONE);
    assert!(none.check(uri).is_err(), "{uri}");
    let refused = |tls| widest.tls(tls).check(uri).is_err();
    let (plain_only, tls_only) = (refused(TlsPolicy::Disable), refused(TlsPolicy::Require));
    assert_ne!(plain_only, tls_only, "{uri}");
}
