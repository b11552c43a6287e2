//! Streams and datagrams that only the primary feeds behave as quinn's do. Spec: DESIGN §2, I4.

use std::time::Duration;

use bytes::Bytes;
use kwik_tests::{
    feed::receive,
    object::Object,
    poll_once,
    raw::loopback,
    run, run_on_one_thread, soon, stays_pending,
    world::{Settings, World},
};
use kwik_tokio::{
    ApiMisuse, ByteRange, ClientConfig, ClosedStream, Connection, ConnectionError, Endpoint, ErrorCode,
    PeerFault, ReadError, ReadToEndError, SendDatagramError, ServerConfig, WriteError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OBJECT: Object = Object(1);
const SIZE: u64 = 3_000_000;

fn whole() -> Bytes {
    OBJECT.bytes(ByteRange::between(0, SIZE).unwrap())
}

fn code(code: u32) -> ErrorCode {
    ErrorCode::from_u32(code)
}

fn gone() -> ClosedStream {
    ClosedStream::default()
}

/// The reason a connection ended with: what the peer said.
fn closed_by_peer(error: &ConnectionError) -> (ErrorCode, &[u8]) {
    match error {
        ConnectionError::ApplicationClosed(close) => (close.error_code, &close.reason),
        other => panic!("ended otherwise: {other}"),
    }
}

async fn both_ways() -> (World, [(Connection, Connection); 2]) {
    let world = World::new(0);
    let (client, primary) = world.connect().await;
    let primary = Connection::from(primary);
    (world, [(client.clone(), primary.clone()), (primary, client)])
}

#[test]
fn bidirectional_streams_carry_bytes_both_ways() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let (mut send, mut recv) = from.open_bi().await.unwrap();
            send.write_all(&whole()[..10]).await.unwrap();
            let (mut back, mut there) = soon("the stream", to.accept_bi()).await.unwrap();
            assert_eq!(there.id(), send.id());
            let writes = async {
                send.write_all(&whole()[10..]).await.unwrap();
                send.finish().unwrap();
                assert_eq!(send.finish(), Err(gone()));
                assert_eq!(send.write(b"more").await, Err(WriteError::ClosedStream));
                assert_eq!(send.stopped().await, Ok(None), "all of it has arrived");
            };
            let reads = async { assert_eq!(receive(&mut there, OBJECT, true).await, Ok(SIZE)) };
            tokio::join!(writes, reads);
            assert_eq!(there.read(&mut [0; 10]).await, Ok(None), "the end stays the end");
            back.write_all(b"thanks").await.unwrap();
            drop(back); // finishes it
            assert_eq!(recv.read_to_end(100).await.unwrap(), b"thanks");
        }
    });
}

#[test]
fn unidirectional_streams_carry_bytes() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            let writes = async {
                let mut chunks = [whole().slice(..5), Bytes::new(), whole().slice(5..)];
                send.write_all_chunks(&mut chunks).await.unwrap();
                send.finish().unwrap();
                assert_eq!(send.stopped().await, Ok(None));
            };
            let reads = async {
                let mut recv = soon("the stream", to.accept_uni()).await.unwrap();
                assert_eq!(receive(&mut recv, OBJECT, false).await, Ok(SIZE));
            };
            tokio::join!(writes, reads);
        }
    });
}

/// A stream without a byte is a stream.
#[test]
fn empty_streams_arrive() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            drop(from.open_uni().await.unwrap());
            let mut recv = soon("the stream", to.accept_uni()).await.unwrap();
            assert_eq!(recv.read_to_end(0).await.unwrap(), b"");
            let (mut send, _recv) = from.open_bi().await.unwrap();
            send.finish().unwrap();
            let (_, mut recv) = soon("the stream", to.accept_bi()).await.unwrap();
            assert_eq!(recv.read_chunk(1, true).await, Ok(None));
        }
    });
}

#[test]
fn a_reset_reaches_the_reader_with_its_code() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            for uni in [true, false] {
                let mut send =
                    if uni { from.open_uni().await.unwrap() } else { from.open_bi().await.unwrap().0 };
                send.write_all(b"and then").await.unwrap();
                let mut recv =
                    if uni { to.accept_uni().await.unwrap() } else { to.accept_bi().await.unwrap().1 };
                recv.read_exact(&mut [0; 8]).await.unwrap();
                send.reset(code(77)).unwrap();
                let read = soon("the reset", recv.read(&mut [0])).await;
                assert_eq!(read, Err(ReadError::Reset(code(77))));
                assert_eq!(recv.read(&mut [0]).await, Ok(None), "told once, as in quinn");
                let again = recv.received_reset().await;
                assert_eq!(again, Ok(Some(code(77))), "it stays reset");
            }
        }
    });
}

#[test]
fn a_stop_reaches_the_writer_with_its_code() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"and then").await.unwrap();
            let mut recv = to.accept_uni().await.unwrap();
            recv.stop(code(78)).unwrap();
            assert_eq!(recv.stop(code(78)), Err(gone()));
            assert_eq!(recv.read(&mut [0]).await, Ok(None), "nothing more comes, as in quinn");
            assert_eq!(recv.received_reset().await, Ok(None), "nobody gave it up but the reader");
            assert_eq!(soon("the stop", send.stopped()).await, Ok(Some(code(78))));
            assert_eq!(send.write(b"more").await, Err(WriteError::Stopped(code(78))));
        }
    });
}

/// Dropping a reader stops the stream with code 0, dropping a writer finishes it; after the end neither does anything.
#[test]
fn dropped_handles_do_as_quinns_do() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"one").await.unwrap();
            drop(to.accept_uni().await.unwrap());
            assert_eq!(soon("the stop", send.stopped()).await, Ok(Some(code(0))));

            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"two").await.unwrap();
            let stopped = send.stopped();
            drop(send);
            let mut recv = to.accept_uni().await.unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), b"two");
            drop(recv);
            assert_eq!(soon("the end", stopped).await, Ok(None));
        }
    });
}

/// A session is closed with code 0 when its last handle is dropped; a stream's handle is one, too.
#[test]
fn dropping_everything_closes_with_code_0() {
    run(async {
        let world = World::new(0);
        let (client, primary) = world.connect().await;
        let stream = client.open_uni().await.unwrap();
        drop(client);
        assert!(stays_pending(Duration::from_millis(200), primary.closed()).await, "a stream is a handle");
        drop(stream);
        let reason = soon("the close", primary.closed()).await;
        assert_eq!(closed_by_peer(&reason), (code(0), &b""[..]));
    });
}

#[test]
fn priorities_are_kept_and_obeyed() {
    run_on_one_thread(async {
        const LEN: usize = 200_000;
        let bytes = whole().slice(..LEN);
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let (mut low, mut high) = (from.open_uni().await.unwrap(), from.open_uni().await.unwrap());
            assert_eq!(low.priority(), Ok(0));
            low.set_priority(-5).unwrap();
            high.set_priority(5).unwrap();
            assert_eq!((low.priority(), high.priority()), (Ok(-5), Ok(5)));
            // On one thread both are queued before any of either is sent, the unimportant one first.
            for stream in [&mut low, &mut high] {
                poll_once(stream.write_chunk(bytes.clone())).unwrap().unwrap();
                stream.finish().unwrap();
            }
            // A stream is known by its first bytes.
            let mut first = soon("the important one", to.accept_uni()).await.unwrap();
            assert_eq!(first.id(), high.id());
            assert_eq!(soon("all of it", receive(&mut first, OBJECT, true)).await, Ok(LEN as u64));
            let mut second = soon("the other", to.accept_uni()).await.unwrap();
            assert_eq!(soon("all of it", receive(&mut second, OBJECT, true)).await, Ok(LEN as u64));
            soon("the end", low.stopped()).await.unwrap();
            assert_eq!(low.priority(), Err(gone()));
            assert_eq!(low.set_priority(1), Err(gone()));
        }
    });
}

#[test]
fn datagrams_go_both_ways() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let max = from.max_datagram_size().unwrap();
            assert!(max >= 1100, "{max}");
            let largest = Bytes::from(vec![7; max]);
            from.send_datagram(largest.clone()).unwrap();
            assert_eq!(soon("the datagram", to.read_datagram()).await.unwrap(), largest);
            from.send_datagram_wait(Bytes::from_static(b"")).await.unwrap();
            assert_eq!(soon("the empty one", to.read_datagram()).await.unwrap(), "");
            let too_large = Bytes::from(vec![7; 65_000]);
            assert_eq!(from.send_datagram(too_large), Err(SendDatagramError::TooLarge));
            assert!(from.datagram_send_buffer_space() > 0);
        }
    });
}

/// A read that is dropped before it is ready has taken nothing.
#[test]
fn reads_and_accepts_are_cancel_safe() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            assert!(stays_pending(Duration::from_millis(20), to.accept_uni()).await);
            let mut send = from.open_uni().await.unwrap();
            send.write_all(&whole()[..1]).await.unwrap();
            let mut recv = soon("the stream", to.accept_uni()).await.unwrap();
            let mut got = Vec::new();
            let writes = async {
                for byte in &whole()[1..300] {
                    send.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                send.finish().unwrap();
            };
            let reads = async {
                loop {
                    let mut buf = [0; 7];
                    // Given up at once unless something is there: nothing may be lost by it.
                    if let Some(read) = poll_once(recv.read(&mut buf)) {
                        match read.unwrap() {
                            Some(count) => got.extend_from_slice(&buf[..count]),
                            None => break,
                        }
                    }
                    tokio::task::yield_now().await;
                }
            };
            soon("all bytes", async { tokio::join!(writes, reads) }).await;
            assert_eq!(got, &whole()[..300]);
        }
    });
}

#[test]
fn the_io_traits_work() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            AsyncWriteExt::write_all(&mut send, b"by the traits").await.unwrap();
            AsyncWriteExt::flush(&mut send).await.unwrap();
            AsyncWriteExt::shutdown(&mut send).await.unwrap();
            let mut recv = to.accept_uni().await.unwrap();
            let mut all = Vec::new();
            AsyncReadExt::read_to_end(&mut recv, &mut all).await.unwrap();
            assert_eq!(all, b"by the traits");
        }
    });
}

#[test]
fn reading_to_the_end_has_a_limit() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            for (limit, fits) in [(9, false), (10, true)] {
                let mut send = from.open_uni().await.unwrap();
                send.write_all(&[1; 10]).await.unwrap();
                send.finish().unwrap();
                let mut recv = to.accept_uni().await.unwrap();
                let read = recv.read_to_end(limit).await;
                assert_eq!(read, if fits { Ok(vec![1; 10]) } else { Err(ReadToEndError::TooLong) });
            }
        }
    });
}

#[test]
fn ordered_reads_do_not_follow_unordered_ones() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"abc").await.unwrap();
            let mut recv = to.accept_uni().await.unwrap();
            let chunk = recv.read_chunk(1, false).await.unwrap().unwrap();
            assert_eq!((chunk.offset, &chunk.bytes[..]), (0, &b"a"[..]));
            assert_eq!(recv.read(&mut [0]).await, Err(ReadError::IllegalOrderedRead));
            let chunk = recv.read_chunk(9, false).await.unwrap().unwrap();
            assert_eq!((chunk.offset, &chunk.bytes[..]), (1, &b"bc"[..]));
        }
    });
}

#[test]
fn a_close_carries_code_and_reason_both_ways() {
    run(async {
        for closer_is_client in [true, false] {
            let world = World::new(0);
            let (client, primary) = world.connect().await;
            let primary = Connection::from(primary);
            let (closer, other) = if closer_is_client { (client, primary) } else { (primary, client) };
            let mut send = other.open_uni().await.unwrap();
            send.write_all(b"x").await.unwrap();
            closer.close(code(4711), b"enough");
            assert_eq!(closer.closed().await, ConnectionError::LocallyClosed);
            assert_eq!(closer.open_uni().await.err(), Some(ConnectionError::LocallyClosed));
            let reason = soon("the close", other.closed()).await;
            assert_eq!(closed_by_peer(&reason), (code(4711), &b"enough"[..]));
            assert_eq!(other.close_reason(), Some(reason.clone()));
            assert_eq!(other.accept_bi().await.err(), Some(reason.clone()));
            assert_eq!(send.write(b"y").await, Err(WriteError::ConnectionLost(reason.clone())));
            assert_eq!(other.read_datagram().await, Err(reason));
        }
    });
}

/// An endpoint's close reaches every session with its code, and the endpoint is idle afterwards.
#[test]
fn an_endpoint_closes_all_its_sessions() {
    run(async {
        let world = World::new(0);
        let (one, _primary1) = world.connect().await;
        let (two, _primary2) = world.connect().await;
        world.primary.endpoint.close(code(9), b"going home");
        for client in [one, two] {
            let reason = soon("the close", client.closed()).await;
            assert_eq!(closed_by_peer(&reason), (code(9), &b"going home"[..]));
        }
        soon("idleness", world.primary.endpoint.wait_idle()).await;
        assert!(world.primary.endpoint.accept().await.is_none());
        assert_eq!(world.primary.endpoint.open_connections(), 0);
    });
}

/// Bytes that arrived before a close stay readable, as in quinn.
#[test]
fn what_arrived_before_a_close_can_be_read() {
    run(async {
        let (_world, [(from, to), _]) = both_ways().await;
        let mut send = from.open_uni().await.unwrap();
        send.write_all(b"last words").await.unwrap();
        let mut recv = soon("the stream", to.accept_uni()).await.unwrap();
        recv.read_exact(&mut [0; 5]).await.unwrap();
        from.close(code(1), b"");
        soon("the close", to.closed()).await;
        let mut rest = [0; 5];
        recv.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"words");
        assert!(matches!(recv.read(&mut rest).await, Err(ReadError::ConnectionLost(_))));
    });
}

/// KWIK's own codes are not the application's to use. Spec: PROTOCOL §10.
#[test]
fn reserved_codes_are_refused() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let edges = [0x4b57_0000, 0x4b57_0012, 0x4b57_ffff];
            for reserved in edges.map(code) {
                assert_eq!(from.try_close(reserved, b""), Err(ApiMisuse::ReservedCode));
            }
            assert_eq!(from.close_reason(), None);
            // On streams all codes are the application's, in both directions.
            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"x").await.unwrap();
            let mut recv = to.accept_uni().await.unwrap();
            recv.read_exact(&mut [0]).await.unwrap();
            let outside = code(0x4b57_0000 - 1);
            send.reset(outside).unwrap();
            assert_eq!(soon("the reset", recv.read(&mut [0])).await, Err(ReadError::Reset(outside)));
        }
    });
}

/// Closing with a reserved code is a mistake of the program: the peer sees code 0.
#[test]
fn closing_with_a_reserved_code_sends_0() {
    run(async {
        let (_world, [(client, primary), _]) = both_ways().await;
        client.close(ErrorCode::PRIMARY_LOST, b"pretended");
        let reason = soon("the close", primary.closed()).await;
        assert_eq!(closed_by_peer(&reason).0, code(0));
    });
}

/// So it is with streams: the call takes effect, or the writer's drop would end the stream as if it were whole.
#[test]
fn resetting_and_stopping_with_a_reserved_code_send_0() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"x").await.unwrap();
            let mut recv = to.accept_uni().await.unwrap();
            recv.read_exact(&mut [0]).await.unwrap();
            send.reset(ErrorCode::NO_ERROR).unwrap();
            assert_eq!(soon("the reset", recv.read(&mut [0])).await, Err(ReadError::Reset(code(0))));

            let mut send = from.open_uni().await.unwrap();
            send.write_all(b"x").await.unwrap();
            to.accept_uni().await.unwrap().stop(ErrorCode::PRIMARY_LOST).unwrap();
            assert_eq!(soon("the stop", send.stopped()).await, Ok(Some(code(0))));
        }
    });
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

#[test]
fn application_protocols_are_agreed_on_in_the_hello() {
    run(async {
        for (client, server, agreed) in [
            (&["a", "b"][..], &["x", "b", "a"][..], Some("b")), // the server's preference
            (&["a"][..], &[][..], None),
            (&[][..], &[][..], None),
        ] {
            let settings = Settings {
                client_protocols: protocols(client),
                server_protocols: protocols(server),
                ..Settings::default()
            };
            let world = World::with(0, settings);
            let (client, primary) = world.connect().await;
            // The client may be ahead of the server's answer; a stream of the server's follows it.
            drop(primary.open_uni().await.unwrap());
            soon("the stream", client.accept_uni()).await.unwrap();
            let agreed = agreed.map(|name| Bytes::from_static(name.as_bytes()));
            let (client, primary) = (client.handshake().unwrap(), primary.handshake().unwrap());
            assert_eq!((client.protocol, primary.protocol), (agreed.clone(), agreed));
            assert_eq!(primary.server_name.as_deref(), Some("primary.test"));
        }
    });
}

#[test]
fn no_common_application_protocol_is_no_session() {
    run(async {
        let settings = Settings {
            client_protocols: protocols(&["a"]),
            server_protocols: protocols(&["b"]),
            ..Settings::default()
        };
        let world = World::with(0, settings);
        let connecting = world.client.connect(world.primary.address(), "primary.test").unwrap();
        let accepts = async { world.primary.endpoint.accept().await.unwrap().await.err() };
        let connects = async {
            match connecting.await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        };
        let (refused, reason) = soon("the refusal", async { tokio::join!(accepts, connects) }).await;
        assert_eq!(refused, Some(ConnectionError::Fault(PeerFault::ProtocolUnknown)));
        assert_eq!(closed_by_peer(&reason).0, ErrorCode::VERSION);
    });
}

/// A KWIK session costs no round trip beyond QUIC's: the client's streams are there with its hello. Spec: PROTOCOL §4.
#[test]
fn the_client_may_open_streams_at_once() {
    run(async {
        let world = World::new(0);
        let connecting = world.client.connect(world.primary.address(), "primary.test").unwrap();
        let connects = async {
            let client = connecting.await.unwrap();
            let mut send = client.open_uni().await.unwrap();
            send.write_all(b"early").await.unwrap();
            send.finish().unwrap();
            client
        };
        let accepts = async {
            let primary = world.primary.endpoint.accept().await.unwrap().await.unwrap();
            primary.accept_uni().await.unwrap().read_to_end(10).await.unwrap()
        };
        let (_client, got) = soon("the stream", async { tokio::join!(connects, accepts) }).await;
        assert_eq!(got, b"early");
    });
}

/// Ends of streams make room for others: thousands pass through a handful of slots.
#[test]
fn more_streams_than_are_permitted_at_once() {
    run(async {
        let (_world, ways) = both_ways().await;
        for (from, to) in ways {
            let opens = async {
                for index in 0..500_u32 {
                    let mut send = from.open_uni().await.unwrap();
                    send.write_all(&index.to_be_bytes()).await.unwrap();
                    send.finish().unwrap();
                }
            };
            let accepts = async {
                for index in 0..500_u32 {
                    let mut recv = to.accept_uni().await.unwrap();
                    assert_eq!(recv.read_to_end(4).await.unwrap(), index.to_be_bytes());
                }
            };
            tokio::join!(opens, accepts);
        }
    });
}

/// A certificate of an authority the client does not trust is no primary's.
#[test]
fn an_untrusted_primary_is_refused() {
    run(async {
        let (world, stranger) = (World::new(0), World::new(0));
        for (server, name) in [(&stranger, "primary.test"), (&world, "another.test")] {
            let connecting = world.client.connect(server.primary.address(), name).unwrap();
            let accepts = async { server.primary.endpoint.accept().await.unwrap().await.err() };
            let (error, refused) = soon("the refusal", async { tokio::join!(connecting, accepts) }).await;
            let error = error.unwrap_err();
            assert!(matches!(error, ConnectionError::TransportError(_)), "{error}");
            assert!(matches!(refused, Some(ConnectionError::ConnectionClosed(_))), "{refused:?}");
        }
    });
}

/// One endpoint dials and accepts.
#[test]
fn an_endpoint_may_be_both_client_and_server() {
    run(async {
        let world = World::new(0);
        let identity = world.authority.issue("both.test");
        let config = ServerConfig::try_from(identity.tls).unwrap().primary(world.signer.clone());
        let mut both = Endpoint::server(config, loopback()).unwrap();
        both.set_default_client_config(ClientConfig::try_from(world.authority.client()).unwrap());
        let connecting = both.connect(both.local_addr().unwrap(), "both.test").unwrap();
        let (client, server) = soon("both ends", async {
            tokio::join!(connecting, async { both.accept().await.unwrap().await })
        })
        .await;
        let (client, server) = (client.unwrap(), server.unwrap());
        client.send_datagram(Bytes::from_static(b"to myself")).unwrap();
        assert_eq!(soon("the datagram", server.read_datagram()).await.unwrap(), "to myself");
    });
}

/// Several tasks may wait for the same thing.
#[test]
fn many_may_wait_at_once() {
    run(async {
        let (world, [(from, to), _]) = both_ways().await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let to = to.clone();
            waiting.spawn(async move { to.accept_uni().await.unwrap().read_to_end(10).await.unwrap() });
        }
        tokio::task::yield_now().await;
        for index in 0..3 {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(&[index]).await.unwrap();
            send.finish().unwrap();
        }
        let mut got = soon("all of them", waiting.join_all()).await;
        got.sort();
        assert_eq!(got, [[0], [1], [2]]);

        let closed = (0..3).map(|_| {
            tokio::spawn({
                let to = to.clone();
                async move { to.closed().await }
            })
        });
        let closed: Vec<_> = closed.collect();
        let accepts = (0..3).map(|_| {
            let endpoint = world.primary.endpoint.clone();
            tokio::spawn(async move { endpoint.accept().await.is_none() })
        });
        let accepts: Vec<_> = accepts.collect();
        from.close(code(3), b"");
        for waiter in closed {
            assert_eq!(closed_by_peer(&soon("the close", waiter).await.unwrap()).0, code(3));
        }
        world.primary.endpoint.close(code(4), b"");
        for waiter in accepts {
            assert!(soon("the end", waiter).await.unwrap());
        }
    });
}

/// Many clients at one server, each with a session of its own.
#[test]
fn many_sessions_at_one_endpoint() {
    run(async {
        let world = World::new(0);
        let echo = world.primary.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = echo.accept().await {
                tokio::spawn(async move {
                    let connection = incoming.await.unwrap();
                    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                        let request = recv.read_to_end(1 << 20).await.unwrap();
                        send.write_all(&request).await.unwrap();
                        send.finish().unwrap();
                    }
                });
            }
        });
        let mut clients = tokio::task::JoinSet::new();
        for index in 0..20 {
            let connecting = world.client.connect(world.primary.address(), "primary.test").unwrap();
            clients.spawn(async move {
                let client = connecting.await.unwrap();
                let object = Object(1000 + index);
                for round in 0..3 {
                    let bytes = object.bytes(ByteRange::new(round, 100_000).unwrap());
                    let (mut send, mut recv) = client.open_bi().await.unwrap();
                    send.write_all(&bytes).await.unwrap();
                    send.finish().unwrap();
                    assert_eq!(recv.read_to_end(1 << 20).await.unwrap(), bytes);
                }
                client.stable_id()
            });
        }
        let ids: std::collections::BTreeSet<_> = clients.join_all().await.into_iter().collect();
        assert!(ids.len() > 1);
        soon("idleness", world.client.wait_idle()).await;
    });
}

/// The endpoint's handle may go; its sessions keep the socket.
#[test]
fn a_session_outlives_its_endpoints_handle() {
    run(async {
        let mut world = World::new(0);
        let (client, primary) = world.connect().await;
        world.client = Endpoint::client(loopback()).unwrap();
        let mut send = client.open_uni().await.unwrap();
        send.write_all(b"alive").await.unwrap();
        send.finish().unwrap();
        let mut recv = soon("the stream", primary.accept_uni()).await.unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"alive");
    });
}

/// A server may turn a client away, ask it to prove its address, or accept nobody at all.
#[test]
fn an_incoming_client_may_be_refused_or_retried() {
    run(async {
        let world = World::new(0);
        let endpoint = &world.primary.endpoint;
        let connect = || world.client.connect(world.primary.address(), "primary.test").unwrap();

        let refuses = async { endpoint.accept().await.unwrap().refuse() };
        let (refused, ()) = soon("the refusal", async { tokio::join!(connect(), refuses) }).await;
        assert!(matches!(refused, Err(ConnectionError::ConnectionClosed(_))), "{refused:?}");

        let retries = async {
            let first = endpoint.accept().await.unwrap();
            assert!(first.may_retry() && !first.remote_address_validated());
            first.retry().unwrap();
            let second = endpoint.accept().await.unwrap();
            assert!(second.remote_address_validated());
            let second = second.retry().unwrap_err().into_incoming();
            second.await.unwrap()
        };
        let (client, _server) = soon("the session", async { tokio::join!(connect(), retries) }).await;
        client.unwrap();

        // Nobody is at home any more, as in quinn.
        endpoint.set_server_config(None).unwrap();
        assert!(stays_pending(Duration::from_millis(300), connect()).await);
    });
}

/// An endpoint asks for proofs of address by itself, before its application hears of a client. Spec: RATIONALE §11.
#[test]
fn an_endpoint_asks_for_proofs_by_itself() {
    run(async {
        let world = World::new(0);
        let endpoint = &world.primary.endpoint;
        let config = || {
            let tls = world.primary.identity.tls.clone();
            ServerConfig::try_from(tls).unwrap().primary(world.signer.clone())
        };
        for (above, retries) in [(Some(512), 0), (Some(0), 1), (None, 1)] {
            endpoint.set_server_config(Some(config().retry_above(above))).unwrap();
            let accepts = async {
                let incoming = endpoint.accept().await.unwrap();
                assert_eq!(incoming.remote_address_validated(), above == Some(0));
                assert_eq!(endpoint.stats().admission.half_open, 1);
                incoming.await.unwrap()
            };
            let connect = world.client.connect(world.primary.address(), "primary.test").unwrap();
            let (client, server) = soon("the session", async { tokio::join!(connect, accepts) }).await;
            let admission = endpoint.stats().admission;
            assert_eq!((admission.retries, admission.half_open, admission.half_open_peak), (retries, 0, 1));
            drop((client.unwrap(), server));
        }
    });
}

/// A dropped attempt ends at the server as well.
#[test]
fn a_dropped_attempt_is_closed() {
    run(async {
        let world = World::new(0);
        let mut connecting = world.client.connect(world.primary.address(), "primary.test").unwrap();
        assert!(stays_pending(Duration::from_millis(50), &mut connecting).await);
        drop(connecting);
        soon("idleness", world.client.wait_idle()).await;
        assert_eq!(world.client.open_connections(), 0);
    });
}

/// After an abort nothing works, and nothing hangs.
#[test]
fn an_aborted_endpoint_fails_everything() {
    run(async {
        let (world, [(client, primary), _]) = both_ways().await;
        let mut send = client.open_uni().await.unwrap();
        send.write_all(b"x").await.unwrap();
        let pending = tokio::spawn({
            let client = client.clone();
            async move { client.accept_bi().await.err() }
        });
        tokio::task::yield_now().await;
        world.client.abort();
        assert!(soon("its end", pending).await.unwrap().is_some());
        assert!(send.write(b"y").await.is_err());
        assert!(client.open_bi().await.is_err());
        assert!(world.client.connect(world.primary.address(), "primary.test").is_err());
        assert!(world.client.local_addr().is_err());
        soon("idleness", world.client.wait_idle()).await;
        assert_eq!(primary.close_reason(), None, "no goodbye was said");
    });
}

/// A client changes sockets in the middle of a transfer, twice, and its reader sees nothing of it.
#[test]
fn a_client_keeps_its_sessions_when_it_changes_sockets() {
    run(async {
        let world = World::new(0);
        let (client, primary) = world.connect().await;
        let mut send = primary.open_uni().await.unwrap();
        let writes = async {
            send.write_all(&whole()).await.unwrap();
            send.finish().unwrap();
        };
        let reads = async {
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            let mut got = vec![0; whole().len()];
            for (at, part) in got.chunks_mut(whole().len() / 3 + 1).enumerate() {
                soon("its bytes", recv.read_exact(part)).await.unwrap();
                if at < 2 {
                    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                    world.client.rebind(socket).unwrap();
                }
            }
            assert_eq!(got, whole());
            assert_eq!(recv.read(&mut [0]).await, Ok(None));
        };
        tokio::join!(writes, reads);
        let address = world.client.local_addr().unwrap();
        soon("the server to follow", async {
            while primary.remote_address() != address {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    });
}
