#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_sim::fuzzing::session_ops(data));
