//! Commands that only servers have: those of a primary, and those of a secondary. Spec: RATIONALE §3, PROTOCOL §5.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Machine, NewJob, NewLease, NewPath, Session, primary::Primary};
use crate::{
    action::{JobInfo, LeaseInfo, LeaseOutcome, LeaseStatus, PathInfo, PathState, ReaderStatus, RunId},
    error::{AddPathError, ApiMisuse, ErrorCode, LeaseError, LeaseWriteError, PathDead},
    id::{ByteRange, JobId, LeaseId, PathId, StreamId},
    quic::Written,
};

/// The commands of a primary. In any other role they fail, or find nothing.
impl Session {
    fn primary(&self) -> Option<&Primary> {
        match &self.machine {
            Machine::Primary(primary) => Some(primary),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    fn primary_mut(&mut self, now: Instant) -> Option<&mut Primary> {
        self.touch(now);
        match &mut self.machine {
            Machine::Primary(primary) => Some(primary),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Asks the client to attach one more server. What becomes of it is told by [`Self::path_state`].
    ///
    /// # Errors
    /// - [`AddPathError::Misuse`] if this is no primary.
    /// - [`AddPathError::LimitExceeded`] if as many paths are alive as may be.
    /// - [`AddPathError::InvalidAddress`] if nobody could be reached there.
    /// - [`AddPathError::SessionClosed`] once the session is over.
    pub fn add_path(&mut self, now: Instant, path: NewPath) -> Result<PathId, AddPathError> {
        if self.lost.is_some() {
            return Err(AddPathError::SessionClosed);
        }
        let primary = self.primary_mut(now).ok_or(AddPathError::Misuse(ApiMisuse::WrongRole))?;
        primary.add_path(path)
    }

    /// Asks the client to close a path; its leases are lost.
    ///
    /// # Errors
    /// - [`PathDead`] if there is no such path, or it is gone already.
    pub fn remove_path(&mut self, now: Instant, path: PathId) -> Result<(), PathDead> {
        self.drain_path(now, path, Duration::ZERO)
    }

    /// Asks the client to close a path once its leases are over, or after `patience` with what is left of them lost.
    /// The path takes no more of them. Asked again, the shorter time counts. Spec: PROTOCOL §8.
    ///
    /// # Errors
    /// - [`PathDead`] if there is no such path, or it is gone already.
    pub fn drain_path(&mut self, now: Instant, path: PathId, patience: Duration) -> Result<(), PathDead> {
        let removed = self.primary_mut(now).is_some_and(|primary| primary.remove_path(path, patience));
        if removed { Ok(()) } else { Err(PathDead) }
    }

    /// Returns the state of a path; `None` if there was none with this id, or so long ago that it is forgotten.
    pub fn path_state(&self, path: PathId) -> Option<PathState> {
        self.primary()?.path_state(path)
    }

    /// Lists the paths of the session, dead ones included, in the order they were added.
    pub fn paths(&self) -> Vec<PathInfo> {
        self.primary().map(Primary::paths).unwrap_or_default()
    }

    /// Returns what is known of one path, dead ones included.
    pub fn path(&self, path: PathId) -> Option<PathInfo> {
        self.primary()?.path(path)
    }

    /// Announces work for one path on one stream, and splits the stream if it is not split. The job's payload goes
    /// to the path's application; leases may be granted before it answers.
    ///
    /// # Errors
    /// One of [`LeaseError`].
    pub fn open_job(&mut self, now: Instant, stream: StreamId, job: NewJob) -> Result<JobId, LeaseError> {
        let native = self.split_point(stream)?;
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.open_job(stream, native, job)
    }

    /// Returns whether the path's application accepted the job, or with what code it was refused; `None` before.
    pub fn job_answer(&self, job: JobId) -> Option<Result<(), ErrorCode>> {
        self.primary().map_or(Some(Err(ErrorCode::INVALID_STREAM_ROLE)), |primary| primary.job_answer(job))
    }

    /// Says that no more leases of the job will be granted; those that live go on.
    pub fn close_job(&mut self, now: Instant, job: JobId) {
        if let Some(primary) = self.primary_mut(now) {
            primary.close_job(job);
        }
    }

    /// Gives a range of the job's stream to its path. How it goes is told by [`Self::lease_status`], how it ends by
    /// [`Self::lease_outcome`].
    ///
    /// # Errors
    /// One of [`LeaseError`].
    pub fn lease(&mut self, now: Instant, lease: &NewLease) -> Result<LeaseId, LeaseError> {
        if self.lost.is_some() {
            return Err(LeaseError::SessionClosed);
        }
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.lease(lease)
    }

    /// Takes a lease back, or all of it but its first `keep` bytes. What has arrived meanwhile stays: a lease that is cut
    /// ends where its bytes have come to, if that is later; [`Self::take_cut`] tells what it gave back. A longer `keep` than the
    /// lease changes nothing. Spec: PROTOCOL §5.6.
    ///
    /// # Errors
    /// - [`LeaseError::NotLive`] if it is over.
    /// - [`LeaseError::Verified`] if it has a digest and would be cut.
    /// - [`LeaseError::Misuse`] if this is no primary.
    pub fn revoke_lease(&mut self, now: Instant, lease: LeaseId, keep: u64) -> Result<(), LeaseError> {
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.revoke(lease, keep)
    }

    /// Takes what cuts of a lease gave back and nobody else is to bring; `None` until the client has answered one. To be
    /// asked before the outcome is taken, which forgets it.
    pub fn take_cut(&mut self, lease: LeaseId) -> Option<Vec<ByteRange>> {
        match &mut self.machine {
            Machine::Primary(primary) => primary.take_cut(lease),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Returns how a live lease goes; `None` once it is over.
    pub fn lease_status(&self, lease: LeaseId) -> Option<LeaseStatus> {
        self.primary()?.lease_status(lease)
    }

    /// Returns the parts of a range that nobody has written or been given, or that were lost or cut off: what can be
    /// leased or written. Empty if the stream is not split. The part before the split is never anybody's.
    pub fn unowned(&self, stream: StreamId, range: ByteRange) -> Vec<ByteRange> {
        self.primary().map(|primary| primary.unowned(stream, range)).unwrap_or_default()
    }

    /// Takes the offset that the reader of a stream waits for and nobody is to bring, if the client has asked for it since
    /// this was last called. Unless somebody is given it, the reader is told after the client's gap timeout.
    pub fn take_gap(&mut self, stream: StreamId) -> Option<u64> {
        match &mut self.machine {
            Machine::Primary(primary) => primary.take_gap(stream),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Returns how far the reader of a split stream is, as of the last [`Event::Progress`] that told of it.
    ///
    /// [`Event::Progress`]: crate::Event::Progress
    pub fn reader(&self, stream: StreamId) -> Option<ReaderStatus> {
        self.primary()?.reader(stream)
    }

    /// Returns the number of reports of progress that have come.
    pub fn progress_reports(&self) -> u64 {
        self.primary().map(Primary::reports).unwrap_or_default()
    }

    /// Asks the client what it has of a split stream; [`Self::take_received`] tells once it has answered.
    ///
    /// # Errors
    /// - [`LeaseError::ClosedStream`] if the stream is not split, complete or stopped.
    /// - [`LeaseError::Unsupported`] if the client cannot tell.
    /// - [`LeaseError::Misuse`] if this is no primary.
    pub fn sync(&mut self, now: Instant, stream: StreamId) -> Result<(), LeaseError> {
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.sync(stream)
    }

    /// Takes what the client had of a stream when it answered; `None` until then. Spec: PROTOCOL §6.
    pub fn take_received(&mut self, stream: StreamId) -> Option<Vec<ByteRange>> {
        match &mut self.machine {
            Machine::Primary(primary) => primary.take_received(stream),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Takes the outcome of a lease, once it is known.
    pub fn lease_outcome(&mut self, lease: LeaseId) -> Option<LeaseOutcome> {
        match &mut self.machine {
            Machine::Primary(primary) => primary.lease_outcome(lease),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Says that nobody will ask for the outcome of a lease. The lease goes on.
    pub fn forget_lease(&mut self, lease: LeaseId) {
        if let Machine::Primary(primary) = &mut self.machine {
            primary.forget_lease(lease);
        }
    }

    /// Starts a run: bytes that this primary writes itself, at an offset of its choice. Splits the stream if needed. At
    /// most 64 exist at a time; one exists until its outcome is taken or it is let go of.
    ///
    /// # Errors
    /// One of [`LeaseError`].
    pub fn write_at(
        &mut self,
        now: Instant,
        stream: StreamId,
        range: ByteRange,
    ) -> Result<RunId, LeaseError> {
        let native = self.split_point(stream)?;
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.write_at(stream, native, range)
    }

    /// Starts a run inside the range of a live lease: what comes first counts. The run is done with the lease.
    ///
    /// # Errors
    /// - [`LeaseError::NotLive`] if the lease is over.
    /// - [`LeaseError::Overlap`] if the range is not all the lease's, or another run has some of it.
    /// - Others as [`Self::write_at`].
    pub fn hedge(&mut self, now: Instant, lease: LeaseId, range: ByteRange) -> Result<RunId, LeaseError> {
        if self.lost.is_some() {
            return Err(LeaseError::SessionClosed);
        }
        let primary = self.primary_mut(now).ok_or(LeaseError::Misuse(ApiMisuse::WrongRole))?;
        primary.hedge(lease, range)
    }

    /// Writes as much of `chunks` to a run as there is credit and room for, as [`Self::write`] does.
    ///
    /// # Errors
    /// One of [`LeaseWriteError`].
    pub fn write_run(
        &mut self,
        now: Instant,
        run: RunId,
        chunks: &mut [Bytes],
    ) -> Result<Written, LeaseWriteError> {
        self.write_to_run(now, run, chunks)
    }

    /// Takes the outcome of a run: done once every byte has arrived at the client.
    pub fn run_outcome(&mut self, run: RunId) -> Option<LeaseOutcome> {
        match &mut self.machine {
            Machine::Primary(primary) => primary.run_outcome(run),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Secondary(_) => None,
        }
    }

    /// Lets go of a run. An incomplete one ends where it is: what was not written of its range can be leased or written
    /// again; [`Self::unowned`] tells which part that is.
    pub fn reset_run(&mut self, now: Instant, run: RunId) {
        let Some(primary) = self.primary_mut(now) else {
            return;
        };
        if primary.forget_run(run) {
            self.end_run_stream(run);
        }
    }

    /// Number of a stream's native bytes, if it can be sent on: where it is split, if it is now.
    fn split_point(&mut self, stream: StreamId) -> Result<u64, LeaseError> {
        if self.lost.is_some() {
            return Err(LeaseError::SessionClosed);
        }
        let half = self.links.home.outbound.half(stream).ok_or(LeaseError::ClosedStream)?;
        let (native, finished) = (half.written, half.is_finished());
        let split = self.primary().is_some_and(|primary| primary.split_stream(stream).is_some());
        let home = &mut *self.links.home;
        let stopped = !matches!(home.quic.stopped(stream), Some(None));
        if !split && (finished || stopped) {
            return Err(LeaseError::ClosedStream);
        }
        // The client must be able to tell an application stream from an internal one even if no native byte follows.
        if let Some(half) = home.outbound.half_mut(stream) {
            half.flush(&mut home.quic, stream);
        }
        Ok(native)
    }
}

/// The commands of a secondary. In any other role they fail, or find nothing.
impl Session {
    /// Returns by when the path ends, once the client has said that no more work comes. Spec: PROTOCOL §8.
    pub fn draining(&self) -> Option<Instant> {
        match &self.machine {
            Machine::Secondary(secondary) => secondary.draining(),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Primary(_) => None,
        }
    }

    /// Takes a job the primary has sealed for this path.
    pub fn accept_job(&mut self) -> Option<JobInfo> {
        match &mut self.machine {
            Machine::Secondary(secondary) => secondary.accept_job(),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Primary(_) => None,
        }
    }

    /// Tells the primary that the job is accepted. Later calls do nothing.
    pub fn take_job(&mut self, now: Instant, job: JobId) {
        self.touch(now);
        if let Machine::Secondary(secondary) = &mut self.machine {
            secondary.take_job(job);
        }
    }

    /// Refuses a job, before or after it was accepted; leases that were not handed out end with it.
    ///
    /// # Errors
    /// - [`ApiMisuse::ReservedCode`] if `code` is one of KWIK's; nothing was done.
    pub fn refuse_job(&mut self, now: Instant, job: JobId, code: ErrorCode) -> Result<(), ApiMisuse> {
        code.check_own()?;
        self.touch(now);
        if let Machine::Secondary(secondary) = &mut self.machine {
            secondary.refuse_job(job, code);
        }
        Ok(())
    }

    /// Takes the next lease of a job; `None` if none waits.
    ///
    /// # Errors
    /// - The code the job ended with, `NO_ERROR` if the primary closed it: no more leases come.
    pub fn next_lease(&mut self, job: JobId) -> Result<Option<LeaseInfo>, ErrorCode> {
        if let Some(cause) = &self.lost {
            return Err(super::path_code(cause));
        }
        match &mut self.machine {
            Machine::Secondary(secondary) => secondary.next_lease(job),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Primary(_) => {
                Err(ErrorCode::INVALID_STREAM_ROLE)
            }
        }
    }

    /// Writes as much of `chunks` to a lease as there is credit and room for, as [`Self::write`] does. The lease
    /// ends by itself with its last byte.
    ///
    /// # Errors
    /// One of [`LeaseWriteError`].
    pub fn write_lease(
        &mut self,
        now: Instant,
        lease: LeaseId,
        chunks: &mut [Bytes],
    ) -> Result<Written, LeaseWriteError> {
        self.write_to_lease(now, lease, chunks)
    }

    /// Lets go of a lease. An incomplete one is given up with `code`, which the primary is told.
    ///
    /// # Errors
    /// - [`ApiMisuse::ReservedCode`] if `code` is one of KWIK's; nothing was done.
    pub fn reset_lease(&mut self, now: Instant, lease: LeaseId, code: ErrorCode) -> Result<(), ApiMisuse> {
        code.check_own()?;
        self.let_go(now, lease, code);
        Ok(())
    }

    /// Lets go of a lease without a word of the application's: an incomplete one is given up with `LEASE_SHORT`.
    pub fn drop_lease(&mut self, now: Instant, lease: LeaseId) {
        self.let_go(now, lease, ErrorCode::LEASE_SHORT);
    }

    fn let_go(&mut self, now: Instant, lease: LeaseId, code: ErrorCode) {
        self.touch(now);
        if let Machine::Secondary(secondary) = &mut self.machine {
            secondary.reset_lease(lease, code);
        }
    }
}
