//! Every attack of the simulator's table, and what attacks have brought to light.

use std::collections::BTreeMap;

use kwik_tests::sim::{
    Record,
    evil::{self, ATTACKS, Actor, Kind},
};

fn try_out(actor: Actor, kind: Kind, seeds: std::ops::Range<u64>) {
    let attack = evil::find(actor, kind);
    let mut carried_out = 0;
    for seed in seeds {
        let outcome = evil::try_out(attack, seed, Record::Nothing);
        assert_eq!(outcome.failure, None, "seed {seed}");
        carried_out += u64::from(outcome.marks.keys().any(|mark| mark.starts_with("attack carried out")));
    }
    assert!(carried_out > 0, "{} never came off", attack.name());
}

/// Each attack meets its code, the honest rest goes on, and the bystander's session is to the nanosecond what it is
/// without the attack.
#[test]
fn every_attack_costs_only_the_attacker() {
    let seeds = ATTACKS.len() as u64;
    let mut marks = BTreeMap::new();
    for seed in 0..seeds {
        let outcome = evil::play(seed, Record::Nothing);
        assert_eq!(outcome.failure, None, "--profile evil --seeds 1 --from {seed}");
        for (mark, count) in outcome.marks {
            *marks.entry(mark).or_insert(0) += count;
        }
    }
    // Some need a moment that not every world has; none may have had none.
    for attack in ATTACKS {
        let name = attack.name();
        let came_off = |seed: &u64| {
            let outcome = evil::try_out(attack, *seed, Record::Nothing);
            assert_eq!(outcome.failure, None, "seed {seed}");
            outcome.marks.contains_key(&format!("attack carried out: {name}"))
        };
        let seen = marks.contains_key(&format!("attack carried out: {name}"));
        assert!(seen || (seeds..seeds + 10).any(|seed| came_off(&seed)), "{name} never came off");
    }
}

/// `SECURITY.md` leaves no attack out, and has the row of each.
#[test]
fn every_attack_is_in_the_table_for_readers() {
    let table = include_str!("../../SECURITY.md");
    for attack in ATTACKS {
        let kind = format!("{:?}", attack.kind);
        for row in attack.rows.split(", ") {
            let has = |line: &&str| {
                let rows = line.split('|').nth(1).unwrap_or_default();
                rows.split(',').any(|known| known.trim() == row) && line.contains(&kind)
            };
            assert!(table.lines().any(|line| has(&line)), "row {row}: {kind}");
        }
    }
}

/// The same attack, the same world, byte for byte.
#[test]
fn attacks_are_deterministic() {
    for seed in [3, 40, 80] {
        let hashes = [(); 2].map(|()| evil::play(seed, Record::Nothing).hash);
        assert_eq!(hashes[0], hashes[1]);
    }
}

/// A client that ended its session for the primary's fault closed its secondaries with the code of that fault, as if
/// they, or it, had broken the rule.
#[test]
fn a_primarys_fault_is_not_held_against_its_secondaries() {
    try_out(Actor::Primary, Kind::EmptyLease, 0..2);
}

/// Frames behind the one that ended the session were acted on: the client dialled a path that nobody closed.
#[test]
fn nothing_is_dialled_after_the_session_has_ended() {
    try_out(Actor::Primary, Kind::WrongVersion, 0..2);
}

/// Job ids that fall passed the client, and the secondary blamed the client for them.
#[test]
fn falling_job_ids_are_the_primarys_fault() {
    try_out(Actor::Primary, Kind::JobIdFalls, 0..2);
}

/// Unknown frames to be skipped cost no budget: a peer could keep its reader busy with nothing.
#[test]
fn frames_to_be_skipped_are_budgeted_like_others() {
    for actor in [Actor::Secondary, Actor::Primary, Actor::Client] {
        try_out(actor, Kind::ControlFlood, 0..4);
    }
}

/// A secondary that closed with `INTERNAL` was reported to the primary as if KWIK had broken.
#[test]
fn a_secondary_cannot_say_that_we_broke() {
    try_out(Actor::Secondary, Kind::RudeClose, 0..6);
}

/// A stream in as many pieces as may be counted one more, itself.
#[test]
fn a_stream_in_pieces_is_refused_at_its_cap_and_no_later() {
    try_out(Actor::Primary, Kind::ManyExtents, 0..2);
}
