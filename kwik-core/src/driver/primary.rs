//! The session as its owner holds it.

use std::{ops::Deref, time::Duration};

use bytes::Bytes;

use super::{
    connection::Connection,
    error::PathError,
    session::{Key, SessionRef, read_relay, relay},
};
use crate::{
    action::{PathInfo, PathState, Relay},
    error::{AddPathError, ConnectionError, ErrorCode, PathDead, RelayError},
    id::{PathId, Role},
    session::NewPath,
};

/// A session that this server owns: everything a [`Connection`] does, and other servers brought in. Spec: RATIONALE §3.
#[derive(Clone, Debug)]
pub struct PrimarySession(Connection);

impl PrimarySession {
    pub(super) const fn new(session: SessionRef) -> Self {
        Self(Connection::new(session))
    }

    /// Has the client attach another server, and waits until it has, or could not.
    ///
    /// If the future is dropped before, the path is added all the same, and [`Self::paths`] lists it.
    ///
    /// # Errors
    /// - [`PathError::Add`] if the path could not even be asked for.
    /// - [`PathError::Dead`] if it could not be attached, with the reason.
    /// - [`PathError::ConnectionLost`] if the session ended first.
    pub async fn add_path(&self, path: NewPath) -> Result<PathId, PathError> {
        let (id, unsigned) = self.session().with(|s| {
            let now = s.now();
            let id = s.core.add_path(now, path)?;
            s.notify();
            Ok::<_, AddPathError>((id, s.core.poll_question()))
        })?;
        if let Some(question) = unsigned {
            self.session().answer(question);
        }
        self.path_ready(id).await?;
        Ok(id)
    }

    /// Waits until a path is attached, or could not be.
    ///
    /// # Errors
    /// - As [`Self::add_path`].
    pub async fn path_ready(&self, path: PathId) -> Result<(), PathError> {
        self.session()
            .wait(Key::Paths, |s| match s.core.path_state(path) {
                Some(PathState::Active | PathState::Degraded | PathState::Draining) => Some(Ok(())),
                Some(PathState::Dead(code)) => Some(Err(PathError::Dead { path, code })),
                Some(PathState::Connecting) => {
                    s.error.clone().map(|error| Err(PathError::ConnectionLost(error)))
                }
                None => Some(Err(PathError::Dead { path, code: ErrorCode::PATH_NOT_FOUND })),
            })
            .await
    }

    /// Waits until a path answers: for one that is silent, until it is heard again. One that is being removed is not waited for.
    ///
    /// # Errors
    /// - [`PathError::Dead`] if it takes no work any more, with the reason.
    /// - [`PathError::ConnectionLost`] if the session ended first.
    pub async fn path_heard(&self, path: PathId) -> Result<(), PathError> {
        self.session()
            .wait(Key::Paths, |s| match s.core.path_state(path) {
                Some(PathState::Active) => Some(Ok(())),
                Some(PathState::Draining) => Some(Err(PathError::Dead { path, code: ErrorCode::DRAINING })),
                Some(PathState::Dead(code)) => Some(Err(PathError::Dead { path, code })),
                Some(PathState::Connecting | PathState::Degraded) => {
                    s.error.clone().map(|error| Err(PathError::ConnectionLost(error)))
                }
                None => Some(Err(PathError::Dead { path, code: ErrorCode::PATH_NOT_FOUND })),
            })
            .await
    }

    /// Waits for a report of what came of leases ([`NewLease::progress`](crate::NewLease::progress)) beyond the first `seen` of
    /// the session, and returns how many there are by then. [`Self::paths`], [`Ranges::reader`](super::Ranges::reader) and
    /// [`Lease::status`](super::Lease::status) say what was reported. Cancel-safe.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended first.
    pub async fn progress(&self, seen: u64) -> Result<u64, ConnectionError> {
        self.session()
            .wait(Key::Progress, |s| match s.core.progress_reports() {
                reports if reports > seen => Some(Ok(reports)),
                _ => s.error.clone().map(Err),
            })
            .await
    }

    /// Waits for the end of a path and returns why it came.
    ///
    /// # Errors
    /// - [`PathError::ConnectionLost`] if the session ended first.
    pub async fn path_dead(&self, path: PathId) -> Result<ErrorCode, PathError> {
        self.session()
            .wait(Key::Paths, |s| match s.core.path_state(path) {
                Some(PathState::Dead(code)) => Some(Ok(code)),
                None => Some(Ok(ErrorCode::PATH_NOT_FOUND)),
                Some(
                    PathState::Active | PathState::Connecting | PathState::Degraded | PathState::Draining,
                ) => s.error.clone().map(|error| Err(PathError::ConnectionLost(error))),
            })
            .await
    }

    /// Lets a path go: the client closes it, and its leases are lost.
    ///
    /// # Errors
    /// - [`PathDead`] if there is no such path, or it is gone already.
    pub fn remove_path(&self, path: PathId) -> Result<(), PathDead> {
        self.session().with(|s| {
            let now = s.now();
            s.core.remove_path(now, path)?;
            s.notify();
            Ok(())
        })
    }

    /// Lets a path go once its leases are over, or after `patience` with what is left of them lost. It takes no more.
    ///
    /// # Errors
    /// - [`PathDead`] if there is no such path, or it is gone already.
    pub fn drain_path(&self, path: PathId, patience: Duration) -> Result<(), PathDead> {
        self.session().with(|s| {
            let now = s.now();
            s.core.drain_path(now, path, patience)?;
            s.notify();
            Ok(())
        })
    }

    /// Sends a message to the application of a path's server, by way of the client: at most 64 KiB, sealed, so that nobody
    /// else can have made or changed it. It arrives once; or not at all, should the path end, or the server's application
    /// not read. Messages do not keep their order. Waits while the path is being attached, and while 64 messages are on
    /// their way. Dropping the future before it is ready sends nothing. Spec: PROTOCOL §9.
    ///
    /// # Errors
    /// One of [`RelayError`]; never [`RelayError::Blocked`].
    pub async fn relay(&self, path: PathId, payload: impl Into<Bytes>) -> Result<(), RelayError> {
        relay(self.session(), path, payload.into()).await
    }

    /// Waits for the next message of a path's server. Unless it is [`sealed`](Relay::sealed), it is what the client says that
    /// the server has said. Spec: PROTOCOL §9.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and nothing is left.
    pub async fn read_relay(&self) -> Result<Relay, ConnectionError> {
        read_relay(self.session()).await
    }

    /// Lists the session's paths, dead ones included.
    #[must_use]
    pub fn paths(&self) -> Vec<PathInfo> {
        self.session().with(|s| s.core.paths())
    }
}

impl Deref for PrimarySession {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl From<PrimarySession> for Connection {
    fn from(session: PrimarySession) -> Self {
        session.0
    }
}

impl TryFrom<Connection> for PrimarySession {
    type Error = Connection;

    /// Gives the connection back if this end is not the session's primary.
    fn try_from(connection: Connection) -> Result<Self, Connection> {
        match connection.session().with(|s| s.core.role()) {
            Some(Role::Primary) => Ok(Self(connection)),
            Some(Role::Client | Role::Secondary) | None => Err(connection),
        }
    }
}
