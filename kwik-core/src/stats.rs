//! Snapshots of what can be measured of a session, cheap and in quinn's style.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    action::PathState,
    error::PeerFault,
    id::{ByteRange, LeaseId, PathId, StreamId},
};

/// Counters of one QUIC connection. Field names as in quinn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathStats {
    /// Address of the peer; `None` only by default.
    pub remote: Option<SocketAddr>,
    /// Round-trip time estimate.
    pub rtt: Duration,
    /// The shortest round-trip time so far.
    pub min_rtt: Duration,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Congestion events so far.
    pub congestion_events: u64,
    /// Packets lost so far.
    pub lost_packets: u64,
    /// Bytes lost so far.
    pub lost_bytes: u64,
    /// Packets sent so far.
    pub sent_packets: u64,
    /// Probes for a larger payload sent so far, which no other counter counts when they are lost.
    pub sent_plpmtud_probes: u64,
    /// Such probes lost so far.
    pub lost_plpmtud_probes: u64,
    /// Times that the path no longer carried what it had.
    pub black_holes_detected: u64,
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

/// Counters of datagrams, one way. Fields as in quinn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams.
    pub datagrams: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// System calls, or messages, that carried them.
    pub ios: u64,
}

/// Counters of frames, one way, by their kind (RFC 9000 §19). Fields as in quinn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameStats {
    /// `ACK` frames.
    pub acks: u64,
    /// `ACK_FREQUENCY` frames.
    pub ack_frequency: u64,
    /// `CRYPTO` frames.
    pub crypto: u64,
    /// `CONNECTION_CLOSE` frames.
    pub connection_close: u64,
    /// `DATA_BLOCKED` frames.
    pub data_blocked: u64,
    /// `DATAGRAM` frames.
    pub datagram: u64,
    /// `HANDSHAKE_DONE` frames.
    pub handshake_done: u8,
    /// `IMMEDIATE_ACK` frames.
    pub immediate_ack: u64,
    /// `MAX_DATA` frames.
    pub max_data: u64,
    /// `MAX_STREAM_DATA` frames.
    pub max_stream_data: u64,
    /// `MAX_STREAMS`, bidirectional, frames.
    pub max_streams_bidi: u64,
    /// `MAX_STREAMS`, unidirectional, frames.
    pub max_streams_uni: u64,
    /// `NEW_CONNECTION_ID` frames.
    pub new_connection_id: u64,
    /// `NEW_TOKEN` frames.
    pub new_token: u64,
    /// `PATH_CHALLENGE` frames.
    pub path_challenge: u64,
    /// `PATH_RESPONSE` frames.
    pub path_response: u64,
    /// `PING` frames.
    pub ping: u64,
    /// `RESET_STREAM` frames.
    pub reset_stream: u64,
    /// `RETIRE_CONNECTION_ID` frames.
    pub retire_connection_id: u64,
    /// `STREAM_DATA_BLOCKED` frames.
    pub stream_data_blocked: u64,
    /// `STREAMS_BLOCKED`, bidirectional, frames.
    pub streams_blocked_bidi: u64,
    /// `STREAMS_BLOCKED`, unidirectional, frames.
    pub streams_blocked_uni: u64,
    /// `STOP_SENDING` frames.
    pub stop_sending: u64,
    /// `STREAM` frames.
    pub stream: u64,
}

impl From<crate::quic::FrameStats> for FrameStats {
    fn from(stats: crate::quic::FrameStats) -> Self {
        Self {
            acks: stats.acks,
            ack_frequency: stats.ack_frequency,
            crypto: stats.crypto,
            connection_close: stats.connection_close,
            data_blocked: stats.data_blocked,
            datagram: stats.datagram,
            handshake_done: stats.handshake_done,
            immediate_ack: stats.immediate_ack,
            max_data: stats.max_data,
            max_stream_data: stats.max_stream_data,
            max_streams_bidi: stats.max_streams_bidi,
            max_streams_uni: stats.max_streams_uni,
            new_connection_id: stats.new_connection_id,
            new_token: stats.new_token,
            path_challenge: stats.path_challenge,
            path_response: stats.path_response,
            ping: stats.ping,
            reset_stream: stats.reset_stream,
            retire_connection_id: stats.retire_connection_id,
            stream_data_blocked: stats.stream_data_blocked,
            streams_blocked_bidi: stats.streams_blocked_bidi,
            streams_blocked_uni: stats.streams_blocked_uni,
            stop_sending: stats.stop_sending,
            stream: stats.stream,
        }
    }
}

/// Contribution of one server, as the client counted it, and the state of its path.
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
    /// Leases that ended before, those that the primary took back included.
    pub leases_lost: u64,
    /// Leases that the primary took back or cut while they lived, to give them to somebody else.
    pub leases_stolen: u64,
    /// Times nothing came of a lease for too long, so that others were free to bring it.
    pub stalls: u64,
    /// Leases whose bytes were not what the primary had promised.
    pub digests_wrong: u64,
    /// Times the path was asked for a sign of life while bytes were due.
    pub probes: u64,
    /// Times it owed one for so long that it was suspected.
    pub suspected: u64,
    /// Times the path went silent while bytes were due.
    pub degraded: u64,
    /// The state of the path; `None` for the primary, and for a path so long dead that it is forgotten.
    pub state: Option<PathState>,
    /// Round-trip time, smoothed by KWIK's own estimate; zero before the first sample, and for the primary.
    pub rtt: Duration,
    /// Live leases on the path.
    pub leases: usize,
    /// Usual time from when a lease is due to its first byte, once that is known.
    pub first_byte: Option<Duration>,
}

/// Cost of putting split streams together: one stream, or all of a session (clients only).
///
/// Times are measured from batch to batch: what one call of `handle_event` or one poll works off happens at one
/// instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReassemblyStats {
    /// Bytes placed, each offset once.
    pub bytes: u64,
    /// Bytes that were already there.
    pub overlap_bytes: u64,
    /// Overlaps whose bytes differed from what was held.
    pub conflicts: u64,
    /// Bytes held now behind a hole, where a reader in order cannot get them. None for a reader out of order.
    pub reorder_depth: u64,
    /// The most that this has been in any one stream.
    pub reorder_depth_max: u64,
    /// For how long a hole kept bytes behind it from the reader.
    pub hole_time: Duration,
    /// The longest that any one hole did, from when it was the first of its stream.
    pub hole_time_max: Duration,
    /// Time by which a byte became readable later than it was placed, on average over [`Self::bytes`]: the latency that
    /// reassembly adds.
    pub delay_mean: Duration,
    /// Times the reader found nothing.
    pub reader_waits: u64,
    /// Time that the reader then waited until there was something.
    pub reader_wait: Duration,
    /// For how long some server had leases and no credit for any of them: it waits for the reader.
    pub credit_wait: Duration,
    /// Questions to the primary about holes that nobody seemed to fill.
    pub gaps_asked: u64,
    /// Times the reader was told of a hole that nobody fills.
    pub gaps_told: u64,
}

/// A snapshot of a split stream, as its reader's end has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Offset of the split: the bytes before are QUIC's, and counted nowhere here.
    pub base: u64,
    /// Receive window in bytes; it grows by itself.
    pub window: u64,
    /// Bytes held for the application now.
    pub held_bytes: u64,
    /// Disjoint pieces that have to be remembered now.
    pub extents: usize,
    /// One past the highest offset placed; the base if there is none.
    pub highest_offset: u64,
    /// Length of the stream in bytes, once the primary has said so.
    pub final_size: Option<u64>,
    /// The first bytes that are not here of what somebody was given, or that the final size promises.
    pub missing: Option<ByteRange>,
    /// For how long the reader has waited for a byte that nobody known here is to bring, if it does.
    pub gap_age: Option<Duration>,
    /// Live leases on the stream.
    pub leases: usize,
    /// Bytes placed by each server, the primary included, each offset counted for whoever brought it first.
    pub sources: BTreeMap<PathId, u64>,
    /// Cost of putting it together.
    pub reassembly: ReassemblyStats,
}

/// A snapshot of a live lease, as the client has it. What its primary knows is [`LeaseStatus`](crate::LeaseStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStats {
    /// Path that fills it.
    pub path: PathId,
    /// The stream it is of.
    pub stream: StreamId,
    /// Range that it is for; shorter than when it was granted once it has been cut.
    pub range: ByteRange,
    /// Bytes that have come, from its start on.
    pub placed: u64,
    /// Bytes that may come, from its start on.
    pub credit: u64,
    /// Its server was told of it.
    pub noticed: bool,
    /// Its server has begun to fill it.
    pub begun: bool,
    /// Nothing comes though it might, and others are free to bring it.
    pub suspended: bool,
    /// None of it counts before all of it proves right.
    pub verified: bool,
}

/// A snapshot of a session: first quinn's, of the connection to the peer (on a client, to the primary), then KWIK's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Datagrams sent to the peer.
    pub udp_tx: UdpStats,
    /// Datagrams received from it.
    pub udp_rx: UdpStats,
    /// Frames sent to it.
    pub frame_tx: FrameStats,
    /// Frames received from it.
    pub frame_rx: FrameStats,
    /// The state of the connection to it.
    pub path: PathStats,
    /// Each live QUIC connection; on servers the only one is under [`PathId::PRIMARY`].
    pub paths: BTreeMap<PathId, PathStats>,
    /// Contribution of each server to split streams since the session began (clients only).
    pub sources: BTreeMap<PathId, SourceStats>,
    /// Cost of putting split streams together since the session began (clients only).
    pub reassembly: ReassemblyStats,
    /// Split streams that are not read to their end (clients only).
    pub streams: usize,
    /// Bytes of split streams held for the application now (clients only).
    pub held_bytes: u64,
    /// The most that [`Self::held_bytes`] has ever been.
    pub held_bytes_max: u64,
    /// Frames dropped because a path or a lease they name was gone.
    pub late_frames: u64,
    /// Messages between servers that were not taken: their path was gone, too many of them waited, or they were not from
    /// whom they should be.
    pub relays_refused: u64,
    /// Frames sent that give credit.
    pub credit_frames: u64,
    /// Times that a peer's control frames were left unread for a while, because it had sent more than was paid for: none,
    /// where both ends are honest. Spec: PROTOCOL §11.2.
    pub control_pauses: u64,
    /// Times that a stream was to be opened here and the peer permitted no more for the moment.
    pub opens_refused: u64,
    /// Times that the peer, with a stream that it opened, had as many open as it ever may
    /// ([`TransportConfig::streams_max`](crate::TransportConfig::streams_max)): others had to wait.
    pub streams_exhausted: u64,
    /// Number of times that a peer broke a rule, by rule.
    pub faults: BTreeMap<PeerFault, u64>,
}

impl SessionStats {
    /// Adds what another part of the session has counted.
    pub(crate) fn add_faults(&mut self, faults: &BTreeMap<PeerFault, u64>) {
        for (&fault, &count) in faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

/// Counts a fault.
pub(crate) fn count_fault(faults: &mut BTreeMap<PeerFault, u64>, fault: PeerFault) {
    *faults.entry(fault).or_default() += 1;
}

/// The leases of a client, each with its snapshot.
pub(crate) type Leases = BTreeMap<LeaseId, LeaseStats>;
