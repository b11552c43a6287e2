//! The one table of codes, and the error types that are not tied to one command. Spec: PROTOCOL §10.

use std::{cmp::Ordering, fmt, net::SocketAddr};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    id::{ByteRange, OFFSET_MAX, PathId, StreamId},
    limits::REASON_MAX,
    quic::{FrameType, TransportErrorCode, VarIntBoundsExceeded},
};

/// First code of the block that KWIK reserves among QUIC application error codes.
const BLOCK: u64 = 0x4b57_0000;
/// Size of the reserved block.
const BLOCK_LEN: u64 = 0x1_0000;

/// A QUIC application error code: the application's own, or one of KWIK's reserved block.
///
/// At most 2^62 − 1. KWIK's codes appear only on control, internal and relay streams and in `CONNECTION_CLOSE`; on
/// application streams every code is the application's. Spec: PROTOCOL §10.
///
/// It is quinn's `VarInt` too, by the name of [`VarInt`]: with its conversions, and displayed as a number unless the code is
/// KWIK's.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(u64);

/// An integer of at most 2^62 − 1, as QUIC carries them: quinn's name for codes, counts and windows.
pub type VarInt = ErrorCode;

impl ErrorCode {
    /// The largest number that QUIC can carry.
    pub const MAX: Self = Self(OFFSET_MAX);
    /// Bytes that the longest takes.
    pub const MAX_SIZE: usize = 8;

    /// Wraps a number.
    ///
    /// # Errors
    /// - [`VarIntBoundsExceeded`] above 2^62 − 1.
    pub const fn from_u64(code: u64) -> Result<Self, VarIntBoundsExceeded> {
        if code <= OFFSET_MAX { Ok(Self(code)) } else { Err(VarIntBoundsExceeded) }
    }

    /// Wraps an application's code.
    pub const fn from_u32(code: u32) -> Self {
        Self(code as u64)
    }

    /// Returns the number on the wire.
    pub const fn into_inner(self) -> u64 {
        self.0
    }

    /// Returns whether the code lies in KWIK's block, where applications may not mint codes.
    pub const fn is_reserved(self) -> bool {
        self.0 >= BLOCK && self.0 < BLOCK + BLOCK_LEN
    }

    /// Returns the code that a client passes on for a server's reason to leave: the server's own word if it is one about a
    /// client that the server turns away. Words that the client alone can say of a path, and an application's own codes, are
    /// not the server's to say: others would take them for the client's. Spec: PROTOCOL §8.3.
    pub(crate) fn said_by_server(self) -> Self {
        let words = [
            Self::AUTH_FAILED,
            Self::AUTH_TIMEOUT,
            Self::CLOCK_SKEW,
            Self::DRAINING,
            Self::EXCESSIVE_LOAD,
            Self::FRAME_TOO_LARGE,
            Self::FRAME_UNEXPECTED,
            Self::INVALID_FRAME,
            Self::INVALID_STREAM_ROLE,
            Self::LEASE_VIOLATION,
            Self::LIMIT_EXCEEDED,
            Self::METADATA_PROTOCOL_VIOLATION,
            Self::OFFSET_OVERFLOW,
            Self::RELAY_REFUSED,
            Self::TICKET_EXPIRED,
            Self::VERSION,
        ];
        if words.contains(&self) { self } else { Self::PATH_DEAD }
    }

    /// Fails if the code is not an application's to send.
    pub(crate) const fn check_own(self) -> Result<(), ApiMisuse> {
        if self.is_reserved() { Err(ApiMisuse::ReservedCode) } else { Ok(()) }
    }
}

impl From<u8> for ErrorCode {
    fn from(code: u8) -> Self {
        Self(code.into())
    }
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        Self(code.into())
    }
}

impl From<u32> for ErrorCode {
    fn from(code: u32) -> Self {
        Self::from_u32(code)
    }
}

impl TryFrom<u64> for ErrorCode {
    type Error = VarIntBoundsExceeded;

    fn try_from(code: u64) -> Result<Self, VarIntBoundsExceeded> {
        Self::from_u64(code)
    }
}

impl TryFrom<u128> for ErrorCode {
    type Error = VarIntBoundsExceeded;

    fn try_from(code: u128) -> Result<Self, VarIntBoundsExceeded> {
        u64::try_from(code).map_err(|_| VarIntBoundsExceeded).and_then(Self::from_u64)
    }
}

impl TryFrom<usize> for ErrorCode {
    type Error = VarIntBoundsExceeded;

    fn try_from(code: usize) -> Result<Self, VarIntBoundsExceeded> {
        u64::try_from(code).map_err(|_| VarIntBoundsExceeded).and_then(Self::from_u64)
    }
}

impl From<ErrorCode> for u64 {
    fn from(code: ErrorCode) -> Self {
        code.0
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self(BLOCK + $n);)*

            /// Returns the name of one of KWIK's codes.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Nothing went wrong.
    NO_ERROR = 0x00;
    /// A secondary tried to reach the application.
    SECONDARY_STREAM_ISOLATION = 0x01;
    /// Two mappings claim one internal stream or one range.
    STREAM_MAPPING_CONFLICT = 0x02;
    /// The two ends disagree on what was received.
    OFFSET_SYNC_FAILURE = 0x03;
    /// Control metadata broke a rule that has no code of its own.
    METADATA_PROTOCOL_VIOLATION = 0x04;
    /// A hole stayed without an owner for too long.
    AGGREGATION_TIMEOUT = 0x05;
    /// A secondary sent past its credit.
    SECONDARY_STREAM_OVERFLOW = 0x06;
    /// The role asked for is not served here.
    INVALID_STREAM_ROLE = 0x07;
    /// No such path in this session.
    PATH_NOT_FOUND = 0x08;
    /// The path is closed, timed out or could not be attached.
    PATH_DEAD = 0x09;
    /// The path stayed silent while bytes were due.
    PATH_STALLED = 0x0a;
    /// A frame did not decode.
    INVALID_FRAME = 0x0b;
    /// A frame is longer than its cap.
    FRAME_TOO_LARGE = 0x0c;
    /// A frame that its sender's role, the state or the features do not allow.
    FRAME_UNEXPECTED = 0x0d;
    /// No common protocol version or application protocol.
    VERSION = 0x0e;
    /// A ticket, proof, pin or certificate did not verify.
    AUTH_FAILED = 0x0f;
    /// The hello did not come in time.
    AUTH_TIMEOUT = 0x10;
    /// The ticket is past its time.
    TICKET_EXPIRED = 0x11;
    /// Bytes outside every lease of the path that sent them.
    LEASE_VIOLATION = 0x12;
    /// The lease was taken back.
    LEASE_REVOKED = 0x13;
    /// The path takes no new work.
    DRAINING = 0x14;
    /// The stream's guaranteed credit cannot be given.
    NO_CREDIT = 0x15;
    /// The stream was once open and is closed now.
    STREAM_CLOSED = 0x16;
    /// The announced size contradicts what was sent before.
    FINAL_SIZE = 0x17;
    /// An offset beyond 2^62 − 1.
    OFFSET_OVERFLOW = 0x18;
    /// The bytes of a verified lease do not have its digest.
    DIGEST_MISMATCH = 0x19;
    /// Two sources disagree about the same bytes.
    DATA_CONFLICT = 0x1a;
    /// More bytes than the stream or session may hold.
    FLOW_CONTROL = 0x1b;
    /// The client's dial policy refuses the address.
    DIAL_REFUSED = 0x1c;
    /// The relay is not accepted.
    RELAY_REFUSED = 0x1d;
    /// A count is over its cap.
    LIMIT_EXCEEDED = 0x1e;
    /// More control work than the peer has earned.
    EXCESSIVE_LOAD = 0x1f;
    /// The primary path is gone, and with it the session.
    PRIMARY_LOST = 0x20;
    /// A bug in KWIK at this end. Never sent, and refused where a peer says so of something that is to be known here by it;
    /// as a peer's reason to close it is the peer's own word ([`ConnectionError::ApplicationClosed`]).
    INTERNAL = 0x21;
    /// A lease ended before every byte of it was written.
    LEASE_SHORT = 0x22;
    /// The ticket is not valid yet: the clocks of the primary and the secondary differ by more than may be.
    CLOCK_SKEW = 0x23;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

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

impl FrameError {
    /// Returns the code a path is closed with for this error.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::TooLarge => ErrorCode::FRAME_TOO_LARGE,
            Self::Range => ErrorCode::OFFSET_OVERFLOW,
            Self::TooMany => ErrorCode::LIMIT_EXCEEDED,
            Self::Field | Self::Malformed | Self::UnknownMandatory => ErrorCode::INVALID_FRAME,
        }
    }
}

/// Reason for the end of a session, or of one of its paths. Variants as in quinn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer closed with an application code, or with one of KWIK's.
    #[error("closed by peer: {0}")]
    ApplicationClosed(ApplicationClose),
    /// No connection id was left to use.
    #[error("CIDs exhausted")]
    CidsExhausted,
    /// The peer's QUIC stack closed the connection.
    #[error("aborted by peer: {0}")]
    ConnectionClosed(ConnectionClose),
    /// The local application closed the session.
    #[error("closed")]
    LocallyClosed,
    /// KWIK closed the session because of what the peer did or failed to do.
    #[error("{0}")]
    Fault(ErrorCode),
    /// The peer has restarted and knows nothing of the connection.
    #[error("reset by peer")]
    Reset,
    /// Nothing was heard for the idle timeout.
    #[error("timed out")]
    TimedOut,
    /// QUIC itself failed: the handshake, a certificate, or a rule of RFC 9000.
    #[error(transparent)]
    TransportError(#[from] TransportError),
    /// The peer speaks no version of QUIC that we do.
    #[error("peer doesn't implement any supported version")]
    VersionMismatch,
}

/// A rule of RFC 9000 that was broken, or a handshake that failed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportError {
    /// The kind of error.
    pub code: TransportErrorCode,
    /// Type of the frame that it came of, if it came of one.
    pub frame: Option<FrameType>,
    /// Description of the fault, for humans.
    pub reason: String,
}

impl TransportError {
    pub(crate) const fn new(code: TransportErrorCode, frame: Option<FrameType>, reason: String) -> Self {
        Self { code, frame, reason }
    }

    /// A failure of this machine's own, which no peer has caused.
    #[cfg(feature = "driver")]
    pub(crate) const fn internal(reason: String) -> Self {
        Self::new(TransportErrorCode::INTERNAL_ERROR, None, reason)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if let Some(frame) = self.frame {
            write!(f, " in {frame}")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", PeerText(self.reason.as_bytes())) }
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportError")
            .field("code", &self.code)
            .field("frame", &self.frame)
            .field("reason", &format_args!("\"{}\"", PeerText(self.reason.as_bytes())))
            .finish()
    }
}

impl std::error::Error for TransportError {}

/// An order of codes and frames, which have none of their own.
fn order(code: TransportErrorCode, frame: Option<FrameType>) -> (u64, Option<String>) {
    (code.into(), frame.map(|frame| frame.to_string()))
}

impl PartialOrd for TransportError {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TransportError {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |error: &Self| order(error.code, error.frame);
        of(self).cmp(&of(other)).then_with(|| self.reason.cmp(&other.reason))
    }
}

/// A close by the peer's QUIC stack.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionClose {
    /// The kind of error.
    pub error_code: TransportErrorCode,
    /// Type of the frame that it came of, if it came of one.
    pub frame_type: Option<FrameType>,
    /// The closing end's reason, for humans; at most what fits a packet.
    pub reason: Bytes,
}

impl ConnectionClose {
    pub(crate) const fn new(
        error_code: TransportErrorCode,
        frame_type: Option<FrameType>,
        reason: Bytes,
    ) -> Self {
        Self { error_code, frame_type, reason }
    }
}

impl From<TransportError> for ConnectionClose {
    fn from(error: TransportError) -> Self {
        Self::new(error.code, error.frame, error.reason.into())
    }
}

impl PartialOrd for ConnectionClose {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ConnectionClose {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |close: &Self| order(close.error_code, close.frame_type);
        of(self).cmp(&of(other)).then_with(|| self.reason.cmp(&other.reason))
    }
}

impl fmt::Display for ConnectionClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error_code.fmt(f)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", PeerText(&self.reason)) }
    }
}

impl fmt::Debug for ConnectionClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionClose")
            .field("error_code", &self.error_code)
            .field("frame_type", &self.frame_type)
            .field("reason", &format_args!("\"{}\"", PeerText(&self.reason)))
            .finish()
    }
}

/// A code and a text that came with a close.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ApplicationClose {
    /// The code.
    pub error_code: ErrorCode,
    /// Text of the closing end, for humans; at most as long as fits a packet.
    pub reason: Bytes,
}

impl fmt::Display for ApplicationClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            return write!(f, "{}", self.error_code);
        }
        write!(f, "{} (code {})", PeerText(&self.reason), self.error_code)
    }
}

impl fmt::Debug for ApplicationClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplicationClose")
            .field("error_code", &self.error_code)
            .field("reason", &format_args!("\"{}\"", PeerText(&self.reason)))
            .finish()
    }
}

/// A text of a peer's, for humans: escaped, and at most 256 bytes of it.
pub(crate) struct PeerText<'a>(pub(crate) &'a [u8]);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(REASON_MAX) {
            Some((head, tail)) if !tail.is_empty() => write!(f, "{}…", head.escape_ascii()),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
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

/// Errors of writing to a lease on a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseWriteError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_block_is_exactly_the_block() {
        assert!(!ErrorCode(BLOCK - 1).is_reserved());
        assert!(ErrorCode::NO_ERROR.is_reserved());
        assert!(ErrorCode(BLOCK + 0xffff).is_reserved());
        assert!(!ErrorCode(BLOCK + 0x1_0000).is_reserved());
        assert_eq!(ErrorCode::PRIMARY_LOST.to_string(), "PRIMARY_LOST");
        assert_eq!(ErrorCode::from_u32(7).to_string(), "7", "as in quinn");
    }
}
