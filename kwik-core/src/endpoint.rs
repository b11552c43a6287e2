//! Routes datagrams to sessions, accepts, dials. No protocol rule lives here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;

use crate::{
    action::{Ecn, Transmit},
    config::{ClientConfig, ServerConfig},
    error::{ConfigError, ConnectError, ConnectionError},
    id::LinkId,
    lease::ticket::Nonces,
    limits, quic,
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

/// What became of a datagram.
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
    /// Whether the ticket's nonce was seen for the first time.
    Nonce(bool),
    Quic(LinkId, quic::ConnectionEvent),
}

/// Something a session asks its endpoint for.
#[derive(Debug)]
pub struct EndpointEvent(pub(crate) EndpointEventInner);

#[derive(Debug)]
pub(crate) enum EndpointEventInner {
    Dial(quic::Dial),
    Nonce { nonce: [u8; 16], expires: u64, now: u64 },
    Quic { link: LinkId, key: usize, event: quic::EndpointEvent },
}

/// A client at the door. Must be handed to [`Endpoint::accept`], `refuse`, `retry` or `ignore`.
#[derive(Debug)]
pub struct Incoming(quic::Incoming);

impl Incoming {
    /// Returns where the client says it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Returns the local address the client sent to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.local_ip()
    }

    /// Returns whether the client has proved that it receives at its address.
    pub fn remote_address_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Returns whether [`Endpoint::retry`] may be used.
    pub fn may_retry(&self) -> bool {
        self.0.may_retry()
    }
}

/// Why a client was not let in.
#[derive(Debug)]
#[non_exhaustive]
pub struct AcceptError {
    /// The reason.
    pub cause: ConnectionError,
    /// What to send the client, if anything; its bytes are in the buffer given to `accept`.
    pub response: Option<Transmit>,
}

/// One UDP socket's worth of sessions.
#[derive(Debug)]
pub struct Endpoint {
    quic: quic::Endpoint,
    rng: Rng,
    clock: Arc<quic::TokenClock>,
    started: Instant,
    server: Option<Arc<ServerConfig>>,
    nonces: Nonces,
    families: Families,
    /// Where each QUIC connection belongs.
    routes: BTreeMap<usize, (SessionHandle, LinkId)>,
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
        let mut rng = Rng::from_seed(seed);
        let clock = Arc::new(quic::TokenClock::default());
        let reset_key = server.as_ref().and_then(|server| server.reset_key);
        let mut endpoint = Self {
            quic: quic::Endpoint::new(rng.fork("quic"), clock.clone(), allow_mtud, reset_key),
            rng,
            clock,
            started: now,
            server: None,
            nonces: Nonces::default(),
            families: Families::default(),
            routes: BTreeMap::new(),
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
        let secondary = server.as_ref().and_then(|server| server.secondary.as_ref());
        if secondary.is_some_and(|secondary| secondary.primaries.len() > limits::PRIMARY_KEYS_MAX) {
            return Err(ConfigError::OutOfRange("trusted primaries"));
        }
        self.quic.set_server(server.as_ref())?;
        Ok(std::mem::replace(&mut self.server, server.map(Arc::new)))
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
            quic::Datagram::Incoming(incoming) => Some(DatagramEvent::Incoming(Incoming(incoming))),
            quic::Datagram::Response(transmit) => Some(DatagramEvent::Response(transmit)),
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
        let dial = quic::Dial {
            link: LinkId::HOME,
            remote,
            server_name: server_name.to_owned(),
            tls: config.tls.clone(),
            transport: config.transport.clone(),
        };
        let connection = self.dial(now, dial)?;
        let handle = self.register(connection.key());
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
        let Some(server) = self.server.clone() else {
            let response = Some(self.quic.refuse(incoming.0, buf));
            return Err(AcceptError { cause: ConnectionError::LocallyClosed, response });
        };
        let connection = self
            .quic
            .accept(now, incoming.0, buf)
            .map_err(|error| AcceptError { cause: error.cause, response: error.response })?;
        let handle = self.register(connection.key());
        let rng = self.rng.fork("session");
        Ok((handle, Session::server(now, rng, server, connection)))
    }

    /// Turns a client away; `buf` is appended to.
    pub fn refuse(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Transmit {
        self.quic.refuse(incoming.0, buf)
    }

    /// Asks a client to prove its address first; `buf` is appended to.
    ///
    /// # Errors
    /// Gives the client back if it has proved its address already.
    pub fn retry(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Result<Transmit, Incoming> {
        self.quic.retry(incoming.0, buf).map_err(Incoming)
    }

    /// Forgets a client without an answer.
    pub fn ignore(&mut self, incoming: Incoming) {
        self.quic.ignore(incoming.0);
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
                }
                SessionEventInner::Dialled(link, dialled.map(Box::new))
            }
            EndpointEventInner::Nonce { nonce, expires, now } => {
                SessionEventInner::Nonce(self.nonces.insert(nonce, expires, now).is_ok())
            }
            EndpointEventInner::Quic { link, key, event } => {
                if event.is_drained() && self.routes.remove(&key).is_none() {
                    return None; // forgotten before it drained
                }
                SessionEventInner::Quic(link, self.quic.handle_event(key, event)?)
            }
        };
        Some(SessionEvent(answer))
    }

    /// Forgets a session that will not be driven any further, drained or not.
    pub fn forget(&mut self, session: SessionHandle) {
        let keys: Vec<usize> =
            self.routes.iter().filter(|(_, (owner, _))| *owner == session).map(|(key, _)| *key).collect();
        for key in keys {
            self.routes.remove(&key);
            let answer = self.quic.handle_event(key, quic::EndpointEvent::drained());
            debug_assert!(answer.is_none(), "a drained connection wants nothing");
        }
    }

    /// Returns how many clients' first packets got no answer because [`ServerConfig::accepts_max`] of them waited to be
    /// accepted, refused or ignored. A client sends several, so this is more than the clients that were kept waiting.
    pub fn initials_ignored(&self) -> u64 {
        self.quic.initials_ignored()
    }

    /// Returns how many sessions have a connection that has not drained.
    pub fn sessions(&self) -> usize {
        self.routes.values().map(|(session, _)| session).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn register(&mut self, key: usize) -> SessionHandle {
        let handle = SessionHandle(self.next_session);
        self.next_session += 1;
        self.routes.insert(key, (handle, LinkId::HOME));
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
