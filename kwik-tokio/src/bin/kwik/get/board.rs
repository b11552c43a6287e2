//! State of a transfer while it runs: written by whoever fetches, read by whoever shows it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kwik_tokio::{ByteRange, Chunk, Connection, LeaseId, LeaseStats, PathId, PathState, SessionStats};

use super::{
    show::{Event, Progress, Source, State, Wait},
    timeline::{Fate, Timeline},
};

/// Time over which rates are averaged.
const RATE_OVER: Duration = Duration::from_secs(3);

/// Counters of all requests.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    /// Bytes of all objects, once known.
    total: AtomicU64,
    /// Bytes that are here and right.
    verified: AtomicU64,
    /// Of these, what was here before.
    resumed: AtomicU64,
    /// Bytes that came.
    received: AtomicU64,
    objects: AtomicUsize,
    objects_done: AtomicUsize,
    /// Place of the next request's bytes in the picture.
    laid_out: AtomicU64,
    sources: Mutex<BTreeMap<PathId, u64>>,
    timeline: Option<Mutex<Timeline>>,
    events: Mutex<VecDeque<Event>>,
}

impl Board {
    pub(super) fn new(timeline: bool) -> Self {
        Self {
            started: Instant::now(),
            total: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            objects: AtomicUsize::new(0),
            objects_done: AtomicUsize::new(0),
            laid_out: AtomicU64::new(0),
            sources: Mutex::default(),
            timeline: timeline.then(Mutex::default),
            events: Mutex::default(),
        }
    }

    /// Notes what there is to fetch.
    pub(super) fn plan(&self, objects: usize, bytes: u64) {
        self.objects.store(objects, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// An object turned out to be of another length than was thought.
    pub(super) fn correct(&self, thought: u64, is: u64) {
        self.total.fetch_add(is, Ordering::Relaxed);
        self.total.fetch_sub(thought, Ordering::Relaxed);
    }

    /// Makes room in the picture for `len` bytes of a request; returns where they begin.
    pub(super) fn lay_out(&self, len: u64) -> u64 {
        self.laid_out.fetch_add(len, Ordering::Relaxed)
    }

    /// Notes pieces of a request whose bytes begin at `place` in the picture, and at `base` in its stream.
    pub(super) fn came(&self, chunks: &[Chunk], base: u64, place: u64) {
        let at = self.started.elapsed();
        let bytes: u64 = chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum();
        self.received.fetch_add(bytes, Ordering::Relaxed);
        let mut sources = lock(&self.sources);
        for chunk in chunks {
            if let Some(source) = chunk.source {
                *sources.entry(source).or_default() += chunk.bytes.len() as u64;
            }
        }
        drop(sources);
        let Some(timeline) = &self.timeline else {
            return;
        };
        let mut timeline = lock(timeline);
        for chunk in chunks {
            let start = chunk.offset.saturating_sub(base) + place;
            if let Some(range) = ByteRange::new(start, chunk.bytes.len() as u64) {
                timeline.came(chunk.source, range, at);
            }
        }
    }

    pub(super) fn verified(&self, bytes: u64) {
        self.verified.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes bytes that were here before, and are right.
    pub(super) fn resumed(&self, bytes: u64) {
        self.resumed.fetch_add(bytes, Ordering::Relaxed);
        self.verified(bytes);
    }

    /// Takes back what was counted for an object that is of no use any more.
    pub(super) fn forget(&self, bytes: u64) {
        self.verified.fetch_sub(bytes.min(self.verified.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    pub(super) fn object_done(&self, event: Event) {
        self.objects_done.fetch_add(1, Ordering::Relaxed);
        self.tell(event);
    }

    /// Has the display say something.
    pub(super) fn tell(&self, event: Event) {
        lock(&self.events).push_back(event);
    }

    pub(super) fn take_events(&self) -> VecDeque<Event> {
        std::mem::take(&mut *lock(&self.events))
    }

    /// Bytes that were fetched and are right.
    pub(super) fn fetched(&self) -> u64 {
        self.verified.load(Ordering::Relaxed).saturating_sub(self.resumed.load(Ordering::Relaxed))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn mark(&self, path: PathId, fate: Fate, times: u64) {
        if let Some(timeline) = self.timeline.as_ref().filter(|_| times > 0) {
            lock(timeline).mark(path, fate, self.started.elapsed());
        }
    }

    /// Draws the picture, if one is kept.
    pub(super) fn picture(&self, title: &str, names: &BTreeMap<PathId, String>) -> Option<String> {
        self.timeline.as_ref().map(|timeline| lock(timeline).to_svg(title, names))
    }
}

/// Looks at a board and a connection from time to time, and makes figures of what it sees.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// Looks of late: when, bytes that had come, and by source.
    looks: VecDeque<(Duration, u64, BTreeMap<PathId, u64>)>,
    stats: SessionStats,
    /// Of every path that was ever here.
    known: BTreeMap<PathId, Source>,
    /// Bytes placed of each lease at the last look.
    placed: BTreeMap<LeaseId, u64>,
}

impl Looker {
    /// Looks now. `refused` says which servers' certificates were refused.
    pub(super) fn look(
        &mut self,
        board: &Board,
        connection: Option<&Connection>,
        refused: &BTreeMap<String, String>,
    ) -> Progress {
        let now = board.elapsed();
        let received = board.received.load(Ordering::Relaxed);
        let sources = lock(&board.sources).clone();
        let oldest = self.looks.front().cloned().unwrap_or((Duration::ZERO, 0, BTreeMap::new()));
        let over = (now.saturating_sub(oldest.0)).as_secs_f64().max(1e-3);
        let rate = received.saturating_sub(oldest.1) as f64 / over;
        // Once the session is over, its paths are, and that says nothing of them.
        if let Some(connection) = connection.filter(|connection| connection.close_reason().is_none()) {
            self.study(board, connection);
        }
        for (path, bytes) in &sources {
            let before = oldest.2.get(path).copied().unwrap_or_default();
            let source = self.known.entry(*path).or_insert_with(|| unknown(*path));
            source.bytes = *bytes;
            source.rate = bytes.saturating_sub(before) as f64 / over;
            source.share = *bytes as f64 / received.max(1) as f64;
        }
        // Which of them it is cannot be told: KWIK names a path, TLS a name.
        if let Some((name, why)) = refused.first_key_value() {
            for source in
                self.known.values_mut().filter(|source| source.bytes == 0 && source.state == State::Dead)
            {
                source.why = Some(format!("the certificate of {name} is not trusted: {why}"));
            }
        }
        self.looks.push_back((now, received, sources));
        while self.looks.get(1).is_some_and(|(at, ..)| now.saturating_sub(*at) >= RATE_OVER) {
            self.looks.pop_front();
        }
        let total = board.total.load(Ordering::Relaxed);
        let objects = board.objects.load(Ordering::Relaxed);
        Progress {
            elapsed: now,
            bytes: board.verified.load(Ordering::Relaxed),
            total: (objects > 0 && total > 0).then_some(total),
            received,
            rate,
            objects_done: board.objects_done.load(Ordering::Relaxed),
            objects,
            sources: self.known.values().cloned().collect(),
        }
    }

    /// Names of the servers, for the picture.
    pub(super) fn names(&self) -> BTreeMap<PathId, String> {
        self.known.iter().map(|(path, source)| (*path, source.name())).collect()
    }

    /// Takes over what the connection says of its paths.
    fn study(&mut self, board: &Board, connection: &Connection) {
        let stats = connection.stats();
        let leases = connection.lease_stats();
        let paths = stats.paths.keys().chain(stats.sources.keys()).copied();
        for path in paths.chain([PathId::PRIMARY]) {
            let source = self.known.entry(path).or_insert_with(|| unknown(path));
            let of = stats.sources.get(&path).copied().unwrap_or_default();
            let before = self.stats.sources.get(&path).copied().unwrap_or_default();
            if let Some(remote) = stats.paths.get(&path).and_then(|path| path.remote) {
                source.address = Some(canonical(remote));
            }
            (source.state, source.why) = match of.state {
                _ if path.is_primary() => (State::Active, None),
                Some(PathState::Connecting) => (State::Connecting, None),
                Some(PathState::Active) => (State::Active, None),
                Some(PathState::Degraded) => (State::Silent, None),
                Some(PathState::Draining) => (State::Draining, None),
                Some(PathState::Dead(code)) => (State::Dead, Some(code.to_string())),
                Some(_) | None => (State::Dead, source.why.take()),
            };
            let mine = leases.iter().filter(|(_, lease)| lease.path == path);
            source.waits_for = wait(&self.placed, path, source.state, mine.map(|(id, lease)| (*id, lease)));
            let stolen = of.leases_stolen - before.leases_stolen.min(of.leases_stolen);
            let lost = of.leases_lost - before.leases_lost.min(of.leases_lost);
            board.mark(path, Fate::Stolen, stolen);
            board.mark(path, Fate::Lost, lost.saturating_sub(stolen));
            board.mark(path, Fate::Hedged, of.overlap_bytes - before.overlap_bytes.min(of.overlap_bytes));
        }
        self.placed = leases.iter().map(|(id, lease)| (*id, lease.placed)).collect();
        self.stats = stats;
    }
}

/// Works out what a path waits for from its leases.
fn wait<'a>(
    placed: &BTreeMap<LeaseId, u64>,
    path: PathId,
    state: State,
    leases: impl Iterator<Item = (LeaseId, &'a LeaseStats)>,
) -> Option<Wait> {
    match state {
        State::Silent => return Some(Wait::Silent),
        State::Active => {}
        State::Connecting | State::Draining | State::Dead => return None,
    }
    if path.is_primary() {
        return None; // its own bytes come without leases
    }
    let (mut any, mut begun, mut grows, mut credit) = (false, false, false, false);
    for (id, lease) in leases {
        any = true;
        begun |= lease.begun;
        grows |= lease.placed > placed.get(&id).copied().unwrap_or_default();
        credit |= lease.credit > lease.placed;
    }
    Some(match (any, begun, grows, credit) {
        (false, ..) => Wait::Application,
        (_, _, true, _) => Wait::CongestionWindow,
        (_, _, false, false) => Wait::Credit,
        (_, true, false, true) => Wait::CongestionWindow,
        (_, false, false, true) => Wait::Disk,
    })
}

const fn unknown(path: PathId) -> Source {
    Source {
        path,
        address: None,
        bytes: 0,
        share: 0.0,
        rate: 0.0,
        state: State::Connecting,
        waits_for: None,
        why: None,
    }
}

/// An address as people write it, also where a socket has both kinds.
fn canonical(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
