//! Time as the core knows it: instants that come in as arguments, and what the wall clock said at one of them.

use std::time::{Duration, Instant};

/// Wall time at some instant. Only ever carried on to instants shortly after: wall clocks are set anew while
/// programs run, and go on while a machine sleeps, when instants may not.
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

    /// Returns whole seconds since the Unix epoch at `now`.
    pub(crate) fn secs(&self, now: Instant) -> u64 {
        self.unix.saturating_add(now.saturating_duration_since(self.at)).as_secs()
    }
}

/// Returns the earlier of two deadlines, either of which may be absent.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
