//! The header of unidirectional streams, taken byte-exactly off their start.

use kwik_proto::v1 as pb;
use prost::Message as _;
use smallvec::SmallVec;

use super::{
    Head,
    field::{array, count, path, required, stream},
};
use crate::{
    error::FrameError,
    id::{LeaseId, Signature},
    limits::{RELAY_MAX, STREAM_HEADER_MAX},
    wire::frame::{RelayOpen, StreamHeader},
};

/// Reads the header at the start of one unidirectional stream and not a byte of what follows.
///
/// Read at most [`wanted`](Self::wanted) bytes off the stream, [`push`](Self::push) them, and repeat until the header is
/// there. Holds at most one header. Spec: PROTOCOL §4.
#[derive(Debug)]
pub(crate) struct HeaderDecoder {
    held: SmallVec<[u8; 32]>,
    wanted: usize,
    failed: Option<FrameError>,
}

impl HeaderDecoder {
    /// Returns a decoder at the start of a stream.
    pub(crate) fn new() -> Self {
        // A header has at least a length and a type.
        Self { held: SmallVec::new(), wanted: 2, failed: None }
    }

    /// Returns how many bytes certainly still belong to the header: 0 once it is complete or wrong, never 0 before.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Takes the next bytes of the stream, at most as many as are wanted, and returns the header once it is complete.
    ///
    /// # Errors
    /// The header's fault, now and at every later call.
    /// - [`FrameError::TooLarge`] for a length above 128, before its body is wanted, or for a relay above 64 KiB.
    /// - [`FrameError::UnknownMandatory`] for an unknown type, [`FrameError::Field`] for type 0.
    /// - [`FrameError::Malformed`] if more is pushed than was wanted.
    /// - The others for a body that is not a valid header of its type.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<StreamHeader>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        self.advance(bytes).inspect_err(|&error| {
            self.failed = Some(error);
            self.wanted = 0;
        })
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Option<StreamHeader>, FrameError> {
        if bytes.len() > self.wanted {
            debug_assert!(false, "bytes of the stream went into its header");
            return Err(FrameError::Malformed);
        }
        self.held.extend_from_slice(bytes);
        let (length, kind, size) = match Head::read(&self.held, STREAM_HEADER_MAX)? {
            Head::Partial { missing } => {
                self.wanted = missing;
                return Ok(None);
            }
            Head::Whole { length, kind, size } => (length, known(kind)?, size),
        };
        let body = self.held.get(size..).unwrap_or_default();
        self.wanted = length.saturating_sub(body.len());
        if self.wanted == 0 { decode(kind, body).map(Some) } else { Ok(None) }
    }
}

fn known(kind: u64) -> Result<pb::StreamHeaderType, FrameError> {
    match i32::try_from(kind).ok().and_then(|kind| pb::StreamHeaderType::try_from(kind).ok()) {
        Some(pb::StreamHeaderType::Unspecified) => Err(FrameError::Field),
        Some(kind) => Ok(kind),
        // Even types too: without its header the rest of the stream means nothing.
        None => Err(FrameError::UnknownMandatory),
    }
}

fn decode(kind: pb::StreamHeaderType, body: &[u8]) -> Result<StreamHeader, FrameError> {
    use pb::StreamHeaderType as Type;

    let malformed = |_| FrameError::Malformed;
    match kind {
        Type::Unspecified => Err(FrameError::Field),
        Type::PublicStream => pb::PublicStream::decode(body).map_err(malformed).map(|_| StreamHeader::Public),
        Type::SecondaryStreamOpen => {
            let open = pb::SecondaryStreamOpen::decode(body).map_err(malformed)?;
            Ok(StreamHeader::Secondary {
                lease: LeaseId::new(required(open.lease)?),
                offset: count(open.offset)?,
            })
        }
        Type::InternalOpen => {
            let open = pb::InternalOpen::decode(body).map_err(malformed)?;
            Ok(StreamHeader::Internal { stream: stream(open.stream)?, offset: count(open.offset)? })
        }
        Type::RelayOpen => {
            let open = pb::RelayOpen::decode(body).map_err(malformed)?;
            let length = required(open.length)?;
            if length > RELAY_MAX {
                return Err(FrameError::TooLarge);
            }
            let seal = open.seal.map(|seal| array(&seal)).transpose()?.map(Signature::new);
            Ok(StreamHeader::Relay(RelayOpen {
                path: path(open.path)?,
                id: required(open.id)?,
                length,
                seal,
            }))
        }
    }
}
