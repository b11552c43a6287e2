//! One stream from several servers: native head, leases, the primary's own runs. Spec: PROTOCOL §4 to §6.

use std::time::Duration;

use kwik_tests::{
    feed::{Plan, distribute, receive},
    object::Object,
    run, soon, stays_pending,
    world::{Settings, World, attach, fill, pieces},
};
use kwik_tokio::{
    ByteRange, ConflictPolicy, Connection, ErrorCode, JobError, LeaseError, LeaseOutcome, NewJob, NewLease,
    PathId, PathState, PrimarySession, RangeWriteError, ReadError, RecvStream, SecondaryJob,
    SecondarySession, SendStream, TransportConfig, WriteError,
};

const OBJECT: Object = Object(2);
const MIB: u64 = 1024 * 1024;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

fn lost(code: ErrorCode, missing: ByteRange) -> LeaseOutcome {
    LeaseOutcome::Lost { code, missing: vec![missing] }
}

fn job(path: PathId, range: ByteRange) -> NewJob {
    NewJob::new(path, range, OBJECT.payload())
}

/// Writes a run of the primary's own and waits until it has arrived.
async fn write_run(stream: &SendStream, range: ByteRange) {
    let mut run = stream.write_at(range).unwrap();
    for piece in pieces(range.start(), range.end()) {
        run.write_all_chunks(&mut [OBJECT.bytes(piece)]).await.unwrap();
    }
    assert_eq!(run.finish().await, Ok(LeaseOutcome::Done));
}

/// A native head, ranges of both secondaries, a run of the primary's own and a sequential tail.
#[test]
fn one_stream_from_three_servers() {
    run(async {
        for (ordered, bi) in [(true, true), (false, true), (true, false), (false, false)] {
            let world = World::serving(2);
            let (client, primary, paths) = world.connect_all().await;
            let mut stream =
                if bi { primary.open_bi().await.unwrap().0 } else { primary.open_uni().await.unwrap() };
            stream.write_all(&OBJECT.bytes(range(0, 100_000))).await.unwrap();
            let whole = range(100_000, 9 * MIB);
            let jobs = [0, 1].map(|index| stream.open_job(job(paths[index], whole)).unwrap());
            let mut leases = [
                jobs[0].lease(range(100_000, 2 * MIB)).unwrap(),
                jobs[1].lease(range(2 * MIB, 4 * MIB)).unwrap(),
                jobs[0].lease(range(4 * MIB, 5 * MIB + 1)).unwrap(),
                jobs[1].lease(range(5 * MIB + 1, 6 * MIB)).unwrap(),
            ];
            let reads = async {
                let mut recv =
                    if bi { client.accept_bi().await.unwrap().1 } else { client.accept_uni().await.unwrap() };
                assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(8 * MIB));
            };
            let writes = async {
                write_run(&stream, range(6 * MIB, 7 * MIB)).await;
                for piece in pieces(7 * MIB, 8 * MIB) {
                    stream.write_chunk(OBJECT.bytes(piece)).await.unwrap();
                }
                for lease in &mut leases {
                    assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));
                }
                stream.finish().unwrap();
                assert_eq!(stream.stopped().await, Ok(None));
            };
            tokio::join!(reads, writes);
            let stats = client.stats();
            assert_eq!(stats.held_bytes, 0);
            assert_eq!(stats.sources[&PathId::PRIMARY].bytes, 2 * MIB);
            assert_eq!(stats.sources[&paths[0]].bytes, 3 * MIB + 1 - 100_000);
            assert_eq!(stats.sources[&paths[1]].bytes, 3 * MIB - 1);
            for source in stats.sources.values() {
                assert_eq!((source.overlap_bytes, source.conflicts, source.leases_lost), (0, 0, 0));
            }
        }
    });
}

/// The handles tell of a stream that two servers fill, and of its leases. Spec: RATIONALE §12.
#[test]
fn a_half_filled_stream_has_figures() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        let mut stream = primary.open_uni().await.unwrap();
        stream.write_all(&OBJECT.bytes(range(0, 1000))).await.unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        assert_eq!(recv.stats(), None, "it is not split");
        write_run(&stream, range(5000, 6000)).await;
        let job = stream.open_job(job(paths[0], range(1000, MIB))).unwrap();
        let mut lease = job.lease(range(1000, 4000)).unwrap();
        assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));

        let stats = recv.stats().expect("it is split");
        assert_eq!((stats.base, stats.held_bytes, stats.highest_offset), (1000, 4000, 6000));
        assert_eq!(stats.missing, Some(range(4000, 5000)));
        assert_eq!(
            stats.sources.into_iter().collect::<Vec<_>>(),
            [(PathId::PRIMARY, 1000), (paths[0], 3000)]
        );
        assert_eq!((stats.reassembly.reorder_depth, stats.leases), (1000, 0));
        assert!(client.lease_stats().is_empty());
        let path = primary.paths().into_iter().next().unwrap();
        assert_eq!((path.leases_done, path.bytes_done, path.leases_stolen), (1, 3000, 0));

        write_run(&stream, range(4000, 5000)).await;
        stream.finish().unwrap();
        assert_eq!(recv.read_to_end(7000).await.unwrap(), OBJECT.bytes(range(0, 6000)));
        assert_eq!(recv.stats(), None, "it is read to its end");
        let stats = client.stats();
        assert_eq!((stats.reassembly.bytes, stats.reassembly.reorder_depth_max), (5000, 1000));
        assert!(
            stats.reassembly.hole_time_max > Duration::ZERO && stats.reassembly.delay_mean > Duration::ZERO
        );
        assert_eq!(stats.sources[&paths[0]].state, Some(PathState::Active));
    });
}

/// Several streams at once, in both directions of opening, each with an object of its own.
#[test]
fn several_streams_at_once() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..6 {
            let (object, size) = (Object(100 + index), MIB + index * 77_777);
            let plan = Plan {
                object,
                size,
                head: index * 1000,
                piece: 200_000,
                paths: paths.clone(),
                own: index % 2 == 0,
            };
            let (send, mut recv) = if index < 3 {
                let stream = primary.open_uni().await.unwrap();
                // Which stream is which shows in the order: a stream is accepted once it is known.
                let feed = tokio::spawn(distribute(stream, plan));
                (feed, soon("the stream", client.accept_uni()).await.unwrap())
            } else {
                // A stream that the client opened, and the servers answer on.
                let (mut request, recv) = client.open_bi().await.unwrap();
                request.write_all(b"please").await.unwrap();
                request.finish().unwrap();
                let (stream, mut asked) = soon("the request", primary.accept_bi()).await.unwrap();
                assert_eq!(asked.read_to_end(10).await.unwrap(), b"please");
                (tokio::spawn(distribute(stream, plan)), recv)
            };
            tasks.spawn(async move {
                assert_eq!(receive(&mut recv, object, index % 2 == 0).await, Ok(size), "stream {index}");
                let report = send.await.unwrap().unwrap();
                assert_eq!(report.lost, []);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}

/// Neither accept sees anything of a secondary, during a transfer and after it. Spec: DESIGN §2, I2.
#[test]
fn secondaries_are_invisible() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let stream = primary.open_uni().await.unwrap();
        let plan = Plan { object: OBJECT, size: 8 * MIB, head: 0, piece: 100_000, paths, own: true };
        let feed = tokio::spawn(distribute(stream, plan));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        let watch = async {
            tokio::select! {
                stream = client.accept_uni() => panic!("accepted {stream:?}"),
                stream = client.accept_bi() => panic!("accepted {stream:?}"),
                datagram = client.read_datagram() => panic!("received {datagram:?}"),
                () = async {
                    assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(8 * MIB));
                    feed.await.unwrap().unwrap();
                } => {}
            }
        };
        watch.await;
        let time = Duration::from_millis(200);
        let quiet = tokio::join!(
            stays_pending(time, client.accept_uni()),
            stays_pending(time, client.accept_bi()),
            stays_pending(time, client.read_datagram())
        );
        assert_eq!(quiet, (true, true, true));
    });
}

/// A stream split before its first byte, and one that is only a native head: an empty tail is valid. Spec: PROTOCOL §4.
#[test]
fn splits_and_ends_in_odd_places() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        for ordered in [true, false] {
            // Split at 0, everything leased.
            let mut stream = primary.open_bi().await.unwrap().0;
            let work = stream.open_job(job(paths[0], range(0, 70_000))).unwrap();
            let mut lease = work.lease(range(0, 70_000)).unwrap();
            stream.finish().unwrap();
            let mut recv = soon("the stream", client.accept_bi()).await.unwrap().1;
            assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(70_000));
            assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));

            // A job but no lease: the final size is the split offset.
            let mut stream = primary.open_uni().await.unwrap();
            stream.write_all(&OBJECT.bytes(range(0, 50_000))).await.unwrap();
            let work = stream.open_job(job(paths[0], range(50_000, 60_000))).unwrap();
            stream.finish().unwrap();
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(50_000));
            assert_eq!(soon("the end", stream.stopped()).await, Ok(None));
            assert_eq!(work.lease(range(50_000, 60_000)).err(), Some(LeaseError::JobClosed));

            // Split at 0 and nothing at all.
            let mut stream = primary.open_uni().await.unwrap();
            let _work = stream.open_job(job(paths[0], range(0, 10))).unwrap();
            stream.finish().unwrap();
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(0));
            assert_eq!(soon("the end", stream.stopped()).await, Ok(None));

            // One byte each, last first.
            let mut stream = primary.open_uni().await.unwrap();
            let work = stream.open_job(job(paths[0], range(0, 5))).unwrap();
            for at in (0..5).rev() {
                if at % 2 == 0 {
                    assert_eq!(
                        work.lease(range(at, at + 1)).unwrap().outcome().await,
                        Ok(LeaseOutcome::Done)
                    );
                } else {
                    write_run(&stream, range(at, at + 1)).await;
                }
            }
            stream.finish().unwrap();
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(5));
        }
    });
}

/// `write` goes on after the split, skipping what others own.
#[test]
fn sequential_writing_skips_what_others_own() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        let mut stream = primary.open_uni().await.unwrap();
        stream.write_all(&OBJECT.bytes(range(0, 1000))).await.unwrap();
        let work = stream.open_job(job(paths[0], range(0, MIB))).unwrap();
        let _leases = [work.lease(range(1500, 2000)).unwrap(), work.lease(range(3000, 3001)).unwrap()];
        assert_eq!(work.lease(range(999, 1001)).err(), Some(LeaseError::Overlap), "native bytes are written");
        assert_eq!(work.lease(range(1999, 2001)).err(), Some(LeaseError::Overlap));
        assert_eq!(stream.write_at(range(3000, 3001)).err(), Some(LeaseError::Overlap));
        // 500 up to the first lease, 1,000 to the second, the rest behind it.
        for written in [range(1000, 1500), range(2000, 3000), range(3001, 10_000)] {
            stream.write_all(&OBJECT.bytes(written)).await.unwrap();
        }
        stream.finish().unwrap();
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(10_000));
    });
}

/// A session whose secondaries are played by the test.
struct Stage {
    world: World,
    client: Connection,
    primary: PrimarySession,
    paths: Vec<PathId>,
    secondaries: Vec<SecondarySession>,
    stream: SendStream,
    recv: RecvStream,
}

/// Begins a transfer: the stream has a native byte.
async fn stage(secondaries: usize) -> Stage {
    stage_with(secondaries, Settings::default()).await
}

async fn stage_with(secondaries: usize, settings: Settings) -> Stage {
    let world = World::with(secondaries, settings);
    let (client, primary) = world.connect().await;
    let (mut paths, mut sessions) = (Vec::new(), Vec::new());
    for server in &world.secondaries {
        let (path, session) = tokio::join!(attach(&primary, server), server.accept_secondary());
        paths.push(path);
        sessions.push(session);
    }
    let mut stream = primary.open_uni().await.unwrap();
    stream.write_all(&OBJECT.bytes(range(0, 1))).await.unwrap();
    let recv = soon("the stream", client.accept_uni()).await.unwrap();
    Stage { world, client, primary, paths, secondaries: sessions, stream, recv }
}

async fn accept_job(session: &SecondarySession) -> SecondaryJob {
    soon("a job", session.accept_job()).await.unwrap()
}

impl Stage {
    /// Leases `missing` on another path and lets the client read everything to the end.
    async fn finish(mut self, path: usize, missing: ByteRange, size: u64) {
        let work = self.stream.open_job(job(self.paths[path], range(1, size))).unwrap();
        let mut lease = work.lease(missing).unwrap();
        let session = self.secondaries[path].clone();
        let serves = tokio::spawn(async move {
            loop {
                let mut job = accept_job(&session).await;
                if let Some(lease) = soon("a lease", job.next_lease()).await {
                    fill(lease.open(), OBJECT).await;
                    return session;
                }
            }
        });
        self.stream.finish().unwrap();
        assert_eq!(receive(&mut self.recv, OBJECT, true).await, Ok(size));
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        serves.await.unwrap();
        drop((self.client, self.primary, self.world));
    }
}

#[test]
fn a_job_may_be_refused_with_a_code() {
    run(async {
        let stage = stage(2).await;
        let code = ErrorCode::from_u32(404);
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let offered = accept_job(&stage.secondaries[0]).await;
        assert_eq!((offered.payload(), offered.range()), (&OBJECT.payload(), range(1, MIB)));
        offered.refuse(code);
        assert_eq!(soon("the answer", work.accepted()).await, Err(JobError::Refused(code)));
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(lost(code, range(1, MIB))));
        assert_eq!(lease.outcome().await, Ok(lost(code, range(1, MIB))), "asked again");
        assert_eq!(work.lease(range(1, MIB)).err(), Some(LeaseError::JobClosed));
        stage.finish(1, range(1, MIB), MIB).await;
    });
}

/// Dropping a job before it is taken refuses it with code 0.
#[test]
fn a_dropped_job_is_refused() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 100))).unwrap();
        let mut lease = work.lease(range(1, 100)).unwrap();
        drop(accept_job(&stage.secondaries[0]).await);
        let code = ErrorCode::from_u32(0);
        assert_eq!(soon("the answer", work.accepted()).await, Err(JobError::Refused(code)));
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(lost(code, range(1, 100))));
        stage.finish(1, range(1, 100), 100).await;
    });
}

/// A job that was taken, then dropped: what it has not handed out is given back, what it has goes on.
#[test]
fn a_job_dropped_later_gives_back_its_leases() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 300))).unwrap();
        let mut kept = work.lease(range(1, 100)).unwrap();
        let mut given_back = work.lease(range(100, 200)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let lease = soon("a lease", taken.next_lease()).await.unwrap();
        assert_eq!(lease.range(), range(1, 100), "lowest first");
        assert_eq!(soon("the answer", work.accepted()).await, Ok(()));
        drop(taken);
        let outcome = soon("the outcome", given_back.outcome()).await.unwrap();
        assert!(
            matches!(&outcome, LeaseOutcome::Lost { missing, .. } if *missing == [range(100, 200)]),
            "{outcome:?}"
        );
        fill(lease.open(), OBJECT).await;
        assert_eq!(soon("the outcome", kept.outcome()).await, Ok(LeaseOutcome::Done));
        stage.finish(1, range(100, 200), 200).await;
    });
}

/// The primary's last handle of a job closes it at the secondary, once its leases have been handed out.
#[test]
fn a_job_ends_when_the_primary_lets_go() {
    run(async {
        let mut stage = stage(1).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 100))).unwrap();
        let mut lease = work.lease(range(1, 100)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        drop(work);
        assert!(
            stays_pending(Duration::from_millis(100), taken.next_lease()).await,
            "a lease is a handle, too"
        );
        drop(lease);
        assert!(soon("the end of the job", taken.next_lease()).await.is_none());
        assert_eq!(taken.end_reason(), Some(ErrorCode::NO_ERROR));
        stage.stream.finish().unwrap();
        assert_eq!(receive(&mut stage.recv, OBJECT, true).await, Ok(100));
    });
}

/// A lease given up half-way is lost with `LEASE_SHORT`, and exactly the rest is missing.
#[test]
fn a_lease_dropped_half_way_leaves_exactly_the_rest() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut half = soon("a lease", taken.next_lease()).await.unwrap().open();
        let past_end = vec![0; usize::try_from(MIB).unwrap()];
        assert_eq!(half.write(&past_end).await, Err(RangeWriteError::PastEnd));
        half.write_all(&OBJECT.bytes(range(1, 400_000))).await.unwrap();
        assert_eq!(half.remaining(), MIB - 400_000);
        assert_eq!(half.finish(), Err(RangeWriteError::Short(MIB - 400_000)));
        // What was written has time to arrive: giving up is a reset, which takes what is still on its way with it.
        let mut recv = stage.recv;
        let mut first = vec![0; 400_000];
        soon("the first half", recv.read_exact(&mut first)).await.unwrap();
        assert!(OBJECT.matches(0, &first));
        drop(half);
        let missing = range(400_000, MIB);
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(lost(ErrorCode::LEASE_SHORT, missing)));

        let other = stage.stream.open_job(job(stage.paths[1], missing)).unwrap();
        let mut again = other.lease(missing).unwrap();
        let mut taken = accept_job(&stage.secondaries[1]).await;
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        let mut stream = stage.stream;
        stream.finish().unwrap();
        let rest = soon("the rest", recv.read_to_end(1 << 21)).await.unwrap();
        assert_eq!(rest, OBJECT.bytes(missing));
        assert_eq!(again.outcome().await, Ok(LeaseOutcome::Done));
    });
}

/// A lease given back before its first byte.
#[test]
fn a_lease_never_opened_is_lost_whole() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        drop(soon("a lease", taken.next_lease()).await.unwrap());
        assert_eq!(
            soon("the outcome", lease.outcome()).await,
            Ok(lost(ErrorCode::LEASE_SHORT, range(1, MIB)))
        );
        stage.finish(1, range(1, MIB), MIB).await;
    });
}

/// The secondary's own code reaches the primary.
#[test]
fn a_secondarys_reset_reaches_the_primary_with_its_code() {
    run(async {
        let mut stage = stage(2).await;
        let code = ErrorCode::from_u32(99);
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut half = soon("a lease", taken.next_lease()).await.unwrap().open();
        half.write_all(&OBJECT.bytes(range(1, 1000))).await.unwrap();
        soon("the first bytes", stage.recv.read_exact(&mut [0; 1000])).await.unwrap();
        half.reset(code);
        let missing = range(1000, MIB);
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(lost(code, missing)));
        // The same path may be asked again.
        let mut again = work.lease(missing).unwrap();
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        stage.stream.finish().unwrap();
        assert_eq!(soon("the rest", stage.recv.read_to_end(1 << 21)).await.unwrap(), OBJECT.bytes(missing));
        assert_eq!(again.outcome().await, Ok(LeaseOutcome::Done));
    });
}

/// Nothing can be leased that a job does not allow.
#[test]
fn leases_stay_inside_their_job() {
    run(async {
        let mut stage = stage(1).await;
        let new = job(stage.paths[0], range(10, 20)).total(15);
        let work = stage.stream.open_job(new).unwrap();
        for outside in [range(9, 12), range(19, 21), range(30, 40)] {
            assert_eq!(work.lease(outside).err(), Some(LeaseError::OutsideJob));
        }
        let mut lease = work.lease(range(10, 20)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        drop(soon("a lease", taken.next_lease()).await.unwrap());
        assert_eq!(
            soon("the outcome", lease.outcome()).await,
            Ok(lost(ErrorCode::LEASE_SHORT, range(10, 20)))
        );
        // 10 of 15 bytes are used up, given back or not.
        assert_eq!(work.lease(range(10, 16)).err(), Some(LeaseError::OutsideJob));
        let mut lease = work.lease(range(10, 15)).unwrap();
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        write_run(&stage.stream, range(15, 20)).await;
        write_run(&stage.stream, range(1, 10)).await;
        stage.stream.finish().unwrap();
        assert_eq!(receive(&mut stage.recv, OBJECT, true).await, Ok(20));
    });
}

/// A job past its time is refused by the secondary itself, which trusts only its own clock.
#[test]
fn an_expired_job_is_refused() {
    run(async {
        let stage = stage(1).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 10)).lifetime(Duration::ZERO)).unwrap();
        // Within the tolerated difference of clocks it is still good.
        let _taken = accept_job(&stage.secondaries[0]).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        let mut lease = work.lease(range(1, 10)).unwrap();
        let outcome = soon("the outcome", lease.outcome()).await;
        assert_eq!(outcome, Ok(lost(ErrorCode::TICKET_EXPIRED, range(1, 10))));
        let late = stage.stream.open_job(job(stage.paths[0], range(1, 10)).lifetime(Duration::ZERO)).unwrap();
        drop(late);
    });
}

/// The client's stop ends all leases of the stream, and the writers learn it.
#[test]
fn a_stop_reaches_every_server() {
    run(async {
        let mut stage = stage(2).await;
        let code = ErrorCode::from_u32(5);
        let whole = range(1, 64 * MIB);
        let mut leases = Vec::new();
        let mut open = Vec::new();
        for (index, part) in [range(1, 20 * MIB), range(20 * MIB, 40 * MIB)].into_iter().enumerate() {
            let work = stage.stream.open_job(job(stage.paths[index], whole)).unwrap();
            leases.push(work.lease(part).unwrap());
        }
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut writer = soon("a lease", taken.next_lease()).await.unwrap().open();
        writer.write_all(&OBJECT.bytes(range(1, 1000))).await.unwrap();
        open.push(accept_job(&stage.secondaries[1]).await);
        let mut run = stage.stream.write_at(range(40 * MIB, 41 * MIB)).unwrap();
        soon("the first bytes", stage.recv.read_exact(&mut [0; 1000])).await.unwrap();
        stage.recv.stop(code).unwrap();
        assert_eq!(soon("the stop", stage.stream.stopped()).await, Ok(Some(code)));
        assert_eq!(stage.stream.write(b"x").await, Err(WriteError::Stopped(code)));
        for lease in &mut leases {
            let outcome = soon("the outcome", lease.outcome()).await.unwrap();
            assert!(
                matches!(outcome, LeaseOutcome::Lost { code: ErrorCode::STREAM_CLOSED, .. }),
                "{outcome:?}"
            );
        }
        let ended = soon("the end of the lease", async {
            loop {
                if let Err(error) = writer.write(&[0; 1000]).await {
                    break error;
                }
            }
        })
        .await;
        assert_eq!(ended, RangeWriteError::Ended(ErrorCode::STREAM_CLOSED));
        let ended = soon("the end of the run", run.write(&[0; 10])).await;
        assert!(matches!(ended, Err(RangeWriteError::Ended(_))), "{ended:?}");
        assert_eq!(stage.stream.open_job(job(stage.paths[0], whole)).err(), Some(LeaseError::ClosedStream));
        // Nothing else is hurt.
        assert!(stage.primary.paths().iter().all(|path| path.state == PathState::Active));
        let mut next = stage.primary.open_uni().await.unwrap();
        next.write_all(b"next").await.unwrap();
        next.finish().unwrap();
        let mut recv = soon("the stream", stage.client.accept_uni()).await.unwrap();
        assert_eq!(recv.read_to_end(9).await.unwrap(), b"next");
    });
}

/// The primary's reset of a split stream is the reset of all of it.
#[test]
fn a_reset_ends_a_split_stream_and_its_leases() {
    run(async {
        let mut stage = stage(1).await;
        let code = ErrorCode::from_u32(6);
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 64 * MIB))).unwrap();
        let mut lease = work.lease(range(1, 64 * MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut writer = soon("a lease", taken.next_lease()).await.unwrap().open();
        writer.write_all(&OBJECT.bytes(range(1, 1000))).await.unwrap();
        soon("the first bytes", stage.recv.read_exact(&mut [0; 1000])).await.unwrap();
        stage.stream.reset(code).unwrap();
        assert_eq!(soon("the reset", stage.recv.read(&mut [0])).await, Err(ReadError::Reset(code)));
        let outcome = soon("the outcome", lease.outcome()).await.unwrap();
        assert!(matches!(outcome, LeaseOutcome::Lost { code: ErrorCode::STREAM_CLOSED, .. }), "{outcome:?}");
        let ended = soon("the end of the lease", async {
            loop {
                if let Err(error) = writer.write(&[0; 1000]).await {
                    break error;
                }
            }
        })
        .await;
        assert_eq!(ended, RangeWriteError::Ended(ErrorCode::STREAM_CLOSED));
    });
}

/// A path that is taken away loses its leases; the secondary learns that it is over.
#[test]
fn a_removed_path_gives_back_its_leases() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        stage.primary.remove_path(stage.paths[0]).unwrap();
        let outcome = soon("the outcome", lease.outcome()).await.unwrap();
        assert!(
            matches!(&outcome, LeaseOutcome::Lost { missing, .. } if *missing == [range(1, MIB)]),
            "{outcome:?}"
        );
        soon("the end of the path", stage.secondaries[0].closed()).await;
        assert!(soon("the end of the job", taken.next_lease()).await.is_none());
        soon("the path's end", stage.primary.path_dead(stage.paths[0])).await.unwrap();
        assert!(stage.primary.remove_path(stage.paths[0]).is_err());
        assert_eq!(work.lease(range(1, MIB)).err(), Some(LeaseError::PathDead));
        assert_eq!(
            stage.stream.open_job(job(stage.paths[0], range(1, MIB))).err(),
            Some(LeaseError::PathDead)
        );
        stage.finish(1, range(1, MIB), MIB).await;
    });
}

/// A secondary that closes its path with a code of its own.
#[test]
fn a_secondary_that_leaves_gives_back_its_leases() {
    run(async {
        let stage = stage(2).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let mut lease = work.lease(range(1, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut half = soon("a lease", taken.next_lease()).await.unwrap().open();
        half.write_all(&OBJECT.bytes(range(1, 1000))).await.unwrap();
        stage.secondaries[0].close(ErrorCode::from_u32(3), b"off");
        let code = soon("the path's end", stage.primary.path_dead(stage.paths[0])).await.unwrap();
        let outcome = soon("the outcome", lease.outcome()).await.unwrap();
        let LeaseOutcome::Lost { code: why, missing } = outcome else { panic!("done?") };
        assert_eq!(why, code);
        assert_eq!(missing.last().map(|range| range.end()), Some(MIB));
        assert_eq!(missing.len(), 1);
        stage.finish(1, missing[0], MIB).await;
    });
}

/// The session's end is every server's end.
#[test]
fn closing_the_session_ends_its_paths() {
    run(async {
        for by_client in [true, false] {
            let stage = stage(2).await;
            if by_client {
                stage.client.close(ErrorCode::from_u32(1), b"bye");
            } else {
                stage.primary.close(ErrorCode::from_u32(1), b"bye");
            }
            for secondary in &stage.secondaries {
                soon("the end of the path", secondary.closed()).await;
                assert!(secondary.accept_job().await.is_err());
            }
            drop(stage);
        }
    });
}

/// A reader far behind does not keep a sink from taking what is there.
#[test]
fn unordered_reads_run_ahead_of_a_hole() {
    run(async {
        let transport = TransportConfig::default().stream_window(256 * 1024);
        let stage = stage_with(2, Settings { client: transport, ..Settings::default() }).await;
        let hole = range(1, 100_000);
        let (mut stream, mut recv) = (stage.stream, stage.recv);
        let work = [0, 1].map(|index| stream.open_job(job(stage.paths[index], range(1, 4 * MIB))).unwrap());
        let mut late = work[0].lease(hole).unwrap();
        let mut rest = work[1].lease(range(100_000, 4 * MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[1]).await;
        let serve = tokio::spawn(async move {
            fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
            taken
        });
        // All but the hole arrives, though it is many windows long.
        let mut receipt = kwik_tests::object::Receipt::new(OBJECT);
        while receipt.received() < 4 * MIB - hole.len() {
            let chunk = soon("a chunk", recv.read_chunk(usize::MAX, false)).await.unwrap().unwrap();
            receipt.add(chunk.offset, &chunk.bytes);
        }
        assert!(!receipt.touches(hole));
        assert_eq!(soon("the outcome", rest.outcome()).await, Ok(LeaseOutcome::Done));
        serve.await.unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        stream.finish().unwrap();
        kwik_tests::feed::receive_into(&mut recv, &mut receipt, false).await.unwrap();
        receipt.expect_complete(4 * MIB);
        assert_eq!(late.outcome().await, Ok(LeaseOutcome::Done));
    });
}

/// Leases and runs are written through the IO traits, too; ending them early is an error there.
#[test]
fn ranges_are_async_writes() {
    use tokio::io::AsyncWriteExt;

    run(async {
        let mut stage = stage(1).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 1000))).unwrap();
        let mut lease = work.lease(range(1, 500)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut stream = soon("a lease", taken.next_lease()).await.unwrap().open();
        AsyncWriteExt::write_all(&mut stream, &OBJECT.bytes(range(1, 100))).await.unwrap();
        AsyncWriteExt::flush(&mut stream).await.unwrap();
        assert!(AsyncWriteExt::shutdown(&mut stream).await.is_err(), "not all of it was written");
        AsyncWriteExt::write_all(&mut stream, &OBJECT.bytes(range(100, 500))).await.unwrap();
        assert!(AsyncWriteExt::write_all(&mut stream, b"more").await.is_err());
        AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        let mut run = stage.stream.write_at(range(500, 1000)).unwrap();
        AsyncWriteExt::write_all(&mut run, &OBJECT.bytes(range(500, 999))).await.unwrap();
        assert!(AsyncWriteExt::shutdown(&mut run).await.is_err());
        AsyncWriteExt::write_all(&mut run, &OBJECT.bytes(range(999, 1000))).await.unwrap();
        AsyncWriteExt::shutdown(&mut run).await.unwrap();
        assert_eq!(soon("the outcome", run.finish()).await, Ok(LeaseOutcome::Done));
        stage.stream.finish().unwrap();
        assert_eq!(receive(&mut stage.recv, OBJECT, true).await, Ok(1000));
    });
}

/// A run given up half-way can be written again, by anybody.
#[test]
fn a_run_dropped_half_way_can_be_leased() {
    run(async {
        let mut stage = stage(1).await;
        let mut run = stage.stream.write_at(range(1, MIB)).unwrap();
        run.write_all(&OBJECT.bytes(range(1, 1000))).await.unwrap();
        assert_eq!(run.finish().await, Err(RangeWriteError::Short(MIB - 1000)));
        drop(run);
        // What was written arrives; the rest is free again.
        assert_eq!(stage.stream.ranges().unowned(range(1, MIB)), [range(1000, MIB)]);
        stage.stream.finish().unwrap();
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        assert_eq!(work.lease(range(1, MIB)).err(), Some(LeaseError::Overlap));
        let mut lease = work.lease(range(1000, MIB)).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        fill(soon("a lease", taken.next_lease()).await.unwrap().open(), OBJECT).await;
        assert_eq!(soon("the object", receive(&mut stage.recv, OBJECT, true)).await, Ok(MIB));
        assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));
        assert_eq!(stage.client.stats().sources.values().map(|source| source.conflicts).sum::<u64>(), 0);
    });
}

/// A writer that is dropped while it waits for credit has written nothing more.
#[test]
fn writes_are_cancel_safe() {
    run(async {
        let transport = TransportConfig::default().stream_window(64 * 1024);
        let mut stage = stage_with(1, Settings { client: transport, ..Settings::default() }).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, 300_000))).unwrap();
        let _lease = work.lease(range(1, 300_000)).unwrap();
        stage.stream.finish().unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut stream = soon("a lease", taken.next_lease()).await.unwrap().open();
        let writes = async {
            let mut written = 1;
            while written < 300_000 {
                let piece = OBJECT.bytes(range(written, 300_000.min(written + 7000)));
                // Given up at once unless something is taken.
                match kwik_tests::poll_once(stream.write(&piece)) {
                    Some(count) => written += count.unwrap() as u64,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        let reads = async { assert_eq!(receive(&mut stage.recv, OBJECT, true).await, Ok(300_000)) };
        soon("the object", async { tokio::join!(writes, reads) }).await;
    });
}

/// A lease that hedges another, one that is cut, one with a digest: through the handles, over loopback. Spec: PROTOCOL §5.
#[test]
fn leases_are_hedged_cut_and_verified() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let mut stream = primary.open_uni().await.unwrap();
        let whole = range(0, 4 * MIB);
        let jobs = [0, 1].map(|index| stream.open_job(job(paths[index], whole)).unwrap());
        let reads = async {
            let mut recv = client.accept_uni().await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(4 * MIB));
        };
        let writes = async {
            let mut first = jobs[0].lease(range(0, MIB)).unwrap();
            let hedge = NewLease::new(jobs[1].id(), range(MIB / 2, MIB)).hedge_of(first.id());
            let mut hedge = jobs[1].lease_with(hedge).unwrap();
            let digest = blake3::hash(&OBJECT.bytes(range(MIB, 2 * MIB))).into();
            let verified = NewLease::new(jobs[1].id(), range(MIB, 2 * MIB)).digest(digest);
            let mut verified = jobs[1].lease_with(verified).unwrap();
            assert_eq!(verified.cut(10).await, Err(LeaseError::Verified));
            let mut long = jobs[0].lease(range(2 * MIB, 4 * MIB)).unwrap();
            // What has come by then stays; the rest is written here.
            let rest = long.cut(MIB).await.unwrap();
            for part in &rest {
                write_run(&stream, *part).await;
            }
            assert_eq!(long.outcome().await, Ok(LeaseOutcome::Done));
            assert_eq!(verified.outcome().await, Ok(LeaseOutcome::Done));
            let ends = [first.outcome().await.unwrap(), hedge.outcome().await.unwrap()];
            let nothing_missing = |end: &LeaseOutcome| match end {
                LeaseOutcome::Lost { code, missing } => {
                    *code == ErrorCode::LEASE_REVOKED && missing.is_empty()
                }
                _ => true,
            };
            assert!(ends.contains(&LeaseOutcome::Done) && ends.iter().all(nothing_missing), "{ends:?}");
            assert_eq!(stream.ranges().unowned(whole), []);
            stream.finish().unwrap();
            assert_eq!(stream.stopped().await, Ok(None));
        };
        tokio::join!(reads, writes);
    });
}

/// A stream that rejects conflicts fails, and its reader learns who disagreed about what; another stream of the same
/// session takes the primary's bytes. Spec: PROTOCOL §6, "Conflicts".
#[test]
fn a_conflict_fails_the_stream_that_rejects_it() {
    run(async {
        let world = World::new(1);
        let (client, primary) = world.connect().await;
        let server = &world.secondaries[0];
        let (path, liar) = tokio::join!(primary.add_path(server.new_path()), server.accept_secondary());
        let path = path.unwrap();
        tokio::spawn(async move {
            while let Ok(mut job) = liar.accept_job().await {
                tokio::spawn(async move {
                    while let Some(lease) = job.next_lease().await {
                        let mut stream = lease.open();
                        if stream.write_all(&[0xee; 50_000]).await.is_ok() {
                            std::future::pending::<()>().await; // says no more, and gives nothing up
                        }
                    }
                });
            }
        });
        let mut conflicts = 0;
        for policy in [ConflictPolicy::Reject, ConflictPolicy::PrimaryWins] {
            let stream = primary.open_uni().await.unwrap();
            let whole = range(0, 100_000);
            let job = stream.open_job(job(path, whole)).unwrap();
            let lease = job.lease(whole).unwrap();
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            recv.set_conflict_policy(policy).unwrap();
            // What has come is held: nobody reads before the primary has said otherwise.
            soon("the lie", async {
                while recv.stats().is_none_or(|stats| stats.held_bytes < 50_000) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let mut run = lease.hedge(whole).unwrap();
            // The client may want no more of it half-way.
            let _ended = run.write_all(&OBJECT.bytes(whole)).await;
            soon("the contradiction", async {
                let seen =
                    || client.stats().sources.get(&PathId::PRIMARY).map_or(0, |source| source.conflicts);
                let before = conflicts;
                while seen() == before {
                    tokio::task::yield_now().await;
                }
                conflicts = seen();
            })
            .await;
            let read = async {
                let first = recv.read_chunk(1, true).await?;
                Ok(first.map(|chunk| chunk.bytes[0]))
            };
            match (policy, soon("an answer", read).await) {
                (ConflictPolicy::Reject, Err(ReadError::Conflict { sources, .. })) => {
                    assert_eq!(sources, [Some(path), Some(PathId::PRIMARY)]);
                    let stopped = soon("the reason", stream.stopped()).await.unwrap();
                    assert_eq!(stopped, Some(ErrorCode::DATA_CONFLICT));
                }
                (ConflictPolicy::PrimaryWins, Ok(Some(byte))) => assert_eq!(byte, OBJECT.bytes(whole)[0]),
                (policy, read) => panic!("{policy:?}: {read:?}"),
            }
        }
    });
}

/// A server that gets a range and lies is named; nothing of it reaches the reader. Spec: PROTOCOL §5.4.
#[test]
fn a_wrong_digest_keeps_the_bytes_out() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        let mut stream = primary.open_uni().await.unwrap();
        let part = range(0, 100_000);
        let job = stream.open_job(job(paths[0], part)).unwrap();
        let wrong = blake3::hash(b"something else").into();
        let mut lease = job.lease_with(NewLease::new(job.id(), part).digest(wrong)).unwrap();
        assert_eq!(lease.outcome().await, Ok(lost(ErrorCode::DIGEST_MISMATCH, part)));
        assert_eq!(client.stats().sources[&paths[0]].digests_wrong, 1);
        write_run(&stream, part).await;
        stream.finish().unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(100_000));
    });
}

/// Spec: PROTOCOL §6, "Gaps": the primary hears of a hole that is nobody's, and the reader after the client's timeout.
#[test]
fn a_hole_that_is_nobodys_is_told_to_both_ends() {
    run(async {
        let settings = Settings {
            client: TransportConfig::default().gap_timeout(Duration::from_millis(300)),
            ..Settings::default()
        };
        let world = World::serving_with(1, settings);
        let (client, primary, paths) = world.connect_all().await;
        let stream = primary.open_uni().await.unwrap();
        let job = stream.open_job(job(paths[0], range(0, MIB))).unwrap();
        let mut lease = job.lease(range(1000, MIB)).unwrap();
        assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));
        let mut recv = client.accept_uni().await.unwrap();
        let hole = range(0, 1000);
        let incomplete = async {
            let code = ErrorCode::AGGREGATION_TIMEOUT;
            let missing = ReadError::Incomplete { stream: recv.id(), missing: hole, code };
            assert_eq!(soon("the gap", recv.read_chunk(10, true)).await, Err(missing));
        };
        let told = async { assert_eq!(stream.ranges().gap().await, Ok(0)) };
        tokio::join!(incomplete, told);
        assert_eq!(stream.ranges().unowned(range(0, MIB)), [hole]);
        assert_eq!(stream.ranges().received().await, Ok(vec![range(1000, MIB)]));
        // The stream goes on once somebody brings it.
        write_run(&stream, hole).await;
        assert_eq!(
            soon("the rest", recv.read_chunk(1000, true)).await.unwrap().unwrap().bytes,
            OBJECT.bytes(hole)
        );
    });
}

/// A primary that asks hears of bytes long before the lease ends. Spec: PROTOCOL §7.28.
#[test]
fn a_lease_in_the_middle_is_reported_on() {
    run(async {
        let stage = stage(1).await;
        let work = stage.stream.open_job(job(stage.paths[0], range(1, MIB))).unwrap();
        let lease = work.lease_with(NewLease::new(work.id(), range(1, MIB)).progress()).unwrap();
        let mut taken = accept_job(&stage.secondaries[0]).await;
        let mut writer = soon("a lease", taken.next_lease()).await.unwrap().open();
        writer.write_all(&OBJECT.bytes(range(1, 1001))).await.unwrap();
        let seen = soon("a report", stage.primary.progress(0)).await.unwrap();
        assert!(seen > 0);
        assert_eq!(lease.status().unwrap().arrived, 1000);
        let reader = stage.stream.ranges().reader().expect("told of");
        assert!(reader.position <= 1 && reader.window > 0, "{reader:?}");
        let info = stage.primary.paths().into_iter().find(|info| info.id == stage.paths[0]).unwrap();
        assert!(info.rtt.is_some());
    });
}

/// A path that is drained finishes what it has. Spec: PROTOCOL §8.
#[test]
fn a_drained_path_finishes_its_leases() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        let mut stream = primary.open_uni().await.unwrap();
        let job = stream.open_job(job(paths[0], range(0, MIB))).unwrap();
        let mut lease = job.lease(range(0, MIB)).unwrap();
        primary.drain_path(paths[0], Duration::from_secs(20)).unwrap();
        assert_eq!(job.lease(range(0, 1)).err(), Some(LeaseError::PathDead));
        let reads = async {
            let mut recv = client.accept_uni().await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(MIB));
        };
        let ends = async {
            assert_eq!(lease.outcome().await, Ok(LeaseOutcome::Done));
            stream.finish().unwrap();
            assert_eq!(soon("the path's end", primary.path_dead(paths[0])).await, Ok(ErrorCode::NO_ERROR));
        };
        tokio::join!(reads, ends);
    });
}
