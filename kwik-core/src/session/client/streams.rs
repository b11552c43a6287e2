//! Split streams at the client: internal streams are mapped, their bytes placed, read and paid for with credit.
//! Spec: PROTOCOL §4, §6.

use std::time::Instant;

use super::{Client, ENDED_REMEMBERED, Filling, Run};
use crate::{
    action::{Chunk, Event},
    error::{ErrorCode, PeerFault, ReadError},
    id::{ByteRange, LeaseId, OFFSET_MAX, PathId, StreamId},
    limits,
    session::{
        action::{Action, InternalEnd, Opened},
        price,
    },
    stream::{conflict::ConflictPolicy, gap::Gap, recv::SplitRecv},
    wire::{Frame, MappingOperation, StreamHeader},
};

impl Client {
    pub(in crate::session) fn is_split(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Returns whether an internal stream of the primary must stay unread until its stream is split.
    #[cfg(any(test, fuzzing))]
    pub(in crate::session) fn is_waiting(&self, internal: StreamId) -> bool {
        self.runs.get(&internal).is_some_and(|run| !self.is_split(run.stream))
    }

    /// Number of streams that were split so far, whatever became of them.
    pub(in crate::session) fn splits(&self) -> usize {
        self.splits
    }

    /// Returns whether servers have placed bytes that `read` would give.
    pub(in crate::session) fn is_readable(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(SplitRecv::is_readable)
    }

    /// Offset at which the native part of a split stream ends.
    pub(in crate::session) fn split_base(&self, stream: StreamId) -> Option<u64> {
        self.streams.get(&stream).map(SplitRecv::base)
    }

    /// Splits a stream: from `offset` on its bytes come in internal streams.
    pub(super) fn split(&mut self, stream: StreamId, offset: u64) -> Result<(), PeerFault> {
        if self.streams.contains_key(&stream) {
            return Err(PeerFault::SplitTwice);
        }
        if stream == StreamId::CONTROL {
            return Err(PeerFault::SplitControl);
        }
        if offset >= OFFSET_MAX {
            return Err(PeerFault::SplitTooFar); // no byte could follow, so none could ever be missing either
        }
        self.splits += 1;
        if !self.has_room_for_split() {
            // The application leaves too much of earlier streams unread, or a reset of one is late. Only this stream
            // has to pay for it.
            self.tell_primary(Frame::SplitAck { stream, credit: offset });
            self.tell_primary(Frame::StreamStopped { stream, code: ErrorCode::NO_CREDIT });
            self.remember_ended(stream);
            self.stop_runs(stream);
            return Ok(());
        }
        // Every stream has its guaranteed part; beyond it the first ones take what is free.
        let extra =
            self.config.stream_window.saturating_sub(limits::GUARANTEED_CREDIT).min(self.extra_window_free());
        self.extra_window += extra;
        let split = SplitRecv::new(offset, limits::GUARANTEED_CREDIT + extra, self.config.conflict_policy);
        let credit = split.max_offset();
        self.streams.insert(stream, split);
        self.ended.retain(|ended| *ended != stream);
        self.tell_primary(Frame::SplitAck { stream, credit });
        self.actions.push_back(Action::SplitOpened { stream });
        for run in self.runs_of(stream) {
            self.actions.push_back(Action::ResumeInternal { path: PathId::PRIMARY, stream: run });
        }
        self.recredit.insert(stream);
        Ok(())
    }

    /// Internal streams in which the primary writes into a stream.
    fn runs_of(&self, stream: StreamId) -> Vec<StreamId> {
        self.runs.iter().filter(|(_, run)| run.stream == stream).map(|(&internal, _)| internal).collect()
    }

    /// Turns away the runs of a stream that is over, or was refused: nobody will ever read them.
    fn stop_runs(&mut self, stream: StreamId) {
        for run in self.runs_of(stream) {
            self.runs.remove(&run);
            let code = ErrorCode::STREAM_CLOSED;
            self.actions.push_back(Action::StopInternal { path: PathId::PRIMARY, stream: run, code });
        }
    }

    /// The glue found that the stream of a `Split` is closed already: says so, as every `Split` is answered.
    pub(in crate::session) fn split_of_closed(&mut self, stream: StreamId) {
        self.end_stream(stream, ErrorCode::STREAM_CLOSED);
        self.tell_primary(Frame::StreamStopped { stream, code: ErrorCode::STREAM_CLOSED });
    }

    /// Returns whether one more stream can be guaranteed credit. Both ends count streams that are not complete; what
    /// is unread of complete ones takes its place in the window, but nobody's place in the count. Spec: PROTOCOL §4.
    fn has_room_for_split(&self) -> bool {
        let open = self.streams.values().filter(|stream| stream.is_open()).count() as u64;
        let taken = (open + 1) * limits::GUARANTEED_CREDIT + self.extra_window;
        open < u64::from(self.config.split_streams_max()) && taken <= self.config.session_window
    }

    /// Bytes of the session window that are not set aside for the guaranteed parts.
    pub(super) fn extra_window_max(&self) -> u64 {
        let guaranteed = u64::from(self.config.split_streams_max()) * limits::GUARANTEED_CREDIT;
        self.config.session_window.saturating_sub(guaranteed)
    }

    pub(super) fn extra_window_free(&self) -> u64 {
        self.extra_window_max().saturating_sub(self.extra_window)
    }

    /// The primary says where the stream ends.
    pub(super) fn stream_final(&mut self, stream: StreamId, size: u64) -> Result<(), PeerFault> {
        let Some(split) = self.streams.get_mut(&stream) else {
            if self.ended.contains(&stream) {
                self.late_frames += 1;
                return Ok(());
            }
            return Err(PeerFault::FinalOfUnsplit);
        };
        let known = split.final_size().is_some();
        if size > OFFSET_MAX || split.set_final(size).is_err() {
            return Err(PeerFault::FinalChanged);
        }
        if !known {
            self.check_complete(stream);
            self.actions.push_back(Action::Notify(Event::Readable(stream)));
        }
        Ok(())
    }

    pub(super) fn check_complete(&mut self, stream: StreamId) {
        let Some(split) = self.streams.get_mut(&stream) else {
            return;
        };
        let extra = split.extra();
        if split.complete() {
            self.extra_window = self.extra_window.saturating_sub(extra) + split.extra();
            // What is leased once more of a complete stream is not needed.
            self.lose_leases_on(stream, ErrorCode::STREAM_CLOSED);
            self.tell_primary(Frame::StreamComplete { stream });
        }
    }

    /// The header of an internal stream arrived.
    pub(in crate::session) fn on_internal(
        &mut self,
        path: PathId,
        internal: StreamId,
        header: StreamHeader,
    ) -> Opened {
        match header {
            StreamHeader::Secondary { lease, offset } if !path.is_primary() => {
                self.on_secondary_stream(path, internal, lease, offset)
            }
            StreamHeader::Internal { stream, offset } if path.is_primary() => {
                self.on_run(internal, stream, offset)
            }
            StreamHeader::Public if !path.is_primary() => {
                // The application must never see it; the path may live, it has touched nothing. Spec: DESIGN §2, I2.
                Opened::Stop(ErrorCode::SECONDARY_STREAM_ISOLATION)
            }
            StreamHeader::Public
            | StreamHeader::Secondary { .. }
            | StreamHeader::Internal { .. }
            | StreamHeader::Relay(_) => {
                let fault = PeerFault::StreamOfOther;
                if path.is_primary() {
                    self.fault(path, fault);
                } else {
                    self.on_metadata_fault(path, fault);
                }
                Opened::Stop(fault.code())
            }
        }
    }

    fn on_secondary_stream(&mut self, path: PathId, internal: StreamId, id: LeaseId, offset: u64) -> Opened {
        let retired = self.is_retired(path, id);
        let violation = match self.leases.get_mut(id) {
            Some(lease) if lease.path() != path || !lease.state.noticed => PeerFault::LeaseOfOther,
            Some(lease) if offset != lease.range().start() => PeerFault::LeaseOffset,
            Some(lease) if lease.state.internal.is_some() => PeerFault::LeaseTwice,
            Some(lease) => {
                lease.state.internal = Some(internal);
                if let Some(path) = self.paths.get_mut(&path) {
                    path.internal.insert(internal, Filling { lease: id, next: offset });
                }
                self.tell_mapping(MappingOperation::Create, id, None);
                return Opened::Read;
            }
            None if retired => return Opened::Stop(ErrorCode::LEASE_REVOKED),
            None => PeerFault::LeaseOfOther,
        };
        self.on_mapping_fault(path, Some(id), violation)
    }

    fn on_run(&mut self, internal: StreamId, stream: StreamId, offset: u64) -> Opened {
        let opened = match self.streams.get(&stream) {
            Some(split) if offset < split.base() => {
                self.fault(PathId::PRIMARY, PeerFault::RunBeforeSplit);
                return Opened::Stop(PeerFault::RunBeforeSplit.code());
            }
            Some(_) => {
                self.recredit.insert(stream);
                Opened::Read
            }
            None if self.ended.contains(&stream) => return Opened::Stop(ErrorCode::STREAM_CLOSED),
            // How many may wait is bounded by the streams the primary is permitted, and their bytes by QUIC's windows.
            None => Opened::Wait,
        };
        self.runs.insert(internal, Run { stream, next: offset });
        opened
    }

    /// An internal stream ended.
    pub(in crate::session) fn on_internal_end(&mut self, path: PathId, internal: StreamId, end: InternalEnd) {
        if path.is_primary() {
            if let Some(run) = self.runs.remove(&internal) {
                self.recredit.insert(run.stream);
            }
            return;
        }
        let Some(filling) = self.paths.get_mut(&path).and_then(|path| path.internal.remove(&internal)) else {
            return;
        };
        let code = match end {
            InternalEnd::Fin => ErrorCode::LEASE_SHORT,
            // KWIK's words about a lease are the client's to say.
            InternalEnd::Reset(code) if code.is_reserved() => ErrorCode::LEASE_SHORT,
            InternalEnd::Reset(code) => code,
        };
        if let Some(lease) = self.leases.get_mut(filling.lease) {
            lease.state.internal = None;
            self.lose_lease(filling.lease, code, false);
        }
    }

    /// Reads bytes that came in internal streams. `Ok(None)` is the end of the stream.
    pub(in crate::session) fn read(
        &mut self,
        now: Instant,
        id: StreamId,
        max_len: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        self.observed.on_read(now);
        let stream = self.streams.get_mut(&id).ok_or(ReadError::ClosedStream)?;
        if ordered && stream.is_unordered() {
            return Err(ReadError::IllegalOrderedRead);
        }
        if !ordered && !stream.is_unordered() {
            stream.set_unordered();
            stream.look(now); // what lies behind a hole is held up no more
            self.replenish(id);
        }
        let stream = self.streams.get_mut(&id).ok_or(ReadError::ClosedStream)?;
        let extra = stream.extra();
        if let Some(chunk) = stream.read(max_len, ordered) {
            self.on_taken(now, id, chunk.bytes.len() as u64, extra);
            return Ok(Some(chunk));
        }
        if stream.is_consumed() {
            self.end_stream(id, ErrorCode::NO_ERROR);
            return Ok(None);
        }
        let missing = stream.first_missing();
        match self.lost.zip(missing) {
            Some((code, missing)) => Err(ReadError::Incomplete { stream: id, missing, code }),
            None => {
                self.on_reader_blocked(id);
                let told = self.gaps.get_mut(&id).is_some_and(Gap::take_untold);
                match missing.filter(|_| told) {
                    Some(missing) if self.outlives_gap(id, missing) => {
                        let code = ErrorCode::AGGREGATION_TIMEOUT;
                        Err(ReadError::Incomplete { stream: id, missing, code })
                    }
                    Some(_) => Err(self.take_failure(id).unwrap_or(ReadError::ClosedStream)),
                    None => Err(ReadError::Blocked),
                }
            }
        }
    }

    /// Goes on reading as [`Self::read`] has begun to, as long as there are bytes and `take`, which says how many the next piece
    /// may have, does not say 0. Returns what it said last, or `max_len`.
    #[cfg(feature = "driver")]
    pub(in crate::session) fn read_on(
        &mut self,
        now: Instant,
        id: StreamId,
        mut max_len: usize,
        ordered: bool,
        take: &mut dyn FnMut(Chunk) -> usize,
    ) -> usize {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| ordered != stream.is_unordered()) else {
            return max_len;
        };
        let extra = stream.extra();
        let mut taken = 0;
        while max_len > 0 {
            let Some(chunk) = stream.read(max_len, ordered) else {
                break;
            };
            taken += chunk.bytes.len() as u64;
            max_len = take(chunk);
        }
        if taken > 0 {
            self.on_taken(now, id, taken, extra);
        }
        max_len
    }

    /// The application has taken so many bytes of a stream, which had `extra` bytes of the session window before.
    fn on_taken(&mut self, now: Instant, id: StreamId, bytes: u64, extra: u64) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        self.gaps.remove(&id); // it waits for another byte now
        self.held -= bytes;
        self.extra_window -= (extra - stream.extra()).min(self.extra_window);
        self.on_consumed(now, id);
    }

    /// Says what becomes of differing bytes of one stream from now on.
    pub(in crate::session) fn set_conflict_policy(&mut self, stream: StreamId, policy: ConflictPolicy) {
        if let Some(split) = self.streams.get_mut(&stream) {
            split.set_policy(policy);
        }
    }

    /// The application wants no more of a split stream.
    pub(in crate::session) fn stop(&mut self, stream: StreamId, code: ErrorCode) {
        self.failed.remove(&stream);
        if self.streams.contains_key(&stream) {
            self.end_stream(stream, ErrorCode::STREAM_CLOSED);
            self.tell_primary(Frame::StreamStopped { stream, code });
        }
    }

    /// The primary reset the native stream, and with it the whole stream.
    pub(in crate::session) fn on_native_reset(&mut self, stream: StreamId) {
        self.failed.remove(&stream);
        // A stream of which something came was worth its leases.
        let empty = self.streams.get(&stream).is_none_or(|split| split.highest() == split.base());
        let leases: Vec<LeaseId> = self.leases.of_stream(stream).map(|(lease, _)| lease).collect();
        for lease in leases.into_iter().filter(|_| empty) {
            self.withdraw_lease(lease, ErrorCode::STREAM_CLOSED);
        }
        self.end_stream(stream, ErrorCode::STREAM_CLOSED);
    }

    /// Forgets a split stream: its leases end, its window is free again.
    pub(super) fn end_stream(&mut self, id: StreamId, code: ErrorCode) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        self.extra_window -= stream.extra().min(self.extra_window);
        self.held -= stream.held();
        self.lose_leases_on(id, code);
        if let Some(stream) = self.streams.remove(&id) {
            self.observed.on_end(id, stream);
        }
        self.account.earn(price::STREAM_OVER);
        self.blocked.remove(&id);
        self.gaps.remove(&id);
        self.readers_told.remove(&id);
        self.stop_runs(id);
        self.remember_ended(id);
    }

    fn remember_ended(&mut self, stream: StreamId) {
        self.ended.push_back(stream);
        if self.ended.len() > ENDED_REMEMBERED {
            self.ended.pop_front();
        }
    }

    fn lose_leases_on(&mut self, id: StreamId, code: ErrorCode) {
        let leases: Vec<LeaseId> = self.leases.of_stream(id).map(|(lease, _)| lease).collect();
        for lease in leases {
            self.lose_lease(lease, code, true);
        }
    }

    /// The first hole of a split stream, for the error of a reader whose native part is cut off at `read`.
    pub(in crate::session) fn missing_from(
        &self,
        stream: StreamId,
        read: u64,
    ) -> Option<(ByteRange, ErrorCode)> {
        let split = self.streams.get(&stream)?;
        let code = self.lost?;
        let native = ByteRange::between(read, split.base());
        native.or_else(|| split.first_missing()).map(|missing| (missing, code))
    }
}
