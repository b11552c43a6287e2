//! One object under way: its ranges are handed out, taken back, written by the primary itself, and ended.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kwik_core::{
    ByteRange, ErrorCode, JobId, LeaseError, LeaseId, LeaseOutcome, LeaseWriteError, NewJob, NewLease,
    PathId, PathState, RunId, Session, WriteError,
};
use rangemap::RangeSet;

use super::{Ending, Offer};
use crate::sim::{
    NodeId,
    app::{Cx, GIVEN_UP, sooner},
    oracle::Flow,
};

/// One object under way.
#[derive(Debug)]
pub(super) struct Sending {
    flow: Flow,
    offer: Offer,
    /// Whoever hardly gets anywhere: what it is given has little time.
    crawler: Option<NodeId>,
    /// Ranges that nobody has, the next first.
    todo: VecDeque<ByteRange>,
    /// Number of them that were lost: they go out whatever else is under way.
    lost: usize,
    /// Offset from which on what is to be handed out has been cut.
    cut: u64,
    handed_out: u64,
    claimed: RangeSet<u64>,
    jobs: BTreeMap<PathId, JobId>,
    leases: BTreeMap<LeaseId, Leased>,
    /// Times at which something is done to a lease that goes well.
    meddling: BTreeMap<LeaseId, Duration>,
    runs: BTreeMap<RunId, Run>,
    /// The next byte of sequential writing.
    sequential: u64,
    pub(super) blocked: bool,
    /// A range was not taken: nobody tells when one will be, so it is tried again then.
    pub(super) retry_at: Option<Duration>,
    finished: bool,
    pub(super) over: bool,
}

/// A lease as this application knows it.
#[derive(Clone, Copy, Debug)]
struct Leased {
    path: PathId,
    range: ByteRange,
    verified: bool,
}

#[derive(Debug)]
struct Run {
    range: ByteRange,
    sent: u64,
    blocked: bool,
    /// Give up here instead of going on.
    give_up_at: Option<u64>,
}

impl Sending {
    pub(super) fn new(flow: Flow, offer: Offer, crawler: Option<NodeId>) -> Self {
        Self {
            flow,
            offer,
            crawler,
            todo: VecDeque::new(),
            lost: 0,
            cut: offer.head,
            handed_out: 0,
            claimed: RangeSet::new(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            meddling: BTreeMap::new(),
            runs: BTreeMap::new(),
            sequential: 0,
            blocked: false,
            retry_at: None,
            finished: false,
            over: false,
        }
    }

    pub(super) fn turn(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        if self.sequential < self.offer.head {
            self.write_to(cx, session, self.offer.head);
        }
        if self.over || self.sequential < self.offer.head {
            return;
        }
        if self.retry_at.is_none_or(|at| at <= cx.at) {
            self.retry_at = None;
            self.hand_out(cx, session, paths);
        }
        self.meddle(cx, session, paths);
        self.write_runs(cx, session);
        if !self.over && self.all_handed_out() {
            self.write_to(cx, session, self.offer.size);
            self.end(cx, session);
        }
        if let Ending::Reset(after) = self.offer.ending
            && !self.over
            && self.handed_out >= after
        {
            self.reset(cx, session);
        }
    }

    pub(super) fn reset(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        self.over = true;
        cx.note(format_args!("resets {}", self.flow));
        cx.trace.count("split stream reset");
        cx.oracle.reset(self.flow, GIVEN_UP);
        let reset = session.reset(cx.now, self.flow.stream, GIVEN_UP);
        assert!(reset.is_ok() || session.lost().is_some(), "4: {} cannot be reset", self.flow);
    }

    /// Everything but the tail has an owner.
    fn all_handed_out(&self) -> bool {
        self.todo.is_empty() && self.cut + self.offer.tail >= self.offer.size
    }

    fn hand_out(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        let active: Vec<PathId> = paths
            .iter()
            .filter(|(_, (_, state))| *state == PathState::Active)
            .map(|(&path, _)| path)
            .collect();
        let hopeful = paths.values().any(|(_, state)| *state == PathState::Connecting);
        while !self.over && !cx.is_interrupted() {
            let fresh = self.todo.is_empty();
            let room =
                self.lost > 0 || self.leases.len() + self.runs.len() < self.offer.depth * (active.len() + 1);
            if !room {
                return;
            }
            let Some(range) = self.next_range(cx) else {
                return;
            };
            let path = if active.is_empty() || cx.dice.chance(self.offer.own) {
                None
            } else {
                Some(cx.dice.pick(&active))
            };
            // Work that has not begun waits for the first path; what was lost does not.
            if path.is_none()
                && hopeful
                && self.lost == 0
                && self.offer.own == 0
                && cx.at < self.offer.at + PATIENCE
            {
                self.put_back(range, fresh);
                self.retry_at = Some(self.offer.at + PATIENCE);
                return;
            }
            let given = match path {
                Some(path) => {
                    let crawls = paths.get(&path).is_some_and(|(node, _)| Some(*node) == self.crawler);
                    self.lease(cx, session, path, crawls, range)
                }
                None => self.run(cx, session, range),
            };
            match given {
                Ok(()) => {
                    self.lost = self.lost.saturating_sub(1);
                    self.handed_out += range.len();
                    self.claimed.insert(range.start()..range.end());
                    cx.oracle.given(self.flow, range.end());
                }
                // Readers leave so many streams unread that one more cannot be split: it is written as any other.
                Err(LeaseError::NoCredit) if cx.at > self.offer.at + PATIENCE => {
                    cx.note(format_args!("keeps {} whole", self.flow));
                    cx.trace.count("no credit to split");
                    (self.offer.head, self.offer.tail, self.cut) = (self.offer.size, 0, self.offer.size);
                    self.todo.clear();
                    self.write_to(cx, session, self.offer.size);
                    return;
                }
                Err(
                    LeaseError::LimitExceeded
                    | LeaseError::PathDead
                    | LeaseError::PathSilent
                    | LeaseError::NoCredit
                    | LeaseError::JobClosed,
                ) => {
                    cx.trace.count("range not taken");
                    self.put_back(range, fresh);
                    self.retry_at = Some(cx.at + RETRY);
                    return;
                }
                Err(LeaseError::ClosedStream | LeaseError::SessionClosed) => {
                    self.stopped(cx, session);
                    return;
                }
                Err(error) => panic!("10: {range} of {} was not taken: {error}", self.flow),
            }
        }
    }

    /// Takes the next range that nobody has.
    fn next_range(&mut self, cx: &mut Cx<'_>) -> Option<ByteRange> {
        if let Some(range) = self.todo.pop_front() {
            return Some(range);
        }
        let end = self.offer.size.saturating_sub(self.offer.tail);
        let left = end.saturating_sub(self.cut);
        let len = if self.offer.even { self.offer.range } else { cx.dice.between(1, self.offer.range) };
        let range = ByteRange::new(self.cut, len.min(left))?;
        self.cut = range.end();
        Some(range)
    }

    /// Every third stream's leases are reported on; no dice, so that all else stays as it is.
    fn wants_progress(&self) -> bool {
        (self.flow.stream.into_inner() >> 2).is_multiple_of(3)
    }

    fn put_back(&mut self, range: ByteRange, fresh: bool) {
        if fresh {
            self.cut = range.start();
        } else {
            self.todo.push_front(range);
        }
    }

    fn lease(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        path: PathId,
        crawls: bool,
        range: ByteRange,
    ) -> Result<(), LeaseError> {
        let refused = |session: &Session, job| matches!(session.job_answer(job), Some(Err(_)));
        let job = match self.jobs.get(&path) {
            Some(job) if !refused(session, *job) => *job,
            _ => {
                let whole =
                    ByteRange::between(self.offer.head, self.offer.size).ok_or(LeaseError::OutsideJob)?;
                let total = self.offer.size.saturating_mul(4).max(u32::MAX.into());
                let new = NewJob::new(path, whole, self.flow.object().payload()).total(total);
                let job = session.open_job(cx.now, self.flow.stream, new)?;
                self.jobs.insert(path, job);
                job
            }
        };
        let mut new = NewLease::new(job, range).retries(self.offer.retries);
        if self.wants_progress() {
            new = new.progress();
        }
        let verified = cx.dice.chance(self.offer.verified);
        if verified {
            new = new.digest(blake3::hash(&self.flow.bytes(range)).into());
        }
        let meddle = cx.dice.chance(self.offer.meddle).then(|| cx.dice.time(Duration::ZERO, MEDDLE_MAX));
        if meddle.is_some() && cx.dice.chance(200) {
            new = new.deadline(cx.dice.time(Duration::from_millis(1), MEDDLE_MAX));
        } else if crawls {
            cx.trace.count("lease of one that crawls");
            new = new.deadline(CRAWL_MAX);
        }
        let lease = session.lease(cx.now, &new)?;
        cx.note(format_args!("leases {range} of {} to {path} as {lease}", self.flow));
        self.leases.insert(lease, Leased { path, range, verified });
        self.meddling.extend(meddle.map(|after| (lease, cx.at + after)));
        Ok(())
    }

    /// Cuts, takes back or hedges leases that go well.
    fn meddle(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        let due: Vec<LeaseId> =
            self.meddling.iter().filter(|(_, at)| **at <= cx.at).map(|(&lease, _)| lease).collect();
        for lease in due {
            self.meddling.remove(&lease);
            let Some(&known) = self.leases.get(&lease) else {
                continue;
            };
            match cx.dice.below(4) {
                0 => {
                    cx.note(format_args!("takes {lease} back"));
                    cx.trace.count("lease taken back");
                    let revoked = session.revoke_lease(cx.now, lease, 0);
                    assert!(matches!(revoked, Ok(()) | Err(LeaseError::NotLive)), "10: {revoked:?}");
                }
                1 if !known.verified => {
                    let keep = cx.dice.between(1, known.range.len());
                    cx.note(format_args!("cuts {lease} behind {keep} bytes"));
                    cx.trace.count("lease cut");
                    let cut = session.revoke_lease(cx.now, lease, keep);
                    assert!(matches!(cut, Ok(()) | Err(LeaseError::NotLive)), "10: {cut:?}");
                }
                _ => {
                    let at = cx.dice.below(known.range.len());
                    let part = ByteRange::between(known.range.start() + at, known.range.end());
                    self.hedge(cx, session, paths, lease, part.unwrap_or(known.range));
                }
            }
        }
    }

    /// Has a part of a lease brought by somebody else as well, if there is somebody.
    fn hedge(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
        lease: LeaseId,
        range: ByteRange,
    ) {
        let Some(&Leased { path: hedged, .. }) = self.leases.get(&lease) else {
            return;
        };
        let other = |(&path, &(node, state)): (&PathId, &(NodeId, PathState))| {
            (path != hedged && state == PathState::Active && Some(node) != self.crawler).then_some(path)
        };
        let others: Vec<PathId> = paths.iter().filter_map(other).collect();
        let job = others.iter().find_map(|path| Some((*path, *self.jobs.get(path)?)));
        let hedge = match job.filter(|_| cx.dice.chance(500)) {
            Some((path, job)) => {
                let verified = cx.dice.chance(self.offer.verified);
                let mut new = NewLease::new(job, range).hedge_of(lease);
                if self.wants_progress() {
                    new = new.progress();
                }
                if verified {
                    new = new.digest(blake3::hash(&self.flow.bytes(range)).into());
                }
                session.lease(cx.now, &new).map(|hedge| {
                    self.leases.insert(hedge, Leased { path, range, verified });
                })
            }
            None => session.hedge(cx.now, lease, range).map(|run| {
                self.runs.insert(run, Run { range, sent: 0, blocked: false, give_up_at: None });
            }),
        };
        cx.note(format_args!("hedges {range} of {lease}: {hedge:?}"));
        if hedge.is_ok() {
            cx.trace.count("lease hedged");
        }
    }

    /// The client tells how a lease goes.
    pub(super) fn on_lease_changed(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        lease: LeaseId,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        let Some(&known) = self.leases.get(&lease) else {
            return;
        };
        if let Some(cut) = session.take_cut(lease) {
            cx.trace.count("lease shortened");
            self.take_back(cut);
        }
        let Some(status) = session.lease_status(lease) else {
            return; // over: its outcome follows
        };
        assert!(known.range.contains(status.range) && status.path == known.path, "{lease} has moved");
        if let Some(missing) = status.stalled {
            cx.note(format_args!("{lease} stalls: {missing}"));
            cx.trace.count("lease stalled");
            if self.offer.hedge {
                self.hedge(cx, session, paths, lease, missing);
            }
        }
    }

    /// Asks nothing more of what it began: nobody would take the outcomes.
    pub(super) fn let_go(&mut self, cx: &Cx<'_>, session: &mut Session) {
        for run in std::mem::take(&mut self.runs).into_keys() {
            session.reset_run(cx.now, run);
        }
        for lease in std::mem::take(&mut self.leases).into_keys() {
            session.forget_lease(lease);
        }
    }

    /// Time at which it has to look again by itself.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        sooner(self.retry_at, self.meddling.values().min().copied())
    }

    fn run(&mut self, cx: &mut Cx<'_>, session: &mut Session, range: ByteRange) -> Result<(), LeaseError> {
        let run = session.write_at(cx.now, self.flow.stream, range)?;
        cx.note(format_args!("writes {range} of {} itself", self.flow));
        cx.trace.count("run");
        let give_up_at = cx.dice.chance(self.offer.waver).then(|| cx.dice.between(1, range.len()));
        self.runs.insert(run, Run { range, sent: 0, blocked: false, give_up_at });
        Ok(())
    }

    pub(super) fn on_lease(&mut self, cx: &mut Cx<'_>, session: &mut Session, lease: LeaseId) {
        let Some(&known) = self.leases.get(&lease) else {
            return;
        };
        // It may have been cut just before.
        self.take_back(session.take_cut(lease).unwrap_or_default());
        match session.lease_outcome(lease) {
            None => return, // told again when it is known
            Some(LeaseOutcome::Done) => cx.trace.count("lease done"),
            Some(LeaseOutcome::Lost { code, missing }) => {
                cx.note(format_args!("lost {lease}: {code}, {missing:?}"));
                cx.trace.mark(format!("lease lost: {code}"));
                cx.oracle.check_honest_lease(self.flow.client, code, lease);
                assert!(missing.iter().all(|part| known.range.contains(*part)), "{lease} never had that");
                self.take_back(missing);
            }
            Some(outcome) => panic!("{lease} ended in a way unknown here: {outcome:?}"),
        }
        self.leases.remove(&lease);
        self.meddling.remove(&lease);
    }

    pub(super) fn on_run(&mut self, cx: &mut Cx<'_>, session: &mut Session, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        run.blocked = false;
        match session.run_outcome(id) {
            None => return,
            Some(LeaseOutcome::Done) => cx.trace.count("run done"),
            Some(LeaseOutcome::Lost { code, missing }) => {
                cx.note(format_args!("lost a run: {code}, {missing:?}"));
                self.take_back(missing);
            }
            Some(outcome) => panic!("a run ended in a way unknown here: {outcome:?}"),
        }
        self.runs.remove(&id);
    }

    fn take_back(&mut self, missing: Vec<ByteRange>) {
        if self.finished && self.over {
            return;
        }
        self.lost += missing.len();
        missing.into_iter().rev().for_each(|range| self.todo.push_front(range));
    }

    fn write_runs(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        let flow = self.flow;
        let mut given_up = Vec::new();
        for (&id, run) in &mut self.runs {
            while !run.blocked && !cx.is_interrupted() {
                if run.give_up_at.is_some_and(|at| run.sent >= at && run.sent < run.range.len()) {
                    given_up.push((id, run.range));
                    break;
                }
                let left = run.range.len() - run.sent;
                let most = run.give_up_at.map_or(50_000, |at| at.saturating_sub(run.sent).clamp(1, 50_000));
                let Some(range) = ByteRange::new(run.range.start() + run.sent, left.min(most)) else {
                    break;
                };
                match session.write_run(cx.now, id, &mut [flow.bytes(range)]) {
                    Ok(written) => {
                        cx.note(format_args!("writes {} of {range} of {flow}", written.bytes));
                        run.sent += written.bytes as u64;
                    }
                    Err(
                        LeaseWriteError::Blocked | LeaseWriteError::Behind(_) | LeaseWriteError::Ended(_),
                    ) => run.blocked = true,
                    Err(error) => panic!("10: a run of {flow} cannot be written: {error}"),
                }
            }
        }
        for (id, range) in given_up {
            cx.note(format_args!("gives up its own writing of {range} of {flow}"));
            cx.trace.count("run given up");
            session.reset_run(cx.now, id);
            self.runs.remove(&id);
            self.take_back(session.unowned(flow.stream, range));
        }
    }

    /// Writes on where sequential writing was, skipping what others have, up to `end`.
    fn write_to(&mut self, cx: &mut Cx<'_>, session: &mut Session, end: u64) {
        while !self.blocked && !self.over && !cx.is_interrupted() {
            let free = self.claimed.gaps(&(self.sequential..end)).next();
            let Some(range) = free
                .and_then(|free| ByteRange::new(free.start, (free.end - free.start).min(self.offer.range)))
            else {
                self.sequential = self.sequential.max(end);
                return;
            };
            cx.oracle.given(self.flow, range.end());
            match session.write(cx.now, self.flow.stream, &mut [self.flow.bytes(range)]) {
                Ok(written) => {
                    let bytes = written.bytes as u64;
                    cx.note(format_args!("writes {bytes} of {range} of {} in order", self.flow));
                    self.claimed.insert(range.start()..range.start() + bytes);
                    self.sequential = range.start() + bytes;
                    self.handed_out += bytes;
                }
                Err(WriteError::Blocked) => self.blocked = true,
                Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => self.stopped(cx, session),
                Err(error) => panic!("10: {} cannot be written: {error}", self.flow),
            }
        }
    }

    /// Says that nothing more comes, once that is so.
    fn end(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        let whole = self.sequential >= self.offer.size && self.leases.is_empty() && self.runs.is_empty();
        let ready = match self.offer.ending {
            Ending::Finish => whole,
            Ending::FinishEarly | Ending::LetGo => self.sequential >= self.offer.size,
            Ending::Reset(_) => false,
        };
        if self.finished || !ready || self.over {
            return;
        }
        self.finished = true;
        cx.oracle.finished(self.flow);
        let finished = session.finish(cx.now, self.flow.stream);
        cx.note(format_args!("finishes {}: {finished:?}", self.flow));
        // The client wanted no more, or nobody waits for what it gets.
        self.over |= finished.is_err() || self.offer.ending == Ending::LetGo;
    }

    /// Every byte is at the client.
    pub(super) fn on_finished(&mut self, cx: &mut Cx<'_>) {
        cx.note(format_args!("{} is delivered", self.flow));
        self.over = true;
    }

    /// The client wants no more.
    pub(super) fn on_stopped(&mut self, cx: &mut Cx<'_>, session: &mut Session, code: ErrorCode) {
        cx.note(format_args!("{} is stopped with {code}", self.flow));
        if code == ErrorCode::NO_CREDIT {
            cx.oracle.turned_away(self.flow);
        }
        self.stopped(cx, session);
    }

    /// The client wants no more: only an end of our own frees the slot.
    fn stopped(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        if std::mem::replace(&mut self.over, true) || session.lost().is_some() {
            return;
        }
        let ended = session.finish(cx.now, self.flow.stream);
        cx.note(format_args!("{} was stopped: {ended:?}", self.flow));
    }
}

/// Time that an offer waits for a first path before the primary begins by itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest time that a lease goes well before something is done to it.
const MEDDLE_MAX: Duration = Duration::from_millis(500);
/// Longest time that a lease may take that is given to somebody who hardly gets anywhere.
pub const CRAWL_MAX: Duration = Duration::from_secs(2);
/// Time until a range that was not taken is offered again.
const RETRY: Duration = Duration::from_millis(20);
