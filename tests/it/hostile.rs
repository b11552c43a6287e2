//! A hostile primary and a hostile client: each costs itself its session, and nobody anything else. Spec: PROTOCOL §9.

use bytes::Bytes;
use kwik_proto::v1 as pb;
use kwik_tests::{
    object::Object,
    raw::{self, ALPN, Control, RawPeer, RawServer, close_code},
    run, soon, wire,
    world::World,
};
use kwik_tokio::{
    Accepted, ByteRange, Connection, ConnectionError, ErrorCode, LeaseOutcome, NewJob, NewPath,
    PrimarySession, PublicKey, ReadError, RecvStream, Signer as _, SigningKey, SpkiHash,
};
use pb::{FrameType, StreamHeaderType};

const OBJECT: Object = Object(5);
/// The first unidirectional stream of a server.
const STREAM: u64 = 3;

fn bytes(start: u64, end: u64) -> Bytes {
    ByteRange::between(start, end).map(|range| OBJECT.bytes(range)).unwrap_or_default()
}

/// A real client of a primary by hand.
struct Client {
    world: World,
    connection: Connection,
    primary: RawPeer,
    _server: RawServer,
}

async fn client() -> Client {
    let mut client = greeted_by_nobody().await;
    client.primary.welcome_to(&[5; 16]).await;
    client
}

async fn greeted_by_nobody() -> Client {
    let world = World::new(0);
    let server = RawServer::new(&world.authority, "primary.test");
    let connecting = world.client.connect(server.address(), "primary.test").unwrap();
    let (connection, primary) = soon("a session", async { tokio::join!(connecting, server.accept()) }).await;
    Client { world, connection: connection.unwrap(), primary, _server: server }
}

impl Client {
    async fn send(&mut self, kind: FrameType, body: &impl prost::Message) {
        self.primary.control.send(kind, body).await;
    }

    /// Sends a native head of a stream and splits it behind.
    async fn split(&mut self, head: u64) -> (quinn::SendStream, RecvStream) {
        let mut native = wire::header(StreamHeaderType::PublicStream, &pb::PublicStream {});
        native.extend_from_slice(&bytes(0, head));
        let native = self.primary.open_uni(&native).await;
        let recv = soon("the stream", self.connection.accept_uni()).await.unwrap();
        self.send(FrameType::Split, &pb::Split { stream: Some(STREAM), offset: Some(head) }).await;
        let ack: pb::SplitAck = self.primary.control.expect(FrameType::SplitAck).await;
        assert_eq!(ack.stream, Some(STREAM));
        (native, recv)
    }

    async fn run(&self, offset: u64, bytes: &Bytes) -> quinn::SendStream {
        let open = pb::InternalOpen { stream: Some(STREAM), offset: Some(offset) };
        let mut run = wire::header(StreamHeaderType::InternalOpen, &open);
        run.extend_from_slice(bytes);
        self.primary.open_uni(&run).await
    }

    async fn finish(&mut self, size: u64) {
        let body = pb::StreamFinal { stream: Some(STREAM), size: Some(size) };
        self.send(FrameType::StreamFinal, &body).await;
    }

    /// The session must end with `code` on both sides.
    async fn expect_cut(self, code: ErrorCode) {
        assert_eq!(self.primary.closed().await, code.into_inner());
        assert_eq!(fault_code(&soon("the end", self.connection.closed()).await), Some(code));
        drop(self.world);
    }
}

/// The code of the rule that the peer broke, if that is why a session ended.
fn fault_code(end: &ConnectionError) -> Option<ErrorCode> {
    if let ConnectionError::Fault(fault) = end { Some(fault.code()) } else { None }
}

/// The other tests mean something only if this one passes.
#[test]
fn an_honest_primary_by_hand_is_believed() {
    run(async {
        let mut client = client().await;
        let (mut native, mut recv) = client.split(1000).await;
        let _tail = client.run(3000, &bytes(3000, 5000)).await;
        let _middle = client.run(1000, &bytes(1000, 3000)).await;
        client.finish(5000).await;
        let complete: pb::StreamComplete = client.primary.control.expect(FrameType::StreamComplete).await;
        assert_eq!(complete.stream, Some(STREAM));
        native.finish().unwrap();
        assert_eq!(soon("the object", recv.read_to_end(10_000)).await.unwrap(), bytes(0, 5000));
        assert_eq!(client.connection.close_reason(), None);
    });
}

/// Runs may come before their split: they wait unread. Spec: PROTOCOL §4.
#[test]
fn a_run_before_its_split_waits() {
    run(async {
        let mut client = client().await;
        let mut early = Vec::new();
        for at in 0..8 {
            early.push(client.run(at * 1000, &bytes(at * 1000, at * 1000 + 1000)).await);
        }
        // The stream itself comes after them, so its id is that of the ninth: the runs are for that one.
        let mut native = wire::header(StreamHeaderType::PublicStream, &pb::PublicStream {});
        native.extend_from_slice(b"");
        let native = client.primary.open_uni(&native).await;
        assert_ne!(quinn::VarInt::from(native.id()).into_inner(), STREAM);
        let mut recv = soon("the stream", client.connection.accept_uni()).await.unwrap();
        // Stream 3 is a run itself, and no stream of the application's.
        client.send(FrameType::Split, &pb::Split { stream: Some(STREAM), offset: Some(0) }).await;
        let _ack: pb::SplitAck = client.primary.control.expect(FrameType::SplitAck).await;
        drop(native);
        let _stopped = recv.stop(0u32.into());
    });
}

#[test]
fn contradicting_final_sizes_end_the_session() {
    run(async {
        // Below the split.
        let mut client = client().await;
        let _stream = client.split(1000).await;
        client.finish(999).await;
        client.expect_cut(ErrorCode::FINAL_SIZE).await;
        // Below what is placed.
        let mut client = self::client().await;
        let (_native, mut recv) = client.split(1000).await;
        let _run = client.run(1000, &bytes(1000, 2000)).await;
        soon("the bytes", recv.read_exact(&mut [0; 1001])).await.unwrap();
        client.finish(1500).await;
        client.expect_cut(ErrorCode::FINAL_SIZE).await;
        // Another one.
        let mut client = self::client().await;
        let _stream = client.split(1000).await;
        client.finish(5000).await;
        client.finish(5000).await;
        client.finish(5001).await;
        client.expect_cut(ErrorCode::FINAL_SIZE).await;
        // Bytes beyond it.
        let mut client = self::client().await;
        let _stream = client.split(1000).await;
        client.finish(1500).await;
        let _run = client.run(1400, &bytes(1400, 1600)).await;
        client.expect_cut(ErrorCode::FINAL_SIZE).await;
    });
}

#[test]
fn native_bytes_past_the_split_end_the_session() {
    run(async {
        // Seen when the native part is read,
        let mut client = client().await;
        let (mut native, mut recv) = client.split(1000).await;
        native.write_all(&bytes(1000, 1010)).await.unwrap();
        native.finish().unwrap();
        client.finish(1000).await;
        let _complete: pb::StreamComplete = client.primary.control.expect(FrameType::StreamComplete).await;
        // Whether the reader still gets its thousand bytes depends on how QUIC cut the rest into packets.
        let _read = soon("the end", recv.read_to_end(10_000)).await;
        client.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
        // or at the end of the stream.
        let mut client = self::client().await;
        let (mut native, mut recv) = client.split(1000).await;
        soon("the bytes", recv.read_exact(&mut [0; 1000])).await.unwrap();
        native.write_all(&bytes(1000, 1010)).await.unwrap();
        client.finish(1000).await;
        let _read = soon("the end", recv.read(&mut [0])).await;
        client.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
    });
}

#[test]
fn a_run_past_its_credit_ends_the_session() {
    run(async {
        let mut client = client().await;
        let _stream = client.split(0).await;
        let far = 1 << 40;
        let _run = client.run(far, &bytes(0, 10)).await;
        client.expect_cut(ErrorCode::FLOW_CONTROL).await;
        // Beyond the largest offset there is.
        let mut client = self::client().await;
        let _stream = client.split(0).await;
        let _run = client.run((1 << 62) - 1, &bytes(0, 10)).await;
        client.expect_cut(ErrorCode::OFFSET_OVERFLOW).await;
        // Below the split.
        let mut client = self::client().await;
        let _stream = client.split(1000).await;
        let _run = client.run(999, &bytes(999, 1010)).await;
        client.expect_cut(ErrorCode::LEASE_VIOLATION).await;
    });
}

#[test]
fn frames_out_of_place_end_the_session() {
    run(async {
        let complete = pb::StreamComplete { stream: Some(STREAM) };
        let ack = pb::SplitAck { stream: Some(STREAM), credit: Some(1) };
        let accepted = pb::JobAccepted { job: Some(1) };
        let notice =
            pb::LeaseNotice { lease: Some(1), job: Some(1), range: raw::range(0, 1), credit: Some(1) };
        let hello = pb::ServerHello {
            version: Some(1),
            features: Some(0),
            session: Some(vec![5; 16].into()),
            app_protocol: None,
        };
        let size = pb::StreamFinal { stream: Some(99), size: Some(0) };
        for (what, frame) in [
            ("the client's", wire::frame(FrameType::StreamComplete, &complete)),
            ("the client's", wire::frame(FrameType::SplitAck, &ack)),
            ("a secondary's", wire::frame(FrameType::JobAccepted, &accepted)),
            ("for a secondary", wire::frame(FrameType::LeaseNotice, &notice)),
            ("a second hello", wire::frame(FrameType::ServerHello, &hello)),
            ("a stream never split", wire::frame(FrameType::StreamFinal, &size)),
        ] {
            let mut client = client().await;
            eprintln!("{what}");
            client.primary.control.send_bytes(&frame).await;
            client.expect_cut(ErrorCode::FRAME_UNEXPECTED).await;
        }
        // Anything before the hello's answer.
        let mut client = greeted_by_nobody().await;
        client.send(FrameType::Split, &pb::Split { stream: Some(STREAM), offset: Some(0) }).await;
        client.expect_cut(ErrorCode::FRAME_UNEXPECTED).await;
        // Rubbish.
        let mut client = self::client().await;
        client.primary.control.send_bytes(&wire::framed(FrameType::Split as u64, &[0xff; 3])).await;
        client.expect_cut(ErrorCode::INVALID_FRAME).await;
        // The control stream's end.
        let mut client = self::client().await;
        client.primary.control.sender().finish().unwrap();
        client.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
        // A secondary's stream on the primary path.
        let client = self::client().await;
        let _stream = client.primary.open_uni(&raw::secondary_stream(1, 0, &bytes(0, 1))).await;
        client.expect_cut(ErrorCode::INVALID_STREAM_ROLE).await;
    });
}

/// A primary must not turn its clients into scanners or floods. Spec: PROTOCOL §9.11.
#[test]
fn the_dial_policy_holds() {
    run(async {
        let mut client = client().await;
        let mut path = 0;
        let mut add = |ip: Vec<u8>, port: u32| {
            path += 1;
            pb::AddPath {
                path: Some(path),
                addresses: vec![pb::SocketAddress { ip: Some(ip.into()), port: Some(port) }],
                server_name: Some("victim.test".into()),
                pins: Vec::new(),
                ticket: Some(vec![1; 181].into()),
            }
        };
        let mapped = |last: [u8; 4]| [&[0; 10][..], &[0xff; 2], &last].concat();
        for ip in [vec![0, 0, 0, 0], vec![224, 0, 0, 1], vec![255; 4], vec![0; 16], mapped([224, 0, 0, 1])] {
            client.send(FrameType::AddPath, &add(ip.clone(), 443)).await;
            let report: pb::PathReport = client.primary.control.expect(FrameType::PathReport).await;
            assert_eq!(report.code, Some(ErrorCode::DIAL_REFUSED.into_inner()), "{ip:?}");
        }
        // Sixteen dials a minute, to where nobody is.
        let silent = std::net::UdpSocket::bind(raw::loopback()).unwrap();
        let port = u32::from(silent.local_addr().unwrap().port());
        for _ in 0..20 {
            client.send(FrameType::AddPath, &add(vec![127, 0, 0, 1], port)).await;
        }
        let mut codes = Vec::new();
        for _ in 0..20 {
            let report: pb::PathReport = client.primary.control.expect(FrameType::PathReport).await;
            codes.push(ErrorCode::from_u64(report.code()).unwrap());
        }
        let (mut alive, mut refused) = (0, 0);
        for code in codes {
            match code {
                ErrorCode::PATH_DEAD => alive += 1,
                ErrorCode::LIMIT_EXCEEDED | ErrorCode::EXCESSIVE_LOAD => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!((alive, refused), (8, 12), "as many as paths may be alive");
        // An id used before.
        let again = pb::AddPath { path: Some(1), ..add(vec![127, 0, 0, 1], port) };
        client.send(FrameType::AddPath, &again).await;
        client.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
    });
}

/// A reset of the native part ends a split stream, leases, runs and all.
#[test]
fn a_native_reset_ends_a_split_stream() {
    run(async {
        let mut client = client().await;
        let (mut native, mut recv) = client.split(10).await;
        let mut run = client.run(10, &bytes(10, 20)).await;
        soon("the bytes", recv.read_exact(&mut [0; 20])).await.unwrap();
        native.reset(9u32.into()).unwrap();
        assert_eq!(soon("the reset", recv.read(&mut [0])).await, Err(ReadError::Reset(9u32.into())));
        let stopped = soon("the stop", run.stopped()).await.unwrap();
        assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(ErrorCode::STREAM_CLOSED.into_inner()));
        let _reset = run.reset(0u32.into());
        assert_eq!(client.connection.close_reason(), None);
    });
}

/// A real primary with a client by hand.
struct Primary {
    world: World,
    session: PrimarySession,
    connection: quinn::Connection,
    control: Control,
    _endpoint: quinn::Endpoint,
}

async fn primary() -> Primary {
    let world = World::new(0);
    let endpoint = raw::dialler();
    let key = SigningKey::from_seed([1; 32]).public_key();
    let greets = async {
        let address = world.primary.address();
        let dialled = raw::dial(&endpoint, &world.authority, ALPN, address, "primary.test").await;
        let (connection, mut control) = dialled.unwrap();
        control.send(FrameType::ClientHello, &hello(key)).await;
        let _hello: pb::ServerHello = control.expect(FrameType::ServerHello).await;
        (connection, control)
    };
    let (accepted, (connection, control)) = tokio::join!(world.primary.accept(), greets);
    let Accepted::Primary(session) = accepted else { panic!("a client that wants a primary") };
    Primary { world, session, connection, control, _endpoint: endpoint }
}

fn hello(key: PublicKey) -> pb::ClientHello {
    pb::ClientHello {
        version: Some(1),
        features: Some(0),
        client_key: Some(key.as_bytes().to_vec().into()),
        split_streams_max: Some(16),
        app_protocols: Vec::new(),
        attach: None,
    }
}

#[test]
fn a_hostile_client_loses_its_own_session_only() {
    run(async {
        let split = pb::Split { stream: Some(STREAM), offset: Some(0) };
        let done = pb::LeaseDone { lease: Some(7) };
        let credit = pb::OffsetCredit { stream: Some(99), offset: Some(1) };
        let credit = pb::Credit { grant: Some(pb::credit::Grant::Offset(credit)) };
        let cases: [(&str, Vec<u8>, Option<ErrorCode>); 5] = [
            ("a primary's", wire::frame(FrameType::Split, &split), Some(ErrorCode::FRAME_UNEXPECTED)),
            (
                "rubbish",
                wire::framed(FrameType::LeaseDone as u64, &[0xff; 3]),
                Some(ErrorCode::INVALID_FRAME),
            ),
            ("too long", wire::varint(5000), Some(ErrorCode::FRAME_TOO_LARGE)),
            // What could be late is never punished.
            (
                "a lease never given",
                wire::frame(FrameType::LeaseDone, &done),
                Some(ErrorCode::METADATA_PROTOCOL_VIOLATION),
            ),
            ("credit for nothing", wire::frame(FrameType::Credit, &credit), None),
        ];
        for (what, frame, code) in cases {
            let mut primary = primary().await;
            eprintln!("{what}");
            primary.control.send_bytes(&frame).await;
            match code {
                Some(code) => {
                    assert_eq!(close_code(&primary.connection).await, code.into_inner());
                    let ended = soon("the end", primary.session.closed()).await;
                    assert_eq!(fault_code(&ended), Some(code));
                }
                None => {
                    let mut stream = primary.session.open_uni().await.unwrap();
                    stream.write_all(b"still there").await.unwrap();
                    let mut recv = soon("the stream", primary.connection.accept_uni()).await.unwrap();
                    let mut header = [0; 2];
                    recv.read_exact(&mut header).await.unwrap();
                    assert_eq!(header, [0, 1], "the header of a public stream");
                    let mut bytes = [0; 11];
                    recv.read_exact(&mut bytes).await.unwrap();
                    assert_eq!(&bytes, b"still there");
                    assert_eq!(primary.session.close_reason(), None);
                }
            }
            // Others are served on.
            let (client, _session) = primary.world.connect().await;
            assert_eq!(client.close_reason(), None);
        }
    });
}

/// Only public streams come from a client.
#[test]
fn a_client_opens_public_streams_only() {
    run(async {
        for header in [
            raw::secondary_stream(1, 0, &bytes(0, 1)),
            wire::header(
                StreamHeaderType::InternalOpen,
                &pb::InternalOpen { stream: Some(STREAM), offset: Some(0) },
            ),
        ] {
            let primary = primary().await;
            let mut stream = primary.connection.open_uni().await.unwrap();
            stream.write_all(&header).await.unwrap();
            let code = close_code(&primary.connection).await;
            assert_eq!(code, ErrorCode::INVALID_STREAM_ROLE.into_inner());
        }
    });
}

/// A client can only call part of a lease missing: the application leases it again as it is.
#[test]
fn a_client_cannot_lose_more_than_was_leased() {
    run(async {
        let mut primary = primary().await;
        let stream = primary.session.open_uni().await.unwrap();
        let path = NewPath::new(raw::loopback_port(9), "secondary.test", SpkiHash::new([1; 32]));
        let adds = tokio::spawn({
            let session = primary.session.clone();
            async move { session.add_path(path).await }
        });
        let add: pb::AddPath = primary.control.expect(FrameType::AddPath).await;
        let report = pb::PathReport { path: add.path, state: Some(pb::PathState::Active.into()), code: None };
        primary.control.send(FrameType::PathReport, &report).await;
        let path = soon("the path", adds).await.unwrap().unwrap();
        let leased = ByteRange::between(1000, 2000).unwrap();
        let job = stream.open_job(NewJob::new(path, ByteRange::between(0, 10_000).unwrap(), "")).unwrap();
        let mut lease = job.lease(leased).unwrap();
        let _other = job.lease(ByteRange::between(3000, 4000).unwrap()).unwrap();
        let lost = pb::LeaseLost {
            lease: Some(lease.id().into_inner()),
            code: Some(1),
            missing: [(0, 10), (1500, 100), (3500, 100)]
                .map(|(start, len)| raw::range(start, len).unwrap())
                .to_vec(),
        };
        primary.control.send(FrameType::LeaseLost, &lost).await;
        match soon("the outcome", lease.outcome()).await {
            Ok(LeaseOutcome::Lost { missing, .. }) => {
                assert!(missing.iter().all(|range| leased.contains(*range)), "{missing:?} of {leased}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(matches!(error, ConnectionError::Fault(_)), "{error}"), // that would do, too
        }
    });
}
