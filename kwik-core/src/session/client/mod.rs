//! The client: attaches the servers its primary names, and puts what they send where it belongs.
//!
//! Owns paths, jobs, leases and split streams. Never trusts a secondary outside its leases, never trusts the primary
//! for where to dial. Called by `Session` with facts; answers with actions. Spec: PROTOCOL §4 to §9.

#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;
mod credit;
mod dials;
mod faults;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod gaps;
mod jobs;
mod leases;
mod observe;
mod paths;
mod placing;
mod progress;
mod relay;
mod stall;
mod streams;

#[cfg(any(test, fuzzing))]
pub use fuzzing::client_ops;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use self::{
    observe::Observed,
    progress::Progress,
    stall::{Front, Suspended},
};
use super::{action::Action, price::Account};
use crate::{
    action::{Event, ReaderStatus},
    budget::{Bucket, Rate},
    config::{ClientConfig, TransportConfig},
    error::{ErrorCode, PeerFault, ReadError},
    id::{ByteRange, JobId, LeaseId, PathId, SessionId, SpkiHash, StreamId},
    lease::{
        table::{LeaseTable, Live},
        ticket::SigningKey,
    },
    limits,
    path::{dial::FailedDials, health::Health, race::Race, state::State},
    rng::Rng,
    stats::SourceStats,
    stream::{gap::Gap, recv::SplitRecv, staging::Staging},
    wire::{Credit, Features, Frame, JobOpen},
};

/// The client's machine.
#[derive(Debug)]
pub(super) struct Client {
    config: Arc<TransportConfig>,
    key: SigningKey,
    /// Offered to the primary.
    app_protocols: Vec<Bytes>,
    /// The one of them that the primary chose.
    app_protocol: Option<Bytes>,
    /// Round-trip time to the primary, for window growth.
    primary_rtt: Duration,
    /// Set once the primary has accepted the hello.
    session: Option<SessionId>,
    /// Features that the primary knows.
    features: Features,
    /// Boxed: a map of few keeps room for eleven.
    paths: BTreeMap<PathId, Box<Path>>,
    last_path: PathId,
    /// Paths waiting for one of the dials at once.
    undialled: VecDeque<PathId>,
    /// Dials the primary may cause. Spec: PROTOCOL §9, §11.
    dials: Bucket,
    failed_dials: FailedDials,
    /// Jobs of paths that are not gone.
    jobs: BTreeMap<JobId, Job>,
    last_job: Option<JobId>,
    leases: LeaseTable<Lease>,
    last_lease: Option<LeaseId>,
    /// Instants at which leases with a deadline are lost.
    lease_deadlines: BTreeSet<(Instant, LeaseId)>,
    streams: BTreeMap<StreamId, SplitRecv>,
    /// Reasons why streams were given up, for readers that have not heard of it.
    failed: BTreeMap<StreamId, ReadError>,
    /// Split streams that have ended: frames that name them are late, not wrong.
    ended: VecDeque<StreamId>,
    /// Internal streams of the primary. One whose stream is not split yet waits for that, unread.
    runs: BTreeMap<StreamId, Run>,
    /// Split streams whose reader found nothing.
    blocked: BTreeSet<StreamId>,
    /// Number of `Split` frames that came.
    splits: usize,
    /// Holes that they wait for, where nobody seems to fill them.
    gaps: BTreeMap<StreamId, Gap>,
    /// A reader waits for what nobody is known to fill, and that is not watched yet.
    unwatched: bool,
    /// Streams whose credit has to be looked at once the present facts have settled.
    recredit: BTreeSet<StreamId>,
    /// Readers as the primary was last told of them.
    readers_told: BTreeMap<StreamId, ReaderStatus>,
    /// Bytes of the session window that streams have beyond their guaranteed parts, and leases for themselves.
    extra_window: u64,
    sources: BTreeMap<PathId, SourceStats>,
    held: u64,
    held_max: u64,
    late_frames: u64,
    observed: Observed,
    /// Set when the primary path is gone: why nobody will send what is missing.
    lost: Option<ErrorCode>,
    /// Frames that the primary may send, or is charged for, because of what came of earlier ones.
    account: Account,
    actions: VecDeque<Action>,
}

/// One secondary.
#[derive(Debug)]
struct Path {
    state: State,
    health: Health,
    /// The addresses that are dialled, until it is attached.
    race: Option<Box<Race>>,
    server_name: String,
    pins: Vec<SpkiHash>,
    ticket: Bytes,
    /// Features that its server knows.
    features: Features,
    /// The attach, or what is left to do before it is removed, must be done by then.
    deadline: Option<Instant>,
    /// Jobs that wait for the path to become active.
    held_jobs: Vec<JobOpen>,
    highest_noticed: Option<LeaseId>,
    internal: BTreeMap<StreamId, Filling>,
    permitted_uni: u64,
    /// Bytes came, or something else that bears on what it owes.
    touched: bool,
    /// Its silence is being held against it.
    suspected: bool,
    /// Score of what it did that was let pass, and has not been made up for.
    score: u32,
    /// Leases or credit changed: what it owes has to be worked out anew.
    stale: bool,
    /// Leases that it should be filling, one per stream.
    fronts: SmallVec<[Front; 1]>,
    /// Streams on which it has leases and no credit for any.
    starved: SmallVec<[StreamId; 1]>,
    /// Jobs and leases that may be taken to its server, beyond what came of earlier ones.
    errands: Bucket,
    /// Instants since which the leases were due of which the first bytes came in this batch.
    begun: SmallVec<[Instant; 1]>,
    /// Usual time from when a lease is due to its first byte.
    first_byte: Option<Duration>,
    /// News of its leases that the primary is to be told.
    progress: Progress,
}

impl Path {
    /// Connections under way before one is taken, and the one that was until its server accepts.
    fn dialling(&self) -> usize {
        self.race.as_ref().map_or(0, |race| race.running().len())
    }

    /// Notes that leases or credit changed.
    fn relook(&mut self) {
        self.touched = true;
        self.stale = true;
    }
}

/// An internal stream of a secondary: the mapping of DESIGN §1.
#[derive(Clone, Copy, Debug)]
struct Filling {
    lease: LeaseId,
    /// Stream offset of the next byte.
    next: u64,
}

/// An internal stream of the primary.
#[derive(Clone, Copy, Debug)]
struct Run {
    stream: StreamId,
    next: u64,
}

#[derive(Debug)]
struct Job {
    path: PathId,
    stream: StreamId,
    range: ByteRange,
    /// Its server has answered.
    accepted: bool,
    /// Reason why its leases are refused, once they are.
    closed: Option<ErrorCode>,
}

#[derive(Debug)]
struct Lease {
    job: JobId,
    /// Bytes placed, from its start on.
    placed: u64,
    /// Bytes it may send, from its start on, whatever the credit by offset says.
    credit: u64,
    noticed: bool,
    /// Its end as its path knows it, which a later cut may lie before.
    noticed_end: u64,
    internal: Option<StreamId>,
    /// Instant at which it is lost if it is not done.
    deadline: Option<Instant>,
    suspended: Option<Suspended>,
    /// The bytes of a verified lease, until they prove right.
    staging: Option<Box<Staging>>,
    /// Room beyond the stream's window that is set aside for them: all of it, where somebody else has brought or may bring
    /// some of them as well, otherwise none.
    own_room: u64,
    /// The lease that it hedges. That one may have ended.
    hedge_of: Option<LeaseId>,
    /// It hedges another, or was hedged: others may have brought what it was to bring.
    contested: bool,
    /// The primary took it back before a byte of it came, or gave it where no more pieces are taken: it is as if it had never
    /// been given, and pays for nothing.
    withdrawn: bool,
    /// The bytes of it that the primary knows of, if it wants to know.
    told: Option<u64>,
}

impl Live<Lease> {
    /// Bytes it may send from its start on, under either kind of credit.
    fn allowed(&self, max_offset: u64) -> u64 {
        self.state.credit.max(max_offset.saturating_sub(self.range().start())).min(self.range().len())
    }

    /// Range that it may still bring at or beyond `max_offset`. Bytes that have come and wait for their digest are counted here,
    /// as nothing of them is in the stream yet.
    fn promised_above(&self, max_offset: u64) -> Option<ByteRange> {
        let range = self.range();
        let counted = if self.is_verified() { 0 } else { self.state.placed };
        let next = range.start().saturating_add(counted).max(max_offset);
        ByteRange::between(next, range.start().saturating_add(self.state.credit).min(range.end()))
    }

    fn is_verified(&self) -> bool {
        self.state.staging.is_some()
    }

    /// The room of its own that it would have to get before somebody else may bring the same bytes.
    fn own_room_wanted(&self) -> u64 {
        if self.is_verified() { self.range().len() - self.state.own_room } else { 0 }
    }
}

/// Ended split streams remembered; older ones are forgotten first.
const ENDED_REMEMBERED: usize = 1024;

impl Client {
    pub(super) fn new(now: Instant, mut rng: Rng, config: &ClientConfig) -> Self {
        Self {
            config: config.transport.clone(),
            key: SigningKey::from_seed(rng.bytes::<32>()),
            app_protocols: config.app_protocols().to_vec(),
            app_protocol: None,
            primary_rtt: Duration::ZERO,
            session: None,
            features: Features::default(),
            paths: BTreeMap::new(),
            last_path: PathId::PRIMARY,
            undialled: VecDeque::new(),
            dials: Bucket::new(now, Rate::per_minute(limits::DIALS_PER_MINUTE), limits::DIALS_PER_MINUTE),
            failed_dials: FailedDials::default(),
            jobs: BTreeMap::new(),
            last_job: None,
            leases: LeaseTable::default(),
            last_lease: None,
            lease_deadlines: BTreeSet::new(),
            streams: BTreeMap::new(),
            failed: BTreeMap::new(),
            ended: VecDeque::new(),
            runs: BTreeMap::new(),
            blocked: BTreeSet::new(),
            splits: 0,
            gaps: BTreeMap::new(),
            unwatched: false,
            recredit: BTreeSet::new(),
            readers_told: BTreeMap::new(),
            extra_window: 0,
            sources: BTreeMap::new(),
            held: 0,
            held_max: 0,
            late_frames: 0,
            observed: Observed::new(now),
            lost: None,
            account: Account::default(),
            actions: VecDeque::new(),
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The application protocol that the primary chose of those offered.
    pub(super) fn app_protocol(&self) -> Option<&Bytes> {
        self.app_protocol.as_ref()
    }

    /// Returns whether the path is not gone.
    pub(super) fn is_live(&self, path: PathId) -> bool {
        self.paths.get(&path).is_some_and(|path| path.state.is_live())
    }

    /// The hello to the primary.
    pub(super) fn hello(&self) -> Frame {
        self.client_hello(None)
    }

    /// Sizes of all that is kept of streams, and of what was to fill them.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("jobs", self.jobs.len()),
            ("leases", self.leases.len()),
            ("lease_deadlines", self.lease_deadlines.len()),
            ("streams", self.streams.len()),
            ("failed", self.failed.len()),
            ("runs", self.runs.len()),
            ("blocked", self.blocked.len()),
            ("gaps", self.gaps.len()),
            ("recredit", self.recredit.len()),
            ("readers_told", self.readers_told.len()),
        ]
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes what came of the primary's frames since this was last called.
    pub(super) fn take_account(&mut self) -> Account {
        std::mem::take(&mut self.account)
    }

    /// A control frame arrived.
    pub(super) fn handle_frame(&mut self, now: Instant, path: PathId, frame: Frame) {
        let handled = if path.is_primary() {
            self.handle_primary_frame(now, frame)
        } else {
            self.handle_secondary_frame(path, frame)
        };
        if let Err(fault) = handled {
            self.fault(path, fault);
        }
    }

    /// Frames a primary may send. An error is the primary's fault and ends the session.
    fn handle_primary_frame(&mut self, now: Instant, frame: Frame) -> Result<(), PeerFault> {
        if self.session.is_none() && !matches!(frame, Frame::ServerHello(_) | Frame::Refuse { .. }) {
            return Err(PeerFault::FrameUnexpected);
        }
        match frame {
            Frame::ServerHello(hello) if self.session.is_none() => {
                if hello.app_protocol.as_ref().is_some_and(|name| !self.app_protocols.contains(name)) {
                    return Err(PeerFault::ProtocolNotOffered);
                }
                self.app_protocol = hello.app_protocol;
                self.session = Some(hello.session);
                self.features = hello.features;
                if hello.version == limits::VERSION { Ok(()) } else { Err(PeerFault::HelloVersion) }
            }
            Frame::Refuse { code, reason } if self.session.is_none() => {
                self.actions.push_back(Action::PeerLeft { code, reason });
                Ok(())
            }
            Frame::AddPath(add) => self.add_path(now, add),
            Frame::RemovePath { path, code, deadline_ms } => {
                self.remove_path(now, path, code, Duration::from_millis(deadline_ms));
                Ok(())
            }
            Frame::JobOpen(job) => self.open_job(now, job),
            Frame::JobClose { job } => {
                self.close_job(job);
                Ok(())
            }
            Frame::LeaseGrant(grant) => self.grant(now, grant),
            Frame::LeaseRevoke { lease, keep, code } => self.revoke(lease, keep, code),
            Frame::Split { stream, offset } => self.split(stream, offset),
            Frame::StreamFinal { stream, size } => self.stream_final(stream, size),
            Frame::OffsetSyncRequest { stream, from } => self.on_sync_request(stream, from),
            Frame::OffsetSyncResponse { stream, received, .. } => {
                self.on_sync_response(now, stream, &received);
                Ok(())
            }
            Frame::SessionClose { code, reason } => {
                self.actions.push_back(Action::PeerLeft { code, reason });
                Ok(())
            }
            Frame::ServerHello(_)
            | Frame::Refuse { .. }
            | Frame::ClientHello(_)
            | Frame::PathReport { .. }
            | Frame::Drain { .. }
            | Frame::JobAccepted { .. }
            | Frame::JobRefused { .. }
            | Frame::LeaseNotice { .. }
            | Frame::LeaseRefused { .. }
            | Frame::LeaseDone { .. }
            | Frame::LeaseLost { .. }
            | Frame::SplitAck { .. }
            | Frame::StreamComplete { .. }
            | Frame::StreamStopped { .. }
            | Frame::Credit(_)
            | Frame::StreamMappingUpdate { .. }
            | Frame::ProgressReport(_) => Err(PeerFault::FrameUnexpected),
        }
    }

    /// Frames a secondary may send: the whole list. An error costs it its path.
    fn handle_secondary_frame(&mut self, path: PathId, frame: Frame) -> Result<(), PeerFault> {
        match frame {
            Frame::ServerHello(hello) => self.on_secondary_hello(path, &hello),
            Frame::Refuse { code, .. } => {
                self.on_path_lost(path, code.said_by_server());
                self.actions.push_back(Action::ClosePath { path, code: ErrorCode::NO_ERROR });
                Ok(())
            }
            Frame::JobAccepted { job } => self.on_job_answer(path, job, None),
            Frame::JobRefused { job, code } => self.on_job_answer(path, job, Some(code)),
            Frame::LeaseRefused { lease, code } => self.on_lease_refused(path, lease, code),
            Frame::ClientHello(_)
            | Frame::AddPath(_)
            | Frame::PathReport { .. }
            | Frame::RemovePath { .. }
            | Frame::Drain { .. }
            | Frame::JobOpen(_)
            | Frame::JobClose { .. }
            | Frame::LeaseGrant(_)
            | Frame::LeaseNotice { .. }
            | Frame::LeaseRevoke { .. }
            | Frame::LeaseDone { .. }
            | Frame::LeaseLost { .. }
            | Frame::Split { .. }
            | Frame::SplitAck { .. }
            | Frame::StreamFinal { .. }
            | Frame::StreamComplete { .. }
            | Frame::StreamStopped { .. }
            | Frame::Credit(_)
            | Frame::OffsetSyncRequest { .. }
            | Frame::OffsetSyncResponse { .. }
            | Frame::StreamMappingUpdate { .. }
            | Frame::ProgressReport(_)
            | Frame::SessionClose { .. } => Err(PeerFault::FrameUnexpected),
        }
    }

    /// A peer broke a rule: a secondary loses its path, the primary the session. Spec: PROTOCOL §1.6.
    pub(super) fn fault(&mut self, path: PathId, fault: PeerFault) {
        self.observed.on_fault(fault);
        if path.is_primary() {
            self.actions.push_back(Action::CloseSession { fault });
        } else if self.end_path(path, fault.code()) {
            self.actions.push_back(Action::BreakPath { path, fault });
        }
    }

    /// The primary path is gone: nobody hands out ranges any more. Spec: PROTOCOL §8.8.
    pub(super) fn on_primary_lost(&mut self, code: ErrorCode) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(code);
        self.end_waits();
        for (&path, state) in &mut self.paths {
            if state.state.on_end(ErrorCode::PRIMARY_LOST).is_ok() {
                self.actions.push_back(Action::ClosePath { path, code: ErrorCode::PRIMARY_LOST });
            }
            state.race = None;
            state.internal.clear();
        }
        self.jobs.clear();
        let own: u64 = self.leases.iter().map(|(_, lease)| lease.state.own_room).sum();
        self.extra_window -= own.min(self.extra_window);
        self.leases.clear();
        self.lease_deadlines.clear();
        self.gaps.clear();
        self.undialled.clear();
        for &stream in self.streams.keys() {
            self.actions.push_back(Action::Notify(Event::Readable(stream)));
        }
    }

    /// Something was heard on a path: `frames` counts decrypted frames, `rtt` is a fresh sample if there is one.
    pub(super) fn on_heard(&mut self, now: Instant, path: PathId, frames: u64, rtt: Option<Duration>) {
        if path.is_primary() {
            self.primary_rtt = rtt.unwrap_or(self.primary_rtt);
            return;
        }
        let Some(state) = self.paths.get_mut(&path) else {
            return;
        };
        let alive = state.health.on_frames(now, frames);
        if let Some(sample) = rtt {
            state.health.on_rtt(sample);
        }
        if !alive {
            return;
        }
        let suspected = std::mem::take(&mut state.suspected);
        if state.state.on_heard().is_ok() {
            state.relook();
            self.report(path, crate::wire::PathStatus::Active);
        } else if suspected {
            self.resume_silent(path);
        }
    }

    /// Gives credit, and looks again at which paths owe bytes. Called once facts have settled, not per datagram.
    pub(super) fn settle(&mut self, now: Instant) {
        self.failed_dials.settle(now);
        self.dial_next(now);
        self.end_drained();
        self.replenish_noted();
        self.look_at_paths(now);
        self.watch_gaps(now);
        self.tell_progress(now);
        self.observe(now);
    }

    /// Returns whether leases live, and so the primary must be known to be there. Spec: PROTOCOL §8.6.
    pub(super) fn needs_primary(&self) -> bool {
        !self.leases.is_empty()
    }

    fn send(&mut self, path: PathId, frame: Frame) {
        self.actions.push_back(Action::Send { path, frame });
    }

    fn tell_primary(&mut self, frame: Frame) {
        self.send(PathId::PRIMARY, frame);
    }

    fn client_hello(&self, attach: Option<crate::wire::Attach>) -> Frame {
        use crate::lease::ticket::Signer as _;
        Frame::ClientHello(crate::wire::ClientHello {
            version: limits::VERSION,
            features: Features::OFFERED,
            client_key: self.key.public_key(),
            split_streams_max: self.config.split_streams_max(),
            app_protocols: if attach.is_none() { self.app_protocols.clone() } else { Vec::new() },
            attach,
        })
    }

    fn source(&mut self, path: PathId) -> &mut SourceStats {
        self.sources.entry(path).or_default()
    }

    #[cfg(test)]
    pub(super) fn late_frames(&self) -> u64 {
        self.late_frames
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn sources(&self) -> &BTreeMap<PathId, SourceStats> {
        &self.sources
    }

    /// Bytes held for the application now, and the most there ever were.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.held, self.held_max)
    }

    fn credit(&mut self, path: PathId, credit: Credit) {
        self.send(path, Frame::Credit(credit));
    }
}

#[cfg(test)]
mod tests;
