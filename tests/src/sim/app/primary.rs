//! A primary's application: adds paths, hands out the ranges of what it offers, hands out again what was lost, and
//! writes itself what nobody else can.

mod distributing;
mod naive;
mod sending;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kwik_core::{Dir, Event, NewPath, PathId, PathState, Session, SessionHandle, Side, StreamId};

pub use self::{distributing::Distributed, naive::Naive, sending::CRAWL_MAX};
use self::{distributing::Distributing, naive::Handing, sending::Sending};
use super::{
    Cx, GIVEN_UP, Reader, Reading, Writer, WriterEnd, sooner,
    talk::{Speaker, Talk},
};
use crate::sim::{
    NodeId,
    dice::Dice,
    heap,
    oracle::{Flow, Oracle},
};

/// Plan of a primary for each of its clients. The default adds all secondaries and offers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrimaryPlan {
    /// Times at which to add secondaries. Empty adds all at once.
    pub adds: Vec<(Duration, NodeId)>,
    /// Times at which to remove the paths to secondaries.
    pub removes: Vec<(Duration, NodeId)>,
    /// Offers to send.
    pub offers: Vec<Offer>,
    /// Manners in which streams that clients open are read.
    pub readings: Vec<Reading>,
    /// Bytes of the answer to a bidirectional one; otherwise they are drawn.
    pub answer: Option<u64>,
    /// A secondary that hardly gets anywhere: what it is given has little time.
    pub crawler: Option<NodeId>,
    /// Messages that it has relayed to its secondaries.
    pub talk: Talk,
}

/// An object to send to each client, over every path there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Earliest time.
    pub at: Duration,
    /// Both ways, or one.
    pub dir: Dir,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes that go natively, before the stream is split; `size` or more never splits it.
    pub head: u64,
    /// Bytes of a range, at most.
    pub range: u64,
    /// Every range is as long as may be; otherwise its length is drawn.
    pub even: bool,
    /// Ranges under way on one path, at most.
    pub depth: usize,
    /// Ranges the primary writes itself although a path could, per thousand.
    pub own: u16,
    /// Ranges the primary writes itself, gives up half-way and hands out again whole, per thousand: overlaps.
    pub waver: u16,
    /// Leases with a digest, per thousand.
    pub verified: u16,
    /// Leases that are cut, taken back, hedged or given too little time, per thousand.
    pub meddle: u16,
    /// Set if ranges that stall are brought by the primary itself, or by another path.
    pub hedge: bool,
    /// Number of times that what is lost goes to the same path again by itself.
    pub retries: u32,
    /// Write a tail sequentially: this many bytes at the end are given to nobody.
    pub tail: u64,
    /// End of the offer.
    pub ending: Ending,
    /// Manner in which it is read, whatever the client's plan says.
    pub reading: Option<Reading>,
    /// Hand it out as `distribute` does; of the rest then only time, direction, size and reading count. Otherwise ranges go to
    /// anybody, in any order.
    pub distributed: Option<Distributed>,
    /// Hand it out as somebody does who knows nothing of credit; of the rest only time, direction, size, range and reading count.
    pub naive: Option<Naive>,
}

/// End of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what an application can do")]
pub enum Ending {
    /// Whole.
    Finish,
    /// Finished as soon as everything was handed out, before it has arrived.
    FinishEarly,
    /// The same, and let go of at once: what becomes of it is nobody's business, and nothing is called for it any more.
    LetGo,
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
            even: false,
            depth: 2,
            own: 0,
            waver: 0,
            verified: 0,
            meddle: 0,
            hedge: false,
            retries: 0,
            tail: 0,
            ending: Ending::Finish,
            reading: None,
            distributed: None,
            naive: None,
        }
    }
}

/// Application of a primary.
#[derive(Debug)]
pub struct PrimaryApp {
    plan: PrimaryPlan,
    sessions: BTreeMap<SessionHandle, Box<Serving>>,
    apart: Option<Apart>,
}

/// State by which sessions are kept apart, so that what happens in one moves nothing in another.
#[derive(Clone, Copy, Debug)]
struct Apart {
    /// Seed of each session's own choices.
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
    objects: BTreeMap<StreamId, Distributing>,
    handings: BTreeMap<StreamId, Handing>,
    readers: BTreeMap<StreamId, Reader>,
    writers: BTreeMap<StreamId, Writer>,
    accepts: BTreeSet<Dir>,
    no_slot: BTreeSet<Dir>,
    connected: bool,
    speaker: Speaker,
    /// The session's own choices, if it has any.
    dice: Option<Dice>,
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
        // What later clients are offered as well is no session's heap.
        heap::uncounted(|| self.plan.offers.push(offer));
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
            let (client, number) = cx.client.expect("a session begins with a datagram of a machine");
            let mut serving = Serving::new(client, number, &self.plan);
            serving.sort();
            if let Some(Apart { seed, reserved }) = self.apart {
                serving.dice = Some(Dice::new(seed, &format!("kwik sim: session of {client}")));
                serving
                    .adds
                    .retain(|(_, node)| reserved.is_none_or(|(of, only)| *node != of || client == only));
            }
            self.sessions.insert(handle, Box::new(serving));
        }
        if let Event::Lost(_) = event {
            self.sessions.remove(&handle);
            if let Some((client, number)) = cx.client {
                cx.oracle.reader_gone(client, number, Side::Client);
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

    pub(super) fn is_done(&self, oracle: &Oracle) -> bool {
        self.sessions.values().all(|serving| serving.is_done(oracle))
    }

    /// Number of messages that have not been said to paths that are active, or not been answered.
    pub(super) fn unanswered(&self) -> usize {
        self.sessions.values().map(|serving| serving.unanswered()).sum()
    }
}

/// Longest time that a path that is removed may take for its leases.
const DRAIN_MAX: Duration = Duration::from_secs(3);

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
            objects: BTreeMap::new(),
            handings: BTreeMap::new(),
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            accepts: BTreeSet::new(),
            no_slot: BTreeSet::new(),
            connected: true,
            speaker: Speaker::new(plan.talk),
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

    /// Sorts so that what is due next goes last.
    fn sort(&mut self) {
        self.adds.sort_by(|a, b| b.cmp(a));
        self.removes.sort_by(|a, b| b.cmp(a));
        self.offers.sort_by_key(|offer| std::cmp::Reverse(offer.at));
    }

    fn flow(&self, stream: StreamId, sender: Side) -> Flow {
        Flow { client: self.client, session: self.number, stream, sender }
    }

    fn event(&mut self, cx: &mut Cx<'_>, session: &mut Session, event: &Event) {
        self.speaker.event(event);
        for object in self.objects.values_mut() {
            object.event(cx, event);
        }
        for handing in self.handings.values_mut() {
            handing.event(event);
        }
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
                    sending.on_finished(cx);
                }
            }
            Event::Stopped(stream, code) => {
                if let Some(sending) = self.sendings.get_mut(stream) {
                    sending.on_stopped(cx, session, *code);
                }
            }
            Event::PathChanged(path) => self.on_path(cx, session, *path),
            Event::Progress(_) => cx.trace.count("progress reported"),
            Event::LeaseEnded(lease) => {
                for sending in self.sendings.values_mut() {
                    sending.on_lease(cx, session, *lease);
                }
            }
            Event::LeaseChanged(lease) => {
                for sending in self.sendings.values_mut() {
                    sending.on_lease_changed(cx, session, *lease, &self.paths);
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
            let name = |state: PathState| match state {
                PathState::Dead(_) => "Dead".to_owned(),
                state => format!("{state:?}"),
            };
            cx.trace.mark(format!("path {} > {}", name(*known), name(state)));
            if let PathState::Dead(code) = state {
                cx.trace.mark(format!("path dead: {code}"));
            }
        }
        *known = state;
        cx.oracle.path(self.client, self.number, path, state, *node);
    }

    fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &PrimaryPlan) {
        if !self.connected || session.lost().is_some() {
            return;
        }
        self.change_paths(cx, session);
        self.begin_offers(cx, session, plan);
        self.speaker.turn(cx, session);
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
        for sending in self.sendings.values_mut().filter(|sending| sending.over) {
            sending.let_go(cx, session);
        }
        self.sendings.retain(|_, sending| !sending.over);
        for object in self.objects.values_mut() {
            object.turn(cx, session);
        }
        for object in self.objects.values_mut().filter(|object| object.over) {
            object.let_go(cx, session);
        }
        self.objects.retain(|_, object| !object.over);
        for handing in self.handings.values_mut() {
            handing.turn(cx, session, &self.paths);
        }
        for handing in self.handings.values_mut().filter(|handing| handing.over) {
            handing.let_go(cx, session);
        }
        self.handings.retain(|_, handing| !handing.over);
    }

    fn change_paths(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some((_, node)) = self.adds.pop_if(|(at, _)| *at <= cx.at) {
            let identity = cx.book.identity(node).expect("a secondary has an identity");
            let new = NewPath::new(cx.book.address(node), &identity.name, identity.key);
            match session.add_path(cx.now, new) {
                Ok(path) => {
                    cx.note(format_args!("adds {path} to {node}"));
                    self.paths.insert(path, (node, PathState::Connecting));
                    self.speaker.meets(path);
                }
                Err(error) => cx.note(format_args!("cannot add {node}: {error}")),
            }
        }
        while let Some((_, node)) = self.removes.pop_if(|(at, _)| *at <= cx.at) {
            let last = self.paths.iter().rev().find(|(_, (of, _))| *of == node);
            if let Some((&path, _)) = last {
                let patience = if cx.dice.chance(500) {
                    cx.dice.time(Duration::ZERO, DRAIN_MAX)
                } else {
                    Duration::ZERO
                };
                let removed = session.drain_path(cx.now, path, patience);
                cx.note(format_args!("removes {path} in {patience:?}: {removed:?}"));
                cx.trace.count(if patience.is_zero() { "path removed" } else { "path drained" });
                self.on_path(cx, session, path);
            }
        }
    }

    fn begin_offers(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &PrimaryPlan) {
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
            if let Some(reading) = offer.reading {
                cx.oracle.ask(flow, reading);
            }
            if offer.dir == Dir::Bi {
                // What the client sends back is a stream like any other.
                let back = self.flow(stream, Side::Client);
                self.readers.insert(stream, Reader::new(back, Reading::default()));
            }
            if let Some(manner) = offer.distributed {
                let object = Distributing::new(cx, session, flow, &offer, manner);
                self.objects.insert(stream, object);
            } else if let Some(manner) = offer.naive {
                self.handings.insert(stream, Handing::new(flow, offer, manner));
            } else if offer.head >= offer.size {
                let end = match offer.ending {
                    Ending::Reset(_) => WriterEnd::Reset,
                    Ending::Finish | Ending::FinishEarly | Ending::LetGo => WriterEnd::Finish,
                };
                self.writers.insert(stream, Writer::new(flow, offer.size, offer.range, end));
            } else {
                self.sendings.insert(stream, Sending::new(flow, offer, plan.crawler));
            }
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        for sending in self.sendings.values_mut().filter(|sending| !sending.over) {
            sending.reset(cx, session);
        }
        for object in self.objects.values_mut().filter(|object| !object.over) {
            object.reset(cx, session);
        }
        for handing in self.handings.values_mut().filter(|handing| !handing.over) {
            handing.reset(cx, session);
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
            let size = plan.answer.unwrap_or_else(|| cx.dice.below(20_000));
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
        let retry = self.sendings.values().fold(None, |at, sending| sooner(at, sending.wake_at()));
        let retry = self.objects.values().fold(retry, |at, object| sooner(at, object.wake_at()));
        sooner(sooner(readers, add), sooner(sooner(remove, offer), retry))
    }

    fn unanswered(&self) -> usize {
        let active = self.paths.iter().filter(|(_, (_, state))| *state == PathState::Active);
        active.map(|(&path, _)| self.speaker.open(path)).sum()
    }

    fn is_done(&self, oracle: &Oracle) -> bool {
        let unread = |stream: &StreamId, sender| oracle.is_left(&self.flow(*stream, sender));
        let objects = self.objects.keys().chain(self.handings.keys());
        self.sendings.keys().chain(objects).all(|stream| unread(stream, Side::Server))
            && self.writers.keys().all(|stream| unread(stream, Side::Server))
            && self.readers.keys().all(|stream| unread(stream, Side::Client))
            && self.offers.is_empty()
    }
}
