//! The sending half of a stream, and what all handles that take bytes have in common.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    COPY_MAX,
    distribute::Distribution,
    error::StoppedError,
    ranges::{Job, RangeWriter, Ranges},
    session::{Key, SendEnd, SessionRef, State, own_code},
    source::ReadAt,
};
use crate::{
    distribute::DistributeOptions,
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
    sent: Arc<Sent>,
    ours: Ours,
}

/// The way in which a handle has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Nothing,
    /// It was finished, and the peer had not stopped it.
    Finished,
    Reset,
}

/// A stream's place in the table of those that are sent: kept by its handle, and by whoever waits for its end.
#[derive(Debug)]
struct Sent {
    session: SessionRef,
    stream: StreamId,
}

impl Sent {
    fn new(session: SessionRef, stream: StreamId) -> Self {
        session.with(|s| {
            // The peer may have stopped it before it was accepted.
            let stopped = s.core.stopped(stream).ok().flatten();
            s.sent.insert(stream, stopped.map(SendEnd::Stopped));
        });
        Self { session, stream }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State, StreamId) -> T) -> T {
        self.session.with(|s| f(s, self.stream))
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.with(|s, stream| s.sent.remove(&stream));
    }
}

impl SendStream {
    pub(super) fn new(session: SessionRef, stream: StreamId) -> Self {
        Self { sent: Arc::new(Sent::new(session, stream)), ours: Ours::Nothing }
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
    /// Fine as well, as in quinn, if the peer has stopped the stream: nothing more is sent then, and [`Self::stopped`]
    /// says so.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was finished or reset before.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let Self { sent, ours } = self;
        if *ours == Ours::Reset {
            return Err(ClosedStream);
        }
        sent.with(|s, stream| {
            let now = s.now();
            let stopped = matches!(s.sent_end(stream), Some(SendEnd::Stopped(_)));
            let finished = s.core.finish(now, stream);
            if !stopped {
                finished?;
                *ours = Ours::Finished;
            }
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
        let Self { sent, ours } = self;
        if *ours == Ours::Reset {
            return Err(ClosedStream);
        }
        sent.with(|s, stream| {
            let now = s.now();
            let reset = s.core.reset(now, stream, own_code(code));
            // One that the peer stopped may have been reset for that already.
            if !matches!(s.sent_end(stream), Some(SendEnd::Stopped(_))) {
                reset.map_err(|_closed| ClosedStream)?;
                s.end_sent(stream, SendEnd::Reset);
            }
            *ours = Ours::Reset;
            s.notify();
            Ok(())
        })
    }

    /// Sets the stream's priority: while a stream of higher priority has bytes to send, this one waits. Starts at 0.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is over.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.sent.with(|s, stream| s.core.set_priority(stream, priority))
    }

    /// Returns the stream's priority.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream is over.
    pub fn priority(&self) -> Result<i32, ClosedStream> {
        self.sent.with(|s, stream| s.core.priority(stream))
    }

    /// Waits until the peer stops the stream, with `Some(code)`, or until everything written before [`Self::finish`] has
    /// arrived, with `None`. Whichever came first stays the answer, however often it is asked and whatever is called
    /// meanwhile.
    ///
    /// # Errors
    /// - [`StoppedError::ConnectionLost`] if the session ended first.
    /// - [`StoppedError::Reset`] if the stream was reset first, by [`Self::reset`].
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<ErrorCode>, StoppedError>> + Send + Sync + use<> {
        let sent = self.sent.clone();
        async move {
            let stream = sent.stream;
            let stopped = sent.session.wait(Key::Finished(stream), |s| match s.sent_end(stream) {
                Some(SendEnd::Arrived) => Some(Ok(None)),
                Some(SendEnd::Reset) => Some(Err(StoppedError::Reset)),
                Some(SendEnd::Stopped(code)) => Some(Ok(Some(code))),
                None => s.error.clone().map(|error| Err(StoppedError::ConnectionLost(error))),
            });
            stopped.await
        }
    }

    /// Returns the stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.sent.stream
    }

    /// Returns a handle by which many tasks can fill this stream at once. Primary only. Spec: RATIONALE §3.
    #[must_use]
    pub fn ranges(&self) -> Ranges {
        Ranges::new(self.sent.session.clone(), self.sent.stream)
    }

    /// Sends the first `len` bytes of an object over every path at once: each range comes from whoever brings it first, and
    /// what is lost from somebody else. Primary only. Spec: RATIONALE §7.
    ///
    /// Paths that are added or attached while it runs join in, those that go leave. Await what it returns for the end, or
    /// ask it for news first. The stream is finished with the object; see [`Distribution`] for what becomes of it otherwise.
    pub fn distribute(
        &mut self,
        source: impl ReadAt,
        len: u64,
        options: DistributeOptions,
    ) -> Distribution<'_> {
        Distribution::new(self, source, len, options)
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

impl SendStream {
    /// Reason why nothing can be written, the core having forgotten the stream: that may be one that was stopped and then
    /// finished.
    fn closed(&self, s: &State) -> WriteError {
        match (self.ours, s.sent_end(self.sent.stream)) {
            (Ours::Nothing, Some(SendEnd::Stopped(code))) => WriteError::Stopped(code),
            _ => WriteError::ClosedStream,
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let open = self.ours == Ours::Nothing;
        self.sent.with(|s, stream| {
            s.wakers.unset(Key::Writable(stream));
            let now = s.now();
            // A stopped stream may have been finished before: then nothing is left to do.
            if open && s.error.is_none() && s.core.finish(now, stream).is_ok() {
                s.notify();
            }
        });
    }
}

impl Sink for SendStream {
    type Error = WriteError;

    /// Even nothing cannot be written to a stream that is closed.
    fn check_room(&self, bytes: u64) -> Result<(), WriteError> {
        if bytes > 0 {
            return Ok(()); // whoever writes is told
        }
        self.sent.with(|s, stream| {
            s.check()?;
            match (self.ours, s.core.stopped(stream)) {
                (Ours::Nothing, Ok(None)) => Ok(()),
                (Ours::Nothing, Ok(Some(code))) => Err(WriteError::Stopped(code)),
                (Ours::Nothing | Ours::Finished | Ours::Reset, _) => Err(self.closed(s)),
            }
        })
    }

    fn poll_chunks(&mut self, cx: &Context<'_>, bufs: &mut [Bytes]) -> Poll<Result<Written, WriteError>> {
        self.sent.with(|s, stream| {
            s.check()?;
            let now = s.now();
            match s.core.write(now, stream, bufs) {
                Ok(written) => {
                    s.notify();
                    Poll::Ready(Ok(written))
                }
                Err(WriteError::Blocked) => {
                    s.wakers.set(Key::Writable(stream), cx.waker());
                    Poll::Pending
                }
                Err(WriteError::ClosedStream) => Poll::Ready(Err(self.closed(s))),
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
