//! Stories of whole sessions: a thousand seeds, every promise of `nbd_sim::session`.
//!
//! That they see what they are for was tried by breaking it. Found were: connections that keep
//! unflushed writes in one pool (seed 46), a flush that asks one member only (777), and silence
//! that is not measured for commands that were withdrawn (22).

use std::env;

use nbd_sim::session::{Report, run_seed};

/// Seeds of an ordinary run; `NBD_SIM_SEEDS` asks for more.
const SEEDS: u64 = 1000;

#[test]
fn sessions_keep_their_promises() {
    let seeds = env::var("NBD_SIM_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let reports: Vec<Report> = (0..seeds)
        .map(|seed| run_seed(seed).unwrap_or_else(|failure| panic!("{failure}")))
        .collect();
    let sum = |part: fn(&Report) -> u64| reports.iter().map(part).sum::<u64>();
    // A story in which nothing happens would end well, too.
    assert!(sum(|r| r.succeeded) > 20 * seeds);
    assert!(sum(|r| r.connections) > seeds + seeds / 2);
    assert!(sum(|r| r.crashes) > seeds / 2);
    assert!(sum(|r| r.silences) > seeds / 4);
    assert!(sum(|r| r.jumps) > seeds / 10);
    assert!(sum(|r| r.withdrawn) > seeds);
    assert!(sum(|r| r.late) > seeds / 2);
    assert!(sum(|r| r.told) > seeds / 20);
    assert!(sum(|r| r.given_up) > seeds / 20);
    assert!(sum(|r| r.seconds) > 10 * seeds);
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..20 {
        assert_eq!(run_seed(seed), run_seed(seed));
    }
}
