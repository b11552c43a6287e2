//! Inserts into and reads from the reassembly of a stream.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::assemble_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run assemble_ops`.
#[cfg(not(fuzzing))]
fn main() {}
