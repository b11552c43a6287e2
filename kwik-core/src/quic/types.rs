//! Types of quinn-proto that are KWIK's as they are: they hold no rule of KWIK's and name no type that KWIK has of its own.

pub use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, FrameType, NoneTokenLog, NoneTokenStore, StdSystemTime, TimeSource,
    TokenLog, TokenMemoryCache, TokenReuseError, TokenStore, TransportErrorCode, VarIntBoundsExceeded,
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
use crate::config::{AckFrequencyConfig, MtuDiscoveryConfig, QuicSettings, ValidationTokenConfig};

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

impl MtuDiscoveryConfig {
    fn to_quic(&self) -> quinn_proto::MtuDiscoveryConfig {
        let mut config = quinn_proto::MtuDiscoveryConfig::default();
        config
            .interval(self.interval)
            .upper_bound(self.upper_bound)
            .minimum_change(self.minimum_change)
            .black_hole_cooldown(self.black_hole_cooldown);
        config
    }
}

impl ValidationTokenConfig {
    pub(super) fn to_quic(&self) -> quinn_proto::ValidationTokenConfig {
        let mut config = quinn_proto::ValidationTokenConfig::default();
        config.lifetime(self.lifetime).log(self.log.clone()).sent(self.sent);
        config
    }
}

impl QuicSettings {
    /// Sets what was set here, and leaves the rest as quinn-proto has it.
    pub(super) fn apply(&self, transport: &mut quinn_proto::TransportConfig, mtu_max: u16) {
        let mut by_default = MtuDiscoveryConfig::default();
        by_default.upper_bound(mtu_max);
        let discovery = self.mtu_discovery_config.as_ref().map_or(Some(&by_default), Option::as_ref);
        transport
            .mtu_discovery_config(discovery.map(MtuDiscoveryConfig::to_quic))
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

#[cfg(test)]
mod tests {
    use crate::rng::Rng;

    /// The defaults that the pages of settings state for those left to quinn-proto (`config::tests`).
    #[test]
    fn the_defaults_that_are_stated_are_quinn_protos() {
        let transport = format!("{:?}", quinn_proto::TransportConfig::default());
        let tls = crate::session::tests::Authority::new().server("a.test").0;
        let tls = quinn_proto::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let token_key = super::super::cid::token_key(&mut Rng::from_seed([1; 32]));
        let server = quinn_proto::ServerConfig::new(std::sync::Arc::new(tls), token_key);
        let server = format!("{server:?}");
        for (said, stated) in [
            (&transport, "packet_threshold: 3,"),
            (&transport, "time_threshold: 1.125,"),
            (&transport, "initial_mtu: 1200,"),
            (&transport, "min_mtu: 1200,"),
            (&transport, "persistent_congestion_threshold: 3,"),
            (&transport, "crypto_buffer_size: 16384,"),
            (&transport, "initial_rtt: 333ms,"),
            (&transport, "allow_spin: true,"),
            (&transport, "pad_to_mtu: false,"),
            (&transport, "send_fairness: true,"),
            (&transport, "enable_segmentation_offload: true"),
            (&server, "retry_token_lifetime: 15s,"),
            (&server, "migration: true,"),
        ] {
            assert!(said.contains(stated), "{stated} is not so: {said}");
        }
        let endpoint =
            format!("{:?}", quinn_proto::EndpointConfig::new(super::super::cid::reset_key(&[1; 32])));
        assert!(endpoint.contains("grease_quic_bit: true"), "{endpoint}");
    }
}
