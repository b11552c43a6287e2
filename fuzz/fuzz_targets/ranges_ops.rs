//! Adds to and takes from a set of offsets.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::ranges_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run ranges_ops`.
#[cfg(not(fuzzing))]
fn main() {}
