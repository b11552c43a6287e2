//! The session as a server holds it that fills ranges for another: it cannot open a stream.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    lease::{SecondaryLease, SecondaryStream},
    session::{Key, SessionRef, own_code, read_relay, relay},
};
use crate::{
    action::{JobInfo, Relay},
    error::{ConnectionError, ErrorCode, RelayError},
    id::{ByteRange, PathId, SessionId},
    stats::SessionStats,
};

/// One client's path to this server, in a session that another server owns. Spec: RATIONALE §3.
///
/// Clones name the same path. When all handles are gone, those of jobs and streams included, it is closed with code 0.
#[derive(Clone, Debug)]
pub struct SecondarySession(SessionRef);

impl SecondarySession {
    pub(super) const fn new(session: SessionRef) -> Self {
        Self(session)
    }

    /// Waits for the next job.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the path is over.
    pub async fn accept_job(&self) -> Result<SecondaryJob, ConnectionError> {
        let job = self
            .0
            .wait(Key::Jobs, |s| match (s.check(), s.core.accept_job()) {
                (Err(error), _) => Some(Err(error)),
                (Ok(()), job) => job.map(Ok),
            })
            .await?;
        Ok(SecondaryJob { session: self.0.clone(), job, taken: false, ended: None })
    }

    /// Sends a message to the primary's application, by way of the client: at most 64 KiB. With a key to sign with
    /// ([`SecondaryConfig::signer`](crate::SecondaryConfig::signer)) the primary can tell that it is from this server.
    /// It arrives, once if it is signed; or not at all, should the path end, or the application not read. Waits while 64 messages are on
    /// their way. Dropping the future before it is ready sends nothing. Spec: PROTOCOL §9.
    ///
    /// # Errors
    /// One of [`RelayError`]; never [`RelayError::Blocked`].
    pub async fn relay(&self, payload: impl Into<Bytes>) -> Result<(), RelayError> {
        relay(&self.0, PathId::PRIMARY, payload.into()).await
    }

    /// Waits for the next message of the primary's application; nobody else can have made it. Spec: PROTOCOL §9.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the path is over and nothing is left.
    pub async fn read_relay(&self) -> Result<Relay, ConnectionError> {
        read_relay(&self.0).await
    }

    /// Waits until the client says that no more work comes: the path ends when the leases that live are over, or after
    /// the time that is returned.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the path is over.
    pub async fn draining(&self) -> Result<Duration, ConnectionError> {
        self.0
            .wait(Key::Draining, |s| match (s.core.draining(), &s.error) {
                (_, Some(error)) => Some(Err(error.clone())),
                (Some(by), None) => Some(Ok(by.saturating_duration_since(s.now()))),
                (None, None) => None,
            })
            .await
    }

    /// Closes the path at once. A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    pub fn close(&self, code: ErrorCode, reason: &[u8]) {
        self.0.with(|s| s.close_always(code, reason));
    }

    /// Waits for the end of the path and returns why it came.
    pub async fn closed(&self) -> ConnectionError {
        self.0.wait(Key::Closed, |s| s.error.clone()).await
    }

    /// Returns why the path is over; `None` while it is not.
    #[must_use]
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.with(|s| s.error.clone())
    }

    /// Returns the client's address.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.with(|s| s.core.remote_address())
    }

    /// Returns the session's name, which all its servers share.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.0.with(|s| s.core.session_id())
    }

    /// Returns counters of the path.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.0.with(|s| s.core.stats())
    }
}

/// A job that this server is asked to do.
///
/// It is accepted by [`Self::accept`] or by asking for its first lease. Dropping it before refuses it with code 0;
/// dropping it after gives back what leases are still to come, while those already taken go on.
pub struct SecondaryJob {
    session: SessionRef,
    job: JobInfo,
    taken: bool,
    ended: Option<ErrorCode>,
}

impl SecondaryJob {
    /// Returns everything that is known of the job.
    #[must_use]
    pub fn info(&self) -> &JobInfo {
        &self.job
    }

    /// Returns what the primary's application says about it.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.job.payload
    }

    /// Returns the only bytes that its leases name.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.job.range
    }

    /// Accepts the job; does nothing if it was accepted before.
    pub fn accept(&mut self) {
        if self.taken {
            return;
        }
        self.taken = true;
        self.session.with(|s| {
            let now = s.now();
            s.core.take_job(now, self.job.id);
            s.notify();
        });
    }

    /// Refuses the job, or ends it if it was accepted before.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    pub fn refuse(mut self, code: ErrorCode) {
        self.refuse_now(code);
        self.ended = Some(code);
    }

    /// Waits for the next range to fill; `None` once the job or the path has ended. Cancel-safe.
    pub async fn next_lease(&mut self) -> Option<SecondaryLease> {
        self.accept();
        if self.ended.is_some() {
            return None;
        }
        let id = self.job.id;
        let lease = self
            .session
            .wait(Key::Job(id), |s| match s.core.next_lease(id) {
                Ok(Some(lease)) => Some(Ok(lease)),
                Ok(None) => s.error.is_some().then_some(Err(None)),
                Err(code) => Some(Err(Some(code))),
            })
            .await;
        match lease {
            Ok(lease) => Some(SecondaryLease(SecondaryStream::new(self.session.clone(), lease))),
            Err(code) => {
                self.ended = code;
                None
            }
        }
    }

    /// Returns why the job has ended, once [`Self::next_lease`] has said that it has; `None` if the path ended.
    #[must_use]
    pub fn end_reason(&self) -> Option<ErrorCode> {
        self.ended
    }

    fn refuse_now(&self, code: ErrorCode) {
        self.session.with(|s| {
            if s.error.is_none() {
                let now = s.now();
                if let Err(error) = s.core.refuse_job(now, self.job.id, own_code(code)) {
                    tracing::error!(%error, "refusal failed");
                }
                s.notify();
            }
        });
    }
}

impl Drop for SecondaryJob {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if !self.taken {
            return self.refuse_now(ErrorCode::from_u32(0));
        }
        self.session.with(|s| {
            if s.error.is_none() {
                s.unwatched.jobs.insert(self.job.id);
                s.drop_leases(self.job.id);
                s.notify();
            }
        });
    }
}

impl fmt::Debug for SecondaryJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondaryJob").field("job", &self.job).finish_non_exhaustive()
    }
}
