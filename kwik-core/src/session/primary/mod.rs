//! The primary: owns the session, adds paths, hands out ranges, and learns what became of them.
//!
//! Owns paths, jobs, leases, split streams and its own runs, as far as a server can know them. Called by `Session`
//! with facts and with the application's commands; answers with actions. Spec: PROTOCOL §4, §5, §8.

#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod leases;
mod progress;
mod relay;
mod retry;
mod sync;
mod work;

#[cfg(any(test, fuzzing))]
pub use fuzzing::primary_ops;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use self::{progress::Progress, retry::Retries, sync::Sync};
use super::{
    action::Action,
    effort::Tally,
    price::Account,
    question::{Draft, PathDraft, Sealing},
};
use crate::{
    action::{Event, LeaseOutcome, PathInfo, PathState, ReaderStatus, RunId},
    budget::{Bucket, Rate},
    error::{AddPathError, ApiMisuse, ErrorCode, PeerFault},
    id::{ByteRange, JobId, LeaseId, PathId, PublicKey, SessionId, SpkiHash, StreamId},
    lease::{
        relay::Once,
        table::{LeaseTable, Live},
        ticket::{Audience, Signer},
    },
    limits,
    rng::Rng,
    stream::send::SplitSend,
    wire::{Credit, Features, Frame, PathStatus, Ranges},
};

/// One more server for a session: where it is and who it must be.
#[derive(Clone, Debug)]
pub struct NewPath {
    addresses: SmallVec<[SocketAddr; 2]>,
    server_name: String,
    identities: SmallVec<[SpkiHash; 1]>,
    relay_keys: SmallVec<[PublicKey; 1]>,
}

impl NewPath {
    /// Names a secondary. Its certificate must be valid for `server_name` and carry the key that `identity` names.
    pub fn new(address: SocketAddr, server_name: &str, identity: SpkiHash) -> Self {
        Self {
            addresses: SmallVec::from_slice(&[address]),
            server_name: server_name.to_owned(),
            identities: SmallVec::from_buf([identity]),
            relay_keys: SmallVec::new(),
        }
    }

    /// Lets the certificate carry one more key, for roll-over: name the next key before the server shows it, and the last one
    /// until no server does. At most 4.
    #[must_use]
    pub fn identity(mut self, key: SpkiHash) -> Self {
        self.identities.push(key);
        self
    }

    /// Believes messages of the server only if they are signed with this key (its [`SecondaryConfig::signer`]) or another one
    /// that is named so, for roll-over, at most 4; without any they are what the client says that the server has said.
    /// Spec: PROTOCOL §9.
    ///
    /// [`SecondaryConfig::signer`]: crate::SecondaryConfig::signer
    #[must_use]
    pub fn relay_key(mut self, key: PublicKey) -> Self {
        self.relay_keys.push(key);
        self
    }

    /// Adds an address of the same server, at most four in all. Clients try those that their dial policy allows, in this
    /// order but with IPv4 and IPv6 alternating, 250 ms apart, and take the first that answers. Spec: PROTOCOL §8.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }
}

/// Work for one path: which bytes it may be asked for, and what its application needs to know to supply them.
#[derive(Clone)]
pub struct NewJob {
    path: PathId,
    range: ByteRange,
    payload: Bytes,
    total: Option<u64>,
    lifetime: Duration,
}

crate::redact::debug_hiding!(NewJob { path, range, total, lifetime; payload });

impl NewJob {
    /// Lets leases name `range` of the stream; `payload` (at most 2 KiB) is the application's own.
    pub fn new(path: PathId, range: ByteRange, payload: impl Into<Bytes>) -> Self {
        Self { path, range, payload: payload.into(), total: None, lifetime: limits::JOB_LIFETIME }
    }

    /// The most bytes that leases of the job may add up to, retries included; four times its range by default.
    ///
    /// A client carries the job to its server, and can have leases of it filled until total or [`Self::lifetime`] is used up,
    /// whether the primary has granted them or not: [`Session::close_job`](crate::Session::close_job) asks a client that keeps
    /// to the rules, and no other way leads to the server. What a client may not draw must not be in a total.
    #[must_use]
    pub fn total(mut self, bytes: u64) -> Self {
        self.total = Some(bytes);
        self
    }

    /// Sets the time for which the path accepts leases of the job; a day by default, and less where a client is not trusted
    /// to close it: see [`Self::total`].
    #[must_use]
    pub fn lifetime(mut self, value: Duration) -> Self {
        self.lifetime = value;
        self
    }
}

/// The right for one path to fill one range, as the primary gives it.
#[derive(Clone, Debug)]
pub struct NewLease {
    job: JobId,
    range: ByteRange,
    digest: Option<[u8; 32]>,
    deadline: Option<Duration>,
    hedge_of: Option<LeaseId>,
    retries: u32,
    progress: bool,
}

impl NewLease {
    /// Lets the path of `job` fill `range`, which nobody has written or been given yet.
    pub fn new(job: JobId, range: ByteRange) -> Self {
        Self { job, range, digest: None, deadline: None, hedge_of: None, retries: 0, progress: false }
    }

    /// The job it is of.
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// Range to be filled.
    pub const fn range(&self) -> ByteRange {
        self.range
    }

    /// Makes it a *verified* lease: the client lets no byte of it into the stream before all of them have the BLAKE3
    /// digest `value`. It is taken back whole or not at all, and at most half as long as the client's window for its stream
    /// can become: 28 MiB, where the session window is 64 MiB.
    #[must_use]
    pub fn digest(mut self, value: [u8; 32]) -> Self {
        self.digest = Some(value);
        self
    }

    /// Loses the lease with `AGGREGATION_TIMEOUT` if it is not done in this time, counted from when the client gets it.
    #[must_use]
    pub fn deadline(mut self, value: Duration) -> Self {
        self.deadline = Some(value);
        self
    }

    /// Has what is missing of it given to the same path again, if it is lost for a reason that may pass, at most `value`
    /// times, whether the path takes it or not: after 50 ms, then twice as long each time, up to 2 s. Its outcome is known only then; while it waits,
    /// `lease_status` calls it stalled, and its range, of which the rest is missing, is nobody's: who writes or leases
    /// that ends it. Bytes that are given again count against the job's total again. Spec: PROTOCOL §10.
    #[must_use]
    pub fn retries(mut self, value: u32) -> Self {
        self.retries = value;
        self
    }

    /// Has the client report what comes of it, at most every 50 ms: [`Event::Progress`] tells when. A client that does not know
    /// of this reports nothing. Spec: PROTOCOL §7.28.
    #[must_use]
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// Lets it overlap `lease`, a live one of another path that `range` lies in: what comes first counts, and the one
    /// of which nothing is missing any more ends.
    #[must_use]
    pub fn hedge_of(mut self, lease: LeaseId) -> Self {
        self.hedge_of = Some(lease);
        self
    }
}

/// The primary's machine.
#[derive(Debug)]
pub(super) struct Primary {
    signer: Arc<dyn Signer>,
    rng: Rng,
    session: SessionId,
    client_key: PublicKey,
    /// Features that the client knows.
    features: Features,
    paths_max: usize,
    /// Split streams the client guarantees credit for.
    split_max: usize,
    /// Boxed: a map of few keeps room for eleven.
    paths: BTreeMap<PathId, Box<Path>>,
    last_path: PathId,
    jobs: BTreeMap<JobId, Job>,
    next_job: u64,
    leases: LeaseTable<Lease>,
    retries: Retries,
    next_lease: u64,
    outcomes: BTreeMap<LeaseId, LeaseOutcome>,
    /// Ranges that cuts of a lease gave back, until the application takes them.
    cuts: BTreeMap<LeaseId, Vec<ByteRange>>,
    streams: BTreeMap<StreamId, SplitSend>,
    syncs: BTreeMap<StreamId, Sync>,
    /// Offsets that readers wait for and nobody is to bring, until the application takes them.
    gaps: BTreeMap<StreamId, u64>,
    /// Readers as the client last told of them.
    readers: BTreeMap<StreamId, ReaderStatus>,
    /// Reports of progress that came.
    reports: u64,
    runs: BTreeMap<RunId, Run>,
    /// `Split` frames that went out, and those of them that were answered.
    splits_sent: usize,
    splits: usize,
    next_run: u64,
    /// Messages with a wrong seal that are still looked at.
    forged_relays: Bucket,
    late_frames: u64,
    tally: Tally,
    /// Frames that the client may send because of what came of earlier ones.
    account: Account,
    /// The latest instant that a frame came with.
    now: Instant,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Path {
    state: PathState,
    server_name: String,
    identities: Audience,
    /// Instant at which its ticket was signed.
    signed: Option<Instant>,
    done: u64,
    lost: u64,
    /// Leases it takes at once of a stream: fewer after it was silent. Spec: RATIONALE §8.
    quota: usize,
    /// The client has said that it was attached.
    attached: bool,
    /// With which of these keys its server signs what it has relayed; with none if there are none.
    relay_keys: SmallVec<[PublicKey; 1]>,
    relays_sent: u64,
    relays_heard: Once,
    stolen: u64,
    bytes_done: u64,
    progress: Progress,
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
    /// The client has begun to get its bytes.
    begun: bool,
    /// Range that was missing when the client said that nothing comes any more.
    stalled: Option<ByteRange>,
    /// Bytes of it that have come, if the client was asked to report them.
    arrived: Option<u64>,
    verified: bool,
    /// All of it was asked back.
    revoked: bool,
    /// Cuts that the client has been asked for and has not answered.
    cuts_asked: u32,
    /// The application does not want to know what becomes of it.
    forgotten: bool,
}

/// Bytes that the primary writes itself at an offset.
#[derive(Debug)]
struct Run {
    stream: StreamId,
    range: ByteRange,
    /// The lease whose bytes it may bring first.
    hedge_of: Option<LeaseId>,
    sent: u64,
    outcome: Option<LeaseOutcome>,
    /// The application has let go of it before its outcome.
    forgotten: bool,
}

/// Factor by which the total of a job exceeds its range by default: a few lost leases, not endless ones.
const RETRIES: u64 = 4;

impl Primary {
    pub(super) fn new(
        now: Instant,
        signer: Arc<dyn Signer>,
        mut rng: Rng,
        client_key: PublicKey,
        features: Features,
        split_max: u32,
        paths_max: usize,
    ) -> Self {
        let session = SessionId::new(rng.bytes::<16>());
        Self {
            signer,
            rng,
            session,
            client_key,
            features,
            paths_max,
            split_max: usize::try_from(split_max).unwrap_or(usize::MAX).min(limits::SPLIT_STREAMS_MAX),
            paths: BTreeMap::new(),
            last_path: PathId::PRIMARY,
            jobs: BTreeMap::new(),
            next_job: 0,
            leases: LeaseTable::default(),
            retries: Retries::default(),
            next_lease: 0,
            outcomes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            streams: BTreeMap::new(),
            syncs: BTreeMap::new(),
            gaps: BTreeMap::new(),
            readers: BTreeMap::new(),
            reports: 0,
            runs: BTreeMap::new(),
            splits_sent: 0,
            splits: 0,
            next_run: 0,
            forged_relays: Bucket::new(
                now,
                Rate::per_second(limits::FORGED_RELAYS_PER_SECOND),
                limits::FORGED_RELAYS_BURST,
            ),
            late_frames: 0,
            tally: Tally::default(),
            account: Account::default(),
            now,
            actions: VecDeque::new(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn late_frames(&self) -> u64 {
        self.late_frames
    }

    /// Sizes of all that is kept of streams, and of what was to fill them.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("jobs", self.jobs.len()),
            ("leases", self.leases.len()),
            ("retries", self.retries.len()),
            ("outcomes", self.outcomes.len()),
            ("cuts", self.cuts.len()),
            ("streams", self.streams.len()),
            ("syncs", self.syncs.len()),
            ("gaps", self.gaps.len()),
            ("readers", self.readers.len()),
            ("runs", self.runs.len()),
        ]
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes what came of the client's frames since this was last called.
    pub(super) fn take_account(&mut self) -> Account {
        std::mem::take(&mut self.account)
    }

    // Paths.

    pub(super) fn add_path(&mut self, new: NewPath) -> Result<PathId, AddPathError> {
        let named = !new.server_name.is_empty() && new.server_name.len() <= limits::SERVER_NAME_MAX;
        let addressed = !new.addresses.is_empty()
            && new.addresses.len() <= limits::PATH_ADDRESSES_MAX
            && new.addresses.iter().all(|address| address.port() != 0 && !address.ip().is_unspecified());
        if !named || !addressed {
            return Err(AddPathError::InvalidAddress);
        }
        let identities =
            Audience::of(new.identities).filter(|_| new.relay_keys.len() <= limits::RELAY_KEYS_MAX);
        let identities = identities.ok_or(AddPathError::Misuse(ApiMisuse::TooLong))?;
        let live = self.paths.values().filter(|path| !matches!(path.state, PathState::Dead(_))).count();
        let next = self.last_path.into_inner().checked_add(1);
        let Some(next) = next.filter(|_| live < self.paths_max) else {
            return Err(AddPathError::LimitExceeded(self.paths_max));
        };
        let id = PathId::new(next);
        self.last_path = id;
        self.paths.insert(
            id,
            Box::new(Path {
                state: PathState::Connecting,
                server_name: new.server_name.clone(),
                identities,
                signed: None,
                done: 0,
                lost: 0,
                quota: limits::LEASES_PER_PATH,
                attached: false,
                relay_keys: new.relay_keys,
                relays_sent: 0,
                relays_heard: Once::default(),
                stolen: 0,
                bytes_done: 0,
                progress: Progress::default(),
            }),
        );
        self.forget_dead();
        let nonce = self.rng.bytes::<16>();
        self.sign(Draft::Path(PathDraft {
            session: self.session,
            path: id,
            addresses: new.addresses,
            server_name: new.server_name,
            identities,
            client_key: self.client_key,
            nonce,
        }));
        Ok(id)
    }

    /// Dead paths stay listed, but not without end.
    fn forget_dead(&mut self) {
        let dead = self.paths.iter().filter(|(_, path)| matches!(path.state, PathState::Dead(_)));
        let mut dead: Vec<PathId> =
            dead.map(|(&id, _)| id).filter(|&id| self.leases.count_of_path(id) == 0).collect();
        // Numbers rise, so the oldest come first.
        dead.truncate(dead.len().saturating_sub(limits::DEAD_PATHS_LISTED));
        for id in dead {
            self.paths.remove(&id);
        }
    }

    /// Returns whether the path was there to remove. Its leases have `patience` to finish.
    pub(super) fn remove_path(&mut self, id: PathId, patience: Duration) -> bool {
        let Some(path) = self.paths.get_mut(&id) else {
            return false;
        };
        if matches!(path.state, PathState::Dead(_)) {
            return false;
        }
        path.state = PathState::Draining;
        let known = self.features.contains(Features::DRAIN);
        let deadline_ms = if known { u64::try_from(patience.as_millis()).unwrap_or(u64::MAX) } else { 0 };
        self.tell(Frame::RemovePath { path: id, code: ErrorCode::NO_ERROR, deadline_ms });
        true
    }

    pub(super) fn path_state(&self, id: PathId) -> Option<PathState> {
        self.paths.get(&id).map(|path| path.state)
    }

    /// All paths that are known, dead ones included.
    pub(super) fn paths(&self) -> Vec<PathInfo> {
        self.paths.iter().map(|(&id, path)| self.info(id, path)).collect()
    }

    /// One path, if it is known.
    pub(super) fn path(&self, id: PathId) -> Option<PathInfo> {
        self.paths.get(&id).map(|path| self.info(id, path))
    }

    fn info(&self, id: PathId, path: &Path) -> PathInfo {
        PathInfo {
            id,
            state: path.state,
            server_name: path.server_name.clone(),
            identities: path.identities.iter().copied().collect(),
            leases: self.leases.count_of_path(id),
            leases_max: path.quota,
            leases_done: path.done,
            leases_lost: path.lost,
            leases_stolen: path.stolen,
            bytes_done: path.bytes_done,
            rtt: path.progress.rtt,
            late_bytes: path.progress.late,
            overlap_bytes: path.progress.overlap,
        }
    }

    // Control frames.

    /// A control frame of the client arrived. An error is the client's fault and ends the session.
    pub(super) fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), PeerFault> {
        self.now = self.now.max(now);
        match frame {
            Frame::PathReport { path, status } => self.on_path_report(path, status),
            Frame::JobAccepted { job } => self.on_job_answer(job, Ok(())),
            Frame::JobRefused { job, code } => self.on_job_answer(job, Err(code)),
            Frame::LeaseDone { lease } => self.check_lease(lease, None)?,
            Frame::LeaseRefused { lease, code } => {
                let range = self.leases.get(lease).map(Live::range);
                self.check_lease(lease, Some((code, range.into_iter().collect())))?;
            }
            Frame::LeaseLost { lease, code, missing } => self.check_lease(lease, Some((code, missing)))?,
            Frame::SplitAck { stream, credit } => {
                if self.splits >= self.splits_sent {
                    return Err(PeerFault::SplitAckUnasked); // one for each Split
                }
                self.splits += 1;
                self.on_credit(Credit::Offset { stream, offset: credit })?
            }
            Frame::Credit(credit) => self.on_credit(credit)?,
            Frame::StreamComplete { stream } => self.on_complete(stream)?,
            Frame::StreamStopped { stream, code } => self.on_stream_stopped(stream, code),
            Frame::StreamMappingUpdate { operation, stream, lease, range } => {
                self.on_mapping(operation, stream, lease, range)?
            }
            Frame::OffsetSyncRequest { stream, from } => self.on_sync_request(stream, from),
            Frame::OffsetSyncResponse { stream, received, more } => {
                self.on_sync_response(stream, &received, more)?
            }
            Frame::ProgressReport(report) => self.on_progress(&report)?,
            Frame::SessionClose { code, reason } => {
                self.actions.push_back(Action::PeerLeft { code, reason });
            }
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
            | Frame::StreamFinal { .. } => return Err(PeerFault::FrameUnexpected),
        }
        Ok(())
    }

    fn on_path_report(&mut self, id: PathId, status: PathStatus) {
        let Some(path) = self.paths.get_mut(&id) else {
            self.late_frames += 1;
            return;
        };
        let said = matches!(
            (path.state, status),
            (PathState::Dead(_), _)
                | (PathState::Active, PathStatus::Active)
                | (PathState::Degraded, PathStatus::Degraded)
        );
        if said {
            self.late_frames += 1;
            return;
        }
        path.attached |= status == PathStatus::Active;
        if status == PathStatus::Degraded {
            // Half of what it had; its leases are lost, and their answers follow.
            let live = self.leases.count_of_path(id);
            path.quota = (path.quota.min(live) / 2).max(1);
        }
        path.state = match status {
            // On its way when the path was removed.
            PathStatus::Active | PathStatus::Degraded if path.state == PathState::Draining => return,
            PathStatus::Active => PathState::Active,
            PathStatus::Degraded => PathState::Degraded,
            PathStatus::Dead(code) => PathState::Dead(code),
        };
        if let PathState::Dead(code) = path.state {
            if let Some(signed) = path.signed.filter(|_| !path.attached) {
                tell_of_skew(id, code, self.now.saturating_duration_since(signed));
            }
            let jobs: Vec<JobId> =
                self.jobs.iter().filter(|(_, job)| job.path == id).map(|(&job, _)| job).collect();
            for job in jobs {
                self.on_job_answer(job, Err(code));
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
        if matches!(job.answer, Some(Err(_))) || job.answer == Some(answer) {
            self.late_frames += 1;
        } else {
            job.answer = Some(answer);
            self.actions.push_back(Action::Notify(Event::JobAnswered(id)));
        }
    }

    /// An answer to a lease must name one that was granted; one that ended here first is late.
    fn check_lease(&mut self, id: LeaseId, lost: Option<(ErrorCode, Ranges)>) -> Result<(), PeerFault> {
        if id.into_inner() >= self.next_lease {
            return Err(PeerFault::LeaseUnknown);
        }
        // What is said to be missing must be part of the lease: it goes to the application as it is.
        if let (Some(lease), Some((_, missing))) = (self.leases.get(id), &lost) {
            if !missing.iter().all(|part| lease.range().contains(*part)) {
                return Err(PeerFault::LeaseOutside);
            }
        }
        self.end_lease(id, lost);
        Ok(())
    }

    fn on_credit(&mut self, credit: Credit) -> Result<(), PeerFault> {
        let (stream, run) = match credit {
            Credit::Offset { stream, offset } => (stream, Err(offset)),
            Credit::Run { stream, bytes } => (stream, Ok(bytes)),
            Credit::Lease { .. } => return Err(PeerFault::FrameUnexpected),
        };
        let Some(split) = self.streams.get_mut(&stream) else {
            self.late_frames += 1;
            return Ok(());
        };
        let risen = match run {
            Ok(bytes) => split.on_run_credit(bytes),
            Err(offset) => split.on_offset_credit(offset),
        };
        if !risen {
            return Ok(());
        }
        self.actions.push_back(Action::Notify(Event::Writable(stream)));
        for (&id, _) in self.runs.iter().filter(|(_, run)| run.stream == stream && run.outcome.is_none()) {
            self.actions.push_back(Action::Notify(Event::RunWritable(id)));
        }
        Ok(())
    }

    fn on_complete(&mut self, stream: StreamId) -> Result<(), PeerFault> {
        let Some(split) = self.streams.get_mut(&stream) else {
            self.late_frames += 1;
            return Ok(());
        };
        if split.stopped().is_some() {
            return Ok(());
        }
        if !split.on_complete() {
            return Err(PeerFault::CompleteTooSoon);
        }
        // Every byte is at the client; what QUIC has not been told yet does not matter any more.
        let runs: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| run.stream == stream).map(|(&id, _)| id).collect();
        for run in runs {
            self.on_run_end(run, None);
        }
        let leases: Vec<LeaseId> = self.leases.of_stream(stream).map(|(id, _)| id).collect();
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

    /// The application's key has not signed what would have told the client of these paths and jobs: they are over, with what
    /// was granted of them.
    pub(super) fn on_unsigned(
        &mut self,
        struck: &[Sealing],
        leases: impl IntoIterator<Item = LeaseId>,
        code: ErrorCode,
    ) {
        for sealing in struck {
            match sealing {
                Sealing::Path(path) => self.on_path_report(*path, PathStatus::Dead(code)),
                Sealing::Job(job, _) => self.on_job_answer(*job, Err(code)),
                Sealing::Relay(..) => {}
            }
        }
        for lease in leases {
            let range = self.leases.get(lease).map(Live::range);
            self.end_lease(lease, Some((code, range.into_iter().collect())));
        }
    }

    /// The ticket of a path is signed.
    pub(super) fn on_signed(&mut self, now: Instant, path: PathId) {
        if let Some(path) = self.paths.get_mut(&path) {
            path.signed = Some(now);
        }
    }

    /// Signer that secondaries believe.
    pub(super) fn signer(&self) -> Arc<dyn Signer> {
        self.signer.clone()
    }

    /// Has a frame sent once it is signed.
    fn sign(&mut self, draft: Draft) {
        self.actions.push_back(Action::Sign(Box::new(draft)));
    }

    fn tell(&mut self, frame: Frame) {
        self.actions.push_back(Action::Send { path: PathId::PRIMARY, frame });
    }
}

/// Tells the operator if a secondary has refused a ticket of this age for its date: then the two clocks differ.
fn tell_of_skew(path: PathId, code: ErrorCode, age: Duration) {
    let valid = limits::TICKET_LIFETIME + limits::CLOCK_SKEW;
    if code == ErrorCode::TICKET_EXPIRED && age < valid {
        let ahead_min_s = (valid - age).as_secs();
        tracing::warn!(%path, ahead_min_s, "clock skew: the secondary's clock is ahead of this server's by at least that");
    } else if code == ErrorCode::CLOCK_SKEW {
        let behind_min_s = limits::CLOCK_SKEW.as_secs();
        tracing::warn!(%path, behind_min_s, "clock skew: the secondary's clock is behind this server's by more than that");
    }
}

#[cfg(test)]
mod tests;
