//! Surroundings of a machine: its clock, its socket, the heap it takes.

use std::{collections::VecDeque, time::Duration};

use crate::sim::{app::Calls, dice::Dice, machine::Arrival, resident::Resident, tls};

/// A machine and what surrounds it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) machine: Option<Resident>,
    pub(super) clock: Clock,
    pub(super) late: Duration,
    pub(super) paused_until: Duration,
    /// Datagrams that the socket holds while the machine is paused.
    pub(super) backlog: VecDeque<Arrival>,
    pub(super) blocked_until: Duration,
    /// Time at which it last sent something.
    pub(super) sent_at: Duration,
    /// The socket took nothing in the last turn: what waits has to be asked for again.
    pub(super) was_blocked: bool,
    /// Time at which it wants its next turn.
    pub(super) wake: Option<Duration>,
    pub(super) dice: Dice,
    pub(super) incarnation: u32,
    pub(super) heap: i64,
    /// The heap when it had no session yet.
    pub(super) heap_start: i64,
    pub(super) turns: u64,
    /// Bytes that have arrived, and the time of a processor that it took to deal with them and all else, if it is measured.
    pub(super) received: u64,
    pub(super) busy: Duration,
    pub(super) calls: Calls,
}

/// A machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    pub(super) ppm: i64,
    pub(super) ahead: Duration,
    pub(super) skew: i64,
}

impl Clock {
    pub(super) fn local(self, at: Duration) -> Duration {
        let nanos = i128::try_from(at.as_nanos()).unwrap_or(i128::MAX);
        let drifted = nanos + nanos * i128::from(self.ppm) / 1_000_000;
        Duration::from_nanos(u64::try_from(drifted).unwrap_or_default()) + self.ahead
    }

    /// The wall clock, since the Unix epoch.
    pub(super) fn unix(self, at: Duration) -> Duration {
        let wrong = Duration::from_secs(self.skew.unsigned_abs());
        let right = tls::WALL_EPOCH + self.local(at);
        if self.skew < 0 { right.saturating_sub(wrong) } else { right + wrong }
    }

    /// The first of the world's nanoseconds in which the local clock shows at least `local`.
    pub(super) fn global(self, local: Duration) -> Duration {
        let nanos = i128::try_from(local.saturating_sub(self.ahead).as_nanos()).unwrap_or(i128::MAX);
        let at = nanos * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = Duration::from_nanos(u64::try_from(at).unwrap_or_default());
        while self.local(at) < local {
            at += Duration::from_nanos(1);
        }
        at
    }
}

/// Datagrams that the socket of a paused machine holds.
pub(super) const BACKLOG_MAX: usize = 512;
