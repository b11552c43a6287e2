//! One path: measures it, and judges how much it may be trusted with.
//!
//! Knows instants, bytes and the names of pieces; never a range's place in the object beyond their order.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    decision::PieceId,
    limits::{
        LATENCY_GUESS, OWED_MAX, PATIENCE_MAX, PATIENCE_MIN, PIECE_MAX, PIECE_MIN, PIECE_TIME, PIECE_TRIPS,
        PIECES_PER_PATH, QUEUE_TIME, QUEUE_TRIPS, RATE_GUESS, REST_FIRST, REST_MAX, SAMPLE_MIN, SCORE_MAX,
        START_BYTES, START_OWED, START_TRIPS, bytes_in, scale,
    },
    report::PathReport,
};
use crate::id::PathId;

/// The times in which a measured rate rises to what the last samples show, and falls to it.
const RISE: Duration = Duration::from_millis(50);
const FALL: Duration = Duration::from_millis(150);

/// Measures how fast bytes come, from bytes and instants alone.
///
/// A time without bytes counts as one, so that a stall shows before anything has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    rate: Option<u64>,
    /// The instant from which bytes are counted, and their number. Nothing is counted while none are due.
    since: Option<(Instant, u64)>,
    /// The same of times before, too short to tell a rate, after each of which nothing was due: a fast path runs dry often.
    before: (Duration, u64),
    /// The last news, or when the first is due.
    last: Option<Instant>,
    /// The usual time between news; fades.
    pause: Duration,
    /// The highest rate that was measured, and the instant since which nothing has been due.
    best: u64,
    rested: Option<Instant>,
}

impl Meter {
    /// Bytes are due from `at` on.
    pub(super) fn begin(&mut self, at: Instant) {
        self.since = Some((at, 0));
        self.last = Some(at);
        self.rested = None;
    }

    /// Nothing is due any more.
    pub(super) fn rest(&mut self) {
        if let (Some((since, counted)), Some(last)) = (self.since, self.last) {
            self.before.0 = self.before.0.saturating_add(last.saturating_duration_since(since));
            self.before.1 = self.before.1.saturating_add(counted);
        }
        (self.since, self.last) = (None, None);
    }

    /// Nothing is due from `now` on.
    pub(super) fn rest_from(&mut self, now: Instant) {
        self.rest();
        self.rested = Some(now);
    }

    /// Counts bytes. Returns for how long they stayed away beyond what was to be expected.
    pub(super) fn on_bytes(&mut self, now: Instant, bytes: u64) -> Duration {
        let quiet = self.quiet(now);
        let late = if quiet > self.patience() { quiet } else { Duration::ZERO };
        self.pause = quiet.min(PATIENCE_MAX).max(self.pause * 7 / 8);
        self.last = Some(now);
        let Some((since, counted)) = self.since else {
            return late;
        };
        if now < since {
            // Sooner than was thought: what came so far took nobody knows how long.
            self.since = Some((now, 0));
            return late;
        }
        let counted = counted.saturating_add(bytes);
        if self.before.0.saturating_add(now - since) < SAMPLE_MIN {
            self.since = Some((since, counted));
            return late;
        }
        let (time, more) = std::mem::take(&mut self.before);
        let (elapsed, counted) = (time.saturating_add(now - since), counted.saturating_add(more));
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let sample = scale(counted, 1_000_000_000, nanos);
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) => {
                let inert = if sample > rate { RISE } else { FALL };
                let weight = |change| {
                    let whole = u64::try_from((elapsed + inert).as_nanos()).unwrap_or(u64::MAX);
                    scale(change, nanos, whole)
                };
                if sample > rate { rate + weight(sample - rate) } else { rate - weight(rate - sample) }
            }
        });
        self.best = self.best.max(self.rate.unwrap_or_default());
        self.since = Some((now, 0));
        late
    }

    /// Believes a rate that somebody else has measured.
    pub(super) fn set(&mut self, rate: u64) {
        self.rate = Some(rate);
    }

    /// Bytes per second, as far as they were measured.
    pub(super) const fn measured(&self) -> Option<u64> {
        self.rate
    }

    /// Bytes per second as they must be thought of now: less, the longer nothing comes.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let rate = self.rate.unwrap_or(RATE_GUESS);
        let (quiet, patience) = (self.quiet(now), self.patience());
        if let Some(rested) = self.rested.filter(|_| rate < self.best) {
            // It was slow when it was last asked. To find out whether it still is it has to be asked again some time.
            let seconds = now.saturating_duration_since(rested).as_secs().min(30);
            return rate.saturating_mul(1 << seconds).min(self.best);
        }
        if quiet <= patience {
            return rate;
        }
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        scale(rate, micros(patience), micros(quiet))
    }

    /// Returns the time for which nothing has come, though it was due.
    fn quiet(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    fn patience(&self) -> Duration {
        (self.pause * 2).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

/// The right of a path to be given anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Usable,
    /// It may come back.
    Silent,
    /// It will not, or gets nothing any more.
    Gone,
}

/// One path, or the primary's own writer.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) price: u64,
    pub(super) standing: Standing,
    pub(super) meter: Meter,
    rtt: Option<Duration>,
    /// Between a piece given to an idle path and its first bytes.
    lead: Option<Duration>,
    /// The instant of its first bytes.
    began: Option<Instant>,
    /// Length of its next piece.
    piece_len: u64,
    /// Pieces that it may have while it is under suspicion: doubles with each that is done.
    quota: usize,
    /// A sum of faults that are held against it.
    score: u32,
    pub(super) resting_until: Option<Instant>,
    rest: Duration,
    /// Its pieces in the order in which it works on them.
    pub(super) queue: BTreeSet<(u64, PieceId)>,
    /// Bytes of these that have not come.
    pub(super) owed: u64,
    /// Bytes of these that were asked back.
    pub(super) leaving: u64,
    /// Pieces of which it was said to bring nothing at the moment.
    pub(super) stalled: usize,
    /// Bytes asked back of others for it.
    pub(super) incoming: u64,
    pub(super) report: PathReport,
}

impl Path {
    pub(super) fn new(id: PathId, price: u64) -> Self {
        Self {
            id,
            price,
            standing: Standing::Usable,
            meter: Meter::default(),
            rtt: None,
            lead: None,
            began: None,
            piece_len: PIECE_MIN,
            quota: usize::MAX,
            score: 0,
            resting_until: None,
            rest: REST_FIRST,
            queue: BTreeSet::new(),
            owed: 0,
            leaving: 0,
            stalled: 0,
            incoming: 0,
            report: PathReport::default(),
        }
    }

    /// Tells whether it may be given something now.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.standing == Standing::Usable && self.resting_until.is_none_or(|until| until <= now)
    }

    /// Tells whether it has to show itself.
    pub(super) const fn is_suspect(&self) -> bool {
        self.quota < PIECES_PER_PATH || self.score > 0
    }

    /// Tells whether QUIC may still be finding out how fast it is, so that it will be faster than it was.
    pub(super) fn is_starting(&self, now: Instant) -> bool {
        let trips = self.rtt.unwrap_or(LATENCY_GUESS) * START_TRIPS;
        self.began.is_none_or(|began| now.saturating_duration_since(began) < trips)
    }

    /// Returns the time that usually passes between a decision and its first byte.
    pub(super) fn latency(&self) -> Duration {
        // A lease goes by way of the client.
        let trips = if self.id == PathId::PRIMARY { 1 } else { 2 };
        let asked = self.rtt.map(|rtt| rtt * trips);
        self.lead.or(asked).unwrap_or(LATENCY_GUESS)
    }

    pub(super) const fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Returns the length that a piece should have for it now, in bytes.
    pub(super) fn piece_len(&self, now: Instant) -> u64 {
        let time = PIECE_TIME.max(self.latency() / PIECE_TRIPS);
        // The rate that is hoped for after a rest counts once the path has shown it.
        let rate = self.meter.rate(now).min(self.meter.measured().unwrap_or(u64::MAX));
        let most = bytes_in(time, rate).clamp(PIECE_MIN, PIECE_MAX);
        self.piece_len.min(most)
    }

    /// Tells whether it has less to do than it should, where its pieces are at most `most` bytes long. While nobody knows
    /// yet how fast it is it may have `start` bytes, if that is more.
    pub(super) fn has_room(&self, now: Instant, most: u64, start: u64) -> bool {
        let time = QUEUE_TIME + self.latency() * QUEUE_TRIPS;
        let least = self.piece_len(now).min(most) * if self.is_suspect() { 1 } else { 2 };
        let least = least.max(PIECE_MIN);
        let target = bytes_in(time, self.meter.rate(now)).clamp(least, OWED_MAX);
        let target = if self.meter.measured().is_none() { target.min(4 * PIECE_MIN) } else { target };
        let begins = self.report.bytes < START_BYTES && !self.is_suspect();
        let target = if begins { target.max(start.min(START_OWED)) } else { target };
        self.owed < target && self.queue.len() < self.quota.min(PIECES_PER_PATH)
    }

    /// It was given a piece of `len` bytes.
    pub(super) fn on_given(&mut self, now: Instant, at: u64, id: PieceId, len: u64) {
        if self.queue.is_empty() {
            self.meter.begin(now + self.latency());
        }
        self.queue.insert((at, id));
        self.owed = self.owed.saturating_add(len);
    }

    /// Bytes came; the first of a piece that was `given` when nothing else was to do, if that is known.
    pub(super) fn on_bytes(&mut self, now: Instant, bytes: u64, given: Option<Instant>) {
        // The primary's own bytes are told when all of a piece has come.
        if let Some(given) = given.filter(|_| self.id != PathId::PRIMARY) {
            let lead = now.saturating_duration_since(given).min(2 * LATENCY_GUESS * QUEUE_TRIPS);
            self.lead = Some(self.lead.map_or(lead, |known| (known * 3 + lead) / 4));
        }
        self.began.get_or_insert(now);
        self.report.stalled += self.meter.on_bytes(now, bytes);
        self.report.bytes = self.report.bytes.saturating_add(bytes);
        self.owed = self.owed.saturating_sub(bytes);
    }

    /// A piece is over, of which `left` bytes have not come.
    pub(super) fn on_ended(&mut self, now: Instant, at: u64, id: PieceId, left: u64) {
        self.queue.remove(&(at, id));
        self.owed = self.owed.saturating_sub(left);
        if self.queue.is_empty() {
            self.note_stall(now);
            self.meter.rest_from(now);
        }
    }

    /// Every byte of a piece came: it may have more, and longer ones.
    pub(super) fn on_done(&mut self, now: Instant) {
        self.report.done += 1;
        self.score = self.score.saturating_sub(1);
        self.quota = self.quota.saturating_mul(2);
        self.rest = REST_FIRST;
        self.piece_len = (self.piece_len(now) * 2).min(PIECE_MAX);
    }

    /// A piece was lost through its fault. It rests, and has to show itself again.
    pub(super) fn on_fault(&mut self, now: Instant, weight: u32) {
        self.suspect();
        self.rest_for(now, self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
        self.score = self.score.saturating_add(weight);
        if self.score >= SCORE_MAX {
            self.standing = Standing::Gone;
        }
    }

    /// It gets little until it has shown itself.
    pub(super) fn suspect(&mut self) {
        self.quota = 1;
        self.piece_len = PIECE_MIN;
    }

    /// It gets nothing for a while.
    pub(super) fn rest_for(&mut self, now: Instant, time: Duration) {
        self.resting_until = self.resting_until.max(Some(now + time));
    }

    /// It does not answer.
    pub(super) fn on_silent(&mut self) {
        if self.standing == Standing::Usable {
            self.standing = Standing::Silent;
        }
    }

    pub(super) fn on_answers(&mut self) {
        if self.standing == Standing::Silent {
            self.standing = Standing::Usable;
            self.resting_until = None;
            if self.report.done + self.report.lost > 0 || !self.queue.is_empty() {
                self.suspect(); // it is not new
            }
        }
    }

    /// Counts the time since the last bytes as lost, if it is long.
    fn note_stall(&mut self, now: Instant) {
        let quiet = self.meter.quiet(now);
        if quiet > self.meter.patience() {
            self.report.stalled += quiet;
        }
    }
}
