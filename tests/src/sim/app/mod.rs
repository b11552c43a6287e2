//! Applications of a world: they read, write, hand out ranges, fill them, each in a manner drawn for it.
//!
//! They are strict about events: what blocked is tried again only when the core says so, or when a timer of their own
//! is due. An event that the core owes and does not send stalls a world, and the world says so.

#![expect(clippy::wildcard_enum_match_arm, reason = "an application looks at the events it has a use for")]

mod client;
mod primary;
mod secondary;
mod streams;
mod talk;

use std::time::{Duration, Instant};

use kwik_core::{ConnectionError, ErrorCode, Event, Session, SessionHandle};

pub use self::{
    client::{ClientApp, ClientPlan, OpenPlan},
    primary::{CRAWL_MAX, Distributed, Ending, Naive, Offer, PrimaryApp, PrimaryPlan},
    secondary::{SecondaryApp, SecondaryPlan},
    streams::{Reader, Reading, Writer, WriterEnd},
    talk::Talk,
};
use super::{NodeId, book::Book, dice::Dice, heap, oracle::Oracle, trace::Trace};

/// Context of an application, or a machine, for one turn.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The machine's own clock.
    pub now: Instant,
    /// The machine's wall clock, since the Unix epoch.
    pub unix: Duration,
    /// The world's time.
    pub at: Duration,
    /// Machine whose turn it is.
    pub node: NodeId,
    /// Client whose session a server works on, and which of its sessions it is.
    pub client: Option<(NodeId, u32)>,
    /// The choices of this machine's application.
    pub dice: &'a mut Dice,
    /// Model of what must be true.
    pub oracle: &'a mut Oracle,
    /// Record of what happened.
    pub trace: &'a mut Trace,
    /// Addresses of all machines.
    pub book: &'a Book,
    /// Calls that the machine's application has made so far, and what interrupts it.
    pub calls: &'a mut Calls,
}

/// Interruption of an application's work in the middle of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what an application can do")]
pub enum Interruption {
    /// It closes its sessions.
    Close,
    /// It is gone without a word, and its sessions with it.
    Drop,
    /// It gives up what it is doing: stops what it reads, resets what it writes, refuses its jobs.
    GiveUp,
}

/// Counts what an application does and is told, so that it can be interrupted at every single point.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    count: u64,
    interrupt: Option<(u64, Interruption)>,
    dropped: bool,
}

impl Calls {
    /// Interrupts the application once it has made `index` calls.
    #[must_use]
    pub fn interrupted_at(index: u64, by: Interruption) -> Self {
        Self { interrupt: Some((index, by)), ..Self::default() }
    }

    /// Returns how many calls were made.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes the interruption, if it is due: it happens once.
    pub(super) fn take(&mut self) -> Option<Interruption> {
        let by = self.interrupt.take_if(|(index, _)| *index <= self.count).map(|(_, by)| by);
        self.dropped |= by == Some(Interruption::Drop);
        by
    }

    /// Returns `true` once after the application was dropped.
    pub(super) fn take_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }
}

impl Cx<'_> {
    /// Returns whether the application is to call nothing more before it is interrupted.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.calls.interrupt.is_some_and(|(index, _)| index <= self.calls.count)
    }

    /// Notes a decision of this machine.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.calls.count += 1;
        let (at, node) = (self.at, self.node);
        heap::uncounted(|| self.trace.note(at, node, what));
    }
}

/// Application of a machine.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "the three roles there are")]
pub enum App {
    /// Opens and reads streams.
    Client(ClientApp),
    /// Hands out ranges.
    Primary(PrimaryApp),
    /// Fills them.
    Secondary(SecondaryApp),
}

impl App {
    pub(super) fn event(
        &mut self,
        cx: &mut Cx<'_>,
        handle: SessionHandle,
        session: &mut Session,
        event: &Event,
    ) {
        cx.note(format_args!("event {event:?}"));
        if let Event::Lost(cause) = event {
            note_loss(cx, session, cause);
        }
        match self {
            Self::Client(app) => app.event(cx, event),
            Self::Primary(app) => app.event(cx, handle, session, event),
            Self::Secondary(app) => app.event(cx, handle, event),
        }
    }

    /// Does what can be done now.
    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        match self {
            Self::Client(app) => app.turn(cx, session),
            Self::Primary(app) => app.turn(cx, handle, session),
            Self::Secondary(app) => app.turn(cx, handle, session),
        }
    }

    /// Gives up everything that is going on in a session.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        match self {
            Self::Client(app) => app.give_up(cx, session),
            Self::Primary(app) => app.give_up(cx, handle, session),
            Self::Secondary(app) => app.give_up(cx, handle, session),
        }
    }

    /// Time at which the application wants a turn without an event.
    pub(super) fn wake_at(&self, handle: SessionHandle) -> Option<Duration> {
        match self {
            Self::Client(app) => app.wake_at(),
            Self::Primary(app) => app.wake_at(handle),
            Self::Secondary(app) => app.wake_at(handle),
        }
    }

    pub(super) fn forget(&mut self, handle: SessionHandle) {
        match self {
            Self::Client(app) => app.forget(),
            Self::Primary(app) => app.forget(handle),
            Self::Secondary(app) => app.forget(handle),
        }
    }

    /// Returns whether what a session has received is still being read.
    pub(super) fn reads(&self) -> bool {
        match self {
            Self::Client(app) => app.reads(),
            Self::Primary(_) | Self::Secondary(_) => false,
        }
    }

    /// Returns whether the application has nothing left to do that anybody waits for.
    pub(super) fn is_done(&self, oracle: &Oracle) -> bool {
        match self {
            Self::Client(app) => app.is_done(oracle),
            Self::Primary(app) => app.is_done(oracle),
            Self::Secondary(_) => true,
        }
    }

    /// Number of messages to other servers that have not come back yet.
    pub(super) fn unanswered(&self) -> usize {
        match self {
            Self::Primary(app) => app.unanswered(),
            Self::Client(_) | Self::Secondary(_) => 0,
        }
    }
}

/// Checks why a session ended.
fn note_loss(cx: &mut Cx<'_>, session: &Session, cause: &ConnectionError) {
    let server = cx.book.find(session.remote_address());
    let peer = cx.client.map_or_else(|| server.unwrap_or(cx.node), |(client, _)| client);
    let ends = [cx.node, peer];
    let what = format!("the session between {} and {peer}", cx.node);
    match cause {
        ConnectionError::ApplicationClosed(close) if close.error_code.is_reserved() => {
            cx.oracle.check_honest_session(&ends, close.error_code, &what);
            cx.trace.mark(format!("closed by peer: {}", close.error_code));
        }
        ConnectionError::Fault(fault) => {
            let code = fault.code();
            cx.oracle.check_honest_session(&ends, code, &what);
            cx.trace.mark(format!("closed: {code}"));
        }
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => {
            let text = match cause {
                ConnectionError::ConnectionClosed(close) => close.to_string(),
                other => other.to_string(),
            };
            // What QUIC says for any application's close before the handshake is done (RFC 9000 §10.2.3).
            // From one that was closed already, it is said that nothing is wrong.
            let unfinished = session.session_id().is_none();
            let texts =
                ["the application or application protocol caused", "the connection is being closed abruptly"];
            let closed_early = unfinished && texts.iter().any(|start| text.starts_with(start));
            let honest = !closed_early
                && ends.iter().all(|end| cx.oracle.is_honest(*end))
                && !cx.book.has_changed(peer);
            assert!(!honest, "10: {what} ended with {text}");
            cx.trace.count("closed: transport error");
        }
        ConnectionError::TimedOut => cx.trace.count("closed: timed out"),
        ConnectionError::Reset => cx.trace.count("closed: reset"),
        ConnectionError::LocallyClosed => cx.trace.count("closed: locally"),
        ConnectionError::ApplicationClosed(_) => cx.trace.count("closed by peer's application"),
        _ => cx.trace.count("closed: other"),
    }
}

/// The code that applications of a world give up streams with.
pub const GIVEN_UP: ErrorCode = ErrorCode::from_u32(77);
/// The code that applications of a world close sessions with.
pub const GOODBYE: ErrorCode = ErrorCode::from_u32(7);

/// Returns the earlier of two times.
fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
