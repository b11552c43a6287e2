//! The primary's side of a stream that many fill: jobs, leases, and ranges of its own.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    error::{JobError, RangeWriteError},
    session::{Key, SessionRef},
    stream::{self, Sink},
};
use crate::{
    action::{LeaseOutcome, LeaseStatus, ReaderStatus, RunId},
    error::{ConnectionError, LeaseError},
    id::{ByteRange, JobId, LeaseId, StreamId},
    session::{NewJob, NewLease, Written},
};

/// Hands out ranges of one stream. Clones name the same stream; many tasks may use them at once. Primary only.
///
/// The stream itself is still ended by its [`SendStream`](super::SendStream).
///
/// [`SendStream::distribute`](super::SendStream::distribute) gives an object out without any of this. Whoever does it by hand
/// has one rule to keep: a reader in order takes nothing behind a hole, and so there is no room behind one for long. What a
/// lease was lost with has to be given to somebody as soon as that is known, before anything else, and over any number of
/// leases that a path is allowed; [`RangeWriter`]s must not be awaited before [`Lease::outcome`]s. Where the reader waits
/// for 250 ms for what nobody is to bring, a writer behind it ends its wait with [`RangeWriteError::Behind`], and the last lease
/// behind it that has not begun ends as lost, with `NO_CREDIT`: each makes a place for what is missing. Spec: RATIONALE §6.
#[derive(Clone, Debug)]
pub struct Ranges {
    session: SessionRef,
    stream: StreamId,
}

impl Ranges {
    pub(super) const fn new(session: SessionRef, stream: StreamId) -> Self {
        Self { session, stream }
    }

    pub(super) const fn session(&self) -> &SessionRef {
        &self.session
    }

    /// Opens a job: what one path may be asked to supply for this stream. Spec: PROTOCOL §5.
    ///
    /// # Errors
    /// - [`LeaseError::PathDead`] if the path takes no work.
    /// - [`LeaseError::ClosedStream`], [`LeaseError::SessionClosed`] if there is nothing left to fill.
    /// - [`LeaseError::LimitExceeded`], [`LeaseError::NoCredit`] if there is no room for one more.
    /// - [`LeaseError::Misuse`] if this is not a primary, or the payload is too long.
    pub fn open_job(&self, job: NewJob) -> Result<Job, LeaseError> {
        let (id, unsigned) = self.session.with(|s| {
            let now = s.now();
            let id = s.core.open_job(now, self.stream, job)?;
            s.notify();
            Ok::<_, LeaseError>((id, s.core.poll_question()))
        })?;
        let job = Job { open: Arc::new(OpenJob { session: self.session.clone(), id }) };
        if let Some(question) = unsigned {
            self.session.answer(question);
        }
        Ok(job)
    }

    /// Sets a range aside for this server's own bytes, wherever it lies in the stream.
    ///
    /// # Errors
    /// - [`LeaseError::Overlap`] if any of it was written, leased or set aside before.
    /// - [`LeaseError::ClosedStream`], [`LeaseError::SessionClosed`] if there is nothing left to fill.
    /// - [`LeaseError::LimitExceeded`], [`LeaseError::NoCredit`] if there is no room for one more.
    /// - [`LeaseError::Misuse`] if this is not a primary.
    pub fn write_at(&self, range: ByteRange) -> Result<RangeWriter, LeaseError> {
        let run = self.session.with(|s| {
            let now = s.now();
            let run = s.core.write_at(now, self.stream, range)?;
            s.notify();
            Ok::<_, LeaseError>(run)
        })?;
        Ok(RangeWriter { session: self.session.clone(), run, range, written: 0, outcome: None })
    }

    /// Returns the parts of `range` that nobody has written or been given, or that were lost or cut off.
    #[must_use]
    pub fn unowned(&self, range: ByteRange) -> Vec<ByteRange> {
        self.session.with(|s| s.core.unowned(self.stream, range))
    }

    /// Waits until the reader waits for bytes that nobody is to bring, and returns from where on. Unless somebody is given
    /// them, the reader is told after the client's gap timeout. Cancel-safe.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended first.
    pub async fn gap(&self) -> Result<u64, ConnectionError> {
        let stream = self.stream;
        self.session
            .wait(Key::Gap(stream), |s| match s.core.take_gap(stream) {
                Some(from) => Some(Ok(from)),
                None => s.error.clone().map(Err),
            })
            .await
    }

    /// Returns how far the reader is, as the client last told of it in a report of progress; `None` before. Spec: PROTOCOL §7.28.
    #[must_use]
    pub fn reader(&self) -> Option<ReaderStatus> {
        self.session.with(|s| s.core.reader(self.stream))
    }

    /// Asks the client what it has of the stream, from where it was split on. Spec: PROTOCOL §6.
    ///
    /// # Errors
    /// - [`LeaseError::ClosedStream`] if the stream is not split, complete or stopped, or is so before the answer comes.
    /// - [`LeaseError::Unsupported`] if the client cannot tell.
    /// - [`LeaseError::SessionClosed`] if the session ended first.
    pub async fn received(&self) -> Result<Vec<ByteRange>, LeaseError> {
        let stream = self.stream;
        self.session.with(|s| {
            let now = s.now();
            s.core.sync(now, stream)?;
            s.notify();
            Ok::<_, LeaseError>(())
        })?;
        self.session
            .wait(Key::Synced(stream), |s| match s.core.take_received(stream) {
                Some(received) => Some(Ok(received)),
                None if s.error.is_some() => Some(Err(LeaseError::SessionClosed)),
                // Asked again, it is not asked twice; but the stream may be over by now.
                None => {
                    let asked = s.core.sync(s.now(), stream);
                    s.notify(); // somebody else may have taken the answer, and then this is a new question
                    asked.err().map(Err)
                }
            })
            .await
    }

    /// Returns the stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.stream
    }
}

/// A job on one path. Leases may wait for credit behind what the reader waits for, however many there are; what is lost
/// elsewhere can always be leased as well. It is closed when its last clone and its last [`Lease`] are dropped.
#[derive(Clone, Debug)]
pub struct Job {
    open: Arc<OpenJob>,
}

impl Job {
    /// Returns the job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.open.id
    }

    /// Waits until the secondary has accepted the job. Leases may be given out before.
    ///
    /// # Errors
    /// - [`JobError::Refused`] if it was refused; all its leases are lost then.
    /// - [`JobError::ConnectionLost`] if the session ended first.
    pub async fn accepted(&self) -> Result<(), JobError> {
        let id = self.open.id;
        self.open
            .session
            .wait(Key::Job(id), |s| match s.core.job_answer(id) {
                Some(answer) => Some(answer.map_err(JobError::Refused)),
                None => s.error.clone().map(|error| Err(JobError::ConnectionLost(error))),
            })
            .await
    }

    /// Gives the path the right to fill `range`, which must lie within the job. Spec: PROTOCOL §5.
    ///
    /// # Errors
    /// - [`LeaseError::JobClosed`] if the job was refused or closed.
    /// - [`LeaseError::PathDead`] if its path is gone or removed.
    /// - [`LeaseError::PathSilent`] if it is silent for now: `PrimarySession::path_heard` waits for it.
    /// - [`LeaseError::OutsideJob`] if the range is not the job's to fill.
    /// - [`LeaseError::Overlap`] if any of it was written, leased or set aside before.
    /// - Others as [`Ranges::open_job`].
    pub fn lease(&self, range: ByteRange) -> Result<Lease, LeaseError> {
        self.lease_with(NewLease::new(self.open.id, range))
    }

    /// Gives out a lease with a digest or a deadline, or one that hedges another. It must be of this job.
    ///
    /// # Errors
    /// - [`LeaseError::JobClosed`] if it is of another job.
    /// - [`LeaseError::NotLive`] if the lease to be hedged is over.
    /// - Others as [`Self::lease`].
    #[expect(clippy::needless_pass_by_value, reason = "built for this call")]
    pub fn lease_with(&self, lease: NewLease) -> Result<Lease, LeaseError> {
        if lease.job() != self.open.id {
            return Err(LeaseError::JobClosed);
        }
        let id = self.open.session.with(|s| {
            let now = s.now();
            let id = s.core.lease(now, &lease)?;
            s.notify();
            Ok::<_, LeaseError>(id)
        })?;
        Ok(Lease { job: self.open.clone(), id, range: lease.range(), outcome: None })
    }
}

/// Closes the job in the core when nothing refers to it any more.
struct OpenJob {
    session: SessionRef,
    id: JobId,
}

impl Drop for OpenJob {
    fn drop(&mut self) {
        self.session.with(|s| {
            if s.error.is_none() {
                let now = s.now();
                s.core.close_job(now, self.id);
                s.notify();
            }
        });
    }
}

impl fmt::Debug for OpenJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// A range that a path fills. What is missing of it at its end nobody is to bring: see [`Ranges`] for how soon somebody
/// should. Dropping it gives up knowing how it ends, not the lease; see [`Job`] for what does.
#[derive(Debug)]
pub struct Lease {
    job: Arc<OpenJob>,
    id: LeaseId,
    range: ByteRange,
    outcome: Option<LeaseOutcome>,
}

impl Lease {
    /// Returns the lease's id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns the range as it was leased.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Returns how the lease goes, as the client last told; `None` once it is over.
    #[must_use]
    pub fn status(&self) -> Option<LeaseStatus> {
        self.job.session.with(|s| s.core.lease_status(self.id))
    }

    /// Waits until the lease stalls: its path is silent, or its bytes stay away for too long. Returns what was missing
    /// of it then, or `None` if it ended without. Cancel-safe.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended first.
    pub async fn stalled(&self) -> Result<Option<ByteRange>, ConnectionError> {
        let id = self.id;
        self.job
            .session
            .wait(Key::LeaseStatus(id), |s| match s.core.lease_status(id) {
                Some(LeaseStatus { stalled: None, .. }) => s.error.clone().map(Err),
                Some(LeaseStatus { stalled, .. }) => Some(Ok(stalled)),
                None => Some(Ok(None)),
            })
            .await
    }

    /// Takes the lease back: it ends as lost, with what is missing of it.
    ///
    /// # Errors
    /// - [`LeaseError::NotLive`] if it is over.
    pub fn revoke(&self) -> Result<(), LeaseError> {
        self.shorten(0)
    }

    /// Takes back what lies behind the first `keep` bytes, and returns what of that nobody else is to bring. What has
    /// arrived when the client hears of it stays, so the lease may end later than that. Returns nothing if the lease is
    /// not longer, or ends first: its outcome says what is missing then.
    ///
    /// # Errors
    /// - [`LeaseError::NotLive`] if it is over.
    /// - [`LeaseError::Verified`] if it has a digest; it can be revoked.
    /// - [`LeaseError::SessionClosed`] if the session ended first.
    pub async fn cut(&self, keep: u64) -> Result<Vec<ByteRange>, LeaseError> {
        if keep == 0 || keep >= self.range.len() {
            return Ok(Vec::new());
        }
        self.shorten(keep)?;
        let id = self.id;
        self.job
            .session
            .wait(Key::LeaseStatus(id), |s| match s.core.take_cut(id) {
                Some(cut) => Some(Ok(cut)),
                None if s.error.is_some() => Some(Err(LeaseError::SessionClosed)),
                None => s.core.lease_status(id).is_none().then(|| Ok(Vec::new())),
            })
            .await
    }

    fn shorten(&self, keep: u64) -> Result<(), LeaseError> {
        self.job.session.with(|s| {
            let now = s.now();
            s.core.revoke_lease(now, self.id, keep)?;
            s.notify();
            Ok(())
        })
    }

    /// Sets a part of the lease's range aside for this server's own bytes as well: what comes first counts.
    ///
    /// # Errors
    /// - [`LeaseError::NotLive`] if it is over.
    /// - [`LeaseError::Overlap`] if the range is not all the lease's, or hedged so already.
    /// - Others as [`Ranges::write_at`].
    pub fn hedge(&self, range: ByteRange) -> Result<RangeWriter, LeaseError> {
        let session = &self.job.session;
        let run = session.with(|s| {
            let now = s.now();
            let run = s.core.hedge(now, self.id, range)?;
            s.notify();
            Ok::<_, LeaseError>(run)
        })?;
        Ok(RangeWriter { session: session.clone(), run, range, written: 0, outcome: None })
    }

    /// Waits for the end of the lease. Cancel-safe, and may be called again.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended first.
    pub async fn outcome(&mut self) -> Result<LeaseOutcome, ConnectionError> {
        if let Some(outcome) = &self.outcome {
            return Ok(outcome.clone());
        }
        let (id, kept) = (self.id, &mut self.outcome);
        self.job
            .session
            .wait(Key::Lease(id), |s| match s.core.lease_outcome(id) {
                Some(outcome) => Some(Ok(kept.insert(outcome).clone())),
                None => s.error.clone().map(Err),
            })
            .await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            self.job.session.with(|s| {
                if s.core.lease_outcome(self.id).is_none() && s.error.is_none() {
                    s.unwatched.leases.insert(self.id);
                }
            });
        }
    }
}

/// Writes one range of a stream from its start, this server's own bytes.
///
/// Dropping it before all of the range is written gives the rest up: it is missing then, and may be set aside or leased
/// again. Once all is written, dropping it only gives up knowing when the bytes have arrived.
#[derive(Debug)]
pub struct RangeWriter {
    session: SessionRef,
    run: RunId,
    range: ByteRange,
    written: u64,
    outcome: Option<LeaseOutcome>,
}

impl RangeWriter {
    /// Returns the range as it was set aside.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Returns how many bytes are still to be written.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.range.len().saturating_sub(self.written)
    }

    /// Writes some of `buf`, as much as is accepted at once, and returns how many bytes. Cancel-safe.
    ///
    /// # Errors
    /// - [`RangeWriteError::ConnectionLost`] if the session is over.
    /// - [`RangeWriteError::Ended`] if the stream ended or the client wants no more of it.
    /// - [`RangeWriteError::PastEnd`] if `buf` is longer than what remains; nothing was written.
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, RangeWriteError> {
        stream::write(self, buf).await
    }

    /// Writes all of `buf`. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all(&mut self, buf: &[u8]) -> Result<(), RangeWriteError> {
        stream::write_all(self, buf).await
    }

    /// Writes some of `bufs` without copying; as [`SendStream::write_chunks`](super::SendStream::write_chunks).
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Written, RangeWriteError> {
        stream::write_chunks(self, bufs).await
    }

    /// Writes all of `bufs` without copying. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all_chunks(&mut self, bufs: &mut [Bytes]) -> Result<(), RangeWriteError> {
        stream::write_all_chunks(self, bufs).await
    }

    /// Waits until the whole range, which must be written by now, has arrived, or is lost. Cancel-safe.
    ///
    /// # Errors
    /// - [`RangeWriteError::Short`] if not all of the range was written.
    /// - [`RangeWriteError::ConnectionLost`] if the session ended first.
    pub async fn finish(&mut self) -> Result<LeaseOutcome, RangeWriteError> {
        if let Some(outcome) = &self.outcome {
            return Ok(outcome.clone());
        }
        let (run, remaining, kept) = (self.run, self.remaining(), &mut self.outcome);
        self.session
            .wait(Key::Run(run), |s| match s.core.run_outcome(run) {
                Some(outcome) => Some(Ok(kept.insert(outcome).clone())),
                None if remaining > 0 => Some(Err(RangeWriteError::Short(remaining))),
                None => s.error.clone().map(|error| Err(RangeWriteError::ConnectionLost(error))),
            })
            .await
    }

    /// Returns whether all is written; for implementations of IO traits.
    #[cfg(any(feature = "tokio", feature = "futures-io"))]
    pub(super) fn check_complete(&self) -> Result<(), RangeWriteError> {
        match self.remaining() {
            0 => Ok(()),
            missing => Err(RangeWriteError::Short(missing)),
        }
    }
}

impl Sink for RangeWriter {
    type Error = RangeWriteError;

    fn check_room(&self, bytes: u64) -> Result<(), RangeWriteError> {
        if bytes > self.remaining() { Err(RangeWriteError::PastEnd) } else { Ok(()) }
    }

    fn poll_chunks(
        &mut self,
        cx: &Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<Written, RangeWriteError>> {
        let Self { session, run, written, .. } = self;
        session.with(|s| {
            s.check()?;
            let now = s.now();
            match s.core.write_run(now, *run, bufs) {
                Ok(some) => {
                    *written += some.bytes as u64;
                    s.notify();
                    Poll::Ready(Ok(some))
                }
                Err(error) => match RangeWriteError::from_core(error) {
                    Some(error) => Poll::Ready(Err(error)),
                    None => {
                        s.wakers.set(Key::Run(*run), cx.waker());
                        Poll::Pending
                    }
                },
            }
        })
    }
}

impl Drop for RangeWriter {
    fn drop(&mut self) {
        let short = self.remaining() > 0;
        self.session.with(|s| {
            s.wakers.unset(Key::Run(self.run));
            if self.outcome.is_some() || s.error.is_some() {
                return;
            }
            if short {
                let now = s.now();
                s.core.reset_run(now, self.run);
                s.notify();
            }
            if !short && s.core.run_outcome(self.run).is_none() {
                s.unwatched.runs.insert(self.run);
            }
        });
    }
}
