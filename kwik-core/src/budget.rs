//! A token bucket: the one way in which this crate says how often something may happen.

use std::time::{Duration, Instant};

const NANOS: u64 = 1_000_000_000;

/// Tokens that refill at a rate up to a burst, can be earned besides, and may be owed.
///
/// It keeps what has grown of a token, exactly: however often it is asked, a rate of 16 a minute is 16 a minute.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Below zero: owed.
    left: i64,
    /// Part of the next token that had grown when it was last refilled, in nanoseconds times the rate's tokens.
    part: u64,
    refilled: Instant,
    rate: Rate,
    burst: u64,
}

/// Tokens per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    tokens: u64,
    /// Nanoseconds, not zero.
    per: u64,
}

impl Rate {
    pub(crate) const fn per_second(tokens: u64) -> Self {
        Self { tokens, per: NANOS }
    }

    pub(crate) const fn per_minute(tokens: u64) -> Self {
        Self { tokens, per: 60 * NANOS }
    }

    /// The growth of one token, in nanoseconds times the rate's tokens.
    fn whole(self) -> u128 {
        self.per.into()
    }

    /// The growth in `time`, in the same unit.
    fn growth(self, time: Duration) -> u128 {
        time.as_nanos().saturating_mul(self.tokens.into())
    }

    /// The time of so much growth, rounded up.
    fn time_for(self, growth: u128) -> Duration {
        let nanos = growth.div_ceil(u128::from(self.tokens.max(1)));
        let (secs, nanos) = (nanos / u128::from(NANOS), nanos % u128::from(NANOS));
        Duration::new(u64::try_from(secs).unwrap_or(u64::MAX), u32::try_from(nanos).unwrap_or_default())
    }
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant, rate: Rate, burst: u64) -> Self {
        Self { left: signed(burst), part: 0, refilled: now, rate, burst }
    }

    /// Takes `tokens`, or says when there will be as many; more than a burst never.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> Result<(), Instant> {
        self.ready(now, tokens)?;
        self.spend(tokens);
        Ok(())
    }

    /// Says when there will be `tokens`, if there are not.
    pub(crate) fn ready(&mut self, now: Instant, tokens: u64) -> Result<(), Instant> {
        self.refill(now);
        match u128::try_from(i128::from(tokens) - i128::from(self.left)) {
            Err(_) | Ok(0) => Ok(()),
            Ok(short) => {
                let wait = self
                    .rate
                    .time_for(self.rate.whole().saturating_mul(short).saturating_sub(self.part.into()));
                Err(self.refilled.checked_add(wait).unwrap_or(self.refilled))
            }
        }
    }

    /// Takes `tokens` whether they are there or not.
    pub(crate) fn spend(&mut self, tokens: u64) {
        self.left = self.left.saturating_sub(signed(tokens));
    }

    /// Adds tokens; what goes beyond a burst is lost.
    pub(crate) fn earn(&mut self, tokens: u64) {
        self.left = self.left.saturating_add(signed(tokens)).min(signed(self.burst));
    }

    /// Tokens that it is short of a burst, as far as it has been refilled.
    pub(crate) fn spent(&self) -> u64 {
        u64::try_from(signed(self.burst).saturating_sub(self.left)).unwrap_or_default()
    }

    fn refill(&mut self, now: Instant) {
        let grown =
            self.rate.growth(now.saturating_duration_since(self.refilled)).saturating_add(self.part.into());
        self.refilled = self.refilled.max(now);
        self.left = self.left.saturating_add(i64::try_from(grown / self.rate.whole()).unwrap_or(i64::MAX));
        self.part = u64::try_from(grown % self.rate.whole()).unwrap_or_default();
        if self.left >= signed(self.burst) {
            (self.left, self.part) = (signed(self.burst), 0);
        }
    }
}

/// More tokens than fit are as many as nobody ever has.
fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, Rate::per_second(10), 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(start, 1), Ok(()));
        }
        let at = bucket.take(start, 1).unwrap_err();
        assert_eq!(at, start + Duration::from_millis(100));
        assert_eq!(bucket.take(at, 1), Ok(()));
        let later = at + Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 3), Ok(()));
        assert!(bucket.take(later, 1).is_err(), "no more than a burst piles up");
    }

    /// Sixteen a minute were once eight: whoever asked every 7 s lost what had grown beyond one.
    #[test]
    fn asking_often_loses_no_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, Rate::per_minute(16), 16);
        bucket.spend(16);
        let taken =
            (1..=600_u32).filter(|tenth| bucket.take(start + Duration::from_millis(100) * *tenth, 1).is_ok());
        assert_eq!(taken.count(), 16);
        bucket.spend(16);
        let taken = (1..=60_u32).filter(|step| {
            bucket.take(start + Duration::from_secs(60) + Duration::from_secs(7) * *step, 1).is_ok()
        });
        assert!(taken.count() >= 58 - 8, "{bucket:?}");
    }

    #[test]
    fn what_is_owed_is_paid_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, Rate::per_second(10), 5);
        bucket.spend(25);
        assert_eq!(bucket.ready(start, 1), Err(start + Duration::from_millis(2_100)));
        bucket.earn(20);
        assert_eq!(bucket.ready(start, 1), Err(start + Duration::from_millis(100)));
        bucket.earn(100);
        assert_eq!(bucket.take(start, 5), Ok(()), "what is earned is there at once");
        assert!(bucket.take(start, 1).is_err(), "and no more of it than a burst");
    }

    #[test]
    fn a_promised_time_is_neither_early_nor_late() {
        let start = Instant::now();
        let rate = Rate::per_second(1024 * 1024);
        let mut bucket = Bucket::new(start, rate, 1024 * 1024);
        bucket.spend(1024 * 1024);
        let odd = Duration::from_nanos(333);
        for asked in 1..100 {
            assert!(bucket.ready(start + odd * asked, 65_536).is_err(), "asking often changes nothing");
        }
        let at = bucket.take(start + odd * 100, 65_536).unwrap_err();
        let (each, about) = (Duration::from_secs(1) / 16, Duration::from_micros(1));
        assert!(at + about >= start + each && at < start + each + about);
        assert_eq!(bucket.take(at, 65_536), Ok(()));
    }

    /// A token's time that is no whole number of nanoseconds was once rounded down at each call: whoever asked often got more.
    ///
    /// Every sequence of five calls out of twelve, for slow and fast rates and no, small and larger bursts: no more is ever
    /// taken than a burst, what was earned and what has grown, and a promised time is the first at which it holds.
    #[test]
    fn no_sequence_of_calls_takes_more_than_there_is() {
        let start = Instant::now();
        let nanos = Duration::from_nanos;
        for (tokens, per, burst) in [(1, 3, 2), (2, 3, 3), (3, 2, 1), (1, 1, 0)] {
            let rate = Rate { tokens, per };
            for sequence in 0..12_u32.pow(5) {
                let mut bucket = Bucket::new(start, rate, burst);
                let (mut now, mut taken, mut earned) = (start, 0, 0);
                for step in 0..5 {
                    let call = sequence / 12_u32.pow(step) % 12;
                    now += nanos(u64::from(call % 3));
                    match call / 3 {
                        0 => bucket.spend(1),
                        1 => bucket.earn(1),
                        wanted => match bucket.take(now, u64::from(wanted) - 1) {
                            Ok(()) => taken += u64::from(wanted) - 1,
                            Err(at) => check_promise(&mut bucket, now, at, u64::from(wanted) - 1),
                        },
                    }
                    (taken, earned) = (taken + u64::from(call / 3 == 0), earned + u64::from(call / 3 == 1));
                    let grown = tokens * u64::try_from((now - start).as_nanos()).unwrap() / per;
                    let owed = i64::try_from(taken).unwrap() - i64::try_from(burst + earned + grown).unwrap();
                    assert!(bucket.left <= signed(burst));
                    assert!(bucket.left <= -owed, "{bucket:?} after {sequence}");
                }
            }
        }
    }

    /// At the promised time there is enough, and a nanosecond before it there is not.
    fn check_promise(bucket: &mut Bucket, now: Instant, at: Instant, wanted: u64) {
        assert!(at > now);
        let before = (bucket.left, bucket.part, bucket.refilled);
        if wanted <= bucket.burst {
            assert_eq!(bucket.ready(at, wanted), Ok(()), "not late");
            (bucket.left, bucket.part, bucket.refilled) = before;
        }
        assert!(bucket.ready(at - Duration::from_nanos(1), wanted).is_err(), "not early");
        (bucket.left, bucket.part, bucket.refilled) = before;
    }
}
