//! Bytes that the decoders refuse, however they come.

use std::num::NonZeroUsize;

use bytes::Bytes;
use kwik_proto::v1 as pb;
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::*;
use crate::{
    error::ErrorCode,
    limits::{JOB_PAYLOAD_MAX, LEASE_MAX, REASON_MAX, REPEATED_MAX, STREAM_HEADER_MAX, TICKET_MAX},
    wire::{arbitrary, encode, encode_header, frame::StreamHeader},
};

/// Frames up to the error, and the error.
type Outcome = (Vec<Frame>, Option<FrameError>);

fn drain(decoder: &mut Decoder, frames: &mut Vec<Frame>) -> Option<FrameError> {
    loop {
        match decoder.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

/// Decodes `bytes` pushed in pieces of `size`.
fn pieces(bytes: &[u8], size: NonZeroUsize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.get()) {
        decoder.push(piece);
        if let Some(error) = drain(&mut decoder, &mut frames) {
            assert_eq!(decoder.next(), Err(error), "an error stays");
            assert!(!decoder.is_between_frames());
            return (frames, Some(error));
        }
        assert!(decoder.held() < HEAD_MAX + CONTROL_FRAME_MAX);
    }
    (frames, None)
}

fn whole(bytes: &[u8]) -> Outcome {
    pieces(bytes, NonZeroUsize::new(bytes.len()).unwrap_or(NonZeroUsize::MIN))
}

fn framed(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(body.len() as u64, &mut out);
    varint::put(kind, &mut out);
    out.extend_from_slice(body);
    out
}

/// Decodes one body of type `kind`.
fn one(kind: FrameType, body: &impl Message) -> Result<Frame, FrameError> {
    let (mut frames, error) = whole(&framed(kind as u64, &body.encode_to_vec()));
    error.map_or_else(|| Ok(frames.pop().expect("a whole frame")), Err)
}

/// The message of `frame`, ready to be damaged.
fn message<M: Message + Default>(kind: FrameType) -> M {
    let found = arbitrary::largest().into_iter().find_map(|frame| {
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        let Head::Whole { kind: found, size, .. } = Head::read(&bytes, CONTROL_FRAME_MAX).expect("valid")
        else {
            panic!("an encoded frame is whole");
        };
        (found == kind as u64).then(|| M::decode(&bytes[size..]).expect("valid"))
    });
    found.expect("every kind is there")
}

fn header(bytes: &[u8]) -> Result<Option<StreamHeader>, FrameError> {
    let mut decoder = HeaderDecoder::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(decoder.wanted().min(rest.len()));
        rest = later;
        if let Some(header) = decoder.push(now)? {
            assert_eq!(decoder.wanted(), 0);
            return Ok(Some(header));
        }
    }
    Ok(None)
}

#[test]
fn length_over_the_cap_is_refused_before_anything_follows() {
    let mut bytes = Vec::new();
    varint::put(CONTROL_FRAME_MAX as u64 + 1, &mut bytes);
    assert_eq!(whole(&bytes), (vec![], Some(FrameError::TooLarge)), "PROTOCOL §4");
    assert_eq!(whole(&[0xff; 8]), (vec![], Some(FrameError::TooLarge)));

    bytes.clear();
    varint::put(CONTROL_FRAME_MAX as u64, &mut bytes);
    assert_eq!(whole(&bytes), (vec![], None));
}

#[test]
fn failed_decoder_holds_nothing() {
    let mut decoder = Decoder::new();
    decoder.push(&framed(1_001, b"x"));
    assert_eq!(decoder.next(), Err(FrameError::UnknownMandatory));
    decoder.push(&[0; 4096]);
    assert_eq!(decoder.buffer.capacity(), 0);
    assert_eq!(decoder.next(), Err(FrameError::UnknownMandatory));
}

#[test]
fn unknown_even_types_are_skipped_and_odd_ones_refused() {
    let mut bytes = framed(1_000, &[0xff; CONTROL_FRAME_MAX]);
    encode(&Frame::Drain { deadline_ms: 1 }, &mut bytes);
    bytes.extend(framed((1 << 62) - 2, b""));
    encode(&Frame::Drain { deadline_ms: 2 }, &mut bytes);
    let expected = vec![Frame::Drain { deadline_ms: 1 }, Frame::Drain { deadline_ms: 2 }];
    assert_eq!(whole(&bytes), (expected.clone(), None), "PROTOCOL §4");
    assert_eq!(pieces(&bytes, NonZeroUsize::MIN), (expected, None));

    // Known before the body is there.
    assert_eq!(whole(&[1, 55]), (vec![], Some(FrameError::UnknownMandatory)));
    assert_eq!(whole(&framed((1 << 62) - 1, b"")), (vec![], Some(FrameError::UnknownMandatory)));
}

#[test]
fn skipped_bodies_are_not_held() {
    let mut decoder = Decoder::new();
    decoder.push(&framed(1_000, &[0; CONTROL_FRAME_MAX])[..100]);
    assert_eq!(decoder.next(), Ok(None));
    assert_eq!(decoder.held(), 0);
    assert!(!decoder.is_between_frames());
    decoder.push(&[0; CONTROL_FRAME_MAX - 96]);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.is_between_frames());
}

#[test]
fn every_kind_but_reports_of_progress_is_odd_and_so_mandatory() {
    for number in 1..200 {
        if let Ok(kind) = FrameType::try_from(number) {
            assert_eq!(number % 2 == 0, kind == FrameType::ProgressReport, "type {number}");
        }
    }
    let kinds = (0..200).filter(|&number| FrameType::try_from(number).is_ok_and(|kind| kind as i32 > 0));
    assert_eq!(kinds.count(), arbitrary::KINDS);
}

#[test]
fn zero_is_refused_as_type_and_as_enum_value() {
    assert_eq!(whole(&[0, 0]).1, Some(FrameError::Field), "PROTOCOL §4");
    assert_eq!(header(&[0, 0]), Err(FrameError::Field), "PROTOCOL §4");

    for state in [0, 4, -1, i32::MAX] {
        let report = pb::PathReport { path: Some(1), state: Some(state), code: None };
        assert_eq!(one(FrameType::PathReport, &report), Err(FrameError::Field), "{state}");
    }
    for operation in [0, 6, -1, i32::MIN] {
        let update =
            pb::StreamMappingUpdate { operation: Some(operation), ..message(FrameType::StreamMappingUpdate) };
        assert_eq!(one(FrameType::StreamMappingUpdate, &update), Err(FrameError::Field), "{operation}");
    }
}

#[test]
fn empty_bodies_lack_their_fields() {
    for number in 1..200 {
        if FrameType::try_from(number).is_ok() {
            assert_eq!(
                whole(&framed(number.unsigned_abs().into(), b"")).1,
                Some(FrameError::Field),
                "{number}"
            );
        }
    }
    for kind in 2..=4 {
        assert_eq!(header(&[0, kind]), Err(FrameError::Field), "{kind}");
    }
    assert_eq!(header(&[0, 1]), Ok(Some(StreamHeader::Public)));
}

/// Leaves out one field at a time: every field of every kind is either optional by the specification or missed.
#[test]
fn every_missing_field_is_noticed() {
    // (type, field) that may be left out: lists, what a feature adds, and a choice's only alternative is the choice.
    let optional: &[(u64, u32)] = &[
        (1, 5),
        (1, 6),
        (3, 4),
        (7, 4),
        (23, 4),
        (23, 5),
        (23, 6),
        (23, 7),
        (33, 3),
        (49, 2),
        (54, 2),
        (54, 5),
        (54, 6),
    ];
    for frame in arbitrary::largest() {
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        let Ok(Head::Whole { kind, size, .. }) = Head::read(&bytes, CONTROL_FRAME_MAX) else {
            panic!("an encoded frame is whole");
        };
        let fields = split_fields(&bytes[size..]);
        let numbers: std::collections::BTreeSet<u32> = fields.iter().map(|(number, _)| *number).collect();
        for number in numbers {
            let kept = fields.iter().filter(|(other, _)| *other != number);
            let body: Vec<u8> = kept.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            let (frames, error) = whole(&framed(kind, &body));
            if optional.contains(&(kind, number)) {
                assert_eq!((frames.len(), error), (1, None), "type {kind} field {number}");
            } else {
                assert_eq!((frames.len(), error), (0, Some(FrameError::Field)), "type {kind} field {number}");
            }
        }
    }
}

/// Splits a valid message into its fields, each with its number.
fn split_fields(mut body: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let mut rest = body;
        let key = prost::encoding::decode_varint(&mut rest).expect("valid");
        let value = prost::encoding::decode_varint(&mut rest).expect("valid");
        if key & 7 == 2 {
            rest = &rest[usize::try_from(value).expect("small")..];
        }
        fields.push((u32::try_from(key >> 3).expect("small"), body[..body.len() - rest.len()].to_vec()));
        body = rest;
    }
    fields
}

#[test]
fn code_belongs_to_dead_paths_alone() {
    let report = |state: pb::PathState, code| {
        let body = pb::PathReport { path: Some(1), state: Some(state.into()), code };
        one(FrameType::PathReport, &body)
    };
    assert!(report(pb::PathState::Active, None).is_ok());
    assert!(report(pb::PathState::Dead, Some(0)).is_ok());
    assert_eq!(report(pb::PathState::Active, Some(0)), Err(FrameError::Field));
    assert_eq!(report(pb::PathState::Degraded, Some(0)), Err(FrameError::Field));
    assert_eq!(report(pb::PathState::Dead, Some(1 << 62)), Err(FrameError::Field));
}

#[test]
fn hello_caps() {
    let hello = message::<pb::ClientHello>(FrameType::ClientHello);
    let with = |names: &[usize]| {
        let app_protocols = names.iter().map(|&len| Bytes::from(vec![b'a'; len])).collect();
        one(FrameType::ClientHello, &pb::ClientHello { app_protocols, ..hello.clone() }).map(|_| ())
    };
    assert_eq!(with(&[255]), Ok(()));
    assert_eq!(with(&[256]), Err(FrameError::TooLarge));
    assert_eq!(with(&[0]), Err(FrameError::Field));
    assert_eq!(with(&[1; 17]), Err(FrameError::TooMany));
    assert_eq!(with(&[192; 16]), Ok(()));
    assert_eq!(with(&[193; 16]), Err(FrameError::TooLarge));

    let with = |field: fn(&mut pb::Attach)| {
        let mut hello = hello.clone();
        field(hello.attach.as_mut().expect("the largest has one"));
        one(FrameType::ClientHello, &hello).map(|_| ())
    };
    assert_eq!(with(|attach| attach.path = Some(0)), Ok(()));
    assert_eq!(with(|attach| attach.ticket = Some(Bytes::new())), Err(FrameError::Field));
    assert_eq!(
        with(|attach| attach.ticket = Some(vec![0; TICKET_MAX + 1].into())),
        Err(FrameError::TooLarge)
    );
    assert_eq!(with(|attach| attach.session = Some(vec![0; 15].into())), Err(FrameError::Field));
    assert_eq!(with(|attach| attach.proof = Some(vec![0; 65].into())), Err(FrameError::Field));
    assert_eq!(with(|attach| attach.path = None), Err(FrameError::Field));

    let mut hello = message::<pb::ServerHello>(FrameType::ServerHello);
    hello.app_protocol = Some(Bytes::new());
    assert_eq!(one(FrameType::ServerHello, &hello), Err(FrameError::Field));
}

#[test]
fn add_path_caps() {
    let with = |field: fn(&mut pb::AddPath)| {
        let mut path = message::<pb::AddPath>(FrameType::AddPath);
        field(&mut path);
        one(FrameType::AddPath, &path).map(|_| ())
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|path| path.addresses.clear()), Err(FrameError::Field));
    assert_eq!(with(|path| path.addresses.push(path.addresses[0].clone())), Err(FrameError::TooMany));
    assert_eq!(with(|path| path.pins.push(path.pins[0].clone())), Err(FrameError::TooMany));
    assert_eq!(with(|path| path.pins[3] = vec![0; 31].into()), Err(FrameError::Field));
    assert_eq!(with(|path| path.server_name = Some(String::new())), Err(FrameError::Field));
    assert_eq!(with(|path| path.server_name = Some("n".repeat(254))), Err(FrameError::TooLarge));
    assert_eq!(with(|path| path.ticket = Some(Bytes::new())), Err(FrameError::Field));
    assert_eq!(with(|path| path.ticket = Some(vec![0; TICKET_MAX + 1].into())), Err(FrameError::TooLarge));
    for port in [None, Some(0), Some(65_536)] {
        let mut path = message::<pb::AddPath>(FrameType::AddPath);
        path.addresses[1].port = port;
        assert_eq!(one(FrameType::AddPath, &path), Err(FrameError::Field), "{port:?}");
    }
    for len in [0, 3, 5, 15, 17] {
        let mut path = message::<pb::AddPath>(FrameType::AddPath);
        path.addresses[1].ip = Some(vec![1; len].into());
        assert_eq!(one(FrameType::AddPath, &path), Err(FrameError::Field), "{len}");
    }
}

/// That an end is broken is its own to say, as its reason to leave, and of nothing else.
#[test]
fn no_peer_says_that_we_are_broken() {
    let code = Some(ErrorCode::INTERNAL.into_inner());
    let reason = Some(String::new());
    let dead = pb::PathReport { path: Some(1), state: Some(pb::PathState::Dead.into()), code };
    let refused = [
        one(FrameType::PathReport, &dead),
        one(FrameType::RemovePath, &pb::RemovePath { path: Some(1), code, deadline_ms: Some(0) }),
        one(FrameType::JobRefused, &pb::JobRefused { job: Some(1), code }),
        one(FrameType::LeaseRefused, &pb::LeaseRefused { lease: Some(1), code }),
        one(FrameType::LeaseRevoke, &pb::LeaseRevoke { lease: Some(1), keep: Some(0), code }),
        one(FrameType::LeaseLost, &pb::LeaseLost { lease: Some(1), code, missing: Vec::new() }),
        one(FrameType::StreamStopped, &pb::StreamStopped { stream: Some(3), code }),
    ];
    for frame in refused {
        assert_eq!(frame, Err(FrameError::Field));
    }
    assert!(one(FrameType::Refuse, &pb::Refuse { code, reason: reason.clone() }).is_ok());
    assert!(one(FrameType::SessionClose, &pb::SessionClose { code, reason }).is_ok());
}

#[test]
fn text_and_payload_caps() {
    let close = |reason: String| {
        one(FrameType::SessionClose, &pb::SessionClose { code: Some(0), reason: Some(reason) }).map(|_| ())
    };
    assert_eq!(close("r".repeat(REASON_MAX)), Ok(()));
    assert_eq!(close("r".repeat(REASON_MAX + 1)), Err(FrameError::TooLarge));
    // Field 2, one byte that is no UTF-8.
    assert_eq!(whole(&framed(53, &[0x08, 0, 0x12, 1, 0xff])).1, Some(FrameError::Malformed));

    let mut job = message::<pb::JobOpen>(FrameType::JobOpen);
    job.payload = Some(Bytes::new());
    assert!(one(FrameType::JobOpen, &job).is_ok());
    job.payload = Some(vec![0; JOB_PAYLOAD_MAX + 1].into());
    assert_eq!(one(FrameType::JobOpen, &job), Err(FrameError::TooLarge));
}

#[test]
fn offsets_end_at_the_largest_quic_can_name() {
    let split = |offset| one(FrameType::Split, &pb::Split { stream: Some(0), offset: Some(offset) });
    assert!(split((1 << 62) - 1).is_ok());
    assert_eq!(split(1 << 62), Err(FrameError::Range));
    let stream = pb::Split { stream: Some(1 << 62), offset: Some(0) };
    assert_eq!(one(FrameType::Split, &stream), Err(FrameError::Field));

    let lease = |start, length| {
        let range = Some(pb::ByteRange { start, length });
        one(FrameType::LeaseGrant, &pb::LeaseGrant { range, ..message(FrameType::LeaseGrant) }).map(|_| ())
    };
    assert_eq!(lease(Some(0), Some(1)), Ok(()));
    assert_eq!(lease(Some(0), Some(0)), Err(FrameError::Range));
    assert_eq!(lease(Some((1 << 62) - 2), Some(1)), Ok(()));
    assert_eq!(lease(Some((1 << 62) - 1), Some(1)), Err(FrameError::Range));
    assert_eq!(lease(Some(u64::MAX), Some(u64::MAX)), Err(FrameError::Range));
    assert_eq!(lease(Some(0), Some(LEASE_MAX)), Ok(()));
    assert_eq!(lease(Some(0), Some(LEASE_MAX + 1)), Err(FrameError::Field));
    assert_eq!(lease(None, Some(1)), Err(FrameError::Field));
    assert_eq!(lease(Some(1), None), Err(FrameError::Field));
}

#[test]
fn ranges_rise_with_gaps() {
    let sync = |ranges: &[(u64, u64)]| {
        let received = ranges
            .iter()
            .map(|&(start, length)| pb::ByteRange { start: Some(start), length: Some(length) })
            .collect();
        let body = pb::OffsetSyncResponse { stream: Some(0), received, more: Some(false) };
        one(FrameType::OffsetSyncResponse, &body).map(|_| ())
    };
    assert_eq!(sync(&[]), Ok(()));
    assert_eq!(sync(&[(0, 1), (2, 1)]), Ok(()));
    assert_eq!(sync(&[(0, 2), (2, 1)]), Err(FrameError::Field), "touching");
    assert_eq!(sync(&[(0, 3), (2, 1)]), Err(FrameError::Field), "overlapping");
    assert_eq!(sync(&[(5, 1), (2, 1)]), Err(FrameError::Field), "falling");
    assert_eq!(sync(&[(0, 1), (2, 0)]), Err(FrameError::Range), "empty");
    let most: Vec<_> = (0..=REPEATED_MAX as u64).map(|n| (2 * n, 1)).collect();
    assert_eq!(sync(&most[1..]), Ok(()));
    assert_eq!(sync(&most), Err(FrameError::TooMany));
}

#[test]
fn credit_names_what_it_is_for() {
    assert_eq!(one(FrameType::Credit, &pb::Credit { grant: None }), Err(FrameError::Field));
    let lease = pb::LeaseCredit { lease: None, bytes: Some(1) };
    let credit = pb::Credit { grant: Some(pb::credit::Grant::Lease(lease)) };
    assert_eq!(one(FrameType::Credit, &credit), Err(FrameError::Field));
}

#[test]
fn frames_that_were_skipped_are_counted_once() {
    let mut decoder = Decoder::new();
    decoder.push(&[framed(100, b"what"), framed(102, b""), framed(100, b"half")].concat()[..14]);
    assert_eq!(decoder.next(), Ok(None));
    assert_eq!((decoder.take_skipped(), decoder.take_skipped()), (3, 0));
    assert!(!decoder.is_between_frames());
    decoder.push(b"alf");
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.is_between_frames());
    assert_eq!(decoder.take_skipped(), 0);
}

#[test]
fn unknown_fields_are_ignored() {
    let mut body = pb::Drain { deadline_ms: Some(9) }.encode_to_vec();
    // Field 100, length-delimited, two bytes.
    body.extend([0xa2, 0x06, 2, 0xff, 0xff]);
    assert_eq!(whole(&framed(13, &body)), (vec![Frame::Drain { deadline_ms: 9 }], None));
}

#[test]
fn header_caps() {
    let mut long = Vec::new();
    varint::put(STREAM_HEADER_MAX as u64 + 1, &mut long);
    let mut decoder = HeaderDecoder::new();
    assert_eq!(decoder.wanted(), 2, "a length and a type");
    assert_eq!(decoder.push(&long[..1]), Ok(None));
    assert_eq!(decoder.wanted(), 2, "the rest of the length, and a type");
    assert_eq!(decoder.push(&long[1..]), Err(FrameError::TooLarge), "PROTOCOL §4");
    assert_eq!(decoder.wanted(), 0);
    assert_eq!(decoder.push(b""), Err(FrameError::TooLarge), "an error stays");

    // Every unknown type, before its body is there.
    for kind in [5, 6, 62, 63] {
        assert_eq!(header(&[60, kind]), Err(FrameError::UnknownMandatory), "{kind}");
    }
    assert_eq!(header(&[1, 2, 0xff]), Err(FrameError::Malformed));
    let offset = pb::SecondaryStreamOpen { lease: Some(1), offset: Some(1 << 62) };
    assert_eq!(header(&framed(2, &offset.encode_to_vec())), Err(FrameError::Range));
}

#[test]
fn header_takes_long_integers_too() {
    // Length 0 in eight bytes, type 1 in four.
    let mut bytes = vec![0xc0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1];
    assert_eq!(header(&bytes), Ok(Some(StreamHeader::Public)));
    bytes.pop();
    assert_eq!(header(&bytes), Ok(None));
}

proptest! {
    #[test]
    fn pieces_equal_the_whole(frames in vec(arbitrary::frame(), 1..4), size in 1_usize..64, cut in 0_usize..64) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| encode(frame, &mut bytes));
        prop_assert_eq!(whole(&bytes), (frames.clone(), None));
        prop_assert_eq!(pieces(&bytes, NonZeroUsize::MIN), (frames, None));

        // A truncated stream gives the same frames, and no error.
        bytes.truncate(bytes.len().saturating_sub(cut));
        let size = NonZeroUsize::new(size).expect("from 1");
        prop_assert_eq!(whole(&bytes), pieces(&bytes, size));
    }

    #[test]
    fn damaged_frames_never_panic(frame in arbitrary::frame(), flips in vec((any::<usize>(), 0..8_u8), 1..4)) {
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        crate::fuzzing::frame_decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..512), kind in 0..60_u64) {
        crate::fuzzing::frame_decode(&bytes);
        crate::fuzzing::header_decode(&bytes);
        crate::fuzzing::frame_decode(&framed(kind, &bytes));
        crate::fuzzing::header_decode(&framed(kind % 6, &bytes[..bytes.len().min(STREAM_HEADER_MAX)]));
    }

    #[test]
    fn headers_leave_what_follows(header in arbitrary::header(), tail in vec(any::<u8>(), 0..8)) {
        let mut bytes = encode_header(&header).to_vec();
        let len = bytes.len();
        bytes.extend(tail);
        let mut decoder = HeaderDecoder::new();
        let mut taken = 0;
        loop {
            prop_assert!(decoder.wanted() > 0 && taken + decoder.wanted() <= len);
            taken += 1;
            if let Some(decoded) = decoder.push(&bytes[taken - 1..taken]).expect("valid") {
                prop_assert_eq!(decoded, header);
                break;
            }
        }
        prop_assert_eq!(taken, len);
    }
}
