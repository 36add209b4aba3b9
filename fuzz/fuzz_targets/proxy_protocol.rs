//! See `octroi::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::fuzzing::run("proxy_protocol", data));
