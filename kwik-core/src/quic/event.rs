//! quinn-proto's events and errors in KWIK's words.

use bytes::Bytes;
use quinn_proto::VarInt;

use crate::{
    action::{Ecn, Transmit},
    error::{ApplicationClose, ConnectionClose, ConnectionError, ErrorCode, TransportError},
    id::{Dir, Side, StreamId},
};

/// Events of one connection.
#[derive(Debug)]
pub(crate) enum Event {
    Available(Dir),
    Connected,
    DatagramReceived,
    DatagramsUnblocked,
    Finished(StreamId),
    HandshakeDataReady,
    Lost(ConnectionError),
    Opened(Dir),
    Readable(StreamId),
    Stopped(StreamId),
    Writable(StreamId),
}

impl From<quinn_proto::Event> for Event {
    fn from(event: quinn_proto::Event) -> Self {
        use quinn_proto::{Event as E, StreamEvent as S};
        match event {
            E::HandshakeDataReady => Self::HandshakeDataReady,
            E::Connected => Self::Connected,
            E::ConnectionLost { reason } => Self::Lost(lost(reason)),
            E::DatagramReceived => Self::DatagramReceived,
            E::DatagramsUnblocked => Self::DatagramsUnblocked,
            E::Stream(S::Opened { dir }) => Self::Opened(from_dir(dir)),
            E::Stream(S::Available { dir }) => Self::Available(from_dir(dir)),
            E::Stream(S::Readable { id }) => Self::Readable(from_id(id)),
            E::Stream(S::Writable { id }) => Self::Writable(from_id(id)),
            E::Stream(S::Finished { id }) => Self::Finished(from_id(id)),
            E::Stream(S::Stopped { id, .. }) => Self::Stopped(from_id(id)),
        }
    }
}

/// Converts the reason why a connection is gone.
pub(super) fn lost(reason: quinn_proto::ConnectionError) -> ConnectionError {
    use quinn_proto::ConnectionError as Q;
    match reason {
        Q::VersionMismatch => ConnectionError::VersionMismatch,
        Q::TransportError(error) => {
            ConnectionError::TransportError(TransportError::new(error.code, error.frame, error.reason))
        }
        Q::ConnectionClosed(close) => ConnectionError::ConnectionClosed(ConnectionClose::new(
            close.error_code,
            close.frame_type,
            close.reason,
        )),
        Q::ApplicationClosed(close) => ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: code(close.error_code),
            reason: close.reason,
        }),
        Q::Reset => ConnectionError::Reset,
        Q::TimedOut => ConnectionError::TimedOut,
        Q::LocallyClosed => ConnectionError::LocallyClosed,
        Q::CidsExhausted => ConnectionError::CidsExhausted,
    }
}

pub(super) fn from_dir(dir: quinn_proto::Dir) -> Dir {
    match dir {
        quinn_proto::Dir::Bi => Dir::Bi,
        quinn_proto::Dir::Uni => Dir::Uni,
    }
}

pub(super) fn to_dir(dir: Dir) -> quinn_proto::Dir {
    match dir {
        Dir::Bi => quinn_proto::Dir::Bi,
        Dir::Uni => quinn_proto::Dir::Uni,
    }
}

pub(super) fn from_id(id: quinn_proto::StreamId) -> StreamId {
    let side = match id.initiator() {
        quinn_proto::Side::Client => Side::Client,
        quinn_proto::Side::Server => Side::Server,
    };
    StreamId::from_parts(side, from_dir(id.dir()), id.index())
}

pub(super) fn to_id(id: StreamId) -> quinn_proto::StreamId {
    let side = match id.initiator() {
        Side::Client => quinn_proto::Side::Client,
        Side::Server => quinn_proto::Side::Server,
    };
    quinn_proto::StreamId::new(side, to_dir(id.dir()), id.index())
}

pub(super) fn code(code: VarInt) -> ErrorCode {
    ErrorCode::from_u64(code.into_inner()).unwrap_or(ErrorCode::INTERNAL)
}

pub(super) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

pub(super) fn ecn(ecn: Ecn) -> quinn_proto::EcnCodepoint {
    match ecn {
        Ecn::Ect0 => quinn_proto::EcnCodepoint::Ect0,
        Ecn::Ect1 => quinn_proto::EcnCodepoint::Ect1,
        Ecn::Ce => quinn_proto::EcnCodepoint::Ce,
    }
}

pub(super) fn transmit(transmit: quinn_proto::Transmit) -> Transmit {
    Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.map(|ecn| match ecn {
            quinn_proto::EcnCodepoint::Ect0 => Ecn::Ect0,
            quinn_proto::EcnCodepoint::Ect1 => Ecn::Ect1,
            quinn_proto::EcnCodepoint::Ce => Ecn::Ce,
        }),
        size: transmit.size,
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}

/// Reasons why reading a stream stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// More may come.
    Blocked,
    /// Stopped or read to its end before.
    Closed,
    /// The last byte was read.
    Finished,
    /// Ordered reading after unordered reading.
    IllegalOrder,
    /// The peer gave the stream up.
    Reset(ErrorCode),
}

/// Reasons why a stream took no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    Blocked,
    Closed,
    Stopped(ErrorCode),
}

/// Reasons why a datagram was not taken.
#[derive(Debug)]
pub(crate) enum DatagramEnd {
    Blocked(Bytes),
    Disabled,
    TooLarge,
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of its own in a log, and colours, are not a peer's to make; nor is it to fill the disk.
    #[test]
    fn a_peers_text_is_escaped_and_has_an_end() {
        let text =
            [b"x\n2026-01-01 ERROR root: \x1b[31mpassword is wrong".as_slice(), &[b'A'; 1000]].concat();
        let closed = quinn_proto::ConnectionError::ConnectionClosed(quinn_proto::ConnectionClose {
            error_code: quinn_proto::TransportErrorCode::PROTOCOL_VIOLATION,
            frame_type: None,
            reason: text.clone().into(),
        });
        let app = quinn_proto::ConnectionError::ApplicationClosed(quinn_proto::ApplicationClose {
            error_code: 5u32.into(),
            reason: text.clone().into(),
        });
        let failed = quinn_proto::TransportError {
            code: quinn_proto::TransportErrorCode::crypto(42),
            frame: None,
            reason: String::from_utf8(text).unwrap(),
        };
        for reason in [closed, app, quinn_proto::ConnectionError::TransportError(failed)] {
            let lost = lost(reason);
            for text in [lost.to_string(), format!("{lost:?}")] {
                assert!(text.len() < 500, "{} bytes", text.len());
                assert!(text.contains("password") && !text.contains(char::is_control), "{text}");
            }
        }
    }
}
