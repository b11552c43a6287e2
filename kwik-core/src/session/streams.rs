//! Application streams: QUIC's own, with KWIK's part added only where a stream is split.
//! Spec: DESIGN §2 (I2, I4), PROTOCOL §4.

use bytes::Bytes;

use super::{
    Machine, Session,
    kinds::{Inbound, Outbound},
    native::RecvHalf,
    subject::stream_span,
};
use crate::{
    action::{Chunk, Event},
    error::{
        ClosedStream, ConnectionError, ErrorCode, GiveUpError, PeerFault, ReadError, SendDatagramError,
        WriteError,
    },
    id::{Dir, StreamId},
    limits,
    quic::{DatagramEnd, WriteEnd, Written},
    stream::conflict::ConflictPolicy,
    wire::{StreamHeader, encode_header},
};

use std::time::Instant;

/// The sending half of an application stream.
#[derive(Debug, Default)]
pub(super) struct SendHalf {
    /// Part of the header that QUIC has not taken.
    pub(super) header: Bytes,
    /// Native bytes QUIC has taken.
    pub(super) written: u64,
    /// As the application set it.
    pub(super) priority: i32,
    pub(super) finished: bool,
    /// FIN waits for the header.
    pub(super) finish_pending: bool,
    /// The peer wants no more. Kept until the application ends its half, which is what gives the slot back.
    pub(super) stopped: Option<ErrorCode>,
    /// A `Split` opened the stream before QUIC did: FIN waits until it has, see [`RecvHalf::early`].
    pub(super) early: bool,
}

impl SendHalf {
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Writes what is left of the header, if there is room; the rest goes ahead of the next byte.
    pub(super) fn flush(&mut self, quic: &mut crate::quic::Connection, stream: StreamId) {
        if let Err(end) = flush_header(quic, stream, &mut self.header) {
            tracing::trace!(%stream, ?end, "header waits");
        }
    }
}

impl Session {
    /// Opens a stream. `None` if the peer permits no more for now ([`Event::Available`] follows), if the session is
    /// not established or over, or on a secondary, always.
    pub fn open(&mut self, dir: Dir) -> Option<StreamId> {
        if !self.serves_streams() || self.lost.is_some() {
            return None;
        }
        if !self.links.home.control_open {
            return None; // control is the first stream of every connection
        }
        let slots = dir == Dir::Bi || self.keep_slots();
        let Some(stream) = slots.then(|| self.links.home.quic.open(dir)).flatten() else {
            self.observed.opens_refused += 1;
            return None;
        };
        let mut half = SendHalf::default();
        match dir {
            Dir::Bi => self.links.home.inbound.insert(stream, Inbound::Stream(RecvHalf::default())),
            Dir::Uni => half.header = Bytes::copy_from_slice(&encode_header(&StreamHeader::Public)),
        }
        self.links.home.outbound.insert(stream, Outbound::Stream(half));
        Some(stream)
    }

    /// Sets aside the slots that a primary needs for what it writes into split streams: were all of them others', readers
    /// could wait for a run that has none. And those of messages, which the peer permits on top of the application's
    /// streams: its window is for as many of those as it permits. Returns whether all are there. Spec: PROTOCOL §4.
    pub(super) fn keep_slots(&mut self) -> bool {
        if !self.serves_streams() {
            return true; // on a secondary's connection everything has slots of its own
        }
        let runs = self.run_slots_wanted();
        let home = &mut self.links.home;
        let relays = home.relays.as_ref().map_or(0, |relays| relays.slots_wanted());
        while self.spare.len() < runs + relays {
            let Some(stream) = home.quic.open(Dir::Uni) else {
                return false;
            };
            self.spare.push_back(stream);
        }
        true
    }

    /// Number of slots that a primary's own writing must find set aside.
    pub(super) fn run_slots_wanted(&self) -> usize {
        let Machine::Primary(primary) = &self.machine else {
            return 0;
        };
        limits::run_slots(primary.splits()).saturating_sub(self.links.home.outbound.internals_len())
    }

    /// Accepts a stream that the peer opened; [`Event::Opened`] tells when to ask. Never one of a secondary.
    pub fn accept(&mut self, dir: Dir) -> Option<StreamId> {
        match dir {
            Dir::Bi => self.accepts_bi.pop_front(),
            Dir::Uni => self.accepts_uni.pop_front(),
        }
    }

    /// Writes as much of `chunks` as there is room for, without copying. The first chunk that is not taken whole is
    /// advanced past what was.
    ///
    /// # Errors
    /// - [`WriteError::Blocked`] if there is no room; [`Event::Writable`] follows.
    /// - [`WriteError::ClosedStream`] after `finish` or `reset`.
    /// - [`WriteError::ConnectionLost`] once the session is over.
    /// - [`WriteError::Stopped`] if the peer wants no more.
    pub fn write(
        &mut self,
        now: Instant,
        stream: StreamId,
        chunks: &mut [Bytes],
    ) -> Result<Written, WriteError> {
        let (_session, _stream) = (self.enter(), stream_span(stream));
        self.touch(now);
        if let Some(cause) = &self.lost {
            return Err(WriteError::ConnectionLost(cause.clone()));
        }
        let home = &mut *self.links.home;
        let half = home.outbound.half(stream).filter(|half| !half.finished);
        if let Some(code) = half.ok_or(WriteError::ClosedStream)?.stopped {
            return Err(WriteError::Stopped(code));
        }
        home.flush();
        if home.is_backlogged() {
            self.control_waiters.insert(Event::Writable(stream));
            return Err(WriteError::Blocked);
        }
        let half = home.outbound.half_mut(stream).ok_or(WriteError::ClosedStream)?;
        if !half.header.is_empty() {
            flush_header(&mut home.quic, stream, &mut half.header).map_err(write_error)?;
        }
        if is_split(&self.machine, stream) {
            return self.write_sequential(stream, chunks);
        }
        let written = home.quic.write(stream, chunks).map_err(write_error)?;
        half.written += written.bytes as u64;
        Ok(written)
    }

    /// Says that nothing more will be written. A split stream ends behind its last leased or written byte.
    ///
    /// Fine as well if the peer has stopped the stream: then it is reset, with the peer's code, and forgotten.
    /// [`Event::Stopped`] has told, or tells, that it does not arrive.
    ///
    /// # Errors
    /// - [`ClosedStream`] if it was finished or reset before.
    pub fn finish(&mut self, now: Instant, stream: StreamId) -> Result<(), ClosedStream> {
        self.touch(now);
        let home = &mut *self.links.home;
        let half = home.outbound.half_mut(stream).ok_or(ClosedStream)?;
        if let Some(code) = half.stopped {
            if !half.finished {
                self.end_stopped(stream, code);
            }
            return Ok(());
        }
        if std::mem::replace(&mut half.finished, true) {
            return Err(ClosedStream);
        }
        let early = half.early;
        match flush_header(&mut home.quic, stream, &mut half.header) {
            Ok(()) => {}
            Err(WriteEnd::Blocked) => {
                half.finish_pending = true;
                return Ok(());
            }
            Err(WriteEnd::Closed | WriteEnd::Stopped(_)) => return self.finish_unheard(stream),
        }
        if is_split(&self.machine, stream) {
            if let Machine::Primary(primary) = &mut self.machine {
                primary.finish(stream);
            }
            self.finish_sequential(stream);
            return Ok(());
        }
        if early || home.quic.finish(stream) { Ok(()) } else { self.finish_unheard(stream) }
    }

    /// QUIC does not take the end of a stream: the peer has stopped it, and that has not been told yet.
    pub(super) fn finish_unheard(&mut self, stream: StreamId) -> Result<(), ClosedStream> {
        match self.links.home.quic.stopped(stream).flatten() {
            Some(code) => {
                self.end_stopped(stream, code);
                Ok(())
            }
            None => {
                self.links.home.outbound.take_half(stream);
                Err(ClosedStream)
            }
        }
    }

    /// Ends and forgets a stream that the peer has stopped: only a reset frees its slot at the peer. Spec: RATIONALE §13.
    fn end_stopped(&mut self, stream: StreamId, code: ErrorCode) {
        if let Machine::Primary(primary) = &mut self.machine {
            primary.end_stream(stream, code);
            primary.forget_stream(stream);
            self.reset_internals_of(stream);
        }
        self.links.home.quic.reset(stream, code);
        if self.links.home.outbound.take_half(stream).is_some_and(|half| half.stopped.is_none()) {
            self.notify(Event::Stopped(stream, code));
        }
    }

    /// The peer wants no more of a stream.
    pub(super) fn on_send_stopped(&mut self, stream: StreamId, code: ErrorCode) {
        let split = is_split(&self.machine, stream);
        let half = self.links.home.outbound.half_mut(stream);
        let Some(half) = half.filter(|half| half.stopped.is_none()) else {
            return; // delivered, or over by a reset
        };
        half.stopped = Some(code);
        // What nobody will ask for any more must not wait for it. A native FIN still arrives, as in quinn.
        let over = half.finished && (split || half.finish_pending);
        if split {
            if let Machine::Primary(primary) = &mut self.machine {
                primary.end_stream(stream, code);
                primary.forget_stream(stream);
            }
            self.reset_internals_of(stream);
            self.links.home.quic.reset(stream, code);
        }
        if over {
            self.end_stopped(stream, code);
        }
        self.unsettled = true;
        self.notify(Event::Writable(stream));
        self.notify(Event::Stopped(stream, code));
    }

    /// Gives the stream up; what was not delivered may never be. On a split stream all leases end.
    ///
    /// # Errors
    /// - [`GiveUpError::ClosedStream`] if it was reset before, or delivered whole.
    /// - [`GiveUpError::Misuse`] if `code` is one of KWIK's; nothing was done.
    pub fn reset(&mut self, now: Instant, stream: StreamId, code: ErrorCode) -> Result<(), GiveUpError> {
        code.check_own()?;
        self.touch(now);
        let half = self.links.home.outbound.take_half(stream).ok_or(ClosedStream)?;
        if let Machine::Primary(primary) = &mut self.machine {
            primary.end_stream(stream, code);
            primary.forget_stream(stream);
            self.reset_internals_of(stream);
        }
        let home = &mut *self.links.home;
        if half.early {
            home.outbound.insert(stream, Outbound::ResetEarly(code));
            return Ok(());
        }
        // One that the peer has stopped may have been reset for that already.
        if home.quic.reset(stream, code) || half.stopped.is_some() {
            Ok(())
        } else {
            Err(ClosedStream.into())
        }
    }

    /// Sets which streams' bytes go first; higher first, 0 by default.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is closed.
    pub fn set_priority(&mut self, stream: StreamId, priority: i32) -> Result<(), ClosedStream> {
        let home = &mut *self.links.home;
        let half = home.outbound.half_mut(stream).ok_or(ClosedStream)?;
        if !home.quic.set_priority(stream, below_control(priority)) {
            return Err(ClosedStream);
        }
        half.priority = priority;
        Ok(())
    }

    /// Returns the stream's priority, as it was set.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is closed.
    pub fn priority(&self, stream: StreamId) -> Result<i32, ClosedStream> {
        self.links.home.outbound.half(stream).map(|half| half.priority).ok_or(ClosedStream)
    }

    /// Returns the code the peer stopped the stream with; `None` while it has not, and the stream goes on.
    ///
    /// # Errors
    /// - [`ClosedStream`] if nothing is known of the stream any more: it was reset here, or it was finished and
    ///   [`Event::Finished`] or [`Event::Stopped`] has told, or is about to tell, how that went.
    pub fn stopped(&mut self, stream: StreamId) -> Result<Option<ErrorCode>, ClosedStream> {
        let half = self.links.home.outbound.half(stream).ok_or(ClosedStream)?;
        if half.stopped.is_some() || is_split(&self.machine, stream) {
            return Ok(half.stopped);
        }
        self.links.home.quic.stopped(stream).ok_or(ClosedStream)
    }

    /// Reads at most `max_len` bytes: the next ones if `ordered`, else any that are here. `Ok(None)` is the end. A `max_len`
    /// of 0 only looks: an empty chunk says that there are bytes, and where.
    ///
    /// # Errors
    /// - [`ReadError::Blocked`] if nothing is here; [`Event::Readable`] follows.
    /// - [`ReadError::ClosedStream`] after the end, `stop` or a reset that was read.
    /// - [`ReadError::Conflict`] if two servers disagree, and the stream's policy is to reject that.
    /// - [`ReadError::ConnectionLost`] once the session is over and nothing is left to read.
    /// - [`ReadError::IllegalOrderedRead`] if `ordered` comes after an unordered read.
    /// - [`ReadError::Incomplete`] if the stream is split and nobody is left to send what is missing.
    /// - [`ReadError::Reset`] if the peer gave the stream up.
    pub fn read(
        &mut self,
        now: Instant,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let (_session, _stream) = (self.enter(), stream_span(stream));
        self.touch(now);
        let reset = self.links.home.inbound.half(stream).ok_or(ReadError::ClosedStream)?.reset;
        if let Machine::Client(client) = &mut self.machine {
            if let Some(error) = client.take_failure(stream) {
                return Err(self.give_up_reading(stream, error));
            }
        }
        if let Some(code) = reset {
            self.links.home.inbound.remove(stream);
            return Err(ReadError::Reset(code));
        }
        let base = match &self.machine {
            Machine::Client(client) => client.split_base(stream),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => None,
        };
        match base {
            Some(base) => self.read_split(stream, base, max_len, ordered),
            None => self.read_native(stream, max_len, ordered),
        }
    }

    /// Goes on as [`Self::read`] has begun to, which has just given bytes: gives `take` what servers have placed of a split
    /// stream, looking for the stream once. `take` says how many bytes the next piece may have; 0 ends it. Returns what it said
    /// last, or `max_len`: unless that is 0 it is for `read` to say what comes next.
    #[cfg(feature = "driver")]
    pub(crate) fn read_on(
        &mut self,
        now: Instant,
        stream: StreamId,
        max_len: usize,
        ordered: bool,
        take: &mut dyn FnMut(Chunk) -> usize,
    ) -> usize {
        let (_session, _stream) = (self.enter(), stream_span(stream));
        let (Machine::Client(client), Some(half)) = (&mut self.machine, self.links.home.inbound.half(stream))
        else {
            return max_len;
        };
        let native_done = client.split_base(stream).is_some_and(|base| half.read >= base);
        if !native_done || half.reset.is_some() {
            return max_len;
        }
        let left = client.read_on(now, stream, max_len, ordered, take);
        self.touch(now);
        self.drain_actions();
        left
    }

    /// Reads a split stream: what QUIC keeps of it first, then what the servers have placed.
    fn read_split(
        &mut self,
        stream: StreamId,
        base: u64,
        max_len: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let mut native_done = self.links.home.inbound.half(stream).is_some_and(|half| half.read >= base);
        if !native_done {
            match self.read_native(stream, max_len, ordered) {
                Ok(Some(chunk)) if chunk.offset + chunk.bytes.len() as u64 > base => {
                    return Err(self.read_fault(PeerFault::NativePastSplit));
                }
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => return Err(self.read_fault(PeerFault::NativeEnded)),
                Err(ReadError::Reset(code)) => {
                    if let Machine::Client(client) = &mut self.machine {
                        client.on_native_reset(stream);
                    }
                    return Err(ReadError::Reset(code));
                }
                Err(ReadError::Blocked | ReadError::ConnectionLost(_)) => {}
                Err(error) => return Err(error),
            }
            native_done = self.links.home.inbound.half(stream).is_some_and(|half| half.read >= base);
        }
        if native_done {
            self.check_native_end(stream)?;
        }
        let Machine::Client(client) = &mut self.machine else {
            return Err(ReadError::ClosedStream);
        };
        let local = matches!(self.lost, Some(ConnectionError::LocallyClosed));
        if !native_done && (ordered || !client.is_readable(stream)) {
            let read = self.links.home.inbound.half(stream).map_or(0, RecvHalf::first_unread);
            return Err(match (&self.lost, client.missing_from(stream, read)) {
                (Some(cause), _) if local => ReadError::ConnectionLost(cause.clone()),
                (_, Some((missing, code))) => ReadError::Incomplete { stream, missing, code },
                (_, None) => ReadError::Blocked,
            });
        }
        let read = client.read(self.now, stream, max_len, ordered);
        let failed = read.is_err() && !client.is_split(stream);
        self.drain_actions();
        #[cfg(feature = "qlog")]
        if let Err(ReadError::Incomplete { missing, code: ErrorCode::AGGREGATION_TIMEOUT, .. }) = &read {
            self.log(|log, now| log.on_gap_told(now, stream, *missing));
        }
        match (read, &self.lost) {
            (Ok(Some(chunk)), _) => Ok(Some(chunk)),
            (Ok(None), _) => {
                let home = &mut self.links.home;
                let half = home.inbound.take_half(stream).unwrap_or_default();
                home.inbound.insert(stream, Inbound::Draining(half));
                self.drain_native(stream);
                Ok(None)
            }
            (Err(ReadError::Incomplete { .. }), Some(cause)) if local => {
                Err(ReadError::ConnectionLost(cause.clone()))
            }
            (Err(error), _) if failed => Err(self.give_up_reading(stream, error)),
            (Err(error), _) => Err(error),
        }
    }

    /// The machine has given a stream up, and told the primary: its native part goes with it, for the same reason, as
    /// either may be the first to arrive.
    fn give_up_reading(&mut self, stream: StreamId, error: ReadError) -> ReadError {
        let code = match &error {
            ReadError::Conflict { .. } => ErrorCode::DATA_CONFLICT,
            ReadError::Incomplete { code, .. } => *code,
            ReadError::Blocked
            | ReadError::ClosedStream
            | ReadError::ConnectionLost(_)
            | ReadError::IllegalOrderedRead
            | ReadError::Reset(_)
            | ReadError::ZeroRttRejected => ErrorCode::STREAM_CLOSED,
        };
        if let Some(half) = self.links.home.inbound.take_half(stream) {
            self.stop_native(stream, &half, code);
        }
        error
    }

    /// Tells the peer to send no more of a stream that the application does not read any more.
    fn stop_native(&mut self, stream: StreamId, half: &RecvHalf, code: ErrorCode) {
        let home = &mut self.links.home;
        if half.early {
            home.inbound.insert(stream, Inbound::StopEarly(code));
        } else {
            home.quic.stop(stream, code);
        }
    }

    /// Says what becomes of bytes of this stream that two servers bring for one place, from now on; on clients, and where
    /// the stream is never split it changes nothing. Spec: PROTOCOL §6, "Conflicts".
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was stopped, or read to its end.
    pub fn set_conflict_policy(
        &mut self,
        stream: StreamId,
        policy: ConflictPolicy,
    ) -> Result<(), ClosedStream> {
        self.links.home.inbound.half_mut(stream).ok_or(ClosedStream)?.conflict_policy = Some(policy);
        if let Machine::Client(client) = &mut self.machine {
            client.set_conflict_policy(stream, policy);
        }
        Ok(())
    }

    /// Tells the peer to send no more, and drops what is here. On a split stream all leases end.
    ///
    /// # Errors
    /// - [`GiveUpError::ClosedStream`] if it was stopped before or read to its end.
    /// - [`GiveUpError::Misuse`] if `code` is one of KWIK's; nothing was done.
    pub fn stop(&mut self, now: Instant, stream: StreamId, code: ErrorCode) -> Result<(), GiveUpError> {
        code.check_own()?;
        self.touch(now);
        let half = self.links.home.inbound.take_half(stream).ok_or(ClosedStream)?;
        if let Machine::Client(client) = &mut self.machine {
            client.stop(stream, code);
        }
        self.stop_native(stream, &half, code);
        Ok(())
    }

    /// Looks whether the peer has given the stream up, and with what code; then it is forgotten, as after a read that told
    /// of it. [`Event::Readable`] tells when to look.
    ///
    /// # Errors
    /// - [`ClosedStream`] after the end, `stop` or a reset that was told.
    pub fn received_reset(
        &mut self,
        now: Instant,
        stream: StreamId,
    ) -> Result<Option<ErrorCode>, ClosedStream> {
        self.touch(now);
        let home = &mut *self.links.home;
        let half = home.inbound.half(stream).ok_or(ClosedStream)?;
        let code = half.known_reset().or_else(|| home.quic.received_reset(stream));
        if code.is_some() {
            home.inbound.remove(stream);
            if let Machine::Client(client) = &mut self.machine {
                client.on_native_reset(stream);
            }
        }
        Ok(code)
    }

    /// Queues an application datagram; with `drop`, older ones give way to it.
    ///
    /// # Errors
    /// One of [`SendDatagramError`]; on a secondary always [`SendDatagramError::UnsupportedByPeer`].
    pub fn datagram_send(&mut self, now: Instant, data: Bytes, drop: bool) -> Result<(), SendDatagramError> {
        self.touch(now);
        if let Some(cause) = &self.lost {
            return Err(SendDatagramError::ConnectionLost(cause.clone()));
        }
        if !self.serves_streams() {
            return Err(SendDatagramError::UnsupportedByPeer);
        }
        self.links.home.quic.datagram_send(data, drop).map_err(|end| match end {
            DatagramEnd::Blocked(data) => SendDatagramError::Blocked(data),
            DatagramEnd::Disabled => SendDatagramError::Disabled,
            DatagramEnd::TooLarge => SendDatagramError::TooLarge,
            DatagramEnd::Unsupported => SendDatagramError::UnsupportedByPeer,
        })
    }

    /// Takes a received application datagram.
    pub fn datagram_recv(&mut self) -> Option<Bytes> {
        if !self.serves_streams() {
            return None;
        }
        self.links.home.quic.datagram_recv()
    }

    /// Returns the largest datagram that can be sent now; `None` if the peer takes none.
    pub fn datagram_max_size(&mut self) -> Option<usize> {
        self.links.home.quic.datagram_max_size()
    }

    /// Returns how many bytes of datagrams can be queued without older ones giving way.
    pub fn datagram_send_buffer_space(&mut self) -> usize {
        self.links.home.quic.datagram_send_buffer_space()
    }
}

/// Priority that QUIC is told for an application's: control stays ahead of everything.
pub(super) fn below_control(priority: i32) -> i32 {
    priority.min(i32::MAX - 1)
}

/// Writes what is left of a stream's header.
pub(super) fn flush_header(
    quic: &mut crate::quic::Connection,
    stream: StreamId,
    header: &mut Bytes,
) -> Result<(), WriteEnd> {
    while !header.is_empty() {
        // Written like control: a header is part of the protocol, and a few bytes long.
        quic.write_control(stream, std::slice::from_mut(header))?;
    }
    Ok(())
}

/// Returns whether a primary has split the stream, and it is not over.
fn is_split(machine: &Machine, stream: StreamId) -> bool {
    match machine {
        Machine::Primary(primary) => primary.split_stream(stream).is_some(),
        Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => false,
    }
}

fn write_error(end: WriteEnd) -> WriteError {
    match end {
        WriteEnd::Blocked => WriteError::Blocked,
        WriteEnd::Closed => WriteError::ClosedStream,
        WriteEnd::Stopped(code) => WriteError::Stopped(code),
    }
}
