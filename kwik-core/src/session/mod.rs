//! One session: the connections it owns, the machine of its role, and the order in which facts become decisions.
//!
//! `Session` is glue. It turns what QUIC reports into facts for a role machine ([`client`], [`primary`],
//! [`secondary`]), and carries out the actions the machine answers with. Bytes of streams that were never split pass
//! by the machines untouched (DESIGN I4). Facts are only noted when they arrive; they are worked off together, once
//! per batch, at the next poll.

mod action;
mod arrivals;
mod client;
mod connection;
mod dials;
mod effort;
mod events;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod hello;
mod home;
mod internal;
mod kinds;
mod link;
mod links;
#[cfg(feature = "qlog")]
mod log;
mod native;
mod observe;
mod price;
mod primary;
mod question;
mod relays;
mod secondary;
mod servers;
mod settle;
mod streams;
mod subject;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

#[cfg(any(test, fuzzing, feature = "audit"))]
pub use self::effort::Effort;
use self::{
    client::Client, events::EventQueue, hello::Greeting, link::Link, links::Links, primary::Primary,
    secondary::Secondary, subject::path_span,
};
#[cfg(any(test, fuzzing))]
pub use self::{
    client::client_ops, fuzzing::session_datagram, hello::hello, primary::primary_ops,
    secondary::secondary_ops,
};
pub use self::{
    primary::{NewJob, NewLease, NewPath},
    question::{Answer, Question},
};
pub use crate::quic::Written;
use crate::{
    action::{Event, Relay, Transmit},
    config::{ClientConfig, ServerConfig, TransportConfig},
    endpoint::{EndpointEvent, SessionEvent, SessionEventInner},
    error::{ApiMisuse, ApplicationClose, ConnectionError, ErrorCode, PeerFault},
    id::{Attempt, LinkId, PathId, Role, SessionId, StreamId},
    limits,
    path::watch::Watch,
    quic::{self, native_streams},
    rng::Rng,
    timer::{Wall, earliest},
};

/// Results of the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandshakeData {
    /// The application protocol both ends named, if both named any; carried in the hello.
    pub protocol: Option<Bytes>,
    /// The name the client asked for (servers only).
    pub server_name: Option<String>,
}

/// The state machine of one role.
#[derive(Debug)]
enum Machine {
    Greeting(Greeting),
    /// Boxed, as the next: a server of many sessions should not pay for what it is not.
    Client(Box<Client>),
    Primary(Box<Primary>),
    Secondary(Secondary),
}

/// The path to the primary on a client, and the only path on a server.
const HOME: PathId = PathId::PRIMARY;
/// TLS exporter label of the attach proof. Spec: PROTOCOL §9.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-kwik/1 attach";

/// One session, on a client or on a server. Owns no clock, socket or randomness of its own.
///
/// # Driving it
/// Facts (`handle_*`) never fail; whoever owns the session repeats, for as long as it is not [drained](Self::is_drained):
/// 1. Take what has arrived: each [`DatagramEvent::Session`](crate::DatagramEvent::Session) goes to [`Self::handle_event`].
/// 2. If [`Self::poll_timeout`] has come, [`Self::handle_timeout`]. Before it, ask [`Self::is_verdict_due`]: if it says so, a
///    peer may be found silent, and step 1 must have left nothing in the socket or in queues since the deadline came. After a
///    stall everything is late at once, and a loop that runs timers first gives up peers whose datagrams it has not read.
/// 3. Poll until none of these has anything more: [`Self::poll_endpoint_event`], whose answer from
///    [`Endpoint::handle_session_event`](crate::Endpoint::handle_session_event) comes back by `handle_event` before anything
///    else; [`Self::poll_question`], whose answer goes to [`Self::handle_answer`]; [`Self::poll_transmit`], while the socket
///    takes datagrams; [`Self::poll_event`], whose news the application may answer with commands.
/// 4. Sleep until [`Self::poll_timeout`], a datagram, a command, or, if the socket was full, until it has room.
///
/// Step 3 is due after every fact, every command and every read: reading gives credit back. A command that comes while the
/// loop sleeps wakes it; [`Self::wants_transmit`] says whether that is worth it. Times never go back; `now` may stay the same.
/// The example `blocking` is such a loop, in 150 lines; feature `driver` is the one of the adapters.
pub struct Session {
    links: Links,
    machine: Machine,
    /// On clients. Boxed: a server of many sessions should not pay for it.
    client: Option<Box<ClientSide>>,
    transport: Arc<TransportConfig>,
    /// The latest instant that was passed in.
    now: Instant,
    /// Wall time of the latest datagram: frames come in datagrams.
    wall: Wall,
    /// Opened by the peer, not accepted by the application.
    accepts_bi: VecDeque<StreamId>,
    accepts_uni: VecDeque<StreamId>,
    /// Streams of the peer that QUIC has told of so far, by direction.
    seen_bi: u64,
    seen_uni: u64,
    /// Streams the peer may have open at once, per direction.
    permitted: u64,
    /// Unidirectional streams that the peer may have open beyond that, for what it writes into split streams.
    run_slots: usize,
    /// And how many for messages, once it has sent one.
    relay_slots: usize,
    /// Opened at QUIC, so that the application does not take them from what this server writes into split streams.
    spare: VecDeque<StreamId>,
    /// Told to writers that found no stream slot, once there is one.
    slot_waiters: BTreeSet<Event>,
    /// Told to writers that found control waiting ahead of them, once it has gone.
    control_waiters: BTreeSet<Event>,
    /// For the application's own code, and what must not be said before it has answered.
    questions: VecDeque<Question>,
    outbox: question::Outbox,
    events: EventQueue,
    endpoint_events: VecDeque<EndpointEvent>,
    lost: Option<ConnectionError>,
    app_protocol: Option<Bytes>,
    /// Instant at which frames that were left unread for coming too fast are read on, and relays that wait for their rate go.
    resume_at: Option<Instant>,
    /// Messages of other servers that the application has not taken, and what they count for.
    relayed: VecDeque<Relay>,
    relayed_bytes: u64,
    /// Messages between servers that were not taken, or not passed on.
    relays_refused: u64,
    /// Facts or commands wait to be worked off.
    unsettled: bool,
    /// The path that sent last, so that all get their turn.
    sent_last: PathId,
    observed: observe::Observed,
    span: tracing::Span,
    #[cfg(feature = "qlog")]
    started: Instant,
    #[cfg(feature = "qlog")]
    log: Option<Box<log::Log>>,
}

/// Parts of a session that only clients have.
struct ClientSide {
    config: ClientConfig,
    /// Connections to further servers that are being made, or were not taken.
    dialled: BTreeMap<LinkId, Box<Link>>,
    /// Quiet on the path to the primary, and when that is asked for a sign of life.
    watch: Watch,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.session_id())
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn client(now: Instant, rng: Rng, config: ClientConfig, connection: quic::Connection) -> Self {
        let machine = Machine::Client(Box::new(Client::new(now, rng, &config)));
        let transport = config.transport.clone();
        let start = transport.streams_start.unwrap_or(limits::CLIENT_STREAMS_START);
        let permitted = native_streams(&transport, start).0;
        let client = ClientSide { config, dialled: BTreeMap::new(), watch: Watch::new(now) };
        Self::new(now, machine, Some(Box::new(client)), transport, permitted, connection)
    }

    pub(crate) fn server(
        now: Instant,
        rng: Rng,
        config: Arc<ServerConfig>,
        connection: quic::Connection,
    ) -> Self {
        let transport = config.transport.clone();
        let machine = Machine::Greeting(Greeting::new(now, rng, config));
        Self::new(now, machine, None, transport, 0, connection)
    }

    fn new(
        now: Instant,
        machine: Machine,
        client: Option<Box<ClientSide>>,
        transport: Arc<TransportConfig>,
        permitted: u64,
        connection: quic::Connection,
    ) -> Self {
        let remote = connection.remote_address();
        Self {
            links: Links::new(Link::new(now, connection, Attempt::FIRST)),
            machine,
            client,
            transport,
            now,
            wall: Wall::new(now, Duration::ZERO),
            accepts_bi: VecDeque::new(),
            accepts_uni: VecDeque::new(),
            seen_bi: 0,
            seen_uni: 0,
            permitted,
            run_slots: 0,
            relay_slots: 0,
            spare: VecDeque::new(),
            slot_waiters: BTreeSet::new(),
            control_waiters: BTreeSet::new(),
            questions: VecDeque::new(),
            outbox: question::Outbox::default(),
            events: EventQueue::default(),
            endpoint_events: VecDeque::new(),
            lost: None,
            app_protocol: None,
            resume_at: None,
            relayed: VecDeque::new(),
            relayed_bytes: 0,
            relays_refused: 0,
            unsettled: true,
            sent_last: HOME,
            observed: observe::Observed::default(),
            span: subject::session_span(remote),
            #[cfg(feature = "qlog")]
            started: now,
            #[cfg(feature = "qlog")]
            log: None,
        }
    }

    // Facts.

    /// Takes a datagram, or an answer of the endpoint.
    ///
    /// `unix_now` is the wall clock at `now`, since the Unix epoch: a secondary judges by it whether what the datagram brings
    /// has expired. It is read anew for each call or batch of calls, since wall clocks are set while programs run, and go on
    /// while a machine sleeps.
    pub fn handle_event(&mut self, now: Instant, unix_now: Duration, event: SessionEvent) {
        let _session = self.enter();
        self.touch(now);
        self.wall = Wall::new(now, unix_now);
        match event.0 {
            SessionEventInner::Quic(id, event) => {
                let _path = path_span(&self.machine, id.path);
                if let Some(link) = self.link_mut(id) {
                    link.quic.handle_event(event);
                }
            }
            SessionEventInner::Dialled(id, dialled) => self.on_dialled(id, dialled),
            SessionEventInner::Nonce(taken) => self.on_nonce(taken),
        }
    }

    /// Runs what is due at `now`. Early or repeated calls do nothing.
    ///
    /// Whoever has been away for a while must hand over the datagrams that came meanwhile first, or a peer may be taken
    /// for silent that is not; [`Self::is_verdict_due`] tells when that matters.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _session = self.enter();
        self.touch(now);
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            for (_, link) in self.links.iter_mut() {
                link.control_ready |= std::mem::take(&mut link.control_paused);
            }
        }
        // What arrived goes first: a path heard in this very batch is not silent.
        self.settle();
        for (path, link) in self.links.iter_mut() {
            if link.is_due(now) && !std::mem::take(&mut link.reprieved) {
                let _path = path_span(&self.machine, path);
                link.quic.handle_timeout(now);
            }
        }
        for link in dialled_mut(&mut self.client).map(|(_, link)| link) {
            if link.is_due(now) {
                link.quic.handle_timeout(now);
            }
        }
        self.unsettled = true;
        self.settle();
        match &mut self.machine {
            Machine::Client(client) => client.handle_timeout(now),
            Machine::Greeting(greeting) if greeting.deadline() <= now && self.lost.is_none() => {
                self.close_for(PeerFault::HelloLate);
            }
            Machine::Primary(primary) if self.lost.is_none() => primary.handle_timeout(now),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => {}
        }
        self.watch_home(now);
        self.unsettled = true;
    }

    /// Returns whether [`Self::handle_timeout`] may find a peer silent or gone at `now`: then nothing that it has sent
    /// should still be waiting anywhere on this machine. Other deadlines cost nothing if they run too early.
    pub fn is_verdict_due(&mut self, now: Instant) -> bool {
        self.settle();
        let machine = match &self.machine {
            Machine::Client(client) => client.deadline(),
            Machine::Greeting(greeting) => Some(greeting.deadline()).filter(|_| self.lost.is_none()),
            Machine::Primary(_) | Machine::Secondary(_) => None,
        };
        machine.is_some_and(|at| at <= now) || self.links.iter_mut().any(|(_, link)| link.is_verdict_due(now))
    }

    // Wants.

    /// Returns what to hand to [`crate::Endpoint::handle_session_event`], whose answer comes back as a fact.
    pub fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.settle();
        let event = self.endpoint_events.pop_front();
        if event.is_none() && self.endpoint_events.capacity() > 0 {
            self.endpoint_events = VecDeque::new(); // they are rare, and an idle session keeps no room for them
        }
        event
    }

    /// Appends up to `max_datagrams` datagrams for one destination to `buf` and returns how to send them.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let _session = self.enter();
        self.now = self.now.max(now);
        self.settle();
        for (id, link) in dialled_mut(&mut self.client) {
            let _path = path_span(&self.machine, id.path);
            if let Some(transmit) = link.quic.poll_transmit(now, max_datagrams, buf) {
                return Some(transmit);
            }
        }
        let first = self.links.after(self.sent_last).unwrap_or(HOME);
        let mut path = first;
        loop {
            let _path = path_span(&self.machine, path);
            let transmit =
                self.links.get_mut(path).and_then(|link| link.quic.poll_transmit(now, max_datagrams, buf));
            if transmit.is_some() {
                self.sent_last = path;
                self.unsettled = true; // sending may make room that somebody waits for
                return transmit;
            }
            path = self.links.after(path).unwrap_or(HOME);
            if path == first {
                return None;
            }
        }
    }

    /// Returns the next news for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.settle();
        self.events.pop()
    }

    /// Returns when `handle_timeout` is due; the latest known instant if anything waits to be polled.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.unsettled
            || !self.events.is_empty()
            || !self.endpoint_events.is_empty()
            || !self.questions.is_empty()
        {
            return Some(self.now);
        }
        let taken = self.links.iter_mut().map(|(_, link)| link);
        let live =
            taken.chain(dialled_mut(&mut self.client).map(|(_, link)| link)).filter(|link| !link.drained);
        let links = live.fold(None, |at, link| earliest(at, link.quic.poll_timeout()));
        let machine = match &self.machine {
            Machine::Client(client) => client.deadline(),
            Machine::Greeting(greeting) if self.lost.is_none() => Some(greeting.deadline()),
            Machine::Primary(primary) => primary.deadline().filter(|_| self.lost.is_none()),
            Machine::Greeting(_) | Machine::Secondary(_) => None,
        };
        earliest(earliest(links, machine), earliest(self.resume_at, self.watch_at()))
    }

    /// Returns whether nothing will ever be wanted again: the session can be dropped.
    pub fn is_drained(&self) -> bool {
        self.links.iter().all(|(_, link)| link.drained)
            && self.client.as_ref().is_none_or(|client| client.dialled.is_empty())
            && self.endpoint_events.is_empty()
    }

    // What can be asked.

    /// Returns the role of this end; a server learns it with [`Event::Connected`].
    pub fn role(&self) -> Option<Role> {
        match self.machine {
            Machine::Client(_) => Some(Role::Client),
            Machine::Primary(_) => Some(Role::Primary),
            Machine::Secondary(_) => Some(Role::Secondary),
            Machine::Greeting(_) => None,
        }
    }

    /// Returns the name of the session; a client learns it from the primary's hello.
    pub fn session_id(&self) -> Option<SessionId> {
        match &self.machine {
            Machine::Client(client) => client.session(),
            Machine::Primary(primary) => Some(primary.session()),
            Machine::Secondary(secondary) => Some(secondary.session()),
            Machine::Greeting(_) => None,
        }
    }

    /// Returns why the session is over, once it is.
    pub fn lost(&self) -> Option<&ConnectionError> {
        self.lost.as_ref()
    }

    /// Returns whether something waits to be sent, or to be polled for, that a command or a read has made, as far as that is
    /// known without asking QUIC.
    pub fn wants_transmit(&self) -> bool {
        self.links.iter().any(|(_, link)| link.is_backlogged() || link.quic.wants_transmit())
            || matches!(&self.machine, Machine::Client(client) if client.wants_settling())
            || !self.endpoint_events.is_empty()
            || !self.questions.is_empty()
            || !self.events.is_empty()
    }

    /// Bytes of datagrams that may wait to be handled: what honest peers may have under way.
    #[cfg(feature = "driver")]
    pub(crate) fn receive_max(&self) -> usize {
        self.transport.receive_max(self.client.is_some())
    }

    /// Returns the address of the peer: on a client, of the primary.
    pub fn remote_address(&self) -> SocketAddr {
        self.links.home.quic.remote_address()
    }

    /// Returns the local address the peer sends to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.links.home.quic.local_ip()
    }

    /// Returns the round-trip time to the peer: on a client, to the primary.
    pub fn rtt(&self) -> Duration {
        self.links.home.quic.rtt()
    }

    /// Returns what the handshake agreed on, once it has.
    pub fn handshake_data(&self) -> Option<HandshakeData> {
        let (_, server_name) = self.links.home.quic.handshake_data()?;
        Some(HandshakeData { protocol: self.app_protocol.clone(), server_name })
    }

    /// Returns the peer's certificates, its own first.
    pub fn peer_identity(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.links.home.quic.peer_certificates()
    }

    /// Checks the session's own books, as simulators and soak tests do after every step (feature `audit`).
    ///
    /// # Errors
    /// - [`Contradiction`](crate::Contradiction) if two things the session believes cannot both be true: a bug in KWIK.
    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub fn audit(&self) -> Result<(), crate::Contradiction> {
        match &self.machine {
            Machine::Greeting(_) => Ok(()),
            Machine::Client(client) => client.audit(),
            Machine::Primary(primary) => primary.audit(),
            Machine::Secondary(secondary) => secondary.audit(),
        }
    }

    // Ending.

    /// Closes the session and all its paths with an application code. Undelivered bytes are given up, as in quinn.
    ///
    /// # Errors
    /// - [`ApiMisuse::ReservedCode`] if `code` is one of KWIK's.
    pub fn close(&mut self, now: Instant, code: ErrorCode, reason: &[u8]) -> Result<(), ApiMisuse> {
        code.check_own()?;
        let _session = self.enter();
        self.touch(now);
        self.close_with(code, reason, ConnectionError::LocallyClosed);
        Ok(())
    }

    /// Turns away a client whose role the application does not serve. Spec: PROTOCOL §4.6.
    pub fn refuse_role(&mut self, now: Instant) {
        self.touch(now);
        self.close_for(PeerFault::RoleNotServed);
    }

    /// Closes the session because the peer broke a rule.
    fn close_for(&mut self, fault: PeerFault) {
        self.close_with(fault.code(), fault.told().as_bytes(), ConnectionError::Fault(fault));
    }

    fn close_with(&mut self, code: ErrorCode, reason: &[u8], cause: ConnectionError) {
        if self.lost.is_some() {
            return;
        }
        self.close_links(code, reason);
        self.on_lost(cause);
    }

    /// The peer has said that it leaves, and why: its word, whatever it is, and no judgement of this end's.
    fn on_peer_left(&mut self, code: ErrorCode, reason: String) {
        if self.lost.is_some() {
            return;
        }
        self.close_links(ErrorCode::NO_ERROR, b"");
        let reason = Bytes::from(reason);
        self.on_lost(ConnectionError::ApplicationClosed(ApplicationClose { error_code: code, reason }));
    }

    fn close_links(&mut self, code: ErrorCode, reason: &[u8]) {
        for (path, link) in self.links.iter_mut() {
            // Who broke a rule is told so; a secondary has not, it has only lost its session's primary. Spec: PROTOCOL §8.8.
            let blameless = path != HOME && code.is_reserved();
            let (code, reason) = if blameless { (ErrorCode::PRIMARY_LOST, &[][..]) } else { (code, reason) };
            link.quic.close(self.now, code, Bytes::copy_from_slice(reason));
        }
        self.close_dialled(|_| true, ErrorCode::PRIMARY_LOST);
    }

    fn on_lost(&mut self, cause: ConnectionError) {
        if self.lost.is_some() {
            return;
        }
        #[cfg(feature = "qlog")]
        self.log(|log, now| log.on_lost(now, &cause));
        self.lost = Some(cause.clone());
        if let Machine::Client(client) = &mut self.machine {
            client.on_primary_lost(ErrorCode::PRIMARY_LOST);
        }
        self.questions.clear();
        self.events.push(Event::Lost(cause));
        self.unsettled = true;
    }
}

/// The connections to further servers that are not taken; none on servers.
fn dialled_mut(client: &mut Option<Box<ClientSide>>) -> impl Iterator<Item = (LinkId, &mut Link)> {
    client.iter_mut().flat_map(|client| &mut client.dialled).map(|(&id, link)| (id, link.as_mut()))
}

/// Code that the primary is told about a path that ended by itself.
fn server_code(cause: &ConnectionError) -> ErrorCode {
    if let ConnectionError::ApplicationClosed(close) = cause {
        close.error_code.said_by_server()
    } else {
        path_code(cause)
    }
}

/// Code that a server's application is told about the leases of a session that ended by itself.
fn path_code(cause: &ConnectionError) -> ErrorCode {
    match cause {
        // That it broke itself is the peer's to say, and not for others to repeat. Spec: PROTOCOL §1.6.
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. })
            if error_code.is_reserved() && *error_code != ErrorCode::INTERNAL =>
        {
            *error_code
        }
        ConnectionError::Fault(fault) => fault.code(),
        // The handshake failed: the certificate, or the protocol.
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => ErrorCode::AUTH_FAILED,
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted
        | ConnectionError::LocallyClosed
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::VersionMismatch => ErrorCode::PATH_DEAD,
    }
}

#[cfg(test)]
pub(crate) mod tests;
