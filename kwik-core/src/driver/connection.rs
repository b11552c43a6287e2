//! The handle that looks like quinn's `Connection`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use super::{
    recv::RecvStream,
    session::{Key, SessionRef},
    stream::SendStream,
};
use crate::{
    error::{ApiMisuse, ConnectionError, ErrorCode, SendDatagramError},
    id::{Dir, LeaseId, SessionId, StreamId},
    session::HandshakeData,
    stats::{LeaseStats, SessionStats},
};

/// A session as an application on either side holds it: quinn's connection, fed by one or by many servers.
///
/// Clones name the same session. When all handles are gone, those of streams included, it is closed with code 0.
#[derive(Clone, Debug)]
pub struct Connection(SessionRef);

impl Connection {
    pub(super) const fn new(session: SessionRef) -> Self {
        Self(session)
    }

    pub(super) const fn session(&self) -> &SessionRef {
        &self.0
    }

    /// Opens a unidirectional stream, as soon as the peer permits one more. The peer learns of it with its first bytes.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        let stream = self.open(Dir::Uni).await?;
        Ok(SendStream::new(self.0.clone(), stream))
    }

    /// Opens a bidirectional stream, as soon as the peer permits one more. The peer learns of it with its first bytes.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let stream = self.open(Dir::Bi).await?;
        Ok(self.both(stream))
    }

    /// Waits for the next unidirectional stream of the peer.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every stream that came before was accepted.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let stream = self.accept(Dir::Uni).await?;
        Ok(RecvStream::new(self.0.clone(), stream))
    }

    /// Waits for the next bidirectional stream of the peer.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every stream that came before was accepted.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let stream = self.accept(Dir::Bi).await?;
        Ok(self.both(stream))
    }

    /// Waits for the next application datagram.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every datagram that came before was read.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        self.0
            .wait(Key::DatagramReceived, |s| match s.core.datagram_recv() {
                Some(data) => Some(Ok(data)),
                None => s.error.clone().map(Err),
            })
            .await
    }

    /// Sends an application datagram, in place of older unsent ones if there is no room.
    ///
    /// # Errors
    /// - [`SendDatagramError::ConnectionLost`] if the session is over.
    /// - [`SendDatagramError::Disabled`], [`SendDatagramError::UnsupportedByPeer`] if one of the two ends takes none.
    /// - [`SendDatagramError::TooLarge`] if it is longer than [`Self::max_datagram_size`].
    pub fn send_datagram(&self, data: Bytes) -> Result<(), SendDatagramError> {
        self.0.with(|s| {
            s.check().map_err(SendDatagramError::ConnectionLost)?;
            let now = s.now();
            s.core.datagram_send(now, data, true)?;
            s.notify();
            Ok(())
        })
    }

    /// Sends an application datagram once there is room for it.
    ///
    /// Cancel-safe: if the future is dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    /// - As [`Self::send_datagram`].
    pub async fn send_datagram_wait(&self, data: Bytes) -> Result<(), SendDatagramError> {
        let mut unsent = Some(data);
        self.0
            .wait(Key::DatagramsUnblocked, |s| {
                if let Err(error) = s.check() {
                    return Some(Err(SendDatagramError::ConnectionLost(error)));
                }
                let now = s.now();
                match s.core.datagram_send(now, unsent.take()?, false) {
                    Ok(()) => {
                        s.notify();
                        Some(Ok(()))
                    }
                    Err(SendDatagramError::Blocked(data)) => {
                        unsent = Some(data);
                        None
                    }
                    Err(error) => Some(Err(error)),
                }
            })
            .await
    }

    /// Returns how long a datagram may be now; `None` if there can be none.
    #[must_use]
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.0.with(|s| s.core.datagram_max_size())
    }

    /// Returns how many bytes of datagrams can be sent without dropping older ones.
    #[must_use]
    pub fn datagram_send_buffer_space(&self) -> usize {
        self.0.with(|s| s.core.datagram_send_buffer_space())
    }

    /// Closes the session at once. All operations fail with [`ConnectionError::LocallyClosed`] from here on; bytes that
    /// the peer's application has not read yet may be lost.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead. See [`Self::try_close`].
    pub fn close(&self, code: ErrorCode, reason: &[u8]) {
        self.0.with(|s| s.close_always(code, reason));
    }

    /// Closes the session as [`Self::close`] does, but does nothing if `code` is reserved.
    ///
    /// # Errors
    /// - [`ApiMisuse::ReservedCode`] if `code` lies in KWIK's block.
    pub fn try_close(&self, code: ErrorCode, reason: &[u8]) -> Result<(), ApiMisuse> {
        self.0.with(|s| s.close(code, reason))
    }

    /// Waits for the end of the session and returns why it came.
    pub async fn closed(&self) -> ConnectionError {
        self.0.wait(Key::Closed, |s| s.error.clone()).await
    }

    /// Returns why the session is over; `None` while it is not.
    #[must_use]
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.with(|s| s.error.clone())
    }

    /// Returns the peer's address; on a client the primary's.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.with(|s| s.core.remote_address())
    }

    /// Returns the address the peer reached us at, where known.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.with(|s| s.core.local_ip())
    }

    /// Returns the round-trip time to the peer; on a client to the primary.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.0.with(|s| s.core.rtt())
    }

    /// Returns counters of the session.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.0.with(|s| s.core.stats_at(s.now()))
    }

    /// Returns counters of each live lease of a client, at most 2,048; none on servers. What a primary knows of its own
    /// is [`PrimarySession::paths`](super::PrimarySession::paths) and [`Lease::status`](super::Lease::status).
    #[must_use]
    pub fn lease_stats(&self) -> BTreeMap<LeaseId, LeaseStats> {
        self.0.with(|s| s.core.leases())
    }

    /// Returns what the handshake agreed on.
    #[must_use]
    pub fn handshake_data(&self) -> Option<HandshakeData> {
        self.0.with(|s| s.core.handshake_data())
    }

    /// Returns the peer's certificate chain, its own certificate first.
    #[must_use]
    pub fn peer_identity(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.0.with(|s| s.core.peer_identity())
    }

    /// Returns a number that no other session in this process has while this one lives.
    #[must_use]
    pub fn stable_id(&self) -> usize {
        self.0.stable_id()
    }

    /// Returns the session's name, which all its servers share; `None` before the hello is done.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.0.with(|s| s.core.session_id())
    }

    async fn open(&self, dir: Dir) -> Result<StreamId, ConnectionError> {
        self.0
            .wait(Key::Available(dir), |s| match s.check() {
                Err(error) => Some(Err(error)),
                Ok(()) => s.core.open(dir).map(Ok),
            })
            .await
    }

    async fn accept(&self, dir: Dir) -> Result<StreamId, ConnectionError> {
        self.0
            .wait(Key::Opened(dir), |s| match s.core.accept(dir) {
                Some(stream) => {
                    s.notify(); // the peer may be permitted one more
                    Some(Ok(stream))
                }
                None => s.error.clone().map(Err),
            })
            .await
    }

    fn both(&self, stream: StreamId) -> (SendStream, RecvStream) {
        (SendStream::new(self.0.clone(), stream), RecvStream::new(self.0.clone(), stream))
    }
}
