//! Futures that are dropped after any number of polls: the next one finds everything as it was.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use kwik_core::{
    ByteRange, ConnectionError, LeaseOutcome, NewJob, TransportConfig,
    driver::{Accepted, RangeWriteError, RecvStream, SecondarySession},
};
use kwik_tests::{
    host::Host,
    object::{Object, Receipt},
};

use super::{Bed, RESTLESS};

/// The point at which a future is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// So many polls after which it still waits.
    polls: usize,
    /// Once it is woken again, and not at once.
    woken: bool,
    /// A future has been dropped there.
    reached: Arc<AtomicBool>,
}

/// Polls that no future needs: whoever is woken so often for nothing has a fault of its own.
const POLLS_CEILING: usize = 100;
/// Points in turn for whoever makes one future after the other: most are done after two polls.
const POLLS_IN_TURN: usize = 3;

/// Points in turn, without end.
pub(crate) fn cuts() -> impl Iterator<Item = Cut> {
    let woken = (1..=POLLS_IN_TURN).map(|polls| Cut::new(polls, true));
    (0..=POLLS_IN_TURN)
        .map(|polls| Cut::new(polls, false))
        .chain(woken)
        .collect::<Vec<_>>()
        .into_iter()
        .cycle()
}

impl Cut {
    fn new(polls: usize, woken: bool) -> Self {
        Self { polls, woken, reached: Arc::default() }
    }

    /// Polls `future` up to this point. Returns what it came to, if it did before.
    pub(crate) async fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut polls = 0;
        let done = std::future::poll_fn(|cx| {
            if polls == self.polls {
                return Poll::Ready(None); // woken for that which it is dropped before
            }
            polls += 1;
            match future.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending if polls == self.polls && !self.woken => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if done.is_none() {
            self.reached.store(true, Ordering::Relaxed);
        }
        done
    }
}

/// Makes a future, drops it at `$cut`, and makes another, which is awaited.
macro_rules! again {
    ($cut:expr, $future:expr) => {
        match $cut.run($future).await {
            Some(value) => value,
            None => $future.await,
        }
    };
}

/// Futures that wait for news, of clients, streams, datagrams, ends, paths, jobs, messages: each dropped after every number of
/// polls, up to that by which it is done.
pub(crate) async fn futures_of_sessions<C: Host, S: Host>(bed: Bed<C, S>) {
    for polls in 0.. {
        assert!(polls < POLLS_CEILING, "some future is polled without end");
        let (at_once, woken) = (Cut::new(polls, false), Cut::new(polls, true));
        // Before the first poll the two are one.
        for cut in [&at_once, &woken].into_iter().skip(usize::from(polls == 0)) {
            round(&bed, cut, polls.to_le_bytes()[0]).await;
        }
        if polls > 0 && [at_once, woken].iter().all(|cut| !cut.reached.load(Ordering::Relaxed)) {
            break;
        }
    }
}

async fn round<C: Host, S: Host>(bed: &Bed<C, S>, cut: &Cut, tag: u8) {
    // A client whose attempt is dropped is gone, and the next attempt is another's.
    let connect = || bed.client.connect(bed.address(), "origin.test").unwrap();
    let serve = async {
        loop {
            let incoming = again!(cut, bed.origin.accept()).unwrap();
            let Ok(Accepted::Primary(session)) = incoming.accept_any().await else { continue };
            let greeted = async {
                let mut stream = again!(cut, session.open_uni()).ok()?;
                stream.write_all(b"are you there").await.ok()?;
                stream.finish().ok()?;
                (stream.stopped().await == Ok(None)).then_some(())
            };
            if greeted.await.is_some() {
                break session; // any other client had been dropped
            }
        }
    };
    let ask = async {
        let client = again!(cut, connect()).unwrap();
        let mut stream = again!(cut, client.accept_uni()).unwrap();
        assert_eq!(stream.read_to_end(100).await.unwrap(), b"are you there");
        client
    };
    let (client, server) = tokio::join!(ask, serve);

    // Streams.
    let (opened, accepted) = tokio::join!(
        async {
            let (mut send, recv) = again!(cut, client.open_bi()).unwrap();
            send.write_all(&[tag]).await.unwrap();
            (send, recv)
        },
        async { again!(cut, server.accept_bi()).unwrap() }
    );
    let ((mut send, mut recv), (mut answer, mut question)) = (opened, accepted);
    assert_eq!(again!(cut, question.read_chunk(1, true)).unwrap().unwrap().bytes, [tag][..]);
    let (stopped, ()) =
        tokio::join!(async { again!(cut, send.stopped()) }, async { question.stop(3u32.into()).unwrap() });
    assert_eq!(stopped, Ok(Some(3u32.into())));
    answer.write_all(b"no").await.unwrap();
    let (reset, ()) = tokio::join!(async { again!(cut, recv.received_reset()) }, async {
        answer.reset(4u32.into()).unwrap()
    });
    assert_eq!(reset, Ok(Some(4u32.into())));
    send.reset(0u32.into()).unwrap();

    // Datagrams, which may be lost on their way.
    let payload = Bytes::from(vec![tag; 900]);
    let (got, ()) = tokio::join!(async { again!(cut, client.read_datagram()).unwrap() }, async {
        for _ in 0..20 {
            again!(cut, server.send_datagram_wait(payload.clone())).unwrap();
        }
    });
    assert_eq!(got, payload);

    // Other servers. A path whose future is dropped is added all the same.
    let before = server.paths().len();
    let path = match cut.run(server.add_path(bed.mirrors[RESTLESS].clone())).await {
        Some(path) => path.unwrap(),
        None => match server.paths().get(before) {
            Some(path) => path.id,
            None => server.add_path(bed.mirrors[RESTLESS].clone()).await.unwrap(), // it was never polled
        },
    };
    again!(cut, server.path_ready(path)).unwrap();
    again!(cut, server.path_heard(path)).unwrap();
    assert_eq!(server.paths().len(), before + 1);
    let at_once = Cut::new(1, false);
    assert!(at_once.run(server.path_dead(path)).await.is_none(), "{path} is dead");

    // Ends.
    let (ended, ()) = tokio::join!(async { again!(cut, server.closed()) }, async {
        client.close(u32::from(tag).into(), b"")
    });
    let ConnectionError::ApplicationClosed(goodbye) = ended else { panic!("no goodbye: {ended}") };
    assert_eq!(goodbye.error_code, u32::from(tag).into());
    again!(cut, bed.client.wait_idle());
}

/// A short round trip to begin with: what is left of an attempt that was dropped lasts for some of them, and where nothing was
/// heard of that for as long as a server waits for a hello, or for any word.
pub(crate) fn near() -> TransportConfig {
    let patience = Duration::from_secs(5);
    let mut transport = TransportConfig::default().idle_timeout(patience).hello_timeout(patience);
    transport.initial_rtt(Duration::from_millis(20));
    transport
}

/// Small windows, so that writers wait.
pub(crate) fn narrow() -> TransportConfig {
    TransportConfig::default().stream_receive_window((64u32 * 1024).into()).clone()
}

/// Futures that move bytes: none is lost, and none comes twice, however often writers and readers are dropped.
pub(crate) async fn futures_of_bytes<C: Host, S: Host>(bed: Bed<C, S>) {
    const OBJECT: Object = Object(15);
    let size = 400 * 1024;
    let whole = ByteRange::new(0, size).unwrap();
    let (client, server) = bed.connect().await;
    // Its application drops its futures as well.
    let path = server.add_path(bed.mirrors[RESTLESS].clone()).await.unwrap();
    for split in [false, true] {
        let write = async {
            let bytes = OBJECT.bytes(whole);
            let mut send = server.open_uni().await.unwrap();
            // Half of it from a mirror, if it is to be split: the primary's own half is written in between.
            let half = if split { ByteRange::new(0, size / 2).unwrap() } else { whole };
            let mut cuts = cuts();
            let mut lease = None;
            if split {
                let mirrored = ByteRange::new(size / 2, size / 2).unwrap();
                let job = send.open_job(NewJob::new(path, mirrored, OBJECT.payload())).unwrap();
                for cut in self::cuts().take(10) {
                    again!(cut, job.accepted()).unwrap();
                }
                lease = Some(job.lease(mirrored).unwrap());
                let mut run = send.write_at(half).unwrap();
                let mut at = 0;
                while at < size / 2 {
                    let rest = &bytes[usize::try_from(at).unwrap()..usize::try_from(half.end()).unwrap()];
                    if let Some(written) = cuts.next().unwrap().run(run.write(rest)).await {
                        at += written.unwrap() as u64;
                        assert_eq!(run.remaining(), half.end() - at);
                    }
                }
                let ended: Result<LeaseOutcome, RangeWriteError> = run.finish().await;
                assert_eq!(ended.unwrap(), LeaseOutcome::Done);
            } else {
                let mut at = 0;
                while at < bytes.len() {
                    let mut pieces = [
                        bytes.slice(at..bytes.len().min(at + 3000)),
                        bytes.slice(bytes.len().min(at + 3000)..),
                    ];
                    let write = cuts.next().unwrap();
                    if at % 2 == 0 {
                        if let Some(written) = write.run(send.write(&bytes[at..])).await {
                            at += written.unwrap();
                        }
                    } else if let Some(written) = write.run(send.write_chunks(&mut pieces)).await {
                        at += written.unwrap().bytes;
                    }
                }
            }
            if let Some(mut lease) = lease {
                let outcome = loop {
                    if let Some(outcome) = cuts.next().unwrap().run(lease.outcome()).await {
                        break outcome.unwrap();
                    }
                };
                if let LeaseOutcome::Lost { missing, .. } = outcome {
                    for range in missing {
                        send.write_at(range).unwrap().write_all(&OBJECT.bytes(range)).await.unwrap();
                    }
                }
            }
            send.finish().unwrap();
            again!(cuts.next().unwrap(), send.stopped()).unwrap();
        };
        let read =
            async { read_restlessly(client.accept_uni().await.unwrap(), OBJECT).await.expect_complete(size) };
        tokio::join!(write, read);
    }
}

/// Reads all of a stream, in three ways in turn, of which two do not say where they are; each future is given up now and then.
async fn read_restlessly(mut recv: RecvStream, object: Object) -> Receipt {
    let mut receipt = Receipt::new(object);
    let (mut ways, mut at) = ([0, 1, 2].into_iter().cycle(), 0);
    let (mut buf, mut pieces) = ([0; 5000], [const { Bytes::new() }; 3]);
    for cut in cuts() {
        let read = match ways.next().unwrap() {
            0 => cut.run(recv.read_chunk(5000, true)).await.map(|read| {
                read.unwrap().map(|chunk| {
                    assert_eq!(chunk.offset, at);
                    vec![chunk.bytes]
                })
            }),
            1 => {
                let read = cut.run(recv.read(&mut buf)).await;
                read.map(|read| read.unwrap().map(|count| vec![Bytes::copy_from_slice(&buf[..count])]))
            }
            _ => {
                let read = cut.run(recv.read_chunks(&mut pieces)).await;
                read.map(|read| read.unwrap().map(|count| pieces[..count].to_vec()))
            }
        };
        match read {
            None => {}
            Some(None) => break,
            Some(Some(pieces)) => pieces.iter().for_each(|piece| {
                receipt.add(at, piece);
                at += piece.len() as u64;
            }),
        }
    }
    receipt
}

/// As a mirror's application that gives up each of its futures now and then, and asks again: it fills whatever it is asked for
/// all the same.
pub(crate) async fn fill_restlessly(session: SecondarySession) {
    let mut cuts = cuts();
    let mut cut = || cuts.next().unwrap();
    loop {
        let mut job = match cut().run(session.accept_job()).await {
            Some(Ok(job)) => job,
            Some(Err(_)) => return,
            None => continue,
        };
        let object = Object::from_payload(job.payload());
        loop {
            let mut stream = match cut().run(job.next_lease()).await {
                Some(Some(lease)) => lease.open(),
                Some(None) => break,
                None => continue,
            };
            let bytes = object.bytes(stream.range());
            let mut at = 0;
            while at < bytes.len() {
                match cut().run(stream.write(&bytes[at..])).await {
                    Some(Ok(count)) => at += count,
                    Some(Err(_)) => break, // the lease has ended, and its primary knows
                    None => {}
                }
            }
        }
    }
}
