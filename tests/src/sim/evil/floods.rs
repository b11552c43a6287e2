//! Floods, measured: what a drawn mix of frames makes whoever takes it do, against bounds that follow from the table of
//! PROTOCOL §11, while an honest session on the same machines goes on as if nothing were.
//!
//! What is counted is strict. The time of a processor depends on the machine, on the build and on the checks that a world
//! makes at every step, so its bound is generous: it is there for what takes a thousand times as long.

use std::{fmt::Write as _, time::Duration};

use kwik_core::{Effort, limits};

use super::{
    Actor, Attack, BYSTANDER, EVIL_SECONDARY, OTHER_PRIMARY, VICTIM,
    flood::LENGTH,
    run::{AFTERMATH, LIMIT, contained, is_whole, setup},
    table::FLOODS,
};
use crate::sim::{
    NodeId, Record, World,
    swarm::{Outcome, guarded},
};

/// By when a flood begins, if there is anything to begin with.
const START_MAX: Duration = Duration::from_secs(20);
/// Frames that the honest part of these worlds pays for: two jobs of four gigabytes, some forty leases.
const PAID: u64 = 4 * 1024;
/// Frames that a lease pays for once a byte of it was sent.
const PAID_PER_LEASE: u64 = 4;
/// Errands of a client that a lease pays for once it is over.
const ERRANDS_PER_LEASE: u64 = 2;
/// Signatures that the honest part has verified: its jobs.
const GENUINE: u64 = 8;
/// Events that wait at once, at most: some for each lease, job, path and stream that there is.
const EVENTS_MAX: usize = 1024;
/// Actions that a frame may cause: one of credit raises eight leases without being charged for more, and each of them is told
/// of twice.
const ACTIONS_PER_FRAME: u64 = 20;
/// By how much more heap a flooded machine may hold than before: its tables, and what QUIC's windows permit its peer to leave
/// unread.
const HEAP_MAX: i64 = 2 << 20;
/// And a client, which answers one question with pages of ranges: what QUIC's window permits it to send, and what may wait for
/// that.
const ANSWERS_MAX: u64 = limits::QUIC_SEND_WINDOW + limits::CONTROL_BACKLOG_MAX as u64;
/// Highest cost of a byte that arrives in these worlds, in nanoseconds: one of small frames costs a few.
const NANOS_PER_BYTE_MAX: u64 = 2_000;

/// Work that its session with the flooder made a machine do.
#[derive(Debug, Default)]
struct Toll {
    node: Option<NodeId>,
    effort: Effort,
    heap_before: i64,
    heap: i64,
    bytes: u64,
    busy: Duration,
    /// It is flooded by way of an honest client.
    by_way: bool,
    /// Leases that were filled for the flooder.
    filled: u64,
}

/// Runs the flood of a seed; the text says in a line for each machine what it came to.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let index = usize::try_from(seed % FLOODS.len() as u64).unwrap_or_default();
    let attack = FLOODS.get(index).expect("a remainder");
    let mut world = setup(seed, attack, true, Record::Last(40)).timed().build();
    let mut tolls = Vec::new();
    let mut failure = guarded(|| flooded(&mut world, attack, &mut tolls));
    let at = world.at();
    let (flood, said) =
        world.seen(attack.actor.node()).map(|seen| (seen.flood.clone(), seen.said)).unwrap_or_default();
    let mut text = match flood {
        Some((flood, _)) => format!("{seed:>6}: {said:>7} said; {flood}\n"),
        None => format!("{seed:>6}: no flood\n"),
    };
    for toll in &tolls {
        writeln!(text, "        {toll}").expect("a string takes everything");
    }
    if failure.is_none() {
        let bystander = world.trace().session_hash(BYSTANDER);
        failure = guarded(|| world.finish());
        failure = failure.or_else(|| guarded(|| contained(seed, attack, at, &bystander)));
    }
    if failure.is_some() {
        text.push_str(&world.trace().text());
    }
    Outcome {
        seed,
        hash: world.trace().hash(),
        datagrams: world.trace().datagrams(),
        delivered: world.delivered(),
        time: at,
        marks: world.trace().marks().map(|(name, count)| (name.to_owned(), count)).collect(),
        failure,
        text,
        ..Outcome::default()
    }
}

/// Runs a flood to its end, and checks what it came to.
fn flooded(world: &mut World, attack: &Attack, tolls: &mut Vec<Toll>) {
    let node = attack.actor.node();
    world.run_until(LIMIT, |world| {
        let begun = world.seen(node).is_some_and(|seen| seen.flood.is_some());
        if begun && tolls.is_empty() {
            tolls.extend(targets(world, attack).into_iter().map(|node| Toll::begin(world, node)));
        }
        begun || world.at() > START_MAX
    });
    if tolls.is_empty() {
        world.run_until(LIMIT, |world| is_whole(world, BYSTANDER));
        return; // it found no lease to begin with
    }
    let begun = world.at();
    world.run_until(LIMIT, |world| {
        tolls.iter_mut().for_each(|toll| toll.look(world));
        world.at() >= begun + LENGTH + AFTERMATH && is_whole(world, BYSTANDER)
    });
    let took = world.at();
    tolls.iter_mut().for_each(|toll| toll.end(world, node));
    let internal = world.trace().marks().find(|(mark, _)| mark.contains("INTERNAL"));
    assert_eq!(internal, None, "15: somebody said INTERNAL");
    tolls.iter().for_each(|toll| toll.check(took));
}

/// The machines that have to bear it.
fn targets(world: &World, attack: &Attack) -> Vec<NodeId> {
    let first = world.seen(attack.actor.node()).and_then(|seen| Some(seen.flood.as_ref()?.1));
    let by_way = (attack.actor == Actor::Primary).then_some(NodeId::secondary(1));
    let honest = [NodeId::PRIMARY, OTHER_PRIMARY, NodeId::secondary(1), NodeId::secondary(2), VICTIM];
    let honest = honest.into_iter().filter(|node| *node != EVIL_SECONDARY);
    honest.filter(|node| Some(*node) == first || Some(*node) == by_way).collect()
}

impl Toll {
    fn begin(world: &World, node: NodeId) -> Self {
        let (bytes, busy) = world.load(node);
        let heap = world.heap(node);
        Self { node: Some(node), heap_before: heap, heap, bytes, busy, ..Self::default() }
    }

    /// Looks how much is held at the moment.
    fn look(&mut self, world: &World) {
        let Some(node) = self.node else {
            return;
        };
        self.heap = self.heap.max(world.heap(node));
    }

    fn end(&mut self, world: &World, flooder: NodeId) {
        let Some(node) = self.node else {
            return;
        };
        let (bytes, busy) = world.load(node);
        (self.bytes, self.busy) = (bytes - self.bytes, busy - self.busy);
        self.effort = world.effort(node, VICTIM).expect("the flooder has a session there");
        self.by_way = !node.is_client() && !flooder.is_client();
        self.filled = world.seen(flooder).map(|seen| seen.filled).unwrap_or_default();
    }

    /// Holds it against the bounds. Each connection begins with a burst, and the time counts from the beginning of the world.
    fn check(&self, time: Duration) {
        let node = self.node.expect("it has begun");
        let seconds = time.as_secs() + 1;
        let Effort { frames_in, frames_out, actions, verifications, events_max, .. } = self.effort;
        let connections = if node.is_client() { 4 } else { 1 };
        // Leases that are asked for and filled are no flood: each pays for more, whatever its length.
        let frames = (limits::CONTROL_BURST + limits::CONTROL_RATE * seconds) * connections
            + PAID
            + PAID_PER_LEASE * self.leases(seconds);
        let forged = limits::FORGED_JOBS_BURST + limits::FORGED_JOBS_PER_MINUTE * seconds / 60 + 1;
        let relayed = limits::FORGED_RELAYS_BURST + limits::FORGED_RELAYS_PER_SECOND * seconds;
        let signatures = GENUINE + forged + relayed;
        assert!(frames_in <= frames, "17: {node} took {frames_in} frames, {frames} at most");
        assert!(
            frames_out <= frames,
            "17: {node} sent {frames_out} frames for {frames_in}, {frames} at most"
        );
        assert!(
            actions <= frames * ACTIONS_PER_FRAME,
            "17: {node} did {actions} things for {frames_in} frames"
        );
        assert!(verifications <= signatures, "17: {node} verified {verifications}, {signatures} at most");
        assert!(events_max <= EVENTS_MAX, "17: {events_max} events waited at {node}");
        let grown = self.heap - self.heap_before;
        let answers = if node.is_client() { i64::try_from(ANSWERS_MAX).unwrap_or(i64::MAX) } else { 0 };
        assert!(grown <= HEAP_MAX + answers, "6: {node} held {grown} bytes more than before");
        let nanos = self.nanos_per_byte();
        assert!(nanos <= NANOS_PER_BYTE_MAX, "17: a byte cost {node} {nanos} ns");
    }

    /// Leases that pay: those that were filled, and for a server that is flooded by way of a client those that the client
    /// takes to it, whatever comes of them.
    fn leases(&self, seconds: u64) -> u64 {
        if self.by_way {
            limits::ERRANDS_BURST + limits::ERRANDS_RATE * seconds + ERRANDS_PER_LEASE * self.filled
        } else {
            self.filled
        }
    }

    fn nanos_per_byte(&self) -> u64 {
        u64::try_from(self.busy.as_nanos() / u128::from(self.bytes.max(1))).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for Toll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Effort { frames_in, frames_out, actions, verifications, events_max, .. } = self.effort;
        let node = self.node.map(|node| node.to_string()).unwrap_or_default();
        write!(
            f,
            "{node:<11} {frames_in:>6} frames in, {frames_out:>5} out, {actions:>6} actions, {verifications:>3} verified, {events_max:>4} events at once, {:>5} KiB more, {} leases filled, {:>8} bytes at {} ns",
            (self.heap - self.heap_before) / 1024,
            self.filled,
            self.bytes,
            self.nanos_per_byte(),
        )
    }
}
