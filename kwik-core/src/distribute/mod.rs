//! Sends an object over every path of a primary's session: carries out what the [`schedule`](crate::schedule) decides, and
//! tells it what happens.
//!
//! [`Distributor`] owns the object's jobs, leases and runs, and no byte: whoever drives it reads the source. It has no clock
//! and no lock, and touches the session only when it is called. `driver` drives one per `SendStream::distribute`.
//!
//! # How to drive it
//! 1. Make one for a stream that was opened, and pass it every [`Event`] of the session.
//! 2. After events, and when [`Distributor::poll_timeout`] is due, call [`Distributor::poll`] until it returns `None`, and do
//!    what each [`Step`] says.
//! 3. Then write: what [`Distributor::unwritten`] asks for goes to `Session::write_run`, and is told by
//!    [`Distributor::handle_written`] or [`Distributor::handle_blocked`].
//! 4. At the end, whatever it was, call [`Distributor::let_go`].
//!
//! [`Event`]: crate::Event

mod facts;
mod options;
mod own;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use thiserror::Error;

use self::{facts::refusal, own::Own};
pub use self::{options::DistributeOptions, own::Unwritten};
use crate::{
    action::PathState,
    error::{ConnectionError, ErrorCode, LeaseError},
    id::{ByteRange, JobId, LeaseId, PathId, StreamId},
    schedule::{Decision, Failure, Loss, PieceId, Report, Scheduler},
    session::{NewJob, NewLease, Session},
    timer::earliest,
};

/// Reasons that an object was not brought.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DistributeFailure {
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The client wants no more of the stream.
    #[error("stopped by the client: {0}")]
    Stopped(ErrorCode),
    /// The range and more is missing, and nobody is left to bring it, or nothing arrives any more.
    #[error("nobody brings {0}")]
    Incomplete(ByteRange),
    /// Ranges of this stream cannot be given out at all.
    #[error(transparent)]
    Lease(#[from] LeaseError),
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

/// A thing that a [`Distributor`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Step {
    /// Compute the BLAKE3 digest that a range of the source has; [`Distributor::handle_digest`] takes it.
    Digest {
        /// The piece that it is for.
        piece: PieceId,
        /// The range.
        range: ByteRange,
    },
    /// Finish the stream: every byte was given out, so the client may know the end. Asked once.
    Finish,
    /// Every byte has arrived. Told once; nothing follows.
    Done,
    /// The object cannot be completed. Told once; nothing follows. The stream should be reset.
    Failed(DistributeFailure),
}

/// A lease under way.
#[derive(Debug)]
struct Leased {
    id: LeaseId,
    path: PathId,
    range: ByteRange,
    /// As the scheduler was told last.
    stalled: bool,
    /// The client was asked to give some of it back.
    cutting: bool,
}

/// A lease that is to be given, once it has its digest if it is verified.
#[derive(Clone, Copy, Debug)]
struct Planned {
    path: PathId,
    range: ByteRange,
    hedge_of: Option<PieceId>,
    deadline: Option<Duration>,
}

/// Events that nobody has asked for; beyond them the oldest are forgotten.
const EVENTS_MAX: usize = 1024;

/// The time after which is looked again at a link that had enough to send.
const LOOK_AT_LINK: Duration = Duration::from_millis(10);

/// Sends one object. See the [module](self) for how to drive it. Spec: RATIONALE §7.
#[derive(Debug)]
pub struct Distributor {
    stream: StreamId,
    len: u64,
    /// The part that is to be brought; `None` if that is nothing.
    whole: Option<ByteRange>,
    options: DistributeOptions,
    scheduler: Scheduler,
    jobs: BTreeMap<PathId, JobId>,
    leases: BTreeMap<PieceId, Leased>,
    /// The pieces of leases, for what is told of those.
    pieces: BTreeMap<LeaseId, PieceId>,
    undigested: BTreeMap<PieceId, Planned>,
    own: Own,
    /// The offset up to which bytes were given out, whether they have arrived or not.
    given: u64,
    finished: bool,
    over: bool,
    events: VecDeque<DistributeEvent>,
    /// The states of paths, as the scheduler was told last.
    paths: BTreeMap<PathId, PathState>,
    /// Bytes that had come late over each path, as of the last report.
    late: BTreeMap<PathId, u64>,
    news: News,
}

/// Things that happened since they were last looked at.
#[derive(Debug, Default)]
struct News {
    /// Pieces that ended, stalled, went on or were cut.
    pieces: BTreeSet<PieceId>,
    /// Paths whose state changed.
    paths: BTreeSet<PathId>,
    /// Paths of which the client has reported.
    reports: BTreeSet<PathId>,
    /// The reader waits for what nobody brings.
    gap: bool,
    /// The client has all of the stream, or it is over otherwise.
    end: Option<Result<(), DistributeFailure>>,
}

impl Distributor {
    /// Takes on the first `len` bytes of an object, for a stream of which nothing was written but what lies before the
    /// [`offset`](DistributeOptions::offset).
    #[must_use]
    pub fn new(
        now: Instant,
        session: &Session,
        stream: StreamId,
        len: u64,
        mut options: DistributeOptions,
    ) -> Self {
        let whole = ByteRange::between(options.offset, len);
        let mut scheduler = Scheduler::new(now, whole, std::mem::take(&mut options.schedule));
        if let Some(window) = options.window {
            scheduler.handle_window(now, window);
        }
        if options.wants(PathId::PRIMARY) {
            scheduler.add_path(now, PathId::PRIMARY, options.price_of(PathId::PRIMARY));
            scheduler.handle_rtt(now, PathId::PRIMARY, session.rtt());
        }
        let paths: BTreeSet<PathId> = session.paths().iter().map(|info| info.id).collect();
        Self {
            stream,
            len,
            whole,
            given: options.offset,
            options,
            scheduler,
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            pieces: BTreeMap::new(),
            undigested: BTreeMap::new(),
            own: Own::default(),
            finished: false,
            over: false,
            events: VecDeque::new(),
            paths: BTreeMap::new(),
            late: BTreeMap::new(),
            news: News { paths, ..News::default() },
        }
    }

    /// Returns the stream.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Returns what became of the object so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.scheduler.report()
    }

    /// Returns what has happened next, if anything has. Beyond 1,024 the oldest are forgotten.
    pub fn poll_event(&mut self) -> Option<DistributeEvent> {
        self.events.pop_front()
    }

    /// Goes on as far as it can without help, and returns what it wants done next. Each call does a bounded part of the work:
    /// in proportion to what has happened, and to one decision.
    pub fn poll(&mut self, now: Instant, session: &mut Session) -> Option<Step> {
        if self.over {
            return None;
        }
        let step = self.step(now, session).unwrap_or_else(|error| Some(Step::Failed(error)));
        self.over = matches!(step, Some(Step::Done | Step::Failed(_)));
        step
    }

    /// Returns when [`Self::poll`] should be called even if nothing happens; at once if something has.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        if self.has_news() {
            return Some(now);
        }
        earliest(self.scheduler.poll_timeout(), self.own.is_ahead().then(|| now + LOOK_AT_LINK))
    }

    /// A piece has this digest in the source.
    ///
    /// # Errors
    /// - [`LeaseError`] if ranges of the stream cannot be given out at all.
    pub fn handle_digest(
        &mut self,
        now: Instant,
        session: &mut Session,
        piece: PieceId,
        digest: [u8; 32],
    ) -> Result<(), LeaseError> {
        match self.undigested.remove(&piece) {
            Some(planned) => self.lease(now, session, piece, planned, Some(digest)),
            None => Ok(()), // it was taken back meanwhile
        }
    }

    /// Takes back what is still under way, and forgets it. Nothing follows.
    pub fn let_go(&mut self, now: Instant, session: &mut Session) {
        self.over = true;
        self.undigested.clear();
        self.pieces.clear();
        for leased in std::mem::take(&mut self.leases).into_values() {
            // It fails where the lease has ended already, as with its stream.
            let _ended = session.revoke_lease(now, leased.id, 0);
            session.forget_lease(leased.id);
        }
        self.own.let_go(now, session);
        for job in std::mem::take(&mut self.jobs).into_values() {
            session.close_job(now, job);
        }
    }

    fn step(&mut self, now: Instant, session: &mut Session) -> Result<Option<Step>, DistributeFailure> {
        self.own.look_at_link(session);
        if self.look(now, session)? {
            return Ok(Some(Step::Done));
        }
        loop {
            if !self.finished && self.given >= self.len {
                self.finished = true;
                return Ok(Some(Step::Finish));
            }
            let step = match self.scheduler.poll(now) {
                Some(decision) => self.carry_out(now, session, decision)?,
                None => return Ok(None),
            };
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    /// Does what was decided, or says what is to be done first.
    fn carry_out(
        &mut self,
        now: Instant,
        session: &mut Session,
        decision: Decision,
    ) -> Result<Option<Step>, DistributeFailure> {
        match decision {
            Decision::Lease { piece, path, range, verified, deadline, hedge_of } => {
                let planned = Planned { path, range, hedge_of, deadline };
                if verified {
                    self.undigested.insert(piece, planned);
                    return Ok(Some(Step::Digest { piece, range }));
                }
                self.lease(now, session, piece, planned, None)?;
            }
            Decision::Write { piece, range, hedge_of } => {
                self.set_aside(now, session, piece, range, hedge_of)?;
            }
            Decision::Cut { piece, keep } => self.cut(now, session, piece, keep),
            Decision::Done => return Ok(Some(Step::Done)),
            Decision::Failed(Failure::NobodyLeft(hole) | Failure::NothingArrives(hole)) => {
                return Err(DistributeFailure::Incomplete(hole));
            }
        }
        Ok(None)
    }

    /// Gives a lease out, with the first of a path a job of its own.
    fn lease(
        &mut self,
        now: Instant,
        session: &mut Session,
        piece: PieceId,
        planned: Planned,
        digest: Option<[u8; 32]>,
    ) -> Result<(), LeaseError> {
        let Planned { path, range, hedge_of, deadline } = planned;
        let given = self.hedged(hedge_of).and_then(|hedged| {
            let mut lease = NewLease::new(self.job(now, session, path)?, range).progress();
            if let Some(digest) = digest {
                lease = lease.digest(digest);
            }
            if let Some(deadline) = deadline {
                lease = lease.deadline(deadline);
            }
            if let Some(of) = hedged {
                lease = lease.hedge_of(of);
            }
            session.lease(now, &lease)
        });
        match given {
            Ok(id) => {
                self.leases.insert(piece, Leased { id, path, range, stalled: false, cutting: false });
                self.pieces.insert(id, piece);
                self.on_given(path, range);
                Ok(())
            }
            Err(error) => self.on_refused(now, session, piece, path, error),
        }
    }

    /// The lease that is to be hedged, if one is.
    fn hedged(&self, piece: Option<PieceId>) -> Result<Option<LeaseId>, LeaseError> {
        let of = |piece| self.leases.get(&piece).map(|leased| leased.id).ok_or(LeaseError::NotLive);
        piece.map(of).transpose()
    }

    fn job(&mut self, now: Instant, session: &mut Session, path: PathId) -> Result<JobId, LeaseError> {
        if let Some(job) = self.jobs.get(&path) {
            return Ok(*job);
        }
        let whole = self.whole.ok_or(LeaseError::ClosedStream)?;
        let job =
            session.open_job(now, self.stream, NewJob::new(path, whole, self.options.payload.clone()))?;
        self.jobs.insert(path, job);
        Ok(job)
    }

    fn set_aside(
        &mut self,
        now: Instant,
        session: &mut Session,
        piece: PieceId,
        range: ByteRange,
        hedge_of: Option<PieceId>,
    ) -> Result<(), LeaseError> {
        let run = self.hedged(hedge_of).and_then(|hedged| match hedged {
            None => session.write_at(now, self.stream, range),
            Some(lease) => session.hedge(now, lease, range),
        });
        match run {
            Ok(run) => {
                self.own.add(piece, run, range);
                self.on_given(PathId::PRIMARY, range);
                Ok(())
            }
            Err(error) => self.on_refused(now, session, piece, PathId::PRIMARY, error),
        }
    }

    fn on_given(&mut self, path: PathId, range: ByteRange) {
        self.given = self.given.max(range.end());
        self.tell(DistributeEvent::Given { path, range });
    }

    fn on_refused(
        &mut self,
        now: Instant,
        session: &mut Session,
        piece: PieceId,
        path: PathId,
        error: LeaseError,
    ) -> Result<(), LeaseError> {
        if error == LeaseError::OutsideJob {
            // All of it was used up: the next lease opens another.
            if let Some(job) = self.jobs.remove(&path) {
                session.close_job(now, job);
            }
        }
        let why = refusal(error, session.path_state(path))?;
        self.scheduler.handle_refused(now, piece, why);
        Ok(())
    }

    fn cut(&mut self, now: Instant, session: &mut Session, piece: PieceId, keep: u64) {
        if let Some(planned) = self.undigested.remove(&piece) {
            self.scheduler.handle_lost(now, piece, Loss::TakenBack, &[planned.range]);
            return;
        }
        let Some(leased) = self.leases.get_mut(&piece) else {
            let given_back = self.own.cut(now, session, self.stream, piece, keep);
            self.scheduler.handle_cut(now, piece, given_back.as_slice());
            return;
        };
        match session.revoke_lease(now, leased.id, keep) {
            Ok(()) => leased.cutting = keep > 0,
            Err(LeaseError::NotLive) => {} // its end is told anyhow
            Err(_) => self.scheduler.handle_cut(now, piece, &[]),
        }
    }

    fn tell(&mut self, event: DistributeEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
