//! Bytes of internal streams at the client: checked against lease and credit, put where they belong, and counted.
//! Spec: DESIGN §2 (I1, I3, I4), PROTOCOL §5.4, §6.

use bytes::Bytes;
use smallvec::SmallVec;

use super::Client;
use crate::{
    action::Event,
    error::{ErrorCode, PeerFault},
    id::{ByteRange, LeaseId, OFFSET_MAX, PathId, StreamId},
    limits,
    session::action::Action,
    stream::{
        assemble::Pieces,
        conflict::Difference,
        recv::{By, SplitRecv},
    },
};

/// Bytes by which a lease is taken for full too early: none, unless the proof that the simulator can fail is run.
const CANARY: u64 = if cfg!(feature = "__canary") { 1 } else { 0 };

/// Disjoint pieces that every stream may have, whatever others have.
const EXTENTS_UNCOUNTED: usize = limits::EXTENTS_PER_SESSION / limits::SPLIT_STREAMS_MAX;

impl Client {
    /// Bytes of an internal stream arrived, next in its order. Returns whether more are wanted.
    pub(in crate::session) fn on_bytes(&mut self, path: PathId, internal: StreamId, bytes: Bytes) -> bool {
        let placed = if path.is_primary() {
            self.place_run(internal, bytes)
        } else {
            self.place_lease(path, internal, bytes)
        };
        match placed {
            Ok(wanted) => wanted,
            Err(fault) => {
                self.fault(path, fault);
                false
            }
        }
    }

    /// Number of bytes of an internal stream, next in its order, that [`Self::on_plain_bytes`] may take: they do not end a lease,
    /// have credit, and nothing of them is here or contested. For any others there is [`Self::on_bytes`].
    pub(in crate::session) fn plain_bytes(&self, path: PathId, internal: StreamId) -> u64 {
        let filling = self.paths.get(&path).and_then(|path| path.internal.get(&internal));
        let lease = filling.and_then(|filling| Some((filling.next, self.leases.get(filling.lease)?)));
        let Some((next, lease)) = lease.filter(|(_, lease)| !lease.state.contested) else {
            return 0;
        };
        let Some(stream) = self.streams.get(&lease.stream()) else {
            return 0;
        };
        // The last byte is not among them, as it fills the lease, nor is what is staged or lets a suspended lease go on.
        let credit = lease.range().start() + lease.allowed(stream.max_offset());
        let end = credit.min(lease.range().end().saturating_sub(1 + CANARY));
        let special = lease.is_verified() || lease.state.suspended.is_some();
        if special || stream.extents() >= EXTENTS_UNCOUNTED {
            return 0;
        }
        end.saturating_sub(next).min(stream.plain_at(next))
    }

    /// Bytes of an internal stream arrived as [`Self::plain_bytes`] has told, and are wanted.
    pub(in crate::session) fn on_plain_bytes(&mut self, path: PathId, internal: StreamId, pieces: Pieces) {
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let Some(state) = self.paths.get_mut(&path).filter(|_| len > 0) else {
            return;
        };
        let Some(filling) = state.internal.get_mut(&internal) else {
            return;
        };
        let Some(lease) = self.leases.get_mut(filling.lease) else {
            return;
        };
        let offset = filling.next;
        filling.next += len;
        lease.state.placed += len;
        state.touched = true;
        state.progress.note(lease.state.told.is_some());
        let (id, of) = (filling.lease, lease.stream());
        let Some(stream) = self.streams.get_mut(&of) else {
            return;
        };
        let inserted = stream.place_plain(path, offset, pieces);
        let readable = stream.is_readable();
        self.held += inserted.new;
        self.held_max = self.held_max.max(self.held);
        self.observed.touch(of);
        self.source(path).bytes += inserted.new;
        if readable {
            self.actions.push_back(Action::Notify(Event::Readable(of)));
        }
        if self.is_all_here(id) {
            self.lose_lease(id, ErrorCode::LEASE_REVOKED, true); // the primary has brought the rest
            self.check_complete(of);
        }
    }

    /// As [`Self::on_bytes`], by the way that the session takes: whatever may be is plain.
    #[cfg(any(test, fuzzing))]
    pub(super) fn on_any_bytes(&mut self, path: PathId, internal: StreamId, bytes: Bytes) -> bool {
        if bytes.is_empty() || bytes.len() as u64 > self.plain_bytes(path, internal) {
            return self.on_bytes(path, internal, bytes);
        }
        self.on_plain_bytes(path, internal, Pieces::from_iter([bytes]));
        true
    }

    fn place_lease(&mut self, path: PathId, internal: StreamId, mut bytes: Bytes) -> Result<bool, PeerFault> {
        let mut len = bytes.len() as u64;
        let Some(state) = self.paths.get_mut(&path) else {
            return Ok(false);
        };
        let Some(filling) = state.internal.get_mut(&internal) else {
            // Its lease ended while the bytes were on their way: late, not hostile. Spec: PROTOCOL §5.7.
            self.source(path).late_bytes += len;
            return Ok(false);
        };
        // A lease filled to its end is gone; an honest server has nothing more to say there but FIN.
        let lease = self.leases.get_mut(filling.lease).ok_or(PeerFault::BytesPastLease)?;
        let Some(stream) = self.streams.get_mut(&lease.stream()) else {
            return Ok(false);
        };
        let end = filling.next.checked_add(len).filter(|&end| end <= lease.state.noticed_end);
        let mut end = end.ok_or(PeerFault::BytesPastLease)?;
        // Its server knows the range as it was noticed: what lies behind a later cut is late. Spec: PROTOCOL §5.7.
        let late = end.saturating_sub(lease.range().end());
        (end, len) = (end - late, len - late);
        bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        if end - lease.range().start() > lease.allowed(stream.max_offset()) {
            return Err(PeerFault::BytesPastCredit);
        }
        let offset = std::mem::replace(&mut filling.next, end);
        lease.state.placed += len;
        state.touched = true;
        state.progress.note(lease.state.told.is_some());
        let (id, stream) = (filling.lease, lease.stream());
        let filled = end + CANARY >= lease.range().end();
        let (suspended, contested) = (lease.state.suspended.is_some(), lease.state.contested);
        if let Some(staging) = &mut lease.state.staging {
            staging.push(path, bytes);
        } else {
            let Ok(difference) = self.place(path, stream, offset, bytes, By::Lease) else {
                return Ok(self.lose_scattered(id));
            };
            difference
                .into_iter()
                .for_each(|difference| self.on_difference(path, stream, difference, By::Lease));
        }
        if late > 0 {
            self.source(path).late_bytes += late;
        }
        if filled {
            self.fill_lease(id);
        } else if let Some(placed) = ByteRange::between(offset, end).filter(|_| contested) {
            self.supersede(stream, placed); // this one too, if others have brought the rest
        } else if self.is_all_here(id) {
            self.lose_lease(id, ErrorCode::LEASE_REVOKED, true); // the primary has brought the rest
        }
        if !self.leases.contains(id) {
            self.check_complete(stream);
        } else if suspended {
            self.resume(id);
        }
        Ok(late == 0)
    }

    /// Returns whether nothing of a lease is missing, whoever brought it.
    pub(super) fn is_all_here(&self, id: LeaseId) -> bool {
        let lease = self.leases.get(id);
        let stream = lease.and_then(|lease| self.streams.get(&lease.stream()));
        lease.zip(stream).is_some_and(|(lease, stream)| stream.first_missing_of(lease.range()).is_none())
    }

    /// The last byte of a lease came. A verified one counts only if it is what the primary promised. Spec: PROTOCOL §5.4.
    fn fill_lease(&mut self, id: LeaseId) {
        let staging = self.leases.get_mut(id).and_then(|lease| lease.state.staging.take());
        let (Some(staging), Some(lease)) = (staging, self.leases.get(id)) else {
            self.finish_lease(id);
            return;
        };
        let (path, stream, lease_range) = (lease.path(), lease.stream(), lease.range());
        let Some(chunks) = staging.verify() else {
            self.source(path).digests_wrong += 1;
            self.lose_lease(id, ErrorCode::DIGEST_MISMATCH, true);
            self.on_wrong_digest(path, stream, lease_range);
            return;
        };
        let mut differences: SmallVec<[Difference; 1]> = SmallVec::new();
        for (offset, bytes) in chunks {
            let Ok(difference) = self.place(path, stream, offset, bytes, By::Verified) else {
                self.lose_scattered(id);
                break;
            };
            differences.extend(difference);
        }
        // What is done about whoever was wrong must not come between the pieces of what is right, nor after their leases
        // have ended because all of them is here.
        let done = self.close_full(id);
        for difference in differences {
            self.on_difference(path, stream, difference, By::Verified);
        }
        done.into_iter().for_each(|(stream, range)| self.supersede(stream, range));
    }

    /// What is held of the stream lies in too many pieces for one more. It is the primary that says where pieces lie, so
    /// the server that brought this one loses no more than its lease, which pays for nothing. Returns that no more of it is
    /// wanted.
    fn lose_scattered(&mut self, id: LeaseId) -> bool {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.state.withdrawn = true;
        }
        self.lose_lease(id, ErrorCode::LIMIT_EXCEEDED, true);
        false
    }

    fn place_run(&mut self, internal: StreamId, bytes: Bytes) -> Result<bool, PeerFault> {
        let len = bytes.len() as u64;
        let Some(run) = self.runs.get_mut(&internal) else {
            self.source(PathId::PRIMARY).late_bytes += len;
            return Ok(false);
        };
        let Some(stream) = self.streams.get_mut(&run.stream) else {
            return Ok(false);
        };
        let end = run.next.checked_add(len).filter(|&end| end <= OFFSET_MAX).ok_or(PeerFault::RunTooFar)?;
        stream.claim(end).map_err(|_| PeerFault::RunPastFinal)?;
        if !stream.run_has_credit(run.next, len) {
            return Err(PeerFault::RunPastCredit);
        }
        let offset = std::mem::replace(&mut run.next, end);
        let stream = run.stream;
        // A run may bring what a lease was to bring; most do not.
        let range = ByteRange::between(offset, end);
        let range = range.filter(|range| self.leases.overlapping(stream, *range).next().is_some());
        range.into_iter().for_each(|range| self.make_room_beside_runs(stream, range));
        let difference = self.place(PathId::PRIMARY, stream, offset, bytes, By::Run)?;
        difference
            .into_iter()
            .for_each(|difference| self.on_difference(PathId::PRIMARY, stream, difference, By::Run));
        range.into_iter().for_each(|range| self.supersede(stream, range));
        self.check_complete(stream);
        Ok(true)
    }

    /// Puts checked bytes where they belong, counts them, and tells the reader. Returns where they differ from what is held.
    fn place(
        &mut self,
        path: PathId,
        id: StreamId,
        offset: u64,
        bytes: Bytes,
        by: By,
    ) -> Result<Option<Difference>, PeerFault> {
        if self.extents_full(id, offset, bytes.len() as u64) {
            return Err(PeerFault::RunScattered);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(None);
        };
        let before = stream.held();
        let inserted = stream.place(path, offset, bytes, by);
        self.held += stream.held() - before;
        self.held_max = self.held_max.max(self.held);
        let unordered = stream.is_unordered();
        let readable = stream.is_readable();
        self.observed.touch(id);
        let source = self.source(path);
        source.bytes += inserted.new;
        source.overlap_bytes += inserted.overlap;
        source.conflicts += u64::from(inserted.differed);
        let difference = self.streams.get_mut(&id).and_then(SplitRecv::take_difference);
        if readable {
            self.actions.push_back(Action::Notify(Event::Readable(id)));
        }
        // Noted, not done: a batch brings many pieces from many servers, and all have to be counted before any of them
        // is promised more.
        if inserted.overlap > 0 || (by == By::Run && unordered) {
            self.recredit.insert(id);
        }
        Ok(difference)
    }

    /// Returns whether the bytes would leave more disjoint pieces than may be. Spec: PROTOCOL §11.1.
    fn extents_full(&self, id: StreamId, offset: u64, len: u64) -> bool {
        let Some(stream) = self.streams.get(&id) else {
            return false;
        };
        // As long as every stream has its equal part of the session's cap, the sum need not be looked at.
        if stream.extents() < EXTENTS_UNCOUNTED {
            return false;
        }
        let all: usize = self.streams.values().map(SplitRecv::extents).sum();
        stream.would_exceed(offset, len, limits::EXTENTS_PER_STREAM)
            || (all >= limits::EXTENTS_PER_SESSION && stream.would_exceed(offset, len, stream.extents()))
    }
}
