//! Settings. Each default is a constant of `limits.rs`, with its reason there or in DESIGN.md §11.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use crate::{
    error::ConfigError,
    faults::{AggregationFaults, MappingFaults, MetadataFaults},
    id::{PublicKey, SpkiHash},
    lease::ticket::{self, Signer},
    limits,
    path::dial::DialPolicy,
    stream::conflict::ConflictPolicy,
};

/// What both ends of a session may tune.
///
/// The setters take the value in the unit their name ends in, or bytes for windows.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub(crate) idle_timeout: Duration,
    pub(crate) hello_timeout: Duration,
    pub(crate) attach_timeout: Duration,
    pub(crate) gap_timeout: Duration,
    pub(crate) conflict_policy: ConflictPolicy,
    pub(crate) mapping_faults: MappingFaults,
    pub(crate) aggregation_faults: AggregationFaults,
    pub(crate) metadata_faults: MetadataFaults,
    pub(crate) fault_score_max: u32,
    pub(crate) keep_alive_interval: Option<Duration>,
    pub(crate) initial_rtt: Option<Duration>,
    pub(crate) mtu_max: u16,
    pub(crate) stream_receive_window: u32,
    pub(crate) send_window: u64,
    pub(crate) stream_window: u64,
    pub(crate) session_window: u64,
    pub(crate) streams_start: Option<u64>,
    pub(crate) streams_max: u64,
    pub(crate) datagram_receive_buffer: Option<usize>,
    pub(crate) datagram_send_buffer: usize,
    pub(crate) secondary_paths_max: usize,
    #[cfg(feature = "qlog")]
    pub(crate) qlog: Option<crate::quic::Qlog>,
}

/// quinn's default for both datagram buffers.
const DATAGRAM_BUFFER: usize = 1024 * 1024;
/// Ethernet without IP and UDP headers and with room for common tunnels: where quinn's discovery stops too.
const MTU_MAX: u16 = 1452;

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            idle_timeout: limits::IDLE_TIMEOUT,
            hello_timeout: limits::HELLO_TIMEOUT,
            attach_timeout: limits::ATTACH_TIMEOUT,
            gap_timeout: limits::GAP_TIMEOUT,
            conflict_policy: ConflictPolicy::default(),
            mapping_faults: MappingFaults::default(),
            aggregation_faults: AggregationFaults::default(),
            metadata_faults: MetadataFaults::default(),
            fault_score_max: limits::FAULT_SCORE_MAX,
            keep_alive_interval: None,
            initial_rtt: None,
            mtu_max: MTU_MAX,
            stream_receive_window: limits::QUIC_STREAM_WINDOW,
            send_window: limits::QUIC_SEND_WINDOW,
            stream_window: limits::STREAM_WINDOW,
            session_window: limits::SESSION_WINDOW,
            streams_start: None,
            streams_max: limits::STREAMS_MAX,
            datagram_receive_buffer: Some(DATAGRAM_BUFFER),
            datagram_send_buffer: DATAGRAM_BUFFER,
            secondary_paths_max: limits::SECONDARY_PATHS_MAX,
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

impl TransportConfig {
    /// How long a connection may be silent before it is dead. At least 1 s, at most an hour.
    #[must_use]
    pub fn idle_timeout(mut self, value: Duration) -> Self {
        self.idle_timeout = value.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        self
    }

    /// How long a client may take for handshake and hello on a server.
    #[must_use]
    pub fn hello_timeout(mut self, value: Duration) -> Self {
        self.hello_timeout = value;
        self
    }

    /// How long a client tries to attach a path, from `AddPath` on.
    #[must_use]
    pub fn attach_timeout(mut self, value: Duration) -> Self {
        self.attach_timeout = value;
        self
    }

    /// How long a reader waits for bytes that the primary says nobody is to bring, before it is told so. At least 10 ms.
    #[must_use]
    pub fn gap_timeout(mut self, value: Duration) -> Self {
        self.gap_timeout = value.max(Duration::from_millis(10));
        self
    }

    /// Whose bytes the readers of split streams get where two servers brought different ones for the same place.
    #[must_use]
    pub fn conflict_policy(mut self, value: ConflictPolicy) -> Self {
        self.conflict_policy = value;
        self
    }

    /// What a client does when a secondary opens a stream for what it may not fill.
    #[must_use]
    pub fn mapping_faults(mut self, value: MappingFaults) -> Self {
        self.mapping_faults = value;
        self
    }

    /// What a client does when a secondary's bytes are wrong, or nobody brings what a reader waits for.
    #[must_use]
    pub fn aggregation_faults(mut self, value: AggregationFaults) -> Self {
        self.aggregation_faults = value;
        self
    }

    /// What a client does when a secondary's stream does not begin with a header that makes sense.
    #[must_use]
    pub fn metadata_faults(mut self, value: MetadataFaults) -> Self {
        self.metadata_faults = value;
        self
    }

    /// Closes a secondary's path once it has so much against it: 4 for bytes that the primary's own or its digest have
    /// shown to be wrong, 1 for any other fault that was let pass; each lease that is done takes 1 off. At least 1.
    /// Spec: KWIK §10.
    #[must_use]
    pub fn fault_score_max(mut self, value: u32) -> Self {
        self.fault_score_max = value.max(1);
        self
    }

    /// Interval of keep-alives on the primary path; `None` (the default) sends them only while leases live.
    #[must_use]
    pub fn keep_alive_interval(mut self, value: Option<Duration>) -> Self {
        self.keep_alive_interval = value;
        self
    }

    /// Round-trip time assumed before the first sample.
    #[must_use]
    pub fn initial_rtt(mut self, value: Duration) -> Self {
        self.initial_rtt = Some(value);
        self
    }

    /// Where path MTU discovery stops, in bytes of UDP payload. At least 1,200.
    #[must_use]
    pub fn mtu_max(mut self, value: u16) -> Self {
        self.mtu_max = value.max(1200);
        self
    }

    /// QUIC's receive window per stream in bytes; above 2 MiB loss alone may close a connection. Spec: KWIK §11.
    #[must_use]
    pub fn stream_receive_window(mut self, value: u32) -> Self {
        self.stream_receive_window = value;
        self
    }

    /// Bytes that QUIC keeps for retransmission per connection.
    #[must_use]
    pub fn send_window(mut self, value: u64) -> Self {
        self.send_window = value;
        self
    }

    /// Receive window of a split stream at its start, in bytes; it grows by itself, as far as the session window has room,
    /// if the reader is fast, and to twice the length of a verified lease.
    #[must_use]
    pub fn stream_window(mut self, value: u64) -> Self {
        self.stream_window = value.max(limits::GUARANTEED_CREDIT);
        self
    }

    /// Sum of the receive windows of all split streams of a session, in bytes. At least 128 KiB.
    #[must_use]
    pub fn session_window(mut self, value: u64) -> Self {
        self.session_window = value.max(2 * limits::GUARANTEED_CREDIT);
        self
    }

    /// Streams the peer may have open at once, per direction, at the start; the number grows with use.
    #[must_use]
    pub fn streams_start(mut self, value: u64) -> Self {
        self.streams_start = Some(value.max(1));
        self
    }

    /// Streams the peer may have open at once, per direction, once grown.
    #[must_use]
    pub fn streams_max(mut self, value: u64) -> Self {
        self.streams_max = value.max(1);
        self
    }

    /// Bytes of received application datagrams kept for the application; `None` refuses datagrams.
    #[must_use]
    pub fn datagram_receive_buffer(mut self, value: Option<usize>) -> Self {
        self.datagram_receive_buffer = value;
        self
    }

    /// Bytes of application datagrams waiting to be sent.
    #[must_use]
    pub fn datagram_send_buffer(mut self, value: usize) -> Self {
        self.datagram_send_buffer = value;
        self
    }

    /// Secondary paths alive at once in a session.
    #[must_use]
    pub fn secondary_paths_max(mut self, value: usize) -> Self {
        self.secondary_paths_max = value;
        self
    }

    /// Bytes of datagrams that may wait for a session's task: what its windows let honest peers have under way.
    /// Spec: KWIK §11.
    #[cfg(feature = "driver")]
    pub(crate) fn receive_max(&self, client: bool) -> usize {
        let native = limits::NATIVE_WINDOWS_UNDER_WAY.saturating_mul(self.stream_receive_window.into());
        let mut windows = native.saturating_add(limits::CONTROL_WINDOW);
        if client {
            let control = (limits::CONTROL_WINDOW + limits::RELAY_WINDOW)
                .saturating_mul(self.secondary_paths_max as u64);
            windows = windows.saturating_add(self.session_window).saturating_add(control);
        }
        // Half as much again: packets' own headers, what takes a datagram's place in memory, and what is sent twice.
        usize::try_from(windows.saturating_add(windows / 2)).unwrap_or(usize::MAX)
    }

    /// Writes what happens on every connection made with this configuration from now on, and in its session if
    /// [`Qlog::sessions`](crate::Qlog::sessions) says where (feature `qlog`).
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(mut self, value: crate::Qlog) -> Self {
        self.qlog = Some(value);
        self
    }

    /// Split streams that can be guaranteed credit at once: at most half the session window is set aside for it.
    pub(crate) fn split_streams_max(&self) -> u32 {
        let fit = self.session_window / 2 / limits::GUARANTEED_CREDIT;
        u32::try_from(fit.min(limits::SPLIT_STREAMS_MAX as u64)).unwrap_or(u32::MAX)
    }
}

/// How a client dials: its TLS configuration, its application protocols, and whom it lets a primary name.
#[derive(Clone)]
pub struct ClientConfig {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) app_protocols: Vec<Bytes>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) dial_policy: Arc<dyn DialPolicy>,
}

impl ClientConfig {
    /// Takes over a TLS configuration. Its ALPN list becomes the application's own, carried in the hello.
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    pub fn new(mut tls: rustls::ClientConfig) -> Result<Self, ConfigError> {
        let app_protocols = take_protocols(&mut tls.alpn_protocols)?;
        crate::quic::check_client_tls(&tls)?;
        Ok(Self {
            tls: Arc::new(tls),
            app_protocols,
            transport: Arc::new(TransportConfig::default()),
            dial_policy: Arc::new(crate::path::dial::NotMorePrivate),
        })
    }

    /// Replaces the transport settings.
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Replaces the rule for which addresses a primary may name. Spec: KWIK §9.
    #[must_use]
    pub fn dial_policy(mut self, policy: Arc<dyn DialPolicy>) -> Self {
        self.dial_policy = policy;
        self
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// How a server accepts: its TLS configuration and the roles it plays.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) app_protocols: Vec<Bytes>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) primary: Option<Arc<dyn Signer>>,
    pub(crate) secondary: Option<SecondaryConfig>,
    pub(crate) accepts_max: usize,
    pub(crate) reset_key: Option<[u8; 32]>,
}

impl ServerConfig {
    /// Takes over a TLS configuration. Its ALPN list becomes the application's own, matched against the hello.
    /// The server plays no role until [`Self::primary`] or [`Self::secondary`] gives it one.
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    pub fn new(mut tls: rustls::ServerConfig) -> Result<Self, ConfigError> {
        let app_protocols = take_protocols(&mut tls.alpn_protocols)?;
        crate::quic::check_server_tls(&tls)?;
        Ok(Self {
            tls: Arc::new(tls),
            app_protocols,
            transport: Arc::new(TransportConfig::default()),
            primary: None,
            secondary: None,
            accepts_max: INCOMING_MAX,
            reset_key: None,
        })
    }

    /// Serves sessions as their primary; `signer` signs tickets and jobs and is not the TLS key. Spec: KWIK §9.
    #[must_use]
    pub fn primary(mut self, signer: Arc<dyn Signer>) -> Self {
        self.primary = Some(signer);
        self
    }

    /// Serves paths of sessions that other servers own.
    #[must_use]
    pub fn secondary(mut self, config: SecondaryConfig) -> Self {
        self.secondary = Some(config);
        self
    }

    /// Replaces the transport settings.
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Handshakes waiting for `accept` at once; further clients are ignored until there is room.
    #[must_use]
    pub fn accepts_max(mut self, value: usize) -> Self {
        self.accepts_max = value;
        self
    }

    /// Sets the secret key of stateless resets (RFC 9000 §10.3); random for each endpoint by default.
    ///
    /// A server that has lost its state, and has the key that it had before, tells whoever still sends to it so at once:
    /// clients lose a path, or their primary, a round trip after the restart and not a timeout later. Servers behind one
    /// address share it. It counts when an endpoint is created; replacing a running endpoint's configuration does not
    /// change it.
    #[must_use]
    pub fn reset_key(mut self, key: [u8; 32]) -> Self {
        self.reset_key = Some(key);
        self
    }
}

/// Incoming connections a server holds before the application accepts them.
const INCOMING_MAX: usize = 1024;

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("transport", &self.transport)
            .field("primary", &self.primary.is_some())
            .field("secondary", &self.secondary)
            .finish_non_exhaustive()
    }
}

/// Whose tickets a secondary honours, and who it is in them. Spec: KWIK §9.
#[derive(Clone, Debug)]
pub struct SecondaryConfig {
    pub(crate) primaries: Vec<PublicKey>,
    pub(crate) identities: Vec<SpkiHash>,
    pub(crate) signer: Option<Arc<dyn Signer>>,
}

impl SecondaryConfig {
    /// Trusts tickets and jobs signed by `primary`, issued to the holder of `certificate`'s key.
    ///
    /// # Errors
    /// - [`ConfigError::Certificate`] if the certificate does not parse.
    pub fn new(primary: PublicKey, certificate: &CertificateDer<'_>) -> Result<Self, ConfigError> {
        let identity = ticket::spki_hash(certificate).ok_or(ConfigError::Certificate)?;
        Ok(Self { primaries: vec![primary], identities: vec![identity], signer: None })
    }

    /// Signs the messages that this server has relayed to its primaries; not with the TLS key. Spec: KWIK §9.
    #[must_use]
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Trusts one more primary, or one more key of the same, for roll-over: name the next key before any session is signed
    /// with it, and the last one until those that are have ended. At most 16, or the configuration is refused.
    #[must_use]
    pub fn primary(mut self, key: PublicKey) -> Self {
        self.primaries.push(key);
        self
    }

    /// Answers to one more certificate, for roll-over: tickets may name this key before the server shows it, and after.
    ///
    /// # Errors
    /// - [`ConfigError::Certificate`] if the certificate does not parse.
    pub fn certificate(mut self, certificate: &CertificateDer<'_>) -> Result<Self, ConfigError> {
        self.identities.push(ticket::spki_hash(certificate).ok_or(ConfigError::Certificate)?);
        Ok(self)
    }
}

/// Moves the application's protocols out of a TLS configuration and puts KWIK's in their place.
fn take_protocols(alpn: &mut Vec<Vec<u8>>) -> Result<Vec<Bytes>, ConfigError> {
    let app = std::mem::replace(alpn, vec![limits::ALPN.to_vec()]);
    let fits = |name: &Vec<u8>| !name.is_empty() && name.len() <= limits::APP_ALPN_LEN_MAX;
    let total: usize = app.iter().map(Vec::len).sum();
    if app.len() > limits::APP_ALPN_MAX || total > limits::APP_ALPN_TOTAL_MAX || !app.iter().all(fits) {
        return Err(ConfigError::OutOfRange("ALPN list"));
    }
    // A configuration that already names KWIK only, as one used before, carries no application protocol.
    Ok(app.into_iter().filter(|name| name != limits::ALPN).map(Bytes::from).collect())
}
