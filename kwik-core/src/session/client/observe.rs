//! Counters that the client keeps beside its work, and the snapshots made of them. Decides nothing. Spec: RATIONALE §12.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use smallvec::SmallVec;

use super::{Client, Lease};
use crate::{
    action::PathState,
    error::PeerFault,
    id::{LeaseId, PathId, StreamId},
    lease::table::Live,
    path::state::State,
    stats::{LeaseStats, Leases, SessionStats, SourceStats, StreamStats, count_fault},
    stream::{
        gap::{Due, Gap},
        recv::SplitRecv,
        tally::Totals,
    },
};

/// Figures of the whole session, and what has to be looked at once the present batch has settled.
#[derive(Debug)]
pub(super) struct Observed {
    /// The latest instant the machine was told.
    now: Instant,
    /// Streams in which something was placed.
    touched: SmallVec<[StreamId; 2]>,
    /// It may be that other servers have no credit now.
    credit_changed: bool,
    /// Streams on which some server has no credit.
    starved: BTreeSet<StreamId>,
    /// Totals of the streams that have ended.
    ended: Totals,
    faults: BTreeMap<PeerFault, u64>,
}

impl Observed {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            now,
            touched: SmallVec::new(),
            credit_changed: false,
            starved: BTreeSet::new(),
            ended: Totals::default(),
            faults: BTreeMap::new(),
        }
    }

    /// Bytes were placed in a stream. Called for every piece, so it only takes note.
    pub(super) fn touch(&mut self, stream: StreamId) {
        if !self.touched.contains(&stream) {
            self.touched.push(stream);
        }
    }

    /// Notes that what a path may send was worked out anew.
    pub(super) fn on_credit(&mut self) {
        self.credit_changed = true;
    }

    /// The application reads.
    pub(super) fn on_read(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn on_fault(&mut self, fault: PeerFault) {
        count_fault(&mut self.faults, fault);
    }

    /// A stream is over: its figures go into the session's.
    pub(super) fn on_end(&mut self, id: StreamId, mut stream: SplitRecv) {
        self.touched.retain(|touched| *touched != id);
        self.starved.remove(&id);
        stream.tally_mut().end(self.now);
        self.ended.add(&stream.tally().totals(self.now));
    }
}

impl Client {
    /// Looks at the streams that this batch has changed. Called last, once facts have settled.
    pub(super) fn observe(&mut self, now: Instant) {
        self.observed.now = now;
        for id in std::mem::take(&mut self.observed.touched) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.look(now);
            }
        }
        if std::mem::take(&mut self.observed.credit_changed) {
            self.observe_credit(now);
        }
    }

    /// Begins and ends the waits for credit.
    fn observe_credit(&mut self, now: Instant) {
        let starved: BTreeSet<StreamId> =
            self.paths.values().flat_map(|path| path.starved.iter().copied()).collect();
        for &id in starved.symmetric_difference(&self.observed.starved) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.tally_mut().set_starved(now, starved.contains(&id));
            }
        }
        self.observed.starved = starved;
    }

    /// A reader found nothing.
    pub(super) fn observe_blocked(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tally_mut().on_reader_blocked(self.observed.now);
        }
    }

    /// Something is due about a gap.
    pub(super) fn observe_gap(&mut self, stream: StreamId, due: Due) {
        let Some(stream) = self.streams.get_mut(&stream) else {
            return;
        };
        match due {
            Due::Wait => {}
            Due::Ask => stream.tally_mut().on_gap_asked(),
            Due::Tell => stream.tally_mut().on_gap_told(),
        }
    }

    /// Nothing comes any more: there is nothing left to wait for.
    pub(super) fn end_waits(&mut self) {
        for stream in self.streams.values_mut() {
            stream.tally_mut().end(self.observed.now);
        }
        self.observed.starved.clear();
    }

    /// Adds what this machine has counted to a snapshot.
    pub(in crate::session) fn add_stats(&self, now: Instant, stats: &mut SessionStats) {
        let mut totals = self.observed.ended;
        for stream in self.streams.values() {
            totals.add(&stream.tally().totals(now));
        }
        stats.reassembly = totals.stats();
        stats.streams = self.streams.len();
        stats.sources.clone_from(&self.sources);
        for (&id, path) in &self.paths {
            let source = stats.sources.entry(id).or_default();
            *source = SourceStats {
                state: Some(public_state(path.state)),
                rtt: path.health.smoothed_rtt(),
                leases: self.leases.count_of_path(id),
                first_byte: path.first_byte,
                ..*source
            };
        }
        (stats.held_bytes, stats.held_bytes_max) = self.held();
        stats.late_frames = self.late_frames;
        stats.add_faults(&self.observed.faults);
    }

    /// Returns a snapshot of a split stream.
    pub(in crate::session) fn stream_stats(&self, now: Instant, id: StreamId) -> Option<StreamStats> {
        let stream = self.streams.get(&id)?;
        let promised = stream.final_size().unwrap_or_else(|| stream.claimed_end());
        let gap_age = |gap: &Gap| now.saturating_duration_since(gap.since());
        Some(StreamStats {
            base: stream.base(),
            window: stream.window(),
            held_bytes: stream.held(),
            extents: stream.extents(),
            highest_offset: stream.highest(),
            final_size: stream.final_size(),
            missing: stream.first_missing_before(promised),
            gap_age: self.gaps.get(&id).map(gap_age),
            leases: self.leases.count_of_stream(id),
            sources: stream.tally().sources().collect(),
            reassembly: stream.tally().totals(now).stats(),
        })
    }

    /// The streams of which there are snapshots.
    pub(in crate::session) fn split_streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Returns what the bytes of an internal stream are for: the stream, and of a secondary's the lease.
    pub(in crate::session) fn mapped(
        &self,
        path: PathId,
        internal: StreamId,
    ) -> (Option<StreamId>, Option<LeaseId>) {
        if path.is_primary() {
            return (self.runs.get(&internal).map(|run| run.stream), None);
        }
        let filling = self.paths.get(&path).and_then(|path| path.internal.get(&internal));
        (None, filling.map(|filling| filling.lease))
    }

    /// Returns a snapshot of a live lease.
    pub(in crate::session) fn lease_stats(&self, id: LeaseId) -> Option<LeaseStats> {
        self.leases.get(id).map(|lease| self.snapshot(lease))
    }

    /// Returns snapshots of all live leases.
    pub(in crate::session) fn lease_list(&self) -> Leases {
        self.leases.iter().map(|(id, lease)| (id, self.snapshot(lease))).collect()
    }

    fn snapshot(&self, lease: &Live<Lease>) -> LeaseStats {
        let state = &lease.state;
        let max_offset = self.streams.get(&lease.stream()).map_or(0, SplitRecv::max_offset);
        LeaseStats {
            path: lease.path(),
            stream: lease.stream(),
            range: lease.range(),
            placed: state.placed,
            credit: if state.noticed { lease.allowed(max_offset) } else { 0 },
            noticed: state.noticed,
            begun: state.internal.is_some() || state.placed > 0,
            suspended: state.suspended.is_some(),
            verified: state.staging.is_some(),
        }
    }
}

/// The primary's word for the state of a path.
const fn public_state(state: State) -> PathState {
    match state {
        State::Connecting | State::Authenticating => PathState::Connecting,
        State::Active => PathState::Active,
        State::Degraded => PathState::Degraded,
        State::Draining(_) => PathState::Draining,
        State::Dead(code) => PathState::Dead(code),
    }
}
