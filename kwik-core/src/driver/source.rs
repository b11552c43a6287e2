//! Sources of an object's bytes, read at offsets, away from the executor where reading may block.

use std::{
    fs::File,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{
    lock::{Lock, Owed, Owes},
    runtime::Clock,
};
use crate::{error::ErrorCode, id::ByteRange};

/// Bytes of a source hashed at a time.
const HASHED_AT_ONCE: u64 = 256 * 1024;

/// An object that can be read at any offset, by many at once.
pub trait ReadAt: Send + Sync + 'static {
    /// Returns the `len` bytes from `offset` on.
    ///
    /// # Errors
    /// - [`io::ErrorKind::UnexpectedEof`] if it ends before.
    /// - Whatever else keeps them from being read.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Returns whether reading may take a while, as by default: then it is done on a thread that may block.
    fn blocks(&self) -> bool {
        true
    }

    /// Returns the code with which the stream is reset if this error is why it is not completed; by default the one of
    /// [`DistributeOptions::reset_code`](crate::distribute::DistributeOptions::reset_code).
    fn reset_code(&self, _error: &io::Error) -> Option<ErrorCode> {
        None
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let range = range.filter(|range| range.end <= self.len());
        range.map(|range| self.slice(range)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn blocks(&self) -> bool {
        false
    }
}

impl ReadAt for File {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        std::os::unix::fs::FileExt::read_exact_at(self, &mut bytes, offset)?;
        Ok(bytes.into())
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let count = std::os::windows::fs::FileExt::seek_read(self, rest, offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(count..).unwrap_or_default();
            offset += count as u64;
        }
        Ok(bytes.into())
    }

    #[cfg(not(any(unix, windows)))]
    fn read_at(&self, _offset: u64, _len: usize) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        (**self).read_at(offset, len)
    }

    fn blocks(&self) -> bool {
        (**self).blocks()
    }

    fn reset_code(&self, error: &io::Error) -> Option<ErrorCode> {
        (**self).reset_code(error)
    }
}

/// Reads a range; an answer of another length is none.
pub(super) fn read(source: &dyn ReadAt, range: ByteRange) -> io::Result<Bytes> {
    let len = usize::try_from(range.len()).map_err(io::Error::other)?;
    let bytes = source.read_at(range.start(), len)?;
    if bytes.len() == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Returns the BLAKE3 digest of a range.
pub(super) fn digest(source: &dyn ReadAt, range: ByteRange) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut at = range.start();
    while let Some(part) = ByteRange::between(at, range.end().min(at.saturating_add(HASHED_AT_ONCE))) {
        hasher.update(&read(source, part)?);
        at = part.end();
    }
    Ok(hasher.finalize().into())
}

/// The answer of a source, once it is there.
pub(super) struct Asked<T>(Arc<Lock<Answer<T>>>);

struct Answer<T> {
    value: Option<io::Result<T>>,
    waker: Option<Waker>,
    owed: Owed,
}

impl<T> Owes for Answer<T> {
    fn owed(&mut self) -> Option<&mut Owed> {
        Some(&mut self.owed)
    }
}

impl<T: Send + 'static> Asked<T> {
    /// Asks a source, away from the executor if it may block.
    pub(super) fn new(
        source: &Arc<dyn ReadAt>,
        clock: &dyn Clock,
        ask: impl FnOnce(&dyn ReadAt) -> io::Result<T> + Send + 'static,
    ) -> Self {
        let answer = Arc::new(Lock::new(Answer { value: None, waker: None, owed: Owed::default() }));
        if source.blocks() {
            let (source, promise) = (source.clone(), Promise(answer.clone()));
            clock.spawn_blocking(Box::new(move || promise.keep(ask(&*source))));
        } else {
            let value = ask(&**source);
            answer.with(|a| a.value = Some(value));
        }
        Self(answer)
    }

    /// Waits for the answer, and takes it.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<T>> {
        self.0.with(|a| match a.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                if let Some(old) = a.waker.replace(cx.waker().clone()) {
                    a.owed.discard(old);
                }
                Poll::Pending
            }
        })
    }
}

/// The duty to answer: whoever waits is told even if the source panics or is never asked.
struct Promise<T>(Arc<Lock<Answer<T>>>);

impl<T> Promise<T> {
    fn keep(&self, value: io::Result<T>) {
        self.0.with(|a| {
            a.value = Some(value);
            if let Some(waker) = a.waker.take() {
                a.owed.wake(waker);
            }
        });
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        // One that was kept has been answered, and nobody asks again.
        let open = self.0.with(|a| a.value.is_none());
        if open {
            self.keep(Err(io::Error::other("the source was not read")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_give_what_they_have_and_no_more() {
        let bytes = Bytes::from_static(b"0123456789");
        assert_eq!(bytes.read_at(2, 3).unwrap(), "234");
        assert_eq!(bytes.read_at(10, 0).unwrap(), "");
        for (offset, len) in [(8, 3), (11, 0), (u64::MAX, 1), (1, usize::MAX)] {
            assert_eq!(bytes.read_at(offset, len).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        let file = Arc::new(File::open(file!().trim_start_matches("kwik-core/")).unwrap());
        assert_eq!(file.read_at(4, 7).unwrap(), "Sources");
        assert!(file.blocks() && !bytes.blocks());
        let end = file.metadata().unwrap().len();
        assert_eq!(file.read_at(end - 1, 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Gives less than it is asked for.
    struct Short;

    impl ReadAt for Short {
        fn read_at(&self, _offset: u64, len: usize) -> io::Result<Bytes> {
            Ok(vec![0; len / 2].into())
        }
    }

    #[test]
    fn a_source_that_gives_less_has_failed() {
        let range = ByteRange::new(0, 10).unwrap();
        assert_eq!(read(&Short, range).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(digest(&Short, range).is_err());
        let bytes = Bytes::from(vec![7; 1_000_000]);
        let range = ByteRange::new(1000, 900_000).unwrap();
        assert_eq!(digest(&bytes, range).unwrap(), *blake3::hash(&vec![7; 900_000]).as_bytes());
    }

    #[test]
    fn whoever_waits_is_told_even_if_nobody_reads() {
        let answer = Arc::new(Lock::new(Answer { value: None, waker: None, owed: Owed::default() }));
        let (asked, promise) = (Asked::<Bytes>(answer.clone()), Promise(answer));
        let cx = Context::from_waker(Waker::noop());
        assert!(asked.poll(&cx).is_pending());
        drop(promise);
        assert!(matches!(asked.poll(&cx), Poll::Ready(Err(_))));
    }
}
