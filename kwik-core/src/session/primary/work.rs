//! Work on a split stream that a primary gives away, and that it does itself: jobs, leases, runs. Spec: PROTOCOL §5.

use smallvec::SmallVec;

use super::{Job, NewJob, Primary, RETRIES, Run};
use crate::{
    action::{Event, LeaseOutcome, PathState, RunId},
    error::{ApiMisuse, ErrorCode, LeaseError},
    id::{ByteRange, JobId, LeaseId, OFFSET_MAX, StreamId},
    limits,
    session::{
        action::Action,
        question::{Draft, JobDraft},
    },
    stream::send::SplitSend,
    wire::Frame,
};

impl Primary {
    pub(in crate::session) fn open_job(
        &mut self,
        stream: StreamId,
        native: u64,
        new: NewJob,
    ) -> Result<JobId, LeaseError> {
        if new.payload.len() > limits::JOB_PAYLOAD_MAX {
            return Err(ApiMisuse::TooLong.into());
        }
        let path = self.paths.get(&new.path).ok_or(LeaseError::PathDead)?;
        if matches!(path.state, PathState::Draining | PathState::Dead(_)) {
            return Err(LeaseError::PathDead);
        }
        let open = |job: &&Job| job.path == new.path && !matches!(job.answer, Some(Err(_)));
        if self.jobs.values().filter(open).count() >= limits::JOBS_PER_PATH {
            return Err(LeaseError::LimitExceeded);
        }
        self.split(stream, native)?;
        let id = JobId::new(self.next_job);
        self.next_job += 1;
        let total = new.total.unwrap_or_else(|| new.range.len().saturating_mul(RETRIES)).min(OFFSET_MAX);
        self.jobs.insert(id, Job { stream, path: new.path, range: new.range, left: total, answer: None });
        self.sign(Draft::Job(JobDraft {
            session: self.session,
            path: new.path,
            job: id,
            stream,
            range: new.range,
            total,
            lifetime: new.lifetime,
            payload: new.payload,
        }));
        Ok(id)
    }

    pub(in crate::session) fn job_answer(&self, job: JobId) -> Option<Result<(), ErrorCode>> {
        match self.jobs.get(&job) {
            Some(job) => job.answer,
            None => Some(Err(ErrorCode::STREAM_CLOSED)),
        }
    }

    /// Leases that live go on; the path learns that no more will come.
    pub(in crate::session) fn close_job(&mut self, id: JobId) {
        if self.jobs.remove(&id).is_some() {
            self.tell(Frame::JobClose { job: id });
        }
    }

    // Split streams and runs.

    pub(in crate::session) fn split_stream(&self, stream: StreamId) -> Option<&SplitSend> {
        self.streams.get(&stream)
    }

    /// Makes a stream split, of which `native` bytes have been written, unless it is already.
    fn split(&mut self, stream: StreamId, native: u64) -> Result<(), LeaseError> {
        if let Some(split) = self.streams.get(&stream) {
            return if split.is_open() { Ok(()) } else { Err(LeaseError::ClosedStream) };
        }
        // As the client counts: what is complete, or wanted no more, needs no credit. Spec: PROTOCOL §4.
        if self.streams.values().filter(|split| split.is_open()).count() >= self.split_max {
            return Err(LeaseError::NoCredit);
        }
        self.streams.insert(stream, SplitSend::new(native));
        self.splits_sent += 1;
        self.tell(Frame::Split { stream, offset: native });
        Ok(())
    }

    /// Number of splits that the client has answered, whatever became of the streams.
    pub(in crate::session) fn splits(&self) -> usize {
        self.splits
    }

    pub(in crate::session) fn write_at(
        &mut self,
        stream: StreamId,
        native: u64,
        range: ByteRange,
    ) -> Result<RunId, LeaseError> {
        if self.runs.len() >= limits::RUNS_MAX {
            return Err(LeaseError::LimitExceeded);
        }
        self.split(stream, native)?;
        let split = self.streams.get_mut(&stream).ok_or(LeaseError::ClosedStream)?;
        split.claim(range).map_err(|_| LeaseError::Overlap)?;
        Ok(self.start_run(stream, range, None))
    }

    /// Starts a run in the range of a live lease, so that what comes first counts.
    pub(in crate::session) fn hedge(
        &mut self,
        lease: LeaseId,
        range: ByteRange,
    ) -> Result<RunId, LeaseError> {
        if self.runs.len() >= limits::RUNS_MAX {
            return Err(LeaseError::LimitExceeded);
        }
        let lease = self.retries.current(lease).ok_or(LeaseError::NotLive)?;
        let hedged = self.leases.get(lease).ok_or(LeaseError::NotLive)?;
        let stream = hedged.stream();
        let live = |run: &&Run| run.stream == stream && run.outcome.is_none();
        let taken = self.runs.values().filter(live).any(|run| run.range.overlaps(range));
        if taken || !hedged.range().contains(range) {
            return Err(LeaseError::Overlap);
        }
        Ok(self.start_run(stream, range, Some(lease)))
    }

    fn start_run(&mut self, stream: StreamId, range: ByteRange, hedge_of: Option<LeaseId>) -> RunId {
        let id = RunId(self.next_run);
        self.next_run += 1;
        self.runs.insert(id, Run { stream, range, hedge_of, sent: 0, outcome: None, forgotten: false });
        id
    }

    /// Bytes that a run may send now.
    pub(in crate::session) fn run_allowance(&self, id: RunId) -> Result<RunAllowance, ErrorCode> {
        let run = self.runs.get(&id).ok_or(ErrorCode::STREAM_CLOSED)?;
        match &run.outcome {
            Some(LeaseOutcome::Lost { code, .. }) => return Err(*code),
            // Somebody else has brought what it was to bring.
            Some(LeaseOutcome::Done) if run.sent < run.range.len() => return Err(ErrorCode::LEASE_REVOKED),
            Some(LeaseOutcome::Done) | None => {}
        }
        let split = self.streams.get(&run.stream).ok_or(ErrorCode::STREAM_CLOSED)?;
        let offset = run.range.start() + run.sent;
        let left = run.range.len() - run.sent;
        let hedges = run.hedge_of.is_some();
        let now = split.allowance(offset, left);
        let behind = split.hole().filter(|hole| now == 0 && left > 0 && hole.start() < offset);
        Ok(RunAllowance { stream: run.stream, offset, left, now, hedges, behind })
    }

    /// `len` bytes of a run were handed to QUIC. Returns whether it is all of the run.
    pub(in crate::session) fn on_run_sent(&mut self, id: RunId, len: u64) -> bool {
        let Some(run) = self.runs.get_mut(&id) else {
            return false;
        };
        let offset = run.range.start() + run.sent;
        run.sent += len;
        if let Some(split) = self.streams.get_mut(&run.stream) {
            split.on_sent(offset, len);
        }
        run.sent == run.range.len()
    }

    /// The run's internal stream arrived whole, or ended with a code before.
    pub(in crate::session) fn on_run_end(&mut self, id: RunId, lost: Option<ErrorCode>) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.outcome.is_none()) else {
            return;
        };
        let (stream, range, forgotten) = (run.stream, run.range, run.forgotten);
        run.outcome = Some(match lost {
            None => LeaseOutcome::Done,
            Some(code) => LeaseOutcome::Lost { code, missing: Vec::new() },
        });
        if lost.is_some() {
            // What arrived before is unknown here; all of it is given back, and duplicates do no harm.
            let free = self.release(stream, range);
            if let Some(Run { outcome: Some(LeaseOutcome::Lost { missing, .. }), .. }) =
                self.runs.get_mut(&id)
            {
                *missing = free;
            }
        }
        if forgotten {
            self.runs.remove(&id);
        } else {
            self.actions.push_back(Action::Notify(Event::RunWritable(id)));
        }
    }

    pub(in crate::session) fn run_outcome(&mut self, id: RunId) -> Option<LeaseOutcome> {
        let outcome = self.runs.get(&id)?.outcome.clone()?;
        self.runs.remove(&id);
        Some(outcome)
    }

    /// The application lets go of a run. Returns whether it was incomplete: then it ends where it is, and the rest of
    /// its range is free again. What was sent still arrives, or credit that it took would be lost for good.
    pub(in crate::session) fn forget_run(&mut self, id: RunId) -> bool {
        let Some(run) = self.runs.get_mut(&id) else {
            return false;
        };
        if run.outcome.is_some() {
            self.runs.remove(&id);
            return false;
        }
        run.forgotten = true;
        let (stream, range, sent) = (run.stream, run.range, run.sent);
        let Some(rest) = ByteRange::between(range.start() + sent, range.end()) else {
            return false;
        };
        match ByteRange::new(range.start(), sent) {
            Some(kept) => run.range = kept,
            None => drop(self.runs.remove(&id)),
        }
        self.release(stream, rest);
        true
    }

    /// Range in which sequential writing goes on in a split stream, and number of its bytes that may be sent now.
    pub(in crate::session) fn sequential_allowance(&self, stream: StreamId) -> Option<(ByteRange, u64)> {
        let split = self.streams.get(&stream)?;
        let gap = split.next_gap()?;
        Some((gap, split.allowance(gap.start(), gap.len())))
    }

    pub(in crate::session) fn on_sequential_sent(&mut self, stream: StreamId, gap: ByteRange, len: u64) {
        if let Some(split) = self.streams.get_mut(&stream) {
            split.advance(gap, len);
            split.on_sent(gap.start(), len);
        }
    }

    /// Fixes the size of a split stream. Returns whether it was open.
    pub(in crate::session) fn finish(&mut self, stream: StreamId) -> bool {
        let Some(split) = self.streams.get_mut(&stream) else {
            return false;
        };
        let Some(size) = split.finish() else {
            return false;
        };
        self.tell(Frame::StreamFinal { stream, size });
        true
    }

    /// A split stream is over before its end: by the application's reset, or because the client wants no more.
    pub(in crate::session) fn end_stream(&mut self, stream: StreamId, code: ErrorCode) {
        let Some(split) = self.streams.get_mut(&stream) else {
            return;
        };
        split.on_stopped(code);
        self.end_work(stream, ErrorCode::STREAM_CLOSED);
    }

    /// Ends what is still going on for a stream: leases, jobs, runs.
    pub(super) fn end_work(&mut self, stream: StreamId, code: ErrorCode) {
        let leases: Vec<(LeaseId, ByteRange)> =
            self.leases.of_stream(stream).map(|(id, lease)| (id, lease.range())).collect();
        for (lease, range) in leases {
            self.end_lease(lease, Some((code, SmallVec::from_slice(&[range]))));
        }
        self.end_pauses_of(stream, code);
        let runs: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| run.stream == stream).map(|(&id, _)| id).collect();
        for run in runs {
            self.on_run_end(run, Some(code));
        }
        let jobs: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.stream == stream).map(|(&id, _)| id).collect();
        for job in jobs {
            self.close_job(job);
            self.actions.push_back(Action::Notify(Event::JobAnswered(job)));
        }
    }

    /// The native stream is closed on our side: nothing of the split stream is needed any more.
    pub(in crate::session) fn forget_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        if self.syncs.remove(&stream).is_some() {
            self.actions.push_back(Action::Notify(Event::Synced(stream))); // it will not be answered any more
        }
        self.gaps.remove(&stream);
        self.readers.remove(&stream);
    }
}

/// Bytes that a run may send now.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct RunAllowance {
    pub(in crate::session) stream: StreamId,
    /// Stream offset of the next byte.
    pub(in crate::session) offset: u64,
    /// Bytes of the run that were not sent yet.
    pub(in crate::session) left: u64,
    /// Number of them that have credit.
    pub(in crate::session) now: u64,
    /// It is in the range of a lease: the client does not know that this server could use credit there.
    pub(in crate::session) hedges: bool,
    /// None have, and the reader waits for these bytes, which nobody is to bring.
    pub(in crate::session) behind: Option<ByteRange>,
}
