//! The bytes of a verified lease, kept apart until their digest is known to be right. Spec: PROTOCOL §5.4.

use std::fmt;

use bytes::Bytes;

use super::{assemble::Assembler, conflict::ConflictPolicy};
use crate::id::{ByteRange, PathId};

/// Bytes that have come of one verified lease. Their room is its caller's to account for.
pub(crate) struct Staging {
    /// Keeps slivers from pinning their buffers, as for any other bytes held.
    assembler: Assembler,
    next: u64,
    hasher: blake3::Hasher,
    digest: blake3::Hash,
}

impl Staging {
    /// Nothing has come of `range`, whose BLAKE3 digest is to be `digest`.
    pub(crate) fn new(range: ByteRange, digest: [u8; 32]) -> Self {
        Self {
            assembler: Assembler::new(range.start(), ConflictPolicy::default()),
            next: range.start(),
            hasher: blake3::Hasher::new(),
            digest: blake3::Hash::from_bytes(digest),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, source: PathId, bytes: Bytes) {
        self.hasher.update(&bytes);
        let offset = self.next;
        self.next += bytes.len() as u64;
        self.assembler.insert(source, offset, bytes);
    }

    /// Gives the bytes with their offsets, if they are what was promised; otherwise they are gone.
    pub(crate) fn verify(mut self) -> Option<impl Iterator<Item = (u64, Bytes)>> {
        // Compared in constant time, as `blake3::Hash` does.
        let right = self.hasher.finalize() == self.digest;
        right.then(|| std::iter::from_fn(move || self.assembler.read(usize::MAX, true)))
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("held", &self.assembler.held()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_promised_comes_out() {
        let promised = blake3::hash(b"hello world").into();
        let range = ByteRange::new(100, 11).unwrap();
        for (bytes, right) in [(&b"hello world"[..], true), (b"hello_world", false), (b"hello worl", false)] {
            let mut staging = Staging::new(range, promised);
            for part in bytes.chunks(4) {
                staging.push(PathId::new(1), Bytes::copy_from_slice(part));
            }
            let out: Option<Vec<u8>> = staging.verify().map(|chunks| {
                chunks
                    .scan(100, |next, (offset, bytes)| {
                        assert_eq!(std::mem::replace(next, offset + bytes.len() as u64), offset);
                        Some(bytes)
                    })
                    .flatten()
                    .collect()
            });
            assert_eq!(out.as_deref(), right.then_some(bytes));
        }
    }
}
