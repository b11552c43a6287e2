//! The client's machine alone: frames and bytes in, decisions out, no QUIC anywhere.

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::{
    action::Chunk,
    error::{PeerFault, ReadError},
    id::{Attempt, LinkId, Signature},
    path::health::PROBES,
    session::action::{InternalEnd, Opened},
    wire::{AddPath, LeaseGrant, MappingOperation, PathStatus, ServerHello, StreamHeader},
};

mod credit;
mod dials;
mod edges;
mod faults;
mod mapping;
mod observe;
mod price;
mod progress;
mod walk;

const PATH: PathId = PathId::new(1);
const OTHER: PathId = PathId::new(2);
const JOB: JobId = JobId::new(0);
/// A job of the other path.
const SECOND_JOB: JobId = JobId::new(1);
/// An internal stream of a secondary, an internal stream of the primary, and the application's stream.
const FILL: StreamId = stream(3);
const RUN: StreamId = stream(7);
const STREAM: StreamId = stream(1);

const fn stream(id: u64) -> StreamId {
    match StreamId::from_u64(id) {
        Some(id) => id,
        None => unreachable!(),
    }
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

/// The first connection that is dialled for a path.
fn first(path: PathId) -> LinkId {
    LinkId { path, attempt: Attempt::FIRST }
}

/// A client whose primary has split one stream at 100 and attached two paths, and what it has decided so far.
struct Machine {
    client: Client,
    now: Instant,
}

impl Machine {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(change: impl FnOnce(TransportConfig) -> TransportConfig) -> Self {
        let mut machine = Self::ungreeted(change);
        machine.primary(Frame::ServerHello(hello()));
        for path in [PATH, OTHER] {
            machine.attach(path);
        }
        machine.primary(Frame::Split { stream: STREAM, offset: 100 });
        machine.primary(Frame::JobOpen(job(JOB, PATH)));
        machine.actions();
        machine
    }

    /// One that its primary has said nothing to.
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn ungreeted(change: impl FnOnce(TransportConfig) -> TransportConfig) -> Self {
        let now = Instant::now();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = ClientConfig::try_from(tls).unwrap().transport(change(TransportConfig::default()));
        Self { client: Client::new(now, Rng::from_seed([0; 32]), &config), now }
    }

    fn attach(&mut self, path: PathId) {
        self.add(path);
        self.client.on_path_handshake(first(path), None, Some([1; 32]));
        self.secondary(path, Frame::ServerHello(hello()));
    }

    fn add(&mut self, path: PathId) {
        self.primary(Frame::AddPath(AddPath {
            path,
            addresses: smallvec!["127.0.0.1:4430".parse().unwrap()],
            server_name: "secondary.test".to_owned(),
            pins: smallvec![],
            ticket: Bytes::from_static(b"ticket"),
        }));
    }

    fn primary(&mut self, frame: Frame) {
        let dials =
            if let Frame::AddPath(add) = &frame { Some((add.path, add.addresses.clone())) } else { None };
        self.client.handle_frame(self.now, PathId::PRIMARY, frame);
        if let Some((path, addresses)) = dials {
            self.client.on_dial_answer(self.now, path, &addresses); // an application that lets everybody be dialled
        }
    }

    fn secondary(&mut self, path: PathId, frame: Frame) {
        self.client.handle_frame(self.now, path, frame);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.client.poll_action()).collect()
    }

    fn grant(&mut self, lease: u64, range: ByteRange) -> Vec<Action> {
        self.primary(grant(lease, range));
        self.actions()
    }

    /// Has the batch of facts worked off.
    fn settled(&mut self) -> Vec<Action> {
        self.client.settle(self.now);
        self.actions()
    }

    /// Opens the internal stream of a lease.
    fn open(&mut self, path: PathId, lease: u64, offset: u64) -> Opened {
        let header = StreamHeader::Secondary { lease: LeaseId::new(lease), offset };
        self.client.on_internal(path, FILL, header)
    }

    fn bytes(&mut self, len: usize) -> bool {
        self.client.on_any_bytes(PATH, FILL, Bytes::from(vec![7; len]))
    }
}

fn hello() -> ServerHello {
    let session = SessionId::new([9; 16]);
    ServerHello { version: limits::VERSION, features: Features::OFFERED, session, app_protocol: None }
}

fn job(job: JobId, path: PathId) -> JobOpen {
    JobOpen {
        job,
        path,
        stream: STREAM,
        range: range(100, 1 << 30),
        total: 1 << 30,
        expiry: 2000,
        payload: Bytes::new(),
        seal: Signature::new([0; 64]),
    }
}

fn grant(id: u64, range: ByteRange) -> Frame {
    Frame::LeaseGrant(lease(id, JOB, range))
}

fn lease(lease: u64, job: JobId, range: ByteRange) -> LeaseGrant {
    LeaseGrant {
        lease: LeaseId::new(lease),
        job,
        range,
        digest: None,
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    }
}

/// The same, of which the bytes must all be sevens.
fn verified(grant: LeaseGrant) -> LeaseGrant {
    LeaseGrant { digest: Some(blake3::hash(&sevens(grant.range.len())).into()), ..grant }
}

fn hedging(of: u64, grant: LeaseGrant) -> LeaseGrant {
    LeaseGrant { hedge_of: Some(LeaseId::new(of)), ..grant }
}

fn sevens(len: u64) -> Bytes {
    vec![7; usize::try_from(len).unwrap()].into()
}

fn told(frame: Frame) -> Action {
    Action::Send { path: PathId::PRIMARY, frame }
}

fn mapping(operation: MappingOperation, lease: u64, range: ByteRange) -> Action {
    told(Frame::StreamMappingUpdate { operation, stream: STREAM, lease: LeaseId::new(lease), range })
}

fn lost(lease: u64, code: ErrorCode, missing: &[ByteRange]) -> Action {
    told(Frame::LeaseLost { lease: LeaseId::new(lease), code, missing: missing.iter().copied().collect() })
}

/// Spec: PROTOCOL §5.2 and §5.7: noticed with credit before a byte can come, answered once.
#[test]
fn a_lease_is_noticed_filled_and_answered_once() {
    let mut machine = Machine::new();
    let notice = Frame::LeaseNotice { lease: LeaseId::new(0), job: JOB, range: range(200, 300), credit: 100 };
    assert_eq!(machine.grant(0, range(200, 300)), [Action::Send { path: PATH, frame: notice }]);
    assert_eq!(machine.open(PATH, 0, 200), Opened::Read);
    assert!(machine.bytes(60));
    assert_eq!(machine.actions(), [mapping(MappingOperation::Create, 0, range(200, 300))]);
    assert!(machine.bytes(40));
    assert_eq!(machine.actions(), [told(Frame::LeaseDone { lease: LeaseId::new(0) })]);
    machine.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
    assert!(machine.actions().is_empty());
    // What is held already needs nobody.
    assert_eq!(machine.grant(1, range(250, 300)), [told(Frame::LeaseDone { lease: LeaseId::new(1) })]);
}

#[test]
fn a_short_lease_names_exactly_what_is_missing() {
    for (end, code) in [
        (InternalEnd::Fin, ErrorCode::LEASE_SHORT),
        (InternalEnd::Reset(ErrorCode::from_u32(4)), ErrorCode::from_u32(4)),
        // What becomes of leases is the client's to say in KWIK's words.
        (InternalEnd::Reset(ErrorCode::DIGEST_MISMATCH), ErrorCode::LEASE_SHORT),
    ] {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        machine.open(PATH, 0, 200);
        machine.bytes(30);
        machine.actions();
        machine.client.on_internal_end(PATH, FILL, end);
        assert_eq!(machine.actions(), [lost(0, code, &[range(230, 300)])]);
    }
}

/// Spec: DESIGN §2, I3. Each of these costs the secondary its path, and its lease goes back.
#[test]
fn a_byte_outside_every_lease_costs_the_path() {
    type Crime = fn(&mut Machine);
    let crimes: [(&str, PeerFault, Crime); 5] = [
        ("past the end", PeerFault::BytesPastLease, |m| {
            m.open(PATH, 0, 200);
            m.bytes(101);
        }),
        ("after the end", PeerFault::BytesPastLease, |m| {
            m.open(PATH, 0, 200);
            m.bytes(100);
            m.bytes(1);
        }),
        ("another offset", PeerFault::LeaseOffset, |m| {
            m.open(PATH, 0, 201);
        }),
        ("a lease never noticed", PeerFault::LeaseOfOther, |m| {
            m.open(PATH, 5, 200);
        }),
        ("a frame only the primary may send", PeerFault::FrameUnexpected, |m| {
            m.secondary(PATH, Frame::StreamFinal { stream: STREAM, size: 300 });
        }),
    ];
    for (what, fault, commit) in crimes {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        commit(&mut machine);
        let actions = machine.actions();
        let dead = told(Frame::PathReport { path: PATH, status: PathStatus::Dead(fault.code()) });
        assert!(actions.contains(&dead), "{what}: {actions:?}");
        assert!(actions.contains(&Action::BreakPath { path: PATH, fault }), "{what}: {actions:?}");
        let answers = |action: &Action| {
            matches!(action, Action::Send { frame: Frame::LeaseDone { .. } | Frame::LeaseLost { .. }, .. })
        };
        assert_eq!(actions.iter().filter(|a| answers(a)).count(), 1, "{what}: {actions:?}");
    }
}

/// Another path's lease is not this path's, though it lives and the offset is right: who guesses its number loses its path, and
/// whose it is goes on.
#[test]
fn another_paths_live_lease_is_not_ones_own() {
    let mut machine = Machine::new();
    machine.grant(0, range(200, 300));
    let fault = PeerFault::LeaseOfOther;
    assert_eq!(machine.open(OTHER, 0, 200), Opened::Stop(fault.code()));
    let actions = machine.actions();
    assert!(actions.contains(&Action::BreakPath { path: OTHER, fault }), "{actions:?}");
    assert!(!machine.client.on_bytes(OTHER, FILL, sevens(100)), "somebody else's bytes are placed");
    assert_eq!(machine.open(PATH, 0, 200), Opened::Read);
    assert!(machine.bytes(100));
    assert_eq!(machine.actions().last(), Some(&told(Frame::LeaseDone { lease: LeaseId::new(0) })));
}

/// Bytes before the split come in the stream itself: nobody else may bring them.
#[test]
fn a_grant_below_the_split_ends_the_session() {
    for (start, fine) in [(99, false), (100, true)] {
        let mut machine = Machine::new();
        let whole = JobOpen { range: range(0, 1 << 30), ..job(SECOND_JOB, PATH) };
        machine.primary(Frame::JobOpen(whole));
        machine.actions();
        machine.primary(Frame::LeaseGrant(lease(0, SECOND_JOB, range(start, 200))));
        let refused = Action::CloseSession { fault: PeerFault::GrantBeforeSplit };
        assert_eq!(!machine.actions().contains(&refused), fine, "from {start} on");
    }
}

#[test]
fn sending_past_credit_costs_the_path() {
    let mut machine = Machine::new();
    let window = limits::STREAM_WINDOW;
    machine.grant(0, range(100 + window - 10, 100 + window + 10));
    machine.open(PATH, 0, 100 + window - 10);
    assert!(machine.bytes(10));
    assert!(!machine.bytes(1));
    let fault = PeerFault::BytesPastCredit;
    assert!(machine.actions().contains(&Action::BreakPath { path: PATH, fault }));
}

/// Spec: DESIGN §2, I2: such a stream is stopped, and nothing of it is seen.
#[test]
fn a_public_stream_of_a_secondary_is_stopped() {
    let mut machine = Machine::new();
    let opened = machine.client.on_internal(PATH, FILL, StreamHeader::Public);
    assert_eq!(opened, Opened::Stop(ErrorCode::SECONDARY_STREAM_ISOLATION));
    assert!(machine.actions().is_empty());
}

/// Spec: PROTOCOL §5.7: bytes that were on their way when the lease ended are late, not hostile.
#[test]
fn late_bytes_are_counted_and_nobody_is_punished() {
    let mut machine = Machine::new();
    machine.grant(0, range(200, 300));
    machine.open(PATH, 0, 200);
    machine.bytes(10);
    machine.actions();
    let revoke = Frame::LeaseRevoke { lease: LeaseId::new(0), keep: 0, code: ErrorCode::LEASE_REVOKED };
    machine.primary(revoke.clone());
    assert_eq!(
        machine.actions(),
        [
            Action::StopInternal { path: PATH, stream: FILL, code: ErrorCode::LEASE_REVOKED },
            Action::Send { path: PATH, frame: revoke },
            lost(0, ErrorCode::LEASE_REVOKED, &[range(210, 300)]),
        ]
    );
    assert!(!machine.bytes(10));
    assert_eq!(machine.open(PATH, 0, 200), Opened::Stop(ErrorCode::LEASE_REVOKED));
    assert!(machine.actions().is_empty());
    assert_eq!(machine.client.sources()[&PATH].late_bytes, 10);
}

#[test]
fn grants_that_cannot_be_are_refused_or_end_the_session() {
    let mut machine = Machine::new();
    machine.grant(0, range(200, 300));
    let refused = |lease, code| [told(Frame::LeaseRefused { lease: LeaseId::new(lease), code })];
    assert_eq!(machine.grant(1, range(299, 301)), refused(1, ErrorCode::STREAM_MAPPING_CONFLICT));
    machine.primary(Frame::RemovePath { path: PATH, code: ErrorCode::NO_ERROR, deadline_ms: 0 });
    machine.actions();
    assert_eq!(machine.grant(2, range(400, 500)), refused(2, ErrorCode::PATH_DEAD));
    // An id that does not rise is no race.
    let fault = PeerFault::GrantNotNew;
    assert_eq!(machine.grant(2, range(600, 700)), [Action::CloseSession { fault }]);
}

/// Spec: PROTOCOL §4: a run that overtakes its split waits, unread, and is resumed by it.
#[test]
fn a_run_waits_for_its_split() {
    let mut machine = Machine::new();
    let late = stream(9);
    let header = StreamHeader::Internal { stream: late, offset: 50 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Wait);
    machine.primary(Frame::Split { stream: late, offset: 50 });
    let resume = Action::ResumeInternal { path: PathId::PRIMARY, stream: RUN };
    assert!(machine.actions().contains(&resume));
}

/// Spec: PROTOCOL §4, §10: complete exactly when every byte is placed; a size that contradicts what is granted is fatal.
#[test]
fn the_end_is_told_once_and_must_fit() {
    let mut machine = Machine::new();
    machine.grant(0, range(100, 200));
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 200 });
    assert_eq!(machine.actions(), [Action::Notify(Event::Readable(STREAM))]);
    machine.open(PATH, 0, 100);
    machine.bytes(100);
    let actions = machine.actions();
    assert_eq!(actions.last(), Some(&told(Frame::StreamComplete { stream: STREAM })));
    let read = machine.client.read(machine.now, STREAM, usize::MAX, true);
    assert_eq!(read, Ok(Some(Chunk { offset: 100, bytes: Bytes::from(vec![7; 100]), source: Some(PATH) })));
    assert_eq!(machine.client.read(machine.now, STREAM, usize::MAX, true), Ok(None));

    let mut machine = Machine::new();
    machine.grant(0, range(100, 200));
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 199 });
    assert_eq!(machine.actions(), [Action::CloseSession { fault: PeerFault::FinalChanged }]);
}

/// Spec: PROTOCOL §8: unanswered probes make a path degraded; its leases are lost, any frame makes it active again.
#[test]
fn a_silent_path_loses_its_leases_and_may_come_back() {
    let mut machine = Machine::new();
    machine.grant(0, range(200, 300));
    machine.client.settle(machine.now);
    for _ in 0..PROBES {
        machine.now = machine.client.deadline().unwrap();
        machine.client.handle_timeout(machine.now);
        assert_eq!(machine.actions(), [Action::Ping { path: PATH }]);
    }
    // First it is suspected, so that others may bring what it owes, then given up.
    machine.now = machine.client.deadline().unwrap();
    machine.client.handle_timeout(machine.now);
    let suspended = mapping(MappingOperation::Suspend, 0, range(200, 300));
    assert_eq!(machine.actions(), [Action::Ping { path: PATH }, suspended]);
    machine.now = machine.client.deadline().unwrap();
    machine.client.handle_timeout(machine.now);
    let actions = machine.actions();
    assert_eq!(actions[0], told(Frame::PathReport { path: PATH, status: PathStatus::Degraded }));
    assert_eq!(actions.last(), Some(&lost(0, ErrorCode::PATH_STALLED, &[range(200, 300)])));
    assert_eq!(machine.client.deadline(), None);
    machine.client.on_heard(machine.now, PATH, 1, None);
    let active = told(Frame::PathReport { path: PATH, status: PathStatus::Active });
    assert_eq!(machine.actions(), [active, Action::Notify(Event::PathChanged(PATH))]);
}

/// A path that sends nothing because it has no credit is not silent.
#[test]
fn a_slow_reader_is_not_a_slow_source() {
    let mut machine = Machine::new();
    let beyond = 100 + limits::STREAM_WINDOW;
    machine.grant(0, range(beyond, beyond + 100));
    machine.client.settle(machine.now);
    assert_eq!(machine.client.deadline(), None);
}

#[test]
fn attaching_needs_the_pinned_key() {
    let mut machine = Machine::new();
    let pin = SpkiHash::new([4; 32]);
    let path = PathId::new(3);
    machine.primary(Frame::AddPath(AddPath {
        path,
        addresses: smallvec!["127.0.0.1:4430".parse().unwrap()],
        server_name: "secondary.test".to_owned(),
        pins: smallvec![pin],
        ticket: Bytes::from_static(b"ticket"),
    }));
    machine.actions();
    assert!(!machine.client.on_path_handshake(first(path), Some(SpkiHash::new([5; 32])), Some([1; 32])));
    let actions = machine.actions();
    let hello = |action: &Action| matches!(action, Action::Send { frame: Frame::ClientHello(_), .. });
    assert!(!actions.iter().any(hello), "the ticket was shown to the wrong server");
    assert!(actions.contains(&Action::BreakPath { path, fault: PeerFault::WrongIdentity }));
}

/// A client offers secondaries no application protocol, so that none of them can name one.
#[test]
fn a_secondary_chooses_no_application_protocol() {
    let mut machine = Machine::new();
    let path = PathId::new(3);
    machine.add(path);
    machine.client.on_path_handshake(first(path), None, Some([1; 32]));
    let app_protocol = Some(Bytes::from_static(b"evil/9"));
    machine.secondary(path, Frame::ServerHello(ServerHello { app_protocol, ..hello() }));
    assert!(machine.actions().contains(&Action::BreakPath { path, fault: PeerFault::ProtocolNotOffered }));
}

/// Found by `whatever_happens_to_secondaries_the_object_arrives`, seed 34: credit by amount is not given back when a
/// run ends, so a run alone on its stream took the whole window for good, and a lease granted later never got any.
#[test]
fn a_run_leaves_half_the_window_to_leases() {
    let mut machine = Machine::new();
    let blocked = machine.client.read(machine.now, STREAM, usize::MAX, false);
    assert_eq!(blocked, Err(ReadError::Blocked));
    // The whole of what has credit by offset comes in one run and is read; the window is free again.
    let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    let window = usize::try_from(limits::STREAM_WINDOW).unwrap();
    assert!(machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![7; window])));
    assert!(machine.client.read(machine.now, STREAM, usize::MAX, false).is_ok());
    machine.client.on_internal_end(PathId::PRIMARY, RUN, InternalEnd::Fin);
    machine.actions();
    let beyond = 100 + limits::STREAM_WINDOW;
    machine.grant(0, range(beyond, beyond + 100));
    let granted = machine.settled();
    let credit = Credit::Lease { lease: LeaseId::new(0), bytes: 100 };
    assert!(granted.contains(&Action::Send { path: PATH, frame: Frame::Credit(credit) }), "{granted:?}");
}

/// Spec: PROTOCOL §11: 256 jobs per path are 256 that may still be worked on, at both ends.
#[test]
fn refused_jobs_do_not_count_and_are_not_kept_without_end() {
    let mut machine = Machine::new();
    let code = ErrorCode::from_u32(404);
    let refused = |actions: &[Action]| {
        actions
            .iter()
            .any(|a| matches!(a, Action::Send { path: PathId::PRIMARY, frame: Frame::JobRefused { .. } }))
    };
    for id in 1..2000 {
        let id = JobId::new(id);
        machine.primary(Frame::JobOpen(job(id, PATH)));
        assert!(!refused(&machine.actions()), "{id} was not passed on");
        machine.secondary(PATH, Frame::JobRefused { job: id, code });
        assert_eq!(machine.actions(), [told(Frame::JobRefused { job: id, code })]);
        machine.secondary(PATH, Frame::JobAccepted { job: id });
        assert!(machine.actions().is_empty(), "{id} was accepted after all");
    }
    assert!(machine.client.jobs.len() <= 2 * limits::JOBS_PER_PATH + 1);
    // A lease that crossed the refusal is refused with its code.
    let late = Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(0),
        job: JobId::new(1999),
        range: range(200, 300),
        digest: None,
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    });
    machine.primary(late);
    assert_eq!(machine.actions(), [told(Frame::LeaseRefused { lease: LeaseId::new(0), code })]);
    // Those that are worked on do count.
    for id in 2000..2000 + limits::JOBS_PER_PATH as u64 - 1 {
        machine.primary(Frame::JobOpen(job(JobId::new(id), PATH)));
        assert!(!refused(&machine.actions()), "{id} was not passed on");
    }
    machine.primary(Frame::JobOpen(job(JobId::new(9999), PATH)));
    assert!(refused(&machine.actions()));
}

/// An unordered reader whose primary has a run under way, 3 MiB beyond credit by offset, whose end is told as well.
fn reading_unordered() -> (Machine, u64) {
    let mut machine = Machine::new();
    assert!(machine.client.read(machine.now, STREAM, usize::MAX, false).is_err());
    let beyond = 100 + limits::STREAM_WINDOW;
    let run = beyond + (3 << 20);
    let header = StreamHeader::Internal { stream: STREAM, offset: run };
    // What has credit by offset is filled and read, so that the whole window is there to be shared.
    let first = StreamHeader::Internal { stream: STREAM, offset: 100 };
    let window = usize::try_from(limits::STREAM_WINDOW).unwrap();
    machine.client.on_internal(PathId::PRIMARY, RUN, first);
    machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![7; window]));
    machine.client.on_internal_end(PathId::PRIMARY, RUN, InternalEnd::Fin);
    assert!(machine.client.read(machine.now, STREAM, 1, false).is_ok());
    machine.now += Duration::from_secs(1); // a reader too slow for the window to grow
    assert!(machine.client.read(machine.now, STREAM, usize::MAX, false).is_ok());
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    machine.settled();
    (machine, beyond)
}

fn credits(actions: &[Action]) -> Vec<Credit> {
    let credit = |action: &Action| {
        if let Action::Send { frame: Frame::Credit(credit), .. } = action { Some(*credit) } else { None }
    };
    actions.iter().filter_map(credit).collect()
}

/// Spec: PROTOCOL §6, "Credit": shared out once per batch, however many pieces it brings.
#[test]
fn credit_is_given_once_per_batch_not_per_piece() {
    let (mut machine, _) = reading_unordered();
    for _ in 0..10 {
        assert!(machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![7; 50_000])));
        assert_eq!(credits(&machine.actions()), []);
    }
    let given = credits(&machine.settled());
    assert!(matches!(given[..], [Credit::Run { .. }]), "{given:?}");
}

/// Spec: PROTOCOL §6, "Credit": the source with the least outstanding comes first, be it the primary or not.
#[test]
fn a_busy_primary_is_not_promised_before_an_idle_secondary() {
    let (mut machine, beyond) = reading_unordered();
    machine.grant(0, range(beyond, beyond + (3 << 20)));
    machine.settled();
    // The secondary sends all it has credit for, the primary a little of it; nothing of it is read.
    assert_eq!(machine.open(PATH, 0, beyond), Opened::Read);
    let lease = machine.client.leases.get(LeaseId::new(0)).unwrap();
    let credit = usize::try_from(lease.state.credit).unwrap();
    assert!(machine.bytes(credit));
    assert!(machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![7; 400_000])));
    machine.settled();
    // 600 kB become free: less than the primary's part would take, and all the secondary's.
    machine.client.read(machine.now, STREAM, 600_000, false).unwrap();
    let given = credits(&[machine.actions(), machine.settled()].concat());
    assert!(matches!(given[..], [Credit::Lease { .. }]), "{given:?}");
}

/// Found by `client_ops`: the jobs of dead paths stayed for good, so a primary could add paths and jobs without end.
#[test]
fn jobs_end_with_their_path() {
    let mut machine = Machine::new();
    machine.primary(Frame::RemovePath { path: PATH, code: ErrorCode::NO_ERROR, deadline_ms: 0 });
    assert!(machine.client.jobs.is_empty());
    machine.actions();
    let refused = Frame::LeaseRefused { lease: LeaseId::new(0), code: ErrorCode::PATH_DEAD };
    assert_eq!(machine.grant(0, range(200, 300)), [told(refused)]);
    // The name is not free again: job ids rise.
    machine.primary(Frame::JobOpen(job(JOB, OTHER)));
    let fault = PeerFault::JobNotNew;
    assert_eq!(machine.actions(), [Action::CloseSession { fault }]);
}

/// Found by `client_ops`: every further copy of a byte that was there already told the primary once more.
#[test]
fn completion_is_told_once_however_many_copies_come() {
    let mut machine = Machine::new();
    machine.grant(0, range(100, 200));
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 200 });
    let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    machine.open(PATH, 0, 100);
    machine.bytes(100);
    let complete = told(Frame::StreamComplete { stream: STREAM });
    assert_eq!(machine.actions().into_iter().filter(|action| *action == complete).count(), 1);
    assert!(machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![7; 100])));
    assert!(!machine.actions().contains(&complete));
}

/// Found by `client_ops`: nothing can be missing of a stream split at the last offset, so its reader was not told when
/// the primary was lost, and waited for good.
#[test]
fn a_split_leaves_room_for_a_byte() {
    let mut machine = Machine::new();
    machine.primary(Frame::Split { stream: stream(5), offset: crate::id::OFFSET_MAX });
    let fault = PeerFault::SplitTooFar;
    assert_eq!(machine.actions(), [Action::CloseSession { fault }]);
}
