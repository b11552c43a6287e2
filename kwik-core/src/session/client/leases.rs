//! Jobs and leases at the client: every grant is checked, noticed to its path, and answered exactly once.
//! Spec: KWIK §5.

use super::{Client, Job, Lease};
use crate::{
    error::ErrorCode,
    id::{JobId, LeaseId, PathId},
    limits,
    path::state::State,
    session::action::Action,
    wire::{Frame, JobOpen, LeaseGrant},
};

impl Client {
    /// The primary has work for a path.
    pub(super) fn open_job(&mut self, open: JobOpen) -> Result<(), ErrorCode> {
        // A secondary insists that they rise, and would blame the client that passes them on.
        if self.last_job.is_some_and(|last| open.job <= last) || open.path.is_primary() {
            return Err(ErrorCode::METADATA_PROTOCOL_VIOLATION);
        }
        self.last_job = Some(open.job);
        let Some(path) = self.paths.get_mut(&open.path) else {
            return self.refuse_job(&open, ErrorCode::PATH_NOT_FOUND);
        };
        if !path.state.is_live() {
            return self.refuse_job(&open, ErrorCode::PATH_DEAD);
        }
        // As the primary counts: one that was refused is no work any more, though its owner may still hold on to it.
        let taken = |job: &&Job| job.path == open.path && job.closed.is_none();
        if self.jobs.values().filter(taken).count() >= limits::JOBS_PER_PATH {
            return self.refuse_job(&open, ErrorCode::LIMIT_EXCEEDED);
        }
        let job = Job { path: open.path, stream: open.stream, range: open.range, closed: None };
        self.jobs.insert(open.job, job);
        if path.state.is_attaching() {
            path.held_jobs.push(open);
        } else {
            self.send(open.path, Frame::JobOpen(open));
        }
        Ok(())
    }

    fn refuse_job(&mut self, open: &JobOpen, code: ErrorCode) -> Result<(), ErrorCode> {
        self.tell_primary(Frame::JobRefused { job: open.job, code });
        Ok(())
    }

    /// The primary wants no more of a job; leases that the path knows go on.
    pub(super) fn close_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else {
            self.late_frames += 1;
            return;
        };
        let Some(path) = self.paths.get_mut(&job.path).filter(|path| path.state.is_live()) else {
            return;
        };
        let held = path.held_jobs.len();
        path.held_jobs.retain(|open| open.job != id);
        if path.held_jobs.len() == held {
            self.send(job.path, Frame::JobClose { job: id });
        } else {
            // The path never heard of the job, so nobody there could fill its leases.
            self.lose_leases_of_job(job.path, id, ErrorCode::LEASE_REVOKED);
        }
    }

    /// A secondary accepts a job, or refuses it with a code.
    pub(super) fn on_job_answer(
        &mut self,
        path: PathId,
        id: JobId,
        refused: Option<ErrorCode>,
    ) -> Result<(), ErrorCode> {
        match self.jobs.get_mut(&id) {
            Some(job) if job.path != path => return Err(ErrorCode::METADATA_PROTOCOL_VIOLATION),
            // What was refused stays refused: the primary, too, counts on it.
            Some(job) if job.closed.is_some() => self.late_frames += 1,
            Some(job) => {
                job.closed = refused;
                self.tell_primary(match refused {
                    None => Frame::JobAccepted { job: id },
                    Some(code) => Frame::JobRefused { job: id, code },
                });
            }
            None => self.late_frames += 1, // closed while the answer was on its way
        }
        if let Some(code) = refused {
            self.lose_leases_of_job(path, id, code);
            self.forget_refused(path);
        }
        Ok(())
    }

    /// Refused jobs are remembered for the code that leases on their way are refused with; not without end, because
    /// they do not count, and it is the primary that has to close them.
    fn forget_refused(&mut self, path: PathId) {
        let refused = || self.jobs.iter().filter(|(_, job)| job.path == path && job.closed.is_some());
        if refused().count() > limits::JOBS_PER_PATH {
            let oldest = refused().next().map(|(&id, _)| id);
            oldest.map(|id| self.jobs.remove(&id));
        }
    }

    /// Ends what a path was given of a job, closed or not.
    fn lose_leases_of_job(&mut self, path: PathId, job: JobId, code: ErrorCode) {
        let of = self.leases.iter().filter(|(_, lease)| lease.job == job && lease.path == path);
        let leases: Vec<LeaseId> = of.map(|(&lease, _)| lease).collect();
        for lease in leases {
            self.lose_lease(lease, code, false);
        }
    }

    /// The primary gives a range to a path.
    pub(super) fn grant(&mut self, grant: LeaseGrant) -> Result<(), ErrorCode> {
        let unasked = grant.digest.is_some() || grant.deadline_ms.is_some() || grant.hedge_of.is_some();
        if unasked || self.last_lease.is_some_and(|last| grant.lease <= last) {
            return Err(ErrorCode::FRAME_UNEXPECTED);
        }
        self.last_lease = Some(grant.lease);
        match self.check_grant(&grant)? {
            Ok(lease) => {
                let path = lease.path;
                self.leases.insert(grant.lease, lease);
                if let Some(path) = self.paths.get_mut(&path) {
                    path.leases.insert(grant.lease);
                }
                self.notice(grant.lease);
            }
            Err(Answer::Done) => self.tell_primary(Frame::LeaseDone { lease: grant.lease }),
            Err(Answer::Refused(code)) => self.tell_primary(Frame::LeaseRefused { lease: grant.lease, code }),
        }
        Ok(())
    }

    /// What breaks a rule is an outer error; what an honest primary may run into is an answer.
    fn check_grant(&mut self, grant: &LeaseGrant) -> Result<Result<Lease, Answer>, ErrorCode> {
        let refused = |code| Ok(Err(Answer::Refused(code)));
        let Some(job) = self.jobs.get(&grant.job) else {
            return refused(ErrorCode::PATH_DEAD); // refused because its path is gone, or closed
        };
        if let Some(code) = job.closed {
            return refused(code);
        }
        if !job.range.contains(grant.range) || grant.range.len() > limits::LEASE_MAX {
            return Err(ErrorCode::LEASE_VIOLATION);
        }
        let Some(stream) = self.streams.get_mut(&job.stream) else {
            return refused(ErrorCode::STREAM_CLOSED);
        };
        if grant.range.start() < stream.base() {
            return Err(ErrorCode::LEASE_VIOLATION);
        }
        stream.claim(grant.range.end()).map_err(|_| ErrorCode::FINAL_SIZE)?;
        if stream.missing(grant.range, 1).next().is_none() {
            return Ok(Err(Answer::Done));
        }
        let on_stream = self.leases.values().filter(|lease| lease.stream == job.stream);
        let (mut count, mut taken) = (0, false);
        for lease in on_stream {
            count += 1;
            taken |= lease.range.overlaps(grant.range);
        }
        if taken {
            return refused(ErrorCode::STREAM_MAPPING_CONFLICT);
        }
        let Some(path) = self.paths.get(&job.path) else {
            return refused(ErrorCode::PATH_NOT_FOUND);
        };
        match path.state {
            State::Dead(_) => return refused(ErrorCode::PATH_DEAD),
            State::Degraded => return refused(ErrorCode::PATH_STALLED),
            State::Connecting | State::Authenticating | State::Active => {}
        }
        let full = count >= limits::LEASES_PER_STREAM
            || path.leases.len() >= limits::LEASES_PER_PATH
            || self.leases.len() >= limits::LEASES_PER_SESSION;
        if full {
            return refused(ErrorCode::LIMIT_EXCEEDED);
        }
        Ok(Ok(Lease {
            job: grant.job,
            path: job.path,
            stream: job.stream,
            range: grant.range,
            placed: 0,
            credit: 0,
            noticed: false,
            internal: None,
        }))
    }

    /// Tells an active path of a lease, with what it may send of it at once.
    pub(super) fn notice(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let Some(path) = self.paths.get_mut(&lease.path).filter(|path| path.state == State::Active) else {
            return; // noticed once the path is active
        };
        let Some(stream) = self.streams.get(&lease.stream) else {
            return;
        };
        lease.noticed = true;
        path.highest_noticed = path.highest_noticed.max(Some(id));
        path.touched = true;
        let wanted = path.leases.len() as u64 + limits::UNI_SLACK;
        if wanted > path.permitted_uni {
            // Doubled, so that a growing queue costs few frames; bounded by the cap on live leases.
            path.permitted_uni = (wanted * 2).min(limits::LEASES_PER_PATH as u64 + limits::UNI_SLACK);
            self.actions.push_back(Action::PermitUni { path: lease.path, count: path.permitted_uni });
        }
        let credit = lease.allowed(stream.max_offset());
        let notice = Frame::LeaseNotice { lease: id, job: lease.job, range: lease.range, credit };
        let (path, stream) = (lease.path, lease.stream);
        self.send(path, notice);
        self.recredit.insert(stream);
    }

    /// A secondary will not, or cannot, fill a lease.
    pub(super) fn on_lease_refused(
        &mut self,
        path: PathId,
        id: LeaseId,
        code: ErrorCode,
    ) -> Result<(), ErrorCode> {
        match self.leases.get(&id) {
            Some(lease) if lease.path == path && lease.noticed => {
                self.lose_lease(id, code, false);
                Ok(())
            }
            Some(_) => Err(ErrorCode::LEASE_VIOLATION),
            None if self.is_retired(path, id) => {
                self.late_frames += 1;
                Ok(())
            }
            None => Err(ErrorCode::LEASE_VIOLATION),
        }
    }

    /// Returns whether the path once had such a lease, as far as ids tell.
    pub(super) fn is_retired(&self, path: PathId, id: LeaseId) -> bool {
        let noticed = self.paths.get(&path).and_then(|path| path.highest_noticed);
        noticed.is_some_and(|highest| id <= highest) && !self.leases.contains_key(&id)
    }

    /// Every byte of a lease is placed.
    pub(super) fn finish_lease(&mut self, id: LeaseId) {
        if let Some(lease) = self.drop_lease(id) {
            self.source(lease.path).leases_done += 1;
            self.tell_primary(Frame::LeaseDone { lease: id });
            self.recredit.insert(lease.stream);
        }
    }

    /// Ends a lease before its end: the primary learns what is missing. With `tell_path` its path is told to stop.
    pub(super) fn lose_lease(&mut self, id: LeaseId, code: ErrorCode, tell_path: bool) {
        let Some(lease) = self.drop_lease(id) else {
            self.late_frames += 1;
            return;
        };
        self.source(lease.path).leases_lost += 1;
        if let Some(path) = self.paths.get_mut(&lease.path) {
            if let Some(internal) = lease.internal {
                path.internal.remove(&internal);
                self.actions.push_back(Action::StopInternal { path: lease.path, stream: internal, code });
            }
            if tell_path && lease.noticed {
                self.send(lease.path, Frame::LeaseRevoke { lease: id, keep: 0, code });
            }
        }
        let missing = self
            .streams
            .get(&lease.stream)
            .map(|stream| stream.missing(lease.range, limits::REPEATED_MAX).collect())
            .unwrap_or_default();
        self.tell_primary(Frame::LeaseLost { lease: id, code, missing });
        self.recredit.insert(lease.stream);
    }

    /// Ends every lease of a path. A path that is silent, not dead, is told, should it ever listen again.
    pub(super) fn lose_leases_of(&mut self, path: PathId, code: ErrorCode) {
        let Some(state) = self.paths.get(&path) else {
            return;
        };
        let tell_path = state.state.is_live();
        let leases: Vec<LeaseId> = state.leases.iter().copied().collect();
        for lease in leases {
            self.lose_lease(lease, code, tell_path);
        }
    }

    fn drop_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(path) = self.paths.get_mut(&lease.path) {
            path.leases.remove(&id);
            path.touched = true;
        }
        Some(lease)
    }
}

/// What an honest primary may be told instead of getting a lease.
enum Answer {
    Done,
    Refused(ErrorCode),
}
