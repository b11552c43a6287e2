//! Clients that begin a session and do not finish beginning it. Spec: RATIONALE §11.

use super::*;

/// First flights of clients that do not exist.
struct Forger {
    tls: rustls::ClientConfig,
    endpoint: Endpoint,
}

impl Forger {
    fn new(world: &World) -> Self {
        Self { tls: world.tls.clone(), endpoint: Endpoint::new([99; 32], world.now, None, true).unwrap() }
    }

    /// Sends the first flight of one more client to the primary, from an address that is not its own.
    fn flight(&mut self, world: &mut World, from: [u8; 4]) {
        let config = ClientConfig::try_from(self.tls.clone()).unwrap();
        let to = world.nodes[PRIMARY].address;
        let (handle, mut session) = self.endpoint.connect(world.now, config, to, "node1.test").unwrap();
        let mut buf = Vec::new();
        while let Some(transmit) = session.poll_transmit(world.now, 1, &mut buf) {
            world.deliver(SocketAddr::from((from, 4433)), to, &buf[..transmit.size]);
            buf.clear();
        }
        self.endpoint.forget(handle);
    }
}

impl World {
    fn primary_config(&self) -> ServerConfig {
        ServerConfig::try_from(self.primary_tls.clone())
            .unwrap()
            .primary(Arc::new(SigningKey::from_seed([7; 32])))
    }

    fn primary_endpoint(&mut self) -> &mut Endpoint {
        &mut self.nodes[PRIMARY].endpoint
    }

    /// Starts so many sessions at once, all from the client's address.
    fn crowd(&mut self, count: usize) {
        let (now, to) = (self.now, self.nodes[PRIMARY].address);
        for _ in 0..count {
            let config = ClientConfig::try_from(self.tls.clone()).unwrap();
            let node = &mut self.nodes[CLIENT];
            let (handle, session) = node.endpoint.connect(now, config, to, "node1.test").unwrap();
            node.sessions.insert(handle, session);
        }
    }

    /// Returns how many sessions of the client are there.
    fn established(&self) -> usize {
        self.nodes[CLIENT].sessions.values().filter(|session| session.session_id().is_some()).count()
    }
}

/// Two thousand forged first flights hold no more than the bound, and a client that is real gets in, a round trip later.
#[test]
fn forged_first_flights_keep_nobody_out() {
    let mut world = World::new(0);
    let mut forger = Forger::new(&world);
    for n in 0..2000_u16 {
        let [high, low] = n.to_be_bytes();
        forger.flight(&mut world, [10, high, low, 1]);
    }
    let stats = world.primary_endpoint().admission();
    assert_eq!(stats.half_open, limits::RETRY_ABOVE, "no memory for the others");
    assert_eq!(world.nodes[PRIMARY].sessions.len(), limits::RETRY_ABOVE);
    assert_eq!(stats.retries, 2000 - limits::RETRY_ABOVE as u64);
    let began = world.now;
    world.crowd(1);
    world.run(|w| w.established() == 1);
    assert!(world.now - began <= 4 * 2 * ONE_WAY, "{:?}", world.now - began);
    let stats = world.primary_endpoint().admission();
    assert_eq!(stats.retries, 2001 - limits::RETRY_ABOVE as u64);
    assert_eq!(stats.half_open, limits::RETRY_ABOVE, "the session is begun, and counts no more");
    // Those that never come are forgotten.
    world.run_for(limits::HELLO_TIMEOUT + Duration::from_secs(10));
    let stats = world.primary_endpoint().admission();
    assert_eq!((stats.half_open, stats.half_open_unvalidated), (0, 0));
    assert_eq!(world.primary_endpoint().sessions(), 1);
}

/// Flights that are forged in the name of a network, and then all of its clients at once.
#[test]
fn clients_behind_one_translator_wait_for_a_round_trip_at_most() {
    const CLIENTS: usize = 30;
    let mut world = World::new(0);
    world.crowd(CLIENTS);
    let began = world.now;
    world.run(|w| w.established() == CLIENTS);
    let usual = world.now - began;
    assert_eq!(world.primary_endpoint().admission().retries, 0);

    let mut world = World::new(0);
    let config = world.primary_config().half_open_per_prefix(40);
    world.primary_endpoint().set_server_config(Some(config)).unwrap();
    let mut forger = Forger::new(&world);
    for n in 0..100 {
        forger.flight(&mut world, [127, 0, 0, n]);
    }
    assert_eq!(world.primary_endpoint().admission().half_open, 10);
    let began = world.now;
    world.crowd(CLIENTS);
    world.run(|w| w.established() == CLIENTS);
    assert!(world.now - began <= usual + 2 * ONE_WAY, "{:?} instead of {usual:?}", world.now - began);
    let stats = world.primary_endpoint().admission();
    assert_eq!((stats.half_open, stats.half_open_peak), (10, 40));
    assert_eq!((stats.ignored_over_prefix, stats.ignored_over_max), (0, 0));
}

/// Clients that find no room get no answer, and get in once there is some: they ask again by themselves.
#[test]
fn the_bounds_hold_and_who_waits_gets_in() {
    let mut world = World::new(0);
    let config = world.primary_config().retry_above(None).half_open_max(8).half_open_per_prefix(6);
    world.primary_endpoint().set_server_config(Some(config)).unwrap();
    world.crowd(20);
    world.run(|w| w.established() == 20);
    let stats = world.primary_endpoint().admission();
    assert_eq!((stats.half_open, stats.half_open_peak, stats.retries), (0, 6, 0));
    assert!(stats.ignored_over_prefix >= 14, "{stats:?}");
    let mut forger = Forger::new(&world);
    for n in 0..20 {
        forger.flight(&mut world, [10, 0, n, 1]);
    }
    let stats = world.primary_endpoint().admission();
    assert_eq!((stats.half_open, stats.ignored_over_max), (8, 12));
}

/// A session that is not driven on is taken out of the count with its connections, and with nobody else's.
#[test]
fn a_forgotten_session_takes_its_own_connections_along() {
    let mut world = World::new(1);
    world.connect();
    world.attach(2);
    let mut forger = Forger::new(&world);
    (0..10).for_each(|n| forger.flight(&mut world, [10, 0, n, 1]));
    let handles: Vec<SessionHandle> = world.nodes[PRIMARY].sessions.keys().copied().collect();
    assert_eq!((handles.len(), world.primary_endpoint().admission().half_open), (11, 10));
    for &handle in &handles[1..6] {
        world.nodes[PRIMARY].sessions.remove(&handle);
        world.primary_endpoint().forget(handle);
        world.primary_endpoint().forget(handle);
    }
    assert_eq!((world.primary_endpoint().sessions(), world.primary_endpoint().admission().half_open), (6, 5));
    let client = world.nodes[CLIENT].sessions.pop_first().unwrap().0;
    assert_eq!(world.nodes[CLIENT].endpoint.sessions(), 1);
    world.nodes[CLIENT].endpoint.forget(client);
    assert_eq!(world.nodes[CLIENT].endpoint.sessions(), 0);
}
