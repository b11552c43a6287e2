//! Sessions over real QUIC and real TLS, in memory and in virtual time: one client, one primary, some secondaries.

use std::{collections::VecDeque, sync::Arc};

use bytes::BytesMut;
use rustls::RootCertStore;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::{
    action::{LeaseOutcome, PathState},
    config::SecondaryConfig,
    endpoint::{DatagramEvent, Endpoint, SessionHandle},
    error::{LeaseError, LeaseWriteError, ReadError},
    id::{ByteRange, Dir, JobId, LeaseId, SpkiHash},
    lease::ticket::{self, SigningKey},
};

const ONE_WAY: Duration = Duration::from_millis(10);
const CLIENT: usize = 0;
const PRIMARY: usize = 1;

/// One machine on the network.
struct Node {
    endpoint: Endpoint,
    address: SocketAddr,
    sessions: BTreeMap<SessionHandle, Session>,
    events: Vec<Event>,
    dead: bool,
}

/// The network: every datagram takes `ONE_WAY`.
struct World {
    now: Instant,
    nodes: Vec<Node>,
    in_flight: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    identities: Vec<SpkiHash>,
    tls: rustls::ClientConfig,
}

struct Authority {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

fn ca_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = ca_params().self_signed(&key).unwrap();
        Self { key, certificate }
    }

    fn server(&self, name: &str) -> (rustls::ServerConfig, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = ca_params();
        let issuer = rcgen::Issuer::from_params(&authority, &self.key);
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        (tls, certificate)
    }

    fn client(&self) -> rustls::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn new(secondaries: usize) -> Self {
        let now = Instant::now();
        let authority = Authority::new();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let mut nodes = Vec::new();
        let mut identities = Vec::new();
        for index in 0..secondaries + 2 {
            let address = SocketAddr::from(([127, 0, 0, 1], 4000 + u16::try_from(index).unwrap()));
            let server = (index != CLIENT).then(|| {
                let (tls, certificate) = authority.server(&format!("node{index}.test"));
                identities.push(ticket::spki_hash(&certificate).unwrap());
                let config = ServerConfig::new(tls).unwrap();
                if index == PRIMARY {
                    config.primary(signer.clone())
                } else {
                    use crate::lease::ticket::Signer as _;
                    config.secondary(SecondaryConfig::new(signer.public_key(), &certificate).unwrap())
                }
            });
            let seed = [u8::try_from(index).unwrap(); 32];
            let unix = Duration::from_secs(1_800_000_000);
            let endpoint = Endpoint::new(seed, now, unix, server, true).unwrap();
            nodes.push(Node {
                endpoint,
                address,
                sessions: BTreeMap::new(),
                events: Vec::new(),
                dead: false,
            });
        }
        identities.insert(CLIENT, SpkiHash::new([0; 32]));
        Self { now, nodes, in_flight: VecDeque::new(), identities, tls: authority.client() }
    }

    fn connect(&mut self) {
        let config = ClientConfig::new(self.tls.clone()).unwrap();
        let address = self.nodes[PRIMARY].address;
        let node = &mut self.nodes[CLIENT];
        let (handle, session) = node.endpoint.connect(self.now, config, address, "node1.test").unwrap();
        node.sessions.insert(handle, session);
        self.run(|w| w.nodes[PRIMARY].sessions.values().any(|s| s.role() == Some(Role::Primary)));
        self.run(|w| w.session(CLIENT).session_id().is_some());
    }

    fn session(&mut self, node: usize) -> &mut Session {
        self.nodes[node].sessions.values_mut().next().expect("a session")
    }

    fn add_path(&mut self, node: usize) -> PathId {
        let new = NewPath::new(self.nodes[node].address, &format!("node{node}.test"), self.identities[node]);
        let now = self.now;
        self.session(PRIMARY).add_path(now, new).unwrap()
    }

    fn attach(&mut self, node: usize) -> PathId {
        let path = self.add_path(node);
        self.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
        path
    }

    /// Steps until `done`, at most a virtual minute.
    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(60);
        for steps in 0.. {
            self.drain();
            if done(self) {
                return;
            }
            // What `done` asked for may have to be sent before time goes on.
            self.drain();
            assert!(steps < 1_000_000, "busy at one instant");
            assert!(self.now < end, "not done after a virtual minute");
            self.step();
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run(|w| w.now >= end);
    }

    /// Jumps to whatever happens next.
    fn step(&mut self) {
        let mut next = self.in_flight.front().map(|(at, ..)| *at);
        for node in self.nodes.iter_mut().filter(|node| !node.dead) {
            for session in node.sessions.values_mut() {
                next = earliest(next, session.poll_timeout());
            }
        }
        self.now = next.map_or(self.now + Duration::from_millis(100), |at| at.max(self.now));
        let now = self.now;
        while self.in_flight.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, from, to, bytes) = self.in_flight.pop_front().unwrap();
            self.deliver(from, to, &bytes);
        }
        for node in self.nodes.iter_mut().filter(|node| !node.dead) {
            for session in node.sessions.values_mut() {
                if session.poll_timeout().is_some_and(|at| at <= now) {
                    session.handle_timeout(now);
                }
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let Some(node) = self.nodes.iter_mut().find(|node| node.address == to && !node.dead) else {
            return;
        };
        let mut buf = Vec::new();
        match node.endpoint.handle(now, from, None, None, BytesMut::from(bytes), &mut buf) {
            None => {}
            Some(DatagramEvent::Session(handle, event)) => {
                node.sessions.get_mut(&handle).unwrap().handle_event(now, event);
            }
            Some(DatagramEvent::Incoming(incoming)) => {
                let (handle, session) = node.endpoint.accept(now, incoming, &mut buf).unwrap();
                node.sessions.insert(handle, session);
            }
            Some(DatagramEvent::Response(_)) => {
                self.in_flight.push_back((now + ONE_WAY, to, from, buf));
            }
        }
    }

    fn drain(&mut self) {
        let now = self.now;
        for node in self.nodes.iter_mut().filter(|node| !node.dead) {
            for (&handle, session) in &mut node.sessions {
                while let Some(event) = session.poll_endpoint_event() {
                    if let Some(answer) = node.endpoint.handle_session_event(now, handle, event) {
                        session.handle_event(now, answer);
                    }
                }
                let mut buf = Vec::new();
                while let Some(transmit) = session.poll_transmit(now, 10, &mut buf) {
                    let segment = transmit.segment_size.unwrap_or(transmit.size);
                    for datagram in buf[..transmit.size].chunks(segment) {
                        let leg = (now + ONE_WAY, node.address, transmit.destination, datagram.to_vec());
                        self.in_flight.push_back(leg);
                    }
                    buf.clear();
                }
                while let Some(event) = session.poll_event() {
                    node.events.push(event);
                }
            }
            node.sessions.retain(|_, session| !session.is_drained());
        }
    }
}

/// The byte at an offset of the test object.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn object(range: ByteRange) -> Bytes {
    (range.start()..range.end()).map(byte).collect::<Vec<u8>>().into()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

/// Everything a secondary's application does: takes jobs, fills leases.
#[derive(Default)]
struct Filler {
    jobs: Vec<JobId>,
    leases: Vec<(LeaseId, ByteRange, u64)>,
}

impl Filler {
    fn turn(&mut self, now: Instant, session: &mut Session) {
        while let Some(job) = session.accept_job() {
            session.take_job(now, job.id);
            self.jobs.push(job.id);
        }
        for &job in &self.jobs {
            while let Ok(Some(lease)) = session.next_lease(job) {
                self.leases.push((lease.id, lease.range, 0));
            }
        }
        for (lease, range, sent) in &mut self.leases {
            while *sent < range.len() {
                let next = range_from(*range, *sent, 50_000);
                match session.write_lease(now, *lease, &mut [object(next)]) {
                    Ok(written) => *sent += written.bytes as u64,
                    Err(LeaseWriteError::Blocked) => break,
                    Err(_) => *sent = range.len(),
                }
            }
        }
    }
}

fn range_from(range: ByteRange, sent: u64, max: u64) -> ByteRange {
    ByteRange::new(range.start() + sent, max.min(range.len() - sent)).unwrap()
}

/// Reads whatever is there; returns whether the end was reached.
fn read_all(
    now: Instant,
    session: &mut Session,
    stream: StreamId,
    ordered: bool,
    got: &mut Vec<Option<u8>>,
) -> bool {
    loop {
        match session.read(now, stream, usize::MAX, ordered) {
            Ok(Some(chunk)) => {
                let start = usize::try_from(chunk.offset).unwrap();
                got.resize(got.len().max(start + chunk.bytes.len()), None);
                for (slot, byte) in got[start..].iter_mut().zip(&chunk.bytes) {
                    assert_eq!(slot.replace(*byte), None, "a byte was delivered twice");
                }
            }
            Ok(None) => return true,
            Err(ReadError::Blocked) => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn check(got: &[Option<u8>], size: u64) {
    assert_eq!(got.len() as u64, size);
    assert!(got.iter().zip(0..).all(|(got, offset)| *got == Some(byte(offset))), "wrong bytes");
}

#[test]
fn a_plain_stream_is_plain() {
    let mut world = World::new(0);
    world.connect();
    let now = world.now;
    for dir in [Dir::Bi, Dir::Uni] {
        let stream = world.session(CLIENT).open(dir).unwrap();
        world.session(CLIENT).write(now, stream, &mut [object(range(0, 5000))]).unwrap();
        world.session(CLIENT).finish(now, stream).unwrap();
        world.run(|w| w.session(PRIMARY).accept(dir).inspect(|s| assert_eq!(*s, stream)).is_some());
        let mut got = Vec::new();
        world.run(|w| {
            let now = w.now;
            read_all(now, w.session(PRIMARY), stream, true, &mut got)
        });
        check(&got, 5000);
        world.run(|w| w.session(CLIENT).stopped(stream).is_err());
    }
}

/// The whole way: a native start, ranges of two secondaries and of the primary itself, a sequential end.
#[test]
fn one_stream_from_three_servers() {
    for ordered in [true, false] {
        let mut world = World::new(2);
        world.connect();
        let paths = [world.attach(2), world.attach(3)];
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Bi).unwrap();
        primary.write(now, stream, &mut [object(range(0, 1000))]).unwrap();
        let whole = range(1000, 20_000_000);
        let jobs =
            paths.map(|path| primary.open_job(now, stream, NewJob::new(path, whole, "object")).unwrap());
        let first = primary.lease(now, jobs[0], range(1000, 6_000_000)).unwrap();
        let second = primary.lease(now, jobs[1], range(6_000_000, 9_000_000)).unwrap();
        let third = primary.lease(now, jobs[1], range(9_000_000, 12_000_000)).unwrap();
        assert_eq!(primary.lease(now, jobs[1], range(5_999_999, 6_000_001)), Err(LeaseError::Overlap));
        let run_range = range(12_000_000, 15_000_000);
        let run = primary.write_at(now, stream, run_range).unwrap();
        let (mut run_sent, mut tail_sent) = (0, 0);
        let tail = range(15_000_000, 16_000_000);
        let mut fillers = [Filler::default(), Filler::default()];
        let mut got = Vec::new();
        let mut accepted = false;
        world.run(|w| {
            let now = w.now;
            for (node, filler) in fillers.iter_mut().enumerate() {
                filler.turn(now, w.session(node + 2));
            }
            let primary = w.session(PRIMARY);
            while run_sent < run_range.len() {
                let next = range_from(run_range, run_sent, 70_000);
                match primary.write_run(now, run, &mut [object(next)]) {
                    Ok(written) => run_sent += written.bytes as u64,
                    Err(error) => {
                        assert_eq!(error, LeaseWriteError::Blocked);
                        break;
                    }
                }
            }
            while tail_sent < tail.len() {
                match primary.write(now, stream, &mut [object(range_from(tail, tail_sent, 9_999))]) {
                    Ok(written) => tail_sent += written.bytes as u64,
                    Err(error) => {
                        assert_eq!(error, crate::error::WriteError::Blocked);
                        break;
                    }
                }
                if tail_sent == tail.len() {
                    primary.finish(now, stream).unwrap();
                }
            }
            let client = w.session(CLIENT);
            accepted = accepted || client.accept(Dir::Bi).is_some();
            accepted && read_all(now, client, stream, ordered, &mut got)
        });
        check(&got, 16_000_000);
        world.run(|w| w.session(PRIMARY).stopped(stream).is_err());
        for lease in [first, second, third] {
            assert_eq!(world.session(PRIMARY).lease_outcome(lease), Some(LeaseOutcome::Done));
        }
        assert_eq!(world.session(PRIMARY).run_outcome(run), Some(LeaseOutcome::Done));
        let stats = world.session(CLIENT).stats();
        assert!(stats.held_bytes_max <= limits::SESSION_WINDOW);
        assert_eq!(stats.held_bytes, 0);
        assert_eq!(stats.sources[&paths[0]].bytes, 5_999_000);
        assert_eq!(stats.sources[&paths[1]].bytes, 6_000_000);
        assert_eq!(stats.sources[&HOME].bytes, 4_000_000);
        // Nothing of it reached accept, and the native slot is free again.
        assert_eq!(world.session(CLIENT).accept(Dir::Uni), None);
        assert_eq!(world.session(CLIENT).accept(Dir::Bi), None);
        world.run_for(Duration::from_secs(1));
        let client = world.session(CLIENT);
        assert!(client.recv.is_empty() && client.draining.is_empty());
    }
}

/// A secondary that vanishes without a word costs well under a second, and its range is given to another.
#[test]
fn a_silent_death_is_noticed_in_a_few_round_trips() {
    let mut world = World::new(2);
    world.connect();
    let paths = [world.attach(2), world.attach(3)];
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let whole = range(0, 4_000_000);
    let jobs = paths.map(|path| primary.open_job(now, stream, NewJob::new(path, whole, "")).unwrap());
    let doomed = primary.lease(now, jobs[0], whole).unwrap();
    let mut fillers = [Filler::default(), Filler::default()];
    let mut got = Vec::new();
    let turn = |w: &mut World, fillers: &mut [Filler; 2], got: &mut Vec<Option<u8>>| {
        let now = w.now;
        for (filler, node) in fillers.iter_mut().zip(&mut w.nodes[2..]).filter(|(_, node)| !node.dead) {
            filler.turn(now, node.sessions.values_mut().next().unwrap());
        }
        let client = w.session(CLIENT);
        client.accept(Dir::Uni);
        client.recv.contains_key(&stream) && read_all(now, client, stream, true, got)
    };
    world.run(|w| {
        turn(w, &mut fillers, &mut got);
        got.len() > 500_000
    });
    world.nodes[2].dead = true;
    let died = world.now;
    let mut outcome = None;
    world.run(|w| {
        turn(w, &mut fillers, &mut got);
        outcome = w.session(PRIMARY).lease_outcome(doomed);
        outcome.is_some()
    });
    let noticed = world.now - died;
    assert!(noticed < Duration::from_millis(300), "noticed after {noticed:?}");
    let Some(LeaseOutcome::Lost { code, missing }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(code, ErrorCode::PATH_STALLED);
    assert_eq!(world.session(PRIMARY).path_state(paths[0]), Some(PathState::Degraded));
    assert_eq!(missing.len(), 1);
    assert!(missing[0].start() >= 500_000 && missing[0].end() == 4_000_000);
    let now = world.now;
    let primary = world.session(PRIMARY);
    primary.lease(now, jobs[1], missing[0]).unwrap();
    primary.finish(now, stream).unwrap();
    world.run(|w| turn(w, &mut fillers, &mut got));
    check(&got, 4_000_000);
}

/// Without a primary nobody hands ranges out: what is contiguous stays readable, then the error names the hole.
#[test]
fn the_primary_lost_names_the_missing_range() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Bi).unwrap();
    primary.write(now, stream, &mut [object(range(0, 1000))]).unwrap();
    let job = primary.open_job(now, stream, NewJob::new(path, range(1000, 9000), "")).unwrap();
    primary.lease(now, job, range(1000, 5000)).unwrap();
    let mut filler = Filler::default();
    world.run(|w| {
        let now = w.now;
        filler.turn(now, w.session(2));
        w.session(CLIENT).stats().held_bytes == 4000
    });
    let now = world.now;
    world.session(PRIMARY).close(now, ErrorCode::from_u32(5), b"bye").unwrap();
    world.run(|w| w.session(CLIENT).lost().is_some());
    let now = world.now;
    let client = world.session(CLIENT);
    assert_eq!(client.accept(Dir::Bi), Some(stream));
    let mut got = 0;
    let error = loop {
        match client.read(now, stream, usize::MAX, true) {
            Ok(chunk) => got += chunk.expect("no end").bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(got, 5000);
    let missing = range(5000, crate::id::OFFSET_MAX);
    assert_eq!(error, ReadError::Incomplete { stream, missing, code: ErrorCode::PRIMARY_LOST });
    world.run(|w| w.nodes[2].sessions.is_empty());
}

#[test]
fn a_path_that_nobody_answers_is_reported_within_three_seconds() {
    let mut world = World::new(1);
    world.connect();
    world.nodes[2].dead = true;
    let path = world.add_path(2);
    let asked = world.now;
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Dead(ErrorCode::PATH_DEAD)));
    assert!(world.now - asked < Duration::from_secs(3));
}

#[test]
fn the_wrong_server_is_refused_before_it_sees_the_ticket() {
    let mut world = World::new(2);
    world.connect();
    // The name is right and the certificate valid for it, but the key is another server's.
    let new = NewPath::new(world.nodes[2].address, "node2.test", world.identities[3]);
    let now = world.now;
    let path = world.session(PRIMARY).add_path(now, new).unwrap();
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Dead(ErrorCode::AUTH_FAILED)));
    // A name that the certificate is not valid for.
    let new = NewPath::new(world.nodes[2].address, "node3.test", world.identities[2]);
    let now = world.now;
    let path = world.session(PRIMARY).add_path(now, new).unwrap();
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Dead(ErrorCode::AUTH_FAILED)));
}

#[test]
fn a_job_may_be_refused_and_its_leases_with_it() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Bi).unwrap();
    let job = primary.open_job(now, stream, NewJob::new(path, range(0, 100), "?")).unwrap();
    let lease = primary.lease(now, job, range(0, 100)).unwrap();
    let code = ErrorCode::from_u32(404);
    world.run(|w| {
        let now = w.now;
        let secondary = w.session(2);
        if let Some(job) = secondary.accept_job() {
            assert_eq!(job.payload, "?");
            secondary.refuse_job(now, job.id, code);
        }
        w.session(PRIMARY).job_answer(job) == Some(Err(code))
    });
    let mut outcome = None;
    world.run(|w| {
        outcome = w.session(PRIMARY).lease_outcome(lease);
        outcome.is_some()
    });
    assert_eq!(outcome, Some(LeaseOutcome::Lost { code, missing: vec![range(0, 100)] }));
    let now = world.now;
    assert_eq!(world.session(PRIMARY).lease(now, job, range(0, 100)), Err(LeaseError::JobClosed));
}
