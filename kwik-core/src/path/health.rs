//! The moment at which a path that owes bytes counts as silent. Spec: PROTOCOL §8.
//!
//! Life is counted in decrypted frames, not in datagrams, and a path is asked five times, for three answers, before
//! anything is held against it: first it is suspected, so that somebody else may begin to bring what the reader waits
//! for, then it is called silent.
//! Probes are timed from the moment they were sent, and a verdict that comes late is put off once for another, so a
//! client that was itself asleep never blames its servers.

use std::time::{Duration, Instant};

use crate::limits;

/// Longest time that a peer may hold an acknowledgement back (RFC 9000 §18.2, `max_ack_delay` default).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Longest time that an operating system may keep a server with work to do from running: four time slices of 3 ms, and
/// no more, because with it a silent death is still noticed within 3 PTO + 4 RTT however short the path is.
const SCHEDULING: Duration = Duration::from_millis(12);
/// Probes before anything is held against a path, from half a PTO to three quarters. A peer acknowledges every second one
/// at once (RFC 9000 §13.2.2), and the last on its own, so that they bring three answers in time. They have to be so many: a
/// disk that is slow is asked about ten times a second, and where a hundredth of the packets is lost each way, two answers
/// are both lost every hour or two.
pub(crate) const PROBES: u32 = 5;
/// Time that the last of them must have stayed unanswered before its path is suspected: as long as the peer may take. On
/// paths longer than 24 ms three quarters of a PTO are longer than that.
const SUSPECT_MIN: Duration = MAX_ACK_DELAY.saturating_add(SCHEDULING);
/// Time without a word before a path is called silent: that for each probe. Above 11 ms of round trip 2 PTO are longer.
const SILENCE_MIN: Duration = SUSPECT_MIN.saturating_mul(2);
/// Least room for variance (RFC 9002 §6.1.2, kGranularity).
const GRANULARITY: Duration = Duration::from_millis(1);

/// The longest probe timeout that a path gets by what it shows while it is used: whoever holds acknowledgements back can
/// make its round trips look as long as it likes, and a queue may really make them long. On paths that were long from the
/// start it is [`PTO_PER_RTT`] of the shortest round trips, which nobody makes longer afterwards.
const PTO_MAX: Duration = limits::STALL_MAX;
/// Shortest round trips of a path that it may have as its probe timeout in any case.
const PTO_PER_RTT: u32 = 2;
/// Probe timeouts in which something must have come of a lease.
const STALL_PTOS: u32 = 3;

/// Measure to take about a path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Wait,
    /// Make it answer.
    Probe,
    /// All probes should have been answered by now.
    Suspect,
    /// None was, for long enough to act on it.
    Silent,
}

/// Smoothed round-trip time and its variance over samples of a connection (RFC 9002 §5.3).
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: Duration,
    variance: Duration,
    /// The shortest sample.
    shortest: Duration,
}

/// The health of one path.
#[derive(Debug)]
pub(crate) struct Health {
    rtt: Option<Rtt>,
    heard: u64,
    last_heard: Instant,
    /// Time since which bytes are due, if they are.
    due_since: Option<Instant>,
    /// Times of the first and the last probe of this silence, and the number of them.
    first_probe: Option<Instant>,
    probes: u32,
    last_probe: Option<Instant>,
    /// One more went out in place of a verdict.
    put_off: bool,
    /// Since when the path is suspected of this silence.
    suspected: Option<Instant>,
}

impl Health {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            rtt: None,
            heard: 0,
            last_heard: now,
            due_since: None,
            first_probe: None,
            probes: 0,
            last_probe: None,
            put_off: false,
            suspected: None,
        }
    }

    /// Takes a connection's frame counter; returns whether it shows life since the last call.
    pub(crate) fn on_frames(&mut self, now: Instant, frames: u64) -> bool {
        if frames == self.heard {
            return false;
        }
        self.heard = frames;
        self.last_heard = now;
        self.forget_probes();
        true
    }

    /// Takes a round-trip sample.
    pub(crate) fn on_rtt(&mut self, sample: Duration) {
        let Some(rtt) = &mut self.rtt else {
            self.rtt = Some(Rtt { smoothed: sample, variance: sample / 2, shortest: sample });
            return;
        };
        let apart = rtt.smoothed.abs_diff(sample);
        rtt.variance = (rtt.variance * 3 + apart) / 4;
        rtt.smoothed = (rtt.smoothed * 7 + sample) / 8;
        rtt.shortest = rtt.shortest.min(sample);
    }

    /// Says whether the path owes bytes that it has credit for.
    pub(crate) fn on_due(&mut self, now: Instant, due: bool) {
        if due {
            self.due_since.get_or_insert(now);
        } else {
            self.due_since = None;
            self.forget_probes();
        }
    }

    fn forget_probes(&mut self) {
        self.first_probe = None;
        self.probes = 0;
        self.last_probe = None;
        self.put_off = false;
        self.suspected = None;
    }

    /// Smoothed round-trip time, or zero before the first sample.
    pub(crate) fn smoothed_rtt(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed)
    }

    /// Probe timeout: how long an answer may take (RFC 9002 §6.2.1, by KWIK's own estimate), within bounds.
    pub(crate) fn pto(&self) -> Duration {
        let (smoothed, variance) =
            self.rtt.map_or((Duration::ZERO, Duration::ZERO), |rtt| (rtt.smoothed, rtt.variance));
        let estimate = smoothed + (variance * 4).max(GRANULARITY) + MAX_ACK_DELAY;
        estimate.min(PTO_MAX.max(self.own_pto_max()))
    }

    /// Time in which something must come of a lease, by the path's round trips.
    pub(crate) fn stall(&self) -> Duration {
        (self.pto() * STALL_PTOS).min(limits::STALL_MAX.max(self.own_pto_max() * STALL_PTOS))
    }

    /// The longest probe timeout that the path can claim by its length.
    fn own_pto_max(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |rtt| rtt.shortest * PTO_PER_RTT)
    }

    /// Time to ask for a verdict next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due_since = self.due_since?;
        let pto = self.pto();
        Some(match (self.first_probe, self.last_probe) {
            (None, _) => self.last_heard.max(due_since) + pto / 2,
            (Some(first), None) => self.probe_at(first),
            (Some(_), Some(last)) => {
                let patience = (pto * 3 / 4).max(SUSPECT_MIN);
                self.suspected.map_or(last + patience, |since| {
                    // Two PTO after the last sign of life, but never before `SILENCE_MIN`; and a probe that went out
                    // in place of this verdict has its time as well.
                    let rest = (pto * 2).max(SILENCE_MIN).saturating_sub(pto * 3 / 4 + patience);
                    (since + rest).max(last + patience)
                })
            }
        })
    }

    /// Time of the next probe after the first.
    fn probe_at(&self, first: Instant) -> Instant {
        first + self.pto() * self.probes / (4 * (PROBES - 1))
    }

    /// Decides, and remembers that it did.
    pub(crate) fn verdict(&mut self, now: Instant) -> Verdict {
        let Some(deadline) = self.deadline().filter(|&deadline| deadline <= now) else {
            return Verdict::Wait;
        };
        if self.last_probe.is_none() {
            let first = *self.first_probe.get_or_insert(now);
            // Late, one will do for all that are due.
            while self.probes < PROBES && self.probe_at(first) <= now {
                self.probes += 1;
            }
            self.last_probe = (self.probes == PROBES).then_some(now);
            return Verdict::Probe;
        }
        // Whoever did not get its own turn in time cannot say that the server has had one. Once, or nobody would ever be
        // judged on a machine that is always late.
        if now.saturating_duration_since(deadline) > SCHEDULING && !self.put_off {
            self.put_off = true;
            self.last_probe = Some(now);
            return Verdict::Probe;
        }
        if self.suspected.is_none() {
            self.suspected = Some(now);
            return Verdict::Suspect;
        }
        self.on_due(now, false);
        Verdict::Silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn health(start: Instant) -> Health {
        let mut health = Health::new(start);
        for _ in 0..32 {
            health.on_rtt(RTT);
        }
        health
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn nothing_is_asked_while_nothing_is_due() {
        let start = epoch();
        let mut health = health(start);
        assert_eq!(health.deadline(), None);
        assert_eq!(health.verdict(start + Duration::from_secs(3600)), Verdict::Wait);
    }

    #[test]
    fn probes_then_suspicion_then_silence() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        assert!(pto >= RTT + MAX_ACK_DELAY && pto < RTT + MAX_ACK_DELAY + Duration::from_millis(3));
        health.on_due(start, true);
        assert_eq!(health.verdict(start + pto / 2), Verdict::Probe);
        assert_eq!(health.verdict(start + pto / 2), Verdict::Wait);
        assert_eq!(health.verdict(start + pto * 3 / 4), Verdict::Probe);
        assert_eq!(health.verdict(start + pto * 3 / 2 - GRANULARITY), Verdict::Wait);
        assert_eq!(health.verdict(start + pto * 3 / 2), Verdict::Suspect);
        assert_eq!(health.verdict(start + pto * 2 - GRANULARITY), Verdict::Wait);
        assert_eq!(health.verdict(start + pto * 2), Verdict::Silent);
    }

    #[test]
    fn a_probe_that_is_late_stands_for_those_that_are_due_with_it() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        health.on_due(start, true);
        let first = start + pto / 2;
        assert_eq!(health.verdict(first), Verdict::Probe);
        let late = first + pto * 3 / 16;
        assert_eq!(health.verdict(late), Verdict::Probe);
        assert_eq!(health.deadline(), Some(first + pto / 4));
        assert_eq!(health.verdict(late), Verdict::Wait);
    }

    #[test]
    fn a_verdict_that_comes_late_is_put_off_once() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        health.on_due(start, true);
        assert_eq!(health.verdict(start + pto / 2), Verdict::Probe);
        assert_eq!(health.verdict(start + pto), Verdict::Probe);
        let late = start + pto * 7 / 4 + SCHEDULING + Duration::from_nanos(1);
        assert_eq!(health.verdict(late), Verdict::Probe);
        assert_eq!(health.verdict(late + pto * 3 / 4 - GRANULARITY), Verdict::Wait);
        let later = late + pto + Duration::from_secs(1);
        assert_eq!(health.verdict(later), Verdict::Suspect);
        assert_eq!(health.verdict(later), Verdict::Wait, "who was suspected late has its time all the same");
        assert_eq!(health.verdict(later + pto / 2), Verdict::Silent);
    }

    #[test]
    fn a_verdict_may_be_as_late_as_a_system_may_make_it() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        health.on_due(start, true);
        assert_eq!(health.verdict(start + pto / 2), Verdict::Probe);
        assert_eq!(health.verdict(start + pto), Verdict::Probe);
        let late = start + pto * 7 / 4 + SCHEDULING;
        assert_eq!(health.verdict(late), Verdict::Suspect);
        assert_eq!(health.verdict(health.deadline().unwrap() + SCHEDULING), Verdict::Silent);
    }

    #[test]
    fn a_late_verdict_on_a_suspect_is_put_off_as_well() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        health.on_due(start, true);
        assert_eq!(health.verdict(start + pto / 2), Verdict::Probe);
        assert_eq!(health.verdict(start + pto * 3 / 4), Verdict::Probe);
        assert_eq!(health.verdict(start + pto * 3 / 2), Verdict::Suspect);
        let late = start + pto * 3;
        assert_eq!(health.verdict(late), Verdict::Probe);
        assert_eq!(health.deadline(), Some(late + pto * 3 / 4));
        assert_eq!(health.verdict(late + pto * 3 / 4), Verdict::Silent);
    }

    /// The bounds of failover with a replacement one round trip to the primary and one to the other server away: all
    /// deaths within 3 PTO + 4 RTT; within PTO + 4 RTT + 25 ms but for paths shorter than 8 ms, where that would be
    /// less than a stalled server needs.
    #[test]
    fn a_server_that_waited_for_a_core_is_not_silent() {
        for rtt in [0, 100, 500, 1000, 5000, 8000, 12_000, 20_000, 40_000, 200_000].map(Duration::from_micros)
        {
            let start = epoch();
            let mut health = Health::new(start);
            (0..64).for_each(|_| health.on_rtt(rtt));
            health.on_due(start, true);
            let (mut probes, mut suspect) = (Vec::new(), Duration::ZERO);
            let silent = loop {
                let at = health.deadline().unwrap();
                match health.verdict(at) {
                    Verdict::Probe => probes.push(at - start),
                    Verdict::Suspect => suspect = at - start,
                    Verdict::Silent => break at - start,
                    Verdict::Wait => unreachable!("asked at the deadline"),
                }
            };
            let pto = health.pto();
            assert_eq!(probes, [0, 1, 2, 3, 4].map(|nth| pto / 2 + pto * nth / 16));
            assert!(suspect >= probes[4] + SUSPECT_MIN && suspect < silent);
            // Filled by the primary: one trip to tell it, one for its bytes.
            let first_byte = suspect + rtt;
            assert!(rtt < Duration::from_millis(8) || first_byte <= pto + rtt * 2 + MAX_ACK_DELAY);
            assert!(
                silent >= Duration::from_millis(74) && silent >= pto * 2 - GRANULARITY,
                "{rtt:?}: {silent:?}"
            );
            assert!(silent + rtt * 2 <= pto * 3 + rtt * 4, "{rtt:?}: {silent:?}");
            let p99 = pto + rtt * 4 + MAX_ACK_DELAY;
            assert!(rtt < Duration::from_millis(8) || silent + rtt * 2 <= p99, "{rtt:?}: {silent:?}");
        }
    }

    #[test]
    fn any_frame_starts_it_all_over() {
        let start = epoch();
        let mut health = health(start);
        let pto = health.pto();
        health.on_due(start, true);
        assert_eq!(health.verdict(start + pto), Verdict::Probe);
        assert_eq!(health.verdict(start + pto * 2), Verdict::Probe);
        assert_eq!(health.verdict(start + pto * 3), Verdict::Probe, "late");
        assert_eq!(health.verdict(start + pto * 4), Verdict::Suspect);
        assert!(health.on_frames(start + pto * 4, 1));
        assert!(!health.on_frames(start + pto * 4, 1));
        assert_eq!(health.verdict(start + pto * 4 + pto / 4), Verdict::Wait);
        assert_eq!(health.deadline(), Some(start + pto * 4 + pto / 2));
    }

    /// Spec: RFC 9002 §5.3, §6.2.1.
    #[test]
    fn the_probe_timeout_is_that_of_quic() {
        let mut health = Health::new(epoch());
        assert_eq!(health.smoothed_rtt(), Duration::ZERO);
        // The smoothed round trip and its variance, in microseconds.
        for (sample, smoothed, variance) in
            [(80, 80_000, 40_000), (80, 80_000, 30_000), (40, 75_000, 32_500), (115, 80_000, 34_375)]
        {
            health.on_rtt(Duration::from_millis(sample));
            let [smoothed, variance] = [smoothed, variance].map(Duration::from_micros);
            assert_eq!(health.smoothed_rtt(), smoothed);
            assert_eq!(health.pto(), smoothed + variance * 4 + MAX_ACK_DELAY);
        }
    }

    /// Spec: PROTOCOL §8.
    #[test]
    fn round_trips_that_grow_buy_little_time() {
        let (long, very_long) = (Duration::from_secs(3), Duration::from_secs(30));
        let mut health = health(epoch());
        let before = (health.pto(), health.stall());
        assert_eq!(before.1, before.0 * 3, "as long as it is short, it is what it is");
        for sample in [long, very_long] {
            (0..64).for_each(|_| health.on_rtt(sample));
            assert_eq!((health.pto(), health.stall()), (PTO_MAX, limits::STALL_MAX));
        }
        // A path that is long from the start may be.
        let mut health = Health::new(epoch());
        (0..64).for_each(|_| health.on_rtt(long));
        assert!(health.pto() > long && health.pto() < long * 2);
        assert_eq!(health.stall(), health.pto() * 3);
        (0..64).for_each(|_| health.on_rtt(very_long));
        assert_eq!((health.pto(), health.stall()), (long * 2, long * 6));
    }

    /// A client that slept through every deadline still asks twice before it judges.
    #[test]
    fn own_sleep_is_not_the_servers_silence() {
        let start = epoch();
        let mut health = health(start);
        health.on_due(start, true);
        let late = start + Duration::from_secs(60);
        assert_eq!(health.verdict(late), Verdict::Probe);
        assert_eq!(health.verdict(late), Verdict::Wait);
        assert_eq!(health.verdict(late + health.pto()), Verdict::Probe);
        assert_eq!(health.verdict(late + health.pto()), Verdict::Wait);
    }
}
