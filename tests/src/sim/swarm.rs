//! Swarm mode: what a world is like, what happens in it and what its applications do is all drawn from one number.
//!
//! Each seed draws a random subset of the faults, each with a random strength, because some bugs only show while other
//! things do not happen. A run has two phases. At first everything may go wrong and only safety is checked; then the
//! faults end, and everything must come to an end in bounded time: each reader gets its bytes or an error.

mod draw;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Once,
    time::Duration,
};

use kwik_core::TransportConfig;

pub use self::draw::patience;
use super::{Clocks, Conditions, Fault, NodeId, Offer, PrimaryPlan, Record, World, dice::Dice};

/// Kinds of worlds to draw.
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
    /// One flood each of a mix of frames: drawn and run by [`evil::floods`](super::evil::floods).
    Floods,
    /// One session with this many streams: run by [`soak`](super::soak).
    Soak(u64),
    /// One session and one mix of honest work, again and again: drawn and run by [`mixes`](super::mixes).
    Mixes,
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
    /// Longest time from the end of the faults to the end of everything.
    patience: Duration,
    /// Nothing happens in it that could end a session: everything has to be delivered.
    calm: bool,
}

/// Outcome of a world.
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
    /// Time that it took, by the world's clock.
    pub time: Duration,
    /// Time from the end of the faults to the end of everything, by the world's clock.
    pub recovery: Duration,
    /// Marks that were seen, and their numbers.
    pub marks: BTreeMap<String, u64>,
    /// Text of what was not as it must be.
    pub failure: Option<String>,
    /// Options that were drawn; kept for runs that fail or are recorded.
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
            Profile::Swarm | Profile::Evil | Profile::Floods | Profile::Mixes | Profile::Soak(_) => {
                Self::swarm(seed, length)
            }
            Profile::Lossy => Self::lossy(seed, length.unwrap_or(60 * SECOND)),
            Profile::Idle => Self::idle(seed, length.unwrap_or(3600 * SECOND)),
        }
    }

    fn swarm(seed: u64, length: Option<Duration>) -> Self {
        let mut d = Dice::new(seed, "kwik sim: options");
        let heal_at = length.unwrap_or_else(|| MS * u32::try_from(d.magnitude(200, 20_000)).unwrap_or(1000));
        let clients = u16::try_from(d.pick(&[1, 1, 1, 1, 2, 3])).unwrap_or(1);
        let secondaries = u16::try_from(d.pick(&[0, 1, 2, 2, 3, 3, 4, 5, 8])).unwrap_or(1);
        let conditions = draw::conditions(&mut d);
        let (stream_window, session_window) =
            d.pick(&[(1 << 16, 1 << 17), (1 << 18, 1 << 20), (1 << 20, 1 << 22), (4 << 20, 64 << 20)]);
        let transport = TransportConfig::default();
        let transport = transport.stream_window(stream_window).session_window(session_window);
        let few = d.chance(150).then(|| d.between(1, 4));
        let idle = SECOND * u32::try_from(d.pick(&[2, 5, 30])).unwrap_or(30);
        let gap_timeout = d.pick(&[MS * 300, SECOND * 10, SECOND * 10]);
        let transport = transport.idle_timeout(idle).gap_timeout(gap_timeout);
        let transport = match few {
            Some(few) => transport.streams_start(few),
            None => transport,
        };
        // Without keep-alives a deadlock would pass for a session that nobody needed any more.
        let keep_alive = d.chance(700);
        let mut transport = transport;
        transport.keep_alive_interval(keep_alive.then(|| idle / 4));
        let transport = draw::strategies(&mut Dice::new(seed, "kwik sim: strategies"), transport);
        let server = TransportConfig::default().idle_timeout(idle);
        let clocks = Clocks {
            drift_ppm: if d.chance(300) { 500 } else { 0 },
            // Tickets stand two seconds of it; those that are a day off refuse every one, and the primary does it all.
            skew: SECOND * d.pick(&[0, 0, 0, 0, 0, 0, 0, 2, 2, 86_400]),
            late: match d.below(100) {
                0..=14 => d.time(MS, 50 * MS),
                15..=17 => d.time(50 * MS, 2 * SECOND),
                _ => Duration::ZERO,
            },
        };
        // Where streams are few, those that nobody reads would leave no slot to the others.
        let many = d.chance(5);
        let never = few.is_none() && !many && d.chance(150);
        let at_primary = many && d.chance(500);
        let mut primary_plan = draw::primary(&mut d, secondaries, heal_at, never, at_primary);
        primary_plan.talk = draw::talk(&mut Dice::new(seed, "kwik sim: talk"));
        let mut r = Dice::new(seed, "kwik sim: retries");
        primary_plan.offers.iter_mut().for_each(|offer| offer.retries = r.pick(&[0, 0, 0, 1, 5]));
        let client_plan = draw::client(&mut d, heal_at, never, many && !at_primary);
        let secondary_plan = draw::secondary(&mut d);
        let faults = draw::faults(&mut d, clients, secondaries, &conditions, heal_at);
        let worst =
            faults.iter().filter_map(|(_, fault)| fault.conditions()).fold(conditions, Conditions::worse);
        let jump = faults.iter().filter_map(|(_, fault)| fault.jump()).sum::<Duration>();
        let nat = d.chance(150).then(|| MS * u32::try_from(d.magnitude(100, 30_000)).unwrap_or(1000));
        let reset_keys = d.chance(500);
        let calm = keep_alive
            && nat.is_none()
            && clocks.late <= 50 * MS
            && client_plan.close_at.is_none()
            && faults.iter().all(|(_, fault)| fault.is_harmless())
            && worst.is_fair(idle);
        // A connection that was cut off may probe again only after as long a time as it was; a first round-trip sample
        // taken across a pause makes its probe timeout three times that pause, and its idle timeout three times that.
        // And each timer that fires late costs so much again.
        let backoff =
            if calm { Duration::ZERO } else { (heal_at + jump) * 10 + idle * 2 + clocks.late * 200 };
        let patience = backoff + patience(&primary_plan, &client_plan, &secondary_plan, &worst, clocks.late);
        let setup_text = format!(
            "{clients} clients, {secondaries} secondaries, windows {stream_window}/{session_window}, idle {idle:?}, gaps told after {gap_timeout:?}, \
             keep-alive {keep_alive}, NAT {nat:?}, lasting reset keys {reset_keys}, calm {calm}, streams {few:?}\n  {conditions:?}\n  {clocks:?}\n  {primary_plan:?}\n  {client_plan:?}\n  {secondary_plan:?}"
        );
        let world = World::seeded(seed)
            .clients(clients)
            .secondaries(secondaries)
            .conditions(conditions)
            .client_transport(transport)
            .server_transport(server)
            .clocks(clocks)
            .nat(nat)
            .reset_keys(reset_keys)
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
        let mut transport = TransportConfig::default().idle_timeout(15 * SECOND);
        transport.keep_alive_interval(Some(5 * SECOND));
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
            world.hear_out(self.patience);
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
    match profile {
        Profile::Evil => return super::evil::run(seed),
        Profile::Floods => return super::evil::floods::run(seed),
        Profile::Mixes => return super::mixes::run(seed),
        Profile::Soak(streams) => return super::soak::run(seed, streams),
        Profile::Swarm | Profile::Lossy | Profile::Idle => {}
    }
    Options::draw(seed, profile, length).run(Record::Nothing)
}

/// Runs the world of `outcome`, which failed, once more, with the last of the text and a qlog of each machine in
/// `folder`.
#[must_use]
pub fn examine(outcome: &Outcome, profile: Profile, length: Option<Duration>, folder: &Path) -> Outcome {
    if matches!(profile, Profile::Evil | Profile::Floods | Profile::Mixes | Profile::Soak(_)) {
        return run(outcome.seed, profile, length); // tells what the attack was, and what came of it
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
