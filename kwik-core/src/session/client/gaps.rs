//! Holes that readers wait for: what the client has, as the primary asks, and whom it asks in turn. Spec: PROTOCOL §6.

use std::time::Instant;

use smallvec::SmallVec;

use super::Client;
use crate::{
    action::Event,
    error::{ErrorCode, PeerFault},
    id::{ByteRange, StreamId},
    limits,
    session::action::Action,
    stream::{
        gap::{Due, Gap},
        recv::SplitRecv,
    },
    wire::{Features, Frame, Ranges},
};

impl Client {
    /// The primary asks what is here of a stream. Answered in pages.
    pub(super) fn on_sync_request(&mut self, stream: StreamId, from: u64) -> Result<(), PeerFault> {
        let Some(split) = self.streams.get(&stream) else {
            if self.ended.contains(&stream) {
                // All of it was read, or nobody wants it.
                self.tell_primary(Frame::StreamStopped { stream, code: ErrorCode::STREAM_CLOSED });
                return Ok(());
            }
            return Err(PeerFault::SyncOfUnsplit);
        };
        let received: Vec<ByteRange> = split.received_from(from).collect();
        let mut pages = received.chunks(limits::REPEATED_MAX).peekable();
        self.account.charge(pages.len().saturating_sub(1) as u64);
        if pages.peek().is_none() {
            self.tell_primary(Frame::OffsetSyncResponse { stream, received: Ranges::new(), more: false });
        }
        while let Some(page) = pages.next() {
            let (received, more) = (Ranges::from_slice(page), pages.peek().is_some());
            self.tell_primary(Frame::OffsetSyncResponse { stream, received, more });
        }
        Ok(())
    }

    /// The primary says what somebody fills, or has filled, from where it was asked.
    pub(super) fn on_sync_response(&mut self, now: Instant, stream: StreamId, owned: &Ranges) {
        let Some(gap) = self.gaps.get_mut(&stream) else {
            self.late_frames += 1; // filled meanwhile
            return;
        };
        let from = gap.from();
        let owned = owned.iter().any(|range| range.start() <= from && from < range.end());
        gap.on_answer(now, owned, self.config.gap_timeout);
    }

    /// A reader found nothing: what it waits for is watched from now on.
    pub(super) fn on_reader_blocked(&mut self, stream: StreamId) {
        self.blocked.insert(stream);
        self.unwatched |= !self.gaps.contains_key(&stream) && self.unowned_hole(stream).is_some();
        self.observe_blocked(stream);
    }

    /// Returns whether reading has left something to be settled that nothing else may bring about.
    pub(in crate::session) fn wants_settling(&self) -> bool {
        self.unwatched || !self.recredit.is_empty()
    }

    /// Looks again at what blocked readers wait for. Called once facts have settled.
    pub(super) fn watch_gaps(&mut self, now: Instant) {
        self.unwatched = false;
        if self.blocked.is_empty() || self.lost.is_some() || !self.features.contains(Features::OFFSET_SYNC) {
            return;
        }
        let waits = |stream: &SplitRecv| stream.is_open() && !stream.is_readable();
        let (streams, gaps) = (&self.streams, &mut self.gaps);
        self.blocked.retain(|id| {
            let waits = streams.get(id).is_some_and(waits);
            if !waits {
                gaps.remove(id);
            }
            waits
        });
        let blocked: SmallVec<[StreamId; 4]> = self.blocked.iter().copied().collect();
        for id in blocked {
            match self.unowned_hole(id) {
                None => {
                    self.gaps.remove(&id);
                }
                Some(hole) if self.gaps.get(&id).is_some_and(|gap| gap.from() == hole.start()) => {}
                Some(hole) => {
                    self.gaps.insert(id, Gap::new(now, hole.start()));
                }
            }
        }
    }

    /// The hole that the reader of a stream waits for, if nobody known here is to fill its first byte.
    fn unowned_hole(&self, id: StreamId) -> Option<ByteRange> {
        let stream = self.streams.get(&id)?;
        let hole = stream.first_missing()?;
        let first = ByteRange::new(hole.start(), 1)?;
        // What lies behind all that anybody was given is not missing: it has not been written.
        let written = stream.claimed_end() > hole.start() || stream.final_size().is_some();
        let leased = self.leases.overlapping(id, first).next().is_some();
        let run = self.runs.values().any(|run| run.stream == id && run.next == hole.start());
        (written && !leased && !run).then_some(hole)
    }

    pub(super) fn gap_deadline(&self) -> Option<Instant> {
        self.gaps.values().map(Gap::deadline).min()
    }

    /// Asks about gaps that stay, and tells readers of those that nobody fills.
    pub(super) fn expire_gaps(&mut self, now: Instant) {
        let patience = self.config.gap_timeout;
        let mut due: SmallVec<[(StreamId, u64, Due); 2]> = SmallVec::new();
        for (&id, gap) in &mut self.gaps {
            due.push((id, gap.from(), gap.due(now, patience)));
        }
        for (stream, from, due) in due {
            self.observe_gap(stream, due);
            match due {
                Due::Wait => {}
                Due::Ask => self.tell_primary(Frame::OffsetSyncRequest { stream, from }),
                Due::Tell => self.actions.push_back(Action::Notify(Event::Readable(stream))),
            }
        }
    }
}
