//! Links of a fluid between servers and one client, in steps of a millisecond, and a primary that does what it is told.
//!
//! A lease takes half a round trip of the primary to the client and a round trip of its path until its first byte;
//! servers fill the lowest offsets first; news of bytes comes every 20 ms and half a round trip late, as does what was
//! cut.

use std::collections::BTreeMap;

use super::*;
use crate::stream::ranges::RangeSet;

const STEP: Duration = MS;
const NEWS: Duration = Duration::from_millis(20);
/// The congestion window at the start, in bytes.
const CWND: u64 = 12 * 1200;

/// A way to the client.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) rtt: Duration,
    /// Bytes per second, each from a time on.
    pub(super) rates: Vec<(Duration, u64)>,
    /// The times at which it goes silent, and answers again.
    pub(super) dies: Option<Duration>,
    pub(super) returns: Option<Duration>,
    pub(super) joins: Duration,
    pub(super) price: u64,
    /// It begins with a small congestion window.
    pub(super) slow_start: bool,
}

impl Link {
    pub(super) fn new(rate: u64, rtt_ms: u64) -> Self {
        Self {
            rtt: Duration::from_millis(rtt_ms),
            rates: vec![(Duration::ZERO, rate)],
            dies: None,
            returns: None,
            joins: Duration::ZERO,
            price: 0,
            slow_start: true,
        }
    }

    pub(super) fn rate(&self, at: Duration) -> u64 {
        let dead =
            self.dies.is_some_and(|dies| dies <= at) && self.returns.is_none_or(|returns| returns > at);
        let rate = self.rates.iter().rev().find(|(from, _)| *from <= at).map_or(0, |(_, rate)| *rate);
        if dead { 0 } else { rate }
    }
}

/// Something that is told later.
#[derive(Debug)]
enum News {
    Progress(PieceId, u64),
    Done(PieceId),
    Lost(PieceId, Loss, Vec<ByteRange>),
    Cut(PieceId, Vec<ByteRange>),
    /// A cut reaches the client.
    CutAt(PieceId, u64),
    Path(PathId, PathNews),
    Refused(PieceId, Refusal),
    Stalled(PieceId),
    Read(u64),
}

/// A piece at its server.
#[derive(Debug)]
struct Fill {
    path: PathId,
    range: ByteRange,
    placed: u64,
    told: u64,
    ready: Duration,
}

#[derive(Debug)]
struct Server {
    link: Link,
    cwnd: u64,
    /// Bytes on their way that nobody wants any more.
    phantom: u64,
    silent: bool,
    idle: u64,
}

/// The outcome of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) time: Duration,
    pub(super) report: Report,
    /// Bytes that came twice or for nothing.
    pub(super) duplicates: u64,
    pub(super) decisions: u64,
    pub(super) cuts: u64,
    pub(super) hedges: u64,
    pub(super) failed: Option<Failure>,
    /// The longest that a reader in order had nothing.
    pub(super) stall: Duration,
    /// Milliseconds that each link had nothing to do.
    pub(super) idle: Vec<u64>,
}

pub(super) struct World {
    pub(super) size: u64,
    pub(super) links: Vec<Link>,
    /// The window of a reader in order.
    pub(super) window: Option<u64>,
    /// Bytes are told as they come, and not ends of pieces only.
    pub(super) reports: bool,
    pub(super) options: Options,
    /// Bytes per second that a reader in order takes.
    pub(super) reader: u64,
}

impl World {
    /// Links, the first of which is the primary's own.
    pub(super) fn new(size: u64, links: Vec<Link>) -> Self {
        Self { size, links, window: None, reports: true, options: Options::default(), reader: u64::MAX }
    }

    /// Returns the time at which all bytes could be there, if every link brought what it can from the first moment.
    pub(super) fn ideal(&self) -> Duration {
        let mut servers = self.servers();
        let mut left = self.size;
        let mut at = Duration::ZERO;
        while left > 0 {
            for (index, server) in servers.iter_mut().enumerate() {
                let trip = self.trip(index);
                if at >= server.link.joins + trip {
                    left = left.saturating_sub(server.step(at, u64::MAX));
                }
            }
            at += STEP;
        }
        at
    }

    fn servers(&self) -> Vec<Server> {
        let server = |link: &Link| Server {
            link: link.clone(),
            cwnd: if link.slow_start { CWND } else { u64::MAX / 2 },
            phantom: 0,
            silent: false,
            idle: 0,
        };
        self.links.iter().map(server).collect()
    }

    fn control(&self) -> Duration {
        self.links[0].rtt
    }

    /// From a decision to its first byte.
    fn trip(&self, index: usize) -> Duration {
        let half = self.control() / 2;
        if index == 0 { half } else { half + self.links[index].rtt }
    }

    pub(super) fn run(self) -> Outcome {
        let begin = epoch();
        let (servers, half) = (self.servers(), self.control() / 2);
        let trips = (0..self.links.len()).map(|index| self.trip(index)).collect();
        let mut scheduler = Scheduler::new(begin, [range(0, self.size)], self.options);
        if let Some(window) = self.window {
            scheduler.handle_window(begin, window);
        }
        let mut run = Run {
            size: self.size,
            window: self.window,
            reports: self.reports,
            reader: self.reader,
            servers,
            trips,
            half,
            scheduler,
            begin,
            at: Duration::ZERO,
            news: BTreeMap::new(),
            told: 0,
            fills: BTreeMap::new(),
            here: RangeSet::default(),
            read: 0,
            read_at: Duration::ZERO,
            over: false,
            outcome: Outcome::default(),
        };
        while !run.over {
            run.step();
        }
        assert!(run.outcome.failed.is_some() || run.here.total() == run.size, "done means done");
        run.outcome.report = run.scheduler.report();
        run.outcome.idle = run.servers.iter().map(|server| server.idle).collect();
        run.outcome
    }
}

/// A world while it runs.
struct Run {
    size: u64,
    window: Option<u64>,
    reports: bool,
    reader: u64,
    servers: Vec<Server>,
    /// From a decision to the first byte, per server.
    trips: Vec<Duration>,
    /// Half a round trip between the primary and the client.
    half: Duration,
    scheduler: Scheduler,
    begin: Instant,
    at: Duration,
    /// News for the primary, and cuts for the client, by when they arrive.
    news: BTreeMap<(Duration, u64), News>,
    told: u64,
    fills: BTreeMap<PieceId, Fill>,
    /// The client's bytes, the offset up to which it has read, and the time at which it last had something to read.
    here: RangeSet,
    read: u64,
    read_at: Duration,
    over: bool,
    outcome: Outcome,
}

fn path_of(index: usize) -> PathId {
    PathId::new(u32::try_from(index).expect("few"))
}

fn index_of(path: PathId) -> usize {
    usize::try_from(path.into_inner()).expect("few")
}

impl Run {
    fn step(&mut self) {
        assert!(
            self.at < Duration::from_secs(3000),
            "no end: {:?}, {:?}",
            self.scheduler.report(),
            self.fills
        );
        for index in 0..self.servers.len() {
            self.change_link(index);
        }
        let now = self.begin + self.at;
        let mut poll = self.scheduler.poll_timeout().is_some_and(|due| due <= now);
        while let Some(entry) = self.news.first_entry().filter(|entry| entry.key().0 <= self.at) {
            let news = entry.remove();
            self.hear(now, news);
            poll = true;
        }
        while poll
            && !self.over
            && let Some(decision) = self.scheduler.poll(now)
        {
            self.obey(decision);
        }
        self.scheduler.check();
        for index in 0..self.servers.len() {
            self.serve(index);
        }
        self.end_covered();
        self.read();
        if self.reports && self.is_time_for_news() {
            let grown = self.fills.iter_mut().filter(|(_, fill)| fill.placed > fill.told);
            let grown: Vec<_> = grown
                .map(|(&id, fill)| {
                    fill.told = fill.placed;
                    (id, fill.placed)
                })
                .collect();
            for (id, placed) in grown {
                self.tell(self.half, News::Progress(id, placed));
            }
        }
        self.at += STEP;
        if self.here.total() == self.size && self.outcome.time.is_zero() {
            self.outcome.time = self.at;
        }
    }

    fn tell(&mut self, after: Duration, news: News) {
        self.told += 1;
        self.news.insert((self.at + after, self.told), news);
    }

    fn is_time_for_news(&self) -> bool {
        self.at.as_millis() % NEWS.as_millis() == 0
    }

    /// Links come, go silent and answer again.
    fn change_link(&mut self, index: usize) {
        let (now, path) = (self.begin + self.at, path_of(index));
        let link = self.servers[index].link.clone();
        if link.joins == self.at {
            self.scheduler.add_path(now, path, link.price);
            if index == 0 {
                self.scheduler.handle_rtt(now, path, link.rtt);
            }
        }
        if link.dies.is_some_and(|dies| dies + link.rtt * 2 + 37 * MS == self.at)
            && let Some(id) = self.fills.iter().find(|(_, fill)| fill.path == path).map(|(&id, _)| id)
        {
            self.tell(self.half, News::Stalled(id));
        }
        if link.dies.is_some_and(|dies| dies + link.rtt * 3 + 75 * MS == self.at) {
            self.servers[index].silent = true;
            self.tell(self.half, News::Path(path, PathNews::Silent));
            let lost: Vec<PieceId> =
                self.fills.iter().filter(|(_, fill)| fill.path == path).map(|(&id, _)| id).collect();
            for id in lost {
                let fill = self.fills.remove(&id).expect("listed");
                let mut owned = RangeSet::default();
                for other in self.fills.values() {
                    owned.insert(other.range);
                }
                let missing = self.here.missing(fill.range);
                let free = missing.flat_map(|hole| owned.missing(hole).collect::<Vec<_>>()).collect();
                self.tell(self.half, News::Lost(id, Loss::Path, free));
            }
        }
        if link.returns == Some(self.at) {
            self.servers[index].silent = false;
            self.tell(self.half, News::Path(path, PathNews::Answers));
        }
    }

    fn hear(&mut self, now: Instant, news: News) {
        let scheduler = &mut self.scheduler;
        match news {
            News::Progress(piece, bytes) => scheduler.handle_progress(now, piece, bytes),
            News::Done(piece) => scheduler.handle_done(now, piece),
            News::Lost(piece, why, missing) => scheduler.handle_lost(now, piece, why, &missing),
            News::Cut(piece, back) => scheduler.handle_cut(now, piece, &back),
            News::Path(path, what) => scheduler.handle_path(now, path, what),
            News::Refused(piece, why) => scheduler.handle_refused(now, piece, why),
            News::Stalled(piece) => scheduler.handle_stalled(now, piece, true),
            News::Read(offset) => scheduler.handle_read(now, offset),
            News::CutAt(piece, keep) => self.cut(piece, keep),
        }
    }

    /// The client cuts a piece; the primary its own at once.
    fn cut(&mut self, piece: PieceId, keep: u64) {
        let Some(fill) = self.fills.get_mut(&piece) else {
            return;
        };
        let own = fill.path == PathId::PRIMARY;
        let half = if own { Duration::ZERO } else { self.half };
        let end = fill.range.start() + keep.max(fill.placed);
        let back = ByteRange::between(end, fill.range.end());
        if keep < fill.placed && !own {
            // It was past the cut, and goes on until it hears of it.
            self.servers[index_of(fill.path)].overshoot(self.at, back.map_or(0, ByteRange::len));
        }
        match ByteRange::between(fill.range.start(), end).filter(|_| keep > 0) {
            Some(kept) => {
                fill.range = kept;
                let whole = fill.placed == kept.len();
                self.tell(half, News::Cut(piece, back.into_iter().collect()));
                if whole {
                    self.fills.remove(&piece);
                    self.tell(half, News::Done(piece));
                }
            }
            None => {
                self.fills.remove(&piece);
                self.tell(half, News::Lost(piece, Loss::TakenBack, back.into_iter().collect()));
            }
        }
    }

    fn obey(&mut self, decision: Decision) {
        self.outcome.decisions += 1;
        let (piece, path, range, hedge_of) = match decision {
            Decision::Lease { piece, path, range, hedge_of, .. } => (piece, path, range, hedge_of),
            Decision::Write { piece, range, hedge_of } => (piece, PathId::PRIMARY, range, hedge_of),
            Decision::Cut { piece, keep } => {
                self.outcome.cuts += 1;
                let own = self.fills.get(&piece).is_some_and(|fill| fill.path == PathId::PRIMARY);
                return self.tell(if own { Duration::ZERO } else { self.half }, News::CutAt(piece, keep));
            }
            Decision::Done => return self.over = true,
            Decision::Failed(why) => {
                (self.outcome.failed, self.over) = (Some(why), true);
                return;
            }
        };
        self.outcome.hedges += u64::from(hedge_of.is_some());
        let index = index_of(path);
        if self.servers[index].silent {
            return self.tell(Duration::ZERO, News::Refused(piece, Refusal::Silent));
        }
        let ready = self.at + self.trips[index];
        self.fills.insert(piece, Fill { path, range, placed: 0, told: 0, ready });
    }

    /// A server brings what it can in a step, the lowest offset first.
    fn serve(&mut self, index: usize) {
        let path = path_of(index);
        let server = &mut self.servers[index];
        if server.link.joins > self.at {
            return;
        }
        let ready = self.fills.iter().filter(|(_, fill)| fill.path == path && fill.ready <= self.at);
        let mut order: Vec<(u64, PieceId)> = ready.map(|(&id, fill)| (fill.range.start(), id)).collect();
        order.sort_unstable();
        server.idle += u64::from(order.is_empty());
        let limit = self.window.map_or(u64::MAX, |window| self.read + window);
        let wanted: u64 = order.iter().map(|(_, id)| self.fills[id].wants(limit)).sum();
        let mut bytes = server.step(self.at, wanted + server.phantom);
        let late = bytes.min(server.phantom);
        server.phantom -= late;
        bytes -= late;
        self.outcome.duplicates += late;
        for (_, id) in order {
            let fill = self.fills.get_mut(&id).expect("listed");
            let from = fill.range.start() + fill.placed;
            if let Some(part) = ByteRange::new(from, bytes.min(fill.wants(limit))) {
                bytes -= part.len();
                fill.placed += part.len();
                self.outcome.duplicates += part.len() - self.here.insert(part);
            }
            if fill.placed == fill.range.len() {
                self.fills.remove(&id);
                self.tell(self.half, News::Done(id));
            }
        }
    }

    /// The client ends what it has from somebody else.
    fn end_covered(&mut self) {
        let covered = self.fills.iter().filter(|(_, fill)| self.here.missing(fill.range).next().is_none());
        let covered: Vec<PieceId> = covered.map(|(&id, _)| id).collect();
        for id in covered {
            let fill = self.fills.remove(&id).expect("listed");
            self.servers[index_of(fill.path)].overshoot(self.at, fill.range.len() - fill.placed);
            self.tell(self.half, News::Lost(id, Loss::Covered, Vec::new()));
        }
    }

    fn read(&mut self) {
        let prefix = self.here.end_of_prefix(0);
        if self.read < prefix {
            self.read = prefix.min(self.read + limits::bytes_in(STEP, self.reader));
            self.read_at = self.at;
        } else {
            self.outcome.stall = self.outcome.stall.max(self.at - self.read_at);
        }
        if self.window.is_some() && self.is_time_for_news() {
            self.tell(self.half, News::Read(self.read));
        }
    }
}

impl Fill {
    /// Bytes that it may bring now.
    fn wants(&self, limit: u64) -> u64 {
        self.range.end().min(limit).saturating_sub(self.range.start() + self.placed)
    }
}

impl Server {
    /// It goes on for a round trip with bytes that nobody wants.
    fn overshoot(&mut self, at: Duration, left: u64) {
        self.phantom += limits::bytes_in(self.link.rtt, self.link.rate(at)).min(left);
    }

    /// Brings what it can in a step, of so many bytes that are wanted.
    fn step(&mut self, at: Duration, wanted: u64) -> u64 {
        let rate = self.link.rate(at);
        let paced = u64::try_from(u128::from(self.cwnd) * 1_000_000 / self.link.rtt.as_micros().max(1));
        let can = limits::bytes_in(STEP, rate.min(paced.expect("small")));
        let bytes = can.min(wanted);
        if self.cwnd < limits::bytes_in(self.link.rtt, rate) * 2 {
            self.cwnd += bytes;
        }
        bytes
    }
}
