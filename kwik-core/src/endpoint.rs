//! Routes datagrams to sessions, accepts, dials. No protocol rule lives here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;

use crate::{
    action::{Ecn, Transmit},
    admission::{Admission, AdmissionStats, Guest, Verdict},
    config::{ClientConfig, EndpointConfig, ServerConfig},
    error::{ConfigError, ConnectError, ConnectionError, TransportError},
    id::{LinkId, PublicKey},
    lease::{
        nonces::{NonceError, Nonces},
        ticket::{Signer, SigningKey},
    },
    limits,
    quic::{self, ConnectionId, TransportErrorCode},
    rng::Rng,
    session::Session,
};

/// Names a session within its endpoint. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionHandle(u64);

/// The address families that a socket can send to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two families")]
pub enum Families {
    /// IPv4 and IPv6 ones.
    #[default]
    Both,
    /// IPv4 ones only.
    V4,
    /// IPv6 ones only.
    V6,
}

impl Families {
    /// Returns whether `address` is one of them.
    #[must_use]
    pub fn reach(self, address: SocketAddr) -> bool {
        match self {
            Self::Both => true,
            Self::V4 => address.ip().to_canonical().is_ipv4(),
            Self::V6 => address.ip().to_canonical().is_ipv6(),
        }
    }
}

/// Outcome of a datagram.
#[derive(Debug)]
#[non_exhaustive]
pub enum DatagramEvent {
    /// A client wants in.
    Incoming(Incoming),
    /// Nothing to route; send this answer.
    Response(Transmit),
    /// Hand it to this session.
    Session(SessionHandle, SessionEvent),
}

/// Something for a session: a datagram, or an answer of the endpoint.
#[derive(Debug)]
pub struct SessionEvent(pub(crate) SessionEventInner);

#[derive(Debug)]
pub(crate) enum SessionEventInner {
    /// Boxed: a connection is many kilobytes, and every datagram travels in one of these.
    Dialled(LinkId, Result<Box<quic::Connection>, ConnectError>),
    /// The answer about a ticket's nonce: taken if it was seen for the first time.
    Nonce(Result<(), NonceError>),
    Quic(LinkId, quic::ConnectionEvent),
}

/// Something a session asks its endpoint for.
#[derive(Debug)]
pub struct EndpointEvent(pub(crate) EndpointEventInner);

#[derive(Debug)]
pub(crate) enum EndpointEventInner {
    Dial(quic::Dial),
    Nonce {
        signer: PublicKey,
        nonce: [u8; 16],
        expires: u64,
        now: u64,
    },
    Quic {
        link: LinkId,
        key: usize,
        event: quic::EndpointEvent,
    },
    /// The client's hello is accepted: the session is half-open no longer.
    Welcomed,
}

/// A client at the door. Must be handed to [`Endpoint::accept`], `refuse`, `retry` or `ignore`.
#[derive(Debug)]
pub struct Incoming {
    quic: quic::Incoming,
    /// As it is counted until it is let in or turned away.
    guest: Guest,
}

impl Incoming {
    /// Returns where the client says it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Returns the local address the client sent to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.quic.local_ip()
    }

    /// Returns whether the client has proved that it receives at its address.
    pub fn remote_address_validated(&self) -> bool {
        self.quic.remote_address_validated()
    }

    /// Returns the destination id of the client's first packet.
    pub fn orig_dst_cid(&self) -> ConnectionId {
        self.quic.orig_dst_cid()
    }

    /// Returns whether [`Endpoint::retry`] may be used.
    pub fn may_retry(&self) -> bool {
        self.quic.may_retry()
    }
}

/// Refusal of a client at the door.
#[derive(Debug)]
#[non_exhaustive]
pub struct AcceptError {
    /// The reason.
    pub cause: ConnectionError,
    /// Answer to send the client, if any; its bytes are in the buffer given to `accept`.
    pub response: Option<Transmit>,
}

/// One UDP socket's worth of sessions. Owns none of them: it routes to them by [`SessionHandle`].
///
/// # Driving it
/// Every datagram of the socket goes to [`Self::handle`], which says whose it is. A client at the door is let in, turned away
/// or left without an answer; an answer of the endpoint's own is in the buffer that was given, and is sent as it is. What a
/// session asks for with [`Session::poll_endpoint_event`] goes to [`Self::handle_session_event`]. A session that is
/// [drained](Session::is_drained) is dropped and needs no goodbye here; one that is dropped before is
/// [forgotten](Self::forget). The endpoint has no timers of its own.
///
/// # Seeds
/// All that is random in it and in its sessions follows from the seed: connection ids, tokens, session ids, nonces. So it comes
/// from the operating system, for each endpoint anew; one that repeats, or that somebody else knows, makes them guessable.
/// Tests pass a constant and get the same decisions again. TLS has randomness of its own, from its provider.
#[derive(Debug)]
pub struct Endpoint {
    quic: quic::Endpoint,
    rng: Rng,
    clock: Arc<quic::TokenClock>,
    started: Instant,
    server: Option<Arc<ServerConfig>>,
    /// Signs for a primary that was given no key.
    own_key: Option<Arc<dyn Signer>>,
    nonces: Nonces,
    families: Families,
    /// Session and path of each QUIC connection.
    routes: BTreeMap<usize, (SessionHandle, LinkId)>,
    /// The connections of each session.
    owned: BTreeSet<(SessionHandle, usize)>,
    /// The clients whose hello is not accepted yet.
    guests: BTreeMap<SessionHandle, Guest>,
    admission: Admission,
    next_session: u64,
}

impl Endpoint {
    /// Creates an endpoint whose every random choice follows from `seed`, which must be secret and used once.
    ///
    /// `allow_mtud` says that the socket never lets IP fragment a datagram.
    ///
    /// # Errors
    /// - [`ConfigError`] if `server` cannot be used; see [`ServerConfig::check`].
    pub fn new(
        seed: [u8; 32],
        now: Instant,
        server: Option<ServerConfig>,
        allow_mtud: bool,
    ) -> Result<Self, ConfigError> {
        Self::with_config(EndpointConfig::default(), seed, now, server, allow_mtud)
    }

    /// Creates an endpoint as [`Self::new`] does, with settings for all its connections; a seed that they name is taken in
    /// place of `seed`.
    ///
    /// # Errors
    /// - As [`Self::new`].
    pub fn with_config(
        config: EndpointConfig,
        seed: [u8; 32],
        now: Instant,
        server: Option<ServerConfig>,
        allow_mtud: bool,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let mut rng = Rng::from_seed(config.rng_seed.unwrap_or(seed));
        let clock = Arc::new(quic::TokenClock::default());
        let reset_key = server.as_ref().and_then(|server| server.reset_key);
        let mut endpoint = Self {
            quic: quic::Endpoint::new(rng.fork("quic"), clock.clone(), allow_mtud, &config, reset_key),
            rng,
            clock,
            started: now,
            server: None,
            own_key: None,
            nonces: Nonces::default(),
            families: Families::default(),
            routes: BTreeMap::new(),
            owned: BTreeSet::new(),
            guests: BTreeMap::new(),
            admission: Admission::new(),
            next_session: 0,
        };
        endpoint.set_server_config(server)?;
        Ok(endpoint)
    }

    /// Replaces the server configuration for clients that arrive from now on; `None` stops accepting.
    ///
    /// # Errors
    /// - [`ConfigError`] if it cannot be used; the old one stays.
    pub fn set_server_config(&mut self, server: Option<ServerConfig>) -> Result<(), ConfigError> {
        self.replace_server_config(server).map(drop)
    }

    /// As [`Self::set_server_config`]; returns the old one, for whoever has to take care when it is dropped.
    pub(crate) fn replace_server_config(
        &mut self,
        server: Option<ServerConfig>,
    ) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
        let server = server.map(|server| self.with_role(server));
        let secondary = server.as_ref().and_then(|server| server.secondary.as_ref());
        if secondary.is_some_and(|secondary| secondary.primaries.len() > limits::PRIMARY_KEYS_MAX) {
            return Err(ConfigError::OutOfRange("trusted primaries"));
        }
        self.quic.set_server(server.as_ref())?;
        if let Some(server) = &server {
            self.admission.configure(server);
        }
        Ok(std::mem::replace(&mut self.server, server.map(Arc::new)))
    }

    /// Makes a server that names no role a plain primary, with a key of this endpoint's own.
    fn with_role(&mut self, server: ServerConfig) -> ServerConfig {
        if server.primary.is_some() || server.secondary.is_some() {
            return server;
        }
        let rng = &mut self.rng;
        let key =
            self.own_key.get_or_insert_with(|| Arc::new(SigningKey::from_seed(rng.fork("signer").bytes())));
        server.primary(key.clone())
    }

    /// Says which addresses the socket can send to, from now on; both families by default. Others are not dialled: a server
    /// that has several addresses is dialled at those that can be. Spec: PROTOCOL §8.
    pub fn set_families(&mut self, families: Families) {
        self.families = families;
    }

    /// Starts a connection.
    fn dial(&mut self, now: Instant, dial: quic::Dial) -> Result<quic::Connection, ConnectError> {
        if !self.families.reach(dial.remote) {
            return Err(ConnectError::InvalidRemoteAddress(dial.remote));
        }
        self.quic.dial(now, dial)
    }

    /// Routes one datagram. `buf` is appended to if the answer is a [`DatagramEvent::Response`].
    pub fn handle(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<Ecn>,
        data: BytesMut,
        buf: &mut Vec<u8>,
    ) -> Option<DatagramEvent> {
        self.clock.set(now.saturating_duration_since(self.started));
        match self.quic.handle(now, remote, local_ip, ecn, data, buf)? {
            quic::Datagram::Connection(key, event) => {
                // A session that was forgotten may still be sent to: nobody is there, nothing is wrong.
                let (session, link) = *self.routes.get(&key)?;
                Some(DatagramEvent::Session(session, SessionEvent(SessionEventInner::Quic(link, event))))
            }
            quic::Datagram::Incoming(incoming) => self.admit(incoming, buf),
            quic::Datagram::Response(transmit) => Some(DatagramEvent::Response(transmit)),
        }
    }

    /// Decides about a client before the application is asked. Spec: RATIONALE §11.
    fn admit(&mut self, incoming: quic::Incoming, buf: &mut Vec<u8>) -> Option<DatagramEvent> {
        let guest = Guest::new(incoming.remote_address(), incoming.remote_address_validated());
        match self.admission.arrive(guest) {
            Verdict::Admit => Some(DatagramEvent::Incoming(Incoming { quic: incoming, guest })),
            Verdict::Ignore => {
                self.quic.ignore(incoming);
                None
            }
            Verdict::Retry => match self.quic.retry(incoming, buf) {
                Ok(transmit) => Some(DatagramEvent::Response(transmit)),
                Err(proved) => {
                    debug_assert!(false, "only who has proved its address may not be asked to");
                    self.quic.ignore(proved);
                    None
                }
            },
        }
    }

    /// Starts a session with the primary at `remote`, whose certificate must be valid for `server_name`.
    ///
    /// # Errors
    /// One of [`ConnectError`]; nothing has been sent then. [`ConnectError::Config`] if the settings cannot be used: see
    /// [`TransportConfig::check`](crate::TransportConfig::check).
    pub fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<(SessionHandle, Session), ConnectError> {
        config.check()?;
        let dial = quic::Dial {
            link: LinkId::HOME,
            remote,
            server_name: server_name.to_owned(),
            tls: config.tls().clone(),
            authenticate: true,
            transport: config.transport.clone(),
            token_store: config.token_store.clone(),
            initial_dst_cid: config.initial_dst_cid.clone(),
            version: config.version,
        };
        let connection = self.dial(now, dial)?;
        let handle = self.register(connection.key(), None);
        let rng = self.rng.fork("session");
        Ok((handle, Session::client(now, rng, config, connection)))
    }

    /// Lets a client in. Its role is known once the session says `Connected`.
    ///
    /// # Errors
    /// - [`AcceptError`] if the first packet does not verify or no server configuration is left.
    pub fn accept(
        &mut self,
        now: Instant,
        incoming: Incoming,
        buf: &mut Vec<u8>,
    ) -> Result<(SessionHandle, Session), AcceptError> {
        match self.server.clone() {
            Some(server) => self.let_in(now, incoming, server, None, buf),
            None => Err(self.turn_away(incoming, ConnectionError::LocallyClosed, buf)),
        }
    }

    /// Lets a client in with settings of its own: all but the limits of admission, and of what waits to be accepted.
    ///
    /// # Errors
    /// - [`AcceptError`] if the first packet does not verify or the settings cannot be used.
    pub fn accept_with(
        &mut self,
        now: Instant,
        incoming: Incoming,
        server: &ServerConfig,
        buf: &mut Vec<u8>,
    ) -> Result<(SessionHandle, Session), AcceptError> {
        let server = Arc::new(self.with_role(server.clone()));
        match self.quic.prepare(&server) {
            Ok(accepting) => self.let_in(now, incoming, server, Some(accepting), buf),
            Err(error) => {
                let cause = TransportError::new(TransportErrorCode::INTERNAL_ERROR, None, error.to_string());
                Err(self.turn_away(incoming, cause.into(), buf))
            }
        }
    }

    fn turn_away(&mut self, incoming: Incoming, cause: ConnectionError, buf: &mut Vec<u8>) -> AcceptError {
        AcceptError { cause, response: Some(self.refuse(incoming, buf)) }
    }

    fn let_in(
        &mut self,
        now: Instant,
        incoming: Incoming,
        server: Arc<ServerConfig>,
        accepting: Option<quic::Accepting>,
        buf: &mut Vec<u8>,
    ) -> Result<(SessionHandle, Session), AcceptError> {
        let Incoming { quic: incoming, guest } = incoming;
        let connection = match self.quic.accept(now, incoming, accepting, buf) {
            Ok(connection) => connection,
            Err(error) => {
                self.admission.turn_away(guest);
                return Err(AcceptError { cause: error.cause, response: error.response });
            }
        };
        self.admission.enter(guest);
        let handle = self.register(connection.key(), Some(guest));
        let rng = self.rng.fork("session");
        Ok((handle, Session::server(now, rng, server, connection)))
    }

    /// Turns a client away; `buf` is appended to.
    pub fn refuse(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Transmit {
        self.admission.turn_away(incoming.guest);
        self.quic.refuse(incoming.quic, buf)
    }

    /// Asks a client to prove its address first; `buf` is appended to.
    ///
    /// The endpoint does so by itself once many clients are half-open: see [`ServerConfig::retry_above`].
    ///
    /// # Errors
    /// Gives the client back if it has proved its address already.
    pub fn retry(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Result<Transmit, Incoming> {
        let guest = incoming.guest;
        match self.quic.retry(incoming.quic, buf) {
            Ok(transmit) => {
                self.admission.turn_away(guest);
                Ok(transmit)
            }
            Err(quic) => Err(Incoming { quic, guest }),
        }
    }

    /// Forgets a client without an answer.
    pub fn ignore(&mut self, incoming: Incoming) {
        self.admission.turn_away(incoming.guest);
        self.quic.ignore(incoming.quic);
    }

    /// Takes what `session` asked for; an answer, if any, goes back to the same session before other facts.
    pub fn handle_session_event(
        &mut self,
        now: Instant,
        session: SessionHandle,
        event: EndpointEvent,
    ) -> Option<SessionEvent> {
        let answer = match event.0 {
            EndpointEventInner::Dial(dial) => {
                let link = dial.link;
                let dialled = self.dial(now, dial);
                if let Ok(connection) = &dialled {
                    self.routes.insert(connection.key(), (session, link));
                    self.owned.insert((session, connection.key()));
                }
                SessionEventInner::Dialled(link, dialled.map(Box::new))
            }
            EndpointEventInner::Nonce { signer, nonce, expires, now } => {
                SessionEventInner::Nonce(self.nonces.insert(signer, nonce, expires, now))
            }
            EndpointEventInner::Quic { link, key, event } => {
                if event.is_drained() {
                    self.routes.remove(&key)?; // `None`: forgotten before it drained
                    self.unlist(session, key);
                }
                SessionEventInner::Quic(link, self.quic.handle_event(key, event)?)
            }
            EndpointEventInner::Welcomed => {
                self.welcome(session);
                return None;
            }
        };
        Some(SessionEvent(answer))
    }

    /// Forgets a session that will not be driven any further, drained or not. Costs what its own connections cost.
    pub fn forget(&mut self, session: SessionHandle) {
        self.welcome(session);
        while let Some(key) = self.connection_of(session) {
            self.owned.remove(&(session, key));
            self.routes.remove(&key);
            let answer = self.quic.handle_event(key, quic::EndpointEvent::drained());
            debug_assert!(answer.is_none(), "a drained connection wants nothing");
        }
    }

    /// Counts a client among the half-open ones no longer.
    fn welcome(&mut self, session: SessionHandle) {
        if let Some(guest) = self.guests.remove(&session) {
            self.admission.leave(guest);
        }
        if self.guests.is_empty() {
            self.guests = BTreeMap::new(); // an empty one keeps its memory
        }
    }

    /// Takes a connection from its session, and forgets that one with its last.
    fn unlist(&mut self, session: SessionHandle, key: usize) {
        self.owned.remove(&(session, key));
        if self.connection_of(session).is_none() {
            self.welcome(session);
        }
    }

    /// Returns the key of one of a session's connections.
    fn connection_of(&self, session: SessionHandle) -> Option<usize> {
        self.owned.range((session, 0)..=(session, usize::MAX)).next().map(|(_, key)| *key)
    }

    /// Returns how many clients' first packets got no answer because [`ServerConfig::accepts_max`] of them waited to be
    /// accepted, refused or ignored. A client sends several, so this is more than the clients that were kept waiting.
    pub fn initials_ignored(&self) -> u64 {
        self.quic.initials_ignored()
    }

    /// Returns counters of half-open sessions, and of clients that found no room among them. Spec: RATIONALE §11.
    pub fn admission(&self) -> AdmissionStats {
        self.admission.stats()
    }

    /// Returns how many sessions have a connection that has not drained.
    pub fn sessions(&self) -> usize {
        let mut last = None;
        self.owned.iter().filter(|(session, _)| last.replace(*session) != Some(*session)).count()
    }

    fn register(&mut self, key: usize, guest: Option<Guest>) -> SessionHandle {
        let handle = SessionHandle(self.next_session);
        self.next_session += 1;
        self.routes.insert(key, (handle, LinkId::HOME));
        self.owned.insert((handle, key));
        self.guests.extend(guest.map(|guest| (handle, guest)));
        handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are moved several times per datagram; a connection inside made each several kilobytes long.
    #[test]
    fn events_are_small() {
        assert!(size_of::<SessionEvent>() <= 384, "{}", size_of::<SessionEvent>());
        assert!(size_of::<DatagramEvent>() <= 512, "{}", size_of::<DatagramEvent>());
    }
}
