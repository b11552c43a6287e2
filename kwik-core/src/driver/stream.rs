//! The sending half of a stream, and what all handles that take bytes have in common.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    COPY_MAX,
    error::StoppedError,
    ranges::{Job, RangeWriter, Ranges},
    session::{Key, SessionRef, own_code},
};
use crate::{
    error::{ClosedStream, ErrorCode, LeaseError, WriteError},
    id::{ByteRange, StreamId},
    session::{NewJob, Written},
};

/// The sending half of a stream.
///
/// Dropping it finishes the stream, as in quinn. On a primary a stream can also be written out of order and leased to
/// other servers: see [`Self::ranges`].
#[derive(Debug)]
pub struct SendStream {
    session: SessionRef,
    stream: StreamId,
}

impl SendStream {
    pub(super) const fn new(session: SessionRef, stream: StreamId) -> Self {
        Self { session, stream }
    }

    /// Writes some of `buf`, as much as is accepted at once, and returns how many bytes; 0 only if `buf` is empty.
    ///
    /// Cancel-safe: if the future is dropped before it is ready, nothing was written.
    ///
    /// # Errors
    /// - [`WriteError::ClosedStream`] if the stream was finished or reset.
    /// - [`WriteError::ConnectionLost`] if the session is over.
    /// - [`WriteError::Stopped`] if the peer wants no more.
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, WriteError> {
        write(self, buf).await
    }

    /// Writes all of `buf`. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all(&mut self, buf: &[u8]) -> Result<(), WriteError> {
        write_all(self, buf).await
    }

    /// Writes some of `bufs` without copying. Chunks written in full are counted, one written in part is advanced.
    ///
    /// Cancel-safe: if the future is dropped before it is ready, nothing was written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Written, WriteError> {
        write_chunks(self, bufs).await
    }

    /// Writes all of `buf` without copying. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_chunk(&mut self, buf: Bytes) -> Result<(), WriteError> {
        write_all_chunks(self, &mut [buf]).await
    }

    /// Writes all of `bufs` without copying. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all_chunks(&mut self, bufs: &mut [Bytes]) -> Result<(), WriteError> {
        write_all_chunks(self, bufs).await
    }

    /// Writes some of `buf`, or waits; for implementations of IO traits.
    pub fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        poll_slice(self.get_mut(), cx, buf)
    }

    /// Ends the stream after what was written. [`Self::stopped`] tells when all of it has arrived.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was finished or reset before.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        self.session.with(|s| {
            let now = s.now();
            s.core.finish(now, self.stream)?;
            s.notify();
            Ok(())
        })
    }

    /// Gives the stream up: what has not arrived yet will not, and the peer's reader fails with `code`.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was reset before, or all of it has arrived.
    pub fn reset(&mut self, code: ErrorCode) -> Result<(), ClosedStream> {
        self.session.with(|s| {
            let now = s.now();
            s.core.reset(now, self.stream, own_code(code)).map_err(|_closed| ClosedStream)?;
            s.notify();
            Ok(())
        })
    }

    /// Sets the stream's priority: while a stream of higher priority has bytes to send, this one waits. Starts at 0.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is over.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.session.with(|s| s.core.set_priority(self.stream, priority))
    }

    /// Returns the stream's priority.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is over.
    pub fn priority(&self) -> Result<i32, ClosedStream> {
        self.session.with(|s| s.core.priority(self.stream))
    }

    /// Waits until the peer stops the stream, with `Some(code)`, or until everything written before [`Self::finish`] has
    /// arrived or the stream was reset, with `None`.
    ///
    /// # Errors
    /// - [`StoppedError::ConnectionLost`] if the session ended first.
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<ErrorCode>, StoppedError>> + Send + Sync + use<> {
        let (session, stream) = (self.session.clone(), self.stream);
        async move {
            let stopped = session.wait(Key::Finished(stream), |s| match s.core.stopped(stream) {
                Ok(None) => s.error.clone().map(|error| Err(StoppedError::ConnectionLost(error))),
                Ok(Some(code)) => Some(Ok(Some(code))),
                Err(ClosedStream) => Some(Ok(None)),
            });
            stopped.await
        }
    }

    /// Returns the stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.stream
    }

    /// Returns a handle by which many tasks can fill this stream at once. Primary only. Spec: KWIK §3.
    #[must_use]
    pub fn ranges(&self) -> Ranges {
        Ranges::new(self.session.clone(), self.stream)
    }

    /// Opens a job on a path; as [`Ranges::open_job`].
    ///
    /// # Errors
    /// - As [`Ranges::open_job`].
    pub fn open_job(&self, job: NewJob) -> Result<Job, LeaseError> {
        self.ranges().open_job(job)
    }

    /// Sets a range aside for this server's own bytes; as [`Ranges::write_at`].
    ///
    /// # Errors
    /// - As [`Ranges::write_at`].
    pub fn write_at(&self, range: ByteRange) -> Result<RangeWriter, LeaseError> {
        self.ranges().write_at(range)
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.session.with(|s| {
            s.wakers.unset(Key::Writable(self.stream));
            let now = s.now();
            // Finished or reset before: nothing to do.
            if s.error.is_none() && s.core.finish(now, self.stream).is_ok() {
                s.notify();
            }
        });
    }
}

impl Sink for SendStream {
    type Error = WriteError;

    fn check_room(&self, _: u64) -> Result<(), WriteError> {
        Ok(())
    }

    fn poll_chunks(&mut self, cx: &Context<'_>, bufs: &mut [Bytes]) -> Poll<Result<Written, WriteError>> {
        self.session.with(|s| {
            s.check()?;
            let now = s.now();
            match s.core.write(now, self.stream, bufs) {
                Ok(written) => {
                    s.notify();
                    Poll::Ready(Ok(written))
                }
                Err(WriteError::Blocked) => {
                    s.wakers.set(Key::Writable(self.stream), cx.waker());
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }
}

/// Takes bytes, in order.
pub(super) trait Sink {
    type Error;

    /// Takes some of `bufs`, at least one byte, or waits.
    fn poll_chunks(&mut self, cx: &Context<'_>, bufs: &mut [Bytes]) -> Poll<Result<Written, Self::Error>>;

    /// Returns an error if so many bytes are too many.
    fn check_room(&self, bytes: u64) -> Result<(), Self::Error>;
}

/// Writes some of `buf`, a copy of it being needed.
pub(super) fn poll_slice<S: Sink>(
    sink: &mut S,
    cx: &Context<'_>,
    buf: &[u8],
) -> Poll<Result<usize, S::Error>> {
    sink.check_room(buf.len() as u64)?;
    let some = buf.get(..COPY_MAX).unwrap_or(buf);
    if some.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let written = ready!(sink.poll_chunks(cx, &mut [Bytes::copy_from_slice(some)]))?;
    Poll::Ready(Ok(written.bytes))
}

pub(super) async fn write<S: Sink>(sink: &mut S, buf: &[u8]) -> Result<usize, S::Error> {
    poll_fn(|cx| poll_slice(sink, cx, buf)).await
}

pub(super) async fn write_all<S: Sink>(sink: &mut S, mut buf: &[u8]) -> Result<(), S::Error> {
    while !buf.is_empty() {
        let written = write(sink, buf).await?;
        buf = buf.get(written..).unwrap_or_default();
    }
    Ok(())
}

pub(super) async fn write_chunks<S: Sink>(sink: &mut S, bufs: &mut [Bytes]) -> Result<Written, S::Error> {
    sink.check_room(bufs.iter().map(|buf| buf.len() as u64).sum())?;
    let empty = bufs.iter().take_while(|buf| buf.is_empty()).count();
    if empty == bufs.len() {
        return Ok(Written { bytes: 0, chunks: empty });
    }
    poll_fn(|cx| sink.poll_chunks(cx, bufs)).await
}

pub(super) async fn write_all_chunks<S: Sink>(sink: &mut S, mut bufs: &mut [Bytes]) -> Result<(), S::Error> {
    while !bufs.is_empty() {
        let written = write_chunks(sink, bufs).await?;
        bufs = bufs.get_mut(written.chunks..).unwrap_or_default();
    }
    Ok(())
}
