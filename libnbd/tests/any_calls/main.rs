//! Calls in any order with any arguments, from a seed. The fuzzer plays the same.

mod play;

use nbd_sim::rng::Rng;

#[test]
fn any_calls_return_and_free_what_they_were_given() {
    let mut ready = 0;
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let len = rng.below(600);
        let mut data: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
        // Half of them get through the negotiation, which chance alone does not.
        if let Some(mode) = data.first_mut() {
            *mode = (seed % 32) as u8;
        }
        ready += u32::from(play::play(&data));
    }
    assert!(ready > 200, "only {ready} were connected");
}

/// The fuzzer's seeds, and what once broke something.
#[test]
fn seeds_are_played_again() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus-seeds/capi_calls");
    let seeds = std::fs::read_dir(seeds).expect("there are seeds");
    let paths: Vec<_> = seeds.map(|entry| entry.expect("it is a file").path()).collect();
    assert!(paths.len() > 5, "{paths:?}");
    for path in paths {
        let bytes = std::fs::read(&path).expect("it can be read");
        for length in 0..=bytes.len() {
            play::play(&bytes[..length]);
        }
    }
}
