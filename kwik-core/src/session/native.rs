//! The native part of a stream: what QUIC keeps of it, read in order or out of it. Spec: PROTOCOL §4.

use std::collections::VecDeque;

use super::{HOME, Machine, Session, kinds::Inbound};
use crate::{
    action::Chunk,
    error::{ConnectionError, ErrorCode, PeerFault, ReadError},
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
    /// A `Split` opened the stream before QUIC did. quinn-proto's counts go wrong if a half of such a stream ends, so
    /// what the application wishes for it waits.
    pub(super) early: bool,
    /// What follows the native part of a split stream was looked for, and QUIC has had no news of the stream since.
    pub(super) end_checked: bool,
    /// Native bytes are read out of order; there is no way back.
    unordered: Option<Box<Unordered>>,
}

/// Reading out of order.
#[derive(Debug, Default)]
struct Unordered {
    /// Ranges that the application has read since it began, and before.
    read: RangeSet,
    /// Chunks that were taken in order when it began, and how that ended if it did.
    taken: VecDeque<Chunk>,
    end: Option<ReadEnd>,
}

impl RecvHalf {
    /// Creates the half of a stream that begins with a header of so many bytes, which have been read.
    pub(super) fn new(header: u64, early: bool) -> Self {
        Self { header, early, ..Self::default() }
    }

    /// Takes one chunk of at most `max_len` bytes, its offset counted without the header.
    fn take(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Chunk, ReadEnd> {
        if ordered && self.unordered.is_some() {
            // Not asked of quinn-proto, which would drop the stream's state.
            return Err(ReadEnd::IllegalOrder);
        }
        let mut chunk = if ordered {
            quic.read(stream, max_len, ordered)?
        } else {
            let read = self.read;
            let unordered =
                self.unordered.get_or_insert_with(|| Box::new(Unordered::begin(quic, stream, read)));
            unordered.take(quic, stream, max_len)?
        };
        self.read += chunk.bytes.len() as u64;
        chunk.offset -= self.header;
        chunk.source = chunk.source.filter(|_| !chunk.bytes.is_empty());
        if let Some(unordered) = &mut self.unordered {
            let read = ByteRange::new(chunk.offset, chunk.bytes.len() as u64);
            read.map(|read| unordered.read.insert(read));
        }
        Ok(chunk)
    }

    /// The code of a reset that QUIC has told of, and the application has not heard of.
    pub(super) fn known_reset(&self) -> Option<ErrorCode> {
        let taken = match self.unordered.as_ref().and_then(|unordered| unordered.end.as_ref()) {
            Some(ReadEnd::Reset(code)) => Some(*code),
            Some(ReadEnd::Blocked | ReadEnd::Closed | ReadEnd::Finished | ReadEnd::IllegalOrder) | None => {
                None
            }
        };
        self.reset.or(taken)
    }

    /// The first native byte that the application has not read.
    pub(super) fn first_unread(&self) -> u64 {
        self.unordered.as_ref().map_or(self.read, |unordered| unordered.read.end_of_prefix(0))
    }

    /// Looks for what comes next in the order that was chosen: behind the native part that must be an end.
    fn next(&mut self, quic: &mut Connection, stream: StreamId) -> Result<Chunk, ReadEnd> {
        let ordered = self.unordered.is_none();
        self.take(quic, stream, usize::MAX, ordered)
    }
}

impl Unordered {
    /// Switches to reading out of order, for good, behind `read` bytes that were read in order.
    ///
    /// quinn-proto 0.11.19 would give again what has been read in order if it is still there in a second copy, as after
    /// a retransmission. So all that is in order is taken first: it drops the copies on the way. At most a stream
    /// window of bytes, once.
    fn begin(quic: &mut Connection, stream: StreamId, read: u64) -> Self {
        let mut begun = Self::default();
        ByteRange::between(0, read).map(|read| begun.read.insert(read));
        loop {
            match quic.read(stream, usize::MAX, true) {
                Ok(chunk) => begun.taken.push_back(chunk),
                Err(ReadEnd::Blocked) => return begun,
                Err(end) => {
                    begun.end = Some(end);
                    return begun;
                }
            }
        }
    }

    /// Takes one chunk of at most `max_len` bytes: first of those that were taken when it began.
    fn take(&mut self, quic: &mut Connection, stream: StreamId, max_len: usize) -> Result<Chunk, ReadEnd> {
        match self.taken.front_mut() {
            Some(front) if front.bytes.len() > max_len => {
                let head = Chunk {
                    offset: front.offset,
                    bytes: front.bytes.split_to(max_len),
                    source: front.source,
                };
                front.offset += head.bytes.len() as u64;
                Ok(head)
            }
            Some(_) => self.taken.pop_front().ok_or(ReadEnd::Blocked),
            None => match self.end.take() {
                Some(end) => Err(end),
                None => quic.read(stream, max_len, false),
            },
        }
    }
}

impl Session {
    pub(super) fn read_native(
        &mut self,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let home = &mut *self.links.home;
        let half = home.inbound.half_mut(stream).ok_or(ReadError::ClosedStream)?;
        match half.take(&mut home.quic, stream, max_len, ordered) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(ReadEnd::Finished) => {
                home.inbound.remove(stream);
                Ok(None)
            }
            Err(ReadEnd::Reset(code)) => {
                home.inbound.remove(stream);
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
        let home = &mut *self.links.home;
        let Some(half) = home.inbound.half_mut(stream).filter(|half| !half.end_checked) else {
            return Ok(());
        };
        half.end_checked = !half.early; // of one that QUIC has not opened its first frame is no such news
        match half.next(&mut home.quic, stream) {
            Ok(_) => Err(self.read_fault(PeerFault::NativePastSplit)),
            Err(ReadEnd::Reset(code)) => {
                home.inbound.remove(stream);
                if let Machine::Client(client) = &mut self.machine {
                    client.on_native_reset(stream);
                }
                Err(ReadError::Reset(code))
            }
            Err(ReadEnd::Blocked | ReadEnd::Closed | ReadEnd::Finished | ReadEnd::IllegalOrder) => Ok(()),
        }
    }

    /// Ends the session for a fault that reading brought to light, and says to the reader why it is over.
    pub(super) fn read_fault(&mut self, fault: PeerFault) -> ReadError {
        self.fault(HOME, fault);
        ReadError::ConnectionLost(self.lost.clone().unwrap_or(ConnectionError::Fault(fault)))
    }

    /// A reset of the native part ends a split stream at once, whether or not the application is reading.
    pub(super) fn check_native_reset(&mut self, stream: StreamId) {
        let Machine::Client(client) = &mut self.machine else {
            return;
        };
        if !client.is_split(stream) {
            return;
        }
        let home = &mut *self.links.home;
        let Some(half) = home.inbound.half_mut(stream) else {
            return;
        };
        if let Some(code) = home.quic.received_reset(stream) {
            half.reset = Some(code);
            client.on_native_reset(stream);
        }
    }

    /// Reads on to the native FIN of a split stream, so that QUIC frees its slot.
    pub(super) fn drain_native(&mut self, stream: StreamId) {
        let home = &mut *self.links.home;
        let Some(Inbound::Draining(half)) = home.inbound.get_mut(stream) else {
            return;
        };
        match half.next(&mut home.quic, stream) {
            Ok(_) => self.fault(HOME, PeerFault::NativePastSplit),
            Err(ReadEnd::Blocked) => {}
            Err(ReadEnd::Finished | ReadEnd::Reset(_) | ReadEnd::Closed | ReadEnd::IllegalOrder) => {
                home.inbound.remove(stream);
            }
        }
    }
}
