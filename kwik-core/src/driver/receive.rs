//! The task of one endpoint: reads the socket and routes what it reads.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    io::{self, IoSliceMut},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::BytesMut;

use super::{
    FLUSH, MESSAGE_MAX, RECV_BATCH, RECV_ERRORS_MAX, RECVS_PER_POLL, ROOM_WAIT, ROOM_WAIT_PERIOD, SLAB,
    SLABS_KEPT,
    hub::{Bound, Key, Reply, Shared, State},
    inbox::Parcel,
    runtime::{RecvMeta, Runtime, Socket as _, Timer as _},
    session,
    task::off_socket,
};
use crate::{
    endpoint::{DatagramEvent, SessionEvent, SessionHandle},
    error::TransportError,
};

/// Drives one endpoint, as long as there are handles to it or sessions of it.
pub(super) struct EndpointDriver<R: Runtime> {
    endpoint: Arc<Shared<R>>,
    bound: Bound<R>,
    /// The socket before, as long as nothing has come to this one.
    previous: Option<Arc<R::Socket>>,
    buf: Box<[u8]>,
    slabs: Slabs,
    mail: Mail,
    replies: Vec<Reply>,
    errors: usize,
    room: RoomWait<R>,
    /// Number of times that sessions had asked for the socket to be read when this poll began.
    asked: u64,
    /// The oldest reading they wait for, and how many rounds have not found the socket empty since.
    reading: Option<(u64, usize)>,
}

/// Results of a round of reading.
enum Read {
    /// The operating system has no more.
    Empty,
    /// There may be more.
    Budget,
    /// A session has no room.
    Full,
    /// The socket is lost.
    Lost,
}

impl<R: Runtime> EndpointDriver<R> {
    pub(super) fn new(endpoint: Arc<Shared<R>>, bound: Bound<R>) -> Self {
        Self {
            endpoint,
            bound,
            previous: None,
            buf: vec![0; RECV_BATCH * MESSAGE_MAX].into_boxed_slice(),
            slabs: Slabs::default(),
            mail: Mail::default(),
            replies: Vec::new(),
            errors: 0,
            room: RoomWait { until: None, next: None, timer: None },
            asked: 0,
            reading: None,
        }
    }

    /// Notes the task's waker and what it is asked for. Returns whether its work is over.
    fn is_over(&mut self, cx: &Context<'_>) -> bool {
        self.endpoint.with(|e| {
            if !e.driver.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
                if let Some(old) = e.driver.replace(cx.waker().clone()) {
                    e.wakers.owed.discard(old);
                }
            }
            self.asked = e.reads_asked;
            if self.reading.is_none() && self.asked > e.reads_done {
                self.reading = Some((self.asked, 0));
            }
            // Read under the lock: whoever drops the last handle either is seen here or finds the waker.
            let unused = self.endpoint.handles.load(Ordering::Acquire) == 0 && e.sessions.is_empty();
            e.bound.is_none() || unused
        })
    }

    /// Goes over to another socket if the endpoint was bound to one.
    fn follow(&mut self) {
        if let Some(bound) = self.endpoint.rebound_since(&self.bound) {
            let old = std::mem::replace(&mut self.bound, bound);
            self.previous = Some(old.socket);
            self.errors = 0;
        }
    }

    /// Reads one call's worth of datagrams.
    fn receive(&mut self, cx: &mut Context<'_>, socket: &R::Socket) -> Poll<io::Result<()>> {
        let mut meta = [RecvMeta::default(); RECV_BATCH];
        let mut pieces = self.buf.chunks_mut(MESSAGE_MAX);
        let mut bufs: [_; RECV_BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
        let count = ready!(socket.poll_recv(cx, &mut bufs, &mut meta))?;
        self.route(meta.get(..count).unwrap_or(&meta));
        Poll::Ready(Ok(()))
    }

    /// Reads what is left in the socket before this one, within the same bounds.
    fn read_previous(&mut self, cx: &mut Context<'_>) -> Read {
        let Some(previous) = self.previous.clone() else {
            return Read::Empty;
        };
        for _ in 0..RECVS_PER_POLL {
            match self.receive(cx, &previous) {
                Poll::Pending => return Read::Empty,
                Poll::Ready(Ok(())) if self.mail.count >= FLUSH && !self.mail.deliver(cx.waker()) => {
                    return Read::Full;
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the socket before is not read any more");
                    self.previous = None;
                    return Read::Empty;
                }
            }
        }
        Read::Budget
    }

    /// Reads until the socket is empty, a session has no room, or the budget is spent.
    fn read(&mut self, cx: &mut Context<'_>) -> Read {
        let socket = self.bound.socket.clone();
        for _ in 0..RECVS_PER_POLL {
            let before = self.mail.count;
            match self.receive(cx, &socket) {
                Poll::Pending => return Read::Empty,
                Poll::Ready(Ok(())) => {
                    self.errors = 0;
                    if self.mail.count > before {
                        self.previous = None; // a peer knows the new address
                    }
                    if self.mail.count >= FLUSH && !self.mail.deliver(cx.waker()) {
                        return Read::Full;
                    }
                }
                // On UDP an error tells of some earlier datagram's fate, forged or not: no reason to end sessions.
                Poll::Ready(Err(error)) => {
                    self.errors += 1;
                    if self.errors == RECV_ERRORS_MAX {
                        tracing::error!(%error, "socket lost");
                        let reason = format!("socket lost: {error}");
                        self.endpoint.stop(&TransportError::internal(reason).into());
                        return Read::Lost;
                    }
                }
            }
        }
        Read::Budget
    }

    /// Delivers what could not be, if it can be now. Returns whether reading may go on: nothing is left of it, or it has
    /// waited for long enough and was dropped.
    fn make_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.mail.deliver(cx.waker()) {
            return true;
        }
        if self.room.poll(cx, &*self.endpoint.runtime).is_pending() {
            return false;
        }
        let dropped = self.mail.drop_rest();
        self.endpoint.dropped.fetch_add(dropped, Ordering::Relaxed);
        true
    }

    /// Tells the sessions that asked for it that the socket has been read; `empty` if this round found it so.
    ///
    /// Whoever floods the socket cannot put that off without end: what had arrived when they asked has been read after
    /// so many rounds, however much has come since.
    fn note_read(&mut self, empty: bool) {
        let Some((oldest, rounds)) = &mut self.reading else {
            return;
        };
        *rounds += 1;
        if empty || *rounds == READING_ROUNDS {
            self.endpoint.finish_read(if empty { self.asked } else { *oldest });
            self.reading = None;
        }
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
            self.endpoint.reply(&self.bound, &reply);
        }
    }
}

/// Rounds of reading after which all that a kernel may have buffered when they began has been read: 32,768 messages, or
/// 4,096 where each call brings one.
const READING_ROUNDS: usize = 64;

/// The wait for a session to take what came for it.
struct RoomWait<R: Runtime> {
    /// Instant at which the present time for waiting ends, and the next may begin.
    until: Option<Instant>,
    next: Option<Instant>,
    timer: Option<Pin<Box<R::Timer>>>,
}

impl<R: Runtime> RoomWait<R> {
    /// Waits for at most [`ROOM_WAIT`] in every [`ROOM_WAIT_PERIOD`], in one piece or in several. Ready: no longer.
    fn poll(&mut self, cx: &mut Context<'_>, runtime: &R) -> Poll<()> {
        let now = runtime.now();
        if self.next.is_none_or(|next| next <= now) {
            self.until = Some(now + ROOM_WAIT);
            self.next = Some(now + ROOM_WAIT_PERIOD);
        }
        let Some(until) = self.until.filter(|&until| now < until) else {
            return Poll::Ready(());
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(runtime.timer(until)));
        timer.as_mut().reset(until);
        timer.as_mut().poll(cx)
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
    let len = data.len();
    let mut bytes = Vec::new();
    match e.core.handle(now, remote, meta.dst_ip, meta.ecn, data, &mut bytes) {
        None => {}
        Some(DatagramEvent::Session(to, event)) => {
            if let Some(session) = e.sessions.get(&to) {
                mail.put(to, session, event, len);
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
        if !this.make_room(cx) {
            return Poll::Pending; // the waker is with whoever makes room, and with the timer
        }
        this.follow();
        let read = match this.read_previous(cx) {
            Read::Empty => this.read(cx),
            // Whoever keeps the old socket busy must not keep the new one from being read.
            Read::Budget => match this.read(cx) {
                Read::Empty => Read::Budget,
                read @ (Read::Budget | Read::Full | Read::Lost) => read,
            },
            unread @ (Read::Full | Read::Lost) => unread,
        };
        if matches!(read, Read::Lost) {
            return Poll::Ready(());
        }
        let delivered = this.make_room(cx);
        if delivered {
            this.note_read(matches!(read, Read::Empty));
        }
        if delivered && !matches!(read, Read::Empty) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<R: Runtime> Drop for EndpointDriver<R> {
    fn drop(&mut self) {
        self.endpoint.stop(&TransportError::internal("endpoint task ended".to_owned()).into());
    }
}

/// Empty queues kept for the next batches.
const SPARE_KEPT: usize = 16;

/// Datagrams sorted by session, between two wake-ups.
#[derive(Default)]
struct Mail {
    parcels: BTreeMap<SessionHandle, (Arc<session::Shared>, Parcel)>,
    spare: Vec<VecDeque<SessionEvent>>,
    count: usize,
}

impl Mail {
    fn put(&mut self, handle: SessionHandle, to: &Arc<session::Shared>, event: SessionEvent, len: usize) {
        let spare = &mut self.spare;
        let fresh = || (to.clone(), Parcel::reuse(spare.pop().unwrap_or_default()));
        self.parcels.entry(handle).or_insert_with(fresh).1.push(event, len);
        self.count += 1;
    }

    /// Gives every session its parcel. Returns whether all had room; `writer` is woken once more of them have.
    fn deliver(&mut self, writer: &Waker) -> bool {
        let Self { parcels, spare, count } = self;
        parcels.retain(|_, (to, parcel)| {
            let full = !to.inbox.deliver(parcel, writer);
            if !full && spare.len() < SPARE_KEPT {
                spare.push(std::mem::take(&mut parcel.events)); // came back empty, with the room that the session had used
            }
            full
        });
        *count = parcels.values().map(|(_, parcel)| parcel.events.len()).sum();
        parcels.is_empty()
    }

    /// Drops what has found no room. Returns how many datagrams that were.
    fn drop_rest(&mut self) -> u64 {
        let dropped = std::mem::take(&mut self.count);
        drop(std::mem::take(&mut self.parcels));
        dropped as u64
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
