//! Checks of single fields, shared by all messages.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use kwik_proto::v1 as pb;

use crate::{
    error::{ErrorCode, FrameError},
    id::{ByteRange, OFFSET_MAX, PathId, StreamId},
    limits::{APP_ALPN_LEN_MAX, LEASE_MAX, REASON_MAX, REPEATED_MAX, TICKET_MAX},
    wire::frame::{Ranges, Reason},
};

/// A field that must be there.
pub(super) fn required<T>(field: Option<T>) -> Result<T, FrameError> {
    field.ok_or(FrameError::Field)
}

/// A mandatory offset or byte count.
pub(super) fn count(field: Option<u64>) -> Result<u64, FrameError> {
    let value = required(field)?;
    if value <= OFFSET_MAX { Ok(value) } else { Err(FrameError::Range) }
}

/// A mandatory path id.
pub(super) fn path(field: Option<u32>) -> Result<PathId, FrameError> {
    required(field).map(PathId::new)
}

/// A mandatory stream id.
pub(super) fn stream(field: Option<u64>) -> Result<StreamId, FrameError> {
    StreamId::from_u64(required(field)?).ok_or(FrameError::Field)
}

/// A mandatory error code that the receiver goes on to tell as what became of something: never that this end is broken.
pub(super) fn code(field: Option<u64>) -> Result<ErrorCode, FrameError> {
    said(field).and_then(|code| if code == ErrorCode::INTERNAL { Err(FrameError::Field) } else { Ok(code) })
}

/// A mandatory error code that is the peer's own reason to leave.
pub(super) fn said(field: Option<u64>) -> Result<ErrorCode, FrameError> {
    ErrorCode::from_u64(required(field)?).map_err(|_| FrameError::Field)
}

/// A key, name or digest of exactly `N` bytes.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], FrameError> {
    bytes.try_into().map_err(|_| FrameError::Field)
}

/// A mandatory key, name or signature of exactly `N` bytes.
pub(super) fn key<const N: usize>(field: Option<Bytes>) -> Result<[u8; N], FrameError> {
    array(&required(field)?)
}

/// `bytes` if they are at most `max` long.
pub(super) fn capped(bytes: Bytes, max: usize) -> Result<Bytes, FrameError> {
    if bytes.len() <= max { Ok(bytes) } else { Err(FrameError::TooLarge) }
}

/// `bytes` if they are 1 to `max` long.
pub(super) fn filled(bytes: Bytes, max: usize) -> Result<Bytes, FrameError> {
    if bytes.is_empty() { Err(FrameError::Field) } else { capped(bytes, max) }
}

/// A mandatory ticket.
pub(super) fn ticket(field: Option<Bytes>) -> Result<Bytes, FrameError> {
    filled(required(field)?, TICKET_MAX)
}

/// The name of an application protocol.
pub(super) fn app_protocol(name: Bytes) -> Result<Bytes, FrameError> {
    filled(name, APP_ALPN_LEN_MAX)
}

/// A mandatory text for humans; may be empty.
pub(super) fn reason(field: Option<String>) -> Result<Reason, FrameError> {
    let text = required(field)?;
    if text.len() <= REASON_MAX { Ok(text) } else { Err(FrameError::TooLarge) }
}

/// A mandatory range of a stream.
pub(super) fn range(field: Option<pb::ByteRange>) -> Result<ByteRange, FrameError> {
    let range = required(field)?;
    ByteRange::new(required(range.start)?, required(range.length)?).ok_or(FrameError::Range)
}

/// A mandatory range that one lease may have.
pub(super) fn lease_range(field: Option<pb::ByteRange>) -> Result<ByteRange, FrameError> {
    let range = range(field)?;
    if range.len() <= LEASE_MAX { Ok(range) } else { Err(FrameError::Field) }
}

/// Rising ranges with a gap between each two, at most 64.
pub(super) fn ranges(field: Vec<pb::ByteRange>) -> Result<Ranges, FrameError> {
    at_most(REPEATED_MAX, &field)?;
    let mut ranges = Ranges::new();
    for next in field {
        let next = range(Some(next))?;
        if ranges.last().is_some_and(|last| next.start() <= last.end()) {
            return Err(FrameError::Field);
        }
        ranges.push(next);
    }
    Ok(ranges)
}

/// An address somebody may be reached at.
pub(super) fn address(message: pb::SocketAddress) -> Result<SocketAddr, FrameError> {
    let ip = required(message.ip)?;
    let ip = match ip.len() {
        4 => IpAddr::from(array::<4>(&ip)?),
        16 => IpAddr::from(array::<16>(&ip)?),
        _ => return Err(FrameError::Field),
    };
    match u16::try_from(required(message.port)?) {
        Ok(port) if port != 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(FrameError::Field),
    }
}

/// Refuses more than `max` entries.
pub(super) fn at_most<T>(max: usize, field: &[T]) -> Result<(), FrameError> {
    if field.len() <= max { Ok(()) } else { Err(FrameError::TooMany) }
}
