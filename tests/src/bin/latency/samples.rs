//! Times of single datagrams, and what is said of many.

use std::{fmt, time::Duration};

/// Times that the datagrams of one client took.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Until the first byte that a datagram made readable was read.
    first: Vec<u64>,
    /// Until nothing was left to read.
    turn: Vec<u64>,
}

impl Samples {
    /// Notes a datagram; `first` if it made bytes readable.
    pub(crate) fn push(&mut self, first: Option<Duration>, turn: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.first.extend(first.map(nanos));
        self.turn.push(nanos(turn));
    }

    /// Sums up both columns.
    pub(crate) fn quantiles(self) -> [Quantiles; 2] {
        [self.first, self.turn].map(Quantiles::of)
    }
}

/// Quantiles of one column, or the difference of two, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiles {
    count: Option<usize>,
    p50: i64,
    p99: i64,
    p999: i64,
}

impl Quantiles {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |thousandths: usize| {
            let time = times.get(times.len().saturating_sub(1) * thousandths / 1000);
            i64::try_from(time.copied().unwrap_or_default()).unwrap_or(i64::MAX)
        };
        Self { count: Some(times.len()), p50: at(500), p99: at(990), p999: at(999) }
    }

    /// Differences by which each of these is above `other`'s.
    pub(crate) fn since(&self, other: &Self) -> Self {
        Self {
            count: None,
            p50: self.p50 - other.p50,
            p99: self.p99 - other.p99,
            p999: self.p999 - other.p999,
        }
    }

    /// The 99th percentile; zero if it is below.
    pub(crate) fn p99(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.p99).unwrap_or_default())
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Some(count) => write!(f, "{count:9} {:6} {:6} {:7}", self.p50, self.p99, self.p999),
            None => write!(f, "{:9} {:+6} {:+6} {:+7}", "", self.p50, self.p99, self.p999),
        }
    }
}
