//! Control frames and what pays for them: honest peers are never held back, others are. Spec: PROTOCOL §11.

use super::*;
use crate::{
    session::price::Account,
    wire::{Credit, Frame, MappingOperation},
};

/// Hands a frame of the client's to a server as if it had come.
fn as_if_said(world: &mut World, node: usize, frame: Frame) {
    world.session(node).on_frame(HOME, frame);
}

/// Many small objects over one secondary, some of them stopped at once: each costs five frames, and pays for the next. What
/// there was at the start is taken away, and what grows by itself is a tenth of what is said.
#[test]
fn small_objects_are_paid_for_by_small_objects() {
    const AT_ONCE: usize = 40;
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    for node in [CLIENT, PRIMARY, 2] {
        let home = &mut world.session(node).links.home;
        home.settle(Account { earned: 0, charged: limits::CONTROL_BURST - 6 * AT_ONCE as u64 });
    }
    let path_on_client = world.session(CLIENT).links.get_mut(path).unwrap();
    path_on_client.settle(Account { earned: 0, charged: limits::CONTROL_BURST - 6 * AT_ONCE as u64 });
    let mut filler = Filler::default();
    for round in 0..15 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let mut left: BTreeMap<StreamId, (LeaseId, bool)> = BTreeMap::new();
        for index in 0..AT_ONCE {
            let stream = primary.open(Dir::Uni).unwrap();
            let whole = range(0, 1 + index as u64);
            let job = primary.open_job(now, stream, NewJob::new(path, whole, "object")).unwrap();
            let lease = primary.lease(now, &NewLease::new(job, whole)).unwrap();
            primary.finish(now, stream).unwrap();
            left.insert(stream, (lease, index % 5 == 0));
        }
        let (mut reading, mut got) = (BTreeMap::new(), BTreeMap::new());
        let mut leases: Vec<LeaseId> = left.values().map(|(lease, _)| *lease).collect();
        world.run(|w| {
            let now = w.now;
            filler.turn(now, w.session(2));
            let client = w.session(CLIENT);
            while let Some(stream) = client.accept(Dir::Uni) {
                let (_, early) = left[&stream];
                if early {
                    client.stop(now, stream, ErrorCode::from_u32(7)).unwrap();
                } else {
                    reading.insert(stream, ());
                }
            }
            reading
                .retain(|stream, ()| !read_all(now, client, *stream, true, got.entry(*stream).or_default()));
            leases.retain(|lease| w.session(PRIMARY).lease_outcome(*lease).is_none());
            leases.is_empty() && reading.is_empty()
        });
        world.run_for(ONE_WAY * 3);
        for (&stream, (_, early)) in left.iter().filter(|(_, (_, early))| *early) {
            assert!(*early);
            let _gone = world.session(PRIMARY).reset(now, stream, ErrorCode::from_u32(7));
        }
        filler = Filler::default();
        for node in [CLIENT, PRIMARY, 2] {
            assert_eq!(world.session(node).stats().control_pauses, 0, "round {round}, node {node}");
        }
    }
}

/// Only the primary decides that a lease is cut. The client's word for cuts that nobody asked for grew a list without end.
#[test]
fn a_cut_that_nobody_asked_for_ends_the_session() {
    for asked in [0, 1] {
        let (mut world, _, stream, job) = World::at_work(Dir::Uni, range(0, 1000));
        let now = world.now;
        let primary = world.session(PRIMARY);
        let lease = primary.lease(now, &NewLease::new(job, range(0, 1000))).unwrap();
        let update = |keep| Frame::StreamMappingUpdate {
            operation: MappingOperation::Update,
            stream,
            lease,
            range: range(0, keep),
        };
        if asked > 0 {
            primary.revoke_lease(now, lease, 500).unwrap();
            as_if_said(&mut world, PRIMARY, update(500));
            assert!(world.session(PRIMARY).lost.is_none());
        }
        as_if_said(&mut world, PRIMARY, update(400));
        let lost = world.session(PRIMARY).lost.clone();
        assert_eq!(lost, Some(ConnectionError::Fault(PeerFault::CutUnasked)));
    }
}

/// Nothing is said to the application, or to anybody, of what changes nothing.
#[test]
fn what_changes_nothing_makes_no_events() {
    let (mut world, path, stream, job) = World::at_work(Dir::Uni, range(0, 100_000));
    let now = world.now;
    let lease = world.session(PRIMARY).lease(now, &NewLease::new(job, range(0, 100_000))).unwrap();
    world.run(|w| w.session(2).accept_job().is_some());
    world.run(|w| matches!(w.session(2).next_lease(job), Ok(Some(_))));
    for node in [PRIMARY, 2] {
        while world.session(node).poll_event().is_some() {}
    }
    let grown = Frame::Credit(Credit::Offset { stream, offset: 1 });
    let idle = [
        Frame::Credit(Credit::Lease { lease, bytes: 1 }),
        grown.clone(),
        Frame::JobClose { job: JobId::new(77) },
    ];
    for frame in idle {
        as_if_said(&mut world, 2, frame.clone());
        assert_eq!(world.session(2).events.pop(), None, "{frame:?}");
    }
    let begun = MappingOperation::Create;
    let status = crate::wire::PathStatus::Active;
    let said = |operation| Frame::StreamMappingUpdate { operation, stream, lease, range: range(0, 100_000) };
    as_if_said(&mut world, PRIMARY, said(begun));
    while world.session(PRIMARY).poll_event().is_some() {}
    let idle = [grown, said(begun), said(MappingOperation::Resume), Frame::PathReport { path, status }];
    for frame in idle {
        as_if_said(&mut world, PRIMARY, frame.clone());
        assert_eq!(world.session(PRIMARY).events.pop(), None, "{frame:?}");
    }
}

/// A Split is answered once; more answers would make the primary set slots aside that nobody has permitted.
#[test]
fn a_split_is_acknowledged_once() {
    let (mut world, _, stream, _) = World::at_work(Dir::Uni, range(0, 1000));
    world.run_for(ONE_WAY * 3);
    as_if_said(&mut world, PRIMARY, Frame::SplitAck { stream, credit: 1 << 20 });
    let lost = world.session(PRIMARY).lost.clone();
    assert_eq!(lost, Some(ConnectionError::Fault(PeerFault::SplitAckUnasked)));
    world.run_for(ONE_WAY * 2);
    let Some(ConnectionError::ApplicationClosed(close)) = world.session(CLIENT).lost.clone() else {
        panic!("the client was not told");
    };
    assert_eq!(close.error_code, ErrorCode::FRAME_UNEXPECTED);
    assert_eq!(close.reason, PeerFault::SplitAckUnasked.text(), "it is told which rule it broke");
}

/// Frames that a peer sends again and again are left unread once what pays for them is used up, and cost no more than is
/// stated.
#[test]
fn a_peer_that_repeats_itself_is_held_back() {
    let (mut world, _, stream, job) = World::at_work(Dir::Uni, range(0, 1000));
    let now = world.now;
    let lease = world.session(PRIMARY).lease(now, &NewLease::new(job, range(0, 1000))).unwrap();
    world.run_for(ONE_WAY * 3);
    let frames = [
        Frame::LeaseDone { lease },
        Frame::Credit(Credit::Offset { stream, offset: 0 }),
        Frame::JobAccepted { job },
        Frame::OffsetSyncRequest { stream, from: 0 },
    ];
    let before = world.session(PRIMARY).stats().late_frames;
    let mut said = 0_u64;
    let started = world.now;
    while world.now < started + Duration::from_secs(5) {
        let home = &mut world.session(CLIENT).links.home;
        while !home.is_backlogged() && said < 60_000 {
            for frame in &frames {
                home.send(frame).unwrap();
                said += 1;
            }
            home.flush();
        }
        world.run_for(Duration::from_millis(10));
        let _taken = world.session(PRIMARY).take_gap(stream);
    }
    let paid = limits::CONTROL_BURST + limits::CONTROL_RATE * 6;
    assert!(said > 2 * paid, "{said} frames were to be had");
    assert!(world.session(PRIMARY).stats().control_pauses > 0);
    let taken = world.session(PRIMARY).stats().late_frames - before;
    assert!(taken <= paid, "{taken} of {said} taken");
    assert_eq!(world.session(PRIMARY).lost, None);
}

/// A seal is looked at for as long as they are right. Spec: PROTOCOL §9.
#[test]
fn forged_jobs_are_soon_not_looked_at() {
    let (mut world, path, stream, job) = World::at_work(Dir::Uni, range(0, 1000));
    world.run_for(ONE_WAY * 3);
    let forged = |id| {
        Frame::JobOpen(crate::wire::JobOpen {
            job: JobId::new(id),
            path,
            stream,
            range: range(0, 1000),
            total: 1000,
            expiry: u64::MAX >> 2,
            payload: Bytes::new(),
            seal: crate::id::Signature::new([7; 64]),
        })
    };
    let mut looked_at = 0;
    for id in job.into_inner() + 1.. {
        if world.session(2).lost.is_some() {
            break;
        }
        as_if_said(&mut world, 2, forged(id));
        looked_at += 1;
    }
    assert_eq!(looked_at, limits::FORGED_JOBS_BURST + 1);
    assert_eq!(world.session(2).lost, Some(ConnectionError::Fault(PeerFault::JobsForged)));
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
}

/// A primary that writes where another was to has no credit there: the header of its stream asks for it.
#[test]
fn who_hedges_gets_credit_by_asking() {
    let (mut world, _, stream, job) = World::at_work(Dir::Uni, range(0, 20_000_000));
    let now = world.now;
    let whole = range(0, 20_000_000);
    let lease = world.session(PRIMARY).lease(now, &NewLease::new(job, whole)).unwrap();
    let mut filler = Filler::default();
    let (mut accepted, mut got) = (false, Vec::new());
    world.run(|w| {
        let now = w.now;
        filler.turn(now, w.session(2));
        accepted |= w.session(CLIENT).accept(Dir::Uni).is_some();
        if accepted {
            read_all(now, w.session(CLIENT), stream, true, &mut got);
        }
        got.len() > 6_000_000
    });
    let now = world.now;
    let at = got.len() as u64 + 1_000_000;
    let primary = world.session(PRIMARY);
    assert!(primary.stats().control_pauses == 0);
    let run = primary.hedge(now, lease, range(at, at + 1000)).unwrap();
    assert_eq!(
        primary.write_run(now, run, &mut [object(range(at, at + 1000))]),
        Err(LeaseWriteError::Blocked)
    );
    world.run(|w| {
        let now = w.now;
        w.session(PRIMARY).write_run(now, run, &mut [object(range(at, at + 1000))]).is_ok()
    });
    assert!(world.now - now <= ONE_WAY * 4, "{:?}", world.now - now);
}
