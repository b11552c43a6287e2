//! One path as `Session` holds it: a QUIC connection, its control stream, and the headers of streams just opened.
//!
//! Moves frames and bytes; decides nothing. Control is written before anything else and never starves. Spec: PROTOCOL §4.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    kinds::{Inbound, InboundStreams, OutboundStreams},
    price::Account,
    relays::Relays,
};
use crate::{
    budget::{Bucket, Rate},
    endpoint::{EndpointEvent, EndpointEventInner},
    error::{FrameError, PeerFault},
    id::{Attempt, Dir, LinkId, PathId, StreamId},
    limits,
    quic::{Connection, ReadEnd, WriteEnd},
    wire::{Decoder, Frame, StreamHeader, encode},
};

/// A connection heard within this time is not idle, whatever it has agreed on with its peer: half the shortest idle
/// timeout there is.
const QUIET: Duration = Duration::from_millis(500);

/// One path.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) quic: Connection,
    /// Its number among the connections dialled for its path.
    attempt: Attempt,
    decoder: Decoder,
    /// Encoded frames that QUIC has not taken.
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    /// Frames that the peer may send. Spec: PROTOCOL §11.2.
    allowance: Bucket,
    pub(super) inbound: InboundStreams,
    pub(super) outbound: OutboundStreams,
    /// The control stream is open: others may follow.
    pub(super) control_open: bool,
    /// Control has arrived that was not looked at.
    pub(super) control_ready: bool,
    /// Frames are left unread until the budget allows them.
    pub(super) control_paused: bool,
    /// Internal streams and messages with bytes to read.
    pub(super) readable: SmallVec<[StreamId; 2]>,
    pub(super) frames_heard: u64,
    /// Instant at which the connection was last heard, as far as what it sent has been looked at.
    pub(super) heard_at: Instant,
    /// It was heard so late that it was asked for another sign of life, and is not judged before that has gone out.
    pub(super) reprieved: bool,
    /// Nothing of the connection is left but what was received.
    pub(super) drained: bool,
    pub(super) acks_heard: u64,
    /// Bytes sent to the peer that have not paid for a frame yet.
    unpaid_bytes: u64,
    /// Messages between servers, if there ever were any.
    pub(super) relays: Option<Box<Relays>>,
}

/// Results of reading the start of a unidirectional stream.
#[derive(Debug)]
pub(super) enum HeaderEnd {
    /// Not there yet.
    Pending,
    Header(StreamHeader),
    /// The peer gave the stream up, or it is no stream of ours to read.
    Gone,
    Bad(FrameError),
}

/// Reasons why a control stream yields no more frames for now, or for good.
#[derive(Debug)]
pub(super) enum ControlEnd {
    /// Nothing more has arrived.
    Blocked,
    /// The peer has sent more than was paid for; it is read again at this time.
    Paused(Instant),
    Bad(FrameError),
    /// FIN, reset or stop: it ends the path.
    Closed,
}

impl Link {
    pub(super) fn new(now: Instant, quic: Connection, attempt: Attempt) -> Self {
        Self {
            quic,
            attempt,
            decoder: Decoder::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            allowance: Bucket::new(now, Rate::per_second(limits::CONTROL_RATE), limits::CONTROL_BURST),
            inbound: InboundStreams::default(),
            outbound: OutboundStreams::default(),
            control_open: false,
            control_ready: false,
            control_paused: false,
            readable: SmallVec::new(),
            frames_heard: 0,
            heard_at: now,
            reprieved: false,
            drained: false,
            unpaid_bytes: 0,
            acks_heard: 0,
            relays: None,
        }
    }

    /// Returns which of those dialled for its path it is.
    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Opens the control stream: a client's first bidirectional stream, and ahead of all others in priority.
    ///
    /// Returns whether the peer permits it; without it there is no session.
    pub(super) fn open_control(&mut self) -> bool {
        self.control_open = self.quic.open(Dir::Bi) == Some(StreamId::CONTROL);
        self.control_open && self.quic.set_priority(StreamId::CONTROL, i32::MAX)
    }

    /// Queues a frame. Fails if the peer has let too much pile up.
    pub(super) fn send(&mut self, frame: &Frame) -> Result<(), PeerFault> {
        let mut out = Vec::new();
        encode(frame, &mut out);
        self.backlog_bytes += out.len();
        self.backlog.push_back(out.into());
        if self.backlog_bytes > limits::CONTROL_BACKLOG_MAX { Err(PeerFault::ControlUnread) } else { Ok(()) }
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

    /// Returns whether frames wait: then no application byte may be written. Spec: PROTOCOL §4.
    pub(super) fn is_backlogged(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Returns the next control frame.
    pub(super) fn next_frame(&mut self, now: Instant) -> Result<Frame, ControlEnd> {
        loop {
            self.check_allowance(now)?;
            let next = self.decoder.next().map_err(ControlEnd::Bad)?;
            self.allowance.spend(self.decoder.take_skipped().into());
            if let Some(frame) = next {
                self.allowance.spend(1);
                return Ok(frame);
            }
            self.check_allowance(now)?; // small frames that are skipped share a read
            match self.quic.read(StreamId::CONTROL, limits::CONTROL_FRAME_MAX, true) {
                Ok(chunk) => self.decoder.push(&chunk.bytes),
                Err(ReadEnd::Blocked) => return Err(ControlEnd::Blocked),
                Err(ReadEnd::Closed | ReadEnd::Finished | ReadEnd::Reset(_) | ReadEnd::IllegalOrder) => {
                    return Err(ControlEnd::Closed);
                }
            }
        }
    }

    fn check_allowance(&mut self, now: Instant) -> Result<(), ControlEnd> {
        self.allowance.ready(now, 1).map_err(ControlEnd::Paused)
    }

    /// Frames that the peer is short of a full burst.
    pub(super) fn spent(&self) -> u64 {
        self.allowance.spent()
    }

    /// Lets the peer send more frames.
    pub(super) fn allow_frames(&mut self, frames: u64) {
        self.allowance.earn(frames);
    }

    /// Lets the peer send more frames, or fewer, for what came of those it sent.
    pub(super) fn settle(&mut self, account: Account) {
        self.allowance.earn(account.earned);
        self.allowance.spend(account.charged);
    }

    /// Lets the peer send more frames for bytes of internal streams that it was sent: credit for them costs frames.
    pub(super) fn allow_for_bytes(&mut self, bytes: usize) {
        self.unpaid_bytes = self.unpaid_bytes.saturating_add(bytes as u64);
        self.allow_frames(self.unpaid_bytes / limits::BYTES_PER_CONTROL_FRAME);
        self.unpaid_bytes %= limits::BYTES_PER_CONTROL_FRAME;
    }

    /// Reads on in the header of a stream, and not one byte further. Once that has ended, the stream is of no kind.
    pub(super) fn read_header(&mut self, stream: StreamId) -> HeaderEnd {
        let Some(Inbound::Header(decoder)) = self.inbound.get_mut(stream) else {
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
        self.inbound.remove(stream);
        end
    }

    /// Notes that the connection was heard. `now` is when that came to light, which may be long after it was read.
    pub(super) fn on_heard(&mut self, now: Instant) {
        if self.is_verdict_due(now) {
            // QUIC counts its idle time from when a datagram was read. What waited here is no silence of the peer's:
            // a packet that asks for an answer starts that time anew.
            self.quic.ping();
            self.reprieved = true;
        }
        self.heard_at = now;
    }

    /// Returns whether a timer of the connection's is due.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.quic.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Returns whether a timer is due that may say that the peer is gone.
    pub(super) fn is_verdict_due(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_at) >= QUIET && self.is_due(now)
    }

    /// Hands on what the connection has for the endpoint. Returns whether it has drained.
    pub(super) fn drain_endpoint_events(&mut self, path: PathId, out: &mut VecDeque<EndpointEvent>) -> bool {
        let mut drained = self.quic.is_drained();
        while let Some(event) = self.quic.poll_endpoint_event() {
            drained |= event.is_drained();
            let link = LinkId { path, attempt: self.attempt };
            out.push_back(EndpointEvent(EndpointEventInner::Quic { link, key: self.quic.key(), event }));
        }
        drained
    }

    /// Notes that an internal stream has bytes. quinn-proto says so once per frame; once per batch is enough.
    pub(super) fn note_readable(&mut self, stream: StreamId) {
        if !self.readable.contains(&stream) {
            self.readable.push(stream);
        }
    }
}
