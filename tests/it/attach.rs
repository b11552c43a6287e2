//! Admission and refusal: tickets, certificates, roles, dead ports. Spec: PROTOCOL §8, §9.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use kwik_proto::v1 as pb;
use kwik_tests::{
    authority::{Authority, Identity},
    feed::{Plan, distribute, receive},
    object::Object,
    poll_once,
    raw::{self, ALPN, Control, RawPeer, RawServer, Ticket, close_code, unix_now},
    run, run_on_one_thread, soon,
    world::{Server, Settings, World, attach},
};
use kwik_tokio::{
    AddPathError, Connection, ConnectionError, ErrorCode, NewPath, PathError, PathId, PathState,
    PrimarySession, PublicKey, Signer as _, SigningKey, SpkiHash, TransportConfig,
};
use pb::FrameType;

const OBJECT: Object = Object(3);
const MIB: u64 = 1024 * 1024;
/// Longest time that the primary may be left without a reason.
const REASON: Duration = Duration::from_secs(3);

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Adds a path that cannot be attached and returns why, which must be known in time.
async fn reason(primary: &PrimarySession, path: NewPath) -> ErrorCode {
    let started = Instant::now();
    let added = soon("the reason", primary.add_path(path)).await;
    assert!(started.elapsed() < REASON, "the reason took {:?}", started.elapsed());
    match added {
        Err(PathError::Dead { code, path }) => {
            assert_eq!(
                primary.paths().iter().find(|info| info.id == path).unwrap().state,
                PathState::Dead(code)
            );
            code
        }
        other => panic!("attached? {other:?}"),
    }
}

/// Runs `attempt` while an object is sent over the other paths, which must not notice.
async fn during_a_transfer<T>(world: &World, attempt: impl AsyncFnOnce(&PrimarySession) -> T) -> T {
    let (client, primary, paths) = world.connect_all().await;
    let stream = primary.open_uni().await.unwrap();
    let plan =
        Plan { object: OBJECT, size: 4 * MIB, head: 1, piece: 100_000, paths: paths.clone(), own: true };
    let (result, report, ()) = tokio::join!(attempt(&primary), distribute(stream, plan), async {
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(4 * MIB));
    });
    assert_eq!(report.unwrap().lost, []);
    for path in paths {
        assert_eq!(primary.paths().iter().find(|info| info.id == path).unwrap().state, PathState::Active);
    }
    result
}

#[test]
fn a_dead_port_is_reported_in_time_while_the_transfer_goes_on() {
    run(async {
        let world = World::serving(1);
        let identity = world.authority.issue("nobody.test");
        // One port where nobody reads, one where nobody is.
        let silent = UdpSocket::bind(loopback(0)).unwrap();
        let closed = UdpSocket::bind(loopback(0)).unwrap().local_addr().unwrap();
        for address in [silent.local_addr().unwrap(), closed] {
            let path = NewPath::new(address, &identity.name, identity.key);
            let code = during_a_transfer(&world, async |primary| reason(primary, path).await).await;
            assert_eq!(code, ErrorCode::PATH_DEAD);
        }
    });
}

/// Four dials at once to nowhere hold up the fifth, but no reason comes late.
#[test]
fn many_dead_ports_at_once() {
    run(async {
        let world = World::serving(1);
        let identity = world.authority.issue("nobody.test");
        let silent = UdpSocket::bind(loopback(0)).unwrap().local_addr().unwrap();
        let path = || NewPath::new(silent, &identity.name, identity.key);
        let (_client, primary) = world.connect().await;
        let codes = tokio::join!(
            reason(&primary, path()),
            reason(&primary, path()),
            reason(&primary, path()),
            reason(&primary, path()),
            reason(&primary, path()),
            reason(&primary, path()),
        );
        let dead = ErrorCode::PATH_DEAD;
        assert_eq!(codes, (dead, dead, dead, dead, dead, dead));
        // They count no more: there is room for others.
        attach(&primary, &world.secondaries[0]).await;
    });
}

#[test]
fn wrong_certificates_are_refused() {
    run(async {
        let world = World::serving(1);
        // Another authority's; the pin is right.
        let stranger = world.secondary(Authority::new().issue("stranger.test"));
        // The right authority's, but for another name than the primary says; the pin is right.
        let misnamed = world.secondary(world.authority.issue("misnamed.test"));
        // The right authority's and the right name, but another key than the primary says.
        let impostor = world.secondary(world.authority.issue("secondary1.test"));
        let true_key = world.secondaries[0].identity.key;
        for server in [&stranger, &misnamed, &impostor] {
            server.serve();
        }
        let attempts = [
            stranger.new_path(),
            NewPath::new(misnamed.address(), "another.test", misnamed.identity.key),
            NewPath::new(impostor.address(), "secondary1.test", true_key),
        ];
        for path in attempts {
            let code = during_a_transfer(&world, async |primary| reason(primary, path).await).await;
            assert_eq!(code, ErrorCode::AUTH_FAILED);
        }
    });
}

/// A server that speaks another protocol on that port is no secondary.
#[test]
fn another_protocol_is_refused() {
    run(async {
        let world = World::serving(1);
        let other = RawServer::with_alpn(world.authority.issue("web.test"), b"h3");
        let accepting = other.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                drop(incoming.await);
            }
        });
        let path = NewPath::new(other.address(), "web.test", other.identity.key);
        during_a_transfer(&world, async |primary| {
            reason(primary, path).await;
        })
        .await;
    });
}

/// A server that lets the client in but never answers its hello.
#[test]
fn a_secondary_that_never_answers_is_reported_in_time() {
    run(async {
        let world = World::serving(1);
        let mute = world.raw_secondary();
        let path = NewPath::new(mute.address(), &mute.identity.name, mute.identity.key);
        let (code, _peer) =
            during_a_transfer(&world, async |primary| tokio::join!(reason(primary, path), mute.accept()))
                .await;
        assert_eq!(code, ErrorCode::AUTH_TIMEOUT);
    });
}

/// A secondary that answers for another session.
#[test]
fn a_secondary_of_another_session_is_cut() {
    run(async {
        let world = World::serving(1);
        let liar = world.raw_secondary();
        let path = NewPath::new(liar.address(), &liar.identity.name, liar.identity.key);
        let answers = async {
            let mut peer = liar.accept().await;
            peer.welcome_to(&[9; 16]).await;
            peer.closed().await
        };
        let (code, closed) =
            during_a_transfer(&world, async |primary| tokio::join!(reason(primary, path), answers)).await;
        assert_eq!(code, ErrorCode::AUTH_FAILED);
        assert_eq!(closed, ErrorCode::AUTH_FAILED.into_inner());
    });
}

/// Each role is asked of a server that has only the other. Spec: PROTOCOL §4.6.
#[test]
fn a_role_that_a_server_does_not_have_is_refused() {
    run(async {
        let world = World::serving(1);
        // The primary is told to be a secondary: of itself.
        let serving = world.primary.endpoint.clone();
        let (client, primary) = world.connect().await;
        tokio::spawn(async move {
            while let Some(incoming) = serving.accept().await {
                drop(incoming.accept_any().await);
            }
        });
        let path = NewPath::new(world.primary.address(), "primary.test", world.primary.identity.key);
        assert_eq!(reason(&primary, path).await, ErrorCode::INVALID_STREAM_ROLE);
        assert_eq!(client.close_reason(), None);

        // The secondary is asked to be a primary.
        let connecting = world.client.connect(world.secondaries[0].address(), "secondary1.test").unwrap();
        let error = match soon("the refusal", connecting).await {
            Ok(connection) => soon("the close", connection.closed()).await,
            Err(error) => error,
        };
        assert_eq!(code_of(&error), ErrorCode::INVALID_STREAM_ROLE);
    });
}

/// Awaiting an `Incoming` is for primaries: it refuses a client that wants a secondary, even on a server that has both.
#[test]
fn an_incoming_that_is_awaited_serves_no_secondary() {
    run(async {
        let world = World::new(1);
        let (_client, primary) = world.connect().await;
        let endpoint = &world.secondaries[0].endpoint;
        let accepts = async { soon("a client", endpoint.accept()).await.unwrap().await.err() };
        let path = world.secondaries[0].new_path();
        // The hello itself was accepted, so the path may have been active for a moment.
        let adds = async {
            match soon("the answer", primary.add_path(path)).await {
                Ok(path) => soon("the end", primary.path_dead(path)).await.unwrap(),
                Err(PathError::Dead { code, .. }) => code,
                Err(other) => panic!("{other}"),
            }
        };
        let (refused, code) = tokio::join!(accepts, adds);
        assert!(refused.is_some());
        assert_eq!(code, ErrorCode::INVALID_STREAM_ROLE);
    });
}

fn code_of(error: &ConnectionError) -> ErrorCode {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("closed otherwise: {other}"),
    }
}

#[test]
fn what_cannot_even_be_asked_for() {
    run(async {
        let transport = TransportConfig::default().secondary_paths_max(1);
        let world = World::serving_with(2, Settings { server: transport, ..Settings::default() });
        let (_client, primary) = world.connect().await;
        let key = world.secondaries[0].identity.key;
        for path in [
            NewPath::new(loopback(0), "a.test", key),
            NewPath::new(SocketAddr::from(([0, 0, 0, 0], 1)), "a.test", key),
            NewPath::new(loopback(1), "", key),
            NewPath::new(loopback(1), &"a".repeat(254), key),
        ] {
            assert_eq!(primary.add_path(path).await, Err(PathError::Add(AddPathError::InvalidAddress)));
        }
        let path = attach(&primary, &world.secondaries[0]).await;
        let second = primary.add_path(world.secondaries[1].new_path()).await;
        assert_eq!(second, Err(PathError::Add(AddPathError::LimitExceeded(1))));
        primary.remove_path(path).unwrap();
        soon("its end", primary.path_dead(path)).await.unwrap();
        let next = attach(&primary, &world.secondaries[1]).await;
        assert!(next > path, "ids are never used again");
    });
}

/// The client has a limit of its own, whatever the primary thinks.
#[test]
fn the_clients_limit_of_paths_holds() {
    run(async {
        let transport = TransportConfig::default().secondary_paths_max(1);
        let world = World::serving_with(2, Settings { client: transport, ..Settings::default() });
        let (_client, primary) = world.connect().await;
        attach(&primary, &world.secondaries[0]).await;
        assert_eq!(reason(&primary, world.secondaries[1].new_path()).await, ErrorCode::LIMIT_EXCEEDED);
    });
}

/// A primary by hand, a real client, and a real secondary that trusts the primary's key.
struct ByHand {
    world: World,
    _client: Connection,
    primary: RawPeer,
    next_path: u32,
}

const SESSION: [u8; 16] = [5; 16];

impl ByHand {
    async fn new() -> Self {
        let world = World::serving(1);
        let server = RawServer::new(&world.authority, "primary.test");
        let connecting = world.client.connect(server.address(), "primary.test").unwrap();
        let (client, mut primary) =
            soon("a session", async { tokio::join!(connecting, server.accept()) }).await;
        primary.welcome_to(&SESSION).await;
        Self { world, _client: client.unwrap(), primary, next_path: 1 }
    }

    /// A ticket in which everything is right.
    fn ticket(&mut self) -> Ticket {
        let path = self.next_path;
        self.next_path += 1;
        let nonce = path.to_be_bytes().repeat(4).try_into().unwrap();
        Ticket {
            session: SESSION,
            path,
            audience: self.world.secondaries[0].identity.key,
            client_key: PublicKey::new(self.primary.hello.client_key()[..].try_into().unwrap()),
            issued: unix_now(),
            expires: unix_now() + 60,
            nonce,
        }
    }

    /// Has the client dial the secondary and returns what it reports: `None` for active.
    async fn add_path(&mut self, path: u32, ticket: Vec<u8>) -> Option<ErrorCode> {
        let server = &self.world.secondaries[0];
        let address = pb::SocketAddress {
            ip: Some(vec![127, 0, 0, 1].into()),
            port: Some(u32::from(server.address().port())),
        };
        let add = pb::AddPath {
            path: Some(path),
            addresses: vec![address],
            server_name: Some(server.identity.name.clone()),
            pins: vec![server.identity.key.as_bytes().to_vec().into()],
            ticket: Some(ticket.into()),
        };
        self.primary.control.send(FrameType::AddPath, &add).await;
        let report: pb::PathReport = self.primary.control.expect(FrameType::PathReport).await;
        assert_eq!(report.path, Some(path));
        match report.state() {
            pb::PathState::Active => None,
            pb::PathState::Dead => Some(ErrorCode::from_u64(report.code()).unwrap()),
            other => panic!("reported {other:?}"),
        }
    }

    async fn show(&mut self, ticket: Ticket) -> Option<ErrorCode> {
        let sealed = ticket.seal(&*self.world.signer);
        self.add_path(ticket.path, sealed).await
    }
}

#[test]
fn a_wrong_ticket_is_refused() {
    run(async {
        let mut by_hand = ByHand::new().await;
        let refused = Some(ErrorCode::AUTH_FAILED);
        // So that what follows fails for what is wrong in it alone.
        let right = by_hand.ticket();
        assert_eq!(by_hand.show(right).await, None);

        // Each with a client of its own: one leaves an address alone for a while that it could not attach.
        for bit in [0, 8, 72, 264, 564, 1000, 1164, 1511] {
            by_hand = ByHand::new().await;
            let ticket = by_hand.ticket();
            let mut flipped = ticket.seal(&*by_hand.world.signer);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(by_hand.add_path(ticket.path, flipped).await, refused, "bit {bit}");
        }
        by_hand = ByHand::new().await;
        let ticket = by_hand.ticket();
        let mut cut = ticket.seal(&*by_hand.world.signer);
        cut.pop();
        assert_eq!(by_hand.add_path(ticket.path, cut).await, refused);
    });
}

#[test]
fn a_foreign_ticket_is_refused() {
    run(async {
        let mut by_hand = ByHand::new().await;
        let ticket = by_hand.ticket();
        let sealed = ticket.seal(&SigningKey::from_seed([8; 32]));
        let reported = by_hand.add_path(ticket.path, sealed).await;
        assert_eq!(reported, Some(ErrorCode::AUTH_FAILED));
    });
}

#[test]
fn an_expired_ticket_is_refused() {
    run(async {
        let mut by_hand = ByHand::new().await;
        let expired = Some(ErrorCode::TICKET_EXPIRED);
        let (issued, expires) = (unix_now() - 70, unix_now() - 10);
        // The secondary refuses it: a client's clock may be wrong.
        let dialled = by_hand.world.secondaries[0].endpoint.stats().accepted_handshakes;
        let ticket = Ticket { issued, expires, ..by_hand.ticket() };
        assert_eq!(by_hand.show(ticket).await, expired);
        assert_eq!(by_hand.world.secondaries[0].endpoint.stats().accepted_handshakes, dialled + 1);
        // Within the tolerated difference of clocks it is still good.
        let ticket = Ticket { issued: unix_now() - 61, expires: unix_now() - 1, ..by_hand.ticket() };
        assert_eq!(by_hand.show(ticket).await, None);
    });
}

/// Every claim of a ticket is checked by the secondary.
#[test]
fn a_ticket_for_something_else_is_refused() {
    run(async {
        let changes: [fn(&mut Ticket); 6] = [
            |ticket| ticket.session = [6; 16],
            |ticket| ticket.path += 100,
            |ticket| ticket.audience = SpkiHash::new([1; 32]),
            |ticket| ticket.client_key = SigningKey::from_seed([1; 32]).public_key(),
            |ticket| ticket.issued += 30, // not valid yet: no clock of an honest server is that far ahead
            |ticket| ticket.expires += 30, // lives too long
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut by_hand = ByHand::new().await;
            let right = by_hand.ticket();
            let mut ticket = right.clone();
            change(&mut ticket);
            if index == 4 {
                ticket.expires = ticket.issued + 60;
            }
            let sealed = ticket.seal(&*by_hand.world.signer);
            let reported = by_hand.add_path(right.path, sealed).await;
            let code = if index == 4 { ErrorCode::CLOCK_SKEW } else { ErrorCode::AUTH_FAILED };
            assert_eq!(reported, Some(code), "change {index}");
        }
    });
}

/// A client by hand.
struct Thief {
    endpoint: quinn::Endpoint,
    key: SigningKey,
}

impl Thief {
    fn new() -> Self {
        Self { endpoint: raw::dialler(), key: SigningKey::from_seed([42; 32]) }
    }

    fn ticket(&self, audience: &Identity, client_key: PublicKey) -> Ticket {
        let (issued, expires) = (unix_now(), unix_now() + 60);
        Ticket {
            session: SESSION,
            path: 3,
            audience: audience.key,
            client_key,
            issued,
            expires,
            nonce: [3; 16],
        }
    }

    async fn dial(&self, world: &World, server: &Server) -> (quinn::Connection, Control) {
        let name = &server.identity.name;
        raw::dial(&self.endpoint, &world.authority, ALPN, server.address(), name).await.unwrap()
    }

    /// Shows a ticket; returns the code it is refused with, `None` if it is not.
    async fn show(
        &self,
        (connection, control): &mut (quinn::Connection, Control),
        key: PublicKey,
        ticket: Vec<u8>,
        proof: Vec<u8>,
    ) -> Option<u64> {
        let attach = pb::Attach {
            session: Some(SESSION.to_vec().into()),
            path: Some(3),
            ticket: Some(ticket.into()),
            proof: Some(proof.into()),
        };
        control.send(FrameType::ClientHello, &hello(key, Some(attach))).await;
        match soon("an answer", control.next()).await {
            Some((FrameType::ServerHello, _)) => None,
            Some((other, _)) => panic!("answered with {other:?}"),
            None => Some(close_code(connection).await),
        }
    }
}

fn hello(key: PublicKey, attach: Option<pb::Attach>) -> pb::ClientHello {
    pb::ClientHello {
        version: Some(1),
        features: Some(0),
        client_key: Some(key.as_bytes().to_vec().into()),
        split_streams_max: Some(16),
        app_protocols: Vec::new(),
        attach,
    }
}

/// A stolen ticket is useless without the key it names, and a ticket is good once. Spec: PROTOCOL §9.
#[test]
fn stolen_and_replayed_tickets_are_refused() {
    run(async {
        let world = World::serving(1);
        let server = &world.secondaries[0];
        let thief = Thief::new();
        let refused = Some(ErrorCode::AUTH_FAILED.into_inner());
        let own = thief.key.public_key();
        let victim = SigningKey::from_seed([43; 32]);

        // Somebody else's ticket: shown under the thief's own key, and under the key it names without having it.
        let stolen = thief.ticket(&server.identity, victim.public_key()).seal(&*world.signer);
        let mut connection = thief.dial(&world, server).await;
        let proof = raw::attach_proof(&connection.0, &thief.key);
        assert_eq!(thief.show(&mut connection, own, stolen.clone(), proof).await, refused);
        let mut connection = thief.dial(&world, server).await;
        let proof = raw::attach_proof(&connection.0, &thief.key);
        assert_eq!(thief.show(&mut connection, victim.public_key(), stolen.clone(), proof).await, refused);
        // With the victim's proof, recorded on another connection.
        let (recorded_on, mut connection) =
            (thief.dial(&world, server).await, thief.dial(&world, server).await);
        let proof = raw::attach_proof(&recorded_on.0, &victim);
        assert_eq!(thief.show(&mut connection, victim.public_key(), stolen.clone(), proof).await, refused);
        // All of these have not used it up.
        let mut connection = thief.dial(&world, server).await;
        let proof = raw::attach_proof(&connection.0, &victim);
        assert_eq!(thief.show(&mut connection, victim.public_key(), stolen.clone(), proof).await, None);
        // A second time, by its owner: replayed.
        let mut again = thief.dial(&world, server).await;
        let proof = raw::attach_proof(&again.0, &victim);
        assert_eq!(thief.show(&mut again, victim.public_key(), stolen, proof).await, refused);
    });
}

/// It is the endpoint that remembers a ticket: servers that share a key each take it once, which SECURITY.md says, and those
/// that have keys of their own do not.
#[test]
fn a_ticket_is_good_once_per_endpoint_with_its_key() {
    run(async {
        let world = World::new(0);
        let refused = Some(ErrorCode::AUTH_FAILED.into_inner());
        let thief = Thief::new();
        let shared = world.authority.issue("mirror.test");
        let own = world.authority.issue("mirror.test");
        let servers = [shared.clone(), shared.clone(), own].map(|identity| world.secondary(identity));
        servers.iter().for_each(|server| drop(server.serve()));
        let key = thief.key.public_key();
        let sealed = thief.ticket(&shared, key).seal(&*world.signer);
        for (at, answer) in [(0, None), (1, None), (0, refused), (1, refused), (2, refused)] {
            let mut connection = thief.dial(&world, &servers[at]).await;
            let proof = raw::attach_proof(&connection.0, &thief.key);
            assert_eq!(thief.show(&mut connection, key, sealed.clone(), proof).await, answer, "{at}");
        }
    });
}

/// A client's first words to a server are a hello, and it has ten seconds for it.
#[test]
fn servers_want_a_hello_first() {
    run(async {
        let transport = TransportConfig::default().hello_timeout(Duration::from_millis(300));
        let world = World::serving_with(1, Settings { server: transport, ..Settings::default() });
        let accepting = world.primary.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move { drop(incoming.accept_any().await) });
            }
        });
        let thief = Thief::new();
        for server in [&world.primary, &world.secondaries[0]] {
            // Nothing.
            let (connection, _control) = thief.dial(&world, server).await;
            assert_eq!(close_code(&connection).await, ErrorCode::AUTH_TIMEOUT.into_inner());
            // Something else.
            let (connection, mut control) = thief.dial(&world, server).await;
            control.send(FrameType::JobAccepted, &pb::JobAccepted { job: Some(1) }).await;
            assert_eq!(close_code(&connection).await, ErrorCode::FRAME_UNEXPECTED.into_inner());
            // Another version.
            let (connection, mut control) = thief.dial(&world, server).await;
            let other = pb::ClientHello { version: Some(2), ..hello(thief.key.public_key(), None) };
            control.send(FrameType::ClientHello, &other).await;
            assert_eq!(close_code(&connection).await, ErrorCode::VERSION.into_inner());
            // A key that is too short.
            let (connection, mut control) = thief.dial(&world, server).await;
            let mut short = hello(thief.key.public_key(), None);
            short.client_key = Some(vec![1; 31].into());
            control.send(FrameType::ClientHello, &short).await;
            assert_eq!(close_code(&connection).await, ErrorCode::INVALID_FRAME.into_inner());
        }
    });
}

/// On a path to a secondary a client has no stream but control, and those that carry messages of the primary.
#[test]
fn a_client_gets_no_streams_from_a_secondary() {
    run(async {
        let world = World::serving(1);
        let server = &world.secondaries[0];
        let thief = Thief::new();
        for uni in [true, false] {
            let mut connection = thief.dial(&world, server).await;
            let key = SigningKey::from_seed([if uni { 50 } else { 51 }; 32]);
            let mut ticket = thief.ticket(&server.identity, key.public_key());
            ticket.nonce = [u8::from(uni); 16];
            let proof = raw::attach_proof(&connection.0, &key);
            let sealed = ticket.seal(&*world.signer);
            assert_eq!(thief.show(&mut connection, key.public_key(), sealed, proof).await, None);
            // The other half is held: dropped, it would be stopped, which opens the stream before anything is written.
            let (mut send, _recv) = if uni {
                (soon("a stream", connection.0.open_uni()).await.unwrap(), None)
            } else {
                let (send, recv) = soon("a stream", connection.0.open_bi()).await.unwrap();
                (send, Some(recv))
            };
            send.write_all(&[0, 1, 0, 0]).await.unwrap();
            assert_eq!(close_code(&connection.0).await, ErrorCode::INVALID_STREAM_ROLE.into_inner());
        }
    });
}

/// A server without KWIK's ALPN is not spoken to, and a client without it is not listened to.
#[test]
fn the_alpn_is_checked_on_both_ends() {
    run(async {
        let world = World::new(0);
        let thief = Thief::new();
        let accepting = world.primary.endpoint.clone();
        let accepts = tokio::spawn(async move { accepting.accept().await.unwrap().accept_any().await.err() });
        let dialled =
            raw::dial(&thief.endpoint, &world.authority, b"h3", world.primary.address(), "primary.test")
                .await;
        assert!(dialled.is_err());
        assert!(soon("the refusal", accepts).await.unwrap().is_some());

        let web = RawServer::with_alpn(world.authority.issue("web.test"), b"h3");
        let connecting = world.client.connect(web.address(), "web.test").unwrap();
        let accepts = async { web.endpoint.accept().await.unwrap().await.err() };
        let (connected, refused) = soon("the refusal", async { tokio::join!(connecting, accepts) }).await;
        assert!(connected.is_err() && refused.is_some());
    });
}

/// A path is added even if nobody waits for it.
#[test]
fn adding_a_path_survives_its_future() {
    run_on_one_thread(async {
        let world = World::serving(1);
        let (_client, primary) = world.connect().await;
        // Asked once and dropped; on a busy machine the answer may be there already.
        let asked = poll_once(primary.add_path(world.secondaries[0].new_path()));
        assert!(matches!(asked, None | Some(Ok(_))), "{asked:?}");
        let path = PathId::new(1);
        assert_eq!(soon("the path", primary.path_ready(path)).await, Ok(()));
        let info = &primary.paths()[0];
        assert_eq!((info.id, info.state), (path, PathState::Active));
        assert_eq!(info.server_name, "secondary1.test");
        assert_eq!(info.identities, [world.secondaries[0].identity.key]);
    });
}
