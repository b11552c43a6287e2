//! Bounds hold, and a peer that reaches one hurts nobody else. Spec: DESIGN §2 (I5, I6, I7), PROTOCOL §6, §11.

use std::time::Duration;

use kwik_tests::{
    feed::{Plan, distribute, receive, receive_into},
    object::{Object, Receipt},
    run, soon, stays_pending, within,
    world::{Settings, World, attach, serve_session},
};
use kwik_tokio::{ApiMisuse, ByteRange, LeaseError, LeaseOutcome, NewJob, TransportConfig};

const MIB: u64 = 1024 * 1024;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

fn windows(stream: u64, session: u64) -> Settings {
    let client = TransportConfig::default().stream_window(stream).session_window(session);
    Settings { client, ..Settings::default() }
}

/// A client that reads slowly holds no more than its window, however much the servers would send.
#[test]
fn a_slow_reader_holds_only_its_window() {
    run(async {
        for ordered in [true, false] {
            let (stream_window, session_window) = (256 * 1024, MIB);
            let world = World::serving_with(2, windows(stream_window, session_window));
            let (client, primary, paths) = world.connect_all().await;
            let object = Object(20);
            let size = 3 * MIB;
            let plan = Plan { object, size, head: 0, piece: 150_000, paths, own: true };
            let feed = tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan));
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            let mut receipt = Receipt::new(object);
            // Servers have every chance to send too much.
            tokio::time::sleep(Duration::from_millis(200)).await;
            while let Some(chunk) = soon("a chunk", recv.read_chunk(16 * 1024, ordered)).await.unwrap() {
                receipt.add(chunk.offset, &chunk.bytes);
                let held = client.stats().held_bytes;
                assert!(held <= session_window, "{held} bytes held");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            receipt.expect_complete(size);
            let stats = client.stats();
            assert_eq!(stats.held_bytes, 0);
            assert!(stats.held_bytes_max >= 64 * 1024, "{} bytes held at most", stats.held_bytes_max);
            assert!(stats.held_bytes_max <= session_window, "{} bytes held at most", stats.held_bytes_max);
            soon("the report", feed).await.unwrap().unwrap();
        }
    });
}

/// A client that does not read at all holds its stream's first window, to the byte; then everything flows again.
#[test]
fn a_reader_that_never_begins_holds_one_window() {
    run(async {
        let world = World::serving_with(2, windows(256 * 1024, 32 * MIB));
        let (client, primary, paths) = world.connect_all().await;
        let object = Object(21);
        let plan = Plan { object, size: 4 * MIB, head: 0, piece: 100_000, paths, own: true };
        let feed = tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.stats().held_bytes, 256 * 1024);
        assert!(!feed.is_finished());
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(4 * MIB));
        soon("the report", feed).await.unwrap().unwrap();
    });
}

/// Streams that nobody reads do not block one that somebody reads, even with the session window used up.
#[test]
fn unread_streams_block_no_other() {
    run(async {
        let world = World::serving_with(2, windows(MIB, 4 * MIB));
        let (client, primary, paths) = world.connect_all().await;
        let mut unread = Vec::new();
        let mut feeds = Vec::new();
        for index in 0..4 {
            let object = Object(30 + index);
            let plan =
                Plan { object, size: 3 * MIB, head: 10, piece: 300_000, paths: paths.clone(), own: true };
            feeds.push(tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan)));
            unread.push((object, soon("the stream", client.accept_uni()).await.unwrap()));
        }
        // Until nothing moves any more.
        let mut held = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = client.stats().held_bytes;
            if now == held {
                break;
            }
            held = now;
        }
        assert!(held >= MIB, "{held} bytes held");
        let object = Object(40);
        let plan = Plan { object, size: 2 * MIB, head: 0, piece: 200_000, paths: paths.clone(), own: true };
        let feed = tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(2 * MIB));
        assert_eq!(soon("the report", feed).await.unwrap().unwrap().lost, []);
        // A native stream, too.
        let mut native = primary.open_uni().await.unwrap();
        native.write_all(&object.bytes(range(0, 100_000))).await.unwrap();
        native.finish().unwrap();
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(100_000));
        assert!(client.stats().held_bytes_max <= 4 * MIB);
        // And those that waited can still be read.
        for (object, mut recv) in unread {
            assert_eq!(soon("the object", receive(&mut recv, object, false)).await, Ok(3 * MIB));
        }
        for feed in feeds {
            soon("the report", feed).await.unwrap().unwrap();
        }
    });
}

/// Native streams that nobody reads block neither control nor a stream that others feed.
#[test]
fn unread_native_streams_block_no_lease() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let mut unread = Vec::new();
        for _ in 0..6 {
            let mut native = primary.open_uni().await.unwrap();
            // Written until QUIC takes no more.
            let fills = async {
                loop {
                    native.write_all(&[0; 64 * 1024]).await.unwrap();
                }
            };
            assert!(stays_pending(Duration::from_millis(300), fills).await);
            unread.push((native, soon("the stream", client.accept_uni()).await.unwrap()));
        }
        let object = Object(50);
        let plan = Plan { object, size: 2 * MIB, head: 0, piece: 200_000, paths, own: false };
        let feed = tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(2 * MIB));
        soon("the report", feed).await.unwrap().unwrap();
    });
}

/// More split streams than the client guarantees credit for: the primary's own call says so, and nothing breaks.
#[test]
fn split_streams_are_bounded() {
    run(async {
        let world = World::serving_with(1, windows(64 * 1024, 4 * 64 * 1024)); // two are guaranteed
        let (client, primary, paths) = world.connect_all().await;
        let object = Object(60);
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(primary.open_uni().await.unwrap());
        }
        let job = || NewJob::new(paths[0], range(0, 1000), object.payload());
        let first = streams[0].open_job(job()).unwrap();
        let _second = streams[1].open_job(job()).unwrap();
        assert_eq!(streams[2].open_job(job()).err(), Some(LeaseError::NoCredit));
        assert_eq!(streams[2].write_at(range(0, 10)).err(), Some(LeaseError::NoCredit));
        // It is still a plain stream.
        streams[2].write_all(&object.bytes(range(0, 10))).await.unwrap();
        streams[2].finish().unwrap();
        // And when another is complete there is room.
        let mut lease = first.lease(range(0, 1000)).unwrap();
        streams[0].finish().unwrap();
        assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        let mut sizes = Vec::new();
        for _ in 0..2 {
            let mut recv = soon("a stream", client.accept_uni()).await.unwrap();
            if recv.id() != streams[1].id() {
                sizes.push(soon("the object", receive(&mut recv, object, true)).await.unwrap());
            }
        }
        assert!(sizes.contains(&1000), "{sizes:?}");
        soon("its end", streams[0].stopped()).await.unwrap();
        let mut fourth = primary.open_uni().await.unwrap();
        let job = fourth.open_job(job()).unwrap();
        let _lease = job.lease(range(0, 1000)).unwrap();
        fourth.finish().unwrap();
        loop {
            let mut recv = soon("a stream", client.accept_uni()).await.unwrap();
            if recv.id() == fourth.id() {
                assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(1000));
                break;
            }
        }
    });
}

/// As many leases as a stream may have, most of them waiting for credit: none is lost, none is forgotten.
#[test]
fn as_many_leases_as_a_stream_may_have() {
    run(async {
        let world = World::with(2, windows(128 * 1024, MIB));
        let (client, primary) = world.connect().await;
        let object = Object(70);
        let mut stream = primary.open_uni().await.unwrap();
        let whole = range(0, 600_000);
        let (mut jobs, mut sessions) = (Vec::new(), Vec::new());
        for server in &world.secondaries {
            let (path, session) = tokio::join!(attach(&primary, server), server.accept_secondary());
            jobs.push(stream.open_job(NewJob::new(path, whole, object.payload())).unwrap());
            sessions.push(session);
        }
        let mut leases = Vec::new();
        for at in 0..512 {
            let index = usize::from(at % 2 == 0);
            leases.push(jobs[index].lease(range(at * 1000, at * 1000 + 1000)).unwrap());
        }
        let one_more = jobs[0].lease(range(512_000, 513_000));
        assert_eq!(one_more.err(), Some(LeaseError::LimitExceeded));
        stream.finish().unwrap();
        sessions.into_iter().for_each(|session| drop(tokio::spawn(serve_session(session))));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(512_000));
        for mut lease in leases {
            assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        }
    });
}

/// Thousands of small leases one after another: control must not be what holds them up.
#[test]
fn thousands_of_small_leases() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let object = Object(80);
        let plan = Plan { object, size: 2_000_000, head: 0, piece: 1000, paths, own: true };
        let feed = tokio::spawn(distribute(primary.open_uni().await.unwrap(), plan));
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        let mut receipt = Receipt::new(object);
        within(Duration::from_secs(15), "the object", receive_into(&mut recv, &mut receipt, true))
            .await
            .unwrap();
        receipt.expect_complete(2_000_000);
        let report = soon("the report", feed).await.unwrap().unwrap();
        assert_eq!(report.done.values().sum::<u64>(), 2000);
        assert_eq!(report.lost, []);
    });
}

#[test]
fn jobs_are_bounded() {
    run(async {
        let world = World::serving(1);
        let (_client, primary, paths) = world.connect_all().await;
        let stream = primary.open_uni().await.unwrap();
        let job = |len: usize| NewJob::new(paths[0], range(0, 10), vec![0; len]);
        let too_long = stream.open_job(job(2049)).err();
        assert_eq!(too_long, Some(LeaseError::Misuse(ApiMisuse::TooLong)));
        let jobs: Vec<_> = (0..256).map(|_| stream.open_job(job(8)).unwrap()).collect();
        assert_eq!(stream.open_job(job(8)).err(), Some(LeaseError::LimitExceeded));
        for job in &jobs {
            soon("the answer", job.accepted()).await.unwrap();
        }
        drop(jobs);
        let largest = stream.open_job(job(2048)).unwrap();
        drop(largest);
    });
}

/// A primary's commands fail on a client, as the program's mistake.
#[test]
fn a_client_has_no_leases() {
    run(async {
        let world = World::serving(1);
        let (client, _primary, paths) = world.connect_all().await;
        let mut stream = client.open_uni().await.unwrap();
        stream.write_all(b"plain").await.unwrap();
        let job = NewJob::new(paths[0], range(0, 10), "");
        assert_eq!(stream.open_job(job).err(), Some(LeaseError::Misuse(ApiMisuse::WrongRole)));
        assert_eq!(stream.write_at(range(10, 20)).err(), Some(LeaseError::Misuse(ApiMisuse::WrongRole)));
        assert!(kwik_tokio::PrimarySession::try_from(client).is_err());
    });
}

/// As many bytes leased at once as the windows hold: none of them is lost for want of room in the client's own queue.
#[test]
fn a_burst_as_large_as_the_windows_is_not_dropped() {
    run(async {
        let world = World::serving_with(2, windows(32 * MIB, 64 * MIB));
        let (client, primary, paths) = world.connect_all().await;
        let object = Object(80);
        let mut stream = primary.open_uni().await.unwrap();
        let mut leases = Vec::new();
        for (index, path) in (0..).zip(paths) {
            let half = range(index * 10 * MIB, (index + 1) * 10 * MIB);
            let job = stream.open_job(NewJob::new(path, half, object.payload())).unwrap();
            leases.push(job.lease(half).unwrap());
        }
        stream.finish().unwrap();
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        for lease in &mut leases {
            let outcome = within(Duration::from_secs(20), "the outcome", lease.outcome()).await;
            assert_eq!(outcome, Ok(LeaseOutcome::Done));
        }
        assert_eq!(soon("the object", receive(&mut recv, object, true)).await, Ok(20 * MIB));
        assert_eq!(world.client.stats().dropped_datagrams, 0);
    });
}
