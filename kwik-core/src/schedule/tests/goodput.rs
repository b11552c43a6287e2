//! The goodput on links of a fluid: the rows of the benchmark.

use super::{
    model::{Link, Outcome, World},
    *,
};

/// 100 Mbit/s in bytes per second.
const FULL: u64 = 12_500_000;

fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

/// Runs it, and returns what came of it and how many thousandths of the ideal that is.
fn rate(name: &str, world: World) -> (Outcome, u64) {
    let (ideal, size) = (world.ideal(), world.size);
    let outcome = world.run();
    let permille = u64::try_from(ideal.as_micros() * 1000 / outcome.time.as_micros().max(1)).expect("small");
    println!(
        "{name:>24}: {permille:>4} ‰ of {ideal:?}, {} ‰ twice, {} decisions, {} cuts, {} hedges, idle {:?}, stall {:?}",
        outcome.duplicates * 1000 / size,
        outcome.decisions,
        outcome.cuts,
        outcome.hedges,
        outcome.idle,
        outcome.stall,
    );
    assert!(outcome.failed.is_none());
    assert!(size < MIB || outcome.duplicates * 50 <= size, "{name}: {} bytes twice", outcome.duplicates);
    (outcome, permille)
}

fn rows() -> Vec<(&'static str, Vec<Link>, u64)> {
    let equal = |count| vec![Link::new(FULL, 20); count];
    let last = |link: Link| vec![Link::new(FULL, 20), Link::new(FULL, 20), link];
    vec![
        ("equal3", equal(3), 950),
        ("rate3to1", last(Link::new(FULL / 3, 20)), 950),
        ("rate10to1", last(Link::new(FULL / 10, 20)), 950),
        ("rtt1to10", last(Link::new(FULL, 200)), 950),
        ("eight", equal(8), 950),
    ]
}

fn size_of(links: &[Link], seconds: u64) -> u64 {
    links.iter().map(|link| link.rate(Duration::ZERO) * seconds).sum()
}

#[test]
fn the_links_are_filled() {
    for (name, links, least) in rows() {
        let world = World::new(size_of(&links, 10), links);
        let (_, permille) = rate(name, world);
        assert!(permille >= least, "{name}: {permille}");
    }
}

#[test]
fn ends_of_pieces_are_enough() {
    for (name, links, least) in rows() {
        let mut world = World::new(size_of(&links, 10), links);
        world.reports = false;
        let (_, permille) = rate(&format!("{name}, ends only"), world);
        assert!(permille >= least - 20, "{name}: {permille}");
    }
}

#[test]
fn a_small_object_is_shared() {
    let world = World::new(4 * MIB, vec![Link::new(FULL, 20); 3]);
    let (_, permille) = rate("small", world);
    assert!(permille >= 850, "{permille}");
}

#[test]
fn a_reader_in_order_gets_nearly_as_much() {
    for (name, links, _) in rows() {
        let mut world = World::new(size_of(&links, 10), links);
        // A window lets through its length in the time that a lease takes, here up to 210 ms: 20 MB/s, were it 4 MiB.
        world.window = Some(if name == "rtt1to10" { 16 } else { 4 } * MIB);
        world.options = Options::default().policy(InOrder);
        let (_, permille) = rate(&format!("{name}, in order"), world);
        assert!(permille >= 900, "{name}: {permille}");
    }
}

#[test]
fn a_death_costs_its_links_share_only() {
    for (rtt, in_order) in [(20, false), (40, false), (20, true), (40, true)] {
        let mut links = vec![Link::new(FULL, rtt); 3];
        links[2].dies = Some(secs(5));
        let mut world = World::new(size_of(&links, 8), links);
        if in_order {
            world.window = Some(4 * MIB);
            world.options = Options::default().policy(InOrder);
        }
        let ideal = world.ideal();
        let (outcome, permille) = rate(&format!("dies, {rtt} ms, {in_order}"), world);
        assert!(!in_order || outcome.stall <= 190 * MS, "{:?}", outcome.stall);
        assert!(permille >= 900);
        assert!(
            in_order || outcome.time <= ideal + Duration::from_millis(300),
            "{:?} {ideal:?}",
            outcome.time
        );
    }
}

#[test]
fn a_path_that_comes_back_works_again() {
    let mut links = vec![Link::new(FULL, 20); 3];
    (links[2].dies, links[2].returns) = (Some(secs(2)), Some(secs(4)));
    let world = World::new(size_of(&links, 8), links);
    let (outcome, permille) = rate("comes back", world);
    assert!(permille >= 940);
    let back = outcome.report.paths[&PathId::new(2)].bytes;
    assert!(back > FULL * 5, "{back}");
}

#[test]
fn a_path_that_joins_has_work_at_once() {
    let mut links = vec![Link::new(FULL, 20); 3];
    links[2].joins = secs(3);
    let world = World::new(size_of(&links, 5), links);
    let (_, permille) = rate("joins", world);
    assert!(permille >= 950);
}

#[test]
fn a_path_that_crawls_costs_nothing() {
    for in_order in [false, true] {
        let mut links = vec![Link::new(FULL, 20); 3];
        links[2].rates.push((secs(4), FULL / 100));
        let mut world = World::new(size_of(&links, 8), links);
        if in_order {
            world.window = Some(4 * MIB);
            world.options = Options::default().policy(InOrder);
        }
        let (_, permille) = rate(&format!("falls to 1 %, {in_order}"), world);
        assert!(permille >= if in_order { 900 } else { 950 });
    }
}

#[test]
fn a_path_that_oscillates_is_used() {
    let mut links = vec![Link::new(FULL, 20); 3];
    links[2].rates = (0..60).map(|at| (secs(at), if at % 2 == 0 { FULL } else { FULL / 10 })).collect();
    let world = World::new(size_of(&links, 8), links);
    let (_, permille) = rate("oscillates", world);
    assert!(permille >= 900);
}

#[test]
fn small_objects_end_soon_on_unlike_links() {
    for size in [1, 1000, 65_536, 300_000, MIB] {
        let links = vec![Link::new(FULL, 20), Link::new(FULL / 100, 20), Link::new(FULL, 200)];
        let alone = World::new(size, links[..1].to_vec()).ideal();
        let (outcome, _) = rate(&format!("{size} bytes"), World::new(size, links));
        assert!(outcome.time <= alone * 2 + 60 * MS, "{size}: {:?}, alone {alone:?}", outcome.time);
    }
}

#[test]
fn a_slow_reader_is_nobodys_fault() {
    let mut world = World::new(40 * MIB, vec![Link::new(FULL, 20); 3]);
    (world.window, world.reader) = (Some(4 * MIB), FULL / 3);
    world.options = Options::default().policy(InOrder);
    let (outcome, _) = rate("slow reader", world);
    // The last window is there before it is read.
    let least = Duration::from_secs(1) * u32::try_from(36 * MIB / (FULL / 3)).expect("small");
    assert!(outcome.time <= least + secs(1), "{:?}", outcome.time);
    assert!(outcome.cuts + outcome.hedges < 10);
}
