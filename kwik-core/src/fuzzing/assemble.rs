//! Reassembly against a plain array of bytes. Spec: KWIK §6.

use bytes::Bytes;

use super::source::{OP, Source, ops};
use crate::{
    id::PathId,
    stream::assemble::{Assembler, Inserted},
};

/// What an assembler must do, one byte at a time: what came first stays, and is delivered once.
struct Model {
    base: usize,
    /// The first byte placed at each offset.
    bytes: Vec<Option<u8>>,
    delivered: Vec<bool>,
}

impl Model {
    fn insert(&mut self, at: usize, bytes: &[u8]) -> Inserted {
        let mut inserted = Inserted::default();
        let slots = self.bytes.iter_mut().zip(&self.delivered).enumerate().skip(at);
        for ((at, (slot, delivered)), &byte) in slots.zip(bytes) {
            match slot {
                None if at >= self.base => {
                    *slot = Some(byte);
                    inserted.new += 1;
                }
                held => {
                    inserted.overlap += 1;
                    inserted.differed |= held.is_some_and(|held| held != byte) && !delivered;
                }
            }
        }
        inserted
    }

    /// Whether each offset is held and not delivered.
    fn held(&self) -> impl Iterator<Item = bool> {
        self.bytes.iter().zip(&self.delivered).map(|(byte, delivered)| byte.is_some() && !delivered)
    }

    /// Where an ordered reader goes on.
    fn position(&self) -> usize {
        self.base + self.delivered.iter().skip(self.base).take_while(|delivered| **delivered).count()
    }
}

/// Counts the stretches of true.
fn runs(flags: impl Iterator<Item = bool>) -> usize {
    let mut before = false;
    flags
        .filter(|&now| {
            now && !std::mem::replace(&mut before, now) || {
                before = now;
                false
            }
        })
        .count()
}

/// Inserts and reads as `data` says: pieces that overlap, agree and differ, in order and out of order.
///
/// # Panics
/// If the assembler does anything that the array of bytes does not.
pub fn assemble_ops(data: &[u8]) {
    let (setup, rest) = data.split_at(data.len().min(OP));
    // Slivers, which are gathered, or chunks, which are kept as they came.
    let (space, len_max) = Source::new(setup).pick(&[(96, 24), (4_000, 1_500)]);
    let base = space / 16;
    let size = space + len_max + 1;
    let mut assembler = Assembler::new(base as u64);
    let mut model = Model { base, bytes: vec![None; size], delivered: vec![false; size] };
    for mut op in ops(rest) {
        if op.rarely(4) {
            let ordered = op.rarely(2);
            read(&mut assembler, &mut model, below(&mut op, len_max), ordered);
        } else {
            insert(&mut assembler, &mut model, &mut op, space, len_max);
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
fn insert(assembler: &mut Assembler, model: &mut Model, op: &mut Source<'_>, space: usize, len_max: usize) {
    let source = PathId::new(u32::from(op.any::<u8>() % 4));
    let fill = if op.rarely(4) { 1 } else { 0 };
    let (at, len) = (below(op, space), below(op, len_max));
    // Equal fills give equal bytes at equal offsets.
    let bytes: Vec<u8> = (at..at + len).map(|at| u8::try_from(at % 251).unwrap_or_default() ^ fill).collect();

    let cap = assembler.extents() + at % 2;
    let exceeds = assembler.would_exceed(at as u64, len as u64, cap);
    let (held, received) = (assembler.extents(), assembler.received().len());
    let expected = model.insert(at, &bytes);
    assert_eq!(assembler.insert(source, at as u64, Bytes::from(bytes)), expected);
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
    let at = usize::try_from(offset).expect("an index");
    let slots = model.bytes.iter().zip(&mut model.delivered).skip(at).take(bytes.len());
    let mut read = Vec::new();
    for (byte, delivered) in slots {
        assert!(!std::mem::replace(delivered, true), "a byte was delivered twice");
        read.extend(*byte);
    }
    assert_eq!(read, bytes, "what came first, and nothing else");
    true
}

/// Expects every count to be the model's.
fn agree(assembler: &Assembler, model: &Model) {
    let count = |flags: &mut dyn Iterator<Item = bool>| flags.filter(|flag| *flag).count() as u64;
    let received = || model.bytes.iter().map(Option::is_some);
    assert_eq!(assembler.held(), count(&mut model.held()));
    assert_eq!(assembler.consumed(), count(&mut model.delivered.iter().copied()));
    assert_eq!(assembler.extents(), runs(model.held()));
    assert_eq!(assembler.received().total(), count(&mut received()));
    assert_eq!(assembler.received().len(), runs(received()));
    assert_eq!(assembler.read_position(), model.position() as u64);
}
