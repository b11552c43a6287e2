//! The task of one session: facts in, datagrams out, news to whoever waits.
//!
//! It runs until the session is drained. Each round takes what has arrived, lets the session handle it, and asks for one
//! train of datagrams, all under one lock; the train is sent without the lock. Rounds end when nothing is left to do,
//! when the socket is full, or when the budget is spent.

use std::{
    collections::VecDeque,
    future::Future,
    io, mem,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    FACTS_PER_TURN, SEND_MAX, SENDS_PER_POLL, TRAIN, TURNS_PER_POLL,
    hub::{self, Bound},
    lock::Owed,
    runtime::{Runtime, Socket, Timer as _, Writable as _},
    session::{Shared, State},
};
use crate::{
    action::Transmit,
    endpoint::{SessionEvent, SessionHandle},
    error::TransportError,
    session::Question,
};

/// Time that a due deadline waits while the socket is full: what is due is most likely the sending itself.
const BLOCKED_RECHECK: Duration = Duration::from_millis(5);

/// Drives one session.
pub(super) struct SessionDriver<R: Runtime> {
    shared: Arc<Shared>,
    endpoint: Arc<hub::Shared<R>>,
    handle: SessionHandle,
    bound: Bound<R>,
    writable: Option<Pin<Box<<R::Socket as Socket>::Writable>>>,
    timer: Option<Pin<Box<R::Timer>>>,
    /// Instant that the timer is set to.
    armed: Option<Instant>,
    /// Instant that the session wants; an earlier one comes with a wake-up.
    deadline: Option<Instant>,
    facts: VecDeque<SessionEvent>,
    /// There was more in the inbox when it was last looked at.
    more: bool,
    fence: Fence,
    /// The session is there, and has the room that it has then.
    welcomed: bool,
    buf: Vec<u8>,
    train: Option<Train>,
}

/// Guard that keeps deadlines that may find a peer silent from running ahead of what that peer has sent: the operating system
/// wakes timers and sockets in any order, and tasks run in any order, too.
#[derive(Default)]
struct Fence {
    /// The reading of the socket that was asked for.
    asked: Option<u64>,
    ticket: Option<u64>,
    /// Number of datagrams to be handled until all that had been read then is.
    target: Option<u64>,
    /// Datagrams handled so far.
    handled: u64,
}

impl Fence {
    /// Looks whether the socket was read; called before anything more is taken out of the inbox.
    fn look<R: Runtime>(&mut self, endpoint: &hub::Shared<R>, shared: &Shared, cx: &Context<'_>) {
        let Some(asked) = self.asked else {
            return;
        };
        if endpoint.has_read(asked, &mut self.ticket, cx.waker()) {
            self.asked = None;
            self.target = Some(shared.inbox.delivered());
        }
    }

    /// Returns whether everything is handled that had arrived when this was first called; if not, sees to it.
    fn is_passed<R: Runtime>(&mut self, endpoint: &hub::Shared<R>, due: &mut Owed, cx: &Context<'_>) -> bool {
        if self.target.is_none() && self.asked.is_none() {
            self.asked = Some(endpoint.ask_read(due, &mut self.ticket, cx.waker()));
        }
        self.target.is_some_and(|target| self.handled >= target)
    }

    /// Forgets a fence that is passed: it is worth something at that moment only.
    fn lower(&mut self) {
        self.target = self.target.filter(|&target| self.handled < target);
    }
}

/// Datagrams in the buffer, sent up to `at`.
struct Train {
    transmit: Transmit,
    at: usize,
}

/// Results of a round.
enum Turn {
    /// The application's code is to answer something first.
    Ask(Question),
    /// There is a train to send.
    Send,
    /// There is more to handle.
    Again,
    /// Nothing to do before the deadline.
    Rest(Instant),
    /// Nothing to do before the socket has been read.
    Wait,
    /// The session is over.
    Ended,
}

/// Results of sending.
enum Flow {
    Sent,
    Blocked,
    OutOfBudget,
}

impl<R: Runtime> SessionDriver<R> {
    pub(super) fn new(
        shared: Arc<Shared>,
        endpoint: Arc<hub::Shared<R>>,
        handle: SessionHandle,
        bound: Bound<R>,
    ) -> Self {
        Self {
            shared,
            endpoint,
            handle,
            bound,
            writable: None,
            timer: None,
            armed: None,
            deadline: None,
            facts: VecDeque::new(),
            more: false,
            fence: Fence::default(),
            welcomed: false,
            buf: Vec::new(),
            train: None,
        }
    }

    fn run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.follow(); // whether there is anything to send or not: the old socket is to be let go of
        let mut sends = SENDS_PER_POLL;
        for _ in 0..TURNS_PER_POLL {
            match self.turn(cx) {
                Turn::Ended => return Poll::Ready(()),
                Turn::Again => {}
                Turn::Ask(question) => self.shared.answer(question),
                Turn::Wait => return Poll::Pending,
                Turn::Rest(now) => {
                    if self.arm(cx, now, false).is_pending() {
                        return Poll::Pending;
                    }
                }
                Turn::Send => match self.send(cx, &mut sends) {
                    Flow::Sent => {}
                    Flow::Blocked => return self.pause(cx),
                    Flow::OutOfBudget => break,
                },
            }
        }
        // Nothing is armed: the task runs again in any case, after others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Goes over to the endpoint's socket, if that is another one by now.
    fn follow(&mut self) {
        if let Some(bound) = self.endpoint.rebound_since(&self.bound) {
            self.bound = bound;
            self.writable = None; // that was the old one's
        }
    }

    /// One round under the session's lock.
    fn turn(&mut self, cx: &Context<'_>) -> Turn {
        let fresh = self.facts.is_empty();
        if fresh {
            self.fence.look(&self.endpoint, &self.shared, cx);
            self.more = self.shared.inbox.take(&mut self.facts, cx.waker());
        }
        let shared = self.shared.clone();
        let mut room = None;
        let turn = shared.with(|s| {
            if s.aborted {
                return Turn::Ended;
            }
            // Awake: whatever a command makes from here on is seen by a later round, without a wake-up.
            if let Some(driver) = s.driver.take() {
                s.wakers.owed.discard(driver);
            }
            let (now, unix) = (s.now(), s.unix_now());
            let count = self.facts.len().min(FACTS_PER_TURN);
            for event in self.facts.drain(..count) {
                s.core.handle_event(now, unix, event);
            }
            self.fence.handled += count as u64;
            if self.deadline.is_some_and(|at| at <= now)
                && (!s.core.is_verdict_due(now)
                    || self.fence.is_passed(&self.endpoint, &mut s.wakers.owed, cx))
            {
                s.core.handle_timeout(now);
                self.deadline = None;
            }
            self.fence.lower();
            self.endpoint.answer(now, self.handle, s);
            if let Some(question) = s.core.poll_question() {
                return Turn::Ask(question);
            }
            self.load(now, s);
            drain_news(s);
            if s.connected && !self.welcomed {
                self.welcomed = true;
                room = Some(s.core.receive_max());
            }
            if self.train.is_some() {
                return Turn::Send;
            }
            self.endpoint.answer(now, self.handle, s);
            if s.core.is_drained() {
                return Turn::Ended;
            }
            self.deadline = s.core.poll_timeout(); // asked while there is more, too: that may go on without end
            if !fresh || self.more || !self.facts.is_empty() {
                return Turn::Again; // the inbox has not been looked at since
            }
            s.driver = Some(cx.waker().clone());
            if self.fence.asked.is_some() {
                return Turn::Wait;
            }
            Turn::Rest(now)
        });
        if let Some(max) = room {
            self.endpoint.welcome(&self.shared.inbox, max);
        }
        turn
    }

    /// Asks the session for a train, unless one is still waiting to be sent.
    fn load(&mut self, now: Instant, s: &mut State) {
        if self.train.is_none() {
            self.buf.clear();
            let transmit = s.core.poll_transmit(now, TRAIN, &mut self.buf);
            self.train = transmit.map(|transmit| Train { transmit, at: 0 });
        }
    }

    /// Sends the train, in as many calls as the socket's limits ask for.
    fn send(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Flow {
        self.follow(); // for each train: what says that this machine has moved must not leave from where it was
        let socket = &self.bound.socket;
        while let Some(train) = &mut self.train {
            let Some(left) = self.buf.get(train.at..train.transmit.size).filter(|left| !left.is_empty())
            else {
                self.train = None;
                break;
            };
            if *budget == 0 {
                return Flow::OutOfBudget;
            }
            *budget -= 1;
            let to = onto_socket(train.transmit.destination, self.bound.ipv6);
            let segments = socket.max_gso_segments(to).max(1);
            let (part, bytes) = cut(&train.transmit, left, segments, to);
            match socket.try_send(&part, bytes) {
                Ok(()) => train.at += bytes.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = self.writable.get_or_insert_with(|| Box::pin(socket.writable()));
                    match writable.as_mut().poll_writable(cx) {
                        Poll::Pending => return Flow::Blocked,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            tracing::debug!(%error, "socket lost");
                            self.train = None;
                        }
                    }
                }
                Err(error) if part.segment_size.is_some() && socket.max_gso_segments(to) < segments => {
                    tracing::debug!(%error, destination = %part.destination, "sent again in pieces");
                }
                Err(error) => {
                    tracing::debug!(%error, destination = %part.destination, "send failed");
                    train.at += bytes.len(); // lost on the way, as far as QUIC is concerned
                }
            }
        }
        Flow::Sent
    }

    /// Sleeps until the socket has room again. What commands did since the last round is seen here or by the next one.
    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.shared.clone();
        let now = shared.with(|s| {
            if s.aborted {
                return None;
            }
            let now = s.now();
            self.endpoint.answer(now, self.handle, s);
            drain_news(s);
            self.deadline = s.core.poll_timeout();
            s.driver = Some(cx.waker().clone());
            Some(now)
        });
        let Some(now) = now else {
            return Poll::Ready(());
        };
        if !self.facts.is_empty() || self.arm(cx, now, true).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Sets the timer to the deadline and waits for it. Ready: the deadline has come.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant, blocked: bool) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            self.armed = None;
            return Poll::Pending;
        };
        let at = match (deadline <= now, blocked) {
            (false, _) => deadline,
            (true, false) => return Poll::Ready(()),
            (true, true) => now + BLOCKED_RECHECK,
        };
        let timer = match &mut self.timer {
            Some(timer) => {
                if self.armed != Some(at) {
                    timer.as_mut().reset(at);
                }
                timer
            }
            None => self.timer.insert(Box::pin(self.endpoint.runtime.timer(at))),
        };
        self.armed = Some(at);
        let fired = timer.as_mut().poll(cx);
        if fired.is_ready() {
            self.armed = None;
        }
        fired
    }
}

/// Wakes whoever waits for what has happened.
fn drain_news(s: &mut State) {
    while let Some(event) = s.core.poll_event() {
        s.on_event(event);
    }
}

/// Returns the start of what is left of a train that fits one send call, and its bytes.
fn cut<'a>(
    train: &Transmit,
    left: &'a [u8],
    segments: usize,
    destination: SocketAddr,
) -> (Transmit, &'a [u8]) {
    let segment = train.segment_size.unwrap_or(left.len()).max(1);
    let room = (SEND_MAX / segment).clamp(1, segments).saturating_mul(segment);
    let bytes = left.get(..room).unwrap_or(left);
    let part = Transmit {
        destination,
        ecn: train.ecn,
        size: bytes.len(),
        segment_size: (bytes.len() > segment).then_some(segment),
        src_ip: train.src_ip,
    };
    (part, bytes)
}

/// Returns `addr` as an IPv6 socket names it.
pub(super) fn onto_socket(addr: SocketAddr, ipv6: bool) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ipv6 => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), addr.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => addr,
    }
}

/// Returns `addr`, as a socket reports it, in the form the core knows.
pub(super) fn off_socket(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), addr.port()),
        IpAddr::V6(_) => addr, // as it is: it may have a scope
    }
}

impl<R: Runtime> Future for SessionDriver<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.train.is_none() {
            this.buf = this.endpoint.take_buffer();
        }
        let done = this.run(cx);
        if this.train.is_none() {
            this.endpoint.return_buffer(mem::take(&mut this.buf));
        }
        done
    }
}

impl<R: Runtime> Drop for SessionDriver<R> {
    fn drop(&mut self) {
        self.shared.retire(TransportError::internal("session task ended early".to_owned()).into());
        self.endpoint.forget(self.handle);
        if let Some(ticket) = self.fence.ticket {
            self.endpoint.with(|e| e.wakers.forget(hub::Key::Read, ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(size: usize, segment_size: Option<usize>) -> Transmit {
        let destination = "192.0.2.1:443".parse().unwrap();
        Transmit { destination, ecn: None, size, segment_size, src_ip: None }
    }

    #[test]
    fn trains_are_cut_to_what_one_call_carries() {
        let sizes = |size: usize, segment: Option<usize>, segments: usize| {
            let bytes = vec![0; size];
            let transmit = train(size, segment);
            let mut left = bytes.as_slice();
            let mut parts = Vec::new();
            while !left.is_empty() {
                let (part, cut) = cut(&transmit, left, segments, transmit.destination);
                parts.push((part.size, part.segment_size));
                left = &left[cut.len()..];
            }
            parts
        };
        assert_eq!(sizes(1200, None, 64), [(1200, None)]);
        assert_eq!(sizes(3000, Some(1452), 64), [(3000, Some(1452))]);
        assert_eq!(sizes(3000, Some(1452), 1), [(1452, None), (1452, None), (96, None)]);
        assert_eq!(sizes(10 * 9000, Some(9000), 64), [(63_000, Some(9000)), (27_000, Some(9000))]);
    }

    #[test]
    fn an_ipv6_socket_reaches_ipv4() {
        let addr = "192.0.2.1:443".parse().unwrap();
        assert_eq!(onto_socket(addr, true), "[::ffff:192.0.2.1]:443".parse().unwrap());
        assert_eq!(onto_socket(addr, false), addr);
        assert_eq!(off_socket(onto_socket(addr, true)), addr);
    }
}
