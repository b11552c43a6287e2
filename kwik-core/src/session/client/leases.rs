//! Leases at the client: every grant is checked, noticed to its path, and answered exactly once. Spec: PROTOCOL §5.

use std::time::{Duration, Instant};

use super::{Client, Lease};
use crate::{
    error::{ErrorCode, PeerFault},
    id::{ByteRange, LeaseId, PathId, StreamId},
    lease::table::Live,
    limits,
    path::state::State,
    session::{action::Action, price},
    stream::staging::Staging,
    wire::{Features, Frame, LeaseGrant, MappingOperation},
};

/// Errands that a lease pays for when it is over: one like it, and its job.
const ERRANDS_PER_LEASE: u64 = 2;

impl Client {
    /// The primary gives a range to a path.
    pub(super) fn grant(&mut self, now: Instant, grant: LeaseGrant) -> Result<(), PeerFault> {
        if self.last_lease.is_some_and(|last| grant.lease <= last) {
            return Err(PeerFault::GrantNotNew);
        }
        self.last_lease = Some(grant.lease);
        match self.check_grant(now, &grant)? {
            Ok((path, stream)) => self.accept_grant(now, &grant, path, stream),
            Err(Answer::Done) => self.tell_primary(Frame::LeaseDone { lease: grant.lease }),
            Err(Answer::Refused(code)) => self.tell_primary(Frame::LeaseRefused { lease: grant.lease, code }),
        }
        Ok(())
    }

    /// Checks a grant. A broken rule is an outer error; what an honest primary may run into is an answer.
    fn check_grant(
        &mut self,
        now: Instant,
        grant: &LeaseGrant,
    ) -> Result<Result<(PathId, StreamId), Answer>, PeerFault> {
        let refused = |code| Ok(Err(Answer::Refused(code)));
        let Some(job) = self.jobs.get(&grant.job) else {
            return refused(ErrorCode::PATH_DEAD); // refused because its path is gone, or closed
        };
        if let Some(code) = job.closed {
            return refused(code);
        }
        if !job.range.contains(grant.range) || grant.range.len() > limits::LEASE_MAX {
            return Err(PeerFault::GrantOutsideJob);
        }
        let Some(stream) = self.streams.get_mut(&job.stream) else {
            return refused(ErrorCode::STREAM_CLOSED);
        };
        if grant.range.start() < stream.base() {
            return Err(PeerFault::GrantBeforeSplit);
        }
        stream.claim(grant.range.end()).map_err(|_| PeerFault::GrantPastFinal)?;
        if stream.first_missing_of(grant.range).is_none() {
            return Ok(Err(Answer::Done));
        }
        let Some(path) = self.paths.get(&job.path) else {
            return refused(ErrorCode::PATH_NOT_FOUND);
        };
        if !self.may_overlap(grant, job.path, job.stream) {
            return refused(ErrorCode::STREAM_MAPPING_CONFLICT);
        }
        match path.state {
            State::Dead(_) => return refused(ErrorCode::PATH_DEAD),
            State::Degraded => return refused(ErrorCode::PATH_STALLED),
            State::Draining(_) => return refused(ErrorCode::DRAINING),
            State::Connecting | State::Authenticating | State::Active => {}
        }
        let full = self.leases.count_of_stream(job.stream) >= limits::LEASES_PER_STREAM
            || self.leases.count_of_path(job.path) >= limits::LEASES_PER_PATH
            || self.leases.len() >= limits::LEASES_PER_SESSION;
        if full {
            return refused(ErrorCode::LIMIT_EXCEEDED);
        }
        if grant.digest.is_some() && grant.range.len() > self.verified_max() {
            return refused(ErrorCode::LIMIT_EXCEEDED);
        }
        if self.room_for(grant, job.stream).total() > self.extra_window_free() {
            return refused(ErrorCode::NO_CREDIT);
        }
        let (path, stream) = (job.path, job.stream);
        // Nothing has come of those it was sent before. Spec: PROTOCOL §11.4.
        let errands = self.paths.get_mut(&path).map(|path| path.errands.take(now, 1));
        if errands.is_some_and(|errands| errands.is_err()) {
            return refused(ErrorCode::EXCESSIVE_LOAD);
        }
        Ok(Ok((path, stream)))
    }

    /// The longest a verified lease can be: two of them must fit the widest window that a stream can have, beside the part
    /// of it that the primary's own writing is given.
    pub(super) fn verified_max(&self) -> u64 {
        self.extra_window_max() / 2
    }

    /// Room that a grant takes of the session window for verified bytes. Spec: PROTOCOL §5.4.
    ///
    /// Bytes that wait for their digest lie where the stream's window has room for them, which is why the window must be
    /// wide enough to let them wait and the reader go on. Bytes that come twice have no room there a second time.
    fn room_for(&self, grant: &LeaseGrant, stream_id: StreamId) -> Room {
        let Some(stream) = self.streams.get(&stream_id) else {
            return Room::default();
        };
        let hedged = grant.hedge_of.and_then(|id| self.leases.get(id));
        let hedged =
            hedged.filter(|lease| lease.stream() == stream_id && lease.range().overlaps(grant.range));
        if grant.digest.is_none() {
            return Room { hedged: hedged.map_or(0, Live::own_room_wanted), ..Room::default() };
        }
        let len = grant.range.len();
        let twice = hedged.is_some() || stream.has_any(grant.range);
        // If all of what it hedges is here once it is, that is over; a part of it would be here twice.
        let outlived = hedged.filter(|hedged| !grant.range.contains(hedged.range()));
        let window = len.saturating_mul(2).saturating_sub(stream.window());
        let own = if twice { len } else { 0 };
        Room { window, own, hedged: outlived.map_or(0, Live::own_room_wanted) }
    }

    /// Bytes by which a window is to be widened for a verified lease beyond what it must, so that two of them fit beside what the
    /// primary's own writing is given.
    fn room_for_second(&self, grant: &LeaseGrant, stream: StreamId, room: Room) -> u64 {
        let window = self.streams.get(&stream).map_or(u64::MAX, |stream| stream.window() + room.window);
        let len = grant.range.len();
        let wanted = len.saturating_mul(2).saturating_add(len.min(limits::GUARANTEED_CREDIT));
        wanted.saturating_sub(window).min(self.extra_window_free().saturating_sub(room.total()))
    }

    /// Gives a verified lease room of its own, as somebody else is to bring its bytes into the stream's. Returns whether
    /// there is any.
    fn set_apart(&mut self, id: LeaseId) -> bool {
        let free = self.extra_window_free();
        let Some(lease) = self.leases.get_mut(id) else {
            return true;
        };
        let wanted = lease.own_room_wanted();
        if wanted <= free {
            lease.state.own_room += wanted;
            self.extra_window += wanted;
        }
        wanted <= free
    }

    /// The primary writes where leases may lie. What a verified one has brought of it would be held twice: if there is no
    /// room for that it ends, as the primary's own bytes are not to be refused.
    pub(super) fn make_room_beside_runs(&mut self, stream: StreamId, range: ByteRange) {
        let wanting = self.leases.overlapping(stream, range).filter(|(_, lease)| lease.own_room_wanted() > 0);
        let wanting: smallvec::SmallVec<[LeaseId; 2]> = wanting.map(|(id, _)| id).collect();
        for id in wanting {
            if !self.set_apart(id) {
                self.lose_lease(id, ErrorCode::NO_CREDIT, true);
            }
        }
    }

    /// Returns whether a grant overlaps nothing, or only the lease of another path that it is meant to. That lease may
    /// have been cut, or have ended, while the grant was on its way: what lies behind it is nobody's. Spec: PROTOCOL §5.2.
    fn may_overlap(&self, grant: &LeaseGrant, path: PathId, stream: StreamId) -> bool {
        let mut overlapped = self.leases.overlapping(stream, grant.range);
        overlapped.all(|(id, lease)| grant.hedge_of == Some(id) && lease.path() != path)
    }

    fn accept_grant(&mut self, now: Instant, grant: &LeaseGrant, path: PathId, stream: StreamId) {
        let id = grant.lease;
        let mut room = self.room_for(grant, stream);
        if grant.digest.is_some() {
            room.window += self.room_for_second(grant, stream, room);
        }
        let deadline = grant.deadline_ms.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
        let staging = grant.digest.map(|digest| Box::new(Staging::new(grant.range, digest)));
        let lease = Lease {
            job: grant.job,
            placed: 0,
            credit: 0,
            noticed: false,
            noticed_end: grant.range.end(),
            internal: None,
            deadline,
            suspended: None,
            staging,
            own_room: room.own,
            hedge_of: grant.hedge_of,
            contested: grant.hedge_of.is_some(),
            withdrawn: false,
            told: grant.progress.then_some(0),
        };
        self.extra_window += room.window + room.own;
        if let Some(stream) = self.streams.get_mut(&stream).filter(|_| room.window > 0) {
            stream.grow(room.window);
        }
        if let Some(hedged) = grant.hedge_of {
            if room.hedged > 0 {
                self.set_apart(hedged);
            }
            if let Some(hedged) = self.leases.get_mut(hedged) {
                hedged.state.contested = true;
            }
        }
        let inserted = self.leases.insert(id, path, stream, grant.range, lease);
        debug_assert!(inserted.is_ok(), "what a grant may overlap was checked");
        self.lease_deadlines.extend(deadline.map(|deadline| (deadline, id)));
        self.recredit.insert(stream); // a wider window is of use to others, even if this path is not active yet
        self.notice(id);
    }

    /// Tells an active path of a lease, with what it may send of it at once.
    pub(super) fn notice(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(id) else {
            return;
        };
        let (of, stream_id, range, job) = (lease.path(), lease.stream(), lease.range(), lease.state.job);
        let Some(path) = self.paths.get_mut(&of).filter(|path| path.state == State::Active) else {
            return; // noticed once the path is active
        };
        let Some(stream) = self.streams.get(&stream_id) else {
            return;
        };
        lease.state.noticed = true;
        lease.state.noticed_end = range.end();
        let credit = lease.allowed(stream.max_offset());
        path.highest_noticed = path.highest_noticed.max(Some(id));
        path.relook();
        let wanted = self.leases.count_of_path(of) as u64 + limits::UNI_SLACK;
        if wanted > path.permitted_uni {
            // Doubled, so that a growing queue costs few frames; bounded by the cap on live leases.
            path.permitted_uni = (wanted * 2).min(limits::LEASES_PER_PATH as u64 + limits::UNI_SLACK);
            self.actions.push_back(Action::PermitUni { path: of, count: path.permitted_uni });
        }
        self.send(of, Frame::LeaseNotice { lease: id, job, range, credit });
        self.recredit.insert(stream_id);
    }

    /// A secondary will not, or cannot, fill a lease.
    pub(super) fn on_lease_refused(
        &mut self,
        path: PathId,
        id: LeaseId,
        code: ErrorCode,
    ) -> Result<(), PeerFault> {
        match self.leases.get(id) {
            Some(lease) if lease.path() == path && lease.state.noticed => {
                self.end_refused(id, code);
                Ok(())
            }
            Some(_) => Err(PeerFault::LeaseOfOther),
            None if self.is_retired(path, id) => {
                self.late_frames += 1;
                Ok(())
            }
            None => Err(PeerFault::LeaseOfOther),
        }
    }

    /// Returns whether the path once had such a lease, as far as ids tell.
    pub(super) fn is_retired(&self, path: PathId, id: LeaseId) -> bool {
        let noticed = self.paths.get(&path).and_then(|path| path.highest_noticed);
        noticed.is_some_and(|highest| id <= highest) && !self.leases.contains(id)
    }

    /// The primary takes a lease back, or all of it but its first `keep` bytes. Spec: PROTOCOL §5.6.
    pub(super) fn revoke(&mut self, id: LeaseId, keep: u64, code: ErrorCode) -> Result<(), PeerFault> {
        let Some(lease) = self.leases.get(id) else {
            self.late_frames += 1;
            return Ok(());
        };
        let of = lease.path();
        if keep == 0 {
            self.source(of).leases_stolen += 1;
            self.withdraw_lease(id, code);
            return Ok(());
        }
        // A part of it has no digest; and a primary that knows nothing of mapping updates would take what is done for the
        // whole of it.
        if lease.state.staging.is_some() {
            return Err(PeerFault::CutOfVerified);
        }
        if !self.features.contains(Features::MAPPING_UPDATE) {
            return Err(PeerFault::CutUnsupported);
        }
        let (path, stream, start) = (lease.path(), lease.stream(), lease.range().start());
        // What is placed is placed: the cut falls behind it.
        let kept = keep.max(lease.state.placed);
        let (noticed, full) = (lease.state.noticed, kept == lease.state.placed);
        if self.leases.cut(id, start.saturating_add(kept)).is_some() {
            self.source(path).leases_stolen += 1;
            // A server that does not know of cuts writes on; what comes behind this one is late.
            let told =
                self.paths.get(&path).is_some_and(|path| path.features.contains(Features::MAPPING_UPDATE));
            if noticed && told {
                self.send(path, Frame::LeaseRevoke { lease: id, keep: kept, code });
            }
            if let Some(path) = self.paths.get_mut(&path) {
                path.relook();
            }
            self.recredit.insert(stream);
        }
        // Told even if nothing is left to cut: the primary waits to hear where the lease ends.
        self.tell_mapping(MappingOperation::Update, id, None);
        if full {
            self.finish_lease(id);
        }
        Ok(())
    }

    /// Tells the primary what happened to a mapping; `range` is the lease's if not given.
    pub(super) fn tell_mapping(
        &mut self,
        operation: MappingOperation,
        id: LeaseId,
        range: Option<ByteRange>,
    ) {
        let Some(lease) = self.leases.get(id) else {
            return;
        };
        if !self.features.contains(Features::MAPPING_UPDATE) {
            return;
        }
        let (stream, range) = (lease.stream(), range.unwrap_or_else(|| lease.range()));
        self.tell_primary(Frame::StreamMappingUpdate { operation, stream, lease: id, range });
    }

    /// Every byte of a lease is placed.
    pub(super) fn finish_lease(&mut self, id: LeaseId) {
        if let Some((stream, range)) = self.close_full(id) {
            self.supersede(stream, range);
        }
    }

    /// Ends a lease of which every byte is placed; what that means to others is its caller's to see to.
    pub(super) fn close_full(&mut self, id: LeaseId) -> Option<(StreamId, ByteRange)> {
        let lease = self.drop_lease(id)?;
        self.source(lease.path()).leases_done += 1;
        self.forgive(lease.path());
        if lease.range().end() < lease.state.noticed_end {
            // It was cut, and its server may not have heard of it: what comes behind the cut is late.
            self.unmap(&lease, ErrorCode::LEASE_REVOKED);
        }
        self.tell_primary(Frame::LeaseDone { lease: id });
        self.recredit.insert(lease.stream());
        Some((lease.stream(), lease.range()))
    }

    /// Ends the leases of which every byte has come from somebody else. Spec: PROTOCOL §5.2.
    pub(super) fn supersede(&mut self, stream: StreamId, range: ByteRange) {
        let overlapped: smallvec::SmallVec<[LeaseId; 2]> =
            self.leases.overlapping(stream, range).map(|(id, _)| id).collect();
        for id in overlapped {
            if self.is_all_here(id) {
                self.lose_lease(id, ErrorCode::LEASE_REVOKED, true);
            }
        }
    }

    /// Ends a lease before its end: the primary learns what is missing. With `tell_path` its path is told to stop.
    pub(super) fn lose_lease(&mut self, id: LeaseId, code: ErrorCode, tell_path: bool) {
        let Some(lease) = self.drop_lease(id) else {
            self.late_frames += 1;
            return;
        };
        self.source(lease.path()).leases_lost += 1;
        self.unmap(&lease, code);
        if tell_path && lease.state.noticed && self.paths.contains_key(&lease.path()) {
            self.send(lease.path(), Frame::LeaseRevoke { lease: id, keep: 0, code });
        }
        let missing = self
            .streams
            .get(&lease.stream())
            .map(|stream| stream.missing(lease.range(), limits::REPEATED_MAX).collect())
            .unwrap_or_default();
        self.tell_primary(Frame::LeaseLost { lease: id, code, missing });
        self.recredit.insert(lease.stream());
    }

    /// Ends a lease because its primary wants it no more, or did not give it time to come.
    pub(super) fn withdraw_lease(&mut self, id: LeaseId, code: ErrorCode) {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.state.withdrawn = lease.state.placed == 0;
        }
        self.lose_lease(id, code, true);
    }

    /// Ends a lease that its server will not fill. What its core refuses should not have been asked of it; what its
    /// application does was a fair question.
    pub(super) fn end_refused(&mut self, id: LeaseId, code: ErrorCode) {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.state.withdrawn = lease.state.placed == 0 && code.check_own().is_err();
        }
        self.lose_lease(id, code, false);
    }

    /// Ends every lease of a path. A path that is silent, not dead, is told, should it ever listen again.
    pub(super) fn lose_leases_of(&mut self, path: PathId, code: ErrorCode) {
        let tell_path = self.is_live(path);
        let leases: Vec<LeaseId> = self.leases.of_path(path).map(|(id, _)| id).collect();
        for lease in leases {
            self.lose_lease(lease, code, tell_path);
        }
    }

    /// Instant at which the first lease is past its deadline.
    pub(super) fn lease_deadline(&self) -> Option<Instant> {
        self.lease_deadlines.first().map(|&(at, _)| at)
    }

    /// Ends the leases whose time is up.
    pub(super) fn expire_leases(&mut self, now: Instant) {
        while let Some(&(_, id)) = self.lease_deadlines.first().filter(|&&(at, _)| at <= now) {
            self.withdraw_lease(id, ErrorCode::AGGREGATION_TIMEOUT);
        }
    }

    /// Wants no more of the internal stream of a lease that is over.
    fn unmap(&mut self, lease: &Live<Lease>, code: ErrorCode) {
        let mapped = self.paths.get_mut(&lease.path()).zip(lease.state.internal);
        if let Some((path, stream)) = mapped {
            path.internal.remove(&stream);
            self.actions.push_back(Action::StopInternal { path: lease.path(), stream, code });
        }
    }

    fn drop_lease(&mut self, id: LeaseId) -> Option<Live<Lease>> {
        let lease = self.leases.remove(id)?;
        if let Some(deadline) = lease.state.deadline {
            self.lease_deadlines.remove(&(deadline, id));
        }
        self.extra_window -= lease.state.own_room.min(self.extra_window);
        if let Some(path) = self.paths.get_mut(&lease.path()) {
            path.forget_front(id, lease.state.placed);
            path.relook();
            if !lease.state.withdrawn {
                path.errands.earn(ERRANDS_PER_LEASE);
            }
        }
        if !lease.state.withdrawn {
            self.account.earn(price::LEASE_OVER);
        }
        Some(lease)
    }
}

/// Room to set aside of the session window.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// For the stream's window, which is too narrow.
    window: u64,
    /// For the lease's own bytes, if they may be in the stream already before they count.
    own: u64,
    /// For those of the verified lease that it hedges.
    hedged: u64,
}

impl Room {
    fn total(self) -> u64 {
        self.window.saturating_add(self.own).saturating_add(self.hedged)
    }
}

/// Answers that an honest primary may get instead of a lease.
enum Answer {
    Done,
    Refused(ErrorCode),
}
