//! Sends an object over every path: drives a [`Distributor`], and reads the source for it.
//!
//! One future does all of it, on the task that awaits it. The object lies in the session's state, is told there what happens,
//! and lets the future run if that matters to it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use thiserror::Error;

use super::{
    runtime::Timer,
    session::{Key, SendEnd, SessionRef, State},
    source::{self, Asked, ReadAt},
    stream::SendStream,
};
use crate::{
    distribute::{DistributeEvent, DistributeFailure, DistributeOptions, Distributor, Step},
    error::{ConnectionError, ErrorCode, LeaseError, LeaseWriteError},
    id::{ByteRange, StreamId},
    schedule::{PieceId, Report},
};

/// Steps that are taken before other tasks may run.
const STEPS_PER_POLL: usize = 256;
/// Bytes read of the source at a time.
const CHUNK: u64 = 256 * 1024;
/// Chunks of a piece read ahead of the network.
const AHEAD: usize = 2;
/// Pieces that are read ahead: the one that is written, and the next.
const PIECES_AHEAD: usize = 2;

/// Reasons that an object was not brought.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DistributeError {
    /// The session is over.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The client wants no more of the stream.
    #[error("stopped by the client: {0}")]
    Stopped(ErrorCode),
    /// The source could not be read.
    #[error("the source cannot be read: {0}")]
    Source(#[from] io::Error),
    /// The range and more is missing, and nobody is left to bring it, or nothing arrives any more.
    #[error("nobody brings {0}")]
    Incomplete(ByteRange),
    /// Ranges of this stream cannot be given out at all.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl From<DistributeFailure> for DistributeError {
    fn from(failure: DistributeFailure) -> Self {
        match failure {
            DistributeFailure::ConnectionLost(error) => Self::ConnectionLost(error),
            DistributeFailure::Stopped(code) => Self::Stopped(code),
            DistributeFailure::Incomplete(range) => Self::Incomplete(range),
            DistributeFailure::Lease(error) => Self::Lease(error),
        }
    }
}

/// An object under way over every path; made by [`SendStream::distribute`].
///
/// It is a future, which is ready with a [`Report`] when every byte has arrived at the client. [`Self::next`] tells of the
/// way there. Nothing goes on unless one of the two is awaited.
///
/// The stream ends with the object: it is finished as soon as every byte was given out once, so that the reader learns of
/// the end with the last byte. If this is dropped before, or fails, all leases are taken back and the stream is reset:
/// its reader would wait for the rest in vain. The session goes on.
#[must_use = "nothing is sent unless it is awaited"]
pub struct Distribution<'a> {
    stream: &'a mut SendStream,
    session: SessionRef,
    id: StreamId,
    reader: Reader,
    timer: Option<Pin<Box<dyn Timer>>>,
    /// The code with which the stream is reset if it is not completed.
    reset_code: ErrorCode,
    /// Nothing is left to do.
    over: bool,
    /// The place in the session's table of wakers.
    news: Option<u64>,
}

impl<'a> Distribution<'a> {
    pub(super) fn new(
        stream: &'a mut SendStream,
        source: impl ReadAt,
        len: u64,
        options: DistributeOptions,
    ) -> Self {
        let ranges = stream.ranges();
        let (session, id) = (ranges.session().clone(), ranges.id());
        let reset_code = options.reset_code.unwrap_or(ErrorCode::from_u32(0));
        session.with(|s| {
            let object = Distributor::new(s.now(), &s.core, id, len, options);
            s.objects.insert(id, object);
        });
        let reader = Reader { source: Arc::new(source), digests: BTreeMap::new(), pieces: BTreeMap::new() };
        Self { stream, session, id, reader, timer: None, reset_code, over: false, news: None }
    }

    /// Waits for what happens next; `None` once every byte has arrived. Cancel-safe. Of what happens while nobody waits the
    /// last 1,024 things are told.
    ///
    /// # Errors
    /// One of [`DistributeError`].
    pub async fn next(&mut self) -> Result<Option<DistributeEvent>, DistributeError> {
        poll_fn(|cx| {
            if let Some(event) = self.poll_event() {
                return Poll::Ready(Ok(Some(event)));
            }
            let polled = self.poll_all(cx);
            match (polled, self.poll_event()) {
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                (_, Some(event)) => Poll::Ready(Ok(Some(event))),
                (Poll::Ready(Ok(())), None) => Poll::Ready(Ok(None)),
                (Poll::Pending, None) => Poll::Pending,
            }
        })
        .await
    }

    /// Returns what became of the object so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.with(|_, object| object.report()).unwrap_or_default()
    }

    fn poll_event(&self) -> Option<DistributeEvent> {
        self.with(|_, object| object.poll_event()).flatten()
    }

    /// Runs `f` on the object, unless it is gone.
    fn with<T>(&self, f: impl FnOnce(&mut crate::session::Session, &mut Distributor) -> T) -> Option<T> {
        self.session.with(|s| {
            let State { core, objects, .. } = s;
            objects.get_mut(&self.id).map(|object| f(core, object))
        })
    }

    /// Goes on as far as it can. Ready when every byte has arrived, and with an error once.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DistributeError>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let end = match self.poll_work(cx) {
            Ok(false) => return Poll::Pending,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        self.over = true;
        if let Err(error) = &end {
            if let DistributeError::Source(error) = error {
                self.reset_code = self.reader.source.reset_code(error).unwrap_or(self.reset_code);
            }
            self.give_up();
        }
        Poll::Ready(end)
    }

    /// Returns whether every byte has arrived.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Result<bool, DistributeError> {
        self.session.with(|s| {
            s.check()?;
            s.wakers.wait(Key::Distribution(self.id), &mut self.news, cx.waker());
            match s.sent_end(self.id) {
                Some(SendEnd::Stopped(code)) => Err(DistributeError::Stopped(code)),
                Some(SendEnd::Reset) => Err(DistributeError::Lease(LeaseError::ClosedStream)),
                Some(SendEnd::Arrived) | None => Ok(()),
            }
        })?;
        for _ in 0..STEPS_PER_POLL {
            self.lease_digested(cx)?;
            match self.poll_step() {
                Some(Step::Digest { piece, range }) => self.reader.digest(&self.session, piece, range),
                Some(Step::Finish) => {
                    self.stream
                        .finish()
                        .map_err(|_closed| DistributeError::Lease(LeaseError::ClosedStream))?;
                }
                Some(Step::Done) => return Ok(true),
                Some(Step::Failed(failure)) => return Err(failure.into()),
                None => {
                    self.write(cx)?;
                    if self.poll_timer(cx).is_pending() {
                        return Ok(false);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Takes the next step, and has a job signed that was opened for it.
    fn poll_step(&self) -> Option<Step> {
        let (step, questions) = self.session.with(|s| {
            let now = s.now();
            let State { core, objects, .. } = s;
            let step = objects.get_mut(&self.id).and_then(|object| object.poll(now, core));
            let questions: Vec<_> = std::iter::from_fn(|| s.core.poll_question()).collect();
            s.notify();
            (step, questions)
        });
        for question in questions {
            self.session.answer(question);
        }
        step
    }

    /// Waits until the object wants to be asked again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.session.clock.now();
        let Some(at) = self.with(|_, object| object.poll_timeout(now)).flatten() else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(at);
                timer
            }
            None => self.timer.insert(self.session.clock.timer(at)),
        };
        timer.as_mut().poll(cx)
    }

    /// Leases what has its digest by now.
    fn lease_digested(&mut self, cx: &Context<'_>) -> Result<(), DistributeError> {
        for (piece, digest) in self.reader.digested(cx)? {
            let now = self.session.clock.now();
            self.with(|core, object| object.handle_digest(now, core, piece, digest)).transpose()?;
        }
        Ok(())
    }

    /// Writes as much of this server's own pieces as the client has credit for.
    fn write(&mut self, cx: &Context<'_>) -> Result<(), DistributeError> {
        loop {
            let ahead: Vec<_> =
                self.with(|_, object| object.unwritten().take(PIECES_AHEAD).collect()).unwrap_or_default();
            self.reader.read_ahead(&self.session, ahead.iter().map(|next| (next.piece, next.range)));
            let Some(next) = ahead.first().filter(|next| !next.blocked) else {
                return Ok(());
            };
            let Some(mut chunk) = self.reader.chunk(cx, next.piece, next.range)? else {
                return Ok(());
            };
            let written = self.session.with(|s| {
                let now = s.now();
                let written = s.core.write_run(now, next.run, std::slice::from_mut(&mut chunk));
                if let Some(object) = s.objects.get_mut(&self.id) {
                    match written {
                        Ok(some) => object.handle_written(next.piece, some.bytes as u64),
                        // It is told of the hole as well, and has it brought.
                        Err(LeaseWriteError::Blocked | LeaseWriteError::Behind(_)) => {
                            object.handle_blocked(next.piece);
                        }
                        Err(LeaseWriteError::Ended(_) | LeaseWriteError::PastEnd) => {
                            object.handle_unwritable(next.piece);
                        }
                    }
                }
                s.notify();
                written
            });
            self.reader.put_back(next.piece, chunk);
            if matches!(written, Err(LeaseWriteError::Blocked | LeaseWriteError::Behind(_))) {
                return Ok(());
            }
        }
    }

    /// The rest of the object will not come: nobody shall wait for it.
    fn give_up(&mut self) {
        // It fails if the session is over, or all has arrived after all.
        let _closed = self.stream.reset(self.reset_code);
    }
}

impl Future for Distribution<'_> {
    type Output = Result<Report, DistributeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_all(cx);
        polled.map_ok(|()| self.report())
    }
}

impl Drop for Distribution<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.give_up();
        }
        self.session.with(|s| {
            let now = s.now();
            if let Some(place) = self.news {
                s.wakers.forget(Key::Distribution(self.id), place);
            }
            if let Some(mut object) = s.objects.remove(&self.id) {
                object.let_go(now, &mut s.core);
            }
            s.notify();
        });
    }
}

impl fmt::Debug for Distribution<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distribution").field("stream", &self.id).finish_non_exhaustive()
    }
}

/// Reads the source, a little ahead of the network.
struct Reader {
    source: Arc<dyn ReadAt>,
    digests: BTreeMap<PieceId, Asked<[u8; 32]>>,
    pieces: BTreeMap<PieceId, Reading>,
}

/// A piece that is being read to be written.
struct Reading {
    /// The offset up to which the source was asked.
    asked: u64,
    reads: VecDeque<Asked<Bytes>>,
    /// Bytes that were read and not written.
    chunk: Bytes,
}

impl Reader {
    /// Asks for the digest of a range.
    fn digest(&mut self, session: &SessionRef, piece: PieceId, range: ByteRange) {
        let digest = Asked::new(&self.source, &*session.clock, move |of| source::digest(of, range));
        self.digests.insert(piece, digest);
    }

    /// Takes the digests that are known by now.
    fn digested(&mut self, cx: &Context<'_>) -> io::Result<Vec<(PieceId, [u8; 32])>> {
        let mut known = Vec::new();
        for (piece, digest) in &self.digests {
            if let Poll::Ready(digest) = digest.poll(cx) {
                known.push((*piece, digest?));
            }
        }
        for (piece, _) in &known {
            self.digests.remove(piece);
        }
        Ok(known)
    }

    /// Has pieces read that are to be written next, from where their rests start; forgets all others.
    fn read_ahead(&mut self, session: &SessionRef, next: impl Iterator<Item = (PieceId, ByteRange)>) {
        let mut before = std::mem::take(&mut self.pieces);
        for (piece, rest) in next {
            let mut reading = before.remove(&piece).unwrap_or_else(|| Reading {
                asked: rest.start(),
                reads: VecDeque::new(),
                chunk: Bytes::new(),
            });
            while reading.reads.len() < AHEAD {
                let end = rest.end().min(reading.asked.saturating_add(CHUNK));
                let Some(part) = ByteRange::between(reading.asked, end) else {
                    break;
                };
                reading.asked = part.end();
                let read = Asked::new(&self.source, &*session.clock, move |of| source::read(of, part));
                reading.reads.push_back(read);
            }
            self.pieces.insert(piece, reading);
        }
    }

    /// Takes the next bytes of a piece, if they were read by now, and no more than its rest: it may have been cut.
    fn chunk(&mut self, cx: &Context<'_>, piece: PieceId, rest: ByteRange) -> io::Result<Option<Bytes>> {
        let Some(reading) = self.pieces.get_mut(&piece) else {
            return Ok(None);
        };
        if reading.chunk.is_empty() {
            let Some(Poll::Ready(chunk)) = reading.reads.front().map(|read| read.poll(cx)) else {
                return Ok(None);
            };
            reading.reads.pop_front();
            reading.chunk = chunk?;
        }
        let mut chunk = std::mem::take(&mut reading.chunk);
        chunk.truncate(usize::try_from(rest.len()).unwrap_or(usize::MAX));
        Ok(Some(chunk))
    }

    /// Gives back what was not written of it.
    fn put_back(&mut self, piece: PieceId, chunk: Bytes) {
        if let Some(reading) = self.pieces.get_mut(&piece) {
            reading.chunk = chunk;
        }
    }
}
