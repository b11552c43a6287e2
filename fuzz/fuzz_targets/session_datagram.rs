//! Lets one of three sessions, or the network between them, misbehave.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::session_datagram(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run session_datagram`.
#[cfg(not(fuzzing))]
fn main() {}
