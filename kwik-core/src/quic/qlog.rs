//! QUIC's events, written down for tools such as qvis (feature `qlog`).

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::id::{PathId, Role, SessionId};

/// Opens the log of a session.
type Sessions = dyn Fn(SessionId, Role, PathId) -> Option<Box<dyn io::Write + Send + Sync>> + Send + Sync;

/// Place to which the connections of a configuration write their events: one qlog trace for all, events grouped by
/// connection; and, with [`Qlog::sessions`], a log of KWIK's own for each session. Cheap to clone; clones write to the
/// same place.
#[derive(Clone)]
pub struct Qlog {
    stream: quinn_proto::QlogStream,
    start: Instant,
    sessions: Option<Arc<Sessions>>,
}

impl Qlog {
    /// Starts a trace called `title` whose times count from `start`. `None` if `writer` does not take its beginning.
    ///
    /// It is written to while sessions are at work, as are the logs of [`Self::sessions`]: the writer must not use the handles
    /// of the sessions that it hears of, and holds them up for as long as it takes.
    pub fn new(writer: Box<dyn io::Write + Send + Sync>, start: Instant, title: &str) -> Option<Self> {
        let mut config = quinn_proto::QlogConfig::default();
        config.writer(writer).start_time(start).title(Some(title.to_owned()));
        config.into_stream().map(|stream| Self { stream, start, sessions: None })
    }

    /// Writes a log of each session, too: what KWIK decides on all its paths, as a JSON text sequence (RFC 7464) in
    /// qlog's form with events called `kwik:…`.
    ///
    /// `open` is called once the session has a name, with the role of this end in it and, on a secondary, the path it
    /// is at the end of (elsewhere [`PathId::PRIMARY`]); where it returns `None` nothing is written. Times count from
    /// when the session began here; the header's `reference_time` is when that was, in milliseconds since `start`. What
    /// is written comes record by record, and a writer that fails is not tried again.
    #[must_use]
    pub fn sessions<F>(mut self, open: F) -> Self
    where
        F: Fn(SessionId, Role, PathId) -> Option<Box<dyn io::Write + Send + Sync>> + Send + Sync + 'static,
    {
        self.sessions = Some(Arc::new(open));
        self
    }

    pub(super) fn stream(&self) -> quinn_proto::QlogStream {
        self.stream.clone()
    }

    /// Opens the log of a session that began at `started`, if one is wanted; tells how long after the trace that was.
    pub(crate) fn session(
        &self,
        session: SessionId,
        role: Role,
        path: PathId,
        started: Instant,
    ) -> Option<(Box<dyn io::Write + Send + Sync>, Duration)> {
        let open = self.sessions.as_ref()?;
        Some((open(session, role, path)?, started.saturating_duration_since(self.start)))
    }
}

impl fmt::Debug for Qlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Qlog(…)")
    }
}
