//! Clients whose address changes, and machines that sleep. Spec: PROTOCOL §8.6.

use super::*;
use crate::action::RunId;

/// Bytes per second that the primary sends.
const RATE: u64 = 1_000_000;
const SIZE: u64 = 2_000_000;

/// A primary that sends one stream at an even pace, and a client that reads it.
struct Download {
    stream: StreamId,
    run: Option<RunId>,
    begun: Instant,
    sent: u64,
    got: Vec<Option<u8>>,
    /// Instant at which something came last, and the longest time that nothing did.
    last: Instant,
    longest: Duration,
}

impl Download {
    fn begin(world: &mut World, by_run: bool) -> Self {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        let run = by_run.then(|| primary.write_at(now, stream, range(0, SIZE)).unwrap());
        let (begun, last) = (now, now);
        Self { stream, run, begun, sent: 0, got: Vec::new(), last, longest: Duration::ZERO }
    }

    /// Writes what is due and reads what is there; returns whether all of it has come.
    fn turn(&mut self, world: &mut World) -> bool {
        let now = world.now;
        let due = u64::try_from((now - self.begun).as_millis()).unwrap() * RATE / 1000;
        while let Some(next) = ByteRange::between(self.sent, due.min(SIZE)) {
            let Some(primary) = world.nodes[PRIMARY].sessions.values_mut().next() else {
                break; // given up
            };
            let written = match self.run {
                Some(run) => primary.write_run(now, run, &mut [object(next)]).ok(),
                None => primary.write(now, self.stream, &mut [object(next)]).ok(),
            };
            let Some(written) = written else {
                break;
            };
            self.sent += written.bytes as u64;
            if self.sent == SIZE {
                primary.finish(now, self.stream).unwrap();
            }
        }
        let before = self.got.len();
        let client = world.session(CLIENT);
        client.accept(Dir::Uni);
        let ended = reads(client, self.stream) && read_all(now, client, self.stream, true, &mut self.got);
        if self.got.len() > before {
            self.longest = self.longest.max(now - self.last);
            self.last = now;
        }
        ended
    }

    fn run_for(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        world.alarm = Some(end);
        world.run(|w| {
            self.turn(w);
            w.now >= end
        });
        world.alarm = None;
    }

    fn finish(&mut self, world: &mut World) {
        world.run(|w| self.turn(w));
        check(&self.got, SIZE);
    }
}

/// Loses from now on what comes to the client's old address.
fn move_client(world: &mut World) {
    let address = &mut world.nodes[CLIENT].address;
    *address = SocketAddr::new(address.ip(), address.port() + 1000);
}

fn client_datagrams(world: &mut World) -> u64 {
    world.session(CLIENT).stats().paths[&HOME].udp_tx_datagrams
}

/// While a client only reads, its translator gives it another port. It owes nothing when that happens: the acknowledgements
/// on their way are lost with the mapping. The server's packets go to the old port from then on, until the client says
/// something, which it once did not: whoever read from the primary alone died of the idle timeout.
#[test]
fn a_reader_is_found_again_behind_a_new_port() {
    for by_run in [false, true] {
        for attempt in 0..3 {
            let mut world = World::new(0);
            world.connect();
            let mut download = Download::begin(&mut world, by_run);
            download.run_for(&mut world, Duration::from_millis(500 + 7 * attempt));
            world.loss = 1000;
            download.run_for(&mut world, Duration::from_millis(60));
            world.loss = 0;
            move_client(&mut world);
            download.finish(&mut world);
            assert!(
                download.longest < Duration::from_millis(500),
                "by run {by_run}, attempt {attempt}: nothing came for {:?}",
                download.longest
            );
        }
    }
}

/// The same while the server takes its time: what it sends at last is late by no more than it took itself.
#[test]
fn a_reader_that_waits_for_long_is_found_again() {
    let mut world = World::new(0);
    world.connect();
    let now = world.now;
    let stream = world.session(CLIENT).open(Dir::Bi).unwrap();
    world.session(CLIENT).write(now, stream, &mut [object(range(0, 10))]).unwrap();
    world.run(|w| w.session(PRIMARY).accept(Dir::Bi).is_some());
    world.run_for(Duration::from_secs(3));
    move_client(&mut world);
    let now = world.now;
    world.session(PRIMARY).write(now, stream, &mut [object(range(0, 10))]).unwrap();
    let mut got = Vec::new();
    world.run(|w| {
        let now = w.now;
        read_all(now, w.session(CLIENT), stream, true, &mut got);
        got.len() == 10
    });
    assert!(world.now - now < Duration::from_secs(3), "{:?}", world.now - now);
}

/// A session that nothing is open in says nothing and ends as idle; one that something is waited for in lives, for a packet
/// every ten seconds.
#[test]
fn idle_sessions_are_silent_and_waiting_ones_cost_a_keep_alive() {
    let mut world = World::new(0);
    world.connect();
    world.run_for(Duration::from_secs(1));
    let (begun, sent) = (world.now, client_datagrams(&mut world));
    world.run(|w| {
        if let Some(session) = w.nodes[CLIENT].sessions.values().next() {
            assert_eq!(session.stats().paths[&HOME].udp_tx_datagrams, sent);
        }
        w.nodes[CLIENT].events.contains(&Event::Lost(ConnectionError::TimedOut))
    });
    assert!(world.now - begun <= Duration::from_secs(30));

    let mut world = World::new(0);
    world.connect();
    let now = world.now;
    let stream = world.session(PRIMARY).open(Dir::Uni).unwrap();
    world.session(PRIMARY).write(now, stream, &mut [object(range(0, 10))]).unwrap();
    world.run_for(Duration::from_secs(1));
    let sent = client_datagrams(&mut world);
    world.run_for(Duration::from_secs(590));
    assert_eq!(world.session(CLIENT).lost(), None);
    let cost = client_datagrams(&mut world) - sent;
    assert!(cost <= 6 + 59, "{cost} datagrams in ten minutes");
}

/// The client's machine sleeps, as laptops and phones do: timers run late by as long, what was sent meanwhile is lost, and
/// it wakes up in another network.
#[test]
fn a_machine_that_dozes_goes_on_when_it_wakes() {
    for (by_run, secs) in [(false, 2), (false, 20), (true, 2), (true, 20)] {
        let mut world = World::new(1);
        world.connect();
        let path = world.attach(2);
        let mut download = Download::begin(&mut world, by_run);
        download.run_for(&mut world, Duration::from_millis(500));
        world.nodes[CLIENT].stalled = true;
        world.run_for(Duration::from_secs(secs));
        world.nodes[CLIENT].waiting.clear();
        move_client(&mut world);
        world.nodes[CLIENT].stalled = false;
        let woken = world.now;
        let before = download.got.len();
        world.run(|w| {
            download.turn(w);
            download.got.len() > before
        });
        assert!(world.now - woken < Duration::from_secs(1), "{secs} s: {:?}", world.now - woken);
        download.finish(&mut world);
        assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Active), "nobody else is blamed");
    }
}

/// Minutes later the servers have given the client up. It learns so at once, and ends once.
#[test]
fn a_machine_that_slept_for_minutes_ends_its_session_at_once() {
    let mut world = World::new(1);
    world.connect();
    world.attach(2);
    let mut download = Download::begin(&mut world, false);
    download.run_for(&mut world, Duration::from_millis(500));
    world.nodes[CLIENT].stalled = true;
    world.run_for(Duration::from_secs(300));
    world.nodes[CLIENT].waiting.clear();
    world.nodes[CLIENT].stalled = false;
    let woken = world.now;
    let lost = Event::Lost(ConnectionError::TimedOut);
    world.run(|w| w.nodes[CLIENT].events.contains(&lost));
    assert!(world.now - woken < Duration::from_secs(1), "{:?}", world.now - woken);
    world.run_for(Duration::from_secs(60));
    let ends = world.nodes[CLIENT].events.iter().filter(|event| matches!(event, Event::Lost(_)));
    assert!(ends.eq([&lost]));
}

/// Told that the network has changed, a client says so on all of its paths at once, idle ones included.
#[test]
fn a_client_that_is_told_of_its_move_tells_all_servers() {
    let mut world = World::new(2);
    world.connect();
    world.attach(2);
    world.attach(3);
    world.run_for(Duration::from_secs(5));
    move_client(&mut world);
    let (now, address) = (world.now, world.nodes[CLIENT].address);
    world.session(CLIENT).handle_network_change(now);
    world.run_for(ONE_WAY * 2);
    for node in [PRIMARY, 2, 3] {
        assert_eq!(world.session(node).remote_address(), address, "node {node}");
    }
    // Servers have nobody to tell.
    world.run_for(Duration::from_secs(5));
    let before = world.session(PRIMARY).stats().paths[&HOME].udp_tx_datagrams;
    let now = world.now;
    world.session(PRIMARY).handle_network_change(now);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.session(PRIMARY).stats().paths[&HOME].udp_tx_datagrams, before);
}
