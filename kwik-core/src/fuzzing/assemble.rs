//! Reassembly against a plain array of bytes. Spec: RATIONALE §6.

use bytes::Bytes;

use super::source::{OP, Source, ops};
use crate::{
    id::{ByteRange, PathId},
    stream::{
        assemble::{Assembler, Inserted},
        conflict::ConflictPolicy,
    },
};

/// Model of a split stream, one byte at a time: one byte counts at each offset, and is delivered once.
#[derive(Debug)]
pub(crate) struct Model {
    base: usize,
    /// The byte that counts at each offset.
    bytes: Vec<u8>,
    state: Vec<u8>,
    received: u64,
    delivered: u64,
    /// Offset of an ordered reader's next byte.
    position: usize,
}

/// Zero, so that a large model costs nothing until it is written to.
const ABSENT: u8 = 0;
const HELD: u8 = 1;
const DELIVERED: u8 = 2;

impl Model {
    /// A stream split at `base`, of which no byte at or beyond `size` will ever be named.
    pub(crate) fn new(base: usize, size: usize) -> Self {
        Self {
            base,
            bytes: vec![0; size],
            state: vec![ABSENT; size],
            received: 0,
            delivered: 0,
            position: base,
        }
    }

    /// Places bytes, which may take the place of others; returns what an assembler must say about it.
    pub(crate) fn insert(&mut self, at: usize, bytes: &[u8], replaces: bool) -> Inserted {
        let mut inserted = Inserted::default();
        let (base, from) = (self.base, at.min(self.bytes.len()));
        let (_, kept) = self.bytes.split_at_mut(from);
        let (_, state) = self.state.split_at_mut(from);
        for ((at, &byte), (kept, state)) in (at..).zip(bytes).zip(kept.iter_mut().zip(state)) {
            if *state == ABSENT && at >= base {
                (*kept, *state) = (byte, HELD);
                inserted.new += 1;
            } else {
                inserted.overlap += 1;
                inserted.differed |= *state == HELD && *kept != byte;
                if replaces && *state == HELD {
                    *kept = byte;
                }
            }
        }
        self.received += inserted.new;
        inserted
    }

    /// Takes bytes that a reader was given.
    ///
    /// # Panics
    /// If they are not what came first there, or were delivered before.
    pub(crate) fn deliver(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("an index");
        let state = self.state.get_mut(at..at + bytes.len()).expect("within what was ever sent");
        assert!(state.iter().all(|state| *state == HELD), "a byte was delivered twice, or never sent");
        state.fill(DELIVERED);
        self.delivered += bytes.len() as u64;
        let beyond = self.state.get(self.position..).unwrap_or_default();
        self.position += beyond.iter().take_while(|state| **state == DELIVERED).count();
        assert_eq!(self.bytes.get(at..at + bytes.len()), Some(bytes), "what came first, and nothing else");
    }

    /// For each offset, whether it is held and not delivered.
    fn held(&self) -> impl Iterator<Item = bool> {
        self.state.iter().map(|state| *state == HELD)
    }

    /// Number of bytes held.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.received - self.delivered
    }

    /// Number of bytes that ever came.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Offset of an ordered reader's next byte.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Returns whether a reader has something to read.
    pub(crate) fn is_readable(&self, ordered: bool) -> bool {
        if ordered { self.state.get(self.position) == Some(&HELD) } else { self.held_bytes() > 0 }
    }

    /// Returns whether the byte at an offset never came.
    pub(crate) fn is_missing(&self, at: u64) -> bool {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.state.get(at).is_none_or(|state| *state == ABSENT)
    }

    /// The parts of a range that never came, in rising order.
    pub(crate) fn missing(&self, range: ByteRange) -> Vec<ByteRange> {
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut rest =
            self.state.get(index(range.start())..index(range.end())).expect("within what is ever named");
        let (mut missing, mut at) = (Vec::new(), range.start());
        while let Some(first) = rest.first() {
            let absent = *first == ABSENT;
            let len = rest.iter().take_while(|state| (**state == ABSENT) == absent).count();
            missing.extend(ByteRange::new(at, len as u64).filter(|_| absent));
            at += len as u64;
            rest = rest.get(len..).unwrap_or_default();
        }
        missing
    }
}

/// Counts the stretches of true.
fn runs(flags: impl Iterator<Item = bool>) -> usize {
    let (mut before, mut runs) = (false, 0);
    for now in flags {
        runs += usize::from(now && !before);
        before = now;
    }
    runs
}

/// Inserts and reads as `data` says: pieces that overlap, agree and differ, in order and out of order.
///
/// # Panics
/// If the assembler does anything that the array of bytes does not.
pub fn assemble_ops(data: &[u8]) {
    let (setup, rest) = data.split_at(data.len().min(OP));
    // Slivers, which are gathered, or chunks, which are kept as they came.
    let mut setup = Source::new(setup);
    let (space, len_max) = setup.pick(&[(96, 24), (4_000, 1_500)]);
    let policy =
        setup.pick(&[ConflictPolicy::FirstWins, ConflictPolicy::LastWins, ConflictPolicy::PrimaryWins]);
    let base = space / 16;
    let size = space + len_max + 1;
    let mut assembler = Assembler::new(base as u64, policy);
    let mut model = Model::new(base, size);
    for mut op in ops(rest) {
        if op.rarely(4) {
            let ordered = op.rarely(2);
            read(&mut assembler, &mut model, below(&mut op, len_max), ordered);
        } else {
            insert((&mut assembler, policy), &mut model, &mut op, space, len_max);
        }
        agree(&assembler, &model);
    }
    while read(&mut assembler, &mut model, len_max, false) {}
    agree(&assembler, &model);
    assert_eq!((assembler.held(), assembler.extents()), (0, 0));
}

fn below(op: &mut Source<'_>, bound: usize) -> usize {
    usize::try_from(op.below(bound as u64)).unwrap_or_default()
}

/// Inserts into both and expects the same, foretold by `would_exceed` for a cap that is nearly reached.
fn insert(
    (assembler, policy): (&mut Assembler, ConflictPolicy),
    model: &mut Model,
    op: &mut Source<'_>,
    space: usize,
    len_max: usize,
) {
    let source = PathId::new(u32::from(op.any::<u8>() % 4));
    let fill = if op.rarely(4) { 1 } else { 0 };
    let (at, len) = (below(op, space), below(op, len_max));
    // Equal fills give equal bytes at equal offsets.
    let bytes: Vec<u8> = (at..at + len).map(|at| u8::try_from(at % 251).unwrap_or_default() ^ fill).collect();

    let cap = assembler.extents() + at % 2;
    let exceeds = assembler.would_exceed(at as u64, len as u64, cap);
    let (held, received) = (assembler.extents(), assembler.received().len());
    let right = op.rarely(8);
    let expected = model.insert(at, &bytes, right || policy.replaces(source));
    let bytes = Bytes::from(bytes);
    let inserted = if right {
        assembler.insert_right(source, at as u64, bytes)
    } else {
        assembler.insert(source, at as u64, bytes)
    };
    assert_eq!(inserted, expected);
    let held_over = assembler.extents() > held.max(cap);
    let received_over = assembler.received().len() > received.max(cap + 1);
    assert_eq!(exceeds, held_over || received_over, "caps");
}

/// Reads from both and expects the same; returns whether there was any.
fn read(assembler: &mut Assembler, model: &mut Model, max_len: usize, ordered: bool) -> bool {
    let lowest = model.held().position(|held| held);
    let readable = lowest.filter(|&at| !ordered || at == model.position());
    assert_eq!(assembler.is_readable(ordered), readable.is_some());
    let Some((offset, bytes)) = assembler.read(max_len, ordered) else {
        assert!(readable.is_none() || max_len == 0);
        return false;
    };
    assert_eq!(Some(offset), readable.map(|at| at as u64));
    assert!(!bytes.is_empty() && bytes.len() <= max_len);
    model.deliver(offset, &bytes);
    true
}

/// Expects every count to be the model's.
fn agree(assembler: &Assembler, model: &Model) {
    let received = || model.state.iter().map(|state| *state != ABSENT);
    let delivered = model.state.iter().filter(|state| **state == DELIVERED).count() as u64;
    assert_eq!(assembler.held(), model.held_bytes());
    assert_eq!(assembler.consumed(), delivered);
    assert_eq!(assembler.extents(), runs(model.held()));
    assert_eq!(assembler.received().total(), received().filter(|is| *is).count() as u64);
    assert_eq!(assembler.received().len(), runs(received()));
    assert_eq!(assembler.read_position(), model.position() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of a space of five bytes, split behind the first, of one of two contents, and reads of one byte.
    fn pieces() -> Vec<Option<(usize, Vec<u8>)>> {
        let inserts =
            (0..5).flat_map(|at| (at + 1..=5).flat_map(move |end| [0, 1].map(|fill| (at, end, fill))));
        let mut pieces: Vec<_> = inserts.map(|(at, end, fill)| Some((at, vec![fill; end - at]))).collect();
        pieces.push(None);
        pieces
    }

    /// Every sequence of three operations out of all there are on five bytes, under each policy, and then everything is
    /// read: an assembler does what an array of bytes would.
    #[test]
    fn every_short_sequence_of_inserts_and_reads_is_that_of_an_array() {
        let pieces = pieces();
        for policy in [ConflictPolicy::FirstWins, ConflictPolicy::LastWins, ConflictPolicy::PrimaryWins] {
            for sequence in 0..pieces.len().pow(3) {
                let (mut assembler, mut model) = (Assembler::new(1, policy), Model::new(1, 6));
                for step in 0..3 {
                    // The second of three is the primary's.
                    let source = PathId::new(u32::from(step != 1));
                    match &pieces[sequence / pieces.len().pow(step) % pieces.len()] {
                        Some((at, bytes)) => {
                            let expected = model.insert(*at, bytes, policy.replaces(source));
                            let bytes = Bytes::copy_from_slice(bytes);
                            assert_eq!(assembler.insert(source, *at as u64, bytes), expected, "{sequence}");
                        }
                        None => {
                            read(&mut assembler, &mut model, 1, sequence % 2 == 0);
                        }
                    }
                    agree(&assembler, &model);
                }
                while read(&mut assembler, &mut model, 2, false) {}
                agree(&assembler, &model);
            }
        }
    }
}
