//! A client's application: reads what the primary sends, and opens native streams of its own.

use std::{collections::BTreeMap, time::Duration};

use kwik_core::{Dir, Event, Session, Side, StreamId};

use super::{Cx, GIVEN_UP, GOODBYE, Reader, Reading, Writer, WriterEnd, sooner};
use crate::sim::oracle::{Flow, Oracle};

/// Plan of a client. The default reads everything at once and opens nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientPlan {
    /// Manners of reading: one of these is drawn for each stream. Empty reads whatever comes, in order.
    pub readings: Vec<Reading>,
    /// Native streams to open.
    pub opens: Vec<OpenPlan>,
    /// Close the session then.
    pub close_at: Option<Duration>,
}

/// A native stream to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPlan {
    /// Earliest time.
    pub at: Duration,
    /// Both ways, or one.
    pub dir: Dir,
    /// Bytes to write.
    pub size: u64,
    /// Bytes handed over at once, at most.
    pub chunk: u64,
    /// End of writing.
    pub end: WriterEnd,
}

/// Application of a client.
#[derive(Debug)]
pub struct ClientApp {
    plan: ClientPlan,
    /// Number of this session among the machine's.
    session: u32,
    readers: BTreeMap<StreamId, Reader>,
    writers: BTreeMap<StreamId, Writer>,
    /// Streams not opened yet, the next one last.
    unopened: Vec<OpenPlan>,
    /// No stream could be opened, and the core has not said otherwise since.
    no_slot: BTreeMap<Dir, bool>,
    accepts: BTreeMap<Dir, bool>,
    connected: bool,
    closing: bool,
    lost: bool,
}

impl ClientApp {
    /// Creates the application of the machine's session number `session`.
    #[must_use]
    pub fn new(plan: ClientPlan, session: u32) -> Self {
        let mut unopened = plan.opens.clone();
        unopened.sort_by_key(|open| std::cmp::Reverse(open.at));
        Self {
            plan,
            session,
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            unopened,
            no_slot: BTreeMap::new(),
            accepts: BTreeMap::new(),
            connected: false,
            closing: false,
            lost: false,
        }
    }

    /// Returns which of the machine's sessions this is.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Returns whether the session is over.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Opens one more stream.
    pub fn open_also(&mut self, open: OpenPlan) {
        self.unopened.push(open);
        self.unopened.sort_by_key(|open| std::cmp::Reverse(open.at));
    }

    fn flow(&self, cx: &Cx<'_>, stream: StreamId, sender: Side) -> Flow {
        Flow { client: cx.node, session: self.session, stream, sender }
    }

    pub(super) fn event(&mut self, cx: &mut Cx<'_>, event: &Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::Opened(dir) => {
                self.accepts.insert(*dir, true);
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
            }
            Event::Finished(_) => cx.trace.count("stream finished"),
            Event::Lost(_) => {
                self.lost = true;
                // What was never shown to the application will not be any more.
                cx.oracle.unseen(cx.node, self.session);
                // Each has to learn that nothing more comes.
                self.readers.values_mut().for_each(Reader::hurry);
                self.writers.values_mut().for_each(Writer::unblock);
            }
            _ => {}
        }
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        if !self.connected && !self.lost {
            return;
        }
        if !self.closing && !self.lost && self.plan.close_at.is_some_and(|at| at <= cx.at) {
            self.closing = true;
            cx.note(format_args!("closes"));
            let closed = session.close(cx.now, GOODBYE, b"goodbye");
            assert!(closed.is_ok(), "the code is the application's");
        }
        self.open(cx, session);
        for dir in [Dir::Bi, Dir::Uni] {
            while self.accepts.get(&dir).copied().unwrap_or_default() && !cx.is_interrupted() {
                match session.accept(dir) {
                    Some(stream) => self.accept(cx, stream),
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
    }

    fn open(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some(plan) = self.unopened.last().copied().filter(|plan| plan.at <= cx.at && !self.lost) {
            if cx.is_interrupted() {
                return;
            }
            if self.no_slot.contains_key(&plan.dir) {
                return;
            }
            let Some(stream) = session.open(plan.dir) else {
                cx.trace.count("no slot");
                self.no_slot.insert(plan.dir, true);
                return;
            };
            self.unopened.pop();
            let flow = self.flow(cx, stream, Side::Client);
            cx.note(format_args!("opens {flow} for {}", plan.size));
            cx.oracle.opened(flow);
            self.writers.insert(stream, Writer::new(flow, plan.size, plan.chunk, plan.end));
            if plan.dir == Dir::Bi {
                // The primary answers every bidirectional stream.
                let back = self.flow(cx, stream, Side::Server);
                cx.oracle.opened(back);
                self.readers.insert(stream, Reader::new(back, self.reading(cx)));
            }
        }
    }

    fn accept(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        let flow = self.flow(cx, stream, Side::Server);
        cx.note(format_args!("accepts {flow}"));
        cx.oracle.accepted(flow);
        let reading = cx.oracle.asked(flow).unwrap_or_else(|| self.reading(cx));
        if reading.never {
            cx.trace.count("reader that never reads");
        }
        let mut reader = Reader::new(flow, reading);
        if self.lost {
            reader.hurry(); // it came together with the session's end, of which nobody will be told again
        }
        self.readers.insert(stream, reader);
        if stream.dir() == Dir::Bi {
            // Its own half is not used: ended at once.
            let own = self.flow(cx, stream, Side::Client);
            cx.oracle.opened(own);
            self.writers.insert(stream, Writer::new(own, 0, 1, WriterEnd::Finish));
        }
    }

    fn reading(&self, cx: &mut Cx<'_>) -> Reading {
        if self.plan.readings.is_empty() { Reading::default() } else { cx.dice.pick(&self.plan.readings) }
    }

    /// Stops what it reads and resets what it writes.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        for reader in self.readers.values_mut() {
            reader.stop(cx, session, GIVEN_UP);
        }
        for writer in self.writers.values_mut() {
            writer.reset(cx, session);
        }
        self.readers.clear();
        self.writers.clear();
    }

    pub(super) fn forget(&mut self) {
        self.lost = true;
        self.readers.clear();
        self.writers.clear();
    }

    pub(super) fn reads(&self) -> bool {
        !self.readers.is_empty()
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let readers = self.readers.values().fold(None, |at, reader| sooner(at, reader.wake_at()));
        if self.lost {
            return readers;
        }
        if !self.connected {
            return None;
        }
        let next = self.unopened.last().filter(|plan| !self.no_slot.contains_key(&plan.dir));
        let close = self.plan.close_at.filter(|_| !self.closing);
        sooner(sooner(readers, next.map(|plan| plan.at)), close)
    }

    pub(super) fn is_done(&self, oracle: &Oracle) -> bool {
        let read = self.readers.values().all(|reader| oracle.is_left(&reader.flow()));
        let written = self.writers.values().all(|writer| oracle.is_left(&writer.flow()));
        read && (self.lost || (written && self.unopened.is_empty()))
    }
}
