//! Every client that breaks rules, against a server in memory.

use std::collections::BTreeSet;

use nbd_sim::delivery::Delivery;
use nbd_sim::rude::{Case, End, all};

#[test]
fn every_case_ends_as_the_table_says() {
    for case in all() {
        // The long ones are long because something is repeated.
        let ways = if case.len() < 256 << 10 { &Delivery::ALL[..] } else { &[Delivery::Offered] };
        for delivery in ways.iter().copied() {
            let heard = case.play(delivery);
            let Case { id, hears, end, .. } = &case;
            assert!(heard.words == *hears, "{id}, {delivery:?}: {:?}", heard.words);
            let lives = matches!(end, End::Haggles | End::Lives);
            let ended = (heard.lives, heard.closed, heard.error.as_ref());
            let error = if let End::Dies(error) = end { Some(error) } else { None };
            assert_eq!(ended, (lives, !lives, error), "{id}, {delivery:?}");
        }
    }
}

#[test]
fn each_case_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for case in all() {
        assert!(names.insert(case.id), "{} twice", case.id);
    }
    assert!(names.len() > 75, "{} cases", names.len());
}

/// Cut short anywhere, a client gets the answers to what it said before, and nothing else.
#[test]
fn every_case_cut_at_every_length() {
    for case in all().iter().filter(|case| case.len() < 500) {
        for length in 0..case.len() {
            let heard = case.cut(length).play(Delivery::Whole);
            assert!(heard.closed, "{} cut at {length}: {heard:?}", case.id);
            assert!(case.hears.starts_with(&heard.words), "{} cut at {length}", case.id);
        }
    }
}
