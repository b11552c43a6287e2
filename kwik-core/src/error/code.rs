//! The one table of codes. Spec: PROTOCOL §10.

use std::fmt;

use super::ApiMisuse;
use crate::{id::OFFSET_MAX, quic::VarIntBoundsExceeded};

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
    /// as a peer's reason to close it is the peer's own word ([`ConnectionError::ApplicationClosed`](super::ConnectionError::ApplicationClosed)).
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
