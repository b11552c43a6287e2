//! Worlds with an attack in them: what is drawn, how they run, and what must come of them.
//!
//! Each seed runs twice: as the attack has it, and with the attacker keeping to the rules. The bystander's session must
//! be the same in both, decision for decision and to the nanosecond, on every machine it touches.

use std::{collections::BTreeMap, time::Duration};

use kwik_core::{Dir, ErrorCode, PathId, PathState, TransportConfig};

use super::{
    ATTACKS, Actor, Attack, BYSTANDER, Casting, EVIL_SECONDARY, Expect, FORBIDDEN_DIALS, Kind, OTHER_PRIMARY,
    Seen, VICTIM, secondary::SESSION_WINDOW,
};
use crate::sim::{
    ClientPlan, Ending, NodeId, Offer, PrimaryPlan, Reading, Record, Setup, World,
    dice::Dice,
    swarm::{self, Outcome},
};

const MS: Duration = Duration::from_millis(1);
const MIB: u64 = 1024 * 1024;

/// The path of the secondary that attacks: the third that is added.
const EVIL_PATH: PathId = PathId::new(3);
/// Longest time that a world may take.
pub(super) const LIMIT: Duration = Duration::from_secs(240);
/// Time that the world goes on once everything has happened: what must not happen has its chance.
pub(super) const AFTERMATH: Duration = Duration::from_secs(2);

/// Returns the attack of a seed: one after another, so that as many seeds as attacks see them all.
#[must_use]
pub fn attack_of(seed: u64) -> &'static Attack {
    let index = usize::try_from(seed % ATTACKS.len() as u64).unwrap_or_default();
    ATTACKS.get(index).expect("a remainder")
}

/// Says which attacks never came off in a series of `seeds`, by its marks.
#[must_use]
pub fn check_coverage(seeds: u64, marks: &BTreeMap<String, u64>) -> Vec<String> {
    let mut gaps = Vec::new();
    let count = |name: &str, what: &str| marks.get(&format!("attack {what}: {name}")).copied().unwrap_or(0);
    for name in ATTACKS.iter().map(Attack::name) {
        let (drawn, done) = (count(&name, "drawn"), count(&name, "carried out"));
        if done == 0 && (drawn > 0 || seeds >= ATTACKS.len() as u64) {
            gaps.push(format!("{name}: drawn {drawn} times, never carried out"));
        }
    }
    gaps
}

/// Runs the worlds of a seed, and once more with text if anything is wrong.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let outcome = play(seed, Record::Nothing);
    if outcome.failure.is_none() { outcome } else { play(seed, Record::Last(200)) }
}

/// Runs the worlds of a seed, keeping as much text as `record` says.
#[must_use]
pub fn play(seed: u64, record: Record) -> Outcome {
    try_out(attack_of(seed), seed, record)
}

/// Returns the attack of that kind by that actor.
#[must_use]
pub fn find(actor: Actor, kind: Kind) -> &'static Attack {
    let found = ATTACKS.iter().find(|attack| attack.actor == actor && attack.kind == kind);
    found.expect("the table has it")
}

/// Runs an attack in the world of a seed, keeping as much text as `record` says.
#[must_use]
pub fn try_out(attack: &'static Attack, seed: u64, record: Record) -> Outcome {
    let mut world = world(seed, attack, true, record);
    let mut failure = swarm::guarded(|| attacked(&mut world, attack));
    let fired = world.seen(attack.actor.node()).is_some_and(Seen::fired);
    let at = world.at();
    let mut outcome = Outcome {
        seed,
        hash: world.trace().hash(),
        datagrams: world.trace().datagrams(),
        delivered: world.delivered(),
        time: at,
        marks: world.trace().marks().map(|(name, count)| (name.to_owned(), count)).collect(),
        ..Outcome::default()
    };
    if failure.is_none() {
        let bystander = world.trace().session_hash(BYSTANDER);
        // One after the other: a thread runs one world at a time.
        failure = swarm::guarded(|| world.finish());
        failure = failure.or_else(|| swarm::guarded(|| contained(seed, attack, at, &bystander)));
    }
    outcome.marks.insert(format!("attack drawn: {}", attack.name()), 1);
    if fired && failure.is_none() {
        outcome.marks.insert(format!("attack carried out: {}", attack.name()), 1);
        let seen = match attack.expect.code() {
            Some(code) => format!("seen: {code} at a {:?}", attack.actor),
            None => format!("seen: {:?} at a {:?}", attack.expect, attack.actor),
        };
        outcome.marks.insert(seen, 1);
        let session = matches!(attack.expect, Expect::Session(_));
        if session && world.seen(attack.actor.node()).is_some_and(is_untold) {
            outcome
                .marks
                .insert("the attacker was not told the code: QUIC's close was blocked".to_owned(), 1);
        }
    }
    if failure.is_some() || record != Record::Nothing {
        outcome.options = format!("seed {seed}: {}, expecting {:?}", attack.name(), attack.expect);
        outcome.text = world.trace().text();
    }
    outcome.failure = failure.map(|text| format!("{}: {text}", attack.name()));
    outcome
}

/// Draws the world of a seed, for an attack or for the same machines keeping to the rules.
#[must_use]
pub fn world(seed: u64, attack: &'static Attack, armed: bool, record: Record) -> World {
    setup(seed, attack, armed, record).build()
}

/// Draws what that world is like.
pub(super) fn setup(seed: u64, attack: &'static Attack, armed: bool, record: Record) -> Setup {
    let mut d = Dice::new(seed, "kwik sim: evil options");
    let credit = attack.kind == Kind::PastCredit;
    // An unordered reader gives runs credit by amount, wherever they are.
    let by_offset = credit || attack.kind == Kind::FarRun;
    let (stream_window, session_window) =
        d.pick(&[(256 * 1024, MIB), (MIB, 4 * MIB), (4 * MIB, 64 * MIB), (4 * MIB, 64 * MIB)]);
    let (stream_window, session_window) =
        if credit { (64 * 1024, SESSION_WINDOW) } else { (stream_window, session_window) };
    // Small, so that what is left unread is held back early.
    let mut transport = TransportConfig::default();
    transport.stream_receive_window((64u32 * 1024).into());
    // Sessions outlive what is done in them.
    let client = transport
        .clone()
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .clone()
        .stream_window(stream_window)
        .session_window(session_window);
    let size = if credit { 2 * MIB } else { d.between(300_000, 1_000_000) };
    let offer = Offer {
        // Everybody is attached by then.
        at: 500 * MS,
        // A script takes what a header announces.
        dir: if attack.actor == Actor::Client { Dir::Uni } else { d.pick(&[Dir::Bi, Dir::Uni]) },
        size,
        head: if d.chance(500) { 0 } else { d.below(20_000) },
        range: if credit { 256 * 1024 } else { size / d.between(8, 20) },
        even: false,
        depth: if credit { 4 } else { usize::try_from(d.between(1, 4)).unwrap_or(1) },
        verified: if attack.kind == Kind::Lie { 1000 } else { 0 },
        meddle: 0,
        hedge: attack.kind == Kind::Trickle,
        retries: 0,
        waver: 0,
        own: d.pick(&[0, 0, 200]),
        tail: d.pick(&[0, 0, 5000]),
        ending: d.pick(&[Ending::Finish, Ending::FinishEarly]),
        reading: None,
        distributed: None,
        naive: None,
    };
    let ordered = by_offset || d.chance(700);
    // Long enough for a client's attack to fall into it: nothing that happens to an idle session is a proof.
    let pace = (attack.actor == Actor::Client).then(|| (size / 40 + 1, 50 * MS));
    let reading = Reading { ordered, pace, ..Reading::default() };
    let servers = match attack.actor {
        Actor::Secondary => 3,
        Actor::Client | Actor::Primary => 2,
    };
    let plan = PrimaryPlan {
        adds: (1..=servers).map(|n| (Duration::ZERO, NodeId::secondary(n))).collect(),
        offers: vec![offer],
        ..PrimaryPlan::default()
    };
    World::seeded(seed)
        .clients(2)
        .secondaries(3)
        .one_way(Duration::from_micros(d.magnitude(500, 40_000)))
        .client_transport(client)
        .server_transport(transport)
        .client_plan(ClientPlan { readings: vec![reading], ..ClientPlan::default() })
        .primary_plan(plan)
        .evil(Casting::new(attack, armed))
        .record(record)
}

/// Runs an attack to its end and checks what came of it.
fn attacked(world: &mut World, attack: &Attack) {
    let node = attack.actor.node();
    let (mut heap, mut begun) = (0, false);
    world.run_until(LIMIT, |world| {
        if !begun && world.seen(node).is_some_and(Seen::fired) {
            begun = true;
            // A ticket takes a minute to expire.
            let later = attack.actor != Actor::Client || attack.kind == Kind::ExpiredTicket;
            let busy = later || !is_whole(world, BYSTANDER);
            assert!(busy, "11: the bystander was idle when the attack began");
        }
        let honest = [BYSTANDER, VICTIM, NodeId::PRIMARY, OTHER_PRIMARY, NodeId::secondary(1)];
        heap = honest.iter().filter(|at| **at != node).map(|at| world.heap(*at)).fold(heap, i64::max);
        // One that never got its chance has nothing to show for it.
        let never = !world.seen(node).is_some_and(Seen::fired) && world.at() > LIMIT / 2;
        let late = world.at() >= LIMIT - AFTERMATH;
        assert!(!late, "11: {:?} was not seen, but {:?}", attack.expect, world.seen(node));
        is_whole(world, BYSTANDER) && (never || (goes_on(world, attack) && is_met(world, attack)))
    });
    world.run_for(AFTERMATH);
    assert!(heap < HEAP_MAX, "6: an honest machine held {heap} bytes");
    let internal = world.trace().marks().find(|(mark, _)| mark.contains("INTERNAL"));
    assert_eq!(internal, None, "15: somebody said INTERNAL");
    let seen = world.seen(node).expect("the attacker is there").clone();
    if !seen.fired() {
        return;
    }
    assert!(is_met(world, attack), "11: {:?} was not seen, but {seen:?}", attack.expect);
    if attack.expect.survives() && attack.kind != Kind::FallSilent {
        let closes = seen.closes.iter().filter(|(peer, _)| world.oracle().is_honest(*peer)).count();
        assert_eq!(closes, 0, "11: closed, and should not have been: {seen:?}");
        if attack.actor == Actor::Secondary {
            let path = world.oracle().path_state(VICTIM, 0, EVIL_PATH);
            assert_eq!(path, Some(PathState::Active), "11: the path should live");
        }
    }
    if attack.kind == Kind::SilentDials {
        let silent = world.seen(EVIL_SECONDARY).expect("it is there");
        // Three datagrams a dial, and no more dials than there may be paths.
        assert!(silent.datagrams <= 8 * 4 && silent.bytes <= 8 * 4 * 1500, "9: {silent:?}");
    }
}

/// The most heap an honest machine of these worlds may hold: what QUIC's windows permit its peers, and change.
const HEAP_MAX: i64 = 12 * 1024 * 1024;

pub(super) fn is_whole(world: &World, client: NodeId) -> bool {
    world.oracle().whole(client) == 1
}

/// Returns whether the honest rest has done what it can be asked.
fn goes_on(world: &World, attack: &Attack) -> bool {
    match attack.actor {
        Actor::Secondary => is_whole(world, VICTIM),
        Actor::Primary => !attack.expect.survives() || is_whole(world, VICTIM),
        Actor::Client => true,
    }
}

/// Returns whether what must come of an attack has been seen where it must be seen.
fn is_met(world: &mut World, attack: &Attack) -> bool {
    let node = attack.actor.node();
    let count = |world: &World, mark: String| world.trace().marks().any(|(name, _)| name == mark);
    let dead = |world: &World, code: ErrorCode| {
        world.oracle().path_state(VICTIM, 0, EVIL_PATH) == Some(PathState::Dead(code))
    };
    if attack.expect == Expect::Conflict {
        let sources = world.call(VICTIM, |session, _| session.stats().sources);
        return sources.is_some_and(|sources| sources.values().any(|source| source.conflicts > 0));
    }
    let Some(seen) = world.seen(node).filter(|seen| seen.fired()) else {
        return false;
    };
    let told = |code: ErrorCode| seen.closes.iter().any(|(_, told)| *told == Some(code.into_inner()));
    match attack.expect {
        Expect::Conflict | Expect::Dropped => true,
        Expect::HeldBack => seen.held_back,
        Expect::LeaseLost(code) => count(world, format!("lease lost: {code}")),
        Expect::Path(code) => told(code) && dead(world, code),
        Expect::PathUntold(code) => dead(world, code),
        Expect::Refused(code) => {
            let count = if attack.kind == Kind::ForbiddenDial { FORBIDDEN_DIALS } else { 1 };
            seen.refusals.iter().filter(|refusal| **refusal == code.into_inner()).count() >= count
        }
        Expect::Session(code) => (told(code) || is_untold(seen)) && count(world, format!("closed: {code}")),
        Expect::Stopped(code) => seen.stops.contains(&code.into_inner()),
    }
}

/// Returns whether the attacker learnt of its end without the code: quinn-proto 0.11.19 holds a close back while data
/// waits and the congestion window is full, and a closed connection takes no acknowledgements that could open it. What
/// is left is a stateless reset, or time. The code is seen where it was made all the same.
fn is_untold(seen: &Seen) -> bool {
    seen.closes.iter().any(|(_, told)| told.is_none())
}

/// Runs the same world with the attacker keeping to the rules: the bystander must not see a difference.
pub(super) fn contained(seed: u64, attack: &'static Attack, at: Duration, bystander: &str) {
    let mut calm = world(seed, attack, false, Record::Nothing);
    calm.run_for(at);
    assert!(is_whole(&calm, BYSTANDER), "11: the bystander has not got everything in the calm world");
    let same = calm.trace().session_hash(BYSTANDER) == bystander;
    assert!(same, "11: the bystander's session is another than in the calm world");
    // The script must know how to keep to the rules, or the bystander's calm proves nothing.
    let served = |world: &mut World| match attack.actor {
        Actor::Client => world.seen(VICTIM).is_some_and(|seen| seen.served),
        Actor::Primary | Actor::Secondary => is_whole(world, VICTIM),
    };
    calm.run_until(LIMIT, served);
}
