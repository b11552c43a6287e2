//! Leases that are given again by themselves. Spec: PROTOCOL §10.

use super::*;
use crate::action::{LeaseInfo, LeaseOutcome};

const LEN: u64 = 100_000;

/// A world with one lease of a whole stream.
fn leased(retries: u32) -> (World, StreamId, LeaseId) {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let whole = range(0, LEN);
    let job = primary.open_job(now, stream, NewJob::new(path, whole, "").total(1 << 30)).unwrap();
    let lease = primary.lease(now, &NewLease::new(job, whole).retries(retries)).unwrap();
    (world, stream, lease)
}

/// Waits for the next lease that the secondary's application gets.
fn next(world: &mut World) -> LeaseInfo {
    let mut found = None;
    world.run(|w| {
        let now = w.now;
        let secondary = w.session(2);
        if let Some(job) = secondary.accept_job() {
            secondary.take_job(now, job.id);
        }
        found = secondary.next_lease(JobId::new(0)).ok().flatten();
        found.is_some()
    });
    found.unwrap()
}

/// Writes some of a lease and gives it up.
fn give_up(world: &mut World, lease: LeaseInfo, after: u64) {
    let now = world.now;
    let secondary = world.session(2);
    if let Some(part) = ByteRange::new(lease.range.start(), after) {
        let written = secondary.write_lease(now, lease.id, &mut [object(part)]).unwrap();
        assert_eq!(written.bytes as u64, after);
    }
    world.run_for(ONE_WAY * 2);
    let now = world.now;
    world.session(2).reset_lease(now, lease.id, ErrorCode::from_u32(9)).unwrap();
}

fn outcome(world: &mut World, lease: LeaseId) -> LeaseOutcome {
    let mut outcome = None;
    world.run(|w| {
        outcome = w.session(PRIMARY).lease_outcome(lease);
        outcome.is_some()
    });
    outcome.unwrap()
}

/// Bytes that came stay, those that are missing are given again under the name that the application knows, after longer and
/// longer.
#[test]
fn what_is_missing_is_given_again_to_the_same_path() {
    let (mut world, stream, lease) = leased(2);
    let first = next(&mut world);
    give_up(&mut world, first, 10_000);
    let lost = world.now;
    world.run(|w| w.session(PRIMARY).lease_status(lease).is_some_and(|status| status.stalled.is_some()));
    let status = world.session(PRIMARY).lease_status(lease).unwrap();
    let rest = status.range; // what QUIC had not sent yet was lost with the stream
    assert!(rest.start() > 0 && rest.start() <= 10_000 && rest.end() == LEN && status.stalled == Some(rest));
    let second = next(&mut world);
    assert_eq!(second.range, rest);
    assert!(world.now - lost >= Duration::from_millis(50));
    give_up(&mut world, second, 0);
    let lost = world.now;
    let third = next(&mut world);
    assert!(world.now - lost >= Duration::from_millis(100));
    assert_eq!(world.session(PRIMARY).lease_status(lease).unwrap().range, rest);
    let mut sent = 0;
    world.run(|w| {
        let now = w.now;
        while sent < third.range.len() {
            let part = range_from(third.range, sent, 50_000);
            match w.session(2).write_lease(now, third.id, &mut [object(part)]) {
                Ok(written) => sent += written.bytes as u64,
                Err(LeaseWriteError::Blocked) => break,
                Err(error) => panic!("{error}"),
            }
        }
        sent == third.range.len()
    });
    assert_eq!(outcome(&mut world, lease), LeaseOutcome::Done);
    let now = world.now;
    world.session(PRIMARY).finish(now, stream).unwrap();
    world.run(|w| w.session(CLIENT).accept(Dir::Uni) == Some(stream));
    let (mut got, mut ended) = (vec![None; index(LEN)], false);
    world.run(|w| {
        let now = w.now;
        ended |= read_all(now, w.session(CLIENT), stream, true, &mut got);
        ended
    });
    check(&got, LEN);
}

#[test]
fn it_ends_when_the_tries_are_used_up_or_the_application_has_enough() {
    let (mut world, _, lease) = leased(1);
    for _ in 0..2 {
        let lease = next(&mut world);
        give_up(&mut world, lease, 0);
    }
    let lost = LeaseOutcome::Lost { code: ErrorCode::from_u32(9), missing: vec![range(0, LEN)] };
    assert_eq!(outcome(&mut world, lease), lost);

    let (mut world, _, lease) = leased(5);
    let first = next(&mut world);
    give_up(&mut world, first, 0);
    world.run(|w| w.session(PRIMARY).lease_status(lease).is_some_and(|status| status.stalled.is_some()));
    let now = world.now;
    let primary = world.session(PRIMARY);
    assert_eq!(primary.revoke_lease(now, lease, 10), Err(LeaseError::NotLive), "there is nothing to cut");
    primary.revoke_lease(now, lease, 0).unwrap();
    let revoked = LeaseOutcome::Lost { code: ErrorCode::LEASE_REVOKED, missing: vec![range(0, LEN)] };
    assert_eq!(outcome(&mut world, lease), revoked);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(2).next_lease(JobId::new(0)), Ok(None));
}

/// While it waits its range is nobody's: who writes it ends the waiting.
#[test]
fn a_range_that_waits_can_be_given_to_others() {
    let (mut world, stream, lease) = leased(5);
    let first = next(&mut world);
    give_up(&mut world, first, 0);
    world.run(|w| w.session(PRIMARY).lease_status(lease).is_some_and(|status| status.stalled.is_some()));
    let now = world.now;
    world.session(PRIMARY).write_at(now, stream, range(0, 1000)).unwrap();
    let lost = LeaseOutcome::Lost { code: ErrorCode::from_u32(9), missing: vec![range(1000, LEN)] };
    assert_eq!(outcome(&mut world, lease), lost);
}

/// A path that is only silent is waited for.
#[test]
fn a_silent_path_gets_its_lease_back() {
    let (mut world, _, lease) = leased(8);
    let first = next(&mut world);
    world.stall(2, Duration::from_millis(500));
    let second = next(&mut world);
    assert!(second.id > first.id && second.range == range(0, LEN));
    let status = world.session(PRIMARY).lease_status(lease).unwrap();
    assert_eq!((status.range, status.stalled), (range(0, LEN), None));
}

/// A path that takes one lease at a time has one further on, whose credit waits for the reader, who waits for this one: it
/// is taken all the same. Simulator seed 207569.
#[test]
fn a_path_takes_what_the_reader_needs_first_however_little_it_takes() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let job = NewJob::new(path, range(0, 1 << 30), "").total(1 << 40);
    let job = primary.open_job(now, stream, job).unwrap();
    let lease = primary.lease(now, &NewLease::new(job, range(0, LEN)).retries(8)).unwrap();
    next(&mut world);
    world.stall(2, Duration::from_millis(400));
    world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
    let now = world.now;
    let primary = world.session(PRIMARY);
    assert_eq!(primary.paths()[0].leases_max, 1);
    assert!(primary.lease_status(lease).unwrap().stalled.is_some(), "it waits to be given again");
    let far = 100 << 20;
    primary.lease(now, &NewLease::new(job, range(far, far + 1000))).unwrap();
    let further = NewLease::new(job, range(far + 1000, far + 2000));
    assert_eq!(primary.lease(now, &further), Err(LeaseError::LimitExceeded));
    assert_eq!(next(&mut world).range, range(0, LEN));
}
