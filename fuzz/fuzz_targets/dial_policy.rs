//! Asks the dial policy about arbitrary addresses.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::dial_policy(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run dial_policy`.
#[cfg(not(fuzzing))]
fn main() {}
