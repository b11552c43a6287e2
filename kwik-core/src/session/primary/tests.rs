//! The primary's machine alone: an application's commands, a client's answers.

use super::*;
use crate::{
    error::{LeaseError, RelayError},
    lease::{
        relay::{Direction, RelayClaims},
        ticket::SigningKey,
    },
    session::relays::Unwelcome,
    wire::{MappingOperation, ProgressReport, RelayOpen},
};

/// A primary whose client has attached one path, with a job for 1,000 bytes of a stream.
struct Running {
    primary: Primary,
    now: Instant,
    path: PathId,
    job: JobId,
}

fn stream() -> StreamId {
    StreamId::from_u64(1).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

fn server(port: u16) -> NewPath {
    NewPath::new(([192, 0, 2, 1], port).into(), "a.test", SpkiHash::new([4; 32]))
}

#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
fn idle(paths_max: usize) -> (Primary, Instant) {
    let now = Instant::now();
    let signer = Arc::new(SigningKey::from_seed([1; 32]));
    let (rng, client_key) = (Rng::from_seed([2; 32]), PublicKey::new([3; 32]));
    (Primary::new(now, signer, rng, client_key, Features::OFFERED, 4, paths_max), now)
}

impl Running {
    fn new() -> Self {
        let (mut primary, now) = idle(8);
        let path = primary.add_path(server(443)).unwrap();
        let job = primary.open_job(stream(), 0, NewJob::new(path, range(0, 1000), "")).unwrap();
        let mut running = Self { primary, now, path, job };
        running.hears(Frame::PathReport { path, status: PathStatus::Active });
        running
    }

    /// Hears what breaks no rule; returns what the application and the client are told then.
    fn hears(&mut self, frame: Frame) -> Vec<Action> {
        assert!(!self.faults(frame.clone()), "{frame:?}");
        self.actions()
    }

    /// Returns whether a frame breaks the rules.
    fn faults(&mut self, frame: Frame) -> bool {
        self.primary.handle_frame(self.now, frame).is_err()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.primary.poll_action()).collect()
    }

    /// Returns whether a frame changes nothing but the count of late ones.
    fn is_late(&mut self, frame: Frame) -> bool {
        let before = self.primary.late_frames();
        let actions = self.hears(frame);
        actions.is_empty() && self.primary.late_frames() == before + 1
    }

    fn lease(&mut self, start: u64, end: u64) -> Result<LeaseId, LeaseError> {
        self.primary.lease(&NewLease::new(self.job, range(start, end)))
    }

    fn info(&self) -> PathInfo {
        self.primary.path(self.path).unwrap()
    }
}

fn told(event: Event) -> Vec<Action> {
    vec![Action::Notify(event)]
}

#[test]
fn a_path_that_no_client_could_dial_is_not_added() {
    let (mut primary, _) = idle(8);
    let new = |address: &str| NewPath::new(address.parse().unwrap(), "a.test", SpkiHash::new([4; 32]));
    let many = (0..limits::PATH_ADDRESSES_MAX).fold(server(1), |path, _| path.address(([1; 4], 1).into()));
    let named = |name: &str| NewPath::new(([1; 4], 1).into(), name, SpkiHash::new([4; 32]));
    let long = named(&"x".repeat(limits::SERVER_NAME_MAX + 1));
    for wrong in [new("192.0.2.1:0"), new("0.0.0.0:443"), new("[::]:443"), many, named(""), long] {
        assert_eq!(primary.add_path(wrong), Err(AddPathError::InvalidAddress));
    }
    // One wrong address among right ones, wherever it stands.
    for wrong in ["192.0.2.1:0", "0.0.0.0:443"] {
        let path = server(443).address(wrong.parse().unwrap());
        assert_eq!(primary.add_path(path), Err(AddPathError::InvalidAddress));
    }
    let keys =
        (0..=limits::RELAY_KEYS_MAX).fold(server(1), |path, _| path.relay_key(PublicKey::new([1; 32])));
    assert_eq!(primary.add_path(keys), Err(AddPathError::Misuse(ApiMisuse::TooLong)));
    assert!(primary.poll_action().is_none() && primary.paths().is_empty());

    let most = (1..limits::PATH_ADDRESSES_MAX).fold(server(1), |path, _| path.address(([1; 4], 1).into()));
    let keys = (0..limits::RELAY_KEYS_MAX).fold(most, |path, _| path.relay_key(PublicKey::new([1; 32])));
    assert_eq!(primary.add_path(keys), Ok(PathId::new(1)));
    assert_eq!(primary.add_path(named(&"x".repeat(limits::SERVER_NAME_MAX))), Ok(PathId::new(2)));
}

#[test]
fn a_session_has_so_many_paths_alive_and_remembers_so_many_dead_ones() {
    let (mut primary, now) = idle(2);
    let dead = |path| Frame::PathReport { path, status: PathStatus::Dead(ErrorCode::PATH_DEAD) };
    let first = primary.add_path(server(1)).unwrap();
    primary.add_path(server(2)).unwrap();
    assert_eq!(primary.add_path(server(3)), Err(AddPathError::LimitExceeded(2)));
    primary.handle_frame(now, dead(first)).unwrap();
    for n in 3.. {
        let path = primary.add_path(server(3)).unwrap();
        assert_eq!(path, PathId::new(n));
        assert_eq!(primary.add_path(server(3)), Err(AddPathError::LimitExceeded(2)));
        primary.handle_frame(now, dead(path)).unwrap();
        if n as usize == limits::DEAD_PATHS_LISTED + 9 {
            break;
        }
    }
    // One more has died since a path was added last.
    let listed = primary.paths();
    assert_eq!(listed.len(), limits::DEAD_PATHS_LISTED + 2);
    assert_eq!(listed[0].state, PathState::Connecting, "the second lives");
    assert_eq!(listed[1].id, PathId::new(9), "the oldest are forgotten first");
    assert!(primary.path(first).is_none() && !primary.remove_path(first, Duration::ZERO));
}

#[test]
fn what_is_said_again_or_too_late_is_counted_and_changes_nothing() {
    let mut running = Running::new();
    let (path, job) = (running.path, running.job);
    let report = |path, status| Frame::PathReport { path, status };
    assert!(running.is_late(report(path, PathStatus::Active)));
    assert!(running.is_late(report(PathId::new(9), PathStatus::Active)));
    running.hears(report(path, PathStatus::Degraded));
    assert!(running.is_late(report(path, PathStatus::Degraded)));
    assert_eq!(running.hears(report(path, PathStatus::Active)), told(Event::PathChanged(path)));

    assert_eq!(running.hears(Frame::JobAccepted { job }), told(Event::JobAnswered(job)));
    assert!(running.is_late(Frame::JobAccepted { job }));
    assert!(running.is_late(Frame::JobAccepted { job: JobId::new(7) }));
    let refused = Frame::JobRefused { job, code: ErrorCode::LIMIT_EXCEEDED };
    assert_eq!(running.hears(refused.clone()), told(Event::JobAnswered(job)), "after all");
    assert!(running.is_late(refused) && running.is_late(Frame::JobAccepted { job }));
    assert_eq!(running.primary.job_answer(job), Some(Err(ErrorCode::LIMIT_EXCEEDED)));

    let nobodys = StreamId::from_u64(5).unwrap();
    assert!(running.is_late(Frame::Credit(Credit::Offset { stream: nobodys, offset: 1 })));
    assert!(running.is_late(Frame::Credit(Credit::Run { stream: nobodys, bytes: 1 })));
    assert!(running.is_late(Frame::StreamComplete { stream: nobodys }));
    let stopped = |stream| Frame::StreamStopped { stream, code: ErrorCode::NO_ERROR };
    assert!(running.is_late(stopped(nobodys)));
    running.hears(stopped(stream()));
    assert!(running.is_late(stopped(stream())));
    assert!(running.is_late(Frame::OffsetSyncRequest { stream: stream(), from: 0 }));

    let dead = report(path, PathStatus::Dead(ErrorCode::PATH_DEAD));
    running.hears(dead.clone());
    assert!(running.is_late(dead) && running.is_late(report(path, PathStatus::Active)));
}

/// It was said before the client knew.
#[test]
fn a_path_that_drains_is_not_active_again() {
    for status in [PathStatus::Active, PathStatus::Degraded] {
        let mut running = Running::new();
        let path = running.path;
        if status == PathStatus::Active {
            running.hears(Frame::PathReport { path, status: PathStatus::Degraded });
        }
        assert!(running.primary.remove_path(path, Duration::ZERO));
        running.actions();
        assert_eq!(running.hears(Frame::PathReport { path, status }), []);
        assert_eq!(running.primary.path_state(path), Some(PathState::Draining));
        assert_eq!(running.lease(0, 10), Err(LeaseError::PathDead));
    }
}

#[test]
fn what_came_of_leases_is_counted_for_their_path() {
    let mut running = Running::new();
    let (done, lost, stolen, cut) = (
        running.lease(0, 100).unwrap(),
        running.lease(100, 200).unwrap(),
        running.lease(200, 300).unwrap(),
        running.lease(300, 400).unwrap(),
    );
    assert_eq!(running.info().leases, 4);
    running.hears(Frame::LeaseDone { lease: done });
    let missing = |start, end| Ranges::from_vec(vec![range(start, end)]);
    running.hears(Frame::LeaseLost { lease: lost, code: ErrorCode::LEASE_SHORT, missing: missing(150, 200) });
    running.primary.revoke(stolen, 0).unwrap();
    running.primary.revoke(cut, 40).unwrap();
    running.hears(Frame::LeaseLost {
        lease: stolen,
        code: ErrorCode::LEASE_REVOKED,
        missing: missing(200, 300),
    });
    running.hears(Frame::StreamMappingUpdate {
        operation: MappingOperation::Update,
        stream: stream(),
        lease: cut,
        range: range(300, 340),
    });
    running.hears(Frame::LeaseDone { lease: cut });
    let info = running.info();
    assert_eq!((info.leases, info.leases_done, info.leases_lost, info.leases_stolen), (0, 2, 2, 2));
    assert_eq!(info.bytes_done, 140);
    assert_eq!(running.primary.lease_outcome(cut), Some(LeaseOutcome::Done));
    // Given back, each once, and nothing else.
    assert_eq!(running.lease(0, 10), Err(LeaseError::Overlap));
    assert_eq!(running.lease(100, 160), Err(LeaseError::Overlap));
    for (start, end) in [(150, 200), (200, 300), (340, 400)] {
        assert!(running.lease(start, end).is_ok(), "{start}..{end}");
    }
}

#[test]
fn a_job_is_for_its_range_and_its_total() {
    let mut running = Running::new();
    let path = running.path;
    let new = NewJob::new(path, range(2000, 2100), "").total(150);
    running.job = running.primary.open_job(stream(), 0, new).unwrap();
    for (start, end) in [(1999, 2050), (2050, 2101), (0, 10)] {
        assert_eq!(running.lease(start, end), Err(LeaseError::OutsideJob), "{start}..{end}");
    }
    let lease = running.lease(2000, 2100).unwrap();
    assert_eq!(running.lease(2000, 2010), Err(LeaseError::Overlap));
    let missing = Ranges::from_vec(vec![range(2000, 2100)]);
    running.hears(Frame::LeaseLost { lease, code: ErrorCode::LEASE_SHORT, missing });
    assert_eq!(running.lease(2000, 2051), Err(LeaseError::OutsideJob), "the total is used up");
    assert!(running.lease(2000, 2050).is_ok());
    assert_eq!(running.lease(2060, 2061), Err(LeaseError::OutsideJob));
}

/// Answers are to what was granted, and name a part of it. Spec: PROTOCOL §5.
#[test]
fn answers_to_what_was_never_granted_are_faults() {
    let mut running = Running::new();
    let lease = running.lease(0, 100).unwrap();
    let next = LeaseId::new(1);
    assert!(running.faults(Frame::LeaseDone { lease: next }));
    let lost = |start, end| Frame::LeaseLost {
        lease,
        code: ErrorCode::LEASE_SHORT,
        missing: Ranges::from_vec(vec![range(start, end)]),
    };
    assert!(running.faults(lost(99, 101)) && running.faults(lost(100, 101)));
    let update = |operation, id, stream, start, end| Frame::StreamMappingUpdate {
        operation,
        stream,
        lease: id,
        range: range(start, end),
    };
    let (create, cut) = (MappingOperation::Create, MappingOperation::Update);
    let other = StreamId::from_u64(5).unwrap();
    assert!(running.faults(update(create, next, stream(), 0, 100)));
    assert!(running.faults(update(create, lease, other, 0, 100)));
    assert!(running.faults(update(create, lease, stream(), 0, 101)));
    assert!(running.faults(update(cut, lease, stream(), 0, 50)), "nobody asked");
    running.primary.revoke(lease, 50).unwrap();
    assert!(running.faults(update(cut, lease, stream(), 1, 50)), "a cut takes the end");
    assert!(running.faults(Frame::StreamComplete { stream: stream() }), "which has no end yet");
    assert!(running.faults(Frame::Credit(Credit::Lease { lease, bytes: 1 })));
    running.hears(Frame::SplitAck { stream: stream(), credit: 1 << 20 });
    assert!(running.faults(Frame::SplitAck { stream: stream(), credit: 1 << 21 }), "one for each split");
    // None of it has changed anything.
    running.hears(Frame::LeaseDone { lease });
    assert!(running.is_late(Frame::LeaseDone { lease }));
}

/// Credit wakes whoever waits for it: runs of that stream, and only if there is more.
#[test]
fn credit_is_told_to_the_runs_that_could_use_it() {
    let mut running = Running::new();
    let other = StreamId::from_u64(5).unwrap();
    let mut start = |stream| running.primary.write_at(stream, 0, range(1 << 20, (1 << 20) + 10)).unwrap();
    let (run, over) = (start(stream()), start(other));
    running.primary.on_run_end(over, None);
    let waiting = running.primary.write_at(other, 0, range(0, 10)).unwrap();
    running.actions();
    let credit = |stream, bytes| Frame::Credit(Credit::Run { stream, bytes });
    let writable =
        |stream, run| vec![Action::Notify(Event::Writable(stream)), Action::Notify(Event::RunWritable(run))];
    assert_eq!(running.hears(credit(stream(), 5)), writable(stream(), run));
    assert_eq!(running.primary.run_allowance(run).unwrap().now, 5);
    assert_eq!(running.hears(credit(stream(), 5)), [], "no more than before");
    assert_eq!(running.hears(credit(other, 5)), writable(other, waiting));
    let offset = Frame::Credit(Credit::Offset { stream: stream(), offset: 1 << 21 });
    assert_eq!(running.hears(offset.clone()), writable(stream(), run));
    assert_eq!(running.hears(offset), []);
}

#[test]
fn a_stream_that_is_complete_ends_what_goes_on_for_it_and_nothing_else() {
    let mut running = Running::new();
    let (path, other) = (running.path, StreamId::from_u64(5).unwrap());
    let lease = running.lease(0, 100).unwrap();
    let run = running.primary.write_at(stream(), 0, range(1000, 1010)).unwrap();
    let job = running.primary.open_job(other, 0, NewJob::new(path, range(0, 100), "")).unwrap();
    let others = running.primary.lease(&NewLease::new(job, range(0, 100))).unwrap();
    let others_run = running.primary.write_at(other, 0, range(100, 110)).unwrap();
    assert!(running.primary.finish(stream()) && !running.primary.finish(stream()));
    running.hears(Frame::StreamComplete { stream: stream() });
    assert_eq!(running.primary.lease_outcome(lease), Some(LeaseOutcome::Done));
    assert_eq!(running.primary.run_outcome(run), Some(LeaseOutcome::Done));
    assert_eq!(running.primary.job_answer(running.job), Some(Err(ErrorCode::STREAM_CLOSED)));
    assert_eq!(running.primary.run_outcome(others_run), None);
    assert_eq!(running.primary.job_answer(job), None);
    assert!(running.primary.lease_status(others).is_some());
}

#[test]
fn what_a_client_does_not_know_is_not_asked_of_it() {
    let lease = |missing: Features, new: &dyn Fn(NewLease) -> NewLease| {
        let mut running = Running::new();
        let hedged = running.lease(0, 100).unwrap();
        let path = running.primary.add_path(server(2)).unwrap();
        let job = running.primary.open_job(stream(), 0, NewJob::new(path, range(0, 1000), "")).unwrap();
        running.primary.features = Features(Features::OFFERED.0 & !missing.0);
        let plain = NewLease::new(job, range(0, 100));
        let plain = if missing == Features::HEDGE { plain.hedge_of(hedged) } else { plain };
        let plain =
            NewLease { range: if plain.hedge_of.is_some() { plain.range } else { range(100, 200) }, ..plain };
        running.primary.lease(&new(plain))
    };
    let unsupported = Err(LeaseError::Unsupported);
    assert_eq!(lease(Features::DIGEST, &|lease| lease.digest([1; 32])), unsupported);
    assert_eq!(lease(Features::DEADLINE, &|lease| lease.deadline(Duration::from_secs(1))), unsupported);
    assert_eq!(lease(Features::HEDGE, &|lease| lease), unsupported);
    for missing in [Features::DIGEST, Features::DEADLINE] {
        assert!(lease(missing, &|lease| lease).is_ok(), "nothing of it is needed");
    }
    assert!(lease(Features::DIGEST, &|lease| lease.deadline(Duration::from_secs(1))).is_ok());
}

#[test]
fn a_lease_has_a_longest_length() {
    let mut running = Running::new();
    let (path, most) = (running.path, limits::LEASE_MAX);
    let new = NewJob::new(path, range(1000, 1000 + 3 * most), "");
    running.job = running.primary.open_job(stream(), 0, new).unwrap();
    assert_eq!(running.lease(1000, 1001 + most), Err(LeaseError::OutsideJob));
    assert!(running.lease(1000, 1000 + most).is_ok());
}

/// Spec: RATIONALE §8.
#[test]
fn a_path_that_was_silent_gets_half_as_much_and_what_comes_first_all_the_same() {
    let mut running = Running::new();
    let path = running.path;
    let leases: Vec<LeaseId> = (1..5).map(|n| running.lease(n * 100, n * 100 + 50).unwrap()).collect();
    running.hears(Frame::PathReport { path, status: PathStatus::Degraded });
    assert_eq!(running.lease(600, 650), Err(LeaseError::PathSilent));
    running.hears(Frame::PathReport { path, status: PathStatus::Active });
    assert_eq!(running.info().leases_max, 2);
    assert_eq!(running.lease(600, 650), Err(LeaseError::LimitExceeded));
    assert_eq!(running.lease(60, 101), Err(LeaseError::LimitExceeded), "one that reaches into another");
    assert!(running.lease(50, 100).is_ok(), "before all others");
    running.hears(Frame::LeaseDone { lease: leases[0] });
    assert_eq!(running.info().leases_max, 4);
    assert_eq!(running.lease(600, 650), Err(LeaseError::LimitExceeded));
    running.hears(Frame::LeaseDone { lease: leases[1] });
    assert_eq!(running.info().leases_max, 8);
    assert!(running.lease(600, 650).is_ok());
}

/// Spec: PROTOCOL §5.
#[test]
fn a_hedge_lies_within_one_live_lease_of_another_path_and_stream() {
    let mut running = Running::new();
    let hedged = running.lease(0, 100).unwrap();
    let path = running.primary.add_path(server(2)).unwrap();
    let mut job =
        |stream| running.primary.open_job(stream, 0, NewJob::new(path, range(0, 1000), "")).unwrap();
    let (same, other) = (job(stream()), job(StreamId::from_u64(5).unwrap()));
    let mut hedge =
        |job, start, end| running.primary.lease(&NewLease::new(job, range(start, end)).hedge_of(hedged));
    let overlap = Err(LeaseError::Overlap);
    assert_eq!(hedge(running.job, 0, 100), overlap, "its own path");
    assert_eq!(hedge(other, 0, 100), overlap, "another stream");
    assert_eq!((hedge(same, 50, 101), hedge(same, 100, 101)), (overlap, overlap));
    assert!(hedge(same, 50, 100).is_ok());
    assert_eq!(hedge(same, 99, 100), overlap, "two at most");
    assert!(hedge(same, 40, 50).is_ok());
    running.hears(Frame::LeaseDone { lease: hedged });
    let late = NewLease::new(same, range(0, 10)).hedge_of(hedged);
    assert_eq!(running.primary.lease(&late), Err(LeaseError::NotLive));
}

#[test]
fn runs_that_hedge_a_lease_end_with_it_and_others_do_not() {
    let mut running = Running::new();
    let (hedged, next) = (running.lease(0, 100).unwrap(), running.lease(100, 200).unwrap());
    let mut hedge = |lease, start, end| running.primary.hedge(lease, range(start, end));
    assert_eq!(hedge(hedged, 99, 101), Err(LeaseError::Overlap));
    let (ours, over) = (hedge(hedged, 50, 100).unwrap(), hedge(hedged, 0, 50).unwrap());
    assert_eq!(hedge(hedged, 60, 70), Err(LeaseError::Overlap), "one run for each byte");
    let theirs = hedge(next, 100, 200).unwrap();
    running.primary.on_run_end(over, Some(ErrorCode::LEASE_REVOKED));
    running.actions();
    let actions = running.hears(Frame::LeaseDone { lease: hedged });
    let ended: Vec<&Action> =
        actions.iter().filter(|action| matches!(action, Action::EndRun { .. })).collect();
    assert_eq!(ended, [&Action::EndRun { run: ours }]);
    assert_eq!(running.primary.run_outcome(ours), Some(LeaseOutcome::Done));
    assert_eq!(running.primary.run_outcome(theirs), None);
    assert!(running.primary.hedge(next, range(150, 160)).is_err());
    running.primary.on_run_end(theirs, Some(ErrorCode::LEASE_REVOKED));
    assert!(running.primary.hedge(next, range(150, 160)).is_ok(), "the other is over");
}

#[test]
fn a_lease_is_taken_back_whole_or_in_part_as_it_was_asked_for() {
    let mut running = Running::new();
    let revoked = |actions: Vec<Action>| {
        let keeps = actions.into_iter().filter_map(|action| {
            let Action::Send { frame: Frame::LeaseRevoke { keep, .. }, .. } = action else {
                return None;
            };
            Some(keep)
        });
        keeps.collect::<Vec<u64>>()
    };
    let lease = running.lease(0, 100).unwrap();
    running.actions();
    assert_eq!(running.primary.revoke(lease, 100), Ok(()));
    assert_eq!(revoked(running.actions()), [0; 0], "all of it is kept");
    assert_eq!(running.primary.take_cut(lease), None);
    assert_eq!(running.primary.revoke(lease, 99), Ok(()));
    assert_eq!(revoked(running.actions()), [99]);
    let cut = |lease, start, end| Frame::StreamMappingUpdate {
        operation: MappingOperation::Update,
        stream: stream(),
        lease,
        range: range(start, end),
    };
    running.hears(cut(lease, 0, 99));
    assert_eq!(running.primary.take_cut(lease), Some(vec![range(99, 100)]));
    assert_eq!(running.primary.take_cut(lease), None, "taken");
    assert_eq!(running.primary.revoke(lease, 0), Ok(()));
    assert_eq!(revoked(running.actions()), [0]);
    assert!(running.faults(cut(lease, 0, 50)), "that was asked for is no cut");

    let verified =
        running.primary.lease(&NewLease::new(running.job, range(200, 300)).digest([1; 32])).unwrap();
    assert_eq!(running.primary.revoke(verified, 1), Err(LeaseError::Verified));
    assert_eq!(running.primary.revoke(verified, 0), Ok(()));
    running.primary.features = Features(Features::OFFERED.0 & !Features::MAPPING_UPDATE.0);
    assert_eq!(running.primary.revoke(lease, 1), Err(LeaseError::Unsupported));
    assert_eq!(running.primary.revoke(lease, 0), Ok(()));
}

/// Nobody took a lease of which nothing is missing, nor one that the client ends by itself.
#[test]
fn what_is_stolen_was_asked_for_and_given_back() {
    for (asked, code, missing, stolen) in [
        (true, ErrorCode::LEASE_REVOKED, true, 1),
        (true, ErrorCode::LEASE_REVOKED, false, 0),
        (true, ErrorCode::LEASE_SHORT, true, 0),
        (false, ErrorCode::LEASE_REVOKED, true, 0),
    ] {
        let mut running = Running::new();
        let lease = running.lease(0, 100).unwrap();
        if asked {
            running.primary.revoke(lease, 0).unwrap();
        }
        let missing = Ranges::from_iter(missing.then(|| range(0, 100)));
        running.hears(Frame::LeaseLost { lease, code, missing });
        assert_eq!(running.info().leases_stolen, stolen, "{asked} {code:?}");
    }
}

#[test]
fn a_mapping_is_told_when_it_changes() {
    let mut running = Running::new();
    let lease = running.lease(0, 100).unwrap();
    running.actions();
    let update = |operation, lease| Frame::StreamMappingUpdate {
        operation,
        stream: stream(),
        lease,
        range: range(50, 100),
    };
    let mut says = |operation| running.hears(update(operation, lease)) == told(Event::LeaseChanged(lease));
    assert!(says(MappingOperation::Create) && !says(MappingOperation::Create));
    assert!(says(MappingOperation::Suspend) && !says(MappingOperation::Suspend));
    let status = running.primary.lease_status(lease).unwrap();
    assert_eq!((status.begun, status.stalled), (true, Some(range(50, 100))));
    let mut says = |operation| running.hears(update(operation, lease)) == told(Event::LeaseChanged(lease));
    assert!(says(MappingOperation::Resume) && !says(MappingOperation::Resume));
    running.hears(Frame::LeaseDone { lease });
    assert!(running.is_late(update(MappingOperation::Suspend, lease)));
}

/// What nobody wants any more is not given again.
#[test]
fn a_lease_that_was_taken_back_or_forgotten_is_not_given_again() {
    for (revoked, forgotten, again) in [(false, false, true), (true, false, false), (false, true, false)] {
        let mut running = Running::new();
        let lease = running.primary.lease(&NewLease::new(running.job, range(0, 100)).retries(3)).unwrap();
        if revoked {
            running.primary.revoke(lease, 0).unwrap();
        }
        if forgotten {
            running.primary.forget_lease(lease);
        }
        let missing = Ranges::from_vec(vec![range(0, 100)]);
        running.hears(Frame::LeaseLost { lease, code: ErrorCode::LEASE_SHORT, missing });
        assert_eq!(running.primary.deadline().is_some(), again);
        assert_eq!(running.primary.lease_outcome(lease).is_some(), revoked);
    }
}

/// Spec: PROTOCOL §7.28.
#[test]
fn reports_that_cannot_be_true_are_faults() {
    let mut running = Running::new();
    let (path, job) = (running.path, running.job);
    let second = running.primary.add_path(server(2)).unwrap();
    let mut lease =
        |start, end| running.primary.lease(&NewLease::new(job, range(start, end)).progress()).unwrap();
    let (lease, over) = (lease(0, 100), lease(100, 200));
    let quiet = running.lease(200, 300).unwrap();
    running.hears(Frame::LeaseDone { lease: over });
    let report = |path, leases: &[(LeaseId, u64)], readers: &[(StreamId, u64)]| ProgressReport {
        path,
        rtt_us: None,
        late: 5,
        overlap: 5,
        leases: leases.to_vec(),
        readers: readers
            .iter()
            .map(|&(stream, position)| (stream, ReaderStatus { position, window: 1 }))
            .collect(),
    };
    let right = report(path, &[(lease, 10), (over, 50)], &[(stream(), 0)]);
    assert_eq!(running.hears(Frame::ProgressReport(right)), told(Event::Progress(path)));
    assert_eq!(running.primary.lease_status(lease).unwrap().arrived, 10);
    let wrong = [
        report(path, &[], &[]),
        report(PathId::new(9), &[(lease, 11)], &[]),
        report(path, &[(LeaseId::new(3), 1)], &[]),
        report(path, &[(lease, 10)], &[]),
        report(path, &[(lease, 101)], &[]),
        report(second, &[(lease, 11)], &[]),
        report(path, &[(quiet, 1)], &[]),
        report(path, &[], &[(stream(), 301)]),
        report(second, &[], &[(stream(), 300)]),
        ProgressReport { late: 4, ..report(path, &[(lease, 12)], &[]) },
        ProgressReport { overlap: 4, ..report(path, &[(lease, 13)], &[]) },
    ];
    for report in wrong {
        assert!(running.faults(Frame::ProgressReport(report.clone())), "{report:?}");
    }
    let last = report(path, &[(lease, 100)], &[(stream(), 300)]);
    running.hears(Frame::ProgressReport(last));
    assert_eq!(running.primary.reader(stream()).unwrap().position, 300);
    assert_eq!(running.primary.reports(), 2);
}

/// It may have been on its way when the path was forgotten.
#[test]
fn a_report_of_a_path_that_is_forgotten_is_late() {
    let mut running = Running::new();
    let path = running.path;
    running.primary.paths.remove(&path);
    let readers = vec![(stream(), ReaderStatus { position: 0, window: 1 })];
    let report = ProgressReport { path, rtt_us: None, late: 0, overlap: 0, leases: Vec::new(), readers };
    assert!(running.is_late(Frame::ProgressReport(report)));
}

/// Spec: PROTOCOL §6, "Gaps".
#[test]
fn a_client_that_asks_is_told_who_brings_what_in_pages() {
    let mut running = Running::new();
    let asked = |running: &mut Running, from| {
        let actions = running.hears(Frame::OffsetSyncRequest { stream: stream(), from });
        let gap = actions.contains(&Action::Notify(Event::GapReported(stream())));
        let answer = actions.into_iter().find_map(|action| {
            let Action::Send { frame: Frame::OffsetSyncResponse { received, more, .. }, .. } = action else {
                return None;
            };
            Some((received.to_vec(), more))
        });
        let (received, more) = answer.unwrap();
        (received, more, gap)
    };
    assert_eq!(asked(&mut running, 0), (vec![], false, true), "nobody was given anything");
    assert_eq!((running.primary.take_gap(stream()), running.primary.take_gap(stream())), (Some(0), None));
    let most = limits::REPEATED_MAX as u64;
    for n in 0..most {
        running.lease(n * 10 + 5, n * 10 + 10).unwrap();
    }
    let (received, more, gap) = asked(&mut running, 5);
    assert_eq!((received.len(), more, gap), (limits::REPEATED_MAX, false, false));
    let (received, _, gap) = asked(&mut running, 7);
    assert_eq!((received[0], gap), (range(7, 10), false));
    running.lease(most * 10 + 5, most * 10 + 10).unwrap();
    let (received, more, gap) = asked(&mut running, 4);
    assert_eq!((received.len(), more, gap), (limits::REPEATED_MAX, true, true));
    assert_eq!((received[0], running.primary.take_gap(stream())), (range(5, 10), Some(4)));
}

#[test]
fn what_a_client_says_that_it_has_was_given_to_somebody() {
    let page = |ranges: &[(u64, u64)], more| Frame::OffsetSyncResponse {
        stream: stream(),
        received: ranges.iter().map(|&(start, end)| range(start, end)).collect(),
        more,
    };
    let asking = || {
        let mut running = Running::new();
        running.lease(100, 200).unwrap();
        running.primary.sync(stream()).unwrap();
        running.actions();
        running
    };
    let mut running = asking();
    assert_eq!(running.primary.take_received(stream()), None);
    assert_eq!(running.hears(page(&[(0, 10), (20, 30)], true)), []);
    assert_eq!(running.primary.take_received(stream()), None, "another page follows");
    assert_eq!(running.hears(page(&[(31, 200)], false)), told(Event::Synced(stream())));
    let all = vec![range(0, 10), range(20, 30), range(31, 200)];
    assert_eq!(running.primary.take_received(stream()), Some(all));
    assert!(running.faults(page(&[], false)), "nobody asked");
    for wrong in
        [page(&[(100, 201)], false), page(&[(0, 10), (10, 20)], false), page(&[(5, 6), (0, 2)], false)]
    {
        assert!(asking().faults(wrong.clone()), "{wrong:?}");
    }
    assert!(asking().faults(page(&[], true)), "a page that says nothing");
    assert!(!asking().faults(page(&[], false)), "it has nothing");
    let nobodys = StreamId::from_u64(5).unwrap();
    let late = Frame::OffsetSyncResponse { stream: nobodys, received: Ranges::new(), more: false };
    assert!(asking().is_late(late));

    // No more pieces than a client may keep, however many pages they come in.
    let most = limits::EXTENTS_PER_STREAM as u64 + 1;
    let mut running = Running::new();
    let job = NewJob::new(running.path, range(0, 1 << 20), "");
    running.job = running.primary.open_job(stream(), 0, job).unwrap();
    running.lease(0, 1 << 20).unwrap();
    running.primary.sync(stream()).unwrap();
    for n in 0..most {
        running.hears(page(&[(n * 2, n * 2 + 1)], true));
    }
    assert!(running.faults(page(&[(most * 2, most * 2 + 1)], true)));
}

#[test]
fn a_job_has_a_longest_payload_and_a_path_so_many_jobs() {
    let mut running = Running::new();
    let path = running.path;
    let open = |running: &mut Running, path, payload: usize| {
        running.primary.open_job(stream(), 0, NewJob::new(path, range(0, 10), vec![0; payload]))
    };
    let too_long = Err(LeaseError::Misuse(ApiMisuse::TooLong));
    assert_eq!(open(&mut running, path, limits::JOB_PAYLOAD_MAX + 1), too_long);
    assert!(open(&mut running, path, limits::JOB_PAYLOAD_MAX).is_ok());
    for _ in 2..limits::JOBS_PER_PATH {
        assert!(open(&mut running, path, 0).is_ok());
    }
    assert_eq!(open(&mut running, path, 0), Err(LeaseError::LimitExceeded));
    let other = running.primary.add_path(server(2)).unwrap();
    assert!(open(&mut running, other, 0).is_ok(), "each path has its own");
    // One that was refused is no work any more; one that was taken is.
    let (first, second) = (running.job, JobId::new(running.job.into_inner() + 1));
    running.hears(Frame::JobAccepted { job: second });
    assert_eq!(open(&mut running, path, 0), Err(LeaseError::LimitExceeded));
    running.hears(Frame::JobRefused { job: first, code: ErrorCode::LIMIT_EXCEEDED });
    assert!(open(&mut running, path, 0).is_ok());
    assert_eq!(open(&mut running, path, 0), Err(LeaseError::LimitExceeded));
}

#[test]
fn a_run_ends_whole_or_where_its_owner_let_go_of_it() {
    let mut running = Running::new();
    let write =
        |running: &mut Running, start, end| running.primary.write_at(stream(), 0, range(start, end)).unwrap();
    let run = write(&mut running, 0, 100);
    assert!(!running.primary.on_run_sent(run, 60));
    let allowance = running.primary.run_allowance(run).unwrap();
    assert_eq!((allowance.offset, allowance.left, allowance.now, allowance.hedges), (60, 40, 40, false));
    assert!(running.primary.on_run_sent(run, 40));
    assert_eq!(running.primary.run_outcome(run), None, "it has not arrived");
    running.primary.on_run_end(run, None);
    assert_eq!(running.primary.run_allowance(run).map(|allowance| allowance.left), Ok(0));
    assert_eq!(running.primary.run_outcome(run), Some(LeaseOutcome::Done));
    assert_eq!(running.primary.run_outcome(run), None, "taken");
    // Somebody else has brought the rest of this one.
    let run = write(&mut running, 100, 200);
    running.primary.on_run_sent(run, 99);
    running.primary.on_run_end(run, None);
    assert_eq!(running.primary.run_allowance(run).map(|_| ()), Err(ErrorCode::LEASE_REVOKED));
    // What was sent stays its own; the rest is free.
    let run = write(&mut running, 200, 300);
    running.primary.on_run_sent(run, 30);
    assert!(running.primary.forget_run(run));
    assert_eq!(running.primary.unowned(stream(), range(200, 300)), [range(230, 300)]);
    let run = write(&mut running, 230, 300);
    assert!(running.primary.forget_run(run), "nothing was sent of it");
    assert_eq!(running.primary.unowned(stream(), range(200, 300)), [range(230, 300)]);
    let run = write(&mut running, 230, 300);
    running.primary.on_run_sent(run, 70);
    assert!(!running.primary.forget_run(run), "all of it was");
    assert_eq!(running.primary.unowned(stream(), range(200, 300)), []);
    running.primary.on_run_end(run, Some(ErrorCode::STREAM_CLOSED));
    assert_eq!(running.primary.unowned(stream(), range(200, 300)), [range(230, 300)], "nor did it arrive");
    assert!(!running.primary.forget_run(run));
}

/// Spec: PROTOCOL §10.
#[test]
fn what_may_pass_is_tried_again_after_a_pause_that_doubles() {
    let missing = |start, end| Ranges::from_vec(vec![range(start, end)]);
    for (code, again) in [
        (ErrorCode::LEASE_SHORT, true),
        (ErrorCode::NO_CREDIT, true),
        (ErrorCode::from_u32(4), true),
        (ErrorCode::PATH_DEAD, false),
        (ErrorCode::LEASE_REVOKED, false),
        (ErrorCode::TICKET_EXPIRED, false),
    ] {
        let mut running = Running::new();
        let name = running.primary.lease(&NewLease::new(running.job, range(0, 100)).retries(2)).unwrap();
        running.hears(Frame::LeaseLost { lease: name, code, missing: missing(0, 100) });
        assert_eq!(running.primary.deadline(), again.then(|| running.now + Duration::from_millis(50)));
        assert_eq!(running.primary.lease_outcome(name).is_none(), again, "{code:?}");
    }

    // Twice, under other names on the wire, of what is missing; and then it is over.
    let mut running = Running::new();
    let name = running.primary.lease(&NewLease::new(running.job, range(0, 100)).retries(2)).unwrap();
    let mut on_wire = name;
    for (pause, start) in [(50, 30), (100, 60)] {
        running.hears(Frame::LeaseLost {
            lease: on_wire,
            code: ErrorCode::LEASE_SHORT,
            missing: missing(start, 100),
        });
        let at = running.now + Duration::from_millis(pause);
        assert_eq!(running.primary.deadline(), Some(at));
        assert_eq!(running.primary.lease_status(name).unwrap().stalled, Some(range(start, 100)));
        running.primary.handle_timeout(at - Duration::from_nanos(1));
        assert_eq!(running.actions(), []);
        running.now = at;
        running.primary.handle_timeout(at);
        let given = running.actions().into_iter().find_map(|action| {
            let Action::Send { frame: Frame::LeaseGrant(grant), .. } = action else {
                return None;
            };
            Some(grant)
        });
        let given = given.unwrap();
        assert_eq!(given.range, range(start, 100));
        assert_eq!(running.primary.deadline(), None);
        on_wire = given.lease;
    }
    let last = Frame::LeaseLost { lease: on_wire, code: ErrorCode::LEASE_SHORT, missing: missing(90, 100) };
    assert_eq!(running.hears(last), told(Event::LeaseEnded(name)));
    let expected = LeaseOutcome::Lost { code: ErrorCode::LEASE_SHORT, missing: vec![range(90, 100)] };
    assert_eq!(running.primary.lease_outcome(name), Some(expected));
    assert!(running.primary.lease_status(name).is_none() && running.primary.deadline().is_none());
    assert!(running.primary.kept().contains(&("retries", 0)));
}

/// A digest is of the whole lease; of a part nobody knows one.
#[test]
fn a_verified_lease_is_tried_again_whole_with_its_digest_or_not_at_all() {
    for (start, again) in [(0, true), (50, false)] {
        let mut running = Running::new();
        let new = NewLease::new(running.job, range(0, 100)).digest([1; 32]).retries(3);
        let lease = running.primary.lease(&new).unwrap();
        running.actions();
        let missing = Ranges::from_vec(vec![range(start, 100)]);
        running.hears(Frame::LeaseLost { lease, code: ErrorCode::DIGEST_MISMATCH, missing });
        running.primary.handle_timeout(running.primary.deadline().unwrap());
        let given = running.actions().into_iter().find_map(|action| {
            let Action::Send { frame: Frame::LeaseGrant(grant), .. } = action else {
                return None;
            };
            Some(grant.digest)
        });
        assert_eq!(given, again.then_some(Some([1; 32])), "from {start} on");
    }
}

#[test]
fn a_stream_that_is_over_ends_what_waits_for_another_try() {
    let mut running = Running::new();
    let other = StreamId::from_u64(5).unwrap();
    let theirs = running.primary.open_job(other, 0, NewJob::new(running.path, range(0, 100), "")).unwrap();
    let pausing = |running: &mut Running, job| {
        let lease = running.primary.lease(&NewLease::new(job, range(0, 100)).retries(3)).unwrap();
        let missing = Ranges::from_vec(vec![range(0, 100)]);
        running.hears(Frame::LeaseLost { lease, code: ErrorCode::LEASE_SHORT, missing });
        lease
    };
    let job = running.job;
    let (ours, others) = (pausing(&mut running, job), pausing(&mut running, theirs));
    running.primary.end_stream(stream(), ErrorCode::NO_ERROR);
    assert!(running.primary.lease_outcome(ours).is_some() && running.primary.lease_status(ours).is_none());
    assert!(
        running.primary.lease_outcome(others).is_none() && running.primary.lease_status(others).is_some()
    );
}

/// It was given beside another, which is over: now it is alone.
#[test]
fn a_hedge_is_tried_again_without_the_lease_it_hedged() {
    let mut running = Running::new();
    let hedged = running.lease(0, 100).unwrap();
    let path = running.primary.add_path(server(2)).unwrap();
    let job = running.primary.open_job(stream(), 0, NewJob::new(path, range(0, 1000), "")).unwrap();
    let new = NewLease::new(job, range(0, 100)).hedge_of(hedged).retries(2);
    let hedge = running.primary.lease(&new).unwrap();
    for lease in [hedged, hedge] {
        let missing = Ranges::from_vec(vec![range(0, 100)]);
        running.hears(Frame::LeaseLost { lease, code: ErrorCode::LEASE_SHORT, missing });
    }
    running.primary.handle_timeout(running.primary.deadline().unwrap());
    let given = running.actions().into_iter().find_map(|action| {
        let Action::Send { frame: Frame::LeaseGrant(grant), .. } = action else {
            return None;
        };
        Some((grant.job, grant.hedge_of))
    });
    assert_eq!(given, Some((job, None)));
}

/// A path that is silent may be heard again, as long as there is a try left; a job that is closed will not open.
#[test]
fn what_cannot_be_tried_now_is_tried_later_or_is_over() {
    for (retries, closed, waits) in [(1, false, false), (2, false, true), (2, true, false)] {
        let mut running = Running::new();
        let (path, job) = (running.path, running.job);
        let lease = running.primary.lease(&NewLease::new(job, range(0, 100)).retries(retries)).unwrap();
        running.hears(Frame::PathReport { path, status: PathStatus::Degraded });
        let missing = Ranges::from_vec(vec![range(0, 100)]);
        running.hears(Frame::LeaseLost { lease, code: ErrorCode::PATH_STALLED, missing });
        if closed {
            running.primary.close_job(job);
        }
        running.primary.handle_timeout(running.primary.deadline().unwrap());
        assert_eq!(running.primary.deadline().is_some(), waits, "{retries} {closed}");
        assert_eq!(running.primary.lease_outcome(lease).is_none(), waits, "{retries} {closed}");
    }
}

/// Credit by offset is used up first, to the byte.
#[test]
fn a_run_that_crosses_credit_by_offset_goes_on_with_its_own() {
    let mut running = Running::new();
    let line = limits::GUARANTEED_CREDIT;
    let run = running.primary.write_at(stream(), 0, range(1, line + 10)).unwrap();
    running.hears(Frame::Credit(Credit::Run { stream: stream(), bytes: 5 }));
    running.primary.on_run_sent(run, line - 1);
    assert_eq!(running.primary.run_allowance(run).unwrap().now, 5);
    running.primary.on_run_sent(run, 1);
    assert_eq!(running.primary.run_allowance(run).unwrap().now, 4);
    assert_eq!(running.primary.splits(), 0);
    running.hears(Frame::SplitAck { stream: stream(), credit: line });
    assert_eq!(running.primary.splits(), 1);
}

/// Spec: PROTOCOL §9.
#[test]
fn messages_are_numbered_and_go_to_paths_that_are_attached() {
    let mut running = Running::new();
    let (path, waiting) = (running.path, running.primary.add_path(server(2)).unwrap());
    let numbers = [0, 1, 2].map(|_| running.primary.relay_head(path, 1).unwrap().id);
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(running.primary.relay_head(waiting, 1), Err(RelayError::Blocked));
    for (path, said) in [(path, Ok(())), (waiting, Err(RelayError::PathDead))] {
        assert!(running.primary.remove_path(path, Duration::from_secs(1)));
        assert_eq!(running.primary.relay_head(path, 1).map(|_| ()), said);
    }
}

/// What comes of a message that the client brings, by who is said to have sent it.
#[test]
fn a_message_comes_from_a_path_that_was_named() {
    let mut running = Running::new();
    let dead = running.path;
    let head = |path| RelayOpen { path, id: 0, length: 1, seal: None };
    let fault = |running: &Running, path| {
        matches!(running.primary.check_relay(&head(path)), Err(Unwelcome::Fault(_)))
    };
    assert!(fault(&running, PathId::PRIMARY) && fault(&running, PathId::new(2)));
    assert_eq!(running.primary.check_relay(&head(dead)), Ok(()));
    running.primary.paths.remove(&dead);
    let gone = Err(Unwelcome::Refuse(ErrorCode::PATH_DEAD));
    assert_eq!(running.primary.check_relay(&head(dead)), gone);
}

/// Of whom a key was named, what is signed with it counts, once; and not so many wrong seals are looked at.
#[test]
fn a_message_that_is_not_its_servers_is_not_heard() {
    let key = SigningKey::from_seed([7; 32]);
    let open = |path, id, key: &SigningKey, running: &Running| {
        let (session, payload) = (running.primary.session, &b"words"[..]);
        let claims = RelayClaims { session, path, direction: Direction::ToPrimary, id, payload };
        RelayOpen { path, id, length: 5, seal: Some(claims.seal(key)) }
    };
    let payload = Bytes::from_static(b"words");
    let mut running = Running::new();
    let path = running.primary.add_path(server(2).relay_key(key.public_key())).unwrap();
    let right = open(path, 5, &key, &running);
    let now = running.now;
    let heard = running.primary.open_relay(now, &right, payload.clone()).unwrap();
    assert!(heard.sealed);
    assert!(running.primary.open_relay(now, &right, payload.clone()).is_none(), "said twice");
    let forged = open(path, 6, &SigningKey::from_seed([8; 32]), &running);
    for _ in 0..limits::FORGED_RELAYS_BURST {
        assert!(running.primary.open_relay(now, &forged, payload.clone()).is_none());
    }
    let next = open(path, 7, &key, &running);
    assert!(running.primary.open_relay(now, &next, payload.clone()).is_none(), "not looked at");
    let later = now + Duration::from_secs(1);
    assert!(running.primary.open_relay(later, &next, payload).is_some());
}
