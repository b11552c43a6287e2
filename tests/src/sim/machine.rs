//! One machine that keeps to the rules: a core endpoint, its sessions and the application above them.
//!
//! It polls as the core's documentation says and holds the core to what that documentation promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use bytes::BytesMut;
use kwik_core::{ClientConfig, DatagramEvent, Ecn, Effort, Endpoint, Session, SessionHandle, Transmit};

use super::{
    NodeId,
    app::{App, Cx, GOODBYE, Interruption},
    heap,
};

/// A datagram that has arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Address that it says it comes from.
    pub from: SocketAddr,
    /// Machine that sent it, and the session it is for; `None` if it was forged.
    pub by: Option<(NodeId, u32)>,
    /// Its ECN bits.
    pub ecn: Option<Ecn>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A datagram on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Address to send to.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its ECN bits.
    pub ecn: Option<Ecn>,
}

/// Limits of a machine's socket in one turn.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Set if it takes anything at all.
    pub open: bool,
    /// Datagrams per batch, at most.
    pub batch: usize,
}

/// An honest machine.
#[derive(Debug)]
pub struct Machine {
    endpoint: Endpoint,
    /// Boxed: a map of few keeps room for eleven.
    sessions: BTreeMap<SessionHandle, Box<Slot>>,
    app: App,
    touched: BTreeSet<SessionHandle>,
    /// Timers fire in the next turn, due or not.
    early: bool,
    /// Work that sessions that are gone had been made to do.
    efforts: Vec<(Option<NodeId>, Effort)>,
    buf: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    session: Session,
    /// Machine that began it, and which of its sessions it is there; of a server's sessions only.
    client: Option<(NodeId, u32)>,
    deadline: Option<Instant>,
}

impl Slot {
    /// Interrupts what goes on in the session. Returns whether the session is to be dropped.
    fn interrupt(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, app: &mut App) -> bool {
        let by = cx.calls.take();
        cx.note(format_args!("is interrupted: {by:?}"));
        match by {
            None => {}
            Some(Interruption::Close) => {
                self.session.close(cx.now, GOODBYE, b"").expect("the code is the application's");
            }
            Some(Interruption::GiveUp) => app.give_up(cx, handle, &mut self.session),
            Some(Interruption::Drop) => return true,
        }
        false
    }

    /// Asks for a train, if the socket takes one.
    fn transmit(&mut self, now: Instant, socket: Socket, buf: &mut Vec<u8>) -> Option<Transmit> {
        if socket.open { self.session.poll_transmit(now, socket.batch, buf) } else { None }
    }
}

/// Rounds in a row in which a timer is due at once and nothing comes of it.
const EMPTY_MAX: usize = 2;
/// Rounds that one session may want at one instant before it is called a busy loop.
const ROUNDS_MAX: usize = 1000;

impl Machine {
    /// Creates a machine.
    #[must_use]
    pub fn new(endpoint: Endpoint, app: App) -> Self {
        Self {
            endpoint,
            sessions: BTreeMap::new(),
            app,
            touched: BTreeSet::new(),
            early: false,
            efforts: Vec::new(),
            buf: Vec::new(),
        }
    }

    /// Starts a session.
    pub fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> SessionHandle {
        let (handle, session) =
            self.endpoint.connect(now, config, to, name).expect("the name and the address are usable");
        let slot = Slot { session, client: None, deadline: Some(now) };
        self.sessions.insert(handle, Box::new(slot));
        self.touched.insert(handle);
        handle
    }

    /// Returns the sessions of the machine, oldest first.
    pub fn sessions(&mut self) -> impl Iterator<Item = (SessionHandle, &mut Session)> {
        self.sessions.iter_mut().map(|(&handle, slot)| (handle, &mut slot.session))
    }

    /// Returns what its peers made a session do: a server's with `client`, or a client's own, even if it is over.
    #[must_use]
    pub fn effort(&self, client: Option<NodeId>) -> Option<Effort> {
        let mut live = self.sessions.values();
        let live = live.find(|slot| slot.client.map(|(client, _)| client) == client);
        let live = live.map(|slot| slot.session.effort());
        live.or_else(|| self.efforts.iter().find(|(of, _)| *of == client).map(|(_, effort)| *effort))
    }

    /// Bytes of the buffer for what is sent, which is the machine's and no session's.
    #[must_use]
    pub fn scratch(&self) -> i64 {
        i64::try_from(self.buf.capacity()).unwrap_or(i64::MAX)
    }

    /// Returns what runs on the machine.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Returns what runs on the machine.
    pub fn app_mut(&mut self) -> &mut App {
        &mut self.app
    }

    /// Says that something was done to a session from outside.
    pub fn touch(&mut self, handle: SessionHandle) {
        self.touched.insert(handle);
    }

    /// Says that something was done to all sessions from outside.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.sessions.keys());
    }

    /// Lets all timers fire in the next turn, before they are due.
    pub fn wake_early(&mut self) {
        self.early = true;
    }

    /// Takes a datagram.
    pub fn handle(&mut self, cx: &mut Cx<'_>, arrival: &Arrival, out: &mut Vec<Outgoing>) {
        self.buf.clear();
        let bytes = BytesMut::from(arrival.bytes.as_slice());
        match self.endpoint.handle(cx.now, arrival.from, None, arrival.ecn, bytes, &mut self.buf) {
            None => cx.trace.count("datagram ignored"),
            Some(DatagramEvent::Session(handle, event)) => {
                if let Some(slot) = self.sessions.get_mut(&handle) {
                    slot.session.handle_event(cx.now, cx.unix, event);
                    self.touched.insert(handle);
                }
            }
            Some(DatagramEvent::Incoming(incoming)) => {
                match self.endpoint.accept(cx.now, incoming, &mut self.buf) {
                    Ok((handle, session)) => {
                        let slot = Slot { session, client: arrival.by, deadline: None };
                        self.sessions.insert(handle, Box::new(slot));
                        self.touched.insert(handle);
                    }
                    Err(error) => {
                        cx.trace.count("client not accepted");
                        if let Some(response) = error.response {
                            split(&response, &self.buf, out);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(response)) => {
                cx.trace.count("endpoint answered");
                split(&response, &self.buf, out);
            }
            Some(_) => panic!("the endpoint did something that this machine does not know"),
        }
    }

    /// Does all that is to be done now: due timers, what sessions want, what the application wants.
    pub fn turn(&mut self, cx: &mut Cx<'_>, socket: Socket, out: &mut Vec<Outgoing>) {
        let early = std::mem::take(&mut self.early);
        for (&handle, slot) in &mut self.sessions {
            let due = early || slot.deadline.is_some_and(|at| at <= cx.now);
            if due {
                slot.session.handle_timeout(cx.now);
            }
            if due || self.app.wake_at(handle).is_some_and(|at| at <= cx.at) {
                self.touched.insert(handle);
            }
        }
        while let Some(handle) = self.touched.pop_first() {
            self.settle(cx, handle, socket, out);
        }
    }

    /// Works off one session until it wants nothing more.
    fn settle(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, socket: Socket, out: &mut Vec<Outgoing>) {
        let Some(slot) = self.sessions.get_mut(&handle) else {
            return;
        };
        // A server's session is about the client it is with. Where that sends from may have been another's before.
        cx.client = slot.client;
        cx.trace.about(if cx.node.is_client() {
            Some(cx.node)
        } else {
            slot.client.map(|(client, _)| client)
        });
        let (mut rounds, mut empty) = (0, 0);
        loop {
            let mut idle = true;
            let calls = cx.calls.count();
            while let Some(event) = slot.session.poll_endpoint_event() {
                idle = false;
                if let Some(answer) = self.endpoint.handle_session_event(cx.now, handle, event) {
                    slot.session.handle_event(cx.now, cx.unix, answer);
                }
            }
            while let Some(question) = slot.session.poll_question() {
                idle = false;
                slot.session.handle_answer(cx.now, question.answer(cx.unix));
            }
            self.buf.clear();
            while let Some(transmit) = slot.transmit(cx.now, socket, &mut self.buf) {
                idle = false;
                split(&transmit, &self.buf, out);
                self.buf.clear();
            }
            while let Some(event) = slot.session.poll_event() {
                idle = false;
                self.app.event(cx, handle, &mut slot.session, &event);
            }
            self.app.turn(cx, handle, &mut slot.session);
            if cx.is_interrupted() && slot.interrupt(cx, handle, &mut self.app) {
                // Gone without a word, as a process that is killed.
                self.endpoint.forget(handle);
                self.app.forget(handle);
                self.sessions.remove(&handle);
                return;
            }
            let due = slot.session.poll_timeout().is_some_and(|at| at <= cx.now);
            empty = if idle && due && cx.calls.count() == calls { empty + 1 } else { 0 };
            assert!(empty <= EMPTY_MAX || !socket.open, "12: {} wakes for nothing at {:?}", cx.node, cx.at);
            if due && socket.open {
                slot.session.handle_timeout(cx.now);
            } else if idle {
                break;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "12: {} does not come to rest at {:?}", cx.node, cx.at);
        }
        if let Err(contradiction) = slot.session.audit() {
            panic!("{contradiction}");
        }
        slot.deadline = slot.session.poll_timeout();
        // What has arrived stays readable for as long as somebody reads.
        if slot.session.is_drained() && !self.app.reads() {
            let pauses = slot.session.stats().control_pauses;
            let fair = pauses == 0 || !cx.oracle.is_all_honest();
            assert!(fair, "17: {} left an honest peer's control unread {pauses} times", cx.node);
            cx.note(format_args!("session is drained"));
            let (client, effort) = (slot.client.map(|(client, _)| client), slot.session.effort());
            heap::uncounted(|| self.efforts.push((client, effort)));
            self.app.forget(handle);
            self.sessions.remove(&handle);
        }
        cx.trace.about(None);
    }

    /// Instants at which the machine wants a turn: by its own clock, and by the world's.
    pub fn deadlines(&self) -> (Option<Instant>, Option<std::time::Duration>) {
        let sessions = self.sessions.values().filter_map(|slot| slot.deadline).min();
        let app = self.sessions.keys().filter_map(|&handle| self.app.wake_at(handle)).min();
        (sessions, app)
    }

    /// Returns how many sessions are left, as the machine and as its endpoint count.
    #[must_use]
    pub fn left(&self) -> (usize, usize) {
        (self.sessions.len(), self.endpoint.sessions())
    }
}

/// Cuts a train into datagrams.
fn split(transmit: &Transmit, buf: &[u8], out: &mut Vec<Outgoing>) {
    let train = buf.get(..transmit.size).expect("the core says how much it wrote");
    heap::uncounted(|| {
        for datagram in train.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
            out.push(Outgoing { to: transmit.destination, bytes: datagram.to_vec(), ecn: transmit.ecn });
        }
    });
}
