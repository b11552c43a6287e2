//! Chunks into a split stream and out to its reader. Spec: RATIONALE §6.

use std::iter;

use bytes::Bytes;

use super::{Body, shuffled};
use crate::{
    id::{OFFSET_MAX, PathId},
    limits,
    stream::{
        conflict::ConflictPolicy,
        recv::{By, SplitRecv},
    },
};

const GROUP: &str = "reassembly";
/// Bytes of a chunk: what a packet of the smallest size that QUIC permits carries.
const CHUNK: u64 = 1200;
/// Chunks that a source brings before its place in the stream changes: a lease of about 150 KB.
const LEASE: u64 = 128;
/// Chunks that come with a gap before each.
const GAPPED: u64 = 1000;

pub(super) fn bodies() -> Vec<Body> {
    let order = shuffled(2 * GAPPED);
    let even = || (0..GAPPED).map(|n| 2 * n);
    let odd = || (0..GAPPED).map(|n| 2 * n + 1);
    vec![
        in_order(1),
        in_order(2),
        in_order(8),
        gapped("1,000 gaps, then filled", even().chain(odd()).collect()),
        gapped("1,000 gaps, falling, then filled", even().rev().chain(odd().rev()).collect()),
        gapped("2,000 chunks, shuffled", order),
    ]
}

/// The sources take turns; each brings the next chunk of its lease, and the reader takes what it can after each.
///
/// With one source every chunk is read as it comes. With more, those of all but the first lease wait.
fn in_order(sources: u64) -> Body {
    let chunk = chunk();
    let block = sources * LEASE;
    let mut stream = stream();
    let mut start = 0;
    Body::new(GROUP, format!("{sources} in order"), block, move || {
        let mut read = 0;
        for at in 0..block {
            let source = at % sources;
            let place = start + source * LEASE + at / sources;
            read += insert(&mut stream, source, place, &chunk);
            read += read_all(&mut stream);
        }
        start += block;
        read
    })
}

/// Chunks come in `order`, as an assembler that was empty before sees them; then all are read.
fn gapped(name: &str, order: Vec<u64>) -> Body {
    let chunk = chunk();
    Body::new(GROUP, name.to_owned(), order.len() as u64, move || {
        let mut stream = stream();
        let new: u64 = order.iter().map(|&place| insert(&mut stream, 0, place, &chunk)).sum();
        new + read_all(&mut stream)
    })
}

/// Does what the client does with a chunk whose lease and credit it has checked.
fn insert(stream: &mut SplitRecv, source: u64, place: u64, chunk: &Bytes) -> u64 {
    let offset = place * CHUNK;
    // Looked at only once a stream has more than its part of the session's pieces.
    let many = stream.extents() >= limits::EXTENTS_PER_SESSION / limits::SPLIT_STREAMS_MAX;
    if many && stream.would_exceed(offset, CHUNK, limits::EXTENTS_PER_STREAM) {
        return 0;
    }
    let source = PathId::new(u32::try_from(source).unwrap_or_default());
    stream.place(source, offset, chunk.clone(), By::Lease).new
}

fn read_all(stream: &mut SplitRecv) -> u64 {
    iter::from_fn(|| stream.read(usize::MAX, true)).map(|chunk| chunk.bytes.len() as u64).sum()
}

/// A stream with credit for all that will ever come.
fn stream() -> SplitRecv {
    SplitRecv::new(0, OFFSET_MAX, ConflictPolicy::default())
}

fn chunk() -> Bytes {
    Bytes::from_iter((0..CHUNK).map(|_| 7))
}
