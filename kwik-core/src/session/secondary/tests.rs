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
    let fault = Err(Unwelcome::Fault(ErrorCode::RELAY_REFUSED));
    assert_eq!(secondary.check_relay(&RelayOpen { path: PathId::new(2), ..right }), fault);
    assert_eq!(secondary.check_relay(&RelayOpen { seal: None, ..right }), fault);
}
