//! Control frames and stream headers, in types that can only be valid.
//!
//! A value of these types has passed every check that needs no session state: mandatory fields are there, ranges are
//! non-empty and nameable, repeated fields are within their caps. Offsets and byte counts are at most 2^62 − 1, so that
//! two of them can be added without overflow. Spec: PROTOCOL §4.

use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    action::ReaderStatus,
    error::ErrorCode,
    id::{ByteRange, JobId, LeaseId, PathId, PublicKey, SessionId, Signature, SpkiHash, StreamId},
};

/// A set of optional parts of the protocol, one bit each. A peer sends only what the other end listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

impl Features {
    /// Relays.
    pub(crate) const RELAY: Self = Self(1);
    /// `OffsetSyncRequest`, `OffsetSyncResponse`.
    pub(crate) const OFFSET_SYNC: Self = Self(1 << 1);
    /// Leases with a digest.
    pub(crate) const DIGEST: Self = Self(1 << 2);
    /// Leases that overlap another on purpose.
    pub(crate) const HEDGE: Self = Self(1 << 3);
    /// `StreamMappingUpdate`, and `LeaseRevoke` that keeps a part, which it answers.
    pub(crate) const MAPPING_UPDATE: Self = Self(1 << 4);
    /// `RemovePath` that drains instead of closing, `Drain`.
    pub(crate) const DRAIN: Self = Self(1 << 5);
    /// Leases with a deadline.
    pub(crate) const DEADLINE: Self = Self(1 << 6);
    /// Leases whose progress is reported, `ProgressReport`.
    pub(crate) const PROGRESS: Self = Self(1 << 7);

    /// All that this version knows; every role lists the same.
    pub(crate) const OFFERED: Self = Self(
        Self::RELAY.0
            | Self::OFFSET_SYNC.0
            | Self::DIGEST.0
            | Self::HEDGE.0
            | Self::MAPPING_UPDATE.0
            | Self::DRAIN.0
            | Self::DEADLINE.0
            | Self::PROGRESS.0,
    );

    /// Returns whether every part in `other` is in this set.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A short text from a peer, for humans only: at most 256 bytes of UTF-8.
pub(crate) type Reason = String;

/// One control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The client's first frame on every path.
    ClientHello(ClientHello),
    /// A server accepts the hello.
    ServerHello(ServerHello),
    /// A server does not accept the hello.
    Refuse { code: ErrorCode, reason: Reason },
    /// The primary asks for one more path.
    AddPath(AddPath),
    /// The client tells the primary about a path.
    PathReport { path: PathId, status: PathStatus },
    /// The primary takes a path away; its leases have `deadline_ms` to finish, zero closes at once.
    RemovePath { path: PathId, code: ErrorCode, deadline_ms: u64 },
    /// The client tells a secondary that no more work will come.
    Drain { deadline_ms: u64 },
    /// The primary offers a job; passed on to the path it names.
    JobOpen(JobOpen),
    /// The secondary will fill leases of the job.
    JobAccepted { job: JobId },
    /// The secondary will not; the job's leases are lost.
    JobRefused { job: JobId, code: ErrorCode },
    /// No more leases of the job will come.
    JobClose { job: JobId },
    /// The primary gives a range to a path.
    LeaseGrant(LeaseGrant),
    /// The client tells a secondary what to fill; `credit` counts bytes from the front of `range`, which is at most
    /// `limits::LEASE_MAX` long.
    LeaseNotice { lease: LeaseId, job: JobId, range: ByteRange, credit: u64 },
    /// Nothing of the lease will be filled.
    LeaseRefused { lease: LeaseId, code: ErrorCode },
    /// `keep` counts the bytes at the front of the lease that stay valid; zero takes all of it back.
    LeaseRevoke { lease: LeaseId, keep: u64, code: ErrorCode },
    /// Every byte of the lease is placed.
    LeaseDone { lease: LeaseId },
    /// The lease ended early; `missing` is what the client does not have of it.
    LeaseLost { lease: LeaseId, code: ErrorCode, missing: Ranges },
    /// From `offset` on the stream is filled by leases and runs instead of its own QUIC stream.
    Split { stream: StreamId, offset: u64 },
    /// The client knows of the split; every byte below offset `credit` may be sent.
    SplitAck { stream: StreamId, credit: u64 },
    /// The stream is `size` bytes long.
    StreamFinal { stream: StreamId, size: u64 },
    /// Every byte up to the final size is placed.
    StreamComplete { stream: StreamId },
    /// The reader wants no more of a split stream.
    StreamStopped { stream: StreamId, code: ErrorCode },
    /// The client lets a server send more.
    Credit(Credit),
    /// The primary asks what the client has of a stream, from offset `from` on; the client, what somebody is to bring.
    OffsetSyncRequest { stream: StreamId, from: u64 },
    /// One page of what the sender was asked for; `more` says that there is more of it. The client sends it all, the
    /// primary the first page.
    OffsetSyncResponse { stream: StreamId, received: Ranges, more: bool },
    /// The client tells the primary about a mapping; `range` is at most `limits::LEASE_MAX` long.
    StreamMappingUpdate { operation: MappingOperation, stream: StreamId, lease: LeaseId, range: ByteRange },
    /// The client tells what has come over a path.
    ProgressReport(ProgressReport),
    /// The session ends, with every path.
    SessionClose { code: ErrorCode, reason: Reason },
}

/// Ranges in rising order that neither touch nor overlap; at most 64 (`limits::REPEATED_MAX`).
pub(crate) type Ranges = SmallVec<[ByteRange; 2]>;

/// The client's first frame on every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// Any number: the session decides which versions it speaks.
    pub(crate) version: u32,
    /// Features that the client knows; bits it may list and we do not know are kept.
    pub(crate) features: Features,
    /// The client's session key, fresh per session.
    pub(crate) client_key: PublicKey,
    /// Split streams the client can guarantee credit for.
    pub(crate) split_streams_max: u32,
    /// The application's own protocols in order of preference; at most 16 of 1 to 255 bytes,
    /// `limits::APP_ALPN_TOTAL_MAX` in all.
    pub(crate) app_protocols: Vec<Bytes>,
    /// Set towards a secondary only.
    pub(crate) attach: Option<Attach>,
}

/// Credentials that a client shows a secondary.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Attach {
    /// The session to join.
    pub(crate) session: SessionId,
    /// The path as the primary named it.
    pub(crate) path: PathId,
    /// At most 512 bytes (`limits::TICKET_MAX`), not empty.
    pub(crate) ticket: Bytes,
    /// Over the connection's exporter, by the client's session key. Spec: PROTOCOL §9.
    pub(crate) proof: Signature,
}

crate::redact::debug_hiding!(Attach { session, path, proof; ticket });

/// A server's answer to a hello it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerHello {
    /// Any number: the session decides which versions it speaks.
    pub(crate) version: u32,
    /// Features that the server knows.
    pub(crate) features: Features,
    /// The session that the connection belongs to.
    pub(crate) session: SessionId,
    /// The protocol chosen, 1 to 255 bytes; `None` if none was offered.
    pub(crate) app_protocol: Option<Bytes>,
}

/// The primary asks the client to attach one more server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AddPath {
    /// The new path's name.
    pub(crate) path: PathId,
    /// 1 to 4 literals (`limits::PATH_ADDRESSES_MAX`), ports not 0.
    pub(crate) addresses: SmallVec<[SocketAddr; 2]>,
    /// A DNS name or address literal of 1 to 253 bytes; what the certificate must be valid for.
    pub(crate) server_name: String,
    /// At most 4 (`limits::PATH_PINS_MAX`); empty means that the certificate check alone decides.
    pub(crate) pins: SmallVec<[SpkiHash; 2]>,
    /// 1 to 512 bytes (`limits::TICKET_MAX`).
    pub(crate) ticket: Bytes,
}

crate::redact::debug_hiding!(AddPath { path, addresses, server_name, pins; ticket });

/// State of a path, as the client tells the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathStatus {
    /// Attached, or answering again.
    Active,
    /// Silent; its leases are lost, the connection is kept.
    Degraded,
    /// Gone for good, with the reason.
    Dead(ErrorCode),
}

/// A piece of work for one path, signed by the primary.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JobOpen {
    /// The job's name.
    pub(crate) job: JobId,
    /// The path it is for.
    pub(crate) path: PathId,
    /// The stream it is about.
    pub(crate) stream: StreamId,
    /// The only bytes that leases of this job may name.
    pub(crate) range: ByteRange,
    /// The most bytes that leases of this job may add up to; retries count again.
    pub(crate) total: u64,
    /// Seconds since the Unix epoch after which the seal is not valid.
    pub(crate) expiry: u64,
    /// The application's own; at most 2 KiB (`limits::JOB_PAYLOAD_MAX`).
    pub(crate) payload: Bytes,
    /// By the primary, over every field above. Spec: PROTOCOL §5.
    pub(crate) seal: Signature,
}

crate::redact::debug_hiding!(JobOpen { job, path, stream, range, total, expiry, seal; payload });

/// The primary gives a range to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseGrant {
    /// The lease's name.
    pub(crate) lease: LeaseId,
    /// The job it belongs to, and with it path and stream.
    pub(crate) job: JobId,
    /// At most `limits::LEASE_MAX` long.
    pub(crate) range: ByteRange,
    /// BLAKE3 of the range; needs [`Features::DIGEST`].
    pub(crate) digest: Option<[u8; 32]>,
    /// Milliseconds until the lease is lost. Needs [`Features::DEADLINE`].
    pub(crate) deadline_ms: Option<u64>,
    /// A live lease that this one overlaps on purpose. Needs [`Features::HEDGE`].
    pub(crate) hedge_of: Option<LeaseId>,
    /// The client is to report what comes of it. Needs [`Features::PROGRESS`].
    pub(crate) progress: bool,
}

/// Bytes and leases that have come over a path since the last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgressReport {
    /// The path.
    pub(crate) path: PathId,
    /// Smoothed round-trip time between client and server in microseconds, once it was measured.
    pub(crate) rtt_us: Option<u64>,
    /// Bytes of the session that came over it after their lease had ended.
    pub(crate) late: u64,
    /// Bytes of the session that came over it and were there already.
    pub(crate) overlap: u64,
    /// Leases of which more has come, and the bytes of each that came, from its start on; at most 64
    /// (`limits::REPEATED_MAX`).
    pub(crate) leases: Vec<(LeaseId, u64)>,
    /// Readers that have moved on; at most 64.
    pub(crate) readers: Vec<(StreamId, ReaderStatus)>,
}

/// Credit for a server: bytes that it may send now. Credit never shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credit {
    /// Every byte of the stream below `offset`.
    Offset { stream: StreamId, offset: u64 },
    /// The first `bytes` bytes of the lease.
    Lease { lease: LeaseId, bytes: u64 },
    /// `bytes` bytes of the primary's own runs beyond `Offset`, all runs since the split together.
    Run { stream: StreamId, bytes: u64 },
}

/// Changes of a mapping at the client. That it ended is said by `LeaseDone`, `LeaseLost` and `LeaseRefused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MappingOperation {
    /// The internal stream of the lease was opened.
    Create,
    /// The lease was cut.
    Update,
    /// Nothing comes any more, and `range` is missing: the path is silent, or the lease stalls.
    Suspend,
    /// Bytes come again, or the silent path was heard.
    Resume,
}

/// The header of a unidirectional stream.
///
/// What the original system calls `SecondaryStreamData` and `SecondaryStreamClose` is the stream behind the header: its
/// bytes, and its FIN or RESET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamHeader {
    /// An application stream (primary path only).
    Public,
    /// A secondary's bytes for a lease, from `offset` (counted from the start of the stream) on.
    Secondary { lease: LeaseId, offset: u64 },
    /// The primary's own out-of-order bytes, from `offset` of `stream` on.
    Internal { stream: StreamId, offset: u64 },
    /// A message from one server to another follows.
    Relay(RelayOpen),
}

/// A message between servers, by way of the client, whose bytes follow. Spec: PROTOCOL §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayOpen {
    /// Path that it is for or, towards the primary, that it is from.
    pub(crate) path: PathId,
    /// The sender's name for it: rises per path and direction.
    pub(crate) id: u64,
    /// Bytes that follow; at most `limits::RELAY_MAX`.
    pub(crate) length: u32,
    /// By the server that it is from.
    pub(crate) seal: Option<Signature>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_features_contains_its_parts_and_no_others() {
        let two = Features(Features::RELAY.0 | Features::DRAIN.0);
        assert!(Features::OFFERED.contains(two) && two.contains(two) && two.contains(Features::RELAY));
        assert!(!two.contains(Features::OFFERED) && !two.contains(Features::HEDGE));
        assert!(!Features::RELAY.contains(two), "one part is not enough");
    }
}
