//! Drives the secondary's machine with an application and clients of all kinds.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::secondary_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run secondary_ops`.
#[cfg(not(fuzzing))]
fn main() {}
