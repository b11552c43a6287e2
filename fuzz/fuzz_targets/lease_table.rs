//! Claims, releases and writes ranges of a split stream.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::lease_table(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run lease_table`.
#[cfg(not(fuzzing))]
fn main() {}
