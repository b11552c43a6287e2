//! KWIK's core: one client, its primary, and two secondaries for streams that are split.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kwik_core::{
    ByteRange, ClientConfig, DatagramEvent, Dir, Endpoint, Event, JobId, LeaseId, LeaseOutcome,
    LeaseWriteError, NewJob, NewLease, NewPath, PathId, PathState, ReadError, RunId, SecondaryConfig,
    ServerConfig, Session, SessionHandle, Signer as _, SigningKey, SpkiHash, StreamId, WriteError, Written,
};
use kwik_tests::authority::Authority;

use crate::{
    Contestant,
    network::{CLIENT, Datagram, End, Network, SERVER, TRAIN, piece, split},
    samples::Samples,
};

/// The wall clock, since the Unix epoch.
const WALL_EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// The places of the secondaries among the ends.
const SECONDARIES: Range<usize> = SERVER + 1..SERVER + 3;

/// One machine.
struct Node {
    endpoint: Endpoint,
    address: SocketAddr,
    name: String,
    identity: SpkiHash,
    session: Option<(SessionHandle, Session)>,
    buf: Vec<u8>,
    connected: bool,
    ordered: bool,
    /// Stream that is being read, if there may be something of it.
    stream: Option<StreamId>,
    readable: bool,
    ended: bool,
}

impl Node {
    fn session(&mut self) -> &mut Session {
        &mut self.session.as_mut().expect("connected").1
    }

    /// Takes what the session reports.
    fn poll(&mut self) {
        let Some((_, session)) = &mut self.session else { return };
        while let Some(event) = session.poll_event() {
            if let Event::Lost(cause) = &event {
                panic!("{cause}");
            }
            let opened = event == Event::Opened(Dir::Uni);
            if opened {
                self.stream = session.accept(Dir::Uni);
            }
            self.readable |= opened || matches!(event, Event::Readable(_));
            self.connected |= event == Event::Connected;
        }
    }
}

impl End for Node {
    fn handle(&mut self, now: Instant, datagram: Datagram) {
        self.buf.clear();
        let Datagram { from, bytes, .. } = datagram;
        match self.endpoint.handle(now, from, None, None, bytes, &mut self.buf) {
            Some(DatagramEvent::Session(_, event)) => {
                if let Some((_, session)) = &mut self.session {
                    session.handle_event(now, WALL_EPOCH, event);
                }
            }
            Some(DatagramEvent::Incoming(incoming)) => {
                let accepted = self.endpoint.accept(now, incoming, &mut self.buf);
                self.session = Some(accepted.expect("an honest client"));
            }
            Some(_) | None => {}
        }
    }

    fn read(&mut self, now: Instant) -> u64 {
        self.poll();
        let (Some((_, session)), Some(stream), true) = (&mut self.session, self.stream, self.readable) else {
            return 0;
        };
        match session.read(now, stream, usize::MAX, self.ordered) {
            Ok(Some(chunk)) => chunk.bytes.len() as u64,
            Ok(None) => {
                (self.stream, self.ended, self.readable) = (None, true, false);
                0
            }
            Err(ReadError::Blocked) => {
                self.readable = false;
                0
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn transmit(&mut self, now: Instant, out: &mut VecDeque<Datagram>) {
        self.poll();
        let Some((handle, session)) = &mut self.session else { return };
        while let Some(event) = session.poll_endpoint_event() {
            if let Some(answer) = self.endpoint.handle_session_event(now, *handle, event) {
                session.handle_event(now, WALL_EPOCH, answer);
            }
        }
        while let Some(question) = session.poll_question() {
            session.handle_answer(now, question.answer(WALL_EPOCH));
        }
        self.buf.clear();
        while let Some(transmit) = session.poll_transmit(now, TRAIN, &mut self.buf) {
            let train = self.buf.get(..transmit.size).unwrap_or_default();
            split((self.address, transmit.destination), train, transmit.segment_size, out);
            self.buf.clear();
        }
    }

    fn run_timers(&mut self, now: Instant) {
        if let Some((_, session)) = &mut self.session
            && session.poll_timeout().is_some_and(|at| at <= now)
        {
            session.handle_timeout(now);
        }
    }

    fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Makes a client that is connected to a primary, and `secondaries` that nobody has named yet.
fn network(authority: &Authority, secondaries: usize, ordered: bool) -> Network<Node> {
    let now = Instant::now();
    let signer = Arc::new(SigningKey::from_seed([7; 32]));
    let nodes = (0..secondaries + 2).map(|index| {
        let name = format!("node{index}.test");
        let identity = authority.issue(&name);
        let config = ServerConfig::try_from(identity.tls).expect("a usable TLS configuration");
        let config = match index {
            0 => None,
            SERVER => Some(config.primary(signer.clone())),
            _ => {
                let trust = SecondaryConfig::new(signer.public_key(), &identity.certificate);
                Some(config.secondary(trust.expect("the server's certificate")))
            }
        };
        let seed = [u8::try_from(index).unwrap_or_default(); 32];
        Node {
            endpoint: Endpoint::new(seed, now, config, true).expect("a usable configuration"),
            address: SocketAddr::from(([127, 0, 0, 1], 4000 + u16::try_from(index).unwrap_or_default())),
            name,
            identity: identity.key,
            session: None,
            buf: Vec::new(),
            connected: false,
            ordered,
            stream: None,
            readable: false,
            ended: false,
        }
    });
    let mut network = Network::new(now, nodes.collect());
    let (primary, name) = (network.end(SERVER).address, network.end(SERVER).name.clone());
    let config = ClientConfig::try_from(authority.client()).expect("a usable TLS configuration");
    let client = network.end(CLIENT);
    let session = client.endpoint.connect(now, config, primary, &name);
    client.session = Some(session.expect("a usable name and address"));
    network.run_until(|network| network.end(CLIENT).connected && network.end(SERVER).connected);
    network
}

/// A stream that no other server touches.
pub(crate) struct Native(Network<Node>);

impl Native {
    pub(crate) fn new(authority: &Authority) -> Self {
        Self(network(authority, 0, true))
    }
}

impl Contestant for Native {
    fn transfer(&mut self, size: u64, samples: &mut Samples) {
        let mut stream = None;
        let mut left = size;
        self.0.transfer(size, samples, |network| {
            let now = network.now;
            let session = network.end(SERVER).session();
            stream = stream.or_else(|| session.open(Dir::Uni));
            let Some(stream) = stream else { return };
            while left > 0 {
                match session.write(now, stream, &mut [piece(left)]) {
                    Ok(written) => left -= written.bytes as u64,
                    Err(WriteError::Blocked) => return,
                    Err(error) => panic!("{error}"),
                }
                if left == 0 {
                    session.finish(now, stream).expect("open");
                }
            }
        });
    }
}

/// A split stream: the primary and two secondaries take turns, a piece each.
pub(crate) struct Split {
    network: Network<Node>,
    paths: Vec<PathId>,
    piece: u64,
}

impl Split {
    pub(crate) fn new(authority: &Authority, piece: u64, ordered: bool) -> Self {
        let mut network = network(authority, SECONDARIES.count(), ordered);
        let mut paths = Vec::new();
        for index in SECONDARIES {
            let end = network.end(index);
            let new = NewPath::new(end.address, &end.name, end.identity);
            let now = network.now;
            let path = network.end(SERVER).session().add_path(now, new).expect("room for a path");
            network.run_until(|network| {
                network.end(SERVER).session().path_state(path) == Some(PathState::Active)
            });
            paths.push(path);
        }
        Self { network, paths, piece }
    }

    /// Opens a stream of `size` bytes and says who brings which piece of it.
    fn give(&mut self, size: u64) -> Given {
        let now = self.network.now;
        let primary = self.network.end(SERVER).session();
        let stream = primary.open(Dir::Uni).expect("few are open");
        let whole = ByteRange::new(0, size).expect("not empty");
        let jobs =
            self.paths.iter().map(|&path| primary.open_job(now, stream, NewJob::new(path, whole, "object")));
        let mut given = Given {
            jobs: jobs.collect::<Result<_, _>>().expect("room for a job"),
            leases: Vec::new(),
            runs: Vec::new(),
        };
        for (start, turn) in (0..size).step_by(usize::try_from(self.piece).unwrap_or(usize::MAX)).zip(0..) {
            let range = ByteRange::between(start, size.min(start + self.piece)).expect("not empty");
            match given.jobs.get(turn % (given.jobs.len() + 1)) {
                Some(&job) => {
                    given.leases.push(primary.lease(now, &NewLease::new(job, range)).expect("nobody's"));
                }
                None => {
                    let run = primary.write_at(now, stream, range).expect("nobody's");
                    given.runs.push((run, range.len()));
                }
            }
        }
        primary.finish(now, stream).expect("open");
        given
    }
}

impl Contestant for Split {
    fn transfer(&mut self, size: u64, samples: &mut Samples) {
        let mut given = self.give(size);
        let mut fillers: Vec<Filler> = self.paths.iter().map(|_| Filler::default()).collect();
        self.network.transfer(size, samples, |network| {
            let now = network.now;
            given.write(now, network.end(SERVER).session());
            for (end, filler) in network.ends.iter_mut().skip(SECONDARIES.start).zip(&mut fillers) {
                filler.write(now, end.session());
            }
        });
        // Everything is answered before the next stream begins.
        self.network.run_until(|network| given.is_over(network.end(SERVER).session()));
        let now = self.network.now;
        for job in given.jobs {
            self.network.end(SERVER).session().close_job(now, job);
        }
    }
}

/// Ranges that the primary has given away and keeps.
struct Given {
    jobs: Vec<JobId>,
    leases: Vec<LeaseId>,
    /// Runs, with the rest of each that is still to be written.
    runs: Vec<(RunId, u64)>,
}

impl Given {
    fn write(&mut self, now: Instant, session: &mut Session) {
        for (run, left) in &mut self.runs {
            fill(left, |piece| session.write_run(now, *run, &mut [piece]));
        }
    }

    /// Takes the outcomes; returns whether all are known.
    fn is_over(&mut self, session: &mut Session) -> bool {
        let pending = |outcome: Option<LeaseOutcome>| {
            assert!(!matches!(outcome, Some(LeaseOutcome::Lost { .. })), "{outcome:?}");
            outcome.is_none()
        };
        self.leases.retain(|&lease| pending(session.lease_outcome(lease)));
        self.runs.retain(|&(run, _)| pending(session.run_outcome(run)));
        self.leases.is_empty() && self.runs.is_empty()
    }
}

/// Application of a secondary: takes jobs, fills leases.
#[derive(Default)]
struct Filler {
    jobs: Vec<JobId>,
    leases: Vec<(LeaseId, u64)>,
}

impl Filler {
    fn write(&mut self, now: Instant, session: &mut Session) {
        while let Some(job) = session.accept_job() {
            session.take_job(now, job.id);
            self.jobs.push(job.id);
        }
        for &job in &self.jobs {
            while let Ok(Some(lease)) = session.next_lease(job) {
                self.leases.push((lease.id, lease.range.len()));
            }
        }
        for (lease, left) in &mut self.leases {
            fill(left, |piece| session.write_lease(now, *lease, &mut [piece]));
        }
    }
}

/// Writes until all is written or nothing more is taken.
fn fill(left: &mut u64, mut write: impl FnMut(Bytes) -> Result<Written, LeaseWriteError>) {
    while *left > 0 {
        match write(piece(*left)) {
            Ok(written) => *left -= written.bytes as u64,
            Err(LeaseWriteError::Blocked) => return,
            Err(error) => panic!("{error}"),
        }
    }
}
