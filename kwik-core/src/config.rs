//! Settings. Each default is a constant of `limits.rs`, with its reason there or in RATIONALE §11.

mod endpoint;
mod quic;
mod transport;

use std::{
    fmt,
    net::{SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rustls::{RootCertStore, client::VerifierBuilderError};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use self::quic::{QuicServerSettings, QuicSettings};
pub use self::{
    endpoint::EndpointConfig,
    quic::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, ValidationTokenConfig},
    transport::TransportConfig,
};
use crate::{
    crypto::{
        self, HandshakeTokenKey,
        rustls::{QuicClientConfig, QuicServerConfig, check_protocols},
    },
    error::ConfigError,
    id::{PublicKey, SpkiHash},
    lease::ticket::{self, Signer},
    limits,
    path::dial::DialPolicy,
    quic::{ConnectionId, TimeSource, TokenStore},
};

/// Settings for dialling: TLS configuration, application protocols, and the rule for which addresses a primary may name.
#[derive(Clone)]
pub struct ClientConfig {
    crypto: Arc<dyn crypto::ClientConfig>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) dial_policy: Arc<dyn DialPolicy>,
    pub(crate) authenticate_to_secondaries: bool,
    pub(crate) token_store: Option<Arc<dyn TokenStore>>,
    pub(crate) initial_dst_cid: Option<Arc<dyn Fn() -> ConnectionId + Send + Sync>>,
    pub(crate) version: u32,
}

impl ClientConfig {
    /// Uses a TLS configuration. Its ALPN list becomes the application's own, carried in the hello: a primary may name
    /// one of these or none, anything else ends the session (`VERSION`). Early data is turned off (RATIONALE §9).
    #[must_use]
    pub fn new(crypto: Arc<dyn crypto::ClientConfig>) -> Self {
        Self {
            crypto,
            transport: Arc::new(TransportConfig::default()),
            dial_policy: Arc::new(crate::path::dial::NotMorePrivate),
            authenticate_to_secondaries: false,
            token_store: None,
            initial_dst_cid: None,
            version: QUIC_V1,
        }
    }

    /// Trusts servers that `roots` vouch for, and names no application protocol.
    ///
    /// # Errors
    /// - [`VerifierBuilderError`] if there is no root.
    pub fn with_root_certificates(roots: Arc<RootCertStore>) -> Result<Self, VerifierBuilderError> {
        Ok(Self::new(Arc::new(QuicClientConfig::with_roots(roots)?)))
    }

    /// Trusts servers that the operating system does, and names no application protocol.
    ///
    /// # Errors
    /// - [`rustls::Error`] if the system has no verifier.
    #[cfg(feature = "platform-verifier")]
    pub fn try_with_platform_verifier() -> Result<Self, rustls::Error> {
        Ok(Self::new(Arc::new(QuicClientConfig::with_platform_verifier()?)))
    }

    /// Trusts servers that the operating system does, and names no application protocol.
    ///
    /// # Panics
    /// If the system has no verifier; [`Self::try_with_platform_verifier`] says so.
    #[cfg(feature = "platform-verifier")]
    #[must_use]
    pub fn with_platform_verifier() -> Self {
        Self::try_with_platform_verifier()
            .expect("the system has a verifier, or the caller asks whether it has")
    }

    /// Replaces the transport settings, by default those of [`TransportConfig::default`].
    pub fn transport_config(&mut self, transport: Arc<TransportConfig>) -> &mut Self {
        self.transport = transport;
        self
    }

    /// Keeps the address tokens of primaries, by their names, and shows them when one is dialled again; by default none are
    /// kept. What secondaries send is never kept. Spec: RATIONALE §9.
    pub fn token_store(&mut self, store: Arc<dyn TokenStore>) -> &mut Self {
        self.token_store = Some(store);
        self
    }

    /// Replaces where the first destination id of a connection to a primary comes from: at least 8 bytes that nobody can
    /// guess (RFC 9000 §7.2). By default 20, drawn from the endpoint's own seed.
    pub fn initial_dst_cid_provider(
        &mut self,
        provider: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    ) -> &mut Self {
        self.initial_dst_cid = Some(provider);
        self
    }

    /// QUIC version to dial with: 1 by default; one of [`EndpointConfig::supported_versions`].
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Replaces the transport settings, by default those of [`TransportConfig::default`].
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Replaces the rule for which addresses a primary may name; by default [`NotMorePrivate`](crate::NotMorePrivate). For
    /// clients whose servers are known by address, or are in a private network while the primary is not. Spec: PROTOCOL §9.
    #[must_use]
    pub fn dial_policy(mut self, policy: Arc<dyn DialPolicy>) -> Self {
        self.dial_policy = policy;
        self
    }

    /// Shows the client's certificate to secondaries that ask for one, too; `false` by default.
    ///
    /// A certificate says who the client is, and it is the primary that chooses the secondaries: any server with a name that
    /// the TLS configuration trusts. Secondaries know a client by its ticket and need no more. Without this they are answered
    /// as by a client that has no certificate; the primary always gets what the TLS configuration says. Spec: RATIONALE §9.
    #[must_use]
    pub fn authenticate_to_secondaries(mut self, show: bool) -> Self {
        self.authenticate_to_secondaries = show;
        self
    }

    /// Returns whether these settings can be used.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    /// - Others as [`TransportConfig::check`].
    pub fn check(&self) -> Result<(), ConfigError> {
        check_protocols(self.app_protocols())?;
        self.transport.check()
    }

    pub(crate) fn tls(&self) -> &Arc<rustls::ClientConfig> {
        self.crypto.rustls().tls()
    }

    pub(crate) fn app_protocols(&self) -> &[Bytes] {
        self.crypto.rustls().app_protocols()
    }
}

impl TryFrom<rustls::ClientConfig> for ClientConfig {
    type Error = ConfigError;

    /// Uses a TLS configuration, as [`Self::new`] does.
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    fn try_from(tls: rustls::ClientConfig) -> Result<Self, ConfigError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|_| ConfigError::Tls)?;
        check_protocols(crypto.app_protocols())?;
        Ok(Self::new(Arc::new(crypto)))
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("transport", &self.transport)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// QUIC version 1 (RFC 9000).
const QUIC_V1: u32 = 1;

/// Settings for accepting: TLS configuration and the roles that the server plays.
#[derive(Clone)]
#[expect(clippy::partial_pub_fields, reason = "quinn's shape: programs write to these three")]
pub struct ServerConfig {
    /// The transport settings.
    pub transport: Arc<TransportConfig>,
    /// The TLS configuration.
    pub crypto: Arc<dyn crypto::ServerConfig>,
    /// Address tokens for clients to come back with; by default none are sent, and none are honoured.
    pub validation_token: ValidationTokenConfig,
    pub(crate) quic: QuicServerSettings,
    pub(crate) primary: Option<Arc<dyn Signer>>,
    pub(crate) secondary: Option<SecondaryConfig>,
    pub(crate) accepts_max: usize,
    pub(crate) retry_above: Option<usize>,
    pub(crate) half_open_max: usize,
    pub(crate) half_open_per_prefix: usize,
    pub(crate) backlog_max: u64,
    pub(crate) reset_key: Option<[u8; 32]>,
}

impl ServerConfig {
    /// Uses a TLS configuration, and a key that address tokens are sealed with. Otherwise as [`Self::with_crypto`].
    #[must_use]
    pub fn new(crypto: Arc<dyn crypto::ServerConfig>, token_key: Arc<dyn HandshakeTokenKey>) -> Self {
        let mut config = Self::with_crypto(crypto);
        config.token_key(token_key);
        config
    }

    /// Uses a TLS configuration. Its ALPN list becomes the application's own, matched against the hello: if it names any
    /// protocols, a client that does not offer one of them is refused (`VERSION`).
    /// Early data is refused, whatever the configuration says: it can be replayed (RATIONALE §9).
    ///
    /// The server is a plain primary, unless [`Self::primary`] or [`Self::secondary`] says otherwise: each endpoint makes a
    /// key of its own, by which secondaries that are told of it know whom to trust.
    #[must_use]
    pub fn with_crypto(crypto: Arc<dyn crypto::ServerConfig>) -> Self {
        Self {
            transport: Arc::new(TransportConfig::default()),
            crypto,
            validation_token: ValidationTokenConfig::default(),
            quic: QuicServerSettings::default(),
            primary: None,
            secondary: None,
            accepts_max: limits::ACCEPTS_MAX,
            retry_above: Some(limits::RETRY_ABOVE),
            half_open_max: limits::HALF_OPEN_MAX,
            half_open_per_prefix: limits::HALF_OPEN_PER_PREFIX,
            backlog_max: limits::BACKLOG_MAX,
            reset_key: None,
        }
    }

    /// Shows one certificate, `cert_chain`, its own certificate first; `key` is its private key.
    ///
    /// # Errors
    /// - [`rustls::Error`] if the two do not go together.
    pub fn with_single_cert(
        cert_chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::with_crypto(Arc::new(QuicServerConfig::with_single_cert(cert_chain, key)?)))
    }

    /// Replaces the transport settings, by default those of [`TransportConfig::default`].
    pub fn transport_config(&mut self, transport: Arc<TransportConfig>) -> &mut Self {
        self.transport = transport;
        self
    }

    /// Replaces how address tokens are given out and honoured; by default they are neither.
    pub fn validation_token_config(&mut self, validation_token: ValidationTokenConfig) -> &mut Self {
        self.validation_token = validation_token;
        self
    }

    /// Seals address tokens with this key; by default with one that each endpoint draws. Servers behind one address share it.
    pub fn token_key(&mut self, value: Arc<dyn HandshakeTokenKey>) -> &mut Self {
        self.quic.token_key = Some(value);
        self
    }

    /// Time for which the token in a Retry packet is good: 15 s by default, at most a year. A client uses it a round trip later.
    pub fn retry_token_lifetime(&mut self, value: Duration) -> &mut Self {
        self.quic.retry_token_lifetime = Some(value);
        self
    }

    /// Lets clients go on from another address; `true` by default. `false` behind what sends datagrams to servers by their
    /// sender's address: there they would come to another one.
    pub fn migration(&mut self, value: bool) -> &mut Self {
        self.quic.migration = Some(value);
        self
    }

    /// IPv4 address of this server that clients go over to after the handshake; none by default. For servers whose first
    /// address is shared by many.
    pub fn preferred_address_v4(&mut self, address: Option<SocketAddrV4>) -> &mut Self {
        self.quic.preferred_address_v4 = address;
        self
    }

    /// IPv6 address of this server that clients go over to after the handshake; none by default. As
    /// [`Self::preferred_address_v4`].
    pub fn preferred_address_v6(&mut self, address: Option<SocketAddrV6>) -> &mut Self {
        self.quic.preferred_address_v6 = address;
        self
    }

    /// Handshakes waiting for `accept` at once: 1,024 by default. [`Self::accepts_max`] by quinn's name.
    pub fn max_incoming(&mut self, max_incoming: usize) -> &mut Self {
        self.accepts_max = max_incoming;
        self
    }

    /// Bytes kept for one client that waits for `accept`, beyond its first packet: 64 KiB by default. What finds no room is
    /// dropped, and sent again.
    pub fn incoming_buffer_size(&mut self, bytes: u64) -> &mut Self {
        self.quic.incoming_buffer_size = Some(bytes);
        self
    }

    /// Bytes kept for all clients that wait for `accept`, beyond their first packets: 16 MiB by default. More for servers that
    /// accept late.
    pub fn incoming_buffer_size_total(&mut self, bytes: u64) -> &mut Self {
        self.quic.incoming_buffer_size_total = Some(bytes);
        self
    }

    /// Clock by which address tokens expire. By default it is the time since the endpoint was created: its key is its own,
    /// so that no token outlives it. Tokens whose key is shared, or kept, need a wall clock: [`StdSystemTime`].
    ///
    /// [`StdSystemTime`]: crate::StdSystemTime
    pub fn time_source(&mut self, time_source: Arc<dyn TimeSource>) -> &mut Self {
        self.quic.time_source = Some(time_source);
        self
    }

    /// Serves sessions as their primary; `signer` signs tickets and jobs and is not the TLS key. By default a server that has
    /// no role is one with a key that its endpoint draws. Spec: PROTOCOL §9.
    #[must_use]
    pub fn primary(mut self, signer: Arc<dyn Signer>) -> Self {
        self.primary = Some(signer);
        self
    }

    /// Serves paths of sessions that other servers own; by default none.
    #[must_use]
    pub fn secondary(mut self, config: SecondaryConfig) -> Self {
        self.secondary = Some(config);
        self
    }

    /// Replaces the transport settings, by default those of [`TransportConfig::default`].
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Handshakes waiting for `accept` at once: 1,024 by default, 1 to 1,048,576. Further clients are ignored until there is
    /// room, and counted in [`Endpoint::initials_ignored`](crate::Endpoint::initials_ignored). More for servers that are late to
    /// accept when very many come at once.
    #[must_use]
    pub fn accepts_max(mut self, value: usize) -> Self {
        self.accepts_max = value;
        self
    }

    /// Clients that may be half-open without a proof of address, before every further one is sent for the proof: 512 by
    /// default, 0 (always) to less than [`Self::half_open_max`]; `None` never sends any.
    ///
    /// Half-open is a client from its first flight to its accepted hello. The proof (a Retry packet, RFC 9000 §8.1.2) costs
    /// it a round trip and the server no memory, and happens before the application hears of the client. It is asked for
    /// as well once a quarter of [`Self::half_open_per_prefix`] is taken by clients of one network without it, or half of
    /// [`Self::accepts_max`] by any. Without automatic Retry whoever forges addresses can fill both bounds, unless the
    /// application sends Retry packets itself. Spec: RATIONALE §11.
    #[must_use]
    pub fn retry_above(mut self, value: Option<usize>) -> Self {
        self.retry_above = value;
        self
    }

    /// Clients that may be half-open at once, in all: 8,192 by default, 1 to 1,048,576. Each takes some 29 KiB. Further
    /// ones get no answer, are counted, and ask again by themselves. Less on machines with little memory.
    #[must_use]
    pub fn half_open_max(mut self, value: usize) -> Self {
        self.half_open_max = value;
        self
    }

    /// Clients of one network that may be half-open at once, a /24 of IPv4 or a /64 of IPv6: 1,024 by default, 1 to
    /// 1,048,576. Further ones get no answer, are counted, and ask again by themselves. More where many clients come from
    /// behind one address.
    #[must_use]
    pub fn half_open_per_prefix(mut self, value: usize) -> Self {
        self.half_open_per_prefix = value;
        self
    }

    /// Bytes of received datagrams that may wait for the tasks of all sessions that this server has accepted, together:
    /// 256 MiB by default, 1 MiB to 2^48. For adapters; the core keeps no datagrams.
    ///
    /// Each session may have as much as is left, and never more than its windows are for; before its hello is accepted no
    /// more than 128 KiB, and all such sessions together an eighth. What finds no room is dropped and counted, and sent
    /// again by its sender. Spec: RATIONALE §11.
    #[must_use]
    pub fn backlog_max(mut self, value: u64) -> Self {
        self.backlog_max = value;
        self
    }

    /// Returns whether these settings can be used.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfRange`] with the name of the first setting that is outside its range.
    /// - Others as [`TransportConfig::check`].
    pub fn check(&self) -> Result<(), ConfigError> {
        check_protocols(self.app_protocols())?;
        if !(1..=limits::ACCEPTS_CEILING).contains(&self.accepts_max) {
            return Err(ConfigError::OutOfRange("accepts_max"));
        }
        if !(1..=limits::HALF_OPEN_CEILING).contains(&self.half_open_max) {
            return Err(ConfigError::OutOfRange("half_open_max"));
        }
        if !(1..=limits::HALF_OPEN_CEILING).contains(&self.half_open_per_prefix) {
            return Err(ConfigError::OutOfRange("half_open_per_prefix"));
        }
        if !(limits::BACKLOG_MIN..=limits::WINDOW_CEILING).contains(&self.backlog_max) {
            return Err(ConfigError::OutOfRange("backlog_max"));
        }
        if self.retry_above.is_some_and(|above| above >= self.half_open_max) {
            return Err(ConfigError::OutOfRange("retry_above"));
        }
        if self.quic.retry_token_lifetime.is_some_and(|value| value > limits::TOKEN_LIFETIME_CEILING) {
            return Err(ConfigError::OutOfRange("retry_token_lifetime"));
        }
        self.validation_token.check()?;
        self.transport.check()
    }

    pub(crate) fn tls(&self) -> &Arc<rustls::ServerConfig> {
        self.crypto.rustls().tls()
    }

    pub(crate) fn app_protocols(&self) -> &[Bytes] {
        self.crypto.rustls().app_protocols()
    }

    /// Sets the secret key of stateless resets (RFC 9000 §10.3), 32 bytes; random for each endpoint by default.
    ///
    /// A server that has lost its state, and has the key that it had before, tells whoever still sends to it so at once:
    /// clients lose a path, or their primary, a round trip after the restart and not a timeout later.
    ///
    /// One for each machine, never shared: a server that has another's key tells whoever sends it a packet of the other's
    /// connections how to end them (RFC 9000 §21.11). Behind one address servers may share it only if whatever distributes
    /// datagrams never takes those of one connection to two of them. It counts when an endpoint is created; replacing a running endpoint's configuration does not
    /// change it.
    #[must_use]
    pub fn reset_key(mut self, key: [u8; 32]) -> Self {
        self.reset_key = Some(key);
        self
    }
}

impl TryFrom<rustls::ServerConfig> for ServerConfig {
    type Error = ConfigError;

    /// Uses a TLS configuration, as [`Self::with_crypto`] does.
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    fn try_from(tls: rustls::ServerConfig) -> Result<Self, ConfigError> {
        let crypto = QuicServerConfig::try_from(tls).map_err(|_| ConfigError::Tls)?;
        check_protocols(crypto.app_protocols())?;
        Ok(Self::with_crypto(Arc::new(crypto)))
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("transport", &self.transport)
            .field("primary", &self.primary.is_some())
            .field("secondary", &self.secondary)
            .finish_non_exhaustive()
    }
}

/// Primaries whose tickets a secondary honours, and the keys by which they name it. Spec: PROTOCOL §9.
#[derive(Clone, Debug)]
pub struct SecondaryConfig {
    pub(crate) primaries: Vec<PublicKey>,
    pub(crate) identities: Vec<SpkiHash>,
    pub(crate) signer: Option<Arc<dyn Signer>>,
}

impl SecondaryConfig {
    /// Trusts tickets and jobs signed by `primary`, issued to the holder of `certificate`'s key.
    ///
    /// A ticket is good once at each endpoint that has the key, for as long as the endpoint lives: it is the endpoint that
    /// remembers. So give every server a key of its own. Where several share one, or one is started anew within 65 s, the
    /// client that holds a ticket can attach again with it, and have its jobs filled up to their totals once more. Nobody else
    /// can: the ticket names the client's key.
    ///
    /// # Errors
    /// - [`ConfigError::Certificate`] if the certificate does not parse.
    pub fn new(primary: PublicKey, certificate: &CertificateDer<'_>) -> Result<Self, ConfigError> {
        let identity = ticket::spki_hash(certificate).ok_or(ConfigError::Certificate)?;
        Ok(Self { primaries: vec![primary], identities: vec![identity], signer: None })
    }

    /// Signs the messages that this server has relayed to its primaries; not with the TLS key. By default they are not signed,
    /// and the primary takes them for the client's word. Spec: PROTOCOL §9.
    #[must_use]
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Trusts one more primary than the one that it has by default, or one more key of the same, for roll-over: name the next key before any session is signed
    /// with it, and the last one until those that are have ended. At most 16, or the configuration is refused.
    #[must_use]
    pub fn primary(mut self, key: PublicKey) -> Self {
        self.primaries.push(key);
        self
    }

    /// Answers to one more certificate than the one that it has by default, for roll-over: tickets may name this key before the server shows it, and after.
    ///
    /// # Errors
    /// - [`ConfigError::Certificate`] if the certificate does not parse.
    pub fn certificate(mut self, certificate: &CertificateDer<'_>) -> Result<Self, ConfigError> {
        self.identities.push(ticket::spki_hash(certificate).ok_or(ConfigError::Certificate)?);
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
