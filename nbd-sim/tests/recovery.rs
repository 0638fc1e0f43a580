//! Stories of lost connections: thousands of seeds, every promise of `nbd_sim::recovery`.

use std::env;

use nbd_sim::recovery::{Report, run_seed};

/// Seeds of an ordinary run; `NBD_SIM_SEEDS` asks for more.
const SEEDS: u64 = 2000;

#[test]
fn nothing_is_lost_that_was_not_told_of() {
    let seeds = env::var("NBD_SIM_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let reports: Vec<Report> = (0..seeds)
        .map(|seed| run_seed(seed).unwrap_or_else(|failure| panic!("{failure}")))
        .collect();
    let sum = |part: fn(&Report) -> u64| reports.iter().map(part).sum::<u64>();
    // A story in which nothing happens would end well, too.
    assert!(sum(|r| r.succeeded) > 20 * seeds);
    assert!(sum(|r| r.losses) > seeds);
    assert!(sum(|r| r.crashes) > seeds / 2);
    assert!(sum(|r| r.repeated) > 2 * seeds);
    assert!(sum(|r| r.told) > seeds / 10);
    assert!(sum(|r| r.own_flushes) > seeds / 10);
    assert!(sum(|r| r.failed) > seeds / 10);
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..20 {
        assert_eq!(run_seed(seed), run_seed(seed));
    }
}
