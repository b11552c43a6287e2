//! Errors of the handles' own operations, and what they look like to IO traits.

use std::io;

use thiserror::Error;

use super::incoming::Incoming;
use crate::{
    error::{AddPathError, ClosedStream, ConnectionError, ErrorCode, LeaseWriteError, ReadError, WriteError},
    id::{ByteRange, PathId},
};

/// Errors of reading an exact number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadExactError {
    /// The stream ended before the buffer was full; so many bytes of it are.
    #[error("stream finished early ({0} bytes read)")]
    FinishedEarly(usize),
    /// Reading failed.
    #[error(transparent)]
    ReadError(#[from] ReadError),
}

/// Errors of reading a stream to its end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadToEndError {
    /// Reading failed.
    #[error("read error: {0}")]
    Read(#[from] ReadError),
    /// The stream is longer than the limit that was given.
    #[error("stream too long")]
    TooLong,
}

/// Errors of waiting for the peer to give a stream up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The session is over.
    #[error("connection lost")]
    ConnectionLost(#[from] ConnectionError),
    /// Never, as long as nothing is sent before the handshake; for programs that name it.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

/// Errors of waiting for the end of a stream at the peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoppedError {
    /// The session is over.
    #[error("connection lost")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was reset here: nobody can tell what of it has arrived.
    #[error("reset locally")]
    Reset,
    /// Never, as long as nothing is sent before the handshake; for programs that name it.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

/// Reasons why a job was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The secondary, or the client on its behalf, refused.
    #[error("job refused: {0}")]
    Refused(ErrorCode),
}

/// Reasons why a path did not become active.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// It could not even be asked for.
    #[error(transparent)]
    Add(#[from] AddPathError),
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The client could not attach it, or it died since.
    #[error("{path} is dead: {code}")]
    Dead {
        /// Name of the path.
        path: PathId,
        /// Reason.
        code: ErrorCode,
    },
}

/// Errors of writing a range: a lease on a secondary, or a run of the primary's own.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeWriteError {
    /// There is no room for more before this range is brought, for which the reader waits, and nobody is to bring it: it was
    /// lost, or never given out. Lease it, or write it; then writing may go on here. Of a primary's own ranges only.
    #[error("the reader waits for {0}, which nobody is to bring")]
    Behind(ByteRange),
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The range was taken back, or its job or stream ended.
    #[error("range ended: {0}")]
    Ended(ErrorCode),
    /// More bytes than the range is long.
    #[error("write past the end of the range")]
    PastEnd,
    /// Finished before all of the range was written; so many bytes are missing.
    #[error("{0} bytes of the range were not written")]
    Short(u64),
}

impl RangeWriteError {
    /// Returns the error to report; `None` if the caller has to wait.
    pub(super) fn from_core(error: LeaseWriteError) -> Option<Self> {
        match error {
            LeaseWriteError::Behind(hole) => Some(Self::Behind(hole)),
            LeaseWriteError::Blocked => None,
            LeaseWriteError::Ended(code) => Some(Self::Ended(code)),
            LeaseWriteError::PastEnd => Some(Self::PastEnd),
        }
    }
}

/// A retry was asked for although the client's address is already validated.
#[derive(Debug, Error)]
#[error("retry() with validated Incoming")]
pub struct RetryError(pub(super) Box<Incoming>);

impl RetryError {
    /// Returns the connection attempt, to be accepted or refused.
    pub fn into_incoming(self) -> Incoming {
        *self.0
    }
}

impl From<ConnectionError> for WriteError {
    fn from(error: ConnectionError) -> Self {
        Self::ConnectionLost(error)
    }
}

impl From<ConnectionError> for ReadError {
    fn from(error: ConnectionError) -> Self {
        Self::ConnectionLost(error)
    }
}

impl From<ClosedStream> for WriteError {
    fn from(_: ClosedStream) -> Self {
        Self::ClosedStream
    }
}

impl From<ResetError> for ReadError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::ConnectionLost(error) => Self::ConnectionLost(error),
            ResetError::ZeroRttRejected => Self::ZeroRttRejected,
        }
    }
}

impl From<StoppedError> for WriteError {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => Self::ConnectionLost(error),
            StoppedError::Reset => Self::ClosedStream,
            StoppedError::ZeroRttRejected => Self::ZeroRttRejected,
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Blocked => io::ErrorKind::WouldBlock,
            WriteError::Stopped(_) | WriteError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
            WriteError::ClosedStream | WriteError::ConnectionLost(_) => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Blocked => io::ErrorKind::WouldBlock,
            ReadError::Reset(_) | ReadError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
            ReadError::ClosedStream | ReadError::ConnectionLost(_) => io::ErrorKind::NotConnected,
            ReadError::IllegalOrderedRead => io::ErrorKind::InvalidInput,
            ReadError::Conflict { .. } => io::ErrorKind::InvalidData,
            ReadError::Incomplete { .. } => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, error)
    }
}

impl From<ReadExactError> for io::Error {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(error) => error.into(),
            ReadExactError::FinishedEarly(_) => Self::new(io::ErrorKind::UnexpectedEof, error),
        }
    }
}

impl From<RangeWriteError> for io::Error {
    fn from(error: RangeWriteError) -> Self {
        let kind = match error {
            RangeWriteError::Behind(_) => io::ErrorKind::Deadlock,
            RangeWriteError::ConnectionLost(_) => io::ErrorKind::NotConnected,
            RangeWriteError::Ended(_) => io::ErrorKind::ConnectionReset,
            RangeWriteError::PastEnd | RangeWriteError::Short(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

impl From<ResetError> for io::Error {
    fn from(error: ResetError) -> Self {
        let kind = match error {
            ResetError::ConnectionLost(_) => io::ErrorKind::NotConnected,
            ResetError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

impl From<StoppedError> for io::Error {
    fn from(error: StoppedError) -> Self {
        let kind = match error {
            StoppedError::ConnectionLost(_) | StoppedError::Reset => io::ErrorKind::NotConnected,
            StoppedError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        let kind = match error {
            ConnectionError::TimedOut => io::ErrorKind::TimedOut,
            ConnectionError::Reset => io::ErrorKind::ConnectionReset,
            ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_) => {
                io::ErrorKind::ConnectionAborted
            }
            ConnectionError::CidsExhausted
            | ConnectionError::Fault(_)
            | ConnectionError::LocallyClosed
            | ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<ClosedStream> for io::Error {
    fn from(error: ClosedStream) -> Self {
        Self::new(io::ErrorKind::NotConnected, error)
    }
}
