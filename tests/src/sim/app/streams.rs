//! The two halves of a stream as an application uses them.

use std::time::Duration;

use kwik_core::{ByteRange, ErrorCode, ReadError, Session, Side, WriteError};

use super::{Cx, GIVEN_UP};
use crate::sim::oracle::Flow;

/// Manner of reading a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// In order, or whatever is here.
    pub ordered: bool,
    /// The most that is asked for at once.
    pub max_len: usize,
    /// At most this many bytes, then a pause of this length; `None` reads whatever comes.
    pub pace: Option<(u64, Duration)>,
    /// Stop after this many bytes.
    pub stop_after: Option<u64>,
    /// Do not read before this time.
    pub start_at: Duration,
    /// Never read at all, nor stop.
    pub never: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            ordered: true,
            max_len: usize::MAX,
            pace: None,
            stop_after: None,
            start_at: Duration::ZERO,
            never: false,
        }
    }
}

/// A stream being read.
#[derive(Debug)]
pub struct Reader {
    flow: Flow,
    reading: Reading,
    taken: u64,
    /// Bytes that may be read before the next pause.
    allowance: u64,
    /// The core said that nothing is here, and has not said otherwise since.
    blocked: bool,
    resume_at: Option<Duration>,
    done: bool,
}

impl Reader {
    /// Starts reading `flow`.
    #[must_use]
    pub fn new(flow: Flow, reading: Reading) -> Self {
        let resume_at = Some(reading.start_at).filter(|at| !at.is_zero());
        let allowance = reading.pace.map_or(u64::MAX, |(bytes, _)| bytes);
        Self { flow, reading, taken: 0, allowance, blocked: false, resume_at, done: false }
    }

    /// Flow that it reads.
    #[must_use]
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The core says that something may be here.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The session is over: what is here is read at once.
    pub fn hurry(&mut self) {
        self.done |= self.reading.never;
        self.blocked = false;
        self.resume_at = None;
        self.reading.pace = None;
        self.allowance = u64::MAX;
    }

    /// Returns whether the reader has seen the end or an error, or has stopped.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Time at which reading goes on by itself.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.resume_at.filter(|_| !self.done && !self.blocked && !self.reading.never)
    }

    /// Reads what may be read now.
    pub fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        if self.resume_at.is_some_and(|at| at <= cx.at) {
            self.resume_at = None;
        }
        if self.reading.never {
            cx.oracle.left(self.flow);
            if self.flow.sender == Side::Server && self.flow.stream.initiator() == Side::Server {
                // The other half of a stream that was split at once ends with this one at the latest. Spec: RATIONALE §13.
                cx.oracle.left(Flow { sender: Side::Client, ..self.flow });
            }
            return;
        }
        while !self.done && !self.blocked && self.resume_at.is_none() && !cx.is_interrupted() {
            if self.reading.stop_after.is_some_and(|limit| self.taken >= limit) {
                self.stop(cx, session, GIVEN_UP);
                return;
            }
            self.read(cx, session);
        }
    }

    fn read(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        let max_len = self.reading.max_len.min(usize::try_from(self.allowance).unwrap_or(usize::MAX)).max(1);
        match session.read(cx.now, self.flow.stream, max_len, self.reading.ordered) {
            Ok(Some(chunk)) => {
                let len = chunk.bytes.len() as u64;
                assert!(chunk.bytes.len() <= max_len, "1: {} gave more than was asked for", self.flow);
                cx.oracle.read(self.flow, self.reading.ordered, &chunk);
                cx.note(format_args!("reads {} of {}", len, self.flow));
                self.taken += len;
                if let Some((bytes, pause)) = self.reading.pace {
                    self.allowance = self.allowance.saturating_sub(len);
                    if self.allowance == 0 {
                        self.allowance = bytes;
                        self.resume_at = Some(cx.at + pause);
                    }
                }
            }
            Ok(None) => {
                cx.note(format_args!("ends {}", self.flow));
                cx.oracle.ended(self.flow);
                self.done = true;
            }
            Err(ReadError::Blocked) => self.blocked = true,
            Err(ReadError::Incomplete { missing, code: ErrorCode::AGGREGATION_TIMEOUT, .. })
                if session.lost().is_none() =>
            {
                cx.note(format_args!("waits for {missing} of {}", self.flow));
                cx.trace.count("gap told");
                cx.oracle.waits(self.flow, missing);
                self.blocked = true;
            }
            Err(error) => {
                cx.note(format_args!("fails {}: {error}", self.flow));
                cx.trace.count("read failed");
                cx.oracle.failed(self.flow, &error, session.lost());
                self.done = true;
            }
        }
    }

    /// Wants no more of the stream.
    pub fn stop(&mut self, cx: &mut Cx<'_>, session: &mut Session, code: ErrorCode) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        cx.note(format_args!("stops {}", self.flow));
        cx.trace.count("stream stopped");
        cx.oracle.stopped(self.flow, code);
        let stopped = session.stop(cx.now, self.flow.stream, code);
        assert!(stopped.is_ok() || session.lost().is_some(), "10: {} could not be stopped", self.flow);
    }
}

/// End of the writing of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two ways QUIC has")]
pub enum WriterEnd {
    /// With FIN behind the last byte.
    Finish,
    /// With a reset there instead.
    Reset,
}

/// A native stream being written.
#[derive(Debug)]
pub struct Writer {
    flow: Flow,
    size: u64,
    chunk: u64,
    end: WriterEnd,
    written: u64,
    blocked: bool,
    done: bool,
}

impl Writer {
    /// Starts writing `size` bytes in pieces of at most `chunk`.
    #[must_use]
    pub fn new(flow: Flow, size: u64, chunk: u64, end: WriterEnd) -> Self {
        Self { flow, size, chunk: chunk.max(1), end, written: 0, blocked: false, done: false }
    }

    /// Flow that it writes.
    #[must_use]
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The core says that there may be room.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Returns whether everything was handed over, or cannot be any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Writes what there is room for.
    pub fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while !self.done && !self.blocked && !cx.is_interrupted() {
            let len = self.chunk.min(self.size - self.written);
            let Some(range) = ByteRange::new(self.written, len) else {
                self.end(cx, session);
                return;
            };
            cx.oracle.given(self.flow, range.end());
            match session.write(cx.now, self.flow.stream, &mut [self.flow.bytes(range)]) {
                Ok(written) => {
                    cx.note(format_args!("writes {} of {range} of {}", written.bytes, self.flow));
                    self.written += written.bytes as u64;
                }
                Err(WriteError::Blocked) => {
                    cx.note(format_args!("{} blocks at {}", self.flow, self.written));
                    self.blocked = true;
                }
                Err(WriteError::Stopped(_)) => {
                    // Only an end of our own frees the slot at the peer.
                    let ended = session.finish(cx.now, self.flow.stream);
                    assert!(ended.is_ok(), "4: {} was stopped and could not be finished", self.flow);
                    self.done = true;
                }
                Err(WriteError::ConnectionLost(_)) => self.done = true,
                Err(error) => panic!("10: {} cannot be written: {error}", self.flow),
            }
        }
    }

    /// Gives the stream up, wherever it is.
    pub fn reset(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        if !self.done {
            self.end = WriterEnd::Reset;
            self.end(cx, session);
        }
    }

    fn end(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        self.done = true;
        if session.lost().is_some() {
            return;
        }
        // Either may fail: the peer may have stopped the stream, or the session may be over.
        let ended = match self.end {
            WriterEnd::Finish => {
                cx.oracle.finished(self.flow);
                session.finish(cx.now, self.flow.stream).is_ok()
            }
            WriterEnd::Reset => {
                cx.trace.count("stream reset");
                cx.oracle.reset(self.flow, GIVEN_UP);
                session.reset(cx.now, self.flow.stream, GIVEN_UP).is_ok()
            }
        };
        cx.note(format_args!("{:?} {}: {ended}", self.end, self.flow));
    }
}
