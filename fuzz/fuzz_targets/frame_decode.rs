//! Feeds arbitrary bytes to the control frame decoder.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::frame_decode(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run frame_decode`.
#[cfg(not(fuzzing))]
fn main() {}
