//! Bytes that come in another order than they were sent. Spec: PROTOCOL §4.

use std::time::Duration;

use kwik_proto::v1 as pb;
use kwik_tests::{object::Object, raw::RawServer, run, soon, stays_pending, wire, world::World};
use kwik_tokio::ByteRange;
use pb::{FrameType, StreamHeaderType};

const OBJECT: Object = Object(9);
/// The first stream that a server opens in one direction.
const STREAM: u64 = 3;

fn piece(start: u64, end: u64) -> bytes::Bytes {
    OBJECT.bytes(ByteRange::between(start, end).unwrap())
}

/// The primary's own bytes overtake the `Split` that they belong to, not only the first of them: they wait unread, and nothing
/// of them is lost.
#[test]
fn bytes_that_come_before_their_split_wait() {
    run(async {
        let world = World::new(0);
        let server = RawServer::new(&world.authority, "primary.test");
        let connecting = world.client.connect(server.address(), "primary.test").unwrap();
        let (client, mut primary) =
            soon("a session", async { tokio::join!(connecting, server.accept()) }).await;
        let client = client.unwrap();
        primary.welcome_to(&[5; 16]).await;
        let header = wire::header(StreamHeaderType::PublicStream, &pb::PublicStream {});
        let mut native = primary.open_uni(&header).await;
        let open = pb::InternalOpen { stream: Some(STREAM), offset: Some(0) };
        let mut internal = primary.open_uni(&wire::header(StreamHeaderType::InternalOpen, &open)).await;
        let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
        let reads = async {
            let bytes = recv.read_to_end(200_000).await.unwrap();
            assert!(bytes == piece(0, 100_000), "other bytes, or {} of them", bytes.len());
        };
        let writes = async {
            let pause = || tokio::time::sleep(Duration::from_millis(50));
            for at in [0, 30_000] {
                internal.write_all(&piece(at, at + 30_000)).await.unwrap();
                pause().await; // each comes by itself
            }
            assert_eq!(client.stats().held_bytes, 0, "read although nobody knows where it belongs");
            primary
                .control
                .send(FrameType::Split, &pb::Split { stream: Some(STREAM), offset: Some(0) })
                .await;
            internal.write_all(&piece(60_000, 100_000)).await.unwrap();
            internal.finish().unwrap();
            let size = pb::StreamFinal { stream: Some(STREAM), size: Some(100_000) };
            primary.control.send(FrameType::StreamFinal, &size).await;
            let _complete: pb::StreamComplete = primary.control.expect(FrameType::StreamComplete).await;
            native.finish().unwrap();
        };
        soon("the object", async { tokio::join!(reads, writes) }).await;
        assert!(stays_pending(Duration::from_millis(50), client.accept_uni()).await);
    });
}
