//! Cost of a silent death, and number of live servers that are taken for dead ones, over many worlds:
//! `cargo run --release -p kwik-tests --bin failover`. Spec: PROTOCOL §8.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use clap::Parser;
use kwik_tests::sim::{Conditions, NodeId, Offer, SecondaryPlan, World};

/// Measures failover and false alarms in simulated worlds.
#[derive(Debug, Parser)]
struct Args {
    /// Worlds of each kind.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Round-trip time in milliseconds.
    #[arg(long, default_value_t = 40)]
    rtt: u64,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const MS: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(600);

/// Bringer of what a dead server does not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The primary, as soon as the path is suspected.
    Primary,
    /// Another secondary, once the path is called silent.
    Secondary,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let one_way = MS * u32::try_from(args.rtt).unwrap_or(40) / 2;
    writeln!(out, "a secondary falls silent, {} ms away; time to the first byte in its place:", args.rtt)?;
    for by in [By::Primary, By::Secondary] {
        let mut times = over_seeds(args.seeds, |seed| black_hole(seed, one_way, by));
        times.sort();
        let at =
            |hundredths: usize| times.get((times.len() - 1) * hundredths / 100).copied().unwrap_or_default();
        writeln!(
            out,
            "  by {by:?}: p50 {:?}, p99 {:?}, most {:?} of {} worlds",
            at(50),
            at(99),
            at(100),
            times.len()
        )?;
    }
    let calm = over_seeds(args.seeds.div_ceil(10), |seed| healthy(seed, one_way));
    let sum = |field: fn(&Alarms) -> u64| calm.iter().map(field).sum::<u64>();
    let hours = calm.iter().map(|alarms| alarms.time).sum::<Duration>().as_secs_f64() / 3600.0;
    let duplicates = sum(|alarms| alarms.overlap) as f64 / sum(|alarms| alarms.bytes) as f64 * 100.0;
    writeln!(
        out,
        "two live secondaries, 1 % loss, jitter of half the delay, 300 ms of disk per 64 KiB, {hours:.1} h:"
    )?;
    writeln!(
        out,
        "  degraded {}, stalls {}, hedges {}, duplicates {duplicates:.3} %",
        sum(|alarms| alarms.degraded),
        sum(|alarms| alarms.stalled),
        sum(|alarms| alarms.hedged),
    )
}

/// Time from the moment when nothing of a secondary passes any more until the reader, who soon waits for what it was to
/// bring, goes on.
fn black_hole(seed: u64, one_way: Duration, by: By) -> Duration {
    let conditions =
        Conditions { jitter: MS, rate: Some(100_000_000), queue: MS * 100, ..Conditions::delay(one_way) };
    let secondaries = if by == By::Primary { 1 } else { 2 };
    let mut world = World::seeded(seed).secondaries(secondaries).conditions(conditions).build();
    let hedge = by == By::Primary;
    world.offer(Offer { size: 6 * MIB, range: 64 * KIB, depth: 3, hedge, ..Offer::default() });
    let begun = MIB + seed.wrapping_mul(7919) % MIB;
    world.run_until(LIMIT, |w| w.delivered() > begun);
    world.cut(NodeId::secondary(1));
    let cut = world.at();
    let (mut delivered, mut since, mut longest, mut end) = (world.delivered(), cut, Duration::ZERO, cut);
    while !world.is_done() && world.at() < cut + LIMIT {
        world.run_for(MS);
        if world.delivered() > delivered {
            if world.at() - since > longest {
                (longest, end) = (world.at() - since, world.at());
            }
            (delivered, since) = (world.delivered(), world.at());
        }
    }
    end - cut
}

/// Faults that were held against servers that did nothing wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Alarms {
    time: Duration,
    degraded: u64,
    stalled: u64,
    hedged: u64,
    bytes: u64,
    overlap: u64,
}

fn healthy(seed: u64, one_way: Duration) -> Alarms {
    let conditions = Conditions {
        jitter: one_way / 2,
        loss: 10,
        rate: Some(100_000_000),
        queue: MS * 100,
        ..Conditions::delay(one_way)
    };
    let disk = SecondaryPlan { pace: Some((64 * KIB, MS * 300)), ..SecondaryPlan::default() };
    let mut world = World::seeded(seed).secondaries(2).conditions(conditions).secondary_plan(disk).build();
    let size = 16 * MIB;
    world.offer(Offer { size, range: 64 * KIB, depth: 3, hedge: true, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() == size && w.is_done());
    let seen =
        |name: &str| world.trace().marks().find(|(mark, _)| *mark == name).map_or(0, |(_, count)| count);
    let (degraded, stalled, hedged) =
        (seen("path Active > Degraded"), seen("lease stalled"), seen("lease hedged"));
    let time = world.at();
    let sources = world.call(NodeId::client(1), |session, _| session.stats().sources).unwrap_or_default();
    let (bytes, overlap) = sources
        .values()
        .fold((0, 0), |(bytes, overlap), source| (bytes + source.bytes, overlap + source.overlap_bytes));
    Alarms { time, degraded, stalled, hedged, bytes, overlap }
}

/// Runs `world` once per seed, on every processor.
fn over_seeds<T: Send>(seeds: u64, world: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return results;
            }
            results.push(world(seed));
        }
    };
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a world is as it must be")).collect()
    })
}
