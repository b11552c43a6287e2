//! Sends an object over every path: carries out what the [`schedule`](crate::schedule) decides, and tells it what happens.
//!
//! One future does all of it, on the task that awaits it. It looks at everything under one lock of the session, acts, and
//! waits for the first of its leases, runs, reads, paths and the scheduler's own deadline.

mod facts;
mod options;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use thiserror::Error;

pub use self::options::DistributeOptions;
use self::{facts::refusal, writer::Writer};
use super::{
    ranges::{Job, Ranges},
    runtime::Timer,
    session::{Key, SessionRef},
    source::{self, Asked, ReadAt},
    stream::SendStream,
};
use crate::{
    action::PathState,
    error::{ConnectionError, ErrorCode, LeaseError},
    id::{ByteRange, LeaseId, PathId, StreamId},
    schedule::{Decision, Failure, Loss, PieceId, Report, Scheduler},
    session::{NewJob, NewLease},
};

/// Decisions that are carried out before other tasks may run.
const DECISIONS_PER_POLL: usize = 256;

/// Reasons that an object was not brought.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DistributeError {
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The client wants no more of the stream.
    #[error("stopped by the client: {0}")]
    Stopped(ErrorCode),
    /// The source could not be read.
    #[error("the source cannot be read: {0}")]
    Source(#[from] io::Error),
    /// The range and more is missing, and nobody is left to bring it, or nothing arrives any more.
    #[error("nobody brings {0}")]
    Incomplete(ByteRange),
    /// Ranges of this stream cannot be given out at all.
    #[error(transparent)]
    Lease(LeaseError),
}

/// A thing that happened to an object on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DistributeEvent {
    /// A path takes part from now on.
    Joined(PathId),
    /// A path takes part no more, or not for now.
    Left(PathId),
    /// A path was given a range.
    Given {
        /// The path; [`PathId::PRIMARY`] for this server's own bytes.
        path: PathId,
        /// The range.
        range: ByteRange,
    },
    /// Every byte of a range that a path was given has arrived, but for what it was spared since.
    Arrived {
        /// The path.
        path: PathId,
        /// The range as it was given.
        range: ByteRange,
    },
    /// A path did not bring all of what it was given; somebody else is given the rest.
    Lost {
        /// The path.
        path: PathId,
        /// The range as it was given.
        range: ByteRange,
        /// The reason.
        code: ErrorCode,
    },
}

/// An object under way over every path; made by [`SendStream::distribute`].
///
/// It is a future, which is ready with a [`Report`] when every byte has arrived at the client. [`Self::next`] tells of the
/// way there. Nothing goes on unless one of the two is awaited.
///
/// The stream ends with the object: it is finished as soon as every byte was given out once, so that the reader learns of
/// the end with the last byte. If this is dropped before, or fails, all leases are taken back and the stream is reset:
/// its reader would wait for the rest in vain. The session goes on.
#[must_use = "nothing is sent unless it is awaited"]
pub struct Distribution<'a> {
    stream: &'a mut SendStream,
    work: Work,
    timer: Option<Pin<Box<dyn Timer>>>,
    /// The code with which the stream is reset if it is not completed.
    reset_code: ErrorCode,
    /// The stream was finished here.
    ended: bool,
    /// Nothing is left to do.
    over: bool,
}

impl<'a> Distribution<'a> {
    pub(super) fn new(
        stream: &'a mut SendStream,
        source: impl ReadAt,
        len: u64,
        options: DistributeOptions,
    ) -> Self {
        let ranges = stream.ranges();
        let reset_code = options.reset_code.unwrap_or(ErrorCode::from_u32(0));
        let work = Work::new(ranges, Arc::new(source), len, options);
        Self { stream, work, timer: None, reset_code, ended: false, over: false }
    }

    /// Waits for what happens next; `None` once every byte has arrived. Cancel-safe.
    ///
    /// # Errors
    /// One of [`DistributeError`].
    pub async fn next(&mut self) -> Result<Option<DistributeEvent>, DistributeError> {
        poll_fn(|cx| {
            if let Some(event) = self.work.events.pop_front() {
                return Poll::Ready(Ok(Some(event)));
            }
            let polled = self.poll_all(cx);
            match (self.work.events.pop_front(), polled) {
                (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Some(event), _) => Poll::Ready(Ok(Some(event))),
                (None, Poll::Ready(Ok(()))) => Poll::Ready(Ok(None)),
                (None, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Returns what became of the object so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.work.scheduler.report()
    }

    /// Goes on as far as it can. Ready when every byte has arrived, and with an error once.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DistributeError>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let end = ready!(self.poll_work(cx));
        self.over = true;
        if let Err(error) = &end {
            if let DistributeError::Source(error) = error {
                self.reset_code = self.work.source.reset_code(error).unwrap_or(self.reset_code);
            }
            self.give_up();
        }
        Poll::Ready(end)
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DistributeError>> {
        let mut left = DECISIONS_PER_POLL;
        loop {
            let done = self.work.collect(cx)?;
            self.work.write(cx)?;
            let mut acted = false;
            while let Some(decision) = self.work.poll_decision() {
                acted = true;
                if self.work.carry_out(decision)? {
                    return Poll::Ready(self.finish());
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if !self.ended && self.work.is_given_out() {
                self.finish()?;
            }
            if done {
                return Poll::Ready(Ok(()));
            }
            // Pieces given out in this round are not waited for yet: look at them once before sleeping.
            if !acted && self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Waits until the scheduler wants to be asked again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.work.scheduler.poll_timeout() else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(at);
                timer
            }
            None => self.timer.insert(self.work.session.clock.timer(at)),
        };
        timer.as_mut().poll(cx)
    }

    fn finish(&mut self) -> Result<(), DistributeError> {
        if !self.ended {
            self.ended = true;
            self.stream.finish().map_err(|_closed| DistributeError::Lease(LeaseError::ClosedStream))?;
        }
        Ok(())
    }

    /// The rest of the object will not come: nobody shall wait for it.
    fn give_up(&mut self) {
        // It fails if the session is over, or all has arrived after all.
        let _closed = self.stream.reset(self.reset_code);
    }
}

impl Future for Distribution<'_> {
    type Output = Result<Report, DistributeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_all(cx);
        self.work.events.clear(); // whoever awaits the end does not ask for them
        polled.map_ok(|()| self.report())
    }
}

impl Drop for Distribution<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.give_up();
        }
        self.work.let_go();
    }
}

impl fmt::Debug for Distribution<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distribution").field("stream", &self.work.stream).finish_non_exhaustive()
    }
}

/// A lease under way.
struct Leased {
    id: LeaseId,
    path: PathId,
    range: ByteRange,
    /// As the scheduler was told last.
    stalled: bool,
    /// The client was asked to give some of it back.
    cutting: bool,
    /// Places in the session's table of wakers.
    ended: Option<u64>,
    changed: Option<u64>,
}

/// A lease that waits for its digest.
struct Unleased {
    digest: Asked<[u8; 32]>,
    path: PathId,
    range: ByteRange,
    hedge_of: Option<PieceId>,
    deadline: Option<std::time::Duration>,
}

/// The object, its pieces, and who has them.
struct Work {
    session: SessionRef,
    ranges: Ranges,
    stream: StreamId,
    source: Arc<dyn ReadAt>,
    len: u64,
    /// The part that is to be brought; `None` if that is nothing.
    whole: Option<ByteRange>,
    options: DistributeOptions,
    scheduler: Scheduler,
    jobs: BTreeMap<PathId, Job>,
    leases: BTreeMap<PieceId, Leased>,
    unleased: BTreeMap<PieceId, Unleased>,
    writer: Writer,
    /// The offset up to which bytes were given out, whether they have arrived or not.
    given: u64,
    events: VecDeque<DistributeEvent>,
    /// The states of paths, as the scheduler was told last.
    paths: BTreeMap<PathId, PathState>,
    paths_seen: Option<u64>,
    /// Places in the session's table of wakers.
    path_changed: Option<u64>,
    gap: Option<u64>,
    finished: Option<u64>,
}

impl Work {
    fn new(ranges: Ranges, source: Arc<dyn ReadAt>, len: u64, mut options: DistributeOptions) -> Self {
        let (session, stream) = (ranges.session().clone(), ranges.id());
        let whole = ByteRange::between(options.offset, len);
        let now = session.clock.now();
        let mut scheduler = Scheduler::new(now, whole, std::mem::take(&mut options.schedule));
        if let Some(window) = options.window {
            scheduler.handle_window(now, window);
        }
        if options.wants(PathId::PRIMARY) {
            scheduler.add_path(now, PathId::PRIMARY, options.price_of(PathId::PRIMARY));
        }
        Self {
            session,
            ranges,
            stream,
            source,
            len,
            whole,
            given: options.offset,
            options,
            scheduler,
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            unleased: BTreeMap::new(),
            writer: Writer::default(),
            events: VecDeque::new(),
            paths: BTreeMap::new(),
            paths_seen: None,
            path_changed: None,
            gap: None,
            finished: None,
        }
    }

    fn now(&self) -> Instant {
        self.session.clock.now()
    }

    /// Returns whether the end of the object is known to the stream.
    fn is_given_out(&self) -> bool {
        self.given >= self.len
    }

    fn poll_decision(&mut self) -> Option<Decision> {
        let now = self.now();
        self.scheduler.poll(now)
    }

    /// Does what was decided. Returns whether every byte has arrived.
    fn carry_out(&mut self, decision: Decision) -> Result<bool, DistributeError> {
        match decision {
            Decision::Lease { piece, path, range, verified: true, deadline, hedge_of } => {
                let digest =
                    Asked::new(&self.source, &*self.session.clock, move |of| source::digest(of, range));
                self.unleased.insert(piece, Unleased { digest, path, range, hedge_of, deadline });
            }
            Decision::Lease { piece, path, range, verified: false, deadline, hedge_of } => {
                self.lease(piece, path, range, hedge_of, |lease| match deadline {
                    Some(deadline) => lease.deadline(deadline),
                    None => lease,
                })?;
            }
            Decision::Write { piece, range, hedge_of } => self.set_aside(piece, range, hedge_of)?,
            Decision::Cut { piece, keep } => self.cut(piece, keep),
            Decision::Done => return Ok(true),
            Decision::Failed(Failure::NobodyLeft(hole) | Failure::NothingArrives(hole)) => {
                return Err(DistributeError::Incomplete(hole));
            }
        }
        Ok(false)
    }

    /// Gives a lease out, with the first of a path a job of its own.
    fn lease(
        &mut self,
        piece: PieceId,
        path: PathId,
        range: ByteRange,
        hedge_of: Option<PieceId>,
        with: impl FnOnce(NewLease) -> NewLease,
    ) -> Result<(), DistributeError> {
        let hedged = hedge_of.map(|piece| self.leases.get(&piece).map(|leased| leased.id));
        let given = match hedged {
            Some(None) => Err(LeaseError::NotLive),
            None | Some(Some(_)) => self.job(path).and_then(|job| {
                let lease = with(NewLease::new(job, range));
                let lease = match hedged.flatten() {
                    Some(of) => lease.hedge_of(of),
                    None => lease,
                };
                self.session.with(|s| {
                    let now = s.now();
                    let id = s.core.lease(now, &lease)?;
                    s.notify();
                    Ok(id)
                })
            }),
        };
        match given {
            Ok(id) => {
                let leased =
                    Leased { id, path, range, stalled: false, cutting: false, ended: None, changed: None };
                self.leases.insert(piece, leased);
                self.on_given(path, range);
                Ok(())
            }
            Err(error) => self.on_refused(piece, path, error),
        }
    }

    fn job(&mut self, path: PathId) -> Result<crate::id::JobId, LeaseError> {
        if let Some(job) = self.jobs.get(&path) {
            return Ok(job.id());
        }
        let whole = self.whole.ok_or(LeaseError::ClosedStream)?;
        let job = self.ranges.open_job(NewJob::new(path, whole, self.options.payload.clone()))?;
        let id = job.id();
        self.jobs.insert(path, job);
        Ok(id)
    }

    fn set_aside(
        &mut self,
        piece: PieceId,
        range: ByteRange,
        hedge_of: Option<PieceId>,
    ) -> Result<(), DistributeError> {
        let hedged = hedge_of.map(|piece| self.leases.get(&piece).map(|leased| leased.id));
        let run = self.session.with(|s| {
            let now = s.now();
            let run = match hedged {
                None => s.core.write_at(now, self.stream, range),
                Some(Some(lease)) => s.core.hedge(now, lease, range),
                Some(None) => Err(LeaseError::NotLive),
            }?;
            s.notify();
            Ok(run)
        });
        match run {
            Ok(run) => {
                self.writer.add(piece, run, range);
                self.on_given(PathId::PRIMARY, range);
                Ok(())
            }
            Err(error) => self.on_refused(piece, PathId::PRIMARY, error),
        }
    }

    fn on_given(&mut self, path: PathId, range: ByteRange) {
        self.given = self.given.max(range.end());
        self.events.push_back(DistributeEvent::Given { path, range });
    }

    fn on_refused(&mut self, piece: PieceId, path: PathId, error: LeaseError) -> Result<(), DistributeError> {
        let state = self.session.with(|s| s.core.path_state(path));
        if error == LeaseError::OutsideJob {
            self.jobs.remove(&path); // all of it was used up: the next lease opens another
        }
        let why = refusal(error, state).map_err(DistributeError::Lease)?;
        let now = self.now();
        self.scheduler.handle_refused(now, piece, why);
        Ok(())
    }

    fn cut(&mut self, piece: PieceId, keep: u64) {
        let now = self.now();
        if let Some(unleased) = self.unleased.remove(&piece) {
            self.scheduler.handle_lost(now, piece, Loss::TakenBack, &[unleased.range]);
            return;
        }
        if let Some(leased) = self.leases.get_mut(&piece) {
            let asked = self.session.with(|s| {
                s.core.revoke_lease(now, leased.id, keep)?;
                s.notify();
                Ok::<_, LeaseError>(())
            });
            match asked {
                Ok(()) => leased.cutting = keep > 0,
                Err(LeaseError::NotLive) => {} // its end is told anyhow
                Err(_) => self.scheduler.handle_cut(now, piece, &[]),
            }
            return;
        }
        let given_back = self.writer.cut(&self.session, self.stream, piece, keep);
        self.scheduler.handle_cut(now, piece, given_back.as_slice());
    }

    /// Leases what has its digest by now.
    fn lease_digested(&mut self, cx: &Context<'_>) -> Result<(), DistributeError> {
        let mut ready = Vec::new();
        for (piece, unleased) in &self.unleased {
            if let Poll::Ready(digest) = unleased.digest.poll(cx) {
                ready.push((*piece, digest?));
            }
        }
        for (piece, digest) in ready {
            if let Some(Unleased { path, range, hedge_of, deadline, .. }) = self.unleased.remove(&piece) {
                self.lease(piece, path, range, hedge_of, |lease| {
                    let lease = lease.digest(digest);
                    match deadline {
                        Some(deadline) => lease.deadline(deadline),
                        None => lease,
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Takes back what is still under way, and gives up the places in the session's table.
    fn let_go(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        self.unleased.clear();
        self.session.with(|s| {
            let now = s.now();
            for leased in leases.values() {
                let places =
                    [(Key::Lease(leased.id), leased.ended), (Key::LeaseStatus(leased.id), leased.changed)];
                for (key, place) in places {
                    place.into_iter().for_each(|place| s.wakers.forget(key, place));
                }
                if s.error.is_none() && s.core.lease_outcome(leased.id).is_none() {
                    // It fails where the lease has ended already, as with its stream.
                    if s.core.revoke_lease(now, leased.id, 0).is_ok() {
                        s.unwatched.leases.insert(leased.id);
                    }
                }
            }
            self.writer.let_go(s, now);
            let stream = self.stream;
            let places = [
                (Key::Paths, self.path_changed),
                (Key::Gap(stream), self.gap),
                (Key::Finished(stream), self.finished),
            ];
            for (key, place) in places {
                place.into_iter().for_each(|place| s.wakers.forget(key, place));
            }
            s.notify();
        });
        self.jobs.clear();
    }
}
