//! The books of a split stream at its reader.

use super::SplitRecv;
use crate::audit::{Contradiction, check};

impl SplitRecv {
    /// Checks the reassembler, the end and the promises; `leased` is what live leases may still bring at or beyond
    /// the credit by offset.
    pub(crate) fn audit(&self, leased: u64) -> Result<(), Contradiction> {
        self.assembler.audit()?;
        let end = self.assembler.received().max_end().unwrap_or(self.base);
        check(end <= self.claimed_end, || {
            format!("bytes up to {end} are here, claimed are only those below {}", self.claimed_end)
        })?;
        check(self.final_size.is_none_or(|size| self.claimed_end <= size), || {
            format!("claimed up to {}, which is past the end at {:?}", self.claimed_end, self.final_size)
        })?;
        let committed = self.committed(leased);
        check(committed <= self.window, || {
            format!("{committed} bytes promised of a window of {}", self.window)
        })?;
        let position = self.assembler.read_position();
        check(self.unordered || self.max_offset <= position.saturating_add(self.window), || {
            format!("credit up to {}, window {} from {position}", self.max_offset, self.window)
        })?;
        check(self.run_above <= self.run_credit, || {
            format!("runs brought {} of {} bytes beyond", self.run_above, self.run_credit)
        })
    }
}
