//! `kwik get` as its users have it: the binary, against `kwik serve` and `kwik mirror` in processes of their own.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, and say what the servers said"
)]

mod bed;
mod codes;
mod output;
mod resume;
mod schema;
