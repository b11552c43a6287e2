//! Bytes from control frames and stream headers.

mod message;

use bytes::{BufMut, Bytes};
use kwik_proto::v1 as pb;
use prost::Message;
use smallvec::SmallVec;

use self::message::byte_range;
use super::{
    decode::Decoder,
    frame::{Frame, MappingOperation, PathStatus, RelayOpen, StreamHeader},
    varint,
};
use crate::limits::{CONTROL_FRAME_MAX, REASON_MAX};

/// Room for any header: three bytes of framing and at most 87 of body.
const HEADER_ROOM: usize = 96;

/// Appends `frame` to `out`: length, type, body.
///
/// An overlong reason is cut at a character; everything else must be within the bounds that the frame's type states,
/// or the peer refuses it. Flow label and scope of an IPv6 address mean nothing to others and are left out.
pub(crate) fn encode(frame: &Frame, out: &mut Vec<u8>) {
    let start = out.len();
    put_frame(frame, out);
    debug_assert!(out.get(start..).is_some_and(decodes), "a frame that its receiver would refuse: {frame:?}");
}

/// Returns the header as it starts a unidirectional stream.
pub(crate) fn encode_header(header: &StreamHeader) -> SmallVec<[u8; HEADER_ROOM]> {
    let mut room = [0; HEADER_ROOM];
    let mut rest = room.as_mut_slice();
    put_header(header, &mut rest);
    let used = HEADER_ROOM - rest.len();
    let mut bytes = SmallVec::from(room);
    bytes.truncate(used);
    bytes
}

/// Returns whether `bytes` are exactly one valid frame.
fn decodes(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    matches!(decoder.next(), Ok(Some(_))) && decoder.is_between_frames()
}

#[expect(clippy::too_many_lines, reason = "one arm per frame")]
fn put_frame(frame: &Frame, out: &mut Vec<u8>) {
    use pb::FrameType as Type;

    match frame {
        Frame::ClientHello(hello) => put_body(Type::ClientHello, &pb::ClientHello::from(hello), out),
        Frame::ServerHello(hello) => put_body(Type::ServerHello, &pb::ServerHello::from(hello), out),
        Frame::Refuse { code, reason } => {
            let body = pb::Refuse { code: Some(code.into_inner()), reason: Some(cut(reason)) };
            put_body(Type::Refuse, &body, out);
        }
        Frame::AddPath(path) => put_body(Type::AddPath, &pb::AddPath::from(path), out),
        Frame::PathReport { path, status } => {
            let (state, code) = state(*status);
            let body = pb::PathReport { path: Some(path.into_inner()), state: Some(state.into()), code };
            put_body(Type::PathReport, &body, out);
        }
        Frame::RemovePath { path, code, deadline_ms } => {
            let body = pb::RemovePath {
                path: Some(path.into_inner()),
                code: Some(code.into_inner()),
                deadline_ms: Some(*deadline_ms),
            };
            put_body(Type::RemovePath, &body, out);
        }
        Frame::Drain { deadline_ms } => {
            put_body(Type::Drain, &pb::Drain { deadline_ms: Some(*deadline_ms) }, out);
        }
        Frame::JobOpen(job) => put_body(Type::JobOpen, &pb::JobOpen::from(job), out),
        Frame::JobAccepted { job } => {
            put_body(Type::JobAccepted, &pb::JobAccepted { job: Some(job.into_inner()) }, out);
        }
        Frame::JobRefused { job, code } => {
            let body = pb::JobRefused { job: Some(job.into_inner()), code: Some(code.into_inner()) };
            put_body(Type::JobRefused, &body, out);
        }
        Frame::JobClose { job } => {
            put_body(Type::JobClose, &pb::JobClose { job: Some(job.into_inner()) }, out);
        }
        Frame::LeaseGrant(grant) => put_body(Type::LeaseGrant, &pb::LeaseGrant::from(grant), out),
        Frame::LeaseNotice { lease, job, range, credit } => {
            let body = pb::LeaseNotice {
                lease: Some(lease.into_inner()),
                job: Some(job.into_inner()),
                range: Some(byte_range(*range)),
                credit: Some(*credit),
            };
            put_body(Type::LeaseNotice, &body, out);
        }
        Frame::LeaseRefused { lease, code } => {
            let body = pb::LeaseRefused { lease: Some(lease.into_inner()), code: Some(code.into_inner()) };
            put_body(Type::LeaseRefused, &body, out);
        }
        Frame::LeaseRevoke { lease, keep, code } => {
            let body = pb::LeaseRevoke {
                lease: Some(lease.into_inner()),
                keep: Some(*keep),
                code: Some(code.into_inner()),
            };
            put_body(Type::LeaseRevoke, &body, out);
        }
        Frame::LeaseDone { lease } => {
            put_body(Type::LeaseDone, &pb::LeaseDone { lease: Some(lease.into_inner()) }, out);
        }
        Frame::LeaseLost { lease, code, missing } => {
            let body = pb::LeaseLost {
                lease: Some(lease.into_inner()),
                code: Some(code.into_inner()),
                missing: missing.iter().copied().map(byte_range).collect(),
            };
            put_body(Type::LeaseLost, &body, out);
        }
        Frame::Split { stream, offset } => {
            let body = pb::Split { stream: Some(stream.into_inner()), offset: Some(*offset) };
            put_body(Type::Split, &body, out);
        }
        Frame::SplitAck { stream, credit } => {
            let body = pb::SplitAck { stream: Some(stream.into_inner()), credit: Some(*credit) };
            put_body(Type::SplitAck, &body, out);
        }
        Frame::StreamFinal { stream, size } => {
            let body = pb::StreamFinal { stream: Some(stream.into_inner()), size: Some(*size) };
            put_body(Type::StreamFinal, &body, out);
        }
        Frame::StreamComplete { stream } => {
            put_body(Type::StreamComplete, &pb::StreamComplete { stream: Some(stream.into_inner()) }, out);
        }
        Frame::StreamStopped { stream, code } => {
            let body = pb::StreamStopped { stream: Some(stream.into_inner()), code: Some(code.into_inner()) };
            put_body(Type::StreamStopped, &body, out);
        }
        Frame::Credit(credit) => put_body(Type::Credit, &pb::Credit::from(credit), out),
        Frame::OffsetSyncRequest { stream, from } => {
            let body = pb::OffsetSyncRequest { stream: Some(stream.into_inner()), from: Some(*from) };
            put_body(Type::OffsetSyncRequest, &body, out);
        }
        Frame::OffsetSyncResponse { stream, received, more } => {
            let body = pb::OffsetSyncResponse {
                stream: Some(stream.into_inner()),
                received: received.iter().copied().map(byte_range).collect(),
                more: Some(*more),
            };
            put_body(Type::OffsetSyncResponse, &body, out);
        }
        Frame::StreamMappingUpdate { operation, stream, lease, range } => {
            let body = pb::StreamMappingUpdate {
                operation: Some(mapping_operation(*operation).into()),
                stream: Some(stream.into_inner()),
                lease: Some(lease.into_inner()),
                range: Some(byte_range(*range)),
            };
            put_body(Type::StreamMappingUpdate, &body, out);
        }
        Frame::ProgressReport(report) => {
            put_body(Type::ProgressReport, &pb::ProgressReport::from(report), out);
        }
        Frame::SessionClose { code, reason } => {
            let body = pb::SessionClose { code: Some(code.into_inner()), reason: Some(cut(reason)) };
            put_body(Type::SessionClose, &body, out);
        }
    }
}

fn put_header(header: &StreamHeader, out: &mut impl BufMut) {
    use pb::StreamHeaderType as Type;

    match *header {
        StreamHeader::Public => put_body(Type::PublicStream, &pb::PublicStream {}, out),
        StreamHeader::Secondary { lease, offset } => {
            let body = pb::SecondaryStreamOpen { lease: Some(lease.into_inner()), offset: Some(offset) };
            put_body(Type::SecondaryStreamOpen, &body, out);
        }
        StreamHeader::Internal { stream, offset } => {
            let body = pb::InternalOpen { stream: Some(stream.into_inner()), offset: Some(offset) };
            put_body(Type::InternalOpen, &body, out);
        }
        StreamHeader::Relay(RelayOpen { path, id, length, seal }) => {
            let body = pb::RelayOpen {
                path: Some(path.into_inner()),
                id: Some(id),
                length: Some(length),
                seal: seal.map(|seal| Bytes::copy_from_slice(seal.as_bytes())),
            };
            put_body(Type::RelayOpen, &body, out);
        }
    }
}

/// Appends length, type and body; `kind` is a number of an enum that starts at 0.
fn put_body(kind: impl Into<i32>, body: &impl Message, out: &mut impl BufMut) {
    let length = body.encoded_len();
    debug_assert!(length <= CONTROL_FRAME_MAX, "a body of {length} bytes");
    varint::put(length as u64, out);
    varint::put(kind.into().unsigned_abs().into(), out);
    let written = body.encode(out);
    debug_assert!(written.is_ok(), "no room for {length} bytes");
}

/// Returns at most 256 bytes of `reason`, cut at a character.
fn cut(reason: &str) -> String {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

fn state(status: PathStatus) -> (pb::PathState, Option<u64>) {
    match status {
        PathStatus::Active => (pb::PathState::Active, None),
        PathStatus::Degraded => (pb::PathState::Degraded, None),
        PathStatus::Dead(code) => (pb::PathState::Dead, Some(code.into_inner())),
    }
}

fn mapping_operation(operation: MappingOperation) -> pb::MappingOperation {
    match operation {
        MappingOperation::Create => pb::MappingOperation::Create,
        MappingOperation::Update => pb::MappingOperation::Update,
        MappingOperation::Suspend => pb::MappingOperation::Suspend,
        MappingOperation::Resume => pb::MappingOperation::Resume,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::ErrorCode,
        wire::{HeaderDecoder, arbitrary},
    };

    fn decode_one(bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        let frame = decoder.next().expect("valid").expect("whole");
        assert!(decoder.is_between_frames());
        frame
    }

    #[test]
    fn length_counts_the_body_alone() {
        let mut out = vec![0xaa];
        encode(&Frame::Drain { deadline_ms: 5 }, &mut out);
        assert_eq!(out, [0xaa, 2, 13, 0x08, 5], "PROTOCOL §4");
    }

    #[test]
    fn overlong_reason_is_cut_at_a_character() {
        let mut out = Vec::new();
        // 255 bytes, then a character of three.
        let reason = format!("{}€uro", "x".repeat(255));
        encode(&Frame::Refuse { code: ErrorCode::VERSION, reason }, &mut out);
        let Frame::Refuse { reason, .. } = decode_one(&out) else { panic!("not a refusal") };
        assert_eq!(reason, "x".repeat(255));
    }

    #[test]
    fn largest_frames_and_headers_fit() {
        for frame in arbitrary::largest() {
            let mut out = Vec::new();
            encode(&frame, &mut out);
            assert!(out.len() <= CONTROL_FRAME_MAX, "{} bytes: {frame:?}", out.len());
            assert_eq!(decode_one(&out), frame);
        }
        for header in arbitrary::largest_headers() {
            assert!(!encode_header(&header).spilled());
        }
    }

    #[test]
    #[should_panic(expected = "a frame that its receiver would refuse")]
    #[cfg(debug_assertions)]
    fn frame_outside_its_bounds_is_noticed() {
        encode(&Frame::Split { stream: crate::id::StreamId::CONTROL, offset: u64::MAX }, &mut Vec::new());
    }

    #[test]
    fn one_frame_is_neither_less_nor_more() {
        let mut bytes = Vec::new();
        encode(&Frame::Drain { deadline_ms: 5 }, &mut bytes);
        assert!(decodes(&bytes) && !decodes(&bytes[1..]) && !decodes(&bytes[..3]));
        encode(&Frame::Drain { deadline_ms: 5 }, &mut bytes);
        assert!(!decodes(&bytes));
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in arbitrary::frame()) {
            let mut out = Vec::new();
            encode(&frame, &mut out);
            prop_assert_eq!(decode_one(&out), frame);
        }

        #[test]
        fn headers_round_trip(header in arbitrary::header()) {
            let bytes = encode_header(&header);
            let mut decoder = HeaderDecoder::new();
            let mut rest = bytes.as_slice();
            let decoded = loop {
                let (now, later) = rest.split_at(decoder.wanted());
                rest = later;
                if let Some(header) = decoder.push(now).expect("valid") {
                    break header;
                }
            };
            prop_assert_eq!(decoded, header);
            prop_assert!(rest.is_empty());
        }
    }
}
