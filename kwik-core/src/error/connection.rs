//! Reasons for the end of a session, with quinn's variants and payloads.

use std::{cmp::Ordering, fmt};

use bytes::Bytes;
use thiserror::Error;

use super::{ErrorCode, PeerFault};
use crate::{
    limits::REASON_MAX,
    quic::{FrameType, TransportErrorCode},
};

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
    Fault(PeerFault),
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
struct PeerText<'a>(&'a [u8]);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(REASON_MAX) {
            Some((head, tail)) if !tail.is_empty() => write!(f, "{}…", head.escape_ascii()),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}
