//! The task of one endpoint: reads the socket and routes what it reads.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    io::IoSliceMut,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Instant,
};

use bytes::BytesMut;

use super::{
    FLUSH, MESSAGE_MAX, RECV_BATCH, RECV_ERRORS_MAX, RECVS_PER_POLL, SLAB, SLABS_KEPT,
    hub::{Key, Reply, Shared, State},
    runtime::{RecvMeta, Runtime, Socket as _},
    session,
    task::off_socket,
};
use crate::{
    endpoint::{DatagramEvent, SessionEvent, SessionHandle},
    error::ConnectionError,
};

/// Drives one endpoint, as long as there are handles to it or sessions of it.
pub(super) struct EndpointDriver<R: Runtime> {
    endpoint: Arc<Shared<R>>,
    socket: Arc<R::Socket>,
    buf: Box<[u8]>,
    slabs: Slabs,
    mail: Mail,
    replies: Vec<Reply>,
    errors: usize,
}

impl<R: Runtime> EndpointDriver<R> {
    pub(super) fn new(endpoint: Arc<Shared<R>>, socket: Arc<R::Socket>) -> Self {
        Self {
            endpoint,
            socket,
            buf: vec![0; RECV_BATCH * MESSAGE_MAX].into_boxed_slice(),
            slabs: Slabs::default(),
            mail: Mail::default(),
            replies: Vec::new(),
            errors: 0,
        }
    }

    /// Notes the task's waker and returns whether its work is over.
    fn is_over(&self, cx: &Context<'_>) -> bool {
        self.endpoint.with(|e| {
            if !e.driver.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
                if let Some(old) = e.driver.replace(cx.waker().clone()) {
                    e.wakers.owed.discard(old);
                }
            }
            // Read under the lock: whoever drops the last handle either is seen here or finds the waker.
            let unused = self.endpoint.handles.load(Ordering::Acquire) == 0 && e.sessions.is_empty();
            e.socket.is_none() || unused
        })
    }

    /// Reads until the socket is empty or the budget spent.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..RECVS_PER_POLL {
            let mut meta = [RecvMeta::default(); RECV_BATCH];
            let mut pieces = self.buf.chunks_mut(MESSAGE_MAX);
            let mut bufs: [_; RECV_BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
            match self.socket.poll_recv(cx, &mut bufs, &mut meta) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => {
                    self.errors = 0;
                    self.route(meta.get(..count).unwrap_or(&meta));
                }
                // On UDP an error tells of some earlier datagram's fate, forged or not: no reason to end sessions.
                Poll::Ready(Err(error)) => {
                    self.errors += 1;
                    if self.errors == RECV_ERRORS_MAX {
                        tracing::error!(%error, "socket lost");
                        let reason = format!("socket lost: {error}");
                        self.endpoint.stop(&ConnectionError::TransportError(reason));
                        return Poll::Ready(());
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands every datagram of a receive call to the core, under one lock, and what comes of it to its session.
    fn route(&mut self, meta: &[RecvMeta]) {
        let now = self.endpoint.runtime.now();
        let Self { endpoint, buf, slabs, mail, replies, .. } = self;
        endpoint.with(|e| {
            for (meta, message) in meta.iter().zip(buf.chunks(MESSAGE_MAX)) {
                let message = message.get(..meta.len).unwrap_or(message);
                for datagram in message.chunks(meta.stride.max(1)) {
                    let data = slabs.copy(datagram);
                    handle(e, endpoint, now, (meta, data), mail, replies);
                }
            }
        });
        for reply in self.replies.drain(..) {
            self.endpoint.reply(&self.socket, &reply);
        }
        if self.mail.count >= FLUSH {
            self.deliver();
        }
    }

    /// Gives every session its batch.
    fn deliver(&mut self) {
        let dropped = self.mail.deliver();
        if dropped > 0 {
            self.endpoint.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }
}

/// Hands one datagram to the core.
fn handle<R: Runtime>(
    e: &mut State<R>,
    endpoint: &Shared<R>,
    now: Instant,
    (meta, data): (&RecvMeta, BytesMut),
    mail: &mut Mail,
    replies: &mut Vec<Reply>,
) {
    let remote = off_socket(meta.addr);
    let mut bytes = Vec::new();
    match e.core.handle(now, remote, meta.dst_ip, meta.ecn, data, &mut bytes) {
        None => {}
        Some(DatagramEvent::Session(to, event)) => {
            if let Some(session) = e.sessions.get(&to) {
                mail.put(to, session, event);
            }
        }
        Some(DatagramEvent::Incoming(incoming)) => {
            if e.close.is_some() || endpoint.handles.load(Ordering::Relaxed) == 0 {
                replies.push(e.refuse(incoming)); // nobody will accept it
            } else {
                e.incoming.push_back(incoming);
                e.wakers.wake(Key::Incoming);
            }
        }
        Some(DatagramEvent::Response(transmit)) => replies.push(Reply { transmit, bytes }),
    }
}

impl<R: Runtime> Future for EndpointDriver<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(());
        }
        let done = this.read(cx);
        this.deliver();
        done
    }
}

impl<R: Runtime> Drop for EndpointDriver<R> {
    fn drop(&mut self) {
        self.endpoint.stop(&ConnectionError::TransportError("endpoint task ended".to_owned()));
    }
}

/// Empty queues kept for the next batches.
const SPARE_KEPT: usize = 16;

/// Datagrams sorted by session, between two wake-ups.
#[derive(Default)]
struct Mail {
    parcels: BTreeMap<SessionHandle, Parcel>,
    spare: Vec<VecDeque<SessionEvent>>,
    count: usize,
}

struct Parcel {
    to: Arc<session::Shared>,
    events: VecDeque<SessionEvent>,
}

impl Mail {
    fn put(&mut self, handle: SessionHandle, to: &Arc<session::Shared>, event: SessionEvent) {
        let parcel = self
            .parcels
            .entry(handle)
            .or_insert_with(|| Parcel { to: to.clone(), events: self.spare.pop().unwrap_or_default() });
        parcel.events.push_back(event);
        self.count += 1;
    }

    /// Returns how many datagrams found no room.
    fn deliver(&mut self) -> usize {
        self.count = 0;
        let mut dropped = 0;
        while let Some((_, mut parcel)) = self.parcels.pop_first() {
            dropped += parcel.to.deliver(&mut parcel.events);
            if self.spare.len() < SPARE_KEPT {
                self.spare.push(parcel.events); // came back empty, with the room that the session had used
            }
        }
        dropped
    }
}

/// Slabs looked at before a new one is made.
const RECLAIM_TRIES: usize = 4;

/// Memory for received datagrams, reused when nobody holds a piece of it any more.
struct Slabs {
    current: BytesMut,
    full: VecDeque<BytesMut>,
}

impl Default for Slabs {
    fn default() -> Self {
        Self { current: BytesMut::with_capacity(SLAB), full: VecDeque::new() }
    }
}

impl Slabs {
    /// Copies `datagram` out of the receive buffer.
    fn copy(&mut self, datagram: &[u8]) -> BytesMut {
        if datagram.len() > SLAB {
            return BytesMut::from(datagram);
        }
        if self.current.capacity() < datagram.len() {
            self.renew();
        }
        self.current.extend_from_slice(datagram);
        self.current.split()
    }

    /// Replaces the full slab: by an older one that is free again, else by a new one.
    fn renew(&mut self) {
        let next = self.reclaim().unwrap_or_else(|| BytesMut::with_capacity(SLAB));
        let full = std::mem::replace(&mut self.current, next);
        if self.full.len() == SLABS_KEPT {
            self.full.pop_front(); // whoever holds on to it frees it
        }
        self.full.push_back(full);
    }

    /// Looks at a few of the older slabs; those still held go to the back of the queue.
    fn reclaim(&mut self) -> Option<BytesMut> {
        for _ in 0..RECLAIM_TRIES {
            let mut slab = self.full.pop_front()?;
            if slab.try_reclaim(SLAB) {
                return Some(slab);
            }
            self.full.push_back(slab);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_reused_once_free_and_never_before() {
        let mut slabs = Slabs::default();
        let kept = slabs.copy(&[7; 1000]);
        let mut seen = Vec::new();
        for n in 0..1000_u32 {
            let data = slabs.copy(&[(n % 251) as u8; 1452]);
            assert!(data.iter().all(|byte| *byte == (n % 251) as u8));
            seen.push(data.as_ptr().addr());
        }
        assert!(kept.iter().all(|byte| *byte == 7));
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() < 60, "1000 datagrams used {} places", seen.len());
    }

    #[test]
    fn large_datagrams_get_memory_of_their_own() {
        let mut slabs = Slabs::default();
        assert_eq!(slabs.copy(&vec![1; SLAB + 1]).len(), SLAB + 1);
        assert_eq!(slabs.current.capacity(), SLAB);
    }
}
