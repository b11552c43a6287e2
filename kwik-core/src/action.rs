//! Values that the core hands to whoever drives it: transmits, events, snapshots. No behaviour.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::{ConnectionError, ErrorCode},
    id::{ByteRange, Dir, JobId, LeaseId, PathId, SpkiHash, StreamId},
};

/// Explicit congestion notification bits of an IP packet (RFC 3168).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "two bits have these values")]
pub enum Ecn {
    /// ECT(0).
    Ect0,
    /// ECT(1).
    Ect1,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// Reads the two bits of a packet; `None` if its sender does not take part.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0b10 => Some(Self::Ect0),
            0b01 => Some(Self::Ect1),
            0b11 => Some(Self::Ce),
            _ => None,
        }
    }

    /// Returns whether congestion was experienced.
    #[must_use]
    pub const fn is_ce(self) -> bool {
        matches!(self, Self::Ce)
    }
}

/// One or more datagrams to send, all to one destination; their bytes are in the buffer given to `poll_transmit`.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct Transmit {
    /// Address to send to.
    pub destination: SocketAddr,
    /// Bits to set on each packet.
    pub ecn: Option<Ecn>,
    /// Bytes of the buffer that are used, from its start.
    pub size: usize,
    /// Length of each datagram but the last, which may be shorter; `None` for a single datagram.
    pub segment_size: Option<usize>,
    /// Address to send from.
    pub src_ip: Option<IpAddr>,
}

/// News for the application. Each says what to look at again; the state itself is asked of the session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Event {
    /// A client: the handshake is done and the hello sent. A server: the hello is accepted.
    Connected,
    /// `datagram_recv` has something.
    DatagramReceived,
    /// `datagram_send` has room again.
    DatagramsUnblocked,
    /// TLS handshake data can be asked for.
    HandshakeDataReady,
    /// A secondary: `accept_job` has something.
    JobArrived,
    /// A primary: the reader of a split stream waits for bytes that nobody is to bring; `take_gap` tells from where on,
    /// `unowned` what else.
    GapReported(StreamId),
    /// A primary: `job_answer` is known.
    JobAnswered(JobId),
    /// A secondary: `next_lease` of the job has something, or says that the job has ended.
    LeaseArrived(JobId),
    /// A primary: `lease_status` says something else: the lease has begun, was cut, stalls, goes on.
    LeaseChanged(LeaseId),
    /// A primary: `lease_outcome` is known. A secondary: the lease was taken back.
    LeaseEnded(LeaseId),
    /// A secondary: `write_lease` may go on.
    LeaseWritable(LeaseId),
    /// The session is over; nothing follows.
    Lost(ConnectionError),
    /// A secondary: no more work comes, and the path ends when its leases are over; `draining` tells by when.
    Draining,
    /// The peer opened streams: `accept` has something.
    Opened(Dir),
    /// `open` may succeed again.
    Available(Dir),
    /// A primary: the state of a path changed.
    PathChanged(PathId),
    /// A primary: the client has reported what came over a path. `lease_status`, `paths` and `reader` say more.
    Progress(PathId),
    /// `read` has something, or an error.
    Readable(StreamId),
    /// `take_relay` has something.
    RelayArrived,
    /// `relay` may succeed again.
    RelaysUnblocked,
    /// A primary: `write_run` may go on, or `run_outcome` is known.
    RunWritable(RunId),
    /// A primary: `take_received` has what the client has of the stream, or the stream is over and it never will.
    Synced(StreamId),
    /// `write` may go on.
    Writable(StreamId),
    /// Every byte up to the end of a finished stream has arrived at the peer. Told once, and the stream is forgotten.
    Finished(StreamId),
    /// The peer wants no more of a stream, and this is its code. What was written may never reach anybody. Told once; a
    /// stream that was finished before is forgotten, any other has to be finished or reset still.
    Stopped(StreamId, ErrorCode),
}

/// Names a run of bytes that the primary writes itself at an offset of its choice. Local to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub(crate) u64);

/// Bytes of a stream and where they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// Offset of the first byte, counted from the start of the stream.
    pub offset: u64,
    /// The bytes; empty only if none were asked for.
    pub bytes: Bytes,
    /// The server that brought them first: [`PathId::PRIMARY`] for the primary's own, and on servers. `None` where slivers
    /// of several servers were gathered into one piece, and of an empty one.
    pub source: Option<PathId>,
}

/// The state of a path as the primary knows it. Spec: PROTOCOL §8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathState {
    /// The client was asked to attach it and has not answered.
    Connecting,
    /// Attached and answering.
    Active,
    /// Silent while bytes were due; its leases are lost, the connection is kept.
    Degraded,
    /// Removed: its leases go on for as long as they were given, and no more come.
    Draining,
    /// Gone for good, with the reason.
    Dead(ErrorCode),
}

/// A path of a session: what `paths` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathInfo {
    /// Name of the path.
    pub id: PathId,
    /// Its state.
    pub state: PathState,
    /// The server name that its certificate is checked against.
    pub server_name: String,
    /// The keys of which its certificate must carry one.
    pub identities: Vec<SpkiHash>,
    /// Live leases on it.
    pub leases: usize,
    /// Leases it takes at once of one stream: half as many as it had whenever it has been silent, twice as many with each
    /// that is done. One that lies before all that it has of the stream it always takes.
    /// Spec: RATIONALE §8.
    pub leases_max: usize,
    /// Leases done since it was added.
    pub leases_done: u64,
    /// Leases lost since it was added, those taken back included.
    pub leases_lost: u64,
    /// Leases that this primary took back or cut since it was added, and the client ended or shortened for it.
    pub leases_stolen: u64,
    /// Bytes of the leases that are done.
    pub bytes_done: u64,
    /// Smoothed round-trip time between the client and its server, as of the last [`Event::Progress`].
    pub rtt: Option<Duration>,
    /// Bytes that came over it after their lease had ended or been cut, as of the last [`Event::Progress`].
    pub late_bytes: u64,
    /// Bytes that came over it and were there already, as of the last [`Event::Progress`].
    pub overlap_bytes: u64,
}

/// The reader of a split stream, as the client last told of it. Spec: PROTOCOL §7.28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStatus {
    /// Offset of the first byte that a reader in order has not taken.
    pub position: u64,
    /// Bytes beyond it that servers have credit for, or would have if they had leases there.
    pub window: u64,
}

/// A live lease as the client last told of it: what `lease_status` gives. Spec: PROTOCOL §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// Path that fills it.
    pub path: PathId,
    /// The stream it is of.
    pub stream: StreamId,
    /// Range that it is for; shorter than when it was given once it has been cut.
    pub range: ByteRange,
    /// The client has begun to get its bytes.
    pub begun: bool,
    /// Bytes of it that have come, from its start on, as of the last [`Event::Progress`] of its path; 0 unless it was given
    /// with `NewLease::progress`.
    pub arrived: u64,
    /// Part that was missing when its path went silent or its bytes stayed away for too long; `None` while they come.
    pub stalled: Option<ByteRange>,
}

/// End of a lease. Spec: PROTOCOL §5.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseOutcome {
    /// Every byte of the range, up to where it was cut if it was, is placed at the client.
    Done,
    /// The lease is over, and these parts of its range are missing that nobody else is to bring.
    Lost {
        /// Reason.
        code: ErrorCode,
        /// Ranges to lease again or to write, in rising order; empty if nothing is missing after all.
        missing: Vec<ByteRange>,
    },
}

/// A message of another server, by way of the client. Spec: PROTOCOL §9.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relay {
    /// Over whose path it came: on a secondary its own, whose other end is the primary.
    pub path: PathId,
    /// The message; at most 64 KiB, and may be empty.
    pub payload: Bytes,
    /// It bears the signature of the server that it is from, and nobody else can have made or changed it. If not, it is
    /// what the client says that the server has said.
    pub sealed: bool,
}

crate::redact::debug_hiding!(Relay { path, sealed; payload });

impl Relay {
    pub(crate) fn length(&self) -> u32 {
        u32::try_from(self.payload.len()).unwrap_or(u32::MAX)
    }
}

/// A job as a secondary's application gets it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobInfo {
    /// Name of the job.
    pub id: JobId,
    /// The stream it feeds.
    pub stream: StreamId,
    /// The only bytes that its leases name.
    pub range: ByteRange,
    /// Payload of the primary's application.
    pub payload: Bytes,
}

crate::redact::debug_hiding!(JobInfo { id, stream, range; payload });

/// A lease as a secondary's application gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// Name of the lease.
    pub id: LeaseId,
    /// Range to write: all of it, from its start, exactly.
    pub range: ByteRange,
}
