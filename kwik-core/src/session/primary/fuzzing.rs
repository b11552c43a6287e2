//! The primary's machine under any sequence of commands and facts: an application, a client that keeps to the rules
//! and one that does not, and time. Beside it stands one flag per byte of each stream: who owns what.

#![expect(clippy::wildcard_enum_match_arm, reason = "what a target says nothing about may be anything")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{NewJob, NewLease, NewPath, Primary};
use crate::{
    action::{Event, LeaseOutcome, PathState, RunId},
    error::{ErrorCode, LeaseError, PeerFault},
    fuzzing::{
        frames::{self, END},
        ranges::{fill, holes},
        source::{Source, ops},
    },
    id::{ByteRange, JobId, LeaseId, PathId, PublicKey, SpkiHash, StreamId},
    lease::ticket::{JobClaims, Signer as _, SigningKey},
    limits,
    rng::Rng,
    session::{action::Action, question::Sealed},
    wire::{Credit, Features, Frame, MappingOperation, PathStatus, Ranges},
};

/// Drives a primary through the operations in `data`.
///
/// # Panics
/// If the primary gives a byte to two, forgets or invents an outcome, punishes an honest client, or its own state is
/// not sound.
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
pub fn primary_ops(data: &[u8]) {
    let mut ops = ops(data);
    let mut driver = Driver::new(Instant::now(), ops.next().unwrap_or_else(|| Source::new(&[])));
    for mut op in ops {
        if driver.step(&mut op).is_err() {
            return; // the session is over
        }
        driver.take_actions();
        driver.check();
    }
}

#[derive(Debug)]
struct KnownLease {
    path: PathId,
    stream: StreamId,
    range: ByteRange,
    /// The primary has heard, or decided, how it ended.
    ended: bool,
    forgotten: bool,
    taken: bool,
}

#[derive(Debug)]
struct Split {
    owned: Vec<bool>,
    claimed_end: u64,
    base: u64,
    final_size: Option<u64>,
    /// Reset, stopped or complete.
    over: bool,
}

struct Driver {
    primary: Primary,
    now: Instant,
    signer: Arc<SigningKey>,
    jobs: BTreeMap<JobId, (PathId, StreamId, ByteRange)>,
    leases: BTreeMap<LeaseId, KnownLease>,
    runs: BTreeMap<RunId, (StreamId, ByteRange)>,
    /// Those that have no outcome.
    live_runs: BTreeSet<RunId>,
    streams: BTreeMap<StreamId, Split>,
    /// Streams the application has let go of; their names are not used again.
    gone: BTreeSet<StreamId>,
    last_path: u32,
    split_max: usize,
    /// Splits that the client has not answered.
    unacknowledged: usize,
}

impl Driver {
    fn new(now: Instant, mut setup: Source<'_>) -> Self {
        let signer = Arc::new(SigningKey::from_seed([3; 32]));
        let split_max = setup.pick(&[4, 1, u32::MAX]);
        let client_key = PublicKey::new([4; 32]);
        let rng = Rng::from_seed([5; 32]);
        let primary = Primary::new(
            now,
            signer.clone(),
            rng,
            client_key,
            Features::OFFERED,
            split_max,
            limits::SECONDARY_PATHS_MAX,
        );
        let mut driver = Self {
            primary,
            now,
            signer,
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            runs: BTreeMap::new(),
            live_runs: BTreeSet::new(),
            streams: BTreeMap::new(),
            gone: BTreeSet::new(),
            last_path: 0,
            unacknowledged: 0,
            split_max: usize::try_from(split_max).unwrap_or(usize::MAX).min(limits::SPLIT_STREAMS_MAX),
        };
        let calm = &mut Source::new(&[]);
        for _ in 0..2 {
            driver.add_path();
            let path = PathId::new(driver.last_path);
            driver.honest(Frame::PathReport { path, status: PathStatus::Active });
            driver.open_job(path, frames::stream(calm), ByteRange::between(100, END).expect("not empty"));
        }
        driver.take_actions();
        driver
    }

    /// One operation. An error is the client's fault and ends the session.
    fn step(&mut self, op: &mut Source<'_>) -> Result<(), PeerFault> {
        match op.below(22) {
            0..=4 => self.lease(op),
            5..=8 => self.client_answers(op),
            9 => self.client_reports(op),
            10 => self.client_gives_credit(op),
            11 => self.write_at(op),
            12 | 13 => self.run(op),
            14 => self.write(op),
            15 => self.outcome(op),
            16 => self.end(op),
            17 => self.command(op),
            18 => self.change_lease(op),
            19 => self.hedge(op),
            20 => self.now += Duration::from_millis(op.below(100_000)),
            _ if op.rarely(4) => return self.anything(frames::any(op)),
            _ => {}
        }
        Ok(())
    }

    /// Any frame at all, but for those that happen to be what an honest client might say of work under way: the others
    /// account for those.
    fn anything(&mut self, frame: Frame) -> Result<(), PeerFault> {
        let accounted = match &frame {
            Frame::LeaseDone { lease }
            | Frame::LeaseRefused { lease, .. }
            | Frame::LeaseLost { lease, .. }
            | Frame::StreamMappingUpdate { lease, .. } => self.leases.contains_key(lease),
            Frame::StreamComplete { stream } | Frame::StreamStopped { stream, .. } => {
                self.streams.contains_key(stream)
            }
            // It would be taken for the answer to a Split, which then has one too many.
            Frame::SplitAck { .. } => true,
            _ => false,
        };
        if accounted { Ok(()) } else { self.primary.handle_frame(self.now, frame) }
    }

    /// A frame that an honest client might send now.
    fn honest(&mut self, frame: Frame) {
        let told = format!("{frame:?}");
        assert_eq!(self.primary.handle_frame(self.now, frame), Ok(()), "{told}");
        self.take_actions();
    }

    // The application.

    fn command(&mut self, op: &mut Source<'_>) {
        match op.below(4) {
            0 => self.add_path(),
            1 => {
                let path = frames::path(op);
                let live =
                    self.primary.path_state(path).is_some_and(|state| !matches!(state, PathState::Dead(_)));
                let patience = Duration::from_millis(op.below(100));
                assert_eq!(self.primary.remove_path(path, patience), live);
            }
            2 => {
                let (path, stream) = (frames::path(op), frames::stream(op));
                let range = frames::range(op);
                self.open_job(path, stream, range);
            }
            _ => {
                let job = frames::job(op);
                self.primary.close_job(job);
                self.jobs.remove(&job);
            }
        }
    }

    fn add_path(&mut self) {
        let address = SocketAddr::from(([127, 0, 0, 1], 4433));
        let new = NewPath::new(address, "secondary.test", SpkiHash::new([6; 32]));
        let live =
            self.primary.paths().iter().filter(|path| !matches!(path.state, PathState::Dead(_))).count();
        let added = self.primary.add_path(new);
        assert_eq!(added.is_ok(), live < limits::SECONDARY_PATHS_MAX);
        if let Ok(path) = added {
            assert!(path.into_inner() > self.last_path, "path ids rise");
            self.last_path = path.into_inner();
        }
    }

    fn open_job(&mut self, path: PathId, stream: StreamId, range: ByteRange) {
        if self.gone.contains(&stream) {
            return; // the glue knows no such stream
        }
        let native = self.native(stream);
        let opened = self.primary.open_job(stream, native, NewJob::new(path, range, "object"));
        self.note_split(stream, native, matches!(opened, Err(LeaseError::NoCredit)), opened.is_ok());
        if let Ok(job) = opened {
            self.jobs.insert(job, (path, stream, range));
        }
    }

    /// Offset at which a stream is split if it is split now.
    fn native(&self, stream: StreamId) -> u64 {
        let split_now = stream.into_inner() % 7 * 20;
        self.streams.get(&stream).map_or(split_now, |split| split.base)
    }

    fn note_split(&mut self, stream: StreamId, base: u64, no_credit: bool, opened: bool) {
        let known = self.streams.contains_key(&stream);
        // Those that are complete, stopped or reset take nobody's place any more.
        let open = |streams: &BTreeMap<StreamId, Split>| streams.values().filter(|split| !split.over).count();
        assert!(
            !no_credit || (!known && open(&self.streams) >= self.split_max),
            "credit for one more stream"
        );
        if opened && !known {
            let owned = vec![false; usize::try_from(END + 4096).expect("small")];
            self.streams
                .insert(stream, Split { owned, claimed_end: base, base, final_size: None, over: false });
        }
        assert!(
            open(&self.streams) <= self.split_max,
            "more streams are split than the client guarantees credit for"
        );
    }

    fn lease(&mut self, op: &mut Source<'_>) {
        let (job, range) = (frames::job(op), frames::range(op));
        let granted = self.primary.lease(&NewLease::new(job, range));
        let Some(&(path, stream, within)) = self.jobs.get(&job) else {
            assert_eq!(granted, Err(LeaseError::JobClosed));
            return;
        };
        let Some(split) = self.streams.get_mut(&stream) else { return };
        let beyond = split.final_size.is_some_and(|size| range.end() > size);
        let free = range.start() >= split.base && !beyond && holes(&split.owned, range) == [range];
        match granted {
            Ok(lease) => {
                assert!(free && !split.over && within.contains(range), "{lease} is somebody else's");
                let serves =
                    matches!(self.primary.path_state(path), Some(PathState::Active | PathState::Connecting));
                assert!(serves, "{path} serves nobody");
                fill(&mut split.owned, range, true);
                split.claimed_end = split.claimed_end.max(range.end());
                let known = KnownLease { path, stream, range, ended: false, forgotten: false, taken: false };
                assert!(self.leases.insert(lease, known).is_none(), "lease ids rise");
            }
            Err(LeaseError::Overlap) => assert!(!free, "{range} is free"),
            Err(_) => {}
        }
    }

    fn write_at(&mut self, op: &mut Source<'_>) {
        let (stream, range) = (frames::stream(op), frames::range(op));
        if self.gone.contains(&stream) {
            return;
        }
        let native = self.native(stream);
        let written = self.primary.write_at(stream, native, range);
        let split = !matches!(written, Err(LeaseError::NoCredit | LeaseError::LimitExceeded));
        self.note_split(stream, native, matches!(written, Err(LeaseError::NoCredit)), split);
        let Some(split) = self.streams.get_mut(&stream) else { return };
        if let Ok(run) = written {
            assert_eq!(holes(&split.owned, range), [range], "a run takes what is somebody's");
            assert!(!split.over && split.final_size.is_none_or(|size| range.end() <= size));
            fill(&mut split.owned, range, true);
            split.claimed_end = split.claimed_end.max(range.end());
            self.runs.insert(run, (stream, range));
            self.live_runs.insert(run);
        }
    }

    /// Writes, ends, asks about or lets go of a run.
    fn run(&mut self, op: &mut Source<'_>) {
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        if runs.is_empty() {
            return;
        }
        let run = op.pick(&runs);
        let (stream, range) = *self.runs.get(&run).expect("known");
        match op.below(5) {
            0 | 1 => {
                let Ok(allowance) = self.primary.run_allowance(run) else { return };
                assert!(allowance.stream == stream && allowance.now <= allowance.left);
                assert_eq!(allowance.offset + allowance.left, range.end());
                let len = allowance.now.min(op.below(8 * 1024));
                let whole = self.primary.on_run_sent(run, len);
                assert_eq!(whole, len == allowance.left, "the end of a run");
            }
            2 => {
                let whole = self.primary.run_allowance(run).is_ok_and(|allowance| allowance.left == 0);
                self.end_run(run, (!whole).then_some(ErrorCode::from_u32(5)));
            }
            3 => {
                if self.primary.run_outcome(run).is_some() {
                    assert_eq!(self.primary.run_outcome(run), None, "an outcome is told once");
                    self.runs.remove(&run);
                }
            }
            _ => {
                let sent = self.primary.runs.get(&run).map_or(0, |run| run.sent);
                if self.primary.forget_run(run) {
                    let rest = ByteRange::between(range.start() + sent, range.end()).expect("incomplete");
                    match ByteRange::new(range.start(), sent) {
                        Some(kept) => drop(self.runs.insert(run, (stream, kept))),
                        None => drop(self.live_runs.remove(&run)),
                    }
                    self.release(stream, rest);
                }
            }
        }
    }

    fn end_run(&mut self, run: RunId, lost: Option<ErrorCode>) {
        let (stream, range) = *self.runs.get(&run).expect("known");
        let going = self.primary.run_allowance(run).is_ok()
            && self.primary.runs.get(&run).is_some_and(|run| run.outcome.is_none());
        self.primary.on_run_end(run, lost);
        if going {
            self.live_runs.remove(&run);
        }
        if going && lost.is_some() {
            self.release(stream, range);
        }
    }

    /// Writes on at the end of what was written in order.
    fn write(&mut self, op: &mut Source<'_>) {
        let stream = frames::stream(op);
        let Some((gap, allowed)) = self.primary.sequential_allowance(stream) else { return };
        let split = self.streams.get_mut(&stream).expect("a split stream");
        let len = allowed.min(op.below(8 * 1024));
        if split.over || split.final_size.is_some() || gap.start() + len > END {
            return; // the glue does not write then
        }
        if let Some(written) = ByteRange::new(gap.start(), len) {
            assert!(gap.contains(written));
            assert_eq!(holes(&split.owned, written), [written], "written where others own the bytes");
            fill(&mut split.owned, written, true);
            split.claimed_end = split.claimed_end.max(written.end());
        }
        self.primary.on_sequential_sent(stream, gap, len);
    }

    fn outcome(&mut self, op: &mut Source<'_>) {
        let lease = LeaseId::new(op.below(self.leases.len() as u64 + 1));
        if op.rarely(4) {
            self.primary.forget_lease(lease);
            if let Some(known) = self.leases.get_mut(&lease) {
                known.forgotten = true;
            }
        }
        let outcome = self.primary.lease_outcome(lease);
        let Some(known) = self.leases.get_mut(&lease) else {
            assert_eq!(outcome, None);
            return;
        };
        assert_eq!(outcome.is_some(), known.ended && !known.taken && !known.forgotten, "{lease}");
        known.taken |= outcome.is_some();
        if let Some(LeaseOutcome::Lost { missing, .. }) = outcome {
            assert!(missing.iter().all(|part| known.range.contains(*part)), "missing what it never was");
        }
    }

    fn end(&mut self, op: &mut Source<'_>) {
        let stream = frames::stream(op);
        match op.below(4) {
            0 => {
                let known = self.streams.get(&stream).is_some_and(|split| split.final_size.is_none());
                assert_eq!(self.primary.finish(stream), known, "the end is told once");
            }
            1 => {
                self.primary.end_stream(stream, ErrorCode::from_u32(1));
                self.note_over(stream);
            }
            _ if self.streams.get(&stream).is_some_and(|split| split.over) => {
                self.primary.forget_stream(stream);
                self.streams.remove(&stream);
                self.gone.insert(stream);
            }
            _ => {}
        }
    }

    /// The stream is over: with it all that was going on for it.
    fn note_over(&mut self, stream: StreamId) {
        if let Some(split) = self.streams.get_mut(&stream) {
            split.over = true;
            self.jobs.retain(|_, (_, of, _)| *of != stream);
        }
        self.note_runs();
    }

    // The client.

    fn client_answers(&mut self, op: &mut Source<'_>) {
        let live: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| !lease.ended).map(|(&id, _)| id).collect();
        if live.is_empty() {
            return;
        }
        let lease = op.pick(&live);
        let known = self.leases.get(&lease).expect("known");
        let (stream, range) = (known.stream, known.range);
        let code = frames::code(op);
        let middle = range.start() + op.below(range.len());
        let tail: Ranges = ByteRange::between(middle, range.end()).into_iter().collect();
        let (frame, missing) = match op.below(4) {
            0 => (Frame::LeaseRefused { lease, code }, vec![range]),
            1 => (Frame::LeaseLost { lease, code, missing: tail.clone() }, tail.to_vec()),
            _ => (Frame::LeaseDone { lease }, Vec::new()),
        };
        if let Some(known) = self.leases.get_mut(&lease) {
            known.ended = true;
        }
        self.honest(frame);
        self.note_runs();
        missing.into_iter().for_each(|part| self.release(stream, part));
        assert!(!self.primary.leases.contains(lease), "{lease} was answered");
    }

    /// Frees the part of a range that nobody else is to fill.
    fn release(&mut self, stream: StreamId, range: ByteRange) {
        let leases = self.leases.values().filter(|lease| lease.stream == stream && !lease.ended);
        let runs = self.live_runs.iter().filter_map(|run| self.runs.get(run));
        let runs = runs.filter(|(of, _)| *of == stream).map(|&(_, range)| range);
        let others: Vec<ByteRange> = leases.map(|lease| lease.range).chain(runs).collect();
        let Some(split) = self.streams.get_mut(&stream) else { return };
        for at in range.start()..range.end() {
            if !others.iter().any(|other| other.start() <= at && at < other.end()) {
                fill(&mut split.owned, ByteRange::new(at, 1).expect("a byte"), false);
            }
        }
    }

    /// Runs that hedge a lease are done with it.
    fn note_runs(&mut self) {
        let live = |run: &RunId| self.primary.runs.get(run).is_some_and(|run| run.outcome.is_none());
        self.live_runs.retain(live);
    }

    /// The application cuts or takes back, and the client tells how a lease goes.
    fn change_lease(&mut self, op: &mut Source<'_>) {
        let live: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| !lease.ended).map(|(&id, _)| id).collect();
        if live.is_empty() {
            assert_eq!(self.primary.revoke(frames::lease(op), 0), Err(LeaseError::NotLive));
            return;
        }
        let id = op.pick(&live);
        let known = self.leases.get(&id).expect("live");
        let (stream, range) = (known.stream, known.range);
        let middle = range.start() + 1 + op.below(range.len());
        let (front, tail) =
            (ByteRange::between(range.start(), middle), ByteRange::between(middle, range.end()));
        let (operation, told) = match op.below(5) {
            0 => (MappingOperation::Create, Some(range)),
            1 => (MappingOperation::Suspend, tail),
            2 => (MappingOperation::Resume, Some(range)),
            3 => {
                assert_eq!(self.primary.revoke(id, middle - range.start()), Ok(()));
                return;
            }
            // A client cuts where it is asked to, or behind what has come.
            _ => {
                assert_eq!(self.primary.revoke(id, middle - range.start()), Ok(()));
                (MappingOperation::Update, front.filter(|_| tail.is_some()))
            }
        };
        let Some(told) = told else { return };
        self.honest(Frame::StreamMappingUpdate { operation, stream, lease: id, range: told });
        let status = self.primary.lease_status(id).expect("live");
        match operation {
            MappingOperation::Create => assert!(status.begun),
            MappingOperation::Suspend => assert_eq!(status.stalled, Some(told)),
            MappingOperation::Resume => assert_eq!(status.stalled, None),
            MappingOperation::Update => {
                assert_eq!(status.range, told);
                self.leases.get_mut(&id).expect("live").range = told;
                tail.into_iter().for_each(|tail| self.release(stream, tail));
                let cut = self.primary.take_cut(id);
                let forgotten = self.leases.get(&id).expect("live").forgotten;
                assert_eq!(cut.is_none(), forgotten, "what a cut gives back is told");
                let split = self.streams.get(&stream).expect("it lives");
                let free = |part: &ByteRange| holes(&split.owned, *part) == [*part];
                assert!(cut.unwrap_or_default().iter().all(free), "it is free");
            }
        }
    }

    /// The application has what a lease is to bring brought by another as well.
    fn hedge(&mut self, op: &mut Source<'_>) {
        let hedged = LeaseId::new(op.below(self.leases.len() as u64 + 1));
        let range = frames::range(op);
        let known = self.leases.get(&hedged).filter(|known| !known.ended);
        let inside = known.map(|known| {
            let start = known.range.start() + range.start() % known.range.len();
            ByteRange::between(start, known.range.end().min(start + range.len())).expect("not empty")
        });
        let range = inside.filter(|_| !op.rarely(8)).unwrap_or(range);
        if op.rarely(2) {
            let hedge = self.primary.hedge(hedged, range);
            if let Ok(run) = hedge {
                let known = known.expect("a live lease");
                assert!(known.range.contains(range));
                self.runs.insert(run, (known.stream, range));
                self.live_runs.insert(run);
            }
            return;
        }
        let job = frames::job(op);
        let hedge = self.primary.lease(&NewLease::new(job, range).hedge_of(hedged));
        if let Ok(lease) = hedge {
            let &(path, stream, within) = self.jobs.get(&job).expect("an open job");
            let known = known.expect("a live lease");
            assert!(known.stream == stream && known.path != path && known.range.contains(range));
            assert!(within.contains(range));
            let known = KnownLease { path, stream, range, ended: false, forgotten: false, taken: false };
            self.leases.insert(lease, known);
        }
    }

    fn client_reports(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(1 + u32::from(op.any::<u8>() % 4));
        if self.primary.path_state(path).is_some() {
            let dead = PathStatus::Dead(frames::code(op));
            let status = op.pick(&[PathStatus::Active, PathStatus::Degraded, PathStatus::Active, dead]);
            self.honest(Frame::PathReport { path, status });
        }
        let job = frames::job(op);
        if self.jobs.contains_key(&job) {
            let refused = Frame::JobRefused { job, code: frames::code(op) };
            self.honest(if op.rarely(4) { refused } else { Frame::JobAccepted { job } });
        }
    }

    fn client_gives_credit(&mut self, op: &mut Source<'_>) {
        let stream = frames::stream(op);
        let offset = op.below(END);
        let frame = match op.below(5) {
            0 if self.unacknowledged > 0 => {
                self.unacknowledged -= 1;
                Frame::SplitAck { stream, credit: offset }
            }
            1 => Frame::Credit(Credit::Run { stream, bytes: offset }),
            2 => Frame::Credit(Credit::Offset { stream, offset }),
            3 if self.streams.get(&stream).is_some_and(|split| split.final_size.is_some()) => {
                self.honest(Frame::StreamComplete { stream });
                self.note_over(stream);
                return;
            }
            _ if op.rarely(4) => {
                self.honest(Frame::StreamStopped { stream, code: ErrorCode::from_u32(1) });
                self.note_over(stream);
                return;
            }
            _ => return,
        };
        self.honest(frame);
    }

    // What the primary decides.

    fn take_actions(&mut self) {
        let bound = 64 + 8 * (self.jobs.len() + self.leases.len() + self.runs.len());
        for count in 0.. {
            let Some(action) = self.primary.poll_action() else { return };
            assert!(count < bound, "more than {bound} actions at once");
            match action {
                Action::Send { path, frame } => {
                    assert!(path.is_primary());
                    self.on_frame(&frame);
                }
                Action::Sign(draft) => match draft.sign(1_000, &*self.signer) {
                    Sealed::Frame(_, frame) => self.on_frame(&frame),
                    Sealed::Relay(..) => unreachable!("nobody sends a message"),
                },
                Action::Notify(Event::LeaseEnded(lease)) => {
                    let known = self.leases.get(&lease).expect("a granted lease");
                    assert!(!known.forgotten, "nobody wants to know of {lease}");
                }
                _ => {}
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame) {
        match frame {
            Frame::Split { .. } => self.unacknowledged += 1,
            Frame::JobOpen(open) => {
                let claims = JobClaims {
                    session: self.primary.session(),
                    path: open.path,
                    job: open.job,
                    stream: open.stream,
                    range: open.range,
                    total: open.total,
                    expiry: open.expiry,
                    payload: &open.payload,
                };
                assert!(
                    claims.verify(&self.signer.public_key(), &open.seal),
                    "a job that no secondary believes"
                );
            }
            Frame::StreamFinal { stream, size } => {
                let split = self.streams.get_mut(stream).expect("a split stream");
                assert_eq!(*size, split.claimed_end, "the highest end anybody was given");
                assert!(split.final_size.replace(*size).is_none(), "told once");
            }
            _ => {}
        }
    }

    /// Checks what always holds.
    fn check(&mut self) {
        let live = &self.primary.leases;
        for (id, known) in &mut self.leases {
            let ended = !live.contains(*id);
            assert!(ended || !known.ended, "{id} ended and lives");
            known.ended = ended;
        }
        for info in self.primary.paths() {
            let of = |known: &&KnownLease| known.path == info.id;
            let (ended, live): (Vec<_>, Vec<_>) =
                self.leases.values().filter(of).partition(|known| known.ended);
            assert_eq!(info.leases, live.len(), "live leases of {}", info.id);
            assert_eq!(
                info.leases_done + info.leases_lost,
                ended.len() as u64,
                "ended leases of {}",
                info.id
            );
        }
        for (id, known) in self.leases.iter().filter(|(_, known)| !known.ended) {
            let open = self.streams.get(&known.stream).is_some_and(|split| !split.over);
            assert!(open, "{id} outlives its stream");
        }
        let dead =
            self.primary.paths().iter().filter(|path| matches!(path.state, PathState::Dead(_))).count();
        assert!(dead <= limits::DEAD_PATHS_LISTED + limits::SECONDARY_PATHS_MAX);
        assert!(self.primary.runs.len() <= limits::RUNS_MAX);
    }
}
