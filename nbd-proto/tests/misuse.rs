//! What a negotiation says to whoever asks it for what cannot be: names that cannot travel,
//! TLS that is not due, answers that nobody waits for, anything at all after the end.

use nbd_proto::wire::option::OptionHeader;
use nbd_proto::{
    ApiMisuse, ClientConfig, Discard, Errno, Error, ExportEntry, ExportInfo, InvalidMessage,
    Machine, Negotiation, OptionCode, PeerMisbehaved, Phase, RefusalCode, ServerConfig,
    ServerNegotiation, ServerPhase, TlsPolicy, TransmissionFlags,
};
use nbd_sim::hostile::bytes::{ack, granted, greeting, opt};

/// In option mode, idle behind the greeting and these grants.
fn idle(config: ClientConfig, grants: &[u32]) -> Negotiation {
    let mut negotiation = Negotiation::new(config.option_mode(true)).unwrap();
    let grants = grants.iter().map(|option| ack(*option));
    for burst in [greeting(3)].into_iter().chain(grants) {
        negotiation.feed(&burst, &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    }
    assert_eq!(negotiation.phase(), Phase::Idle);
    negotiation
}

fn plain() -> ClientConfig {
    ClientConfig::new().structured_replies(false).extended_headers(false)
}

/// proto.md, "Conventions": strings of at most 4096 bytes, without NUL; wherever one comes in.
#[test]
fn a_name_that_cannot_travel_is_not_taken() {
    // Bytes are counted: these are 4096 and 4097 of them.
    let (longest, longer) = ("ü".repeat(2048), format!("{}x", "ü".repeat(2048)));
    let misuse = |result: Result<(), Error>| match result {
        Ok(()) => None,
        Err(Error::Misuse(misuse)) => Some(misuse),
        Err(error) => panic!("{error}"),
    };
    let cases = [
        (longest.as_str(), None),
        (longer.as_str(), Some(ApiMisuse::NameTooLong)),
        ("a\0b", Some(ApiMisuse::BadName)),
        ("\0", Some(ApiMisuse::BadName)),
        ("", None),
    ];
    for (name, verdict) in cases {
        let new = |config| Negotiation::new(config).err();
        assert_eq!(new(ClientConfig::new().export(name)), verdict, "{name:.9}");
        let contexts = |config: ClientConfig| config.meta_context("base:").meta_context(name);
        assert_eq!(new(contexts(ClientConfig::new())), verdict, "{name:.9}");

        let structured = ClientConfig::new().extended_headers(false).export("before");
        let mut negotiation = idle(structured, &[opt::STRUCTURED_REPLY]);
        let seen = misuse(negotiation.reconfigure(contexts));
        assert_eq!(seen, verdict, "{name:.9}");
        assert_eq!(negotiation.config().meta_contexts().is_empty(), verdict.is_some());
        let seen =
            misuse(negotiation.reconfigure(|config| config.export(name).tls(TlsPolicy::Allow)));
        assert_eq!(seen, verdict, "{name:.9}");
        let kept = negotiation.config().tls_policy() == TlsPolicy::Disable;
        assert_eq!(kept, verdict.is_some(), "{name:.9}");
        negotiation.reconfigure(|config| config.export("before")).unwrap();
        let seen = misuse(negotiation.set_export_name(name));
        assert_eq!(seen, verdict, "{name:.9}");
        // Nothing has changed when it was refused.
        let expected = if verdict.is_some() { "before" } else { name };
        assert_eq!(negotiation.export_name(), expected, "{name:.9}");
        for option in [OptionCode::ListMetaContext, OptionCode::SetMetaContext] {
            let queries = ["base:", name];
            let result = match option {
                OptionCode::ListMetaContext => negotiation.list_meta_contexts(&queries),
                _ => negotiation.set_meta_contexts(&queries),
            };
            assert_eq!(misuse(result), verdict, "{option}, {name:.9}");
            let sent = negotiation.drain(&mut Vec::new(), &Discard).unwrap();
            assert_eq!(sent == 0, verdict.is_some(), "{option}, {name:.9}");
            if verdict.is_none() {
                negotiation.feed(&ack(option.to_wire()), &mut Discard).unwrap();
            }
        }
    }
}

#[test]
fn a_client_is_not_told_of_tls_that_is_not_due() {
    let refused = Err(ApiMisuse::NotUpgrading.into());
    let mut negotiation = Negotiation::new(plain()).unwrap();
    assert_eq!(negotiation.tls_ready(), refused);
    let mut negotiation = idle(plain(), &[]);
    assert_eq!(negotiation.tls_ready(), refused);
    // Asked for, and granted before the request has left, by a server that guesses.
    negotiation.start_tls().unwrap();
    assert_eq!(negotiation.tls_ready(), refused);
    let guessed = negotiation.feed(&ack(opt::STARTTLS), &mut Discard);
    assert_eq!(guessed, Err(PeerMisbehaved::WrongOption.into()));
    assert_eq!((negotiation.phase(), negotiation.tls_ready()), (Phase::Closed, refused.clone()));
    // Granted when it was asked for.
    let mut negotiation = idle(plain(), &[]);
    negotiation.start_tls().unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.feed(&ack(opt::STARTTLS), &mut Discard).unwrap();
    assert!(!negotiation.negotiated().tls);
    assert_eq!(negotiation.tls_ready(), Ok(()));
    assert_eq!(negotiation.tls_ready(), refused, "it is over");
    negotiation.go().unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.feed(&granted(), &mut Discard).unwrap();
    assert_eq!((negotiation.phase(), negotiation.tls_ready()), (Phase::Established, refused));
}

/// Whoever comes to require TLS has it, or is told that he does not.
#[test]
fn what_requires_tls_is_not_asked_for_in_clear() {
    type Ask = fn(&mut Negotiation) -> Result<(), Error>;
    let asks: [(Ask, bool); 9] = [
        (Negotiation::go, false),
        (Negotiation::info, false),
        (Negotiation::list, false),
        (Negotiation::structured_replies, false),
        (Negotiation::extended_headers, false),
        (|negotiation| negotiation.list_meta_contexts(&[]), false),
        (|negotiation| negotiation.set_meta_contexts(&["base:"]), false),
        (Negotiation::start_tls, true),
        (Negotiation::abort, true),
    ];
    let require = |config: ClientConfig| config.tls(TlsPolicy::Require);
    for (ask, allowed) in asks {
        let structured = ClientConfig::new().extended_headers(false);
        let mut negotiation = idle(structured, &[opt::STRUCTURED_REPLY]);
        negotiation.reconfigure(require).unwrap();
        let expected = if allowed { Ok(()) } else { Err(ApiMisuse::TlsRequired.into()) };
        assert_eq!(ask(&mut negotiation), expected);
        let sent = negotiation.drain(&mut Vec::new(), &Discard).unwrap();
        assert_eq!(sent > 0, allowed);
    }
    // With TLS, and where it is not required any more, there is nothing against it.
    for encrypted in [true, false] {
        let mut negotiation = idle(plain(), &[]);
        negotiation.reconfigure(require).unwrap();
        if encrypted {
            negotiation.start_tls().unwrap();
            negotiation.drain(&mut Vec::new(), &Discard).unwrap();
            negotiation.feed(&ack(opt::STARTTLS), &mut Discard).unwrap();
            negotiation.tls_ready().unwrap();
        } else {
            negotiation.reconfigure(|config| config.tls(TlsPolicy::Allow)).unwrap();
        }
        assert_eq!(negotiation.go(), Ok(()));
    }
}

#[test]
fn a_server_is_not_told_of_tls_that_is_not_due() {
    let refused = Err(ApiMisuse::NotUpgrading.into());
    let mut server = ServerNegotiation::new(ServerConfig::new().tls(TlsPolicy::Allow));
    assert_eq!(server.tls_ready(), refused);
    server.drain(&mut Vec::new(), &Discard).unwrap();
    server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
    assert_eq!(server.tls_ready(), refused);
    server.feed(b"IHAVEOPT\0\0\0\x05\0\0\0\0", &mut Discard).unwrap();
    // Its own answer has to leave in clear.
    assert_eq!((server.phase(), server.tls_ready()), (ServerPhase::StartTls, refused.clone()));
    server.drain(&mut Vec::new(), &Discard).unwrap();
    assert_eq!(server.tls_ready(), Ok(()));
    assert_eq!(server.tls_ready(), refused);
}

/// An answer is one to the question that is asked; any other changes nothing.
#[test]
fn a_server_is_not_given_answers_to_other_questions() {
    type Answer = fn(&mut ServerNegotiation) -> Result<(), ApiMisuse>;
    let answers: [(&str, Answer); 4] = [
        ("describe", |server| server.describe(ExportInfo::new(512, TransmissionFlags::empty()))),
        ("export", |server| {
            server.send_export(&ExportEntry { name: "a".to_owned(), description: String::new() })
        }),
        ("context", |server| server.send_context("x:y").map(drop)),
        ("acknowledge", ServerNegotiation::acknowledge),
    ];
    let contexts = b"\0\0\0\0\0\0\0\x01\0\0\0\x03x:y";
    let questions: [(OptionCode, &[u8], &[&str]); 6] = [
        (OptionCode::List, b"", &["export", "acknowledge"]),
        (OptionCode::Info, b"\0\0\0\0\0\0", &["describe"]),
        (OptionCode::Go, b"\0\0\0\0\0\0", &["describe"]),
        (OptionCode::ExportName, b"", &["describe"]),
        (OptionCode::ListMetaContext, contexts, &["context", "acknowledge"]),
        (OptionCode::SetMetaContext, contexts, &["context", "acknowledge"]),
    ];
    let wrong = Err(ApiMisuse::WrongState);
    for (option, data, right) in questions {
        for (name, answer) in answers {
            let mut server = ServerNegotiation::new(ServerConfig::new());
            server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
            server.feed(b"IHAVEOPT\0\0\0\x08\0\0\0\0", &mut Discard).unwrap();
            server.drain(&mut Vec::new(), &Discard).unwrap();
            // Nothing is asked yet.
            assert_eq!(answer(&mut server), wrong, "{name}");
            assert_eq!(server.refuse(RefusalCode::Policy, ""), wrong);
            let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
            server.feed(&[&header.encode(), data].concat(), &mut Discard).unwrap();
            if right.contains(&name) {
                assert_eq!(answer(&mut server), Ok(()), "{name} to {option}");
                continue;
            }
            let question = server.question().cloned();
            assert_eq!(answer(&mut server), wrong, "{name} to {option}");
            assert!(question.is_some() && server.question() == question.as_ref());
            assert_eq!(server.drain(&mut Vec::new(), &Discard), Ok(0), "{name} to {option}");
            assert_eq!(server.refuse(RefusalCode::Policy, ""), Ok(()), "{name} to {option}");
        }
    }
}

/// What a server cannot say in a way that its clients put up with, it does not say at all.
#[test]
fn a_server_does_not_say_what_cannot_travel() {
    let (longest, longer) = ("ü".repeat(2048), format!("{}x", "ü".repeat(2048)));
    let texts = [
        (longest.as_str(), Ok(())),
        (&longer, Err(ApiMisuse::NameTooLong)),
        ("a\0b", Err(ApiMisuse::BadName)),
    ];
    let asked = |option: OptionCode, data: &[u8]| {
        let mut server = ServerNegotiation::new(ServerConfig::new());
        server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
        server.feed(b"IHAVEOPT\0\0\0\x08\0\0\0\0", &mut Discard).unwrap();
        let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
        server.feed(&[&header.encode(), data].concat(), &mut Discard).unwrap();
        server.drain(&mut Vec::new(), &Discard).unwrap();
        server
    };
    for (text, verdict) in texts {
        let mut server = asked(OptionCode::List, b"");
        let plain = String::from("plain");
        for (name, description) in [(text.to_owned(), plain.clone()), (plain, text.to_owned())] {
            assert_eq!(server.send_export(&ExportEntry { name, description }), verdict);
        }
        for part in 0..2 {
            let mut server = asked(OptionCode::Go, b"\0\0\0\0\0\0");
            let mut export = ExportInfo::new(512, TransmissionFlags::empty());
            let place = [&mut export.canonical_name, &mut export.description];
            *place.into_iter().nth(part).unwrap() = Some(text.to_owned());
            assert_eq!(server.describe(export), verdict);
            assert_eq!(server.question().is_some(), verdict.is_err());
        }
    }
    let contexts = b"\0\0\0\0\0\0\0\x01\0\0\0\x03x:y";
    for option in [OptionCode::ListMetaContext, OptionCode::SetMetaContext] {
        let mut server = asked(option, contexts);
        let (long, bad) = (format!("x:{longest}"), Err(ApiMisuse::BadContext));
        assert_eq!(server.send_context(&long), Err(ApiMisuse::NameTooLong));
        assert_eq!(server.send_context("x:\0"), Err(ApiMisuse::BadName));
        assert_eq!(server.send_context("x"), bad);
        assert_eq!(server.drain(&mut Vec::new(), &Discard), Ok(0), "nothing is sent");
        server.send_context("x:y").unwrap();
        let again = server.send_context("x:y");
        assert_eq!(again.is_ok(), option == OptionCode::ListMetaContext, "{option}");
    }
    // The words of a refusal are cut, as those of an error are.
    let mut server = asked(OptionCode::List, b"");
    server.refuse(RefusalCode::Policy, &longer).unwrap();
    assert_eq!(server.drain(&mut Vec::new(), &Discard), Ok(20 + 4096));
}

/// Whatever is asked of it, it says again why it ended.
#[test]
fn after_the_end_there_is_nothing_but_its_reason() {
    fn ended<M: Machine>(machine: &mut M, error: &Error) {
        for bytes in [&[][..], &[0; 99]] {
            assert_eq!(machine.feed(bytes, &mut Discard), Err(error.clone()));
        }
        assert_eq!(machine.received(0, &mut Discard), Err(error.clone()));
        assert_eq!(machine.received(1, &mut Discard), Err(error.clone()));
        assert!(machine.recv_bufs(&mut Discard).is_empty());
        assert_eq!(machine.eof(), Err(error.clone()));
    }
    let mut client = idle(plain(), &[]);
    client.list().unwrap();
    client.drain(&mut Vec::new(), &Discard).unwrap();
    let error = client.feed(&[0; 20], &mut Discard).unwrap_err();
    assert_eq!(error, InvalidMessage::OptionReplyMagic.into());
    ended(&mut client, &error);
    for result in [client.list(), client.go(), client.info(), client.set_export_name("")] {
        assert_eq!(result, Err(error.clone()));
    }
    assert_eq!(client.tls_ready(), Err(ApiMisuse::NotUpgrading.into()));
    assert_eq!((client.phase(), client.error()), (Phase::Closed, Some(&error)));

    let mut server = ServerNegotiation::new(ServerConfig::new());
    server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
    let error = server.feed(&[0; 16], &mut Discard).unwrap_err();
    assert_eq!(error, InvalidMessage::OptionMagic.into());
    ended(&mut server, &error);
    assert_eq!((server.phase(), server.error()), (ServerPhase::Closed, Some(&error)));
    assert_eq!(error.errno(), Errno::Proto);
}
