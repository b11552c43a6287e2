//! The rest of quinn's connection, for the one to the peer: on a client, to the primary.

use std::{sync::Arc, time::Duration};

use super::Session;
use crate::{
    crypto::ExportKeyingMaterialError,
    id::{Dir, Side},
    quic::congestion::Controller,
};

impl Session {
    /// Returns which end of the connection this is.
    pub fn side(&self) -> Side {
        if self.client.is_some() { Side::Client } else { Side::Server }
    }

    /// Returns the shortest round-trip time so far.
    pub fn min_rtt(&self) -> Duration {
        self.links.home.quic.min_rtt()
    }

    /// Returns a copy of the congestion controller.
    pub fn congestion_state(&self) -> Box<dyn Controller> {
        self.links.home.quic.congestion_state()
    }

    /// Makes new keys for packets now, of all those that will be made (RFC 9001 §6).
    pub fn force_key_update(&mut self) {
        self.links.home.quic.force_key_update();
        self.unsettled = true;
    }

    /// Fills `output` with bytes that only the two ends of the connection can know (RFC 8446 §7.5).
    ///
    /// # Errors
    /// - [`ExportKeyingMaterialError`] if `output` is longer than TLS gives, or before the handshake is done.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.links.home.quic.export_keying_material(output, label, context)
    }

    /// Permits the peer `count` streams at once in `dir`, if it is not permitted more yet; see
    /// [`TransportConfig::max_concurrent_bidi_streams`](crate::TransportConfig::max_concurrent_bidi_streams).
    pub fn set_max_concurrent_streams(&mut self, dir: Dir, count: u64) {
        let transport = Arc::make_mut(&mut self.transport);
        match dir {
            Dir::Bi => transport.bidi_streams = Some(count),
            Dir::Uni => transport.uni_streams = Some(count),
        }
        self.permit_again();
    }

    /// Replaces [`TransportConfig::receive_window`](crate::TransportConfig::receive_window): the number of streams grows no
    /// further than fits it.
    pub fn set_receive_window(&mut self, bytes: u64) {
        Arc::make_mut(&mut self.transport).receive_window = bytes;
    }

    /// Returns the congestion window of this connection, in bytes.
    pub(crate) fn congestion_window(&self) -> u64 {
        self.links.home.quic.congestion_window()
    }

    /// Replaces [`TransportConfig::send_window`](crate::TransportConfig::send_window) of this connection.
    pub fn set_send_window(&mut self, bytes: u64) {
        self.links.home.quic.set_send_window(bytes);
        self.unsettled = true;
    }
}
