//! A primary's application: adds paths, hands out the ranges of what it offers, hands out again what was lost, and
//! writes itself what nobody else can.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kwik_core::{
    ByteRange, Dir, Event, JobId, LeaseError, LeaseId, LeaseOutcome, LeaseWriteError, NewJob, NewPath,
    PathId, PathState, RunId, Session, SessionHandle, Side, StreamId, WriteError,
};
use rangemap::RangeSet;

use super::{Cx, GIVEN_UP, Reader, Reading, Writer, WriterEnd, sooner};
use crate::sim::{NodeId, dice::Dice, oracle::Flow};

/// What a primary does for each of its clients. The default adds no path and offers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrimaryPlan {
    /// When to add which secondary.
    pub adds: Vec<(Duration, NodeId)>,
    /// When to remove the path to which secondary.
    pub removes: Vec<(Duration, NodeId)>,
    /// What to send.
    pub offers: Vec<Offer>,
    /// How streams that clients open are read.
    pub readings: Vec<Reading>,
}

/// An object to send to each client, over every path there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// When, at the earliest.
    pub at: Duration,
    /// Both ways, or one.
    pub dir: Dir,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes that go natively, before the stream is split; `size` or more never splits it.
    pub head: u64,
    /// Bytes of a range, at most.
    pub range: u64,
    /// Ranges under way on one path, at most.
    pub depth: usize,
    /// Ranges the primary writes itself although a path could, per thousand.
    pub own: u16,
    /// Ranges the primary writes itself, gives up half-way and hands out again whole, per thousand: overlaps.
    pub waver: u16,
    /// Write a tail sequentially: this many bytes at the end are given to nobody.
    pub tail: u64,
    /// How it ends.
    pub ending: Ending,
}

/// How an offer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what an application can do")]
pub enum Ending {
    /// Whole.
    Finish,
    /// Finished as soon as everything was handed out, before it has arrived.
    FinishEarly,
    /// Given up once this many bytes were handed out.
    Reset(u64),
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            at: Duration::ZERO,
            dir: Dir::Uni,
            size: 1 << 20,
            head: 0,
            range: 128 * 1024,
            depth: 2,
            own: 0,
            waver: 0,
            tail: 0,
            ending: Ending::Finish,
        }
    }
}

/// What runs on a primary.
#[derive(Debug)]
pub struct PrimaryApp {
    plan: PrimaryPlan,
    sessions: BTreeMap<SessionHandle, Serving>,
    apart: Option<Apart>,
}

/// How sessions are kept apart, so that what happens in one moves nothing in another.
#[derive(Clone, Copy, Debug)]
struct Apart {
    /// Where each session's own choices come from.
    seed: u64,
    /// A secondary that is added for this client only.
    reserved: Option<(NodeId, NodeId)>,
}

/// One client being served.
#[derive(Debug)]
struct Serving {
    client: NodeId,
    number: u32,
    adds: Vec<(Duration, NodeId)>,
    removes: Vec<(Duration, NodeId)>,
    offers: Vec<Offer>,
    paths: BTreeMap<PathId, (NodeId, PathState)>,
    sendings: BTreeMap<StreamId, Sending>,
    readers: BTreeMap<StreamId, Reader>,
    writers: BTreeMap<StreamId, Writer>,
    accepts: BTreeSet<Dir>,
    no_slot: BTreeSet<Dir>,
    connected: bool,
    /// The session's own choices, if it has any.
    dice: Option<Dice>,
}

/// One object under way.
#[derive(Debug)]
struct Sending {
    flow: Flow,
    offer: Offer,
    /// Ranges that nobody has, the next first.
    todo: VecDeque<ByteRange>,
    /// How many of them were lost: they go out whatever else is under way.
    lost: usize,
    /// What is to be handed out has been cut from here on.
    cut: u64,
    handed_out: u64,
    claimed: RangeSet<u64>,
    jobs: BTreeMap<PathId, JobId>,
    leases: BTreeMap<LeaseId, PathId>,
    runs: BTreeMap<RunId, Run>,
    /// The next byte of sequential writing.
    sequential: u64,
    blocked: bool,
    /// A range was not taken: nobody tells when one will be, so it is tried again then.
    retry_at: Option<Duration>,
    finished: bool,
    over: bool,
}

#[derive(Debug)]
struct Run {
    range: ByteRange,
    sent: u64,
    blocked: bool,
    /// Give up here instead of going on.
    give_up_at: Option<u64>,
}

impl PrimaryApp {
    /// Creates an application that follows `plan`.
    #[must_use]
    pub fn new(plan: PrimaryPlan) -> Self {
        Self { plan, sessions: BTreeMap::new(), apart: None }
    }

    /// Gives each session choices of its own, and keeps a secondary for one client.
    #[must_use]
    pub fn apart(mut self, seed: u64, reserved: Option<(NodeId, NodeId)>) -> Self {
        self.apart = Some(Apart { seed, reserved });
        self
    }

    /// Offers one more object to every client, now and later ones.
    pub fn offer(&mut self, offer: Offer) {
        self.plan.offers.push(offer);
        for serving in self.sessions.values_mut() {
            serving.offers.push(offer);
            serving.sort();
        }
    }

    pub(super) fn event(
        &mut self,
        cx: &mut Cx<'_>,
        handle: SessionHandle,
        session: &mut Session,
        event: &Event,
    ) {
        if *event == Event::Connected {
            let client = cx.book.find(session.remote_address()).expect("datagrams come from machines");
            let number = cx.book.session(session.remote_address());
            let mut serving = Serving::new(client, number, &self.plan);
            serving.sort();
            if let Some(Apart { seed, reserved }) = self.apart {
                serving.dice = Some(Dice::new(seed, &format!("kwik sim: session of {client}")));
                serving
                    .adds
                    .retain(|(_, node)| reserved.is_none_or(|(of, only)| *node != of || client == only));
            }
            self.sessions.insert(handle, serving);
        }
        if let Event::Lost(_) = event {
            self.sessions.remove(&handle);
            let peer = session.remote_address();
            if let Some(client) = cx.book.find(peer) {
                cx.oracle.reader_gone(client, cx.book.session(peer), Side::Client);
            }
        }
        if let Some(serving) = self.sessions.get_mut(&handle) {
            serving.with_dice(cx, |serving, cx| serving.event(cx, session, event));
        }
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        if let Some(serving) = self.sessions.get_mut(&handle) {
            let plan = &self.plan;
            serving.with_dice(cx, |serving, cx| serving.turn(cx, session, plan));
        }
    }

    /// Gives up everything that it sends, and stops what it reads.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        if let Some(serving) = self.sessions.get_mut(&handle) {
            serving.give_up(cx, session);
        }
    }

    pub(super) fn wake_at(&self, handle: SessionHandle) -> Option<Duration> {
        self.sessions.get(&handle)?.wake_at()
    }

    pub(super) fn forget(&mut self, handle: SessionHandle) {
        self.sessions.remove(&handle);
    }

    pub(super) fn is_done(&self) -> bool {
        self.sessions.values().all(Serving::is_done)
    }
}

impl Serving {
    fn new(client: NodeId, number: u32, plan: &PrimaryPlan) -> Self {
        Self {
            client,
            number,
            adds: plan.adds.clone(),
            removes: plan.removes.clone(),
            offers: plan.offers.clone(),
            paths: BTreeMap::new(),
            sendings: BTreeMap::new(),
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            accepts: BTreeSet::new(),
            no_slot: BTreeSet::new(),
            connected: true,
            dice: None,
        }
    }

    /// Does something with the session's own choices, or the machine's if it has none.
    fn with_dice(&mut self, cx: &mut Cx<'_>, work: impl FnOnce(&mut Self, &mut Cx<'_>)) {
        let Some(mut dice) = self.dice.take() else {
            return work(self, cx);
        };
        std::mem::swap(cx.dice, &mut dice);
        work(self, cx);
        std::mem::swap(cx.dice, &mut dice);
        self.dice = Some(dice);
    }

    /// What is due next goes last.
    fn sort(&mut self) {
        self.adds.sort_by(|a, b| b.cmp(a));
        self.removes.sort_by(|a, b| b.cmp(a));
        self.offers.sort_by_key(|offer| std::cmp::Reverse(offer.at));
    }

    fn flow(&self, stream: StreamId, sender: Side) -> Flow {
        Flow { client: self.client, session: self.number, stream, sender }
    }

    fn event(&mut self, cx: &mut Cx<'_>, session: &mut Session, event: &Event) {
        match event {
            Event::Opened(dir) => {
                self.accepts.insert(*dir);
            }
            Event::Available(dir) => {
                self.no_slot.remove(dir);
            }
            Event::Readable(stream) => {
                if let Some(reader) = self.readers.get_mut(stream) {
                    reader.unblock();
                }
            }
            Event::Writable(stream) => {
                if let Some(writer) = self.writers.get_mut(stream) {
                    writer.unblock();
                }
                if let Some(sending) = self.sendings.get_mut(stream) {
                    sending.blocked = false;
                }
            }
            Event::Finished(stream) => {
                if let Some(sending) = self.sendings.get_mut(stream) {
                    sending.on_finished(cx, session);
                }
            }
            Event::PathChanged(path) => self.on_path(cx, session, *path),
            Event::LeaseEnded(lease) => {
                for sending in self.sendings.values_mut() {
                    sending.on_lease(cx, session, *lease);
                }
            }
            Event::RunWritable(run) => {
                for sending in self.sendings.values_mut() {
                    sending.on_run(cx, session, *run);
                }
            }
            Event::JobAnswered(job) => {
                if let Some(Err(code)) = session.job_answer(*job) {
                    cx.note(format_args!("{job} was refused: {code}"));
                }
            }
            _ => {}
        }
    }

    fn on_path(&mut self, cx: &mut Cx<'_>, session: &Session, path: PathId) {
        self.sendings.values_mut().for_each(|sending| sending.retry_at = None);
        let (Some((node, known)), Some(state)) = (self.paths.get_mut(&path), session.path_state(path)) else {
            return;
        };
        if *known != state {
            cx.note(format_args!("{path} is {state:?}"));
            cx.trace.mark(match state {
                PathState::Dead(code) => format!("path dead: {code}"),
                state => format!("path {state:?}"),
            });
        }
        *known = state;
        cx.oracle.path(self.client, self.number, path, state, *node);
    }

    fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &PrimaryPlan) {
        if !self.connected || session.lost().is_some() {
            return;
        }
        self.change_paths(cx, session);
        self.begin_offers(cx, session);
        for dir in [Dir::Bi, Dir::Uni] {
            while self.accepts.contains(&dir) && !cx.is_interrupted() {
                match session.accept(dir) {
                    Some(stream) => self.accept(cx, stream, plan),
                    None => {
                        self.accepts.remove(&dir);
                    }
                }
            }
        }
        for reader in self.readers.values_mut() {
            reader.turn(cx, session);
        }
        for writer in self.writers.values_mut() {
            writer.turn(cx, session);
        }
        self.readers.retain(|_, reader| !reader.is_done());
        self.writers.retain(|_, writer| !writer.is_done());
        for sending in self.sendings.values_mut() {
            sending.turn(cx, session, &self.paths);
        }
        self.sendings.retain(|_, sending| !sending.over);
    }

    fn change_paths(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some((_, node)) = self.adds.pop_if(|(at, _)| *at <= cx.at) {
            let identity = cx.book.identity(node).expect("a secondary has an identity");
            let new = NewPath::new(cx.book.address(node), &identity.name, identity.key);
            match session.add_path(cx.now, new) {
                Ok(path) => {
                    cx.note(format_args!("adds {path} to {node}"));
                    self.paths.insert(path, (node, PathState::Connecting));
                }
                Err(error) => cx.note(format_args!("cannot add {node}: {error}")),
            }
        }
        while let Some((_, node)) = self.removes.pop_if(|(at, _)| *at <= cx.at) {
            let last = self.paths.iter().rev().find(|(_, (of, _))| *of == node);
            if let Some((&path, _)) = last {
                let removed = session.remove_path(cx.now, path);
                cx.note(format_args!("removes {path}: {removed:?}"));
                cx.trace.count("path removed");
            }
        }
    }

    fn begin_offers(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some(offer) = self.offers.last().copied().filter(|offer| offer.at <= cx.at) {
            if self.no_slot.contains(&offer.dir) {
                return;
            }
            let Some(stream) = session.open(offer.dir) else {
                cx.trace.count("no slot");
                self.no_slot.insert(offer.dir);
                return;
            };
            self.offers.pop();
            let flow = self.flow(stream, Side::Server);
            cx.note(format_args!("offers {flow}, {} bytes", offer.size));
            cx.oracle.opened(flow);
            if offer.dir == Dir::Bi {
                // What the client sends back is a stream like any other.
                let back = self.flow(stream, Side::Client);
                self.readers.insert(stream, Reader::new(back, Reading::default()));
            }
            if offer.head >= offer.size {
                let end = match offer.ending {
                    Ending::Reset(_) => WriterEnd::Reset,
                    Ending::Finish | Ending::FinishEarly => WriterEnd::Finish,
                };
                self.writers.insert(stream, Writer::new(flow, offer.size, offer.range, end));
            } else {
                self.sendings.insert(stream, Sending::new(flow, offer));
            }
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        for sending in self.sendings.values_mut().filter(|sending| !sending.over) {
            sending.reset(cx, session);
        }
        for reader in self.readers.values_mut() {
            reader.stop(cx, session, GIVEN_UP);
        }
        for writer in self.writers.values_mut() {
            writer.reset(cx, session);
        }
    }

    fn accept(&mut self, cx: &mut Cx<'_>, stream: StreamId, plan: &PrimaryPlan) {
        let flow = self.flow(stream, Side::Client);
        cx.note(format_args!("accepts {flow}"));
        cx.oracle.accepted(flow);
        let reading =
            if plan.readings.is_empty() { Reading::default() } else { cx.dice.pick(&plan.readings) };
        self.readers.insert(stream, Reader::new(flow, reading));
        if stream.dir() == Dir::Bi {
            let size = cx.dice.below(20_000);
            let answer = Writer::new(self.flow(stream, Side::Server), size, 4000, WriterEnd::Finish);
            self.writers.insert(stream, answer);
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        let readers = self.readers.values().fold(None, |at, reader| sooner(at, reader.wake_at()));
        let add = self.adds.last().map(|(at, _)| *at);
        let remove = self.removes.last().map(|(at, _)| *at);
        let offer =
            self.offers.last().filter(|offer| !self.no_slot.contains(&offer.dir)).map(|offer| offer.at);
        let retry = self.sendings.values().fold(None, |at, sending| sooner(at, sending.retry_at));
        sooner(sooner(readers, add), sooner(sooner(remove, offer), retry))
    }

    fn is_done(&self) -> bool {
        self.sendings.is_empty()
            && self.writers.is_empty()
            && self.readers.is_empty()
            && self.offers.is_empty()
    }
}

impl Sending {
    fn new(flow: Flow, offer: Offer) -> Self {
        Self {
            flow,
            offer,
            todo: VecDeque::new(),
            lost: 0,
            cut: offer.head,
            handed_out: 0,
            claimed: RangeSet::new(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            runs: BTreeMap::new(),
            sequential: 0,
            blocked: false,
            retry_at: None,
            finished: false,
            over: false,
        }
    }

    fn turn(
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

    fn reset(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
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
                Some(path) => self.lease(cx, session, path, range),
                None => self.run(cx, session, range),
            };
            match given {
                Ok(()) => {
                    self.lost = self.lost.saturating_sub(1);
                    self.handed_out += range.len();
                    self.claimed.insert(range.start()..range.end());
                    cx.oracle.given(self.flow, range.end());
                }
                Err(
                    LeaseError::LimitExceeded
                    | LeaseError::PathDead
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
        let range = ByteRange::new(self.cut, cx.dice.between(1, self.offer.range).min(left))?;
        self.cut = range.end();
        Some(range)
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
        range: ByteRange,
    ) -> Result<(), LeaseError> {
        let refused = |session: &Session, job| matches!(session.job_answer(job), Some(Err(_)));
        let job = match self.jobs.get(&path) {
            Some(job) if !refused(session, *job) => *job,
            _ => {
                let whole =
                    ByteRange::between(self.offer.head, self.offer.size).ok_or(LeaseError::OutsideJob)?;
                let new = NewJob::new(path, whole, self.flow.object().payload()).total(u64::from(u32::MAX));
                let job = session.open_job(cx.now, self.flow.stream, new)?;
                self.jobs.insert(path, job);
                job
            }
        };
        let lease = session.lease(cx.now, job, range)?;
        cx.note(format_args!("leases {range} of {} to {path} as {lease}", self.flow));
        self.leases.insert(lease, path);
        Ok(())
    }

    fn run(&mut self, cx: &mut Cx<'_>, session: &mut Session, range: ByteRange) -> Result<(), LeaseError> {
        let run = session.write_at(cx.now, self.flow.stream, range)?;
        cx.note(format_args!("writes {range} of {} itself", self.flow));
        cx.trace.count("run");
        let give_up_at = cx.dice.chance(self.offer.waver).then(|| cx.dice.between(1, range.len()));
        self.runs.insert(run, Run { range, sent: 0, blocked: false, give_up_at });
        Ok(())
    }

    fn on_lease(&mut self, cx: &mut Cx<'_>, session: &mut Session, lease: LeaseId) {
        if !self.leases.contains_key(&lease) {
            return;
        }
        match session.lease_outcome(lease) {
            None => return, // told again when it is known
            Some(LeaseOutcome::Done) => cx.trace.count("lease done"),
            Some(LeaseOutcome::Lost { code, missing }) => {
                cx.note(format_args!("lost {lease}: {code}, {missing:?}"));
                cx.trace.mark(format!("lease lost: {code}"));
                cx.oracle.check_honest_lease(self.flow.client, code, lease);
                self.take_back(missing);
            }
            Some(outcome) => panic!("{lease} ended in a way unknown here: {outcome:?}"),
        }
        self.leases.remove(&lease);
    }

    fn on_run(&mut self, cx: &mut Cx<'_>, session: &mut Session, id: RunId) {
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
                    Ok(written) => run.sent += written.bytes as u64,
                    Err(LeaseWriteError::Blocked | LeaseWriteError::Ended(_)) => run.blocked = true,
                    Err(error) => panic!("10: a run of {flow} cannot be written: {error}"),
                }
            }
        }
        for (id, range) in given_up {
            cx.note(format_args!("gives up its own writing of {range} of {flow}"));
            cx.trace.count("run given up");
            session.reset_run(cx.now, id);
            self.runs.remove(&id);
            self.take_back(vec![range]);
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
            Ending::FinishEarly => self.sequential >= self.offer.size,
            Ending::Reset(_) => false,
        };
        if self.finished || !ready || self.over {
            return;
        }
        self.finished = true;
        cx.oracle.finished(self.flow);
        let finished = session.finish(cx.now, self.flow.stream);
        cx.note(format_args!("finishes {}: {finished:?}", self.flow));
        self.over |= finished.is_err(); // the client wanted no more
    }

    /// Every byte is at the client, or the client wants no more.
    fn on_finished(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        cx.note(format_args!("{} is delivered or stopped", self.flow));
        if session.stopped(self.flow.stream).is_ok() {
            self.stopped(cx, session);
        }
        self.over = true;
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

/// How long an offer waits for a first path before the primary begins by itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it takes until a range that was not taken is offered again.
const RETRY: Duration = Duration::from_millis(20);
