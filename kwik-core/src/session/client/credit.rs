//! What servers may send now: windows, their growth, and how credit is given. Spec: KWIK §6, "Credit".

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Client;
use crate::{
    id::{LeaseId, PathId, StreamId},
    limits,
    stream::credit::{self, Demand, Wanting},
    wire::Credit,
};

/// The smallest credit worth a frame of its own, as a part of the stream's window.
const QUANTUM_PART: u64 = 32;

/// Round-trip times below this say nothing about how much should be under way: scheduling is slower.
const GROWTH_RTT_MIN: Duration = Duration::from_millis(2);

impl Client {
    /// The application took bytes: widens the window if that is what holds the servers back, and gives credit.
    pub(super) fn on_consumed(&mut self, now: Instant, id: StreamId) {
        let slowest = self.paths.values().map(|path| path.health.smoothed_rtt()).max().unwrap_or_default();
        let rtt = slowest.max(self.primary_rtt).max(GROWTH_RTT_MIN);
        let free = self.extra_window_free();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.is_open() {
            return; // nothing more will come
        }
        if stream.wants_growth(now, rtt) {
            let growth = stream.window().min(free);
            stream.grow(growth);
            self.extra_window += growth;
        }
        if !stream.is_unordered() || stream.take_quantum(QUANTUM_PART) {
            self.replenish(id);
        }
    }

    /// Gives credit on the streams where something came or ended since this was last called. Once per batch: each look
    /// goes through all leases, and who is looked at first must not depend on whose bytes came first.
    pub(super) fn replenish_noted(&mut self) {
        for id in std::mem::take(&mut self.recredit) {
            self.replenish(id);
        }
    }

    /// Gives what credit the window has room for. Cheap when there is none.
    pub(super) fn replenish(&mut self, id: StreamId) {
        if self.lost.is_some() {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else {
            return;
        };
        if stream.is_unordered() {
            self.share_credit(id);
            return;
        }
        let Some(offset) = stream.raise_offset() else {
            return;
        };
        self.credit(PathId::PRIMARY, Credit::Offset { stream: id, offset });
        let mut told: SmallVec<[PathId; 8]> = SmallVec::new();
        for (_, lease) in self.leases.of_stream(id).filter(|(_, lease)| lease.state.noticed) {
            // A lease that had all its credit needs no more.
            if !told.contains(&lease.path()) && lease.state.credit < lease.range().len() {
                told.push(lease.path());
            }
        }
        for path in told {
            if let Some(state) = self.paths.get_mut(&path) {
                state.relook();
            }
            self.credit(path, Credit::Offset { stream: id, offset });
        }
    }

    /// Shares the window of an unordered reader among the servers. Spec: KWIK §6, "Credit".
    fn share_credit(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let max_offset = stream.max_offset();
        let mut demands: SmallVec<[Demand<PathId>; 8]> = SmallVec::new();
        let mut leased = 0;
        for (lease_id, lease) in self.leases.of_stream(id).filter(|(_, lease)| lease.state.noticed) {
            let outstanding = lease.outstanding_above(max_offset);
            leased += outstanding;
            if lease.state.suspended.is_some() {
                continue; // what it has stays its own; more it gets when bytes come
            }
            let uncredited = lease.range().len() - lease.allowed(max_offset);
            let position = demands.iter().position(|demand| demand.source == lease.path());
            let index = position.unwrap_or_else(|| {
                demands.push(Demand { source: lease.path(), outstanding: 0, leases: SmallVec::new() });
                demands.len() - 1
            });
            if let Some(demand) = demands.get_mut(index) {
                demand.outstanding += outstanding;
                if uncredited > 0 {
                    demand.leases.push(Wanting { lease: lease_id, uncredited, whole: lease.is_verified() });
                }
            }
        }
        let room = stream.room(leased);
        let quantum = (stream.window() / QUANTUM_PART).max(1);
        let runs = self.runs.values().any(|run| run.stream == id);
        // The primary's runs are no leases: a writing primary counts as one more server, a resting one keeps a little.
        // Never more than half, though: what a run leaves unused is not given back when it ends.
        let run_part = if runs {
            stream.window() / (demands.len() as u64 + 1).max(2)
        } else {
            limits::GUARANTEED_CREDIT.min(stream.window() / 2)
        };
        let window = if runs { stream.window() - run_part } else { stream.window() };
        let run_outstanding = stream.run_outstanding();
        // Who has less outstanding comes first, and takes this much at most.
        let part = window / (demands.len() as u64).max(1);
        let ahead = demands.iter().filter(|demand| demand.outstanding < run_outstanding);
        let ahead = ahead.map(|demand| demand.due(part));
        let run_room = run_part.saturating_sub(run_outstanding).min(room.saturating_sub(ahead.sum()));
        let run_grant = if run_room >= quantum.min(limits::GUARANTEED_CREDIT / 2) { run_room } else { 0 };
        let mut granted: SmallVec<[(PathId, LeaseId, u64); 8]> = SmallVec::new();
        credit::share(window, room - run_grant, quantum, &mut demands, |path, lease, bytes| {
            granted.push((path, lease, bytes));
        });
        if let Some(stream) = self.streams.get_mut(&id).filter(|_| run_grant > 0) {
            let bytes = stream.raise_run_credit(run_grant);
            self.credit(PathId::PRIMARY, Credit::Run { stream: id, bytes });
        }
        for (path, lease_id, bytes) in granted {
            let Some(lease) = self.leases.get_mut(lease_id) else {
                continue;
            };
            lease.state.credit = lease.allowed(max_offset) + bytes;
            let credit = Credit::Lease { lease: lease_id, bytes: lease.state.credit };
            if let Some(state) = self.paths.get_mut(&path) {
                state.relook();
            }
            self.credit(path, credit);
        }
    }
}
