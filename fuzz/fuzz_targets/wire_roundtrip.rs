#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_sim::fuzzing::wire_roundtrip(data));
