//! Errors that are not tied to one command.

mod code;
mod connection;
mod fault;

use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

pub use self::{
    code::{ErrorCode, VarInt},
    connection::{ApplicationClose, ConnectionClose, ConnectionError, TransportError},
    fault::PeerFault,
};
use crate::id::{ByteRange, PathId, StreamId};

/// A call that is wrong in the program itself, whatever the peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApiMisuse {
    /// An application code inside KWIK's reserved block.
    #[error("error codes 0x4b570000 to 0x4b57ffff are reserved for KWIK")]
    ReservedCode,
    /// A call that the role of this session does not have.
    #[error("this session's role has no such operation")]
    WrongRole,
    /// A text or payload longer than the wire carries.
    #[error("longer than the protocol carries")]
    TooLong,
}

/// Bytes from a peer that do not form a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    /// A mandatory field is missing, or a value is outside its range.
    #[error("field missing or out of range")]
    Field,
    /// Not protobuf, or not this message.
    #[error("malformed frame")]
    Malformed,
    /// A range that is empty or leaves what QUIC can name.
    #[error("range empty or beyond the largest offset")]
    Range,
    /// Longer than its cap.
    #[error("frame too large")]
    TooLarge,
    /// More entries than a repeated field may have.
    #[error("too many entries")]
    TooMany,
    /// A type that must be understood and is not.
    #[error("unknown mandatory frame type")]
    UnknownMandatory,
}

/// Errors of writing to a stream. Variants as in quinn, plus [`WriteError::Blocked`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nothing can be written now; an event tells when to try again.
    #[error("blocked")]
    Blocked,
    /// The stream was finished or reset before, or never existed.
    #[error("closed stream")]
    ClosedStream,
    /// The session is over.
    #[error("connection lost")]
    ConnectionLost(#[source] ConnectionError),
    /// The peer wants no more of the stream.
    #[error("sending stopped by peer: error {0}")]
    Stopped(ErrorCode),
    /// Never, as long as nothing is sent before the handshake; for programs that name it.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

/// Errors of reading from a stream. Variants as in quinn, plus [`ReadError::Blocked`] and [`ReadError::Incomplete`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing can be read now; an event tells when to try again.
    #[error("blocked")]
    Blocked,
    /// The stream was read to its end, stopped or reset before, or never existed.
    #[error("closed stream")]
    ClosedStream,
    /// Two servers have brought different bytes for one place, which is not to be: the stream was given up.
    #[error("{stream}: {} and {} disagree about bytes {range}", source_name(.sources[0]), source_name(.sources[1]))]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// From the first byte that differs on.
        range: ByteRange,
        /// Source of the bytes that were there first, and of those that came second; the primary's own are under
        /// [`PathId::PRIMARY`]. `None` where slivers of several servers were gathered into one piece.
        sources: [Option<PathId>; 2],
    },
    /// The session is over, and the stream had no bytes of other servers.
    #[error("connection lost")]
    ConnectionLost(#[source] ConnectionError),
    /// Ordered reading after unordered reading.
    #[error("ordered read after unordered read")]
    IllegalOrderedRead,
    /// Bytes are missing that nobody will send: the session is over, or the primary has said for some time that nobody
    /// is to bring them (`AGGREGATION_TIMEOUT`; the stream goes on should they come after all).
    #[error("{stream}: bytes {missing} are missing: {code}")]
    Incomplete {
        /// The stream.
        stream: StreamId,
        /// The first missing range. While nobody has said where the stream ends it reaches to the last byte that anybody was
        /// given, and is one byte long behind that.
        missing: ByteRange,
        /// Reason that nobody will send it.
        code: ErrorCode,
    },
    /// The peer gave the stream up.
    #[error("stream reset by peer: error {0}")]
    Reset(ErrorCode),
    /// Never, as long as nothing is sent before the handshake; for programs that name it.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

/// Name of the bytes' source, for humans.
fn source_name(source: Option<PathId>) -> String {
    match source {
        Some(PathId::PRIMARY) => "the primary".to_owned(),
        Some(path) => path.to_string(),
        None => "several paths".to_owned(),
    }
}

/// Errors of sending a message to another server, by way of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Nothing can be sent now; an event tells when to try again.
    #[error("blocked")]
    Blocked,
    /// Wrong in the program itself.
    #[error(transparent)]
    Misuse(#[from] ApiMisuse),
    /// The path is gone, or there never was one of this id.
    #[error("path is dead or unknown")]
    PathDead,
    /// The session is over.
    #[error("session closed")]
    SessionClosed,
    /// The client carries no messages between servers.
    #[error("not supported by the client")]
    Unsupported,
}

/// Errors of opening a job, a lease or a run of the primary's own, on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Wrong in the program itself.
    #[error(transparent)]
    Misuse(#[from] ApiMisuse),
    /// The stream is closed, stopped or complete, or cannot be sent on.
    #[error("closed stream")]
    ClosedStream,
    /// No such job, or it was refused or closed.
    #[error("no such job")]
    JobClosed,
    /// A cap of PROTOCOL §11 is reached; ends of leases or streams make room.
    #[error("too many at once")]
    LimitExceeded,
    /// The client cannot guarantee credit for one more stream of this kind.
    #[error("no credit for one more split stream")]
    NoCredit,
    /// The lease to be hedged, cut or taken back is over, or there was none.
    #[error("no such lease")]
    NotLive,
    /// The client does not know this part of the protocol.
    #[error("not supported by the client")]
    Unsupported,
    /// A verified lease is taken back whole, or not at all.
    #[error("a verified lease cannot be cut")]
    Verified,
    /// The range was written, leased or finished before.
    #[error("range overlaps bytes that were written or leased before")]
    Overlap,
    /// The path is draining, dead or unknown.
    #[error("path dead")]
    PathDead,
    /// The path is silent for now. It takes leases once it answers again, if it does: [`Event::PathChanged`] tells.
    ///
    /// [`Event::PathChanged`]: crate::Event::PathChanged
    #[error("path silent for now")]
    PathSilent,
    /// The range is not part of the job, or beyond its total, or longer than a lease may be.
    #[error("range outside the job")]
    OutsideJob,
    /// The session is over.
    #[error("session closed")]
    SessionClosed,
}

/// Errors of adding a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddPathError {
    /// Wrong in the program itself.
    #[error(transparent)]
    Misuse(#[from] ApiMisuse),
    /// As many secondary paths are alive as a session may have.
    #[error("a session has at most {0} secondary paths")]
    LimitExceeded(usize),
    /// An address with port 0, none at all, or an impossible server name.
    #[error("no usable address or server name")]
    InvalidAddress,
    /// The session is over.
    #[error("session closed")]
    SessionClosed,
}

/// Errors of writing to a lease on a secondary, or to a range of the primary's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseWriteError {
    /// No credit, and there will be none before somebody brings this range, for which the reader waits: nobody is to. Of
    /// ranges of the primary's own only. They may be written on afterwards.
    #[error("the reader waits for {0}, which nobody is to bring")]
    Behind(ByteRange),
    /// No credit now; an event tells when to try again.
    #[error("blocked")]
    Blocked,
    /// The lease was taken back, or its job or session ended.
    #[error("lease ended: {0}")]
    Ended(ErrorCode),
    /// More bytes than the lease is long.
    #[error("write past the end of the lease")]
    PastEnd,
}

/// Errors of sending an application datagram. Variants as in quinn.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendDatagramError {
    /// No room now; an event tells when to try again.
    #[error("blocked")]
    Blocked(Bytes),
    /// Datagrams are disabled here.
    #[error("datagram support disabled")]
    Disabled,
    /// Larger than a packet to the peer may carry.
    #[error("datagram too large")]
    TooLarge,
    /// The peer does not accept datagrams.
    #[error("datagrams not supported by peer")]
    UnsupportedByPeer,
    /// The session is over.
    #[error("connection lost")]
    ConnectionLost(#[from] ConnectionError),
}

/// The stream was finished, stopped or reset before, or never existed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Error)]
#[error("closed stream")]
#[non_exhaustive]
pub struct ClosedStream;

/// Errors of giving up one half of a stream with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GiveUpError {
    /// Wrong in the program itself.
    #[error(transparent)]
    Misuse(#[from] ApiMisuse),
    /// The half was given up before, or is over, or never existed.
    #[error(transparent)]
    ClosedStream(#[from] ClosedStream),
}

/// The path is closed, timed out, or was never added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Error)]
#[error("path dead")]
#[non_exhaustive]
pub struct PathDead;

/// Errors of starting a connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection id was left to use.
    #[error("connection ids exhausted")]
    CidsExhausted,
    /// The client's settings are impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The endpoint is shutting down.
    #[error("endpoint stopping")]
    EndpointStopping,
    /// Not an address that can be dialled.
    #[error("invalid remote address: {0}")]
    InvalidRemoteAddress(SocketAddr),
    /// Not a name that a certificate can be valid for.
    #[error("invalid server name: {0}")]
    InvalidServerName(String),
    /// The endpoint has no client configuration.
    #[error("no default client config")]
    NoDefaultClientConfig,
    /// The QUIC version is not supported.
    #[error("unsupported QUIC version")]
    UnsupportedVersion,
}

/// Impossible settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The TLS configuration cannot be used for QUIC.
    #[error("TLS configuration lacks TLS 1.3 with AES-128-GCM-SHA256, which QUIC needs")]
    Tls,
    /// A value is outside its range: the name is the setting's.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// So many streams could hold more bytes unread than the connection may.
    #[error(
        "{streams} streams per direction with a window of {stream_receive_window} bytes each need a receive_window of \
         {needed} bytes, not {receive_window}"
    )]
    StreamsBeyondWindow {
        /// The streams asked for, per direction.
        streams: u64,
        /// `stream_receive_window`.
        stream_receive_window: u32,
        /// The least `receive_window` for so many streams, in bytes.
        needed: u64,
        /// The `receive_window` that is set, in bytes.
        receive_window: u64,
    },
    /// A certificate does not parse.
    #[error("certificate does not parse")]
    Certificate,
}
