//! One session as its task and its handles share it.
//!
//! Owns the session's state machine, the wakers of whoever waits for it and the inbox of its datagrams. Who calls it: the
//! session's task and the handles; the endpoint's task only fills the inbox.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::poll_fn,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    inbox::{HELLO_INBOX, Inbox, Pool},
    lock::{Lock, Owed, Owes, Wakers},
    runtime::Clock,
};
use crate::{
    action::{Event, Relay, RunId},
    distribute::Distributor,
    error::{ApiMisuse, ConnectionError, ErrorCode, PeerFault, RelayError},
    id::{Dir, JobId, LeaseId, PathId, Role, StreamId},
    session::{Answer, Question, Session},
};

/// Conditions that a future may wait for. All of them are woken when the session is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Available(Dir),
    Closed,
    Connected,
    DatagramReceived,
    DatagramsUnblocked,
    Distribution(StreamId),
    Draining,
    Finished(StreamId),
    Gap(StreamId),
    HandshakeData,
    Job(JobId),
    Jobs,
    Lease(LeaseId),
    LeaseStatus(LeaseId),
    Opened(Dir),
    Paths,
    Progress,
    Readable(StreamId),
    Relay,
    RelayRoom,
    Run(RunId),
    Synced(StreamId),
    Writable(StreamId),
}

/// The end of a stream that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendEnd {
    /// All of it is at the peer.
    Arrived,
    /// It was given up here.
    Reset,
    /// The peer wanted no more of it.
    Stopped(ErrorCode),
}

/// Streams, leases and runs that handles left behind and that the core still has news about.
#[derive(Default)]
pub(super) struct Unwatched {
    /// Primary: leases whose outcome nobody will ask for.
    pub(super) leases: BTreeSet<LeaseId>,
    /// Runs whose outcome nobody will ask for.
    pub(super) runs: BTreeSet<RunId>,
    /// Secondary: jobs whose further leases nobody will fill.
    pub(super) jobs: BTreeSet<JobId>,
}

/// The session's state machine and who waits for it.
pub(super) struct State {
    pub(super) core: Session,
    pub(super) wakers: Wakers<Key>,
    pub(super) unwatched: Unwatched,
    /// Primary: the objects that are distributed, each over one stream.
    pub(super) objects: BTreeMap<StreamId, Distributor>,
    /// The ends of streams that are sent, for as long as somebody may ask: the core forgets streams that are over.
    pub(super) sent: BTreeMap<StreamId, Option<SendEnd>>,
    /// Rises whenever a path changes.
    pub(super) paths_seen: u64,
    /// The handshake is done and the hello is accepted.
    pub(super) connected: bool,
    /// Reason why the session is over; set before its task ends.
    pub(super) error: Option<ConnectionError>,
    /// The session's task while it sleeps: whoever makes work for it wakes it, once.
    pub(super) driver: Option<Waker>,
    /// The task has to end at once.
    pub(super) aborted: bool,
    clock: Arc<dyn Clock>,
}

impl Owes for State {
    fn owed(&mut self) -> Option<&mut Owed> {
        Some(&mut self.wakers.owed)
    }
}

impl State {
    /// Returns the time for a command.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Returns the wall clock for facts, since the Unix epoch.
    pub(super) fn unix_now(&self) -> Duration {
        self.clock.unix_now()
    }

    /// Lets the session's task run: there may be something to send.
    pub(super) fn notify(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.wakers.owed.wake(driver);
        }
    }

    /// Lets the session's task run if reading made something to send, such as credit.
    pub(super) fn notify_after_read(&mut self) {
        if self.core.wants_transmit() {
            self.notify();
        }
    }

    /// Returns the error that ends every operation, if there is one.
    pub(super) fn check(&self) -> Result<(), ConnectionError> {
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Ends all waiting, with the first reason given.
    pub(super) fn terminate(&mut self, error: ConnectionError) {
        self.error.get_or_insert(error);
        self.wakers.wake_all();
    }

    /// Closes the session, unless it is over already.
    pub(super) fn close(&mut self, code: ErrorCode, reason: &[u8]) -> Result<(), ApiMisuse> {
        if self.error.is_none() {
            let now = self.now();
            self.core.close(now, code, reason)?;
            self.terminate(ConnectionError::LocallyClosed);
            self.notify();
        }
        Ok(())
    }

    /// Closes the session whatever the code; see [`own_code`].
    pub(super) fn close_always(&mut self, code: ErrorCode, reason: &[u8]) {
        if let Err(error) = self.close(own_code(code), reason) {
            tracing::error!(%error, "close failed");
        }
    }

    /// Ends a session that took a role its acceptor does not serve.
    pub(super) fn refuse_role(&mut self) -> ConnectionError {
        let error = ConnectionError::Fault(PeerFault::RoleNotServed);
        if self.error.is_none() {
            let now = self.now();
            self.core.refuse_role(now);
            self.terminate(error.clone());
            self.notify();
        }
        error
    }

    /// Wakes whoever waits for `event`.
    pub(super) fn on_event(&mut self, event: Event) {
        for (stream, object) in &mut self.objects {
            if object.handle_event(&event) {
                self.wakers.wake(Key::Distribution(*stream));
            }
        }
        let key = match event {
            Event::Available(dir) => Key::Available(dir),
            Event::Connected => {
                self.connected = true;
                Key::Connected
            }
            Event::DatagramReceived => Key::DatagramReceived,
            Event::DatagramsUnblocked => Key::DatagramsUnblocked,
            Event::Draining => Key::Draining,
            Event::Finished(stream) => return self.end_sent(stream, SendEnd::Arrived),
            Event::GapReported(stream) => Key::Gap(stream),
            Event::HandshakeDataReady => Key::HandshakeData,
            Event::JobAnswered(job) => Key::Job(job),
            Event::JobArrived => Key::Jobs,
            Event::LeaseArrived(job) => {
                self.drop_leases(job);
                Key::Job(job)
            }
            Event::LeaseChanged(lease) => Key::LeaseStatus(lease),
            Event::LeaseEnded(lease) => {
                if self.unwatched.leases.remove(&lease) {
                    drop(self.core.lease_outcome(lease));
                }
                self.wakers.wake(Key::LeaseStatus(lease));
                Key::Lease(lease)
            }
            Event::LeaseWritable(lease) => Key::Lease(lease),
            Event::Lost(error) => return self.terminate(error),
            Event::Opened(dir) => Key::Opened(dir),
            Event::PathChanged(_) => {
                self.paths_seen = self.paths_seen.wrapping_add(1);
                self.wakers.wake(Key::RelayRoom); // one that is attached takes messages
                Key::Paths
            }
            Event::Progress(_) => Key::Progress,
            Event::Readable(stream) => Key::Readable(stream),
            Event::RelayArrived => Key::Relay,
            Event::RelaysUnblocked => Key::RelayRoom,
            Event::RunWritable(run) => {
                if self.unwatched.runs.contains(&run) && self.core.run_outcome(run).is_some() {
                    self.unwatched.runs.remove(&run);
                }
                Key::Run(run)
            }
            Event::Stopped(stream, code) => {
                self.wakers.wake(Key::Writable(stream)); // a stopped stream fails its writer
                return self.end_sent(stream, SendEnd::Stopped(code));
            }
            Event::Synced(stream) => Key::Synced(stream),
            Event::Writable(stream) => Key::Writable(stream),
        };
        self.wakers.wake(key);
    }

    /// Notes how a stream ended, if anybody may ask; the first end counts.
    pub(super) fn end_sent(&mut self, stream: StreamId, end: SendEnd) {
        if let Some(known) = self.sent.get_mut(&stream) {
            known.get_or_insert(end);
        }
        self.wakers.wake(Key::Finished(stream));
    }

    /// Returns how a stream ended, as far as somebody may ask and it has.
    pub(super) fn sent_end(&self, stream: StreamId) -> Option<SendEnd> {
        self.sent.get(&stream).copied().flatten()
    }

    /// Gives back what arrives for a job whose handle is gone.
    pub(super) fn drop_leases(&mut self, job: JobId) {
        if !self.unwatched.jobs.contains(&job) {
            return;
        }
        let now = self.now();
        loop {
            match self.core.next_lease(job) {
                Ok(Some(lease)) => self.core.drop_lease(now, lease.id),
                Ok(None) => return,
                Err(_ended) => {
                    self.unwatched.jobs.remove(&job);
                    return;
                }
            }
        }
    }
}

/// A session, without a say in how long it lives: what tasks and tables hold.
pub(super) struct Shared {
    state: Lock<State>,
    pub(super) clock: Arc<dyn Clock>,
    /// Datagrams and answers that the endpoint's task has for it.
    pub(super) inbox: Inbox,
    handles: AtomicUsize,
}

impl Shared {
    /// Runs `f` on the session, then wakes whom it noted.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.state.with(f)
    }

    /// Has the application's code answer what its session asks. No lock is held meanwhile: that code may want the session.
    pub(super) fn answer(&self, question: Question) {
        let mut pending = Unanswered { shared: self, refusal: Some(question.refusal()) };
        let answer = question.with_sources(|to| self.clock.source_for(to)).answer(self.clock.unix_now());
        pending.refusal = None;
        self.give(answer);
    }

    fn give(&self, answer: Answer) {
        self.with(|s| {
            let now = s.now();
            s.core.handle_answer(now, answer);
            s.notify();
        });
    }

    /// Ends the session without a goodbye; its task ends as soon as it runs.
    pub(super) fn abort(&self, error: ConnectionError) {
        self.with(|s| {
            s.aborted = true;
            s.terminate(error);
            s.notify();
        });
    }

    /// Says that the session's task has ended.
    pub(super) fn retire(&self, error: ConnectionError) {
        self.with(|s| {
            s.terminate(error);
            if let Some(driver) = s.driver.take() {
                s.wakers.owed.discard(driver);
            }
        });
        self.inbox.close();
    }
}

/// A question that the application's code has in its hands. If it panics there is no answer, and the session is told so.
struct Unanswered<'a> {
    shared: &'a Shared,
    refusal: Option<Answer>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(refusal) = self.refusal.take() {
            self.shared.give(refusal);
        }
    }
}

/// A handle's hold on a session: when the last one goes, the session is closed with code 0.
pub(super) struct SessionRef(Arc<Shared>);

impl SessionRef {
    /// Wraps a session that was dialled, for its first handle.
    pub(super) fn dialled(core: Session, clock: Arc<dyn Clock>) -> Self {
        let inbox = Inbox::new(core.receive_max(), None);
        Self::new(core, clock, inbox)
    }

    /// Wraps a session that a stranger asked for; what waits for it counts in `strangers` until the hello.
    pub(super) fn accepted(core: Session, clock: Arc<dyn Clock>, strangers: Arc<Pool>) -> Self {
        Self::new(core, clock, Inbox::new(HELLO_INBOX, Some(strangers)))
    }

    fn new(core: Session, clock: Arc<dyn Clock>, inbox: Inbox) -> Self {
        Self(Arc::new(Shared {
            clock: clock.clone(),
            state: Lock::new(State {
                core,
                wakers: Wakers::default(),
                unwatched: Unwatched::default(),
                objects: BTreeMap::new(),
                sent: BTreeMap::new(),
                paths_seen: 0,
                connected: false,
                error: None,
                driver: None,
                aborted: false,
                clock,
            }),
            inbox,
            handles: AtomicUsize::new(1),
        }))
    }

    /// Returns the session without a say in how long it lives.
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }

    /// Identifies the session among those alive in this process.
    pub(super) fn stable_id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Waits until `check` has an answer; it is asked again after every event of `key` and at the session's end.
    pub(super) async fn wait<T>(&self, key: Key, mut check: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut slot = Slot::new(self.shared(), key);
        poll_fn(|cx| slot.poll(cx, &mut check)).await
    }
}

impl Deref for SessionRef {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Clone for SessionRef {
    fn clone(&self) -> Self {
        self.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for SessionRef {
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.with(|s| s.close_always(ErrorCode::from_u32(0), b""));
        }
    }
}

impl fmt::Debug for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.stable_id()).finish()
    }
}

/// One future's place in the table of wakers; dropping it gives the place up.
pub(super) struct Slot {
    shared: Arc<Shared>,
    key: Key,
    ticket: Option<u64>,
}

impl Slot {
    pub(super) const fn new(shared: Arc<Shared>, key: Key) -> Self {
        Self { shared, key, ticket: None }
    }

    /// Returns the answer of `check`, or waits for the key.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        check: impl FnOnce(&mut State) -> Option<T>,
    ) -> Poll<T> {
        let Self { shared, key, ticket } = self;
        shared.with(|s| match check(s) {
            Some(answer) => {
                if let Some(ticket) = ticket.take() {
                    s.wakers.forget(*key, ticket);
                }
                Poll::Ready(answer)
            }
            None => {
                s.wakers.wait(*key, ticket, cx.waker());
                Poll::Pending
            }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.with(|s| s.wakers.forget(self.key, ticket));
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

/// Returns `code`, or 0 in place of a reserved one, which only a mistaken program passes. Spec: PROTOCOL §10.
///
/// For calls that must not fail for such a reason, or cannot say so: quinn's have no error for it, and a stream whose
/// reset had failed unnoticed would be finished when its handle is dropped, as if nothing were missing.
pub(super) fn own_code(code: ErrorCode) -> ErrorCode {
    match code.check_own() {
        Ok(()) => code,
        Err(error) => {
            tracing::error!(%error, %code, "code 0 is sent instead");
            ErrorCode::from_u32(0)
        }
    }
}

/// Sends a message to another server as soon as one more may be under way.
pub(super) async fn relay(session: &SessionRef, path: PathId, payload: Bytes) -> Result<(), RelayError> {
    let unsigned = session
        .wait(Key::RelayRoom, |s| {
            if s.error.is_some() {
                return Some(Err(RelayError::SessionClosed));
            }
            let now = s.now();
            match s.core.relay(now, path, payload.clone()) {
                Err(RelayError::Blocked) => None,
                sent => {
                    s.notify();
                    Some(sent.map(|()| s.core.poll_question()))
                }
            }
        })
        .await?;
    if let Some(question) = unsigned {
        session.answer(question);
    }
    Ok(())
}

/// Waits for a message of another server.
pub(super) async fn read_relay(session: &SessionRef) -> Result<Relay, ConnectionError> {
    session
        .wait(Key::Relay, |s| match (s.core.take_relay(), &s.error) {
            (Some(relay), _) => Some(Ok(relay)),
            (None, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        })
        .await
}

/// Returns whether the peer wants to be a secondary's client.
pub(super) fn is_secondary(s: &State) -> bool {
    s.core.role() == Some(Role::Secondary)
}
