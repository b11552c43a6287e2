//! Policies: which path gets a range, as pure functions of what is known of the paths.

use std::{fmt, time::Duration};

use super::limits::{CRAWLS, FOREVER, bytes_in, time_for};
use crate::id::PathId;

/// A path as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathView {
    /// Its id; [`PathId::PRIMARY`] is the primary's own writer.
    pub path: PathId,
    /// Bytes per second that it is taken to bring now; a guess before anything was measured.
    pub rate: u64,
    /// The time between a decision and its first byte.
    pub latency: Duration,
    /// Bytes that it has to bring.
    pub owed: u64,
    /// The price of a gibibyte over it, in any unit.
    pub price: u64,
    /// It has room for more now.
    pub has_room: bool,
    /// Its rate was measured.
    pub measured: bool,
}

impl PathView {
    /// Describes a path of which nothing else is known, for the tests of a policy.
    #[must_use]
    pub const fn new(path: PathId, rate: u64, latency: Duration) -> Self {
        Self { path, rate, latency, owed: 0, price: 0, has_room: true, measured: true }
    }

    /// Returns when it would have brought `len` bytes more, from now.
    pub fn finish(&self, len: u64) -> Duration {
        let begin = time_for(self.owed, self.rate).max(self.latency);
        begin.saturating_add(time_for(len, self.rate)).min(FOREVER)
    }
}

/// The work as a policy sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WorkView<'a> {
    /// Bytes of the piece that is to be given.
    pub len: u64,
    /// Bytes that nobody was asked for yet.
    pub unowned: u64,
    /// The time, from now, in which all could be done if every path worked to the end; no sooner than the first path
    /// would be done with this piece.
    pub end: Duration,
    /// The first byte of the object that has not arrived, or that the reader has not taken.
    pub first_missing: u64,
    /// Bytes behind that for which servers have credit, if the reader takes the bytes in order.
    pub window: Option<u64>,
    /// Bytes per second that the reader takes, or all paths together bring before that is known.
    pub reader_rate: u64,
    /// All paths that may be given something, those without room included.
    pub paths: &'a [PathView],
}

impl<'a> WorkView<'a> {
    /// Describes a piece of `len` bytes that one of these paths is to get, and nothing else, for the tests of a policy.
    #[must_use]
    pub const fn new(len: u64, paths: &'a [PathView]) -> Self {
        Self { len, unowned: len, end: FOREVER, first_missing: 0, window: None, reader_rate: 0, paths }
    }

    /// Returns by how much a path would be done later than the soonest one.
    fn lag(&self, path: &PathView) -> Duration {
        path.finish(self.len).saturating_sub(self.soonest())
    }

    /// Returns how far beyond the reader a path may work: never in the last quarter of what there is credit for, as that
    /// is for what takes longer still.
    fn reach(&self) -> u64 {
        self.window.map_or(u64::MAX, |window| window - window / 4)
    }

    /// Returns how long the reader takes for so many bytes.
    fn reading(&self, bytes: u64) -> Duration {
        if bytes == u64::MAX { FOREVER } else { time_for(bytes, self.reader_rate) }
    }

    /// Returns how soon the soonest path would be done with the piece, from now.
    pub fn soonest(&self) -> Duration {
        self.paths.iter().map(|path| path.finish(self.len)).min().unwrap_or_default()
    }
}

/// Decides which path gets a range that nobody had yet, and which range.
///
/// All functions are pure: the same arguments give the same answers. What was lost, and what is left at the end, goes to
/// whoever brings it first under every policy.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Returns how much a path is wanted for the next range, the lowest first; `None` if it should rather be left to
    /// others. It must not be `None` for all paths that have room while none of the others has work.
    fn rank(&self, work: &WorkView<'_>, path: &PathView) -> Option<u64>;

    /// Returns the offset from which on the path should get the next range. By default the object goes out from its
    /// start.
    fn place(&self, work: &WorkView<'_>, path: &PathView) -> u64 {
        let _unused = (work, path);
        0
    }
}

/// Gives each range to whoever finishes it first, so that all paths end together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct CompletionTime;

impl Policy for CompletionTime {
    fn rank(&self, work: &WorkView<'_>, path: &PathView) -> Option<u64> {
        let finish = path.finish(work.len);
        // Whoever would be last of all had better leave it to others: at the end of an object slow paths end early.
        (finish <= work.end).then(|| micros(finish))
    }
}

/// Uses dear paths only where the time that they save is worth their price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostWeighted {
    worth: u64,
}

impl CostWeighted {
    /// A second less is worth `worth`, in the unit of the paths' prices per gibibyte.
    pub const fn new(worth: u64) -> Self {
        Self { worth }
    }
}

impl Policy for CostWeighted {
    fn rank(&self, work: &WorkView<'_>, path: &PathView) -> Option<u64> {
        let cheaper = || work.paths.iter().filter(|other| other.price < path.price);
        let rate: u64 = cheaper().fold(0, |rate, other| rate.saturating_add(other.rate));
        let price = cheaper().map(|other| other.price).max().unwrap_or_default();
        // Without this path a gibibyte takes the cheaper ones so many seconds, which it saves.
        let saved = u128::from(self.worth) * (1 << 30);
        let paid = u128::from(path.price.saturating_sub(price)) * u128::from(rate);
        if rate > 0 && paid > saved {
            return None;
        }
        CompletionTime.rank(work, path)
    }
}

/// Serves a reader that takes the bytes in order: what it needs next goes to whoever brings it first, and paths that take
/// longer work further on, so that their bytes are there when it comes to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct InOrder;

impl Policy for InOrder {
    fn rank(&self, work: &WorkView<'_>, path: &PathView) -> Option<u64> {
        let fastest = work.paths.iter().map(|other| other.rate).max().unwrap_or_default();
        let busy = time_for(path.owed.saturating_add(work.len), path.rate);
        // Wherever it worked, the reader would be there first and wait for it.
        if path.measured && path.rate < fastest / CRAWLS && busy > work.reading(work.reach()) {
            return None;
        }
        CompletionTime.rank(work, path)
    }

    fn place(&self, work: &WorkView<'_>, path: &PathView) -> u64 {
        let by_then = bytes_in(work.lag(path), work.reader_rate);
        work.first_missing.saturating_add(by_then.min(work.reach()))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
