//! Honest mixes: one session and one drawn mix of work, again and again for ten of the world's minutes, in which nobody may
//! be held back and nothing may become slower or larger. Spec: PROTOCOL §11.
//!
//! Objects have a byte to a gigabyte, leases a byte to 16 GiB, and there are one to a thousand streams at once, split and
//! not, of which the primary writes a part itself or nothing, and some are stopped or reset early. A world is cheap: its
//! minutes are over once it has had [`STREAMS`] streams or [`BYTES`] bytes, and of one object readers want a bounded part.
//! Each of its stretches has the same work, so that [`crate::soak`] can judge them.

use std::{fmt, time::Duration};

use kwik_core::{Dir, TransportConfig, limits};

use super::{
    ClientPlan, Conditions, Ending, NodeId, Offer, OpenPlan, PrimaryPlan, Reading, Record, SecondaryPlan,
    World, WriterEnd,
    dice::Dice,
    soak::{PATIENCE, REST, heap},
    swarm::{Outcome, guarded},
};
use crate::soak::{GROUP, STRETCHES, Stretch, WARM_UP, judge_heap};

/// Duration of a mix, in the world's time.
pub const LENGTH: Duration = Duration::from_secs(600);
/// After about so many streams it is over earlier.
pub const STREAMS: u64 = 4_000;
/// And after about so many bytes: what was on its way when a stream was stopped is not counted.
pub const BYTES: u64 = 32 << 20;
/// The most frames that honest ends may be short of a burst. What is under way at once may be unpaid for a while; the rest is
/// for whoever has more under way.
pub const SPENT_MAX: u64 = limits::CONTROL_BURST / 2;
/// By how many frames more they may be short at the end than after the warm-up: a frame in a thousand that nobody pays for
/// would be more.
pub const CREEP_MAX: u64 = 256;

/// By how much rates may fall and heap may change, in parts per hundred.
const TOLERANCE: u32 = 5;
/// Bytes by which heap may change in any case: the places that QUIC keeps for streams grow as they are used.
const PLACES: u32 = 64 * 1024;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// The most that one stretch may have of each.
const STRETCH_STREAMS: u64 = STREAMS / STRETCHES as u64;
const STRETCH_BYTES: u64 = BYTES / STRETCHES as u64;
/// A piece of work.
#[derive(Clone, Copy, Debug)]
enum Piece {
    /// The primary sends an object, split or not.
    Offer(Offer),
    /// The client opens a stream.
    Open(OpenPlan),
}

/// Leases of one object.
const LEASES_MAX: u64 = 200;

/// Draws from a seed.
#[derive(Debug)]
struct Mix {
    at_once: usize,
    secondaries: u16,
    delay: Duration,
    window: u64,
    /// The size of the largest object.
    largest: u64,
    /// Most bytes that readers want of one object.
    wanted: u64,
    /// Ranges that the primary writes itself, per thousand.
    own: u16,
    /// Leases that are cut, taken back or hedged, per thousand.
    meddle: u16,
    pieces: Vec<Piece>,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = self.pieces.iter().filter(|piece| piece.is_split()).count();
        write!(
            f,
            "{} at once of {} ({split} split) to {} bytes ({} wanted); {} secondaries, {:.1?} away, windows of {} KiB, own {}, meddled {}",
            self.at_once,
            self.pieces.len(),
            self.largest,
            self.wanted,
            self.secondaries,
            self.delay,
            self.window / KIB,
            self.own,
            self.meddle,
        )
    }
}

impl Mix {
    fn draw(seed: u64) -> Self {
        let d = &mut Dice::new(seed, "kwik sim: mixes");
        let at_once = d.magnitude(1, 1000);
        let mut mix = Self {
            at_once: usize::try_from(at_once).unwrap_or(1),
            secondaries: u16::try_from(d.between(1, 4)).unwrap_or(1),
            delay: Duration::from_micros(d.magnitude(500, 40_000)),
            window: d.pick(&[64 * KIB, 256 * KIB, 1024 * KIB, limits::STREAM_WINDOW]),
            largest: d.pick(&[KIB, 64 * KIB, GIB, GIB]),
            wanted: d.pick(&[16 * KIB, 64 * KIB, 256 * KIB]).min(STRETCH_BYTES / 2 / at_once),
            own: d.pick(&[0, 0, 100, 1000]),
            meddle: d.pick(&[0, 0, 0, 100]),
            pieces: Vec::new(),
        };
        let shapes: Vec<Piece> = (0..d.between(1, 8)).map(|_| mix.shape(d)).collect();
        // At least as many as are at once, or all that a stretch may have.
        while mix.pieces.is_empty() || (mix.pieces.len() < mix.at_once && mix.bytes() < STRETCH_BYTES / 2) {
            let sized: Vec<Piece> = shapes.iter().map(|shape| mix.size(*shape, d)).collect();
            mix.pieces.extend(sized);
        }
        mix
    }

    /// Draws what a piece of work is like, but for its size.
    fn shape(&self, d: &mut Dice) -> Piece {
        let dir = d.pick(&[Dir::Bi, Dir::Uni]);
        if d.chance(250) {
            let end = if d.chance(100) { WriterEnd::Reset } else { WriterEnd::Finish };
            return Piece::Open(OpenPlan { at: Duration::ZERO, dir, size: 1, chunk: 16 * KIB, end });
        }
        // Who has let go of an object does not give again what was lost of it, nor write it.
        let calm = self.own == 0 && self.meddle == 0;
        let ending = match d.below(10) {
            0 => Ending::Reset(1),
            1 => Ending::FinishEarly,
            2 if calm => Ending::LetGo,
            _ => Ending::Finish,
        };
        let offer = Offer { dir, ending, ..Offer::default() };
        if d.chance(250) {
            return Piece::Offer(Offer { head: u64::MAX, range: 16 * KIB, ..offer });
        }
        let end = |d: &mut Dice| if d.chance(300) { d.below(20_000) } else { 0 };
        Piece::Offer(Offer {
            range: d.magnitude(1, limits::LEASE_MAX),
            even: true,
            head: end(d),
            tail: end(d),
            depth: usize::try_from(d.magnitude(1, 64)).unwrap_or(1),
            own: self.own,
            meddle: self.meddle,
            hedge: self.meddle > 0,
            ..offer
        })
    }

    /// Draws its size.
    fn size(&self, shape: Piece, d: &mut Dice) -> Piece {
        let size = d.magnitude(1, self.largest);
        match shape {
            Piece::Open(open) => Piece::Open(OpenPlan { size, ..open }),
            Piece::Offer(offer) => {
                // Whole objects under one lease, and leases that are longer than all objects: most of it is not wanted.
                let size = if offer.range > GIB && self.largest == GIB { offer.range } else { size };
                let head = if offer.head == u64::MAX { u64::MAX } else { offer.head.min(size / 2) };
                let ending = match offer.ending {
                    Ending::Reset(_) => Ending::Reset(d.below(size)),
                    Ending::Finish | Ending::FinishEarly | Ending::LetGo => offer.ending,
                };
                let (range, tail) = (offer.range.max(size / LEASES_MAX), offer.tail.min(size / 4));
                let reading = Some(self.reading(d));
                Piece::Offer(Offer { size, head, tail, range, ending, reading, ..offer })
            }
        }
    }

    /// Draws how it is read, which is the same each time.
    fn reading(&self, d: &mut Dice) -> Reading {
        let most = Reading { stop_after: Some(self.wanted), ..Reading::default() };
        let stops = |bytes| Reading { stop_after: Some(bytes), ..most };
        let unordered = Reading { ordered: false, ..most };
        d.pick(&[most, most, most, most, most, unordered, stops(0), stops(700)])
    }

    /// Bytes that are read of all pieces, at most.
    fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size().min(self.wanted)).sum()
    }

    /// Returns whether all pieces, `times` over, are more than a stretch may have.
    fn is_enough(&self, times: u64) -> bool {
        times * self.pieces.len() as u64 > STRETCH_STREAMS || times * self.bytes() > STRETCH_BYTES
    }

    fn world(&self, seed: u64) -> World {
        let most = Reading { stop_after: Some(self.wanted), ..Reading::default() };
        let readings = vec![most];
        // As many streams as a mix has at once fit what they may hold unread.
        let mut transport = TransportConfig::default().stream_window(self.window);
        transport
            .stream_receive_window((64u32 * 1024).into())
            .keep_alive_interval(Some(Duration::from_secs(5)));
        World::seeded(seed)
            .secondaries(self.secondaries)
            .conditions(Conditions::delay(self.delay))
            .server_transport(transport.clone())
            .client_transport(transport)
            .client_plan(ClientPlan { readings: readings.clone(), ..ClientPlan::default() })
            .primary_plan(PrimaryPlan { readings, answer: Some(2000), ..PrimaryPlan::default() })
            .secondary_plan(SecondaryPlan { give_up: self.meddle / 4, ..SecondaryPlan::default() })
            .record(Record::Nothing)
            .build()
    }

    /// Does all of it so many times.
    fn stretch(&self, world: &mut World, times: u64) -> Stretch {
        let (begun, delivered) = (world.at(), world.delivered());
        for _ in 0..times {
            for pieces in self.pieces.chunks(self.at_once) {
                pieces.iter().for_each(|piece| piece.begin(world));
                world.run_until(PATIENCE, |w| w.is_done());
            }
        }
        let (time, bytes) = (world.at() - begun, world.delivered() - delivered);
        world.run_for(REST);
        world.forget_streams();
        Stretch { streams: times * self.pieces.len() as u64, bytes, time, heap: heap(world) }
    }
}

impl Piece {
    fn is_split(&self) -> bool {
        matches!(self, Self::Offer(offer) if offer.head < offer.size)
    }

    fn size(&self) -> u64 {
        match self {
            Self::Offer(offer) => offer.size,
            Self::Open(open) => open.size,
        }
    }

    fn begin(&self, world: &mut World) {
        let at = world.at();
        match *self {
            Self::Offer(offer) => world.offer(Offer { at, ..offer }),
            Self::Open(open) => world.open(NodeId::client(1), OpenPlan { at, ..open }),
        }
    }
}

/// Runs the mix of a seed and returns what became of it; its text says what it was like, in one line.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mix = Mix::draw(seed);
    let mut world = mix.world(seed);
    let (mut stretches, mut spent) = (Vec::new(), Vec::new());
    let failure = guarded(|| {
        world.run_for(Duration::from_secs(5)); // paths are attached
        let most = (1..).take_while(|times| !mix.is_enough(*times)).last().unwrap_or(1);
        // How often fits the time: as often as once did in its share of it.
        let once = mix.stretch(&mut world, 1).time;
        let fits = LENGTH.as_nanos() / STRETCHES as u128 / once.as_nanos().max(1);
        let times = most.min(u64::try_from(fits).unwrap_or(1)).max(1);
        for _ in 0..STRETCHES {
            stretches.push(mix.stretch(&mut world, times));
            spent.push(most_spent(&mut world));
        }
        world.finish();
    });
    let wrong = if failure.is_none() { judge(&stretches, &spent) } else { Vec::new() };
    let mut text = format!("{seed:>6}: {}", told(&stretches, &spent));
    text.push_str(&format!(" {mix}\n"));
    Outcome {
        seed,
        hash: world.trace().hash(),
        datagrams: world.trace().datagrams(),
        delivered: world.delivered(),
        time: world.at(),
        marks: world.trace().marks().map(|(name, count)| (name.to_owned(), count)).collect(),
        failure: failure.or_else(|| (!wrong.is_empty()).then(|| wrong.join("\n  "))),
        options: format!("{mix}\n{:?}", mix.pieces),
        text,
        ..Outcome::default()
    }
}

/// Returns by how many frames the control of any connection was short of a burst so far, at most.
fn most_spent(world: &mut World) -> u64 {
    let mut most = 0;
    for node in world.nodes() {
        let (effort, stats) =
            world.call(node, |session, _| (session.effort(), session.stats())).expect("the session lives");
        assert_eq!(stats.control_pauses, 0, "17: {node} left an honest peer's control unread");
        most = most.max(effort.spent_max);
    }
    assert!(most <= SPENT_MAX, "17: control was short of {most} frames among honest ends");
    most
}

/// Returns what is not flat. Heap is judged at the end: until then QUIC fills the places that it keeps for streams.
fn judge(stretches: &[Stretch], spent: &[u64]) -> Vec<String> {
    let mut wrong = judge_heap(stretches, TOLERANCE, PLACES);
    wrong.extend(slower(stretches, Stretch::rate, "streams"));
    wrong.extend(slower(stretches, Stretch::byte_rate, "bytes"));
    let (first, last) = (spent.get(WARM_UP).copied(), spent.last().copied());
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    if last > first + CREEP_MAX {
        wrong.push(format!(
            "17: control was short of {first} frames after the warm-up, and of {last} at last"
        ));
    }
    wrong
}

/// Says so if all of the last stretches were slower than each of the first after the warm-up: then it is neither chance nor
/// one wait at an odd moment.
fn slower(stretches: &[Stretch], rate: fn(&Stretch) -> f64, what: &str) -> Option<String> {
    let first = stretches.iter().skip(WARM_UP).take(GROUP).map(rate).fold(f64::INFINITY, f64::min);
    let last = stretches.iter().rev().take(GROUP).map(rate).fold(0.0, f64::max);
    let slower = last < first * f64::from(100 - TOLERANCE) / 100.0;
    slower.then(|| format!("{last:.1} {what} a second at last, and {first:.1} after the warm-up"))
}

/// Says what the first and the last judged stretch came to.
fn told(stretches: &[Stretch], spent: &[u64]) -> String {
    let (Some(first), Some(last)) = (stretches.get(WARM_UP), stretches.last()) else {
        return "no stretch".to_owned();
    };
    let streams: u64 = stretches.iter().map(|stretch| stretch.streams).sum();
    let time: f64 = stretches.iter().map(|stretch| stretch.time.as_secs_f64()).sum();
    format!(
        "{streams:>5} streams in {time:>5.1} s, {:.1} > {:.1} a second, {:.0} > {:.0} KB/s; short of {} > {} frames;",
        first.rate(),
        last.rate(),
        first.byte_rate() / 1e3,
        last.byte_rate() / 1e3,
        spent.get(WARM_UP).copied().unwrap_or_default(),
        spent.last().copied().unwrap_or_default(),
    )
}
