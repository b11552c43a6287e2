//! Sessions over real QUIC and real TLS, in memory and in virtual time: one client, one primary, some secondaries.

mod addresses;
mod clocks;
mod control;
mod edges;
mod ends;
mod half_open;
mod keys;
mod late;
mod permits;
mod price;
mod progress;
mod questions;
mod relay;
mod retry;
mod roaming;

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

/// The wall clock of every world at its start, since the Unix epoch.
const UNIX: Duration = Duration::from_secs(1_800_000_000);
const ONE_WAY: Duration = Duration::from_millis(10);
const CLIENT: usize = 0;
const PRIMARY: usize = 1;

/// Returns whether the application may read the stream.
fn reads(session: &Session, stream: StreamId) -> bool {
    session.links.home.inbound.half(stream).is_some()
}

/// One machine on the network.
struct Node {
    endpoint: Endpoint,
    address: SocketAddr,
    /// It has these addresses as well, with the same port.
    also: Vec<IpAddr>,
    sessions: BTreeMap<SessionHandle, Session>,
    events: Vec<Event>,
    /// Its application has not answered these: it takes its time, if it `thinks`.
    questions: Vec<(SessionHandle, Question)>,
    thinks: bool,
    dead: bool,
    /// Seconds by which its wall clock is ahead of the others'.
    ahead: i64,
    /// Does not run; what arrives waits, as in a socket's buffer.
    stalled: bool,
    waiting: Vec<(SocketAddr, Vec<u8>)>,
}

impl Node {
    fn is_at(&self, address: SocketAddr) -> bool {
        address == self.address
            || (address.port() == self.address.port() && self.also.contains(&address.ip()))
    }

    fn runs(&self) -> bool {
        !self.dead && !self.stalled
    }

    /// Its wall clock, when the world is so old.
    fn unix(&self, age: Duration) -> Duration {
        let wrong = Duration::from_secs(self.ahead.unsigned_abs());
        if self.ahead < 0 { UNIX + age - wrong } else { UNIX + age + wrong }
    }
}

/// A datagram: when it arrives, where it is from and for, and its bytes.
type Leg = (Instant, SocketAddr, SocketAddr, Vec<u8>);

/// The network: every datagram takes `one_way`.
struct World {
    started: Instant,
    now: Instant,
    /// Time does not jump over this instant.
    alarm: Option<Instant>,
    one_way: Duration,
    nodes: Vec<Node>,
    in_flight: VecDeque<Leg>,
    /// Datagrams for this node are held back for so long.
    late: Option<(SocketAddr, Duration)>,
    held: VecDeque<Leg>,
    identities: Vec<SpkiHash>,
    authority: Authority,
    primary_tls: rustls::ServerConfig,
    tls: rustls::ClientConfig,
    /// Loses this many datagrams in a thousand, chosen by `dice`.
    loss: u64,
    dice: Dice,
}

/// A small generator for the network's and the scenarios' choices.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}

pub(crate) struct Authority {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

fn ca_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = ca_params().self_signed(&key).unwrap();
        Self { key, certificate }
    }

    pub(crate) fn server(&self, name: &str) -> (rustls::ServerConfig, CertificateDer<'static>) {
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

    pub(crate) fn client(&self) -> rustls::ClientConfig {
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
        let mut primary_tls = None;
        for index in 0..secondaries + 2 {
            let address = SocketAddr::from(([127, 0, 0, 1], 4000 + u16::try_from(index).unwrap()));
            let server = (index != CLIENT).then(|| {
                let (tls, certificate) = authority.server(&format!("node{index}.test"));
                identities.push(ticket::spki_hash(&certificate).unwrap());
                let config = ServerConfig::try_from(tls.clone()).unwrap();
                if index == PRIMARY {
                    primary_tls = Some(tls);
                    config.primary(signer.clone())
                } else {
                    use crate::lease::ticket::Signer as _;
                    config.secondary(SecondaryConfig::new(signer.public_key(), &certificate).unwrap())
                }
            });
            let seed = [u8::try_from(index).unwrap(); 32];
            let endpoint = Endpoint::new(seed, now, server, true).unwrap();
            nodes.push(Node {
                endpoint,
                address,
                also: Vec::new(),
                sessions: BTreeMap::new(),
                events: Vec::new(),
                questions: Vec::new(),
                thinks: false,
                dead: false,
                ahead: 0,
                stalled: false,
                waiting: Vec::new(),
            });
        }
        identities.insert(CLIENT, SpkiHash::new([0; 32]));
        Self {
            started: now,
            now,
            alarm: None,
            one_way: ONE_WAY,
            nodes,
            in_flight: VecDeque::new(),
            late: None,
            held: VecDeque::new(),
            identities,
            tls: authority.client(),
            authority,
            primary_tls: primary_tls.expect("a primary"),
            loss: 0,
            dice: Dice(1),
        }
    }

    fn connect(&mut self) {
        self.connect_with(TransportConfig::default());
    }

    fn connect_with(&mut self, transport: TransportConfig) {
        let config = ClientConfig::try_from(self.tls.clone()).unwrap().transport(transport);
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

    /// Event that told the primary of the end of a stream that it sends.
    fn end_of(&self, stream: StreamId) -> Option<Event> {
        let ends =
            |event: &&Event| matches!(event, Event::Finished(of) | Event::Stopped(of, _) if *of == stream);
        let mut ends = self.nodes[PRIMARY].events.iter().filter(ends);
        let end = ends.next().cloned();
        assert_eq!(ends.next(), None, "told once");
        end
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

    /// A session with one secondary, which has a job on a new stream.
    fn at_work(dir: Dir, range: ByteRange) -> (Self, PathId, StreamId, JobId) {
        let mut world = Self::new(1);
        world.connect();
        let path = world.attach(2);
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(dir).unwrap();
        let job = primary.open_job(now, stream, NewJob::new(path, range, "object")).unwrap();
        (world, path, stream, job)
    }

    /// Steps until `done`, at most ten virtual minutes.
    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(600);
        for steps in 0.. {
            self.drain();
            if done(self) {
                return;
            }
            // What `done` asked for may have to be sent before time goes on.
            self.drain();
            assert!(steps < 1_000_000, "busy at one instant");
            assert!(self.now < end, "not done after ten virtual minutes");
            self.step();
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.alarm = Some(end);
        self.run(|w| w.now >= end);
        self.alarm = None;
    }

    /// Jumps to whatever happens next.
    fn step(&mut self) {
        let mut next = earliest(self.alarm, self.in_flight.front().map(|(at, ..)| *at));
        next = earliest(next, self.held.front().map(|(at, ..)| *at));
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            for session in node.sessions.values_mut() {
                next = earliest(next, session.poll_timeout());
            }
        }
        // Never further than an application would sleep that looks for itself.
        let idle = self.now + Duration::from_millis(100);
        self.now = next.map_or(idle, |at| at.clamp(self.now, idle));
        let now = self.now;
        while self.in_flight.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, from, to, bytes) = self.in_flight.pop_front().unwrap();
            if self.dice.below(1000) < self.loss {
                continue;
            }
            match self.late {
                Some((whose, by)) if whose == to => self.held.push_back((now + by, from, to, bytes)),
                _ => self.deliver(from, to, &bytes),
            }
        }
        while self.held.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, from, to, bytes) = self.held.pop_front().unwrap();
            self.deliver(from, to, &bytes);
        }
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            for session in node.sessions.values_mut() {
                if session.poll_timeout().is_some_and(|at| at <= now) {
                    session.handle_timeout(now);
                }
            }
        }
    }

    /// Keeps a node from running for `time`; then it first gets what has arrived by then.
    fn stall(&mut self, node: usize, time: Duration) {
        self.nodes[node].stalled = true;
        self.run_for(time);
        self.nodes[node].stalled = false;
        for (from, bytes) in std::mem::take(&mut self.nodes[node].waiting) {
            let to = self.nodes[node].address;
            self.deliver(from, to, &bytes);
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let (now, age) = (self.now, self.now - self.started);
        let Some(node) = self.nodes.iter_mut().find(|node| node.is_at(to) && !node.dead) else {
            return;
        };
        let local_ip = (to != node.address).then(|| to.ip());
        if node.stalled {
            node.waiting.push((from, bytes.to_vec()));
            return;
        }
        let mut buf = Vec::new();
        match node.endpoint.handle(now, from, local_ip, None, BytesMut::from(bytes), &mut buf) {
            None => {}
            Some(DatagramEvent::Session(handle, event)) => {
                let unix = node.unix(age);
                node.sessions.get_mut(&handle).unwrap().handle_event(now, unix, event);
            }
            Some(DatagramEvent::Incoming(incoming)) => {
                let (handle, session) = node.endpoint.accept(now, incoming, &mut buf).unwrap();
                node.sessions.insert(handle, session);
            }
            Some(DatagramEvent::Response(_)) => {
                self.in_flight.push_back((now + self.one_way, to, from, buf));
            }
        }
    }

    fn drain(&mut self) {
        let (now, age) = (self.now, self.now - self.started);
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            let unix = node.unix(age);
            for (&handle, session) in &mut node.sessions {
                while let Some(event) = session.poll_endpoint_event() {
                    if let Some(answer) = node.endpoint.handle_session_event(now, handle, event) {
                        session.handle_event(now, unix, answer);
                    }
                }
                while let Some(question) = session.poll_question() {
                    if node.thinks {
                        node.questions.push((handle, question));
                    } else {
                        session.handle_answer(now, question.answer(unix));
                    }
                }
                let mut buf = Vec::new();
                while let Some(transmit) = session.poll_transmit(now, 10, &mut buf) {
                    let segment = transmit.segment_size.unwrap_or(transmit.size);
                    let own = transmit.src_ip.unwrap_or_else(|| node.address.ip());
                    let from = SocketAddr::new(own, node.address.port());
                    for datagram in buf[..transmit.size].chunks(segment) {
                        let leg = (now + self.one_way, from, transmit.destination, datagram.to_vec());
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
        let first = primary.lease(now, &NewLease::new(jobs[0], range(1000, 6_000_000))).unwrap();
        let second = primary.lease(now, &NewLease::new(jobs[1], range(6_000_000, 9_000_000))).unwrap();
        let third = primary.lease(now, &NewLease::new(jobs[1], range(9_000_000, 12_000_000))).unwrap();
        assert_eq!(
            primary.lease(now, &NewLease::new(jobs[1], range(5_999_999, 6_000_001))),
            Err(LeaseError::Overlap)
        );
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
        assert!(client.links.home.inbound.len() == 0);
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
    let doomed = primary.lease(now, &NewLease::new(jobs[0], whole)).unwrap();
    let mut fillers = [Filler::default(), Filler::default()];
    let mut got = Vec::new();
    let turn = |w: &mut World, fillers: &mut [Filler; 2], got: &mut Vec<Option<u8>>| {
        let now = w.now;
        for (filler, node) in fillers.iter_mut().zip(&mut w.nodes[2..]).filter(|(_, node)| !node.dead) {
            filler.turn(now, node.sessions.values_mut().next().unwrap());
        }
        let client = w.session(CLIENT);
        client.accept(Dir::Uni);
        reads(client, stream) && read_all(now, client, stream, true, got)
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
    primary.lease(now, &NewLease::new(jobs[1], missing[0])).unwrap();
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
    primary.lease(now, &NewLease::new(job, range(1000, 5000))).unwrap();
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
    let missing = range(5000, 5001); // nobody was given more
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
    // A name that the certificate is not valid for. The address has failed, and is left alone for a second.
    world.run_for(Duration::from_secs(1));
    let new = NewPath::new(world.nodes[2].address, "node3.test", world.identities[2]);
    let now = world.now;
    let path = world.session(PRIMARY).add_path(now, new).unwrap();
    world.run(|w| matches!(w.session(PRIMARY).path_state(path), Some(PathState::Dead(_))));
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Dead(ErrorCode::AUTH_FAILED)));
}

#[test]
fn a_job_may_be_refused_and_its_leases_with_it() {
    let (mut world, _path, _stream, job) = World::at_work(Dir::Bi, range(0, 100));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let lease = primary.lease(now, &NewLease::new(job, range(0, 100))).unwrap();
    let code = ErrorCode::from_u32(404);
    world.run(|w| {
        let now = w.now;
        let secondary = w.session(2);
        if let Some(job) = secondary.accept_job() {
            assert_eq!(job.payload, "object");
            secondary.refuse_job(now, job.id, code).unwrap();
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
    assert_eq!(
        world.session(PRIMARY).lease(now, &NewLease::new(job, range(0, 100))),
        Err(LeaseError::JobClosed)
    );
}

/// One object, random leases on random paths, loss, a server that may vanish: always the right bytes.
#[test]
fn whatever_happens_to_secondaries_the_object_arrives() {
    for seed in 0..20 {
        tracing::info!(seed);
        random_run(seed);
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

fn random_run(seed: u64) {
    let mut dice = Dice(seed);
    let secondaries = 1 + usize::try_from(dice.below(3)).unwrap();
    let size = 1 + dice.below(6_000_000);
    let ordered = dice.below(2) == 0;
    let mut world = World::new(secondaries);
    world.dice = Dice(seed + 1000);
    let windows = [(1 << 16, 1 << 17), (1 << 18, 1 << 20), (1 << 22, 1 << 26)];
    let (stream_window, session_window) = windows[usize::try_from(dice.below(3)).unwrap()];
    world
        .connect_with(TransportConfig::default().stream_window(stream_window).session_window(session_window));
    world.loss = [0, 0, 5, 20][usize::try_from(dice.below(4)).unwrap()];
    let paths: Vec<PathId> = (0..secondaries).map(|index| world.attach(index + 2)).collect();
    let victim = (dice.below(2) == 0).then(|| (2 + index(dice.below(secondaries as u64)), dice.below(size)));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(if dice.below(2) == 0 { Dir::Bi } else { Dir::Uni }).unwrap();
    let head = dice.below(size.min(5000));
    if head > 0 {
        primary.write(now, stream, &mut [object(range(0, head))]).unwrap();
    }
    let whole = ByteRange::between(head, size).unwrap();
    let jobs: Vec<JobId> = paths
        .iter()
        .map(|&path| primary.open_job(now, stream, NewJob::new(path, whole, "").total(1 << 40)).unwrap())
        .collect();
    let mut todo = VecDeque::new();
    let mut at = head;
    while at < size {
        let end = (at + 1 + dice.below(700_000)).min(size);
        todo.push_back(range(at, end));
        at = end;
    }
    let mut fillers: Vec<Filler> = (0..secondaries).map(|_| Filler::default()).collect();
    let (mut leases, mut runs) =
        (Vec::<LeaseId>::new(), Vec::<(crate::action::RunId, ByteRange, u64)>::new());
    let (mut got, mut finished, mut accepted) = (Vec::new(), false, false);
    let slow = dice.below(2) * 20;
    let mut lost = 0usize;
    world.run(|w| {
        let now = w.now;
        if let Some((node, _)) = victim.filter(|(_, at)| got.len() as u64 >= *at) {
            w.nodes[node].dead = true;
        }
        for (filler, node) in fillers.iter_mut().zip(&mut w.nodes[2..]).filter(|(_, node)| !node.dead) {
            filler.turn(now, node.sessions.values_mut().next().unwrap());
        }
        let primary = w.session(PRIMARY);
        while let Some(&next) = todo.front().filter(|_| lost > 0 || leases.len() + runs.len() < 8) {
            let choice = index(dice.below(paths.len() as u64 + 1));
            let active =
                paths.get(choice).is_some_and(|&path| primary.path_state(path) == Some(PathState::Active));
            if active {
                leases.push(primary.lease(now, &NewLease::new(jobs[choice], next)).unwrap());
            } else {
                runs.push((primary.write_at(now, stream, next).unwrap(), next, 0));
            }
            todo.pop_front();
            lost = lost.saturating_sub(1);
        }
        leases.retain(|&lease| match primary.lease_outcome(lease) {
            None => true,
            Some(LeaseOutcome::Done) => false,
            Some(LeaseOutcome::Lost { missing, .. }) => {
                // What the reader may be waiting for goes first, however much is under way.
                lost += missing.len();
                missing.into_iter().rev().for_each(|range| todo.push_front(range));
                false
            }
        });
        runs.retain_mut(|(run, range, sent)| {
            while *sent < range.len() {
                match primary.write_run(now, *run, &mut [object(range_from(*range, *sent, 60_000))]) {
                    Ok(written) => *sent += written.bytes as u64,
                    Err(LeaseWriteError::Blocked) => break,
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            primary.run_outcome(*run).is_none()
        });
        if todo.is_empty() && leases.is_empty() && runs.is_empty() && !finished {
            primary.finish(now, stream).unwrap();
            finished = true;
        }
        let client = w.session(CLIENT);
        accepted = accepted || client.accept(stream.dir()).is_some();
        // A reader that is often elsewhere.
        let reads = slow == 0 || dice.below(slow) == 0;
        accepted && reads && read_all(now, client, stream, ordered, &mut got)
    });
    check(&got, size);
    assert!(finished, "seed {seed}");
    assert!(world.session(CLIENT).stats().held_bytes_max <= session_window, "seed {seed}");
    world.run(|w| w.session(PRIMARY).stopped(stream).is_err());
    world.run_for(Duration::from_secs(2));
    let client = world.session(CLIENT);
    assert!(client.links.home.inbound.len() == 0, "seed {seed}");
    let primary = world.session(PRIMARY);
    assert!(primary.links.home.outbound.len() == 0, "seed {seed}");
}

/// `STOP_SENDING` only tells; a stopped stream keeps its slot until it is reset, which quinn's handle does on drop and
/// `finish` has to do here. Without it `open` blocks for good after as many streams as the peer permits.
#[test]
fn stopped_streams_free_their_slots() {
    let mut world = World::new(0);
    world.connect();
    for _ in 0..200 {
        let now = world.now;
        let stream = world.session(CLIENT).open(Dir::Uni).expect("a slot");
        world.session(CLIENT).write(now, stream, &mut [object(range(0, 10))]).unwrap();
        world.run(|w| w.session(PRIMARY).accept(Dir::Uni).is_some());
        let now = world.now;
        world.session(PRIMARY).stop(now, stream, ErrorCode::from_u32(3)).unwrap();
        world.run(|w| w.session(CLIENT).stopped(stream) == Ok(Some(ErrorCode::from_u32(3))));
        let now = world.now;
        assert_eq!(world.session(CLIENT).finish(now, stream), Ok(()));
        world.run_for(ONE_WAY * 3);
    }
    assert!(world.session(CLIENT).links.home.outbound.len() == 0);
}

/// Split streams one after another, their native part read out of order, cancelled or read to the end: nothing is
/// left of them, at either end.
#[test]
fn split_streams_come_and_go() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let mut filler = Filler::default();
    for round in 0..150 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(if round % 2 == 0 { Dir::Bi } else { Dir::Uni }).expect("a slot");
        primary.write(now, stream, &mut [object(range(0, 100))]).unwrap();
        let job = primary.open_job(now, stream, NewJob::new(path, range(100, 300), "")).unwrap();
        primary.lease(now, &NewLease::new(job, range(100, 300))).unwrap();
        primary.finish(now, stream).unwrap();
        let cancel = round % 3 == 0;
        let mut got = Vec::new();
        let mut accepted = false;
        world.run(|w| {
            let now = w.now;
            filler.turn(now, w.session(2));
            let client = w.session(CLIENT);
            accepted = accepted || client.accept(stream.dir()).is_some();
            if accepted && cancel {
                client.stop(now, stream, ErrorCode::from_u32(1)).unwrap();
                return true;
            }
            accepted && read_all(now, client, stream, false, &mut got)
        });
        if stream.dir() == Dir::Bi {
            let now = world.now;
            world.session(CLIENT).reset(now, stream, ErrorCode::from_u32(2)).unwrap();
            world.run(|w| {
                let now = w.now;
                w.session(PRIMARY).read(now, stream, 1, true) == Err(ReadError::Reset(ErrorCode::from_u32(2)))
            });
        }
        world.run_for(ONE_WAY * 5);
        let now = world.now;
        // What the handle does when it is dropped.
        let finished = world.session(PRIMARY).finish(now, stream);
        assert!(finished.is_err());
    }
    world.run_for(Duration::from_secs(1));
    let client = world.session(CLIENT);
    assert!(client.links.home.inbound.len() == 0);
    let primary = world.session(PRIMARY);
    assert!(primary.links.home.outbound.len() == 0);
    assert_eq!(primary.paths()[0].leases, 0);
}

/// QUIC announces the first frame of a stream as its opening and nothing else; for a stream that a `Split` had opened
/// before, that notice was swallowed.
#[test]
fn a_reset_reaches_a_stream_that_a_split_opened() {
    let (mut world, _path, stream, job) = World::at_work(Dir::Bi, range(0, 300));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let lease = primary.lease(now, &NewLease::new(job, range(0, 300))).unwrap();
    world.run(|w| w.session(CLIENT).accept(Dir::Bi) == Some(stream));
    let now = world.now;
    let code = ErrorCode::from_u32(6);
    world.session(PRIMARY).reset(now, stream, code).unwrap();
    assert!(matches!(world.session(PRIMARY).lease_outcome(lease), Some(LeaseOutcome::Lost { .. })));
    world.run(|w| {
        let now = w.now;
        w.session(CLIENT).read(now, stream, 1, true) == Err(ReadError::Reset(code))
    });
}

/// A reset overtakes the header that would have told whose stream it was; the primary is told all the same.
#[test]
fn a_lease_given_up_at_once_is_answered() {
    let (mut world, _path, _stream, job) = World::at_work(Dir::Bi, range(0, 300));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let lease = primary.lease(now, &NewLease::new(job, range(0, 300))).unwrap();
    world.run(|w| w.session(2).accept_job().is_some());
    let code = ErrorCode::from_u32(9);
    world.run(|w| {
        let now = w.now;
        let secondary = w.session(2);
        let Ok(Some(info)) = secondary.next_lease(job) else {
            return false;
        };
        secondary.write_lease(now, info.id, &mut [object(range(0, 20))]).unwrap();
        secondary.reset_lease(now, info.id, code).unwrap();
        true
    });
    let mut outcome = None;
    world.run(|w| {
        outcome = w.session(PRIMARY).lease_outcome(lease);
        outcome.is_some()
    });
    assert_eq!(outcome, Some(LeaseOutcome::Lost { code, missing: vec![range(0, 300)] }));
}

/// A job that was closed and is then refused with leases waiting: each of them is answered.
#[test]
fn leases_of_a_closed_job_are_answered_when_it_is_refused() {
    let (mut world, _path, _stream, job) = World::at_work(Dir::Bi, range(0, 300));
    let now = world.now;
    let primary = world.session(PRIMARY);
    let lease = primary.lease(now, &NewLease::new(job, range(0, 300))).unwrap();
    primary.close_job(now, job);
    world.run_for(ONE_WAY * 10);
    let now = world.now;
    world.session(2).refuse_job(now, job, ErrorCode::from_u32(1)).unwrap();
    world.run(|w| matches!(w.session(PRIMARY).lease_outcome(lease), Some(LeaseOutcome::Lost { .. })));
}

/// Unread bytes of complete streams take up the client's window and no slot at the primary: the stream that has no room left
/// is stopped, the session lives, and the window is never exceeded.
#[test]
fn an_unread_stream_too_many_costs_only_itself() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().session_window(128 * 1024));
    let another = |world: &mut World| {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        let run = primary.write_at(now, stream, range(0, 1 << 16)).unwrap();
        primary.write_run(now, run, &mut [object(range(0, 1 << 16))]).unwrap();
        primary.finish(now, stream).unwrap();
        world.run_for(ONE_WAY * 10);
        (stream, world.end_of(stream))
    };
    let complete = |(stream, end)| assert_eq!(end, Some(Event::Finished(stream)));
    let (first, end) = another(&mut world);
    complete((first, end));
    complete(another(&mut world));
    let (third, end) = another(&mut world);
    assert_eq!(end, Some(Event::Stopped(third, ErrorCode::NO_CREDIT)));
    assert_eq!(world.session(PRIMARY).lost(), None);
    let mut got = Vec::new();
    world.run(|w| {
        let now = w.now;
        let client = w.session(CLIENT);
        client.accept(Dir::Uni);
        reads(client, first) && read_all(now, client, first, true, &mut got)
    });
    check(&got, 1 << 16);
    complete(another(&mut world));
    assert_eq!(world.session(CLIENT).stats().held_bytes_max, 1 << 17);
}
