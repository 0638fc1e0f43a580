//! Every case of the table of hostile servers, delivered in every way.

use std::collections::BTreeSet;

use nbd_proto::{CommandError, PeerMisbehaved, ReplyFault};
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::bytes::opt;
use nbd_sim::hostile::{Case, LOST, Outcome, WAITING, all};

#[test]
fn every_case_ends_as_the_table_says() {
    for case in all() {
        let whole = case.play(Delivery::Whole, None);
        // The long ones are long because something is repeated.
        let ways = if case.len() < 1 << 20 { &Delivery::ALL[..] } else { &[Delivery::Offered] };
        for delivery in ways.iter().copied() {
            let seen = case.play(delivery, None);
            let Case { id, outcome, .. } = &case;
            assert_eq!(seen.broken, None, "{id}, {delivery:?}");
            assert!(outcome.is(&seen), "{id}, {delivery:?}: {outcome:?}, but {seen:?}");
            assert_eq!(seen, whole, "{id}: {delivery:?} differs from one piece");
        }
    }
}

#[test]
fn each_case_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for case in all() {
        assert!(names.insert(case.id), "{} twice", case.id);
    }
    assert!(names.len() > 130, "{} cases", names.len());
}

/// Cut at any length, no case hangs, panics or succeeds with less than it needs: H02, O54,
/// X49 and every other.
#[test]
fn every_case_cut_at_every_length() {
    for case in all().iter().filter(|case| case.len() < 6000) {
        let whole = case.play(Delivery::Whole, None);
        for length in 0..case.len() {
            let seen = case.play(Delivery::Whole, Some(length));
            let at = format!("{} cut at {length}: {seen:?}", case.id);
            assert_eq!(seen.broken, None, "{at}");
            let settled = seen.error.is_some() || seen.leaving || seen.listed.is_some();
            assert!(settled, "{at}");
            assert!(!seen.answers.contains(&WAITING), "{at}");
            for (cut, whole) in seen.answers.iter().zip(&whole.answers) {
                assert!(cut == whole || *cut == LOST, "{at}");
            }
        }
    }
}

/// Under strict checking of the peer, a fault that would spoil one command ends the
/// connection.
#[test]
fn a_strict_client_bears_no_fault() {
    let mut faults = 0;
    for mut case in all() {
        let Outcome::Lives(answers) = &case.outcome else {
            continue;
        };
        let [Some(Err(CommandError::Fault(fault)))] = answers[..] else {
            continue;
        };
        case.config = case.config.strict_peer(true);
        let seen = case.play(Delivery::Whole, None);
        let error = PeerMisbehaved::Strict(fault).into();
        assert_eq!(seen.error, Some(error), "{}", case.id);
        assert_eq!(seen.answers.len(), 1, "{}", case.id);
        assert!(matches!(seen.answers[0], Some(Err(_))), "{}", case.id);
        faults += 1;
    }
    assert!(faults > 15, "{faults}");
}

/// What spoils nothing is borne, and ends the connection of a strict client all the same.
#[test]
fn a_strict_client_bears_nothing_at_all() {
    use PeerMisbehaved::Strict;
    use ReplyFault::{ErrorOffset, LongMessage, SimpleReply, UnknownCookie};
    let borne = [
        ("X04", Strict(UnknownCookie)),
        ("X08", Strict(UnknownCookie)),
        ("X10", Strict(SimpleReply)),
        ("X19", Strict(LongMessage)),
        ("X21", Strict(ErrorOffset)),
        ("X22-offset-missing", Strict(ErrorOffset)),
        ("X53", Strict(UnknownCookie)),
        ("X66", Strict(UnknownCookie)),
        ("O18", PeerMisbehaved::NoFlags),
        ("O24", PeerMisbehaved::BlockSizes),
    ];
    for (id, fault) in borne {
        let mut case = all().into_iter().find(|case| case.id == id).expect("a case");
        for delivery in Delivery::ALL {
            let usual = case.play(delivery, None);
            assert_eq!(usual.error, None, "{id}, {delivery:?}");
            assert!(usual.negotiated.is_some(), "{id}, {delivery:?}");
        }
        case.config = case.config.strict_peer(true);
        for delivery in Delivery::ALL {
            let strict = case.play(delivery, None);
            assert_eq!(strict.error, Some(fault.into()), "{id}, {delivery:?}");
            assert!(!strict.usable, "{id}, {delivery:?}");
            // What the server said of the command is not lost with the connection.
            assert!(!strict.answers.contains(&WAITING), "{id}, {delivery:?}");
        }
    }
}

/// A client that gives up on the options says so before it goes.
#[test]
fn a_refusal_is_answered_with_an_abort() {
    let mut refusals = 0;
    for case in all() {
        let said_no = matches!(case.outcome, Outcome::RefusedWith(_)) || case.id == "T11";
        if said_no {
            let sent = case.play(Delivery::Whole, None).sent;
            let abort = b"IHAVEOPT\0\0\0\x02\0\0\0\0";
            assert!(sent.ends_with(abort), "{}: {sent:x?}", case.id);
            refusals += 1;
        }
    }
    assert!(refusals > 5);
}

/// Where TLS is required, nothing but the request for it goes out in clear.
#[test]
fn nothing_else_is_said_before_tls() {
    for case in all().iter().filter(|case| case.id.starts_with('T')) {
        if matches!(case.id, "T01" | "T05-require" | "T06" | "T09" | "T12") {
            let sent = case.play(Delivery::Whole, None).sent;
            let starttls = [&b"\0\0\0\x03IHAVEOPT"[..], &opt::STARTTLS.to_be_bytes()].concat();
            assert!(sent.starts_with(&starttls), "{}", case.id);
            let rest = &sent[starttls.len() + 4..];
            assert!(rest.is_empty() || rest.starts_with(b"IHAVEOPT\0\0\0\x02"), "{}", case.id);
        }
    }
}

/// The server's words reach the caller, an offset only where it can be.
#[test]
fn errors_are_explained() {
    let reports = |id: &str| {
        let case = all().into_iter().find(|case| case.id == id).unwrap();
        case.play(Delivery::Whole, None).reports
    };
    assert_eq!(reports("X20"), [(Some(100), b"here".to_vec())]);
    assert_eq!(reports("X21"), [(None, b"here".to_vec())]);
    assert_eq!(reports("X14"), [(None, b"what".to_vec())]);
    assert_eq!(reports("X19"), []);
}
