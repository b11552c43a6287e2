//! The messages of `kwik/1` as protobuf declares them, generated ahead of time so that no build needs a compiler for
//! `.proto` files.
//!
//! Everything here is what a peer *claims*: every field may be missing and every number may be anything. Only
//! `kwik_core`'s `wire` module uses these types; it turns them into frames that can only be valid. The sources are in
//! `kwik/v1/`. After changing them run `KWIK_REGENERATE=1 cargo test -p kwik-proto`; without that variable the same
//! test fails when the checked-in code is not what the sources give.

#![forbid(unsafe_code)]

/// The messages of protocol version 1.
#[expect(clippy::doc_markdown, reason = "generated: comments come from protobuf sources and the generator")]
#[rustfmt::skip] // byte for byte what the generator writes
#[path = "gen/kwik.v1.rs"]
pub mod v1;
