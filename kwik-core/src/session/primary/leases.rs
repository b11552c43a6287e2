//! Leases at the primary: given, hedged, cut, taken back, and what is left over when they end. Spec: PROTOCOL §5.

use smallvec::SmallVec;

use super::{Lease, NewLease, Primary, Run};
use crate::{
    action::{Event, LeaseOutcome, LeaseStatus, PathState, RunId},
    error::{ErrorCode, LeaseError, PeerFault},
    id::{ByteRange, LeaseId, StreamId},
    lease::table::Live,
    limits,
    session::action::Action,
    stream::ranges::RangeSet,
    wire::{Features, Frame, LeaseGrant, MappingOperation, Ranges},
};

impl Primary {
    pub(in crate::session) fn lease(&mut self, new: &NewLease) -> Result<LeaseId, LeaseError> {
        let range = new.range;
        let needed = [
            (new.digest.is_some(), Features::DIGEST),
            (new.deadline.is_some(), Features::DEADLINE),
            (new.hedge_of.is_some(), Features::HEDGE),
        ];
        if needed.iter().any(|&(needed, feature)| needed && !self.features.contains(feature)) {
            return Err(LeaseError::Unsupported);
        }
        let hedge_of = match new.hedge_of.map(|name| self.retries.current(name)) {
            Some(None) => return Err(LeaseError::NotLive),
            Some(current) => current,
            None => None,
        };
        let job = self.jobs.get_mut(&new.job).ok_or(LeaseError::JobClosed)?;
        // The end of a path refuses its jobs as well: what it names is the path. Spec: RATIONALE §8.
        let path = self.paths.get_mut(&job.path).ok_or(LeaseError::PathDead)?;
        if matches!(path.state, PathState::Dead(_)) {
            return Err(LeaseError::PathDead);
        }
        if matches!(job.answer, Some(Err(_))) {
            return Err(LeaseError::JobClosed);
        }
        if !job.range.contains(range) || range.len() > job.left || range.len() > limits::LEASE_MAX {
            return Err(LeaseError::OutsideJob);
        }
        match path.state {
            PathState::Degraded => return Err(LeaseError::PathSilent),
            PathState::Draining => return Err(LeaseError::PathDead),
            PathState::Connecting | PathState::Active | PathState::Dead(_) => {}
        }
        // What the reader of a stream needs before all that the path has of it is never too much: those further on may have
        // no credit before.
        let wary = path.quota < limits::LEASES_PER_PATH && {
            let of = self.leases.of_path(job.path).filter(|(_, lease)| lease.stream() == job.stream);
            let starts: SmallVec<[u64; 16]> = of.map(|(_, lease)| lease.range().start()).collect();
            starts.len() >= path.quota && starts.iter().any(|start| *start < range.end())
        };
        let full = wary
            || self.leases.count_of_stream(job.stream) >= limits::LEASES_PER_STREAM
            || self.leases.count_of_path(job.path) >= limits::LEASES_PER_PATH
            || self.leases.len() >= limits::LEASES_PER_SESSION;
        if full {
            return Err(LeaseError::LimitExceeded);
        }
        let stream = self.streams.get_mut(&job.stream).filter(|stream| stream.is_open());
        let stream = stream.ok_or(LeaseError::ClosedStream)?;
        match hedge_of {
            None => stream.claim(range).map_err(|_| LeaseError::Overlap)?,
            Some(hedged) => {
                let hedged = self.leases.get(hedged).ok_or(LeaseError::NotLive)?;
                let elsewhere = hedged.stream() != job.stream || !hedged.range().contains(range);
                let alone = self.leases.overlapping(job.stream, range).count() == 1;
                if elsewhere || !alone || hedged.path() == job.path {
                    return Err(LeaseError::Overlap);
                }
            }
        }
        job.left -= range.len();
        let id = LeaseId::new(self.next_lease);
        self.next_lease += 1;
        let verified = new.digest.is_some();
        let progress = new.progress && self.features.contains(Features::PROGRESS);
        if let Some(path) = self.paths.get_mut(&job.path) {
            path.progress.asked |= progress;
        }
        let arrived = progress.then_some(0);
        let lease = Lease {
            begun: false,
            stalled: None,
            arrived,
            verified,
            revoked: false,
            cuts_asked: 0,
            forgotten: false,
        };
        let job_stream = job.stream;
        let inserted = self.leases.insert(id, job.path, job_stream, range, lease);
        debug_assert!(inserted.is_ok(), "nobody has the range, or only the lease that is hedged");
        self.tell(Frame::LeaseGrant(LeaseGrant {
            lease: id,
            job: new.job,
            range,
            digest: new.digest,
            deadline_ms: new.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
            hedge_of,
            progress,
        }));
        self.retries.insert(id, new, job_stream);
        Ok(id)
    }

    /// Asks for a lease to end: all of it, or what lies behind its first `keep` bytes.
    pub(in crate::session) fn revoke(&mut self, name: LeaseId, keep: u64) -> Result<(), LeaseError> {
        let Some(id) = self.retries.current(name) else {
            let ended = keep == 0 && self.end_pause(name, ErrorCode::LEASE_REVOKED);
            return if ended { Ok(()) } else { Err(LeaseError::NotLive) };
        };
        if keep == 0 {
            return if self.take_back(id, ErrorCode::LEASE_REVOKED) {
                Ok(())
            } else {
                Err(LeaseError::NotLive)
            };
        }
        let lease = self.leases.get_mut(id).ok_or(LeaseError::NotLive)?;
        if lease.state.verified {
            return Err(LeaseError::Verified);
        }
        if !self.features.contains(Features::MAPPING_UPDATE) {
            return Err(LeaseError::Unsupported);
        }
        if keep < lease.range().len() {
            lease.state.cuts_asked = lease.state.cuts_asked.saturating_add(1);
            self.tell(Frame::LeaseRevoke { lease: id, keep, code: ErrorCode::LEASE_REVOKED });
        }
        Ok(())
    }

    /// Asks for all of a lease to end with `code`. Returns whether it lives.
    pub(super) fn take_back(&mut self, id: LeaseId, code: ErrorCode) -> bool {
        let Some(lease) = self.leases.get_mut(id) else {
            return false;
        };
        lease.state.revoked = true;
        self.tell(Frame::LeaseRevoke { lease: id, keep: 0, code });
        true
    }

    pub(in crate::session) fn lease_status(&self, name: LeaseId) -> Option<LeaseStatus> {
        let Some(id) = self.retries.current(name) else {
            return self.pausing_status(name);
        };
        self.leases.get(id).map(|lease| LeaseStatus {
            path: lease.path(),
            stream: lease.stream(),
            range: lease.range(),
            begun: lease.state.begun,
            arrived: lease.state.arrived.unwrap_or_default(),
            stalled: lease.state.stalled,
        })
    }

    /// Takes what cuts of a lease gave back, once the client has said where it ends.
    pub(in crate::session) fn take_cut(&mut self, id: LeaseId) -> Option<Vec<ByteRange>> {
        self.cuts.remove(&id)
    }

    /// Takes the outcome of a lease, once it is known.
    pub(in crate::session) fn lease_outcome(&mut self, id: LeaseId) -> Option<LeaseOutcome> {
        let outcome = self.outcomes.remove(&id)?;
        self.cuts.remove(&id);
        Some(outcome)
    }

    /// The application does not want to know what becomes of a lease.
    pub(in crate::session) fn forget_lease(&mut self, name: LeaseId) {
        self.outcomes.remove(&name);
        self.cuts.remove(&name);
        let current = self.retries.current(name);
        if let Some(lease) = current.and_then(|id| self.leases.get_mut(id)) {
            lease.state.forgotten = true;
        }
        self.retries.forget(name);
    }

    /// The client tells what became of a mapping.
    pub(super) fn on_mapping(
        &mut self,
        operation: MappingOperation,
        stream: StreamId,
        id: LeaseId,
        range: ByteRange,
    ) -> Result<(), PeerFault> {
        if id.into_inner() >= self.next_lease {
            return Err(PeerFault::LeaseUnknown);
        }
        let Some(lease) = self.leases.get_mut(id) else {
            self.late_frames += 1;
            return Ok(());
        };
        if lease.stream() != stream || !lease.range().contains(range) {
            return Err(PeerFault::LeaseOutside);
        }
        let before = (lease.state.begun, lease.state.stalled);
        match operation {
            MappingOperation::Create => lease.state.begun = true,
            MappingOperation::Suspend => lease.state.stalled = Some(range),
            MappingOperation::Resume => lease.state.stalled = None,
            MappingOperation::Update => {
                // Only the primary decides that a lease is cut; the client says where.
                let asked = lease.state.cuts_asked.checked_sub(1);
                let (Some(left), true) = (asked, range.start() == lease.range().start()) else {
                    return Err(PeerFault::CutUnasked);
                };
                lease.state.cuts_asked = left;
                let (forgotten, path) = (lease.state.forgotten, lease.path());
                let gone = self.leases.cut(id, range.end());
                if let Some(path) = self.paths.get_mut(&path).filter(|_| gone.is_some()) {
                    path.stolen += 1;
                }
                let free = gone.map(|gone| self.release(stream, gone)).unwrap_or_default();
                if !forgotten {
                    self.cuts.entry(self.retries.name(id)).or_default().extend(free);
                }
            }
        }
        let changed = operation == MappingOperation::Update
            || self.leases.get(id).is_some_and(|lease| (lease.state.begun, lease.state.stalled) != before);
        if changed {
            let name = self.retries.name(id);
            self.actions.push_back(Action::Notify(Event::LeaseChanged(name)));
        }
        Ok(())
    }

    pub(super) fn end_lease(&mut self, id: LeaseId, lost: Option<(ErrorCode, Ranges)>) {
        let Some(lease) = self.leases.remove(id) else {
            self.late_frames += 1;
            return;
        };
        if let Some(path) = self.paths.get_mut(&lease.path()) {
            match &lost {
                None => {
                    path.done += 1;
                    path.bytes_done += lease.range().len();
                    path.quota = (path.quota * 2).min(limits::LEASES_PER_PATH);
                }
                Some((code, missing)) => {
                    path.lost += 1;
                    // One of which nothing is missing any more ends with the same code, whoever asked for it.
                    let stolen = lease.state.revoked && *code == ErrorCode::LEASE_REVOKED;
                    path.stolen += u64::from(stolen && !missing.is_empty());
                }
            }
        }
        let name = self.retries.name(id);
        let outcome = match lost {
            None => {
                self.end_hedges(id, lease.range());
                LeaseOutcome::Done
            }
            Some((code, missing)) => {
                let missing: Vec<ByteRange> =
                    missing.iter().flat_map(|range| self.release(lease.stream(), *range)).collect();
                let wanted = !lease.state.forgotten && !lease.state.revoked;
                if wanted && self.retries.on_lost(self.now, id, code, &missing) {
                    self.actions.push_back(Action::Notify(Event::LeaseChanged(name)));
                    return;
                }
                LeaseOutcome::Lost { code, missing }
            }
        };
        self.retries.forget(name);
        if !lease.state.forgotten {
            self.outcomes.insert(name, outcome);
            self.actions.push_back(Action::Notify(Event::LeaseEnded(name)));
        }
    }

    /// Every byte of a lease is at the client: what this server was to bring of it is there as well.
    fn end_hedges(&mut self, lease: LeaseId, range: ByteRange) {
        let of =
            |run: &Run| run.hedge_of == Some(lease) && run.outcome.is_none() && range.contains(run.range);
        let hedges: Vec<RunId> = self.runs.iter().filter(|(_, run)| of(run)).map(|(&id, _)| id).collect();
        for run in hedges {
            self.on_run_end(run, None);
            self.actions.push_back(Action::EndRun { run });
        }
    }

    /// The parts of `range` that nobody has written or been given, or of which what was given is lost.
    pub(in crate::session) fn unowned(&self, stream: StreamId, range: ByteRange) -> Vec<ByteRange> {
        self.streams.get(&stream).map(|split| split.unowned(range).collect()).unwrap_or_default()
    }

    /// Gives back what of `range` nobody else is to fill, and returns it.
    pub(super) fn release(&mut self, stream: StreamId, range: ByteRange) -> Vec<ByteRange> {
        let mut owned = RangeSet::default();
        for (_, lease) in self.leases.overlapping(stream, range) {
            owned.insert(Live::range(lease));
        }
        for run in self.runs.values().filter(|run| run.stream == stream && run.outcome.is_none()) {
            owned.insert(run.range);
        }
        let free: Vec<ByteRange> = owned.missing(range).collect();
        if let Some(split) = self.streams.get_mut(&stream) {
            free.iter().for_each(|range| split.release(*range));
        }
        free
    }
}
