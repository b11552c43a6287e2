//! An object over every path at once, by one call: every byte right, and an end whatever happens. Spec: RATIONALE §7.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use kwik_tests::{
    feed::{receive, receive_into},
    object::{Object, Receipt},
    run, soon, within,
    world::{Settings, World, attach},
};
use kwik_tokio::{
    ByteRange, DistributeError, DistributeEvent, DistributeOptions, ErrorCode, PathId, ReadAt, ReadError,
    TransportConfig,
    schedule::{Digests, Report},
};

const MIB: u64 = 1024 * 1024;
const OBJECT: Object = Object(13);

/// The object, as a source that reads on threads of its own.
struct Formula(Object);

impl ReadAt for Formula {
    fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes> {
        Ok(ByteRange::new(offset, len as u64).map(|range| self.0.bytes(range)).unwrap_or_default())
    }
}

fn options() -> DistributeOptions {
    DistributeOptions::new(OBJECT.payload())
}

/// Bytes of an object's pieces that came over a path.
fn brought(report: &Report, path: PathId) -> u64 {
    report.paths.get(&path).map_or(0, |path| path.bytes)
}

#[test]
fn three_servers_bring_an_object() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        for (ordered, size) in [(true, 24 * MIB + 13), (false, 24 * MIB + 14)] {
            let mut stream = primary.open_uni().await.unwrap();
            let feed = tokio::spawn(async move {
                let report = stream.distribute(Formula(OBJECT), size, options()).await;
                (report, stream.stopped().await)
            });
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, ordered).await, Ok(size));
            let (report, stopped) = soon("the primary's end of it", feed).await.unwrap();
            let report = report.unwrap();
            assert_eq!((report.total, report.arrived, stopped), (size, size, Ok(None)));
            for path in [PathId::PRIMARY, paths[0], paths[1]] {
                assert!(brought(&report, path) > 0, "{path} brought nothing: {report:?}");
            }
        }
    });
}

/// The tail's writer waited for credit behind the hole, and nobody looked at the lease.
#[test]
fn a_mirror_dies_in_the_middle() {
    run(async {
        for ordered in [true, false] {
            let settings = Settings {
                client: TransportConfig::default().idle_timeout(std::time::Duration::from_secs(1)),
                ..Settings::default()
            };
            let world = World::serving_with(2, settings);
            let (client, primary, paths) = world.connect_all().await;
            let size = 32 * MIB;
            let mut stream = primary.open_uni().await.unwrap();
            let feed = tokio::spawn(async move { stream.distribute(Formula(OBJECT), size, options()).await });
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            let mut receipt = Receipt::new(OBJECT);
            while receipt.received() < size / 4 {
                let chunk = soon("bytes", recv.read_chunk(usize::MAX, ordered)).await.unwrap().unwrap();
                receipt.add(chunk.offset, &chunk.bytes);
            }
            world.secondaries[1].endpoint.abort();
            soon("the rest", receive_into(&mut recv, &mut receipt, ordered)).await.unwrap();
            receipt.expect_complete(size);
            let report = soon("the primary's end of it", feed).await.unwrap().unwrap();
            assert_eq!(report.arrived, size);
            assert!(brought(&report, paths[0]) > 0, "{report:?}");
        }
    });
}

#[test]
fn a_primary_alone_and_mirrors_alone() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        for bringer in [PathId::PRIMARY, paths[0]] {
            let (head, size) = (100_000, 5 * MIB);
            let mut stream = primary.open_uni().await.unwrap();
            let feed = tokio::spawn(async move {
                stream.write_all(&OBJECT.bytes(ByteRange::new(0, head).unwrap())).await.unwrap();
                let options = options().only([bringer]).offset(head).window(MIB);
                stream.distribute(Formula(OBJECT), size, options).await
            });
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(size));
            let report = soon("the primary's end of it", feed).await.unwrap().unwrap();
            assert_eq!((report.arrived, brought(&report, bringer)), (size - head, size - head));
        }
    });
}

#[test]
fn a_path_that_is_added_joins_in() {
    run(async {
        let world = World::serving(1);
        let (client, primary) = world.connect().await;
        let size = 24 * MIB;
        let mut stream = primary.open_uni().await.unwrap();
        let (joined, joins) = tokio::sync::oneshot::channel();
        let feed = tokio::spawn(async move {
            let mut under_way = stream.distribute(Formula(OBJECT), size, options());
            let mut joined = Some(joined);
            let mut newcomer = 0;
            while let Some(event) = under_way.next().await.unwrap() {
                match event {
                    DistributeEvent::Joined(path) => {
                        joined.take().into_iter().for_each(|joined| joined.send(path).unwrap());
                    }
                    DistributeEvent::Arrived { path, .. } if path != PathId::PRIMARY => newcomer += 1,
                    _ => {}
                }
            }
            (under_way.report(), newcomer)
        });
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        let mut receipt = Receipt::new(OBJECT);
        let chunk = soon("bytes", recv.read_chunk(usize::MAX, true)).await.unwrap().unwrap();
        receipt.add(chunk.offset, &chunk.bytes);
        // The reader takes nothing meanwhile, so that most of the object is left.
        let path = attach(&primary, &world.secondaries[0]).await;
        assert_eq!(soon("news of the path", joins).await, Ok(path));
        soon("the rest", receive_into(&mut recv, &mut receipt, true)).await.unwrap();
        receipt.expect_complete(size);
        let (report, newcomer) = soon("the primary's end of it", feed).await.unwrap();
        assert!(brought(&report, path) > 0 && newcomer > 0, "{report:?}");
    });
}

#[test]
fn dropped_half_way_it_leaves_the_session_usable() {
    run(async {
        let world = World::serving(2);
        let (client, primary, _) = world.connect_all().await;
        for round in 0..4 {
            let mut stream = primary.open_uni().await.unwrap();
            let code = ErrorCode::from_u32(40 + round);
            let feed = tokio::spawn(async move {
                let options = options().reset_code(code);
                let mut under_way = stream.distribute(Formula(OBJECT), 64 * MIB, options);
                let mut arrived = 0;
                while arrived < 4 * round {
                    let event = under_way.next().await.unwrap();
                    arrived += u32::from(matches!(event, Some(DistributeEvent::Arrived { .. })));
                    assert!(event.is_some(), "it is not done");
                }
                drop(under_way);
                stream
            });
            if round > 0 {
                let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
                let mut receipt = Receipt::new(OBJECT);
                let end = soon("an end", receive_into(&mut recv, &mut receipt, round % 2 == 0)).await;
                assert_eq!(end, Err(ReadError::Reset(code)));
            }
            drop(soon("the primary's end of it", feed).await.unwrap());
        }
        let mut stream = primary.open_uni().await.unwrap();
        let feed = tokio::spawn(async move { stream.distribute(Formula(OBJECT), MIB, options()).await });
        let mut recv = loop {
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            // What was dropped before its first byte may have been heard of all the same.
            match receive(&mut recv, OBJECT, true).await {
                Err(ReadError::Reset(_)) => {}
                received => {
                    assert_eq!(received, Ok(MIB));
                    break recv;
                }
            }
        };
        assert_eq!(recv.read(&mut [0]).await, Ok(None));
        assert_eq!(soon("the primary's end of it", feed).await.unwrap().unwrap().arrived, MIB);
        let leases: usize = primary.paths().iter().map(|path| path.leases).sum();
        assert_eq!(leases, 0, "nothing is left of what was dropped");
    });
}

#[test]
fn small_objects_one_after_the_other() {
    run(async {
        let world = World::serving(2);
        let (client, primary, _) = world.connect_all().await;
        for index in 0..100 {
            let size = [0, 1, 1000, 70_000][index % 4] + index as u64;
            let size = if index == 0 { 0 } else { size };
            let bytes = ByteRange::new(0, size).map(|all| OBJECT.bytes(all)).unwrap_or_default();
            let mut stream = primary.open_uni().await.unwrap();
            let feed = tokio::spawn(async move { stream.distribute(bytes, size, options()).await });
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(soon("the object", receive(&mut recv, OBJECT, true)).await, Ok(size), "{index}");
            assert_eq!(soon("its end", feed).await.unwrap().unwrap().arrived, size);
        }
    });
}

/// Sends another object than the primary has.
#[test]
fn a_lying_mirror_is_found_out_by_digests() {
    run(async {
        let world = World::serving(2);
        let (client, primary, paths) = world.connect_all().await;
        let size = 8 * MIB;
        let mut stream = primary.open_uni().await.unwrap();
        // The mirrors are told another name than the primary reads.
        let lie = DistributeOptions::new(Object(14).payload()).digests(Digests::Always);
        let feed = tokio::spawn(async move { stream.distribute(Formula(OBJECT), size, lie).await });
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(size));
        let report = soon("the primary's end of it", feed).await.unwrap().unwrap();
        for path in paths {
            assert_eq!(report.paths[&path].done, 0, "{report:?}");
            assert!(report.paths[&path].lost > 0, "{report:?}");
        }
    });
}

/// Fails after so many reads.
struct Failing(Arc<AtomicUsize>);

impl ReadAt for Failing {
    fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes> {
        if self.0.fetch_add(1, Ordering::Relaxed) > 3 {
            return Err(std::io::Error::other("the disk is gone"));
        }
        Formula(OBJECT).read_at(offset, len)
    }

    fn reset_code(&self, error: &std::io::Error) -> Option<ErrorCode> {
        (error.to_string() == "the disk is gone").then_some(ErrorCode::from_u32(11))
    }
}

#[test]
fn what_cannot_be_brought_is_told_to_both_ends() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        // The source fails.
        let mut stream = primary.open_uni().await.unwrap();
        let feed = tokio::spawn(async move {
            let options = options().only([PathId::PRIMARY]).reset_code(ErrorCode::from_u32(7));
            stream.distribute(Failing(Arc::default()), 8 * MIB, options).await
        });
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        let end = soon("an end", receive(&mut recv, OBJECT, false)).await;
        assert_eq!(end, Err(ReadError::Reset(ErrorCode::from_u32(11))), "the source says why");
        assert!(matches!(soon("an end", feed).await.unwrap(), Err(DistributeError::Source(_))));

        // The reader stops.
        let mut stream = primary.open_uni().await.unwrap();
        let feed = tokio::spawn(async move { stream.distribute(Formula(OBJECT), 64 * MIB, options()).await });
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        soon("bytes", recv.read_chunk(usize::MAX, true)).await.unwrap();
        recv.stop(ErrorCode::from_u32(9)).unwrap();
        let end = soon("an end", feed).await.unwrap();
        assert!(
            matches!(end, Err(DistributeError::Stopped(code)) if code == ErrorCode::from_u32(9)),
            "{end:?}"
        );

        // Nobody is left.
        let mut stream = primary.open_uni().await.unwrap();
        let only = options().only([paths[0]]);
        let feed = tokio::spawn(async move { stream.distribute(Formula(OBJECT), 64 * MIB, only).await });
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        soon("bytes", recv.read_chunk(usize::MAX, true)).await.unwrap();
        primary.remove_path(paths[0]).unwrap();
        let end = within(std::time::Duration::from_secs(10), "an end", feed).await.unwrap();
        assert!(matches!(end, Err(DistributeError::Incomplete(_))), "{end:?}");
    });
}
