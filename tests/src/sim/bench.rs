//! Goodput of several links together, against what each brings alone; and the cost of a death or a crawl in the middle.
//!
//! Every row is a world: one link for the primary, one for each secondary, each with a rate and a round trip of its own and a
//! queue as long as that. What a link brings alone is measured on a stream that is never split, which is plain QUIC
//! (DESIGN I4), over that link, with the same seed, loss and congestion control.

use std::time::Duration;

use kwik_core::{Session, TransportConfig};

use super::{Distributed, Fault, NodeId, Offer, PrimaryPlan, Reading, World, link::Conditions};

const MS: Duration = Duration::from_millis(1);
/// 100 Mbit/s.
const FULL: u64 = 100_000_000;
/// The window of readers in order.
const WINDOW: u64 = 4 << 20;
/// Time at which the object is sent: all paths are attached by then.
const START: Duration = Duration::from_secs(1);
/// Bytes of a packet of 1,200 that are not a stream's: IP and UDP, short header and tag, and the frame's head.
const PACKET: f64 = 1200.0 + 28.0;
const PAYLOAD: f64 = 1200.0 - 9.0 - 4.0 - 16.0 - 12.0;

/// A way to the client, both directions alike.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "all there is to a link here")]
pub struct Lane {
    /// Bits per second.
    pub rate: u64,
    /// Round trip without queues.
    pub rtt: Duration,
}

impl Lane {
    const fn new(rate: u64, rtt: Duration) -> Self {
        Self { rate, rtt }
    }

    fn conditions(self, loss: u16) -> Conditions {
        Conditions { rate: Some(self.rate), queue: self.rtt, loss, ..Conditions::delay(self.rtt / 2) }
    }
}

/// An event in the middle of a transfer, this long after its start.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// A link passes nothing any more.
    Dies(Duration, usize),
    /// A link's path is removed.
    Removed(Duration, usize),
    /// A link passes a hundredth.
    Crawls(Duration, usize),
    /// A link passes all and a tenth by turns, a second each.
    Oscillates(usize),
}

/// An object that is sent over lanes, the first of which is the primary's.
#[derive(Clone, Debug)]
struct Transfer {
    seed: u64,
    lanes: Vec<Lane>,
    bytes: u64,
    /// Lost datagrams per thousand.
    loss: u16,
    in_order: bool,
    /// It is one stream of QUIC over the first lane.
    plain: bool,
    idle_primary: bool,
    mishap: Option<Mishap>,
}

/// The outcome of a transfer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    time: Duration,
    /// The longest that nothing could be read, from the mishap on.
    stall: Duration,
    /// Bytes that came twice or for nothing, per thousand of the object.
    duplicates: f64,
}

impl Sent {
    fn rate(self, bytes: u64) -> f64 {
        bytes as f64 / self.time.as_secs_f64()
    }
}

impl Transfer {
    fn new(seed: u64, lanes: &[Lane], bytes: u64) -> Self {
        Self {
            seed,
            lanes: lanes.to_vec(),
            bytes,
            loss: 0,
            in_order: false,
            plain: false,
            idle_primary: false,
            mishap: None,
        }
    }

    fn server(index: usize) -> NodeId {
        match u16::try_from(index).expect("few lanes") {
            0 => NodeId::PRIMARY,
            index => NodeId::secondary(index),
        }
    }

    fn world(&self) -> World {
        let secondaries = u16::try_from(self.lanes.len() - 1).expect("few lanes");
        let distributed = Distributed {
            window: self.in_order.then_some(WINDOW),
            digests: false,
            idle_primary: self.idle_primary,
        };
        let offer = Offer {
            at: START,
            size: self.bytes,
            head: if self.plain { self.bytes } else { 0 },
            range: 256 * 1024,
            reading: Some(Reading { ordered: self.in_order || self.plain, ..Reading::default() }),
            distributed: (!self.plain).then_some(distributed),
            ..Offer::default()
        };
        let mut removes = Vec::new();
        if let Some(Mishap::Removed(after, lane)) = self.mishap {
            removes.push((START + after, Self::server(lane)));
        }
        let plan = PrimaryPlan { offers: vec![offer], removes, ..PrimaryPlan::default() };
        let client = TransportConfig::default().stream_window(if self.in_order { WINDOW } else { 32 << 20 });
        let setup = World::seeded(self.seed).secondaries(secondaries).client_transport(client);
        let mut world = setup.primary_plan(plan).build();
        for (index, lane) in self.lanes.iter().enumerate() {
            Self::become_like(&mut world, index, lane.conditions(self.loss));
        }
        world
    }

    fn become_like(world: &mut World, lane: usize, conditions: Conditions) {
        let (server, client) = (Self::server(lane), NodeId::client(1));
        world.apply(Fault::Become(server, client, conditions));
        world.apply(Fault::Become(client, server, conditions));
    }

    fn run(&self) -> Sent {
        let mut world = self.world();
        world.run_for(START);
        let mut due = match self.mishap {
            Some(Mishap::Dies(after, _) | Mishap::Crawls(after, _)) => Some(START + after),
            Some(Mishap::Oscillates(_)) => Some(START),
            Some(Mishap::Removed(after, _)) => Some(START + after),
            None => None,
        };
        let (mut turns, mut delivered, mut last, mut stall) = (0_u32, 0, START, Duration::ZERO);
        let bytes = self.bytes;
        while delivered < bytes {
            assert!(world.at() < Duration::from_secs(600), "{self:?} does not end");
            let until = due;
            world.run_until(Duration::from_secs(600), |world| {
                let (now, at) = (world.delivered(), world.at());
                if now > delivered {
                    if turns > 0 {
                        stall = stall.max(at - last);
                    }
                    (delivered, last) = (now, at);
                }
                now >= bytes || until.is_some_and(|until| at >= until)
            });
            if delivered < bytes {
                due = self.strike(&mut world, turns);
                turns += 1;
            }
        }
        let time = world.at() - START;
        let twice = |session: &mut Session, _| {
            session
                .stats()
                .sources
                .values()
                .map(|source| source.late_bytes + source.overlap_bytes)
                .sum::<u64>()
        };
        let twice = world.call(NodeId::client(1), twice).unwrap_or_default();
        Sent { time, stall, duplicates: 1000.0 * twice as f64 / bytes as f64 }
    }

    /// Has the mishap happen, and returns when the next does.
    fn strike(&self, world: &mut World, turns: u32) -> Option<Duration> {
        match self.mishap? {
            Mishap::Dies(_, lane) => world.cut(Self::server(lane)),
            Mishap::Removed(..) => {}
            Mishap::Crawls(_, lane) => self.slow_down(world, lane, 100),
            Mishap::Oscillates(lane) => {
                self.slow_down(world, lane, if turns.is_multiple_of(2) { 10 } else { 1 });
                return Some(world.at() + Duration::from_secs(1));
            }
        }
        None
    }

    fn slow_down(&self, world: &mut World, lane: usize, times: u64) {
        let Some(of) = self.lanes.get(lane) else {
            return;
        };
        let conditions = Conditions { rate: Some(of.rate / times), ..of.conditions(self.loss) };
        Self::become_like(world, lane, conditions);
    }
}

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what the command line sets")]
pub struct Scale {
    /// Seconds of the summed rate that an object is long.
    pub seconds: u64,
    /// Worlds in which a link dies.
    pub deaths: u64,
    /// The seed of all other worlds: one world says little where datagrams are lost.
    pub seed: u64,
}

/// One row: links, and how long the object is; the small one is 4 MiB.
fn rows() -> Vec<(&'static str, Vec<Lane>)> {
    let full = Lane::new(FULL, 20 * MS);
    let last = |lane| vec![full, full, lane];
    vec![
        ("equal3", vec![full; 3]),
        ("rate3to1", last(Lane::new(FULL / 3, 20 * MS))),
        ("rate10to1", last(Lane::new(FULL / 10, 20 * MS))),
        ("rtt1to10", last(Lane::new(FULL, 200 * MS))),
        ("eight", vec![full; 8]),
        ("small", vec![full; 3]),
    ]
}

/// Runs one row of the names that [`names`] lists and returns what it shows, for each loss.
#[must_use]
pub fn row(name: &str, scale: Scale) -> Vec<serde_json::Value> {
    let Some((name, lanes)) = rows().into_iter().find(|(row, _)| *row == name) else {
        return Vec::new();
    };
    let rates: u64 = lanes.iter().map(|lane| lane.rate / 8).sum();
    let small = name == "small";
    let bytes = if small { 4 << 20 } else { rates * scale.seconds };
    let measured = |loss| {
        let transfer = Transfer { loss, ..Transfer::new(scale.seed, &lanes, bytes) };
        // Each link alone brings its part of the object, so that all take as long.
        let alone = |lane: &Lane| {
            let bytes = u64::try_from(u128::from(bytes) * u128::from(lane.rate / 8) / u128::from(rates));
            let bytes = bytes.expect("a part");
            let plain = Transfer { loss, plain: true, ..Transfer::new(scale.seed, &[*lane], bytes) };
            plain.run().rate(plain.bytes)
        };
        let alone: Vec<f64> = lanes.iter().map(alone).collect();
        let (sum, best) = (alone.iter().sum::<f64>(), alone.iter().copied().fold(0.0, f64::max));
        let all = transfer.run();
        let in_order = Transfer { in_order: true, ..transfer }.run();
        let wire = rates as f64 * PAYLOAD / PACKET;
        serde_json::json!({
            "name": name,
            "loss_pct": f64::from(loss) / 10.0,
            "goodput_pct": percent(all.rate(bytes) / sum),
            "in_order_pct": percent(in_order.rate(bytes) / sum),
            "wire_pct": percent(all.rate(bytes) / wire),
            "vs_best_single": (all.rate(bytes) / best * 100.0).round() / 100.0,
            "duplicate_pct": percent(all.duplicates.max(in_order.duplicates) / 1000.0),
        })
    };
    [0, 1].map(measured).to_vec()
}

/// Returns the names of the rows.
#[must_use]
pub fn names() -> Vec<&'static str> {
    rows().into_iter().map(|(name, _)| name).collect()
}

/// Has a link of three die in the middle, in many worlds, and returns how long the reader had nothing; and by how much the
/// whole took longer than the bytes that were left need on the two links that remain. `relieved_by` says who fills: the
/// primary, or another secondary alone.
#[must_use]
pub fn failover(scale: Scale) -> serde_json::Value {
    let lanes = [Lane::new(FULL / 5, 40 * MS); 3];
    let bytes = FULL / 5 / 8 * 3 * 2;
    let measured = |idle_primary: bool| {
        let (mut stalls, mut extra) = (Vec::new(), Vec::new());
        for seed in 0..scale.deaths {
            let after = MS * u32::try_from(400 + seed * 37 % 800).expect("short");
            let whole = Transfer {
                in_order: true,
                idle_primary,
                mishap: Some(Mishap::Dies(after, 2)),
                ..Transfer::new(seed, &lanes, bytes)
            };
            let sent = whole.run();
            let left = if idle_primary { 1 } else { 2 };
            let before = f64::from(left + 1) * after.as_secs_f64();
            let rate =
                lanes.iter().map(|lane| lane.rate as f64 / 8.0 * PAYLOAD / PACKET).next().unwrap_or(1.0);
            let ideal = after.as_secs_f64() + (bytes as f64 / rate - before).max(0.0) / f64::from(left);
            stalls.push(sent.stall.as_secs_f64() * 1000.0);
            extra.push((sent.time.as_secs_f64() - ideal) * 1000.0);
        }
        serde_json::json!({ "stall": quantiles(&mut stalls), "beyond_ideal": quantiles(&mut extra) })
    };
    serde_json::json!({ "primary_fills": measured(false), "secondary_fills": measured(true) })
}

/// Returns by how many per cent a transfer takes longer where one of three links falls to a hundredth in the middle than where
/// it leaves then.
#[must_use]
pub fn slow_source(scale: Scale) -> f64 {
    let lanes = [Lane::new(FULL, 20 * MS); 3];
    let bytes = FULL / 8 * 3 * scale.seconds;
    let after = Duration::from_secs(scale.seconds) / 2;
    let run = |mishap| {
        let transfer = Transfer { mishap: Some(mishap), ..Transfer::new(scale.seed, &lanes, bytes) };
        transfer.run().time.as_secs_f64()
    };
    percent(run(Mishap::Crawls(after, 2)) / run(Mishap::Removed(after, 2)) - 1.0)
}

/// Returns how many per cent of the sum of two full links and the mean of one that oscillates is reached.
#[must_use]
pub fn oscillating(scale: Scale) -> f64 {
    let lanes = [Lane::new(FULL, 20 * MS); 3];
    let bytes = FULL / 8 * 3 * scale.seconds;
    let mishap = Some(Mishap::Oscillates(2));
    let sent = Transfer { mishap, ..Transfer::new(scale.seed, &lanes, bytes) }.run();
    let sum = FULL as f64 / 8.0 * (2.0 + 0.55) * PAYLOAD / PACKET;
    percent(sent.rate(bytes) / sum)
}

fn percent(part: f64) -> f64 {
    (part * 1000.0).round() / 10.0
}

fn quantiles(values: &mut [f64]) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    let at = |permille: usize| {
        let index = values.len().saturating_sub(1) * permille / 1000;
        values.get(index).copied().unwrap_or_default().round()
    };
    serde_json::json!({ "p50": at(500), "p99": at(990) })
}
