//! The secondary's machine under any sequence of commands and facts: a client that brings sealed work, one that makes
//! work up, an application that fills leases or does not, and time.

#![expect(clippy::wildcard_enum_match_arm, reason = "what a target says nothing about may be anything")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::Secondary;
use crate::{
    error::{ErrorCode, PeerFault},
    fuzzing::{
        frames::{self, END},
        source::{Source, ops},
    },
    id::{ByteRange, JobId, LeaseId, PathId, SessionId, Signature, StreamId},
    lease::ticket::{JobClaims, Signer as _, SigningKey},
    limits,
    session::action::Action,
    timer::Wall,
    wire::{Credit, Features, Frame, JobOpen},
};

const SESSION: SessionId = SessionId::new([9; 16]);
const PATH: PathId = PathId::new(1);

/// Drives a secondary through the operations in `data`.
///
/// # Panics
/// If the secondary's application is given work that the primary did not seal, or may send what has no credit; if a
/// lease is handed out twice or not at all; or if its own state is not sound.
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
pub fn secondary_ops(data: &[u8]) {
    let mut driver = Driver::new(Instant::now());
    for mut op in ops(data) {
        let over = driver.step(&mut op).is_err();
        driver.take_actions();
        if over {
            return;
        }
        driver.check();
    }
}

/// A job that was sealed by the primary, for this path of this session.
#[derive(Debug)]
struct KnownJob {
    open: JobOpen,
    seen: bool,
    accepted: bool,
    refused: bool,
    /// Bytes of the leases that were not refused.
    named: u64,
}

#[derive(Debug)]
struct KnownLease {
    job: JobId,
    stream: StreamId,
    range: ByteRange,
    /// Length when the application got it.
    noticed: u64,
    credit: u64,
    sent: u64,
    handed_out: bool,
    refused: bool,
    /// Taken back by the client, or given up or filled by the application.
    over: bool,
}

struct Driver {
    secondary: Secondary,
    now: Instant,
    wall: Wall,
    primary: SigningKey,
    jobs: BTreeMap<JobId, KnownJob>,
    leases: BTreeMap<LeaseId, KnownLease>,
    offsets: BTreeMap<StreamId, u64>,
    next_job: u64,
    next_lease: u64,
}

impl Driver {
    fn new(now: Instant) -> Self {
        let primary = SigningKey::from_seed([3; 32]);
        let wall = Wall::new(now, Duration::from_secs(1_000));
        let secondary = Secondary::new(now, SESSION, PATH, primary.public_key(), Features::OFFERED, None);
        let (jobs, leases, offsets) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { secondary, now, wall, primary, jobs, leases, offsets, next_job: 0, next_lease: 0 }
    }

    /// One operation. An error is the client's fault and ends the path.
    fn step(&mut self, op: &mut Source<'_>) -> Result<(), PeerFault> {
        match op.below(20) {
            0 | 1 => self.open_job(op),
            2..=5 => self.notice(op),
            6 | 7 => self.credit(op),
            8 => self.revoke(op),
            9 | 10 => self.take_jobs(op),
            11..=13 => self.next_lease(op),
            14 | 15 => self.write(op),
            16 => self.end(op),
            17 => self.now += Duration::from_millis(op.below(1_000_000)),
            18 => {
                let job = frames::job(op);
                self.honest(Frame::JobClose { job });
            }
            _ if op.rarely(4) => return self.any_frame(op),
            _ => {}
        }
        Ok(())
    }

    /// A frame that an honest client might send now.
    fn honest(&mut self, frame: Frame) {
        let told = format!("{frame:?}");
        assert_eq!(self.secondary.handle_frame(self.now, self.wall.secs(self.now), frame), Ok(()), "{told}");
        self.take_actions();
    }

    /// A frame of any kind, but for those that are sent by the operations above, where it is known what they mean.
    fn any_frame(&mut self, op: &mut Source<'_>) -> Result<(), PeerFault> {
        let frame = frames::any(op);
        let known = match &frame {
            Frame::LeaseNotice { lease, .. } => lease.into_inner() >= self.next_lease,
            Frame::JobOpen(open) => open.job.into_inner() >= self.next_job,
            Frame::LeaseRevoke { .. } => true,
            frame => matches!(frame, Frame::Credit(Credit::Lease { .. } | Credit::Offset { .. })),
        };
        if known { Ok(()) } else { self.secondary.handle_frame(self.now, self.wall.secs(self.now), frame) }
    }

    fn open_job(&mut self, op: &mut Source<'_>) {
        let range =
            if op.rarely(2) { frames::range(op) } else { ByteRange::between(0, END).expect("not empty") };
        let mut open = JobOpen {
            job: JobId::new(self.next_job),
            path: PATH,
            stream: frames::stream(op),
            range,
            total: op.pick(&[2 * END, 1, 10_000]),
            expiry: op.pick(&[2_000, 1_000, 0, u64::MAX]),
            payload: Bytes::from_static(b"object"),
            seal: Signature::new([0; 64]),
        };
        self.next_job += 1;
        let claims = |open: &JobOpen| JobClaims {
            session: SESSION,
            path: open.path,
            job: open.job,
            stream: open.stream,
            range: open.range,
            total: open.total,
            expiry: open.expiry,
            payload: &[],
        };
        let sealed = JobClaims { payload: &open.payload, ..claims(&open) };
        open.seal = sealed.seal(&self.primary);
        let true_one = open.clone();
        match op.below(16) {
            1 => open.path = PathId::new(2),
            2 => open.stream = frames::stream(op),
            3 => open.range = frames::range(op),
            4 => open.total += 1,
            5 => open.expiry = open.expiry.wrapping_add(1),
            6 => open.payload = Bytes::from_static(b"another"),
            7 => open.seal = claims(&open).seal(&SigningKey::from_seed([4; 32])),
            _ => {}
        }
        let sound = open == true_one
            && !self.is_expired(open.expiry)
            && self.secondary.jobs.len() < limits::JOBS_PER_PATH;
        self.secondary
            .handle_frame(self.now, self.wall.secs(self.now), Frame::JobOpen(open))
            .expect("a client may pass on any job");
        let job = true_one.job;
        if sound {
            let known = KnownJob { open: true_one, seen: false, accepted: false, refused: false, named: 0 };
            self.jobs.insert(job, known);
        }
        let refused = self.refusals().0;
        assert_eq!(refused.contains(&job), !sound, "{job}");
    }

    fn is_expired(&self, expiry: u64) -> bool {
        self.wall.secs(self.now) > expiry.saturating_add(limits::CLOCK_SKEW.as_secs())
    }

    /// Takes the actions; returns the jobs and leases that were refused.
    fn refusals(&mut self) -> (BTreeSet<JobId>, BTreeSet<LeaseId>) {
        let (mut jobs, mut leases) = (BTreeSet::new(), BTreeSet::new());
        let bound = 64 + 8 * (self.jobs.len() + self.leases.len());
        for count in 0.. {
            let Some(action) = self.secondary.poll_action() else { break };
            assert!(count < bound, "more than {bound} actions at once");
            let Action::Send { path, frame } = action else { continue };
            assert!(path.is_primary());
            match frame {
                Frame::JobAccepted { job } => {
                    let known = self.jobs.get_mut(&job).expect("a sealed job");
                    assert!(
                        !known.refused && !std::mem::replace(&mut known.accepted, true),
                        "{job} is accepted once"
                    );
                }
                Frame::JobRefused { job, .. } => {
                    if let Some(known) = self.jobs.get_mut(&job) {
                        assert!(!std::mem::replace(&mut known.refused, true), "{job} is refused once");
                    }
                    jobs.insert(job);
                }
                Frame::LeaseRefused { lease, .. } => {
                    if let Some(known) = self.leases.get_mut(&lease) {
                        assert!(!std::mem::replace(&mut known.refused, true), "{lease} is refused once");
                        known.over = true;
                    }
                    leases.insert(lease);
                }
                frame => unreachable!("{frame:?} is not for a client"),
            }
        }
        (jobs, leases)
    }

    fn take_actions(&mut self) {
        self.refusals();
    }

    fn notice(&mut self, op: &mut Source<'_>) {
        let job = JobId::new(op.below(self.next_job.max(1)));
        if self.next_job == 0 {
            return;
        }
        let (id, range) = (LeaseId::new(self.next_lease), frames::range(op));
        self.next_lease += 1;
        let credit = op.below(range.len() + 1);
        let notice = Frame::LeaseNotice { lease: id, job, range, credit };
        assert_eq!(self.secondary.handle_frame(self.now, self.wall.secs(self.now), notice), Ok(()));
        let refused = self.refusals().1.contains(&id);
        let known = self.jobs.get_mut(&job);
        if refused {
            return;
        }
        let known = known.expect("a lease of a job that was not sealed");
        known.named += range.len();
        assert!(known.open.range.contains(range) && known.named <= known.open.total, "{id} is outside {job}");
        assert!(!known.refused, "{job} was refused");
        let (stream, expiry) = (known.open.stream, known.open.expiry);
        assert!(!self.is_expired(expiry), "{job} has expired");
        let lease = KnownLease {
            job,
            stream,
            range,
            noticed: range.len(),
            credit,
            sent: 0,
            handed_out: false,
            refused: false,
            over: false,
        };
        self.leases.insert(id, lease);
    }

    fn credit(&mut self, op: &mut Source<'_>) {
        if op.rarely(2) {
            let (stream, offset) = (frames::stream(op), op.below(END));
            let live = self.secondary.leases.values().any(|lease| lease.stream == stream);
            self.honest(Frame::Credit(Credit::Offset { stream, offset }));
            if live {
                let known = self.offsets.entry(stream).or_default();
                *known = offset.max(*known);
            }
        } else {
            let (lease, bytes) = (self.any_lease(op), op.below(frames::LEN_MAX));
            self.honest(Frame::Credit(Credit::Lease { lease, bytes }));
            if let Some(known) = self.leases.get_mut(&lease) {
                known.credit = known.credit.max(bytes);
            }
        }
    }

    fn any_lease(&self, op: &mut Source<'_>) -> LeaseId {
        LeaseId::new(op.below(self.next_lease + 1))
    }

    fn revoke(&mut self, op: &mut Source<'_>) {
        let lease = self.any_lease(op);
        let keep = if op.rarely(2) { op.below(frames::LEN_MAX) } else { 0 };
        self.honest(Frame::LeaseRevoke { lease, keep, code: ErrorCode::LEASE_REVOKED });
        let Some(known) = self.leases.get_mut(&lease).filter(|known| !known.over) else { return };
        let kept = keep.max(if keep > 0 { known.sent } else { 0 }).min(known.range.len());
        match ByteRange::new(known.range.start(), kept) {
            Some(range) => known.range = range,
            None => known.over = true,
        }
    }

    // The application.

    fn take_jobs(&mut self, op: &mut Source<'_>) {
        if let Some(info) = self.secondary.accept_job() {
            let known = self.jobs.get_mut(&info.id).expect("a job that the primary did not seal");
            assert!(!std::mem::replace(&mut known.seen, true), "{} is seen twice", info.id);
            assert_eq!(
                (info.stream, info.range, &info.payload),
                (known.open.stream, known.open.range, &known.open.payload)
            );
            if !op.rarely(8) {
                self.secondary.take_job(info.id);
            }
        }
        if op.rarely(16) {
            let job = frames::job(op);
            if self.jobs.get(&job).is_some_and(|known| known.seen) {
                self.secondary.refuse_job(job, frames::code(op));
                self.take_actions();
                for known in self.leases.values_mut().filter(|lease| lease.job == job && !lease.handed_out) {
                    known.over = true;
                }
            }
        }
    }

    fn next_lease(&mut self, op: &mut Source<'_>) {
        let job = frames::job(op);
        if !self.jobs.get(&job).is_some_and(|known| known.seen) {
            return;
        }
        let Ok(Some(info)) = self.secondary.next_lease(job) else { return };
        let now = self.may_send(info.id);
        assert!(now > 0, "{} is begun and cannot send a byte", info.id);
        let waiting = |lease: &&KnownLease| lease.job == job && !lease.handed_out && !lease.over;
        let ready: Vec<u64> = self
            .leases
            .iter()
            .filter(|(id, lease)| waiting(lease) && self.may_send(**id) > 0)
            .map(|(_, lease)| lease.range.start())
            .collect();
        assert_eq!(ready.iter().min(), Some(&info.range.start()), "what the reader waits for comes first");
        let known = self.leases.get_mut(&info.id).expect("a noticed lease");
        assert!(known.job == job && known.range == info.range && !known.over);
        assert!(!std::mem::replace(&mut known.handed_out, true), "{} is handed out twice", info.id);
        known.noticed = info.range.len();
    }

    /// Bytes that a lease may send, by what the secondary was told.
    fn may_send(&self, id: LeaseId) -> u64 {
        let Some(lease) = self.leases.get(&id) else { return 0 };
        let by_offset = self.offsets.get(&lease.stream).copied().unwrap_or_default();
        let credit = lease.credit.max(by_offset.saturating_sub(lease.range.start()));
        credit.min(lease.range.len()).saturating_sub(lease.sent)
    }

    fn write(&mut self, op: &mut Source<'_>) {
        let handed_out = self.leases.iter().filter(|(_, lease)| lease.handed_out);
        let ids: Vec<LeaseId> = handed_out.map(|(&id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let id = op.pick(&ids);
        let expected = self.may_send(id);
        let known = self.leases.get_mut(&id).expect("known");
        let Ok(allowance) = self.secondary.allowance(id) else {
            let cut = known.range.len() < known.noticed && known.sent == known.range.len();
            assert!(known.over || cut, "{id} is over, and nobody ended it");
            return;
        };
        assert_eq!(allowance.start, known.range.start());
        assert_eq!(allowance.left, known.noticed - known.sent, "of what the application was told");
        assert_eq!(allowance.now, expected, "credit of {id}");
        let internal = StreamId::from_u64(3 + 4 * id.into_inner()).expect("within");
        self.secondary.on_opened(id, internal);
        let len = allowance.now.min(op.below(16 * 1024));
        known.sent += len;
        let whole = self.secondary.on_sent(id, len);
        assert_eq!(whole, known.sent == known.range.len(), "the end of {id}");
    }

    /// QUIC has delivered a lease, the client has stopped it, or the application lets go of it.
    fn end(&mut self, op: &mut Source<'_>) {
        let id = self.any_lease(op);
        let Some(known) = self.leases.get_mut(&id).filter(|lease| lease.handed_out) else { return };
        let whole = known.sent == known.range.len();
        match op.below(4) {
            0 if whole => self.secondary.on_internal_end(id, None),
            1 if known.sent > 0 => self.secondary.on_internal_end(id, Some(frames::code(op))),
            2 => self.secondary.reset_lease(id, frames::code(op)),
            _ => return,
        }
        known.over = true;
        self.take_actions();
        // Credit by offset is dropped with the last lease of a stream.
        self.offsets.retain(|stream, _| self.secondary.leases.values().any(|lease| lease.stream == *stream));
    }

    /// Checks what always holds.
    fn check(&mut self) {
        let secondary = &self.secondary;
        self.offsets.retain(|stream, _| secondary.leases.values().any(|lease| lease.stream == *stream));
        assert!(secondary.jobs.len() <= limits::JOBS_PER_PATH);
        let live = secondary.leases.values().filter(|lease| lease.ended.is_none()).count();
        assert!(live <= limits::LEASES_PER_PATH);
        let handed_out = |id: &LeaseId| self.leases.get(id).is_some_and(|lease| lease.handed_out);
        for (id, lease) in &secondary.leases {
            let waits = secondary.jobs.get(&lease.job).is_some_and(|job| job.queue.contains(id));
            assert!(waits != handed_out(id), "{id} is nobody's");
            assert!(
                handed_out(id) || lease.ended.is_none(),
                "{id} was taken back before anybody saw it, and stays"
            );
        }
        let named = |stream: &StreamId| secondary.leases.values().any(|lease| lease.stream == *stream);
        assert!(secondary.offsets.keys().all(named), "credit of a stream that no lease names");
        let known = |id: &JobId| self.jobs.contains_key(id);
        assert!(secondary.jobs.keys().all(known), "a job that the primary did not seal");
    }
}
