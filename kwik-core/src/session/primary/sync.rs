//! Ranges of a stream that the client has, and those that somebody is to bring. Spec: PROTOCOL §6, "Gaps".

use super::Primary;
use crate::{
    action::Event,
    error::{ErrorCode, LeaseError, PeerFault},
    id::{ByteRange, OFFSET_MAX, StreamId},
    limits,
    session::action::Action,
    stream::ranges::RangeSet,
    wire::{Features, Frame, Ranges},
};

/// Ranges of a stream that the client has told of so far.
#[derive(Debug, Default)]
pub(super) struct Sync {
    received: RangeSet,
    /// The last page is here.
    whole: bool,
}

impl Primary {
    /// Asks the client what it has of a split stream.
    pub(in crate::session) fn sync(&mut self, stream: StreamId) -> Result<(), LeaseError> {
        if !self.features.contains(Features::OFFSET_SYNC) {
            return Err(LeaseError::Unsupported);
        }
        let split =
            self.streams.get(&stream).filter(|split| split.is_open()).ok_or(LeaseError::ClosedStream)?;
        let from = split.base();
        if self.syncs.get(&stream).is_none_or(|sync| sync.whole) {
            self.syncs.insert(stream, Sync::default());
            self.tell(Frame::OffsetSyncRequest { stream, from });
        }
        Ok(())
    }

    /// Takes what the client had when it answered, once it has.
    pub(in crate::session) fn take_received(&mut self, stream: StreamId) -> Option<Vec<ByteRange>> {
        self.syncs.get(&stream).filter(|sync| sync.whole)?;
        self.syncs.remove(&stream).map(|sync| sync.received.iter().collect())
    }

    /// Takes the offset that a reader waits for and nobody is to bring.
    pub(in crate::session) fn take_gap(&mut self, stream: StreamId) -> Option<u64> {
        self.gaps.remove(&stream)
    }

    /// A page of what the client has.
    pub(super) fn on_sync_response(
        &mut self,
        stream: StreamId,
        received: &Ranges,
        more: bool,
    ) -> Result<(), PeerFault> {
        let Some(split) = self.streams.get(&stream) else {
            self.late_frames += 1;
            return Ok(());
        };
        let sync = self.syncs.get_mut(&stream).filter(|sync| !sync.whole);
        let sync = sync.ok_or(PeerFault::SyncUnasked)?;
        for range in received {
            // Nobody was ever given more than this, and pages rise.
            let rises = sync.received.max_end().is_none_or(|end| range.start() > end);
            if range.start() < split.base() || range.end() > split.claimed_end() || !rises {
                return Err(PeerFault::SyncUntrue);
            }
            sync.received.insert(*range);
        }
        // A page that says nothing but that another follows, or more pieces than a client may have.
        if (more && received.is_empty()) || sync.received.len() > limits::EXTENTS_PER_STREAM + 1 {
            return Err(PeerFault::SyncEndless);
        }
        if !more {
            sync.whole = true;
            self.actions.push_back(Action::Notify(Event::Synced(stream)));
        }
        Ok(())
    }

    /// The client asks who brings what its reader waits for.
    pub(super) fn on_sync_request(&mut self, stream: StreamId, from: u64) {
        let split = self.streams.get(&stream).filter(|split| split.is_open());
        let Some((split, rest)) = split.zip(ByteRange::between(from, OFFSET_MAX)) else {
            self.late_frames += 1;
            return;
        };
        let mut owned: Vec<ByteRange> = split.owned(rest).take(limits::REPEATED_MAX + 1).collect();
        let more = owned.len() > limits::REPEATED_MAX;
        owned.truncate(limits::REPEATED_MAX);
        if owned.first().is_none_or(|first| first.start() > from) {
            self.gaps.insert(stream, from);
            self.actions.push_back(Action::Notify(Event::GapReported(stream)));
        }
        let received = Ranges::from_vec(owned);
        self.tell(Frame::OffsetSyncResponse { stream, received, more });
        self.make_way(stream, from);
    }

    /// Nobody is to bring what a reader waits for, and whoever could may wait for the reader: those that write behind the hole
    /// are told of it, and of the leases there the last one that has not begun is taken back, so that an application that
    /// lets a path have so many leases can give it the hole. Spec: DESIGN I7.
    fn make_way(&mut self, stream: StreamId, from: u64) {
        let Some(split) = self.streams.get_mut(&stream) else {
            return;
        };
        split.on_hole(from);
        if split.hole().is_none() {
            return;
        }
        for (&id, _) in self.runs.iter().filter(|(_, run)| run.stream == stream && run.outcome.is_none()) {
            self.actions.push_back(Action::Notify(Event::RunWritable(id)));
        }
        let behind = self
            .leases
            .of_stream(stream)
            .filter(|(_, lease)| lease.range().start() > from && !lease.state.begun && !lease.state.revoked);
        if let Some((last, _)) = behind.max_by_key(|(_, lease)| lease.range().start()) {
            self.take_back(last, ErrorCode::NO_CREDIT);
        }
    }
}
