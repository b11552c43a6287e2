//! What can be measured of a session: cheap snapshots, in quinn's style.

use std::{collections::BTreeMap, time::Duration};

use crate::id::PathId;

/// Counters of one QUIC connection. Field names as in quinn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathStats {
    /// Round-trip time estimate.
    pub rtt: Duration,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Congestion events so far.
    pub congestion_events: u64,
    /// Packets lost so far.
    pub lost_packets: u64,
    /// Packets sent so far.
    pub sent_packets: u64,
    /// Largest UDP payload the path is known to carry, in bytes.
    pub current_mtu: u16,
    /// Bytes sent.
    pub udp_tx_bytes: u64,
    /// Datagrams sent.
    pub udp_tx_datagrams: u64,
    /// Batches of datagrams sent.
    pub udp_tx_ios: u64,
    /// Bytes received.
    pub udp_rx_bytes: u64,
    /// Datagrams received.
    pub udp_rx_datagrams: u64,
    /// Batches of datagrams received.
    pub udp_rx_ios: u64,
}

/// What one server has contributed, as the client counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStats {
    /// Bytes placed that nobody had sent before.
    pub bytes: u64,
    /// Bytes that were already there, and so cost bandwidth only.
    pub overlap_bytes: u64,
    /// Overlaps whose bytes differed from what was held.
    pub conflicts: u64,
    /// Bytes that came after their lease had ended.
    pub late_bytes: u64,
    /// Leases filled to the last byte.
    pub leases_done: u64,
    /// Leases that ended before.
    pub leases_lost: u64,
    /// Times nothing came of a lease for too long, so that others were free to bring it.
    pub stalls: u64,
    /// Leases whose bytes were not what the primary had promised.
    pub digests_wrong: u64,
    /// Times the path went silent while bytes were due.
    pub degraded: u64,
}

/// A snapshot of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Each live QUIC connection; on servers the only one is under [`PathId::PRIMARY`].
    pub paths: BTreeMap<PathId, PathStats>,
    /// What each server contributed to split streams since the session began (clients only).
    pub sources: BTreeMap<PathId, SourceStats>,
    /// Bytes of split streams held for the application now (clients only).
    pub held_bytes: u64,
    /// The most that [`Self::held_bytes`] has ever been.
    pub held_bytes_max: u64,
    /// Frames dropped because a path or a lease they name was gone.
    pub late_frames: u64,
    /// Messages between servers that were not taken: their path was gone, too many of them waited, or they were not from
    /// whom they should be.
    pub relays_refused: u64,
}
