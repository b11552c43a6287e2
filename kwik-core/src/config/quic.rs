//! Settings of QUIC's that mean to KWIK what they mean to quinn: kept until a connection is made.

use std::{
    fmt,
    net::{SocketAddrV4, SocketAddrV6},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::transport::{MTU_CEILING, MTU_MAX, MTU_MIN};
use crate::{
    crypto::HandshakeTokenKey,
    error::{ConfigError, VarInt},
    limits::{TOKEN_LIFETIME_CEILING, WAIT_CEILING, WAIT_MIN},
    quic::{NoneTokenLog, TimeSource, TokenLog, VarIntBoundsExceeded, congestion::ControllerFactory},
};

/// RFC 9002 §6.1.1: fewer would take reordering for loss.
const PACKET_THRESHOLD_MIN: u32 = 3;
/// Round trips that a packet may be late: less than one would be before its acknowledgement can be there.
const TIME_THRESHOLD: RangeInclusive<f32> = 1.0..=16.0;
/// Probe timeouts in a row: the product with one must fit a duration.
const PERSISTENT_CONGESTION: RangeInclusive<u32> = 1..=1000;
/// RFC 9000 §7.5 asks for 4 KiB at least; a certificate chain of 16 MiB is none.
const CRYPTO_BUFFER: RangeInclusive<usize> = 4 * 1024..=16 * 1024 * 1024;

/// Settings of a connection; what is `None` is as quinn-proto has it.
#[derive(Clone, Default)]
pub(crate) struct QuicSettings {
    pub(crate) send_fairness: Option<bool>,
    pub(crate) packet_threshold: Option<u32>,
    pub(crate) time_threshold: Option<f32>,
    pub(crate) initial_mtu: Option<u16>,
    pub(crate) min_mtu: Option<u16>,
    pub(crate) mtu_discovery_config: Option<Option<MtuDiscoveryConfig>>,
    pub(crate) pad_to_mtu: Option<bool>,
    pub(crate) ack_frequency_config: Option<AckFrequencyConfig>,
    pub(crate) persistent_congestion_threshold: Option<u32>,
    pub(crate) crypto_buffer_size: Option<usize>,
    pub(crate) allow_spin: Option<bool>,
    pub(crate) congestion_controller_factory: Option<Arc<dyn ControllerFactory + Send + Sync>>,
    pub(crate) enable_segmentation_offload: Option<bool>,
}

impl QuicSettings {
    /// Returns whether what was set is in its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mtu = MTU_MIN..=MTU_CEILING;
        let in_range = [
            ("packet_threshold", self.packet_threshold.is_none_or(|value| value >= PACKET_THRESHOLD_MIN)),
            ("time_threshold", self.time_threshold.is_none_or(|value| TIME_THRESHOLD.contains(&value))),
            ("initial_mtu", self.initial_mtu.is_none_or(|value| mtu.contains(&value))),
            ("min_mtu", self.min_mtu.is_none_or(|value| mtu.contains(&value))),
            (
                "persistent_congestion_threshold",
                self.persistent_congestion_threshold
                    .is_none_or(|value| PERSISTENT_CONGESTION.contains(&value)),
            ),
            (
                "crypto_buffer_size",
                self.crypto_buffer_size.is_none_or(|value| CRYPTO_BUFFER.contains(&value)),
            ),
        ];
        if let Some((name, _)) = in_range.iter().find(|(_, right)| !right) {
            return Err(ConfigError::OutOfRange(name));
        }
        self.mtu_discovery_config.iter().flatten().try_for_each(MtuDiscoveryConfig::check)
    }
}

impl fmt::Debug for QuicSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSettings")
            .field("send_fairness", &self.send_fairness)
            .field("packet_threshold", &self.packet_threshold)
            .field("time_threshold", &self.time_threshold)
            .field("initial_mtu", &self.initial_mtu)
            .field("min_mtu", &self.min_mtu)
            .field("mtu_discovery_config", &self.mtu_discovery_config)
            .field("pad_to_mtu", &self.pad_to_mtu)
            .field("ack_frequency_config", &self.ack_frequency_config)
            .field("persistent_congestion_threshold", &self.persistent_congestion_threshold)
            .field("crypto_buffer_size", &self.crypto_buffer_size)
            .field("allow_spin", &self.allow_spin)
            .field("congestion_controller_factory", &self.congestion_controller_factory.is_some())
            .field("enable_segmentation_offload", &self.enable_segmentation_offload)
            .finish()
    }
}

/// Settings of a server; what is `None` is as KWIK has it, or else quinn-proto.
#[derive(Clone, Default)]
pub(crate) struct QuicServerSettings {
    pub(crate) token_key: Option<Arc<dyn HandshakeTokenKey>>,
    pub(crate) retry_token_lifetime: Option<Duration>,
    pub(crate) migration: Option<bool>,
    pub(crate) preferred_address_v4: Option<SocketAddrV4>,
    pub(crate) preferred_address_v6: Option<SocketAddrV6>,
    pub(crate) incoming_buffer_size: Option<u64>,
    pub(crate) incoming_buffer_size_total: Option<u64>,
    pub(crate) time_source: Option<Arc<dyn TimeSource>>,
}

/// A time without traffic after which a connection is dead, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdleTimeout(VarInt);

impl IdleTimeout {
    /// `None` for 0, which means no end (RFC 9000 §18.2).
    pub(super) fn duration(self) -> Option<Duration> {
        Some(Duration::from_millis(self.0.into_inner())).filter(|timeout| !timeout.is_zero())
    }
}

impl From<VarInt> for IdleTimeout {
    fn from(millis: VarInt) -> Self {
        Self(millis)
    }
}

impl TryFrom<Duration> for IdleTimeout {
    type Error = VarIntBoundsExceeded;

    fn try_from(timeout: Duration) -> Result<Self, VarIntBoundsExceeded> {
        VarInt::try_from(timeout.as_millis()).map(Self)
    }
}

/// Search for the largest UDP payload that a path carries (RFC 8899).
#[derive(Clone, Debug)]
pub struct MtuDiscoveryConfig {
    pub(crate) interval: Duration,
    pub(crate) upper_bound: u16,
    pub(crate) minimum_change: u16,
    pub(crate) black_hole_cooldown: Duration,
}

impl MtuDiscoveryConfig {
    /// Time from the end of one search to the next: 600 s by default, 10 ms to a day. A shorter one finds out sooner that a
    /// path carries more than it did, for a few probes each time.
    pub fn interval(&mut self, value: Duration) -> &mut Self {
        self.interval = value;
        self
    }

    /// Largest UDP payload to search for, in bytes: 1,452 by default, 1,200 to 65,527. For networks with jumbo frames, whose
    /// larger packets cost less; a bound that no path reaches costs some probes that are lost.
    pub fn upper_bound(&mut self, value: u16) -> &mut Self {
        self.upper_bound = value;
        self
    }

    /// Time until the next search, once packets of the size that was found are lost in a row: 60 s by default, 10 ms to a
    /// day. That may have been congestion alone.
    pub fn black_hole_cooldown(&mut self, value: Duration) -> &mut Self {
        self.black_hole_cooldown = value;
        self
    }

    /// Bytes below which what is left to gain ends a search: 20 by default, at least 1.
    pub fn minimum_change(&mut self, value: u16) -> &mut Self {
        self.minimum_change = value;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        let time = WAIT_MIN..=WAIT_CEILING;
        let in_range = [
            ("interval", time.contains(&self.interval)),
            ("upper_bound", (MTU_MIN..=MTU_CEILING).contains(&self.upper_bound)),
            ("black_hole_cooldown", time.contains(&self.black_hole_cooldown)),
            ("minimum_change", self.minimum_change > 0), // the search would have no end
        ];
        let wrong = in_range.iter().find(|(_, right)| !right);
        wrong.map_or(Ok(()), |(name, _)| Err(ConfigError::OutOfRange(name)))
    }
}

impl Default for MtuDiscoveryConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            upper_bound: MTU_MAX,
            minimum_change: 20,
            black_hole_cooldown: Duration::from_secs(60),
        }
    }
}

/// Address tokens of `NEW_TOKEN` frames (RFC 9000 §8.1.3), by which a client that comes back is not asked for a proof of its
/// address. By default none are sent, and none are honoured: such a token tells one server what another has seen of a client.
#[derive(Clone)]
pub struct ValidationTokenConfig {
    pub(crate) lifetime: Duration,
    pub(crate) log: Arc<dyn TokenLog>,
    pub(crate) sent: u32,
}

impl ValidationTokenConfig {
    /// Time for which a token is good: two weeks by default, at most a year. The log must remember as long which were used.
    pub fn lifetime(&mut self, value: Duration) -> &mut Self {
        self.lifetime = value;
        self
    }

    /// Memory of which tokens were used; by default [`NoneTokenLog`], which honours none.
    pub fn log(&mut self, log: Arc<dyn TokenLog>) -> &mut Self {
        self.log = log;
        self
    }

    /// Tokens that a client is sent when its address is proved: 0 by default. Each is good for one connection.
    pub fn sent(&mut self, value: u32) -> &mut Self {
        self.sent = value;
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let right = self.lifetime <= TOKEN_LIFETIME_CEILING;
        if right { Ok(()) } else { Err(ConfigError::OutOfRange("lifetime")) }
    }
}

impl Default for ValidationTokenConfig {
    fn default() -> Self {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
        Self { lifetime: 2 * WEEK, log: Arc::new(NoneTokenLog), sent: 0 }
    }
}

impl fmt::Debug for ValidationTokenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidationTokenConfig")
            .field("lifetime", &self.lifetime)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

/// Frequency of acknowledgements that the peer is asked for (draft-ietf-quic-ack-frequency-04), if it knows how.
#[derive(Clone, Debug)]
pub struct AckFrequencyConfig {
    pub(crate) ack_eliciting_threshold: VarInt,
    pub(crate) max_ack_delay: Option<Duration>,
    pub(crate) reordering_threshold: VarInt,
}

impl AckFrequencyConfig {
    /// Packets that may come without an acknowledgement at once: 1 by default, which acknowledges every other one. More save
    /// the peer work, and make losses and round trips known later.
    pub fn ack_eliciting_threshold(&mut self, value: VarInt) -> &mut Self {
        self.ack_eliciting_threshold = value;
        self
    }

    /// Longest wait before an acknowledgement; `None` by default, which leaves it to the peer. A round trip at most, or 25 ms if
    /// that is shorter, is what it is asked for.
    pub fn max_ack_delay(&mut self, value: Option<Duration>) -> &mut Self {
        self.max_ack_delay = value;
        self
    }

    /// Packets that one may be out of order by before it is acknowledged at once: 2 by default, which is one less than
    /// [`TransportConfig::packet_threshold`](super::TransportConfig::packet_threshold); 0 never.
    pub fn reordering_threshold(&mut self, value: VarInt) -> &mut Self {
        self.reordering_threshold = value;
        self
    }
}

impl Default for AckFrequencyConfig {
    fn default() -> Self {
        Self {
            ack_eliciting_threshold: VarInt::from_u32(1),
            max_ack_delay: None,
            reordering_threshold: VarInt::from_u32(2),
        }
    }
}
