//! The report: what an object has cost, and who brought it.

use std::{collections::BTreeMap, time::Duration};

use super::decision::DuplicateReason;
use crate::id::PathId;

/// The state of an object so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Bytes of the object.
    pub total: u64,
    /// Bytes of pieces that are over and came.
    pub arrived: u64,
    /// Each path that there was, but for the oldest of more than 64 dead ones; the primary's own writer under its path.
    pub paths: BTreeMap<PathId, PathReport>,
}

impl Report {
    /// Returns how many bytes came twice, whatever the reason.
    pub fn duplicates(&self) -> u64 {
        self.paths.values().flat_map(|path| path.duplicates.values()).sum()
    }
}

/// The share of one path in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathReport {
    /// Bytes that came over it, those that came twice included.
    pub bytes: u64,
    /// Bytes per second, as last measured; 0 if nothing was.
    pub rate: u64,
    /// Pieces done.
    pub done: u64,
    /// Pieces lost, those taken back not included.
    pub lost: u64,
    /// Times that others were given some of what it had.
    pub stolen: u64,
    /// Times that others were asked for what it had as well.
    pub hedged: u64,
    /// Times that it was asked for what others had.
    pub hedges: u64,
    /// Bytes that came over it and were there, or had to come again, by reason.
    pub duplicates: BTreeMap<DuplicateReason, u64>,
    /// Time for which nothing came although it was due.
    pub stalled: Duration,
}
