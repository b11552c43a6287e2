//! One session for a long time: streams of every kind by the hundred thousand, one after another and many at once, and
//! whether the last cost what the first did. [`crate::soak`] says how that is judged.
//!
//! The time is the world's, so a rate says what ends wait for (trips, credit, a budget) and nothing of the machine.

use std::{fmt::Write as _, time::Duration};

use kwik_core::{Dir, TransportConfig};

use super::{
    ClientPlan, Conditions, Ending, NodeId, Offer, OpenPlan, PrimaryPlan, Reading, Record, SecondaryPlan,
    World, WriterEnd,
    swarm::{Outcome, guarded},
};
use crate::soak::{STRETCHES, Stretch, Tolerance, judge};

/// Streams of a whole soak; more than half of them are split, most with one lease.
pub const STREAMS: u64 = 100_000;

/// Streams that are under way at once, where more than one is.
const AT_ONCE: u64 = 50;
/// Kinds of streams, in turn.
const KINDS: u64 = 20;
/// Time that may go by until a stream, or as many as are under way at once, have come to their ends. Long enough to see how
/// slow it has become rather than to fail for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
/// Time until nothing is under way any more, acknowledgements included.
pub(super) const REST: Duration = Duration::from_millis(500);
/// Figures that must be flat, and the distance they may have.
const TOLERANCE: Tolerance = Tolerance { slower: 5, faster: 5, heap: 5 };

/// Runs a soak of about `streams` streams and returns what became of it; its text has a line for each stretch.
#[must_use]
pub fn run(seed: u64, streams: u64) -> Outcome {
    // Whole turns of all kinds in each quarter of each stretch, so that all stretches have the same work.
    let quarter = (streams / STRETCHES as u64 / 4).div_ceil(KINDS * 2) * KINDS * 2;
    let mut world = world(seed);
    let mut stretches = Vec::new();
    let failure = guarded(|| {
        world.run_for(Duration::from_secs(5)); // paths are attached
        for _ in 0..STRETCHES {
            stretches.push(stretch(&mut world, quarter));
        }
        world.finish();
    });
    let wrong = if failure.is_none() { judge(&stretches, TOLERANCE) } else { Vec::new() };
    let text = stretches.iter().fold(String::new(), |mut text, stretch| {
        writeln!(text, "{stretch}").expect("a string takes everything");
        text
    });
    Outcome {
        seed,
        hash: world.trace().hash(),
        datagrams: world.trace().datagrams(),
        delivered: world.delivered(),
        time: world.at(),
        marks: world.trace().marks().map(|(name, count)| (name.to_owned(), count)).collect(),
        failure: failure.or_else(|| (!wrong.is_empty()).then(|| wrong.join("\n  "))),
        options: format!("soak of {} streams", quarter * 4 * STRETCHES as u64),
        text,
        ..Outcome::default()
    }
}

fn world(seed: u64) -> World {
    let stops = |bytes| Reading { stop_after: Some(bytes), ..Reading::default() };
    let unordered = Reading { ordered: false, ..Reading::default() };
    let readings = vec![Reading::default(), Reading::default(), unordered, stops(0), stops(700)];
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    World::seeded(seed)
        .secondaries(2)
        .conditions(Conditions::delay(Duration::from_millis(1)))
        .client_transport(transport)
        .client_plan(ClientPlan { readings: readings.clone(), ..ClientPlan::default() })
        .primary_plan(PrimaryPlan { readings, ..PrimaryPlan::default() })
        .secondary_plan(SecondaryPlan { give_up: 50, ..SecondaryPlan::default() })
        .record(Record::Nothing)
        .build()
}

/// A quarter of all kinds one after another, a quarter of all kinds at once, and as many small objects at once, a lease each.
fn stretch(world: &mut World, quarter: u64) -> Stretch {
    let begun = world.at();
    for index in 0..quarter {
        begin(world, index);
        settle(world);
    }
    at_once(world, quarter, begin);
    at_once(world, quarter * 2, |world, index| world.offer(small_split(world.at(), 1000 + index % 7)));
    let time = world.at() - begun;
    world.run_for(REST);
    let heap = heap(world);
    Stretch { streams: quarter * 4, time, heap, ..Stretch::default() }
}

/// Returns what each machine holds.
pub(super) fn heap(world: &World) -> Vec<(String, i64)> {
    world.nodes().into_iter().map(|node| (node.to_string(), world.heap(node))).collect()
}

fn at_once(world: &mut World, streams: u64, begin: impl Fn(&mut World, u64)) {
    for first in (0..streams).step_by(usize::try_from(AT_ONCE).unwrap_or(1)) {
        (first..streams.min(first + AT_ONCE)).for_each(|index| begin(world, index));
        settle(world);
    }
}

/// Runs until everything has come to its end, of which nothing needs to be known any more then.
fn settle(world: &mut World) {
    world.run_until(PATIENCE, |w| w.is_done());
    world.forget_streams();
}

/// Begins the next stream.
fn begin(world: &mut World, index: u64) {
    let at = world.at();
    let small = 1 + index * 37 % 2000;
    let large = 20_000 + index * 997 % 60_000;
    let open = |dir, size, end| OpenPlan { at, dir, size, chunk: 10_000, end };
    let split = small_split(at, small);
    let native = Offer { head: u64::MAX, ..split };
    match index % KINDS {
        0 => world.offer(if index.is_multiple_of(40) { Offer { size: large, ..split } } else { split }),
        // Handed out, cut, taken back, hedged, written by the primary as well; given up in the middle of it.
        5 if index % 40 == 5 => {
            world.offer(Offer { size: large, own: 300, waver: 300, meddle: 500, hedge: true, ..split })
        }
        5 => world.offer(Offer { dir: Dir::Bi, size: large, head: 100, ending: Ending::Reset(500), ..split }),
        15 => world.offer(Offer {
            dir: Dir::Bi,
            size: large,
            head: 1000,
            tail: 1000,
            ending: Ending::FinishEarly,
            ..split
        }),
        1 | 6 | 11 => world.open(NodeId::client(1), open(Dir::Bi, small, WriterEnd::Finish)),
        2 | 7 | 12 => world.open(NodeId::client(1), open(Dir::Uni, small, WriterEnd::Finish)),
        16 => world.open(NodeId::client(1), open(Dir::Uni, small, WriterEnd::Reset)),
        17 => world.open(NodeId::client(1), open(Dir::Bi, large, WriterEnd::Finish)),
        3 | 8 | 13 => world.offer(native),
        4 | 9 => world.offer(Offer { dir: Dir::Bi, ..native }),
        14 => world.offer(Offer { ending: Ending::Reset(0), ..native }),
        _ => world.offer(Offer { size: large, ..native }),
    }
}

/// One lease, whatever the size, to one secondary or the other.
fn small_split(at: Duration, size: u64) -> Offer {
    // A range is drawn between one byte and this many, and cut to what there is.
    Offer { at, size, range: u64::MAX >> 8, depth: 1, ..Offer::default() }
}
