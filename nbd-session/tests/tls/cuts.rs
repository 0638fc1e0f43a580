//! Streams that are cut off or changed on the way.

use crate::memory::{Failed, Run, backends};
use nbd_session::LinkError;
use nbd_sim::peer::pki::Pki;
use nbd_sim::pipe::Way;
use nbd_sim::rng::Rng;
use nbd_sim::trouble::{Call, Mischief, Plan, Trouble};
use nbd_transport::tls::TlsError;
use std::io::ErrorKind;

/// By how many bytes one run may be shorter than another: a signature is two numbers without
/// their leading zeroes.
const SIGNATURE: usize = 16;

/// TL05 and TL06, with requests in flight in most of them.
#[test]
fn a_cut_is_told_from_an_end_at_every_byte() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let seen: usize = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Seen)
            .map(|(_, burst)| burst.len())
            .sum();
        let mut rng = Rng::new(3);
        let handshake = 0..3000;
        let later = (0..40).map(|_| rng.below(seen - SIGNATURE));
        for at in handshake.step_by(31).chain(later) {
            let mut run = Run::smooth(&acceptor, &connector);
            run.to_client.eof_at = Some(at as u64);
            match run.go() {
                Err(Failed::Client(error)) => {
                    let expected = match &error {
                        LinkError::Protocol(_) => at < 18 + 20,
                        LinkError::Tls(
                            TlsError::ClosedInHandshake { .. }
                            | TlsError::ClosedAfterHandshake { .. }
                            | TlsError::Truncated,
                        ) => at >= 18 + 20,
                        LinkError::Io(error) => error.kind() == ErrorKind::BrokenPipe,
                        _ => false,
                    };
                    assert!(expected, "cut at {at}: {error:?}");
                }
                other => panic!("cut at {at}: {:?}", other.err()),
            }
        }
    }
}

/// Whichever flight is cut, and wherever: the server says so and nobody waits for ever.
#[test]
fn a_client_that_leaves_in_the_handshake_is_told_of_at_every_byte() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let bursts: Vec<usize> = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Sent)
            .map(|(_, burst)| burst.len())
            .collect();
        // The flags and the request for TLS, ClientHello, the rest of the handshake.
        let [clear, hello, rest, ..] = bursts[..] else {
            panic!("too few messages: {bursts:?}");
        };
        assert_eq!(clear, 4 + 16);
        let suspicion = acceptor.start().expect("it starts").suspicion();
        let [during, after] = ["during", "right after"].map(|when| {
            format!("the client closed the connection {when} the TLS handshake: {suspicion}")
        });
        // The last message of the handshake has company.
        let mut expected = &during;
        for at in (clear..clear + hello + rest - SIGNATURE).step_by(7) {
            let mut run = Run::smooth(&acceptor, &connector);
            run.to_server.eof_at = Some(at as u64);
            match run.go() {
                Err(Failed::Server(error)) => {
                    if at > clear + hello && error.to_string() == after {
                        expected = &after;
                    }
                    assert_eq!(error.to_string(), *expected, "cut at {at}");
                }
                other => panic!("cut at {at}: {:?}", other.err()),
            }
        }
    }
}

#[test]
fn a_client_that_is_cut_off_later_is_told_of_too() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let sent: usize = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Sent)
            .map(|(_, burst)| burst.len())
            .sum();
        let mut rng = Rng::new(5);
        for _ in 0..20 {
            let mut run = Run::smooth(&acceptor, &connector);
            let at = 10_000 + rng.below(sent - 20_000);
            run.to_server.eof_at = Some(at as u64);
            match run.go() {
                Err(Failed::Server(LinkError::Tls(TlsError::Truncated))) => {}
                other => panic!("cut at {at}: {:?}", other.err()),
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_never_taken_for_data() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let mut rng = Rng::new(4);
        for _ in 0..60 {
            let at = 18 + 20 + rng.below(600_000) as u64;
            let mut run = Run::smooth(&acceptor, &connector);
            run.to_client.flip = Some((at, 1 << rng.below(8)));
            match run.go() {
                Err(Failed::Client(LinkError::Tls(_)) | Failed::Server(LinkError::Tls(_))) => {}
                // The length of a record grew, and the rest of it never came.
                Err(Failed::Stuck) => {}
                other => panic!("flipped at {at}: {:?}", other.err()),
            }
        }
    }
}

/// What comes of trouble is told as the stream's, or as an end that nobody can vouch for.
fn explains(plan: Plan, error: LinkError) -> bool {
    let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].map(Mischief::Error);
    let ends = plan.mischief == Mischief::Nothing && plan.call == Call::Read
        || gone.contains(&plan.mischief);
    match error {
        LinkError::Tls(
            TlsError::ClosedInHandshake { .. }
            | TlsError::ClosedAfterHandshake { .. }
            | TlsError::Truncated,
        ) => ends,
        error => plan.explains(&error.into()),
    }
}

#[test]
fn a_stream_that_lies_or_fails_is_told_from_a_fault_of_the_peer() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let count = Trouble::none();
        let mut run = Run::smooth(&acceptor, &connector);
        run.trouble = count.clone();
        run.go().expect("it works");
        let mut rng = Rng::new(5);
        for call in [Call::Read, Call::Write] {
            let calls = count.calls(call);
            // The last ones are the end, which may come in more ways than one.
            let later: Vec<_> = (0..4).map(|_| 8 + rng.below(calls - 12)).collect();
            let places = (1..9).chain(later);
            for (nth, mischief) in places.flat_map(|nth| Mischief::ALL.map(|what| (nth, what))) {
                let plan = Plan { call, nth, mischief, lasting: false };
                let mut run = Run::smooth(&acceptor, &connector);
                run.trouble = Trouble::new(plan);
                let trouble = run.trouble.clone();
                match run.go() {
                    Ok(_) => assert!(plan.is_harmless(), "{plan:?} went unnoticed"),
                    Err(Failed::Client(error)) => {
                        let text = format!("{plan:?}: {error:?}");
                        assert!(trouble.has_struck() && explains(plan, error), "{text}");
                    }
                    Err(failed) => panic!("{plan:?}: {failed:?}"),
                }
            }
        }
    }
}
