//! Objects that are handed out as `distribute` does it, on real sessions: all of it arrives, and soon. Spec: RATIONALE §7.

use std::time::Duration;

use kwik_core::TransportConfig;
use kwik_tests::sim::{Conditions, Distributed, Naive, NodeId, Offer, Reading, World};

const MIB: u64 = 1 << 20;
/// Bits per second of each link.
const RATE: u64 = 20_000_000;
const MIRRORS: u16 = 2;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A primary and two mirrors, each behind a link of its own, and an object that is sent once all are attached.
fn world(seed: u64, size: u64, in_order: bool, digests: bool, loss: u16) -> World {
    let link = Conditions { rate: Some(RATE), queue: ms(40), loss, ..Conditions::delay(ms(20)) };
    let window = MIB;
    let transport = TransportConfig::default().idle_timeout(ms(30_000));
    let transport = if in_order { transport.stream_window(window) } else { transport };
    let setup = World::seeded(seed).secondaries(MIRRORS).conditions(link).client_transport(transport);
    let mut world = setup.build();
    let manner = Distributed { window: in_order.then_some(window), digests, ..Distributed::default() };
    world.offer(Offer {
        at: ms(500),
        size,
        reading: Some(Reading { ordered: in_order, ..Reading::default() }),
        distributed: Some(manner),
        ..Offer::default()
    });
    world.run_for(ms(500));
    world
}

/// The time that so many bytes take on so many of the links.
fn time(bytes: u64, links: u16) -> Duration {
    Duration::from_secs(8) * u32::try_from(bytes / 1024).expect("small")
        / u32::try_from(RATE / 1024).expect("small")
        / u32::from(links)
}

/// With a reader in order nothing was given out any more once all leases had ended: where the reader is was told with what
/// comes over leases, and nothing came.
#[test]
fn an_object_arrives_over_all_links() {
    for (seed, in_order, digests, loss) in
        [(1, false, false, 0), (2, true, false, 0), (3, false, true, 0), (4, true, false, 5)]
    {
        let size = 12 * MIB;
        let mut world = world(seed, size, in_order, digests, loss);
        // How soon a reader in order has it through so small a window is not judged. Spec: RATIONALE §7.
        let most = if in_order { time(size, 1) * 4 } else { time(size, MIRRORS) };
        world.run_until(most, |w| w.delivered() == size && w.is_done());
        world.check_calm();
        world.finish();
    }
}

/// From a silent death on the rest takes no longer than it needs on the links that are left, and a quarter more, and the time
/// in which the death is noticed and what was lost goes out again: ten round trips with full queues, and a second.
#[test]
fn a_death_costs_no_more_than_its_links_part() {
    for seed in 0..24 {
        let in_order = seed % 2 == 0;
        let size = 6 * MIB;
        let mut world = world(seed, size, in_order, false, 0);
        world.run_for(ms(100 + seed * 53 % 700));
        world.cut(NodeId::secondary(1 + u16::try_from(seed / 2 % 2).expect("small")));
        let (died, left) = (world.at(), size - world.delivered());
        world.run_until(time(size, 1) * 4, |w| w.delivered() == size);
        let took = world.at() - died;
        let most = time(left, MIRRORS) * 5 / 4 + ms(80) * 10 + ms(1000);
        assert!(
            took <= most,
            "seed {seed}, in order {in_order}: {took:?} for {left} bytes, {most:?} at most"
        );
        world.run_until(ms(20_000), |w| w.is_done());
    }
}

/// A mirror dies in the middle, and the primary's application was written by somebody who knows nothing of credit.
fn killed(seed: u64, manner: Naive) -> World {
    let size = 4 * MIB;
    let link = Conditions { rate: Some(RATE), queue: ms(40), ..Conditions::delay(ms(20)) };
    let transport = TransportConfig::default().idle_timeout(ms(30_000)).stream_window(MIB);
    let setup = World::seeded(seed).secondaries(MIRRORS).conditions(link).client_transport(transport);
    let mut world = setup.build();
    world.offer(Offer {
        at: ms(500),
        size,
        range: 256 * 1024,
        reading: Some(Reading { ordered: true, ..Reading::default() }),
        naive: Some(manner),
        ..Offer::default()
    });
    world.run_for(ms(520 + seed * 29 % 900));
    world.cut(NodeId::secondary(1));
    // Far less than the reader's patience with a hole.
    world.run_until(ms(10_000), |w| w.delivered() == size);
    world
}

/// The tail's writer waited for credit behind the hole, so nobody looked at the lease, and the reader gave up.
#[test]
fn a_primary_that_looks_at_its_lease_last_is_told_of_the_hole() {
    for seed in 0..8 {
        let world = killed(seed, Naive::HalfAndRest);
        assert_eq!(world.delivered(), 4 * MIB, "seed {seed}");
    }
}

/// Every lease that the application allows a path, and its own writer, waited for credit behind the hole.
#[test]
fn a_primary_with_four_leases_per_path_has_room_for_what_is_lost() {
    for seed in 0..8 {
        let world = killed(seed, Naive::FourEach { listens: seed % 2 == 0 });
        assert_eq!(world.delivered(), 4 * MIB, "seed {seed}");
    }
}
