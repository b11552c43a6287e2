//! A world: machines, the network between them, and virtual time.
//!
//! One thread, one queue. Each step takes the earliest thing that happens (a datagram arrives, a fault begins, a
//! machine's timer is due), lets the machine concerned work it off, and checks what must be true.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kwik_core::{
    ClientConfig, Ecn, Endpoint, Qlog, SecondaryConfig, ServerConfig, Session, Side, Signer as _, SigningKey,
    TransportConfig,
};

use super::{
    NodeId,
    app::{
        App, Calls, ClientApp, ClientPlan, Cx, GOODBYE, Offer, PrimaryApp, PrimaryPlan, SecondaryApp,
        SecondaryPlan,
    },
    book::Book,
    dice::{Dice, derive},
    evil::{Casting, Seen},
    heap,
    link::{Conditions, Damage, Fate, Link},
    machine::{Machine, Outgoing, Socket},
    oracle::Oracle,
    resident::Resident,
    tls,
    trace::{Record, Trace},
};

/// How a world is set up; turn it into one with [`Setup::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Setup {
    seed: u64,
    clients: u16,
    secondaries: u16,
    conditions: Conditions,
    client_transport: TransportConfig,
    server_transport: TransportConfig,
    client_plan: ClientPlan,
    primary_plan: PrimaryPlan,
    secondary_plan: SecondaryPlan,
    record: Record,
    qlog: Option<PathBuf>,
    clocks: Clocks,
    batch: usize,
    evil: Option<Casting>,
}

/// How much the machines' clocks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Clocks run fast or slow by up to this, in parts per million.
    pub drift_ppm: u16,
    /// Wall clocks are wrong by up to this.
    pub skew: Duration,
    /// Timers fire late by up to this, per machine.
    pub late: Duration,
}

impl Setup {
    /// Sets how many clients there are; one by default.
    pub fn clients(mut self, count: u16) -> Self {
        self.clients = count;
        self
    }

    /// Sets how many secondaries there are, none by default. The primary adds each as soon as a client is there.
    pub fn secondaries(mut self, count: u16) -> Self {
        self.secondaries = count;
        self
    }

    /// Sets how long a datagram is under way; 10 ms by default.
    pub fn one_way(mut self, delay: Duration) -> Self {
        self.conditions.delay = delay;
        self
    }

    /// Sets what every direction of every link is like.
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// Sets the clients' transport.
    pub fn client_transport(mut self, transport: TransportConfig) -> Self {
        self.client_transport = transport;
        self
    }

    /// Sets the servers' transport.
    pub fn server_transport(mut self, transport: TransportConfig) -> Self {
        self.server_transport = transport;
        self
    }

    /// Sets what clients do.
    pub fn client_plan(mut self, plan: ClientPlan) -> Self {
        self.client_plan = plan;
        self
    }

    /// Sets what the primary does. Replaces the adding of all secondaries at once.
    pub fn primary_plan(mut self, plan: PrimaryPlan) -> Self {
        self.primary_plan = plan;
        self
    }

    /// Sets how secondaries behave.
    pub fn secondary_plan(mut self, plan: SecondaryPlan) -> Self {
        self.secondary_plan = plan;
        self
    }

    /// Sets how much the clocks differ; not at all by default.
    pub fn clocks(mut self, clocks: Clocks) -> Self {
        self.clocks = clocks;
        self
    }

    /// Sets how many datagrams a socket takes at once, at most; 10 by default.
    pub fn batch(mut self, datagrams: usize) -> Self {
        self.batch = datagrams;
        self
    }

    /// Puts machines into the hands of scripts that need not keep to the rules.
    pub fn evil(mut self, casting: Casting) -> Self {
        self.evil = Some(casting);
        self
    }

    /// Sets how much text of the run is kept.
    pub fn record(mut self, record: Record) -> Self {
        self.record = record;
        self
    }

    /// Has every machine write what QUIC does there into a file of its own in `folder`, which exists.
    pub fn qlog(mut self, folder: PathBuf) -> Self {
        self.qlog = Some(folder);
        self
    }

    /// Makes the world. Its clients have begun to connect.
    #[must_use]
    pub fn build(self) -> World {
        World::new(self)
    }
}

/// A fault, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing passes from one machine to another.
    Cut(NodeId, NodeId),
    /// It passes again.
    Join(NodeId, NodeId),
    /// What passes from one machine to another waits until then and comes in one burst.
    Hold(NodeId, NodeId, Duration),
    /// A direction becomes like this.
    Become(NodeId, NodeId, Conditions),
    /// A machine does nothing until then: alive, silent. What arrives waits, as far as its socket has room.
    Pause(NodeId, Duration),
    /// A machine loses its state and is gone.
    Crash(NodeId),
    /// A machine that crashed is back, knowing nothing; with another certificate if so said.
    Restart(NodeId, bool),
    /// A NAT gives a client another port.
    Rebind(NodeId),
    /// A machine slept: its monotonic clock jumps ahead.
    Jump(NodeId, Duration),
    /// A socket takes nothing until then.
    Block(NodeId, Duration),
    /// A machine closes all its sessions, as on a clean shutdown.
    Close(NodeId),
    /// Somebody sends a machine that many bytes of rubbish that look like they come from another.
    Junk(NodeId, NodeId, usize),
    /// A client connects, again if it was connected before.
    Connect(NodeId),
}

/// Something that happens at a time.
#[derive(Debug)]
enum Happening {
    Datagram { from: SocketAddr, to: SocketAddr, ecn: Option<Ecn>, bytes: Vec<u8> },
    Fault(Fault),
}

/// A machine and what surrounds it.
#[derive(Debug)]
struct Host {
    machine: Option<Resident>,
    clock: Clock,
    late: Duration,
    paused_until: Duration,
    /// What the socket holds while the machine is paused.
    backlog: VecDeque<(SocketAddr, Option<Ecn>, Vec<u8>)>,
    blocked_until: Duration,
    /// The socket took nothing in the last turn: what waits has to be asked for again.
    was_blocked: bool,
    /// When it wants its next turn.
    wake: Option<Duration>,
    dice: Dice,
    incarnation: u32,
    heap: i64,
    /// The heap when it had no session yet.
    heap_start: i64,
    turns: u64,
    calls: Calls,
}

/// A machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    ppm: i64,
    ahead: Duration,
    skew: i64,
}

impl Clock {
    fn local(self, at: Duration) -> Duration {
        let nanos = i128::try_from(at.as_nanos()).unwrap_or(i128::MAX);
        let drifted = nanos + nanos * i128::from(self.ppm) / 1_000_000;
        Duration::from_nanos(u64::try_from(drifted).unwrap_or_default()) + self.ahead
    }

    /// The first of the world's nanoseconds in which the local clock shows at least `local`.
    fn global(self, local: Duration) -> Duration {
        let nanos = i128::try_from(local.saturating_sub(self.ahead).as_nanos()).unwrap_or(i128::MAX);
        let at = nanos * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = Duration::from_nanos(u64::try_from(at).unwrap_or_default());
        while self.local(at) < local {
            at += Duration::from_nanos(1);
        }
        at
    }
}

/// Datagrams that the socket of a paused machine holds.
const BACKLOG_MAX: usize = 512;
/// Steps at one instant before it is called a busy loop.
const STEPS_AT_ONCE_MAX: u32 = 100_000;

/// Machines, a network and virtual time.
#[derive(Debug)]
pub struct World {
    seed: u64,
    epoch: Instant,
    at: Duration,
    sequence: u64,
    steps_now: u32,
    queue: BTreeMap<(Duration, u64), Happening>,
    hosts: BTreeMap<NodeId, Host>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    network: Dice,
    rubbish: Dice,
    oracle: Oracle,
    trace: Trace,
    book: Book,
    setup: Setup,
    signer: Arc<SigningKey>,
    /// What a machine got from, and sent to, addresses that are nobody's.
    strangers: BTreeMap<(NodeId, SocketAddr), (usize, usize)>,
    out: Vec<Outgoing>,
    fates: Vec<Fate>,
}

impl World {
    /// Starts the description of a world whose every choice follows from `seed`.
    pub fn seeded(seed: u64) -> Setup {
        Setup {
            seed,
            clients: 1,
            secondaries: 0,
            conditions: Conditions::delay(Duration::from_millis(10)),
            client_transport: TransportConfig::default(),
            server_transport: TransportConfig::default(),
            client_plan: ClientPlan::default(),
            primary_plan: PrimaryPlan::default(),
            secondary_plan: SecondaryPlan::default(),
            record: Record::Nothing,
            qlog: None,
            clocks: Clocks::default(),
            batch: 10,
            evil: None,
        }
    }

    fn new(mut setup: Setup) -> Self {
        let seed = setup.seed;
        tls::seed(derive(seed, "kwik sim: tls"));
        let plan = &mut setup.primary_plan;
        if plan.adds.is_empty() {
            plan.adds = (1..=setup.secondaries).map(|n| (Duration::ZERO, NodeId::secondary(n))).collect();
        }
        let mut world = Self {
            seed,
            epoch: epoch(),
            at: Duration::ZERO,
            sequence: 0,
            steps_now: 0,
            queue: BTreeMap::new(),
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            network: Dice::new(seed, "kwik sim: network"),
            rubbish: Dice::new(seed, "kwik sim: rubbish"),
            oracle: Oracle::default(),
            trace: Trace::new(setup.record),
            book: Book::default(),
            signer: Arc::new(SigningKey::from_seed(derive(seed, "kwik sim: signer"))),
            strangers: BTreeMap::new(),
            out: Vec::new(),
            fates: Vec::new(),
            setup,
        };
        let secondaries: Vec<NodeId> = (1..=world.setup.secondaries).map(NodeId::secondary).collect();
        let clients: Vec<NodeId> = (1..=world.setup.clients).map(NodeId::client).collect();
        let mut clocks = Dice::new(seed, "kwik sim: clocks");
        let others: Vec<NodeId> = world.setup.evil.iter().flat_map(Casting::others).collect();
        for node in [NodeId::PRIMARY].into_iter().chain(secondaries).chain(others).chain(clients.clone()) {
            world.add_host(node, &mut clocks);
        }
        for client in clients {
            world.apply(Fault::Connect(client));
        }
        world
    }

    fn add_host(&mut self, node: NodeId, clocks: &mut Dice) {
        let Clocks { drift_ppm, skew, late } = self.setup.clocks;
        let signed = |dice: &mut Dice, max: u64| {
            i64::try_from(dice.between(0, 2 * max)).unwrap_or_default()
                - i64::try_from(max).unwrap_or_default()
        };
        let clock = Clock {
            ppm: signed(clocks, drift_ppm.into()),
            ahead: Duration::ZERO,
            skew: signed(clocks, skew.as_secs()),
        };
        let host = Host {
            machine: None,
            clock,
            late: clocks.time(Duration::ZERO, late),
            paused_until: Duration::ZERO,
            backlog: VecDeque::new(),
            blocked_until: Duration::ZERO,
            was_blocked: false,
            wake: None,
            dice: Dice::new(self.seed, &format!("kwik sim: application of {node}")),
            incarnation: 0,
            heap: 0,
            heap_start: 0,
            turns: 0,
            calls: Calls::default(),
        };
        self.hosts.insert(node, host);
        if !node.is_client() {
            self.book.assign(node, 0);
            self.book.set_identity(node, tls::identity(node.server_index(), false));
            self.start(node);
        }
    }

    /// Gives a machine an endpoint and an application.
    fn start(&mut self, node: NodeId) {
        if self.start_evil(node) {
            return;
        }
        let is_primary = self.is_primary(node);
        let app = match node {
            _ if is_primary => {
                let app = PrimaryApp::new(self.setup.primary_plan.clone());
                App::Primary(match &self.setup.evil {
                    Some(casting) => app.apart(self.seed, casting.reserved()),
                    None => app,
                })
            }
            node if node.is_client() => {
                let session = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
                App::Client(ClientApp::new(self.setup.client_plan.clone(), session))
            }
            _ => App::Secondary(SecondaryApp::new(self.setup.secondary_plan)),
        };
        let server = self.book.identity(node).map(|identity| {
            let config = ServerConfig::new(identity.tls.clone()).expect("made for QUIC");
            let config = config.transport(self.traced(node, self.setup.server_transport.clone()));
            if is_primary {
                config.primary(self.signer(node))
            } else {
                let trusted = self.signer.public_key();
                let trust = SecondaryConfig::new(trusted, &identity.certificate).expect("a certificate");
                let others = self.setup.evil.iter().flat_map(Casting::others);
                let trust = others.fold(trust, |trust, other| trust.primary(self.signer(other).public_key()));
                config.secondary(trust)
            }
        });
        let host = self.hosts.get_mut(&node).expect("the machine exists");
        let seed = derive(self.seed, &format!("kwik sim: endpoint of {node}, {}", host.incarnation));
        host.incarnation += 1;
        let now = self.epoch + host.clock.local(self.at);
        let wall = tls::WALL_EPOCH + self.at;
        let wall = if host.clock.skew < 0 {
            wall.saturating_sub(Duration::from_secs(host.clock.skew.unsigned_abs()))
        } else {
            wall + Duration::from_secs(host.clock.skew.unsigned_abs())
        };
        let endpoint = Endpoint::new(seed, now, wall, server, true).expect("the settings are possible");
        host.machine = Some(Resident::Honest(Machine::new(endpoint, app)));
        host.heap = 0;
        host.wake = Some(self.at);
    }

    /// Adds a qlog of this machine to what its connections do, if that is asked for.
    fn traced(&self, node: NodeId, transport: TransportConfig) -> TransportConfig {
        let Some(folder) = &self.setup.qlog else {
            return transport;
        };
        let incarnation = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
        let name = format!("{}-{incarnation}.sqlog", node.to_string().replace(' ', "-"));
        let file = fs::File::create(folder.join(&name)).expect("the folder can be written to");
        let qlog = Qlog::new(Box::new(io::BufWriter::new(file)), self.epoch, &name);
        transport.qlog(qlog.expect("the file can be written to"))
    }

    /// Starts a machine that a script runs, if this is one.
    fn start_evil(&mut self, node: NodeId) -> bool {
        let Some(machine) =
            self.setup.evil.and_then(|casting| casting.machine(self.seed, node, self.signer.clone()))
        else {
            return false;
        };
        self.oracle.set_hostile(node);
        if node.is_client() {
            self.oracle.reader_gone(node, 0, Side::Server); // nobody checks what a script reads
        }
        if let Some(host) = self.hosts.get_mut(&node) {
            host.incarnation += 1;
            host.machine = Some(Resident::Evil(machine));
            host.wake = Some(self.at);
        }
        true
    }

    fn is_primary(&self, node: NodeId) -> bool {
        node == NodeId::PRIMARY || self.setup.evil.iter().flat_map(Casting::others).any(|other| other == node)
    }

    /// Each primary has a key of its own.
    fn signer(&self, node: NodeId) -> Arc<SigningKey> {
        if node == NodeId::PRIMARY {
            return self.signer.clone();
        }
        Arc::new(SigningKey::from_seed(derive(self.seed, &format!("kwik sim: signer of {node}"))))
    }

    // What a scenario may do.

    /// Returns the time since the world began.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.at
    }

    /// Returns the seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns what must be true, and what is known of it.
    #[must_use]
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Returns what happened.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Returns how many bytes readers have got in all.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.oracle.delivered()
    }

    /// Returns the machines, the primary first.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    /// Has the primary send one more object to every client.
    pub fn offer(&mut self, offer: Offer) {
        if let Some(App::Primary(app)) = self.machine_mut(NodeId::PRIMARY).map(Machine::app_mut) {
            app.offer(offer);
        }
        self.poke(NodeId::PRIMARY);
    }

    /// Makes something happen now.
    pub fn apply(&mut self, fault: Fault) {
        self.trace.note(self.at, NodeId::PRIMARY, format_args!("fault {fault:?}"));
        self.trace.count(fault.name());
        match fault {
            Fault::Cut(from, to) => self.link(from, to).cut = true,
            Fault::Join(from, to) => self.link(from, to).cut = false,
            Fault::Hold(from, to, until) => self.link(from, to).held_until = Some(until),
            Fault::Become(from, to, conditions) => self.link(from, to).conditions = conditions,
            Fault::Pause(node, until) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.paused_until = host.paused_until.max(until);
                    host.wake = Some(host.paused_until);
                }
            }
            Fault::Crash(node) => {
                self.machine_gone(node);
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.machine = None;
                    host.heap = 0;
                    host.heap_start = 0;
                    host.backlog.clear();
                    host.wake = None;
                }
            }
            Fault::Restart(node, renewed) => {
                if self.hosts.get(&node).is_some_and(|host| host.machine.is_none()) && !node.is_client() {
                    if renewed {
                        self.book.set_identity(node, tls::identity(node.server_index(), true));
                    }
                    self.start(node);
                }
            }
            Fault::Rebind(node) => {
                if self.hosts.get(&node).is_some_and(|host| host.machine.is_some()) {
                    self.book.rebind(node);
                }
            }
            Fault::Jump(node, ahead) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.clock.ahead += ahead;
                }
                self.poke(node);
            }
            Fault::Block(node, until) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.blocked_until = host.blocked_until.max(until);
                }
            }
            Fault::Close(node) => self.close(node),
            Fault::Junk(node, as_if_from, len) => self.junk(node, as_if_from, len),
            Fault::Connect(node) => self.connect(node),
        }
    }

    /// Makes something happen at a time to come.
    pub fn schedule(&mut self, at: Duration, fault: Fault) {
        self.push(at.max(self.at), Happening::Fault(fault));
    }

    /// Nothing passes between a machine and the others any more, in either direction.
    pub fn cut(&mut self, node: NodeId) {
        for other in self.nodes().into_iter().filter(|other| *other != node) {
            self.apply(Fault::Cut(node, other));
            self.apply(Fault::Cut(other, node));
        }
    }

    /// Ends every fault of the network and every pause. What crashed stays away.
    pub fn heal(&mut self) {
        self.trace.note(self.at, NodeId::PRIMARY, format_args!("all is well"));
        for link in self.links.values_mut() {
            link.cut = false;
            link.held_until = None;
            link.conditions = link.conditions.healed();
        }
        self.setup.conditions = self.setup.conditions.healed();
        let at = self.at;
        for host in self.hosts.values_mut() {
            host.paused_until = host.paused_until.min(at);
            host.blocked_until = host.blocked_until.min(at);
            host.wake = Some(at);
        }
    }

    /// Calls a session of a machine, the oldest if it has several; `None` if it has none.
    pub fn call<T>(&mut self, node: NodeId, call: impl FnOnce(&mut Session, Instant) -> T) -> Option<T> {
        let now = self.epoch + self.hosts.get(&node)?.clock.local(self.at);
        let machine = self.machine_mut(node)?;
        let (handle, session) = machine.sessions().next()?;
        let answer = call(session, now);
        machine.touch(handle);
        self.poke(node);
        Some(answer)
    }

    /// Returns whether every application has done what it was to do, and every reader has seen the end or an error.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let apps = self.hosts.values().filter_map(|host| host.machine.as_ref()).all(Resident::is_done);
        apps && self.oracle.settled()
    }

    /// Runs until `done` says so.
    ///
    /// # Panics
    /// If that is not so `limit` later, or if anything is not as it must be.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.at + limit;
        while !done(self) {
            let unsettled = || self.oracle.unsettled().join("\n  ");
            assert!(self.at < end, "not done {limit:?} later, at {:?}:\n  {}", self.at, unsettled());
            self.step(end);
        }
    }

    /// Runs for a time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            self.step(end);
        }
    }

    /// Closes every session and checks that nothing is left of them.
    ///
    /// # Panics
    /// If something is.
    pub fn finish(&mut self) {
        self.heal();
        for node in self.nodes().into_iter().filter(|node| node.is_client()) {
            self.close(node);
        }
        let idle = Duration::from_secs(3600);
        let gone = |host: &Host| host.machine.as_ref().is_none_or(|machine| machine.left() == (0, 0));
        let end = self.at + idle;
        while !self.hosts.values().all(gone) {
            assert!(self.at < end, "13: sessions are left an hour after everything was closed");
            self.step(end);
        }
        for (node, host) in self.hosts.iter().filter(|(node, _)| self.oracle.is_honest(**node)) {
            let left = host.heap - host.heap_start;
            assert!(
                left.abs() < HEAP_LEFT_MAX,
                "13: {node} keeps {left} bytes of heap after its last session"
            );
        }
    }

    /// Interrupts the application of a machine as it says.
    pub fn interrupt(&mut self, node: NodeId, calls: Calls) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.calls = calls;
        }
    }

    /// Returns how often the application of a machine has called, or was told something.
    #[must_use]
    pub fn calls(&self, node: NodeId) -> u64 {
        self.hosts.get(&node).map(|host| host.calls.count()).unwrap_or_default()
    }

    /// Returns how many turns a machine has had: each is a wake-up.
    #[must_use]
    pub fn turns(&self, node: NodeId) -> u64 {
        self.hosts.get(&node).map(|host| host.turns).unwrap_or_default()
    }

    /// Returns the heap that a machine's sessions and application hold, in bytes.
    #[must_use]
    pub fn heap(&self, node: NodeId) -> i64 {
        self.hosts.get(&node).map(|host| host.heap).unwrap_or_default()
    }

    /// Returns what a machine that a script runs has done and seen.
    #[must_use]
    pub fn seen(&self, node: NodeId) -> Option<&Seen> {
        Some(self.hosts.get(&node)?.machine.as_ref()?.evil()?.seen())
    }

    /// Keeps the decisions about a client's session as text.
    pub fn watch(&mut self, client: NodeId) {
        self.trace.watch(client);
    }

    /// Returns whether a machine is up.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.hosts.get(&node).is_some_and(|host| host.machine.is_some())
    }

    // What happens.

    /// Takes the next thing that happens, or goes on to `end` if nothing does before.
    fn step(&mut self, end: Duration) {
        let event = self.queue.first_key_value().map(|(&(at, _), _)| at);
        let wake = self.hosts.iter().filter_map(|(&node, host)| Some((host.wake?, node))).min();
        let next = match (event, wake) {
            (Some(event), Some((wake, _))) => event.min(wake),
            (event, wake) => match event.or_else(|| wake.map(|(at, _)| at)) {
                Some(next) => next,
                None => end,
            },
        };
        if next > end {
            self.at = end;
            return;
        }
        if next > self.at {
            self.at = next;
            self.steps_now = 0;
        }
        self.steps_now += 1;
        assert!(self.steps_now < STEPS_AT_ONCE_MAX, "12: time stands still at {:?}", self.at);
        // What arrives goes before what is due: a machine reads its socket before it runs its timers.
        if event == Some(next) {
            if let Some((_, happening)) = self.queue.pop_first() {
                match happening {
                    Happening::Datagram { from, to, ecn, bytes } => self.deliver(from, to, ecn, bytes),
                    Happening::Fault(fault) => self.apply(fault),
                }
            }
        } else if let Some((_, node)) = wake {
            self.turn(node, None);
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, ecn: Option<Ecn>, bytes: Vec<u8>) {
        let Some(node) = self.book.find(to).filter(|_| self.book.is_current(to)) else {
            return self.trace.count("arrived at nobody");
        };
        if self.book.find(from).is_none() {
            self.strangers.entry((node, from)).or_default().0 += bytes.len();
        }
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        if host.machine.is_none() {
            return self.trace.count("arrived at a dead machine");
        }
        if host.paused_until > self.at {
            if host.backlog.len() < BACKLOG_MAX {
                host.backlog.push_back((from, ecn, bytes));
            } else {
                self.trace.count("socket buffer full");
            }
            return;
        }
        self.turn(node, Some((from, ecn, bytes)));
    }

    /// Lets a machine take a datagram, if there is one, and do all that is to be done.
    fn turn(&mut self, node: NodeId, datagram: Option<(SocketAddr, Option<Ecn>, Vec<u8>)>) {
        let Self { hosts, epoch, at, oracle, trace, book, out, setup, .. } = self;
        let Some(host) = hosts.get_mut(&node) else {
            return;
        };
        if host.paused_until > *at {
            host.wake = Some(host.paused_until);
            return;
        }
        let Some(machine) = host.machine.as_mut() else {
            host.wake = None;
            return;
        };
        host.turns += 1;
        let backlog = std::mem::take(&mut host.backlog);
        let open = host.blocked_until <= *at;
        if std::mem::replace(&mut host.was_blocked, !open) && open {
            machine.touch_all();
        }
        let socket = Socket { open, batch: setup.batch };
        let now = *epoch + host.clock.local(*at);
        let Host { dice, calls, .. } = host;
        let mut cx = Cx { now, at: *at, node, dice, oracle, trace, book, calls };
        let ((), grown) = heap::measure(|| {
            for (from, ecn, bytes) in backlog.iter().chain(&datagram) {
                machine.handle(&mut cx, *from, *ecn, bytes, out);
            }
            machine.turn(&mut cx, socket, out);
        });
        host.heap += grown;
        let most = oracle.heap_max(node);
        assert!(
            !node.is_client() || host.heap <= most,
            "6: {node} holds {} bytes, {most} at most",
            host.heap
        );
        let (session, app) = machine.deadlines();
        let session =
            session.map(|local| host.clock.global(local.saturating_duration_since(*epoch)) + host.late);
        let session = if open { session } else { Some(host.blocked_until) };
        host.wake = match (session, app) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let dropped = host.calls.take_dropped();
        let outgoing = std::mem::take(out);
        if dropped {
            self.machine_gone(node);
        }
        for outgoing in outgoing {
            self.send(node, outgoing);
        }
    }

    fn send(&mut self, node: NodeId, outgoing: Outgoing) {
        let from = self.book.address(node);
        let Outgoing { to, mut bytes, ecn } = outgoing;
        self.trace.sent(self.at, node, &to, &bytes);
        let Some(target) = self.book.find(to) else {
            let (got, sent) = self.strangers.entry((node, to)).or_default();
            *sent += bytes.len();
            assert!(*sent <= *got * 3, "9: {node} sent {sent} bytes to {to}, which sent it {got}");
            return;
        };
        let default = self.setup.conditions;
        let link = self.links.entry((node, target)).or_insert_with(|| Link::new(default));
        let mut fates = std::mem::take(&mut self.fates);
        link.send(self.at, bytes.len(), &mut self.network, &mut fates);
        let last = fates.len();
        for (index, fate) in fates.drain(..).enumerate() {
            let (at, damage, marked) = match fate {
                Fate::Lost(why) => {
                    self.trace.lost(self.at, node, why);
                    continue;
                }
                Fate::Arrives(at, damage, marked) => (at, damage, marked),
            };
            if index > 0 {
                self.trace.count("delivered twice");
            }
            let mut copy = if index + 1 == last { std::mem::take(&mut bytes) } else { bytes.clone() };
            match damage {
                Damage::None => {}
                Damage::Flip(bit) => {
                    self.trace.count("damaged");
                    if let Some(byte) = copy.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
                Damage::Cut(len) => {
                    self.trace.count("cut short");
                    copy.truncate(len);
                }
            }
            let ecn = match self.links.get(&(node, target)).map(|link| link.conditions.ecn) {
                Some(super::link::Marking::Bleach) => None,
                _ if marked && ecn.is_some() => Some(Ecn::Ce),
                _ => ecn,
            };
            self.push(at, Happening::Datagram { from, to, ecn, bytes: copy });
        }
        self.fates = fates;
    }

    fn connect(&mut self, node: NodeId) {
        self.machine_gone(node); // whatever ran there before
        let number = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
        self.book.assign(node, number);
        self.start(node);
        let config = ClientConfig::new(tls::client()).expect("made for QUIC");
        let config = config.transport(self.traced(node, self.setup.client_transport.clone()));
        let primary = self.setup.evil.map_or(NodeId::PRIMARY, |casting| casting.primary_of(node));
        let to = self.book.address(primary);
        let name = tls::server_name(primary.server_index());
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let now = self.epoch + host.clock.local(self.at);
        if let Some(machine) = host.machine.as_mut().and_then(Resident::honest) {
            let ((), grown) = heap::measure(|| {
                machine.connect(now, config, to, &name);
            });
            host.heap_start = host.heap;
            host.heap += grown;
        }
    }

    /// Notes that whoever reads on a machine is gone.
    fn machine_gone(&mut self, node: NodeId) {
        let present = |host: &Host| host.incarnation.checked_sub(1);
        let of = self.hosts.iter().filter(|(client, _)| client.is_client());
        let sessions = of.filter_map(|(&client, host)| Some((client, present(host)?)));
        self.oracle.machine_gone(node, sessions.filter(|(client, _)| !node.is_client() || *client == node));
    }

    fn close(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let now = self.epoch + host.clock.local(self.at);
        if let Some(Resident::Evil(machine)) = host.machine.as_mut() {
            machine.close(now);
        }
        if let Some(machine) = host.machine.as_mut().and_then(Resident::honest) {
            let ((), grown) = heap::measure(|| {
                for (_, session) in machine.sessions() {
                    let closed = session.close(now, GOODBYE, b"");
                    assert!(closed.is_ok(), "the code is the application's");
                }
                machine.touch_all();
            });
            host.heap += grown;
        }
        self.poke(node);
    }

    /// Sends rubbish: random bytes, some of which look like the start of a QUIC packet.
    fn junk(&mut self, node: NodeId, as_if_from: NodeId, len: usize) {
        let mut bytes = vec![0; len];
        self.rubbish.fill(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first |= self.rubbish.pick(&[0x00, 0x40, 0xc0]);
        }
        if self.rubbish.chance(300) && bytes.len() > 5 {
            bytes.splice(1..5, [0, 0, 0, 1]);
        }
        // Half of it comes from addresses that are nobody's, as a spoofer's does.
        let mut from = self.book.address(as_if_from);
        if self.rubbish.chance(500) {
            from = SocketAddr::from((
                [198, 51, 100, 7],
                1024 + u16::try_from(self.rubbish.below(60_000)).unwrap_or(0),
            ));
        }
        let to = self.book.address(node);
        self.push(self.at, Happening::Datagram { from, to, ecn: None, bytes });
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    /// Gives a machine a turn now.
    fn poke(&mut self, node: NodeId) {
        let at = self.at;
        if let Some(host) = self.hosts.get_mut(&node) {
            host.wake = Some(at);
        }
        if let Some(machine) = self.machine_mut(node) {
            machine.touch_all();
        }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let default = self.setup.conditions;
        self.links.entry((from, to)).or_insert_with(|| Link::new(default))
    }

    fn machine_mut(&mut self, node: NodeId) -> Option<&mut Machine> {
        self.hosts.get_mut(&node)?.machine.as_mut()?.honest()
    }
}

impl Fault {
    /// Returns what a direction becomes like, if that is the fault.
    #[must_use]
    pub fn conditions(&self) -> Option<Conditions> {
        if let Self::Become(_, _, conditions) = self { Some(*conditions) } else { None }
    }

    /// Returns the name under which it is counted.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cut(..) => "fault: cut",
            Self::Join(..) => "fault: join",
            Self::Hold(..) => "fault: hold",
            Self::Become(..) => "fault: link changes",
            Self::Pause(..) => "fault: pause",
            Self::Crash(..) => "fault: crash",
            Self::Restart(_, false) => "fault: restart",
            Self::Restart(_, true) => "fault: restart with another certificate",
            Self::Rebind(..) => "fault: rebind",
            Self::Jump(..) => "fault: clock jumps",
            Self::Block(..) => "fault: socket blocks",
            Self::Close(..) => "fault: clean close",
            Self::Junk(..) => "fault: rubbish",
            Self::Connect(..) => "connect",
        }
    }
}

/// Heap that a machine may keep after its last session: caches of TLS and capacities of maps.
const HEAP_LEFT_MAX: i64 = 64 * 1024;

/// `Instant` cannot be made from nothing: one is taken, and only differences to it are ever used.
fn epoch() -> Instant {
    Instant::now()
}
