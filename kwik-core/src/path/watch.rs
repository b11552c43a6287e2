//! Instants at which a client asks its primary for a sign of life. Spec: PROTOCOL §8.6.
//!
//! Who only reads has nothing to send while nothing comes. If its address changes meanwhile, as behind a translator that
//! forgets, its server sends to the old one and learns of the new one only from what it gets from there. So while
//! something is open that the server may send for, a quiet path is asked, and QUIC repeats the question until it is
//! answered. Each question in vain doubles the time to the next, up to a third of the idle timeout: a stall is at most
//! about as long as the quiet before it, and a server that takes its time costs a question for each doubling of that.

use std::time::{Duration, Instant};

/// The quiet after which a path is asked, on paths shorter than half of it: servers that read from a disk
/// pause for less, as a rule.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// Quiet on the path to the primary.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Instant at which something was heard last, or asked, or the wait began.
    since: Instant,
    /// The quiet that is borne from then on.
    patience: Duration,
    /// Nothing but answers has come since it was asked.
    asked: bool,
    /// There is something that the peer may send for.
    waits: bool,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, patience: PATIENCE_MIN, asked: false, waits: false }
    }

    /// Something was heard; `news` says that it was more than an acknowledgement.
    ///
    /// Packets that come unasked shorten the patience by an eighth: a stream of messages with pauses between them is asked now
    /// and then and not in each pause, one that flows again is watched closely after some trains of packets.
    pub(crate) fn on_heard(&mut self, now: Instant, news: bool, rtt: Duration) {
        self.since = now;
        let shortest = PATIENCE_MIN.max(rtt * 2); // a window that is slow to open has pauses of a whole round trip
        if news && !std::mem::take(&mut self.asked) {
            self.patience = self.patience * 7 / 8;
        }
        self.patience = self.patience.max(shortest);
    }

    /// Says whether there is something that the peer may send for.
    pub(crate) fn on_waits(&mut self, now: Instant, waits: bool) {
        if waits && !self.waits {
            self.since = self.since.max(now);
        }
        self.waits = waits;
    }

    /// The path may be another one from now on: nothing that was learnt of it counts.
    pub(crate) fn on_change(&mut self, now: Instant) {
        *self = Self { waits: self.waits, ..Self::new(now) };
    }

    /// Instant at which to ask, if nothing is heard before: after `patience_max` at the latest.
    pub(crate) fn deadline(&self, patience_max: Duration) -> Option<Instant> {
        self.waits.then(|| self.since + self.patience.min(patience_max))
    }

    /// The path is asked.
    pub(crate) fn on_asked(&mut self, now: Instant, patience_max: Duration) {
        self.since = now;
        self.patience = (self.patience * 2).min(patience_max);
        self.asked = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);
    const RTT: Duration = Duration::from_millis(40);

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn watch(start: Instant) -> Watch {
        let mut watch = Watch::new(start);
        watch.on_waits(start, true);
        watch
    }

    /// Asks and answers until `end`; returns how often.
    fn ask_until(watch: &mut Watch, end: Instant) -> u32 {
        let mut asked = 0;
        while let Some(at) = watch.deadline(MAX).filter(|&at| at <= end) {
            watch.on_asked(at, MAX);
            watch.on_heard(at + RTT, false, RTT);
            asked += 1;
        }
        asked
    }

    /// Whoever has done nothing for an hour asks no sooner than others once it opens something, and nothing before.
    #[test]
    fn an_idle_session_is_silent() {
        let start = epoch();
        let mut watch = Watch::new(start);
        assert_eq!(watch.deadline(MAX), None);
        let later = start + Duration::from_secs(3600);
        watch.on_waits(later, true);
        assert_eq!(watch.deadline(MAX), Some(later + PATIENCE_MIN));
        watch.on_waits(later, false);
        assert_eq!(watch.deadline(MAX), None);
    }

    #[test]
    fn a_long_wait_is_asked_for_each_doubling_and_then_at_the_pace_of_keep_alives() {
        let start = epoch();
        let mut watch = watch(start);
        assert_eq!(ask_until(&mut watch, start + MAX), 6);
        let day = Duration::from_secs(86_400);
        assert!(ask_until(&mut watch, start + MAX + day) <= 8640);
    }

    #[test]
    fn what_flows_again_is_watched_closely_again() {
        let start = epoch();
        let mut watch = watch(start);
        ask_until(&mut watch, start + MAX);
        let mut now = start + MAX;
        for _ in 0..40 {
            now += Duration::from_millis(10);
            watch.on_heard(now, true, RTT);
        }
        assert_eq!(watch.deadline(MAX), Some(now + PATIENCE_MIN));
        watch.on_heard(now, true, PATIENCE_MIN);
        assert_eq!(watch.deadline(MAX), Some(now + PATIENCE_MIN * 2), "a long path has long pauses");
    }

    /// A word that is heard after a question may be the answer to it, and a mere acknowledgement says nothing of a peer's plans.
    #[test]
    fn answers_buy_no_closer_watch() {
        let start = epoch();
        let mut watch = watch(start);
        ask_until(&mut watch, start + MAX);
        let patience = |watch: &Watch, now| watch.deadline(MAX).unwrap() - now;
        let mut now = start + MAX;
        watch.on_asked(now, MAX);
        watch.on_heard(now, true, RTT);
        let long = patience(&watch, now);
        assert!(long > Duration::from_secs(6));
        for _ in 0..20 {
            now += RTT;
            watch.on_heard(now, false, RTT);
        }
        assert_eq!(patience(&watch, now), long);
        watch.on_heard(now, true, RTT);
        assert_eq!(patience(&watch, now), long * 7 / 8, "unasked");
    }

    #[test]
    fn nothing_is_known_of_another_path() {
        let start = epoch();
        for waits in [true, false] {
            let mut watch = watch(start);
            ask_until(&mut watch, start + MAX);
            let now = start + MAX * 2;
            watch.on_waits(now, waits);
            watch.on_change(now);
            assert_eq!(watch.deadline(MAX), waits.then(|| now + PATIENCE_MIN));
        }
    }

    #[test]
    fn messages_with_pauses_between_them_are_not_doubled_by_questions() {
        for pause in [1, 2, 5, 15].map(Duration::from_secs) {
            let mut now = epoch();
            let mut watch = watch(now);
            ask_until(&mut watch, now + MAX);
            let asked: u32 = (0..100)
                .map(|_| {
                    now += pause;
                    let asked = ask_until(&mut watch, now);
                    watch.on_heard(now, true, RTT);
                    asked
                })
                .sum();
            let keep_alives = u32::try_from(pause.as_millis() * 100 / MAX.as_millis()).unwrap();
            assert!(asked <= 40 + keep_alives, "{pause:?}: {asked}");
        }
    }
}
