//! Behaviour at the edges: rules broken, limits reached, one end ahead of the other.

use super::*;
use crate::{
    stream::conflict::ConflictPolicy,
    wire::{Frame, PathStatus},
};

/// A primary that breaks the rules of a split stream's native part: the reader learns what ended its session.
#[test]
fn a_fault_in_the_native_part_is_told_to_the_reader() {
    // Native bytes before the split is told, and after; whether the stream ends then; what it costs.
    let crimes = [
        (100, 50, false, PeerFault::NativePastSplit),
        (0, 50, false, PeerFault::NativePastSplit),
        (40, 0, true, PeerFault::NativeEnded),
    ];
    for (before, after, ends, fault) in crimes {
        let mut world = World::new(1);
        world.connect();
        let path = world.attach(2);
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Bi).unwrap();
        if before > 0 {
            primary.write(now, stream, &mut [object(range(0, before))]).unwrap();
        }
        if ends {
            primary.links.home.outbound.half_mut(stream).unwrap().written += 10; // says that more is native than will come
        }
        primary.open_job(now, stream, NewJob::new(path, range(1000, 2000), "")).unwrap();
        world.run_for(ONE_WAY * 3);
        let home = &mut world.session(PRIMARY).links.home;
        if after > 0 {
            home.quic.write(stream, &mut [object(range(before, before + after))]).unwrap();
        }
        if ends {
            home.quic.finish(stream);
        }
        world.run_for(ONE_WAY * 3);
        let now = world.now;
        let client = world.session(CLIENT);
        assert_eq!(client.accept(Dir::Bi), Some(stream));
        let error = loop {
            if let Err(error) = client.read(now, stream, usize::MAX, true) {
                break error;
            }
        };
        assert_eq!(error, ReadError::ConnectionLost(ConnectionError::Fault(fault)));
        assert_eq!(client.lost(), Some(&ConnectionError::Fault(fault)));
    }
}

/// What the application has had, and stopped or read to its end before QUIC opened it, is not offered to it again, however
/// often the primary says that it is split.
#[test]
fn a_stream_that_is_split_again_is_offered_once() {
    for stopped in [true, false] {
        let mut world = World::new(1);
        world.connect();
        let now = world.now;
        let stream = StreamId::from_u64(1).unwrap();
        let client = world.session(CLIENT);
        client.on_frame(HOME, Frame::Split { stream, offset: 0 });
        assert_eq!(client.accept(Dir::Bi), Some(stream));
        if stopped {
            client.stop(now, stream, ErrorCode::from_u32(1)).unwrap();
        } else {
            client.on_frame(HOME, Frame::StreamFinal { stream, size: 0 });
            assert_eq!(client.read(now, stream, 1, true), Ok(None));
        }
        client.on_frame(HOME, Frame::Split { stream, offset: 0 });
        assert_eq!(client.accept(Dir::Bi), None, "stopped: {stopped}");
        assert_eq!(client.split_streams(), [], "and it takes no room");
    }
}

/// A client that has what nobody was ever given is not to be believed about anything. Spec: PROTOCOL §6.
#[test]
fn a_client_cannot_have_more_than_was_given() {
    for (received, fault) in [
        (range(0, 1000), None),
        (range(500, 1001), Some(PeerFault::SyncUntrue)),
        (range(5000, 6000), Some(PeerFault::SyncUntrue)),
    ] {
        let (mut world, _path, stream, job) = World::at_work(Dir::Uni, range(0, 10_000));
        let now = world.now;
        let primary = world.session(PRIMARY);
        primary.lease(now, &NewLease::new(job, range(0, 1000))).unwrap();
        primary.sync(now, stream).unwrap();
        let frame =
            Frame::OffsetSyncResponse { stream, received: [received].into_iter().collect(), more: false };
        primary.on_frame(HOME, frame);
        assert_eq!(primary.lost().cloned(), fault.map(ConnectionError::Fault));
        assert_eq!(primary.take_received(stream), fault.is_none().then(|| vec![received]));
    }
}

/// Half of what it had, and twice as much with each lease that is done. Spec: RATIONALE §8.
#[test]
fn a_path_that_was_silent_is_given_less_until_it_has_shown_itself() {
    let (mut world, path, _stream, job) = World::at_work(Dir::Uni, range(0, 1 << 20));
    let mut at = 0;
    let mut give = |world: &mut World, count: u64| {
        let now = world.now;
        let mut given = Vec::new();
        for _ in 0..count {
            given.push(world.session(PRIMARY).lease(now, &NewLease::new(job, range(at, at + 1000))));
            at += 1000;
        }
        given
    };
    let leases_max = |world: &mut World| world.session(PRIMARY).paths()[0].leases_max;
    assert_eq!(leases_max(&mut world), limits::LEASES_PER_PATH);
    assert!(give(&mut world, 8).iter().all(Result::is_ok));
    world.stall(2, Duration::from_millis(400));
    world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
    assert_eq!(leases_max(&mut world), 4);
    let given = give(&mut world, 5);
    assert!(given[..4].iter().all(Result::is_ok));
    assert_eq!(given[4], Err(LeaseError::LimitExceeded));
    let mut filler = Filler::default();
    world.run(|w| {
        let now = w.now;
        filler.turn(now, w.session(2));
        leases_max(w) == limits::LEASES_PER_PATH.min(4 << 4)
    });
}

/// Control stays ahead of it all the same.
#[test]
fn a_priority_reads_back_as_it_was_set() {
    let mut world = World::new(0);
    world.connect();
    let client = world.session(CLIENT);
    let stream = client.open(Dir::Bi).unwrap();
    assert_eq!(client.priority(stream), Ok(0));
    for priority in [i32::MIN, -1, 7, i32::MAX - 1, i32::MAX] {
        client.set_priority(stream, priority).unwrap();
        assert_eq!(client.priority(stream), Ok(priority));
    }
}

/// Spec: RATIONALE §8: a command that names a dead path says so, though the path's end has ended the job too.
#[test]
fn a_lease_on_a_dead_path_says_that_the_path_is_dead() {
    let (mut world, path, stream, job) = World::at_work(Dir::Bi, range(0, 100));
    let now = world.now;
    world.session(PRIMARY).remove_path(now, path).unwrap();
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    let now = world.now;
    let primary = world.session(PRIMARY);
    assert!(matches!(primary.job_answer(job), Some(Err(_))));
    assert_eq!(primary.lease(now, &NewLease::new(job, range(0, 100))), Err(LeaseError::PathDead));
    let again = primary.open_job(now, stream, NewJob::new(path, range(0, 100), ""));
    assert_eq!(again, Err(LeaseError::PathDead));
    primary.close_job(now, job);
    assert_eq!(primary.lease(now, &NewLease::new(job, range(0, 100))), Err(LeaseError::JobClosed));
}

/// Spec: PROTOCOL §8.5: what is silent may answer again, and then takes leases.
#[test]
fn a_lease_on_a_silent_path_says_that_it_is_silent_for_now() {
    let (mut world, path, _stream, job) = World::at_work(Dir::Bi, range(0, 100));
    for (status, state) in
        [(PathStatus::Degraded, PathState::Degraded), (PathStatus::Active, PathState::Active)]
    {
        let home = &mut world.session(CLIENT).links.home;
        home.send(&Frame::PathReport { path, status }).unwrap();
        home.flush();
        world.run(|w| w.session(PRIMARY).path_state(path) == Some(state));
        let now = world.now;
        let lease = world.session(PRIMARY).lease(now, &NewLease::new(job, range(0, 100)));
        assert_eq!(lease.err(), (state == PathState::Degraded).then_some(LeaseError::PathSilent));
    }
}

/// Spec: PROTOCOL §10: an application cannot speak in KWIK's name, and a call that is refused has done nothing.
#[test]
fn reserved_codes_are_refused_wherever_an_application_names_one() {
    let (mut world, _path, stream, job) = World::at_work(Dir::Bi, range(0, 100));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let lease = primary.lease(now, &NewLease::new(job, range(0, 100))).unwrap();
    world.run(|w| w.session(CLIENT).accept(Dir::Bi).is_some());
    world.run(|w| w.session(2).accept_job().is_some());
    world.run(|w| matches!(w.session(2).next_lease(job), Ok(Some(_))));
    let now = world.now;
    for code in [ErrorCode::NO_ERROR, ErrorCode::LEASE_SHORT, ErrorCode::from_u32(0x4b57_ffff)] {
        let misuse = ApiMisuse::ReservedCode;
        assert_eq!(world.session(PRIMARY).reset(now, stream, code), Err(misuse.into()));
        assert_eq!(world.session(CLIENT).stop(now, stream, code), Err(misuse.into()));
        assert_eq!(world.session(2).reset_lease(now, lease, code), Err(misuse));
        assert_eq!(world.session(2).refuse_job(now, job, code), Err(misuse));
    }
    world.run_for(ONE_WAY * 5);
    let primary = world.session(PRIMARY);
    assert_eq!((primary.job_answer(job), primary.lease_outcome(lease)), (None, None));
    assert_eq!(primary.stopped(stream), Ok(None));
    // Without a code of its own the application may still let go of a lease: that is KWIK's to word.
    world.session(2).drop_lease(now, lease);
    world.run(|w| w.session(PRIMARY).lease_outcome(lease).is_some());
}

/// The client has every byte when `stopped` says so: from there on the stream needs no credit, at either end.
#[test]
fn a_complete_stream_makes_room_for_the_next_at_once() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().session_window(128 * 1024)); // one split stream at once
    let mut read = 0;
    for _ in 0..20 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        let run = primary.write_at(now, stream, range(0, 5000)).unwrap();
        let other = primary.open(Dir::Uni).unwrap();
        assert_eq!(primary.write_at(now, other, range(0, 1)), Err(LeaseError::NoCredit));
        primary.reset(now, other, ErrorCode::from_u32(0)).unwrap();
        primary.write_run(now, run, &mut [object(range(0, 5000))]).unwrap();
        primary.finish(now, stream).unwrap();
        let mut got = Vec::new();
        world.run(|w| {
            let now = w.now;
            let client = w.session(CLIENT);
            while client.accept(Dir::Uni).is_some() {}
            read += usize::from(reads(client, stream) && read_all(now, client, stream, true, &mut got));
            w.session(PRIMARY).stopped(stream).is_err()
        });
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(PRIMARY).lost(), None);
    assert_eq!(read, 20);
}

/// Spec: RATIONALE §8: on a path as short as loopback 2 PTO are 52 ms, and any busy machine keeps a server waiting for longer.
#[test]
fn a_server_that_waits_for_a_core_keeps_its_leases() {
    let mut world = World::new(1);
    world.one_way = Duration::from_micros(100);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let whole = range(0, 6_000_000);
    let job = primary.open_job(now, stream, NewJob::new(path, whole, "")).unwrap();
    let lease = primary.lease(now, &NewLease::new(job, whole)).unwrap();
    let mut filler = Filler::default();
    let mut got = Vec::new();
    for until in [500_000, 2_000_000, 4_000_000, 6_000_000] {
        world.run(|w| {
            let now = w.now;
            filler.turn(now, w.session(2));
            let client = w.session(CLIENT);
            client.accept(Dir::Uni);
            if reads(client, stream) {
                read_all(now, client, stream, true, &mut got);
            }
            let source = client.stats().sources.get(&path).copied().unwrap_or_default();
            assert_eq!(source.degraded, 0, "called silent after {} bytes", got.len());
            got.len() >= until
        });
        world.stall(2, Duration::from_millis(60));
    }
    check(&got, 6_000_000);
    world.run(|w| w.session(PRIMARY).lease_outcome(lease) == Some(LeaseOutcome::Done));
}

/// The primary talks until its frames are left unread for a while; a path that is being attached meanwhile has no
/// control stream that could be read on.
#[test]
fn frames_that_waited_cost_no_other_path() {
    let mut world = World::new(2);
    world.connect();
    let served = world.attach(2);
    world.nodes[3].dead = true;
    let path = world.add_path(3);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let job = primary.open_job(now, stream, NewJob::new(served, range(0, 100), "")).unwrap();
    let lease = primary.lease(now, &NewLease::new(job, range(0, 100))).unwrap();
    world.run(|w| w.session(2).accept_job().is_some()); // signed, and at the client
    let now = world.now;
    let primary = world.session(PRIMARY);
    for _ in 0..limits::CONTROL_BURST + 100 {
        primary.revoke_lease(now, lease, 50).unwrap();
    }
    let job = primary.open_job(now, stream, NewJob::new(served, range(0, 10), "")).unwrap();
    world.run(|w| {
        while let Some(job) = w.session(2).accept_job() {
            w.session(2).take_job(now, job.id);
        }
        w.session(PRIMARY).job_answer(job).is_some()
    });
    assert!(world.now - now > Duration::from_millis(500), "the client let them wait");
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    let code = ErrorCode::PATH_DEAD;
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Dead(code)));
}

/// With every slot taken by the application's streams, the runs that their readers wait for would have none.
#[test]
fn runs_have_slots_of_their_own() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().streams_start(4).streams_max(4));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let streams: Vec<StreamId> = std::iter::from_fn(|| primary.open(Dir::Uni)).take(100).collect();
    assert_eq!(streams.len(), 4, "what the client permits");
    let runs: Vec<_> =
        streams.iter().map(|&stream| primary.write_at(now, stream, range(0, 10)).unwrap()).collect();
    streams.iter().for_each(|&stream| primary.finish(now, stream).unwrap());
    let mut sent = 0;
    let mut read = vec![Vec::new(); streams.len()];
    world.run(|w| {
        let now = w.now;
        let primary = w.session(PRIMARY);
        for &run in &runs {
            sent +=
                primary.write_run(now, run, &mut [object(range(0, 10))]).map_or(0, |written| written.bytes);
        }
        let client = w.session(CLIENT);
        while client.accept(Dir::Uni).is_some() {}
        for (&stream, got) in streams.iter().zip(&mut read) {
            if reads(client, stream) {
                read_all(now, client, stream, true, got);
            }
        }
        read.iter().all(|got| got.len() == 10)
    });
    assert_eq!(sent, 10 * streams.len());
}

/// The datagrams were read in time and lay waiting for longer than the idle timeout: nobody was silent.
#[test]
fn what_waited_to_be_handled_is_no_silence() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().idle_timeout(Duration::from_secs(1)));
    world.run_for(Duration::from_millis(600));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    primary.write(now, stream, &mut [object(range(0, 100))]).unwrap();
    world.drain();
    world.now += ONE_WAY;
    let read = world.now;
    let mut events = Vec::new();
    for (_, from, _, bytes) in std::mem::take(&mut world.in_flight) {
        let endpoint = &mut world.nodes[CLIENT].endpoint;
        let data = BytesMut::from(&bytes[..]);
        match endpoint.handle(read, from, None, None, data, &mut Vec::new()) {
            Some(DatagramEvent::Session(_, event)) => events.push(event),
            other => panic!("{other:?}"),
        }
    }
    world.now += Duration::from_millis(1200);
    let now = world.now;
    let client = world.session(CLIENT);
    assert!(client.is_verdict_due(now));
    for event in events {
        client.handle_event(now, UNIX, event);
    }
    for _ in 0..3 {
        world.session(CLIENT).handle_timeout(now);
        world.drain();
    }
    assert_eq!(world.session(CLIENT).lost(), None);
    assert!(!world.session(CLIENT).is_verdict_due(now));
    // With nothing more to be heard, it is silence after all.
    world.nodes[PRIMARY].dead = true;
    let gone = Event::Lost(ConnectionError::TimedOut);
    world.run(|w| w.nodes[CLIENT].events.contains(&gone));
    assert!(world.now >= now + Duration::from_millis(990), "{:?}", world.now - now);
}

/// A stream that two servers disagree about is stopped twice, by a frame and by QUIC, and the application may be fast
/// enough for both to leave together: whichever is handled first gives the reason.
#[test]
fn a_disagreement_is_the_reason_however_it_is_told() {
    let mut world = World::new(1);
    world.connect_with(TransportConfig::default().conflict_policy(ConflictPolicy::Reject));
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let job = primary.open_job(now, stream, NewJob::new(path, range(0, 1000), "")).unwrap();
    let lease = primary.lease(now, &NewLease::new(job, range(0, 1000))).unwrap();
    let mut lie = vec![Bytes::from_static(&[0xee; 500])];
    world.run(|w| {
        let (now, secondary) = (w.now, w.session(2));
        let job = secondary.accept_job().map(|job| job.id);
        job.into_iter().for_each(|job| secondary.take_job(now, job));
        if let Ok(Some(given)) = secondary.next_lease(JobId::new(0)) {
            secondary.write_lease(now, given.id, &mut lie).unwrap();
        }
        w.session(CLIENT).stats().held_bytes == 500
    });
    let now = world.now;
    let primary = world.session(PRIMARY);
    let run = primary.hedge(now, lease, range(0, 1000)).unwrap();
    primary.write_run(now, run, &mut [object(range(0, 1000))]).unwrap();
    assert_eq!(world.session(CLIENT).accept(Dir::Uni), Some(stream));
    // The application reads before anything is sent that the client has to say of it.
    while world.session(CLIENT).stats().sources.get(&HOME).is_none_or(|source| source.conflicts == 0) {
        world.drain();
        world.step();
    }
    let now = world.now;
    let read = world.session(CLIENT).read(now, stream, 1, true);
    assert!(matches!(read, Err(ReadError::Conflict { .. })), "{read:?}");
    world.run(|w| w.session(PRIMARY).stopped(stream) != Ok(None));
    assert_eq!(world.session(PRIMARY).stopped(stream), Ok(Some(ErrorCode::DATA_CONFLICT)));
}

/// A driver that sleeps after a read must be told when the read has begun something that only time will end: a reader that
/// came to an unowned hole once everything else was quiet waited for the next keep-alive.
#[test]
fn a_reader_that_comes_late_to_a_hole_is_watched() {
    let (mut world, _path, stream, job) = World::at_work(Dir::Uni, range(0, 2000));
    let now = world.now;
    world.session(PRIMARY).lease(now, &NewLease::new(job, range(1000, 2000))).unwrap();
    let mut filler = Filler::default();
    world.run(|w| {
        filler.turn(w.now, w.session(2));
        w.session(CLIENT).stats().held_bytes == 1000
    });
    world.run_for(Duration::from_secs(1));
    let now = world.now;
    let client = world.session(CLIENT);
    assert_eq!(client.accept(Dir::Uni), Some(stream));
    assert!(!client.wants_transmit());
    assert_eq!(client.read(now, stream, 1, true), Err(ReadError::Blocked));
    assert!(client.wants_transmit());
    world.run_for(Duration::from_millis(1));
    let client = world.session(CLIENT);
    assert_eq!(client.read(now, stream, 1, true), Err(ReadError::Blocked));
    assert!(!client.wants_transmit(), "it is watched now");
}
