#![no_main]

// The test of the same calls, which plays from seeds.
#[path = "../../libnbd/tests/any_calls/play/mod.rs"]
mod play;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    play::play(data);
});
