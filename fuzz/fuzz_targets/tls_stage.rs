#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_sim::fuzzing::tls_stage(data));
