//! Counters of sessions, next to what the world did to them. Spec: RATIONALE §12.

use std::time::Duration;

use kwik_core::{PathId, PathState, SessionStats, StreamStats, TransportConfig};
use kwik_tests::sim::{ClientPlan, NodeId, Offer, Reading, World, heap};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const CLIENT: NodeId = NodeId::client(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stats(world: &mut World) -> SessionStats {
    world.call(CLIENT, |session, now| session.stats_at(now)).expect("a session")
}

/// The figures of the client's only split stream.
fn stream(world: &mut World) -> StreamStats {
    let only = world.call(CLIENT, |session, now| {
        let streams = session.split_streams();
        streams.first().and_then(|&stream| session.stream_stats(now, stream))
    });
    only.flatten().expect("a split stream")
}

/// Every byte was brought by somebody, and the figures of the stream, of its sources and of the session say so alike.
#[test]
fn bytes_by_source_add_up_to_the_object() {
    let mut world = World::seeded(31).secondaries(3).one_way(ms(20)).build();
    let (size, head) = (4 * MIB, 10_000);
    world.offer(Offer { size, head, range: 64 * 1024, own: 250, meddle: 400, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    let (now, all) = (stream(&mut world), stats(&mut world));
    let placed: u64 = now.sources.values().sum();
    assert_eq!((now.base, placed), (head, now.reassembly.bytes));
    assert_eq!((all.reassembly, all.streams, all.held_bytes), (now.reassembly, 1, now.held_bytes));
    assert!(now.highest_offset <= size && now.highest_offset >= head + placed, "{now:?}");
    for (path, bytes) in now.sources {
        assert_eq!(all.sources[&path].bytes, bytes, "{path}");
    }
    for lease in world.call(CLIENT, |session, _| session.leases()).expect("a session").values() {
        assert!(lease.placed <= lease.credit && lease.credit <= lease.range.len(), "{lease:?}");
        assert!(lease.noticed && (lease.begun || lease.placed == 0), "{lease:?}");
    }

    world.run_until(LIMIT, |w| w.delivered() == size && w.is_done());
    let all = stats(&mut world);
    assert_eq!(all.sources.values().map(|source| source.bytes).sum::<u64>(), size - head);
    let overlaps: u64 = all.sources.values().map(|source| source.overlap_bytes).sum();
    assert_eq!((all.reassembly.bytes, all.reassembly.overlap_bytes), (size - head, overlaps));
    assert!(overlaps > 0 && all.reassembly.conflicts == 0, "{all:?}");
    assert_eq!((all.streams, all.held_bytes, all.reassembly.reorder_depth), (0, 0, 0));
    assert!(all.credit_frames > 0 && all.faults.is_empty(), "{all:?}");
    for (path, source) in all.sources {
        let expected = (!path.is_primary()).then_some(PathState::Active);
        assert_eq!((source.state, source.leases), (expected, 0), "{path}");
        assert!(path.is_primary() || source.rtt >= ms(40) && source.first_byte.is_some(), "{source:?}");
    }
    world.finish();
}

/// A death leaves a hole: what the others bring meanwhile is held behind it, and so late.
#[test]
fn a_cut_path_leaves_a_hole_and_bytes_that_wait_behind_it() {
    let rtt = ms(40);
    let mut world = World::seeded(32).secondaries(2).one_way(rtt / 2).build();
    world.offer(Offer { size: 4 * MIB, range: 128 * 1024, depth: 2, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    let before = stats(&mut world);
    world.cut(NodeId::secondary(1));
    let cut = world.at();
    let dead = |w: &World| w.trace().marks().any(|(mark, _)| mark == "path Active > Degraded");
    world.run_until(LIMIT, |w| dead(w));
    let hole = stream(&mut world);
    let waits = hole.reassembly;
    assert!(waits.reorder_depth > 0 && waits.reorder_depth <= hole.held_bytes, "{hole:?}");
    assert!(waits.reorder_depth_max >= waits.reorder_depth && hole.missing.is_some(), "{hole:?}");
    // Nobody can tell a silent path before twice its probe timeout.
    assert!(waits.hole_time_max >= rtt && waits.hole_time_max <= world.at() - cut + rtt, "{waits:?}");
    world.run_until(LIMIT, |w| w.delivered() == 4 * MIB && w.is_done());

    let after = stats(&mut world);
    let (was, is) = (before.reassembly, after.reassembly);
    assert!(is.hole_time > was.hole_time && is.hole_time_max >= waits.hole_time_max, "{is:?}");
    assert!(is.delay_mean > was.delay_mean && is.delay_mean < is.hole_time_max, "{is:?}");
    assert!(is.reader_wait > was.reader_wait && is.reader_waits > was.reader_waits, "{is:?}");
    assert_eq!(is.reorder_depth, 0);
    let silent = after.sources.values().filter(|source| source.degraded > 0).collect::<Vec<_>>();
    let [silent] = silent[..] else { panic!("one path was cut: {after:?}") };
    assert!(silent.probes >= 2 && silent.suspected == 1 && silent.degraded == 1, "{silent:?}");
    assert!(silent.leases_lost > 0 && silent.leases_stolen == 0, "{silent:?}");
}

/// A stream that nobody reads: its servers wait for credit, and that is not held against them.
#[test]
fn a_stream_that_is_never_read_makes_its_servers_wait_for_credit() {
    let window = 256 * 1024;
    let transport = TransportConfig::default().stream_window(window).session_window(MIB);
    let readings = vec![Reading { never: true, ..Reading::default() }];
    let plan = ClientPlan { readings, ..ClientPlan::default() };
    let mut world = World::seeded(33).secondaries(2).client_transport(transport).client_plan(plan).build();
    world.offer(Offer { size: 4 * MIB, range: 64 * 1024, depth: 3, ..Offer::default() });
    world.run_for(ms(3000));
    let early = stream(&mut world).reassembly.credit_wait;
    world.run_for(ms(5000));
    let unread = stream(&mut world);
    assert_eq!((unread.held_bytes, unread.window), (window, window));
    let waits = unread.reassembly;
    assert!(waits.credit_wait > ms(5000) && waits.credit_wait - early >= ms(4000), "{waits:?} {early:?}");
    assert_eq!((waits.reader_waits, waits.reorder_depth), (0, 0));
    assert!(unread.leases > 0, "{unread:?}");
    let leases = world.call(CLIENT, |session, _| session.leases()).expect("a session");
    assert!(leases.values().all(|lease| lease.placed == lease.credit && !lease.suspended), "{leases:?}");
    assert!(stats(&mut world).sources.values().all(|source| source.stalls == 0 && source.degraded == 0));
}

/// The client and its primary count the same leases done, lost and stolen, whatever was done to them.
#[test]
fn both_ends_count_the_same_leases() {
    let mut stolen = 0;
    for seed in 34..40 {
        let mut world = World::seeded(seed).secondaries(3).one_way(ms(15)).build();
        let offer =
            Offer { size: 4 * MIB, range: 48 * 1024, depth: 3, meddle: 500, own: 100, ..Offer::default() };
        world.offer(offer);
        world.run_until(LIMIT, |w| w.delivered() == 4 * MIB && w.is_done());
        world.run_for(ms(1000));
        let sources = stats(&mut world).sources;
        let paths = world.call(NodeId::PRIMARY, |session, _| session.paths()).expect("a session");
        for path in paths {
            let source = sources[&path.id];
            assert_eq!(
                (path.leases, path.leases_lost, path.leases_stolen),
                (source.leases, source.leases_lost, source.leases_stolen),
                "seed {seed}, {}",
                path.id
            );
            // What was granted once everything had come is answered done, and never was a lease at the client.
            assert!(path.leases_done >= source.leases_done && path.bytes_done > 0, "seed {seed}, {path:?}");
            stolen += path.leases_stolen;
        }
        assert_eq!(sources[&PathId::PRIMARY].leases_stolen, 0);
    }
    assert!(stolen > 0, "nothing was taken back in any world");
}

/// A snapshot of a session that rests is a few hundred bytes, and asking changes nothing.
#[test]
fn snapshots_are_small() {
    let mut world = World::seeded(41).secondaries(2).build();
    world.run_for(ms(10_000));
    for node in [NodeId::PRIMARY, NodeId::secondary(1), CLIENT] {
        let (grown, same) = world
            .call(node, |session, _| {
                let (stats, grown) = heap::measure(|| session.stats());
                (grown, stats == session.stats())
            })
            .expect("a session");
        assert!(same && grown <= 4096, "{node}: {grown} bytes");
    }
    assert_eq!(stats(&mut world).reassembly, SessionStats::default().reassembly);
}
