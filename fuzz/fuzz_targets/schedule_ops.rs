//! Hands out an object while paths come, go and lose what they have.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::schedule_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run schedule_ops`.
#[cfg(not(fuzzing))]
fn main() {}
