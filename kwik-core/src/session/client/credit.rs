//! Credit of servers: windows, their growth, and how it is given. Spec: PROTOCOL §6, "Credit".

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{Client, Lease};
use crate::{
    id::{ByteRange, LeaseId, PathId, StreamId},
    lease::table::Live,
    limits,
    stream::{
        credit::{self, Demand, Need, Wanting},
        recv::SplitRecv,
    },
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
        } else if stream.held() == 0 && !self.is_under_way(id) {
            self.recredit.insert(id); // however little it was, nothing more comes before there is credit
        }
    }

    /// Returns whether somebody is to bring bytes of a stream under credit by amount.
    fn is_under_way(&self, id: StreamId) -> bool {
        let max_offset = self.streams.get(&id).map_or(0, SplitRecv::max_offset);
        let mut going_on = self.leases.of_stream(id).filter(|(_, lease)| lease.state.suspended.is_none());
        going_on.any(|(_, lease)| lease.promised_above(max_offset).is_some())
    }

    /// Gives credit on the streams where something came or ended since this was last called. Once per batch: each look
    /// goes through all leases, and who is looked at first must not depend on whose bytes came first.
    pub(super) fn replenish_noted(&mut self) {
        for id in std::mem::take(&mut self.recredit) {
            self.replenish(id);
            if self.lost.is_none() {
                self.tell_primary_offset(id); // what somebody was to bring may be the primary's to write now
            }
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
        let before = stream.max_offset();
        let Some(offset) = stream.raise_offset() else {
            return;
        };
        let mut told: SmallVec<[PathId; 8]> = SmallVec::new();
        for (_, lease) in self.leases.of_stream(id).filter(|(_, lease)| lease.state.noticed) {
            // Of use only to who has a lease that reaches into what is new.
            if lease.allowed(offset) > lease.allowed(before) && !told.contains(&lease.path()) {
                told.push(lease.path());
            }
        }
        for path in told {
            if let Some(state) = self.paths.get_mut(&path) {
                state.relook();
            }
            self.credit(path, Credit::Offset { stream: id, offset });
        }
        self.tell_primary_offset(id);
    }

    /// Tells the primary of credit by offset that it was not told of, if it can use it: it writes to the stream now, or
    /// some byte that it may send is neither here nor to be brought by anybody. Spec: PROTOCOL §6, "Credit".
    fn tell_primary_offset(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_open()) else {
            return;
        };
        let offset = stream.max_offset();
        let Some(untold) = ByteRange::between(stream.primary_offset(), offset) else {
            return;
        };
        // One that rests far below what it was told of has no use for more.
        let near = stream.primary_offset().saturating_sub(stream.window() / 2);
        let writes = self.runs.values().any(|run| run.stream == id && run.next >= near);
        if !writes && self.first_unowned(stream, id, untold).is_none() {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.on_primary_told();
        }
        self.credit(PathId::PRIMARY, Credit::Offset { stream: id, offset });
    }

    /// The first byte of `range` that is neither here nor to be brought by a lease that goes on.
    fn first_unowned(&self, stream: &SplitRecv, id: StreamId, range: ByteRange) -> Option<u64> {
        let mut at = range.start();
        loop {
            at = stream.first_missing_of(ByteRange::between(at, range.end())?)?;
            let owners = self.leases.overlapping(id, ByteRange::new(at, 1)?);
            let owners = owners.filter(|(_, lease)| lease.state.suspended.is_none());
            match owners.map(|(_, lease)| lease.range().end()).max() {
                Some(end) => at = end,
                None => return Some(at),
            }
        }
    }

    /// Bytes of the window that a lease takes: the new ones that it may bring beyond credit by offset. The lease that it hedges
    /// may bring the same, and takes those already.
    pub(super) fn outstanding(&self, stream: &SplitRecv, lease: &Live<Lease>) -> u64 {
        let max_offset = stream.max_offset();
        let Some(promised) = lease.promised_above(max_offset) else {
            return 0;
        };
        if !lease.state.contested {
            return promised.len();
        }
        let hedged = lease.state.hedge_of.and_then(|hedged| self.leases.get(hedged));
        let theirs = hedged.filter(|hedged| hedged.stream() == lease.stream());
        let both = theirs.and_then(|hedged| hedged.promised_above(max_offset)?.intersection(promised));
        stream.count_missing(promised) - both.map_or(0, |both| stream.count_missing(both))
    }

    /// Ranges that others may bring of `range` beyond credit by offset, lowest first.
    fn promised_to_others(&self, id: LeaseId, stream: StreamId, range: ByteRange) -> Promises {
        let max_offset = self.streams.get(&stream).map_or(0, SplitRecv::max_offset);
        let others = self.leases.overlapping(stream, range).filter(|(other, _)| *other != id);
        let mut ranges: SmallVec<[ByteRange; 2]> = SmallVec::new();
        let mut stuck = false;
        for (_, other) in others {
            stuck |= other.state.suspended.is_some();
            ranges.extend(other.promised_above(max_offset).and_then(|promised| promised.intersection(range)));
        }
        ranges.sort_by_key(|range| range.start());
        Promises { ranges, stuck }
    }

    /// Bytes of the window that it takes to let a server send all of a lease of which `uncredited` bytes have no credit.
    fn cost(&self, stream: &SplitRecv, id: LeaseId, lease: &Live<Lease>, uncredited: u64) -> u64 {
        let rest = ByteRange::between(lease.range().end() - uncredited, lease.range().end());
        let Some(rest) = rest.filter(|_| lease.state.contested) else {
            return uncredited;
        };
        let promised = self.promised_to_others(id, lease.stream(), rest).ranges;
        let theirs = promised.into_iter().map(|range| stream.count_missing(range)).sum::<u64>();
        stream.count_missing(rest) - theirs
    }

    /// Lets leases that others compete for bring what costs the window nothing: it is here already, or promised to the other.
    fn share_promises(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let max_offset = stream.max_offset();
        let quantum = (stream.window() / QUANTUM_PART).max(1);
        let mut granted: SmallVec<[(PathId, LeaseId, u64); 2]> = SmallVec::new();
        let of = self.leases.of_stream(id).filter(|(_, lease)| lease.state.contested && lease.state.noticed);
        for (lease_id, lease) in of.filter(|(_, lease)| lease.state.suspended.is_none()) {
            let range = lease.range();
            let allowed = lease.allowed(max_offset);
            let Some(rest) = ByteRange::between(range.start() + allowed, range.end()) else {
                continue;
            };
            let others = self.promised_to_others(lease_id, id, rest);
            let bytes = others.first_other(stream, rest) - range.start();
            // What is stuck becomes no more.
            let enough = others.stuck || bytes - allowed >= quantum;
            if bytes > allowed && (bytes == range.len() || (!lease.is_verified() && enough)) {
                granted.push((lease.path(), lease_id, bytes));
            }
        }
        for (path, lease, bytes) in granted {
            self.credit_lease(path, lease, bytes);
        }
    }

    /// Lets a server send the first `bytes` of a lease.
    fn credit_lease(&mut self, path: PathId, id: LeaseId, bytes: u64) {
        let Some(lease) = self.leases.get_mut(id) else {
            return;
        };
        lease.state.credit = bytes;
        if let Some(state) = self.paths.get_mut(&path) {
            state.relook();
        }
        self.credit(path, Credit::Lease { lease: id, bytes });
    }

    /// Shares the window of an unordered reader among the servers. Spec: PROTOCOL §6, "Credit".
    fn share_credit(&mut self, id: StreamId) {
        self.share_promises(id);
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let max_offset = stream.max_offset();
        let run_outstanding = stream.run_outstanding();
        let mut demands: SmallVec<[Demand<PathId>; 8]> = SmallVec::new();
        // What leases may bring, and what of the window nobody can say of when it is free again.
        let (mut leased, mut stuck) = (0, run_outstanding + stream.missing_below());
        for (lease_id, lease) in self.leases.of_stream(id).filter(|(_, lease)| lease.state.noticed) {
            let outstanding = self.outstanding(stream, lease);
            leased += outstanding;
            if lease.state.suspended.is_some() {
                stuck += outstanding;
                continue; // what it has stays its own; more it gets when bytes come
            }
            let uncredited = lease.range().len() - lease.allowed(max_offset);
            let (cost, need) = if lease.is_verified() {
                let cost = self.cost(stream, lease_id, lease, uncredited);
                (cost, Need::Whole { waits: true })
            } else {
                (uncredited, Need::Part)
            };
            let position = demands.iter().position(|demand| demand.source == lease.path());
            let index = position.unwrap_or_else(|| {
                demands.push(Demand { source: lease.path(), outstanding: 0, leases: SmallVec::new() });
                demands.len() - 1
            });
            if let Some(demand) = demands.get_mut(index) {
                demand.outstanding += outstanding;
                if uncredited > 0 {
                    demand.leases.push(Wanting { lease: lease_id, uncredited, cost, need });
                }
            }
        }
        for wanting in demands.iter_mut().flat_map(|demand| &mut demand.leases) {
            if let Need::Whole { waits } = &mut wanting.need {
                *waits = wanting.cost + stuck <= stream.window();
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
        // Who has less outstanding comes first, and takes this much at most, or one verified lease. A primary that writes
        // does not come before one that has nothing either: it would again and again.
        let part = window / (demands.len() as u64).max(1);
        let before = |outstanding| outstanding < run_outstanding || (runs && outstanding == run_outstanding);
        let ahead = demands.iter().filter(|demand| before(demand.outstanding));
        let ahead = ahead.map(|demand| demand.due(part, room)).sum();
        let run_room = run_part.saturating_sub(run_outstanding).min(room.saturating_sub(ahead));
        let run_grant = if run_room >= quantum.min(limits::GUARANTEED_CREDIT / 2) { run_room } else { 0 };
        let mut granted: SmallVec<[(PathId, LeaseId, u64); 8]> = SmallVec::new();
        credit::share(window, room - run_grant, quantum, &mut demands, |path, lease, bytes| {
            granted.push((path, lease, bytes));
        });
        if let Some(stream) = self.streams.get_mut(&id).filter(|_| run_grant > 0) {
            let bytes = stream.raise_run_credit(run_grant);
            self.credit(PathId::PRIMARY, Credit::Run { stream: id, bytes });
        }
        for (path, lease, bytes) in granted {
            let allowed = self.leases.get(lease).map_or(0, |lease| lease.allowed(max_offset));
            self.credit_lease(path, lease, allowed + bytes);
        }
    }
}

/// Ranges that others may bring.
struct Promises {
    /// Apart from each other, and rising.
    ranges: SmallVec<[ByteRange; 2]>,
    /// Nobody can say when some of it comes.
    stuck: bool,
}

impl Promises {
    /// Offset of the first byte in `rest` that is neither here nor among them; its end if there is none.
    fn first_other(&self, stream: &SplitRecv, rest: ByteRange) -> u64 {
        let mut at = rest.start();
        while let Some(missing) =
            ByteRange::between(at, rest.end()).and_then(|rest| stream.first_missing_of(rest))
        {
            at = missing;
            let before = self.ranges.partition_point(|range| range.start() <= at);
            let around = before.checked_sub(1).and_then(|index| self.ranges.get(index));
            match around.filter(|range| at < range.end()) {
                Some(range) => at = range.end(),
                None => return at,
            }
        }
        rest.end()
    }
}
