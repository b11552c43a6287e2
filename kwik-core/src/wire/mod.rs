//! Bytes to valid frames and back.
//!
//! Owns the framing of control streams and of the headers of unidirectional streams, and is the only place that names
//! the protobuf types. What leaves here needs no further check that can be made without knowing the session; who may
//! send a frame, and when, is the session's business. Never allocates for a length a peer only claims: a body is
//! buffered as it comes, and its length is refused before that. Spec: PROTOCOL §4.

mod decode;
mod encode;
pub(crate) mod frame;
mod varint;

#[cfg(test)]
mod arbitrary;

pub(crate) use decode::{Decoder, HeaderDecoder};
pub(crate) use encode::{encode, encode_header};
pub(crate) use frame::*;
