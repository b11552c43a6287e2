//! The parts of the protocol that PROTOCOL.md names, one scenario each, and what became of them.

use std::time::Duration;

use kwik_core::{PathState, TransportConfig};
use kwik_tests::sim::{
    ClientPlan, Conditions, Fault, NodeId, Offer, PrimaryPlan, Reading, SecondaryPlan, Talk, World,
};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seen(world: &World, name: &str) -> u64 {
    world.trace().marks().find(|(mark, _)| *mark == name).map_or(0, |(_, count)| count)
}

/// Bytes that each source of the client's streams has brought.
fn sources(world: &mut World) -> Vec<u64> {
    let sources = world.call(NodeId::client(1), |session, _| session.stats().sources).expect("a session");
    sources.values().map(|source| source.bytes).collect()
}

/// Spec: PROTOCOL §5.
#[test]
fn three_servers_write_one_stream_at_once() {
    let mut world = World::seeded(11).secondaries(2).one_way(ms(20)).build();
    world.offer(Offer { size: 6 * MIB, range: 64 * 1024, own: 300, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == 6 * MIB && w.is_done());
    let brought = sources(&mut world);
    assert!(brought.len() == 3 && brought.iter().all(|&bytes| bytes > MIB / 2), "{brought:?}");
    world.check_calm();
    world.finish();
}

/// Spec: DESIGN §2, I2 and I7.
#[test]
fn five_clients_have_three_streams_each_from_two_secondaries() {
    let mut world = World::seeded(12).clients(5).secondaries(2).one_way(ms(10)).build();
    for _ in 0..3 {
        world.offer(Offer { size: MIB, range: 64 * 1024, ..Offer::default() });
    }
    world.run_until(LIMIT, |w| w.delivered() == 15 * MIB && w.is_done());
    world.check_calm();
    world.finish();
}

/// The copy that comes first counts, the other is stopped, and nothing comes twice. Spec: PROTOCOL §5.2.
#[test]
fn two_secondaries_bring_the_same_ranges() {
    let plan = PrimaryPlan {
        offers: vec![Offer {
            size: 2 * MIB,
            range: 128 * 1024,
            meddle: 1000,
            hedge: true,
            ..Offer::default()
        }],
        ..PrimaryPlan::default()
    };
    let slow = SecondaryPlan { chunk: 4096, pace: Some((16 * 1024, ms(30))), ..SecondaryPlan::default() };
    let mut world =
        World::seeded(13).secondaries(2).one_way(ms(20)).primary_plan(plan).secondary_plan(slow).build();
    world.run_until(LIMIT, |w| w.delivered() == 2 * MIB && w.is_done());
    assert!(seen(&world, "lease hedged") > 3, "{} hedges", seen(&world, "lease hedged"));
    world.check_calm();
    world.finish();
}

/// The reader waits for a byte that only one path is to bring, and the primary removes that path. Spec: PROTOCOL §8.
#[test]
fn the_path_that_holds_the_hole_is_removed() {
    let mut world = World::seeded(14).secondaries(1).one_way(ms(20)).build();
    world.offer(Offer { size: 4 * MIB, range: 256 * 1024, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    // It lives, and does nothing: all that is missing is its to bring.
    let stalled = world.at() + ms(60_000);
    world.apply(Fault::Pause(NodeId::secondary(1), stalled));
    world.run_for(ms(30));
    let path = world
        .call(NodeId::PRIMARY, |session, now| {
            let path = session.paths().into_iter().find(|path| path.state == PathState::Active).unwrap().id;
            session.remove_path(now, path).unwrap();
            path
        })
        .unwrap();
    world.run_until(ms(10_000), |w| w.delivered() == 4 * MIB && w.is_done());
    assert!(world.at() < stalled, "{path} was waited for");
    world.check_calm();
    world.finish();
}

/// The hello with the ticket is on its way while the ticket expires. Spec: PROTOCOL §9.
#[test]
fn a_ticket_expires_in_the_middle_of_an_attach() {
    let mut world = World::seeded(15).secondaries(1).one_way(ms(20)).build();
    world.offer(Offer { size: MIB, ..Offer::default() });
    // A minute passes for the secondary between the primary's signature and the client's hello.
    world.schedule(ms(90), Fault::Jump(NodeId::secondary(1), ms(70_000)));
    world.run_until(LIMIT, |w| w.delivered() == MIB && w.is_done());
    assert_eq!(seen(&world, "path dead: TICKET_EXPIRED"), 1);
    assert_eq!(seen(&world, "path Connecting > Active"), 0);
    world.check_calm();
    world.finish();
}

/// One of ten streams is never read: it keeps its own window, and nothing of the others'.
/// Spec: DESIGN §2, I7, and PROTOCOL §6.
#[test]
fn a_stream_that_is_never_read_holds_nobody_up() {
    let transport = TransportConfig::default().stream_window(256 * 1024).session_window(4 * MIB);
    let never = Reading { never: true, ..Reading::default() };
    let mut readings = vec![Reading::default(); 9];
    readings.push(never);
    let client = ClientPlan { readings, ..ClientPlan::default() };
    for seed in 16..20 {
        let mut world = World::seeded(seed)
            .secondaries(2)
            .one_way(ms(20))
            .client_transport(transport.clone())
            .client_plan(client.clone())
            .build();
        for _ in 0..10 {
            world.offer(Offer { size: MIB, range: 64 * 1024, own: 200, ..Offer::default() });
        }
        world.run_until(LIMIT, |w| w.at() > ms(200) && w.is_done());
        let left = seen(&world, "reader that never reads");
        assert_eq!(world.delivered(), (10 - left) * MIB, "seed {seed}: {left} were not read");
        world.check_calm();
        world.finish();
    }
}

/// A path without work is kept alive, and takes a lease in one trip. Spec: RATIONALE §8, "Stand-by".
#[test]
fn a_path_that_stands_by_takes_a_lease_in_one_trip() {
    let mut transport = TransportConfig::default().idle_timeout(ms(5000));
    transport.keep_alive_interval(Some(ms(1500)));
    let server = TransportConfig::default().idle_timeout(ms(5000));
    let mut world = World::seeded(23)
        .secondaries(1)
        .one_way(ms(20))
        .client_transport(transport)
        .server_transport(server)
        .build();
    world.run_for(ms(60_000));
    let [active] = world.call(NodeId::PRIMARY, |session, _| session.paths()).unwrap().try_into().unwrap();
    assert_eq!(active.state, PathState::Active, "it was not kept alive");
    let asked = world.at();
    world.offer(Offer { size: 100_000, range: 100_000, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > 0);
    // To the client, on to the server, back; and what the machines need.
    assert!(world.at() - asked <= ms(3 * 20 + 5), "{:?}", world.at() - asked);
    world.run_until(LIMIT, |w| w.is_done());
    world.check_calm();
    world.finish();
}

/// A server that is added again is another path; the old ones stay listed, and commands that name them are harmless.
/// Spec: DESIGN §1, PROTOCOL §8.
#[test]
fn a_server_that_is_added_again_is_another_path() {
    let plan = PrimaryPlan {
        adds: vec![
            (ms(0), NodeId::secondary(1)),
            (ms(2000), NodeId::secondary(1)),
            (ms(4000), NodeId::secondary(1)),
        ],
        removes: vec![(ms(1000), NodeId::secondary(1)), (ms(3000), NodeId::secondary(1))],
        ..PrimaryPlan::default()
    };
    let mut world = World::seeded(24).secondaries(1).one_way(ms(10)).primary_plan(plan).build();
    world.run_for(ms(6000));
    let paths = world.call(NodeId::PRIMARY, |session, _| session.paths()).unwrap();
    let ids: Vec<u32> = paths.iter().map(|path| path.id.into_inner()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(paths[..2].iter().all(|path| matches!(path.state, PathState::Dead(_))));
    assert_eq!(paths[2].state, PathState::Active);
    assert!(paths.iter().all(|path| path.identities == paths[0].identities));
    let stale = paths[0].id;
    let refused = world.call(NodeId::PRIMARY, move |session, now| {
        (session.remove_path(now, stale).is_err(), session.relay(now, stale, "words".into()).is_err())
    });
    assert_eq!(refused, Some((true, true)));
    world.offer(Offer { size: MIB, range: 64 * 1024, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == MIB);
}

/// As many leases as a session may have, spread over eight paths. Spec: PROTOCOL §11.
#[test]
fn thousands_of_leases_live_at_once() {
    let transport = TransportConfig::default().stream_window(64 * 1024);
    let mut world = World::seeded(25).secondaries(8).one_way(ms(20)).client_transport(transport).build();
    for _ in 0..5 {
        world.offer(Offer { size: MIB, range: 4000, depth: 60, ..Offer::default() });
    }
    let mut most = 0;
    while world.delivered() < 5 * MIB {
        world.run_for(ms(5));
        let paths = world.call(NodeId::PRIMARY, |session, _| session.paths()).unwrap_or_default();
        most = most.max(paths.iter().map(|path| path.leases).sum());
        assert!(world.at() < LIMIT, "{} delivered", world.delivered());
    }
    world.run_until(LIMIT, |w| w.is_done());
    assert!(most > 1500, "{most} at once");
    world.check_calm();
    world.finish();
}

/// Servers talk to each other by way of the client, beside an object and over a network that loses and turns around
/// what it carries. Spec: PROTOCOL §9.
#[test]
fn servers_talk_beside_an_object() {
    let talk = Talk { messages: 40, longest: 20_000 };
    let offer = Offer { size: 2 * MIB, range: 64 * 1024, own: 200, ..Offer::default() };
    let plan = PrimaryPlan { talk, offers: vec![offer], ..PrimaryPlan::default() };
    let rough = Conditions { loss: 30, reorder: 100, duplicate: 50, ..Conditions::delay(ms(15)) };
    let mut world = World::seeded(22).clients(2).secondaries(3).conditions(rough).primary_plan(plan).build();
    world.run_until(LIMIT, |w| w.is_done() && seen(w, "relay answered") == 2 * 3 * 40);
    world.check_calm();
    world.finish();
}

/// The session of a server that has nothing to do, and that of a client with three paths. Goals: 32 and 96 KiB.
#[test]
fn idle_sessions_are_small() {
    let mut transport = TransportConfig::default().idle_timeout(ms(30_000));
    transport.keep_alive_interval(Some(ms(10_000)));
    let mut world = World::seeded(21).secondaries(2).client_transport(transport).build();
    world.run_for(ms(60_000));
    let [primary, secondary, client] =
        [NodeId::PRIMARY, NodeId::secondary(1), NodeId::client(1)].map(|node| world.heap(node));
    let told = format!("primary {primary}, secondary {secondary}, client {client} bytes");
    assert!(primary <= 30_538 && secondary <= 26_262 && client <= 83_580, "{told}");
    world.finish();
}
