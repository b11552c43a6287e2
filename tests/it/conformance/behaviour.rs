//! Behaviour that an application relies on, end to end.

use bytes::Bytes;
use kwik_core::{
    ByteRange, ConnectionError, LeaseOutcome, NewJob, ReadError, WriteError,
    driver::{DistributeOptions, ReadAt, ReadToEndError},
};
use kwik_tests::{
    host::Host,
    object::{Object, Receipt},
};

use super::Bed;

const OBJECT: Object = Object(14);
const KIB: u64 = 1024;

fn bytes(len: u64) -> Bytes {
    OBJECT.bytes(ByteRange::new(0, len).unwrap())
}

/// Streams of either kind, from either side, several at once; datagrams both ways.
pub(crate) async fn streams_and_datagrams<C: Host, S: Host>(bed: Bed<C, S>) {
    let (client, server) = bed.connect().await;
    let size = 300 * KIB;
    let echo = async {
        for _ in 0..4 {
            let (mut send, mut recv) = server.accept_bi().await.unwrap();
            bed.server_host.spawn(async move {
                let all = recv.read_to_end(usize::MAX).await.unwrap();
                send.write_all(&all).await.unwrap();
                send.finish().unwrap();
            });
        }
    };
    let ask = async {
        for index in 0..4 {
            let (mut send, mut recv) = client.open_bi().await.unwrap();
            let asked = bytes(size + index);
            let (_, answer) = tokio::join!(
                async {
                    send.write_all(&asked).await.unwrap();
                    send.finish().unwrap();
                    assert_eq!(send.stopped().await, Ok(None));
                },
                recv.read_to_end(usize::MAX)
            );
            assert_eq!(answer.unwrap(), asked);
        }
    };
    tokio::join!(echo, ask);
    for (from, to) in [(&client, &*server), (&*server, &client)] {
        let (sent, got) = tokio::join!(
            async {
                let mut send = from.open_uni().await.unwrap();
                send.write_chunk(bytes(size)).await.unwrap();
                send.finish().unwrap();
                send.stopped().await
            },
            async { to.accept_uni().await.unwrap().read_to_end(usize::MAX).await.unwrap() }
        );
        assert_eq!((sent, got), (Ok(None), bytes(size).to_vec()));
        // A datagram may be lost, on loopback too: it is sent until one arrives.
        let arrived = to.read_datagram();
        tokio::pin!(arrived);
        let datagram = loop {
            from.send_datagram_wait(bytes(1000)).await.unwrap();
            let (mut send, _recv) = from.open_bi().await.unwrap();
            send.write_all(b"something that the peer acknowledges").await.unwrap();
            send.finish().unwrap();
            tokio::select! {
                datagram = &mut arrived => break datagram.unwrap(),
                _ = send.stopped() => {}
            }
        };
        assert_eq!(datagram, bytes(1000));
    }
    client.close(0u32.into(), b"");
    bed.client.wait_idle().await;
}

/// Leases one by one, then an object dealt out over all paths.
pub(crate) async fn an_object_from_three_servers<C: Host, S: Host>(bed: Bed<C, S>) {
    let (client, server) = bed.connect().await;
    let mut paths = Vec::new();
    for mirror in &bed.mirrors {
        paths.push(server.add_path(mirror.clone()).await.unwrap());
    }
    let size = 600 * KIB;
    let thirds = |at: u64| ByteRange::new(at * size / 3, size / 3).unwrap();
    let deal = async {
        let mut send = server.open_uni().await.unwrap();
        let whole = ByteRange::new(0, size).unwrap();
        let mut leases = Vec::new();
        for (&path, at) in paths.iter().zip(1..) {
            let job = send.open_job(NewJob::new(path, whole, OBJECT.payload())).unwrap();
            job.accepted().await.unwrap();
            leases.push(job.lease(thirds(at)).unwrap());
        }
        let mut own = send.write_at(thirds(0)).unwrap();
        own.write_all(&OBJECT.bytes(thirds(0))).await.unwrap();
        for mut lease in leases {
            match lease.outcome().await.unwrap() {
                LeaseOutcome::Done => {}
                // A busy machine may keep a mirror waiting until it is taken for dead.
                LeaseOutcome::Lost { missing, .. } => {
                    for range in missing {
                        send.write_at(range).unwrap().write_all(&OBJECT.bytes(range)).await.unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        send.finish().unwrap();
        send.stopped().await
    };
    let read = async { client.accept_uni().await.unwrap().read_to_end(usize::MAX).await };
    let (dealt, got) = tokio::join!(deal, read);
    assert_eq!((dealt, got), (Ok(None), Ok(bytes(size).to_vec())));

    let size = 4096 * KIB + 1;
    let deal = async {
        let mut send = server.open_uni().await.unwrap();
        let report = send.distribute(Formula, size, DistributeOptions::new(OBJECT.payload())).await.unwrap();
        assert_eq!((report.total, report.arrived), (size, size));
    };
    let read = async {
        let mut recv = client.accept_uni().await.unwrap();
        let mut receipt = Receipt::new(OBJECT);
        while let Some(chunk) = recv.read_chunk(usize::MAX, false).await.unwrap() {
            receipt.add(chunk.offset, &chunk.bytes);
        }
        receipt.expect_complete(size);
    };
    tokio::join!(deal, read);
}

/// The object, read on threads of the runtime's that may block.
struct Formula;

impl ReadAt for Formula {
    fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes> {
        Ok(ByteRange::new(offset, len as u64).map(|range| OBJECT.bytes(range)).unwrap_or_default())
    }
}

/// Resets and stops, with their codes.
pub(crate) async fn ends_of_streams<C: Host, S: Host>(bed: Bed<C, S>) {
    let (client, server) = bed.connect().await;
    let (mut send, mut back) = client.open_bi().await.unwrap();
    send.write_all(b"half of a que").await.unwrap();
    let (mut answer, mut recv) = server.accept_bi().await.unwrap();
    let mut half = [0; 13];
    recv.read_exact(&mut half).await.unwrap();
    send.reset(7u32.into()).unwrap();
    assert_eq!(recv.read_to_end(100).await, Err(ReadToEndError::Read(ReadError::Reset(7u32.into()))));
    back.stop(8u32.into()).unwrap();
    assert_eq!(answer.stopped().await, Ok(Some(8u32.into())));
    assert_eq!(answer.write(b"an answer").await, Err(WriteError::Stopped(8u32.into())));
    // One that is dropped unfinished is finished, and one that is dropped unread is stopped, as in quinn.
    let (mut send, back) = client.open_bi().await.unwrap();
    send.write_all(b"all of it").await.unwrap();
    drop(send);
    let (mut answer, mut recv) = server.accept_bi().await.unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"all of it");
    answer.write_all(b"nobody reads this").await.unwrap();
    drop(back);
    assert_eq!(answer.stopped().await, Ok(Some(0u32.into())));
}

/// A goodbye, a silence, a client that is turned away.
pub(crate) async fn ends_of_sessions<C: Host, S: Host>(bed: Bed<C, S>) {
    let (client, server) = bed.connect().await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(b"left open").await.unwrap();
    let (_answer, mut recv) = server.accept_bi().await.unwrap();
    client.close(9u32.into(), b"done");
    let ConnectionError::ApplicationClosed(goodbye) = server.closed().await else {
        panic!("no goodbye: {:?}", server.close_reason());
    };
    assert_eq!((goodbye.error_code, &goodbye.reason[..]), (9u32.into(), &b"done"[..]));
    assert_eq!(server.close_reason(), Some(ConnectionError::ApplicationClosed(goodbye)));
    assert_eq!(client.closed().await, ConnectionError::LocallyClosed);
    while recv.read(&mut [0; 100]).await.is_ok() {}
    assert!(client.open_uni().await.is_err());

    let connecting = bed.client.connect(bed.address(), "origin.test").unwrap();
    let (refused, ()) = tokio::join!(connecting, async { bed.origin.accept().await.unwrap().refuse() });
    assert!(refused.is_err());

    let (client, server) = bed.connect().await;
    bed.origin.abort();
    assert_eq!(client.closed().await, ConnectionError::TimedOut);
    assert!(server.close_reason().is_some());
    bed.client.wait_idle().await;
    assert_eq!(bed.client.open_connections(), 0);
}
