//! The native part of a stream: what QUIC keeps of it, read in order or out of it. Spec: PROTOCOL §4.

use std::collections::VecDeque;

use super::{HOME, Machine, Session};
use crate::{
    action::Chunk,
    error::{ConnectionError, ErrorCode, ReadError},
    id::{ByteRange, StreamId},
    quic::{Connection, ReadEnd},
    stream::{conflict::ConflictPolicy, ranges::RangeSet},
};

/// The receiving half of an application stream.
#[derive(Debug, Default)]
pub(super) struct RecvHalf {
    /// Length of the header that QUIC's offsets count and the application's do not.
    pub(super) header: u64,
    /// Native bytes the application has read.
    pub(super) read: u64,
    /// The peer gave the stream up, as seen while the application was not reading.
    pub(super) reset: Option<ErrorCode>,
    /// Policy for bytes that two sources bring, if it is another one here than in the rest of the session.
    pub(super) conflict_policy: Option<ConflictPolicy>,
    /// Native bytes are read out of order; there is no way back.
    unordered: bool,
    /// Ranges that the application has read since, and before.
    scattered: RangeSet,
    /// Chunks that were taken in order when that began, and how it ended if it did.
    taken: VecDeque<Chunk>,
    taken_end: Option<ReadEnd>,
}

impl RecvHalf {
    /// Creates the half of a stream that begins with a header of so many bytes, which have been read.
    pub(super) fn new(header: u64) -> Self {
        Self { header, ..Self::default() }
    }

    /// Takes one chunk of at most `max_len` bytes, its offset counted without the header.
    fn take(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Chunk, ReadEnd> {
        if ordered && self.unordered {
            // Not asked of quinn-proto, which would drop the stream's state.
            return Err(ReadEnd::IllegalOrder);
        }
        if !ordered && !self.unordered {
            self.begin_unordered(quic, stream);
        }
        let mut chunk = match self.taken.front_mut() {
            Some(front) if front.bytes.len() > max_len => {
                let head = Chunk {
                    offset: front.offset,
                    bytes: front.bytes.split_to(max_len),
                    source: front.source,
                };
                front.offset += head.bytes.len() as u64;
                head
            }
            Some(_) => self.taken.pop_front().ok_or(ReadEnd::Blocked)?,
            None => match self.taken_end.take() {
                Some(end) => return Err(end),
                None => quic.read(stream, max_len, ordered)?,
            },
        };
        self.read += chunk.bytes.len() as u64;
        chunk.offset -= self.header;
        chunk.source = chunk.source.filter(|_| !chunk.bytes.is_empty());
        if self.unordered {
            let read = ByteRange::new(chunk.offset, chunk.bytes.len() as u64);
            read.map(|read| self.scattered.insert(read));
        }
        Ok(chunk)
    }

    /// The code of a reset that QUIC has told of, and the application has not heard of.
    pub(super) fn known_reset(&self) -> Option<ErrorCode> {
        let taken = match self.taken_end {
            Some(ReadEnd::Reset(code)) => Some(code),
            Some(ReadEnd::Blocked | ReadEnd::Closed | ReadEnd::Finished | ReadEnd::IllegalOrder) | None => {
                None
            }
        };
        self.reset.or(taken)
    }

    /// The first native byte that the application has not read.
    pub(super) fn first_unread(&self) -> u64 {
        if self.unordered { self.scattered.end_of_prefix(0) } else { self.read }
    }

    /// Switches to reading out of order, for good.
    ///
    /// quinn-proto 0.11.19 would give again what has been read in order if it is still there in a second copy, as after
    /// a retransmission. So all that is in order is taken first: it drops the copies on the way. At most a stream
    /// window of bytes, once.
    fn begin_unordered(&mut self, quic: &mut Connection, stream: StreamId) {
        self.unordered = true;
        ByteRange::between(0, self.read).map(|read| self.scattered.insert(read));
        loop {
            match quic.read(stream, usize::MAX, true) {
                Ok(chunk) => self.taken.push_back(chunk),
                Err(ReadEnd::Blocked) => return,
                Err(end) => {
                    self.taken_end = Some(end);
                    return;
                }
            }
        }
    }

    /// Looks for what comes next in the order that was chosen: behind the native part that must be an end.
    fn next(&mut self, quic: &mut Connection, stream: StreamId) -> Result<Chunk, ReadEnd> {
        let ordered = !self.unordered;
        self.take(quic, stream, usize::MAX, ordered)
    }
}

impl Session {
    pub(super) fn read_native(
        &mut self,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let half = self.recv.get_mut(&stream).ok_or(ReadError::ClosedStream)?;
        let home = &mut self.links.home;
        match half.take(&mut home.quic, stream, max_len, ordered) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(ReadEnd::Finished) => {
                self.recv.remove(&stream);
                Ok(None)
            }
            Err(ReadEnd::Reset(code)) => {
                self.recv.remove(&stream);
                Err(ReadError::Reset(code))
            }
            Err(ReadEnd::IllegalOrder) => Err(ReadError::IllegalOrderedRead),
            Err(ReadEnd::Closed) => Err(ReadError::ClosedStream),
            Err(ReadEnd::Blocked) => match &self.lost {
                Some(cause) => Err(ReadError::ConnectionLost(cause.clone())),
                None => Err(ReadError::Blocked),
            },
        }
    }

    /// Nothing but FIN or a reset may follow the native part of a split stream. Spec: PROTOCOL §4.
    pub(super) fn check_native_end(&mut self, stream: StreamId) -> Result<(), ReadError> {
        let (home, Some(half)) = (&mut self.links.home, self.recv.get_mut(&stream)) else {
            return Ok(());
        };
        match half.next(&mut home.quic, stream) {
            Ok(_) => Err(self.read_fault(ErrorCode::METADATA_PROTOCOL_VIOLATION)),
            Err(ReadEnd::Reset(code)) => {
                self.recv.remove(&stream);
                if let Machine::Client(client) = &mut self.machine {
                    client.on_native_reset(stream);
                }
                Err(ReadError::Reset(code))
            }
            Err(ReadEnd::Blocked | ReadEnd::Closed | ReadEnd::Finished | ReadEnd::IllegalOrder) => Ok(()),
        }
    }

    /// Ends the session for a fault that reading brought to light, and says to the reader why it is over.
    pub(super) fn read_fault(&mut self, code: ErrorCode) -> ReadError {
        self.fault(HOME, code);
        ReadError::ConnectionLost(self.lost.clone().unwrap_or(ConnectionError::Fault(code)))
    }

    /// A reset of the native part ends a split stream at once, whether or not the application is reading.
    pub(super) fn check_native_reset(&mut self, stream: StreamId) {
        let Machine::Client(client) = &mut self.machine else {
            return;
        };
        if !client.is_split(stream) {
            return;
        }
        let (home, Some(half)) = (&mut self.links.home, self.recv.get_mut(&stream)) else {
            return;
        };
        if let Some(code) = home.quic.received_reset(stream) {
            half.reset = Some(code);
            client.on_native_reset(stream);
        }
    }

    /// Reads on to the native FIN of a split stream, so that QUIC frees its slot.
    pub(super) fn drain_native(&mut self, stream: StreamId) {
        let (home, Some(half)) = (&mut self.links.home, self.draining.get_mut(&stream)) else {
            return;
        };
        match half.next(&mut home.quic, stream) {
            Ok(_) => self.fault(HOME, ErrorCode::METADATA_PROTOCOL_VIOLATION),
            Err(ReadEnd::Blocked) => {}
            Err(ReadEnd::Finished | ReadEnd::Reset(_) | ReadEnd::Closed | ReadEnd::IllegalOrder) => {
                self.draining.remove(&stream);
            }
        }
    }
}
