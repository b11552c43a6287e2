//! Subjects of decisions, frames and streams: the ids by which whoever looks on can follow one thing through.
//!
//! Spans and events of `tracing` carry them as `path`, `stream`, `job` and `lease`; the session's own span has
//! `session`. Nothing here costs anything while nobody listens: fields are worked out only for enabled spans.

use std::net::SocketAddr;

use tracing::{
    Level, Span, debug_span, field,
    level_filters::{LevelFilter, STATIC_MAX_LEVEL},
    span::EnteredSpan,
    trace_span,
};

use super::{Machine, Session, action::Action, question::Sealing};
use crate::{
    id::{JobId, LeaseId, PathId, StreamId},
    wire::{Credit, Frame},
};

/// The ids that something names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) path: Option<PathId>,
    pub(super) stream: Option<StreamId>,
    pub(super) job: Option<JobId>,
    pub(super) lease: Option<LeaseId>,
}

impl Subject {
    fn path(path: PathId) -> Self {
        Self { path: Some(path), ..Self::default() }
    }

    fn stream(stream: StreamId) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    fn lease(lease: LeaseId) -> Self {
        Self { lease: Some(lease), ..Self::default() }
    }

    fn job(job: JobId) -> Self {
        Self { job: Some(job), ..Self::default() }
    }

    /// Subject of a frame from or to `path`. A path that the frame itself names, or its lease, goes before the one it takes.
    pub(super) fn of_frame(path: PathId, frame: &Frame) -> Self {
        let about = match frame {
            Frame::AddPath(add) => Self::path(add.path),
            Frame::PathReport { path, .. } | Frame::RemovePath { path, .. } => Self::path(*path),
            Frame::ProgressReport(report) => Self::path(report.path),
            Frame::JobOpen(open) => {
                Self { path: Some(open.path), stream: Some(open.stream), job: Some(open.job), lease: None }
            }
            Frame::JobAccepted { job } | Frame::JobRefused { job, .. } | Frame::JobClose { job } => {
                Self::job(*job)
            }
            Frame::LeaseGrant(grant) => Self { job: Some(grant.job), ..Self::lease(grant.lease) },
            Frame::LeaseNotice { lease, job, .. } => Self { job: Some(*job), ..Self::lease(*lease) },
            Frame::LeaseRefused { lease, .. }
            | Frame::LeaseRevoke { lease, .. }
            | Frame::LeaseDone { lease }
            | Frame::LeaseLost { lease, .. }
            | Frame::Credit(Credit::Lease { lease, .. }) => Self::lease(*lease),
            Frame::StreamMappingUpdate { stream, lease, .. } => {
                Self { stream: Some(*stream), ..Self::lease(*lease) }
            }
            Frame::Split { stream, .. }
            | Frame::SplitAck { stream, .. }
            | Frame::StreamFinal { stream, .. }
            | Frame::StreamComplete { stream }
            | Frame::StreamStopped { stream, .. }
            | Frame::Credit(Credit::Offset { stream, .. } | Credit::Run { stream, .. })
            | Frame::OffsetSyncRequest { stream, .. }
            | Frame::OffsetSyncResponse { stream, .. } => Self::stream(*stream),
            Frame::ClientHello(_)
            | Frame::ServerHello(_)
            | Frame::Refuse { .. }
            | Frame::Drain { .. }
            | Frame::SessionClose { .. } => Self::default(),
        };
        Self { path: about.path.or(Some(path)), ..about }
    }

    /// Subject of a decision. Streams are those of the application: internal ones are known by their path.
    fn of_action(machine: &Machine, action: &Action) -> Self {
        match action {
            Action::Send { path, frame } => Self::of_frame(machine.path_name(*path), frame),
            Action::AskDial { path, .. }
            | Action::CloseAttempt { path, .. }
            | Action::BreakPath { path, .. }
            | Action::ClosePath { path, .. }
            | Action::Dial { path, .. }
            | Action::PermitUni { path, .. }
            | Action::Ping { path }
            | Action::ResumeInternal { path, .. }
            | Action::StopInternal { path, .. } => Self::path(*path),
            Action::FinishNative { stream }
            | Action::ResetNative { stream, .. }
            | Action::SplitOpened { stream } => Self::stream(*stream),
            Action::Sign(draft) => match draft.sealing() {
                Sealing::Path(path) | Sealing::Relay(path, _) => Self::path(path),
                Sealing::Job(job, path) => Self { path: Some(path), ..Self::job(job) },
            },
            Action::CloseSession { .. }
            | Action::EndRun { .. }
            | Action::FinishInternal { .. }
            | Action::Notify(_)
            | Action::PeerLeft { .. }
            | Action::ResetInternal { .. } => Self::default(),
        }
    }
}

/// A span that is left when this is dropped; nothing while nobody listens.
pub(super) type Entered = Option<EnteredSpan>;

/// Returns whether anybody may listen: looked at for every datagram, so it is no more than a static.
#[inline(always)]
fn listening() -> bool {
    Level::TRACE <= STATIC_MAX_LEVEL && Level::TRACE <= LevelFilter::current()
}

/// Enters a span with the ids of a subject, which is only worked out if somebody listens.
macro_rules! subject_span {
    ($name:literal, $subject:expr) => {{
        #[cold]
        fn make(Subject { path, stream, job, lease }: Subject) -> EnteredSpan {
            trace_span!(
                $name,
                path = path.map(PathId::into_inner),
                stream = stream.map(StreamId::into_inner),
                job = job.map(JobId::into_inner),
                lease = lease.map(LeaseId::into_inner)
            )
            .entered()
        }
        if listening() { Some(make($subject)) } else { None }
    }};
}

/// The span of a session: it lives as long, and learns its name with the hello.
pub(super) fn session_span(remote: SocketAddr) -> Span {
    debug_span!("session", session = field::Empty, role = field::Empty, %remote)
}

/// Enters the span of work on one path.
#[inline]
pub(super) fn path_span(machine: &Machine, path: PathId) -> Entered {
    subject_span!("path", Subject::path(machine.path_name(path)))
}

/// Enters the span of taking in a frame.
#[inline]
pub(super) fn frame_span(machine: &Machine, path: PathId, frame: &Frame) -> Entered {
    subject_span!("frame", machine.complete(Subject::of_frame(machine.path_name(path), frame)))
}

/// Enters the span of carrying out a decision.
#[inline]
pub(super) fn action_span(machine: &Machine, action: &Action) -> Entered {
    subject_span!("action", machine.complete(Subject::of_action(machine, action)))
}

/// Enters the span of placing what came in an internal stream.
#[inline]
pub(super) fn internal_span(machine: &Machine, path: PathId, internal: StreamId) -> Entered {
    subject_span!("internal", machine.complete(machine.internal_subject(path, internal)))
}

/// Enters the span of what the application does with a stream.
#[inline]
pub(super) fn stream_span(stream: StreamId) -> Entered {
    subject_span!("stream", Subject::stream(stream))
}

/// Enters the span of what the application does with a lease.
#[inline]
pub(super) fn lease_span(machine: &Machine, lease: LeaseId) -> Entered {
    subject_span!("lease", machine.complete(Subject::lease(lease)))
}

impl Machine {
    /// The primary's name for a path: a secondary's only one has a number in the session.
    fn path_name(&self, path: PathId) -> PathId {
        match self {
            Self::Secondary(secondary) => secondary.path(),
            Self::Greeting(_) | Self::Client(_) | Self::Primary(_) => path,
        }
    }

    /// Adds the stream and the path of a lease that lives. One that has just ended is known by its number.
    fn complete(&self, subject: Subject) -> Subject {
        let place = subject.lease.and_then(|lease| match self {
            Self::Client(client) => client.lease_stats(lease).map(|lease| (lease.path, lease.stream)),
            Self::Primary(primary) => primary.lease_status(lease).map(|lease| (lease.path, lease.stream)),
            Self::Greeting(_) | Self::Secondary(_) => None,
        });
        match place {
            Some((path, stream)) => Subject { path: Some(path), stream: Some(stream), ..subject },
            None => subject,
        }
    }

    fn internal_subject(&self, path: PathId, internal: StreamId) -> Subject {
        let (stream, lease) = match self {
            Self::Client(client) => client.mapped(path, internal),
            Self::Greeting(_) | Self::Primary(_) | Self::Secondary(_) => (None, None),
        };
        Subject { path: Some(path), stream, job: None, lease }
    }
}

impl Session {
    /// The primary's name for the path that this end of the session is at: its own for a secondary.
    #[cfg(feature = "qlog")]
    pub(super) fn own_path(&self) -> PathId {
        self.machine.path_name(PathId::PRIMARY)
    }

    /// Enters the session's span.
    #[inline]
    pub(super) fn enter(&self) -> Entered {
        (!self.span.is_none()).then(|| self.span.clone().entered())
    }

    /// The hello is accepted: the session has a name, and this end a role.
    pub(super) fn on_named(&self) {
        if let Some(session) = self.session_id() {
            self.span.record("session", field::display(session));
            self.span.record("role", field::debug(self.role()));
            tracing::debug!(%session, "established");
        }
    }
}
