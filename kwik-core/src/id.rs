//! Names and quantities: what is counted, owned and addressed, each its own type.
//!
//! Nothing here allocates or decides. Ranges are half-open byte ranges counted from the start of a stream.

use std::{fmt, ops, str::FromStr};

use thiserror::Error;

use crate::error::VarInt;

/// The largest stream offset QUIC can name, 2^62 − 1 (RFC 9000 §4.5). Spec: PROTOCOL §11.
pub const OFFSET_MAX: u64 = (1 << 62) - 1;

/// Names one path of a session: one QUIC connection between the client and one server.
///
/// Chosen by the primary, strictly rising within a session, never reused. A path id may be stale at any moment;
/// looking one up never panics. Spec: DESIGN §1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(u32);

impl PathId {
    /// The path between the client and the primary.
    pub const PRIMARY: Self = Self(0);

    /// Wraps a number chosen by a primary.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// Returns the number on the wire.
    pub const fn into_inner(self) -> u32 {
        self.0
    }

    /// Returns whether this is the path to the primary.
    pub const fn is_primary(self) -> bool {
        self.0 == 0
    }
}

/// One of the connections of a path: an attach dials several addresses, and the first that answers is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt(u8);

impl Attempt {
    /// The first one; the only one of paths that nobody dialled, and of the path to the primary.
    pub(crate) const FIRST: Self = Self(0);

    /// Returns the one after this.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Names one connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) path: PathId,
    pub(crate) attempt: Attempt,
}

impl LinkId {
    /// The connection to the primary, and the only one of a server's session.
    pub(crate) const HOME: Self = Self { path: PathId::PRIMARY, attempt: Attempt::FIRST };
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path {}", self.0)
    }
}

/// Names a session. Chosen at random by the primary; a name, never a permission. Spec: DESIGN §1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Wraps 16 bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Writes `bytes` in lower-case hexadecimal.
fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The end of a connection that opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that dialled.
    Client,
    /// The end that accepted.
    Server,
}

impl Side {
    /// Returns whether this is the end that dialled.
    #[must_use]
    pub const fn is_client(self) -> bool {
        matches!(self, Self::Client)
    }

    /// Returns whether this is the end that accepted.
    #[must_use]
    pub const fn is_server(self) -> bool {
        matches!(self, Self::Server)
    }
}

impl ops::Not for Side {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Directions of a stream: both ends may send, or only the one that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// Both ends send.
    Bi,
    /// Only the end that opened the stream sends.
    Uni,
}

impl Dir {
    /// Returns both directions.
    pub fn iter() -> impl Iterator<Item = Self> {
        [Self::Bi, Self::Uni].into_iter()
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bi => "bidirectional",
            Self::Uni => "unidirectional",
        })
    }
}

/// Names a stream: the QUIC stream id on the primary path (RFC 9000 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The control stream of every path: the client's first bidirectional stream.
    pub const CONTROL: Self = Self(0);

    /// Wraps a number from the wire; `None` above 2^62 − 1.
    pub const fn from_u64(id: u64) -> Option<Self> {
        if id <= OFFSET_MAX { Some(Self(id)) } else { None }
    }

    /// Returns the `index`-th stream that `initiator` opens in `dir`, counted from 0; the first bidirectional one of a
    /// client is KWIK's own.
    #[must_use]
    pub const fn new(initiator: Side, dir: Dir, index: u64) -> Self {
        Self::from_parts(initiator, dir, index)
    }

    pub(crate) const fn from_parts(side: Side, dir: Dir, index: u64) -> Self {
        let side = match side {
            Side::Client => 0,
            Side::Server => 1,
        };
        let dir = match dir {
            Dir::Bi => 0,
            Dir::Uni => 2,
        };
        Self((index << 2) | dir | side)
    }

    /// Returns how many streams of its kind were opened before it.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> 2
    }

    /// Returns the number on the wire.
    pub const fn into_inner(self) -> u64 {
        self.0
    }

    /// Returns the end that opened the stream.
    pub const fn initiator(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }

    /// Returns whether both ends may send.
    pub const fn dir(self) -> Dir {
        if self.0 & 2 == 0 { Dir::Bi } else { Dir::Uni }
    }
}

impl From<StreamId> for VarInt {
    fn from(id: StreamId) -> Self {
        Self::from_u64(id.0).unwrap_or(Self::MAX)
    }
}

impl From<StreamId> for u64 {
    fn from(id: StreamId) -> Self {
        id.0
    }
}

impl From<VarInt> for StreamId {
    fn from(id: VarInt) -> Self {
        Self(id.into_inner())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

macro_rules! counter_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number chosen by the primary.
            pub const fn new(id: u64) -> Self {
                Self(id)
            }

            /// Returns the number on the wire.
            pub const fn into_inner(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, " {}"), self.0)
            }
        }
    };
}

counter_id! {
    /// Names a job: what one path may be asked to supply for one stream. Rises per session. Spec: PROTOCOL §5.
    JobId, "job"
}
counter_id! {
    /// Names a lease: the right of one path to fill one range of one stream. Rises per session. Spec: PROTOCOL §5.
    LeaseId, "lease"
}

/// A non-empty half-open range of stream bytes, `start..end`, with `end` at most 2^62 − 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// Returns `start..start + len`; `None` if that is empty or leaves what QUIC can name.
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Self::between(start, end),
            None => None,
        }
    }

    /// Returns `start..end`; `None` if that is empty or leaves what QUIC can name.
    pub const fn between(start: u64, end: u64) -> Option<Self> {
        if start < end && end <= OFFSET_MAX { Some(Self { start, end }) } else { None }
    }

    /// The first byte's offset.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte's offset.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Returns whether every byte of `other` is in this range.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Returns whether the two share a byte.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Returns the bytes that are in both, if there are any.
    pub(crate) fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start().max(other.start()), self.end().min(other.end()))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text is not the hexadecimal digits of a key, a signature or a hash: two for each byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not {digits} hexadecimal digits")]
pub struct ParseKeyError {
    digits: usize,
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], ParseKeyError> {
    let error = ParseKeyError { digits: 2 * N };
    if text.len() != 2 * N {
        return Err(error);
    }
    let mut bytes = [0; N];
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    for byte in &mut bytes {
        let (high, low) = digits.next().flatten().zip(digits.next().flatten()).ok_or(error)?;
        *byte = u8::try_from(high * 16 + low).map_err(|_too_large| error)?;
    }
    Ok(bytes)
}

macro_rules! key_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the bytes as they are on the wire.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes on the wire.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                hex(f, self.0.get(..4).unwrap_or_default())?;
                f.write_str("…)")
            }
        }

        /// All of it in hexadecimal digits, as it is read again.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            fn from_str(text: &str) -> Result<Self, ParseKeyError> {
                unhex(text).map(Self)
            }
        }
    };
}

key_bytes! {
    /// An Ed25519 public key.
    PublicKey, 32
}
key_bytes! {
    /// An Ed25519 signature.
    Signature, 64
}
key_bytes! {
    /// The SHA-256 of a certificate's `SubjectPublicKeyInfo` (DER): a server's identity in pins and tickets.
    SpkiHash, 32
}

/// Part that one end of a connection plays in a session; fixed by the hello. Spec: DESIGN §1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these three roles")]
pub enum Role {
    /// Dials, reads, and sees ordinary streams.
    Client,
    /// Owns the session: opens streams, hands out ranges.
    Primary,
    /// Fills the ranges it is given.
    Secondary,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_shown() {
        let key = SpkiHash::new(std::array::from_fn(|n| u8::try_from(n * 8 + 1).unwrap()));
        let text = key.to_string();
        assert!(text.starts_with("0109") && text.len() == 64);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
        let not_hex = text.replace('9', "g");
        for wrong in ["", &text[1..], &format!("{text}00"), &not_hex, &"é".repeat(32), &"+1".repeat(32)] {
            assert!(wrong.parse::<SpkiHash>().is_err(), "{wrong}");
        }
        assert_eq!("x".parse::<Signature>().unwrap_err().to_string(), "not 128 hexadecimal digits");
    }

    /// Every pair of ranges at either end of what QUIC can name, against the offsets in them.
    #[test]
    fn every_pair_of_ranges_at_the_edges_is_related_as_its_bytes_are() {
        for base in [0, OFFSET_MAX - 6] {
            let offsets = base..=base + 6;
            let pairs = offsets.clone().flat_map(|start| offsets.clone().map(move |end| (start, end)));
            let all: Vec<ByteRange> =
                pairs.filter_map(|(start, end)| ByteRange::between(start, end)).collect();
            assert_eq!(all.len(), 21, "all that are not empty");
            let bytes = |range: ByteRange| {
                offsets.clone().filter(move |at| (range.start()..range.end()).contains(at))
            };
            for a in &all {
                assert_eq!(Some(*a), ByteRange::new(a.start(), a.len()));
                assert_eq!(a.len(), bytes(*a).count() as u64);
                for b in &all {
                    let both: Vec<u64> = bytes(*a).filter(|at| bytes(*b).any(|other| other == *at)).collect();
                    let common = both.first().zip(both.last()).map(|(first, last)| (*first, *last + 1));
                    assert_eq!(a.intersection(*b).map(|range| (range.start(), range.end())), common);
                    assert_eq!(a.overlaps(*b), !both.is_empty(), "{a} {b}");
                    assert_eq!(a.contains(*b), both.len() as u64 == b.len(), "{a} {b}");
                }
            }
        }
    }

    /// Nothing empty, nothing beyond what QUIC can name, and no sum that is too large for a number.
    #[test]
    fn no_range_leaves_what_can_be_named() {
        let edges = [0, 1, 2, OFFSET_MAX - 1, OFFSET_MAX, OFFSET_MAX + 1, u64::MAX - 1, u64::MAX];
        for (a, b) in edges.into_iter().flat_map(|a| edges.map(|b| (a, b))) {
            assert_eq!(ByteRange::between(a, b).is_some(), a < b && b <= OFFSET_MAX, "{a}..{b}");
            let end = u128::from(a) + u128::from(b);
            assert_eq!(ByteRange::new(a, b).is_some(), b > 0 && end <= OFFSET_MAX.into(), "{a} + {b}");
        }
    }
}
