//! One attach: the addresses of a server tried one after the other, without waiting for the one before to fail. Spec:
//! PROTOCOL §8.2, RFC 8305 §5.
//!
//! The first connection whose handshake is done is the path's. It alone shows the ticket: the others are closed with
//! nothing said but what TLS says.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{id::Attempt, limits::PATH_ADDRESSES_MAX};

/// Time that an address has for its handshake before the next is tried as well (RFC 8305 §8).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses of one server.
#[derive(Debug)]
pub(crate) struct Race {
    /// Not tried yet, the next one last.
    waiting: SmallVec<[SocketAddr; PATH_ADDRESSES_MAX]>,
    running: SmallVec<[(Attempt, SocketAddr); PATH_ADDRESSES_MAX]>,
    /// The one to be started next.
    next: Attempt,
    /// Instant at which the next address is tried, whatever becomes of those before; `None` if at once.
    next_at: Option<Instant>,
}

impl Race {
    /// Creates the race of `addresses`, preferred ones first. After each comes one of the other family, if there is one:
    /// where one family does not get through, none of its addresses does (RFC 8305 §4).
    pub(crate) fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut left: SmallVec<[SocketAddr; PATH_ADDRESSES_MAX]> = addresses.into_iter().collect();
        let mut ordered: SmallVec<[SocketAddr; PATH_ADDRESSES_MAX]> = SmallVec::new();
        while !left.is_empty() {
            let other = |address: &SocketAddr| {
                ordered.last().is_some_and(|last: &SocketAddr| last.is_ipv6() != address.is_ipv6())
            };
            let at = left.iter().position(other).unwrap_or_default();
            ordered.push(left.remove(at));
        }
        ordered.reverse();
        Self { waiting: ordered, running: SmallVec::new(), next: Attempt::FIRST, next_at: None }
    }

    /// Starts the next attempt, if there is an address left and it is time.
    pub(crate) fn start(&mut self, now: Instant) -> Option<(Attempt, SocketAddr)> {
        if self.next_at.is_some_and(|at| at > now) {
            return None;
        }
        let address = self.waiting.pop()?;
        let attempt = self.next;
        self.next = attempt.next();
        self.running.push((attempt, address));
        self.next_at = Some(now + ATTEMPT_DELAY);
        Some((attempt, address))
    }

    /// Instant from which [`Self::start`] has something to start, if that is known.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_at.filter(|_| !self.waiting.is_empty())
    }

    /// Returns whether an address waits whose turn it is.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.next_at.is_none_or(|at| at <= now)
    }

    /// An attempt has failed: the next address has its turn at once. Returns where it went; `None` if it was over before.
    pub(crate) fn on_failed(&mut self, attempt: Attempt) -> Option<SocketAddr> {
        let at = self.running.iter().position(|(running, _)| *running == attempt)?;
        self.next_at = None;
        Some(self.running.swap_remove(at).1)
    }

    /// An attempt has come through: all others are over. Returns whether it was still running.
    pub(crate) fn on_won(&mut self, attempt: Attempt) -> bool {
        let won = self.running.iter().any(|(running, _)| *running == attempt);
        if won {
            self.running.retain(|(running, _)| *running == attempt);
            self.waiting.clear();
        }
        won
    }

    /// Tries only those further addresses that `keep` wants.
    pub(crate) fn retain_waiting(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.waiting.retain(|address| keep(*address));
    }

    /// No further address is tried.
    pub(crate) fn give_up_waiting(&mut self) {
        self.waiting.clear();
    }

    /// The attempts under way, and where they go.
    pub(crate) fn running(&self) -> &[(Attempt, SocketAddr)] {
        &self.running
    }

    /// Returns whether nothing was started yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.next == Attempt::FIRST
    }

    /// Returns whether nothing is under way, nor will be.
    pub(crate) fn is_over(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "[2001:db8::1]:443";
    const B: &str = "[2001:db8::2]:443";
    const C: &str = "192.0.2.1:443";
    const D: &str = "192.0.2.2:443";

    fn race<const N: usize>(addresses: [&str; N]) -> Race {
        Race::new(addresses.map(|address| address.parse().unwrap()))
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    /// Starts what is due; returns where.
    fn started(race: &mut Race, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| race.start(now)).map(|(_, address)| address.to_string()).collect()
    }

    #[test]
    fn addresses_are_tried_in_turn_and_families_alternate() {
        for (named, tried) in
            [([A, B, C, D], [A, C, B, D]), ([C, D, A, B], [C, A, D, B]), ([A, C, D, B], [A, C, B, D])]
        {
            let mut race = race(named);
            let mut now = epoch();
            for address in tried {
                assert!(race.is_due(now));
                assert_eq!(started(&mut race, now), [address]);
                assert!(!race.is_due(now));
                now += ATTEMPT_DELAY;
            }
            assert_eq!(race.deadline(), None);
            assert_eq!(race.running().len(), 4);
        }
    }

    #[test]
    fn a_failure_gives_the_next_its_turn_at_once() {
        let mut race = race([A, C, B]);
        let now = epoch();
        assert!(race.is_fresh());
        let (first, address) = race.start(now).unwrap();
        assert!(!race.is_fresh());
        assert_eq!((race.start(now), race.deadline()), (None, Some(now + ATTEMPT_DELAY)));
        assert_eq!(race.on_failed(first), Some(address));
        assert_eq!(race.on_failed(first), None, "once");
        assert!(!race.is_over());
        assert_eq!(started(&mut race, now), [C], "and only the next");
        let second = race.running()[0].0;
        assert_eq!(started(&mut race, now + ATTEMPT_DELAY), [B]);
        assert!(race.on_failed(second).is_some() && !race.is_over());
        let third = race.running()[0].0;
        assert!(race.on_failed(third).is_some() && race.is_over());
    }

    #[test]
    fn what_waits_may_be_given_up_and_what_runs_goes_on() {
        let mut race = race([A, C, B]);
        let now = epoch();
        let (first, _) = race.start(now).unwrap();
        race.retain_waiting(|address| address.to_string() != B);
        assert!(!race.is_over() && race.deadline().is_some());
        race.give_up_waiting();
        assert_eq!((race.deadline(), race.start(now + ATTEMPT_DELAY)), (None, None));
        assert!(race.on_failed(first).is_some() && race.is_over());
    }

    #[test]
    fn one_wins() {
        let mut race = race([A, C, B]);
        let now = epoch();
        let (first, _) = race.start(now).unwrap();
        let (second, address) = race.start(now + ATTEMPT_DELAY).unwrap();
        assert!(race.on_won(second));
        assert_eq!(race.running(), [(second, address)]);
        assert!(!race.on_won(first), "too late");
        assert_eq!(race.on_failed(first), None);
        assert_eq!((race.deadline(), race.start(now + ATTEMPT_DELAY * 9)), (None, None));
    }
}
