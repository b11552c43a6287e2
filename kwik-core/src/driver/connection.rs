//! The handle that looks like quinn's `Connection`.

use std::{
    any::Any,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use super::{
    futures::{AcceptBi, AcceptUni, OpenBi, OpenUni, ReadDatagram, SendDatagram},
    incoming::boxed,
    session::{Key, SessionRef},
};
use crate::{
    crypto::ExportKeyingMaterialError,
    error::{ApiMisuse, ConnectionError, ErrorCode, SendDatagramError, VarInt},
    id::{Dir, LeaseId, SessionId, Side},
    quic::congestion::Controller,
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
    pub fn open_uni(&self) -> OpenUni<'_> {
        OpenUni::new(self)
    }

    /// Opens a bidirectional stream, as soon as the peer permits one more. The peer learns of it with its first bytes.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over.
    pub fn open_bi(&self) -> OpenBi<'_> {
        OpenBi::new(self)
    }

    /// Waits for the next unidirectional stream of the peer.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every stream that came before was accepted.
    pub fn accept_uni(&self) -> AcceptUni<'_> {
        AcceptUni::new(self)
    }

    /// Waits for the next bidirectional stream of the peer.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every stream that came before was accepted.
    pub fn accept_bi(&self) -> AcceptBi<'_> {
        AcceptBi::new(self)
    }

    /// Waits for the next application datagram.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session is over and every datagram that came before was read.
    pub fn read_datagram(&self) -> ReadDatagram<'_> {
        ReadDatagram::new(self)
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
    pub fn send_datagram_wait(&self, data: Bytes) -> SendDatagram<'_> {
        SendDatagram::new(self, data)
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

    /// Returns the shortest round-trip time to the peer so far.
    #[must_use]
    pub fn min_rtt(&self) -> Duration {
        self.0.with(|s| s.core.min_rtt())
    }

    /// Returns which end of the connection this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.0.with(|s| s.core.side())
    }

    /// Returns a copy of the congestion controller of the connection to the peer.
    #[must_use]
    pub fn congestion_state(&self) -> Box<dyn Controller> {
        self.0.with(|s| s.core.congestion_state())
    }

    /// Makes new keys for packets now, of all those that will be made; for tests.
    pub fn force_key_update(&self) {
        self.0.with(|s| {
            s.core.force_key_update();
            s.notify();
        });
    }

    /// Fills `output` with bytes that only the two ends of the connection can know (RFC 8446 §7.5).
    ///
    /// # Errors
    /// - [`ExportKeyingMaterialError`] if `output` is longer than TLS gives.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.with(|s| s.core.export_keying_material(output, label, context))
    }

    /// Permits the peer `count` unidirectional streams at once; a number that it was told before is not taken back.
    pub fn set_max_concurrent_uni_streams(&self, count: VarInt) {
        self.set_max_concurrent(Dir::Uni, count);
    }

    /// Permits the peer `count` bidirectional streams at once; a number that it was told before is not taken back.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        self.set_max_concurrent(Dir::Bi, count);
    }

    /// Replaces [`TransportConfig::send_window`](crate::TransportConfig::send_window) of the connection to the peer.
    pub fn set_send_window(&self, send_window: u64) {
        self.0.with(|s| {
            s.core.set_send_window(send_window);
            s.notify();
        });
    }

    /// Replaces [`TransportConfig::receive_window`](crate::TransportConfig::receive_window): the number of streams grows no
    /// further than fits it.
    pub fn set_receive_window(&self, receive_window: VarInt) {
        self.0.with(|s| s.core.set_receive_window(receive_window.into_inner()));
    }

    fn set_max_concurrent(&self, dir: Dir, count: VarInt) {
        self.0.with(|s| {
            s.core.set_max_concurrent_streams(dir, count.into_inner());
            s.notify();
        });
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

    /// Returns what the handshake agreed on, a [`HandshakeData`](crate::crypto::rustls::HandshakeData); [`Self::handshake`]
    /// without the box.
    #[must_use]
    pub fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.handshake().map(boxed)
    }

    /// Returns what the handshake agreed on.
    #[must_use]
    pub fn handshake(&self) -> Option<HandshakeData> {
        self.0.with(|s| s.core.handshake_data())
    }

    /// Returns the peer's certificate chain, its own certificate first: a `Vec<CertificateDer<'static>>`;
    /// [`Self::peer_certificates`] without the box.
    #[must_use]
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.peer_certificates().map(|chain| -> Box<dyn Any> { Box::new(chain) })
    }

    /// Returns the peer's certificate chain, its own certificate first.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
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
}
