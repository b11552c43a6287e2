//! Settings. Each default is a constant of `limits.rs`, with its reason there or in RATIONALE §11.

mod transport;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

pub use self::transport::TransportConfig;
use crate::{
    error::ConfigError,
    id::{PublicKey, SpkiHash},
    lease::ticket::{self, Signer},
    limits,
    path::dial::DialPolicy,
};

/// Settings for dialling: TLS configuration, application protocols, and the rule for which addresses a primary may name.
#[derive(Clone)]
pub struct ClientConfig {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) app_protocols: Vec<Bytes>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) dial_policy: Arc<dyn DialPolicy>,
    pub(crate) authenticate_to_secondaries: bool,
}

impl ClientConfig {
    /// Takes over a TLS configuration. Its ALPN list becomes the application's own, carried in the hello: a primary may name
    /// one of these or none, anything else ends the session (`VERSION`). Early data is turned off, whatever the
    /// configuration says (RATIONALE §9).
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    pub fn new(mut tls: rustls::ClientConfig) -> Result<Self, ConfigError> {
        let app_protocols = take_protocols(&mut tls.alpn_protocols)?;
        tls.enable_early_data = false;
        crate::quic::check_client_tls(&tls)?;
        Ok(Self {
            tls: Arc::new(tls),
            app_protocols,
            transport: Arc::new(TransportConfig::default()),
            dial_policy: Arc::new(crate::path::dial::NotMorePrivate),
            authenticate_to_secondaries: false,
        })
    }

    /// Replaces the transport settings.
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Replaces the rule for which addresses a primary may name. Spec: PROTOCOL §9.
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
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// Settings for accepting: TLS configuration and the roles that the server plays.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) app_protocols: Vec<Bytes>,
    pub(crate) transport: Arc<TransportConfig>,
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
    /// Takes over a TLS configuration. Its ALPN list becomes the application's own, matched against the hello: if it names any
    /// protocols, a client that does not offer one of them is refused (`VERSION`).
    /// Early data is refused, whatever the configuration says: it can be replayed (RATIONALE §9). The server plays
    /// no role until [`Self::primary`] or [`Self::secondary`] gives it one.
    ///
    /// # Errors
    /// - [`ConfigError::Tls`] if it cannot be used for QUIC.
    /// - [`ConfigError::OutOfRange`] if there are more than 16 application protocols, or one is longer than 255 bytes.
    pub fn new(mut tls: rustls::ServerConfig) -> Result<Self, ConfigError> {
        let app_protocols = take_protocols(&mut tls.alpn_protocols)?;
        tls.max_early_data_size = 0;
        crate::quic::check_server_tls(&tls)?;
        Ok(Self {
            tls: Arc::new(tls),
            app_protocols,
            transport: Arc::new(TransportConfig::default()),
            primary: None,
            secondary: None,
            accepts_max: limits::ACCEPTS_MAX,
            retry_above: Some(limits::RETRY_ABOVE),
            half_open_max: limits::HALF_OPEN_MAX,
            half_open_per_prefix: limits::HALF_OPEN_PER_PREFIX,
            backlog_max: limits::BACKLOG_MAX,
            reset_key: None,
        })
    }

    /// Serves sessions as their primary; `signer` signs tickets and jobs and is not the TLS key. Spec: PROTOCOL §9.
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

    /// Handshakes waiting for `accept` at once, 1 to 1,048,576; further clients are ignored until there is room, and
    /// counted in [`Endpoint::initials_ignored`](crate::Endpoint::initials_ignored).
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
    /// ones get no answer, are counted, and ask again by themselves.
    #[must_use]
    pub fn half_open_max(mut self, value: usize) -> Self {
        self.half_open_max = value;
        self
    }

    /// Clients of one network that may be half-open at once, a /24 of IPv4 or a /64 of IPv6: 1,024 by default, 1 to
    /// 1,048,576. Further ones get no answer, are counted, and ask again by themselves.
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
        self.transport.check()
    }

    /// Sets the secret key of stateless resets (RFC 9000 §10.3); random for each endpoint by default.
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

    /// Signs the messages that this server has relayed to its primaries; not with the TLS key. Spec: PROTOCOL §9.
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
