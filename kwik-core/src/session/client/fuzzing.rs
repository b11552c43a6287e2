//! The client's machine under any sequence of facts: a primary and secondaries that keep to the rules and that do not,
//! an application, and time. Beside it stands what its peers know from its frames alone, and a plain array of bytes per
//! stream; after every operation the two must agree and the machine must be sound.

mod check;
mod known;
mod secondaries;

use std::time::{Duration, Instant};

use bytes::Bytes;

use self::known::{Fill, Known};
use super::Client;
use crate::{
    config::{ClientConfig, TransportConfig},
    error::{ErrorCode, ReadError},
    faults::{AggregationFaults, MappingFaults, MetadataFaults},
    fuzzing::{
        frames::{self, END, SPACE},
        source::{Source, ops},
    },
    id::{ByteRange, JobId, LeaseId, PathId, SessionId, Signature, StreamId},
    rng::Rng,
    session::action::{InternalEnd, Opened},
    stream::{conflict::ConflictPolicy, recv::By},
    wire::{Features, Frame, JobOpen, LeaseGrant, StreamHeader},
};

/// The session of all hellos.
const SESSION: SessionId = SessionId::new([9; 16]);

/// Drives a client through the operations in `data`.
///
/// # Panics
/// If the client breaks a promise of the contract, as far as its peers and its application can tell, or its own state
/// is not sound.
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
pub fn client_ops(data: &[u8]) {
    let mut ops = ops(data);
    let mut driver = Driver::new(Instant::now(), ops.next().unwrap_or_else(|| Source::new(&[])));
    for mut op in ops {
        driver.step(&mut op);
        if driver.known.closed.is_some() {
            break;
        }
    }
    driver.finish();
}

/// The machine, and everybody around it.
struct Driver {
    client: Client,
    known: Known,
    now: Instant,
    /// Names streams and paths that were not there before.
    next: u64,
    next_path: u32,
    next_job: u64,
    next_lease: u64,
}

fn config(transport: TransportConfig) -> ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    ClientConfig::try_from(tls).expect("usable").transport(transport)
}

/// Draws the strategies against faults and differences; an honest session sees nothing of them.
fn strategies(transport: TransportConfig, setup: &mut Source<'_>) -> TransportConfig {
    use {AggregationFaults as Wrong, ConflictPolicy as Conflict, MappingFaults as Mapping};
    transport
        .conflict_policy(setup.pick(&[
            Conflict::FirstWins,
            Conflict::LastWins,
            Conflict::PrimaryWins,
            Conflict::Reject,
        ]))
        .aggregation_faults(setup.pick(&[Wrong::ReLease, Wrong::Ignore, Wrong::CloseStream, Wrong::Isolate]))
        .mapping_faults(setup.pick(&[Mapping::Isolate, Mapping::Refuse, Mapping::Retry]))
        .metadata_faults(setup.pick(&[MetadataFaults::Isolate, MetadataFaults::StopStream]))
        .fault_score_max(setup.pick(&[8, 1, 30]))
}

impl Driver {
    /// A client with two attached paths and a split stream on which both have a job: where it gets interesting.
    fn new(now: Instant, mut setup: Source<'_>) -> Self {
        let windows = TransportConfig::default()
            .stream_window(setup.pick(&[64, 96, 256]) * 1024)
            .session_window(setup.pick(&[512, 128, 1024]) * 1024);
        let (early, offset, later) = (setup.rarely(16), setup.below(2) * 100, setup.below(6));
        let config = config(strategies(windows, &mut setup));
        let client = Client::new(now, Rng::from_seed([0; 32]), &config);
        let known = Known::new(&config.transport);
        let mut driver = Self { client, known, now, next: 0, next_path: 1, next_job: 0, next_lease: 0 };
        if early {
            return driver; // before the primary's hello
        }
        let calm = &mut Source::new(&[]);
        driver.primary(Frame::ServerHello(frames::server_hello(SESSION, calm)));
        for _ in 0..2 {
            driver.add_path(calm);
            driver.attach(PathId::new(driver.next_path - 1), calm);
        }
        for _ in 0..=later {
            driver.add_path(calm); // to be attached later
        }
        driver.primary(Frame::Split { stream: stream(frames::STREAMS[0]), offset });
        for path in [1, 2, 3] {
            let whole = ByteRange::between(0, END).expect("not empty");
            driver.open_job(PathId::new(path), stream(frames::STREAMS[0]), whole);
        }
        driver
    }

    fn step(&mut self, op: &mut Source<'_>) {
        match op.below(24) {
            0..=4 => self.fill(op),
            5..=7 => self.grant(op),
            8..=10 => self.read(op),
            11 => self.advance(op),
            12 => self.run(op),
            13 => self.primary_asks(op),
            14 => self.end_fill(op),
            15 => self.secondary_answers(op),
            16 => self.path_moves(op),
            17 => self.stop(op),
            18 => self.hostile_secondary(op),
            19 if op.rarely(8) => {
                let frame = frames::any(op);
                self.primary(frame);
            }
            20 => {
                let path = frames::path(op);
                self.client.on_heard(
                    self.now,
                    path,
                    op.any(),
                    op.rarely(2).then(|| Duration::from_millis(op.any::<u8>().into())),
                );
            }
            _ => {}
        }
        self.settle();
    }

    /// Does what the glue does after every batch.
    fn settle(&mut self) {
        self.client.settle(self.now);
        self.known.take_actions(&mut self.client, self.now);
        self.client.check();
    }

    /// A frame of the primary.
    fn primary(&mut self, frame: Frame) {
        self.known.on_primary_frame(&frame);
        self.client.handle_frame(self.now, PathId::PRIMARY, frame);
        self.settle();
    }

    /// A frame of a secondary. Whatever it is, it costs at most that path.
    fn secondary(&mut self, path: PathId, frame: Frame) {
        if !path.is_primary() && self.known.is_linked(path) {
            self.client.handle_frame(self.now, path, frame);
            self.known.only_paths_end(&mut self.client, self.now);
        }
    }

    // The primary.

    fn primary_asks(&mut self, op: &mut Source<'_>) {
        match op.below(8) {
            0 => self.add_path(op),
            1 => {
                let path = frames::path(op);
                self.primary(Frame::RemovePath { path, code: frames::code(op), deadline_ms: 0 });
            }
            2 => {
                let (path, stream) = (PathId::new(1 + u32::from(op.any::<u8>() % 4)), frames::stream(op));
                let range = if op.rarely(2) {
                    frames::range(op)
                } else {
                    ByteRange::between(0, END).expect("not empty")
                };
                self.open_job(path, stream, range);
            }
            3 => self.primary(Frame::JobClose { job: frames::job(op) }),
            4 => {
                let lease = self.any_lease(op);
                let verified = self.known.leases.get(&lease).is_some_and(|lease| lease.digest.is_some());
                let may_cut = self.client.features.contains(Features::MAPPING_UPDATE) && !verified;
                let keep = if !may_cut || op.rarely(2) { 0 } else { op.below(SPACE) };
                self.primary(Frame::LeaseRevoke { lease, keep, code: ErrorCode::LEASE_REVOKED });
            }
            5 => {
                let stream = frames::stream(op);
                if self.known.streams.contains_key(&stream) || self.known.native_ended.contains(&stream) {
                    return; // each stream is split once
                }
                self.primary(Frame::Split { stream, offset: op.below(1000) });
                if op.rarely(8) {
                    // The glue finds that the application has closed it.
                    self.client.split_of_closed(stream);
                    self.known.end_stream(stream);
                }
            }
            6 if op.rarely(8) => {
                // The end contradicts what is given, or a name is used twice: no race explains it.
                let stream = frames::stream(op);
                let frame = match self.known.given_end(stream) {
                    Some(end) if op.rarely(2) => Frame::StreamFinal { stream, size: end - 1 },
                    _ => {
                        let (lease, job) = (LeaseId::new(self.next_lease), JobId::new(0));
                        let range = frames::range(op);
                        Frame::LeaseGrant(LeaseGrant {
                            lease,
                            job,
                            range,
                            digest: None,
                            deadline_ms: None,
                            hedge_of: None,
                            progress: false,
                        })
                    }
                };
                if self.next_lease > 0 {
                    self.client.handle_frame(self.now, PathId::PRIMARY, frame);
                    self.settle();
                    assert!(self.known.closed.is_some(), "the primary's fault ends the session");
                }
            }
            6 => {
                let stream = frames::stream(op);
                let end = self.known.claimed_end(stream).max(op.below(4) * SPACE / 4);
                self.primary(Frame::StreamFinal { stream, size: end });
            }
            _ => {
                let stream = frames::stream(op);
                self.client.on_native_reset(stream);
                self.known.end_stream(stream);
                self.known.native_ended.insert(stream);
            }
        }
    }

    fn add_path(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(self.next_path);
        self.next_path += 1;
        self.primary(Frame::AddPath(frames::add_path(path, op)));
    }

    fn open_job(&mut self, path: PathId, stream: StreamId, range: ByteRange) {
        let job = JobId::new(self.next_job);
        self.next_job += 1;
        self.primary(Frame::JobOpen(JobOpen {
            job,
            path,
            stream,
            range,
            total: END,
            expiry: 2_000,
            payload: Bytes::new(),
            seal: Signature::new([0; 64]),
        }));
    }

    /// A grant that an honest primary might make, or nearly.
    fn grant(&mut self, op: &mut Source<'_>) {
        self.next_lease += 1 + u64::from(op.rarely(8));
        let job = JobId::new(op.below(self.next_job.max(1)));
        let mut range = frames::range(op);
        // An honest primary stays inside the job, behind the split and before the end.
        if let Some((base, end)) = self.known.leasable(job).filter(|_| !op.rarely(32)) {
            let start = base + range.start() % (end - base).max(1);
            let Some(inside) = ByteRange::between(start, end.min(start + range.len())) else { return };
            range = inside;
        }
        let mut grant = LeaseGrant {
            lease: LeaseId::new(self.next_lease),
            job,
            range,
            digest: None,
            deadline_ms: op.rarely(16).then(|| op.below(5_000)),
            hedge_of: None,
            progress: self.next_lease % 3 == 0,
        };
        if op.rarely(4) {
            self.hedge(&mut grant, op);
        }
        if let Some(stream) = self.known.stream_of(job).filter(|_| op.rarely(4) && grant.range.len() <= SPACE)
        {
            let promised = object(stream, grant.range.start(), grant.range.len(), false);
            grant.digest = Some(blake3::hash(&promised).into());
        }
        self.primary(Frame::LeaseGrant(grant));
    }

    /// Makes a grant one that hedges a live lease, if another path has one on its stream.
    fn hedge(&self, grant: &mut LeaseGrant, op: &mut Source<'_>) {
        let Some(stream) = self.known.stream_of(grant.job) else { return };
        let live = self.known.live_on(stream);
        if live.is_empty() {
            return;
        }
        let hedged = op.pick(&live);
        let range = self.known.leases.get(&hedged).expect("live").range;
        let start = range.start() + grant.range.start() % range.len();
        let inside = ByteRange::between(start, range.end().min(start + grant.range.len()));
        (grant.hedge_of, grant.range) = (Some(hedged), inside.unwrap_or(range));
    }

    fn any_lease(&self, op: &mut Source<'_>) -> LeaseId {
        LeaseId::new(op.below(self.next_lease + 2))
    }

    /// The primary writes a run of its own.
    fn run(&mut self, op: &mut Source<'_>) {
        let open = self.known.runs.keys().copied().collect::<Vec<_>>();
        let kind = op.below(4);
        if kind == 0 || open.is_empty() {
            let internal = self.fresh_uni();
            let (stream, offset) = (frames::stream(op), op.below(SPACE));
            let offset = self.known.streams.get(&stream).map_or(offset, |split| split.base + offset);
            let header = StreamHeader::Internal { stream, offset };
            let opened = self.client.on_internal(PathId::PRIMARY, internal, header);
            if opened != Opened::Wait {
                assert!(!self.client.is_waiting(internal));
            }
            if !matches!(opened, Opened::Stop(_)) {
                self.known.runs.insert(internal, Fill { stream, next: offset });
            }
            return;
        }
        let internal = op.pick(&open);
        if kind == 1 {
            let end = if op.rarely(2) { InternalEnd::Reset(frames::code(op)) } else { InternalEnd::Fin };
            self.client.on_internal_end(PathId::PRIMARY, internal, end);
            self.known.runs.remove(&internal);
            return;
        }
        if self.client.is_waiting(internal) {
            return; // the glue leaves it unread
        }
        if kind == 3 && op.rarely(4) {
            self.overrun(internal);
            return;
        }
        self.write_run(internal, op.below(16 * 1024), op.rarely(32));
    }

    /// A run goes on past its credit: the primary's fault, and nothing of it is placed.
    fn overrun(&mut self, internal: StreamId) {
        while self.write_run(internal, u64::MAX, false) {
            self.settle();
        }
        let Some(run) = self.known.runs.get(&internal).copied() else { return };
        if self.known.streams.contains_key(&run.stream) && run.next < END {
            let bytes = object(run.stream, run.next, 1, false);
            assert!(!self.client.on_bytes(PathId::PRIMARY, internal, bytes), "past the credit of runs");
            self.settle();
            assert!(self.known.closed.is_some(), "the primary's fault ends the session");
        }
    }

    // The application and time.

    fn read(&mut self, op: &mut Source<'_>) {
        let stream = frames::stream(op);
        let max_len = usize::try_from(1 + op.below(64 * 1024)).unwrap_or_default();
        let ordered = !op.rarely(4) && !self.known.is_unordered(stream);
        self.read_once(stream, max_len, ordered);
    }

    /// Reads as the glue does, and checks what comes; returns whether anything did.
    fn read_once(&mut self, id: StreamId, max_len: usize, ordered: bool) -> bool {
        let lost = self.known.closed.is_some();
        let read = self.client.read(self.now, id, max_len, ordered);
        let Some(split) = self.known.streams.get_mut(&id) else {
            assert_eq!(read, Err(ReadError::ClosedStream));
            return false;
        };
        split.unordered |= !ordered;
        let readable = split.model.is_readable(ordered);
        match read {
            Ok(Some(chunk)) => {
                assert!(!chunk.bytes.is_empty() && chunk.bytes.len() <= max_len);
                assert!(!ordered || chunk.offset == split.model.position() as u64, "in order");
                split.model.deliver(chunk.offset, &chunk.bytes);
            }
            Ok(None) => {
                assert!(split.is_complete() && split.model.held_bytes() == 0, "an end only where it is");
                self.known.end_stream(id);
            }
            Err(ReadError::Blocked) => assert!(!lost && !readable && !split.is_complete()),
            Err(ReadError::Incomplete { stream, missing, code }) => {
                let timed_out = code == ErrorCode::AGGREGATION_TIMEOUT;
                assert!((lost || timed_out) && stream == id && !readable);
                assert!(split.model.is_missing(missing.start()), "a hole that is none");
            }
            Err(error) => assert_eq!(error, ReadError::Blocked, "nothing else can go wrong here"),
        }
        readable
    }

    /// The primary names the end and writes what nobody has been given; at last it takes back what is leased and writes
    /// that as well. The stream completes. Spec: DESIGN §2, I7.
    fn complete(&mut self, id: StreamId) {
        let Some(size) = self.known.size(id) else { return };
        self.primary(Frame::StreamFinal { stream: id, size });
        for last in [false, true] {
            for lease in self.known.live_on(id).into_iter().filter(|_| last) {
                self.primary(Frame::LeaseRevoke { lease, keep: 0, code: ErrorCode::LEASE_REVOKED });
            }
            let runs: Vec<StreamId> =
                self.known.holes(id).iter().map(|hole| self.write_hole(id, hole.start())).collect();
            self.settle();
            let mut moved = true;
            while moved {
                self.read_all(id);
                moved = self.fill_all();
                self.settle();
                for &run in &runs {
                    moved |= self.write_run(run, u64::MAX, false);
                    self.settle();
                }
            }
            for run in runs {
                self.client.on_internal_end(PathId::PRIMARY, run, InternalEnd::Fin);
                self.known.runs.remove(&run);
                self.settle();
            }
        }
        assert!(!self.known.streams.contains_key(&id), "{id} does not complete");
    }

    fn write_hole(&mut self, stream: StreamId, offset: u64) -> StreamId {
        let internal = self.fresh_uni();
        let header = StreamHeader::Internal { stream, offset };
        assert_eq!(self.client.on_internal(PathId::PRIMARY, internal, header), Opened::Read);
        self.known.runs.insert(internal, Fill { stream, next: offset });
        internal
    }

    /// Sends up to `most` bytes of a run; returns whether there were any that had credit.
    fn write_run(&mut self, internal: StreamId, most: u64, lie: bool) -> bool {
        let Some((offset, len)) = self.known.run_part(internal, most) else { return false };
        let stream = self.known.runs.get(&internal).expect("open").stream;
        let bytes = object(stream, offset, len, lie);
        self.known.lies |= lie;
        let taken = self.client.on_bytes(PathId::PRIMARY, internal, bytes.clone());
        assert!(taken, "an honest run is taken");
        self.known.place(stream, (offset, &bytes), By::Run);
        true
    }

    fn stop(&mut self, op: &mut Source<'_>) {
        if op.rarely(2) {
            let stream = frames::stream(op);
            self.client.stop(stream, ErrorCode::from_u32(1));
            self.known.end_stream(stream);
        }
    }

    fn advance(&mut self, op: &mut Source<'_>) {
        let due = self.client.deadline().filter(|_| !op.rarely(4));
        let later = self.now + Duration::from_millis(op.below(5_000));
        self.now = due.map_or(later, |due| due.max(self.now));
        self.client.handle_timeout(self.now);
        self.known.only_paths_end(&mut self.client, self.now);
        self.client.settle(self.now);
        assert!(
            self.client.deadline().is_none_or(|due| due > self.now),
            "what was due is not due again at once"
        );
    }

    fn fresh_uni(&mut self) -> StreamId {
        self.next += 1;
        stream(3 + 4 * (100 + self.next))
    }

    fn read_all(&mut self, stream: StreamId) {
        let mut more = true;
        while more {
            let ordered = !self.known.is_unordered(stream);
            more = self.read_once(stream, usize::MAX, ordered);
            self.settle();
        }
    }

    /// The application reads all there is and every secondary fills what it was given, until nothing moves; whoever
    /// could go on must have been allowed to. Then the primary goes away.
    fn finish(mut self) {
        let streams: Vec<StreamId> = self.known.streams.keys().copied().collect();
        if self.known.closed.is_none() {
            for &stream in &streams {
                self.read_all(stream);
            }
            self.settle();
            while self.fill_all() {
                self.settle();
                streams.iter().for_each(|&stream| self.read_all(stream));
                self.settle();
            }
            self.known.is_live(&self.client);
            streams.iter().for_each(|&stream| self.complete(stream));
        }
        let code = self.known.closed.get_or_insert(ErrorCode::PRIMARY_LOST);
        self.client.on_primary_lost(*code);
        self.client.on_primary_lost(ErrorCode::INTERNAL);
        while self.client.poll_action().is_some() {}
        for &stream in &streams {
            self.read_all(stream);
        }
        self.now += Duration::from_secs(60);
        self.client.handle_timeout(self.now);
        self.client.check();
        assert_eq!(self.client.deadline(), None, "nothing is due once it is all over");
    }
}

fn stream(id: u64) -> StreamId {
    StreamId::from_u64(id).expect("within")
}

/// The bytes of a stream's object; a lie differs from it everywhere.
fn object(stream: StreamId, offset: u64, len: u64, lie: bool) -> Bytes {
    let byte = |at: u64| {
        (at.wrapping_add(stream.into_inner()).wrapping_mul(31) >> 3).to_le_bytes()[0] ^ u8::from(lie)
    };
    (offset..offset + len).map(byte).collect::<Vec<u8>>().into()
}
