//! libFuzzer's way in; see the crate's documentation.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = chelsea_fuzz::targets::handover(bytes);
});
