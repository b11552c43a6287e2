//! An application that stops at any point of what it does: the rest must come to an end, and nothing may be left.
//!
//! Not at random: at every single call, of each role, in each way.

use std::{
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use kwik_core::{Dir, TransportConfig};
use kwik_tests::sim::{
    Calls, ClientPlan, Interruption, NodeId, Offer, OpenPlan, PrimaryPlan, World, WriterEnd,
};

const SECOND: Duration = Duration::from_secs(1);

/// A short session in which everything happens once: native streams both ways, a split one over two secondaries with
/// ranges of the primary's own and a sequential tail.
fn world() -> World {
    let opens = [Dir::Bi, Dir::Uni].map(|dir| OpenPlan {
        at: Duration::ZERO,
        dir,
        size: 3000,
        chunk: 2000,
        end: WriterEnd::Finish,
    });
    let native = Offer { size: 3000, head: 3000, range: 2000, ..Offer::default() };
    // By then the paths are there.
    let at = Duration::from_millis(100);
    let split = Offer { at, size: 40_000, head: 1000, range: 9000, own: 300, tail: 3000, ..Offer::default() };
    let both = Offer { dir: Dir::Bi, size: 12_000, ..split };
    World::seeded(1)
        .secondaries(2)
        .one_way(Duration::from_millis(5))
        // So that a deadlock does not pass for a session that nobody needed any more.
        .client_transport(TransportConfig::default().keep_alive_interval(Some(5 * SECOND)).clone())
        .client_plan(ClientPlan { opens: opens.into(), ..ClientPlan::default() })
        .primary_plan(PrimaryPlan { offers: vec![native, split, both], ..PrimaryPlan::default() })
        .build()
}

fn run(world: &mut World) {
    world.run_until(120 * SECOND, |w| w.is_done());
    world.finish();
}

/// Interrupts `node` at every call it makes.
fn interrupt(node: NodeId, by: Interruption) {
    let mut whole = world();
    run(&mut whole);
    let calls = whole.calls(node);
    assert!(calls > 20, "{node} makes {calls} calls: too few to mean anything");
    for index in 0..calls {
        let mut world = world();
        world.interrupt(node, Calls::interrupted_at(index, by));
        let ran = panic::catch_unwind(AssertUnwindSafe(|| run(&mut world)));
        assert!(ran.is_ok(), "{node} at call {index} of {calls}: {by:?}");
    }
}

macro_rules! interruptions {
    ($($name:ident: $node:expr, $by:ident;)*) => {
        $(#[test]
        fn $name() {
            interrupt($node, Interruption::$by);
        })*
    };
}

interruptions! {
    a_client_closes_at_every_call: NodeId::client(1), Close;
    a_client_vanishes_at_every_call: NodeId::client(1), Drop;
    a_client_gives_up_at_every_call: NodeId::client(1), GiveUp;
    a_primary_closes_at_every_call: NodeId::PRIMARY, Close;
    a_primary_vanishes_at_every_call: NodeId::PRIMARY, Drop;
    a_primary_gives_up_at_every_call: NodeId::PRIMARY, GiveUp;
    a_secondary_closes_at_every_call: NodeId::secondary(1), Close;
    a_secondary_vanishes_at_every_call: NodeId::secondary(1), Drop;
    a_secondary_gives_up_at_every_call: NodeId::secondary(1), GiveUp;
}
