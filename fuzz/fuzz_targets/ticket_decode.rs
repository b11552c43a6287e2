//! Reads damaged tickets, without their signatures.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::ticket_decode(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run ticket_decode`.
#[cfg(not(fuzzing))]
fn main() {}
