//! Recorded sessions cut at every length and with every byte changed, to either side: no
//! panic, every command completed, little allocated.
//!
//! This is a test binary of its own with one test in it: the allocator counts for
//! the whole process.

use std::alloc::System;

use nbd_sim::delivery::Delivery;
use nbd_sim::replay::{ClientScript, Harm, ServerScript};
use nbd_sim::transcript::all;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Most that one play may allocate, freed again or not, beyond the payload that is
/// asked for: the buffers of two machines and what the harness notes.
const MOST: usize = 1 << 20;

/// What a byte is changed into.
fn changes(byte: u8) -> impl Iterator<Item = u8> {
    let flips = (0..8).map(move |bit| byte ^ 1 << bit);
    let values = [0, 0xff, byte.wrapping_add(1)].into_iter();
    flips.chain(values.filter(move |value| (value ^ byte).count_ones() > 1))
}

/// Plays a script cut at every length and with every change of every byte; returns how
/// often.
fn harm<S: Harm + Clone>(script: &S, mut play: impl FnMut(&S)) -> usize {
    let mut harmed = script.clone();
    let total: usize = harmed.bursts().map(|burst| burst.len()).sum();
    let mut plays = 0;
    // Every byte of most sessions, and a comb through the payload of the longest.
    for at in (0..total).step_by(1 + total / 2500) {
        let mut cut = script.clone();
        cut.truncate(at);
        play(&cut);
        let byte = *harmed.byte(at).expect("a byte");
        for change in changes(byte) {
            *harmed.byte(at).expect("a byte") = change;
            play(&harmed);
            plays += 1;
        }
        *harmed.byte(at).expect("a byte") = byte;
    }
    plays
}

fn allocates_little(name: &str, payload: usize, play: impl FnOnce()) {
    let region = Region::new(ALLOCATOR);
    play();
    let allocated = region.change().bytes_allocated;
    assert!(allocated < MOST + payload, "{name}: {allocated} bytes");
}

#[test]
fn nothing_that_is_done_to_a_session_hurts() {
    let mut plays = 0;
    for transcript in all().expect("recorded sessions") {
        let name = &transcript.name;
        let script = ClientScript::new(&transcript).expect("a sound session");
        let asked = script.play(Delivery::Whole, None, 0).buffers.iter().map(Vec::len).sum();
        plays += harm(&script, |script| {
            allocates_little(name, asked, || {
                let trace = script.play(Delivery::Whole, None, 0);
                let open = trace.results.iter().filter(|result| result.is_none()).count();
                assert_eq!(open, 0, "{name}: {trace:?}");
            });
        });
        let script = ServerScript::new(&transcript).expect("a sound session");
        plays += harm(&script, |script| drop(script.play_unjudged()));
    }
    println!("{plays} sessions");
    assert!(plays > 50_000, "{plays} sessions");
}
