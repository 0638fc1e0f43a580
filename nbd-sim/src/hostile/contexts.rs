//! Meta contexts, lists of exports, and TLS before its handshake.

use nbd_proto::{
    ClientConfig, InvalidMessage, Limits, PeerIncompatible, PeerMisbehaved, RefusalCode, TlsPolicy,
};

use super::bytes::{
    ack, context, granted, greeting, join, oldstyle, opt, rep, reply, server, server_claim,
};
use super::{Ask, Case, Outcome, connecting, refuse};

pub(super) fn meta_cases() -> Vec<Case> {
    let end = ack(opt::SET_META_CONTEXT);
    let meta = |id, parts: &[Vec<u8>], outcome| {
        let bursts = vec![greeting(3), ack(opt::STRUCTURED_REPLY), parts.concat(), granted()];
        connecting(id, bursts, outcome).with(|config| {
            config.structured_replies(true).meta_context("base:allocation").meta_context("x:")
        })
    };
    let base = |id| context(id, b"base:allocation");
    let without = || Outcome::Connects(|facts| facts.contexts.is_empty());
    let inconsistent = || refuse(PeerMisbehaved::MetaContexts);
    let unsup = reply(opt::SET_META_CONTEXT, rep::ERR_UNSUP, &[]);
    let many: Vec<Vec<u8>> = (0..300).map(|id| context(id, format!("x:{id}").as_bytes())).collect();
    vec![
        meta("M01", &[unsup], without()),
        meta("M02", &[context(1, b"")], refuse(InvalidMessage::ContextName)),
        meta(
            "M03",
            &[reply(opt::SET_META_CONTEXT, rep::META_CONTEXT, &[0; 3])],
            refuse(InvalidMessage::Truncated),
        ),
        meta("M05", &[base(1), context(1, b"x:y")], inconsistent()),
        meta("M06", &[base(1), base(2)], inconsistent()),
        meta("M07", &[context(1, b"z:y")], inconsistent()),
        meta("M09", &many, refuse(PeerMisbehaved::TooManyReplies))
            .with(|config| config.limits(Limits::default().max_option_replies(200))),
        meta("M09-slots", &many, refuse(PeerMisbehaved::TooManyReplies)),
        meta("M10", &[context(1, b"x:\xff\0")], refuse(InvalidMessage::NotText)),
        meta("M12", &[context(1, b"xy")], refuse(InvalidMessage::ContextName)),
        meta(
            "M13-error-after-one",
            &[base(1), reply(opt::SET_META_CONTEXT, rep::ERR_INVALID, b"no")],
            without(),
        ),
        meta(
            "M14-wildcard",
            &[context(5, b"x:whatever"), end],
            Outcome::Connects(|facts| facts.contexts.len() == 1),
        ),
    ]
}

pub(super) fn list_cases() -> Vec<Case> {
    let list = |id, parts: &[Vec<u8>], outcome| {
        let mut case = connecting(id, vec![greeting(3), parts.concat()], outcome)
            .with(|config| config.option_mode(true));
        case.asks = Ask::Exports;
        case
    };
    let contexts = |id, parts: &[Vec<u8>], outcome| {
        let bursts = vec![greeting(3), ack(opt::STRUCTURED_REPLY), parts.concat()];
        let mut case = connecting(id, bursts, outcome)
            .with(|config| config.structured_replies(true).option_mode(true));
        case.asks = Ask::Contexts;
        case
    };
    let named = |id: u32, name: &[u8]| {
        let data = join(&[&id.to_be_bytes(), name]);
        reply(opt::LIST_META_CONTEXT, rep::META_CONTEXT, &data)
    };
    let end_of_contexts = || ack(opt::LIST_META_CONTEXT);
    let many = vec![named(0, b"x:y"); 40_000];
    let endless_bytes = || refuse(PeerMisbehaved::TooLong);
    let end = || ack(opt::LIST);
    let numbered = |count: usize| -> Vec<Vec<u8>> {
        let mut parts: Vec<_> =
            (0..count).map(|n| server(format!("export {n}").as_bytes(), b"")).collect();
        parts.push(end());
        parts
    };
    let hides = b"a\nb\"c\x1b[2J";
    vec![
        list("L01", &[end()], Outcome::Lists(0, Ok(()))),
        list("L02", &[server_claim(100, b"abc")], refuse(InvalidMessage::Truncated)),
        list("L05", &[server(&[b'x'; 4096], b""), end()], Outcome::Lists(1, Ok(()))),
        list("L06", &[server(&[b'x'; 4097], b"")], refuse(InvalidMessage::StringTooLong)),
        list("L07", &[server(b"x", &[b'x'; 4097])], refuse(InvalidMessage::StringTooLong)),
        list(
            "L07-both",
            &[server(&[b'x'; 4096], &[b'x'; 5000])],
            refuse(InvalidMessage::StringTooLong),
        ),
        list("L08", &[server(b"\xff\xfe", b"\xff")], refuse(InvalidMessage::NotText)),
        list("L10", &[server(b"x", b""), server(b"x", b""), end()], Outcome::Lists(2, Ok(()))),
        list("L11", &[server(hides, hides), end()], Outcome::Lists(1, Ok(()))),
        list("L12", &numbered(20_000), Outcome::Lists(20_000, Ok(()))),
        list("L13", &[server_claim(u32::MAX, b"abc")], refuse(InvalidMessage::Truncated)),
        list("L15", &numbered(300), refuse(PeerMisbehaved::TooManyReplies))
            .with(|config| config.limits(Limits::default().max_option_replies(200))),
        list(
            "L16",
            &[server(b"x", b""), reply(opt::LIST, rep::ERR_SHUTDOWN, &[])],
            Outcome::Lists(1, Err(RefusalCode::Shutdown)),
        ),
        list(
            "L17",
            &[reply(opt::LIST, rep::ERR_POLICY, &[])],
            Outcome::Lists(0, Err(RefusalCode::Policy)),
        ),
        list("L15-default", &numbered(40_000), refuse(PeerMisbehaved::TooManyReplies)),
        list("L15-bytes", &vec![server(&[b'x'; 4096], &[b'x'; 4096]); 1100], endless_bytes()),
        list("L18-ack-twice", &[end(), end()], refuse(PeerMisbehaved::WrongOption)),
        list("L19", &[server(b"x", b"")], refuse(PeerMisbehaved::Closed)).closing(),
        contexts("L20-contexts", &[named(1, b"x:y"), end_of_contexts()], Outcome::Lists(1, Ok(()))),
        contexts("M11", &many, refuse(PeerMisbehaved::TooManyReplies)),
    ]
}

pub(super) fn tls_cases() -> Vec<Case> {
    let tls = |id, policy: TlsPolicy, parts: &[Vec<u8>], outcome| {
        let mut bursts = vec![greeting(3)];
        bursts.extend_from_slice(parts);
        connecting(id, bursts, outcome).with(|config: ClientConfig| config.tls(policy))
    };
    let no = |code| reply(opt::STARTTLS, code, &[]);
    let require = TlsPolicy::Require;
    let allow = TlsPolicy::Allow;
    let in_clear = || Outcome::Connects(|facts| !facts.tls);
    let injected = || refuse(PeerMisbehaved::PlaintextAfterStartTls);
    let yes = || ack(opt::STARTTLS);
    let wants_tls = reply(opt::GO, rep::ERR_TLS_REQD, &[]);
    let mut old = tls("T04", require, &[], refuse(PeerIncompatible::NoTls));
    old.bursts = vec![oldstyle(1, &[0; 124])];
    let mut not_fixed = tls("T04-newstyle", require, &[], refuse(PeerIncompatible::NoTls));
    not_fixed.bursts = vec![greeting(0)];
    vec![
        tls("T01", require, &[no(rep::ERR_UNSUP)], Outcome::RefusedWith(RefusalCode::Unsupported)),
        tls("T02", allow, &[no(rep::ERR_POLICY), granted()], in_clear()),
        old,
        not_fixed,
        tls("T05", allow, &[join(&[&yes(), &granted()])], injected()),
        tls("T05-require", require, &[join(&[&yes(), &[0]])], injected()),
        tls("T06", require, &[yes()], refuse(PeerMisbehaved::Closed)).closing(),
        tls(
            "T09",
            require,
            &[reply(opt::STARTTLS, rep::ACK, b"data")],
            refuse(PeerMisbehaved::AckWithData),
        ),
        tls("T10", allow, &[yes(), vec![0xff; 40]], injected()),
        tls("T11", TlsPolicy::Disable, &[wants_tls], refuse(PeerIncompatible::TlsWanted)),
        tls("T12", require, &[no(rep::ERR_INVALID)], Outcome::RefusedWith(RefusalCode::Invalid)),
        tls("T13", allow, &[no(rep::ERR_TLS_REQD), granted()], in_clear()),
    ]
}
