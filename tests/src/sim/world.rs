//! A world: machines, the network between them, and virtual time.
//!
//! One thread, one queue. Each step takes the earliest thing that happens (a datagram arrives, a fault begins, a
//! machine's timer is due), lets the machine concerned work it off, and checks what must be true.

mod fault;
mod forgery;
mod host;
mod machines;
mod network;
mod setup;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use kwik_core::{Effort, Session, SigningKey, TransportConfig};

pub(crate) use self::forgery::ids;
pub use self::{
    fault::{Fault, Forgery},
    setup::{Clocks, Setup},
};
use self::{
    host::Host,
    network::{Egress, Happening},
};
use super::{
    NodeId,
    app::{App, Calls, ClientPlan, Cx, Offer, OpenPlan, PrimaryPlan, SecondaryPlan},
    book::Book,
    dice::{Dice, derive},
    evil::{Casting, Seen},
    heap,
    link::{Conditions, Fate, Link},
    machine::{Arrival, Machine, Outgoing, Socket},
    oracle::Oracle,
    resident::Resident,
    tls,
    trace::{Record, Trace},
};

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
    queue: BTreeMap<(Duration, Option<SocketAddr>, u64), Happening>,
    hosts: BTreeMap<NodeId, Host>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    network: Dice,
    rubbish: Dice,
    oracle: Oracle,
    trace: Trace,
    book: Book,
    setup: Setup,
    signer: Arc<SigningKey>,
    /// Bytes that machines got from, and sent to, addresses.
    egress: BTreeMap<(NodeId, SocketAddr), Egress>,
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
            nat: None,
            reset_keys: false,
            evil: None,
            timed: false,
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
            egress: BTreeMap::new(),
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
        let ((), grown) = heap::measure(|| {
            if let Some(App::Primary(app)) = self.machine_mut(NodeId::PRIMARY).map(Machine::app_mut) {
                app.offer(offer);
            }
        });
        self.grown(NodeId::PRIMARY, grown);
        self.poke(NodeId::PRIMARY);
    }

    /// Has a client open one more stream.
    pub fn open(&mut self, node: NodeId, open: OpenPlan) {
        let ((), grown) = heap::measure(|| {
            if let Some(App::Client(app)) = self.machine_mut(node).map(Machine::app_mut) {
                app.open_also(open);
            }
        });
        self.grown(node, grown);
        self.poke(node);
    }

    /// Counts heap that a machine has come to hold outside its turns.
    fn grown(&mut self, node: NodeId, bytes: i64) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.heap += bytes;
        }
    }

    /// Forgets what is known of streams that have come to their ends. Everything [is done](Self::is_done) then.
    pub fn forget_streams(&mut self) {
        self.oracle.forget_streams();
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
                self.egress.retain(|(of, _), _| *of != node); // it has forgotten who is where
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
            Fault::Move(node) => {
                if self.hosts.get(&node).is_some_and(|host| host.machine.is_some()) {
                    self.book.relocate(node);
                }
            }
            Fault::Reuse(node, of) => {
                let live = |node| self.hosts.get(&node).is_some_and(|host| host.machine.is_some());
                if node != of && live(node) && live(of) {
                    let address = self.book.address(of);
                    self.book.relocate(of);
                    self.book.take_over(node, address);
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
            Fault::Forge(node, as_if_from, forgery) => self.forge(node, as_if_from, forgery),
            Fault::Connect(node) => self.connect(node),
            Fault::Wake(node) => {
                if let Some(Resident::Honest(machine)) =
                    self.hosts.get_mut(&node).and_then(|host| host.machine.as_mut())
                {
                    machine.wake_early();
                }
                self.poke(node);
            }
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
        self.setup.nat = None;
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
        let apps = self
            .hosts
            .values()
            .filter_map(|host| host.machine.as_ref())
            .all(|machine| machine.is_done(&self.oracle));
        apps && self.oracle.settled()
    }

    /// The machines whose applications are not done, with what they are at.
    fn busy(&self) -> Vec<String> {
        let machines = self.hosts.iter().filter_map(|(node, host)| Some((node, host.machine.as_ref()?)));
        let busy = machines.filter(|(_, machine)| !machine.is_done(&self.oracle));
        busy.map(|(node, machine)| format!("{node} is not done: {}", machine.occupation())).collect()
    }

    /// Runs until `done` says so.
    ///
    /// # Panics
    /// If that is not so `limit` later, or if anything is not as it must be.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.at + limit;
        while !done(self) {
            let unsettled = || {
                let mut all = self.oracle.unsettled();
                all.extend(self.busy());
                all.join("\n  ")
            };
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

    /// Checks that everything was delivered, in a world where nothing happened that could end a session.
    ///
    /// # Panics
    /// If it was not.
    pub fn check_calm(&self) {
        self.oracle.check_calm();
    }

    /// Runs until servers have said to each other what they have to say, and heard it back, in such a world.
    ///
    /// # Panics
    /// If that is not so `limit` later.
    pub fn hear_out(&mut self, limit: Duration) {
        let end = self.at + limit;
        loop {
            let machines = self.hosts.values().filter_map(|host| host.machine.as_ref());
            let unanswered: usize = machines.map(Resident::unanswered).sum();
            if unanswered == 0 {
                return;
            }
            assert!(
                self.at < end,
                "calm: {unanswered} messages are not answered, and nothing was in the way"
            );
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
        // A round-trip sample taken across a clock's jump is as long as that, and a closed connection stays for three probe
        // timeouts (RFC 9000 §10.2), each three times the sample at first.
        let jumped = self.hosts.values().map(|host| host.clock.ahead).max().unwrap_or_default();
        let idle = Duration::from_secs(3600) + jumped * 12;
        let gone = |host: &Host| host.machine.as_ref().is_none_or(|machine| machine.left() == (0, 0));
        let end = self.at + idle;
        while !self.hosts.values().all(gone) {
            let left = || {
                let of = self.hosts.iter().filter(|(_, host)| !gone(host));
                of.map(|(node, host)| format!("{node} until {:?}", host.wake)).collect::<Vec<_>>().join(", ")
            };
            assert!(self.at < end, "13: sessions are left {idle:?} after everything was closed: {}", left());
            self.step(end);
        }
        for (node, host) in self.hosts.iter().filter(|(node, _)| self.oracle.is_honest(**node)) {
            let left = host.heap - host.heap_start - host.machine.as_ref().map_or(0, Resident::scratch);
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
        let scratch = |host: &Host| host.machine.as_ref().map_or(0, Resident::scratch);
        self.hosts.get(&node).map(|host| host.heap - scratch(host)).unwrap_or_default()
    }

    /// Returns the bytes that a machine has received, and the processor's time that it took, if that is
    /// [measured](Setup::timed).
    #[must_use]
    pub fn load(&self, node: NodeId) -> (u64, Duration) {
        self.hosts.get(&node).map(|host| (host.received, host.busy)).unwrap_or_default()
    }

    /// Returns what its peers made a session of an honest machine do: the one that it has with a `client`, or the client's
    /// own, even if it is over.
    #[must_use]
    pub fn effort(&self, node: NodeId, client: NodeId) -> Option<Effort> {
        let of = (!node.is_client()).then_some(client);
        self.hosts.get(&node)?.machine.as_ref()?.effort(of)
    }

    /// Returns what a machine that a script runs has done and seen.
    #[must_use]
    pub fn seen(&self, node: NodeId) -> Option<&Seen> {
        Some(self.hosts.get(&node)?.machine.as_ref()?.evil()?.seen())
    }

    // What happens.

    /// Takes the next thing that happens, or goes on to `end` if nothing does before.
    fn step(&mut self, end: Duration) {
        let event = self.queue.first_key_value().map(|(&(at, ..), _)| at);
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
                    Happening::Datagram { to, arrival, answers } => self.deliver(to, arrival, answers),
                    Happening::Fault(fault) => self.apply(fault),
                }
            }
        } else if let Some((_, node)) = wake {
            self.turn(node, None);
        }
    }

    /// Lets a machine take a datagram, if there is one, and do all that is to be done.
    fn turn(&mut self, node: NodeId, datagram: Option<Arrival>) {
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
        let unix = host.clock.unix(*at);
        let mut cx = Cx { now, unix, at: *at, node, client: None, dice, oracle, trace, book, calls };
        host.received +=
            backlog.iter().chain(&datagram).map(|arrival| arrival.bytes.len() as u64).sum::<u64>();
        let begun = setup.timed.then(ThreadTime::now);
        let ((), grown) = heap::measure(|| {
            for arrival in backlog.iter().chain(&datagram) {
                machine.handle(&mut cx, arrival, out);
            }
            machine.turn(&mut cx, socket, out);
        });
        host.busy += begun.map(|begun| begun.elapsed()).unwrap_or_default();
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
        // Timers run on time though nothing can be sent; what is due and cannot be said waits for the socket.
        let later = session.filter(|due| open || *due > *at);
        let unblocked = (!open).then_some(host.blocked_until);
        let session = [later, unblocked].into_iter().flatten().min();
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

    fn push(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        // At one instant faults go first, then one sender's datagrams after another's: whose were sent first may depend on
        // machines that have nothing to do with it.
        let from = match &happening {
            Happening::Datagram { arrival, .. } => Some(arrival.from),
            Happening::Fault(_) => None,
        };
        self.queue.insert((at, from, self.sequence), happening);
    }
}

/// Heap that a machine may keep after its last session: caches of TLS and capacities of maps.
const HEAP_LEFT_MAX: i64 = 64 * 1024;

/// `Instant` cannot be made from nothing: one is taken, and only differences to it are ever used.
fn epoch() -> Instant {
    Instant::now()
}
