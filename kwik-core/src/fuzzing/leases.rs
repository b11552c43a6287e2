//! Owner of each byte at the primary, against one flag per byte.
//!
//! The client's half of the same question, overlap and authority of leases, is in `client_ops`: there a naive list of
//! leases is kept beside the machine.

use super::{
    ranges::{fill, runs},
    source::ops,
};
use crate::{
    error::ErrorCode,
    id::{ByteRange, OFFSET_MAX},
    limits::GUARANTEED_CREDIT,
    stream::send::SplitSend,
};

/// Offsets from the split on that the operations name.
const SPACE: u64 = 512;
/// Offset at which the streams are split.
const BASE: u64 = 100;

/// Model of a stream, one byte at a time.
struct Model {
    owned: Vec<bool>,
    taken: Vec<bool>,
    position: u64,
    claimed_end: u64,
    final_size: Option<u64>,
    offset_credit: u64,
    run_credit: u64,
    run_above: u64,
}

impl Model {
    fn has(flags: &[bool], range: ByteRange) -> bool {
        !runs(flags, range, true).is_empty()
    }

    fn take(&mut self, range: ByteRange) {
        fill(&mut self.owned, range, true);
        fill(&mut self.taken, range, true);
        self.claimed_end = self.claimed_end.max(range.end());
    }

    /// The first stretch that nobody was ever given, from where writing stands.
    fn gap(&self) -> Option<ByteRange> {
        let known = self.taken.len() as u64;
        let within = ByteRange::between(self.position, self.final_size.unwrap_or(known))?;
        let gap = *runs(&self.taken, within, false).first()?;
        let open = gap.end() == known && self.final_size.is_none();
        if open { ByteRange::between(gap.start(), OFFSET_MAX) } else { Some(gap) }
    }

    /// Number of the `want` bytes that have credit, counted one by one.
    fn allowance(&self, offset: u64, want: u64) -> u64 {
        let mut amount = self.run_credit.saturating_sub(self.run_above);
        let has_credit = |at: &u64| {
            *at < self.offset_credit || amount.checked_sub(1).inspect(|left| amount = *left).is_some()
        };
        (offset..offset + want).take_while(has_credit).count() as u64
    }
}

/// Claims, releases, writes, credits and ends as `data` says.
///
/// # Panics
/// If two own one byte, or the stream says anything that a list of flags does not.
pub fn lease_table(data: &[u8]) {
    let mut stream = SplitSend::new(BASE);
    let size = usize::try_from(BASE + 4 * SPACE).expect("small");
    let mut model = Model {
        owned: vec![false; size],
        taken: vec![false; size],
        position: BASE,
        claimed_end: BASE,
        final_size: None,
        offset_credit: BASE + GUARANTEED_CREDIT,
        run_credit: 0,
        run_above: 0,
    };
    // Far above the model's bytes nothing is ever written, so small credit is tested against shifted offsets.
    for mut op in ops(data) {
        match op.below(8) {
            0..=2 => {
                let range = ByteRange::new(BASE - 2 + op.below(SPACE), 1 + op.below(64)).expect("within");
                let beyond = model.final_size.is_some_and(|size| range.end() > size);
                let free = range.start() >= BASE && !beyond && !Model::has(&model.owned, range);
                assert_eq!(stream.claim(range).is_ok(), free, "{range}");
                if free {
                    model.take(range);
                }
            }
            3 => {
                let range = ByteRange::new(BASE + op.below(SPACE), 1 + op.below(64)).expect("within");
                stream.release(range);
                fill(&mut model.owned, range, false);
            }
            4 | 5 => {
                let gap = stream.next_gap();
                assert_eq!(gap, model.gap());
                let Some(gap) = gap.filter(|gap| gap.start() < BASE + 2 * SPACE) else { continue };
                let len = stream.allowance(gap.start(), gap.len().min(1 + op.below(64)));
                assert_eq!(len, model.allowance(gap.start(), len.max(1)).min(len), "credit");
                stream.advance(gap, len);
                stream.on_sent(gap.start(), len);
                if let Some(sent) = ByteRange::new(gap.start(), len) {
                    model.take(sent);
                    model.position = sent.end();
                }
            }
            6 => credit(&mut stream, &mut model, &mut op),
            _ if op.rarely(4) => {
                let first = model.final_size.is_none();
                let end = stream.finish();
                assert_eq!(end, first.then_some(model.claimed_end), "the end is told once");
                model.final_size = model.final_size.or(end);
            }
            _ if op.rarely(8) => {
                stream.on_stopped(ErrorCode::from_u32(1));
                stream.on_stopped(ErrorCode::from_u32(2));
                assert_eq!(stream.stopped(), Some(ErrorCode::from_u32(1)), "the first reason stays");
                return;
            }
            _ if op.rarely(4) => {
                assert_eq!(
                    stream.on_complete(),
                    model.final_size.is_some(),
                    "only what has an end completes"
                );
                assert_eq!(stream.is_open(), model.final_size.is_none());
                if stream.is_complete() {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// Gives credit, never taken back, and sends beyond the offset that has some.
fn credit(stream: &mut SplitSend, model: &mut Model, op: &mut super::source::Source<'_>) {
    let top = BASE + GUARANTEED_CREDIT;
    let offset = op.number(top + 64, OFFSET_MAX / 4);
    if op.rarely(8) {
        stream.on_offset_credit(offset);
        model.offset_credit = model.offset_credit.max(offset);
    }
    let bytes = op.below(256);
    stream.on_run_credit(bytes);
    model.run_credit = model.run_credit.max(bytes);
    let (at, want) = (top - 32 + op.below(64), op.below(128));
    let len = stream.allowance(at, want);
    assert_eq!(len, model.allowance(at, want), "{want} bytes at {at}");
    stream.on_sent(at, len);
    model.run_above += (at..at + len).filter(|&at| at >= model.offset_credit).count() as u64;
}
