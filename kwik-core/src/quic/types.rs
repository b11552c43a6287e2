//! Types of quinn-proto that are KWIK's as they are: they hold no rule of KWIK's and name no type that KWIK has of its own.

pub use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, FrameType, MtuDiscoveryConfig, NoneTokenLog, NoneTokenStore,
    StdSystemTime, TimeSource, TokenLog, TokenMemoryCache, TokenReuseError, TokenStore, TransportErrorCode,
    ValidationTokenConfig, VarIntBoundsExceeded,
};

/// Congestion controllers, and what one has to do: quinn's.
///
/// [`BbrConfig`](congestion::BbrConfig)'s draws its own randomness from the operating system: a session that uses it is not
/// to be replayed.
pub mod congestion {
    pub use quinn_proto::{
        RttEstimator,
        congestion::{
            Bbr, BbrConfig, Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig, NewReno,
            NewRenoConfig,
        },
    };
}

/// The part of quinn-proto's abstraction of cryptography that an application may hold or implement.
pub(crate) mod crypto {
    pub use quinn_proto::crypto::{
        AeadKey, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, HmacKey, KeyPair,
        Keys, PacketKey, Session, UnsupportedVersion, rustls::NoInitialCipherSuite,
    };
}

use super::event::varint;
use crate::config::{AckFrequencyConfig, QuicSettings};

impl AckFrequencyConfig {
    fn to_quic(&self) -> quinn_proto::AckFrequencyConfig {
        let mut config = quinn_proto::AckFrequencyConfig::default();
        config
            .ack_eliciting_threshold(varint(self.ack_eliciting_threshold.into_inner()))
            .max_ack_delay(self.max_ack_delay)
            .reordering_threshold(varint(self.reordering_threshold.into_inner()));
        config
    }
}

impl QuicSettings {
    /// Sets what was set here, and leaves the rest as quinn-proto has it.
    pub(super) fn apply(&self, transport: &mut quinn_proto::TransportConfig, mtu_max: u16) {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu_max);
        transport
            .mtu_discovery_config(self.mtu_discovery_config.clone().unwrap_or(Some(discovery)))
            .ack_frequency_config(self.ack_frequency_config.as_ref().map(AckFrequencyConfig::to_quic));
        if let Some(fair) = self.send_fairness {
            transport.send_fairness(fair);
        }
        if let Some(packets) = self.packet_threshold {
            transport.packet_threshold(packets);
        }
        if let Some(factor) = self.time_threshold {
            transport.time_threshold(factor);
        }
        if let Some(bytes) = self.initial_mtu {
            transport.initial_mtu(bytes);
        }
        if let Some(bytes) = self.min_mtu {
            transport.min_mtu(bytes);
        }
        if let Some(pad) = self.pad_to_mtu {
            transport.pad_to_mtu(pad);
        }
        if let Some(timeouts) = self.persistent_congestion_threshold {
            transport.persistent_congestion_threshold(timeouts);
        }
        if let Some(bytes) = self.crypto_buffer_size {
            transport.crypto_buffer_size(bytes);
        }
        if let Some(allow) = self.allow_spin {
            transport.allow_spin(allow);
        }
        if let Some(factory) = &self.congestion_controller_factory {
            transport.congestion_controller_factory(factory.clone());
        }
        if let Some(offload) = self.enable_segmentation_offload {
            transport.enable_segmentation_offload(offload);
        }
    }
}
