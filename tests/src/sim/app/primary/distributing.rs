//! One object under way as `distribute` hands it out: the scheduler decides, and this application only does what it is told.

use std::time::Duration;

use kwik_core::{
    ByteRange, ErrorCode, Event, LeaseWriteError, Session,
    distribute::{DistributeEvent, DistributeFailure, DistributeOptions, Distributor, Step},
    schedule::{Digests, InOrder},
};

use super::Offer;
use crate::sim::{
    app::{Cx, GIVEN_UP},
    oracle::Flow,
};

/// Manner in which an object is distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distributed {
    /// The window of a reader in order; `None` hands out as if the reader had room for all.
    pub window: Option<u64>,
    /// The secondaries' ranges are verified.
    pub digests: bool,
    /// The primary writes nothing itself.
    pub idle_primary: bool,
}

/// Bytes that are handed over at once.
const CHUNK: u64 = 64 * 1024;

/// One object under way.
#[derive(Debug)]
pub(super) struct Distributing {
    flow: Flow,
    object: Distributor,
    /// World's time at which it wants to be asked again.
    wake_at: Option<Duration>,
    pub(super) over: bool,
}

impl Distributing {
    pub(super) fn new(
        cx: &mut Cx<'_>,
        session: &Session,
        flow: Flow,
        offer: &Offer,
        manner: Distributed,
    ) -> Self {
        let mut options = DistributeOptions::new(flow.object().payload());
        if let Some(window) = manner.window {
            options = options.policy(InOrder).window(window);
        }
        if manner.digests {
            options = options.digests(Digests::Always);
        }
        if manner.idle_primary {
            options = options.only(session.paths().iter().map(|path| path.id));
        }
        let object = Distributor::new(cx.now, session, flow.stream, offer.size, options);
        cx.trace.count("object distributed");
        Self { flow, object, wake_at: Some(cx.at), over: false }
    }

    pub(super) fn event(&mut self, cx: &Cx<'_>, event: &Event) {
        if self.object.handle_event(event) {
            self.wake_at = Some(cx.at);
        }
    }

    /// World's time at which it has to look again by itself.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.wake_at.filter(|_| !self.over)
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        if self.over || self.wake_at.is_none_or(|at| at > cx.at) {
            return;
        }
        while !self.over && !cx.is_interrupted() {
            let step = self.object.poll(cx.now, session);
            while let Some(event) = self.object.poll_event() {
                self.note(cx, &event);
            }
            match step {
                Some(step) => self.take(cx, session, step),
                None => break,
            }
        }
        self.write(cx, session);
        let due = self.object.poll_timeout(cx.now);
        self.wake_at = due.map(|due| cx.at + due.saturating_duration_since(cx.now));
    }

    fn take(&mut self, cx: &mut Cx<'_>, session: &mut Session, step: Step) {
        match step {
            Step::Digest { piece, range } => {
                let digest = blake3::hash(&self.flow.bytes(range)).into();
                let leased = self.object.handle_digest(cx.now, session, piece, digest);
                assert!(leased.is_ok(), "10: {range} of {} cannot be leased: {leased:?}", self.flow);
            }
            Step::Finish => {
                cx.oracle.finished(self.flow);
                let finished = session.finish(cx.now, self.flow.stream);
                cx.note(format_args!("finishes {}: {finished:?}", self.flow));
            }
            Step::Done => {
                cx.note(format_args!("{} is delivered: {:?}", self.flow, self.object.report()));
                self.over = true;
            }
            Step::Failed(DistributeFailure::Stopped(code)) => {
                cx.note(format_args!("{} is stopped with {code}", self.flow));
                if code == ErrorCode::NO_CREDIT {
                    cx.oracle.turned_away(self.flow);
                }
                // Only an end of our own frees the slot.
                let _finished = session.finish(cx.now, self.flow.stream);
                self.over = true;
            }
            Step::Failed(DistributeFailure::ConnectionLost(_)) => self.over = true,
            Step::Failed(failure) => {
                cx.note(format_args!("gives {} up: {failure}", self.flow));
                cx.trace.count("distribution failed");
                self.reset(cx, session);
            }
            step => panic!("a step unknown here: {step:?}"),
        }
    }

    pub(super) fn reset(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        self.over = true;
        cx.oracle.reset(self.flow, GIVEN_UP);
        let reset = session.reset(cx.now, self.flow.stream, GIVEN_UP);
        assert!(reset.is_ok() || session.lost().is_some(), "4: {} cannot be reset", self.flow);
    }

    /// Asks nothing more of what it began.
    pub(super) fn let_go(&mut self, cx: &Cx<'_>, session: &mut Session) {
        self.object.let_go(cx.now, session);
    }

    fn note(&self, cx: &mut Cx<'_>, event: &DistributeEvent) {
        cx.note(format_args!("{event:?} of {}", self.flow));
        match event {
            DistributeEvent::Given { range, .. } => cx.oracle.given(self.flow, range.end()),
            DistributeEvent::Lost { code, .. } => cx.trace.mark(format!("piece lost: {code}")),
            _ => {}
        }
    }

    fn write(&mut self, cx: &Cx<'_>, session: &mut Session) {
        while !self.over && !cx.is_interrupted() {
            let Some(next) = self.object.unwritten().next().filter(|next| !next.blocked) else {
                return;
            };
            let (start, len) = (next.range.start(), next.range.len().min(CHUNK));
            let part = ByteRange::new(start, len).expect("never empty");
            match session.write_run(cx.now, next.run, &mut [self.flow.bytes(part)]) {
                Ok(written) => self.object.handle_written(next.piece, written.bytes as u64),
                Err(LeaseWriteError::Blocked | LeaseWriteError::Behind(_)) => {
                    self.object.handle_blocked(next.piece)
                }
                Err(LeaseWriteError::Ended(_)) => self.object.handle_unwritable(next.piece),
                Err(error) => panic!("10: a run of {} cannot be written: {error}", self.flow),
            }
        }
    }
}
