//! KWIK end to end: real sockets on loopback, real QUIC, real TLS.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail by panicking, and a seed is printed to be run again"
)]

mod as_quinn;
mod attach;
mod both;
mod conformance;
mod distribute;
mod examples;
mod failure;
mod hooks;
mod hostile;
mod isolation;
mod leases;
mod limits;
mod order;
mod parity;
mod plain;
mod programs;
mod relay;
mod scale;
mod tls;
mod words;
