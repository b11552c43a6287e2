//! The secondary's machine alone: sealed work in, leases handed out.

use bytes::Bytes;

use super::*;
use crate::{
    lease::{
        relay::{Direction, RelayClaims},
        ticket::SigningKey,
    },
    session::relays::Unwelcome,
    wire::RelayOpen,
};

const SESSION: SessionId = SessionId::new([9; 16]);
const PATH: PathId = PathId::new(1);
const JOB: JobId = JobId::new(0);
/// The wall clock.
const UNIX: u64 = 1_000;
const LEASE: LeaseId = LeaseId::new(0);

/// A secondary whose application has taken one job, and that was told of one lease without credit.
fn waiting() -> (Secondary, Instant) {
    let (mut secondary, now) = working(100);
    let range = ByteRange::between(0, 100).unwrap();
    let notice = Frame::LeaseNotice { lease: LEASE, job: JOB, range, credit: 0 };
    secondary.handle_frame(now, UNIX, notice).unwrap();
    assert_eq!(secondary.next_lease(JOB), Ok(None));
    while secondary.poll_action().is_some() {}
    (secondary, now)
}

/// A secondary whose application has taken one job, for 100 bytes of a stream and so many in all.
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
fn working(total: u64) -> (Secondary, Instant) {
    let now = Instant::now();
    let primary = SigningKey::from_seed([3; 32]);
    let mut secondary = Secondary::new(now, SESSION, PATH, primary.public_key(), Features::OFFERED, None);
    let range = ByteRange::between(0, 100).unwrap();
    let (stream, expiry) = (StreamId::from_u64(1).unwrap(), 2_000);
    let claims =
        JobClaims { session: SESSION, path: PATH, job: JOB, stream, range, total, expiry, payload: &[] };
    let seal = claims.seal(&primary);
    let open = JobOpen { job: JOB, path: PATH, stream, range, total, expiry, payload: Bytes::new(), seal };
    secondary.handle_frame(now, UNIX, Frame::JobOpen(open)).unwrap();
    assert!(secondary.accept_job().is_some());
    secondary.take_job(JOB);
    while secondary.poll_action().is_some() {}
    (secondary, now)
}

/// Has the client ask for a range; returns whether it is refused.
fn refuses(secondary: &mut Secondary, now: Instant, id: u64, (start, end): (u64, u64)) -> bool {
    let (lease, range) = (LeaseId::new(id), ByteRange::between(start, end).unwrap());
    secondary.handle_frame(now, UNIX, Frame::LeaseNotice { lease, job: JOB, range, credit: 0 }).unwrap();
    let actions: Vec<Action> = std::iter::from_fn(|| secondary.poll_action()).collect();
    let code = ErrorCode::LEASE_VIOLATION;
    actions.contains(&Action::Send { path: PathId::PRIMARY, frame: Frame::LeaseRefused { lease, code } })
}

/// However many bytes the primary has allowed in all, a client cannot have others than it has named.
#[test]
fn a_lease_outside_its_jobs_range_is_refused() {
    let (mut secondary, now) = working(1 << 20);
    for (id, range) in [(0, 101), (99, 101), (100, 101), (1 << 30, (1 << 30) + 1)].into_iter().enumerate() {
        assert!(refuses(&mut secondary, now, id as u64, range), "{range:?}");
    }
    assert!(!refuses(&mut secondary, now, 10, (0, 100)));
}

/// Nor the right ones again and again: what leases may add up to is used up.
#[test]
fn leases_beyond_their_jobs_total_are_refused() {
    let (mut secondary, now) = working(150);
    assert!(!refuses(&mut secondary, now, 0, (0, 100)));
    assert!(refuses(&mut secondary, now, 1, (20, 71)));
    assert!(!refuses(&mut secondary, now, 2, (20, 70)));
    assert!(refuses(&mut secondary, now, 3, (20, 21)));
}

fn revoke() -> Frame {
    Frame::LeaseRevoke { lease: LEASE, keep: 0, code: ErrorCode::LEASE_REVOKED }
}

/// Found by `secondary_ops`: such a lease stayed until the application asked for the next one, so a client could pile
/// up as many as the job has bytes.
#[test]
fn a_lease_taken_back_unseen_leaves_nothing_behind() {
    let (mut secondary, now) = waiting();
    secondary.handle_frame(now, UNIX, revoke()).unwrap();
    assert!(secondary.leases.is_empty() && secondary.jobs[&JOB].queue.is_empty());
}

/// Found by `secondary_ops`: whoever waited for the next lease of a closed job was not told when the last one was
/// taken back, and waited for good.
#[test]
fn the_end_of_a_job_is_told_when_its_last_lease_is_taken_back() {
    let (mut secondary, now) = waiting();
    secondary.handle_frame(now, UNIX, Frame::JobClose { job: JOB }).unwrap();
    assert_eq!(secondary.next_lease(JOB), Ok(None), "a lease still waits for credit");
    while secondary.poll_action().is_some() {}
    secondary.handle_frame(now, UNIX, revoke()).unwrap();
    assert_eq!(secondary.poll_action(), Some(Action::Notify(Event::LeaseArrived(JOB))));
    assert_eq!(secondary.next_lease(JOB), Err(ErrorCode::NO_ERROR));
}

/// Found by the soak: whoever has written a lease to its end has no reason to ask for it again, and one that was taken back
/// after that stayed for as long as the session.
#[test]
fn a_lease_taken_back_once_it_was_sent_whole_leaves_nothing_behind() {
    for stopped in [true, false] {
        let (mut secondary, now) = waiting();
        secondary.handle_frame(now, UNIX, Frame::Credit(Credit::Lease { lease: LEASE, bytes: 100 })).unwrap();
        assert!(secondary.next_lease(JOB).unwrap().is_some());
        secondary.on_opened(LEASE, StreamId::from_u64(3).unwrap());
        assert!(!secondary.on_sent(LEASE, 99) && secondary.on_sent(LEASE, 1));
        if stopped {
            secondary.on_internal_end(LEASE, Some(ErrorCode::STREAM_CLOSED));
        } else {
            secondary.handle_frame(now, UNIX, revoke()).unwrap();
        }
        assert!(secondary.leases.is_empty() && secondary.offsets.is_empty());
        let allowance = secondary.allowance(LEASE).map(|allowance| allowance.left);
        assert_eq!(allowance, Err(LeaseWriteError::Ended(ErrorCode::LEASE_REVOKED)));
    }
}

/// Only a client that breaks the rules has many leases of one place. What each frame of credit then costs is charged to it.
#[test]
fn credit_that_many_leases_gain_by_costs_more_than_a_frame() {
    let (mut secondary, now) = waiting();
    for id in 1..=80 {
        let lease = LeaseId::new(id);
        let range = ByteRange::between(10, 11).unwrap();
        secondary.jobs.get_mut(&JOB).unwrap().left += 1;
        let notice = Frame::LeaseNotice { lease, job: JOB, range, credit: 0 };
        secondary.handle_frame(now, UNIX, notice).unwrap();
    }
    secondary.take_account();
    let credit = |offset| Frame::Credit(Credit::Offset { stream: StreamId::from_u64(1).unwrap(), offset });
    secondary.handle_frame(now, UNIX, credit(11)).unwrap();
    assert_eq!(secondary.take_account().charged, 10);
    secondary.handle_frame(now, UNIX, credit(11)).unwrap();
    secondary.handle_frame(now, UNIX, credit(12)).unwrap();
    assert_eq!(secondary.take_account(), Account::default(), "one lease, or none, gains");
}

/// The client can drop a message, and nothing else: not make one, change one, or say one twice. Spec: PROTOCOL §9.
#[test]
fn only_what_the_primary_has_said_is_heard_and_once() {
    let (mut secondary, now) = waiting();
    let primary = SigningKey::from_seed([3; 32]);
    let payload = Bytes::from_static(b"words");
    let claims = RelayClaims {
        session: SESSION,
        path: PATH,
        direction: Direction::ToSecondary,
        id: 5,
        payload: &payload,
    };
    let sealed = |claims: RelayClaims<'_>, key: &SigningKey| RelayOpen {
        path: PATH,
        id: 5,
        length: 5,
        seal: Some(claims.seal(key)),
    };
    let right = sealed(claims, &primary);
    let forged = [
        sealed(claims, &SigningKey::from_seed([4; 32])),
        sealed(RelayClaims { session: SessionId::new([8; 16]), ..claims }, &primary),
        sealed(RelayClaims { path: PathId::new(2), ..claims }, &primary),
        sealed(RelayClaims { direction: Direction::ToPrimary, ..claims }, &primary),
        sealed(RelayClaims { id: 6, ..claims }, &primary),
        sealed(RelayClaims { payload: b"worts", ..claims }, &primary),
        RelayOpen { seal: None, ..right },
    ];
    for head in forged {
        assert_eq!(secondary.open_relay(now, &head, payload.clone()), None, "{head:?}");
    }
    assert_eq!(secondary.check_relay(&right), Ok(()));
    let heard = secondary.open_relay(now, &right, payload.clone()).unwrap();
    assert!(heard.sealed && heard.payload == payload);
    assert_eq!(secondary.open_relay(now, &right, payload), None, "said twice");
    let fault = |fault| Err(Unwelcome::Fault(fault));
    let foreign = RelayOpen { path: PathId::new(2), ..right };
    assert_eq!(secondary.check_relay(&foreign), fault(PeerFault::RelayOfOther));
    let unsealed = RelayOpen { seal: None, ..right };
    assert_eq!(secondary.check_relay(&unsealed), fault(PeerFault::RelayUnsealed));
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

fn stream() -> StreamId {
    StreamId::from_u64(1).unwrap()
}

/// Hears what breaks no rule; returns what is done and said then.
fn hears(secondary: &mut Secondary, now: Instant, frame: Frame) -> Vec<Action> {
    secondary.handle_frame(now, UNIX, frame).unwrap();
    std::iter::from_fn(|| secondary.poll_action()).collect()
}

/// Returns whether a frame changes nothing but the count of late ones.
fn is_late(secondary: &mut Secondary, now: Instant, frame: Frame) -> bool {
    let before = secondary.late_frames();
    hears(secondary, now, frame).is_empty() && secondary.late_frames() == before + 1
}

fn notice(id: u64, range: ByteRange, credit: u64) -> Frame {
    Frame::LeaseNotice { lease: LeaseId::new(id), job: JOB, range, credit }
}

fn refused(lease: u64, code: ErrorCode) -> Vec<Action> {
    let frame = Frame::LeaseRefused { lease: LeaseId::new(lease), code };
    vec![Action::Send { path: PathId::PRIMARY, frame }]
}

fn told<const N: usize>(events: [Event; N]) -> Vec<Action> {
    events.map(Action::Notify).into()
}

/// A secondary that sends a lease of 100 bytes, so many of which are sent.
fn sending(sent: u64) -> (Secondary, Instant) {
    let (mut secondary, now) = waiting();
    hears(&mut secondary, now, Frame::Credit(Credit::Lease { lease: LEASE, bytes: 100 }));
    assert!(secondary.next_lease(JOB).unwrap().is_some());
    secondary.on_opened(LEASE, StreamId::from_u64(3).unwrap());
    secondary.on_sent(LEASE, sent);
    (secondary, now)
}

#[test]
fn what_is_said_again_or_too_late_is_counted_and_changes_nothing() {
    let (mut secondary, now) = waiting();
    let (job, lease, code) = (JobId::new(7), LeaseId::new(7), ErrorCode::LEASE_REVOKED);
    let nobodys = StreamId::from_u64(5).unwrap();
    for late in [
        Frame::JobClose { job },
        Frame::LeaseRevoke { lease, keep: 0, code },
        Frame::LeaseRevoke { lease, keep: 9, code },
        Frame::Credit(Credit::Lease { lease, bytes: 9 }),
        Frame::Credit(Credit::Offset { stream: nobodys, offset: 9 }),
    ] {
        assert!(is_late(&mut secondary, now, late.clone()), "{late:?}");
    }
    assert!(!is_late(&mut secondary, now, Frame::JobClose { job: JOB }));
    assert!(is_late(&mut secondary, now, Frame::JobClose { job: JOB }));

    let (mut secondary, now) = sending(1);
    assert!(!is_late(&mut secondary, now, revoke()));
    assert!(is_late(&mut secondary, now, revoke()));
    assert!(is_late(&mut secondary, now, Frame::LeaseRevoke { lease: LEASE, keep: 9, code }));
}

#[test]
fn a_path_drains_by_the_earliest_time_it_was_told() {
    let (mut secondary, now) = waiting();
    let by = |ms| now + Duration::from_millis(ms);
    assert_eq!(secondary.draining(), None);
    for (deadline_ms, news, drained) in
        [(500, true, 500), (500, false, 500), (900, false, 500), (100, true, 100)]
    {
        let actions = hears(&mut secondary, now, Frame::Drain { deadline_ms });
        assert_eq!(actions == told([Event::Draining]), news, "{deadline_ms}");
        assert_eq!(secondary.draining(), Some(by(drained)));
    }
    assert_eq!(hears(&mut secondary, now, notice(1, range(0, 1), 0)), refused(1, ErrorCode::DRAINING));
}

#[test]
fn a_job_that_is_closed_or_over_takes_no_lease() {
    let (mut secondary, now) = working(1000);
    hears(&mut secondary, now, notice(0, range(0, 10), 0));
    hears(&mut secondary, now, Frame::JobClose { job: JOB });
    assert_eq!(hears(&mut secondary, now, notice(1, range(10, 20), 0)), refused(1, ErrorCode::NO_ERROR));
    // With its last lease it is forgotten.
    hears(&mut secondary, now, revoke());
    assert_eq!(secondary.next_lease(JOB), Err(ErrorCode::NO_ERROR));
    assert_eq!(hears(&mut secondary, now, notice(2, range(10, 20), 0)), refused(2, ErrorCode::PATH_DEAD));

    let (mut secondary, now) = working(1000);
    let last = 2_000 + limits::CLOCK_SKEW.as_secs();
    for (id, unix, code) in [(0, last, None), (1, last + 1, Some(ErrorCode::TICKET_EXPIRED))] {
        secondary.handle_frame(now, unix, notice(id, range(0, 10), 0)).unwrap();
        let actions: Vec<Action> = std::iter::from_fn(|| secondary.poll_action()).collect();
        assert_eq!(actions, code.map_or_else(|| told([Event::LeaseArrived(JOB)]), |code| refused(id, code)));
    }
}

#[test]
fn a_path_has_so_many_leases_alive_and_keeps_so_many_that_have_ended() {
    let (mut secondary, now) = working(1 << 20);
    let most = limits::LEASES_PER_PATH as u64;
    for id in 0..most {
        assert_eq!(hears(&mut secondary, now, notice(id, range(0, 1), 1)), told([Event::LeaseArrived(JOB)]));
    }
    let full = |id| refused(id, ErrorCode::LIMIT_EXCEEDED);
    assert_eq!(hears(&mut secondary, now, notice(most, range(0, 1), 1)), full(most));
    // The application has seen them, and does not let go of them.
    let end = |secondary: &mut Secondary, id| {
        assert!(secondary.next_lease(JOB).unwrap().is_some());
        let (lease, code) = (LeaseId::new(id), ErrorCode::LEASE_REVOKED);
        hears(secondary, now, Frame::LeaseRevoke { lease, keep: 0, code });
    };
    (0..most).for_each(|id| end(&mut secondary, id));
    for id in most + 1..=2 * most {
        assert_eq!(hears(&mut secondary, now, notice(id, range(0, 1), 1)), told([Event::LeaseArrived(JOB)]));
        end(&mut secondary, id);
    }
    assert_eq!(hears(&mut secondary, now, notice(2 * most + 1, range(0, 1), 1)), full(2 * most + 1));
    secondary.reset_lease(LEASE, ErrorCode::NO_ERROR);
    let next = notice(2 * most + 2, range(0, 1), 1);
    assert_eq!(hears(&mut secondary, now, next), told([Event::LeaseArrived(JOB)]));
}

/// Each that gains is told, and its job once.
#[test]
fn credit_by_offset_is_told_to_the_leases_that_reach_into_it() {
    let (mut secondary, now) = working(1000);
    for (id, (start, end), credit) in
        [(0, (0, 50), 0), (1, (10, 20), 0), (2, (20, 30), 0), (3, (0, 50), 50), (4, (0, 50), 0)]
    {
        hears(&mut secondary, now, notice(id, range(start, end), credit));
    }
    secondary.leases.get_mut(&LeaseId::new(4)).unwrap().ended = Some(ErrorCode::LEASE_REVOKED);
    let other = Lease { stream: StreamId::from_u64(5).unwrap(), ..lease_like(&secondary, 0) };
    secondary.leases.insert(LeaseId::new(5), other);
    let credit = |offset| Frame::Credit(Credit::Offset { stream: stream(), offset });
    let [zero, one, two] = [0, 1, 2].map(|id| Event::LeaseWritable(LeaseId::new(id)));
    assert_eq!(hears(&mut secondary, now, credit(20)), told([zero.clone(), one, Event::LeaseArrived(JOB)]));
    assert_eq!(secondary.allowance(LeaseId::new(1)).unwrap().now, 10);
    assert_eq!(hears(&mut secondary, now, credit(20)), []);
    assert_eq!(hears(&mut secondary, now, credit(25)), told([zero, two, Event::LeaseArrived(JOB)]));
}

fn lease_like(secondary: &Secondary, id: u64) -> Lease {
    let Lease { job, stream, range, noticed, credit, .. } = secondary.leases[&LeaseId::new(id)];
    Lease {
        job,
        stream,
        range,
        noticed,
        cut: None,
        credit,
        sent: 0,
        internal: None,
        ended: None,
        forgotten: false,
        given_up: false,
    }
}

#[test]
fn a_lease_that_the_application_has_ends_with_a_word_to_it() {
    let (mut secondary, now) = sending(40);
    let (internal, code) = (StreamId::from_u64(3).unwrap(), ErrorCode::LEASE_REVOKED);
    let mut expected = vec![Action::ResetInternal { stream: internal, code }];
    expected.extend(told([Event::LeaseEnded(LEASE)]));
    assert_eq!(hears(&mut secondary, now, revoke()), expected);
    assert_eq!(secondary.allowance(LEASE).map(|_| ()), Err(LeaseWriteError::Ended(code)));
    secondary.reset_lease(LEASE, ErrorCode::NO_ERROR);
    assert!(secondary.leases.is_empty() && secondary.poll_action().is_none());
}

#[test]
fn a_cut_takes_what_was_not_sent_from_the_end() {
    let code = ErrorCode::LEASE_REVOKED;
    let cut = |keep| Frame::LeaseRevoke { lease: LEASE, keep, code };
    let (mut secondary, now) = sending(40);
    assert_eq!(hears(&mut secondary, now, cut(100)), [], "all of it is kept");
    assert_eq!(hears(&mut secondary, now, cut(60)), told([Event::LeaseEnded(LEASE)]));
    let allowance = secondary.allowance(LEASE).unwrap();
    assert_eq!((allowance.left, allowance.now), (60, 20), "left of what the application was given");
    assert!(!secondary.on_sent(LEASE, 19) && secondary.on_sent(LEASE, 1));
    assert_eq!(secondary.allowance(LEASE).map(|_| ()), Err(LeaseWriteError::Ended(code)));
    assert_eq!(hears(&mut secondary, now, cut(10)), [], "it has left");

    // What was sent stays sent, and then that is the end.
    let (mut secondary, now) = sending(40);
    let mut expected = vec![Action::FinishInternal { stream: StreamId::from_u64(3).unwrap() }];
    expected.extend(told([Event::LeaseEnded(LEASE)]));
    assert_eq!(hears(&mut secondary, now, cut(10)), expected);
    assert_eq!(secondary.allowance(LEASE).map(|_| ()), Err(LeaseWriteError::Ended(code)));

    let (mut secondary, now) = sending(100);
    assert_eq!(hears(&mut secondary, now, cut(10)), []);

    // Cut before anybody saw it, it is just a shorter one.
    let (mut secondary, now) = waiting();
    hears(&mut secondary, now, Frame::Credit(Credit::Lease { lease: LEASE, bytes: 100 }));
    hears(&mut secondary, now, cut(10));
    assert_eq!(secondary.next_lease(JOB).unwrap().unwrap().range, range(0, 10));
    assert_eq!(secondary.allowance(LEASE).unwrap().left, 10);
}

/// Nothing is earned by what was only asked for and taken back. Spec: PROTOCOL §11.2.
#[test]
fn a_lease_earns_if_something_came_of_it() {
    let stopped = Some(ErrorCode::STREAM_CLOSED);
    for (sent, given_up, earned) in [
        (0, false, 0),
        (1, false, price::LEASE_OVER),
        (0, true, price::LEASE_OVER),
        (100, false, price::LEASE_OVER),
    ] {
        let (mut secondary, _) = sending(sent);
        secondary.take_account();
        if !given_up {
            secondary.on_internal_end(LEASE, stopped);
        }
        secondary.reset_lease(LEASE, ErrorCode::NO_ERROR);
        assert!(secondary.leases.is_empty());
        assert_eq!(secondary.take_account().earned, earned, "{sent} sent, {given_up}");
    }
    for (total, errands) in [(100, 0), (8 * 1024, 1), (1 << 40, 1024)] {
        let (mut secondary, _) = working(total);
        assert_eq!(secondary.take_account().earned, price::JOB_GENUINE + errands);
    }
}

#[test]
fn credit_by_offset_is_kept_as_long_as_its_stream_has_leases() {
    let (mut secondary, now) = working(1000);
    hears(&mut secondary, now, notice(0, range(0, 10), 0));
    hears(&mut secondary, now, notice(1, range(10, 20), 0));
    hears(&mut secondary, now, Frame::Credit(Credit::Offset { stream: stream(), offset: 15 }));
    hears(&mut secondary, now, revoke());
    assert_eq!(secondary.allowance(LeaseId::new(1)).unwrap().now, 5);
    let (lease, code) = (LeaseId::new(1), ErrorCode::LEASE_REVOKED);
    hears(&mut secondary, now, Frame::LeaseRevoke { lease, keep: 0, code });
    assert!(secondary.offsets.is_empty());
}

#[test]
fn a_job_is_accepted_once_and_refused_unless_it_is_closed() {
    let said = |secondary: &mut Secondary| std::iter::from_fn(|| secondary.poll_action()).collect::<Vec<_>>();
    let send = |frame| vec![Action::Send { path: PathId::PRIMARY, frame }];
    let code = ErrorCode::LIMIT_EXCEEDED;
    let (mut secondary, now) = working(1000);
    secondary.take_job(JOB);
    assert_eq!(said(&mut secondary), [], "said before");
    hears(&mut secondary, now, notice(0, range(0, 10), 0));
    secondary.refuse_job(JOB, code);
    let mut expected = refused(0, code);
    expected.extend(send(Frame::JobRefused { job: JOB, code }));
    assert_eq!(said(&mut secondary), expected);
    assert!(secondary.leases.is_empty());

    for accepted in [true, false] {
        let (mut secondary, now) = waiting();
        secondary.jobs.get_mut(&JOB).unwrap().accepted = accepted;
        hears(&mut secondary, now, Frame::JobClose { job: JOB });
        secondary.take_job(JOB);
        assert_eq!(said(&mut secondary), [], "nobody asks any more");
        secondary.refuse_job(JOB, code);
        assert_eq!(said(&mut secondary), refused(0, code));
    }
}

#[test]
fn a_job_that_is_refused_unseen_leaves_the_others_to_be_seen() {
    let (mut secondary, _) = working(1000);
    secondary.arrived.extend([JobId::new(7), JOB, JobId::new(8)]);
    secondary.refuse_job(JOB, ErrorCode::LIMIT_EXCEEDED);
    assert_eq!(secondary.arrived, [JobId::new(7), JobId::new(8)]);
}

#[test]
fn messages_are_numbered() {
    let (mut secondary, _) = waiting();
    assert_eq!([0, 1, 2].map(|_| secondary.relay_head(1).unwrap().id), [0, 1, 2]);
}

/// Spec: PROTOCOL §11.
#[test]
fn so_many_wrong_seals_are_looked_at() {
    let (mut secondary, now) = waiting();
    let payload = Bytes::from_static(b"words");
    let head = |id, seed| {
        let claims = RelayClaims {
            session: SESSION,
            path: PATH,
            direction: Direction::ToSecondary,
            id,
            payload: b"words",
        };
        RelayOpen { path: PATH, id, length: 5, seal: Some(claims.seal(&SigningKey::from_seed([seed; 32]))) }
    };
    for _ in 0..limits::FORGED_RELAYS_BURST {
        assert!(secondary.open_relay(now, &head(1, 4), payload.clone()).is_none());
    }
    assert!(secondary.open_relay(now, &head(2, 3), payload.clone()).is_none());
    let later = now + Duration::from_secs(1);
    assert!(secondary.open_relay(later, &head(2, 3), payload).is_some());
}
