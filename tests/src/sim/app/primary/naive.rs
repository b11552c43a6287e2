//! One object under way as somebody hands it out who has read no more than the documentation of ranges and leases: with no
//! idea of credit, and with what is lost waiting for its turn. An honest session must not be stuck by it (DESIGN I7).

use std::collections::{BTreeMap, VecDeque};

use kwik_core::{
    ByteRange, Event, JobId, LeaseError, LeaseId, LeaseOutcome, LeaseWriteError, NewJob, PathId, PathState,
    RunId, Session,
};

use super::Offer;
use crate::sim::{
    NodeId,
    app::{Cx, GIVEN_UP},
    oracle::Flow,
};

/// Manner in which an object is handed out by such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what was tried")]
pub enum Naive {
    /// The first half is leased to one path, the rest written meanwhile; only then is looked what became of the lease, or when
    /// the writer is told that the reader waits for it.
    HalfAndRest,
    /// Ranges of the offer's length, in order: each path has up to four at once, and this server writes one. What is lost goes
    /// before what is new, to whoever has room. What the writer is told matters to it, or not.
    FourEach {
        /// The writer brings what the reader is said to wait for before it goes on.
        listens: bool,
    },
}

/// Ranges that a path has at once.
const AT_ONCE: usize = 4;
/// Bytes that are handed over at once.
const CHUNK: u64 = 64 * 1024;

/// This server's own writing.
#[derive(Debug)]
struct Own {
    run: RunId,
    range: ByteRange,
    sent: u64,
    blocked: bool,
}

/// One object under way.
#[derive(Debug)]
pub(super) struct Handing {
    flow: Flow,
    offer: Offer,
    manner: Naive,
    jobs: BTreeMap<PathId, JobId>,
    leases: BTreeMap<LeaseId, PathId>,
    own: Option<Own>,
    lost: VecDeque<ByteRange>,
    /// Offset from which on nobody was given anything.
    next: u64,
    finished: bool,
    pub(super) over: bool,
}

impl Handing {
    pub(super) fn new(flow: Flow, offer: Offer, manner: Naive) -> Self {
        Self {
            flow,
            offer,
            manner,
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            own: None,
            lost: VecDeque::new(),
            next: 0,
            finished: false,
            over: false,
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Finished(stream) | Event::Stopped(stream, _) if *stream == self.flow.stream => {
                self.over = true;
            }
            Event::RunWritable(run) => {
                if let Some(own) = self.own.as_mut().filter(|own| own.run == *run) {
                    own.blocked = false;
                }
            }
            _ => {}
        }
    }

    pub(super) fn turn(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        while !self.over && !cx.is_interrupted() {
            match self.manner {
                Naive::HalfAndRest => self.half_and_rest(cx, session, paths),
                Naive::FourEach { .. } => self.fill_slots(cx, session, paths),
            }
            if !self.write(cx, session) {
                break;
            }
        }
        let rest = self.own.is_none() && self.leases.is_empty() && self.lost.is_empty();
        if rest && !cx.is_interrupted() && self.next == self.offer.size && !self.finished {
            self.finished = true;
            cx.oracle.finished(self.flow);
            let finished = session.finish(cx.now, self.flow.stream);
            cx.note(format_args!("finishes {}: {finished:?}", self.flow));
        }
    }

    fn half_and_rest(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        if self.next == 0 {
            let first = paths.iter().find(|(_, (_, state))| *state == PathState::Active);
            if let Some((&path, _)) = first {
                let half = ByteRange::between(0, self.offer.size / 2).expect("long");
                self.lease(cx, session, path, half).expect("it has room");
                let rest = ByteRange::between(half.end(), self.offer.size).expect("long");
                self.begin_writing(cx, session, rest).expect("nobody's");
            }
        } else if self.own.is_none() {
            self.look(session);
            if let Some(range) = self.lost.pop_front() {
                self.begin_writing(cx, session, range).expect("nobody's");
            }
        }
    }

    fn fill_slots(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        paths: &BTreeMap<PathId, (NodeId, PathState)>,
    ) {
        self.look(session);
        let active = paths.iter().filter(|(_, (_, state))| *state == PathState::Active);
        for (&path, _) in active {
            while self.leases.values().filter(|of| **of == path).count() < AT_ONCE && !cx.is_interrupted() {
                let Some(range) = self.next_range() else {
                    break;
                };
                if self.lease(cx, session, path, range).is_err() {
                    self.lost.push_front(range);
                    break;
                }
            }
        }
        if self.own.is_none()
            && let Some(range) = self.next_range()
        {
            self.begin_writing(cx, session, range).expect("nobody's");
        }
    }

    /// Looks what became of the leases.
    fn look(&mut self, session: &mut Session) {
        let ended: Vec<_> =
            self.leases.keys().filter_map(|id| Some((*id, session.lease_outcome(*id)?))).collect();
        for (id, outcome) in ended {
            self.leases.remove(&id);
            if let LeaseOutcome::Lost { missing, .. } = outcome {
                self.lost.extend(missing);
            }
        }
    }

    fn next_range(&mut self) -> Option<ByteRange> {
        self.lost.pop_front().or_else(|| {
            let range = ByteRange::between(self.next, self.offer.size.min(self.next + self.offer.range))?;
            self.next = range.end();
            Some(range)
        })
    }

    fn lease(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        path: PathId,
        range: ByteRange,
    ) -> Result<(), LeaseError> {
        let job = match self.jobs.get(&path) {
            Some(job) => *job,
            None => {
                let whole = ByteRange::between(0, self.offer.size).expect("not empty");
                let new = NewJob::new(path, whole, self.flow.object().payload());
                let job = session.open_job(cx.now, self.flow.stream, new)?;
                self.jobs.insert(path, job);
                job
            }
        };
        let lease = session.lease(cx.now, &kwik_core::NewLease::new(job, range))?;
        cx.note(format_args!("leases {range} of {} to {path} as {lease}", self.flow));
        cx.oracle.given(self.flow, range.end());
        self.leases.insert(lease, path);
        Ok(())
    }

    fn begin_writing(
        &mut self,
        cx: &mut Cx<'_>,
        session: &mut Session,
        range: ByteRange,
    ) -> Result<(), LeaseError> {
        let run = session.write_at(cx.now, self.flow.stream, range)?;
        cx.note(format_args!("writes {range} of {} itself", self.flow));
        cx.oracle.given(self.flow, range.end());
        self.next = self.next.max(range.end());
        self.own = Some(Own { run, range, sent: 0, blocked: false });
        Ok(())
    }

    /// Writes what there is room for. Returns whether it may have something else to write now.
    fn write(&mut self, cx: &mut Cx<'_>, session: &mut Session) -> bool {
        let Some(own) = self.own.as_mut().filter(|own| !own.blocked) else {
            return false;
        };
        while let Some(rest) = ByteRange::between(own.range.start() + own.sent, own.range.end()) {
            if cx.is_interrupted() {
                return false;
            }
            let part = ByteRange::new(rest.start(), rest.len().min(CHUNK)).expect("not empty");
            match session.write_run(cx.now, own.run, &mut [self.flow.bytes(part)]) {
                Ok(written) => {
                    cx.note(format_args!("writes {} of {part} of {}", written.bytes, self.flow));
                    own.sent += written.bytes as u64;
                }
                Err(LeaseWriteError::Behind(hole)) if self.manner != (Naive::FourEach { listens: false }) => {
                    cx.trace.count("told of a hole");
                    cx.note(format_args!("writes {hole} of {} before {rest}", self.flow));
                    session.reset_run(cx.now, own.run);
                    self.own = None;
                    self.look(session);
                    let first = self.lost.iter().position(|lost| lost.start() <= hole.start());
                    let first = first.and_then(|at| self.lost.remove(at));
                    let begun = self.begin_writing(cx, session, first.unwrap_or(hole));
                    assert!(begun.is_ok(), "10: {hole} of {} is not nobody's: {begun:?}", self.flow);
                    self.lost.push_back(rest);
                    return true;
                }
                Err(_) => {
                    own.blocked = true;
                    return false;
                }
            }
        }
        self.own = None;
        true
    }

    pub(super) fn reset(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        self.over = true;
        cx.oracle.reset(self.flow, GIVEN_UP);
        let reset = session.reset(cx.now, self.flow.stream, GIVEN_UP);
        assert!(reset.is_ok() || session.lost().is_some(), "4: {} cannot be reset", self.flow);
    }

    /// Asks nothing more of what it began.
    pub(super) fn let_go(&mut self, cx: &Cx<'_>, session: &mut Session) {
        for lease in std::mem::take(&mut self.leases).into_keys() {
            session.forget_lease(lease);
        }
        for job in std::mem::take(&mut self.jobs).into_values() {
            session.close_job(cx.now, job);
        }
    }
}
