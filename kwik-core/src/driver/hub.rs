//! One endpoint as its task, its sessions' tasks and its handles share it.
//!
//! Owns the routing state machine, the table of sessions, the clients that wait for `accept`, and spare send buffers.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{
    BUFFERS_KEPT, SEND_MAX,
    endpoint::EndpointStats,
    inbox::{Inbox, Pool},
    incoming::Host,
    lock::{Lock, Owed, Owes, Wakers},
    runtime::{Runtime, Socket as _},
    session::{self, SessionRef},
    task::{SessionDriver, onto_socket},
};
use crate::{
    action::Transmit,
    config::ServerConfig,
    endpoint::{self as core, Families, SessionHandle},
    error::{ConnectionError, ErrorCode},
};

/// Conditions that a future may wait for at an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Idle,
    Incoming,
    Read,
}

/// A socket, as the tasks that use it hold it.
pub(super) struct Bound<R: Runtime> {
    pub(super) socket: Arc<R::Socket>,
    /// It is an IPv6 one; the core only sees canonical addresses.
    pub(super) ipv6: bool,
    /// The endpoint's count of sockets when it got this one.
    pub(super) number: usize,
}

impl<R: Runtime> Bound<R> {
    /// Takes over a socket, and tells the core what it reaches.
    pub(super) fn new(socket: R::Socket, number: usize, core: &mut core::Endpoint) -> io::Result<Self> {
        let local = socket.local_addr()?;
        core.set_families(families(local, socket.only_v6()));
        Ok(Self { socket: Arc::new(socket), ipv6: local.is_ipv6(), number })
    }
}

impl<R: Runtime> Clone for Bound<R> {
    fn clone(&self) -> Self {
        Self { socket: self.socket.clone(), ..*self }
    }
}

/// Returns which addresses a socket can send to that is bound to `local`. An IPv6 one sends to IPv4 addresses from one that
/// is IPv4 itself, or not chosen yet.
fn families(local: SocketAddr, only_v6: bool) -> Families {
    match local.ip() {
        IpAddr::V4(_) => Families::V4,
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Families::V4,
        IpAddr::V6(ip) if ip.is_unspecified() && !only_v6 => Families::Both,
        IpAddr::V6(_) => Families::V6,
    }
}

/// State that the endpoint's lock guards.
pub(super) struct State<R: Runtime> {
    pub(super) core: core::Endpoint,
    pub(super) sessions: BTreeMap<SessionHandle, Arc<session::Shared>>,
    /// Clients waiting for `accept`; the core bounds how many.
    pub(super) incoming: VecDeque<core::Incoming>,
    pub(super) close: Option<(ErrorCode, Vec<u8>)>,
    /// `None` once the endpoint is lost or aborted.
    pub(super) bound: Option<Bound<R>>,
    /// The endpoint's task.
    pub(super) driver: Option<Waker>,
    pub(super) wakers: Wakers<Key>,
    pub(super) stats: EndpointStats,
    /// Number of times that a session asked for the socket to be read, and up to which of them it has been.
    pub(super) reads_asked: u64,
    pub(super) reads_done: u64,
}

impl<R: Runtime> Owes for State<R> {
    fn owed(&mut self) -> Option<&mut Owed> {
        Some(&mut self.wakers.owed)
    }
}

impl<R: Runtime> State<R> {
    /// Lets the endpoint's task look whether it has to end.
    fn notify(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.wakers.owed.wake(driver);
        }
    }

    /// Turns a client away; returns what to tell it.
    pub(super) fn refuse(&mut self, incoming: core::Incoming) -> Reply {
        let mut bytes = Vec::new();
        self.stats.refused_handshakes += 1;
        Reply { transmit: self.core.refuse(incoming, &mut bytes), bytes }
    }
}

/// A datagram that answers a client without a session.
pub(super) struct Reply {
    pub(super) transmit: Transmit,
    pub(super) bytes: Vec<u8>,
}

/// Send buffers between uses.
struct Buffers(Vec<Vec<u8>>);

impl Owes for Buffers {}

/// Bounds on what waits for the tasks of all sessions that were accepted. Spec: RATIONALE §11.
struct Backlog {
    /// Those whose hello is not accepted yet.
    strangers: Arc<Pool>,
    guests: Arc<Pool>,
}

impl Backlog {
    fn new(max: usize) -> Self {
        let backlog = Self { strangers: Pool::new(0), guests: Pool::new(0) };
        backlog.resize(max);
        backlog
    }

    fn resize(&self, max: usize) {
        let strangers = max / STRANGERS_PART;
        self.strangers.resize(strangers);
        self.guests.resize(max - strangers);
    }
}

/// Strangers have one in so many bytes of the backlog.
const STRANGERS_PART: usize = 8;

/// An endpoint, without a say in how long it lives: what tasks hold.
pub(super) struct Shared<R: Runtime> {
    pub(super) runtime: Arc<R>,
    /// Sockets that the endpoint has been moved to.
    rebound: AtomicUsize,
    pub(super) handles: AtomicUsize,
    pub(super) dropped: AtomicU64,
    backlog: Backlog,
    state: Lock<State<R>>,
    buffers: Lock<Buffers>,
}

impl<R: Runtime> Shared<R> {
    /// Runs `f` on the endpoint, then wakes whom it noted.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State<R>) -> T) -> T {
        self.state.with(f)
    }

    /// Bytes that wait for the tasks of sessions that were accepted.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.strangers.used() + self.backlog.guests.used()
    }

    /// Takes over the settings of a server.
    pub(super) fn configure(&self, backlog_max: u64) {
        self.backlog.resize(usize::try_from(backlog_max).unwrap_or(usize::MAX));
    }

    /// Gives a session that is there now the room that its windows are for.
    pub(super) fn welcome(&self, inbox: &Inbox, max: usize) {
        inbox.widen(max, &self.backlog.guests);
    }

    /// Hands over what a session asks its endpoint for. Called under the session's lock.
    pub(super) fn answer(&self, now: Instant, handle: SessionHandle, s: &mut session::State) {
        let session::State { core: session, wakers, .. } = s;
        let Some(first) = session.poll_endpoint_event() else {
            return; // the usual case takes no lock
        };
        let unix = self.runtime.unix_now();
        self.state.within(&mut wakers.owed, |e| {
            let mut next = Some(first);
            while let Some(event) = next {
                if let Some(answer) = e.core.handle_session_event(now, handle, event) {
                    session.handle_event(now, unix, answer);
                }
                next = session.poll_endpoint_event();
            }
        });
    }

    /// Takes the session of an ended task out of the table.
    pub(super) fn forget(&self, handle: SessionHandle) {
        let session = self.with(|e| {
            e.core.forget(handle);
            let session = e.sessions.remove(&handle);
            if e.sessions.is_empty() {
                e.wakers.wake(Key::Idle);
                e.notify();
            }
            session
        });
        drop(session); // not under the lock: it may be the last hold on it
    }

    /// Ends the endpoint and its sessions, without a goodbye.
    pub(super) fn stop(&self, error: &ConnectionError) {
        let (sessions, bound) = self.with(|e| {
            for incoming in std::mem::take(&mut e.incoming) {
                e.core.ignore(incoming);
            }
            e.wakers.wake_all();
            e.notify();
            (std::mem::take(&mut e.sessions), e.bound.take())
        });
        drop(bound);
        for session in sessions.into_values() {
            session.abort(error.clone());
        }
    }

    /// Sends a reply if there is room; clients ask again.
    pub(super) fn reply(&self, bound: &Bound<R>, reply: &Reply) {
        let Some(bytes) = reply.bytes.get(..reply.transmit.size) else {
            return;
        };
        let destination = onto_socket(reply.transmit.destination, bound.ipv6);
        let transmit = Transmit { destination, ..reply.transmit.clone() };
        if let Err(error) = bound.socket.try_send(&transmit, bytes) {
            tracing::debug!(%error, "reply not sent");
        }
    }

    /// Has the endpoint's task read the socket until it is empty; a later call with the number that this returns tells
    /// whether it has. `waker` is woken then. Called under the session's lock, which pays what is owed.
    pub(super) fn ask_read(&self, due: &mut Owed, ticket: &mut Option<u64>, waker: &Waker) -> u64 {
        self.state.within(due, |e| {
            e.reads_asked += 1;
            e.wakers.wait(Key::Read, ticket, waker);
            e.notify();
            e.reads_asked
        })
    }

    /// Returns whether the socket was empty at some time since [`Self::ask_read`] returned `asked`, and everything read
    /// by then delivered. If not, `waker` is woken when that may have changed.
    pub(super) fn has_read(&self, asked: u64, ticket: &mut Option<u64>, waker: &Waker) -> bool {
        self.with(|e| {
            let done = e.reads_done >= asked;
            if !done {
                e.wakers.wait(Key::Read, ticket, waker);
            }
            done
        })
    }

    /// Says that everything that had arrived when `asked` was looked at has been delivered.
    pub(super) fn finish_read(&self, asked: u64) {
        self.with(|e| {
            e.reads_done = asked;
            e.wakers.wake(Key::Read);
        });
    }

    /// Returns an empty buffer that holds a whole train.
    pub(super) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.with(|b| b.0.pop()).unwrap_or_else(|| Vec::with_capacity(SEND_MAX))
    }

    /// Takes back a buffer.
    pub(super) fn return_buffer(&self, buffer: Vec<u8>) {
        let spare = self.buffers.with(|b| {
            if b.0.len() < BUFFERS_KEPT {
                b.0.push(buffer);
                return None;
            }
            Some(buffer)
        });
        drop(spare);
    }

    /// Starts the task of a session that is in the table.
    pub(super) fn drive(self: &Arc<Self>, handle: SessionHandle, session: &SessionRef, bound: Bound<R>) {
        self.runtime.spawn(SessionDriver::new(session.shared(), self.clone(), handle, bound));
    }

    /// Sends a reply, on behalf of a handle.
    fn reply_from_handle(&self, reply: &Reply) {
        if let Some(bound) = self.with(|e| e.bound.clone()) {
            self.reply(&bound, reply);
        }
    }

    /// Returns the endpoint's socket, if it is another one than `old` by now.
    pub(super) fn rebound_since(&self, old: &Bound<R>) -> Option<Bound<R>> {
        if self.rebound.load(Ordering::Acquire) == old.number {
            return None; // the usual case takes no lock
        }
        self.with(|e| e.bound.clone())
    }

    /// Goes over to another socket; on failure nothing has changed.
    pub(super) fn rebind(&self, socket: R::Socket) -> io::Result<()> {
        let old = self.with(|e| {
            let Some(old) = &e.bound else {
                return Err(io::Error::from(io::ErrorKind::NotConnected));
            };
            let bound = Bound::new(socket, old.number + 1, &mut e.core)?;
            self.rebound.store(bound.number, Ordering::Release);
            e.notify();
            Ok(e.bound.replace(bound))
        })?;
        drop(old); // not under the lock: it may be the last hold on it
        self.tell_network_change();
        Ok(())
    }

    /// Tells all sessions that the machine may have another address.
    pub(super) fn tell_network_change(&self) {
        for session in self.with(|e| e.sessions.values().cloned().collect::<Vec<_>>()) {
            session.with(|s| {
                let now = s.now();
                s.core.handle_network_change(now);
                s.notify();
            });
        }
    }
}

/// A handle's hold on an endpoint: the task ends when all are gone and no session is left.
pub(super) struct EndpointRef<R: Runtime>(Arc<Shared<R>>);

impl<R: Runtime> EndpointRef<R> {
    pub(super) fn new(core: core::Endpoint, bound: Bound<R>, runtime: Arc<R>) -> Self {
        Self(Arc::new(Shared {
            runtime,
            rebound: AtomicUsize::new(bound.number),
            handles: AtomicUsize::new(1),
            dropped: AtomicU64::new(0),
            backlog: Backlog::new(0),
            state: Lock::new(State {
                core,
                sessions: BTreeMap::new(),
                incoming: VecDeque::new(),
                close: None,
                bound: Some(bound),
                driver: None,
                wakers: Wakers::default(),
                stats: EndpointStats::default(),
                reads_asked: 0,
                reads_done: 0,
            }),
            buffers: Lock::new(Buffers(Vec::new())),
        }))
    }
}

impl<R: Runtime> Deref for EndpointRef<R> {
    type Target = Arc<Shared<R>>;

    fn deref(&self) -> &Arc<Shared<R>> {
        &self.0
    }
}

impl<R: Runtime> Clone for EndpointRef<R> {
    fn clone(&self) -> Self {
        self.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<R: Runtime> Drop for EndpointRef<R> {
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.with(State::notify);
        }
    }
}

impl<R: Runtime> Host for EndpointRef<R> {
    fn accept(
        &self,
        incoming: core::Incoming,
        config: Option<Arc<ServerConfig>>,
    ) -> Result<SessionRef, ConnectionError> {
        let mut bytes = Vec::new();
        let accepted = self.with(|e| {
            let now = self.runtime.now();
            let accepted = match &config {
                Some(config) => e.core.accept_with(now, incoming, config, &mut bytes),
                None => e.core.accept(now, incoming, &mut bytes),
            };
            let (handle, core) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => return Err(Box::new((error, e.bound.clone()))),
            };
            e.stats.accepted_handshakes += 1;
            let session = SessionRef::accepted(core, self.runtime.clone(), self.backlog.strangers.clone());
            if let Some(bound) = e.bound.clone() {
                e.sessions.insert(handle, session.shared());
                return Ok((session, Some((handle, bound)), e.close.clone()));
            }
            Ok((session, None, None))
        });
        match accepted {
            Ok((session, Some((handle, bound)), close)) => {
                if let Some((code, reason)) = close {
                    session.with(|s| s.close_always(code, &reason));
                }
                self.drive(handle, &session, bound);
                Ok(session)
            }
            Ok((session, None, _)) => {
                session.abort(ConnectionError::LocallyClosed); // no socket, no task
                Ok(session)
            }
            Err(failed) => {
                let (error, bound) = *failed;
                if let (Some(transmit), Some(bound)) = (error.response, bound) {
                    self.reply(&bound, &Reply { transmit, bytes });
                }
                Err(error.cause)
            }
        }
    }

    fn refuse(&self, incoming: core::Incoming) {
        let reply = self.with(|e| e.refuse(incoming));
        self.reply_from_handle(&reply);
    }

    fn retry(&self, incoming: core::Incoming) -> Result<(), Box<core::Incoming>> {
        let mut bytes = Vec::new();
        let transmit = self.with(|e| e.core.retry(incoming, &mut bytes).map_err(Box::new))?;
        self.reply_from_handle(&Reply { transmit, bytes });
        Ok(())
    }

    fn ignore(&self, incoming: core::Incoming) {
        self.with(|e| {
            e.stats.ignored_handshakes += 1;
            e.core.ignore(incoming);
        });
    }
}

/// One future's place in the endpoint's table of wakers.
pub(super) struct Slot<'a, R: Runtime> {
    endpoint: &'a EndpointRef<R>,
    key: Key,
    ticket: Option<u64>,
}

impl<'a, R: Runtime> Slot<'a, R> {
    pub(super) const fn new(endpoint: &'a EndpointRef<R>, key: Key) -> Self {
        Self { endpoint, key, ticket: None }
    }

    /// Waits until `check` has an answer; it is asked again after every event of the key.
    pub(super) async fn wait<T>(&mut self, mut check: impl FnMut(&mut State<R>) -> Option<T>) -> T {
        poll_fn(|cx| self.poll(cx, &mut check)).await
    }

    /// Returns the answer of `check`, or waits for the key.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        check: impl FnOnce(&mut State<R>) -> Option<T>,
    ) -> Poll<T> {
        self.endpoint.with(|e| {
            let answer = check(e);
            if answer.is_none() {
                e.wakers.wait(self.key, &mut self.ticket, cx.waker());
            }
            answer.map_or(Poll::Pending, Poll::Ready)
        })
    }
}

impl<R: Runtime> Drop for Slot<'_, R> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.endpoint.with(|e| e.wakers.forget(self.key, ticket));
        }
    }
}
