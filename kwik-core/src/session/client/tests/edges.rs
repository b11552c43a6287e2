//! Frames that are late, come twice or are nobody's to send; the limits on jobs, leases, paths and pieces, each at its edge.

use super::*;
use crate::{
    faults::AggregationFaults,
    id::OFFSET_MAX,
    session::{
        price::{JOB_GENUINE, LEASE_OVER},
        relays::Unwelcome,
    },
    wire::{Credit, RelayOpen},
};

/// Returns whether a frame changes nothing but the count of late ones.
fn is_late(machine: &mut Machine, path: PathId, frame: Frame) -> bool {
    machine.actions();
    let before = machine.client.late_frames();
    machine.client.handle_frame(machine.now, path, frame);
    machine.actions().is_empty() && machine.client.late_frames() == before + 1
}

fn closes_session(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::CloseSession { .. }))
}

fn closes_path(actions: &[Action], id: PathId) -> bool {
    actions.iter().any(|action| matches!(action, Action::BreakPath { path, .. } if *path == id))
}

fn refused(actions: &[Action], id: u64) -> Option<ErrorCode> {
    actions.iter().find_map(|action| {
        let Action::Send { frame: Frame::LeaseRefused { lease, code }, .. } = action else {
            return None;
        };
        (*lease == LeaseId::new(id)).then_some(*code)
    })
}

fn opened(actions: &[Action], id: JobId) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Send { frame: Frame::JobOpen(open), .. } if open.job == id))
}

fn job_refused(actions: &[Action], id: JobId) -> Option<ErrorCode> {
    actions.iter().find_map(|action| {
        let Action::Send { path: PathId::PRIMARY, frame: Frame::JobRefused { job, code } } = action else {
            return None;
        };
        (*job == id).then_some(*code)
    })
}

fn revoke(lease: u64, keep: u64) -> Frame {
    Frame::LeaseRevoke { lease: LeaseId::new(lease), keep, code: ErrorCode::LEASE_REVOKED }
}

#[test]
fn what_is_said_again_or_too_late_is_counted_and_changes_nothing() {
    let mut machine = Machine::new();
    let job_closed = |job| Frame::JobClose { job };
    for late in [revoke(9, 0), revoke(9, 5), job_closed(JobId::new(9))] {
        assert!(is_late(&mut machine, PathId::PRIMARY, late.clone()), "{late:?}");
    }
    for late in [
        Frame::JobAccepted { job: JobId::new(9) },
        Frame::JobRefused { job: JobId::new(9), code: ErrorCode::NO_ERROR },
    ] {
        assert!(is_late(&mut machine, PATH, late.clone()), "{late:?}");
    }
    machine.secondary(PATH, Frame::JobAccepted { job: JOB });
    assert!(is_late(&mut machine, PATH, Frame::JobAccepted { job: JOB }));
    let code = ErrorCode::LIMIT_EXCEEDED;
    machine.secondary(PATH, Frame::JobRefused { job: JOB, code });
    assert!(is_late(&mut machine, PATH, Frame::JobRefused { job: JOB, code }));
    assert!(is_late(&mut machine, PATH, Frame::JobAccepted { job: JOB }));

    let mut machine = Machine::new();
    machine.grant(0, range(200, 300));
    machine.primary(revoke(0, 0));
    assert!(is_late(&mut machine, PathId::PRIMARY, revoke(0, 0)));
    assert!(is_late(&mut machine, PATH, Frame::LeaseRefused { lease: LeaseId::new(0), code }));

    let gone = Frame::RemovePath { path: PATH, code: ErrorCode::NO_ERROR, deadline_ms: 0 };
    machine.primary(gone.clone());
    assert!(is_late(&mut machine, PathId::PRIMARY, gone));

    let mut machine = Machine::new();
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 100 });
    assert_eq!(machine.client.read(machine.now, STREAM, 1, true), Ok(None));
    assert!(is_late(&mut machine, PathId::PRIMARY, Frame::StreamFinal { stream: STREAM, size: 100 }));
}

/// A path answers for its own work only.
#[test]
fn nobody_answers_for_another_path() {
    let code = ErrorCode::LIMIT_EXCEEDED;
    for answer in [Frame::JobAccepted { job: JOB }, Frame::JobRefused { job: JOB, code }] {
        let mut machine = Machine::new();
        machine.secondary(OTHER, answer);
        let actions = machine.actions();
        assert!(closes_path(&actions, OTHER) && job_refused(&actions, JOB).is_none());
    }
    let refuse = |lease| Frame::LeaseRefused { lease: LeaseId::new(lease), code };
    for (path, lease) in [(OTHER, 0), (PATH, 1), (OTHER, 1)] {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        machine.secondary(path, refuse(lease));
        assert!(closes_path(&machine.actions(), path), "{path:?}: {lease}");
    }
    // Not even for one of its own that it was never told of.
    let mut machine = Machine::new();
    machine.add(PathId::new(3));
    machine.primary(Frame::JobOpen(job(SECOND_JOB, PathId::new(3))));
    machine.primary(Frame::LeaseGrant(lease(0, SECOND_JOB, range(200, 300))));
    machine.client.on_path_handshake(first(PathId::new(3)), None, Some([1; 32]));
    machine.secondary(PathId::new(3), refuse(0));
    assert!(closes_path(&machine.actions(), PathId::new(3)));
}

/// A job that its path never heard of takes its leases with it, and nobody else's. One that it knows is closed there.
#[test]
fn a_job_that_is_closed_while_its_path_attaches_ends_its_leases() {
    let mut machine = Machine::new();
    let (path, kept) = (PathId::new(3), JobId::new(2));
    machine.add(path);
    machine.primary(Frame::JobOpen(job(SECOND_JOB, path)));
    machine.primary(Frame::JobOpen(job(kept, path)));
    machine.primary(Frame::LeaseGrant(lease(0, SECOND_JOB, range(200, 300))));
    machine.primary(Frame::LeaseGrant(lease(1, kept, range(300, 400))));
    machine.actions();
    machine.primary(Frame::JobClose { job: SECOND_JOB });
    assert_eq!(machine.actions(), [lost(0, ErrorCode::LEASE_REVOKED, &[range(200, 300)])]);
    machine.client.on_path_handshake(first(path), None, Some([1; 32]));
    machine.secondary(path, Frame::ServerHello(hello()));
    let actions = machine.actions();
    assert!(opened(&actions, kept) && !opened(&actions, SECOND_JOB));
    machine.primary(Frame::JobClose { job: kept });
    assert_eq!(machine.actions(), [Action::Send { path, frame: Frame::JobClose { job: kept } }]);
}

/// Leases of a job that its server refuses are lost with its code, and those of others are not.
#[test]
fn a_refused_job_takes_its_leases_with_it() {
    let mut machine = Machine::new();
    machine.primary(Frame::JobOpen(job(SECOND_JOB, PATH)));
    machine.grant(0, range(200, 300));
    machine.primary(Frame::LeaseGrant(lease(1, SECOND_JOB, range(300, 400))));
    machine.actions();
    let code = ErrorCode::from_u32(4);
    machine.secondary(PATH, Frame::JobRefused { job: JOB, code });
    let expected = [told(Frame::JobRefused { job: JOB, code }), lost(0, code, &[range(200, 300)])];
    assert_eq!(machine.actions(), expected);
    assert_eq!(refused(&machine.grant(2, range(400, 500)), 2), Some(code), "on its way");
}

/// Spec: PROTOCOL §11.1.
#[test]
fn a_path_has_so_many_jobs_and_leases() {
    let mut machine = Machine::new();
    let open = |id: usize| job(JobId::new(id as u64), PATH);
    for id in 1..limits::JOBS_PER_PATH {
        machine.primary(Frame::JobOpen(open(id)));
        machine.now += Duration::from_secs(1);
        assert!(opened(&machine.actions(), JobId::new(id as u64)), "{id}");
    }
    machine.primary(Frame::JobOpen(open(limits::JOBS_PER_PATH)));
    let full = JobId::new(limits::JOBS_PER_PATH as u64);
    assert_eq!(job_refused(&machine.actions(), full), Some(ErrorCode::LIMIT_EXCEEDED));

    let mut machine = Machine::new();
    let (mut permitted, mut permits) = (limits::UNI_START, 0);
    for id in 0..limits::LEASES_PER_PATH as u64 {
        machine.now += Duration::from_secs(1);
        let actions = machine.grant(id, range(1000 + id, 1001 + id));
        assert_eq!(refused(&actions, id), None);
        for action in actions {
            if let Action::PermitUni { path: PATH, count } = action {
                assert!(count > permitted);
                (permitted, permits) = (count, permits + 1);
            }
        }
        // Each may have an internal stream, and there is some slack.
        assert!(permitted > id + limits::UNI_SLACK);
    }
    assert_eq!(permitted, limits::LEASES_PER_PATH as u64 + limits::UNI_SLACK);
    assert!(permits < 8, "{permits} frames");
    let id = limits::LEASES_PER_PATH as u64;
    machine.now += Duration::from_secs(1);
    assert_eq!(refused(&machine.grant(id, range(9000, 9001)), id), Some(ErrorCode::LIMIT_EXCEEDED));
}

/// Spec: PROTOCOL §5.2.
#[test]
fn a_grant_lies_within_its_job_and_has_a_longest_length() {
    let most = limits::LEASE_MAX;
    for (start, end, fine) in [
        (1000, 1000 + most, true),
        (1000, 1001 + most, false),
        (999, 1001, false),
        (999 + 2 * most, 1001 + 2 * most, false),
    ] {
        let mut machine = Machine::new();
        let long = JobOpen { range: range(1000, 1000 + 2 * most), ..job(SECOND_JOB, PATH) };
        machine.primary(Frame::JobOpen(long));
        machine.primary(Frame::LeaseGrant(lease(0, SECOND_JOB, range(start, end))));
        assert_eq!(!closes_session(&machine.actions()), fine, "{start}..{end}");
    }
}

/// It has to fit the window twice.
#[test]
fn a_verified_lease_has_a_longest_length() {
    for (longer, code) in [(0, None), (1, Some(ErrorCode::LIMIT_EXCEEDED))] {
        let mut machine = Machine::with(|config| config.session_window(9 << 20).stream_window(64 << 10));
        let len = machine.client.verified_max() + longer;
        assert_eq!(machine.client.verified_max() * 2, machine.client.extra_window_max());
        machine.primary(Frame::LeaseGrant(verified(lease(0, JOB, range(1000, 1000 + len)))));
        assert_eq!(refused(&machine.actions(), 0), code);
    }
}

#[test]
fn a_session_has_so_many_paths_alive_and_remembers_so_many_dead_ones() {
    let mut machine = Machine::with(|config| config.secondary_paths_max(2));
    let code = |actions: &[Action], id| {
        actions.iter().find_map(|action| {
            let Action::Send { frame: Frame::PathReport { path, status: PathStatus::Dead(code) }, .. } =
                action
            else {
                return None;
            };
            (*path == id).then_some(*code)
        })
    };
    let full = PathId::new(3);
    machine.add(full);
    assert_eq!(code(&machine.actions(), full), Some(ErrorCode::LIMIT_EXCEEDED));
    let remove = |path| Frame::RemovePath { path, code: ErrorCode::NO_ERROR, deadline_ms: 0 };
    machine.primary(remove(PATH));
    for id in 4.. {
        let path = PathId::new(id);
        machine.now += Duration::from_secs(60);
        machine.add(path);
        machine.actions();
        machine.primary(remove(path));
        assert_eq!(code(&machine.actions(), path), Some(ErrorCode::NO_ERROR));
        if id as usize == limits::DEAD_PATHS_LISTED + 9 {
            break;
        }
    }
    assert_eq!(machine.client.paths.len(), limits::DEAD_PATHS_LISTED + 1);
    assert!(machine.client.paths.contains_key(&OTHER), "it lives");
    let oldest = machine.client.paths.keys().nth(1);
    assert_eq!(oldest, Some(&PathId::new(10)), "the oldest are forgotten first");
}

/// Who was let in and then breaks off has not shown a wrong key. Spec: PROTOCOL §8.
#[test]
fn only_a_path_that_attaches_fails_by_its_key() {
    let dead = |path, code| told(Frame::PathReport { path, status: PathStatus::Dead(code) });
    let mut machine = Machine::new();
    machine.add(PathId::new(3));
    machine.actions();
    for (path, code, expected) in [
        (PATH, ErrorCode::AUTH_FAILED, ErrorCode::PATH_DEAD),
        (OTHER, ErrorCode::DRAINING, ErrorCode::DRAINING),
        (PathId::new(3), ErrorCode::AUTH_FAILED, ErrorCode::AUTH_FAILED),
    ] {
        machine.client.on_path_lost(path, code);
        assert!(machine.actions().contains(&dead(path, expected)), "{path:?}");
    }
}

/// Spec: PROTOCOL §9.
#[test]
fn a_message_goes_between_the_primary_and_a_server_that_it_named() {
    let head = |path, sealed: bool| RelayOpen {
        path,
        id: 0,
        length: 1,
        seal: sealed.then(|| Signature::new([0; 64])),
    };
    let fault = |fault| Err(Unwelcome::Fault(fault));
    let refuse = |code| Err(Unwelcome::Refuse(code));
    let third = PathId::new(3);
    let mut machine = Machine::new();
    machine.add(third);
    let ask = |machine: &Machine, from, path, sealed| machine.client.check_relay(from, &head(path, sealed));
    let down = |machine: &Machine, path| ask(machine, PathId::PRIMARY, path, true);
    assert_eq!(down(&machine, PATH), Ok(PATH));
    assert_eq!(down(&machine, PathId::PRIMARY), fault(PeerFault::RelayToNobody));
    assert_eq!(down(&machine, PathId::new(4)), fault(PeerFault::RelayToNobody));
    assert_eq!(down(&machine, third), refuse(ErrorCode::RELAY_REFUSED), "not attached");
    assert_eq!(ask(&machine, PathId::PRIMARY, PATH, false), fault(PeerFault::RelayUnsealed));

    assert_eq!(ask(&machine, PATH, PATH, false), Ok(PathId::PRIMARY));
    assert_eq!(ask(&machine, PATH, OTHER, false), fault(PeerFault::RelayOfOther));
    assert_eq!(ask(&machine, third, third, false), fault(PeerFault::RelayTooSoon));
    machine.client.paths.get_mut(&PATH).unwrap().features = Features::default();
    assert_eq!(
        down(&machine, PATH),
        refuse(ErrorCode::RELAY_REFUSED),
        "its server does not know of messages"
    );
    machine.client.on_path_lost(PATH, ErrorCode::PATH_DEAD);
    assert_eq!(down(&machine, PATH), refuse(ErrorCode::PATH_DEAD));
    assert_eq!(ask(&machine, PATH, PATH, false), refuse(ErrorCode::RELAY_REFUSED));

    // Nor to a primary that does not know of messages, or is gone.
    let known = machine.client.features;
    machine.client.features = Features::default();
    assert_eq!(ask(&machine, OTHER, OTHER, false), refuse(ErrorCode::RELAY_REFUSED));
    machine.client.features = known;
    assert_eq!(ask(&machine, OTHER, OTHER, false), Ok(PathId::PRIMARY));
    machine.client.lost = Some(ErrorCode::PATH_DEAD);
    assert_eq!(ask(&machine, OTHER, OTHER, false), refuse(ErrorCode::RELAY_REFUSED));
}

/// Spec: PROTOCOL §4.
#[test]
fn headers_are_for_who_may_send_them() {
    let secondary = StreamHeader::Secondary { lease: LeaseId::new(0), offset: 200 };
    let internal = StreamHeader::Internal { stream: STREAM, offset: 200 };
    let code = ErrorCode::INVALID_STREAM_ROLE;
    for (path, header) in
        [(PathId::PRIMARY, secondary), (PathId::PRIMARY, StreamHeader::Public), (PATH, internal)]
    {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        assert_eq!(machine.client.on_internal(path, FILL, header), Opened::Stop(code), "{path:?}");
        let actions = machine.actions();
        assert_eq!(closes_session(&actions), path.is_primary());
        assert!(!machine.client.on_bytes(path, FILL, sevens(10)), "{path:?}");
        assert_eq!(machine.client.read(machine.now, STREAM, 1, false).ok().flatten(), None);
    }
}

/// Bytes before the split come in the stream itself, and of one that is over nobody wants more.
#[test]
fn a_run_lies_within_its_stream() {
    let run = |offset| StreamHeader::Internal { stream: STREAM, offset };
    let mut machine = Machine::new();
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, run(100)), Opened::Read);
    assert!(!closes_session(&machine.actions()));
    let stop = Opened::Stop(ErrorCode::LEASE_VIOLATION);
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, stream(11), run(99)), stop);
    assert!(closes_session(&machine.actions()));

    let mut machine = Machine::new();
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 100 });
    assert_eq!(machine.client.read(machine.now, STREAM, 1, true), Ok(None));
    let stop = Opened::Stop(ErrorCode::STREAM_CLOSED);
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, run(100)), stop);
}

/// A run that waits for its split is stopped if the split is refused, and only that one. Spec: PROTOCOL §4.
#[test]
fn a_stream_without_room_stops_its_runs() {
    let (second, third) = (stream(5), stream(9));
    let mut machine = Machine::with(|config| config.session_window(256 * 1024));
    let run = |stream| StreamHeader::Internal { stream, offset: 0 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, stream(11), run(second)), Opened::Wait);
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, stream(15), run(third)), Opened::Wait);
    machine.primary(Frame::Split { stream: second, offset: 0 });
    let actions = machine.actions();
    let resumed = |internal| Action::ResumeInternal { path: PathId::PRIMARY, stream: internal };
    assert!(actions.contains(&resumed(stream(11))) && !actions.contains(&resumed(stream(15))));
    machine.primary(Frame::Split { stream: third, offset: 0 });
    let code = ErrorCode::STREAM_CLOSED;
    assert_eq!(
        machine.actions(),
        [
            told(Frame::SplitAck { stream: third, credit: 0 }),
            told(Frame::StreamStopped { stream: third, code: ErrorCode::NO_CREDIT }),
            Action::StopInternal { path: PathId::PRIMARY, stream: stream(15), code },
        ]
    );
    assert!(machine.client.is_split(second) && !machine.client.is_split(third));
    // Twice, or of what cannot be split.
    for stream in [second, StreamId::CONTROL] {
        let mut machine = Machine::new();
        machine.primary(Frame::Split { stream: second, offset: 0 });
        machine.actions();
        machine.primary(Frame::Split { stream, offset: 0 });
        assert!(closes_session(&machine.actions()), "{stream:?}");
    }
}

#[test]
fn a_stream_ends_where_it_was_said_to() {
    for (size, fine) in [(OFFSET_MAX, true), (OFFSET_MAX + 1, false), (99, false)] {
        let mut machine = Machine::new();
        machine.primary(Frame::StreamFinal { stream: STREAM, size });
        assert_eq!(!closes_session(&machine.actions()), fine, "{size}");
    }
    let mut machine = Machine::new();
    machine.primary(Frame::StreamFinal { stream: stream(5), size: 1 });
    assert!(closes_session(&machine.actions()), "it was never split");
}

/// Credit beyond what was noticed is told only to whom it is of use, once.
#[test]
fn credit_by_offset_goes_to_servers_that_can_use_it() {
    let mut machine = Machine::new();
    machine.primary(Frame::JobOpen(job(SECOND_JOB, OTHER)));
    let window = limits::STREAM_WINDOW;
    machine.grant(0, range(100, 100 + window));
    let beyond = 100 + window;
    machine.primary(Frame::LeaseGrant(lease(1, SECOND_JOB, range(beyond, beyond + window / 2))));
    machine.primary(Frame::LeaseGrant(lease(2, SECOND_JOB, range(beyond + window / 2, beyond + 2 * window))));
    machine.open(PATH, 0, 100);
    machine.bytes(usize::try_from(window / 2).unwrap());
    machine.settled();
    while machine.client.read(machine.now, STREAM, usize::MAX, true).is_ok_and(|chunk| chunk.is_some()) {}
    let told: Vec<PathId> = machine
        .settled()
        .iter()
        .filter_map(|action| {
            let Action::Send { path, frame: Frame::Credit(Credit::Offset { .. }) } = action else {
                return None;
            };
            (!path.is_primary()).then_some(*path)
        })
        .collect();
    assert_eq!(told, [OTHER]);
}

/// Spec: PROTOCOL §4.
#[test]
fn the_first_word_is_a_hello_or_a_refusal_and_there_is_no_second() {
    let refusal = || Frame::Refuse { code: ErrorCode::VERSION, reason: String::new() };
    for (greeted, frame, fine) in [
        (false, Frame::ServerHello(hello()), true),
        (false, refusal(), true),
        (false, Frame::Split { stream: STREAM, offset: 0 }, false),
        (true, Frame::ServerHello(hello()), false),
        (true, refusal(), false),
        (
            false,
            Frame::ServerHello(ServerHello { app_protocol: Some(Bytes::from_static(b"x")), ..hello() }),
            false,
        ),
    ] {
        let mut machine = if greeted { Machine::new() } else { Machine::ungreeted(|config| config) };
        machine.primary(frame.clone());
        let actions = machine.actions();
        assert_eq!(!closes_session(&actions), fine, "{greeted}: {frame:?}");
        let left = actions.iter().any(|action| matches!(action, Action::PeerLeft { .. }));
        assert_eq!(left, fine && matches!(frame, Frame::Refuse { .. }));
    }
}

#[test]
fn a_primary_is_needed_while_leases_live() {
    let mut machine = Machine::new();
    assert!(!machine.client.needs_primary());
    machine.grant(0, range(200, 300));
    assert!(machine.client.needs_primary());
}

/// The window that grows for a fast reader is counted for the session, and goes no further than that.
#[test]
fn a_window_is_doubled_for_a_reader_that_takes_all_of_it() {
    let mut machine = Machine::with(|config| config.session_window(2 << 20).stream_window(512 << 10));
    let window = |machine: &Machine| machine.client.streams[&STREAM].window();
    let first = window(&machine);
    machine.grant(0, range(100, 100 + (8 << 20)));
    assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
    for expected in [2 * first, machine.client.extra_window_max() + limits::GUARANTEED_CREDIT] {
        assert!(machine.bytes(usize::try_from(window(&machine)).unwrap()));
        while machine.client.read(machine.now, STREAM, usize::MAX, true).is_ok_and(|chunk| chunk.is_some()) {}
        machine.settled();
        machine.client.audit().unwrap();
        assert_eq!(window(&machine), expected);
    }
}

/// What another reader may not have yet does not come before credit for it: that may be for less than a frame is worth.
#[test]
fn an_unordered_reader_that_waits_is_given_what_little_there_is() {
    let mut machine = Machine::with(|config| config.session_window(2 << 20).stream_window(512 << 10));
    assert_eq!(machine.client.read(machine.now, STREAM, 1, false), Err(ReadError::Blocked));
    machine.settled();
    let at = 100 + machine.client.streams[&STREAM].window();
    machine.grant(0, range(100, at));
    machine.grant(1, range(at, 1 << 30));
    machine.open(PATH, 0, 100);
    machine.bytes(1000);
    machine.settled();
    assert!(machine.client.read(machine.now, STREAM, usize::MAX, false).unwrap().is_some());
    let credited = machine.settled().into_iter().any(|action| {
        matches!(action, Action::Send { path: PATH, frame: Frame::Credit(Credit::Lease { .. }) })
    });
    assert!(!credited, "bytes are under way, and this was no thirty-second part of the window");
    machine.client.audit().unwrap();
}

#[test]
fn snapshots_tell_what_there_is() {
    let mut machine = Machine::new();
    machine.primary(Frame::Split { stream: stream(5), offset: 0 });
    machine.grant(0, range(200, 300));
    machine.grant(1, range(300, 400));
    machine.settled();
    machine.now += Duration::from_millis(5);
    assert_eq!(machine.client.split_streams(), [STREAM, stream(5)]);
    let begun = |machine: &Machine, id| machine.client.lease_stats(LeaseId::new(id)).unwrap().begun;
    assert!(!begun(&machine, 0));
    machine.open(PATH, 0, 200);
    assert!(begun(&machine, 0) && !begun(&machine, 1));
    let header = StreamHeader::Internal { stream: STREAM, offset: 400 };
    machine.client.on_internal(PathId::PRIMARY, RUN, header);
    assert_eq!(machine.client.mapped(PATH, FILL), (None, Some(LeaseId::new(0))));
    assert_eq!(machine.client.mapped(PathId::PRIMARY, RUN), (Some(STREAM), None));
    assert_eq!(machine.client.mapped(OTHER, FILL), (None, None));
    let leases = machine.client.lease_list();
    assert_eq!(leases.len(), 2);
    // What has begun has, though its internal stream is over.
    machine.bytes(10);
    machine.client.leases.get_mut(LeaseId::new(0)).unwrap().state.internal = None;
    assert!(begun(&machine, 0));
    machine.client.on_heard(machine.now, PATH, 1, Some(Duration::from_millis(40)));
    machine.settled();
    let mut stats = crate::stats::SessionStats::default();
    machine.client.add_stats(machine.now, &mut stats);
    assert_eq!(stats.sources[&PATH].rtt, Duration::from_millis(40));
    assert_eq!(stats.sources[&PATH].first_byte, Some(Duration::from_millis(5)));
}

#[test]
fn bytes_of_runs_that_are_over_are_late() {
    let mut machine = Machine::new();
    for bytes in [5, 6] {
        assert!(!machine.client.on_bytes(PathId::PRIMARY, RUN, sevens(bytes)));
    }
    assert_eq!(machine.client.sources()[&PathId::PRIMARY].late_bytes, 11);
    assert_eq!(machine.client.held(), (0, 0));
}

/// What a lease of it is refused with while it is on its way. Not without end.
#[test]
fn so_many_refused_jobs_are_remembered() {
    let mut machine = Machine::new();
    let code = ErrorCode::from_u32(4);
    for id in 1..=limits::JOBS_PER_PATH as u64 + 9 {
        machine.now += Duration::from_secs(1);
        machine.primary(Frame::JobOpen(job(JobId::new(id), PATH)));
        machine.secondary(PATH, Frame::JobRefused { job: JobId::new(id), code });
    }
    machine.actions();
    assert_eq!(machine.client.jobs.len(), 1 + limits::JOBS_PER_PATH, "and the one that was not refused");
    assert!(
        !machine.client.jobs.contains_key(&JobId::new(9))
            && machine.client.jobs.contains_key(&JobId::new(10))
    );
}

/// A job pays for more if it was genuine: if its server has taken it, or its application did not want it.
#[test]
fn a_job_that_its_server_looked_at_pays_once() {
    let own = ErrorCode::from_u32(4);
    for (answers, earned) in [
        (vec![None], JOB_GENUINE),
        (vec![Some(own)], JOB_GENUINE),
        (vec![Some(ErrorCode::AUTH_FAILED)], 0),
        (vec![None, Some(own)], JOB_GENUINE),
    ] {
        let mut machine = Machine::new();
        machine.client.take_account();
        for answer in &answers {
            machine.secondary(
                PATH,
                match *answer {
                    None => Frame::JobAccepted { job: JOB },
                    Some(code) => Frame::JobRefused { job: JOB, code },
                },
            );
        }
        assert_eq!(machine.client.take_account().earned, earned, "{answers:?}");
    }
}

/// So does a lease: not if its server could not have been asked for it, and had begun nothing.
#[test]
fn a_lease_that_a_server_may_refuse_pays() {
    let own = ErrorCode::from_u32(4);
    let pays = LEASE_OVER;
    for (placed, code, earned) in
        [(0, own, pays), (0, ErrorCode::LIMIT_EXCEEDED, 0), (5, ErrorCode::LIMIT_EXCEEDED, pays)]
    {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        machine.open(PATH, 0, 200);
        machine.bytes(placed);
        machine.client.take_account();
        machine.secondary(PATH, Frame::LeaseRefused { lease: LeaseId::new(0), code });
        assert_eq!(machine.client.take_account().earned, earned, "{placed} {code:?}");
    }
}

/// A server that knows nothing of cuts writes on, and one that was never told of the lease need not hear of them.
#[test]
fn cuts_are_told_to_servers_that_know_of_them_and_of_the_lease() {
    for (known, told_of) in [(true, true), (false, true), (true, false)] {
        let mut machine = Machine::new();
        machine.grant(0, range(200, 300));
        machine.actions();
        if !known {
            machine.client.paths.get_mut(&PATH).unwrap().features = Features::default();
        }
        machine.client.leases.get_mut(LeaseId::new(0)).unwrap().state.noticed = told_of;
        machine.primary(revoke(0, 50));
        let told = machine.actions().contains(&Action::Send { path: PATH, frame: revoke(0, 50) });
        assert_eq!(told, known && told_of);
        assert_eq!(machine.client.sources()[&PATH].leases_stolen, 1);
    }
}

/// What the primary has written is no lie of its own, whatever it has promised since.
#[test]
fn a_primary_that_contradicts_itself_is_not_cut_off() {
    let mut machine = Machine::with(|config| config.aggregation_faults(AggregationFaults::Isolate));
    let run = StreamHeader::Internal { stream: STREAM, offset: 200 };
    machine.client.on_internal(PathId::PRIMARY, RUN, run);
    machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from_static(b"others"));
    machine.primary(Frame::LeaseGrant(verified(lease(0, JOB, range(200, 300)))));
    machine.open(PATH, 0, 200);
    machine.bytes(100);
    let actions = machine.settled();
    assert!(!closes_session(&actions) && !closes_path(&actions, PATH), "{actions:?}");
    assert!(actions.contains(&told(Frame::LeaseDone { lease: LeaseId::new(0) })), "{actions:?}");
}

/// Spec: PROTOCOL §6, "Gaps".
#[test]
fn a_stream_may_be_given_up_for_a_gap() {
    let mut machine = Machine::with(|config| config.aggregation_faults(AggregationFaults::CloseStream));
    machine.primary(Frame::StreamFinal { stream: STREAM, size: 300 });
    let read = |machine: &mut Machine| machine.client.read(machine.now, STREAM, 9, true);
    assert_eq!(read(&mut machine), Err(ReadError::Blocked));
    machine.settled();
    let pass = |machine: &mut Machine| {
        machine.now = machine.client.deadline().unwrap();
        machine.client.handle_timeout(machine.now);
    };
    pass(&mut machine);
    // What the primary owns ends where the hole begins.
    let received = [range(50, 100)].into_iter().collect();
    machine.primary(Frame::OffsetSyncResponse { stream: STREAM, received, more: false });
    assert_eq!(machine.client.deadline(), Some(machine.now + limits::GAP_TIMEOUT), "nobody's");
    pass(&mut machine);
    machine.actions();
    let code = ErrorCode::AGGREGATION_TIMEOUT;
    let missing = range(100, 300);
    assert_eq!(read(&mut machine), Err(ReadError::Incomplete { stream: STREAM, missing, code }));
    assert!(machine.actions().contains(&told(Frame::StreamStopped { stream: STREAM, code })));
    assert!(!machine.client.is_split(STREAM));
}

/// Nobody is asked about what the primary writes, nor one that would not know of the question, nor one that is gone.
#[test]
fn a_hole_that_somebody_fills_is_no_gap() {
    for (run_at, known, lost, watched) in [
        (None, true, false, true),
        (Some(100), true, false, false),
        (Some(101), true, false, true),
        (None, false, false, false),
        (None, true, true, false),
    ] {
        let mut machine = Machine::new();
        machine.primary(Frame::StreamFinal { stream: STREAM, size: 300 });
        if let Some(offset) = run_at {
            let header = StreamHeader::Internal { stream: STREAM, offset };
            machine.client.on_internal(PathId::PRIMARY, RUN, header);
        }
        if !known {
            machine.client.features = Features::default();
        }
        let blocked = machine.client.read(machine.now, STREAM, 9, true);
        assert_eq!(blocked, Err(ReadError::Blocked));
        machine.client.lost = lost.then_some(ErrorCode::PATH_DEAD);
        machine.settled();
        assert_eq!(machine.client.gap_deadline().is_some(), watched, "{run_at:?} {known} {lost}");
    }
}
