//! Memory for the pieces on their way, used over and over: fresh pages from the system cost more than the copying.

use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// Buffers kept while nobody needs them.
const KEPT: usize = 64;

/// Lends buffers, which come back by themselves when the last reader lets go.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// Has `fill` fill a buffer of `len` bytes, whose content before means nothing.
    pub(super) fn fill(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Bytes> {
        let mut bytes = self.lock().pop().unwrap_or_default();
        bytes.resize(len, 0);
        let mut lent = Lent { bytes, home: self.clone() };
        fill(&mut lent.bytes)?;
        Ok(Bytes::from_owner(lent))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer under way.
struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = self.home.lock();
        if kept.len() < KEPT {
            kept.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_slice_is_gone() {
        let buffers = Buffers::default();
        let fill = |len, byte| {
            buffers.fill(len, |buf| {
                buf.fill(byte);
                Ok(())
            })
        };
        let mut first = fill(100, 1).unwrap();
        let part = first.split_to(40);
        let address = part.as_ptr();
        drop(first);
        assert_eq!(buffers.lock().len(), 0);
        assert_eq!(part, [1; 40][..]);
        drop(part);
        assert_eq!(buffers.lock().len(), 1);
        let second = fill(60, 2).unwrap();
        assert_eq!((second.as_ptr(), &second[..]), (address, &[2; 60][..]));
        assert!(buffers.fill(1, |_| Err(io::ErrorKind::Other.into())).is_err());
        drop(second);
        assert_eq!(buffers.lock().len(), 2);
    }
}
