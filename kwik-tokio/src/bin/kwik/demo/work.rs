//! Ranges of the object that are still to be sent, and the servers they go to next.
//!
//! [`Work`] is the bookkeeping, pure; [`Board`] lets many tasks share it and wait for it. Neither knows what a path is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kwik_tokio::ByteRange;
use tokio::sync::Notify;

/// Smallest range handed out, but for what is left over at the end; longer ones are multiples of it.
const RANGE_MIN: u64 = 64 * 1024;
/// Number of ranges that an object has per server at least, so that small objects are shared too.
const RANGES_PER_SERVER: u64 = 8;

/// Returns how long ranges should be: an even part for everyone several times over, at most `max`.
pub(super) fn range_len(size: u64, servers: usize, max: u64) -> u64 {
    let parts = RANGES_PER_SERVER * servers.max(1) as u64;
    let even = (size / parts).next_multiple_of(RANGE_MIN);
    even.min(max / RANGE_MIN * RANGE_MIN).max(RANGE_MIN)
}

/// Next step of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It sends this range.
    Send(ByteRange),
    /// It waits: nothing is to be sent now, but what others have may come back.
    Wait,
    /// Every byte has arrived.
    Finished,
}

/// The ranges of one object. Every byte is in exactly one place: waiting, with a server, or done.
#[derive(Debug)]
pub(super) struct Work {
    size: u64,
    range_len: u64,
    /// Distance beyond the first byte that has not arrived up to which ranges are handed out.
    ahead: u64,
    /// Offset of the part that nobody has had yet.
    fresh: u64,
    /// Ranges that came back: start to end. Handed out before anything fresh.
    returned: BTreeMap<u64, u64>,
    /// Ranges that servers have now: start to end.
    out: BTreeMap<u64, u64>,
    /// Offset up to which servers have taken on the object, whether it arrived or not.
    claimed: u64,
    /// Ranges lost since one was done.
    losses: u32,
}

impl Work {
    /// `ahead` bounds how far beyond the first byte that has not arrived ranges are handed out. A reader in order gives
    /// credit for its window only: servers that all wait for credit further on could not send what was lost before it.
    pub(super) fn new(size: u64, range_len: u64, ahead: u64) -> Self {
        Self {
            size,
            range_len: range_len.max(1),
            ahead,
            fresh: 0,
            returned: BTreeMap::new(),
            out: BTreeMap::new(),
            claimed: 0,
            losses: 0,
        }
    }

    /// Hands out the lowest range that waits. It is to come back by [`Self::done`], [`Self::lost`] or
    /// [`Self::give_back`].
    pub(super) fn next(&mut self) -> Next {
        let range = match self.returned.pop_first() {
            Some((start, end)) => {
                let cut = end.min(start.saturating_add(self.range_len));
                if cut < end {
                    self.returned.insert(cut, end);
                }
                ByteRange::between(start, cut)
            }
            None => self.next_fresh(),
        };
        match range {
            Some(range) => {
                self.out.insert(range.start(), range.end());
                Next::Send(range)
            }
            None if self.is_finished() => Next::Finished,
            None => Next::Wait,
        }
    }

    /// Takes the next range that nobody has had yet, if it is near enough.
    fn next_fresh(&mut self) -> Option<ByteRange> {
        let end = self.size.min(self.fresh.saturating_add(self.range_len));
        // Nothing came back, or that would have gone out first.
        if let Some((&lowest, _)) = self.out.first_key_value() {
            if end > lowest.saturating_add(self.ahead) {
                return None;
            }
        }
        let range = ByteRange::between(self.fresh, end);
        self.fresh = end;
        range
    }

    /// A server has taken the range on: the object is at least so long for the protocol.
    pub(super) fn claimed(&mut self, range: ByteRange) {
        self.claimed = self.claimed.max(range.end());
    }

    /// Every byte of the range has arrived.
    pub(super) fn done(&mut self, range: ByteRange) {
        self.out.remove(&range.start());
        self.losses = 0;
    }

    /// The range ended early; `missing` of it is to be sent again.
    pub(super) fn lost(&mut self, range: ByteRange, missing: &[ByteRange]) {
        self.out.remove(&range.start());
        self.losses = self.losses.saturating_add(1);
        for part in missing {
            let part = ByteRange::between(part.start().max(range.start()), part.end().min(range.end()));
            if let Some(part) = part {
                self.returned.insert(part.start(), part.end());
            }
        }
    }

    /// The range could not be given to the server it was meant for.
    pub(super) fn give_back(&mut self, range: ByteRange) {
        self.out.remove(&range.start());
        self.returned.insert(range.start(), range.end());
    }

    /// Returns whether servers have taken on every byte at least once: the end of the stream is known.
    pub(super) const fn is_claimed(&self) -> bool {
        self.claimed == self.size
    }

    /// Returns whether every byte has arrived.
    pub(super) fn is_finished(&self) -> bool {
        self.fresh == self.size && self.returned.is_empty() && self.out.is_empty()
    }

    /// Number of ranges that were lost since one was done.
    pub(super) const fn losses(&self) -> u32 {
        self.losses
    }
}

/// Work that many tasks share.
#[derive(Debug)]
pub(super) struct Board {
    work: Mutex<Work>,
    changed: Notify,
}

impl Board {
    pub(super) fn new(work: Work) -> Self {
        Self { work: Mutex::new(work), changed: Notify::new() }
    }

    /// Waits for a range to send; `None` once every byte has arrived.
    pub(super) async fn next(&self) -> Option<ByteRange> {
        self.wait(|work| match work.next() {
            Next::Send(range) => Some(Some(range)),
            Next::Finished => Some(None),
            Next::Wait => None,
        })
        .await
    }

    /// Waits until servers have taken on every byte at least once.
    pub(super) async fn claimed(&self) {
        self.wait(|work| work.is_claimed().then_some(())).await;
    }

    /// Waits until every byte has arrived.
    pub(super) async fn finished(&self) {
        self.wait(|work| work.is_finished().then_some(())).await;
    }

    /// Changes the work and tells everyone who waits.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Work) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    async fn wait<T>(&self, mut check: impl FnMut(&mut Work) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified(); // notices every change from here on
            if let Some(answer) = check(&mut self.lock()) {
                return answer;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[test]
    fn ranges_suit_the_object() {
        const MIB: u64 = 1 << 20;
        assert_eq!(range_len(0, 3, 2 * MIB), RANGE_MIN);
        assert_eq!(range_len(1, 3, 2 * MIB), RANGE_MIN);
        assert_eq!(range_len(12 * MIB, 3, 2 * MIB), MIB / 2);
        assert_eq!(range_len(1 << 40, 3, 2 * MIB), 2 * MIB);
        assert_eq!(range_len(u64::MAX / 2, 0, 2 * MIB), 2 * MIB);
        assert_eq!(range_len(1 << 40, 1, 1), RANGE_MIN);
        assert_eq!(range_len(1 << 40, 3, 3 * RANGE_MIN - 1), 2 * RANGE_MIN);
    }

    #[test]
    fn an_empty_object_is_finished_at_once() {
        let mut work = Work::new(0, 10, u64::MAX);
        assert!(work.is_claimed() && work.is_finished());
        assert_eq!(work.next(), Next::Finished);
    }

    #[test]
    fn ranges_go_out_in_order_and_end_at_the_end() {
        let mut work = Work::new(25, 10, u64::MAX);
        for expected in [range(0, 10), range(10, 20), range(20, 25)] {
            assert_eq!(work.next(), Next::Send(expected));
            assert!(!work.is_claimed());
            work.claimed(expected);
        }
        assert!(work.is_claimed());
        assert_eq!(work.next(), Next::Wait);
        work.done(range(10, 20));
        work.done(range(20, 25));
        assert!(!work.is_finished());
        work.done(range(0, 10));
        assert!(work.is_finished());
        assert_eq!(work.next(), Next::Finished);
    }

    #[test]
    fn only_what_is_missing_goes_out_again_and_first() {
        let mut work = Work::new(100, 40, u64::MAX);
        assert_eq!(work.next(), Next::Send(range(0, 40)));
        assert_eq!(work.next(), Next::Send(range(40, 80)));
        work.lost(range(40, 80), &[range(70, 200), range(50, 60)]);
        assert_eq!(work.losses(), 1);
        assert_eq!(work.next(), Next::Send(range(50, 60)));
        assert_eq!(work.next(), Next::Send(range(70, 80)));
        work.give_back(range(70, 80));
        assert_eq!(work.next(), Next::Send(range(70, 80)));
        assert_eq!(work.next(), Next::Send(range(80, 100)));
        for part in [range(0, 40), range(50, 60), range(70, 80), range(80, 100)] {
            work.done(part);
        }
        assert_eq!((work.next(), work.losses()), (Next::Finished, 0));
    }

    #[test]
    fn servers_stay_near_what_is_missing() {
        let mut work = Work::new(100, 10, 25);
        assert_eq!(work.next(), Next::Send(range(0, 10)));
        assert_eq!(work.next(), Next::Send(range(10, 20)));
        assert_eq!(work.next(), Next::Wait);
        work.done(range(10, 20));
        assert_eq!(work.next(), Next::Wait);
        work.lost(range(0, 10), &[range(5, 10)]);
        assert_eq!(work.next(), Next::Send(range(5, 10)));
        assert_eq!(work.next(), Next::Send(range(20, 30)));
        assert_eq!(work.next(), Next::Wait);
        work.done(range(5, 10));
        assert_eq!(work.next(), Next::Send(range(30, 40)));
        let mut narrow = Work::new(100, 10, 0);
        assert_eq!(narrow.next(), Next::Send(range(0, 10)), "one at a time always");
        assert_eq!(narrow.next(), Next::Wait);
    }

    #[test]
    fn a_long_part_that_came_back_is_cut() {
        let mut work = Work::new(100, 40, u64::MAX);
        assert_eq!(work.next(), Next::Send(range(0, 40)));
        work.range_len = 30;
        work.give_back(range(0, 40));
        assert_eq!(work.next(), Next::Send(range(0, 30)));
        assert_eq!(work.next(), Next::Send(range(30, 40)));
    }

    /// Whatever is lost in whatever order, every byte arrives once and the work ends.
    #[test]
    fn any_losses_end_well() {
        for seed in 0..200 {
            let mut random: u64 = seed;
            let mut draw = |bound: u64| {
                random = (random ^ 0x9e37_79b9).wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(23);
                random % bound
            };
            let size = draw(1000);
            let mut work = Work::new(size, 1 + draw(90), draw(300));
            let mut held = Vec::new();
            let mut arrived = vec![0; usize::try_from(size).unwrap()];
            let mut arrive = |part: ByteRange| {
                (part.start()..part.end()).for_each(|at| arrived[usize::try_from(at).unwrap()] += 1);
            };
            loop {
                match work.next() {
                    Next::Send(range) => held.push(range),
                    Next::Wait => assert!(!held.is_empty()),
                    Next::Finished => break,
                }
                if held.len() > 3 || draw(2) == 0 {
                    let range = held.swap_remove(usize::try_from(draw(held.len() as u64)).unwrap());
                    match draw(4) {
                        0 => work.give_back(range),
                        1 => {
                            let cut = range.start() + draw(range.len() + 1);
                            let missing = ByteRange::between(cut, range.end());
                            if let Some(part) = ByteRange::between(range.start(), cut) {
                                arrive(part);
                            }
                            work.lost(range, missing.as_slice());
                        }
                        _ => {
                            arrive(range);
                            work.done(range);
                        }
                    }
                }
                if held.is_empty() && work.is_finished() {
                    break;
                }
            }
            assert!(
                work.is_finished() && held.is_empty() && arrived.iter().all(|&times| times == 1),
                "{seed}"
            );
        }
    }
}
