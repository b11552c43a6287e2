//! The reassembler's books.

use super::{Assembler, GATHER_MAX, length};
use crate::{
    audit::{Contradiction, check},
    id::ByteRange,
};

impl Assembler {
    /// Checks that runs are in order, apart, whole, received, and add up.
    pub(crate) fn audit(&self) -> Result<(), Contradiction> {
        let (mut held, mut last_end) = (0, None);
        for (&key, run) in &self.runs {
            let named = || format!("run {}..{} under {key}", run.start, run.end);
            check(key <= run.start && run.start < run.end, || format!("{} is empty or misplaced", named()))?;
            // Delivered bytes may lie between the key and the start, so the run before may reach the key.
            let apart = last_end.is_none_or(|end| end <= key && end < run.start);
            check(apart, || format!("{} touches the run before", named()))?;
            last_end = Some(run.end);
            held += run.end - run.start;
            let mut at = run.start;
            for chunk in &run.chunks {
                check(chunk.at == at && !chunk.bytes.is_empty(), || {
                    format!("{} has a chunk at {} instead of {at}", named(), chunk.at)
                })?;
                at = chunk.end();
            }
            check(at + length(&run.tail) == run.end, || {
                format!("{} ends elsewhere than its bytes", named())
            })?;
            check(run.tail.len() <= GATHER_MAX, || format!("{} gathers too much", named()))?;
            let range = ByteRange::between(run.start, run.end);
            check(range.is_some_and(|range| self.received.contains(range)), || {
                format!("{} is held and was not received", named())
            })?;
        }
        check(held == self.held, || format!("{held} bytes in runs, {} counted", self.held))?;
        check(self.received.total() == self.held + self.consumed, || {
            format!("{} received, {} held, {} read", self.received.total(), self.held, self.consumed)
        })?;
        let mut last_end = None;
        for range in self.received.iter() {
            check(range.start() >= self.base && last_end.is_none_or(|end| end < range.start()), || {
                format!("received {range} overlaps or touches what is before it")
            })?;
            last_end = Some(range.end());
        }
        Ok(())
    }
}
