//! A long random walk in honest company: whatever is leased, hedged, cut, written over, taken back or left lying, the books
//! are right after every step, and in the end the reader gets everything, though some servers never go on. Spec: DESIGN §2
//! (I5, I7), PROTOCOL §5, §6.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what a walk says nothing about changes nothing for it, or must not happen"
)]

use std::{collections::BTreeMap, fmt};

use super::*;
use crate::{session::tests::Dice, stream::ranges::RangeSet, wire::Credit};

/// Walks of one test run.
const WALKS: u64 = 500;
/// Steps before everybody who is awake finishes.
const STEPS: u64 = 400;
/// Live leases and runs at once.
const LEASES: usize = 40;
const RUNS: usize = 4;
/// Bytes sent or read at once, at most.
const PIECE: u64 = 64 * 1024;
/// Number of times that nothing may move, with 20 ms between, before it is a deadlock: stalls are noticed in two seconds.
const PATIENCE: u32 = 400;

/// A lease at its server.
#[derive(Debug)]
struct Fill {
    range: ByteRange,
    credit: u64,
    sent: u64,
    internal: Option<StreamId>,
}

/// A run at the primary.
#[derive(Debug)]
struct Writing {
    internal: StreamId,
    next: u64,
    end: u64,
}

struct Walk {
    machine: Machine,
    dice: Dice,
    paths: Vec<PathId>,
    /// Servers that answer and bring nothing.
    asleep: Vec<bool>,
    fills: BTreeMap<(PathId, LeaseId), Fill>,
    runs: Vec<Writing>,
    /// Bytes that all runs may send beyond credit by offset, and have.
    run_credit: u64,
    run_above: u64,
    /// Of ten leases, so many are verified.
    verified: u64,
    size: u64,
    unordered: bool,
    ended: bool,
    read: u64,
    next_lease: u64,
    next_internal: u64,
    frames: u64,
    /// The last grant was refused.
    refused: bool,
}

fn index(dice: &mut Dice, bound: usize) -> usize {
    usize::try_from(dice.below(bound as u64)).unwrap()
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let kib = |count: u64| count * 1024;
        let (session, window) = [(512, 320), (512, 64), (1024, 128), (4096, 1024)][index(&mut dice, 4)];
        let mut machine =
            Machine::with(|config| config.session_window(kib(session)).stream_window(kib(window)));
        if dice.below(3) == 0 {
            // Another stream has what is left of the session window.
            machine.primary(Frame::Split { stream: stream(21), offset: 0 });
        }
        let count = 2 + u32::try_from(dice.below(6)).unwrap();
        for path in (3..=count).map(PathId::new) {
            machine.attach(path);
        }
        let paths: Vec<PathId> = (1..=count).map(PathId::new).collect();
        for (&path, id) in paths.iter().zip(0..).skip(1) {
            machine.primary(Frame::JobOpen(job(JobId::new(id), path)));
        }
        let size = 100 + machine.client.streams[&STREAM].window() * (2 + dice.below(6)) + dice.below(5000);
        machine.primary(Frame::StreamFinal { stream: STREAM, size });
        machine.actions();
        let mut walk = Self {
            machine,
            asleep: vec![false; paths.len()],
            paths,
            fills: BTreeMap::new(),
            runs: Vec::new(),
            run_credit: 0,
            run_above: 0,
            verified: [0, 5, 5, 10][index(&mut dice, 4)],
            size,
            unordered: false,
            ended: false,
            read: 0,
            next_lease: 0,
            next_internal: 40,
            frames: 0,
            refused: false,
            dice,
        };
        walk.take_actions();
        walk
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.dice.below(one_in) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(index(&mut self.dice, of.len())).copied()
    }

    fn split(&self) -> &SplitRecv {
        &self.machine.client.streams[&STREAM]
    }

    fn leases(&self) -> Vec<LeaseId> {
        self.machine.client.leases.of_stream(STREAM).map(|(id, _)| id).collect()
    }

    fn fresh(&mut self) -> StreamId {
        self.next_internal += 1;
        stream(3 + 4 * self.next_internal)
    }

    /// The client has decided: everybody does as told, and the books are looked at.
    fn take_actions(&mut self) {
        for action in self.machine.actions() {
            match action {
                Action::Send { path, frame } => self.on_frame(path, frame),
                Action::StopInternal { path: PathId::PRIMARY, stream, .. } => {
                    self.runs.retain(|run| run.internal != stream);
                }
                Action::StopInternal { stream, .. } => {
                    self.fills.retain(|_, fill| fill.internal != Some(stream));
                }
                Action::PermitUni { .. } | Action::Ping { .. } | Action::Notify(_) => {}
                other => panic!("nobody did anything wrong: {other:?}"),
            }
        }
        if let Err(error) = self.machine.client.audit() {
            panic!("{error:?}: {self:?}");
        }
    }

    fn on_frame(&mut self, path: PathId, frame: Frame) {
        match frame {
            Frame::Credit(Credit::Run { stream: STREAM, bytes }) => self.run_credit = bytes,
            Frame::Credit(Credit::Lease { lease, bytes }) => {
                if let Some(fill) = self.fills.get_mut(&(path, lease)) {
                    assert!(bytes > fill.credit, "credit only rises");
                    fill.credit = bytes;
                }
            }
            Frame::LeaseNotice { lease, range, credit, .. } => {
                self.fills.insert((path, lease), Fill { range, credit, sent: 0, internal: None });
            }
            Frame::LeaseRevoke { lease, keep, .. } => {
                let Some(fill) = self.fills.get_mut(&(path, lease)) else {
                    return;
                };
                match ByteRange::new(fill.range.start(), keep.max(fill.sent).min(fill.range.len())) {
                    Some(kept) if keep > 0 && fill.sent < kept.len() => fill.range = kept,
                    _ => drop(self.fills.remove(&(path, lease))),
                }
            }
            Frame::LeaseRefused { .. } => self.refused = true,
            Frame::StreamStopped { .. } => panic!("{self:?}"),
            _ => {}
        }
    }

    fn settle(&mut self) {
        self.machine.client.settle(self.machine.now);
        self.take_actions();
    }

    // The primary.

    /// Ranges of `range` that are missing and neither leased, except as `but`, nor being written.
    fn free(&self, range: ByteRange, but: Option<LeaseId>) -> Vec<ByteRange> {
        let mut free = RangeSet::new();
        for hole in self.split().missing(range, usize::MAX) {
            free.insert(hole);
        }
        for (id, lease) in self.machine.client.leases.overlapping(STREAM, range) {
            if Some(id) != but {
                free.remove(lease.range());
            }
        }
        for run in &self.runs {
            ByteRange::between(run.next, run.end).into_iter().for_each(|range| free.remove(range));
        }
        free.iter().collect()
    }

    fn whole(&self) -> ByteRange {
        range(100, self.size)
    }

    /// Part of `most` bytes that is given at once.
    fn portion(&mut self, most: u64) -> u64 {
        let window = self.split().window();
        let wanted = match self.dice.below(5) {
            0 => 1 + self.dice.below(2000),
            1 => 1 + self.dice.below(window / 8),
            2 => 1 + self.dice.below(window),
            3 => window / 2,
            _ => most,
        };
        wanted.clamp(1, most)
    }

    /// Grants a range to the server with that index; returns whether it was taken.
    fn give(&mut self, to: usize, range: ByteRange, verified: bool, hedge_of: Option<LeaseId>) -> bool {
        self.refused = false;
        let digest = verified.then(|| blake3::hash(&sevens(range.len())).into());
        self.machine.primary(Frame::LeaseGrant(LeaseGrant {
            lease: LeaseId::new(self.next_lease),
            job: JobId::new(to as u64),
            range,
            digest,
            deadline_ms: None,
            hedge_of,
            progress: true,
        }));
        self.next_lease += 1;
        self.take_actions();
        if self.chance(2) {
            self.settle();
        }
        !self.refused
    }

    /// Gives one of the first `holes` that are nobody's to one of `servers`.
    fn grant(&mut self, servers: &[usize], holes: usize) {
        let free = self.free(self.whole(), None);
        let first: Vec<ByteRange> = free.into_iter().take(holes).collect();
        let (Some(hole), Some(to)) = (self.pick(&first), self.pick(servers)) else {
            return;
        };
        let longest = self.machine.client.verified_max();
        let verified = self.dice.below(10) < self.verified;
        let len = self.portion(if verified { hole.len().min(longest) } else { hole.len() });
        let range = ByteRange::new(hole.start(), len).unwrap();
        if !self.give(to, range, verified, None) {
            self.give(to, range, false, None);
        }
    }

    /// Has one of `servers` bring what another is to bring: all that is missing of it, or any part of it.
    fn hedge(&mut self, id: LeaseId, servers: &[usize], all: bool) {
        let Some(lease) = self.machine.client.leases.get(id) else {
            return;
        };
        let (path, range) = (lease.path(), lease.range());
        let others: Vec<usize> = servers.iter().copied().filter(|&other| self.paths[other] != path).collect();
        for mut part in self.free(range, Some(id)) {
            let Some(to) = self.pick(&others) else {
                return;
            };
            if !all {
                let start = part.start() + self.dice.below(part.len());
                let len = self.portion(part.end() - start);
                part = ByteRange::new(start, len).unwrap();
                // The lease may have been cut while its hedge was on its way.
                let beyond =
                    self.free(self.whole(), None).into_iter().find(|free| free.start() == part.end());
                if let Some(beyond) = beyond.filter(|_| self.chance(4)) {
                    part = ByteRange::between(part.start(), part.end() + self.portion(beyond.len())).unwrap();
                }
            }
            let verified =
                self.dice.below(10) < self.verified && part.len() <= self.machine.client.verified_max();
            let given = self.give(to, part, verified, Some(id)) || self.give(to, part, false, Some(id));
            if !given && all {
                self.revoke(id, 0); // there is no room for both
            }
            if !all || !self.machine.client.leases.contains(id) {
                return;
            }
        }
    }

    fn revoke(&mut self, id: LeaseId, keep: u64) {
        self.machine.primary(Frame::LeaseRevoke { lease: id, keep, code: ErrorCode::LEASE_REVOKED });
        self.take_actions();
    }

    fn cut(&mut self, id: LeaseId) {
        let state =
            self.machine.client.leases.get(id).map(|lease| (lease.is_verified(), lease.range().len()));
        let Some((false, len)) = state else {
            return self.revoke(id, 0);
        };
        let keep = self.dice.below(len);
        self.revoke(id, keep);
    }

    /// Begins to write what is nobody's, or what a lease is to bring.
    fn open_run(&mut self) {
        let over = if self.chance(2) { None } else { self.pick(&self.leases()) };
        let lease = over.and_then(|id| self.machine.client.leases.get(id)).map(|lease| lease.range());
        let free = self.free(lease.unwrap_or_else(|| self.whole()), over);
        let Some(hole) = self.pick(&free).filter(|_| self.runs.len() < RUNS) else {
            return;
        };
        let (internal, end) = (self.fresh(), hole.start() + self.portion(hole.len()).min(200_000));
        let header = StreamHeader::Internal { stream: STREAM, offset: hole.start() };
        assert_eq!(self.machine.client.on_internal(PathId::PRIMARY, internal, header), Opened::Read);
        self.runs.push(Writing { internal, next: hole.start(), end });
    }

    /// Writes on as far as there is credit; returns whether there was any.
    fn write(&mut self, index: usize) -> bool {
        let max_offset = self.split().max_offset();
        let Some(run) = self.runs.get_mut(index) else {
            return false;
        };
        let below = max_offset.saturating_sub(run.next);
        let len = (run.end - run.next).min(PIECE).min(below + self.run_credit - self.run_above);
        self.run_above += len.saturating_sub(below);
        run.next += len;
        let (internal, done) = (run.internal, run.next == run.end);
        if len > 0 {
            if done {
                self.runs.remove(index);
            }
            self.machine.client.on_bytes(PathId::PRIMARY, internal, sevens(len));
            if done {
                self.machine.client.on_internal_end(PathId::PRIMARY, internal, InternalEnd::Fin);
            }
            self.take_actions();
        }
        len > 0
    }

    // Secondaries.

    /// A server sends more of the lowest lease that has credit; returns whether there is one.
    fn bring(&mut self, server: usize, most: u64) -> bool {
        let (path, max_offset) = (self.paths[server], self.split().max_offset());
        let allowed = |fill: &Fill| {
            fill.credit.max(max_offset.saturating_sub(fill.range.start())).min(fill.range.len())
        };
        let fills = self.fills.iter().filter(|((of, _), fill)| *of == path && fill.sent < allowed(fill));
        let Some(key) = fills.min_by_key(|(_, fill)| fill.range.start()).map(|(key, _)| *key) else {
            return false;
        };
        let fresh = self.fresh();
        let fill = self.fills.get_mut(&key).unwrap();
        let internal = *fill.internal.get_or_insert(fresh);
        if internal == fresh {
            let header = StreamHeader::Secondary { lease: key.1, offset: fill.range.start() };
            assert_eq!(self.machine.client.on_internal(path, internal, header), Opened::Read);
        }
        let len = (allowed(fill) - fill.sent).min(most);
        fill.sent += len;
        let done = fill.sent == fill.range.len();
        if done {
            self.fills.remove(&key);
        }
        self.machine.client.on_bytes(path, internal, sevens(len));
        if done {
            self.machine.client.on_internal_end(path, internal, InternalEnd::Fin);
        }
        self.take_actions();
        true
    }

    /// A server gives a lease up.
    fn give_back(&mut self) {
        let keys: Vec<(PathId, LeaseId)> = self.fills.keys().copied().collect();
        let Some((path, lease)) = self.pick(&keys) else {
            return;
        };
        let code = ErrorCode::from_u32(4);
        match self.fills.remove(&(path, lease)).and_then(|fill| fill.internal) {
            Some(internal) => {
                self.machine.client.on_internal_end(path, internal, InternalEnd::Reset(code));
            }
            None => self.machine.secondary(path, Frame::LeaseRefused { lease, code }),
        }
        self.take_actions();
    }

    // The application and time.

    fn read(&mut self, most: usize) -> bool {
        let read = self.machine.client.read(self.machine.now, STREAM, most, !self.unordered);
        self.take_actions();
        match read {
            Ok(Some(chunk)) => {
                assert!(chunk.bytes.iter().all(|byte| *byte == 7));
                self.read += chunk.bytes.len() as u64;
                return true;
            }
            Ok(None) => self.ended = true,
            Err(ReadError::Blocked | ReadError::Incomplete { .. }) => {}
            Err(error) => panic!("{error}: {self:?}"),
        }
        false
    }

    /// Time passes; every server answers.
    fn pass(&mut self, time: Duration) {
        self.machine.now += time;
        self.frames += 10;
        for &path in &self.paths {
            let rtt = Some(Duration::from_millis(10));
            self.machine.client.on_heard(self.machine.now, path, self.frames, rtt);
        }
        self.machine.client.handle_timeout(self.machine.now);
        self.settle();
    }

    fn step(&mut self) {
        let all: Vec<usize> = (0..self.paths.len()).collect();
        match self.dice.below(40) {
            0..=3 if self.leases().len() < LEASES => self.grant(&all, 3),
            4 | 5 => self.pick(&self.leases()).into_iter().for_each(|id| self.hedge(id, &all, false)),
            6 => self.pick(&self.leases()).into_iter().for_each(|id| self.cut(id)),
            7 => self.open_run(),
            8..=10 => {
                let index = index(&mut self.dice, RUNS);
                self.write(index);
            }
            11 => {
                let server = index(&mut self.dice, self.paths.len());
                self.asleep[server] ^= true;
            }
            12 => (0..self.dice.below(60)).for_each(|_| self.pass(Duration::from_millis(10))),
            13 => self.unordered |= self.chance(8),
            14..=20 => {
                let most = 1 + index(&mut self.dice, 40_000);
                self.read(most);
            }
            21..=24 => self.settle(),
            25 if self.chance(4) => self.give_back(),
            _ => {
                let server = index(&mut self.dice, self.paths.len());
                let most = if self.chance(4) { PIECE } else { 1 + self.dice.below(PIECE) };
                if !self.asleep[server] {
                    self.bring(server, most);
                }
            }
        }
    }

    fn is_suspended(&self, id: LeaseId) -> bool {
        self.machine.client.leases.get(id).is_some_and(|lease| lease.state.suspended.is_some())
    }

    fn hedges_what_is_suspended(&self, id: LeaseId) -> bool {
        let hedged = self.machine.client.leases.get(id).and_then(|lease| lease.state.hedge_of);
        hedged.is_some_and(|hedged| self.is_suspended(hedged))
    }

    /// Two servers at least are awake, and bring all they may; the primary gives them what is nobody's and what does not come.
    fn finish(&mut self) {
        while self.asleep.iter().filter(|asleep| !**asleep).count() < 2 {
            let server = index(&mut self.dice, self.paths.len());
            self.asleep[server] = false;
        }
        let awake: Vec<usize> = (0..self.paths.len()).filter(|&server| !self.asleep[server]).collect();
        let mut idle = 0;
        while idle < PATIENCE {
            let before = (self.read, self.run_above, self.next_lease);
            while self.read(30_000) {}
            if self.ended {
                return;
            }
            self.grant(&awake, 1); // what the reader waits for, however much is leased further on
            for id in self.leases() {
                if !self.is_suspended(id) {
                    continue;
                }
                if self.hedges_what_is_suspended(id) {
                    self.revoke(id, 0); // both sleep, and there may be no third
                } else {
                    self.hedge(id, &awake, true);
                }
            }
            for &server in &awake {
                while self.bring(server, PIECE) {}
            }
            (0..self.runs.len()).rev().for_each(|index| while self.write(index) {});
            self.pass(Duration::from_millis(20));
            idle = if before == (self.read, self.run_above, self.next_lease) { idle + 1 } else { 0 };
        }
        panic!("nothing moves: {self:?}");
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leases: Vec<_> = self.machine.client.leases.of_stream(STREAM).collect();
        f.debug_struct("Walk")
            .field("stream", self.split())
            .field("leases", &leases)
            .field("fills", &self.fills)
            .field("runs", &self.runs)
            .field("asleep", &self.asleep)
            .finish_non_exhaustive()
    }
}

fn walk(seed: u64) {
    let mut walk = Walk::new(seed);
    for _ in 0..STEPS {
        walk.step();
        if walk.ended {
            return;
        }
    }
    walk.finish();
}

#[test]
fn everything_arrives_whatever_happens_on_the_way() {
    for seed in 0..WALKS {
        let walked = std::panic::catch_unwind(|| walk(seed));
        assert!(walked.is_ok(), "walk({seed}) fails");
    }
}
