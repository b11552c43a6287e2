//! Life of a lease: cut, hedged, verified, timed, stalled. Spec: PROTOCOL §5, §8.

use super::*;

const SECOND_FILL: StreamId = stream(11);

/// A machine whose second path has a job on the same stream.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.primary(Frame::JobOpen(job(SECOND_JOB, OTHER)));
    machine.actions();
    machine
}

fn revoke(lease: u64, keep: u64) -> Frame {
    Frame::LeaseRevoke { lease: LeaseId::new(lease), keep, code: ErrorCode::LEASE_REVOKED }
}

fn done(lease: u64) -> Action {
    told(Frame::LeaseDone { lease: LeaseId::new(lease) })
}

fn refused(lease: u64, code: ErrorCode) -> Action {
    told(Frame::LeaseRefused { lease: LeaseId::new(lease), code })
}

fn to_path(path: PathId, frame: Frame) -> Action {
    Action::Send { path, frame }
}

fn hedge(lease: u64, of: u64, range: ByteRange) -> Frame {
    Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(lease),
        job: SECOND_JOB,
        range,
        digest: None,
        deadline_ms: None,
        hedge_of: Some(LeaseId::new(of)),
        progress: false,
    })
}

fn verified(lease: u64, range: ByteRange, bytes: &[u8]) -> Frame {
    Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(lease),
        job: JOB,
        range,
        digest: Some(blake3::hash(bytes).into()),
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    })
}

impl Machine {
    /// Opens the second path's internal stream, which hedges.
    fn open_second(&mut self, lease: u64, offset: u64) -> Opened {
        let header = StreamHeader::Secondary { lease: LeaseId::new(lease), offset };
        self.client.on_internal(OTHER, SECOND_FILL, header)
    }

    fn second_bytes(&mut self, len: usize) -> bool {
        self.client.on_bytes(OTHER, SECOND_FILL, Bytes::from(vec![7; len]))
    }

    /// Waits for the next deadline and runs what is due.
    fn time_out(&mut self) -> Vec<Action> {
        self.now = self.client.deadline().unwrap();
        self.client.handle_timeout(self.now);
        self.actions()
    }
}

/// Spec: PROTOCOL §5.6.
#[test]
fn a_cut_lease_ends_where_it_was_cut() {
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.open(PATH, 0, 200);
    machine.bytes(10);
    machine.actions();
    machine.primary(revoke(0, 50));
    assert_eq!(
        machine.actions(),
        [to_path(PATH, revoke(0, 50)), mapping(MappingOperation::Update, 0, range(200, 250))]
    );
    // The tail is free for another path at once.
    machine.primary(Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(1),
        job: SECOND_JOB,
        range: range(250, 300),
        digest: None,
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    }));
    let notice =
        Frame::LeaseNotice { lease: LeaseId::new(1), job: SECOND_JOB, range: range(250, 300), credit: 50 };
    assert_eq!(machine.actions(), [to_path(OTHER, notice)]);
    // The secondary had not heard of the cut: what it sent behind it is late, and places nothing.
    assert!(!machine.bytes(60), "nothing more is wanted");
    assert_eq!(
        machine.actions(),
        [Action::StopInternal { path: PATH, stream: FILL, code: ErrorCode::LEASE_REVOKED }, done(0),]
    );
    let source = machine.client.sources()[&PATH];
    assert_eq!((source.bytes, source.late_bytes, source.leases_done), (50, 20, 1));
    assert!(machine.client.is_live(PATH));
}

/// A cut before what has arrived keeps that, and the lease is done.
#[test]
fn a_cut_never_takes_back_what_is_placed() {
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.open(PATH, 0, 200);
    machine.bytes(60);
    machine.actions();
    machine.primary(revoke(0, 50));
    assert_eq!(
        machine.actions(),
        [
            to_path(PATH, revoke(0, 60)),
            mapping(MappingOperation::Update, 0, range(200, 260)),
            Action::StopInternal { path: PATH, stream: FILL, code: ErrorCode::LEASE_REVOKED },
            done(0),
        ]
    );
    machine.primary(revoke(0, 10));
    assert!(machine.actions().is_empty(), "over: late, and harmless");
    machine.grant(1, range(300, 400));
    machine.primary(revoke(1, 500));
    assert_eq!(machine.actions(), [mapping(MappingOperation::Update, 1, range(300, 400))], "nothing to cut");
}

/// Spec: PROTOCOL §5.2: what comes first counts, and the loser is told to stop.
#[test]
fn a_hedge_wins_or_loses_and_nothing_is_missing() {
    for hedge_wins in [true, false] {
        let mut machine = machine();
        machine.grant(0, range(200, 300));
        machine.open(PATH, 0, 200);
        machine.bytes(40);
        machine.actions();
        machine.primary(hedge(1, 0, range(220, 300)));
        assert_eq!(machine.actions().len(), 1, "noticed");
        assert_eq!(machine.open_second(1, 220), Opened::Read);
        assert!(machine.second_bytes(if hedge_wins { 79 } else { 10 }));
        machine.actions();
        let (winner, loser, path, internal) =
            if hedge_wins { (1, 0, PATH, FILL) } else { (0, 1, OTHER, SECOND_FILL) };
        assert!(if hedge_wins { machine.second_bytes(1) } else { machine.bytes(60) });
        let ended: Vec<Action> =
            machine.actions().into_iter().filter(|action| !matches!(action, Action::Notify(_))).collect();
        assert_eq!(
            ended,
            [
                done(winner),
                Action::StopInternal { path, stream: internal, code: ErrorCode::LEASE_REVOKED },
                to_path(path, revoke(loser, 0)),
                lost(loser, ErrorCode::LEASE_REVOKED, &[]),
            ]
        );
        let overlap: u64 = machine.client.sources().values().map(|source| source.overlap_bytes).sum();
        assert_eq!(overlap, if hedge_wins { 20 } else { 10 });
    }
}

#[test]
fn an_overlap_is_refused_unless_it_hedges_a_live_lease_of_another_path() {
    let refused = |lease| {
        told(Frame::LeaseRefused { lease: LeaseId::new(lease), code: ErrorCode::STREAM_MAPPING_CONFLICT })
    };
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.grant(1, range(300, 400));
    machine.primary(hedge(2, 0, range(250, 350)));
    assert_eq!(machine.actions(), [refused(2)], "of two leases");
    machine.primary(hedge(3, 1, range(250, 300)));
    assert_eq!(machine.actions(), [refused(3)], "of another lease");
    assert_eq!(machine.grant(4, range(250, 300)), [refused(4)], "of none");
    machine.primary(Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(5),
        job: JOB,
        range: range(200, 300),
        digest: None,
        deadline_ms: None,
        hedge_of: Some(LeaseId::new(0)),
        progress: false,
    }));
    assert_eq!(machine.actions(), [refused(5)], "by its own path");
    machine.primary(hedge(6, 0, range(200, 300)));
    assert_eq!(machine.actions().len(), 1, "noticed");
    machine.primary(hedge(7, 0, range(200, 210)));
    assert_eq!(machine.actions(), [refused(7)], "twice");
}

/// A hedge may cross a cut that is on its way: it ends what was cut as soon as all of that is here. Found by a random walk.
#[test]
fn what_a_longer_hedge_has_brought_ends_the_shorter_lease() {
    let mut machine = machine();
    machine.primary(Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(0),
        job: JOB,
        range: range(100, 300),
        digest: None,
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    }));
    machine.primary(revoke(0, 50));
    machine.primary(hedge(1, 0, range(100, 300)));
    machine.open_second(1, 100);
    machine.actions();
    machine.second_bytes(120);
    assert!(machine.actions().contains(&lost(0, ErrorCode::LEASE_REVOKED, &[])));
}

/// Spec: PROTOCOL §5.4: no byte counts before all of them are right.
#[test]
fn a_verified_lease_counts_whole_or_not_at_all() {
    for right in [true, false] {
        let mut machine = machine();
        let whole = range(100, 200);
        machine.primary(verified(0, whole, &[7; 100]));
        let credit = Frame::LeaseNotice { lease: LeaseId::new(0), job: JOB, range: whole, credit: 100 };
        assert_eq!(machine.actions(), [to_path(PATH, credit)]);
        machine.open(PATH, 0, 100);
        assert!(machine.bytes(99));
        machine.actions();
        assert!(!machine.client.is_readable(STREAM) && machine.client.held().0 == 0);
        machine.client.on_bytes(PATH, FILL, Bytes::from_static(if right { &[7] } else { &[8] }));
        let (wrong, answer) =
            if right { (0, done(0)) } else { (1, lost(0, ErrorCode::DIGEST_MISMATCH, &[whole])) };
        assert!(machine.actions().contains(&answer));
        assert_eq!(machine.client.is_readable(STREAM), right);
        assert_eq!(machine.client.sources()[&PATH].digests_wrong, wrong);
        machine.client.audit().unwrap();
        if right {
            let read = machine.client.read(machine.now, STREAM, 1000, true);
            assert_eq!(read.unwrap().unwrap().bytes.len(), 100);
            machine.client.audit().unwrap();
        }
    }
}

/// Bytes that wait for their digest lie in the stream's window, which is made wide enough for them and as much again: they
/// wait for their turn as any other bytes do. Spec: PROTOCOL §5.4.
#[test]
fn a_verified_lease_waits_in_the_streams_window() {
    let mut machine = machine();
    let window = limits::STREAM_WINDOW;
    let longest = machine.client.verified_max();
    machine.primary(verified(0, range(100, 101 + longest), b"never"));
    assert_eq!(machine.actions(), [refused(0, ErrorCode::LIMIT_EXCEEDED)]);
    let free = machine.client.extra_window_free();
    let (near, far) = (range(100, 1100), range(100 + window, 1100 + window));
    machine.primary(verified(1, far, &[7; 1000]));
    machine.primary(verified(2, near, &[7; 1000]));
    let notice = |lease, range, credit| {
        to_path(PATH, Frame::LeaseNotice { lease: LeaseId::new(lease), job: JOB, range, credit })
    };
    let permitted = |action: &Action| matches!(action, Action::PermitUni { .. });
    let noticed: Vec<Action> = machine.settled().into_iter().filter(|action| !permitted(action)).collect();
    assert_eq!(noticed, [notice(1, far, 0), notice(2, near, 1000)]);
    assert_eq!(machine.client.extra_window_free(), free, "room that the window has needs no other");
    // One that would fill more than half of the window widens it at once, for two such and what runs are given.
    machine.primary(verified(3, range(2000 + window, 2000 + 2 * window), b"never"));
    let wider = window + limits::GUARANTEED_CREDIT;
    assert_eq!(machine.client.extra_window_free(), free - wider);
    machine.client.audit().unwrap();
    machine.primary(revoke(3, 0));
    assert_eq!(machine.client.extra_window_free(), free - wider, "credit is not taken back, nor a window");
    machine.client.audit().unwrap();
}

/// Found by the simulator, in seeds 2428 and 4153 of its evil peers: verified bytes further on held all that was left of the
/// session window, and the one lease that would have let the reader get there was refused again and again.
#[test]
fn the_verified_lease_that_the_reader_waits_for_finds_room() {
    const LEN: u64 = 32 * 1024;
    let mut machine = machine();
    let most = machine.client.extra_window_max();
    machine.client.extra_window = most;
    let count = limits::STREAM_WINDOW / LEN;
    let bytes = vec![7; usize::try_from(LEN).unwrap()];
    let at = |index: u64| range(100 + index * LEN, 100 + (index + 1) * LEN);
    // All of the window comes, but for its first part.
    for index in 1..count {
        machine.primary(verified(index, at(index), &bytes));
        assert_eq!(machine.open(PATH, index, at(index).start()), Opened::Read);
        machine.bytes(bytes.len());
        machine.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
    }
    machine.settled();
    assert_eq!(machine.client.held().0, limits::STREAM_WINDOW - LEN);
    machine.primary(verified(count, at(0), &bytes));
    assert!(!machine.actions().iter().any(|action| *action == refused(count, ErrorCode::NO_CREDIT)));
    machine.open(PATH, count, 100);
    machine.bytes(bytes.len());
    assert!(machine.actions().contains(&done(count)) && machine.client.is_readable(STREAM));
}

/// Bytes that wait for a digest while somebody else brings the same have no room in the window twice.
#[test]
fn what_may_come_twice_has_room_of_its_own() {
    let whole = range(100, 1100);
    let bytes = [7; 1000];
    let hedged_by = |digest: Option<[u8; 32]>| {
        let (lease, hedge_of) = (LeaseId::new(1), Some(LeaseId::new(0)));
        Frame::LeaseGrant(LeaseGrant {
            lease,
            job: SECOND_JOB,
            range: whole,
            digest,
            deadline_ms: None,
            hedge_of,
            progress: false,
        })
    };
    let right = Some(blake3::hash(&bytes).into());
    for (first, second) in [
        (verified(0, whole, &bytes), hedged_by(right)),
        (verified(0, whole, &bytes), hedged_by(None)),
        (grant(0, whole), hedged_by(right)),
    ] {
        for room in [true, false] {
            let mut machine = machine();
            if !room {
                machine.client.extra_window = machine.client.extra_window_max() - 999;
            }
            let free = machine.client.extra_window_free();
            machine.primary(first.clone());
            machine.primary(second.clone());
            if !room {
                assert_eq!(machine.actions().pop(), Some(refused(1, ErrorCode::NO_CREDIT)));
                continue;
            }
            assert_eq!(machine.client.extra_window_free(), free - 1000);
            machine.client.audit().unwrap();
            machine.open(PATH, 0, 100);
            machine.open_second(1, 100);
            machine.bytes(999);
            machine.second_bytes(999);
            machine.client.audit().unwrap();
            machine.bytes(1);
            machine.client.audit().unwrap();
            assert!(machine.actions().contains(&done(0)) && !machine.client.leases.contains(LeaseId::new(1)));
            assert_eq!(machine.client.extra_window_free(), free, "given back by whoever had it");
        }
    }
}

/// The same, where it is the primary that writes.
#[test]
fn a_verified_lease_makes_way_for_the_primarys_own_bytes() {
    for room in [true, false] {
        let mut machine = machine();
        let free = if room { machine.client.extra_window_free() } else { 999 };
        machine.client.extra_window = machine.client.extra_window_max() - free;
        machine.primary(verified(0, range(100, 1100), &[7; 1000]));
        machine.open(PATH, 0, 100);
        machine.bytes(600);
        machine.actions();
        let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
        assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
        machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from_static(&[7; 10]));
        let lost = lost(0, ErrorCode::NO_CREDIT, &[range(100, 1100)]);
        assert_eq!(machine.actions().contains(&lost), !room);
        assert_eq!(machine.client.extra_window_free(), if room { free - 1000 } else { free });
        if room {
            machine.bytes(400);
            assert_eq!(machine.client.extra_window_free(), free);
            machine.primary(verified(1, range(1000, 2000), &[7; 1000])); // the first bytes of it are here
            assert_eq!(machine.client.extra_window_free(), free - 1000);
            machine.client.audit().unwrap();
        }
    }
}

#[test]
fn a_verified_lease_is_not_cut() {
    let mut machine = machine();
    machine.primary(verified(0, range(200, 300), b"never"));
    machine.actions();
    machine.primary(revoke(0, 50));
    assert_eq!(machine.actions(), [Action::CloseSession { fault: PeerFault::CutOfVerified }]);
}

#[test]
fn a_lease_is_lost_at_its_deadline() {
    let mut machine = machine();
    machine.primary(Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(0),
        job: JOB,
        // Without credit, so that nothing else is due.
        range: range(100 + limits::STREAM_WINDOW, 200 + limits::STREAM_WINDOW),
        digest: None,
        deadline_ms: Some(1500),
        hedge_of: None,
        progress: false,
    }));
    machine.settled();
    assert_eq!(machine.client.deadline(), Some(machine.now + Duration::from_millis(1500)));
    let missing = range(100 + limits::STREAM_WINDOW, 200 + limits::STREAM_WINDOW);
    assert_eq!(
        machine.time_out(),
        [to_path(PATH, revoke_late()), lost(0, ErrorCode::AGGREGATION_TIMEOUT, &[missing])]
    );
    assert_eq!(machine.client.deadline(), None);
}

fn revoke_late() -> Frame {
    Frame::LeaseRevoke { lease: LeaseId::new(0), keep: 0, code: ErrorCode::AGGREGATION_TIMEOUT }
}

/// Spec: PROTOCOL §8.5: the path answers, and nothing comes of the lease.
#[test]
fn a_lease_of_which_nothing_comes_stalls_and_goes_on() {
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.grant(1, range(300, 400));
    machine.settled();
    let start = machine.now;
    let mut frames = 0;
    let stalled = loop {
        let actions = machine.time_out();
        frames += 1;
        machine.client.on_heard(machine.now, PATH, frames, None); // every probe is answered
        if actions != [Action::Ping { path: PATH }] {
            break actions;
        }
    };
    // The lowest only: those behind it have it for a reason.
    assert_eq!(stalled, [mapping(MappingOperation::Suspend, 0, range(200, 300))]);
    assert_eq!(machine.now - start, limits::STALL_MIN);
    machine.settled();
    machine.open(PATH, 0, 200);
    machine.bytes(1);
    assert_eq!(
        machine.actions(),
        [
            mapping(MappingOperation::Create, 0, range(200, 300)),
            mapping(MappingOperation::Resume, 0, range(200, 300)),
        ]
    );
    assert_eq!(machine.client.sources()[&PATH].stalls, 1);
}

/// A disk that always takes its time is not a stall: what is usual on a path is learnt.
#[test]
fn a_slow_disk_is_given_the_time_it_usually_takes() {
    let mut machine = machine();
    let slow = Duration::from_millis(300);
    let mut frames = 0;
    for lease in 0..8 {
        let start = 200 + lease * 100;
        machine.grant(lease, range(start, start + 100));
        machine.settled();
        let bytes_at = machine.now + slow;
        let mut stalls = 0;
        while let Some(at) = machine.client.deadline().filter(|&at| at < bytes_at) {
            machine.now = at;
            machine.client.handle_timeout(at);
            let suspended = |action: &Action| {
                let Action::Send { frame: Frame::StreamMappingUpdate { operation, .. }, .. } = action else {
                    return false;
                };
                *operation == MappingOperation::Suspend
            };
            stalls += machine.actions().iter().filter(|action| suspended(action)).count();
            frames += 1;
            machine.client.on_heard(at, PATH, frames, None);
            machine.settled();
        }
        assert_eq!(stalls, usize::from(lease == 0), "lease {lease}");
        machine.now = bytes_at;
        let internal = stream(3 + 4 * (10 + lease));
        let header = StreamHeader::Secondary { lease: LeaseId::new(lease), offset: start };
        machine.client.on_internal(PATH, internal, header);
        // At once, or in two batches: both teach how long the first byte takes.
        for part in if lease == 0 { vec![100] } else { vec![50, 50] } {
            machine.client.on_bytes(PATH, internal, Bytes::from(vec![7; part]));
            machine.settled();
        }
    }
}

/// Waits for `pause` on a path that answers; returns how often a lease was suspended meanwhile.
fn stalls_in(machine: &mut Machine, frames: &mut u64, pause: Duration) -> usize {
    let (until, mut stalls) = (machine.now + pause, 0);
    while let Some(at) = machine.client.deadline().filter(|&at| at < until) {
        machine.now = at;
        machine.client.handle_timeout(at);
        let suspended = |action: &&Action| {
            let suspend = MappingOperation::Suspend;
            matches!(action, Action::Send { frame: Frame::StreamMappingUpdate { operation, .. }, .. }
                if *operation == suspend)
        };
        stalls += machine.actions().iter().filter(suspended).count();
        *frames += 1;
        machine.client.on_heard(at, PATH, *frames, None);
        machine.settled();
    }
    machine.now = until;
    stalls
}

/// A disk's pieces need not end where a lease does: a pause in the middle of one is as usual as one before it. But who takes
/// longer each time is waited for no longer than two seconds.
#[test]
fn pauses_in_the_middle_of_a_lease_are_learnt_too() {
    let (mut machine, mut frames) = (machine(), 0);
    machine.grant(0, range(200, 1000));
    machine.settled();
    assert_eq!(machine.open(PATH, 0, 200), Opened::Read);
    machine.bytes(50);
    machine.settled();
    let slow = Duration::from_millis(300);
    for round in 0..4 {
        assert_eq!(stalls_in(&mut machine, &mut frames, slow), usize::from(round == 0), "round {round}");
        machine.bytes(50);
        machine.settled();
    }
    let mut pause = slow;
    while stalls_in(&mut machine, &mut frames, pause) == 0 {
        assert!(pause < Duration::from_secs(3), "a trickler is waited for for ever");
        machine.bytes(1);
        machine.settled();
        pause = pause * 19 / 10;
    }
    assert!(pause > Duration::from_secs(1), "{pause:?}");
}

/// A path that was suspected and is heard again: what was held against it is not any more.
#[test]
fn suspicion_ends_when_the_path_is_heard() {
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.settled();
    for _ in 0..PROBES {
        assert_eq!(machine.time_out(), [Action::Ping { path: PATH }]);
    }
    let suspended = mapping(MappingOperation::Suspend, 0, range(200, 300));
    assert_eq!(machine.time_out(), [Action::Ping { path: PATH }, suspended]);
    machine.client.on_heard(machine.now, PATH, 1, None);
    assert_eq!(machine.actions(), [mapping(MappingOperation::Resume, 0, range(200, 300))]);
}

/// Spec: PROTOCOL §7.6.
#[test]
fn a_removed_path_finishes_its_leases_within_its_time() {
    let removal = |deadline_ms| Frame::RemovePath { path: PATH, code: ErrorCode::NO_ERROR, deadline_ms };
    let gone = |code| {
        [
            told(Frame::PathReport { path: PATH, status: PathStatus::Dead(code) }),
            Action::Notify(Event::PathChanged(PATH)),
            Action::ClosePath { path: PATH, code: ErrorCode::NO_ERROR },
        ]
    };
    for in_time in [true, false] {
        let mut machine = machine();
        machine.grant(0, range(200, 300));
        machine.primary(removal(500));
        let drain = to_path(PATH, Frame::Drain { deadline_ms: 500 });
        assert_eq!(machine.settled(), [drain, Action::Notify(Event::PathChanged(PATH))]);
        let refused = Frame::LeaseRefused { lease: LeaseId::new(1), code: ErrorCode::DRAINING };
        assert_eq!(machine.grant(1, range(300, 400)), [told(refused)], "no more of it");
        machine.open(PATH, 0, 200);
        assert!(machine.bytes(99), "what it has goes on");
        machine.settled();
        if in_time {
            machine.bytes(1);
            assert_eq!(machine.actions(), [done(0)]);
            assert_eq!(machine.settled(), gone(ErrorCode::NO_ERROR));
        } else {
            machine.now += Duration::from_millis(500);
            machine.client.on_heard(machine.now, PATH, 1, None);
            machine.client.handle_timeout(machine.now);
            let actions = machine.settled();
            assert!(actions.contains(&lost(0, ErrorCode::NO_ERROR, &[range(299, 300)])), "{actions:?}");
            assert!(actions.ends_with(&gone(ErrorCode::NO_ERROR)), "{actions:?}");
        }
        machine.primary(removal(0));
        assert!(machine.settled().is_empty(), "gone once");
    }
    // Without leases, or without time, there is nothing to wait for.
    for deadline_ms in [0, 500] {
        let mut machine = machine();
        machine.primary(removal(deadline_ms));
        assert_eq!(machine.settled(), gone(ErrorCode::NO_ERROR));
    }
}

/// Spec: PROTOCOL §6, "Gaps": a hole that nobody fills is asked about, and only then told to the reader.
#[test]
fn a_reader_is_told_of_what_nobody_brings() {
    let mut machine = machine();
    let code = ErrorCode::AGGREGATION_TIMEOUT;
    machine.grant(0, range(200, 300));
    assert_eq!(machine.client.read(machine.now, STREAM, 9, true), Err(ReadError::Blocked));
    machine.settled();
    machine.open(PATH, 0, 200);
    machine.bytes(100);
    machine.settled();
    let ask = told(Frame::OffsetSyncRequest { stream: STREAM, from: 100 });
    let answer = |owned: &[ByteRange]| Frame::OffsetSyncResponse {
        stream: STREAM,
        received: owned.iter().copied().collect(),
        more: false,
    };
    let asked_at = machine.client.deadline().unwrap();
    assert_eq!(asked_at, machine.now + limits::STALL_MIN);
    assert_eq!(machine.time_out(), std::slice::from_ref(&ask));
    machine.primary(answer(&[range(100, 300)]));
    assert_eq!(machine.time_out(), [ask], "on its way, says the primary: asked again");
    machine.primary(answer(&[range(200, 300)]));
    assert_eq!(machine.client.deadline(), Some(machine.now + limits::GAP_TIMEOUT));
    assert_eq!(machine.time_out(), [Action::Notify(Event::Readable(STREAM))]);
    let missing = Err(ReadError::Incomplete { stream: STREAM, missing: range(100, 200), code });
    assert_eq!(machine.client.read(machine.now, STREAM, 9, true), missing);
    assert_eq!(machine.client.read(machine.now, STREAM, 9, true), Err(ReadError::Blocked), "once");
    // Somebody is given it after all.
    machine.grant(1, range(100, 200));
    machine.settled();
    assert!(machine.client.gap_deadline().is_none());
    machine.primary(answer(&[]));
    assert_eq!(machine.client.late_frames(), 1);
}

/// A reader that waits for what has not been written waits for no gap.
#[test]
fn what_nobody_has_written_is_no_gap() {
    let mut machine = machine();
    assert_eq!(machine.client.read(machine.now, STREAM, 9, true), Err(ReadError::Blocked));
    machine.settled();
    assert_eq!(machine.client.deadline(), None);
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 150 });
    machine.settled();
    assert!(machine.client.gap_deadline().is_some(), "it was written, and nobody brings it");
}

#[test]
fn what_is_here_is_told_in_pages() {
    let mut machine = machine();
    let mut internal = 100;
    for at in 0..70 {
        internal += 1;
        let offset = 1000 + at * 10;
        let header = StreamHeader::Internal { stream: STREAM, offset };
        machine.client.on_internal(PathId::PRIMARY, stream(3 + 4 * internal), header);
        machine.client.on_bytes(PathId::PRIMARY, stream(3 + 4 * internal), Bytes::from_static(b"here"));
    }
    machine.settled();
    machine.primary(Frame::OffsetSyncRequest { stream: STREAM, from: 1002 });
    let page = |action: &Action| {
        let Action::Send { frame: Frame::OffsetSyncResponse { received, more, .. }, .. } = action else {
            return None;
        };
        Some((received.len(), received[0].start(), *more))
    };
    let pages: Vec<_> = machine.actions().iter().filter_map(page).collect();
    assert_eq!(pages, [(64, 1002, true), (6, 1640, false)]);
    machine.primary(Frame::OffsetSyncRequest { stream: stream(5), from: 0 });
    assert_eq!(machine.actions(), [Action::CloseSession { fault: PeerFault::SyncOfUnsplit }], "never split");
}

/// Between two leases that hedge each other the last hole may close before either is full.
#[test]
fn a_lease_ends_once_all_of_it_is_here() {
    let mut machine = machine();
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 200 });
    machine.grant(0, range(100, 200));
    machine.open(PATH, 0, 100);
    machine.bytes(40);
    machine.primary(hedge(1, 0, range(150, 200)));
    machine.open_second(1, 150);
    machine.second_bytes(50);
    machine.actions();
    machine.bytes(10);
    let actions = machine.actions();
    assert!(actions.contains(&lost(0, ErrorCode::LEASE_REVOKED, &[])), "{actions:?}");
    assert!(actions.contains(&told(Frame::StreamComplete { stream: STREAM })), "{actions:?}");
}

/// The primary may give a hedge before it hears that the lease has been cut: an honest one is not refused for it.
#[test]
fn a_hedge_may_cross_a_cut() {
    let mut machine = machine();
    machine.grant(0, range(200, 300));
    machine.primary(revoke(0, 50));
    machine.actions();
    machine.primary(hedge(1, 0, range(220, 300)));
    let notice =
        Frame::LeaseNotice { lease: LeaseId::new(1), job: SECOND_JOB, range: range(220, 300), credit: 80 };
    assert_eq!(machine.actions(), [to_path(OTHER, notice)]);
    machine.client.audit().unwrap();
}
