//! A machine that need not keep to the rules: QUIC and TLS as everybody's, everything above them by a script.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use kwik_core::{Ecn, ErrorCode};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, IdleTimeout,
    NoneTokenStore, TimeSource, Transmit, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use ring::{hkdf, hmac};

use super::{
    Seen,
    link::{Fact, Link, varint},
};
use crate::{
    raw::ALPN,
    sim::{
        NodeId,
        app::{Cx, GOODBYE},
        machine::{Arrival, Outgoing, Socket},
        tls,
    },
};

/// Behaviour of a machine above QUIC.
pub(super) trait Script: fmt::Debug {
    /// Something happened on a connection.
    fn fact(&mut self, stage: &mut Stage<'_, '_>, link: usize, fact: Fact);

    /// Does what is due.
    fn tick(&mut self, stage: &mut Stage<'_, '_>);

    /// Time at which it wants a turn without anything having happened.
    fn wake_at(&self) -> Option<Duration>;
}

/// The tools of a script.
pub(super) struct Stage<'a, 'b> {
    pub(super) cx: &'a mut Cx<'b>,
    pub(super) links: &'a mut BTreeMap<usize, Link>,
    pub(super) seen: &'a mut Seen,
    /// Whom to dial once the script has returned.
    pub(super) dials: &'a mut Vec<NodeId>,
}

impl Stage<'_, '_> {
    /// Returns a connection that lives.
    pub(super) fn link(&mut self, key: usize) -> &mut Link {
        self.links.get_mut(&key).expect("facts come from connections that are there")
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, key: usize, code: ErrorCode, reason: &'static [u8]) {
        let now = self.cx.now;
        self.link(key).conn.close(now, varint(code.into_inner()), reason.into());
    }
}

/// Appearance of a machine before anything is said above TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Face {
    /// It has another certificate than the one it is known by.
    pub(super) impostor: bool,
    /// Protocol that it speaks instead of `kwik/1`; nothing says nothing.
    pub(super) alpn: Option<&'static [u8]>,
}

/// A machine run by a script.
pub(crate) struct EvilMachine {
    endpoint: Endpoint,
    links: BTreeMap<usize, Link>,
    script: Box<dyn Script>,
    seen: Seen,
    random: ChaCha8Rng,
    transport: Arc<TransportConfig>,
    buf: Vec<u8>,
}

impl fmt::Debug for EvilMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvilMachine").field("links", &self.links).finish_non_exhaustive()
    }
}

/// Rounds at one instant before it is called a busy loop.
const ROUNDS_MAX: usize = 1000;

impl EvilMachine {
    /// Creates a machine whose every choice follows from `seed`. A client has no `server` index.
    pub(super) fn new(seed: [u8; 32], server: Option<usize>, face: Face, script: Box<dyn Script>) -> Self {
        let mut random = ChaCha8Rng::from_seed(seed);
        let mut bytes = || {
            let mut bytes = [0; 32];
            random.fill_bytes(&mut bytes);
            bytes
        };
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &bytes());
        let mut config = EndpointConfig::new(Arc::new(reset));
        let cids = bytes();
        config
            .rng_seed(Some(bytes()))
            .cid_generator(move || Box::new(SeededCids(ChaCha8Rng::from_seed(cids))));
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(IdleTimeout::from(varint(30_000))))
            .keep_alive_interval(Some(Duration::from_secs(5)))
            .datagram_receive_buffer_size(None);
        let transport = Arc::new(transport);
        let server = server.map(|index| {
            let mut tls = tls::identity(index, face.impostor).tls;
            tls.alpn_protocols = match face.alpn {
                None => vec![ALPN.to_vec()],
                Some(b"") => Vec::new(),
                Some(other) => vec![other.to_vec()],
            };
            let crypto = QuicServerConfig::try_from(tls).expect("made for QUIC");
            let token = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&bytes());
            let mut config = quinn_proto::ServerConfig::new(Arc::new(crypto), Arc::new(token));
            config.transport_config(transport.clone()).time_source(Arc::new(NoTime));
            config.validation_token.sent(0);
            Arc::new(config)
        });
        let endpoint = Endpoint::new(Arc::new(config), server, true, None);
        Self {
            endpoint,
            links: BTreeMap::new(),
            script,
            seen: Seen::default(),
            random,
            transport,
            buf: Vec::new(),
        }
    }

    /// Lets it neither hear nor say anything.
    pub(super) fn silent(mut self) -> Self {
        self.seen.silent = true;
        self
    }

    /// Returns what the machine has done and seen.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    fn dial(&mut self, cx: &Cx<'_>, node: NodeId) {
        let mut tls = tls::client();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).expect("made for QUIC");
        let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
        let mut dcid = [0; 20];
        self.random.fill_bytes(&mut dcid);
        config
            .transport_config(self.transport.clone())
            .token_store(Arc::new(NoneTokenStore))
            .initial_dst_cid_provider(Arc::new(move || ConnectionId::new(&dcid)));
        let to = cx.book.address(node);
        let name = tls::server_name(node.server_index());
        let (handle, conn) =
            self.endpoint.connect(cx.now, config, to, &name).expect("the name and the address are usable");
        self.links.insert(handle.0, Link::new(conn, handle, node));
    }

    /// Takes a datagram.
    pub(crate) fn handle(&mut self, cx: &Cx<'_>, arrival: &Arrival, out: &mut Vec<Outgoing>) {
        let Arrival { from, bytes, .. } = arrival;
        self.seen.datagrams += 1;
        self.seen.bytes += bytes.len();
        if self.seen.silent {
            return;
        }
        self.buf.clear();
        let ecn = arrival.ecn.map(|ecn| match ecn {
            Ecn::Ect0 => EcnCodepoint::Ect0,
            Ecn::Ect1 => EcnCodepoint::Ect1,
            Ecn::Ce => EcnCodepoint::Ce,
        });
        let bytes = BytesMut::from(bytes.as_slice());
        match self.endpoint.handle(cx.now, *from, None, ecn, bytes, &mut self.buf) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(link) = self.links.get_mut(&handle.0) {
                    link.conn.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let peer = arrival.by.map_or(cx.node, |(node, _)| node);
                match self.endpoint.accept(incoming, cx.now, &mut self.buf, None) {
                    Ok((handle, conn)) => {
                        self.links.insert(handle.0, Link::new(conn, handle, peer));
                    }
                    Err(error) => {
                        self.seen.fired = true; // nothing above TLS will ever be said
                        if let Some(response) = error.response {
                            split(&response, &self.buf, out);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(response)) => split(&response, &self.buf, out),
            None => {}
        }
    }

    /// Does all that is to be done now.
    pub(crate) fn turn(&mut self, cx: &mut Cx<'_>, socket: Socket, out: &mut Vec<Outgoing>) {
        for _ in 0..ROUNDS_MAX {
            let mut idle = true;
            for link in self.links.values_mut() {
                if link.conn.poll_timeout().is_some_and(|at| at <= cx.now) {
                    link.conn.handle_timeout(cx.now);
                    idle = false;
                }
            }
            let mut dials = Vec::new();
            let keys: Vec<usize> = self.links.keys().copied().collect();
            let Self { links, script, seen, .. } = self;
            for key in keys {
                while let Some(fact) = links.get_mut(&key).and_then(Link::next_fact) {
                    idle = false;
                    seen.note(&fact, links.get(&key).map(|link| link.peer));
                    let mut stage = Stage { cx, links, seen, dials: &mut dials };
                    script.fact(&mut stage, key, fact);
                }
            }
            script.tick(&mut Stage { cx, links, seen, dials: &mut dials });
            for node in dials {
                idle = false;
                self.dial(cx, node);
            }
            idle &= !self.send(cx.now, socket, out);
            if idle {
                return;
            }
        }
        panic!("12: {} does not come to rest at {:?}", cx.node, cx.at);
    }

    /// Sends what QUIC wants to send; returns whether there was anything.
    fn send(&mut self, now: Instant, socket: Socket, out: &mut Vec<Outgoing>) -> bool {
        let mut any = false;
        let Self { links, endpoint, seen, buf, .. } = self;
        links.retain(|_, link| {
            link.flush();
            let mut drained = false;
            while let Some(event) = link.conn.poll_endpoint_events() {
                any = true;
                drained |= event.is_drained();
                if let Some(answer) = endpoint.handle_event(link.handle, event) {
                    link.conn.handle_event(answer);
                }
            }
            buf.clear();
            while let Some(transmit) = link.conn.poll_transmit(now, socket.batch, buf) {
                any = true;
                if !seen.silent {
                    split(&transmit, buf, out);
                }
                buf.clear();
            }
            !drained
        });
        any
    }

    /// Time at which the machine wants a turn: by its own clock, and by the world's.
    pub(crate) fn deadlines(&mut self) -> (Option<Instant>, Option<Duration>) {
        (self.links.values_mut().filter_map(|link| link.conn.poll_timeout()).min(), self.script.wake_at())
    }

    /// Closes all connections.
    pub(crate) fn close(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            link.conn.close(now, varint(GOODBYE.into_inner()), bytes::Bytes::new());
        }
    }

    /// Returns how many connections are left.
    pub(crate) fn left(&self) -> (usize, usize) {
        (self.links.len(), self.endpoint.open_connections())
    }
}

fn split(transmit: &Transmit, buf: &[u8], out: &mut Vec<Outgoing>) {
    let train = buf.get(..transmit.size).expect("QUIC says how much it wrote");
    let ecn = transmit.ecn.map(|ecn| match ecn {
        EcnCodepoint::Ect0 => Ecn::Ect0,
        EcnCodepoint::Ect1 => Ecn::Ect1,
        EcnCodepoint::Ce => Ecn::Ce,
    });
    for datagram in train.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
        out.push(Outgoing { to: transmit.destination, bytes: datagram.to_vec(), ecn });
    }
}

/// Connection ids that follow from the seed.
struct SeededCids(ChaCha8Rng);

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        self.0.fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// No address tokens are given, so nobody asks for their time.
struct NoTime;

impl TimeSource for NoTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + tls::WALL_EPOCH
    }
}
