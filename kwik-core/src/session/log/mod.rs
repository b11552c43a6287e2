//! Log of what a session decided and was told, for tools: all its paths in one place (feature `qlog`).
//!
//! One JSON text sequence (RFC 7464) per session and end, in the form of quinn's qlog traces: a header, then an event
//! per control frame and per decision that no frame shows, named `kwik:…`. Written where the session takes frames and
//! carries out actions, so that no machine knows of it, and nothing depends on it. Spec: RATIONALE §12.

mod frame;
mod record;

use std::{
    collections::BTreeMap,
    fmt, io,
    time::{Duration, Instant},
};

use self::record::Record;
use super::{HOME, Session, action::Action};
use crate::{
    error::{ConnectionError, PeerFault},
    id::{ByteRange, JobId, LeaseId, PathId, Role, SessionId, StreamId},
    limits,
    wire::Frame,
};

/// The version of the main schema that quinn's traces have, too.
const QLOG_VERSION: &str = "0.3";

/// The log of one end of a session.
pub(super) struct Log {
    writer: Box<dyn io::Write + Send + Sync>,
    role: Role,
    /// The path that a secondary is at the end of.
    own: PathId,
    started: Instant,
    /// The record being written.
    text: String,
    /// Path and stream of jobs and leases: most frames name them by number only. The oldest are forgotten first.
    jobs: BTreeMap<JobId, (PathId, StreamId)>,
    leases: BTreeMap<LeaseId, (PathId, StreamId)>,
    /// Writing failed, or nothing follows.
    over: bool,
}

/// Direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Log {
    /// Begins a log. `before` is how long the trace of connections had been there when the session started.
    pub(super) fn new(
        writer: Box<dyn io::Write + Send + Sync>,
        session: SessionId,
        (role, own): (Role, PathId),
        started: Instant,
        before: Duration,
    ) -> Self {
        let (jobs, leases) = (BTreeMap::new(), BTreeMap::new());
        let mut log = Self { writer, role, own, started, text: String::new(), jobs, leases, over: false };
        let vantage_point = if role == Role::Client { "client" } else { "server" };
        let mut header = Record::new(&mut log.text);
        header.text("qlog_version", &QLOG_VERSION).text("qlog_format", &"JSON-SEQ");
        header.object("trace").object("vantage_point").text("type", &vantage_point).end();
        header.object("common_fields").text("group_id", &session).text("time_format", &"relative");
        header.millis("reference_time", before).text("role", &format_args!("{role:?}")).finish();
        log.write();
        log
    }

    /// A frame came.
    pub(super) fn on_frame(&mut self, now: Instant, path: PathId, frame: &Frame) {
        self.frame(now, path, frame, Way::In);
    }

    /// A decision is carried out.
    pub(super) fn on_action(&mut self, now: Instant, action: &Action) {
        match action {
            Action::Send { path, frame } => self.frame(now, *path, frame, Way::Out),
            Action::Dial { path, remote, .. } => self.event(now, "path_state", |data| {
                data.path(*path).text("state", &"dialling").text("remote", remote);
            }),
            Action::Ping { path } => self.event(now, "probe", |data| {
                data.path(*path);
            }),
            Action::BreakPath { path, fault } => self.on_fault(now, *path, *fault),
            Action::CloseSession { fault } => self.on_fault(now, HOME, *fault),
            Action::AskDial { .. }
            | Action::CloseAttempt { .. }
            | Action::ClosePath { .. }
            | Action::EndRun { .. }
            | Action::FinishInternal { .. }
            | Action::FinishNative { .. }
            | Action::Notify(_)
            | Action::PeerLeft { .. }
            | Action::PermitUni { .. }
            | Action::ResetInternal { .. }
            | Action::ResetNative { .. }
            | Action::ResumeInternal { .. }
            | Action::Sign(_)
            | Action::StopInternal { .. }
            | Action::SplitOpened { .. } => {}
        }
    }

    /// A peer broke a rule.
    pub(super) fn on_fault(&mut self, now: Instant, path: PathId, fault: PeerFault) {
        self.event(now, "fault", |data| {
            data.path(path).fault(fault);
        });
    }

    /// The reader is told of a hole.
    pub(super) fn on_gap_told(&mut self, now: Instant, stream: StreamId, missing: ByteRange) {
        self.event(now, "gap_told", |data| {
            data.stream(stream).range(missing);
        });
    }

    /// The session is over: nothing follows.
    pub(super) fn on_lost(&mut self, now: Instant, cause: &ConnectionError) {
        self.event(now, "session_ended", |data| match cause {
            ConnectionError::ApplicationClosed(close) => {
                data.text("cause", &"closed by peer").code(close.error_code);
            }
            ConnectionError::Fault(fault) => {
                data.text("cause", &"fault").fault(*fault);
            }
            // Without what a peer has to say about it, which may be of any length.
            ConnectionError::CidsExhausted
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::LocallyClosed
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch => {
                data.text("cause", &cause_name(cause));
            }
        });
        if !self.over {
            if let Err(error) = self.writer.flush() {
                tracing::warn!(%error, "the end of the session's log is lost");
            }
        }
        self.over = true;
    }

    /// Writes one event, whose data `fill` adds.
    fn event(&mut self, now: Instant, name: &str, fill: impl FnOnce(&mut Record<'_>)) {
        if self.over {
            return;
        }
        let time = now.saturating_duration_since(self.started);
        let mut record = Record::new(&mut self.text);
        record.millis("time", time).text("name", &format_args!("kwik:{name}")).object("data");
        fill(&mut record);
        record.finish();
        self.write();
    }

    /// Hands on what was recorded, whole: whoever reads along never finds half a record for long.
    fn write(&mut self) {
        if let Err(error) = self.writer.write_all(self.text.as_bytes()) {
            tracing::warn!(%error, "the session's log ends here");
            self.over = true;
        }
        self.text.clear();
    }

    fn know_job(&mut self, job: JobId, path: PathId, stream: StreamId) {
        self.jobs.insert(job, (path, stream));
        if self.jobs.len() > limits::LEASES_PER_SESSION {
            self.jobs.pop_first();
        }
    }

    fn know_lease(&mut self, lease: LeaseId, job: JobId) {
        if let Some(&place) = self.jobs.get(&job) {
            self.leases.insert(lease, place);
        }
        if self.leases.len() > limits::LEASES_PER_SESSION {
            self.leases.pop_first();
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Record<'_> {
    fn path(&mut self, path: PathId) -> &mut Self {
        self.number("path", path.into_inner().into())
    }

    fn stream(&mut self, stream: StreamId) -> &mut Self {
        self.number("stream", stream.into_inner())
    }

    fn fault(&mut self, fault: PeerFault) -> &mut Self {
        self.code(fault.code()).text("rule", &fault.text())
    }
}

const fn cause_name(cause: &ConnectionError) -> &'static str {
    match cause {
        ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_) => "closed by peer",
        ConnectionError::CidsExhausted => "connection ids exhausted",
        ConnectionError::Fault(_) => "fault",
        ConnectionError::LocallyClosed => "closed",
        ConnectionError::Reset => "reset by peer",
        ConnectionError::TimedOut => "timed out",
        ConnectionError::TransportError(_) => "transport error",
        ConnectionError::VersionMismatch => "version mismatch",
    }
}

impl Session {
    /// The session has a name: begins its log, if one is wanted.
    pub(super) fn begin_log(&mut self) {
        let (Some(session), Some(role)) = (self.session_id(), self.role()) else {
            return;
        };
        let path = self.own_path();
        let started = self.started;
        let opened = self.transport.qlog.as_ref().and_then(|qlog| qlog.session(session, role, path, started));
        if let Some((writer, before)) = opened {
            let mut log = Log::new(writer, session, (role, path), started, before);
            let remote = self.remote_address();
            log.event(self.now, "session_started", |data| {
                data.path(path).text("remote", &remote);
            });
            self.log = Some(Box::new(log));
        }
    }

    /// Does something with the log, if there is one.
    pub(super) fn log(&mut self, write: impl FnOnce(&mut Log, Instant)) {
        if let Some(log) = &mut self.log {
            write(log, self.now);
        }
    }
}

#[cfg(test)]
mod tests;
