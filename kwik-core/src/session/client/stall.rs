//! Bytes that a path owes now, and what follows when they do not come: the path is silent, or the lease stalls.
//! Spec: PROTOCOL §8.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{Client, Lease, Path};
use crate::{
    id::{ByteRange, LeaseId, PathId, StreamId},
    lease::table::{LeaseTable, Live},
    limits,
    stream::recv::SplitRecv,
    timer::earliest,
    wire::MappingOperation,
};

/// The lease a path should be filling on one stream: the lowest that it has credit for. Servers fill them in that
/// order, so those behind it have their reason to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    lease: LeaseId,
    stream: StreamId,
    start: u64,
    /// Bytes that were placed of it when last looked at.
    placed: u64,
    /// Instant since which nothing has come.
    since: Instant,
    /// The lease is suspended: the next one is watched as well.
    suspended: bool,
}

/// Reasons why a lease is suspended: its credit waits, and the primary may have somebody else bring the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspended {
    /// Its path does not answer.
    Silent,
    /// Its path answers, and nothing comes.
    Stalled,
}

impl Path {
    /// Longest time that nothing may come of a lease on a path that answers. A slow disk is not a dead path.
    fn grace(&self) -> Duration {
        // What it has shown counts, but not without end: one that comes later each time is not to be waited for.
        let shown = (self.first_byte.unwrap_or_default() * 2).min(limits::STALL_MAX);
        self.health.stall().max(limits::STALL_MIN).max(shown)
    }

    /// A lease is over, of which `placed` bytes came.
    pub(super) fn forget_front(&mut self, lease: LeaseId, placed: u64) {
        let Some(at) = self.fronts.iter().position(|front| front.lease == lease) else {
            return;
        };
        let front = self.fronts.swap_remove(at);
        if front.placed == 0 && placed > 0 {
            self.begun.push(front.since); // begun and done in one batch
        }
    }

    /// Learns how long it takes until something comes of a lease: the longest there was, which fades. A mean would be held
    /// against whoever reads two leases from a disk at once, and lets the third wait.
    fn learn_first_byte(&mut self, sample: Duration) {
        self.first_byte = Some(self.first_byte.map_or(sample, |longest| sample.max(longest * 7 / 8)));
    }

    /// Learns how long nothing came in the middle of one: what a disk hands out need not end where a lease does.
    fn learn_pause(&mut self, pause: Duration) {
        self.first_byte = self.first_byte.map(|longest| longest.max(pause));
    }

    /// Instant at which it has to be looked at next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let watched = self.fronts.iter().filter(|front| !front.suspended).map(|front| front.since);
        let stall = watched.min().map(|since| since + self.grace());
        let own = earliest(self.deadline, self.progress.deadline());
        earliest(stall, earliest(own, self.health.deadline()))
    }

    /// Notes what came since this was last called.
    fn take_progress(&mut self, now: Instant, leases: &LeaseTable<Lease>) {
        let mut longest_pause = Duration::ZERO;
        for front in &mut self.fronts {
            let placed = leases.get(front.lease).map_or(front.placed, |lease| lease.state.placed);
            if placed == front.placed {
                continue;
            }
            if front.placed == 0 {
                self.begun.push(front.since);
            } else {
                longest_pause = longest_pause.max(now.saturating_duration_since(front.since));
            }
            (front.placed, front.since) = (placed, now);
        }
        self.learn_pause(longest_pause);
        for since in std::mem::take(&mut self.begun) {
            self.learn_first_byte(now.saturating_duration_since(since));
        }
    }
}

/// The streams that a path has leases on and may send nothing of, because their readers have not given credit.
fn starved<'a>(leases: impl Iterator<Item = &'a Live<Lease>>, fronts: &[Front]) -> SmallVec<[StreamId; 1]> {
    let mut starved = SmallVec::new();
    for lease in leases.filter(|lease| lease.state.noticed && lease.state.suspended.is_none()) {
        let stream = lease.stream();
        let served = fronts.iter().any(|front| front.stream == stream && !front.suspended);
        if !served && !starved.contains(&stream) {
            starved.push(stream);
        }
    }
    starved
}

impl Client {
    /// Looks again at what each path owes where something changed. Called once facts have settled, not per datagram.
    pub(super) fn look_at_paths(&mut self, now: Instant) {
        let (leases, streams) = (&self.leases, &self.streams);
        let owed = |lease: &Live<Lease>| {
            let max_offset = streams.get(&lease.stream()).map_or(0, SplitRecv::max_offset);
            lease.state.noticed && lease.state.placed < lease.allowed(max_offset)
        };
        for (&id, path) in &mut self.paths {
            if !std::mem::take(&mut path.touched) {
                continue;
            }
            path.take_progress(now, leases);
            let still = |front: &Front| leases.get(front.lease).is_some_and(owed);
            if !std::mem::take(&mut path.stale) && path.state.is_serving() && path.fronts.iter().all(still) {
                continue; // bytes came, nothing else
            }
            let mut fronts: SmallVec<[Front; 1]> = SmallVec::new();
            let mut due = false;
            for (id, lease) in leases.of_path(id).filter(|(_, lease)| path.state.is_serving() && owed(lease))
            {
                due = true;
                let (stream, start, placed) = (lease.stream(), lease.range().start(), lease.state.placed);
                let since =
                    path.fronts.iter().find(|front| front.lease == id).map_or(now, |front| front.since);
                let suspended = lease.state.suspended.is_some();
                let front = Front { lease: id, stream, start, placed, since, suspended };
                let rival = |other: &&mut Front| other.stream == stream && !other.suspended && !suspended;
                match fronts.iter_mut().find(rival) {
                    Some(lowest) if lowest.start <= start => {}
                    Some(lowest) => *lowest = front,
                    None => fronts.push(front),
                }
            }
            path.fronts = fronts;
            path.starved = starved(leases.of_path(id).map(|(_, lease)| lease), &path.fronts);
            self.observed.on_credit();
            path.health.on_due(now, due);
        }
    }

    /// A path is suspected: what the reader waits for on it may be brought by others. Spec: PROTOCOL §8.4.
    pub(super) fn suspect(&mut self, id: PathId) {
        let Some(path) = self.paths.get_mut(&id) else {
            return;
        };
        path.suspected = true;
        let fronts = path.fronts.clone();
        self.source(id).suspected += 1;
        for front in fronts {
            self.suspend(front.lease, Suspended::Silent);
        }
    }

    /// Suspends what has stalled on a path that answers.
    pub(super) fn expire_fronts(&mut self, now: Instant, id: PathId) {
        let Some(path) = self.paths.get(&id) else {
            return;
        };
        let grace = path.grace();
        let stalled = |front: &&Front| !front.suspended && front.since + grace <= now;
        let stalled: SmallVec<[LeaseId; 1]> =
            path.fronts.iter().filter(stalled).map(|front| front.lease).collect();
        for lease in stalled {
            self.suspend(lease, Suspended::Stalled);
        }
    }

    fn suspend(&mut self, id: LeaseId, why: Suspended) {
        let Some(lease) = self.leases.get_mut(id).filter(|lease| lease.state.suspended.is_none()) else {
            return;
        };
        lease.state.suspended = Some(why);
        // Nothing of a verified one counts before its last byte.
        let counted = if lease.is_verified() { 0 } else { lease.state.placed };
        let start = lease.range().start() + counted;
        let (path, stream, rest) =
            (lease.path(), lease.stream(), ByteRange::between(start, lease.range().end()));
        self.source(path).stalls += 1;
        if let Some(path) = self.paths.get_mut(&path) {
            path.fronts.iter_mut().filter(|front| front.lease == id).for_each(|front| front.suspended = true);
            path.relook();
        }
        self.recredit.insert(stream);
        self.tell_mapping(MappingOperation::Suspend, id, rest);
    }

    /// Bytes of a suspended lease came, or its silent path was heard.
    pub(super) fn resume(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(id).filter(|lease| lease.state.suspended.is_some()) else {
            return;
        };
        lease.state.suspended = None;
        let (path, stream) = (lease.path(), lease.stream());
        if let Some(path) = self.paths.get_mut(&path) {
            path.relook();
        }
        self.recredit.insert(stream);
        self.tell_mapping(MappingOperation::Resume, id, None);
    }

    /// A path was heard: what was held against it because of its silence is not any more.
    pub(super) fn resume_silent(&mut self, id: PathId) {
        let silent: SmallVec<[LeaseId; 1]> = self
            .leases
            .of_path(id)
            .filter(|(_, lease)| lease.state.suspended == Some(Suspended::Silent))
            .map(|(id, _)| id)
            .collect();
        for lease in silent {
            self.resume(lease);
        }
    }

    /// Instant at which the first path or lease has to be looked at.
    pub(in crate::session) fn deadline(&self) -> Option<Instant> {
        let paths = self.paths.values().filter(|path| path.state.is_live());
        let streams = earliest(self.lease_deadline(), self.gap_deadline());
        let streams = earliest(streams, self.dial_deadline());
        paths.fold(streams, |at, path| earliest(at, path.next_deadline()))
    }
}
