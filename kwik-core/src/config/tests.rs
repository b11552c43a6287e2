//! The pages of settings: each says its default, and says it right.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{error::VarInt, stream::conflict::ConflictPolicy};

/// Sources of all settings.
const SOURCES: [&str; 4] = [
    include_str!("../config.rs"),
    include_str!("endpoint.rs"),
    include_str!("quic.rs"),
    include_str!("transport.rs"),
];

/// Each setting's words, by type and name: those of every method that changes `self` and gives it back.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for source in SOURCES {
        let source = source.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let (mut of, mut page) = ("", String::new());
        let mut lines = source.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("impl ") {
                of = rest.trim_end_matches(" {");
            } else if let Some(said) = line.strip_prefix("    ///") {
                page.push_str(said);
            } else if let Some(head) = line.strip_prefix("    pub fn ") {
                let mut signature = head.to_owned();
                while !signature.contains('{') {
                    signature.push_str(lines.next().unwrap().trim());
                }
                let changed = signature.contains("&mut self") || signature.contains("mut self");
                if changed {
                    let name = head.split(['(', '<']).next().unwrap();
                    pages.insert(format!("{of}::{name}"), std::mem::take(&mut page));
                }
                page.clear();
            } else if !line.trim_start().starts_with("#[") {
                page.clear();
            }
        }
    }
    pages
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A setting, what is said of its default, and whether that is so. What is `None` here is quinn-proto's: `quic::types` has the
/// test of that.
type Stated = (&'static str, &'static str, bool);

fn stated_of_sessions() -> Vec<Stated> {
    let t = TransportConfig::default();
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    vec![
        ("TransportConfig::max_idle_timeout", "30 s by default", t.idle_timeout == s(30)),
        ("TransportConfig::idle_timeout", "30 s by default", t.idle_timeout == s(30)),
        ("TransportConfig::hello_timeout", "10 s by default", t.hello_timeout == s(10)),
        ("TransportConfig::attach_timeout", "2.5 s by default", t.attach_timeout == ms(2500)),
        ("TransportConfig::gap_timeout", "10 s by default", t.gap_timeout == s(10)),
        (
            "TransportConfig::conflict_policy",
            "by default the one that came first",
            t.conflict_policy == ConflictPolicy::FirstWins,
        ),
        ("TransportConfig::fault_score_max", "8 by default", t.fault_score_max == 8),
        ("TransportConfig::keep_alive_interval", "`None` by default", t.keep_alive_interval.is_none()),
        ("TransportConfig::initial_rtt", "333 ms by default", t.initial_rtt.is_none()),
        ("TransportConfig::mtu_max", "1,452 by default", t.mtu_max == 1452),
        (
            "TransportConfig::stream_receive_window",
            "2 MiB by default",
            u64::from(t.stream_receive_window) == 2 * MIB,
        ),
        ("TransportConfig::receive_window", "768 MiB by default", t.receive_window == 768 * MIB),
        ("TransportConfig::send_window", "8 MiB by default", t.send_window == 8 * MIB),
        ("TransportConfig::stream_window", "4 MiB by default", t.stream_window == 4 * MIB),
        ("TransportConfig::session_window", "64 MiB by default", t.session_window == 64 * MIB),
        (
            "TransportConfig::streams_start",
            "64 on a client and 16 on a server by default",
            (t.streams_start, limits::CLIENT_STREAMS_START, limits::SERVER_STREAMS_START) == (None, 64, 16),
        ),
        ("TransportConfig::streams_max", "128 by default", t.streams_most() == 128),
        (
            "TransportConfig::datagram_receive_buffer",
            "1 MiB by default",
            t.datagram_receive_buffer == Some(1 << 20),
        ),
        (
            "TransportConfig::datagram_receive_buffer_size",
            "1 MiB by default",
            t.datagram_receive_buffer == Some(1 << 20),
        ),
        ("TransportConfig::datagram_send_buffer", "1 MiB by default", t.datagram_send_buffer == 1 << 20),
        ("TransportConfig::datagram_send_buffer_size", "1 MiB by default", t.datagram_send_buffer == 1 << 20),
        ("TransportConfig::secondary_paths_max", "8 by default", t.secondary_paths_max == 8),
        ("TransportConfig::packet_threshold", "3 by default", t.quic.packet_threshold.is_none()),
        ("TransportConfig::time_threshold", "9/8 by default", t.quic.time_threshold.is_none()),
        ("TransportConfig::initial_mtu", "1,200 by default", t.quic.initial_mtu.is_none()),
        ("TransportConfig::min_mtu", "1,200 by default", t.quic.min_mtu.is_none()),
        (
            "TransportConfig::persistent_congestion_threshold",
            "3 by default",
            t.quic.persistent_congestion_threshold.is_none(),
        ),
        ("TransportConfig::crypto_buffer_size", "16 KiB by default", t.quic.crypto_buffer_size.is_none()),
        ("TransportConfig::allow_spin", "`true` by default", t.quic.allow_spin.is_none()),
        ("TransportConfig::pad_to_mtu", "`false` by default", t.quic.pad_to_mtu.is_none()),
        ("TransportConfig::send_fairness", "by default (`true`)", t.quic.send_fairness.is_none()),
        (
            "TransportConfig::enable_segmentation_offload",
            "`true` by default",
            t.quic.enable_segmentation_offload.is_none(),
        ),
    ]
}

fn stated_of_ends() -> Vec<Stated> {
    let s = Duration::from_secs;
    let authority = crate::session::tests::Authority::new();
    let server = ServerConfig::try_from(authority.server("a.test").0).unwrap();
    let client = ClientConfig::try_from(authority.client()).unwrap();
    let endpoint = EndpointConfig::default();
    let (mtu, acks) = (MtuDiscoveryConfig::default(), AckFrequencyConfig::default());
    vec![
        ("ServerConfig::accepts_max", "1,024 by default", server.accepts_max == 1024),
        ("ServerConfig::max_incoming", "1,024 by default", server.accepts_max == 1024),
        ("ServerConfig::retry_above", "512 by default", server.retry_above == Some(512)),
        ("ServerConfig::half_open_max", "8,192 by default", server.half_open_max == 8192),
        ("ServerConfig::half_open_per_prefix", "1,024 by default", server.half_open_per_prefix == 1024),
        ("ServerConfig::backlog_max", "256 MiB by default", server.backlog_max == 256 * MIB),
        ("ServerConfig::retry_token_lifetime", "15 s by default", server.quic.retry_token_lifetime.is_none()),
        ("ClientConfig::version", "1 by default", client.version == 1),
        (
            "ClientConfig::authenticate_to_secondaries",
            "`false` by default",
            !client.authenticate_to_secondaries,
        ),
        (
            "EndpointConfig::max_udp_payload_size",
            "1,472 by default",
            endpoint.get_max_udp_payload_size() == 1472,
        ),
        ("MtuDiscoveryConfig::interval", "600 s by default", mtu.interval == s(600)),
        ("MtuDiscoveryConfig::upper_bound", "1,452 by default", mtu.upper_bound == 1452),
        ("MtuDiscoveryConfig::black_hole_cooldown", "60 s by default", mtu.black_hole_cooldown == s(60)),
        ("MtuDiscoveryConfig::minimum_change", "20 by default", mtu.minimum_change == 20),
        (
            "ValidationTokenConfig::lifetime",
            "two weeks by default",
            server.validation_token.lifetime == s(14 * 24 * 3600),
        ),
        ("ValidationTokenConfig::sent", "0 by default", server.validation_token.sent == 0),
        (
            "AckFrequencyConfig::ack_eliciting_threshold",
            "1 by default",
            acks.ack_eliciting_threshold == VarInt::from_u32(1),
        ),
        (
            "AckFrequencyConfig::reordering_threshold",
            "2 by default",
            acks.reordering_threshold == VarInt::from_u32(2),
        ),
        ("AckFrequencyConfig::max_ack_delay", "`None` by default", acks.max_ack_delay.is_none()),
    ]
}

#[test]
fn each_setting_says_its_default_and_says_it_right() {
    let pages = pages();
    assert!(pages.len() > 80, "only {} settings were found", pages.len());
    let silent: Vec<_> =
        pages.iter().filter(|(_, page)| !page.to_lowercase().contains("by default")).collect();
    assert!(silent.is_empty(), "these do not say what they are by default: {silent:#?}");
    for (setting, said, so) in [stated_of_sessions(), stated_of_ends()].concat() {
        let page = pages.get(setting).unwrap_or_else(|| panic!("{setting} is no setting"));
        assert!(page.contains(said), "{setting} does not say {said:?}: {page}");
        assert!(so, "{setting} is not {said}");
    }
}

/// Each was passed on to QUIC, and there a panic, an endless search, or clamped in silence.
#[test]
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
fn what_quic_could_not_use_is_an_error_that_names_it() {
    use crate::endpoint::Endpoint;
    type Change = fn(&mut TransportConfig) -> &mut TransportConfig;
    type Search = fn(&mut MtuDiscoveryConfig) -> &mut MtuDiscoveryConfig;
    fn search(config: &mut TransportConfig, change: Search) -> &mut TransportConfig {
        let mtu = change(&mut MtuDiscoveryConfig::default()).clone();
        config.mtu_discovery_config(Some(mtu))
    }
    let changes: [(&str, Change); 22] = [
        ("time_threshold", |c| c.time_threshold(-1.0)),
        ("time_threshold", |c| c.time_threshold(f32::NAN)),
        ("time_threshold", |c| c.time_threshold(f32::INFINITY)),
        ("packet_threshold", |c| c.packet_threshold(0)),
        ("persistent_congestion_threshold", |c| c.persistent_congestion_threshold(u32::MAX)),
        ("persistent_congestion_threshold", |c| c.persistent_congestion_threshold(0)),
        ("crypto_buffer_size", |c| c.crypto_buffer_size(0)),
        ("crypto_buffer_size", |c| c.crypto_buffer_size(usize::MAX)),
        ("initial_mtu", |c| c.initial_mtu(0)),
        ("initial_mtu", |c| c.initial_mtu(u16::MAX)),
        ("min_mtu", |c| c.min_mtu(1199)),
        ("min_mtu", |c| c.min_mtu(u16::MAX)),
        ("interval", |c| search(c, |mtu| mtu.interval(Duration::MAX))),
        ("interval", |c| search(c, |mtu| mtu.interval(Duration::ZERO))),
        ("upper_bound", |c| search(c, |mtu| mtu.upper_bound(1199))),
        ("upper_bound", |c| search(c, |mtu| mtu.upper_bound(u16::MAX))),
        ("black_hole_cooldown", |c| search(c, |mtu| mtu.black_hole_cooldown(Duration::MAX))),
        ("black_hole_cooldown", |c| search(c, |mtu| mtu.black_hole_cooldown(Duration::ZERO))),
        ("minimum_change", |c| search(c, |mtu| mtu.minimum_change(0))),
        ("stream_receive_window", |c| c.receive_window(VarInt::MAX).stream_receive_window(VarInt::MAX)),
        ("max_concurrent_bidi_streams", |c| c.max_concurrent_bidi_streams(VarInt::MAX)),
        ("max_concurrent_uni_streams", |c| c.max_concurrent_uni_streams(VarInt::MAX)),
    ];
    for (name, change) in changes {
        let mut config = TransportConfig::default();
        change(&mut config);
        assert_eq!(config.check(), Err(ConfigError::OutOfRange(name)));
    }

    let now = std::time::Instant::now();
    let authority = crate::session::tests::Authority::new();
    let server = || ServerConfig::try_from(authority.server("a.test").0).unwrap();
    let mut retry = server();
    retry.retry_token_lifetime(Duration::MAX);
    let mut tokens = ValidationTokenConfig::default();
    tokens.lifetime(Duration::MAX);
    let mut validation = server();
    validation.validation_token_config(tokens);
    for (name, server) in [("retry_token_lifetime", retry), ("lifetime", validation)] {
        assert_eq!(
            Endpoint::new([1; 32], now, Some(server), true).err(),
            Some(ConfigError::OutOfRange(name))
        );
    }
    let mut resets = EndpointConfig::default();
    resets.min_reset_interval(Duration::MAX);
    let mut versions = EndpointConfig::default();
    versions.supported_versions(Vec::new());
    for (name, config) in [("min_reset_interval", resets), ("supported_versions", versions)] {
        let made = Endpoint::with_config(config, [1; 32], now, None, true);
        assert_eq!(made.err(), Some(ConfigError::OutOfRange(name)));
    }
}
