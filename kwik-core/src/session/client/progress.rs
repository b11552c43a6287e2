//! Reports of what comes of leases, to a primary that wants to know. Spec: PROTOCOL §7.28.

use std::time::Instant;

use super::Client;
use crate::{
    action::ReaderStatus,
    id::{LeaseId, PathId, StreamId},
    limits,
    wire::{Frame, ProgressReport},
};

/// Reports about one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Something came that the primary wants to know of.
    news: bool,
    /// Instant from which the next may go out.
    next: Option<Instant>,
    /// The last lease of the last report, where more had changed than fits.
    last: Option<LeaseId>,
}

impl Progress {
    /// Bytes of a lease came, of which the primary wants to know or not.
    pub(super) fn note(&mut self, wanted: bool) {
        self.news |= wanted;
    }

    /// Instant at which a report is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.news)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.news && self.next.is_none_or(|next| next <= now)
    }
}

impl Client {
    /// Reports what has come over the paths where that is due. Called once facts have settled, not per datagram.
    pub(super) fn tell_progress(&mut self, now: Instant) {
        let due = self.paths.iter().filter(|(_, path)| path.progress.is_due(now));
        let due: Vec<PathId> = due.map(|(&id, _)| id).collect();
        for id in due {
            let (leases, more) = self.take_progress_of_leases(id);
            let readers = self.take_readers(id);
            let source = self.sources.get(&id).copied().unwrap_or_default();
            let Some(path) = self.paths.get_mut(&id) else {
                continue;
            };
            path.progress.news = more;
            if leases.is_empty() && readers.is_empty() {
                continue; // what came was the last of its lease, which was told
            }
            path.progress.next = now.checked_add(limits::PROGRESS_INTERVAL);
            path.progress.last = leases.last().filter(|_| more).map(|(lease, _)| *lease);
            let rtt = Some(path.health.smoothed_rtt()).filter(|rtt| !rtt.is_zero());
            self.tell_primary(Frame::ProgressReport(ProgressReport {
                path: id,
                rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                late: source.late_bytes,
                overlap: source.overlap_bytes,
                leases,
                readers,
            }));
        }
    }

    /// Leases of a path of which more has come than was told, as many as fit, and whether there are others. Those behind the
    /// last that was told come first, so that each has its turn.
    fn take_progress_of_leases(&mut self, id: PathId) -> (Vec<(LeaseId, u64)>, bool) {
        let last = self.paths.get(&id).and_then(|path| path.progress.last);
        let untold = self.leases.of_path(id).filter_map(|(lease, live)| {
            let placed = live.state.placed;
            live.state.told.filter(|told| placed > *told).map(|_| (lease, placed))
        });
        let mut untold: Vec<(LeaseId, u64)> = untold.collect();
        let told_before = untold.partition_point(|(lease, _)| Some(*lease) <= last);
        untold.rotate_left(told_before);
        let more = untold.len() > limits::REPEATED_MAX;
        untold.truncate(limits::REPEATED_MAX);
        for (lease, placed) in &untold {
            if let Some(live) = self.leases.get_mut(*lease) {
                live.state.told = Some(*placed);
            }
        }
        (untold, more)
    }

    /// Readers of the streams of a path's live leases that have moved on.
    fn take_readers(&mut self, id: PathId) -> Vec<(StreamId, ReaderStatus)> {
        let mut moved: Vec<(StreamId, ReaderStatus)> = Vec::new();
        for (_, live) in self.leases.of_path(id).filter(|(_, live)| live.state.told.is_some()) {
            let stream = live.stream();
            let Some(reader) = self.streams.get(&stream).map(crate::stream::recv::SplitRecv::reader) else {
                continue;
            };
            let full = moved.len() >= limits::REPEATED_MAX;
            if !full && self.readers_told.get(&stream) != Some(&reader) {
                self.readers_told.insert(stream, reader);
                moved.push((stream, reader));
            }
        }
        moved
    }
}
