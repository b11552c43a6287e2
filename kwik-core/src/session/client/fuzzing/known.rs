//! Knowledge of a client's peers, from its frames alone, and what its application must therefore see.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the frames of one direction; all others are wrong together"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::Client;
use crate::{
    config::TransportConfig,
    error::ErrorCode,
    fuzzing::{assemble::Model, frames::END},
    id::{ByteRange, JobId, LeaseId, LinkId, PathId, StreamId},
    limits,
    path::dial::{DialPolicy as _, DialRequest, NotMorePrivate},
    session::action::Action,
    stream::{conflict::ConflictPolicy, recv::By},
    wire::{Credit, Frame, LeaseGrant, MappingOperation, PathStatus, StreamHeader},
};

/// A lease as its secondary knows it.
#[derive(Debug)]
pub(super) struct KnownLease {
    pub(super) path: PathId,
    pub(super) stream: StreamId,
    pub(super) range: ByteRange,
    /// The secondary was told of it.
    pub(super) noticed: bool,
    /// The primary was told how it ended.
    pub(super) answered: bool,
    /// It ended before it was full.
    pub(super) lost: bool,
    /// Bytes that the secondary has sent of it.
    pub(super) sent: u64,
    /// Its end as its secondary knows it; `range` may have been cut since.
    pub(super) noticed_end: u64,
    /// Digest that its bytes must have, if it is verified.
    pub(super) digest: Option<[u8; 32]>,
    /// A verified lease: what was sent of it was not what was promised.
    pub(super) lied: bool,
    pub(super) hedge_of: Option<LeaseId>,
    /// The primary was told that it has begun.
    begun: bool,
    /// The primary was told that nothing comes.
    suspended: bool,
    /// The primary wants nothing behind this many bytes.
    keep: Option<u64>,
    credit: u64,
    /// The primary wants to know what comes of it.
    progress: bool,
    /// Bytes of it that the primary was told of.
    told: u64,
}

/// A split stream, byte for byte.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) base: u64,
    pub(super) model: Model,
    pub(super) unordered: bool,
    final_size: Option<u64>,
    complete_told: bool,
    run_credit: u64,
    run_above: u64,
    claimed_end: u64,
}

impl Split {
    pub(super) fn is_complete(&self) -> bool {
        self.final_size.is_some_and(|size| self.base + self.model.received_bytes() >= size)
    }
}

/// An internal stream of the primary: where its next byte goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) stream: StreamId,
    pub(super) next: u64,
}

/// Everything the peers know.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) leases: BTreeMap<LeaseId, KnownLease>,
    jobs: BTreeMap<JobId, (PathId, StreamId, ByteRange)>,
    pub(super) streams: BTreeMap<StreamId, Split>,
    /// Streams whose native half is over: they are never split again.
    pub(super) native_ended: BTreeSet<StreamId>,
    /// Internal streams of secondaries that the client reads.
    pub(super) fills: BTreeMap<StreamId, (PathId, LeaseId)>,
    /// Internal streams of the primary.
    pub(super) runs: BTreeMap<StreamId, Fill>,
    offset_credit: BTreeMap<(PathId, StreamId), u64>,
    /// Paths that have a connection.
    pub(super) linked: BTreeSet<PathId>,
    /// Connections that were dialled and are not closed.
    pub(super) dialled: BTreeSet<LinkId>,
    status: BTreeMap<PathId, PathStatus>,
    highest_noticed: BTreeMap<PathId, LeaseId>,
    splits_unanswered: BTreeSet<StreamId>,
    split_at: BTreeMap<StreamId, u64>,
    session_window: u64,
    policy: ConflictPolicy,
    /// Somebody has sent bytes that are not the object's: whoever brought others may have to pay for it.
    pub(super) lies: bool,
    /// Set once the client has ended the session.
    pub(super) closed: Option<ErrorCode>,
}

impl Known {
    pub(super) fn new(transport: &TransportConfig) -> Self {
        let (session_window, policy) = (transport.session_window, transport.conflict_policy);
        Self { session_window, policy, ..Self::default() }
    }

    pub(super) fn is_linked(&self, path: PathId) -> bool {
        self.linked.contains(&path)
    }

    pub(super) fn is_unordered(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|split| split.unordered)
    }

    /// The highest end anybody was given or has sent.
    pub(super) fn claimed_end(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |split| split.claimed_end)
    }

    /// Range in which leases of a job may lie, as an honest primary knows.
    pub(super) fn leasable(&self, job: JobId) -> Option<(u64, u64)> {
        let (_, stream, range) = self.jobs.get(&job)?;
        let split = self.streams.get(stream)?;
        let (start, end) = (range.start().max(split.base), range.end().min(split.final_size.unwrap_or(END)));
        (start < end).then_some((start, end))
    }

    pub(super) fn stream_of(&self, job: JobId) -> Option<StreamId> {
        self.jobs.get(&job).map(|&(_, stream, _)| stream)
    }

    pub(super) fn nth_noticed(&self, nth: usize) -> Option<(LeaseId, &KnownLease)> {
        let noticed: Vec<_> = self.leases.iter().filter(|(_, lease)| lease.noticed).collect();
        noticed.get(nth % noticed.len().max(1)).map(|&(&id, lease)| (id, lease))
    }

    /// Bytes that a secondary may send of a lease, by what it was told.
    pub(super) fn may_send(&self, id: LeaseId) -> u64 {
        let Some(lease) = self.leases.get(&id) else { return 0 };
        let by_offset = self.offset_credit.get(&(lease.path, lease.stream)).copied().unwrap_or_default();
        let credit = lease.credit.max(by_offset.saturating_sub(lease.range.start()));
        credit.min(lease.range.len()).saturating_sub(lease.sent)
    }

    /// Range that the primary may send of a run now, at most `want` bytes.
    pub(super) fn run_part(&mut self, internal: StreamId, want: u64) -> Option<(u64, u64)> {
        let run = self.runs.get_mut(&internal)?;
        let split = self.streams.get_mut(&run.stream)?;
        let below = self.offset_credit.get(&(PathId::PRIMARY, run.stream)).copied().unwrap_or_default();
        let room = below.saturating_sub(run.next) + (split.run_credit - split.run_above);
        let len = want.min(room).min(split.final_size.unwrap_or(END).saturating_sub(run.next));
        let offset = run.next;
        run.next += len;
        split.run_above += (offset + len).saturating_sub(below.max(offset));
        (len > 0).then_some((offset, len))
    }

    /// Returns whether the rules let a path open such a stream.
    pub(super) fn may_open(&self, path: PathId, header: StreamHeader) -> bool {
        let StreamHeader::Secondary { lease, offset } = header else { return false };
        let open = self.fills.values().any(|fill| fill.1 == lease);
        self.leases.get(&lease).is_some_and(|known| {
            known.path == path && known.noticed && !known.answered && known.range.start() == offset && !open
        })
    }

    /// Returns whether an honest secondary might say so.
    pub(super) fn is_honest(&self, path: PathId, frame: &Frame) -> bool {
        match frame {
            Frame::JobAccepted { job } | Frame::JobRefused { job, .. } => {
                self.jobs.get(job).is_some_and(|(of, ..)| *of == path)
            }
            Frame::LeaseRefused { lease, .. } => {
                self.leases.get(lease).is_some_and(|lease| lease.path == path && lease.noticed)
            }
            _ => false,
        }
    }

    /// Leases of a stream that have no answer yet.
    pub(super) fn live_on(&self, stream: StreamId) -> Vec<LeaseId> {
        let live = |(_, lease): &(&LeaseId, &KnownLease)| lease.stream == stream && !lease.answered;
        self.leases.iter().filter(live).map(|(&id, _)| id).collect()
    }

    /// Size that a stream is to have: as said, or the highest end anybody was given. `None` if it cannot be filled.
    pub(super) fn size(&self, stream: StreamId) -> Option<u64> {
        let split = self.streams.get(&stream)?;
        Some(split.final_size.unwrap_or(split.claimed_end)).filter(|&size| size <= END)
    }

    /// The highest end of what secondaries were told of.
    pub(super) fn given_end(&self, stream: StreamId) -> Option<u64> {
        self.streams.get(&stream)?;
        let given = self.leases.values().filter(|lease| lease.stream == stream && lease.noticed);
        given.map(|lease| lease.range.end()).max()
    }

    /// Bytes of a lease that the client lets its secondary send: it may know of credit that the secondary does not.
    pub(super) fn may_take(&self, id: LeaseId) -> u64 {
        let Some(lease) = self.leases.get(&id) else { return 0 };
        let by_offset = self.offset_credit.get(&(PathId::PRIMARY, lease.stream)).copied().unwrap_or_default();
        lease.credit.max(by_offset.saturating_sub(lease.range.start())).min(lease.range.len())
    }

    /// Ranges that nobody has sent of a stream, and nobody was given.
    pub(super) fn holes(&self, stream: StreamId) -> Vec<ByteRange> {
        let split = self.streams.get(&stream);
        let whole = split.and_then(|split| ByteRange::between(split.base, split.final_size?));
        let missing = split.zip(whole).map(|(split, whole)| split.model.missing(whole)).unwrap_or_default();
        let leased = |part: &ByteRange| {
            let live = |lease: &KnownLease| lease.stream == stream && !lease.answered;
            self.leases.values().any(|lease| live(lease) && lease.range.overlaps(*part))
        };
        // Cut at the ends of leases, so that each part is wholly somebody's or nobody's.
        let mut cuts: BTreeSet<u64> = missing.iter().flat_map(|hole| [hole.start(), hole.end()]).collect();
        cuts.extend(self.leases.values().flat_map(|lease| [lease.range.start(), lease.range.end()]));
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let parts = cuts.windows(2).filter_map(|ends| match ends {
            &[start, end] => ByteRange::between(start, end),
            _ => None,
        });
        parts.filter(|part| missing.iter().any(|hole| hole.contains(*part)) && !leased(part)).collect()
    }

    /// Notes bytes that the client has taken; returns how many were new.
    pub(super) fn place(&mut self, stream: StreamId, (offset, bytes): (u64, &[u8]), by: By) -> u64 {
        let Some(split) = self.streams.get_mut(&stream) else { return 0 };
        split.claimed_end = split.claimed_end.max(offset + bytes.len() as u64);
        let replaces = match (by, self.policy) {
            (By::Verified, _) | (_, ConflictPolicy::LastWins) | (By::Run, ConflictPolicy::PrimaryWins) => {
                true
            }
            (By::Lease | By::Run, _) => false,
        };
        split.model.insert(usize::try_from(offset).unwrap_or(usize::MAX), bytes, replaces).new
    }

    /// The stream is over for the application.
    pub(super) fn end_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.native_ended.insert(stream);
        self.runs.retain(|_, run| run.stream != stream);
    }

    /// Notes what the primary says, as far as it is to be believed.
    pub(super) fn on_primary_frame(&mut self, frame: &Frame) {
        match frame {
            Frame::JobOpen(open) => {
                self.jobs.entry(open.job).or_insert((open.path, open.stream, open.range));
            }
            Frame::LeaseGrant(grant) => self.on_grant(grant),
            Frame::LeaseRevoke { lease, keep, .. } => {
                if let Some(lease) = self.leases.get_mut(lease).filter(|_| *keep > 0) {
                    lease.keep = Some(*keep);
                }
            }
            Frame::Split { stream, offset } => {
                self.splits_unanswered.insert(*stream);
                self.split_at.insert(*stream, *offset);
            }
            Frame::StreamFinal { stream, size } => {
                if let Some(split) = self.streams.get_mut(stream) {
                    split.final_size.get_or_insert(*size);
                }
            }
            _ => {}
        }
    }

    /// The client has taken a split.
    fn on_split(&mut self, stream: StreamId) {
        let base = self.split_at.get(&stream).copied().expect("a split that was asked for");
        let size = usize::try_from(END + 4096).expect("small");
        let split = Split {
            base,
            model: Model::new(usize::try_from(base).expect("an index"), size),
            unordered: false,
            final_size: None,
            complete_told: false,
            run_credit: 0,
            run_above: 0,
            claimed_end: base,
        };
        self.streams.insert(stream, split);
    }

    fn on_grant(&mut self, grant: &LeaseGrant) {
        let Some(&(path, stream, _)) = self.jobs.get(&grant.job) else {
            let (path, stream) = (PathId::PRIMARY, StreamId::CONTROL);
            self.note_grant(grant, path, stream);
            return;
        };
        self.note_grant(grant, path, stream);
        if let Some(split) = self.streams.get_mut(&stream) {
            split.claimed_end = split.claimed_end.max(grant.range.end());
        }
    }

    fn note_grant(&mut self, grant: &LeaseGrant, path: PathId, stream: StreamId) {
        self.leases.entry(grant.lease).or_insert_with(|| KnownLease {
            path,
            stream,
            range: grant.range,
            noticed: false,
            answered: false,
            lost: false,
            sent: 0,
            noticed_end: grant.range.end(),
            digest: grant.digest,
            lied: false,
            hedge_of: grant.hedge_of,
            begun: false,
            suspended: false,
            keep: None,
            credit: 0,
            progress: grant.progress,
            told: 0,
        });
    }

    /// As `take_actions`, after something that was no fault of the primary: the session lives. Spec: DESIGN §2, I6.
    pub(super) fn only_paths_end(&mut self, client: &mut Client, now: Instant) {
        let before = self.closed;
        self.take_actions(client, now);
        assert_eq!(self.closed, before, "a local fault stays local");
    }

    /// Carries out what the client has decided, and checks that it may.
    pub(super) fn take_actions(&mut self, client: &mut Client, now: Instant) {
        // Every lease, job, path and stream may be told of, each a few times.
        let bound = 64 + 8 * (self.leases.len() + self.jobs.len() + self.streams.len() + self.status.len());
        for count in 0.. {
            let Some(action) = client.poll_action() else { break };
            assert!(count < bound, "more than {bound} actions at once");
            if self.closed.is_some() {
                continue; // nobody carries it out any more
            }
            if let Action::AskDial { path, mut addresses } = action {
                let primary = ([127, 0, 0, 1], 1).into();
                addresses.retain(|address| NotMorePrivate.allows(&DialRequest::new(primary, *address)));
                client.on_dial_answer(now, path, &addresses);
                continue;
            }
            self.on_action(action);
            if let Some(code) = self.closed {
                // The glue closes the connection, and says so at once.
                client.on_primary_lost(code);
                while client.poll_action().is_some() {}
                return;
            }
        }
        if self.closed.is_some() {
            return;
        }
        let due = |(_, split): &(&StreamId, &Split)| split.is_complete() && !split.complete_told;
        let late = self.streams.iter().find(due).map(|(id, _)| id);
        assert_eq!(late, None, "complete, and the primary was not told");
        for (id, lease) in &self.leases {
            assert!(lease.answered || client.leases.contains(*id), "{id} is gone without an answer");
            assert!(!lease.answered || !client.leases.contains(*id), "{id} was answered and lives");
        }
        let held: u64 = self.streams.values().map(|split| split.model.held_bytes()).sum();
        assert_eq!(client.held().0, held, "bytes held");
        assert!(held <= self.session_window, "more is held than the session window");
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::Send { path, frame } if path.is_primary() => self.on_frame_to_primary(frame),
            Action::Send { path, frame } => self.on_frame_to_secondary(path, &frame),
            Action::CloseSession { fault } => self.closed = Some(fault.code()),
            Action::PeerLeft { code, .. } => self.closed = Some(code),
            Action::BreakPath { path, .. } | Action::ClosePath { path, .. } => {
                assert!(
                    matches!(self.status.get(&path), Some(PathStatus::Dead(_))),
                    "the primary was not told"
                );
                self.linked.remove(&path);
                self.dialled.retain(|link| link.path != path);
            }
            Action::CloseAttempt { path, attempt, .. } => {
                assert!(self.dialled.remove(&LinkId { path, attempt }), "that was not dialled, or is over");
            }
            Action::Dial { path, attempt, remote, .. } => {
                assert!(remote.ip().is_loopback() || remote.ip() == std::net::Ipv4Addr::new(10, 0, 0, 1));
                assert!(remote.port() != 0);
                assert!(self.dialled.insert(LinkId { path, attempt }), "one name for two connections");
                self.linked.insert(path);
            }
            Action::StopInternal { path, stream, .. } => {
                // The peer may not know for a while; what it sends is late.
                assert!(
                    !path.is_primary()
                        || self.runs.remove(&stream).is_some()
                        || !self.runs.contains_key(&stream)
                );
            }
            Action::ResumeInternal { path, stream } => {
                assert!(path.is_primary() && self.runs.contains_key(&stream), "nothing waits there");
            }
            Action::PermitUni { count, .. } => {
                assert!(count <= limits::LEASES_PER_PATH as u64 + limits::UNI_SLACK);
            }
            Action::SplitOpened { stream } => self.on_split(stream),
            Action::Notify(_) | Action::Ping { .. } => {}
            Action::AskDial { .. }
            | Action::EndRun { .. }
            | Action::FinishInternal { .. }
            | Action::FinishNative { .. }
            | Action::ResetInternal { .. }
            | Action::ResetNative { .. }
            | Action::Sign(_) => {
                unreachable!(
                    "answered before, or not a client's: it sends neither native halves nor internal streams"
                )
            }
        }
    }

    fn on_frame_to_primary(&mut self, frame: Frame) {
        match frame {
            Frame::LeaseDone { lease } => {
                let (stream, range) = self.answer(lease);
                if let Some(split) = self.streams.get(&stream) {
                    assert_eq!(split.model.missing(range), [], "{lease} is not done");
                }
            }
            Frame::LeaseRefused { lease, .. } => {
                self.answer(lease);
                assert!(
                    self.leases.get(&lease).is_some_and(|known| !known.noticed),
                    "{lease} went to its path"
                );
            }
            Frame::LeaseLost { lease, missing, .. } => {
                let (stream, range) = self.answer(lease);
                self.leases.get_mut(&lease).expect("a grant").lost = true;
                if let Some(split) = self.streams.get(&stream) {
                    let holes = split.model.missing(range);
                    assert_eq!(missing.to_vec(), holes, "what {lease} is missing");
                }
            }
            Frame::SplitAck { stream, credit } => {
                assert!(self.splits_unanswered.remove(&stream), "one answer per split");
                self.raise(PathId::PRIMARY, stream, credit);
            }
            Frame::StreamComplete { stream } => {
                let split = self.streams.get_mut(&stream).expect("a split stream");
                assert!(!std::mem::replace(&mut split.complete_told, true), "told twice");
                assert!(split.is_complete(), "{stream} is not complete");
            }
            Frame::StreamStopped { stream, .. } => self.end_stream(stream),
            Frame::PathReport { path, status } => {
                let before = self.status.insert(path, status);
                assert!(!matches!(before, Some(PathStatus::Dead(_))), "{path} died twice");
            }
            Frame::Credit(credit) => self.on_credit(PathId::PRIMARY, credit),
            Frame::StreamMappingUpdate { operation, stream, lease, range } => {
                self.on_mapping(operation, stream, lease, range);
            }
            Frame::OffsetSyncRequest { stream, from } => {
                let split = self.streams.get(&stream).expect("a split stream");
                assert!(split.model.is_missing(from), "{stream} has {from}");
            }
            Frame::ProgressReport(report) => {
                assert!(!report.leases.is_empty() || !report.readers.is_empty(), "it says something");
                for (id, bytes) in report.leases {
                    let lease = self.leases.get_mut(&id).expect("a grant");
                    assert!(lease.path == report.path && !lease.answered && lease.progress, "{id} lives");
                    assert!(bytes > lease.told && bytes <= lease.sent, "{id} has more than was told");
                    lease.told = bytes;
                }
            }
            Frame::JobAccepted { .. } | Frame::JobRefused { .. } | Frame::OffsetSyncResponse { .. } => {}
            frame => unreachable!("{frame:?} is not for the primary"),
        }
    }

    /// The primary's view of a mapping follows the client's.
    fn on_mapping(&mut self, operation: MappingOperation, stream: StreamId, id: LeaseId, range: ByteRange) {
        let lease = self.leases.get_mut(&id).expect("a grant");
        assert!(lease.stream == stream && !lease.answered && lease.range.contains(range), "{id} lives");
        match operation {
            MappingOperation::Create => {
                assert!(lease.noticed && !std::mem::replace(&mut lease.begun, true), "{id} begins once");
            }
            MappingOperation::Update => {
                let keep = lease.keep.expect("a cut that was asked for");
                let end = lease.range.start() + keep.max(lease.sent).min(lease.range.len());
                assert_eq!(range, ByteRange::between(lease.range.start(), end).expect("not empty"), "cut");
                lease.range = range;
            }
            MappingOperation::Suspend => {
                assert!(!std::mem::replace(&mut lease.suspended, true) && lease.noticed, "{id} stalls once");
                assert_eq!(
                    (range.start(), range.end()),
                    (
                        lease.range.start() + if lease.digest.is_some() { 0 } else { lease.sent },
                        lease.range.end()
                    )
                );
            }
            MappingOperation::Resume => {
                assert!(std::mem::replace(&mut lease.suspended, false), "{id} goes on")
            }
        }
    }

    fn on_frame_to_secondary(&mut self, path: PathId, frame: &Frame) {
        let open = matches!(self.status.get(&path), Some(PathStatus::Active | PathStatus::Degraded));
        match frame {
            Frame::ClientHello(hello) => {
                assert!(!open && hello.attach.as_ref().is_some_and(|attach| attach.path == path));
            }
            Frame::LeaseNotice { lease, job, range, credit } => {
                assert!(self.status.get(&path) == Some(&PathStatus::Active), "{path} is not active");
                let higher = self.highest_noticed.insert(path, *lease).is_none_or(|last| last < *lease);
                assert!(higher, "notices rise");
                let (owner, stream, within) = *self.jobs.get(job).expect("a job");
                let hedged = self.leases.get(lease).and_then(|known| known.hedge_of);
                let overlaps = |(id, other): &(&LeaseId, &KnownLease)| {
                    let live = other.stream == stream && other.noticed && !other.answered;
                    live && other.range.overlaps(*range)
                        && Some(**id) != hedged
                        && other.hedge_of != Some(*lease)
                };
                assert_eq!(self.leases.iter().find(overlaps).map(|(id, _)| id), None, "{lease} overlaps it");
                let known = self.leases.get_mut(lease).expect("a grant");
                assert!(owner == path && within.contains(*range) && known.range == *range);
                assert!(!known.noticed && !known.answered && *credit <= range.len());
                (known.noticed, known.credit, known.noticed_end) = (true, *credit, range.end());
            }
            Frame::Credit(credit) => {
                assert!(open);
                self.on_credit(path, *credit);
            }
            Frame::JobOpen(open_job) => assert!(open && open_job.path == path),
            Frame::JobClose { .. } => assert!(open, "{path} is not attached"),
            Frame::LeaseRevoke { lease, keep, .. } => {
                assert!(open, "{path} is not attached");
                let known = self.leases.get(lease).expect("a grant");
                assert!(known.path == path && known.noticed, "{path} knows nothing of {lease}");
                assert!(*keep == 0 || *keep >= known.sent, "what was placed is kept");
            }
            frame => unreachable!("{frame:?} is not for a secondary"),
        }
    }

    /// Notes the one answer to a grant.
    fn answer(&mut self, id: LeaseId) -> (StreamId, ByteRange) {
        let lease = self.leases.get_mut(&id).expect("an answer to a grant");
        assert!(!std::mem::replace(&mut lease.answered, true), "{id} was answered twice");
        (lease.stream, lease.range)
    }

    /// Credit never shrinks.
    fn on_credit(&mut self, path: PathId, credit: Credit) {
        match credit {
            Credit::Offset { stream, offset } => self.raise(path, stream, offset),
            Credit::Lease { lease, bytes } => {
                let lease = self.leases.get_mut(&lease).expect("a grant");
                assert!(lease.path == path && lease.noticed && !lease.answered);
                assert!(
                    bytes > lease.credit && bytes <= lease.range.len(),
                    "credit of a lease rises to its end"
                );
                lease.credit = bytes;
            }
            Credit::Run { stream, bytes } => {
                let split = self.streams.get_mut(&stream).expect("a split stream");
                assert!(path.is_primary() && bytes > split.run_credit, "credit of runs rises");
                split.run_credit = bytes;
            }
        }
    }

    fn raise(&mut self, path: PathId, stream: StreamId, offset: u64) {
        let known = self.offset_credit.entry((path, stream)).or_insert(offset);
        assert!(offset >= *known, "credit by offset never shrinks");
        *known = offset;
    }

    /// Once the application has read all there is, somebody may send what it waits for. Spec: DESIGN §2, I7.
    pub(super) fn is_live(&self, client: &Client) {
        for (&id, split) in &self.streams {
            if split.model.held_bytes() > 0 {
                continue; // the reader waits for an earlier byte, and what is held takes room
            }
            let position = split.model.position() as u64;
            let live =
                |(_, lease): &(&LeaseId, &KnownLease)| lease.stream == id && lease.noticed && !lease.answered;
            let mut leases = self.leases.iter().filter(live).peekable();
            let offered = self.offset_credit.get(&(PathId::PRIMARY, id)).copied().unwrap_or_default();
            let below = ByteRange::between(split.base, offered.min(END));
            if split.unordered && below.is_some_and(|below| !split.model.missing(below).is_empty()) {
                continue; // the primary may have anybody send what is offered by offset, and must in the end
            }
            if split.unordered {
                let some = leases.peek().is_some();
                let goes_on = leases.any(|(&lease, _)| self.may_send(lease) > 0);
                assert!(!some || goes_on, "{id}: every lease waits for credit, and nothing is held");
            } else if let Some((&lease, _)) =
                leases.find(|(_, lease)| (lease.range.start()..lease.range.end()).contains(&position))
            {
                assert!(self.may_send(lease) > 0, "{lease} is what the reader waits for, and has no credit");
            }
        }
        assert!(client.held().1 <= self.session_window);
    }
}
