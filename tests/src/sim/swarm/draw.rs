//! Draws of the swarm's worlds from their dice: each subset of faults, each strength.

use std::time::Duration;

use kwik_core::{Dir, TransportConfig};

use super::{MS, SECOND};
use crate::sim::{
    Bursts, ClientPlan, Conditions, Ending, Fault, Forgery, Marking, NodeId, Offer, OpenPlan, PrimaryPlan,
    Reading, SecondaryPlan, Talk, WriterEnd, app::CRAWL_MAX, dice::Dice,
};

const FORGERIES: [Forgery; 4] = [Forgery::Versions, Forgery::StrangeVersions, Forgery::Retry, Forgery::Reset];

pub(super) fn conditions(d: &mut Dice) -> Conditions {
    let delay = Duration::from_micros(d.magnitude(100, 300_000));
    let mut c = Conditions::delay(delay);
    if d.chance(500) {
        c.jitter = d.time(Duration::ZERO, delay);
    }
    if d.chance(500) {
        c.loss = u16::try_from(d.magnitude(1, 250)).unwrap_or(0);
    }
    if d.chance(200) {
        c.bursts = Some(Bursts {
            start: u16::try_from(d.magnitude(1, 30)).unwrap_or(1),
            length: u16::try_from(d.magnitude(1, 40)).unwrap_or(1),
        });
    }
    if d.chance(250) {
        c.duplicate = u16::try_from(d.magnitude(1, 400)).unwrap_or(0);
    }
    if d.chance(250) {
        c.reorder = u16::try_from(d.magnitude(1, 300)).unwrap_or(0);
    }
    if d.chance(150) {
        c.corrupt = u16::try_from(d.magnitude(1, 50)).unwrap_or(0);
    }
    if d.chance(100) {
        c.truncate = u16::try_from(d.magnitude(1, 30)).unwrap_or(0);
    }
    if d.chance(100) {
        c.replay = u16::try_from(d.magnitude(1, 50)).unwrap_or(0);
    }
    if d.chance(500) {
        c.rate = Some(d.magnitude(64_000, 1_000_000_000));
        c.queue = d.time(5 * MS, 2 * SECOND);
    }
    if d.chance(150) {
        c.mtu = usize::try_from(d.pick(&[1200, 1280, 1400])).unwrap_or(1280);
    }
    c.ecn = d.pick(&[Marking::Keep, Marking::Keep, Marking::Mark, Marking::Bleach]);
    c
}

pub(super) fn primary(
    d: &mut Dice,
    secondaries: u16,
    heal_at: Duration,
    never: bool,
    many: bool,
) -> PrimaryPlan {
    let mut adds: Vec<(Duration, NodeId)> = Vec::new();
    let mut removes = Vec::new();
    for number in 1..=secondaries {
        let node = NodeId::secondary(number);
        let late = d.chance(300);
        adds.push((if late { d.time(Duration::ZERO, heal_at) } else { Duration::ZERO }, node));
        if d.chance(100) {
            removes.push((d.time(Duration::ZERO, heal_at), node));
            if d.chance(500) {
                adds.push((d.time(Duration::ZERO, heal_at), node));
            }
        }
    }
    let crawler = (secondaries > 0 && d.chance(50)).then(|| NodeId::secondary(1));
    let count = if many { MANY } else { d.pick(&[0, 1, 1, 1, 1, 2, 3, 10]) };
    let mut offers = Vec::new();
    for _ in 0..count {
        let size = if d.chance(100) { d.below(3) } else { d.magnitude(1, 1_500_000) };
        let size = match count {
            MANY => size % 1000,
            4.. => size / 8,
            _ => size,
        };
        let head = match d.below(4) {
            0 => 0,
            1 => size, // a native stream
            _ => d.below(size.min(20_000) + 1),
        };
        let ending = match d.below(10) {
            0 => Ending::Reset(d.below(size + 1)),
            1..=3 => Ending::FinishEarly,
            _ => Ending::Finish,
        };
        offers.push(Offer {
            at: if d.chance(500) { Duration::ZERO } else { d.time(Duration::ZERO, heal_at) },
            dir: d.pick(&[Dir::Bi, Dir::Uni]),
            size,
            head,
            range: d.magnitude(500, 500_000),
            even: false,
            depth: usize::try_from(d.between(1, 6)).unwrap_or(1),
            // Where one gets nowhere, others have to do it.
            own: match d.pick(&[0, 0, 100, 500]) {
                _ if crawler.is_some() => 500,
                own => own,
            },
            waver: u16::try_from(d.pick(&[0, 0, 200])).unwrap_or(0),
            verified: u16::try_from(d.pick(&[0, 0, 0, 100, 500])).unwrap_or(0),
            meddle: u16::try_from(d.pick(&[0, 0, 100, 400])).unwrap_or(0),
            hedge: d.chance(600),
            retries: 0,
            tail: if d.chance(300) { d.below(size.saturating_sub(head).min(50_000) + 1) } else { 0 },
            ending,
            reading: None,
            distributed: None,
            naive: None,
        });
    }
    PrimaryPlan {
        adds,
        removes,
        offers,
        readings: vec![reading(d, heal_at, never)],
        answer: None,
        crawler,
        talk: Talk::default(),
    }
}

fn reading(d: &mut Dice, heal_at: Duration, never: bool) -> Reading {
    Reading {
        ordered: d.chance(600),
        max_len: usize::try_from(if d.chance(600) { u64::MAX } else { d.magnitude(1, 1 << 20) })
            .unwrap_or(usize::MAX),
        pace: d.chance(250).then(|| (d.magnitude(1000, 200_000), d.time(MS, 100 * MS))),
        stop_after: d.chance(80).then(|| d.below(500_000)),
        start_at: if d.chance(150) { d.time(Duration::ZERO, heal_at) } else { Duration::ZERO },
        never: never && d.chance(400),
    }
}

pub(super) fn client(d: &mut Dice, heal_at: Duration, never: bool, many: bool) -> ClientPlan {
    let readings = (0..3).map(|_| reading(d, heal_at, never)).collect();
    let count = if many { MANY } else { d.pick(&[0, 0, 1, 2, 5, 40]) };
    let mut opens = Vec::new();
    for _ in 0..count {
        let size = d.magnitude(1, 200_000);
        opens.push(OpenPlan {
            at: d.time(Duration::ZERO, heal_at),
            dir: d.pick(&[Dir::Bi, Dir::Uni]),
            size: match count {
                MANY => size % 1000,
                11.. => size / 10,
                _ => size,
            },
            // Slivers, but not so many that the heap is theirs: QUIC keeps each as it was handed over.
            chunk: d.magnitude(1, 100_000).max(size / 100),
            end: d.pick(&[WriterEnd::Finish, WriterEnd::Finish, WriterEnd::Finish, WriterEnd::Reset]),
        });
    }
    let close_at = d.chance(100).then(|| d.time(Duration::ZERO, heal_at));
    ClientPlan { readings, opens, close_at }
}

pub(super) fn secondary(d: &mut Dice) -> SecondaryPlan {
    SecondaryPlan {
        chunk: d.magnitude(100, 200_000),
        concurrent: usize::try_from(d.pick(&[1, 2, 4, 1000])).unwrap_or(1),
        pace: d.chance(250).then(|| (d.magnitude(1000, 100_000), d.time(MS, 300 * MS))),
        refuse: u16::try_from(d.pick(&[0, 0, 0, 100])).unwrap_or(0),
        give_up: u16::try_from(d.pick(&[0, 0, 0, 100])).unwrap_or(0),
    }
}

/// Streams at once, where there are very many.
const MANY: u64 = 1000;

/// Draws a client's strategies against conflicts and faults, from dice of their own; honest machines need none.
pub(super) fn strategies(d: &mut Dice, transport: TransportConfig) -> TransportConfig {
    use kwik_core::{AggregationFaults, ConflictPolicy, MappingFaults, MetadataFaults};
    let policies = [
        ConflictPolicy::FirstWins,
        ConflictPolicy::LastWins,
        ConflictPolicy::PrimaryWins,
        ConflictPolicy::Reject,
    ];
    let wrong_bytes = [AggregationFaults::ReLease, AggregationFaults::Ignore, AggregationFaults::Isolate];
    transport
        .conflict_policy(d.pick(&policies))
        .mapping_faults(d.pick(&[MappingFaults::Isolate, MappingFaults::Refuse, MappingFaults::Retry]))
        .aggregation_faults(d.pick(&wrong_bytes))
        .metadata_faults(d.pick(&[MetadataFaults::Isolate, MetadataFaults::StopStream]))
        .fault_score_max(u32::try_from(d.between(1, 20)).unwrap_or(1))
}

/// Draws the messages between servers, in some worlds: from dice of their own, so that they move nothing else.
pub(super) fn talk(d: &mut Dice) -> Talk {
    if !d.chance(250) {
        return Talk::default();
    }
    let longest = d.pick(&[16, 1200, 20_000, 64 * 1024]);
    let messages = u32::try_from(d.magnitude(1, 200)).unwrap_or(1).min((1 << 18) / longest + 1);
    Talk { messages, longest }
}

/// Number of times that one range may go to whoever gets nowhere, as half of the ranges do: more than anybody will see.
const CRAWLS: u32 = 20;

/// Longest time that everything may take once all is well.
#[must_use]
pub fn patience(
    primary: &PrimaryPlan,
    client: &ClientPlan,
    secondary: &SecondaryPlan,
    conditions: &Conditions,
    late: Duration,
) -> Duration {
    let offered: u64 = primary.offers.iter().map(|offer| offer.size).sum();
    let opened: u64 = client.opens.iter().map(|open| open.size + 20_000).sum();
    let paths = primary.adds.len().max(8) as u64;
    let said = u64::from(primary.talk.messages) * u64::from(primary.talk.longest) * paths;
    let bytes = (offered + opened + said * 2 + 100_000) * 3;
    let by_rate = |rate: u64| Duration::from_secs_f64(bytes as f64 * 8.0 / rate.max(1) as f64);
    let network = conditions.rate.map_or(Duration::ZERO, by_rate) * 2;
    let pace = |pace: Option<(u64, Duration)>| {
        pace.map_or(Duration::ZERO, |(size, pause)| {
            pause * u32::try_from(bytes / size.max(1) + 1).unwrap_or(u32::MAX)
        })
    };
    let readers = client.readings.iter().chain(&primary.readings).map(|reading| pace(reading.pace)).max();
    let rtt = conditions.delay * 2 + conditions.jitter * 2;
    // A window per round trip at worst: the smallest guarantees 64 KiB.
    let windows = rtt * u32::try_from(bytes / (32 * 1024) + 50).unwrap_or(u32::MAX);
    // Small ranges, a few at once: each costs three trips, or more if datagrams are lost, and a run is over only when it
    // is acknowledged, which its peer may put off until a timer that may fire late, at both ends.
    let ranges =
        primary.offers.iter().map(|offer| offer.size * 2 / offer.range / offer.depth as u64).sum::<u64>();
    // What goes to the same path again by itself waits 50 ms first, then twice as long each time: so long it is nobody else's.
    let retries = primary.offers.iter().map(|offer| offer.retries).max().unwrap_or_default();
    let pauses = 50 * MS * (2_u32.pow(retries) - 1);
    // Whoever gets nowhere may be given the same range again and again, and each time all of these retries.
    let crawls = primary.crawler.map_or(Duration::ZERO, |_| (CRAWL_MAX * (retries + 1) + pauses) * CRAWLS);
    let each = rtt * 4 + 30 * MS + late * 2 + pauses + crawls;
    let windows = windows + each * u32::try_from(ranges + 1).unwrap_or(u32::MAX);
    network + readers.unwrap_or_default() + pace(secondary.pace) + windows + 10 * SECOND
}

pub(super) fn faults(
    d: &mut Dice,
    clients: u16,
    secondaries: u16,
    conditions: &Conditions,
    heal_at: Duration,
) -> Vec<(Duration, Fault)> {
    let mut nodes = vec![NodeId::PRIMARY];
    nodes.extend((1..=secondaries).map(NodeId::secondary));
    let servers = nodes.clone();
    nodes.extend((1..=clients).map(NodeId::client));
    // Which kinds this world knows at all.
    let kinds: Vec<u64> = (0..15).filter(|_| d.chance(350)).collect();
    let mut faults = Vec::new();
    if kinds.is_empty() {
        return faults;
    }
    for _ in 0..d.between(0, 8) {
        let at = d.time(Duration::ZERO, heal_at);
        let until = (at + d.time(MS, 10 * SECOND)).min(heal_at);
        let client = NodeId::client(u16::try_from(d.between(1, clients.into())).unwrap_or(1));
        let server = d.pick(&servers);
        let node = d.pick(&nodes);
        match d.pick(&kinds) {
            0 => {
                // Both directions, or one.
                faults.push((at, Fault::Cut(client, server)));
                faults.push((until, Fault::Join(client, server)));
                if d.chance(600) {
                    faults.push((at, Fault::Cut(server, client)));
                    faults.push((until, Fault::Join(server, client)));
                }
            }
            1 => {
                // Flapping, five seconds on, two off.
                let mut time = at;
                for _ in 0..3 {
                    faults.push((time, Fault::Cut(server, client)));
                    faults.push((time + 2 * SECOND, Fault::Join(server, client)));
                    time += 7 * SECOND;
                }
            }
            2 => faults.push((at, Fault::Hold(server, client, until))),
            3 => {
                let (from, to) = if d.chance(500) { (client, server) } else { (server, client) };
                // The same path, or one around the world.
                let changed = self::conditions(d);
                let delay = if d.chance(500) { conditions.delay } else { changed.delay };
                faults.push((at, Fault::Become(from, to, Conditions { delay, ..changed })));
            }
            4 => faults.push((at, Fault::Pause(node, until))),
            5 => {
                faults.push((at, Fault::Crash(server)));
                if d.chance(500) {
                    faults.push((until, Fault::Restart(server, d.chance(300))));
                }
            }
            6 => faults.push((at, Fault::Rebind(client))),
            7 => {
                let most = if d.chance(100) { 3600 * SECOND } else { 5 * SECOND };
                faults.push((at, Fault::Jump(node, d.time(MS, most))));
            }
            8 => faults.push((at, Fault::Block(node, at + d.time(MS, SECOND)))),
            9 if server == NodeId::PRIMARY || d.chance(500) => faults.push((at, Fault::Close(node))),
            9 => faults.push((at, Fault::Connect(client))),
            10 => faults.push((at, Fault::Wake(node))),
            11 => faults.push((at, Fault::Move(client))),
            12 if clients > 1 => {
                let other = NodeId::client(u16::try_from(d.between(1, clients.into())).unwrap_or(1));
                faults.push((at, Fault::Reuse(client, other)));
            }
            12 | 13 => {
                for _ in 0..d.between(1, 20) {
                    let forgery = d.pick(&FORGERIES);
                    let to_server = d.chance(300);
                    let (to, from) = if to_server { (server, client) } else { (client, server) };
                    faults.push((d.time(at, until), Fault::Forge(to, from, forgery)));
                }
            }
            _ => {
                for _ in 0..d.between(1, 20) {
                    let len = usize::try_from(d.magnitude(1, 1400)).unwrap_or(1);
                    faults.push((d.time(at, until), Fault::Junk(node, d.pick(&nodes), len)));
                }
            }
        }
    }
    // Once all is well it stays so.
    faults.retain(|(at, _)| *at < heal_at);
    faults.sort_by_key(|(at, _)| *at);
    faults
}
