//! Admission of clients: how many may be between their first flight and their accepted hello. Spec: RATIONALE §11.
//!
//! It counts these half-open sessions, in all and by network, and decides about one more. It never looks at a packet and
//! keeps nothing of a client that it does not let in. The endpoint calls it for each first flight, and for each session
//! that is half-open no longer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{config::ServerConfig, limits};

/// The network that a client is in: what one host, or one household, usually has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    /// A /24.
    V4([u8; 3]),
    /// A /64.
    V6([u8; 8]),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// A client as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    prefix: Prefix,
    /// It has shown, by a token, that it receives at its address.
    validated: bool,
}

impl Guest {
    pub(crate) fn new(address: SocketAddr, validated: bool) -> Self {
        Self { prefix: Prefix::of(address.ip()), validated }
    }
}

/// The decision about a first flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client is at the door, and counted.
    Admit,
    /// No answer: it asks again by itself, and there may be room then.
    Ignore,
    /// It has to prove its address first, which costs a round trip and no memory here.
    Retry,
}

/// Half-open sessions of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: usize,
    unvalidated: usize,
}

impl Count {
    fn add(&mut self, validated: bool) {
        self.all += 1;
        self.unvalidated += usize::from(!validated);
    }

    fn remove(&mut self, validated: bool) {
        self.all = self.all.saturating_sub(1);
        self.unvalidated = self.unvalidated.saturating_sub(usize::from(!validated));
    }
}

/// Counters of what came before any hello. Gauges are of this moment, all else is since the endpoint was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Half-open sessions now: clients at the door, and those let in whose hello is not accepted yet.
    pub half_open: usize,
    /// Those of them whose address no token has proved.
    pub half_open_unvalidated: usize,
    /// The most that [`Self::half_open`] has been.
    pub half_open_peak: usize,
    /// Clients that were asked to prove their address before the application heard of them.
    pub retries: u64,
    /// First packets without an answer because of [`ServerConfig::half_open_max`]. A client sends several.
    pub ignored_over_max: u64,
    /// First packets without an answer because of [`ServerConfig::half_open_per_prefix`].
    pub ignored_over_prefix: u64,
}

/// The count of half-open sessions, and the rule for one more.
#[derive(Debug)]
pub(crate) struct Admission {
    retry_above: Option<usize>,
    max: usize,
    per_prefix: usize,
    accepts_max: usize,
    total: Count,
    /// Without empty entries, so never more of them than half-open sessions.
    prefixes: BTreeMap<Prefix, Count>,
    /// Clients without a proof that the application has not decided on.
    unvalidated_at_door: usize,
    stats: AdmissionStats,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self {
            retry_above: Some(limits::RETRY_ABOVE),
            max: limits::HALF_OPEN_MAX,
            per_prefix: limits::HALF_OPEN_PER_PREFIX,
            accepts_max: limits::ACCEPTS_MAX,
            total: Count::default(),
            prefixes: BTreeMap::new(),
            unvalidated_at_door: 0,
            stats: AdmissionStats::default(),
        }
    }

    /// Takes over a server's settings, for clients that come from now on.
    pub(crate) fn configure(&mut self, server: &ServerConfig) {
        self.retry_above = server.retry_above;
        self.max = server.half_open_max;
        self.per_prefix = server.half_open_per_prefix;
        self.accepts_max = server.accepts_max;
    }

    /// Decides about a client's first flight; it is counted if it is admitted.
    ///
    /// Those that have not proved their address are sent for the proof long before the bounds are reached. So whoever
    /// forges addresses, those of somebody else's network included, can take a part of the room only, and whoever really
    /// is there always has the rest of it.
    pub(crate) fn arrive(&mut self, guest: Guest) -> Verdict {
        let prefix = self.prefixes.get(&guest.prefix).copied().unwrap_or_default();
        if let Some(above) = self.retry_above.filter(|_| !guest.validated) {
            if self.total.unvalidated >= above
                || prefix.unvalidated >= self.per_prefix / UNVALIDATED_PART
                || self.unvalidated_at_door >= self.accepts_max / UNVALIDATED_PART_AT_DOOR
            {
                self.stats.retries += 1;
                return Verdict::Retry;
            }
        }
        if prefix.all >= self.per_prefix {
            self.stats.ignored_over_prefix += 1;
            return Verdict::Ignore;
        }
        if self.total.all >= self.max {
            self.stats.ignored_over_max += 1;
            return Verdict::Ignore;
        }
        self.total.add(guest.validated);
        self.prefixes.entry(guest.prefix).or_default().add(guest.validated);
        self.unvalidated_at_door += usize::from(!guest.validated);
        self.stats.half_open_peak = self.stats.half_open_peak.max(self.total.all);
        Verdict::Admit
    }

    /// The client is let in; it stays half-open.
    pub(crate) fn enter(&mut self, guest: Guest) {
        self.unvalidated_at_door = self.unvalidated_at_door.saturating_sub(usize::from(!guest.validated));
    }

    /// The client is turned away at the door.
    pub(crate) fn turn_away(&mut self, guest: Guest) {
        self.enter(guest);
        self.leave(guest);
    }

    /// A client that was let in is half-open no longer: its hello is accepted, or it is gone.
    pub(crate) fn leave(&mut self, guest: Guest) {
        self.total.remove(guest.validated);
        if let Some(prefix) = self.prefixes.get_mut(&guest.prefix) {
            prefix.remove(guest.validated);
            if prefix.all == 0 {
                self.prefixes.remove(&guest.prefix);
            }
        }
        if self.prefixes.is_empty() {
            self.prefixes = BTreeMap::new(); // an empty one keeps its memory
        }
    }

    pub(crate) fn stats(&self) -> AdmissionStats {
        AdmissionStats {
            half_open: self.total.all,
            half_open_unvalidated: self.total.unvalidated,
            ..self.stats
        }
    }
}

/// One in so many half-open sessions of a network may be without a proof.
const UNVALIDATED_PART: usize = 4;
/// One in so many clients that wait to be accepted may be without a proof.
const UNVALIDATED_PART_AT_DOOR: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(retry_above: Option<usize>, max: usize, per_prefix: usize) -> Admission {
        Admission { retry_above, max, per_prefix, ..Admission::new() }
    }

    fn guest(address: &str, validated: bool) -> Guest {
        Guest::new(SocketAddr::new(address.parse().unwrap(), 4433), validated)
    }

    /// Counts how many of these are admitted and stay, and what the next is told.
    fn fill(admission: &mut Admission, guests: impl Iterator<Item = Guest>) -> (usize, Option<Verdict>) {
        let mut admitted = 0;
        for guest in guests {
            match admission.arrive(guest) {
                Verdict::Admit => {
                    admission.enter(guest);
                    admitted += 1;
                }
                verdict @ (Verdict::Ignore | Verdict::Retry) => return (admitted, Some(verdict)),
            }
        }
        (admitted, None)
    }

    /// Addresses from as many networks as there are numbers.
    fn from_everywhere(validated: bool) -> impl Iterator<Item = Guest> {
        (0..u16::MAX).map(move |n| guest(&format!("10.{}.{}.1", n >> 8, n & 0xff), validated))
    }

    #[test]
    fn a_network_is_a_24_or_a_64() {
        let same = |a: &str, b: &str| guest(a, true) == guest(b, true);
        assert!(same("192.0.2.1", "192.0.2.255"));
        assert!(!same("192.0.2.1", "192.0.3.1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.7"), "however the socket names it");
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
    }

    /// Forged first flights come without end; whoever is really there still gets in. Spec: RATIONALE §11.
    #[test]
    fn forged_flights_take_a_part_of_the_room_only() {
        let mut admission = admission(Some(100), 300, 1000);
        assert_eq!(fill(&mut admission, from_everywhere(false)), (100, Some(Verdict::Retry)));
        assert_eq!(fill(&mut admission, from_everywhere(true)), (200, Some(Verdict::Ignore)));
        let stats = admission.stats();
        assert_eq!((stats.half_open, stats.half_open_unvalidated, stats.half_open_peak), (300, 100, 300));
        assert_eq!((stats.retries, stats.ignored_over_max, stats.ignored_over_prefix), (1, 1, 0));
        // Once one leaves, there is room for one.
        admission.leave(guest("10.0.0.1", true));
        assert_eq!(fill(&mut admission, from_everywhere(true)), (1, Some(Verdict::Ignore)));
        assert_eq!(fill(&mut admission, from_everywhere(false)), (0, Some(Verdict::Retry)));
    }

    /// Spec: RATIONALE §11.
    #[test]
    fn forged_flights_of_a_network_cost_its_hosts_a_round_trip() {
        let mut admission = admission(Some(1000), 2000, 40);
        let host = |n: u16, validated| guest(&format!("192.0.2.{}", n % 256), validated);
        assert_eq!(fill(&mut admission, (0..500).map(|n| host(n, false))), (10, Some(Verdict::Retry)));
        assert_eq!(fill(&mut admission, (0..500).map(|n| host(n, true))), (30, Some(Verdict::Ignore)));
        assert_eq!(admission.stats().ignored_over_prefix, 1);
        // Nobody else notices.
        assert_eq!(admission.arrive(guest("192.0.3.1", false)), Verdict::Admit);
        assert_eq!(admission.arrive(guest("2001:db8::1", false)), Verdict::Admit);
    }

    #[test]
    fn forged_flights_do_not_fill_the_door() {
        let mut admission = Admission { accepts_max: 8, ..admission(Some(100), 200, 200) };
        let knock = |admission: &mut Admission, n: u8| admission.arrive(guest(&format!("10.0.{n}.1"), false));
        for n in 0..4 {
            assert_eq!(knock(&mut admission, n), Verdict::Admit);
        }
        assert_eq!(knock(&mut admission, 4), Verdict::Retry);
        admission.enter(guest("10.0.0.1", false));
        assert_eq!(knock(&mut admission, 5), Verdict::Admit);
        admission.turn_away(guest("10.0.1.1", false));
        assert_eq!(knock(&mut admission, 6), Verdict::Admit);
        assert_eq!(admission.stats().half_open, 5);
    }

    #[test]
    fn without_retry_the_bounds_are_what_is_left() {
        let mut admission = admission(None, 300, 40);
        let hosts = (0..255).map(|n| guest(&format!("192.0.2.{n}"), false));
        assert_eq!(fill(&mut admission, hosts), (40, Some(Verdict::Ignore)));
        assert_eq!(fill(&mut admission, from_everywhere(false)), (260, Some(Verdict::Ignore)));
        assert_eq!(admission.stats().retries, 0);
    }

    #[test]
    fn nothing_is_kept_of_who_left() {
        let mut admission = admission(Some(1000), 2000, 40);
        let guests: Vec<Guest> = from_everywhere(false).take(900).collect();
        assert_eq!(fill(&mut admission, guests.iter().copied()), (900, None));
        assert_eq!(admission.prefixes.len(), 900);
        guests.into_iter().for_each(|guest| admission.leave(guest));
        assert!(admission.prefixes.is_empty());
        let stats = admission.stats();
        assert_eq!((stats.half_open, stats.half_open_unvalidated, stats.half_open_peak), (0, 0, 900));
    }
}
