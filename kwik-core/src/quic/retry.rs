//! Finds Retry packets in a datagram before quinn-proto does.
//!
//! A server never gets an honest one, and nothing in it is authenticated; quinn-proto ends a server's handshake for it
//! (RATIONALE §13), so that anybody who sees one packet, or one flipped bit of the type, could.

/// Offset of the first Retry packet in a datagram, if there is one (RFC 9000 §17.2.5).
///
/// Packets that are longer than the datagram, or are not of a version that has Retry packets, end the search.
pub(super) fn find(datagram: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let packet = Packet::parse(datagram.get(at..)?)?;
        match packet {
            Packet::Retry => return Some(at),
            Packet::Other(len) => at = at.checked_add(len)?,
        }
    }
}

/// A packet with a long header.
enum Packet {
    Retry,
    /// Any other, with its length in bytes.
    Other(usize),
}

impl Packet {
    /// `None` for what has no length of its own, or is none.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = Cursor(bytes);
        let first = *rest.take(1)?.first()?;
        let version = rest.take(4)?;
        if first & LONG == 0 || version == [0; 4] {
            return None;
        }
        let kind = first & TYPE;
        if kind == RETRY {
            return Some(Self::Retry);
        }
        for _ in 0..2 {
            let len = *rest.take(1)?.first()?;
            rest.take(usize::from(len))?;
        }
        if kind == INITIAL {
            let token = rest.varint()?;
            rest.take(token)?;
        }
        let payload = rest.varint()?;
        rest.take(payload)?;
        Some(Self::Other(bytes.len() - rest.0.len()))
    }
}

/// The long form of a header (RFC 9000 §17.2).
const LONG: u8 = 0x80;
/// The bits of its type, which header protection leaves as they are.
const TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
const RETRY: u8 = 0x30;

/// The unread rest of a datagram.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// RFC 9000 §16.
    fn varint(&mut self) -> Option<usize> {
        let first = *self.0.first()?;
        let bytes = self.take(1 << (first >> 6))?;
        let value =
            bytes.iter().skip(1).fold(u64::from(first & 0x3f), |sum, byte| sum << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of `kind` with ids of four and no bytes, and a payload of 70.
    fn packet(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0xc0 | kind, 0, 0, 0, 1, 4, 1, 2, 3, 4, 0];
        if kind == INITIAL {
            bytes.extend([3, 9, 9, 9]);
        }
        bytes.extend([0x40, 70]);
        bytes.extend([0xf0; 70]);
        bytes
    }

    #[test]
    fn a_retry_is_found_wherever_it_is() {
        let (initial, zero_rtt, handshake, retry) =
            (packet(INITIAL), packet(0x10), packet(0x20), packet(RETRY));
        assert_eq!(find(&retry), Some(0));
        let before = [initial.clone(), zero_rtt, handshake].concat();
        assert_eq!(find(&before), None);
        assert_eq!(find(&[before.clone(), retry.clone()].concat()), Some(before.len()));
        // A bit of the type is all it takes.
        let mut turned = [initial.clone(), packet(0x20)].concat();
        turned[initial.len()] ^= 0x10;
        assert_eq!(find(&turned), Some(initial.len()));
        // Short headers, other versions, Version Negotiation and what is cut off: nothing more can be told apart.
        for start in [vec![0x70], vec![0xc0, 0, 0, 0, 0]] {
            assert_eq!(find(&[start, retry.clone()].concat()), None);
        }
        for len in 0..initial.len() {
            assert_eq!(find(&initial[..len]), None);
        }
    }
}
