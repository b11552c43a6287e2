//! One session: the connections it owns, the machine of its role, and the order in which facts become decisions.
//!
//! `Session` is glue. It turns what QUIC reports into facts for a role machine ([`client`], [`primary`],
//! [`secondary`]), and carries out the actions the machine answers with. Bytes of streams that were never split pass
//! by the machines untouched (DESIGN.md I4). Facts are only noted when they arrive; they are worked off together, once
//! per batch, at the next poll.

mod action;
mod client;
mod hello;
mod internal;
mod link;
mod primary;
mod secondary;
mod servers;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

pub use self::primary::{NewJob, NewPath};
use self::{
    action::Action,
    client::Client,
    hello::{Greeting, Welcome},
    internal::Outgoing,
    link::{ControlEnd, Link},
    primary::Primary,
    secondary::Secondary,
    streams::{RecvHalf, SendHalf},
};
pub use crate::quic::Written;
use crate::{
    action::{Event, Transmit},
    config::{ClientConfig, ServerConfig, TransportConfig},
    endpoint::{EndpointEvent, EndpointEventInner, SessionEvent, SessionEventInner},
    error::{ApiMisuse, ApplicationClose, ConnectionError, ErrorCode},
    id::{Dir, PathId, Role, SessionId, StreamId},
    lease::ticket,
    limits,
    quic::{self, native_streams},
    rng::Rng,
    stats::SessionStats,
    timer::{Wall, earliest},
    wire::Frame,
};

/// What the handshake agreed on.
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
    Client(Client),
    Primary(Primary),
    Secondary(Secondary),
}

/// The path to the primary on a client, and the only path on a server.
const HOME: PathId = PathId::PRIMARY;
/// TLS exporter label of the attach proof. Spec: KWIK §9.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-kwik/1 attach";

/// One session, on a client or on a server. Owns no clock, socket or randomness of its own.
///
/// Facts (`handle_*`) never fail. After any fact or command, poll in this order until each has nothing more:
/// `poll_endpoint_event`, `poll_transmit`, `poll_event`; then sleep until `poll_timeout`.
pub struct Session {
    links: BTreeMap<PathId, Link>,
    machine: Machine,
    /// Dials further paths; clients only.
    client: Option<ClientConfig>,
    transport: Arc<TransportConfig>,
    /// Where the peer was when the session began.
    remote: SocketAddr,
    /// The latest instant that was passed in.
    now: Instant,
    recv: BTreeMap<StreamId, RecvHalf>,
    send: BTreeMap<StreamId, SendHalf>,
    /// Opened by the peer, not accepted by the application.
    accepts_bi: VecDeque<StreamId>,
    accepts_uni: VecDeque<StreamId>,
    /// Bidirectional streams that a `Split` opened before QUIC did.
    early: BTreeSet<StreamId>,
    /// Streams of the peer that QUIC has told of so far, by direction.
    seen_bi: u64,
    seen_uni: u64,
    /// Split streams whose reader is done, but whose native FIN has not come.
    draining: BTreeSet<StreamId>,
    /// Streams the peer may have open at once, per direction.
    permitted: u64,
    outgoing: BTreeMap<StreamId, Outgoing>,
    /// Writers that found no stream slot, or control waiting ahead of them.
    blocked: Vec<Event>,
    events: VecDeque<Event>,
    endpoint_events: VecDeque<EndpointEvent>,
    lost: Option<ConnectionError>,
    app_protocol: Option<Bytes>,
    /// When the home connection was last heard, for keep-alives.
    home_heard: Instant,
    control_resume: Option<Instant>,
    /// Facts or commands wait to be worked off.
    unsettled: bool,
    /// The path that sent last, so that all get their turn.
    sent_last: PathId,
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
    pub(crate) fn client(
        now: Instant,
        wall: Wall,
        rng: Rng,
        config: ClientConfig,
        connection: quic::Connection,
    ) -> Self {
        let machine = Machine::Client(Client::new(now, wall, rng, &config, connection.remote_address()));
        let transport = config.transport.clone();
        let start = transport.streams_start.unwrap_or(limits::CLIENT_STREAMS_START);
        let permitted = native_streams(&transport, start).0;
        Self::new(now, machine, Some(config), transport, permitted, connection)
    }

    pub(crate) fn server(
        now: Instant,
        wall: Wall,
        rng: Rng,
        config: Arc<ServerConfig>,
        connection: quic::Connection,
    ) -> Self {
        let transport = config.transport.clone();
        let machine = Machine::Greeting(Greeting::new(now, wall, rng, config));
        Self::new(now, machine, None, transport, 0, connection)
    }

    fn new(
        now: Instant,
        machine: Machine,
        client: Option<ClientConfig>,
        transport: Arc<TransportConfig>,
        permitted: u64,
        connection: quic::Connection,
    ) -> Self {
        Self {
            remote: connection.remote_address(),
            links: BTreeMap::from([(HOME, Link::new(now, connection))]),
            machine,
            client,
            transport,
            now,
            recv: BTreeMap::new(),
            send: BTreeMap::new(),
            accepts_bi: VecDeque::new(),
            accepts_uni: VecDeque::new(),
            early: BTreeSet::new(),
            seen_bi: 0,
            seen_uni: 0,
            draining: BTreeSet::new(),
            permitted,
            outgoing: BTreeMap::new(),
            blocked: Vec::new(),
            events: VecDeque::new(),
            endpoint_events: VecDeque::new(),
            lost: None,
            app_protocol: None,
            home_heard: now,
            control_resume: None,
            unsettled: true,
            sent_last: HOME,
        }
    }

    // Facts.

    /// Takes a datagram, or an answer of the endpoint.
    pub fn handle_event(&mut self, now: Instant, event: SessionEvent) {
        self.touch(now);
        match event.0 {
            SessionEventInner::Quic(path, event) => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.quic.handle_event(event);
                }
            }
            SessionEventInner::Dialled(path, dialled) => self.on_dialled(path, dialled),
            SessionEventInner::Nonce(fresh) => self.on_nonce(fresh),
        }
    }

    /// Runs what is due at `now`. Early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.touch(now);
        for link in self.links.values_mut() {
            if link.quic.poll_timeout().is_some_and(|at| at <= now) {
                link.quic.handle_timeout(now);
            }
        }
        if self.control_resume.is_some_and(|at| at <= now) {
            self.control_resume = None;
            self.links.values_mut().for_each(|link| link.control_ready = true);
        }
        // What arrived goes first: a path heard in this very batch is not silent.
        self.settle();
        match &mut self.machine {
            Machine::Client(client) => client.handle_timeout(now),
            Machine::Greeting(greeting) if greeting.deadline() <= now && self.lost.is_none() => {
                self.close_with(ErrorCode::AUTH_TIMEOUT, b"no hello in time");
            }
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => {}
        }
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.home_heard = now;
            if let Some(home) = self.links.get_mut(&HOME) {
                home.quic.ping();
            }
        }
        self.unsettled = true;
    }

    // Wants.

    /// Returns what to hand to [`crate::Endpoint::handle_session_event`], whose answer comes back as a fact.
    pub fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.settle();
        self.endpoint_events.pop_front()
    }

    /// Appends up to `max_datagrams` datagrams for one destination to `buf` and returns how to send them.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.now = self.now.max(now);
        self.settle();
        let after = (Bound::Excluded(self.sent_last), Bound::Unbounded);
        let turn: smallvec::SmallVec<[PathId; 10]> = self
            .links
            .range(after)
            .chain(self.links.range(..=self.sent_last))
            .map(|(&path, _)| path)
            .collect();
        for path in turn {
            let Some(link) = self.links.get_mut(&path) else {
                continue;
            };
            if let Some(transmit) = link.quic.poll_transmit(now, max_datagrams, buf) {
                self.sent_last = path;
                return Some(transmit);
            }
        }
        None
    }

    /// Returns the next news for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.settle();
        self.events.pop_front()
    }

    /// Returns when `handle_timeout` is due; the latest known instant if anything waits to be polled.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.unsettled || !self.events.is_empty() || !self.endpoint_events.is_empty() {
            return Some(self.now);
        }
        let links = self
            .links
            .values_mut()
            .fold(None, |at, link| earliest(at, link.quic.poll_timeout()));
        let machine = match &self.machine {
            Machine::Client(client) => client.deadline(),
            Machine::Greeting(greeting) if self.lost.is_none() => Some(greeting.deadline()),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => None,
        };
        earliest(
            earliest(links, machine),
            earliest(self.control_resume, self.keep_alive_at()),
        )
    }

    /// Returns whether nothing will ever be wanted again: the session can be dropped.
    pub fn is_drained(&self) -> bool {
        self.links.is_empty() && self.endpoint_events.is_empty()
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

    /// Returns whether something waits to be sent that a command or a read has made, as far as that is known without
    /// asking QUIC.
    pub fn wants_transmit(&self) -> bool {
        let waits = |link: &Link| link.is_backlogged() || link.quic.wants_transmit();
        self.links.values().any(waits) || !self.endpoint_events.is_empty() || !self.events.is_empty()
    }

    /// Returns the address of the peer: on a client, of the primary.
    pub fn remote_address(&self) -> SocketAddr {
        self.links
            .get(&HOME)
            .map_or(self.remote, |home| home.quic.remote_address())
    }

    /// Returns the local address the peer sends to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.links.get(&HOME).and_then(|home| home.quic.local_ip())
    }

    /// Returns the round-trip time to the peer: on a client, to the primary.
    pub fn rtt(&self) -> Duration {
        self.links
            .get(&HOME)
            .map(|home| home.quic.rtt())
            .unwrap_or_default()
    }

    /// Returns what the handshake agreed on, once it has.
    pub fn handshake_data(&self) -> Option<HandshakeData> {
        let (_, server_name) = self.links.get(&HOME)?.quic.handshake_data()?;
        Some(HandshakeData {
            protocol: self.app_protocol.clone(),
            server_name,
        })
    }

    /// Returns the peer's certificates, its own first.
    pub fn peer_identity(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.links.get(&HOME)?.quic.peer_certificates()
    }

    /// Returns a snapshot of the session's counters.
    pub fn stats(&self) -> SessionStats {
        let mut stats = SessionStats {
            paths: self
                .links
                .iter()
                .map(|(&path, link)| (path, link.quic.stats()))
                .collect(),
            ..SessionStats::default()
        };
        match &self.machine {
            Machine::Client(client) => {
                stats.sources.clone_from(client.sources());
                (stats.held_bytes, stats.held_bytes_max) = client.held();
                stats.late_frames = client.late_frames();
            }
            Machine::Primary(primary) => stats.late_frames = primary.late_frames(),
            Machine::Secondary(secondary) => stats.late_frames = secondary.late_frames(),
            Machine::Greeting(_) => {}
        }
        stats
    }

    // Ending.

    /// Closes the session and all its paths with an application code. Undelivered bytes are given up, as in quinn.
    ///
    /// # Errors
    /// - [`ApiMisuse::ReservedCode`] if `code` is one of KWIK's.
    pub fn close(&mut self, now: Instant, code: ErrorCode, reason: &[u8]) -> Result<(), ApiMisuse> {
        if code.is_reserved() {
            return Err(ApiMisuse::ReservedCode);
        }
        self.touch(now);
        self.close_with(code, reason);
        Ok(())
    }

    /// Turns away a client whose role the application does not serve. Spec: KWIK §3.
    pub fn refuse_role(&mut self, now: Instant) {
        self.touch(now);
        self.close_with(ErrorCode::INVALID_STREAM_ROLE, b"");
    }

    fn close_with(&mut self, code: ErrorCode, reason: &[u8]) {
        if self.lost.is_some() {
            return;
        }
        for link in self.links.values_mut() {
            link.quic.close(self.now, code, Bytes::copy_from_slice(reason));
        }
        let cause = if code.is_reserved() {
            ConnectionError::Fault(code)
        } else {
            ConnectionError::LocallyClosed
        };
        self.on_lost(cause);
    }

    fn on_lost(&mut self, cause: ConnectionError) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(cause.clone());
        if let Machine::Client(client) = &mut self.machine {
            client.on_primary_lost(ErrorCode::PRIMARY_LOST);
        }
        self.events.push_back(Event::Lost(cause));
        self.unsettled = true;
    }

    // Working facts off.

    fn touch(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.unsettled = true;
    }

    /// Works off everything that was noted, once.
    fn settle(&mut self) {
        while std::mem::take(&mut self.unsettled) {
            let paths: smallvec::SmallVec<[PathId; 10]> = self.links.keys().copied().collect();
            for path in paths {
                self.drain_link(path);
            }
            if let Machine::Client(client) = &mut self.machine {
                client.settle(self.now);
            }
            self.drain_actions();
            self.flush_control();
        }
    }

    /// Hands what one connection reports to the machine.
    fn drain_link(&mut self, path: PathId) {
        loop {
            let Some(link) = self.links.get_mut(&path) else {
                return;
            };
            let Some(event) = link.quic.poll() else {
                break;
            };
            self.on_quic_event(path, event);
        }
        self.drain_heard(path);
        self.drain_control(path);
        self.drain_internal(path);
        self.drain_endpoint_events(path);
    }

    fn drain_endpoint_events(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(&path) else {
            return;
        };
        let key = link.quic.key();
        let mut drained = link.quic.is_drained();
        while let Some(event) = link.quic.poll_endpoint_event() {
            drained |= event.is_drained();
            self.endpoint_events
                .push_back(EndpointEvent(EndpointEventInner::Quic { path, key, event }));
        }
        if drained {
            self.links.remove(&path);
        }
    }

    /// Counts decrypted frames as life, and takes round-trip samples.
    fn drain_heard(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(&path) else {
            return;
        };
        let (frames, acks) = (link.quic.frames_heard(), link.quic.acks_heard());
        if frames == link.frames_heard {
            return;
        }
        link.frames_heard = frames;
        let fresh = acks != link.acks_heard;
        link.acks_heard = acks;
        let rtt = (fresh && !link.quic.is_handshaking()).then(|| link.quic.rtt());
        if path == HOME {
            self.home_heard = self.now;
        }
        if let Machine::Client(client) = &mut self.machine {
            client.on_heard(self.now, path, frames, rtt);
        }
    }

    fn on_quic_event(&mut self, path: PathId, event: quic::Event) {
        match event {
            quic::Event::Connected => self.on_connected(path),
            quic::Event::HandshakeDataReady if path == HOME => {
                self.events.push_back(Event::HandshakeDataReady)
            }
            quic::Event::Lost(cause) => self.on_link_lost(path, cause),
            quic::Event::Opened(dir) => self.on_opened(path, dir),
            quic::Event::Available(dir) => self.on_available(path, dir),
            quic::Event::Readable(stream) => self.on_readable(path, stream),
            quic::Event::Writable(stream) => self.on_writable(path, stream),
            quic::Event::Finished(stream) => self.on_finished(path, stream),
            quic::Event::Stopped(stream) => self.on_stopped(path, stream),
            quic::Event::DatagramReceived if self.serves_streams() => {
                self.events.push_back(Event::DatagramReceived)
            }
            quic::Event::DatagramsUnblocked if path == HOME => {
                self.events.push_back(Event::DatagramsUnblocked)
            }
            quic::Event::HandshakeDataReady
            | quic::Event::DatagramReceived
            | quic::Event::DatagramsUnblocked => {}
        }
    }

    /// Returns whether the application of this end has streams and datagrams at all.
    fn serves_streams(&self) -> bool {
        matches!(self.machine, Machine::Client(_) | Machine::Primary(_))
    }

    fn on_connected(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(&path) else {
            return;
        };
        let protocol = link.quic.handshake_data().and_then(|(protocol, _)| protocol);
        if protocol.as_deref() != Some(limits::ALPN) {
            self.fault(path, ErrorCode::VERSION);
            return;
        }
        let Machine::Client(client) = &mut self.machine else {
            return; // a server waits for the hello
        };
        link.open_control();
        if path == HOME {
            let sent = link.send(&client.hello());
            debug_assert_eq!(sent, Ok(()), "the first frame of a connection fits");
            self.events.push_back(Event::Connected);
        } else {
            let identity = link.quic.peer_certificates();
            let identity = identity
                .as_ref()
                .and_then(|chain| chain.first())
                .and_then(|own| ticket::spki_hash(own));
            let exporter = link.quic.exporter(EXPORTER_LABEL);
            client.on_path_handshake(self.now, path, identity, exporter);
        }
    }

    fn on_link_lost(&mut self, path: PathId, cause: ConnectionError) {
        if path == HOME {
            for (_, link) in self.links.iter_mut().filter(|(path, _)| **path != HOME) {
                link.quic.close(self.now, ErrorCode::PRIMARY_LOST, Bytes::new());
            }
            self.on_lost(cause);
        } else if let Machine::Client(client) = &mut self.machine {
            client.on_path_lost(self.now, path, path_code(&cause));
        }
    }

    fn on_dialled(&mut self, path: PathId, dialled: Result<quic::Connection, crate::error::ConnectError>) {
        let Machine::Client(client) = &mut self.machine else {
            return;
        };
        match dialled {
            Ok(connection) => {
                let mut link = Link::new(self.now, connection);
                if !client.is_live(path) {
                    link.quic.close(self.now, ErrorCode::NO_ERROR, Bytes::new());
                }
                self.links.insert(path, link);
            }
            Err(_) => client.on_path_lost(self.now, path, ErrorCode::DIAL_REFUSED),
        }
    }

    // Control.

    fn drain_control(&mut self, path: PathId) {
        loop {
            let Some(link) = self
                .links
                .get_mut(&path)
                .filter(|link| link.control_ready && !link.quic.is_closed())
            else {
                return;
            };
            match link.next_frame(self.now) {
                Ok(frame) => self.on_frame(path, frame),
                Err(ControlEnd::Blocked) => link.control_ready = false,
                Err(ControlEnd::Paused(at)) => {
                    link.control_ready = false;
                    self.control_resume = earliest(self.control_resume, Some(at));
                }
                Err(ControlEnd::Bad(error)) => {
                    link.control_ready = false;
                    self.fault(path, error.code());
                }
                Err(ControlEnd::Closed) => {
                    link.control_ready = false;
                    self.fault(path, ErrorCode::METADATA_PROTOCOL_VIOLATION);
                }
            }
        }
    }

    fn on_frame(&mut self, path: PathId, frame: Frame) {
        if matches!(
            frame,
            Frame::LeaseDone { .. } | Frame::LeaseLost { .. } | Frame::LeaseNotice { .. }
        ) {
            // Frames about leases pay for themselves: the primary asked for them. Spec: KWIK §11, control rate.
            if let Some(link) = self.links.get_mut(&path) {
                link.earn_frames(limits::CONTROL_PER_LEASE);
            }
        }
        let handled = match &mut self.machine {
            Machine::Client(client) => {
                if let (HOME, Frame::ServerHello(hello)) = (path, &frame) {
                    self.app_protocol.clone_from(&hello.app_protocol);
                }
                client.handle_frame(self.now, path, frame);
                Ok(())
            }
            Machine::Primary(primary) => primary.handle_frame(frame),
            Machine::Secondary(secondary) => secondary.handle_frame(self.now, frame),
            Machine::Greeting(_) => self.on_hello(frame),
        };
        if let Err(code) = handled {
            self.fault(path, code);
        }
        self.drain_actions();
    }

    fn on_hello(&mut self, frame: Frame) -> Result<(), ErrorCode> {
        let (Machine::Greeting(greeting), Some(home)) = (&mut self.machine, self.links.get_mut(&HOME)) else {
            return Ok(());
        };
        let Frame::ClientHello(hello) = frame else {
            return Err(ErrorCode::FRAME_UNEXPECTED);
        };
        match greeting.on_hello(self.now, hello, home.quic.exporter(EXPORTER_LABEL)) {
            Welcome::Refuse(code) => Err(code),
            Welcome::AskNonce { nonce, expires, now } => {
                let ask = EndpointEventInner::Nonce { nonce, expires, now };
                self.endpoint_events.push_back(EndpointEvent(ask));
                Ok(())
            }
            Welcome::Primary(primary, answer) => {
                self.app_protocol.clone_from(&answer.app_protocol);
                let start = self
                    .transport
                    .streams_start
                    .unwrap_or(limits::SERVER_STREAMS_START);
                self.machine = Machine::Primary(primary);
                self.permit_streams(start);
                self.greet(Frame::ServerHello(answer))
            }
        }
    }

    fn on_nonce(&mut self, fresh: bool) {
        let Machine::Greeting(greeting) = &mut self.machine else {
            return;
        };
        let welcomed = greeting.on_nonce(fresh).and_then(|(secondary, answer)| {
            self.machine = Machine::Secondary(secondary);
            if let Some(home) = self.links.get_mut(&HOME) {
                // The client sends nothing here but control.
                home.quic.set_receive_window(limits::CONTROL_WINDOW);
            }
            self.greet(Frame::ServerHello(answer))
        });
        if let Err(code) = welcomed {
            self.fault(HOME, code);
        }
    }

    /// Accepts the hello: says so, and lets the client's streams in.
    fn greet(&mut self, answer: Frame) -> Result<(), ErrorCode> {
        let home = self.links.get_mut(&HOME).ok_or(ErrorCode::PATH_DEAD)?;
        home.quic.set_priority(StreamId::CONTROL, i32::MAX);
        home.send(&answer)?;
        self.events.push_back(Event::Connected);
        self.on_opened(HOME, Dir::Bi);
        self.on_opened(HOME, Dir::Uni);
        Ok(())
    }

    /// Writes control ahead of everything else, and lets writers go on that waited for it.
    fn flush_control(&mut self) {
        for link in self.links.values_mut() {
            link.flush();
        }
        if self.links.get(&HOME).is_none_or(|home| !home.is_backlogged()) {
            self.unblock();
        }
    }

    /// A peer broke a rule: on a client a secondary loses its path; any other fault ends the session.
    fn fault(&mut self, path: PathId, code: ErrorCode) {
        if let (Machine::Client(client), false) = (&mut self.machine, path == HOME) {
            client.fault(self.now, path, code);
        } else {
            tracing::debug!(%code, "closing the session");
            self.close_with(code, b"");
        }
        self.unsettled = true;
    }

    fn drain_actions(&mut self) {
        loop {
            let action = match &mut self.machine {
                Machine::Client(client) => client.poll_action(),
                Machine::Primary(primary) => primary.poll_action(),
                Machine::Secondary(secondary) => secondary.poll_action(),
                Machine::Greeting(_) => None,
            };
            let Some(action) = action else {
                return;
            };
            if !matches!(action, Action::Notify(_)) {
                tracing::trace!(?action);
            }
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Notify(event) => self.notify(event),
            Action::Send { path, frame } => {
                if let Some(link) = self.links.get_mut(&path).filter(|link| !link.quic.is_closed())
                    && let Err(code) = link.send(&frame)
                {
                    self.fault(path, code);
                }
                self.unsettled = true;
            }
            Action::ClosePath { path, code } => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.quic.close(self.now, code, Bytes::new());
                }
                self.unsettled = true;
            }
            Action::CloseSession { code } => self.close_with(code, b""),
            Action::Dial {
                path,
                remote,
                server_name,
            } => self.dial(path, remote, server_name),
            Action::Ping { path } => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.quic.ping();
                }
            }
            Action::PermitUni { path, count } => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.quic.set_max_concurrent_streams(Dir::Uni, count);
                }
            }
            Action::FinishNative { stream } => self.finish_native(stream),
            Action::ResetNative { stream, code } => self.reset_native(stream, code),
            Action::ResetInternal { stream, code } => self.reset_internal(stream, code),
            Action::ResumeInternal { path, stream } => self.resume_internal(path, stream),
            Action::StopInternal { path, stream, code } => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.quic.stop(stream, code);
                }
            }
            Action::SplitOpened { stream } => self.on_split(stream),
        }
    }

    fn dial(&mut self, path: PathId, remote: SocketAddr, server_name: String) {
        let Some(client) = &self.client else {
            return;
        };
        let dial = quic::Dial {
            path,
            remote,
            server_name,
            tls: client.tls.clone(),
            transport: client.transport.clone(),
        };
        self.endpoint_events
            .push_back(EndpointEvent(EndpointEventInner::Dial(dial)));
    }

    /// Tells the application, and not twice in a row the same.
    fn notify(&mut self, event: Event) {
        if self.events.back() != Some(&event) {
            self.events.push_back(event);
        }
    }

    /// Permits the peer `count` streams per direction, and the connection window that goes with them.
    fn permit_streams(&mut self, count: u64) {
        let (streams, window) = native_streams(&self.transport, count);
        if streams <= self.permitted {
            return;
        }
        self.permitted = streams;
        if let Some(home) = self.links.get_mut(&HOME) {
            // One bidirectional stream more than the application may use: control.
            home.quic.set_max_concurrent_streams(Dir::Bi, streams + 1);
            home.quic.set_max_concurrent_streams(Dir::Uni, streams);
            home.quic.set_receive_window(window);
        }
    }

    /// The primary must be known to be there while leases live. Spec: KWIK §8.
    fn keep_alive_at(&self) -> Option<Instant> {
        let Machine::Client(client) = &self.machine else {
            return None;
        };
        let needed = client.needs_primary() && self.lost.is_none();
        needed.then(|| self.home_heard + self.transport.idle_timeout / 3)
    }
}

/// What the primary is told about a path that ended by itself.
fn path_code(cause: &ConnectionError) -> ErrorCode {
    match cause {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. })
            if error_code.is_reserved() =>
        {
            *error_code
        }
        ConnectionError::Fault(code) => *code,
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
mod tests;
