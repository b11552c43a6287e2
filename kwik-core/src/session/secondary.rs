//! The secondary: fills the ranges it is given, and has no way to do anything else.
//!
//! Owns the jobs and leases of one path. Trusts the seal of the primary, not the client that carries it. Called by
//! `Session` with facts and with the application's commands; answers with actions. Spec: PROTOCOL §5.

#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod relay;

#[cfg(any(test, fuzzing))]
pub use fuzzing::secondary_ops;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    action::Action,
    effort::Tally,
    price::{self, Account},
};
use crate::{
    action::{Event, JobInfo, LeaseInfo},
    budget::{Bucket, Rate},
    error::{ErrorCode, LeaseWriteError, PeerFault},
    id::{ByteRange, JobId, LeaseId, PathId, PublicKey, SessionId, StreamId},
    lease::{
        relay::Once,
        ticket::{JobClaims, Signer},
    },
    limits,
    wire::{Credit, Features, Frame, JobOpen},
};

/// The secondary's machine.
#[derive(Debug)]
pub(super) struct Secondary {
    session: SessionId,
    path: PathId,
    /// The primary whose ticket was shown, and whose jobs are therefore believed.
    primary: PublicKey,
    jobs: BTreeMap<JobId, Job>,
    last_job: Option<JobId>,
    /// Jobs the application has not seen.
    arrived: VecDeque<JobId>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: Option<LeaseId>,
    /// Credit by offset, per stream that leases name.
    offsets: BTreeMap<StreamId, u64>,
    /// Instant by which the path ends, once no more work is to come.
    draining: Option<Instant>,
    /// Features that the client knows.
    features: Features,
    /// Signs what this server has relayed, if it does.
    signer: Option<Arc<dyn Signer>>,
    relays_sent: u64,
    relays_heard: Once,
    late_frames: u64,
    /// Jobs, and messages, with a wrong seal that are still looked at: nothing earns more of them.
    forged_jobs: Bucket,
    forged_relays: Bucket,
    /// Frames that the client may send, or is charged for, because of what came of earlier ones.
    account: Account,
    tally: Tally,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Job {
    info: JobInfo,
    /// Bytes that leases may still name.
    left: u64,
    expiry: u64,
    /// Live leases the application has not seen.
    queue: VecDeque<LeaseId>,
    accepted: bool,
    /// Reason why no more leases come.
    closed: Option<ErrorCode>,
}

#[derive(Debug)]
struct Lease {
    job: JobId,
    stream: StreamId,
    range: ByteRange,
    /// Length when the application got it.
    noticed: u64,
    /// Reason why it is shorter now, if it is.
    cut: Option<ErrorCode>,
    credit: u64,
    sent: u64,
    /// The internal stream, once the first byte had credit.
    internal: Option<StreamId>,
    ended: Option<ErrorCode>,
    /// The application has let go of it.
    forgotten: bool,
    /// The application did so while the client still wanted it.
    given_up: bool,
}

/// Bytes that a lease may send now.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseAllowance {
    /// Stream offset of the lease's first byte.
    pub(super) start: u64,
    /// Bytes that were not sent yet, of the lease as the application got it.
    pub(super) left: u64,
    /// Number of them that have credit.
    pub(super) now: u64,
    pub(super) internal: Option<StreamId>,
}

/// Leases that gain by a frame of credit without its costing more than itself.
const LEASES_PER_CREDIT: u64 = 8;

impl Secondary {
    pub(super) fn new(
        now: Instant,
        session: SessionId,
        path: PathId,
        primary: PublicKey,
        features: Features,
        signer: Option<Arc<dyn Signer>>,
    ) -> Self {
        Self {
            session,
            path,
            primary,
            jobs: BTreeMap::new(),
            last_job: None,
            arrived: VecDeque::new(),
            leases: BTreeMap::new(),
            last_lease: None,
            offsets: BTreeMap::new(),
            draining: None,
            features,
            signer,
            relays_sent: 0,
            relays_heard: Once::default(),
            late_frames: 0,
            forged_jobs: Bucket::new(
                now,
                Rate::per_minute(limits::FORGED_JOBS_PER_MINUTE),
                limits::FORGED_JOBS_BURST,
            ),
            forged_relays: Bucket::new(
                now,
                Rate::per_second(limits::FORGED_RELAYS_PER_SECOND),
                limits::FORGED_RELAYS_BURST,
            ),
            account: Account::default(),
            tally: Tally::default(),
            actions: VecDeque::new(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// The primary's name for its path.
    pub(super) fn path(&self) -> PathId {
        self.path
    }

    pub(super) fn draining(&self) -> Option<Instant> {
        self.draining
    }

    pub(super) fn late_frames(&self) -> u64 {
        self.late_frames
    }

    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sizes of all that is kept of streams, and of what was to fill them.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("jobs", self.jobs.len()),
            ("arrived", self.arrived.len()),
            ("leases", self.leases.len()),
            ("offsets", self.offsets.len()),
        ]
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes what came of the client's frames since this was last called.
    pub(super) fn take_account(&mut self) -> Account {
        std::mem::take(&mut self.account)
    }

    /// A control frame of the client arrived, when the wall clock said `unix`. An error is the client's fault and ends the path.
    pub(super) fn handle_frame(&mut self, now: Instant, unix: u64, frame: Frame) -> Result<(), PeerFault> {
        match frame {
            Frame::JobOpen(open) => self.open_job(now, unix, open),
            Frame::JobClose { job } => {
                self.close_job(job);
                Ok(())
            }
            Frame::LeaseNotice { lease, job, range, credit } => {
                self.on_notice(unix, lease, job, range, credit)
            }
            Frame::LeaseRevoke { lease, keep: 0, code } => {
                self.end_lease(lease, code, true);
                Ok(())
            }
            Frame::LeaseRevoke { lease, keep, code } => {
                self.cut_lease(lease, keep, code);
                Ok(())
            }
            Frame::Credit(Credit::Lease { lease, bytes }) => {
                self.on_lease_credit(lease, bytes);
                Ok(())
            }
            Frame::Credit(Credit::Offset { stream, offset }) => {
                self.on_offset_credit(stream, offset);
                Ok(())
            }
            Frame::Drain { deadline_ms } => {
                let by = now.checked_add(Duration::from_millis(deadline_ms)).unwrap_or(now);
                if self.draining.is_none_or(|known| by < known) {
                    self.draining = Some(by);
                    self.actions.push_back(Action::Notify(Event::Draining));
                }
                Ok(())
            }
            Frame::SessionClose { code, reason } => {
                self.actions.push_back(Action::PeerLeft { code, reason });
                Ok(())
            }
            Frame::ClientHello(_)
            | Frame::ServerHello(_)
            | Frame::Refuse { .. }
            | Frame::AddPath(_)
            | Frame::PathReport { .. }
            | Frame::RemovePath { .. }
            | Frame::JobAccepted { .. }
            | Frame::JobRefused { .. }
            | Frame::LeaseGrant(_)
            | Frame::LeaseRefused { .. }
            | Frame::LeaseDone { .. }
            | Frame::LeaseLost { .. }
            | Frame::Split { .. }
            | Frame::SplitAck { .. }
            | Frame::StreamFinal { .. }
            | Frame::StreamComplete { .. }
            | Frame::StreamStopped { .. }
            | Frame::Credit(Credit::Run { .. })
            | Frame::OffsetSyncRequest { .. }
            | Frame::OffsetSyncResponse { .. }
            | Frame::StreamMappingUpdate { .. }
            | Frame::ProgressReport(_) => Err(PeerFault::FrameUnexpected),
        }
    }

    /// A client brings a job. What the primary did not seal is refused. Spec: PROTOCOL §5.1.
    fn open_job(&mut self, now: Instant, unix: u64, open: JobOpen) -> Result<(), PeerFault> {
        if self.last_job.is_some_and(|last| open.job <= last) {
            return Err(PeerFault::JobNotNew);
        }
        self.last_job = Some(open.job);
        let claims = JobClaims {
            session: self.session,
            path: self.path,
            job: open.job,
            stream: open.stream,
            range: open.range,
            total: open.total,
            expiry: open.expiry,
            payload: &open.payload,
        };
        // Cheap checks come first: a signature is looked at last.
        let refusal = if is_expired(unix, open.expiry) {
            Some(ErrorCode::TICKET_EXPIRED)
        } else if self.jobs.len() >= limits::JOBS_PER_PATH {
            Some(ErrorCode::LIMIT_EXCEEDED)
        } else if open.path != self.path || !self.tally.verified(claims.verify(&self.primary, &open.seal)) {
            // A client cannot tell whether a seal is right. One that brings many wrong ones has made them, or has a primary
            // that would have it spend this server's time.
            self.forged_jobs.take(now, 1).map_err(|_| PeerFault::JobsForged)?;
            Some(ErrorCode::AUTH_FAILED)
        } else {
            None
        };
        if let Some(code) = refusal {
            self.send(Frame::JobRefused { job: open.job, code });
            return Ok(());
        }
        // Only its primary can have signed it, once, and for more than it costs to look at; and for so many bytes, which may
        // be asked for and not wanted after all.
        self.account.earn(price::JOB_GENUINE + price::for_total(open.total));
        let info = JobInfo { id: open.job, stream: open.stream, range: open.range, payload: open.payload };
        let job = Job {
            info,
            left: open.total,
            expiry: open.expiry,
            queue: VecDeque::new(),
            accepted: false,
            closed: None,
        };
        self.jobs.insert(open.job, job);
        self.arrived.push_back(open.job);
        self.actions.push_back(Action::Notify(Event::JobArrived));
        Ok(())
    }

    fn close_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            self.late_frames += 1;
            return;
        };
        if job.closed.is_some() {
            self.late_frames += 1;
            return;
        }
        job.closed = Some(ErrorCode::NO_ERROR);
        self.actions.push_back(Action::Notify(Event::LeaseArrived(id)));
        self.tidy_job(id);
    }

    /// A closed job is forgotten once its leases were handed out and the application knows.
    fn tidy_job(&mut self, id: JobId) {
        let seen = !self.arrived.contains(&id);
        if seen && self.jobs.get(&id).is_some_and(|job| job.closed.is_some() && job.queue.is_empty()) {
            self.jobs.remove(&id);
        }
    }

    /// The client asks for a range. What the job does not allow is refused. Spec: PROTOCOL §5.1.
    fn on_notice(
        &mut self,
        unix: u64,
        id: LeaseId,
        job_id: JobId,
        range: ByteRange,
        credit: u64,
    ) -> Result<(), PeerFault> {
        if self.last_lease.is_some_and(|last| id <= last) {
            return Err(PeerFault::NoticeNotNew);
        }
        if self.last_job.is_none_or(|last| job_id > last) {
            return Err(PeerFault::NoticeOfNoJob);
        }
        self.last_lease = Some(id);
        let expiry = self.jobs.get(&job_id).map(|job| job.expiry);
        let expired = expiry.is_some_and(|expiry| is_expired(unix, expiry));
        let live = self.leases.values().filter(|lease| lease.ended.is_none()).count();
        // Those that have ended are the application's to let go of.
        let full = live >= limits::LEASES_PER_PATH || self.leases.len() >= 2 * limits::LEASES_PER_PATH;
        let refusal = match self.jobs.get_mut(&job_id) {
            None => Some(ErrorCode::PATH_DEAD),
            Some(job) if job.closed.is_some() => job.closed,
            Some(_) if expired => Some(ErrorCode::TICKET_EXPIRED),
            Some(_) if self.draining.is_some() => Some(ErrorCode::DRAINING),
            Some(_) if full => Some(ErrorCode::LIMIT_EXCEEDED),
            Some(job) if !job.info.range.contains(range) || range.len() > job.left => {
                Some(ErrorCode::LEASE_VIOLATION)
            }
            Some(job) => {
                job.left -= range.len();
                job.queue.push_back(id);
                let stream = job.info.stream;
                let lease = Lease {
                    job: job_id,
                    stream,
                    range,
                    noticed: range.len(),
                    cut: None,
                    credit,
                    sent: 0,
                    internal: None,
                    ended: None,
                    forgotten: false,
                    given_up: false,
                };
                self.leases.insert(id, lease);
                self.actions.push_back(Action::Notify(Event::LeaseArrived(job_id)));
                None
            }
        };
        if let Some(code) = refusal {
            self.send(Frame::LeaseRefused { lease: id, code });
        }
        Ok(())
    }

    fn on_lease_credit(&mut self, id: LeaseId, bytes: u64) {
        let Some(lease) = self.leases.get_mut(&id) else {
            self.late_frames += 1;
            return;
        };
        let before = lease.credit;
        lease.credit = before.max(bytes.min(lease.noticed));
        if lease.credit == before || lease.ended.is_some() {
            return; // nobody can send more than before
        }
        let job = lease.job;
        self.actions.push_back(Action::Notify(Event::LeaseWritable(id)));
        self.actions.push_back(Action::Notify(Event::LeaseArrived(job)));
    }

    fn on_offset_credit(&mut self, stream: StreamId, offset: u64) {
        if !self.leases.values().any(|lease| lease.stream == stream) {
            self.late_frames += 1;
            return;
        }
        let known = self.offsets.entry(stream).or_default();
        let before = std::mem::replace(known, offset.max(*known));
        if offset <= before {
            return;
        }
        let mut jobs: SmallVec<[JobId; 4]> = SmallVec::new();
        // Of use only to those that reach into what is new.
        let gains = |lease: &Lease| {
            lease.stream == stream
                && lease.ended.is_none()
                && lease.range.start() < offset
                && lease.range.end() > before
                && lease.credit < lease.range.len()
        };
        let mut gained = 0;
        for (&id, lease) in self.leases.iter().filter(|(_, lease)| gains(lease)) {
            gained += 1;
            self.actions.push_back(Action::Notify(Event::LeaseWritable(id)));
            if !jobs.contains(&lease.job) {
                jobs.push(lease.job);
            }
        }
        for job in jobs {
            self.actions.push_back(Action::Notify(Event::LeaseArrived(job)));
        }
        // Honest leases do not overlap, so few gain by one frame; many events at a time cost more than that.
        self.account.charge(gained / LEASES_PER_CREDIT);
    }

    /// Ends a lease before its end. With `reset` its internal stream is given up.
    fn end_lease(&mut self, id: LeaseId, code: ErrorCode, reset: bool) {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ended.is_none()) else {
            self.late_frames += 1;
            return;
        };
        lease.ended = Some(code);
        // Whoever has written it to its end need not ask for it again, nor let go of it.
        let whole = lease.sent == lease.range.len();
        let (internal, over, job) = (lease.internal, lease.forgotten || whole, lease.job);
        if let Some(stream) = internal.filter(|_| reset) {
            self.actions.push_back(Action::ResetInternal { stream, code });
        }
        if self.unqueue(job, id) {
            // Taken back before anybody saw it. If the job is closed, this may have been the last of it.
            self.forget(id);
            self.actions.push_back(Action::Notify(Event::LeaseArrived(job)));
            return;
        }
        self.actions.push_back(Action::Notify(Event::LeaseEnded(id)));
        if over {
            self.forget(id);
        }
    }

    /// Takes back what lies behind the first `keep` bytes of a lease. What was sent of it is sent, and late.
    fn cut_lease(&mut self, id: LeaseId, keep: u64, code: ErrorCode) {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ended.is_none()) else {
            self.late_frames += 1;
            return;
        };
        let kept = keep.max(lease.sent).min(lease.range.len());
        if lease.sent == lease.range.len() || kept == lease.range.len() {
            return; // it has left whole, or all of it is kept
        }
        lease.range = ByteRange::new(lease.range.start(), kept).unwrap_or(lease.range);
        lease.cut = Some(code);
        if let Some(stream) = lease.internal.filter(|_| lease.sent == kept) {
            self.actions.push_back(Action::FinishInternal { stream });
        }
        self.actions.push_back(Action::Notify(Event::LeaseEnded(id)));
    }

    /// Takes a lease out of its job's queue. Returns whether it was there.
    fn unqueue(&mut self, job: JobId, id: LeaseId) -> bool {
        let Some(job) = self.jobs.get_mut(&job) else {
            return false;
        };
        let waiting = job.queue.len();
        job.queue.retain(|lease| *lease != id);
        job.queue.len() < waiting
    }

    /// Drops a lease and, with the last one of its stream, the stream's credit.
    fn forget(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else {
            return;
        };
        if lease.sent > 0 || lease.given_up {
            // Bytes of it were worth sending, or it was this end that did not send them.
            self.account.earn(price::LEASE_OVER);
        }
        if !self.leases.values().any(|other| other.stream == lease.stream) {
            self.offsets.remove(&lease.stream);
        }
    }

    // What the application does.

    pub(super) fn accept_job(&mut self) -> Option<JobInfo> {
        let id = self.arrived.pop_front()?;
        self.jobs.get(&id).map(|job| job.info.clone())
    }

    /// Says once that the job is accepted.
    pub(super) fn take_job(&mut self, id: JobId) {
        let fresh = |job: &mut Job| !std::mem::replace(&mut job.accepted, true) && job.closed.is_none();
        if self.jobs.get_mut(&id).is_some_and(fresh) {
            self.send(Frame::JobAccepted { job: id });
        }
    }

    /// Refuses a job, accepted or not: leases that were not handed out end with it.
    pub(super) fn refuse_job(&mut self, id: JobId, code: ErrorCode) {
        let Some(mut job) = self.jobs.remove(&id) else {
            return;
        };
        self.arrived.retain(|arrived| *arrived != id);
        while let Some(lease) = job.queue.pop_front() {
            self.send(Frame::LeaseRefused { lease, code });
            self.forget(lease);
        }
        if job.closed.is_none() {
            self.send(Frame::JobRefused { job: id, code });
        }
    }

    pub(super) fn next_lease(&mut self, id: JobId) -> Result<Option<LeaseInfo>, ErrorCode> {
        let job = self.jobs.get(&id).ok_or(ErrorCode::NO_ERROR)?;
        // What the reader waits for comes first, and nothing is begun that could not send a byte. Spec: PROTOCOL §6.
        let ready = job.queue.iter().filter_map(|lease| Some((*lease, self.allowance(*lease).ok()?)));
        let next =
            ready.filter(|(_, allowance)| allowance.now > 0).min_by_key(|(_, allowance)| allowance.start);
        if let Some((lease, _)) = next {
            self.unqueue(id, lease);
            return Ok(self.leases.get_mut(&lease).map(|state| {
                (state.noticed, state.cut) = (state.range.len(), None); // cut before anybody saw it
                LeaseInfo { id: lease, range: state.range }
            }));
        }
        match job.closed.filter(|_| job.queue.is_empty()) {
            Some(code) => {
                self.tidy_job(id);
                Err(code)
            }
            None => Ok(None),
        }
    }

    /// Bytes that a lease may send now.
    pub(super) fn allowance(&self, id: LeaseId) -> Result<LeaseAllowance, LeaseWriteError> {
        let lease = self.leases.get(&id).ok_or(LeaseWriteError::Ended(ErrorCode::LEASE_REVOKED))?;
        if let Some(code) = lease.ended {
            return Err(LeaseWriteError::Ended(code));
        }
        if let Some(code) = lease.cut.filter(|_| lease.sent == lease.range.len()) {
            return Err(LeaseWriteError::Ended(code));
        }
        let offset = self.offsets.get(&lease.stream).copied().unwrap_or_default();
        let by_offset = offset.saturating_sub(lease.range.start());
        let allowed = lease.credit.max(by_offset).min(lease.range.len());
        Ok(LeaseAllowance {
            start: lease.range.start(),
            left: lease.noticed.saturating_sub(lease.sent),
            now: allowed.saturating_sub(lease.sent),
            internal: lease.internal,
        })
    }

    /// The internal stream of a lease is open.
    pub(super) fn on_opened(&mut self, id: LeaseId, internal: StreamId) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.internal = Some(internal);
        }
    }

    /// `len` bytes of a lease were handed to QUIC. Returns whether it is all of the lease.
    pub(super) fn on_sent(&mut self, id: LeaseId, len: u64) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else {
            return false;
        };
        lease.sent += len;
        lease.sent == lease.range.len()
    }

    /// The internal stream arrived whole, or the client stopped it with a code.
    pub(super) fn on_internal_end(&mut self, id: LeaseId, stopped: Option<ErrorCode>) {
        match stopped {
            None => self.forget(id),
            Some(code) => self.end_lease(id, code, true),
        }
    }

    /// The application lets go of a lease; an incomplete one is given up with `code`.
    pub(super) fn reset_lease(&mut self, id: LeaseId, code: ErrorCode) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.forgotten = true;
        if lease.ended.is_some() {
            self.forget(id);
            return;
        }
        lease.given_up = true;
        if lease.sent == lease.range.len() {
            return; // forgotten once it has arrived
        }
        // Said on control as well: a reset overtakes the header that would tell whose stream it was.
        self.send(Frame::LeaseRefused { lease: id, code });
        self.end_lease(id, code, true);
    }

    fn send(&mut self, frame: Frame) {
        self.actions.push_back(Action::Send { path: PathId::PRIMARY, frame });
    }
}

/// Returns whether a job's time is over, as far as the clocks of two servers may differ.
fn is_expired(unix: u64, expiry: u64) -> bool {
    unix > expiry.saturating_add(limits::CLOCK_SKEW.as_secs())
}

#[cfg(test)]
mod tests;
