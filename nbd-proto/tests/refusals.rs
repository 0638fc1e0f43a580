//! Every way a server can refuse an export, as the caller sees it: error number, reason
//! and the server's own words.

use nbd_proto::wire::option::{OptionHeader, OptionReplyHeader, ReplyType};
use nbd_proto::{
    ClientConfig, Discard, Errno, Error, Machine, Negotiation, OptionCode, PeerIncompatible,
    RefusalCode,
};

/// A negotiation that has asked for the export and nothing else.
fn asking() -> Negotiation {
    let config = ClientConfig::new().structured_replies(false);
    let mut negotiation = Negotiation::new(config).unwrap();
    negotiation.feed(b"NBDMAGICIHAVEOPT\x00\x03", &mut Discard).unwrap();
    let mut sent = Vec::new();
    negotiation.drain(&mut sent, &Discard).unwrap();
    let header = OptionHeader::decode(sent[4..20].try_into().unwrap()).unwrap();
    assert_eq!(header.option, OptionCode::Go.to_wire());
    negotiation
}

fn refuse(code: RefusalCode, message: &str) -> (Negotiation, Result<usize, Error>) {
    let mut negotiation = asking();
    let header = OptionReplyHeader {
        option: OptionCode::Go.to_wire(),
        kind: ReplyType::Refused(code).to_wire(),
        length: message.len() as u32,
    };
    let reply = [&header.encode(), message.as_bytes()].concat();
    let result = negotiation.feed(&reply, &mut Discard);
    (negotiation, result)
}

#[test]
fn each_refusal_has_its_errno_and_the_servers_words() {
    let cases = [
        (RefusalCode::Policy, Errno::Perm, "policy"),
        (RefusalCode::Invalid, Errno::Inval, "invalid"),
        (RefusalCode::Platform, Errno::NotSup, "platform"),
        (RefusalCode::UnknownExport, Errno::NoEnt, "no such export"),
        (RefusalCode::Shutdown, Errno::Shutdown, "shutting down"),
        (RefusalCode::BlockSizeRequired, Errno::Inval, "block sizes"),
        (RefusalCode::TooBig, Errno::Inval, "too large"),
        (RefusalCode::ExtendedHeadersRequired, Errno::Inval, "extended headers"),
        (RefusalCode::Other(0x8000_7777), Errno::NotSup, "0x80007777"),
    ];
    for (code, errno, reason) in cases {
        let (mut negotiation, result) = refuse(code, "come back\x1b[2J later");
        let error = result.unwrap_err();
        assert_eq!(error.errno(), errno, "{code:?}");
        let text = error.to_string();
        assert!(text.contains(reason), "{code:?}: {text}");
        // In the server's words, but not with its escape sequences.
        assert!(text.contains("come back") && !text.contains('\x1b'), "{code:?}: {text}");
        // The last word to the server is that this is the end.
        let mut sent = Vec::new();
        negotiation.drain(&mut sent, &Discard).unwrap();
        let header = OptionHeader::decode(sent[..].try_into().unwrap()).unwrap();
        assert_eq!(header.option, OptionCode::Abort.to_wire(), "{code:?}");
    }
}

#[test]
fn a_server_that_wants_tls_is_told_apart() {
    let (_, result) = refuse(RefusalCode::TlsRequired, "");
    let error = result.unwrap_err();
    assert_eq!(error, Error::Incompatible(PeerIncompatible::TlsWanted));
    assert_eq!(error.errno(), Errno::NotSup);
}

#[test]
fn a_server_that_does_not_know_go_is_asked_the_old_way() {
    let (mut negotiation, result) = refuse(RefusalCode::Unsupported, "");
    result.unwrap();
    let mut sent = Vec::new();
    negotiation.drain(&mut sent, &Discard).unwrap();
    let header = OptionHeader::decode(sent[..].try_into().unwrap()).unwrap();
    assert_eq!(header.option, OptionCode::ExportName.to_wire());
}
