//! Wall clocks that are wrong, or set anew while everything runs. Spec: PROTOCOL §9.

use std::{fmt::Write as _, sync::mpsc};

use super::*;
use crate::config::ServerConfig;

/// Passes on what is told at a level of at least `WARN`.
struct Warnings(mpsc::Sender<String>);

struct Visit<'a>(&'a mut String);

impl tracing::field::Visit for Visit<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes it");
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut Visit(&mut text));
        self.0.send(text).expect("the receiver outlives the subscriber");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Adds a path and returns what became of it, and what the servers' operators are told.
fn attempt(world: &mut World) -> (PathState, Vec<String>) {
    let (sender, told) = mpsc::channel();
    let state = tracing::subscriber::with_default(Warnings(sender), || {
        let path = world.add_path(2);
        world.run(|w| !matches!(w.session(PRIMARY).path_state(path), Some(PathState::Connecting)));
        world.session(PRIMARY).path_state(path).unwrap()
    });
    (state, told.try_iter().collect())
}

/// A client's clock may be as wrong as it likes: the two servers have to agree, and nobody else.
#[test]
fn only_the_servers_clocks_count() {
    for ahead in [-86_400, -66, 50, 66, 120, 86_400] {
        let mut world = World::new(1);
        world.nodes[CLIENT].ahead = ahead;
        world.connect();
        assert_eq!(attempt(&mut world), (PathState::Active, Vec::new()), "{ahead} s ahead");
    }
}

/// Servers that differ by more than a ticket stands are told so, and by how much.
#[test]
fn skew_is_named_to_both_operators() {
    let (ahead, behind) = (ErrorCode::CLOCK_SKEW, ErrorCode::TICKET_EXPIRED);
    for (who, by, dead) in [
        (PRIMARY, 5, None),
        (PRIMARY, 6, Some((ahead, "ahead_s=6 ", "behind_min_s=5"))),
        (PRIMARY, 3600, Some((ahead, "ahead_s=3600 ", "behind_min_s=5"))),
        (PRIMARY, -65, None),
        (PRIMARY, -120, Some((behind, "late_s=60 ", "ahead_min_s=64"))),
        (2, 60, None),
        (2, 70, Some((behind, "late_s=10 ", "ahead_min_s=64"))),
        (2, -5, None),
        (2, -30, Some((ahead, "ahead_s=30 ", "behind_min_s=5"))),
    ] {
        let mut world = World::new(1);
        world.nodes[who].ahead = by;
        world.connect();
        let (state, told) = attempt(&mut world);
        match dead {
            None => assert_eq!((state, told.len()), (PathState::Active, 0), "{who} by {by}: {told:?}"),
            Some((code, at_secondary, at_primary)) => {
                assert_eq!(state, PathState::Dead(code), "{who} by {by}");
                for what in [at_secondary, at_primary] {
                    let named = |line: &&String| line.contains("clock skew") && line.contains(what);
                    assert_eq!(told.iter().filter(named).count(), 1, "{who} by {by}, {what}: {told:?}");
                }
            }
        }
    }
}

/// A machine sleeps while its instants stand still, or somebody sets its clock: tickets go by what it says now.
#[test]
fn clocks_may_be_set_while_endpoints_live() {
    for (who, first, then) in
        [(PRIMARY, -120, 0), (PRIMARY, 120, 0), (PRIMARY, 6, 0), (2, 70, 0), (2, -70, 0)]
    {
        let mut world = World::new(1);
        world.nodes[who].ahead = first;
        world.connect();
        assert!(matches!(attempt(&mut world).0, PathState::Dead(_)), "{who} from {first}");
        world.nodes[who].ahead = then;
        world.run_for(Duration::from_secs(2));
        assert_eq!(attempt(&mut world), (PathState::Active, Vec::new()), "{who} from {first} to {then}");
    }
}

/// A job is dated when it is signed, and judged by what the secondary's clock says when its leases come.
#[test]
fn a_job_lives_by_the_wall_clock() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let stream = world.session(PRIMARY).open(Dir::Uni).unwrap();
    let minute = NewJob::new(path, range(0, 1000), "").lifetime(Duration::from_secs(60));
    let job = world.session(PRIMARY).open_job(now, stream, minute).unwrap();
    world.run_for(Duration::from_secs(1));
    world.session(2).accept_job().expect("the job");
    let mut filler = Filler { jobs: vec![job], ..Filler::default() };
    let now = world.now;
    world.session(2).take_job(now, job);
    for (ahead, at, done) in [(60, 0, true), (70, 100, false), (0, 200, true)] {
        world.nodes[2].ahead = ahead;
        let now = world.now;
        let lease = world.session(PRIMARY).lease(now, &NewLease::new(job, range(at, at + 100))).unwrap();
        let mut outcome = None;
        world.run(|w| {
            filler.turn(w.now, w.session(2));
            outcome = w.session(PRIMARY).lease_outcome(lease);
            outcome.is_some()
        });
        let missing = vec![range(at, at + 100)];
        let expired = LeaseOutcome::Lost { code: ErrorCode::TICKET_EXPIRED, missing };
        assert_eq!(outcome, Some(if done { LeaseOutcome::Done } else { expired }), "{ahead} s ahead");
    }
}

/// An endpoint's address tokens are nobody else's: they go by its own age, whatever its wall clock does meanwhile, and are
/// good for 15 s. Spec: RFC 9000 §8.1.
#[test]
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
fn a_retry_is_answered_in_time() {
    let (client_at, server_at) =
        (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
    for (pause, welcome) in [(0, true), (14, true), (17, false)] {
        let now = Instant::now();
        let authority = Authority::new();
        let config = ServerConfig::try_from(authority.server("node.test").0).unwrap();
        let config = config.primary(Arc::new(SigningKey::from_seed([7; 32])));
        let mut server = Endpoint::new([1; 32], now, Some(config), true).unwrap();
        let mut client = Endpoint::new([2; 32], now, None, true).unwrap();
        let config = ClientConfig::try_from(authority.client()).unwrap();
        let (_, mut session) = client.connect(now, config, server_at, "node.test").unwrap();
        let at_server = |server: &mut Endpoint, session: &mut Session, now: Instant, buf: &mut Vec<u8>| {
            let mut out = Vec::new();
            let transmit = session.poll_transmit(now, 1, &mut out).expect("a first flight");
            server.handle(now, client_at, None, None, BytesMut::from(&out[..transmit.size]), buf)
        };
        let mut buf = Vec::new();
        let first = at_server(&mut server, &mut session, now, &mut buf);
        let Some(DatagramEvent::Incoming(incoming)) = first else { panic!("{first:?}") };
        assert!(!incoming.remote_address_validated());
        let retry = server.retry(incoming, &mut buf).unwrap();
        let event =
            client.handle(now, server_at, None, None, BytesMut::from(&buf[..retry.size]), &mut Vec::new());
        let Some(DatagramEvent::Session(_, event)) = event else { panic!("{event:?}") };
        session.handle_event(now, UNIX, event);
        let mut buf = Vec::new();
        let later = now + Duration::from_secs(pause);
        match at_server(&mut server, &mut session, later, &mut buf) {
            Some(DatagramEvent::Incoming(incoming)) => {
                assert!(welcome && incoming.remote_address_validated(), "after {pause} s");
                server.ignore(incoming);
            }
            Some(DatagramEvent::Response(_)) => assert!(!welcome, "after {pause} s"),
            other => panic!("{other:?}"),
        }
    }
}
