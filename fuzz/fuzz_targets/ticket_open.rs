//! Opens damaged tickets, and shows sound ones in the wrong place.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::ticket_open(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run ticket_open`.
#[cfg(not(fuzzing))]
fn main() {}
