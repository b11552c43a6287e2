//! Jobs at the client: what the primary has for a path, and what the path's server says to it. Spec: PROTOCOL §5.1.

use std::time::Instant;

use super::{Client, Job};
use crate::{
    error::{ErrorCode, PeerFault},
    id::{JobId, LeaseId, PathId},
    limits,
    session::price,
    wire::{Frame, JobOpen},
};

/// Errands that a job pays for once its server accepts it: another like it, and a lease of that.
const ERRANDS_PER_JOB: u64 = 2;

impl Client {
    /// The primary has work for a path.
    pub(super) fn open_job(&mut self, now: Instant, open: JobOpen) -> Result<(), PeerFault> {
        // A secondary insists that they rise, and would blame the client that passes them on.
        if self.last_job.is_some_and(|last| open.job <= last) {
            return Err(PeerFault::JobNotNew);
        }
        if open.path.is_primary() {
            return Err(PeerFault::JobOfPrimary);
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
        // Nothing has come of those it was sent before. Spec: PROTOCOL §11.4.
        if path.errands.take(now, 1).is_err() {
            return self.refuse_job(&open, ErrorCode::EXCESSIVE_LOAD);
        }
        let job =
            Job { path: open.path, stream: open.stream, range: open.range, accepted: false, closed: None };
        self.jobs.insert(open.job, job);
        if path.state.is_attaching() {
            path.held_jobs.push(open);
        } else {
            self.send(open.path, Frame::JobOpen(open));
        }
        Ok(())
    }

    fn refuse_job(&mut self, open: &JobOpen, code: ErrorCode) -> Result<(), PeerFault> {
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
            let of = self.leases.of_path(job.path).filter(|(_, lease)| lease.state.job == id);
            let leases: Vec<LeaseId> = of.map(|(lease, _)| lease).collect();
            for lease in leases {
                self.withdraw_lease(lease, ErrorCode::LEASE_REVOKED);
            }
        }
    }

    /// A secondary accepts a job, or refuses it with a code.
    pub(super) fn on_job_answer(
        &mut self,
        path: PathId,
        id: JobId,
        refused: Option<ErrorCode>,
    ) -> Result<(), PeerFault> {
        match self.jobs.get_mut(&id) {
            Some(job) if job.path != path => return Err(PeerFault::JobOfOther),
            // What was refused stays refused: the primary, too, counts on it.
            Some(job) if job.closed.is_some() => self.late_frames += 1,
            // Said again: nobody needs to hear of it.
            Some(job) if job.accepted && refused.is_none() => self.late_frames += 1,
            Some(job) => {
                job.closed = refused;
                let first = !std::mem::replace(&mut job.accepted, true);
                // Accepted, or refused by the application that was asked: either way it was genuine.
                if first && refused.is_none_or(|code| code.check_own().is_ok()) {
                    self.account.earn(price::JOB_GENUINE);
                    if let Some(path) = self.paths.get_mut(&path) {
                        path.errands.earn(ERRANDS_PER_JOB);
                    }
                }
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
        let of = self.leases.of_path(path).filter(|(_, lease)| lease.state.job == job);
        let leases: Vec<LeaseId> = of.map(|(lease, _)| lease).collect();
        for lease in leases {
            self.end_refused(lease, code);
        }
    }
}
