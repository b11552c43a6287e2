//! Drives the client's machine with peers that keep to the rules and that do not.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::client_ops(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run client_ops`.
#[cfg(not(fuzzing))]
fn main() {}
