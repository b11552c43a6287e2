//! `kwik/1` by hand: frames as bytes, for peers that may break every rule. Spec: PROTOCOL §4.

use kwik_proto::v1::{FrameType, StreamHeaderType};
use prost::Message;

/// Returns a control frame: length, type, body.
#[must_use]
pub fn frame(kind: FrameType, body: &impl Message) -> Vec<u8> {
    framed(kind as u64, &body.encode_to_vec())
}

/// Returns the header of a unidirectional stream.
#[must_use]
pub fn header(kind: StreamHeaderType, body: &impl Message) -> Vec<u8> {
    framed(kind as u64, &body.encode_to_vec())
}

/// Returns length, type and body, whatever they are.
#[must_use]
pub fn framed(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = varint(body.len() as u64);
    out.extend(varint(kind));
    out.extend(body);
    out
}

/// Returns QUIC's shortest form of `value` (RFC 9000 §16).
#[must_use]
pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => value.to_be_bytes().get(7..).unwrap_or_default().to_vec(),
        0x40..=0x3fff => (value | 1 << 14).to_be_bytes().get(6..).unwrap_or_default().to_vec(),
        0x4000..=0x3fff_ffff => (value | 2 << 30).to_be_bytes().get(4..).unwrap_or_default().to_vec(),
        _ => (value | 3 << 62).to_be_bytes().to_vec(),
    }
}

/// Takes one frame off the front of `buffer`; `None` if it is not all there.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<(FrameType, Vec<u8>)> {
    let (len, len_size) = read_varint(buffer)?;
    let (kind, kind_size) = read_varint(buffer.get(len_size..)?)?;
    let start = len_size + kind_size;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    let body = buffer.get(start..end)?.to_vec();
    buffer.drain(..end);
    // What is not defined shows as unspecified, which is never sent.
    let kind = i32::try_from(kind).ok().and_then(|kind| FrameType::try_from(kind).ok()).unwrap_or_default();
    Some((kind, body))
}

fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1_usize << (first >> 6);
    let tagged = bytes.get(..len)?.iter().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
    Some((tagged & (u64::MAX >> (64 - 8 * len + 2)), len))
}
