//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz value`
#![no_main]

#[allow(dead_code, reason = "each target has its own of the properties")]
#[path = "../property.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    property::value(bytes);
});
