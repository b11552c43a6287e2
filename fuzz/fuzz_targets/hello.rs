//! Says hello to a server with damaged tickets and without.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kwik_core::fuzzing::hello(data));

/// Keeps a build of the whole workspace working; run with `cargo fuzz run hello`.
#[cfg(not(fuzzing))]
fn main() {}
