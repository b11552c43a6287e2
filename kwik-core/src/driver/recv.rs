//! The receiving half of a stream.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    error::{ReadExactError, ReadToEndError, ResetError},
    session::{Key, SessionRef, State, own_code},
};
use crate::{
    action::Chunk,
    error::{ClosedStream, ErrorCode, ReadError},
    id::StreamId,
    stats::StreamStats,
    stream::conflict::ConflictPolicy,
};

/// The receiving half of a stream, whichever servers feed it.
///
/// Dropping it stops the stream with code 0, unless it was read to its end, as in quinn.
#[derive(Debug)]
pub struct RecvStream {
    session: SessionRef,
    stream: StreamId,
    /// The result of every further read, once nothing is left to read.
    end: Option<Result<(), ReadError>>,
    /// An end or error that came right behind bytes: those were given first, and the next read tells of it.
    untold: Option<ReadError>,
    /// Code with which the peer gave the stream up, once that was met.
    reset: Option<ErrorCode>,
}

impl RecvStream {
    pub(super) const fn new(session: SessionRef, stream: StreamId) -> Self {
        Self { session, stream, end: None, untold: None, reset: None }
    }

    /// Reads the next bytes into `buf` and returns how many. `None` if nothing more is to be read: at the end of the stream,
    /// and, as in quinn, after [`Self::stop`] and once [`ReadError::Reset`] has been told.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// - [`ReadError::ConnectionLost`] if the session ended before the stream.
    /// - [`ReadError::IllegalOrderedRead`] after an unordered read.
    /// - [`ReadError::Incomplete`] if bytes are missing that nobody will send.
    /// - [`ReadError::Reset`] if the peer gave the stream up.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, ReadError> {
        poll_fn(|cx| self.poll_some(cx, buf)).await
    }

    /// Fills `buf`. Not cancel-safe: some bytes may have been read.
    ///
    /// # Errors
    /// - [`ReadExactError::FinishedEarly`] if the stream ends first.
    /// - [`ReadExactError::ReadError`] as [`Self::read`].
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest).await? {
                Some(count) => filled += count,
                None => return Err(ReadExactError::FinishedEarly(filled)),
            }
        }
        Ok(())
    }

    /// Reads the next bytes into `buf`, or waits, and returns how many; for implementations of IO traits. 0 where
    /// [`Self::read`] says `None`.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, ReadError>> {
        self.poll_some(cx, buf).map_ok(Option::unwrap_or_default)
    }

    /// Reads the next bytes into what is free of `buf`, or waits; for implementations of IO traits. None where
    /// [`Self::read`] says `None`.
    #[cfg(feature = "tokio")]
    pub fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<Result<(), ReadError>> {
        let room = buf.remaining();
        self.poll_copy(cx, room, &mut |bytes| buf.put_slice(bytes)).map_ok(drop)
    }

    fn poll_some(&mut self, cx: &Context<'_>, buf: &mut [u8]) -> Poll<Result<Option<usize>, ReadError>> {
        let mut filled = 0;
        let room = buf.len();
        self.poll_copy(cx, room, &mut |bytes| {
            if let Some(to) = buf.get_mut(filled..filled + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            filled += bytes.len();
        })
    }

    /// Copies up to `room` bytes out, piece by piece. Returns how many; `None` at the end of the stream.
    pub(super) fn poll_copy(
        &mut self,
        cx: &Context<'_>,
        room: usize,
        put: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<Option<usize>, ReadError>> {
        if room == 0 {
            return Poll::Ready(Ok(Some(0)));
        }
        let mut count = 0;
        self.poll_chunks(
            cx,
            true,
            |chunk| {
                put(&chunk.bytes);
                count += chunk.bytes.len();
                room - count
            },
            room,
        )
        .map(|read| read.map(|any| any.then_some(count)))
    }

    /// Reads the next piece of at most `max_length` bytes without copying; `None` as of [`Self::read`]. With a `max_length`
    /// of 0 it waits until there are bytes, or an end, and returns an empty piece where the next byte is.
    ///
    /// With `ordered` false the piece may come from anywhere in the stream, as its offset tells, and ordered reads are no
    /// longer possible. Cancel-safe.
    ///
    /// # Errors
    /// - As [`Self::read`].
    pub async fn read_chunk(&mut self, max_length: usize, ordered: bool) -> Result<Option<Chunk>, ReadError> {
        poll_fn(|cx| self.poll_read_chunk(cx, max_length, ordered)).await
    }

    /// Reads the next piece of at most `max_length` bytes, or waits; for implementations of foreign traits. As
    /// [`Self::read_chunk`] otherwise.
    pub fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max_length: usize,
        ordered: bool,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        let mut read = None;
        ready!(self.poll_chunks(
            cx,
            ordered,
            |chunk| {
                read = Some(chunk);
                0
            },
            max_length
        ))?;
        Poll::Ready(Ok(read))
    }

    /// Reads the next pieces into `bufs` without copying and returns how many; `None` as of [`Self::read`].
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// - As [`Self::read`].
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if bufs.is_empty() {
            return Ok(Some(0));
        }
        poll_fn(|cx| {
            let mut slots = bufs.iter_mut();
            let mut count = 0;
            let any = ready!(self.poll_chunks(
                cx,
                true,
                |chunk| {
                    if let Some(slot) = slots.next() {
                        *slot = chunk.bytes;
                        count += 1;
                    }
                    if slots.len() == 0 { 0 } else { usize::MAX }
                },
                usize::MAX
            ))?;
            Poll::Ready(Ok(any.then_some(count)))
        })
        .await
    }

    /// Reads the next pieces without copying, appends at most `max` of them to `chunks`, and returns how many; `None` as of
    /// [`Self::read`]. With `ordered` false they may come from anywhere in the stream, as of [`Self::read_chunk`]: where several
    /// servers bring many pieces, this is a fraction of the work of reading them one by one. Cancel-safe.
    ///
    /// # Errors
    /// - As [`Self::read`].
    pub async fn read_many(
        &mut self,
        chunks: &mut Vec<Chunk>,
        max: usize,
        ordered: bool,
    ) -> Result<Option<usize>, ReadError> {
        if max == 0 {
            return Ok(Some(0));
        }
        let before = chunks.len();
        poll_fn(|cx| {
            let take = |chunk| {
                chunks.push(chunk);
                if chunks.len() - before < max { usize::MAX } else { 0 }
            };
            let any = ready!(self.poll_chunks(cx, ordered, take, usize::MAX))?;
            Poll::Ready(Ok(any.then(|| chunks.len() - before)))
        })
        .await
    }

    /// Reads all that is left of the stream, at most `size_limit` bytes. Not cancel-safe: what was read is lost.
    ///
    /// # Errors
    /// - [`ReadToEndError::Read`] as [`Self::read`].
    /// - [`ReadToEndError::TooLong`] if more is left than `size_limit`.
    pub async fn read_to_end(&mut self, size_limit: usize) -> Result<Vec<u8>, ReadToEndError> {
        let mut all = Vec::new();
        // One byte of room beyond the limit tells a stream that is too long from one that just fits.
        let room = size_limit.saturating_add(1);
        loop {
            let read =
                poll_fn(|cx| self.poll_copy(cx, room - all.len(), &mut |bytes| all.extend_from_slice(bytes)));
            if read.await?.is_none() {
                return Ok(all);
            }
            if all.len() > size_limit {
                return Err(ReadToEndError::TooLong);
            }
        }
    }

    /// Tells the peer that no more of the stream is wanted, and drops what has not been read.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was stopped or read to its end before.
    pub fn stop(&mut self, code: ErrorCode) -> Result<(), ClosedStream> {
        self.session.with(|s| {
            s.wakers.unset(Key::Readable(self.stream));
            let now = s.now();
            s.core.stop(now, self.stream, own_code(code)).map_err(|_closed| ClosedStream)?;
            s.notify();
            Ok(())
        })?;
        self.end = Some(Ok(()));
        self.untold = None;
        Ok(())
    }

    /// Waits until the peer gives the stream up, and returns its code; `None` if the stream was stopped or read to its end,
    /// so that it does not matter any more. Gives no bytes, and drops none while there is no reset. Cancel-safe.
    ///
    /// # Errors
    /// - [`ResetError::ConnectionLost`] if the session ended first.
    pub async fn received_reset(&mut self) -> Result<Option<ErrorCode>, ResetError> {
        poll_fn(|cx| {
            if self.reset.is_some() || self.end.is_some() {
                return Poll::Ready(Ok(self.reset));
            }
            let Self { session, stream, end, reset, .. } = self;
            session.with(|s| {
                let now = s.now();
                match s.core.received_reset(now, *stream) {
                    Ok(None) => match &s.error {
                        Some(error) => Poll::Ready(Err(ResetError::ConnectionLost(error.clone()))),
                        None => {
                            s.wakers.set(Key::Readable(*stream), cx.waker());
                            Poll::Pending
                        }
                    },
                    Ok(code) => {
                        *reset = code;
                        *end = Some(Err(ReadError::ClosedStream));
                        s.notify(); // the peer may be permitted one more
                        Poll::Ready(Ok(code))
                    }
                    Err(ClosedStream) => Poll::Ready(Ok(None)),
                }
            })
        })
        .await
    }

    /// Says what becomes of bytes of this stream that two servers bring for one place, from now on; the rest of the session
    /// keeps [`TransportConfig::conflict_policy`](crate::TransportConfig::conflict_policy). Spec: PROTOCOL §6.
    ///
    /// # Errors
    /// - [`ClosedStream`] if the stream was stopped, or read to its end.
    pub fn set_conflict_policy(&mut self, policy: ConflictPolicy) -> Result<(), ClosedStream> {
        self.session.with(|s| s.core.set_conflict_policy(self.stream, policy))
    }

    /// Returns what is counted of the stream while it is split and not read to its end; `None` of one that is QUIC's
    /// alone, and on servers.
    #[must_use]
    pub fn stats(&self) -> Option<StreamStats> {
        self.session.with(|s| s.core.stream_stats(s.now(), self.stream))
    }

    /// Returns the stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.stream
    }

    /// Returns whether the stream was opened before the handshake was done: never, as KWIK sends nothing then.
    #[must_use]
    pub fn is_0rtt(&self) -> bool {
        false
    }

    /// Reads pieces until `take` returns 0, which otherwise says how long the next may be, or until nothing is left.
    /// Returns whether there were any; none, without an error, means that nothing more is to be read.
    fn poll_chunks(
        &mut self,
        cx: &Context<'_>,
        ordered: bool,
        mut take: impl FnMut(Chunk) -> usize,
        mut room: usize,
    ) -> Poll<Result<bool, ReadError>> {
        let Self { session, stream, end, untold, reset } = self;
        if let Some(error) = untold.take() {
            *end = reads_after(&error);
            return Poll::Ready(Err(error));
        }
        if let Some(end) = end {
            return Poll::Ready(end.clone().map(|()| false));
        }
        let stream = *stream;
        session.with(|s| {
            let now = s.now();
            let mut any = false;
            loop {
                match s.core.read(now, stream, room, ordered) {
                    Ok(Some(chunk)) => {
                        any = true;
                        room = take(chunk);
                        if room > 0 {
                            room = s.core.read_on(now, stream, room, ordered, &mut take);
                        }
                        if room == 0 {
                            break;
                        }
                    }
                    Ok(None) => {
                        *end = Some(Ok(()));
                        break;
                    }
                    Err(ReadError::Blocked) if any => break,
                    Err(ReadError::Blocked) => {
                        s.notify_after_read(); // the first unordered read may have given credit
                        return wait(s, stream, cx);
                    }
                    Err(error) if any => {
                        *reset = reset_of(&error);
                        *untold = Some(error);
                        break;
                    }
                    Err(error) => {
                        *reset = reset_of(&error);
                        *end = reads_after(&error);
                        s.notify_after_read();
                        return Poll::Ready(Err(error));
                    }
                }
            }
            s.notify_after_read();
            Poll::Ready(Ok(any))
        })
    }
}

/// Code with which the peer gave the stream up, if `error` says so.
fn reset_of(error: &ReadError) -> Option<ErrorCode> {
    if let ReadError::Reset(code) = error { Some(*code) } else { None }
}

/// The result of further reads once one has been told of `error`; `None` if they may find something.
fn reads_after(error: &ReadError) -> Option<Result<(), ReadError>> {
    match error {
        // The bytes may come after all, or be read in any order.
        ReadError::Incomplete { code: ErrorCode::AGGREGATION_TIMEOUT, .. }
        | ReadError::IllegalOrderedRead
        | ReadError::Blocked => None,
        // Told once, as in quinn.
        ReadError::Reset(_) => Some(Ok(())),
        ReadError::ClosedStream
        | ReadError::Conflict { .. }
        | ReadError::ConnectionLost(_)
        | ReadError::Incomplete { .. }
        | ReadError::ZeroRttRejected => Some(Err(error.clone())),
    }
}

/// Waits for more of a stream, or fails with what ended the session.
fn wait(s: &mut State, stream: StreamId, cx: &Context<'_>) -> Poll<Result<bool, ReadError>> {
    if let Some(error) = &s.error {
        return Poll::Ready(Err(ReadError::ConnectionLost(error.clone())));
    }
    s.wakers.set(Key::Readable(stream), cx.waker());
    Poll::Pending
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.session.with(|s| {
            s.wakers.unset(Key::Readable(self.stream));
            if self.end.is_some() || s.error.is_some() {
                return;
            }
            let now = s.now();
            if s.core.stop(now, self.stream, ErrorCode::from_u32(0)).is_ok() {
                s.notify();
            }
        });
    }
}
