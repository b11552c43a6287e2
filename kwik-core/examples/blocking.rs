//! A client, a primary and a mirror, each on a blocking `std::net::UdpSocket` and a thread of its own: no runtime, no
//! driver, only the core and a loop around it. Read it from the top: [`Node`] is the loop, the rest are applications.
//!
//! ```text
//! cargo run -p kwik-core --example blocking
//! ```
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::wildcard_enum_match_arm,
    reason = "clocks, sockets and threads are what a program around the core brings; it looks at the events that concern it"
)]

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, Bytes, BytesMut};
use kwik_core::{
    ByteRange, ClientConfig, ConnectionError, DatagramEvent, Dir, Endpoint, Event, JobId, LeaseId,
    LeaseOutcome, LeaseWriteError, NewJob, NewLease, NewPath, PathState, ReadError, RunId, SecondaryConfig,
    ServerConfig, Session, SessionHandle, Signer as _, SigningKey, StreamId, Transmit, spki_hash,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longest time that a node sleeps, so that it notices when it is told to end.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Datagrams read before timers and sessions have their turn.
const BATCH: usize = 256;

/// One machine: a socket, the endpoint that routes what comes in, the sessions, and what runs above them.
struct Node<A> {
    socket: UdpSocket,
    endpoint: Endpoint,
    sessions: BTreeMap<SessionHandle, Session>,
    app: A,
    /// Received bytes, and bytes to be sent.
    inbox: Vec<u8>,
    out: Vec<u8>,
}

/// An application: told what has happened in a session, and free to command it.
trait App {
    fn on_event(&mut self, now: Instant, session: &mut Session, event: Event);
}

impl<A: App> Node<A> {
    /// The core has no randomness of its own: all of it comes from this seed, which is secret, and used once.
    fn new(server: Option<ServerConfig>, app: A) -> Fallible<Self> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| "the system yields no entropy")?;
        // A plain socket may let routers fragment datagrams, and then the size that passes cannot be searched for.
        let endpoint = Endpoint::new(seed, Instant::now(), server, false)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        Ok(Self { socket, endpoint, sessions: BTreeMap::new(), app, inbox: vec![0; 65_536], out: Vec::new() })
    }

    /// Runs until `done`. This order is the contract of the core: what has arrived, then what is due, then what each session
    /// wants, then sleep until the earliest deadline.
    fn run(&mut self, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        while !done(self) {
            let deadline = self.sessions.values_mut().filter_map(Session::poll_timeout).min();
            let is_empty = self.receive(deadline)?;
            let now = Instant::now();
            for session in self.sessions.values_mut() {
                let due = session.poll_timeout().is_some_and(|at| at <= now);
                // A peer must not be called silent while its datagrams wait in the socket. Other timers cannot do harm.
                if due && (is_empty || !session.is_verdict_due(now)) {
                    session.handle_timeout(now);
                }
            }
            let handles: Vec<SessionHandle> = self.sessions.keys().copied().collect();
            for handle in handles {
                self.settle(now, handle);
            }
        }
        Ok(())
    }

    /// Sleeps until a datagram comes or `deadline` does, and takes what is there. Returns whether that was all.
    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let sleep = deadline.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
        // Nothing but a duration above zero is a timeout.
        self.socket.set_read_timeout(Some(sleep.clamp(Duration::from_millis(1), SLEEP_MAX)))?;
        for count in 0..BATCH {
            self.socket.set_nonblocking(count > 0)?;
            match self.socket.recv_from(&mut self.inbox) {
                Ok((len, from)) => self.route(len, from),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(true);
                }
                Err(_) => {} // it tells of a datagram that was sent before, forged or not
            }
        }
        Ok(false)
    }

    /// Hands one datagram to the endpoint, which knows whose it is.
    fn route(&mut self, len: usize, from: SocketAddr) {
        let now = Instant::now();
        let data = BytesMut::from(self.inbox.get(..len).unwrap_or_default());
        self.out.clear();
        match self.endpoint.handle(now, from, None, None, data, &mut self.out) {
            Some(DatagramEvent::Session(handle, event)) => {
                if let Some(session) = self.sessions.get_mut(&handle) {
                    session.handle_event(now, unix(), event);
                }
            }
            Some(DatagramEvent::Incoming(incoming)) => {
                match self.endpoint.accept(now, incoming, &mut self.out) {
                    Ok((handle, session)) => drop(self.sessions.insert(handle, session)),
                    Err(refused) => {
                        if let Some(response) = refused.response {
                            send(&self.socket, &response, &self.out);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(response)) => send(&self.socket, &response, &self.out),
            _ => {} // junk
        }
    }

    /// Asks a session what it wants until it wants nothing more.
    fn settle(&mut self, now: Instant, handle: SessionHandle) {
        let Some(session) = self.sessions.get_mut(&handle) else {
            return;
        };
        let mut idle = false;
        while !std::mem::replace(&mut idle, true) {
            // The endpoint makes connections and retires their names; its answers go first.
            while let Some(wish) = session.poll_endpoint_event() {
                idle = false;
                if let Some(answer) = self.endpoint.handle_session_event(now, handle, wish) {
                    session.handle_event(now, unix(), answer);
                }
            }
            // The application's own code: a policy for addresses, a key that signs.
            while let Some(question) = session.poll_question() {
                idle = false;
                session.handle_answer(now, question.answer(unix()));
            }
            self.out.clear();
            while let Some(transmit) = session.poll_transmit(now, 1, &mut self.out) {
                idle = false;
                send(&self.socket, &transmit, &self.out);
                self.out.clear();
            }
            while let Some(event) = session.poll_event() {
                idle = false;
                self.app.on_event(now, session, event);
            }
        }
        if session.is_drained() {
            self.sessions.remove(&handle);
        }
    }
}

/// Sends a datagram. One that the system does not take is lost on the way, which QUIC makes good.
fn send(socket: &UdpSocket, transmit: &Transmit, bytes: &[u8]) {
    if let Some(datagram) = bytes.get(..transmit.size) {
        drop(socket.send_to(datagram, transmit.destination));
    }
}

/// The wall clock, by which tickets expire.
fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Asks for an object and reads it. Nothing here knows that several servers bring it.
#[derive(Default)]
struct Client {
    stream: Option<StreamId>,
    object: Vec<u8>,
    ended: Option<Result<(), ReadError>>,
    lost: Option<ConnectionError>,
}

impl App for Client {
    fn on_event(&mut self, now: Instant, session: &mut Session, event: Event) {
        match event {
            Event::Connected | Event::Available(Dir::Bi) if self.stream.is_none() => {
                self.stream = session.open(Dir::Bi);
                if let Some(stream) = self.stream {
                    let asked = session.write(now, stream, &mut [Bytes::from_static(b"weights.bin")]);
                    debug_assert!(asked.is_ok(), "a new stream has room for a name");
                    let _unheard = session.finish(now, stream);
                }
            }
            Event::Readable(stream) => {
                let end = loop {
                    match session.read(now, stream, usize::MAX, true) {
                        Ok(Some(chunk)) => self.object.extend_from_slice(&chunk.bytes),
                        Ok(None) => break Ok(()),
                        Err(ReadError::Blocked) => return,
                        Err(error) => break Err(error),
                    }
                };
                self.ended = Some(end);
                let _reserved = session.close(now, 0_u32.into(), b"done");
            }
            Event::Lost(cause) => self.lost = Some(cause),
            _ => {}
        }
    }
}

/// Serves one client: the first half by a mirror, the second by itself, and whatever the mirror does not bring.
struct Primary {
    object: Bytes,
    mirror: NewPath,
    stream: Option<StreamId>,
    name: Vec<u8>,
    /// The range that was leased to the mirror; `None` before, and once its end is known.
    lease: Option<LeaseId>,
    /// Bytes still to be written of each run.
    runs: BTreeMap<RunId, Bytes>,
}

impl App for Primary {
    fn on_event(&mut self, now: Instant, session: &mut Session, event: Event) {
        match event {
            Event::Opened(Dir::Bi) => self.stream = session.accept(Dir::Bi),
            Event::PathChanged(path) => match session.path_state(path) {
                Some(PathState::Active) if self.lease.is_none() && self.runs.is_empty() => {
                    self.deal(now, session, path);
                }
                Some(PathState::Dead(_)) if self.lease.is_none() && self.runs.is_empty() => {
                    self.write(now, session, ByteRange::new(0, self.object.len() as u64));
                }
                _ => {} // what it has not brought comes back as a lost lease
            },
            Event::LeaseEnded(lease) if self.lease == Some(lease) => {
                if let Some(outcome) = session.lease_outcome(lease) {
                    self.lease = None;
                    self.make_good(now, session, outcome);
                }
            }
            Event::RunWritable(run) => match session.run_outcome(run) {
                Some(outcome) => {
                    self.runs.remove(&run);
                    self.make_good(now, session, outcome);
                }
                None => self.push(now, session, run),
            },
            _ => {}
        }
        self.read_request(now, session);
    }
}

impl Primary {
    fn new(object: Bytes, mirror: NewPath) -> Self {
        Self { object, mirror, stream: None, name: Vec::new(), lease: None, runs: BTreeMap::new() }
    }

    /// Once the client has said what it wants, has it attach the mirror.
    fn read_request(&mut self, now: Instant, session: &mut Session) {
        let Some(stream) = self.stream else { return };
        loop {
            match session.read(now, stream, usize::MAX, true) {
                Ok(Some(chunk)) => self.name.extend_from_slice(&chunk.bytes),
                Ok(None) => drop(session.add_path(now, self.mirror.clone())),
                Err(_) => return, // not here yet, or read to its end before
            }
        }
    }

    /// Leases the first half to the mirror, and begins with the second.
    fn deal(&mut self, now: Instant, session: &mut Session, path: kwik_core::PathId) {
        let (half, size) = (self.object.len() as u64 / 2, self.object.len() as u64);
        let (Some(stream), Some(first)) = (self.stream, ByteRange::new(0, half)) else { return };
        let leased = session
            .open_job(now, stream, NewJob::new(path, first, self.name.clone()))
            .and_then(|job| session.lease(now, &NewLease::new(job, first)));
        self.lease = leased.ok();
        let own = if self.lease.is_some() { first.end() } else { 0 };
        self.write(now, session, ByteRange::new(own, size - own));
    }

    fn write(&mut self, now: Instant, session: &mut Session, range: Option<ByteRange>) {
        let (Some(stream), Some(range)) = (self.stream, range) else { return };
        let Ok(run) = session.write_at(now, stream, range) else { return };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.object.len());
        self.runs.insert(run, self.object.slice(place(range.start())..place(range.end())));
        self.push(now, session, run);
    }

    /// Writes what there is room for.
    fn push(&mut self, now: Instant, session: &mut Session, run: RunId) {
        let Some(rest) = self.runs.get_mut(&run) else { return };
        while !rest.is_empty() {
            match session.write_run(now, run, &mut [rest.clone()]) {
                Ok(written) => rest.advance(written.bytes),
                Err(_) => return, // `RunWritable` follows, or its outcome
            }
        }
    }

    /// Writes what a lease or a run did not bring; with nothing left to bring, the stream ends.
    fn make_good(&mut self, now: Instant, session: &mut Session, outcome: LeaseOutcome) {
        if let LeaseOutcome::Lost { missing, .. } = outcome {
            for range in missing {
                self.write(now, session, Some(range));
            }
        }
        if let (None, true, Some(stream)) = (self.lease, self.runs.is_empty(), self.stream) {
            let _unheard = session.finish(now, stream);
        }
    }
}

/// Fills the ranges that it is asked for, and nothing else: it could not.
struct Mirror {
    object: Bytes,
    leases: BTreeMap<LeaseId, Bytes>,
}

impl App for Mirror {
    fn on_event(&mut self, now: Instant, session: &mut Session, event: Event) {
        match event {
            Event::Connected | Event::JobArrived => {
                while let Some(job) = session.accept_job() {
                    session.take_job(now, job.id); // its payload is the name that the primary was asked for
                    self.take_leases(now, session, job.id);
                }
            }
            Event::LeaseArrived(job) => self.take_leases(now, session, job),
            Event::LeaseWritable(lease) | Event::LeaseEnded(lease) => self.fill(now, session, lease),
            _ => {}
        }
    }
}

impl Mirror {
    fn take_leases(&mut self, now: Instant, session: &mut Session, job: JobId) {
        while let Ok(Some(lease)) = session.next_lease(job) {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.object.len());
            let bytes = self.object.slice(place(lease.range.start())..place(lease.range.end()));
            self.leases.insert(lease.id, bytes);
            self.fill(now, session, lease.id);
        }
    }

    fn fill(&mut self, now: Instant, session: &mut Session, lease: LeaseId) {
        let Some(rest) = self.leases.get_mut(&lease) else { return };
        while !rest.is_empty() {
            match session.write_lease(now, lease, &mut [rest.clone()]) {
                Ok(written) => rest.advance(written.bytes),
                Err(LeaseWriteError::Blocked) => return, // `LeaseWritable` follows
                Err(_) => {
                    session.drop_lease(now, lease); // taken back: its primary knows
                    break;
                }
            }
        }
        self.leases.remove(&lease);
    }
}

/// Certificates of a throwaway authority.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Fallible<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), root })
    }

    /// Makes a server's certificate, and a TLS configuration that shows it.
    fn server(&self, name: &str) -> Fallible<(CertificateDer<'static>, rustls::ServerConfig)> {
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], secret)?;
        Ok((certificate, tls))
    }

    fn client(&self) -> Fallible<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone())?;
        let provider = rustls::crypto::ring::default_provider().into();
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        Ok(tls.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Runs all three, and returns what the client has got.
fn fetch(object: &Bytes) -> Fallible<Vec<u8>> {
    let authority = Authority::new()?;
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| "the system yields no entropy")?;
    let signer = Arc::new(SigningKey::from_seed(seed));

    // The mirror trusts whom the primary's key has signed for, and nobody else.
    let (certificate, tls) = authority.server("mirror.example")?;
    let trust = SecondaryConfig::new(signer.public_key(), &certificate)?;
    let app = Mirror { object: object.clone(), leases: BTreeMap::new() };
    let mut mirror = Node::new(Some(ServerConfig::try_from(tls)?.secondary(trust)), app)?;

    // The primary names the mirror by its address, the name on its certificate, and the hash of its key.
    let identity = spki_hash(&certificate).ok_or("no certificate")?;
    let path = NewPath::new(mirror.socket.local_addr()?, "mirror.example", identity);
    let (_, tls) = authority.server("origin.example")?;
    let config = ServerConfig::try_from(tls)?.primary(signer);
    let mut primary = Node::new(Some(config), Primary::new(object.clone(), path))?;

    let mut client = Node::new(None, Client::default())?;
    let config = ClientConfig::try_from(authority.client()?)?;
    let origin = primary.socket.local_addr()?;
    let (handle, session) = client.endpoint.connect(Instant::now(), config, origin, "origin.example")?;
    client.sessions.insert(handle, session);

    let over = AtomicBool::new(false);
    let fetched = thread::scope(|scope| {
        scope.spawn(|| mirror.run(|_| over.load(Ordering::Relaxed)));
        scope.spawn(|| primary.run(|_| over.load(Ordering::Relaxed)));
        // The session is gone once its goodbye has had time to arrive.
        let fetched = client.run(|client| client.sessions.is_empty());
        over.store(true, Ordering::Relaxed);
        fetched
    });
    fetched?;
    match client.app.ended {
        Some(end) => end?,
        None => return Err(client.app.lost.map_or_else(|| "no end".into(), Into::into)),
    }
    Ok(client.app.object)
}

fn object() -> Bytes {
    (0..4_000_001_u32).map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect()
}

fn main() -> Fallible<()> {
    let object = object();
    let got = fetch(&object)?;
    writeln!(io::stdout(), "{} bytes, {}", got.len(), if got == object { "all right" } else { "others" })?;
    Ok(())
}

#[test]
fn the_object_arrives() {
    let object = object();
    assert!(fetch(&object).unwrap() == object, "other bytes");
}
