//! Scenarios that read as sentences, and what they show of a session's life.

use std::time::Duration;

use kwik_core::TransportConfig;
use kwik_tests::sim::{ClientPlan, swarm};
use kwik_tests::sim::{Conditions, Fault, NodeId, Offer, Reading, Record, SecondaryPlan, World, tls};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Made once and kept; run with `KWIK_REGENERATE=1` to make them anew.
#[test]
fn certificates_are_there() {
    if std::env::var_os("KWIK_REGENERATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sim/certificates.pem");
        std::fs::write(path, tls::generate().expect("keys can be made")).expect("a writable tree");
    }
    for index in 1..=tls::SERVERS {
        assert_ne!(tls::identity(index, false).key, tls::identity(index, true).key);
    }
}

#[test]
fn an_object_arrives_from_three_servers() {
    let mut world = World::seeded(7).secondaries(2).one_way(ms(20)).build();
    world.offer(Offer { size: 3 * MIB, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == 3 * MIB && w.is_done());
    world.finish();
}

#[test]
fn a_dead_secondary_hands_its_ranges_back() {
    let mut world = World::seeded(8).secondaries(2).one_way(ms(20)).build();
    world.offer(Offer { size: 3 * MIB, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    world.cut(NodeId::secondary(1));
    world.run_until(LIMIT, |w| w.delivered() == 3 * MIB && w.is_done());
}

/// The first replacement byte after a silent death comes within 3 PTO + 4 RTT, on every seed, whatever the distance.
/// Spec: PROTOCOL §8.
#[test]
fn a_silent_death_costs_a_few_round_trips() {
    for (seed, one_way) in (0..12).zip([1, 5, 20, 80].into_iter().cycle()) {
        let mut world = World::seeded(seed).secondaries(2).one_way(ms(one_way)).build();
        let offer = Offer { size: 3 * MIB, range: 64 * 1024, depth: 3, ..Offer::default() };
        world.offer(offer);
        world.run_until(LIMIT, |w| w.delivered() > MIB);
        world.cut(NodeId::secondary(1));
        let cut = world.at();
        // What is under way from others still arrives; then everything waits for the ranges that died.
        let dead = |w: &World| w.trace().marks().any(|(mark, _)| mark == "path Active > Degraded");
        world.run_until(LIMIT, |w| dead(w));
        let at = world.delivered();
        world.run_until(LIMIT, |w| w.delivered() > at);
        let rtt = ms(one_way * 2);
        let pto = rtt + rtt / 2 + ms(25); // its variance has settled well below half a round trip
        let bound = pto * 3 + rtt * 4 + FLOOR;
        assert!(world.at() - cut <= bound, "seed {seed}, {one_way} ms: {:?} of {bound:?}", world.at() - cut);
        world.run_until(LIMIT, |w| w.is_done());
    }
}

/// Time that a server is granted beside the probe timeouts before it is called silent: its turn on a core.
const FLOOR: Duration = Duration::from_millis(74);

/// Paths that nobody uses cost their keep-alives and nothing else.
#[test]
fn idle_paths_sleep() {
    let mut transport = TransportConfig::default().idle_timeout(ms(15_000));
    transport.keep_alive_interval(Some(ms(5000)));
    let mut world = World::seeded(3).secondaries(2).client_transport(transport).build();
    world.run_for(ms(10_000));
    let before = world.turns(NodeId::client(1));
    world.run_for(ms(3_600_000));
    let turns = world.turns(NodeId::client(1)) - before;
    // Three paths, 720 keep-alives each; four wake-ups per path and keep-alive.
    assert!(turns <= 3 * 720 * 4, "{turns} wake-ups in an hour");
    world.finish();
}

/// A reader that does not read holds its window and what QUIC may hold, and not the object.
#[test]
fn a_reader_that_sleeps_holds_its_window() {
    let transport = TransportConfig::default().stream_window(256 * 1024).session_window(MIB);
    let sleeping = ClientPlan {
        readings: vec![Reading { start_at: ms(20_000), ..Reading::default() }],
        ..ClientPlan::default()
    };
    let mut world = World::seeded(5).secondaries(3).client_transport(transport).client_plan(sleeping).build();
    world.offer(Offer { size: 8 * MIB, ..Offer::default() });
    world.run_for(ms(15_000));
    let heap = world.heap(NodeId::client(1));
    assert!(heap < 2 * 1024 * 1024, "{heap} bytes held for a reader that sleeps");
    world.run_until(LIMIT, |w| w.delivered() == 8 * MIB && w.is_done());
    world.finish();
}

/// A slow disk is not a dead path: nothing is taken from it, nothing is degraded.
#[test]
fn a_slow_disk_is_not_a_dead_path() {
    let slow = SecondaryPlan { pace: Some((16 * 1024, ms(400))), ..SecondaryPlan::default() };
    let mut world = World::seeded(6).secondaries(2).secondary_plan(slow).build();
    world.offer(Offer { size: MIB, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == MIB && w.is_done());
    assert!(!world.trace().marks().any(|(mark, _)| mark == "path Active > Degraded"), "a path was degraded");
}

/// A NAT that gives the client another port in the middle of things costs nothing but a path validation.
#[test]
fn a_client_moves_to_another_port() {
    let mut world = World::seeded(9).secondaries(2).one_way(ms(20)).build();
    world.offer(Offer { size: 3 * MIB, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    world.apply(Fault::Rebind(NodeId::client(1)));
    world.run_until(LIMIT, |w| w.delivered() == 3 * MIB && w.is_done());
    world.finish();
}

/// One decision per line: what applications do and are told.
#[test]
fn the_life_of_a_small_object() {
    let mut world = World::seeded(11).secondaries(1).one_way(ms(10)).record(Record::Decisions).build();
    world.offer(Offer { at: ms(200), size: 5000, head: 1000, range: 3000, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == 5000 && w.is_done());
    insta::assert_snapshot!(world.trace().text());
}

/// The same number, the same world: every datagram, every decision, to the nanosecond.
#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in 0..10 {
        let run = || swarm::Options::draw(seed, swarm::Profile::Swarm, None).run(Record::Nothing);
        assert_eq!(run().hash, run().hash, "seed {seed}");
    }
    let hash = |seed| swarm::Options::draw(seed, swarm::Profile::Swarm, None).run(Record::Nothing).hash;
    assert_ne!(hash(1), hash(2));
}

/// The first of the seeds that `sim` runs; the rest is for builds with optimisation.
#[test]
fn the_first_seeds_are_clean() {
    for seed in 0..100 {
        let outcome = swarm::run(seed, swarm::Profile::Swarm, None);
        assert_eq!(outcome.failure, None, "seed {seed}\n{}", outcome.options);
    }
}

/// Conditions that are never so bad together in one drawn world.
#[test]
fn an_awful_network_delays_and_breaks_nothing() {
    let awful = Conditions {
        jitter: ms(60),
        loss: 100,
        duplicate: 200,
        reorder: 200,
        corrupt: 20,
        truncate: 20,
        replay: 20,
        rate: Some(2_000_000),
        queue: ms(300),
        ..Conditions::delay(ms(40))
    };
    let mut world = World::seeded(12).secondaries(2).conditions(awful).build();
    world.offer(Offer { size: 300_000, ..Offer::default() });
    world.run_until(LIMIT * 10, |w| w.delivered() == 300_000 && w.is_done());
    world.finish();
}
