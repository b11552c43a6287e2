//! Every kind of frame and header, damaged in every way that is easily made: the decoders never panic, and never hold
//! more than [`HEAP_MAX`] whatever a length claims. Deterministic, and counted.

use std::{collections::BTreeMap, ops::Range};

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use super::*;
use crate::{
    limits::STREAM_HEADER_MAX,
    wire::{arbitrary, encode, encode_header},
};

/// Inputs that the sweep has at least.
const INPUTS_MIN: u64 = 250_000;
/// Heap that one input may take, in bytes.
const HEAP_MAX: u64 = 1024 * 1024;
/// Examples up to this length have every byte replaced by every value; longer ones have every bit flipped.
const SHORT: usize = 48;

/// Decoder that the bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Control,
    Header,
}

/// Counts what was fed.
#[derive(Debug, Default)]
struct Sweep {
    inputs: u64,
    accepted: u64,
    heap_max: u64,
}

impl Sweep {
    /// Feeds `bytes` and returns whether all that came of them was whole frames or a whole header.
    fn feed(&mut self, to: To, bytes: &[u8]) -> bool {
        let mut accepted = false;
        let heap = allocation_counter::measure(|| {
            accepted = match to {
                To::Control => control(bytes),
                To::Header => header(bytes),
            };
        });
        assert!(heap.bytes_max <= HEAP_MAX, "{} bytes of heap for {bytes:x?}", heap.bytes_max);
        assert_eq!(heap.bytes_current, 0, "something is kept");
        self.inputs += 1;
        self.accepted += u64::from(accepted);
        self.heap_max = self.heap_max.max(heap.bytes_max);
        accepted
    }

    /// Feeds a body as a message of type `kind`, alone and before a second one.
    fn feed_body(&mut self, to: To, kind: u64, body: &[u8]) {
        let mut bytes = framed(kind, body);
        self.feed(to, &bytes);
        bytes.extend_from_slice(&bytes.clone());
        self.feed(to, &bytes);
    }
}

/// Decodes `bytes` as a control stream.
fn control(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut frames = 0;
    loop {
        match decoder.next() {
            Ok(Some(_)) => frames += 1,
            Ok(None) => return frames > 0 && decoder.is_between_frames(),
            Err(_) => return false,
        }
    }
}

/// Decodes the start of `bytes` as a header.
fn header(bytes: &[u8]) -> bool {
    let mut decoder = HeaderDecoder::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(decoder.wanted().min(rest.len()));
        rest = later;
        match decoder.push(now) {
            Ok(None) => {}
            Ok(Some(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

fn framed(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(body.len() as u64, &mut out);
    varint::put(kind, &mut out);
    out.extend_from_slice(body);
    out
}

/// The largest and the shortest of many examples of each kind.
fn examples() -> Vec<(To, Vec<u8>)> {
    let encoded = |frame: &Frame| {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        (To::Control, bytes)
    };
    let mut runner = TestRunner::deterministic();
    let largest = arbitrary::largest();
    let headers = arbitrary::largest_headers();
    let mut all: Vec<_> = largest.iter().map(encoded).collect();
    all.extend(headers.iter().map(|header| (To::Header, encode_header(header).to_vec())));
    let mut shortest: BTreeMap<(To, u64), Vec<u8>> = BTreeMap::new();
    let mut keep = |(to, bytes): (To, Vec<u8>)| {
        let known = shortest.entry((to, kind(&bytes).1)).or_insert_with(|| bytes.clone());
        if bytes.len() < known.len() {
            *known = bytes;
        }
    };
    for _ in 0..2_000 {
        keep(encoded(&arbitrary::frame().new_tree(&mut runner).expect("never rejects").current()));
        let header = arbitrary::header().new_tree(&mut runner).expect("never rejects").current();
        keep((To::Header, encode_header(&header).to_vec()));
    }
    assert_eq!(shortest.len(), arbitrary::KINDS + headers.len(), "an example of every kind");
    all.extend(shortest.into_iter().map(|((to, _), bytes)| (to, bytes)));
    all
}

/// Returns where the body of a message starts, and its type.
fn kind(bytes: &[u8]) -> (usize, u64) {
    match Head::read(bytes, CONTROL_FRAME_MAX) {
        Ok(Head::Whole { kind, size, .. }) => (size, kind),
        Ok(Head::Partial { .. }) | Err(_) => panic!("an example is whole"),
    }
}

/// Places of the parts of a protobuf message.
#[derive(Default)]
struct Structure {
    fields: Vec<Range<usize>>,
    /// Tags, lengths and numbers, those of nested messages included.
    numbers: Vec<Range<usize>>,
}

/// Takes a message apart; `None` if this is none.
fn structure(body: &[u8]) -> Option<Structure> {
    let integer = |at: usize| {
        let len = 1 + body.get(at..)?.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        let bytes = body.get(at..at + len)?;
        let value = bytes.iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
        Some((at..at + len, value))
    };
    let Structure { mut fields, mut numbers } = Structure::default();
    let mut at = 0;
    while at < body.len() {
        let (tag, key) = integer(at)?;
        let (number, value) = integer(tag.end)?;
        let start = number.end;
        let len = match key & 7 {
            0 => 0,
            2 => usize::try_from(value).ok()?,
            _ => return None,
        };
        let inside = body.get(start..start.checked_add(len)?)?;
        let nested = structure(inside).unwrap_or_default().numbers;
        numbers.extend([tag, number]);
        numbers.extend(nested.into_iter().map(|range| range.start + start..range.end + start));
        fields.push(at..start + len);
        at = start + len;
    }
    Some(Structure { fields, numbers })
}

/// Numbers at the edges, as protobuf writes them: shortest, longest and too long.
fn extremes() -> Vec<Vec<u8>> {
    let edges = [
        0,
        1,
        63,
        0xff,
        0xffff,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 62) - 1,
        1 << 62,
        1 << 63,
        u64::MAX,
    ];
    let mut all: Vec<Vec<u8>> = edges
        .iter()
        .map(|&value| {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(value, &mut bytes);
            bytes
        })
        .collect();
    all.push([&[0x80; 9][..], &[0x00]].concat());
    all.push(vec![0xff; 10]);
    all.push(vec![0xff; 11]);
    all.push(Vec::new());
    all
}

/// Types that are another's, nobody's, or cannot be.
fn types() -> impl Iterator<Item = u64> {
    (0..64).chain([
        1 << 14,
        (1 << 14) + 1,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 62) - 2,
        (1 << 62) - 1,
    ])
}

/// Cuts the message at every length: what is missing is waited for.
fn truncated(sweep: &mut Sweep, to: To, bytes: &[u8]) {
    assert!(sweep.feed(to, bytes), "an example is valid");
    for cut in 0..bytes.len() {
        assert!(!sweep.feed(to, &bytes[..cut]), "whole after {cut} of {} bytes", bytes.len());
    }
}

/// Flips every bit, or replaces every byte by every value where that is not too many.
fn flipped(sweep: &mut Sweep, to: To, bytes: &[u8]) {
    let mut damaged = bytes.to_vec();
    for at in 0..bytes.len() {
        if bytes.len() <= SHORT {
            for value in 0..=u8::MAX {
                damaged[at] = value;
                sweep.feed(to, &damaged);
            }
        } else {
            for bit in 0..8 {
                damaged[at] = bytes[at] ^ (1 << bit);
                sweep.feed(to, &damaged);
            }
        }
        damaged[at] = bytes[at];
    }
}

/// Puts an extreme number in place of each number, with the length of the whole put right and not.
fn stretched(sweep: &mut Sweep, to: To, kind: u64, body: &[u8]) {
    let Structure { fields, numbers } = structure(body).expect("an example is a message");
    for number in numbers {
        for extreme in extremes() {
            let damaged = [&body[..number.start], &extreme, &body[number.end..]].concat();
            sweep.feed_body(to, kind, &damaged);
            let mut lying = framed(kind, body);
            lying.splice(lying.len() - body.len().., damaged);
            sweep.feed(to, &lying);
        }
    }
    for field in fields {
        let field = &body[field];
        for copies in [1, 2, 64, 65, CONTROL_FRAME_MAX / field.len()] {
            sweep.feed_body(to, kind, &[body, &field.repeat(copies)].concat());
            sweep.feed_body(to, kind, &[&field.repeat(copies), body].concat());
        }
    }
    sweep.feed_body(to, kind, &body.repeat(2));
}

/// Lengths that claim more than there is, than there may be, or than there can be.
fn oversize(sweep: &mut Sweep, to: To, kind: u64, body: &[u8]) {
    let claims = [
        0,
        1,
        STREAM_HEADER_MAX + 1,
        CONTROL_FRAME_MAX,
        CONTROL_FRAME_MAX + 1,
        1 << 16,
        1 << 29,
        (1 << 62) - 1,
    ];
    for claim in claims {
        let mut bytes = Vec::new();
        varint::put(claim as u64, &mut bytes);
        varint::put(kind, &mut bytes);
        bytes.extend_from_slice(body);
        sweep.feed(to, &bytes);
        bytes.resize(bytes.len() + claim.min(1 << 16), 0);
        sweep.feed(to, &bytes);
    }
    for len in [CONTROL_FRAME_MAX, CONTROL_FRAME_MAX + 1, 1 << 16] {
        sweep.feed_body(to, kind, &body.repeat(len / body.len().max(1) + 1));
    }
}

/// A body full of one tag: what costs a message the most for a byte on the wire.
fn filled(sweep: &mut Sweep, to: To, kind: u64) {
    let most = if to == To::Control { CONTROL_FRAME_MAX } else { STREAM_HEADER_MAX };
    for tag in 0..=0x7f_u8 {
        for rest in [&[][..], &[0], &[1, 0], &[2, 8, 0], &[0xff, 0x1f]] {
            let unit = [&[tag], rest].concat();
            sweep.feed(to, &framed(kind, &unit.repeat(most / unit.len())));
        }
    }
}

#[test]
fn no_damage_makes_a_decoder_panic_or_hoard() {
    let mut sweep = Sweep::default();
    for (to, bytes) in examples() {
        let (size, kind) = kind(&bytes);
        let body = &bytes[size..];
        truncated(&mut sweep, to, &bytes);
        flipped(&mut sweep, to, &bytes);
        stretched(&mut sweep, to, kind, body);
        oversize(&mut sweep, to, kind, body);
        for other in types() {
            sweep.feed_body(to, other, body);
        }
        filled(&mut sweep, to, kind);
    }
    println!("{sweep:?}");
    assert!(sweep.inputs >= INPUTS_MIN, "{} inputs are too few", sweep.inputs);
    assert!(sweep.accepted > sweep.inputs / 100 && sweep.accepted < sweep.inputs / 2, "{sweep:?}");
}
