//! One side's half of a negotiation, to the other side.

use nbd_proto::{
    ApiMisuse, ClientConfig, Discard, Error, ExportEntry, HandshakeFlags, Machine, Negotiated,
    Negotiation, NegotiationEvent, Phase, Question, RefusalCode, ServerConfig, ServerNegotiation,
    ServerPhase, TlsPolicy,
};

use super::OTHERS;
use super::input::Input;
use super::session::export;
use crate::delivery::Delivery;

/// Input: configuration (2 bytes), what the caller does when asked, cuts, the
/// server's bytes.
pub fn negotiate_client(data: &[u8]) {
    let mut input = Input::new(data);
    let config = client_config(input.byte(), input.byte());
    let wishes = input.list(16);
    let bursts = input.bursts();
    let whole = play_client(config.clone(), wishes, &bursts, Delivery::Whole);
    for delivery in OTHERS {
        let trace = play_client(config.clone(), wishes, &bursts, delivery);
        assert_eq!(trace, whole, "{delivery:?} differs");
    }
}

/// Input: configuration, what the application answers, cuts, the client's bytes.
pub fn negotiate_server(data: &[u8]) {
    let mut input = Input::new(data);
    let config = server_config(input.byte());
    let whims = input.list(16);
    let bursts = input.bursts();
    let whole = play_server(config.clone(), whims, &bursts, Delivery::Whole);
    for delivery in OTHERS {
        let trace = play_server(config.clone(), whims, &bursts, delivery);
        assert_eq!(trace, whole, "{delivery:?} differs");
    }
}

/// Everything that can be seen from outside.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    sent: Vec<u8>,
    events: Vec<NegotiationEvent>,
    questions: Vec<Question>,
    negotiated: Negotiated,
    established: bool,
    end: Option<Error>,
}

const fn tls_policy(bits: u8) -> TlsPolicy {
    match bits & 3 {
        0 | 1 => TlsPolicy::Disable,
        2 => TlsPolicy::Allow,
        _ => TlsPolicy::Require,
    }
}

fn client_config(first: u8, second: u8) -> ClientConfig {
    let on = |bit: u8| first & 1 << bit != 0;
    let mut config = ClientConfig::new()
        .export("disk")
        .structured_replies(on(0))
        .extended_headers(on(1))
        .block_sizes(on(2))
        .full_info(on(3))
        .option_mode(on(4))
        .strict_peer(on(5))
        .tls(tls_policy(first >> 6))
        .handshake_flags(HandshakeFlags::from_bits_truncate(!u16::from(second)));
    if second & 4 != 0 {
        config = config.meta_context("base:allocation");
    }
    if second & 8 != 0 {
        config = config.meta_context("qemu:");
    }
    config
}

fn server_config(byte: u8) -> ServerConfig {
    ServerConfig::new()
        .structured_replies(byte & 1 != 0)
        .extended_headers(byte & 2 != 0)
        .tls(tls_policy(byte >> 2))
        .handshake_flags(HandshakeFlags::from_bits_truncate(!u16::from(byte >> 4)))
}

fn play_client(config: ClientConfig, wishes: &[u8], bursts: &[&[u8]], by: Delivery) -> Trace {
    let mut negotiation = Negotiation::new(config).expect("the names are sound");
    let mut wishes = wishes.iter();
    let mut trace = Trace::default();
    for burst in bursts {
        let result = arrive(&mut negotiation, burst, by, |negotiation| {
            let moved = steer(negotiation, &mut wishes)?;
            negotiation.drain(&mut trace.sent, &Discard)?;
            while let Some(event) = negotiation.poll_event() {
                trace.events.push(event);
            }
            Ok(moved)
        });
        if let Err(error) = result {
            assert_eq!(negotiation.phase(), Phase::Closed);
            assert_eq!(negotiation.error(), Some(&error));
            trace.end = Some(error);
            break;
        }
    }
    if trace.end.is_none() && negotiation.phase() == Phase::Busy {
        // A server may hang up on NBD_OPT_ABORT instead of obeying.
        let aborted = negotiation.is_ending();
        trace.end = negotiation.eof().err();
        assert!(aborted || trace.end.is_some(), "the end comes too early: {trace:?}");
    }
    trace.negotiated = negotiation.negotiated().clone();
    trace.established = negotiation.phase() == Phase::Established;
    if trace.established {
        let client = negotiation.finish().expect("established");
        assert_eq!(*client.negotiated(), trace.negotiated);
        assert!(trace.negotiated.export.is_some(), "no export: {trace:?}");
    }
    trace
}

fn play_server(config: ServerConfig, whims: &[u8], bursts: &[&[u8]], by: Delivery) -> Trace {
    let mut negotiation = ServerNegotiation::new(config);
    let mut whims = whims.iter();
    let mut trace = Trace::default();
    for burst in bursts {
        let result = arrive(&mut negotiation, burst, by, |negotiation| {
            let mut moved = false;
            if let Some(question) = negotiation.question().cloned() {
                let whim = whims.next().copied().unwrap_or_default();
                reply(negotiation, &question, whim).expect("the answer fits");
                trace.questions.push(question);
                moved = true;
            }
            negotiation.drain(&mut trace.sent, &Discard)?;
            if negotiation.phase() == ServerPhase::StartTls {
                negotiation.tls_ready()?;
                moved = true;
            }
            Ok(moved)
        });
        if let Err(error) = result {
            assert_eq!(negotiation.phase(), ServerPhase::Closed);
            assert_eq!(negotiation.error(), Some(&error));
            trace.end = Some(error);
            break;
        }
    }
    if trace.end.is_none() && negotiation.phase() == ServerPhase::Busy {
        trace.end = Some(negotiation.eof().expect_err("the end comes too early"));
    }
    trace.negotiated = negotiation.negotiated().clone();
    trace.established = negotiation.phase() == ServerPhase::Established;
    if trace.established {
        let server = negotiation.finish().expect("everything is sent");
        assert_eq!(*server.negotiated(), trace.negotiated);
        assert!(trace.negotiated.export.is_some(), "no export: {trace:?}");
    }
    trace
}

/// Hands over a burst and lets the caller act, until neither gets further.
fn arrive<M: Machine>(
    machine: &mut M,
    mut burst: &[u8],
    by: Delivery,
    mut act: impl FnMut(&mut M) -> Result<bool, Error>,
) -> Result<(), Error> {
    loop {
        if machine.has_buffered() {
            machine.received(0, &mut Discard)?;
        }
        let taken = by.deliver(machine, &mut Discard, burst)?;
        burst = &burst[taken..];
        let acted = act(machine)?;
        if taken == 0 && !acted {
            return Ok(());
        }
    }
}

/// What the client's caller does; returns whether it did anything.
fn steer(
    negotiation: &mut Negotiation,
    wishes: &mut std::slice::Iter<'_, u8>,
) -> Result<bool, Error> {
    match negotiation.phase() {
        Phase::StartTls => negotiation.tls_ready().map(|()| true),
        Phase::Idle => {
            let result = match wishes.next().map(|wish| wish % 10) {
                None | Some(0) => negotiation.go(),
                Some(1) => negotiation.info(),
                Some(2) => negotiation.list(),
                Some(3) => negotiation.list_meta_contexts(&["base:"]),
                Some(4) => negotiation.set_meta_contexts(&["base:allocation", "qemu:"]),
                Some(5) => negotiation.structured_replies(),
                Some(6) => negotiation.extended_headers(),
                Some(7) => negotiation.start_tls(),
                Some(8) => negotiation.set_export_name(""),
                Some(_) => negotiation.abort(),
            };
            match result {
                // The caller's fault, or a server that is too old; nothing changed.
                Err(Error::Misuse(_) | Error::Incompatible(_))
                    if negotiation.phase() == Phase::Idle =>
                {
                    Ok(!wishes.as_slice().is_empty())
                }
                other => other.map(|()| true),
            }
        }
        Phase::Busy | Phase::Established | Phase::Closed => Ok(false),
    }
}

/// What the server's application says.
fn reply(
    negotiation: &mut ServerNegotiation,
    question: &Question,
    whim: u8,
) -> Result<(), ApiMisuse> {
    if whim & 1 != 0 {
        return negotiation.refuse(RefusalCode::Policy, "not today");
    }
    match question {
        Question::List => {
            for name in ["", "disk"] {
                negotiation.send_export(&ExportEntry {
                    name: name.to_owned(),
                    description: "made of bytes".to_owned(),
                })?;
            }
            negotiation.acknowledge()
        }
        Question::Info(_) | Question::Go(_) | Question::ExportName(_) => {
            negotiation.describe(export())
        }
        Question::ListMetaContext(_) | Question::SetMetaContext(_) => {
            if whim & 2 == 0 {
                match negotiation.send_context("base:allocation") {
                    // Nobody asked for it.
                    Ok(_) | Err(ApiMisuse::BadContext) => {}
                    Err(error) => return Err(error),
                }
            }
            negotiation.acknowledge()
        }
    }
}
