//! Drives the primary's machine with an application and clients of all kinds.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::primary_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run primary_ops`.
#[cfg(not(fuzzing))]
fn main() {}
