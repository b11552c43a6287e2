//! A secondary's range of somebody else's stream.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    error::RangeWriteError,
    session::{Key, SessionRef, own_code},
    stream::{self, Sink},
};
use crate::{
    action::LeaseInfo,
    error::ErrorCode,
    id::{ByteRange, LeaseId},
    session::Written,
};

/// The right to fill a range. Dropping it gives the range back, with `LEASE_SHORT`.
#[derive(Debug)]
#[must_use = "dropping it gives the range back"]
pub struct SecondaryLease(pub(super) SecondaryStream);

impl SecondaryLease {
    /// Returns the lease's id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.0.id()
    }

    /// Returns the range to fill.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.0.range()
    }

    /// Starts to fill it. No round trip, and nothing is sent before the first byte.
    pub fn open(self) -> SecondaryStream {
        self.0
    }
}

/// Writes one leased range from its start: all of it, exactly.
///
/// Dropping it before all of the range is written gives the rest back, with `LEASE_SHORT`. Once all is written, dropping
/// it changes nothing.
#[must_use = "dropping it gives the range back"]
pub struct SecondaryStream {
    session: SessionRef,
    lease: LeaseInfo,
    written: u64,
}

impl SecondaryStream {
    pub(super) const fn new(session: SessionRef, lease: LeaseInfo) -> Self {
        Self { session, lease, written: 0 }
    }

    /// Returns the lease's id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// Returns the range to fill.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.lease.range
    }

    /// Returns how many bytes are still to be written.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.lease.range.len().saturating_sub(self.written)
    }

    /// Writes some of `buf`, as much as is accepted at once, and returns how many bytes. Cancel-safe.
    ///
    /// # Errors
    /// - [`RangeWriteError::ConnectionLost`] if the path is over.
    /// - [`RangeWriteError::Ended`] if the lease was taken back, or its job ended.
    /// - [`RangeWriteError::PastEnd`] if `buf` is longer than what remains; nothing was written.
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, RangeWriteError> {
        stream::write(self, buf).await
    }

    /// Writes all of `buf`. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all(&mut self, buf: &[u8]) -> Result<(), RangeWriteError> {
        stream::write_all(self, buf).await
    }

    /// Writes some of `bufs` without copying; as [`SendStream::write_chunks`](super::SendStream::write_chunks).
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Written, RangeWriteError> {
        stream::write_chunks(self, bufs).await
    }

    /// Writes all of `bufs` without copying. Not cancel-safe: some of it may have been written.
    ///
    /// # Errors
    /// - As [`Self::write`].
    pub async fn write_all_chunks(&mut self, bufs: &mut [Bytes]) -> Result<(), RangeWriteError> {
        stream::write_all_chunks(self, bufs).await
    }

    /// Checks that the whole range was written. Sending goes on by itself; the primary learns when it has arrived.
    ///
    /// # Errors
    /// - [`RangeWriteError::Short`] if not all of the range was written; writing may go on.
    pub fn finish(&mut self) -> Result<(), RangeWriteError> {
        match self.remaining() {
            0 => Ok(()),
            missing => Err(RangeWriteError::Short(missing)),
        }
    }

    /// Gives the rest of the range back, with a code of the application's.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    pub fn reset(self, code: ErrorCode) {
        self.session.with(|s| {
            if s.error.is_none() {
                let now = s.now();
                if let Err(error) = s.core.reset_lease(now, self.lease.id, own_code(code)) {
                    tracing::error!(%error, "reset failed");
                }
                s.notify();
            }
        });
    }
}

impl Sink for SecondaryStream {
    type Error = RangeWriteError;

    fn check_room(&self, bytes: u64) -> Result<(), RangeWriteError> {
        if bytes > self.remaining() { Err(RangeWriteError::PastEnd) } else { Ok(()) }
    }

    fn poll_chunks(
        &mut self,
        cx: &Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<Written, RangeWriteError>> {
        let Self { session, lease, written } = self;
        session.with(|s| {
            s.check()?;
            let now = s.now();
            match s.core.write_lease(now, lease.id, bufs) {
                Ok(some) => {
                    *written += some.bytes as u64;
                    s.notify();
                    Poll::Ready(Ok(some))
                }
                Err(error) => match RangeWriteError::from_core(error) {
                    Some(error) => Poll::Ready(Err(error)),
                    None => {
                        s.wakers.set(Key::Lease(lease.id), cx.waker());
                        Poll::Pending
                    }
                },
            }
        })
    }
}

impl Drop for SecondaryStream {
    fn drop(&mut self) {
        self.session.with(|s| {
            s.wakers.unset(Key::Lease(self.lease.id));
            if s.error.is_none() {
                // Complete or not: a complete one, or one that was reset, is only let go of.
                let now = s.now();
                s.core.drop_lease(now, self.lease.id);
                s.notify();
            }
        });
    }
}

impl fmt::Debug for SecondaryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondaryStream")
            .field("lease", &self.lease)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}
