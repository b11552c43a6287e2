//! The primary: owns the session, adds paths, hands out ranges, and learns what became of them.
//!
//! Owns paths, jobs, leases, split streams and its own runs, as far as a server can know them. Called by `Session`
//! with facts and with the application's commands; answers with actions. Spec: KWIK §4, §5, §8.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::action::Action;
use crate::{
    action::{Event, LeaseOutcome, PathInfo, PathState, RunId},
    error::{AddPathError, ApiMisuse, ErrorCode, LeaseError},
    id::{ByteRange, JobId, LeaseId, OFFSET_MAX, PathId, PublicKey, SessionId, SpkiHash, StreamId},
    lease::ticket::{JobClaims, Signer, Ticket},
    limits,
    rng::Rng,
    stream::send::SplitSend,
    timer::Wall,
    wire::{AddPath, Credit, Frame, JobOpen, LeaseGrant, PathStatus, Ranges},
};

/// One more server for a session: where it is and who it must be.
#[derive(Clone, Debug)]
pub struct NewPath {
    addresses: SmallVec<[SocketAddr; 2]>,
    server_name: String,
    identity: SpkiHash,
}

impl NewPath {
    /// Names a secondary. Its certificate must be valid for `server_name` and carry the key that `identity` names.
    pub fn new(address: SocketAddr, server_name: &str, identity: SpkiHash) -> Self {
        Self {
            addresses: SmallVec::from_slice(&[address]),
            server_name: server_name.to_owned(),
            identity,
        }
    }

    /// Adds an address of the same server; the client takes the first that its dial policy allows.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }
}

/// Work for one path: which bytes it may be asked for, and what its application needs to know to supply them.
#[derive(Clone, Debug)]
pub struct NewJob {
    path: PathId,
    range: ByteRange,
    payload: Bytes,
    total: Option<u64>,
    lifetime: Duration,
}

impl NewJob {
    /// Lets leases name `range` of the stream; `payload` (at most 2 KiB) is the application's own.
    pub fn new(path: PathId, range: ByteRange, payload: impl Into<Bytes>) -> Self {
        Self {
            path,
            range,
            payload: payload.into(),
            total: None,
            lifetime: limits::JOB_LIFETIME,
        }
    }

    /// The most bytes that leases of the job may add up to, retries included; four times its range by default.
    #[must_use]
    pub fn total(mut self, bytes: u64) -> Self {
        self.total = Some(bytes);
        self
    }

    /// How long the path accepts leases of the job; a day by default.
    #[must_use]
    pub fn lifetime(mut self, value: Duration) -> Self {
        self.lifetime = value;
        self
    }
}

/// The primary's machine.
#[derive(Debug)]
pub(super) struct Primary {
    signer: Arc<dyn Signer>,
    wall: Wall,
    rng: Rng,
    session: SessionId,
    client_key: PublicKey,
    paths_max: usize,
    /// Split streams the client guarantees credit for.
    split_max: usize,
    paths: BTreeMap<PathId, Path>,
    last_path: PathId,
    jobs: BTreeMap<JobId, Job>,
    next_job: u64,
    leases: BTreeMap<LeaseId, Lease>,
    next_lease: u64,
    outcomes: BTreeMap<LeaseId, LeaseOutcome>,
    streams: BTreeMap<StreamId, SplitSend>,
    runs: BTreeMap<RunId, Run>,
    next_run: u64,
    late_frames: u64,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Path {
    state: PathState,
    server_name: String,
    identity: SpkiHash,
    leases: usize,
    done: u64,
    lost: u64,
}

#[derive(Debug)]
struct Job {
    stream: StreamId,
    path: PathId,
    range: ByteRange,
    /// Bytes that leases may still be granted.
    left: u64,
    answer: Option<Result<(), ErrorCode>>,
}

#[derive(Debug)]
struct Lease {
    stream: StreamId,
    path: PathId,
    range: ByteRange,
    /// The application does not want to know what becomes of it.
    forgotten: bool,
}

/// Bytes that the primary writes itself at an offset.
#[derive(Debug)]
struct Run {
    stream: StreamId,
    range: ByteRange,
    sent: u64,
    outcome: Option<LeaseOutcome>,
    /// The application has let go of it before its outcome.
    forgotten: bool,
}

/// By how much the total of a job exceeds its range by default: a few lost leases, not endless ones.
const RETRIES: u64 = 4;

impl Primary {
    pub(super) fn new(
        signer: Arc<dyn Signer>,
        wall: Wall,
        mut rng: Rng,
        client_key: PublicKey,
        split_max: u32,
        paths_max: usize,
    ) -> Self {
        let session = SessionId::new(rng.bytes::<16>());
        Self {
            signer,
            wall,
            rng,
            session,
            client_key,
            paths_max,
            split_max: usize::try_from(split_max)
                .unwrap_or(usize::MAX)
                .min(limits::SPLIT_STREAMS_MAX),
            paths: BTreeMap::new(),
            last_path: PathId::PRIMARY,
            jobs: BTreeMap::new(),
            next_job: 0,
            leases: BTreeMap::new(),
            next_lease: 0,
            outcomes: BTreeMap::new(),
            streams: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_run: 0,
            late_frames: 0,
            actions: VecDeque::new(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn late_frames(&self) -> u64 {
        self.late_frames
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // Paths.

    pub(super) fn add_path(&mut self, now: Instant, new: NewPath) -> Result<PathId, AddPathError> {
        let named = !new.server_name.is_empty() && new.server_name.len() <= limits::SERVER_NAME_MAX;
        let addressed = !new.addresses.is_empty()
            && new.addresses.len() <= limits::PATH_ADDRESSES_MAX
            && new
                .addresses
                .iter()
                .all(|address| address.port() != 0 && !address.ip().is_unspecified());
        if !named || !addressed {
            return Err(AddPathError::InvalidAddress);
        }
        let live = self
            .paths
            .values()
            .filter(|path| !matches!(path.state, PathState::Dead(_)))
            .count();
        let next = self.last_path.into_inner().checked_add(1);
        let Some(next) = next.filter(|_| live < self.paths_max) else {
            return Err(AddPathError::LimitExceeded(self.paths_max));
        };
        let id = PathId::new(next);
        self.last_path = id;
        let issued = self.wall.secs(now);
        let expires = issued + limits::TICKET_LIFETIME.as_secs();
        let ticket = Ticket {
            session: self.session,
            path: id,
            audience: new.identity,
            client_key: self.client_key,
            issued,
            expires,
            nonce: self.rng.bytes::<16>(),
        };
        self.paths.insert(
            id,
            Path {
                state: PathState::Connecting,
                server_name: new.server_name.clone(),
                identity: new.identity,
                leases: 0,
                done: 0,
                lost: 0,
            },
        );
        self.forget_dead();
        self.tell(Frame::AddPath(AddPath {
            path: id,
            addresses: new.addresses,
            server_name: new.server_name,
            pins: SmallVec::from_slice(&[new.identity]),
            ticket: ticket.seal(&*self.signer),
            ticket_expiry: expires,
        }));
        Ok(id)
    }

    /// Dead paths stay listed, but not without end.
    fn forget_dead(&mut self) {
        let dead = |path: &Path| matches!(path.state, PathState::Dead(_)) && path.leases == 0;
        while self.paths.values().filter(|path| dead(path)).count() > limits::DEAD_PATHS_LISTED {
            let oldest = self.paths.iter().find(|(_, path)| dead(path)).map(|(&id, _)| id);
            if let Some(oldest) = oldest {
                self.paths.remove(&oldest);
            }
        }
    }

    /// Returns whether the path was there to remove.
    pub(super) fn remove_path(&mut self, id: PathId) -> bool {
        let Some(path) = self.paths.get(&id) else {
            return false;
        };
        if matches!(path.state, PathState::Dead(_)) {
            return false;
        }
        self.tell(Frame::RemovePath {
            path: id,
            code: ErrorCode::NO_ERROR,
            deadline_ms: 0,
        });
        true
    }

    pub(super) fn path_state(&self, id: PathId) -> Option<PathState> {
        self.paths.get(&id).map(|path| path.state)
    }

    /// Whom the certificate of a path must belong to.
    pub(super) fn paths(&self) -> Vec<PathInfo> {
        let info = |(&id, path): (&PathId, &Path)| PathInfo {
            id,
            state: path.state,
            server_name: path.server_name.clone(),
            identity: path.identity,
            leases: path.leases,
            leases_done: path.done,
            leases_lost: path.lost,
        };
        self.paths.iter().map(info).collect()
    }

    // Jobs and leases.

    pub(super) fn open_job(
        &mut self,
        now: Instant,
        stream: StreamId,
        native: u64,
        new: NewJob,
    ) -> Result<JobId, LeaseError> {
        if new.payload.len() > limits::JOB_PAYLOAD_MAX {
            return Err(ApiMisuse::TooLong.into());
        }
        let path = self.paths.get(&new.path).ok_or(LeaseError::PathDead)?;
        if matches!(path.state, PathState::Dead(_)) {
            return Err(LeaseError::PathDead);
        }
        let open = |job: &&Job| job.path == new.path && !matches!(job.answer, Some(Err(_)));
        if self.jobs.values().filter(open).count() >= limits::JOBS_PER_PATH {
            return Err(LeaseError::LimitExceeded);
        }
        self.split(stream, native)?;
        let id = JobId::new(self.next_job);
        self.next_job += 1;
        let total = new
            .total
            .unwrap_or_else(|| new.range.len().saturating_mul(RETRIES))
            .min(OFFSET_MAX);
        let expiry = self.wall.secs(now).saturating_add(new.lifetime.as_secs());
        let claims = JobClaims {
            session: self.session,
            path: new.path,
            job: id,
            stream,
            range: new.range,
            total,
            expiry,
            payload: &new.payload,
        };
        let seal = claims.seal(&*self.signer);
        self.jobs.insert(
            id,
            Job {
                stream,
                path: new.path,
                range: new.range,
                left: total,
                answer: None,
            },
        );
        self.tell(Frame::JobOpen(JobOpen {
            job: id,
            path: new.path,
            stream,
            range: new.range,
            total,
            expiry,
            payload: new.payload,
            seal,
        }));
        Ok(id)
    }

    pub(super) fn job_answer(&self, job: JobId) -> Option<Result<(), ErrorCode>> {
        match self.jobs.get(&job) {
            Some(job) => job.answer,
            None => Some(Err(ErrorCode::STREAM_CLOSED)),
        }
    }

    /// Leases that live go on; the path learns that no more will come.
    pub(super) fn close_job(&mut self, id: JobId) {
        if self.jobs.remove(&id).is_some() {
            self.tell(Frame::JobClose { job: id });
        }
    }

    pub(super) fn lease(&mut self, job_id: JobId, range: ByteRange) -> Result<LeaseId, LeaseError> {
        let job = self.jobs.get_mut(&job_id).ok_or(LeaseError::JobClosed)?;
        if matches!(job.answer, Some(Err(_))) {
            return Err(LeaseError::JobClosed);
        }
        if !job.range.contains(range) || range.len() > job.left || range.len() > limits::LEASE_MAX {
            return Err(LeaseError::OutsideJob);
        }
        let path = self.paths.get_mut(&job.path).ok_or(LeaseError::PathDead)?;
        if matches!(path.state, PathState::Dead(_) | PathState::Degraded) {
            return Err(LeaseError::PathDead);
        }
        let on_stream = self
            .leases
            .values()
            .filter(|lease| lease.stream == job.stream)
            .count();
        let full = on_stream >= limits::LEASES_PER_STREAM
            || path.leases >= limits::LEASES_PER_PATH
            || self.leases.len() >= limits::LEASES_PER_SESSION;
        if full {
            return Err(LeaseError::LimitExceeded);
        }
        let stream = self
            .streams
            .get_mut(&job.stream)
            .filter(|stream| stream.is_open());
        let stream = stream.ok_or(LeaseError::ClosedStream)?;
        stream.claim(range).map_err(|_| LeaseError::Overlap)?;
        job.left -= range.len();
        path.leases += 1;
        let id = LeaseId::new(self.next_lease);
        self.next_lease += 1;
        self.leases.insert(
            id,
            Lease {
                stream: job.stream,
                path: job.path,
                range,
                forgotten: false,
            },
        );
        self.tell(Frame::LeaseGrant(LeaseGrant {
            lease: id,
            job: job_id,
            range,
            digest: None,
            deadline_ms: None,
            hedge_of: None,
        }));
        Ok(id)
    }

    /// Takes the outcome of a lease, once it is known.
    pub(super) fn lease_outcome(&mut self, id: LeaseId) -> Option<LeaseOutcome> {
        self.outcomes.remove(&id)
    }

    fn end_lease(&mut self, id: LeaseId, lost: Option<(ErrorCode, Ranges)>) {
        let Some(lease) = self.leases.remove(&id) else {
            self.late_frames += 1;
            return;
        };
        let outcome = match lost {
            None => LeaseOutcome::Done,
            Some((code, missing)) => LeaseOutcome::Lost {
                code,
                missing: missing.to_vec(),
            },
        };
        if let (LeaseOutcome::Lost { missing, .. }, Some(stream)) =
            (&outcome, self.streams.get_mut(&lease.stream))
        {
            missing
                .iter()
                .filter(|range| lease.range.contains(**range))
                .for_each(|range| stream.release(*range));
        }
        if let Some(path) = self.paths.get_mut(&lease.path) {
            path.leases -= 1;
            match outcome {
                LeaseOutcome::Done => path.done += 1,
                LeaseOutcome::Lost { .. } => path.lost += 1,
            }
        }
        if !lease.forgotten {
            self.outcomes.insert(id, outcome);
            self.actions.push_back(Action::Notify(Event::LeaseEnded(id)));
        }
    }

    /// The application does not want to know what becomes of a lease.
    pub(super) fn forget_lease(&mut self, id: LeaseId) {
        self.outcomes.remove(&id);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.forgotten = true;
        }
    }

    // Split streams and runs.

    pub(super) fn split_stream(&self, stream: StreamId) -> Option<&SplitSend> {
        self.streams.get(&stream)
    }

    /// Makes a stream split, of which `native` bytes have been written, unless it is already.
    fn split(&mut self, stream: StreamId, native: u64) -> Result<(), LeaseError> {
        if let Some(split) = self.streams.get(&stream) {
            return if split.is_open() {
                Ok(())
            } else {
                Err(LeaseError::ClosedStream)
            };
        }
        if self.streams.len() >= self.split_max {
            return Err(LeaseError::NoCredit);
        }
        self.streams.insert(stream, SplitSend::new(native));
        self.tell(Frame::Split {
            stream,
            offset: native,
        });
        Ok(())
    }

    pub(super) fn write_at(
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
        let id = RunId(self.next_run);
        self.next_run += 1;
        self.runs.insert(
            id,
            Run {
                stream,
                range,
                sent: 0,
                outcome: None,
                forgotten: false,
            },
        );
        Ok(id)
    }

    /// What a run may send now.
    pub(super) fn run_allowance(&self, id: RunId) -> Result<RunAllowance, ErrorCode> {
        let run = self.runs.get(&id).ok_or(ErrorCode::STREAM_CLOSED)?;
        if let Some(LeaseOutcome::Lost { code, .. }) = &run.outcome {
            return Err(*code);
        }
        let split = self.streams.get(&run.stream).ok_or(ErrorCode::STREAM_CLOSED)?;
        let offset = run.range.start() + run.sent;
        let left = run.range.len() - run.sent;
        Ok(RunAllowance {
            stream: run.stream,
            offset,
            left,
            now: split.allowance(offset, left),
        })
    }

    /// `len` bytes of a run were handed to QUIC. Returns whether it is all of the run.
    pub(super) fn on_run_sent(&mut self, id: RunId, len: u64) -> bool {
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
    pub(super) fn on_run_end(&mut self, id: RunId, lost: Option<ErrorCode>) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        if run.outcome.is_some() {
            return;
        }
        run.outcome = Some(match lost {
            None => LeaseOutcome::Done,
            Some(code) => {
                // What arrived before is unknown here; all of it is given back, and duplicates do no harm.
                if let Some(split) = self.streams.get_mut(&run.stream) {
                    split.release(run.range);
                }
                LeaseOutcome::Lost {
                    code,
                    missing: vec![run.range],
                }
            }
        });
        if run.forgotten {
            self.runs.remove(&id);
        } else {
            self.actions.push_back(Action::Notify(Event::RunWritable(id)));
        }
    }

    pub(super) fn run_outcome(&mut self, id: RunId) -> Option<LeaseOutcome> {
        let outcome = self.runs.get(&id)?.outcome.clone()?;
        self.runs.remove(&id);
        Some(outcome)
    }

    /// The application lets go of a run. Returns whether it was incomplete and has to be given up.
    pub(super) fn forget_run(&mut self, id: RunId) -> bool {
        let Some(run) = self.runs.get_mut(&id) else {
            return false;
        };
        if run.outcome.is_some() {
            self.runs.remove(&id);
            return false;
        }
        run.forgotten = true;
        run.sent < run.range.len()
    }

    /// Where sequential writing goes on in a split stream, and how much may be sent now.
    pub(super) fn sequential_allowance(&self, stream: StreamId) -> Option<(ByteRange, u64)> {
        let split = self.streams.get(&stream)?;
        let gap = split.next_gap()?;
        Some((gap, split.allowance(gap.start(), gap.len())))
    }

    pub(super) fn on_sequential_sent(&mut self, stream: StreamId, gap: ByteRange, len: u64) {
        if let Some(split) = self.streams.get_mut(&stream) {
            split.advance(gap, len);
            split.on_sent(gap.start(), len);
        }
    }

    /// Fixes the size of a split stream. Returns whether it was open.
    pub(super) fn finish(&mut self, stream: StreamId) -> bool {
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
    pub(super) fn end_stream(&mut self, stream: StreamId, code: ErrorCode) {
        let Some(split) = self.streams.get_mut(&stream) else {
            return;
        };
        split.on_stopped(code);
        self.end_work(stream, ErrorCode::STREAM_CLOSED);
    }

    /// Ends what is still going on for a stream: leases, jobs, runs.
    fn end_work(&mut self, stream: StreamId, code: ErrorCode) {
        let leases: Vec<(LeaseId, ByteRange)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.stream == stream)
            .map(|(&id, lease)| (id, lease.range))
            .collect();
        for (lease, range) in leases {
            self.end_lease(lease, Some((code, SmallVec::from_slice(&[range]))));
        }
        let runs: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| run.stream == stream)
            .map(|(&id, _)| id)
            .collect();
        for run in runs {
            self.on_run_end(run, Some(code));
        }
        let jobs: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.stream == stream)
            .map(|(&id, _)| id)
            .collect();
        for job in jobs {
            self.close_job(job);
            self.actions.push_back(Action::Notify(Event::JobAnswered(job)));
        }
    }

    /// The native stream is closed on our side: nothing of the split stream is needed any more.
    pub(super) fn forget_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    // Control frames.

    /// A control frame of the client arrived. An error is the client's fault and ends the session.
    pub(super) fn handle_frame(&mut self, frame: Frame) -> Result<(), ErrorCode> {
        match frame {
            Frame::PathReport { path, status } => self.on_path_report(path, status),
            Frame::JobAccepted { job } => self.on_job_answer(job, Ok(())),
            Frame::JobRefused { job, code } => self.on_job_answer(job, Err(code)),
            Frame::LeaseDone { lease } => self.check_lease(lease, None)?,
            Frame::LeaseRefused { lease, code } => {
                let range = self.leases.get(&lease).map(|lease| lease.range);
                self.check_lease(lease, Some((code, range.into_iter().collect())))?;
            }
            Frame::LeaseLost { lease, code, missing } => self.check_lease(lease, Some((code, missing)))?,
            Frame::SplitAck { stream, credit } => self.on_credit(Credit::Offset {
                stream,
                offset: credit,
            })?,
            Frame::Credit(credit) => self.on_credit(credit)?,
            Frame::StreamComplete { stream } => self.on_complete(stream)?,
            Frame::StreamStopped { stream, code } => self.on_stream_stopped(stream, code),
            Frame::SessionClose { code, .. } => return Err(code),
            Frame::ClientHello(_)
            | Frame::ServerHello(_)
            | Frame::Refuse { .. }
            | Frame::AddPath(_)
            | Frame::RemovePath { .. }
            | Frame::Drain { .. }
            | Frame::JobOpen(_)
            | Frame::JobClose { .. }
            | Frame::LeaseGrant(_)
            | Frame::LeaseNotice { .. }
            | Frame::LeaseRevoke { .. }
            | Frame::Split { .. }
            | Frame::StreamFinal { .. }
            | Frame::OffsetSyncRequest { .. }
            | Frame::OffsetSyncResponse { .. }
            | Frame::StreamMappingUpdate { .. } => return Err(ErrorCode::FRAME_UNEXPECTED),
        }
        Ok(())
    }

    fn on_path_report(&mut self, id: PathId, status: PathStatus) {
        let Some(path) = self.paths.get_mut(&id) else {
            self.late_frames += 1;
            return;
        };
        if matches!(path.state, PathState::Dead(_)) {
            self.late_frames += 1;
            return;
        }
        path.state = match status {
            PathStatus::Active => PathState::Active,
            PathStatus::Degraded => PathState::Degraded,
            PathStatus::Dead(code) => PathState::Dead(code),
        };
        if let PathState::Dead(code) = path.state {
            let jobs: Vec<JobId> = self
                .jobs
                .iter()
                .filter(|(_, job)| job.path == id)
                .map(|(&job, _)| job)
                .collect();
            for job in jobs {
                self.on_job_answer(job, Err(code));
                self.close_job(job);
            }
        }
        self.actions.push_back(Action::Notify(Event::PathChanged(id)));
    }

    fn on_job_answer(&mut self, id: JobId, answer: Result<(), ErrorCode>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            self.late_frames += 1;
            return;
        };
        // A refusal may follow an acceptance, never the other way round.
        if !matches!(job.answer, Some(Err(_))) {
            job.answer = Some(answer);
            self.actions.push_back(Action::Notify(Event::JobAnswered(id)));
        }
    }

    /// An answer to a lease must name one that was granted; one that ended here first is late.
    fn check_lease(&mut self, id: LeaseId, lost: Option<(ErrorCode, Ranges)>) -> Result<(), ErrorCode> {
        if id.into_inner() >= self.next_lease {
            return Err(ErrorCode::METADATA_PROTOCOL_VIOLATION);
        }
        self.end_lease(id, lost);
        Ok(())
    }

    fn on_credit(&mut self, credit: Credit) -> Result<(), ErrorCode> {
        let (stream, run) = match credit {
            Credit::Offset { stream, offset } => (stream, Err(offset)),
            Credit::Run { stream, bytes } => (stream, Ok(bytes)),
            Credit::Lease { .. } => return Err(ErrorCode::FRAME_UNEXPECTED),
        };
        let Some(split) = self.streams.get_mut(&stream) else {
            self.late_frames += 1;
            return Ok(());
        };
        match run {
            Ok(bytes) => split.on_run_credit(bytes),
            Err(offset) => split.on_offset_credit(offset),
        }
        self.actions.push_back(Action::Notify(Event::Writable(stream)));
        for (&id, _) in self
            .runs
            .iter()
            .filter(|(_, run)| run.stream == stream && run.outcome.is_none())
        {
            self.actions.push_back(Action::Notify(Event::RunWritable(id)));
        }
        Ok(())
    }

    fn on_complete(&mut self, stream: StreamId) -> Result<(), ErrorCode> {
        let Some(split) = self.streams.get_mut(&stream) else {
            self.late_frames += 1;
            return Ok(());
        };
        if split.stopped().is_some() {
            return Ok(());
        }
        if !split.on_complete() {
            return Err(ErrorCode::FRAME_UNEXPECTED);
        }
        // Every byte is at the client; what QUIC has not been told yet does not matter any more.
        let runs: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| run.stream == stream)
            .map(|(&id, _)| id)
            .collect();
        for run in runs {
            self.on_run_end(run, None);
        }
        let leases: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.stream == stream)
            .map(|(&id, _)| id)
            .collect();
        for lease in leases {
            self.end_lease(lease, None);
        }
        self.end_work(stream, ErrorCode::STREAM_CLOSED);
        self.actions.push_back(Action::FinishNative { stream });
        Ok(())
    }

    fn on_stream_stopped(&mut self, stream: StreamId, code: ErrorCode) {
        if self.streams.get(&stream).is_none_or(|split| !split.is_open()) {
            self.late_frames += 1;
            return;
        }
        self.end_stream(stream, code);
        self.actions.push_back(Action::ResetNative { stream, code });
    }

    fn tell(&mut self, frame: Frame) {
        self.actions.push_back(Action::Send {
            path: PathId::PRIMARY,
            frame,
        });
    }
}

/// What a run may send now.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunAllowance {
    pub(super) stream: StreamId,
    /// Stream offset of the next byte.
    pub(super) offset: u64,
    /// Bytes of the run that were not sent yet.
    pub(super) left: u64,
    /// How many of them have credit.
    pub(super) now: u64,
}
