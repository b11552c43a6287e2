//! Futures that are dropped after any number of polls: the next one finds everything as it was.

use std::{future::Future, pin::pin, task::Poll};

use bytes::Bytes;
use kwik_core::{
    ByteRange, ConnectionError, LeaseOutcome, NewJob, TransportConfig,
    driver::{Accepted, RangeWriteError},
};
use kwik_tests::{
    host::Host,
    object::{Object, Receipt},
};

use super::Bed;

/// The point at which a future is dropped.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// So many polls after which it still waits.
    polls: usize,
    /// Once it is woken again, and not at once.
    woken: bool,
}

/// Polls at most: futures that wait for more than this many things one after the other are run to their end after it.
const POLLS_MAX: usize = 3;

/// Every point.
fn cuts() -> impl Iterator<Item = Cut> + Clone {
    let woken = (1..=POLLS_MAX).map(|polls| Cut { polls, woken: true });
    (0..=POLLS_MAX).map(|polls| Cut { polls, woken: false }).chain(woken)
}

impl Cut {
    /// Polls `future` up to this point. Returns what it came to, if it did before.
    async fn run<T>(self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut polls = 0;
        std::future::poll_fn(|cx| {
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
        .await
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

/// Futures that wait for news: of clients, streams, datagrams, ends, paths, jobs, messages.
pub(crate) async fn futures_of_sessions<C: Host, S: Host>(bed: Bed<C, S>) {
    for (cut, tag) in cuts().zip(0_u8..) {
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
        let (stopped, ()) = tokio::join!(async { again!(cut, send.stopped()) }, async {
            question.stop(3u32.into()).unwrap()
        });
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
        let path = match cut.run(server.add_path(bed.mirrors[0].clone())).await {
            Some(path) => path.unwrap(),
            None => match server.paths().get(before) {
                Some(path) => path.id,
                None => server.add_path(bed.mirrors[0].clone()).await.unwrap(), // it was never polled
            },
        };
        again!(cut, server.path_ready(path)).unwrap();
        again!(cut, server.path_heard(path)).unwrap();
        assert_eq!(server.paths().len(), before + 1);
        let at_once = Cut { polls: 1, woken: false };
        assert!(at_once.run(server.path_dead(path)).await.is_none(), "{path} is dead");

        // Ends.
        let (ended, ()) = tokio::join!(async { again!(cut, server.closed()) }, async {
            client.close(u32::from(tag).into(), b"")
        });
        let ConnectionError::ApplicationClosed(goodbye) = ended else { panic!("no goodbye: {ended}") };
        assert_eq!(goodbye.error_code, u32::from(tag).into());
        again!(cut, bed.client.wait_idle());
    }
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
    let path = server.add_path(bed.mirrors[0].clone()).await.unwrap();
    for split in [false, true] {
        let write = async {
            let bytes = OBJECT.bytes(whole);
            let mut send = server.open_uni().await.unwrap();
            // Half of it from a mirror, if it is to be split: the primary's own half is written in between.
            let half = if split { ByteRange::new(0, size / 2).unwrap() } else { whole };
            let mut cuts = cuts().cycle();
            let mut lease = None;
            if split {
                let mirrored = ByteRange::new(size / 2, size / 2).unwrap();
                let job = send.open_job(NewJob::new(path, mirrored, OBJECT.payload())).unwrap();
                for cut in self::cuts() {
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
                    if let Some(written) = cuts.next().unwrap().run(send.write(&bytes[at..])).await {
                        at += written.unwrap();
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
        let read = async {
            let mut recv = client.accept_uni().await.unwrap();
            let mut receipt = Receipt::new(OBJECT);
            let mut cuts = cuts().cycle();
            loop {
                let cut = cuts.next().unwrap();
                match cut.run(recv.read_chunk(5000, true)).await {
                    None => {}
                    Some(Ok(Some(chunk))) => receipt.add(chunk.offset, &chunk.bytes),
                    Some(end) => break assert_eq!(end, Ok(None)),
                }
            }
            receipt.expect_complete(size);
        };
        tokio::join!(write, read);
    }
}
