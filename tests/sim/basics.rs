//! The simulator at work: short scenarios that read as sentences.

use std::time::Duration;

use kwik_tests::sim::{NodeId, Offer, World, tls};

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
    world.offer(Offer { size: 3 << 20, ..Offer::default() });
    world.run_until(ms(60_000), |w| w.delivered() == 3 << 20 && w.is_done());
    world.finish();
}

#[test]
fn a_dead_secondary_hands_its_ranges_back() {
    let mut world = World::seeded(8).secondaries(2).one_way(ms(20)).build();
    world.offer(Offer { size: 3 << 20, ..Offer::default() });
    world.run_until(ms(60_000), |w| w.delivered() > 1 << 20);
    world.cut(NodeId::secondary(1));
    world.run_until(ms(60_000), |w| w.delivered() == 3 << 20 && w.is_done());
}
