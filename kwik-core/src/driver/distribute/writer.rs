//! The primary's own pieces: set aside at once, written one after the other, the lowest first.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;

use super::{DistributeError, Work};
use crate::{
    action::{LeaseOutcome, RunId},
    driver::{
        session::{Key, SessionRef, State},
        source::{self, Asked, ReadAt},
    },
    error::LeaseWriteError,
    id::{ByteRange, PathId, StreamId},
    schedule::PieceId,
};

/// Bytes read of the source at a time.
const CHUNK: u64 = 256 * 1024;
/// Chunks of a piece read ahead of the network.
const AHEAD: usize = 2;
/// Pieces that are read ahead: the one that is written, and the next.
const PIECES_AHEAD: usize = 2;

/// A piece that this server writes.
struct Own {
    run: RunId,
    range: ByteRange,
    written: u64,
    /// Bytes that the source was asked for.
    asked: u64,
    reads: VecDeque<Asked<Bytes>>,
    /// The chunk that is being written.
    chunk: Bytes,
}

impl Own {
    fn is_written(&self) -> bool {
        self.written >= self.range.len()
    }

    fn read_ahead(&mut self, source: &Arc<dyn ReadAt>, session: &SessionRef) {
        while self.reads.len() < AHEAD {
            let start = self.range.start().saturating_add(self.asked);
            let end = self.range.end().min(start.saturating_add(CHUNK));
            let Some(part) = ByteRange::between(start, end) else {
                return;
            };
            self.asked = self.asked.saturating_add(part.len());
            self.reads.push_back(Asked::new(source, &*session.clock, move |of| source::read(of, part)));
        }
    }
}

/// The pieces that this server writes, by offset.
#[derive(Default)]
pub(super) struct Writer {
    own: BTreeMap<(u64, PieceId), Own>,
}

impl Writer {
    pub(super) fn add(&mut self, piece: PieceId, run: RunId, range: ByteRange) {
        let own = Own { run, range, written: 0, asked: 0, reads: VecDeque::new(), chunk: Bytes::new() };
        self.own.insert((range.start(), piece), own);
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = (PieceId, PathId, ByteRange)> + '_ {
        self.own.iter().map(|((_, piece), own)| (*piece, PathId::PRIMARY, own.range))
    }

    /// Takes the ends of pieces, and waits for those of the others.
    pub(super) fn ended(
        &mut self,
        s: &mut State,
        cx: &Context<'_>,
    ) -> Vec<(PieceId, ByteRange, LeaseOutcome)> {
        let mut ended = Vec::new();
        self.own.retain(|(_, piece), own| match s.core.run_outcome(own.run) {
            Some(outcome) => {
                s.wakers.unset(Key::Run(own.run));
                ended.push((*piece, own.range, outcome));
                false
            }
            None => {
                s.wakers.set(Key::Run(own.run), cx.waker());
                true
            }
        });
        ended
    }

    /// Gives up what lies behind the first `keep` bytes of a piece, if nothing of it was written yet, and returns what
    /// was given up. What is on its way cannot be called back.
    pub(super) fn cut(
        &mut self,
        session: &SessionRef,
        stream: StreamId,
        piece: PieceId,
        keep: u64,
    ) -> Option<ByteRange> {
        let own = self.own.iter_mut().find(|((_, id), _)| *id == piece).map(|(_, own)| own)?;
        let rest = ByteRange::between(own.range.start().checked_add(keep)?, own.range.end())?;
        let kept = ByteRange::between(own.range.start(), rest.start())?;
        if own.written > 0 {
            return None;
        }
        session.with(|s| {
            let now = s.now();
            s.wakers.unset(Key::Run(own.run));
            s.core.reset_run(now, own.run);
            // The run that is reset owned this range until now, so nobody else does.
            own.run = s.core.write_at(now, stream, kept).ok()?;
            s.notify();
            Some(())
        })?;
        own.range = kept;
        (own.asked, own.chunk) = (0, Bytes::new());
        own.reads.clear();
        Some(rest)
    }

    pub(super) fn let_go(&mut self, s: &mut State, now: Instant) {
        for own in std::mem::take(&mut self.own).into_values() {
            s.wakers.unset(Key::Run(own.run));
            if s.error.is_some() {
                continue;
            }
            if own.is_written() {
                if s.core.run_outcome(own.run).is_none() {
                    s.unwatched.runs.insert(own.run);
                }
            } else {
                s.core.reset_run(now, own.run);
            }
        }
    }
}

impl Work {
    /// Writes as much of this server's own pieces as the client has credit for.
    pub(super) fn write(&mut self, cx: &Context<'_>) -> Result<(), DistributeError> {
        loop {
            let mut unwritten = self.writer.own.values_mut().filter(|own| !own.is_written());
            let Some(own) = unwritten.next() else {
                return Ok(());
            };
            own.read_ahead(&self.source, &self.session);
            for next in unwritten.take(PIECES_AHEAD - 1) {
                next.read_ahead(&self.source, &self.session);
            }
            if own.chunk.is_empty() {
                let Some(Poll::Ready(chunk)) = own.reads.front().map(|read| read.poll(cx)) else {
                    return Ok(());
                };
                own.reads.pop_front();
                own.chunk = chunk?;
            }
            let written = self.session.with(|s| {
                let now = s.now();
                let written = s.core.write_run(now, own.run, std::slice::from_mut(&mut own.chunk));
                match written {
                    Ok(_) => s.notify(),
                    Err(_) => s.wakers.set(Key::Run(own.run), cx.waker()),
                }
                written
            });
            match written {
                // Not told as progress: what the network has taken may be far from having arrived.
                Ok(written) => own.written = own.written.saturating_add(written.bytes as u64),
                Err(LeaseWriteError::Blocked) => return Ok(()),
                // The end of the run, which is told, or of its stream: nothing more is to be written.
                Err(LeaseWriteError::Ended(_) | LeaseWriteError::PastEnd) => {
                    own.written = own.range.len();
                    own.reads.clear();
                }
            }
        }
    }
}
