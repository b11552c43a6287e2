//! The QUIC endpoint: routing of datagrams to connections, dialling, accepting.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    ConnectionHandle, ConnectionId, DatagramEvent, IdleTimeout, NoneTokenStore, TokenStore,
    crypto::rustls as tls,
};
use rustls::{
    SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};

use super::{
    cid::{self, SeededCids, TokenClock},
    connection::{Connection, ConnectionEvent, EndpointEvent},
    event::{self, varint},
    retry,
};
use crate::{
    action::{Ecn, Transmit},
    config::{EndpointConfig, ServerConfig, TransportConfig},
    error::{ConfigError, ConnectError, ConnectionError},
    id::{Dir, LinkId},
    limits,
    rng::Rng,
};

/// Destination of a datagram.
#[derive(Debug)]
pub(crate) enum Datagram {
    /// To the connection with this key.
    Connection(usize, ConnectionEvent),
    /// To nobody yet: a client wants in.
    Incoming(Incoming),
    /// Nowhere; this is the answer.
    Response(Transmit),
}

/// A client at the door. Must be accepted, refused, retried or ignored.
pub(crate) struct Incoming(quinn_proto::Incoming);

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("remote", &self.0.remote_address()).finish_non_exhaustive()
    }
}

impl Incoming {
    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.0.local_ip()
    }

    pub(crate) fn remote_address_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    pub(crate) fn may_retry(&self) -> bool {
        self.0.may_retry()
    }

    pub(crate) fn orig_dst_cid(&self) -> ConnectionId {
        *self.0.orig_dst_cid()
    }
}

/// Settings for one client.
pub(crate) struct Accepting {
    config: Arc<quinn_proto::ServerConfig>,
    send_window: u64,
}

/// Reason why a client was not let in, and the packet that tells it.
#[derive(Debug)]
pub(crate) struct AcceptError {
    pub(crate) cause: ConnectionError,
    pub(crate) response: Option<Transmit>,
}

/// A client without a certificate.
#[derive(Debug)]
struct Anonymous;

impl ResolvesClientCert for Anonymous {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A connection to start.
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    pub(crate) remote: SocketAddr,
    pub(crate) server_name: String,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// Towards a secondary, whether it may ask who the client is.
    pub(crate) authenticate: bool,
    pub(crate) transport: Arc<TransportConfig>,
    /// Address tokens, towards a primary.
    pub(crate) token_store: Option<Arc<dyn TokenStore>>,
    pub(crate) initial_dst_cid: Option<Arc<dyn Fn() -> ConnectionId + Send + Sync>>,
    pub(crate) version: u32,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("link", &self.link).field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// quinn-proto's endpoint with nothing in it that the operating system decides.
pub(crate) struct Endpoint {
    inner: quinn_proto::Endpoint,
    rng: Rng,
    clock: Arc<TokenClock>,
    token_key: Arc<dyn quinn_proto::crypto::HandshakeTokenKey>,
    server_send_window: u64,
    accepts_max: usize,
    /// Clients at the door.
    waiting: usize,
    initials_ignored: u64,
    /// The connections that this end began: the only ones that a Retry packet can be for.
    dialled: BTreeSet<usize>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Endpoint").finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) fn new(
        mut rng: Rng,
        clock: Arc<TokenClock>,
        allow_mtud: bool,
        settings: &EndpointConfig,
        reset_key: Option<[u8; 32]>,
    ) -> Self {
        let random = rng.bytes::<32>();
        let reset_key =
            settings.reset_key.clone().unwrap_or_else(|| cid::reset_key(&reset_key.unwrap_or(random)));
        let mut config = quinn_proto::EndpointConfig::new(reset_key);
        let cids = rng.bytes::<32>();
        config
            .rng_seed(Some(rng.bytes::<32>()))
            .cid_generator(move || Box::new(SeededCids(Rng::from_seed(cids))));
        if let Some(make) = settings.cid_generator.clone() {
            config.cid_generator(move || make());
        }
        if let Some(versions) = &settings.supported_versions {
            config.supported_versions(versions.clone());
        }
        if let Some(grease) = settings.grease_quic_bit {
            config.grease_quic_bit(grease);
        }
        if let Some(interval) = settings.min_reset_interval {
            config.min_reset_interval(interval);
        }
        if let Some(Err(error)) =
            settings.max_udp_payload_size.map(|bytes| config.max_udp_payload_size(bytes))
        {
            debug_assert!(false, "{error}: its setter has checked it");
        }
        let token_key = cid::token_key(&mut rng);
        let inner = quinn_proto::Endpoint::new(Arc::new(config), None, allow_mtud, None);
        Self {
            inner,
            rng,
            clock,
            token_key,
            server_send_window: limits::QUIC_SEND_WINDOW,
            accepts_max: limits::ACCEPTS_MAX,
            waiting: 0,
            initials_ignored: 0,
            dialled: BTreeSet::new(),
        }
    }

    pub(crate) fn set_server(&mut self, server: Option<&ServerConfig>) -> Result<(), ConfigError> {
        let Some(server) = server else {
            self.inner.set_server_config(None);
            return Ok(());
        };
        let config = self.server_config(server)?;
        self.server_send_window = server.transport.send_window;
        self.accepts_max = server.accepts_max;
        self.inner.set_server_config(Some(config));
        Ok(())
    }

    /// Makes quinn-proto's settings of a server's.
    fn server_config(&self, server: &ServerConfig) -> Result<Arc<quinn_proto::ServerConfig>, ConfigError> {
        server.check()?;
        let crypto = tls::QuicServerConfig::try_from(server.tls().clone()).map_err(|_| ConfigError::Tls)?;
        let settings = &server.quic;
        let token_key = settings.token_key.as_ref().unwrap_or(&self.token_key);
        let mut config = quinn_proto::ServerConfig::new(Arc::new(crypto), token_key.clone());
        let mut transport = base_transport(&server.transport)?;
        // Control's own comes on top of what the application permits.
        let bidi = server.transport.streams(Dir::Bi, u64::from(limits::HELLO_BIDI) - 1) + 1;
        let uni = server.transport.streams(Dir::Uni, limits::HELLO_UNI.into());
        transport
            .max_concurrent_bidi_streams(varint(bidi.min(limits::HELLO_BIDI.into())))
            .max_concurrent_uni_streams(varint(uni.min(limits::HELLO_UNI.into())))
            .receive_window(limits::HELLO_WINDOW.into())
            .datagram_receive_buffer_size(server.transport.datagram_receive_buffer)
            .keep_alive_interval(server.transport.keep_alive_interval);
        config
            .transport_config(Arc::new(transport))
            .validation_token_config(server.validation_token.to_quic())
            .preferred_address_v4(settings.preferred_address_v4)
            .preferred_address_v6(settings.preferred_address_v6)
            .max_incoming(server.accepts_max) // beyond it quinn-proto ignores clients, cheaply and silently
            .incoming_buffer_size(settings.incoming_buffer_size.unwrap_or(INCOMING_BUFFER))
            .incoming_buffer_size_total(settings.incoming_buffer_size_total.unwrap_or(INCOMING_BUFFERS));
        match &settings.time_source {
            Some(clock) => config.time_source(clock.clone()),
            None => config.time_source(self.clock.clone()),
        };
        if let Some(lifetime) = settings.retry_token_lifetime {
            config.retry_token_lifetime(lifetime);
        }
        if let Some(migration) = settings.migration {
            config.migration(migration);
        }
        Ok(Arc::new(config))
    }

    pub(crate) fn handle(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<Ecn>,
        mut data: BytesMut,
        buf: &mut Vec<u8>,
    ) -> Option<Datagram> {
        // A Retry packet is a datagram of its own, for a client; quinn-proto ends a server's handshake for any other,
        // though nobody can say who sent it. Spec: RATIONALE §13.
        let retry = retry::find(&data);
        if let Some(at) = retry.filter(|at| *at > 0) {
            data.truncate(at);
        }
        let ignored = self.waiting >= self.accepts_max && is_initial(&data);
        let Some(routed) = self.inner.handle(now, remote, local_ip, ecn.map(event::ecn), data, buf) else {
            self.initials_ignored += u64::from(ignored);
            return None;
        };
        Some(match routed {
            DatagramEvent::ConnectionEvent(handle, _)
                if retry == Some(0) && !self.dialled.contains(&handle.0) =>
            {
                return None;
            }
            DatagramEvent::ConnectionEvent(handle, event) => {
                Datagram::Connection(handle.0, ConnectionEvent(event))
            }
            DatagramEvent::NewConnection(incoming) => {
                self.waiting += 1;
                Datagram::Incoming(Incoming(incoming))
            }
            DatagramEvent::Response(transmit) => Datagram::Response(event::transmit(transmit)),
        })
    }

    pub(crate) fn dial(&mut self, now: Instant, dial: Dial) -> Result<Connection, ConnectError> {
        let unusable = |_| ConnectError::InvalidServerName(dial.server_name.clone());
        let primary = dial.link.path.is_primary();
        let tls_config = if primary {
            dial.tls
        } else {
            // A session ticket of one server must never be shown to another, which shares its name only.
            let mut own = (*dial.tls).clone();
            own.resumption = Resumption::disabled();
            if !dial.authenticate {
                own.client_auth_cert_resolver = Arc::new(Anonymous);
            }
            Arc::new(own)
        };
        let crypto = tls::QuicClientConfig::try_from(tls_config).map_err(unusable)?;
        let transport = client_transport(&dial.transport, primary)?;
        let initial_dcid = ConnectionId::new(&self.rng.bytes::<INITIAL_DCID_LEN>());
        let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
        config
            .transport_config(Arc::new(transport))
            .token_store(dial.token_store.unwrap_or_else(|| Arc::new(NoneTokenStore)))
            .initial_dst_cid_provider(dial.initial_dst_cid.unwrap_or_else(|| Arc::new(move || initial_dcid)))
            .version(dial.version);
        let (handle, connection) =
            self.inner.connect(now, config, dial.remote, &dial.server_name).map_err(connect_error)?;
        self.dialled.insert(handle.0);
        Ok(Connection::new(connection, handle, dial.transport.send_window))
    }

    pub(crate) fn accept(
        &mut self,
        now: Instant,
        incoming: Incoming,
        config: Option<Accepting>,
        buf: &mut Vec<u8>,
    ) -> Result<Connection, AcceptError> {
        self.leave_door();
        let (config, send_window) = match config {
            Some(own) => (Some(own.config), own.send_window),
            None => (None, self.server_send_window),
        };
        match self.inner.accept(incoming.0, now, buf, config) {
            Ok((handle, connection)) => Ok(Connection::new(connection, handle, send_window)),
            Err(error) => Err(AcceptError {
                cause: event::lost(error.cause),
                response: error.response.map(event::transmit),
            }),
        }
    }

    /// Prepares settings for one client alone.
    pub(crate) fn prepare(&self, server: &ServerConfig) -> Result<Accepting, ConfigError> {
        Ok(Accepting { config: self.server_config(server)?, send_window: server.transport.send_window })
    }

    pub(crate) fn refuse(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Transmit {
        self.leave_door();
        event::transmit(self.inner.refuse(incoming.0, buf))
    }

    pub(crate) fn retry(&mut self, incoming: Incoming, buf: &mut Vec<u8>) -> Result<Transmit, Incoming> {
        match self.inner.retry(incoming.0, buf) {
            Ok(transmit) => {
                self.leave_door();
                Ok(event::transmit(transmit))
            }
            Err(error) => Err(Incoming(error.into_incoming())),
        }
    }

    pub(crate) fn ignore(&mut self, incoming: Incoming) {
        self.leave_door();
        self.inner.ignore(incoming.0);
    }

    /// First packets that got no answer because as many clients as may be were at the door.
    pub(crate) fn initials_ignored(&self) -> u64 {
        self.initials_ignored
    }

    fn leave_door(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// `key` must be a connection of this endpoint that has not drained yet.
    pub(crate) fn handle_event(&mut self, key: usize, event: EndpointEvent) -> Option<ConnectionEvent> {
        if event.is_drained() {
            self.dialled.remove(&key);
        }
        self.inner.handle_event(ConnectionHandle(key), event.0).map(ConnectionEvent)
    }
}

/// Returns whether a datagram begins with an Initial packet of QUIC v1 (RFC 9000 §17.2.2).
fn is_initial(data: &[u8]) -> bool {
    matches!(data, [first, 0, 0, 0, 1, ..] if first & 0xb0 == 0x80)
}

/// Random bytes in a client's first destination id; RFC 9000 §7.2 asks for at least 8.
const INITIAL_DCID_LEN: usize = 20;
/// Bytes a server buffers for one client it has not accepted yet (quinn-proto's default is 10 MiB).
const INCOMING_BUFFER: u64 = 64 * 1024;
/// Bytes a server buffers for all clients it has not accepted yet.
const INCOMING_BUFFERS: u64 = 16 * 1024 * 1024;

/// Fails if `tls` cannot be used for QUIC.
pub(crate) fn check_client_tls(tls: Arc<rustls::ClientConfig>) -> Result<(), tls::NoInitialCipherSuite> {
    tls::QuicClientConfig::try_from(tls).map(drop)
}

/// Fails if `tls` cannot be used for QUIC.
pub(crate) fn check_server_tls(tls: Arc<rustls::ServerConfig>) -> Result<(), tls::NoInitialCipherSuite> {
    tls::QuicServerConfig::try_from(tls).map(drop)
}

/// Settings that every connection has in common.
fn base_transport(config: &TransportConfig) -> Result<quinn_proto::TransportConfig, ConfigError> {
    config.check()?;
    let idle =
        IdleTimeout::try_from(config.idle_timeout).map_err(|_| ConfigError::OutOfRange("idle_timeout"))?;
    let mut transport = quinn_proto::TransportConfig::default();
    config.quic.apply(&mut transport, config.mtu_max);
    transport
        .max_idle_timeout(Some(idle))
        .stream_receive_window(config.stream_receive_window.into())
        .send_window(config.send_window)
        .datagram_send_buffer_size(config.datagram_send_buffer);
    #[cfg(feature = "qlog")]
    transport.qlog_stream(config.qlog.as_ref().map(super::Qlog::stream));
    if let Some(rtt) = config.initial_rtt {
        transport.initial_rtt(rtt);
    }
    Ok(transport)
}

/// Settings of a client's connection: what it permits its primary, or a secondary.
fn client_transport(
    config: &TransportConfig,
    primary: bool,
) -> Result<quinn_proto::TransportConfig, ConfigError> {
    let mut transport = base_transport(config)?;
    if primary {
        let (streams, window) =
            native_streams(config, config.streams_start.unwrap_or(limits::CLIENT_STREAMS_START));
        transport
            .max_concurrent_bidi_streams(varint(config.streams(Dir::Bi, streams)))
            .max_concurrent_uni_streams(varint(config.streams(Dir::Uni, streams)))
            .receive_window(varint(window))
            .datagram_receive_buffer_size(config.datagram_receive_buffer)
            .keep_alive_interval(config.keep_alive_interval);
    } else {
        transport
            .max_concurrent_bidi_streams(0u32.into())
            .max_concurrent_uni_streams(varint(limits::UNI_START))
            .receive_window(varint(
                config.session_window.saturating_add(limits::CONTROL_WINDOW + limits::RELAY_WINDOW),
            ))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(keep_alive(config.idle_timeout)));
    }
    Ok(transport)
}

/// A third of the idle timeout: two keep-alives may be lost. Spec: PROTOCOL §8.7.
pub(crate) fn keep_alive(idle_timeout: Duration) -> Duration {
    idle_timeout / 3
}

/// Number of native streams to permit per direction, starting from `wanted`, and the connection window that lets all of
/// them fill without blocking control. Spec: PROTOCOL §4.19.
pub(crate) fn native_streams(config: &TransportConfig, wanted: u64) -> (u64, u64) {
    let window = u64::from(config.stream_receive_window).max(1);
    let streams = wanted.min(config.streams_most());
    // What the peer opens in two directions, and as many bidirectional ones of our own.
    let either = config.streams_either(streams);
    (streams, either.saturating_mul(3).saturating_mul(window).saturating_add(limits::CONTROL_WINDOW))
}

fn connect_error(error: quinn_proto::ConnectError) -> ConnectError {
    use quinn_proto::ConnectError as Q;
    match error {
        Q::EndpointStopping => ConnectError::EndpointStopping,
        Q::CidsExhausted => ConnectError::CidsExhausted,
        Q::InvalidServerName(name) => ConnectError::InvalidServerName(name),
        Q::InvalidRemoteAddress(address) => ConnectError::InvalidRemoteAddress(address),
        Q::NoDefaultClientConfig => ConnectError::NoDefaultClientConfig,
        Q::UnsupportedVersion => ConnectError::UnsupportedVersion,
    }
}
