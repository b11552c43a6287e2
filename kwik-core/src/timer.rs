//! Time as the core knows it: instants that come in as arguments, and what the wall clock said at one of them.

use std::time::{Duration, Instant};

/// The wall clock, anchored once: where expiry of tickets and jobs needs it, it is derived, never read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    at: Instant,
    unix: Duration,
}

impl Wall {
    /// `unix` is the wall clock at `at`, since the Unix epoch.
    pub(crate) const fn new(at: Instant, unix: Duration) -> Self {
        Self { at, unix }
    }

    /// Returns the time since the Unix epoch at `now`.
    pub(crate) fn unix(&self, now: Instant) -> Duration {
        self.unix.saturating_add(now.saturating_duration_since(self.at))
    }

    /// Returns whole seconds since the Unix epoch at `now`.
    pub(crate) fn secs(&self, now: Instant) -> u64 {
        self.unix(now).as_secs()
    }
}

/// Returns the earlier of two deadlines, either of which may be absent.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
