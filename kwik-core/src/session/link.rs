//! One path as `Session` holds it: a QUIC connection, its control stream, and the headers of streams just opened.
//!
//! Moves frames and bytes; decides nothing. Control is written before anything else and never starves. Spec: KWIK §4.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::relays::Relays;
use crate::{
    error::{ErrorCode, FrameError},
    id::{Dir, StreamId},
    limits,
    quic::{Connection, ReadEnd, WriteEnd},
    wire::{Decoder, Frame, HeaderDecoder, StreamHeader, encode},
};

/// A connection heard within this time is not idle, whatever it has agreed on with its peer: half the shortest idle
/// timeout there is.
const QUIET: Duration = Duration::from_millis(500);

/// One path.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) quic: Connection,
    decoder: Decoder,
    /// Encoded frames that QUIC has not taken.
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    budget: FrameBudget,
    /// Unidirectional streams of the peer whose header is incomplete.
    headers: BTreeMap<StreamId, HeaderDecoder>,
    /// The control stream is open: others may follow.
    pub(super) control_open: bool,
    /// Control has arrived that was not looked at.
    pub(super) control_ready: bool,
    /// Frames are left unread until the budget allows them.
    pub(super) control_paused: bool,
    /// Internal streams with bytes to read.
    pub(super) readable: SmallVec<[StreamId; 8]>,
    pub(super) frames_heard: u64,
    /// When the connection was last heard, as far as what it sent has been looked at.
    pub(super) heard_at: Instant,
    /// It was heard so late that it was asked for another sign of life, and is not judged before that has gone out.
    pub(super) reprieved: bool,
    /// Nothing of the connection is left but what was received.
    pub(super) drained: bool,
    pub(super) acks_heard: u64,
    /// Bytes sent for the peer that have not earned it a frame yet.
    earning: u64,
    /// Messages between servers, if there ever were any.
    pub(super) relays: Option<Box<Relays>>,
}

/// What the start of a unidirectional stream turned out to be.
#[derive(Debug)]
pub(super) enum HeaderEnd {
    /// Not there yet.
    Pending,
    Header(StreamHeader),
    /// The peer gave the stream up, or it is no stream of ours to read.
    Gone,
    Bad(FrameError),
}

/// Why a control stream yields no more frames for now, or for good.
#[derive(Debug)]
pub(super) enum ControlEnd {
    /// Nothing more has arrived.
    Blocked,
    /// The peer has spoken more than it has earned; it is read again at this time.
    Paused(Instant),
    Bad(FrameError),
    /// FIN, reset or stop: it ends the path.
    Closed,
}

impl Link {
    pub(super) fn new(now: Instant, quic: Connection) -> Self {
        Self {
            quic,
            decoder: Decoder::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            budget: FrameBudget::new(now),
            headers: BTreeMap::new(),
            control_open: false,
            control_ready: false,
            control_paused: false,
            readable: SmallVec::new(),
            frames_heard: 0,
            heard_at: now,
            reprieved: false,
            drained: false,
            earning: 0,
            acks_heard: 0,
            relays: None,
        }
    }

    /// Opens the control stream: a client's first bidirectional stream, and ahead of all others in priority.
    ///
    /// Returns whether the peer permits it; without it there is no session.
    pub(super) fn open_control(&mut self) -> bool {
        self.control_open = self.quic.open(Dir::Bi) == Some(StreamId::CONTROL);
        self.control_open && self.quic.set_priority(StreamId::CONTROL, i32::MAX)
    }

    /// Queues a frame. Fails if the peer has let too much pile up.
    pub(super) fn send(&mut self, frame: &Frame) -> Result<(), ErrorCode> {
        let mut out = Vec::new();
        encode(frame, &mut out);
        self.backlog_bytes += out.len();
        self.backlog.push_back(out.into());
        if self.backlog_bytes > limits::CONTROL_BACKLOG_MAX { Err(ErrorCode::EXCESSIVE_LOAD) } else { Ok(()) }
    }

    /// Hands queued frames to QUIC, as far as it takes them.
    pub(super) fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let written = match self.quic.write_control(StreamId::CONTROL, self.backlog.make_contiguous()) {
                Ok(written) => written,
                Err(WriteEnd::Blocked) => return,
                Err(WriteEnd::Closed | WriteEnd::Stopped(_)) => {
                    self.backlog.clear();
                    self.backlog_bytes = 0;
                    return;
                }
            };
            self.backlog_bytes -= written.bytes;
            self.backlog.drain(..written.chunks);
        }
    }

    /// Returns whether frames wait: then no application byte may be written. Spec: KWIK §4.
    pub(super) fn is_backlogged(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Returns the next control frame.
    pub(super) fn next_frame(&mut self, now: Instant) -> Result<Frame, ControlEnd> {
        loop {
            if let Some(at) = self.budget.paused_until(now) {
                return Err(ControlEnd::Paused(at));
            }
            let next = self.decoder.next().map_err(ControlEnd::Bad)?;
            self.budget.spend(self.decoder.take_skipped());
            if let Some(frame) = next {
                self.budget.spend(1);
                return Ok(frame);
            }
            if let Some(at) = self.budget.paused_until(now) {
                return Err(ControlEnd::Paused(at));
            }
            match self.quic.read(StreamId::CONTROL, limits::CONTROL_FRAME_MAX, true) {
                Ok(chunk) => self.decoder.push(&chunk.bytes),
                Err(ReadEnd::Blocked) => return Err(ControlEnd::Blocked),
                Err(ReadEnd::Closed | ReadEnd::Finished | ReadEnd::Reset(_) | ReadEnd::IllegalOrder) => {
                    return Err(ControlEnd::Closed);
                }
            }
        }
    }

    /// Lets the peer send more frames, because of work it did.
    pub(super) fn earn_frames(&mut self, frames: u32) {
        self.budget.earn(frames);
    }

    /// Lets the peer send more frames, because it took bytes of internal streams: credit for them costs frames.
    pub(super) fn earn_bytes(&mut self, bytes: usize) {
        self.earning = self.earning.saturating_add(bytes as u64);
        let frames = self.earning / limits::CONTROL_FRAME_PER_BYTES;
        self.earning %= limits::CONTROL_FRAME_PER_BYTES;
        self.earn_frames(u32::try_from(frames).unwrap_or(u32::MAX));
    }

    /// A unidirectional stream of the peer was opened.
    pub(super) fn expect_header(&mut self, stream: StreamId) {
        self.headers.insert(stream, HeaderDecoder::new());
    }

    /// Returns whether the header of the stream is incomplete.
    pub(super) fn expects_header(&self, stream: StreamId) -> bool {
        self.headers.contains_key(&stream)
    }

    /// How many streams have an incomplete header.
    pub(super) fn headers_expected(&self) -> usize {
        self.headers.len()
    }

    /// Reads on in the header of a stream, and not one byte further.
    pub(super) fn read_header(&mut self, stream: StreamId) -> HeaderEnd {
        let Some(decoder) = self.headers.get_mut(&stream) else {
            return HeaderEnd::Gone;
        };
        let end = loop {
            match self.quic.read(stream, decoder.wanted(), true) {
                Ok(chunk) => match decoder.push(&chunk.bytes) {
                    Ok(None) => {}
                    Ok(Some(header)) => break HeaderEnd::Header(header),
                    Err(error) => break HeaderEnd::Bad(error),
                },
                Err(ReadEnd::Blocked) => return HeaderEnd::Pending,
                Err(ReadEnd::Finished) => break HeaderEnd::Bad(FrameError::Malformed),
                Err(ReadEnd::Reset(_) | ReadEnd::Closed | ReadEnd::IllegalOrder) => break HeaderEnd::Gone,
            }
        };
        self.headers.remove(&stream);
        end
    }

    /// Notes that the connection was heard. `now` is when that came to light, which may be long after it was read.
    pub(super) fn on_heard(&mut self, now: Instant) {
        let overdue = now.saturating_duration_since(self.heard_at) >= QUIET
            && self.quic.poll_timeout().is_some_and(|at| at <= now);
        if overdue {
            // QUIC counts its idle time from when a datagram was read. What waited here is no silence of the peer's:
            // a packet that asks for an answer starts that time anew.
            self.quic.ping();
            self.reprieved = true;
        }
        self.heard_at = now;
    }

    /// Returns whether a timer is due that may say that the peer is gone.
    pub(super) fn is_verdict_due(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_at) >= QUIET
            && self.quic.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Notes that an internal stream has bytes. quinn-proto says so once per frame; once per batch is enough.
    pub(super) fn note_readable(&mut self, stream: StreamId) {
        if !self.readable.contains(&stream) {
            self.readable.push(stream);
        }
    }
}

/// Control frames a peer may send: a burst, a steady rate, and what its work earns. Beyond that it is left unread,
/// so that QUIC's flow control holds it back; nobody is punished for being fast. Spec: KWIK §11, control rate.
#[derive(Debug)]
struct FrameBudget {
    left: u32,
    /// Frames that were there all at once beyond it: small ones share a read.
    debt: u32,
    refilled: Instant,
}

/// Unspent frames do not pile up beyond this: four per lease that may live, and the burst.
const BUDGET_MAX: u32 = limits::CONTROL_BURST + 4 * 256;
const _: () = assert!(limits::LEASES_PER_PATH == 256, "the budget counts the leases that may live");

impl FrameBudget {
    fn new(now: Instant) -> Self {
        Self { left: BUDGET_MAX, debt: 0, refilled: now }
    }

    fn spend(&mut self, frames: u32) {
        self.debt = self.debt.saturating_add(frames.saturating_sub(self.left));
        self.left = self.left.saturating_sub(frames);
    }

    fn earn(&mut self, frames: u32) {
        let paid = frames.min(self.debt);
        self.debt -= paid;
        self.left = self.left.saturating_add(frames - paid).min(BUDGET_MAX);
    }

    /// `None` if a frame may be taken now.
    fn paused_until(&mut self, now: Instant) -> Option<Instant> {
        if self.left > 0 {
            return None;
        }
        let each = Duration::from_secs(1) / limits::CONTROL_RATE;
        let earned = now.saturating_duration_since(self.refilled).as_nanos() / each.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned <= self.debt {
            return Some(self.refilled + each.saturating_mul(self.debt.saturating_add(1)));
        }
        self.refilled = now;
        self.left = (earned - self.debt).min(limits::CONTROL_BURST);
        self.debt = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of 4 KiB may hold two thousand frames that are skipped.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn what_came_beyond_the_budget_is_paid_back_first() {
        let start = Instant::now();
        let mut budget = FrameBudget::new(start);
        budget.spend(BUDGET_MAX + 50);
        let resume = budget.paused_until(start).expect("spent");
        assert!(resume > start + Duration::from_secs(1), "{:?}", resume - start);
        budget.earn(51);
        assert_eq!(budget.paused_until(start), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn a_peer_that_talks_too_much_is_left_unread_not_cut() {
        let start = Instant::now();
        let mut budget = FrameBudget::new(start);
        for _ in 0..BUDGET_MAX {
            assert_eq!(budget.paused_until(start), None);
            budget.spend(1);
        }
        let resume = budget.paused_until(start).expect("spent");
        assert!(resume > start);
        assert_eq!(budget.paused_until(resume), None);
        budget.spend(1);
        assert!(budget.paused_until(resume).is_some());
        budget.earn(2);
        assert_eq!(budget.paused_until(resume), None);
    }
}
