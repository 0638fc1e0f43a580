#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_server::play(data));
