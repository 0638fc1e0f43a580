//! Simulated sessions: many thousands of seeds, every invariant of `nbd_sim::pair`.

use std::{env, thread};

use nbd_proto::HeaderStyle;
use nbd_sim::pair::{Plan, Report, run, run_seed};

/// Seeds of an ordinary run; `NBD_SIM_SEEDS` asks for more.
const SEEDS: u64 = 100_000;

const OLD_FAILURES: [u64; 5] = [22609, 34201, 52987, 54842, 59968];

#[test]
fn every_invariant_holds_for_every_seed() {
    let seeds = env::var("NBD_SIM_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let reports = run_all(seeds);
    let sum = |part: fn(&Report) -> u64| reports.iter().map(part).sum::<u64>();
    let reached = |style| reports.iter().filter(|r| r.headers == style).count() as u64;
    // A simulation that does nothing would pass, too.
    let each = seeds / 20;
    assert!(reached(Some(HeaderStyle::Simple)) > each);
    assert!(reached(Some(HeaderStyle::Structured)) > each);
    assert!(reached(Some(HeaderStyle::Extended)) > each);
    assert!(reached(None) > seeds / 100, "no fault struck the negotiation");
    assert!(sum(|r| r.succeeded) > 5 * seeds);
    assert!(sum(|r| r.failed) > each);
    assert!(sum(|r| r.abandoned) > each);
    assert!(sum(|r| r.holes) > each);
    assert!(sum(|r| r.extents) > each);
}

/// Every processor takes its share.
fn run_all(seeds: u64) -> Vec<Report> {
    let workers = thread::available_parallelism().map_or(1, |count| count.get());
    let share = |first: usize| {
        (first as u64..seeds)
            .step_by(workers)
            .map(|seed| run_seed(seed).unwrap_or_else(|failure| panic!("{failure}")))
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let share = &share;
        let shares: Vec<_> = (0..workers).map(|n| scope.spawn(move || share(n))).collect();
        shares.into_iter().flat_map(|share| share.join().expect("each line says which")).collect()
    })
}

#[test]
fn the_same_seed_is_the_same_session() {
    for seed in 0..40 {
        let once = run(Plan::new(seed)).unwrap();
        assert_eq!(once, run(Plan::new(seed)).unwrap());
    }
}

/// Seeds that once failed, for reasons the first thousands do not show: a bit flipped
/// in the reserved offset of a flush, which an extended reply must repeat.
#[test]
fn old_failures_stay_mended() {
    for seed in OLD_FAILURES {
        run_seed(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
