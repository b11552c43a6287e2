//! Properties that hold whatever happens. Ownership, and that everything comes to an end, is `fuzzing`'s.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    limits::{OWED_MAX, PIECE_MAX, PIECES_PER_PATH},
    model::{Link, World},
    *,
};

/// A link: its rate in bytes per second, its round trip, what becomes of it, and when.
fn link() -> impl Strategy<Value = Link> {
    let rates = select(vec![125_000_u64, 1_250_000, 6_000_000, 12_500_000]);
    (rates, select(vec![5_u64, 20, 60, 150]), 0..8_u8, 0..2000_u64).prop_map(|(rate, rtt, fate, when)| {
        let mut link = Link::new(rate, rtt);
        let when = Duration::from_millis(when);
        match fate {
            0 => link.dies = Some(when),
            1 => (link.dies, link.returns) = (Some(when), Some(when + 700 * MS)),
            2 => link.rates.push((when, rate / 50)),
            3 => link.joins = when,
            _ => {}
        }
        link
    })
}

/// A world in which the primary's own link is what is sure.
fn world(size: u64, mut links: Vec<Link>) -> World {
    links[0] = Link::new(links[0].rates[0].1.max(1_250_000), 20);
    World::new(size, links)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The object ends soon after it could, however links differ and whatever becomes of them, if bytes are told as they
    /// come.
    #[test]
    fn every_world_ends_in_time(links in vec(link(), 1..6), size in 1..40 * MIB) {
        let slowest = links.iter().map(|link| link.rtt).max().expect("one").max(20 * MS);
        let world = world(size, links);
        let ideal = world.ideal();
        let outcome = world.run();
        prop_assert!(outcome.failed.is_none());
        let allowed = ideal * 5 / 4 + slowest * 10 + 1000 * MS;
        prop_assert!(outcome.time <= allowed, "{:?}, could be {ideal:?}", outcome.time);
        prop_assert_eq!(outcome.report.arrived, size);
    }

    /// The object ends, too, if a reader takes it in order, and if nothing is told but ends of pieces. How soon is not
    /// judged here: RATIONALE §7 says what is known to take long.
    #[test]
    fn every_world_ends(links in vec(link(), 1..6), in_order: bool, reports: bool, size in 1..40 * MIB) {
        let mut world = world(size, links);
        world.reports = reports || in_order;
        if in_order {
            world.window = Some(16 * MIB);
            world.options = Options::default().policy(InOrder);
        }
        let outcome = world.run();
        prop_assert!(outcome.failed.is_none());
        prop_assert_eq!(outcome.report.arrived, size);
    }

    /// No path is without work while some is left, if all are alike; none has more than its bound, and every
    /// byte is given out once.
    #[test]
    fn nobody_idles_and_nobody_hoards(
        paths in 1..9_u32,
        rate in 100_000..100_000_000_u64,
        ends in vec((0..64_usize, 1..30_u64), 1..200),
    ) {
        let mut now = epoch();
        let size = 1 << 40;
        let mut scheduler = Scheduler::new(now, ByteRange::new(0, size), Options::default());
        for path in 0..paths {
            scheduler.add_path(now, PathId::new(path), 0);
        }
        let mut live: Vec<(PieceId, PathId, ByteRange)> = Vec::new();
        let mut given = 0;
        for (index, pause) in ends {
            for path in 0..paths {
                scheduler.handle_rate(now, PathId::new(path), rate);
                scheduler.handle_rtt(now, PathId::new(path), 10 * MS);
            }
            while let Some(decision) = scheduler.poll(now) {
                let (piece, path, range) = match decision {
                    Decision::Lease { piece, path, range, .. } => (piece, path, range),
                    Decision::Write { piece, range, .. } => (piece, PathId::PRIMARY, range),
                    Decision::Cut { .. } | Decision::Done | Decision::Failed(_) => {
                        return Err(TestCaseError::fail("there is work for all"));
                    }
                };
                prop_assert!(live.iter().all(|(.., other)| !other.overlaps(range)));
                given += range.len();
                live.push((piece, path, range));
            }
            for path in (0..paths).map(PathId::new) {
                let has: Vec<u64> = live.iter().filter(|(_, of, _)| *of == path).map(|(.., range)| range.len()).collect();
                prop_assert!(!has.is_empty() || given == size, "{path} idles");
                prop_assert!(has.len() <= PIECES_PER_PATH && has.iter().sum::<u64>() <= OWED_MAX + PIECE_MAX);
            }
            let (piece, ..) = live.remove(index % live.len());
            now += Duration::from_millis(pause);
            scheduler.handle_done(now, piece);
            scheduler.check();
        }
        prop_assert!(given <= size);
    }
}
