//! The second front door: a world told by a list of operations, which a property test can shrink.
//!
//! A seed says which world failed; a shrunk list says why. A list that failed is kept as a named regression.

use std::time::Duration;

use kwik_core::{Dir, TransportConfig};
use proptest::prelude::*;

use super::{
    ClientPlan, Clocks, Conditions, Ending, Fault, NodeId, Offer, OpenPlan, Reading, World, WriterEnd,
};

/// Something a test does to a world.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "lists are written by hand as well")]
pub enum Op {
    /// Lets time pass, in milliseconds.
    Wait(u16),
    /// Has the primary send one more object.
    Offer(Offer),
    /// Makes something happen.
    Fault(Fault),
    /// Ends every fault.
    Heal,
}

/// Setting of the whole world.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "worlds are written by hand as well")]
pub struct Setting {
    /// For what the operations leave open.
    pub seed: u64,
    /// Number of secondaries.
    pub secondaries: u16,
    /// Conditions of all links.
    pub conditions: Conditions,
    /// Manner in which the client reads.
    pub reading: Reading,
    /// Streams that the client opens.
    pub opens: Vec<OpenPlan>,
}

/// Longest time that everything may take once the operations are over.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a world through `ops`, then ends all faults and sees everything to its end.
///
/// # Panics
/// If anything is not as it must be.
pub fn run(setting: &Setting, ops: &[Op]) {
    let mut world = World::seeded(setting.seed)
        .secondaries(setting.secondaries)
        .conditions(setting.conditions)
        .clocks(Clocks::default())
        // So that a deadlock does not pass for a session that nobody needed any more.
        .client_transport(
            TransportConfig::default().keep_alive_interval(Some(Duration::from_secs(5))).clone(),
        )
        .client_plan(ClientPlan {
            readings: vec![setting.reading],
            opens: setting.opens.clone(),
            close_at: None,
        })
        .build();
    for op in ops {
        match *op {
            Op::Wait(millis) => world.run_for(Duration::from_millis(millis.into())),
            Op::Offer(offer) => world.offer(Offer { at: world.at(), ..offer }),
            Op::Fault(fault) => world.apply(fault),
            Op::Heal => world.heal(),
        }
    }
    world.heal();
    world.run_until(PATIENCE, |w| w.is_done());
    world.finish();
}

/// Draws what holds for a world with `secondaries`.
pub fn settings(secondaries: u16) -> impl Strategy<Value = Setting> {
    (any::<u64>(), conditions(), readings(), prop::collection::vec(opens(), 0..3)).prop_map(
        move |(seed, conditions, reading, opens)| Setting { seed, secondaries, conditions, reading, opens },
    )
}

/// Draws an operation on a world with `secondaries`.
pub fn ops(secondaries: u16) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..2000_u16).prop_map(Op::Wait),
        3 => offers().prop_map(Op::Offer),
        6 => faults(secondaries).prop_map(Op::Fault),
        1 => Just(Op::Heal),
    ]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    (1..100_u64, 0..100_u16, 0..200_u16, prop::option::of(100_000..100_000_000_u64), 0..100_u16).prop_map(
        |(delay, loss, duplicate, rate, reorder)| Conditions {
            loss,
            duplicate,
            rate,
            reorder,
            queue: Duration::from_millis(300),
            ..Conditions::delay(Duration::from_millis(delay))
        },
    )
}

fn readings() -> impl Strategy<Value = Reading> {
    (any::<bool>(), prop_oneof![Just(usize::MAX), 100..10_000_usize], prop::option::of(0..60_000_u64))
        .prop_map(|(ordered, max_len, stop_after)| Reading {
            ordered,
            max_len,
            stop_after,
            ..Reading::default()
        })
}

fn directions() -> impl Strategy<Value = Dir> {
    prop_oneof![Just(Dir::Bi), Just(Dir::Uni)]
}

fn opens() -> impl Strategy<Value = OpenPlan> {
    let ends = prop_oneof![Just(WriterEnd::Finish), Just(WriterEnd::Reset)];
    (0..1000_u64, directions(), 0..50_000_u64, 1..20_000_u64, ends).prop_map(|(at, dir, size, chunk, end)| {
        OpenPlan { at: Duration::from_millis(at), dir, size, chunk, end }
    })
}

fn offers() -> impl Strategy<Value = Offer> {
    let endings =
        prop_oneof![Just(Ending::Finish), Just(Ending::FinishEarly), (0..80_000_u64).prop_map(Ending::Reset)];
    (directions(), 0..200_000_u64, 0..5000_u64, 500..60_000_u64, 1..4_usize, 0..500_u16, 0..3000_u64, endings)
        .prop_map(|(dir, size, head, range, depth, own, tail, ending)| Offer {
            at: Duration::ZERO,
            dir,
            size,
            head: head.min(size),
            range,
            even: false,
            depth,
            own,
            waver: own / 2,
            verified: own / 4,
            meddle: own / 2,
            hedge: own > 0,
            retries: u32::from(own % 3),
            tail: tail.min(size - head.min(size)),
            ending: match ending {
                // It must come to that.
                Ending::Reset(after) => Ending::Reset(after % (size + 1)),
                Ending::Finish | Ending::FinishEarly | Ending::LetGo => ending,
            },
            reading: None,
            distributed: None,
            naive: None,
        })
}

fn faults(secondaries: u16) -> impl Strategy<Value = Fault> {
    let server = prop_oneof![Just(NodeId::PRIMARY), (1..=secondaries).prop_map(NodeId::secondary)].boxed();
    let secondary = (1..=secondaries).prop_map(NodeId::secondary);
    let client = NodeId::client(1);
    let node = prop_oneof![server.clone(), Just(client)].boxed();
    prop_oneof![
        server.clone().prop_map(move |server| Fault::Cut(server, client)),
        server.clone().prop_map(move |server| Fault::Cut(client, server)),
        server.clone().prop_map(move |server| Fault::Join(server, client)),
        server.clone().prop_map(move |server| Fault::Join(client, server)),
        (server.clone(), conditions()).prop_map(move |(server, c)| Fault::Become(server, client, c)),
        secondary.clone().prop_map(Fault::Crash),
        (secondary, any::<bool>()).prop_map(|(node, renewed)| Fault::Restart(node, renewed)),
        Just(Fault::Rebind(client)),
        node.clone().prop_map(|node| Fault::Jump(node, Duration::from_millis(700))),
        (node.clone(), node, 1..1400_usize).prop_map(|(to, from, len)| Fault::Junk(to, from, len)),
        server.prop_map(Fault::Close),
    ]
}
