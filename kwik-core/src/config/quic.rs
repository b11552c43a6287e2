//! Settings of QUIC's that mean to KWIK what they mean to quinn: kept until a connection is made.

use std::{
    fmt,
    net::{SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use crate::{
    crypto::HandshakeTokenKey,
    error::VarInt,
    quic::{MtuDiscoveryConfig, TimeSource, VarIntBoundsExceeded, congestion::ControllerFactory},
};

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

/// Frequency of acknowledgements that the peer is asked for (draft-ietf-quic-ack-frequency-04), if it knows how.
#[derive(Clone, Debug)]
pub struct AckFrequencyConfig {
    pub(crate) ack_eliciting_threshold: VarInt,
    pub(crate) max_ack_delay: Option<Duration>,
    pub(crate) reordering_threshold: VarInt,
}

impl AckFrequencyConfig {
    /// Packets that may come without an acknowledgement at once: 1 by default, which acknowledges every other one.
    pub fn ack_eliciting_threshold(&mut self, value: VarInt) -> &mut Self {
        self.ack_eliciting_threshold = value;
        self
    }

    /// Longest wait before an acknowledgement; `None`, the default, leaves it to the peer.
    pub fn max_ack_delay(&mut self, value: Option<Duration>) -> &mut Self {
        self.max_ack_delay = value;
        self
    }

    /// Packets out of order that are acknowledged at once: 2 by default, 0 never.
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
