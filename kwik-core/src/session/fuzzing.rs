//! Whole sessions over real QUIC and TLS, in memory and in virtual time, with one of them, or the network, at the mercy
//! of a fuzzer: junk and damaged datagrams, raw bytes on control streams, streams that nobody asked for.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{HOME, NewJob, NewLease, NewPath, Session};
use crate::{
    action::PathState,
    config::{ClientConfig, SecondaryConfig, ServerConfig},
    endpoint::{DatagramEvent, Endpoint, SessionHandle},
    error::ErrorCode,
    fuzzing::{
        frames,
        source::{OP, Source, ops},
        tls,
    },
    id::{ByteRange, Dir, JobId, LeaseId, PathId, Role, Side, StreamId},
    lease::ticket::{self, Signer as _, SigningKey},
    timer::earliest,
    wire::{encode, encode_header},
};

const CLIENT: usize = 0;
const PRIMARY: usize = 1;
const SECONDARY: usize = 2;
/// The wall clock, since the Unix epoch.
const UNIX: Duration = Duration::from_secs(1_800_000_000);
const ONE_WAY: Duration = Duration::from_millis(5);

/// The ends that break the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostile {
    Network,
    Node(usize),
}

/// Runs a client, its primary and one secondary through the operations in `data`.
///
/// # Panics
/// If one of them panics, is busy without end, does not let go in the end, or if a secondary or the network can do more
/// than end a path.
pub fn session_datagram(data: &[u8]) {
    let (setup, rest) = data.split_at(data.len().min(OP));
    let hostile = Source::new(setup).pick(&[
        Hostile::Network,
        Hostile::Node(SECONDARY),
        Hostile::Node(CLIENT),
        Hostile::Node(PRIMARY),
    ]);
    let mut world = World::new(hostile);
    world.begin();
    for mut op in ops(rest).take(64) {
        world.step(&mut op);
        world.run(2 * ONE_WAY);
    }
    if matches!(hostile, Hostile::Network | Hostile::Node(SECONDARY)) {
        world.run(Duration::from_millis(500));
        for node in [CLIENT, PRIMARY] {
            let lost = world.session(node).and_then(|session| session.lost().cloned());
            assert_eq!(lost, None, "{hostile:?} ended the session of node {node}");
            assert!(world.session(node).is_some());
        }
    }
    world.end();
}

/// One machine on the network.
struct Node {
    endpoint: Endpoint,
    address: SocketAddr,
    sessions: BTreeMap<SessionHandle, Session>,
}

struct World {
    hostile: Hostile,
    now: Instant,
    nodes: Vec<Node>,
    in_flight: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    jobs: Vec<JobId>,
    leases: Vec<(LeaseId, ByteRange, u64)>,
    /// Streams that the primary opened, and that the client's application was given.
    opened: u64,
    accepted: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn new(hostile: Hostile) -> Self {
        let now = Instant::now();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let secondary = SecondaryConfig::new(signer.public_key(), tls::certificate()).expect("parses");
        let node = |index: u8| {
            let server = (usize::from(index) != CLIENT).then(|| {
                let config = ServerConfig::try_from(tls::server()).expect("usable");
                let primary = usize::from(index) == PRIMARY;
                if primary { config.primary(signer.clone()) } else { config.secondary(secondary.clone()) }
            });
            let endpoint = Endpoint::new([index; 32], now, server, true).expect("usable");
            let address = SocketAddr::from(([127, 0, 0, 1], 4000 + u16::from(index)));
            Node { endpoint, address, sessions: BTreeMap::new() }
        };
        Self {
            hostile,
            now,
            nodes: (0..3).map(node).collect(),
            in_flight: VecDeque::new(),
            jobs: Vec::new(),
            leases: Vec::new(),
            opened: 0,
            accepted: 0,
        }
    }

    fn session(&mut self, node: usize) -> Option<&mut Session> {
        self.nodes.get_mut(node)?.sessions.values_mut().next()
    }

    fn address(&self, node: usize) -> SocketAddr {
        self.nodes.get(node).map(|node| node.address).expect("three nodes")
    }

    /// Connects all three, splits a stream and leases some of it.
    fn begin(&mut self) {
        let config = ClientConfig::try_from(tls::client()).expect("usable");
        let (now, primary, secondary) = (self.now, self.address(PRIMARY), self.address(SECONDARY));
        let client = self.nodes.get_mut(CLIENT).expect("three nodes");
        let (handle, session) = client.endpoint.connect(now, config, primary, tls::NAME).expect("dials");
        client.sessions.insert(handle, session);
        self.run(Duration::from_millis(100));
        let identity = ticket::spki_hash(tls::certificate()).expect("parses");
        let now = self.now;
        let session = self.session(PRIMARY).expect("connected");
        assert_eq!(session.role(), Some(Role::Primary));
        let path = session.add_path(now, NewPath::new(secondary, tls::NAME, identity)).expect("room");
        self.run(Duration::from_millis(100));
        let now = self.now;
        let session = self.session(PRIMARY).expect("connected");
        assert_eq!(session.path_state(path), Some(PathState::Active));
        let stream = session.open(Dir::Bi).expect("room");
        session.write(now, stream, &mut [Bytes::from(vec![1; 1000])]).expect("room");
        let job = NewJob::new(path, ByteRange::between(1000, 300_000).expect("not empty"), "object");
        let job = session.open_job(now, stream, job).expect("room");
        for start in [1000, 60_000, 120_000] {
            let range = ByteRange::new(start, 50_000).expect("within");
            session.lease(now, &NewLease::new(job, range)).expect("free");
        }
        self.opened += 1;
    }

    fn step(&mut self, op: &mut Source<'_>) {
        match op.below(10) {
            0 => self.app(op),
            1 => self.primary_app(op),
            2 => {
                let wait = op.pick(&[1, 20, 200, 2_000]);
                self.run(Duration::from_millis(wait));
            }
            kind => match self.hostile {
                Hostile::Network => self.network(op),
                Hostile::Node(node) => self.raw(op, node, kind),
            },
        }
    }

    // What is allowed.

    /// The client opens, writes, ends.
    fn app(&mut self, op: &mut Source<'_>) {
        let now = self.now;
        let Some(client) = self.session(CLIENT) else { return };
        let dir = op.pick(&[Dir::Bi, Dir::Uni]);
        let Some(stream) = client.open(dir) else { return };
        let len = usize::from(op.any::<u16>());
        ignore(client.write(now, stream, &mut [Bytes::from(vec![2; len])]));
        match op.below(4) {
            0 => ignore(client.finish(now, stream)),
            1 => ignore(client.reset(now, stream, ErrorCode::from_u32(1))),
            2 if dir == Dir::Bi => ignore(client.stop(now, stream, ErrorCode::from_u32(1))),
            _ => {}
        }
    }

    /// The primary leases more, writes more, ends streams.
    fn primary_app(&mut self, op: &mut Source<'_>) {
        let now = self.now;
        let stream = StreamId::from_u64(op.pick(&[1, 5, 3])).expect("within");
        let range = ByteRange::new(op.below(300_000), 1 + op.below(20_000)).expect("within");
        let path = PathId::new(1);
        let mut opened = 0;
        let Some(session) = self.session(PRIMARY) else { return };
        match op.below(6) {
            0 => opened = u64::from(session.open(op.pick(&[Dir::Bi, Dir::Uni])).is_some()),
            1 => ignore(session.lease(now, &NewLease::new(JobId::new(op.below(3)), range))),
            2 => ignore(session.open_job(now, stream, NewJob::new(path, range, "object"))),
            3 => {
                if let Ok(run) = session.write_at(now, stream, range) {
                    let len = usize::try_from(range.len()).unwrap_or_default();
                    ignore(session.write_run(now, run, &mut [Bytes::from(vec![3; len])]));
                }
            }
            4 => ignore(session.finish(now, stream)),
            _ => ignore(session.reset(now, stream, ErrorCode::from_u32(1))),
        }
        self.opened += opened;
    }

    /// Checks what an honest session believes, whatever its peers say.
    fn audit(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let honest = !matches!(self.hostile, Hostile::Node(hostile) if hostile == index);
            for session in node.sessions.values().filter(|_| honest) {
                let books = session.audit().map_err(|contradiction| contradiction.to_string());
                assert_eq!(books, Ok(()), "node {index}");
            }
        }
    }

    /// Plays the applications: what they do without being asked.
    fn apps(&mut self) {
        self.audit();
        let now = self.now;
        for node in [CLIENT, PRIMARY] {
            let mut accepted = 0;
            let Some(session) = self.session(node) else { continue };
            while session.accept(Dir::Bi).or_else(|| session.accept(Dir::Uni)).is_some() {
                accepted += 1;
            }
            for id in [0, 1, 2, 3, 4, 5, 6, 7, 9, 13] {
                let stream = StreamId::from_u64(id).expect("within");
                while let Ok(Some(chunk)) = session.read(now, stream, usize::MAX, true) {
                    assert!(!chunk.bytes.is_empty());
                }
            }
            self.accepted += if node == CLIENT { accepted } else { 0 };
        }
        let (mut jobs, mut leases) = (std::mem::take(&mut self.jobs), std::mem::take(&mut self.leases));
        if let Some(session) = self.session(SECONDARY) {
            while let Some(job) = session.accept_job() {
                session.take_job(now, job.id);
                jobs.push(job.id);
            }
            for &job in &jobs {
                while let Ok(Some(lease)) = session.next_lease(job) {
                    leases.push((lease.id, lease.range, 0));
                }
            }
            for (lease, range, sent) in &mut leases {
                let left = usize::try_from((range.len() - *sent).min(20_000)).unwrap_or_default();
                if let Ok(written) = session.write_lease(now, *lease, &mut [Bytes::from(vec![4; left])]) {
                    *sent += written.bytes as u64;
                }
            }
            leases.retain(|(_, range, sent)| *sent < range.len());
        }
        (self.jobs, self.leases) = (jobs, leases);
    }

    // What is not.

    /// Junk, damage, loss, repetition and disorder.
    fn network(&mut self, op: &mut Source<'_>) {
        let kind = op.below(6);
        let at = usize::from(op.any::<u8>()) % self.in_flight.len().max(1);
        let (flip, with) = (op.any::<u16>(), op.any::<u8>());
        if kind == 0 || self.in_flight.is_empty() {
            let stranger = SocketAddr::from(([127, 0, 0, 1], 9));
            let from = op.pick(&[stranger, self.address(CLIENT), self.address(PRIMARY)]);
            let to = op.pick(&[self.address(CLIENT), self.address(PRIMARY), self.address(SECONDARY)]);
            let mut bytes = vec![with; usize::from(flip % 1500)];
            let start: [u8; 6] = op.any();
            bytes.iter_mut().zip(start).for_each(|(byte, start)| *byte = start);
            self.in_flight.push_front((self.now, from, to, bytes));
            return;
        }
        let Some(leg) = self.in_flight.get_mut(at) else { return };
        match kind {
            1 | 2 => {
                let place = usize::from(flip) % leg.3.len().max(1);
                leg.3.get_mut(place).into_iter().for_each(|byte| *byte ^= with);
            }
            3 => leg.3.truncate(usize::from(flip)),
            4 => {
                let mut again = leg.clone();
                again.0 = self.now;
                self.in_flight.push_front(again);
            }
            _ => ignore(self.in_flight.remove(at)),
        }
    }

    /// One node says what its session never would.
    fn raw(&mut self, op: &mut Source<'_>, node: usize, kind: u64) {
        let now = self.now;
        let path = if node == CLIENT && op.rarely(2) { PathId::new(1) } else { HOME };
        let Some(link) = self.session(node).and_then(|session| session.links.get_mut(path)) else { return };
        let quic = &mut link.quic;
        match kind {
            3..=5 => {
                let mut bytes = Vec::new();
                encode(&frames::any(op), &mut bytes);
                if op.rarely(4) {
                    let at = usize::from(op.any::<u8>()) % bytes.len();
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= op.any::<u8>());
                }
                ignore(quic.write_control(StreamId::CONTROL, &mut [bytes.into()]));
            }
            6 => ignore(
                quic.write_control(StreamId::CONTROL, &mut [Bytes::copy_from_slice(&op.any::<[u8; 6]>())]),
            ),
            7 => {
                let Some(stream) = quic.open(Dir::Uni) else { return };
                let header = Bytes::copy_from_slice(&encode_header(&frames::header(op)));
                let junk = Bytes::copy_from_slice(&op.any::<[u8; 4]>());
                ignore(quic.write_control(stream, &mut if op.rarely(4) { [junk] } else { [header] }));
                let len = usize::from(op.any::<u8>());
                ignore(quic.write_control(stream, &mut [Bytes::from(vec![5; len])]));
                match op.below(3) {
                    0 => ignore(quic.finish(stream)),
                    1 => ignore(quic.reset(stream, frames::code(op))),
                    _ => {}
                }
            }
            8 => {
                let Some(stream) = quic.open(Dir::Bi) else { return };
                ignore(quic.write_control(stream, &mut [Bytes::from_static(b"uninvited")]));
            }
            _ => {
                let stream = StreamId::from_u64(op.pick(&[0, 1, 3, 7, 2])).expect("within");
                let ours = if node == CLIENT { Side::Client } else { Side::Server };
                let (sends, reads) = match stream.dir() {
                    Dir::Bi => (true, true),
                    Dir::Uni => (stream.initiator() == ours, stream.initiator() != ours),
                };
                match op.below(6) {
                    0 if sends && op.rarely(4) => ignore(quic.finish(stream)),
                    1 if sends => ignore(quic.reset(stream, frames::code(op))),
                    2 if reads => ignore(quic.stop(stream, frames::code(op))),
                    3 if op.rarely(4) => quic.close(now, frames::code(op), Bytes::new()),
                    _ if !sends => {}
                    _ => ignore(quic.write_control(stream, &mut [Bytes::from_static(b"more")])),
                }
            }
        }
        if let Some(session) = self.session(node) {
            session.touch(now);
        }
    }

    // The network and time.

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut busy = 0;
        loop {
            self.apps();
            self.drain();
            let next = self.next();
            busy = if next > self.now { 0 } else { busy + 1 };
            assert!(busy < 200, "busy at one instant");
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.deliver();
        }
        self.now = end;
        let honest = self.hostile != Hostile::Node(PRIMARY);
        assert!(!honest || self.accepted <= self.opened, "a stream that the primary did not open");
    }

    /// Instant of the next thing to happen.
    fn next(&mut self) -> Instant {
        let arrival = self.in_flight.iter().map(|leg| leg.0).min();
        let sessions = self.nodes.iter_mut().flat_map(|node| node.sessions.values_mut());
        let due = sessions.fold(arrival, |at, session| earliest(at, session.poll_timeout()));
        due.unwrap_or(self.now + Duration::from_secs(3600))
    }

    /// Delivers what has arrived, and runs what is due.
    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|leg| leg.0 <= now);
        self.in_flight = later;
        for (_, from, to, bytes) in due {
            self.arrive(from, to, &bytes);
        }
        for session in self.nodes.iter_mut().flat_map(|node| node.sessions.values_mut()) {
            if session.poll_timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
        }
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let Some(node) = self.nodes.iter_mut().find(|node| node.address == to) else { return };
        let mut buf = Vec::new();
        match node.endpoint.handle(now, from, None, None, BytesMut::from(bytes), &mut buf) {
            None => {}
            Some(DatagramEvent::Session(handle, event)) => {
                if let Some(session) = node.sessions.get_mut(&handle) {
                    session.handle_event(now, UNIX, event);
                }
            }
            Some(DatagramEvent::Incoming(incoming)) => match node.endpoint.accept(now, incoming, &mut buf) {
                Ok((handle, session)) => ignore(node.sessions.insert(handle, session)),
                Err(refused) => {
                    if refused.response.is_some() {
                        self.in_flight.push_back((now + ONE_WAY, to, from, buf));
                    }
                }
            },
            Some(DatagramEvent::Response(_)) => self.in_flight.push_back((now + ONE_WAY, to, from, buf)),
        }
    }

    /// Takes all that the sessions want.
    fn drain(&mut self) {
        let now = self.now;
        for node in &mut self.nodes {
            for (&handle, session) in &mut node.sessions {
                let mut wants = 0;
                while let Some(event) = session.poll_endpoint_event() {
                    if let Some(answer) = node.endpoint.handle_session_event(now, handle, event) {
                        session.handle_event(now, UNIX, answer);
                    }
                    wants += 1;
                }
                while let Some(question) = session.poll_question() {
                    session.handle_answer(now, question.answer(UNIX));
                    wants += 1;
                }
                let mut buf = Vec::new();
                while let Some(transmit) = session.poll_transmit(now, 10, &mut buf) {
                    let segment = transmit.segment_size.unwrap_or(transmit.size);
                    let sent = buf.get(..transmit.size).expect("what was written");
                    for datagram in sent.chunks(segment) {
                        let leg = (now + ONE_WAY, node.address, transmit.destination, datagram.to_vec());
                        self.in_flight.push_back(leg);
                    }
                    buf.clear();
                    wants += 1;
                }
                while session.poll_event().is_some() {
                    wants += 1;
                }
                assert!(wants < 10_000, "wants without end");
            }
            node.sessions.retain(|_, session| !session.is_drained());
        }
    }

    /// Closes everything: everybody lets go of it.
    fn end(mut self) {
        let now = self.now;
        for session in self.nodes.iter_mut().flat_map(|node| node.sessions.values_mut()) {
            session.close(now, ErrorCode::from_u32(0), b"over").expect("no code of KWIK's");
        }
        self.run(Duration::from_secs(120));
        for node in &self.nodes {
            assert_eq!((node.sessions.len(), node.endpoint.sessions()), (0, 0), "a session that never ends");
        }
    }
}

/// Drops the result of an attempt: what comes of it is the sessions' business.
fn ignore<T>(_: T) {}
