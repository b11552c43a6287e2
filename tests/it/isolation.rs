//! Attempts of a hostile secondary, and their cost: its path. The object always arrives.
//! Spec: DESIGN §2, PROTOCOL §5, §9.

use std::time::Duration;

use bytes::Bytes;
use kwik_proto::v1 as pb;
use kwik_tests::{
    feed::receive,
    object::Object,
    raw::{self, RawPeer, RawServer, secondary_stream},
    run, soon, stays_pending, wire,
    world::{Settings, World, attach, attach_raw},
};
use kwik_tokio::{
    ByteRange, Connection, ErrorCode, Job, Lease, LeaseOutcome, NewJob, PathId, PathState, PrimarySession,
    RecvStream, SendStream, TransportConfig,
};
use pb::{FrameType, StreamHeaderType};

const OBJECT: Object = Object(4);
const MIB: u64 = 1024 * 1024;
/// The object: a native head, the hostile secondary's part, the honest one's part, the primary's own.
const SIZE: u64 = 3 * MIB;
const EVIL: (u64, u64) = (1000, MIB);
const HONEST: (u64, u64) = (MIB, 2 * MIB);

fn range((start, end): (u64, u64)) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

/// A transfer in which one of the secondaries is played by the test.
struct Scene {
    world: World,
    client: Connection,
    primary: PrimarySession,
    _server: RawServer,
    /// The hostile secondary's end of its path.
    evil: RawPeer,
    evil_path: PathId,
    honest: Job,
    stream: SendStream,
    recv: RecvStream,
    /// Requests that the hostile secondary got.
    lease: Lease,
    notice: pb::LeaseNotice,
    _job: Job,
}

async fn scene() -> Scene {
    scene_with(Settings::default()).await
}

async fn scene_with(settings: Settings) -> Scene {
    let world = World::serving_with(1, settings);
    let (client, primary) = world.connect().await;
    let honest_path = attach(&primary, &world.secondaries[0]).await;
    let server = world.raw_secondary();
    let (evil_path, mut evil) = attach_raw(&primary, &server).await;
    let mut stream = primary.open_uni().await.unwrap();
    stream.write_all(&OBJECT.bytes(range((0, EVIL.0)))).await.unwrap();
    let whole = range((EVIL.0, SIZE));
    let job = stream.open_job(NewJob::new(evil_path, whole, OBJECT.payload())).unwrap();
    let honest = stream.open_job(NewJob::new(honest_path, whole, OBJECT.payload())).unwrap();
    let lease = job.lease(range(EVIL)).unwrap();
    let recv = soon("the stream", client.accept_uni()).await.unwrap();
    let open: pb::JobOpen = evil.control.expect(FrameType::JobOpen).await;
    evil.control.send(FrameType::JobAccepted, &pb::JobAccepted { job: open.job }).await;
    let notice: pb::LeaseNotice = evil.control.expect(FrameType::LeaseNotice).await;
    assert_eq!(notice.range, raw::range(EVIL.0, EVIL.1 - EVIL.0));
    let _server = server;
    Scene { world, client, primary, _server, evil, evil_path, honest, stream, recv, lease, notice, _job: job }
}

impl Scene {
    fn lease_id(&self) -> u64 {
        self.notice.lease()
    }

    /// Everything that the evil lease asks for, and `more` after it.
    fn all_and(&self, more: &[u8]) -> Vec<u8> {
        let mut bytes = secondary_stream(self.lease_id(), EVIL.0, &OBJECT.bytes(range(EVIL)));
        bytes.extend_from_slice(more);
        bytes
    }

    /// The path must be cut with `code` on both sides; the object must arrive all the same.
    async fn expect_cut(self, code: ErrorCode) {
        let told = soon("the end of the path", self.primary.path_dead(self.evil_path)).await;
        assert_eq!(told, Ok(code));
        assert_eq!(self.evil.closed().await, code.into_inner());
        self.complete().await;
    }

    /// The path must live on, and the object arrive.
    async fn expect_alive(self) {
        let path = self.primary.paths().into_iter().find(|path| path.id == self.evil_path).unwrap();
        assert_eq!(path.state, PathState::Active);
        assert!(self.evil.connection.close_reason().is_none());
        self.complete().await;
    }

    /// Has the others supply what the evil secondary has not, and the client read all of it.
    async fn complete(mut self) {
        // The primary takes its path away if it has not lost it: what it owes is somebody else's now.
        let _gone = self.primary.remove_path(self.evil_path);
        let missing = match soon("the outcome", self.lease.outcome()).await.unwrap() {
            LeaseOutcome::Done => Vec::new(),
            LeaseOutcome::Lost { missing, .. } => missing,
            other => panic!("what is {other:?}?"),
        };
        let mut leases = vec![self.honest.lease(range(HONEST)).unwrap()];
        leases.extend(missing.iter().map(|missing| self.honest.lease(*missing).unwrap()));
        let own = range((HONEST.1, SIZE));
        let writes = async {
            let mut run = self.stream.write_at(own).unwrap();
            run.write_all_chunks(&mut [OBJECT.bytes(own)]).await.unwrap();
            self.stream.finish().unwrap();
            for lease in &mut leases {
                assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
            }
            assert_eq!(run.finish().await, Ok(LeaseOutcome::Done));
            assert_eq!(self.stream.stopped().await, Ok(None));
        };
        let reads = async { assert_eq!(receive(&mut self.recv, OBJECT, true).await, Ok(SIZE)) };
        soon("the object", async { tokio::join!(writes, reads) }).await;
        let time = Duration::from_millis(50);
        let quiet = tokio::join!(
            stays_pending(time, self.client.accept_uni()),
            stays_pending(time, self.client.accept_bi()),
            stays_pending(time, self.client.read_datagram())
        );
        assert_eq!(quiet, (true, true, true), "the application saw something");
        assert_eq!(self.client.close_reason(), None);
        drop(self.world);
    }
}

/// The other tests mean something only if this one passes: by hand, but honest.
#[test]
fn an_honest_secondary_by_hand_is_not_cut() {
    run(async {
        let mut scene = scene().await;
        let mut internal = scene.evil.open_uni(&scene.all_and(&[])).await;
        internal.finish().unwrap();
        assert_eq!(soon("the outcome", scene.lease.outcome()).await, Ok(LeaseOutcome::Done));
        let source = scene.client.stats().sources[&scene.evil_path];
        assert_eq!((source.bytes, source.leases_done), (EVIL.1 - EVIL.0, 1));
        scene.expect_alive().await;
    });
}

#[test]
fn writing_past_a_lease_costs_the_path() {
    run(async {
        for more in [&[0][..], &[0; 100_000][..]] {
            let scene = scene().await;
            let _internal = scene.evil.open_uni(&scene.all_and(more)).await;
            scene.expect_cut(ErrorCode::LEASE_VIOLATION).await;
        }
    });
}

#[test]
fn writing_to_a_lease_never_given_costs_the_path() {
    run(async {
        for offset in [1, 1000] {
            let scene = scene().await;
            let lease = scene.lease_id() + offset;
            let bytes = secondary_stream(lease, EVIL.0, &Bytes::from_static(b"evil"));
            let _internal = scene.evil.open_uni(&bytes).await;
            scene.expect_cut(ErrorCode::LEASE_VIOLATION).await;
        }
    });
}

/// A lease of another path is not this path's, whoever guesses its number.
#[test]
fn writing_to_anothers_lease_costs_the_path() {
    run(async {
        let mut scene = scene().await;
        let pieces = [(2 * MIB, 2 * MIB + 10), (2 * MIB + 10, 2 * MIB + 20)].map(range);
        let mut others = pieces.map(|piece| scene.honest.lease(piece).unwrap());
        for lease in &mut others {
            assert_eq!(soon("the outcome", lease.outcome()).await, Ok(LeaseOutcome::Done));
        }
        let other = others[0].id().into_inner();
        assert!(other > scene.lease_id());
        let bytes = secondary_stream(other, 2 * MIB, &Bytes::from_static(b"evil"));
        let _internal = scene.evil.open_uni(&bytes).await;
        let told = soon("the end of the path", scene.primary.path_dead(scene.evil_path)).await;
        assert_eq!(told, Ok(ErrorCode::LEASE_VIOLATION));
        // The rest is as always, but for the 20 bytes that are there already.
        let missing = match soon("the outcome", scene.lease.outcome()).await.unwrap() {
            LeaseOutcome::Lost { missing, .. } => missing,
            other => panic!("what is {other:?}?"),
        };
        assert_eq!(missing, [range(EVIL)]);
        let _leases =
            [missing[0], range(HONEST), range((2 * MIB + 20, SIZE))].map(|r| scene.honest.lease(r).unwrap());
        scene.stream.finish().unwrap();
        assert_eq!(soon("the object", receive(&mut scene.recv, OBJECT, true)).await, Ok(SIZE));
    });
}

#[test]
fn a_wrong_offset_costs_the_path() {
    run(async {
        for offset in [0, EVIL.0 - 1, EVIL.0 + 1, EVIL.1, HONEST.0 + 5, (1 << 62) - 1] {
            let scene = scene().await;
            let bytes = secondary_stream(scene.lease_id(), offset, &OBJECT.bytes(range((5, 10))));
            let _internal = scene.evil.open_uni(&bytes).await;
            scene.expect_cut(ErrorCode::LEASE_VIOLATION).await;
        }
    });
}

#[test]
fn two_streams_for_one_lease_cost_the_path() {
    run(async {
        let scene = scene().await;
        let bytes = secondary_stream(scene.lease_id(), EVIL.0, &OBJECT.bytes(range((EVIL.0, EVIL.0 + 10))));
        let _one = scene.evil.open_uni(&bytes).await;
        let _two = scene.evil.open_uni(&bytes).await;
        scene.expect_cut(ErrorCode::STREAM_MAPPING_CONFLICT).await;
    });
}

/// A stream for the application is stopped, and the application never hears of it. It has touched nothing: the path
/// lives.
#[test]
fn a_public_stream_is_stopped() {
    run(async {
        let scene = scene().await;
        let mut header = wire::header(StreamHeaderType::PublicStream, &pb::PublicStream {});
        header.extend_from_slice(b"hello, application");
        for _ in 0..20 {
            let mut public = scene.evil.open_uni(&header).await;
            let code = soon("the stop", public.stopped()).await.unwrap().unwrap();
            assert_eq!(code.into_inner(), ErrorCode::SECONDARY_STREAM_ISOLATION.into_inner());
            let _reset = public.reset(0u32.into());
        }
        scene.expect_alive().await;
    });
}

/// There are no bidirectional streams and no datagrams for a secondary: the transport parameters say so.
#[test]
fn a_secondary_has_no_bidirectional_streams_and_no_datagrams() {
    run(async {
        let scene = scene().await;
        assert!(stays_pending(Duration::from_millis(300), scene.evil.connection.open_bi()).await);
        assert_eq!(scene.evil.connection.max_datagram_size(), None);
        let sent = scene.evil.connection.send_datagram(Bytes::from_static(b"hello"));
        assert_eq!(sent, Err(quinn::SendDatagramError::UnsupportedByPeer));
        scene.expect_alive().await;
    });
}

/// Streams that never get past their header hold nothing but their slot; the slots are few.
#[test]
fn streams_without_a_header_are_bounded() {
    run(async {
        let scene = scene().await;
        let mut open = Vec::new();
        let opens = async {
            for _ in 0..300 {
                let mut stream = scene.evil.connection.open_uni().await.unwrap();
                stream.write_all(&[0x40]).await.unwrap(); // half a length
                open.push(stream);
            }
        };
        assert!(stays_pending(Duration::from_millis(300), opens).await, "300 streams at once");
        assert!(open.len() <= 64, "{} streams at once", open.len());
        scene.expect_alive().await;
    });
}

#[test]
fn sending_past_its_credit_costs_the_path() {
    run(async {
        for unordered in [false, true] {
            let transport = TransportConfig::default().stream_window(128 * 1024).session_window(32 * MIB);
            let mut scene = scene_with(Settings { client: transport, ..Settings::default() }).await;
            if unordered {
                // Credit is counted another way from the first unordered read on.
                let chunk = soon("the head", scene.recv.read_chunk(1, false)).await.unwrap().unwrap();
                assert_eq!(chunk.offset, 0);
            }
            let credit = scene.notice.credit();
            assert!(credit >= 1000 && credit < EVIL.1 - EVIL.0, "{credit}");
            let bytes = scene.all_and(&[]);
            let _internal = scene.evil.open_uni(&bytes).await;
            let code = ErrorCode::SECONDARY_STREAM_OVERFLOW;
            let told = soon("the end of the path", scene.primary.path_dead(scene.evil_path)).await;
            assert_eq!(told, Ok(code));
            assert_eq!(scene.evil.closed().await, code.into_inner());
            if !unordered {
                scene.complete().await;
            }
        }
    });
}

/// The whole list of what a secondary may not say.
#[test]
fn frames_of_others_cost_the_path() {
    run(async {
        let forbidden: [fn(&Scene) -> Vec<u8>; 17] = [
            |s| wire::frame(FrameType::ServerHello, &server_hello(s)),
            |_| wire::frame(FrameType::ClientHello, &client_hello()),
            |_| wire::frame(FrameType::AddPath, &add_path()),
            |s| wire::frame(FrameType::PathReport, &report(s)),
            |s| wire::frame(FrameType::RemovePath, &remove(s)),
            |_| wire::frame(FrameType::Drain, &pb::Drain { deadline_ms: Some(0) }),
            |_| wire::frame(FrameType::JobOpen, &job_open()),
            |_| wire::frame(FrameType::JobClose, &pb::JobClose { job: Some(0) }),
            |_| wire::frame(FrameType::LeaseGrant, &grant()),
            |s| wire::frame(FrameType::LeaseNotice, &s.notice.clone()),
            |s| wire::frame(FrameType::LeaseDone, &pb::LeaseDone { lease: Some(s.lease_id()) }),
            |s| wire::frame(FrameType::LeaseLost, &lost(s)),
            |s| {
                wire::frame(
                    FrameType::Split,
                    &pb::Split { stream: Some(s.stream.id().into_inner()), offset: Some(0) },
                )
            },
            |s| wire::frame(FrameType::StreamFinal, &stream_final(s)),
            |s| wire::frame(FrameType::StreamStopped, &stopped(s)),
            |s| wire::frame(FrameType::Credit, &credit(s)),
            |_| {
                wire::frame(
                    FrameType::SessionClose,
                    &pb::SessionClose { code: Some(1), reason: Some("!".into()) },
                )
            },
        ];
        for (index, bytes) in forbidden.iter().enumerate() {
            let mut scene = scene().await;
            let bytes = bytes(&scene);
            eprintln!("frame {index}");
            scene.evil.control.send_bytes(&bytes).await;
            scene.expect_cut(ErrorCode::FRAME_UNEXPECTED).await;
        }
    });
}

fn server_hello(scene: &Scene) -> pb::ServerHello {
    let session = scene.evil.hello.attach.clone().unwrap().session;
    pb::ServerHello { version: Some(1), features: Some(0), session, app_protocol: None }
}

fn client_hello() -> pb::ClientHello {
    pb::ClientHello {
        version: Some(1),
        features: Some(0),
        client_key: Some(vec![1; 32].into()),
        split_streams_max: Some(1),
        app_protocols: Vec::new(),
        attach: None,
    }
}

fn add_path() -> pb::AddPath {
    pb::AddPath {
        path: Some(100),
        addresses: vec![pb::SocketAddress { ip: Some(vec![127, 0, 0, 1].into()), port: Some(53) }],
        server_name: Some("victim.test".into()),
        pins: Vec::new(),
        ticket: Some(vec![1; 181].into()),
    }
}

fn report(scene: &Scene) -> pb::PathReport {
    pb::PathReport {
        path: Some(scene.evil_path.into_inner()),
        state: Some(pb::PathState::Active.into()),
        code: None,
    }
}

fn remove(scene: &Scene) -> pb::RemovePath {
    // The honest one, of course.
    pb::RemovePath { path: Some(scene.evil_path.into_inner() - 1), code: Some(1), deadline_ms: Some(0) }
}

fn job_open() -> pb::JobOpen {
    pb::JobOpen {
        job: Some(77),
        path: Some(1),
        stream: Some(3),
        range: raw::range(0, 1),
        total: Some(1),
        expiry: Some(raw::unix_now() + 60),
        payload: Some(Bytes::new()),
        seal: Some(vec![0; 64].into()),
    }
}

fn grant() -> pb::LeaseGrant {
    pb::LeaseGrant {
        lease: Some(77),
        job: Some(0),
        range: raw::range(0, 1),
        digest: None,
        deadline_ms: None,
        hedge_of: None,
        progress: None,
    }
}

fn lost(scene: &Scene) -> pb::LeaseLost {
    pb::LeaseLost { lease: Some(scene.lease_id()), code: Some(1), missing: Vec::new() }
}

fn stream_final(scene: &Scene) -> pb::StreamFinal {
    pb::StreamFinal { stream: Some(scene.stream.id().into_inner()), size: Some(EVIL.0) }
}

fn stopped(scene: &Scene) -> pb::StreamStopped {
    pb::StreamStopped { stream: Some(scene.stream.id().into_inner()), code: Some(1) }
}

fn credit(scene: &Scene) -> pb::Credit {
    let grant = pb::LeaseCredit { lease: Some(scene.lease_id()), bytes: Some(MIB) };
    pb::Credit { grant: Some(pb::credit::Grant::Lease(grant)) }
}

/// Frames that a secondary may send, about what is not its own.
#[test]
fn speaking_for_others_costs_the_path() {
    run(async {
        // The honest secondary's job.
        let mut scene = scene().await;
        let job = scene.honest.id().into_inner();
        let refused = pb::JobRefused { job: Some(job), code: Some(1) };
        scene.evil.control.send(FrameType::JobRefused, &refused).await;
        scene.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
        // A lease that nobody has.
        let mut scene = self::scene().await;
        let refused = pb::LeaseRefused { lease: Some(scene.lease_id() + 1), code: Some(1) };
        scene.evil.control.send(FrameType::LeaseRefused, &refused).await;
        scene.expect_cut(ErrorCode::LEASE_VIOLATION).await;
    });
}

#[test]
fn rubbish_on_control_costs_the_path() {
    run(async {
        let rubbish: [(&str, Vec<u8>, ErrorCode); 7] = [
            (
                "no protobuf",
                wire::framed(FrameType::JobAccepted as u64, &[0xff; 9]),
                ErrorCode::INVALID_FRAME,
            ),
            ("a field missing", wire::framed(FrameType::JobAccepted as u64, &[]), ErrorCode::INVALID_FRAME),
            ("type 0", wire::framed(0, &[]), ErrorCode::INVALID_FRAME),
            ("an unknown odd type", wire::framed(0x1_0001, b"?"), ErrorCode::INVALID_FRAME),
            ("too long", wire::varint(4097), ErrorCode::FRAME_TOO_LARGE),
            ("far too long", wire::varint((1 << 62) - 1), ErrorCode::FRAME_TOO_LARGE),
            ("noise", (0..=255).rev().collect(), ErrorCode::FRAME_TOO_LARGE),
        ];
        for (what, bytes, code) in rubbish {
            let mut scene = scene().await;
            eprintln!("{what}");
            scene.evil.control.send_bytes(&bytes).await;
            scene.expect_cut(code).await;
        }
    });
}

/// Additions of later versions are skipped.
#[test]
fn unknown_even_frames_are_skipped() {
    run(async {
        let mut scene = scene().await;
        scene.evil.control.send_bytes(&wire::framed(0x1_0000, &[0xff; 4096])).await;
        let mut internal = scene.evil.open_uni(&scene.all_and(&[])).await;
        internal.finish().unwrap();
        assert_eq!(soon("the outcome", scene.lease.outcome()).await, Ok(LeaseOutcome::Done));
        scene.expect_alive().await;
    });
}

/// The control stream's end is the path's end.
#[test]
fn ending_control_costs_the_path() {
    run(async {
        let mut finished = scene().await;
        finished.evil.control.sender().finish().unwrap();
        finished.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
        let mut reset = scene().await;
        reset.evil.control.sender().reset(7u32.into()).unwrap();
        reset.expect_cut(ErrorCode::METADATA_PROTOCOL_VIOLATION).await;
    });
}

#[test]
fn rubbish_as_a_header_costs_the_path() {
    run(async {
        let open = pb::InternalOpen { stream: Some(3), offset: Some(EVIL.0) };
        let cases: [(&str, Vec<u8>, ErrorCode); 5] = [
            ("an unknown type", wire::framed(100, &[]), ErrorCode::INVALID_FRAME),
            ("type 0", wire::framed(0, &[]), ErrorCode::INVALID_FRAME),
            ("too long", wire::varint(129), ErrorCode::FRAME_TOO_LARGE),
            ("a field missing", wire::framed(2, &[]), ErrorCode::INVALID_FRAME),
            (
                "the primary's",
                wire::header(StreamHeaderType::InternalOpen, &open),
                ErrorCode::INVALID_STREAM_ROLE,
            ),
        ];
        for (what, bytes, code) in cases {
            let scene = scene().await;
            eprintln!("{what}");
            let _stream = scene.evil.open_uni(&bytes).await;
            scene.expect_cut(code).await;
        }
    });
}

/// Short is a fault of the lease, not of the path: the rest is missing, exactly.
#[test]
fn a_stream_that_ends_early_is_short() {
    run(async {
        let mut scene = scene().await;
        let part = OBJECT.bytes(range((EVIL.0, 500_000)));
        let mut internal = scene.evil.open_uni(&secondary_stream(scene.lease_id(), EVIL.0, &part)).await;
        internal.finish().unwrap();
        let outcome = soon("the outcome", scene.lease.outcome()).await.unwrap();
        let missing = vec![range((500_000, EVIL.1))];
        assert_eq!(outcome, LeaseOutcome::Lost { code: ErrorCode::LEASE_SHORT, missing });
        scene.expect_alive().await;
    });
}

/// A lease that has ended takes no bytes any more; who sends them all the same was merely late.
#[test]
fn late_bytes_are_dropped_and_nobody_is_cut() {
    run(async {
        let mut scene = scene().await;
        let refused = pb::LeaseRefused { lease: scene.notice.lease, code: Some(1) };
        scene.evil.control.send(FrameType::LeaseRefused, &refused).await;
        let outcome = soon("the outcome", scene.lease.outcome()).await.unwrap();
        assert!(
            matches!(&outcome, LeaseOutcome::Lost { missing, .. } if *missing == [range(EVIL)]),
            "{outcome:?}"
        );
        // Wrong bytes, too: nothing of them may be placed.
        let wrong = Bytes::from(vec![0; 100_000]);
        let mut internal = scene.evil.open_uni(&secondary_stream(scene.lease_id(), EVIL.0, &wrong)).await;
        let code = soon("the stop", internal.stopped()).await.unwrap().unwrap();
        assert_eq!(code.into_inner(), ErrorCode::LEASE_REVOKED.into_inner());
        let _reset = internal.reset(0u32.into());
        assert_eq!(scene.client.stats().sources[&scene.evil_path].bytes, 0);
        scene.expect_alive().await;
    });
}
