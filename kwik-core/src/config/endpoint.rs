//! Settings of an endpoint, for all its connections.

use std::{fmt, sync::Arc, time::Duration};

use crate::{crypto::HmacKey, error::ConfigError, limits, quic::ConnectionIdGenerator};

/// RFC 9000 §18.2: no end may ask for less.
const UDP_PAYLOAD_MIN: u16 = 1200;
/// Room of a UDP datagram over IPv6.
const UDP_PAYLOAD_CEILING: u16 = 65_527;
/// Ethernet without IP and UDP headers: quinn's default.
const UDP_PAYLOAD_MAX: u16 = 1472;

/// Makes the connection ids of an endpoint.
type Cids = dyn Fn() -> Box<dyn ConnectionIdGenerator> + Send + Sync;

/// Settings of an endpoint, for all its connections: by default as KWIK has them, which draws nothing from the operating
/// system but a seed.
#[derive(Clone, Default)]
pub struct EndpointConfig {
    pub(crate) reset_key: Option<Arc<dyn HmacKey>>,
    pub(crate) cid_generator: Option<Arc<Cids>>,
    pub(crate) max_udp_payload_size: Option<u16>,
    pub(crate) supported_versions: Option<Vec<u32>>,
    pub(crate) grease_quic_bit: Option<bool>,
    pub(crate) min_reset_interval: Option<Duration>,
    pub(crate) rng_seed: Option<[u8; 32]>,
}

impl EndpointConfig {
    /// Starts from the defaults, with a key of stateless resets.
    #[must_use]
    pub fn new(reset_key: Arc<dyn HmacKey>) -> Self {
        Self { reset_key: Some(reset_key), ..Self::default() }
    }

    /// Replaces where the ids of this endpoint's connections come from: by default 8 bytes of its own randomness each.
    ///
    /// `factory` is called once for each endpoint that is made of this.
    pub fn cid_generator<F: Fn() -> Box<dyn ConnectionIdGenerator> + Send + Sync + 'static>(
        &mut self,
        factory: F,
    ) -> &mut Self {
        self.cid_generator = Some(Arc::new(factory));
        self
    }

    /// Sets the secret key of stateless resets (RFC 9000 §10.3), by default that of
    /// [`ServerConfig::reset_key`](crate::ServerConfig::reset_key), whose docs say when to have one.
    pub fn reset_key(&mut self, key: Arc<dyn HmacKey>) -> &mut Self {
        self.reset_key = Some(key);
        self
    }

    /// Longest UDP payload that peers may send, in bytes: 1,472 by default, 1,200 to 65,527. More for networks
    /// with jumbo frames; peers find out by themselves what the way carries.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfRange`] outside that.
    pub fn max_udp_payload_size(&mut self, value: u16) -> Result<&mut Self, ConfigError> {
        if !(UDP_PAYLOAD_MIN..=UDP_PAYLOAD_CEILING).contains(&value) {
            return Err(ConfigError::OutOfRange("max_udp_payload_size"));
        }
        self.max_udp_payload_size = Some(value);
        Ok(self)
    }

    /// Returns [`Self::max_udp_payload_size`].
    #[must_use]
    pub fn get_max_udp_payload_size(&self) -> u64 {
        self.max_udp_payload_size.unwrap_or(UDP_PAYLOAD_MAX).into()
    }

    /// QUIC versions that are spoken, at least one: 1 and its drafts 29 to 34 by default.
    pub fn supported_versions(&mut self, supported_versions: Vec<u32>) -> &mut Self {
        self.supported_versions = Some(supported_versions);
        self
    }

    /// Says that packets may have the fixed bit unset (RFC 9287); `true` by default. `false` for networks whose machines know
    /// QUIC by that bit.
    pub fn grease_quic_bit(&mut self, value: bool) -> &mut Self {
        self.grease_quic_bit = Some(value);
        self
    }

    /// Least time between two stateless resets: 20 ms by default, at most a day. Whoever sends packets that belong to no
    /// connection is answered no more often.
    pub fn min_reset_interval(&mut self, value: Duration) -> &mut Self {
        self.min_reset_interval = Some(value);
        self
    }

    /// The seed of every random choice, in place of entropy of the operating system. It must be secret and used once, or
    /// nothing is secret; `None` by default.
    pub fn rng_seed(&mut self, seed: Option<[u8; 32]>) -> &mut Self {
        self.rng_seed = seed;
        self
    }
}

impl EndpointConfig {
    /// Returns whether these settings can be used.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfRange`] with the name of the first setting that is outside its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.min_reset_interval.is_some_and(|value| value > limits::WAIT_CEILING) {
            return Err(ConfigError::OutOfRange("min_reset_interval"));
        }
        if self.supported_versions.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::OutOfRange("supported_versions"));
        }
        Ok(())
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("max_udp_payload_size", &self.max_udp_payload_size)
            .field("supported_versions", &self.supported_versions)
            .field("grease_quic_bit", &self.grease_quic_bit)
            .field("min_reset_interval", &self.min_reset_interval)
            .finish_non_exhaustive()
    }
}
