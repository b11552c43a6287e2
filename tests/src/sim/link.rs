//! One direction between two machines: what a network does to datagrams.

use std::time::Duration;

use super::dice::Dice;

/// Properties of one direction of a link. The default is instant and perfect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Time a datagram is under way.
    pub delay: Duration,
    /// Additional time, drawn for each datagram; order is kept all the same.
    pub jitter: Duration,
    /// Lost at random, per thousand.
    pub loss: u16,
    /// Losses in bursts.
    pub bursts: Option<Bursts>,
    /// Delivered twice, per thousand.
    pub duplicate: u16,
    /// Delayed by up to [`REORDER_MAX`] out of order, per thousand.
    pub reorder: u16,
    /// Damaged by one flipped bit, per thousand.
    pub corrupt: u16,
    /// Cut short, per thousand.
    pub truncate: u16,
    /// Delivered once more up to [`REPLAY_MAX`] later, per thousand.
    pub replay: u16,
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Longest time that a datagram may wait for the rate before it is dropped; zero is for ever.
    pub queue: Duration,
    /// Longer datagrams vanish without a word; zero is no limit.
    pub mtu: usize,
    /// Fate of ECN bits.
    pub ecn: Marking,
}

/// The longest delay of a reordered datagram.
pub const REORDER_MAX: Duration = Duration::from_millis(200);
/// The longest delay of a replayed datagram.
pub const REPLAY_MAX: Duration = Duration::from_secs(60);

/// A link that is bad for a while (Gilbert and Elliott): in a bad spell everything is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursts {
    /// A bad spell begins before a datagram, per thousand.
    pub start: u16,
    /// Datagrams in a bad spell, on average.
    pub length: u16,
}

/// Treatment of congestion marks by a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marking {
    /// Nothing.
    #[default]
    Keep,
    /// Marks what waited for the rate.
    Mark,
    /// Clears all bits.
    Bleach,
}

impl Conditions {
    /// Returns a perfect link with this delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Returns a link that is as slow as the slower of the two.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rate = match (self.rate, other.rate) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { delay: self.delay.max(other.delay), jitter: self.jitter.max(other.jitter), rate, ..self }
    }

    /// Returns whether a connection over such a link lives, however unlucky, as long as it is silent for no longer than
    /// a part of `idle`.
    #[must_use]
    pub fn is_fair(self, idle: Duration) -> bool {
        let queued = self.rate.is_none_or(|rate| rate >= 2_000_000 && !self.queue.is_zero());
        let rtt = (self.delay + self.jitter) * 2 + self.queue.min(Duration::from_millis(300));
        let harm = self.loss + self.corrupt + self.truncate;
        self.bursts.is_none() && harm <= 30 && queued && rtt * 8 <= idle && self.queue.as_millis() <= 300
    }

    /// Returns the same link without faults: delay, rate and MTU stay.
    #[must_use]
    pub fn healed(self) -> Self {
        Self { delay: self.delay, rate: self.rate, queue: self.queue, mtu: self.mtu, ..Self::default() }
    }
}

/// Fate of a datagram on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Delivered at this time, and damaged in this way.
    Arrives(Duration, Damage, bool),
    /// Not delivered, for this reason.
    Lost(&'static str),
}

/// Damage that a datagram takes under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// Not at all.
    #[default]
    None,
    /// The bit with this number is flipped.
    Flip(usize),
    /// Only this many bytes are left.
    Cut(usize),
}

/// One direction of a link.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Conditions now.
    pub(crate) conditions: Conditions,
    /// Everything is lost.
    pub(crate) cut: bool,
    /// Everything waits, and is delivered in one burst when the link is let go.
    pub(crate) held_until: Option<Duration>,
    bad: bool,
    /// Until then the line is busy with what was sent before.
    busy: Duration,
    /// The last arrival, which order is kept to.
    last: Duration,
    /// Datagrams that were taken out of it.
    pub(crate) reordered: u64,
    /// Destination and source ids of the last long header that passed (RFC 8999 §5.1).
    pub(crate) long: Option<(Vec<u8>, Vec<u8>)>,
    /// The start of the last short header that passed, with the id it is for.
    pub(crate) short: Option<[u8; SHORT]>,
}

/// First byte and connection id of KWIK's short headers.
pub(crate) const SHORT: usize = 9;

impl Link {
    /// Creates a link that is like `conditions`.
    #[must_use]
    pub fn new(conditions: Conditions) -> Self {
        Self { conditions, ..Self::default() }
    }

    /// Notes what somebody who watches the link learns from a datagram.
    pub(crate) fn watch(&mut self, bytes: &[u8]) {
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            self.long = super::world::ids(bytes).or_else(|| self.long.take());
        } else if let Some(&start) = bytes.first_chunk() {
            self.short = Some(start);
        }
    }

    /// Takes a datagram of `len` bytes and says what becomes of it: one fate per copy.
    pub fn send(&mut self, now: Duration, len: usize, dice: &mut Dice, fates: &mut Vec<Fate>) {
        let c = self.conditions;
        if self.cut {
            return fates.push(Fate::Lost("cut"));
        }
        if c.mtu > 0 && len > c.mtu {
            return fates.push(Fate::Lost("too long"));
        }
        if let Some(bursts) = c.bursts {
            self.bad =
                if self.bad { dice.below(u64::from(bursts.length)) != 0 } else { dice.chance(bursts.start) };
            if self.bad {
                return fates.push(Fate::Lost("burst"));
            }
        }
        if dice.chance(c.loss) {
            return fates.push(Fate::Lost("loss"));
        }
        let start = self.busy.max(now);
        let waited = start.saturating_sub(now);
        if c.queue > Duration::ZERO && waited > c.queue {
            return fates.push(Fate::Lost("queue full"));
        }
        let bits = len as u64 * 8;
        let serial = c.rate.map_or(0, |rate| bits.saturating_mul(1_000_000_000) / rate.max(1));
        self.busy = start + Duration::from_nanos(serial);
        let marked = c.ecn == Marking::Mark && waited > c.queue / 4 && waited > Duration::ZERO;

        let jitter = if c.jitter.is_zero() { Duration::ZERO } else { dice.time(Duration::ZERO, c.jitter) };
        let mut at = self.busy + c.delay + jitter;
        if dice.chance(c.reorder) {
            self.reordered += 1;
            at += dice.time(Duration::ZERO, REORDER_MAX);
        } else {
            at = at.max(self.last);
            self.last = at;
        }
        if let Some(until) = self.held_until.filter(|until| *until > at) {
            at = until;
        }
        let damage = if dice.chance(c.corrupt) {
            Damage::Flip(dice.index(len * 8))
        } else if dice.chance(c.truncate) {
            Damage::Cut(dice.index(len))
        } else {
            Damage::None
        };
        fates.push(Fate::Arrives(at, damage, marked));
        if dice.chance(c.duplicate) {
            fates.push(Fate::Arrives(at + dice.time(Duration::ZERO, c.jitter), Damage::None, marked));
        }
        if dice.chance(c.replay) {
            fates.push(Fate::Arrives(at + dice.time(Duration::ZERO, REPLAY_MAX), Damage::None, false));
        }
    }
}
