//! Swarm mode: what a world is like, what happens in it and what its applications do is all drawn from one number.
//!
//! Each seed draws a random subset of the faults, each with a random strength, because some bugs only show while other
//! things do not happen. A run has two phases. At first everything may go wrong and only safety is checked; then the
//! faults end, and everything must come to an end in bounded time: each reader gets its bytes or an error.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Once,
    time::Duration,
};

use kwik_core::{Dir, TransportConfig};

use super::{
    Bursts, ClientPlan, Clocks, Conditions, Ending, Fault, Marking, NodeId, Offer, OpenPlan, PrimaryPlan,
    Reading, Record, SecondaryPlan, World, WriterEnd, dice::Dice,
};

/// What kind of worlds are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Everything that can go wrong.
    #[default]
    Swarm,
    /// Objects over three paths that lose two in a hundred datagrams, one after another: to measure by.
    Lossy,
    /// Three paths that nobody uses: to measure by.
    Idle,
    /// One attack each: drawn and run by [`evil`](super::evil).
    Evil,
}

/// A world's description, drawn from a seed.
#[derive(Clone, Debug)]
pub struct Options {
    seed: u64,
    profile: Profile,
    setup_text: String,
    world: super::Setup,
    faults: Vec<(Duration, Fault)>,
    heal_at: Duration,
    /// From the end of the faults to the end of everything, at most.
    patience: Duration,
    /// Nothing happens in it that could end a session: everything has to be delivered.
    calm: bool,
}

/// What became of a world.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Hash of everything that happened.
    pub hash: String,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Bytes that readers got.
    pub delivered: u64,
    /// How long it took, in the world's time.
    pub time: Duration,
    /// From the end of the faults to the end of everything, in the world's time.
    pub recovery: Duration,
    /// What was seen, and how often.
    pub marks: BTreeMap<String, u64>,
    /// What was not as it must be.
    pub failure: Option<String>,
    /// What was drawn; kept for runs that fail or are recorded.
    pub options: String,
    /// The text that was asked for.
    pub text: String,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl Options {
    /// Draws a world. Its faults end, and measured profiles stop, after `length`.
    #[must_use]
    pub fn draw(seed: u64, profile: Profile, length: Option<Duration>) -> Self {
        match profile {
            Profile::Swarm | Profile::Evil => Self::swarm(seed, length),
            Profile::Lossy => Self::lossy(seed, length.unwrap_or(60 * SECOND)),
            Profile::Idle => Self::idle(seed, length.unwrap_or(3600 * SECOND)),
        }
    }

    fn swarm(seed: u64, length: Option<Duration>) -> Self {
        let mut d = Dice::new(seed, "kwik sim: options");
        let heal_at = length.unwrap_or_else(|| MS * u32::try_from(d.magnitude(200, 20_000)).unwrap_or(1000));
        let clients = u16::try_from(d.pick(&[1, 1, 1, 1, 2, 3])).unwrap_or(1);
        let secondaries = u16::try_from(d.pick(&[0, 1, 2, 2, 3, 3, 4, 5, 8])).unwrap_or(1);
        let conditions = draw_conditions(&mut d);
        let (stream_window, session_window) =
            d.pick(&[(1 << 16, 1 << 17), (1 << 18, 1 << 20), (1 << 20, 1 << 22), (4 << 20, 64 << 20)]);
        let transport = TransportConfig::default();
        let transport = transport.stream_window(stream_window).session_window(session_window);
        let few = d.chance(150).then(|| d.between(1, 4));
        let idle = SECOND * u32::try_from(d.pick(&[2, 5, 30])).unwrap_or(30);
        let transport = transport.idle_timeout(idle);
        let transport = match few {
            Some(few) => transport.streams_start(few),
            None => transport,
        };
        // Without keep-alives a deadlock would pass for a session that nobody needed any more.
        let keep_alive = d.chance(700);
        let transport = transport.keep_alive_interval(keep_alive.then(|| idle / 4));
        let server = TransportConfig::default().idle_timeout(idle);
        let clocks = Clocks {
            drift_ppm: if d.chance(300) { 500 } else { 0 },
            skew: if d.chance(200) { SECOND * 2 } else { Duration::ZERO },
            late: match d.below(100) {
                0..=14 => d.time(MS, 50 * MS),
                15..=17 => d.time(50 * MS, 2 * SECOND),
                _ => Duration::ZERO,
            },
        };
        let primary_plan = draw_primary(&mut d, secondaries, heal_at);
        let client_plan = draw_client(&mut d, heal_at);
        let secondary_plan = draw_secondary(&mut d);
        let faults = draw_faults(&mut d, clients, secondaries, &conditions, heal_at);
        let worst =
            faults.iter().filter_map(|(_, fault)| fault.conditions()).fold(conditions, Conditions::worse);
        let jump = faults.iter().filter_map(|(_, fault)| fault.jump()).sum::<Duration>();
        let nat = d.chance(150).then(|| MS * u32::try_from(d.magnitude(100, 30_000)).unwrap_or(1000));
        let calm = keep_alive
            && nat.is_none()
            && clocks.late <= 50 * MS
            && client_plan.close_at.is_none()
            && faults.is_empty()
            && worst.is_fair(idle);
        // A connection that was cut off may probe again only after as long a time as it was; a first round-trip sample
        // taken across a pause makes its probe timeout three times that pause, and its idle timeout three times that.
        // And each timer that fires late costs so much again.
        let backoff =
            if calm { Duration::ZERO } else { (heal_at + jump) * 10 + idle * 2 + clocks.late * 200 };
        let patience = backoff + draw_patience(&primary_plan, &client_plan, &secondary_plan, &worst);
        let setup_text = format!(
            "{clients} clients, {secondaries} secondaries, windows {stream_window}/{session_window}, idle {idle:?}, \
             keep-alive {keep_alive}, NAT {nat:?}, calm {calm}, streams {few:?}\n  {conditions:?}\n  {clocks:?}\n  {primary_plan:?}\n  {client_plan:?}\n  {secondary_plan:?}"
        );
        let world = World::seeded(seed)
            .clients(clients)
            .secondaries(secondaries)
            .conditions(conditions)
            .client_transport(transport)
            .server_transport(server)
            .clocks(clocks)
            .nat(nat)
            .batch(usize::try_from(d.between(1, 10)).unwrap_or(1))
            .primary_plan(primary_plan)
            .client_plan(client_plan)
            .secondary_plan(secondary_plan);
        Self { seed, profile: Profile::Swarm, setup_text, world, faults, heal_at, patience, calm }
    }

    fn lossy(seed: u64, length: Duration) -> Self {
        let conditions =
            Conditions { loss: 20, rate: Some(10_000_000), queue: 200 * MS, ..Conditions::delay(20 * MS) };
        // What three paths of 10 Mbit/s carry in half of the time: nothing is left over at the end.
        let size = 500_000 * length.as_secs().max(2);
        let plan = PrimaryPlan {
            adds: (1..=2).map(|n| (Duration::ZERO, NodeId::secondary(n))).collect(),
            offers: vec![Offer { size, ..Offer::default() }],
            ..PrimaryPlan::default()
        };
        let world = World::seeded(seed).secondaries(2).conditions(conditions).primary_plan(plan);
        let setup_text = format!("lossy, {size} bytes");
        Self {
            seed,
            profile: Profile::Lossy,
            calm: false,
            setup_text,
            world,
            faults: Vec::new(),
            heal_at: length,
            patience: length * 10,
        }
    }

    fn idle(seed: u64, length: Duration) -> Self {
        let transport =
            TransportConfig::default().idle_timeout(15 * SECOND).keep_alive_interval(Some(5 * SECOND));
        let world = World::seeded(seed).secondaries(2).client_transport(transport);
        Self {
            seed,
            profile: Profile::Idle,
            calm: false,
            setup_text: "idle".to_owned(),
            world,
            faults: Vec::new(),
            heal_at: length,
            patience: SECOND,
        }
    }

    /// Runs the world to its end, keeping as much text as `record` says.
    #[must_use]
    pub fn run(self, record: Record) -> Outcome {
        let options = self.to_string();
        let mut world = self.world.clone().record(record).build();
        for (at, fault) in &self.faults {
            world.schedule(*at, *fault);
        }
        let mut recovery = Duration::ZERO;
        let failure = guarded(|| self.live(&mut world, &mut recovery));
        Outcome {
            seed: self.seed,
            hash: world.trace().hash(),
            datagrams: world.trace().datagrams(),
            delivered: world.delivered(),
            time: world.at(),
            recovery,
            marks: world.trace().marks().map(|(name, count)| (name.to_owned(), count)).collect(),
            options: if failure.is_some() || record != Record::Nothing { options } else { String::new() },
            failure,
            text: world.trace().text(),
        }
    }

    fn live(&self, world: &mut World, recovery: &mut Duration) {
        world.run_for(self.heal_at);
        if self.profile == Profile::Swarm {
            world.heal();
        }
        let healed = world.at();
        world.run_until(self.patience, |w| w.is_done());
        *recovery = world.at().saturating_sub(healed);
        if self.calm {
            world.check_calm();
        }
        world.finish();
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.setup_text)?;
        for (at, fault) in &self.faults {
            writeln!(f, "  {:>10.6} {fault:?}", at.as_secs_f64())?;
        }
        write!(f, "  all well from {:?} on, done within {:?}", self.heal_at, self.patience)
    }
}

/// Runs the world of `seed`.
#[must_use]
pub fn run(seed: u64, profile: Profile, length: Option<Duration>) -> Outcome {
    if profile == Profile::Evil {
        return super::evil::run(seed);
    }
    Options::draw(seed, profile, length).run(Record::Nothing)
}

/// Runs the world of `outcome`, which failed, once more, with the last of the text and a qlog of each machine in
/// `folder`.
#[must_use]
pub fn examine(outcome: &Outcome, profile: Profile, length: Option<Duration>, folder: &Path) -> Outcome {
    if profile == Profile::Evil {
        return super::evil::run(outcome.seed); // tells what the attack was, and what came of it
    }
    let mut options = Options::draw(outcome.seed, profile, length);
    options.world = options.world.qlog(folder.to_owned());
    let mut told = options.run(Record::Last(200));
    if told.hash != outcome.hash || told.failure != outcome.failure {
        let failure = |outcome: &Outcome| outcome.failure.clone().unwrap_or_default();
        told.failure =
            Some(format!("16: two runs differ\n  first: {}\n  second: {}", failure(outcome), failure(&told)));
    }
    told
}

fn draw_conditions(d: &mut Dice) -> Conditions {
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

fn draw_primary(d: &mut Dice, secondaries: u16, heal_at: Duration) -> PrimaryPlan {
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
    let count = d.pick(&[0, 1, 1, 1, 1, 2, 3, 10]);
    let mut offers = Vec::new();
    for _ in 0..count {
        let size = if d.chance(100) { d.below(3) } else { d.magnitude(1, 1_500_000) };
        let size = if count > 3 { size / 8 } else { size };
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
            depth: usize::try_from(d.between(1, 6)).unwrap_or(1),
            own: u16::try_from(d.pick(&[0, 0, 100, 500])).unwrap_or(0),
            waver: u16::try_from(d.pick(&[0, 0, 200])).unwrap_or(0),
            verified: u16::try_from(d.pick(&[0, 0, 0, 100, 500])).unwrap_or(0),
            meddle: u16::try_from(d.pick(&[0, 0, 100, 400])).unwrap_or(0),
            hedge: d.chance(600),
            tail: if d.chance(300) { d.below(size.saturating_sub(head).min(50_000) + 1) } else { 0 },
            ending,
        });
    }
    PrimaryPlan { adds, removes, offers, readings: vec![draw_reading(d, heal_at)] }
}

fn draw_reading(d: &mut Dice, heal_at: Duration) -> Reading {
    Reading {
        ordered: d.chance(600),
        max_len: usize::try_from(if d.chance(600) { u64::MAX } else { d.magnitude(1, 1 << 20) })
            .unwrap_or(usize::MAX),
        pace: d.chance(250).then(|| (d.magnitude(1000, 200_000), d.time(MS, 100 * MS))),
        stop_after: d.chance(80).then(|| d.below(500_000)),
        start_at: if d.chance(150) { d.time(Duration::ZERO, heal_at) } else { Duration::ZERO },
    }
}

fn draw_client(d: &mut Dice, heal_at: Duration) -> ClientPlan {
    let readings = (0..3).map(|_| draw_reading(d, heal_at)).collect();
    let count = d.pick(&[0, 0, 1, 2, 5, 40]);
    let mut opens = Vec::new();
    for _ in 0..count {
        let size = d.magnitude(1, 200_000);
        opens.push(OpenPlan {
            at: d.time(Duration::ZERO, heal_at),
            dir: d.pick(&[Dir::Bi, Dir::Uni]),
            size: if count > 10 { size / 10 } else { size },
            // Slivers, but not so many that the heap is theirs: QUIC keeps each as it was handed over.
            chunk: d.magnitude(1, 100_000).max(size / 100),
            end: d.pick(&[WriterEnd::Finish, WriterEnd::Finish, WriterEnd::Finish, WriterEnd::Reset]),
        });
    }
    let close_at = d.chance(100).then(|| d.time(Duration::ZERO, heal_at));
    ClientPlan { readings, opens, close_at }
}

fn draw_secondary(d: &mut Dice) -> SecondaryPlan {
    SecondaryPlan {
        chunk: d.magnitude(100, 200_000),
        concurrent: usize::try_from(d.pick(&[1, 2, 4, 1000])).unwrap_or(1),
        pace: d.chance(250).then(|| (d.magnitude(1000, 100_000), d.time(MS, 300 * MS))),
        refuse: u16::try_from(d.pick(&[0, 0, 0, 100])).unwrap_or(0),
        give_up: u16::try_from(d.pick(&[0, 0, 0, 100])).unwrap_or(0),
    }
}

/// How long everything may take once all is well.
fn draw_patience(
    primary: &PrimaryPlan,
    client: &ClientPlan,
    secondary: &SecondaryPlan,
    conditions: &Conditions,
) -> Duration {
    let offered: u64 = primary.offers.iter().map(|offer| offer.size).sum();
    let opened: u64 = client.opens.iter().map(|open| open.size + 20_000).sum();
    let bytes = (offered + opened + 100_000) * 3;
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
    // is acknowledged, which its peer may put off.
    let ranges =
        primary.offers.iter().map(|offer| offer.size * 2 / offer.range / offer.depth as u64).sum::<u64>();
    let windows = windows + (rtt * 4 + 30 * MS) * u32::try_from(ranges).unwrap_or(u32::MAX);
    network + readers.unwrap_or_default() + pace(secondary.pace) + windows + 10 * SECOND
}

fn draw_faults(
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
    let kinds: Vec<u64> = (0..13).filter(|_| d.chance(350)).collect();
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
                let changed = draw_conditions(d);
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

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `work` and returns what it failed with.
pub(super) fn guarded(work: impl FnOnce()) -> Option<String> {
    install_hook();
    QUIET.set(true);
    let ran = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    ran.err().map(|_| LAST_PANIC.take().unwrap_or_else(|| "a panic without a word".to_owned()))
}

/// A failed check is a result here, not noise: its text is kept for the report.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.with_borrow(|quiet| *quiet) {
                return before(info);
            }
            let text = info.payload_as_str().unwrap_or("a panic without a text");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            LAST_PANIC.set(Some(format!("{text}\n  at {place}")));
        }));
    });
}
