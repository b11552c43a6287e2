//! One QUIC connection, with every byte of quinn-proto's types kept on this side of the wall.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{ConnectionHandle, ReadError, ReadableError, SendDatagramError, WriteError};
use rustls_pki_types::CertificateDer;

use super::{
    congestion::Controller,
    crypto::ExportKeyingMaterialError,
    event::{self, DatagramEnd, Event, ReadEnd, WriteEnd, to_dir, to_id, varint},
};
use crate::{
    action::{Chunk, Transmit},
    error::ErrorCode,
    id::{Dir, PathId, StreamId},
    limits,
    stats::{FrameStats, PathStats, UdpStats},
};

/// A datagram or new identifiers for one connection.
#[derive(Debug)]
pub(crate) struct ConnectionEvent(pub(super) quinn_proto::ConnectionEvent);

/// Message of one connection to its endpoint.
#[derive(Debug)]
pub(crate) struct EndpointEvent(pub(super) quinn_proto::EndpointEvent);

impl EndpointEvent {
    /// Says that the connection is gone without having drained.
    pub(crate) fn drained() -> Self {
        Self(quinn_proto::EndpointEvent::drained())
    }

    /// Returns whether this is the connection's last event.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.is_drained()
    }
}

/// Extent of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Bytes taken.
    pub bytes: usize,
    /// Chunks taken whole; the one after them is advanced past what was taken of it.
    pub chunks: usize,
}

/// Counters of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub(crate) udp_tx: UdpStats,
    pub(crate) udp_rx: UdpStats,
    pub(crate) frame_tx: FrameStats,
    pub(crate) frame_rx: FrameStats,
}

/// One connection. Its documented poll order is quinn-proto's: endpoint events, transmits, timeout, events.
pub(crate) struct Connection {
    inner: quinn_proto::Connection,
    handle: ConnectionHandle,
    send_window: u64,
    /// Reading has queued something to send since the last empty `poll_transmit`.
    read_wants_transmit: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        mut inner: quinn_proto::Connection,
        handle: ConnectionHandle,
        send_window: u64,
    ) -> Self {
        inner.set_send_window(send_window);
        Self { inner, handle, send_window, read_wants_transmit: false }
    }

    /// Name of this connection at the endpoint.
    pub(crate) fn key(&self) -> usize {
        self.handle.0
    }

    pub(crate) fn handle_event(&mut self, event: ConnectionEvent) {
        self.inner.handle_event(event.0);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.inner.handle_timeout(now);
    }

    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let transmit = self.inner.poll_transmit(now, max_datagrams.max(1), buf).map(event::transmit);
        self.read_wants_transmit &= transmit.is_some();
        transmit
    }

    /// Returns whether reading has queued something to send, such as a window update.
    pub(crate) fn wants_transmit(&self) -> bool {
        self.read_wants_transmit
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    pub(crate) fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.inner.poll_endpoint_events().map(EndpointEvent)
    }

    pub(crate) fn poll(&mut self) -> Option<Event> {
        self.inner.poll().map(Event::from)
    }

    pub(crate) fn close(&mut self, now: Instant, code: ErrorCode, reason: Bytes) {
        self.inner.close(now, varint(code.into_inner()), reason);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.inner.is_drained()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    pub(crate) fn open(&mut self, dir: Dir) -> Option<StreamId> {
        self.inner.streams().open(to_dir(dir)).map(event::from_id)
    }

    pub(crate) fn accept(&mut self, dir: Dir) -> Option<StreamId> {
        self.inner.streams().accept(to_dir(dir)).map(event::from_id)
    }

    /// Streams of the peer that are open, accepted or not.
    pub(crate) fn remote_open_streams(&mut self, dir: Dir) -> u64 {
        self.inner.streams().remote_open_streams(to_dir(dir))
    }

    pub(crate) fn set_max_concurrent_streams(&mut self, dir: Dir, count: u64) {
        self.inner.set_max_concurrent_streams(to_dir(dir), varint(count));
    }

    pub(crate) fn set_receive_window(&mut self, bytes: u64) {
        self.inner.set_receive_window(varint(bytes));
    }

    /// Writes application bytes, leaving [`limits::CONTROL_RESERVE`] of the send window for control.
    pub(crate) fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<Written, WriteEnd> {
        match self.inner.send_stream(to_id(stream)).write_chunks(chunks) {
            Ok(written) => Ok(Written { bytes: written.bytes, chunks: written.chunks }),
            Err(WriteError::Blocked) => Err(WriteEnd::Blocked),
            Err(WriteError::ClosedStream) => Err(WriteEnd::Closed),
            Err(WriteError::Stopped(code)) => Err(WriteEnd::Stopped(event::code(code))),
        }
    }

    /// Writes control bytes, which may use the part of the send window that application bytes leave free.
    pub(crate) fn write_control(
        &mut self,
        stream: StreamId,
        bytes: &mut [Bytes],
    ) -> Result<Written, WriteEnd> {
        self.inner.set_send_window(self.send_window.saturating_add(limits::CONTROL_RESERVE));
        let written = self.write(stream, bytes);
        self.inner.set_send_window(self.send_window);
        written
    }

    /// Returns whether the stream was there to finish.
    pub(crate) fn finish(&mut self, stream: StreamId) -> bool {
        self.inner.send_stream(to_id(stream)).finish().is_ok()
    }

    /// Returns whether the stream was there to reset.
    pub(crate) fn reset(&mut self, stream: StreamId, code: ErrorCode) -> bool {
        self.inner.send_stream(to_id(stream)).reset(varint(code.into_inner())).is_ok()
    }

    pub(crate) fn set_priority(&mut self, stream: StreamId, priority: i32) -> bool {
        self.inner.send_stream(to_id(stream)).set_priority(priority).is_ok()
    }

    /// `None` once the stream is closed; otherwise the code the peer stopped it with, if it did.
    pub(crate) fn stopped(&mut self, stream: StreamId) -> Option<Option<ErrorCode>> {
        self.inner.send_stream(to_id(stream)).stopped().ok().map(|code| code.map(event::code))
    }

    /// Reads one chunk of at most `max_len` bytes.
    pub(crate) fn read(&mut self, stream: StreamId, max_len: usize, ordered: bool) -> Result<Chunk, ReadEnd> {
        let mut recv = self.inner.recv_stream(to_id(stream));
        let mut chunks = recv.read(ordered).map_err(unreadable)?;
        let read = match chunks.next(max_len) {
            Ok(Some(chunk)) => {
                Ok(Chunk { offset: chunk.offset, bytes: chunk.bytes, source: Some(PathId::PRIMARY) })
            }
            Ok(None) => Err(ReadEnd::Finished),
            Err(ReadError::Blocked) => Err(ReadEnd::Blocked),
            Err(ReadError::Reset(code)) => Err(ReadEnd::Reset(event::code(code))),
        };
        self.read_wants_transmit |= chunks.finalize().should_transmit();
        read
    }

    /// The code the peer reset the stream with, if it did; the stream is forgotten then.
    pub(crate) fn received_reset(&mut self, stream: StreamId) -> Option<ErrorCode> {
        self.inner.recv_stream(to_id(stream)).received_reset().ok().flatten().map(event::code)
    }

    /// Returns whether the stream is open, or the peer may open it now.
    pub(crate) fn may_receive(&mut self, stream: StreamId) -> bool {
        // Without a chunk taken, looking is all that reading does.
        self.inner.recv_stream(to_id(stream)).read(true).is_ok()
    }

    /// Reads on in order, chunk by chunk, until nothing is left or `take` returns `false`.
    pub(crate) fn read_all(&mut self, stream: StreamId, mut take: impl FnMut(Bytes) -> bool) -> ReadEnd {
        let mut recv = self.inner.recv_stream(to_id(stream));
        let mut chunks = match recv.read(true) {
            Ok(chunks) => chunks,
            Err(error) => return unreadable(error),
        };
        let end = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    if !take(chunk.bytes) {
                        break ReadEnd::Blocked;
                    }
                }
                Ok(None) => break ReadEnd::Finished,
                Err(ReadError::Blocked) => break ReadEnd::Blocked,
                Err(ReadError::Reset(code)) => break ReadEnd::Reset(event::code(code)),
            }
        };
        self.read_wants_transmit |= chunks.finalize().should_transmit();
        end
    }

    /// Returns whether the stream was there to stop.
    pub(crate) fn stop(&mut self, stream: StreamId, code: ErrorCode) -> bool {
        self.read_wants_transmit = true;
        self.inner.recv_stream(to_id(stream)).stop(varint(code.into_inner())).is_ok()
    }

    pub(crate) fn datagram_send(&mut self, data: Bytes, drop: bool) -> Result<(), DatagramEnd> {
        self.inner.datagrams().send(data, drop).map_err(|error| match error {
            SendDatagramError::UnsupportedByPeer => DatagramEnd::Unsupported,
            SendDatagramError::Disabled => DatagramEnd::Disabled,
            SendDatagramError::TooLarge => DatagramEnd::TooLarge,
            SendDatagramError::Blocked(data) => DatagramEnd::Blocked(data),
        })
    }

    pub(crate) fn datagram_recv(&mut self) -> Option<Bytes> {
        self.inner.datagrams().recv()
    }

    pub(crate) fn datagram_max_size(&mut self) -> Option<usize> {
        self.inner.datagrams().max_size()
    }

    pub(crate) fn datagram_send_buffer_space(&mut self) -> usize {
        self.inner.datagrams().send_buffer_space()
    }

    /// Makes the next packet ask for an acknowledgement.
    pub(crate) fn ping(&mut self) {
        self.inner.ping();
    }

    /// Takes a new connection id of the peer's where there is one, and makes the next packet ask for an acknowledgement.
    pub(crate) fn local_address_changed(&mut self) {
        self.inner.local_address_changed();
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    /// Bytes that may be under way.
    pub(crate) fn congestion_window(&self) -> u64 {
        self.inner.congestion_state().window()
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.inner.local_ip()
    }

    /// Counts decrypted frames that only a live peer can have sent: the sign of life of PROTOCOL §8.4.
    pub(crate) fn frames_heard(&self) -> u64 {
        let rx = self.inner.stats().frame_rx;
        [
            rx.acks,
            rx.crypto,
            rx.connection_close,
            rx.data_blocked,
            rx.datagram,
            rx.max_data,
            rx.max_stream_data,
            rx.max_streams_bidi,
            rx.max_streams_uni,
            rx.new_connection_id,
            rx.new_token,
            rx.path_challenge,
            rx.path_response,
            rx.ping,
            rx.reset_stream,
            rx.retire_connection_id,
            rx.stop_sending,
            rx.stream,
            rx.stream_data_blocked,
            rx.streams_blocked_bidi,
            rx.streams_blocked_uni,
        ]
        .iter()
        .fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// Counts acknowledgement frames received: a change may carry a new round-trip sample.
    pub(crate) fn acks_heard(&self) -> u64 {
        self.inner.stats().frame_rx.acks
    }

    pub(crate) fn stats(&self) -> PathStats {
        let stats = self.inner.stats();
        PathStats {
            remote: Some(self.remote_address()),
            rtt: stats.path.rtt,
            min_rtt: stats.path.min_rtt,
            cwnd: stats.path.cwnd,
            congestion_events: stats.path.congestion_events,
            lost_packets: stats.path.lost_packets,
            lost_bytes: stats.path.lost_bytes,
            sent_packets: stats.path.sent_packets,
            sent_plpmtud_probes: stats.path.sent_plpmtud_probes,
            lost_plpmtud_probes: stats.path.lost_plpmtud_probes,
            black_holes_detected: stats.path.black_holes_detected,
            current_mtu: stats.path.current_mtu,
            udp_tx_bytes: stats.udp_tx.bytes,
            udp_tx_datagrams: stats.udp_tx.datagrams,
            udp_tx_ios: stats.udp_tx.ios,
            udp_rx_bytes: stats.udp_rx.bytes,
            udp_rx_datagrams: stats.udp_rx.datagrams,
            udp_rx_ios: stats.udp_rx.ios,
        }
    }

    /// Counters of datagrams and frames, sent and received.
    pub(crate) fn counters(&self) -> Counters {
        let stats = self.inner.stats();
        Counters {
            udp_tx: udp(&stats.udp_tx),
            udp_rx: udp(&stats.udp_rx),
            frame_tx: stats.frame_tx.into(),
            frame_rx: stats.frame_rx.into(),
        }
    }

    pub(crate) fn min_rtt(&self) -> Duration {
        self.inner.min_rtt()
    }

    pub(crate) fn congestion_state(&self) -> Box<dyn Controller> {
        self.inner.congestion_state().clone_box()
    }

    pub(crate) fn force_key_update(&mut self) {
        self.inner.force_key_update();
    }

    pub(crate) fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.crypto_session().export_keying_material(output, label, context)
    }

    pub(crate) fn set_send_window(&mut self, bytes: u64) {
        self.send_window = bytes;
        self.inner.set_send_window(bytes);
    }

    /// The ALPN that TLS agreed on, and the name the client asked for (servers only).
    pub(crate) fn handshake_data(&self) -> Option<(Option<Vec<u8>>, Option<String>)> {
        let data = self.inner.crypto_session().handshake_data()?;
        let data = data.downcast::<quinn_proto::crypto::rustls::HandshakeData>().ok()?;
        Some((data.protocol, data.server_name))
    }

    /// Returns whether TLS agreed on KWIK: it lets a peer without any ALPN pass.
    pub(crate) fn speaks_kwik(&self) -> bool {
        self.handshake_data().is_some_and(|(protocol, _)| protocol.as_deref() == Some(limits::ALPN))
    }

    /// The peer's certificates, its own first, once the handshake has them.
    pub(crate) fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        let identity = self.inner.crypto_session().peer_identity()?;
        identity.downcast::<Vec<CertificateDer<'static>>>().ok().map(|certificates| *certificates)
    }

    /// 32 bytes that only the two ends of this connection can know (RFC 8446 §7.5).
    pub(crate) fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        self.inner.crypto_session().export_keying_material(&mut out, label, b"").ok()?;
        Some(out)
    }
}

const fn udp(stats: &quinn_proto::UdpStats) -> UdpStats {
    UdpStats { datagrams: stats.datagrams, bytes: stats.bytes, ios: stats.ios }
}

fn unreadable(error: ReadableError) -> ReadEnd {
    match error {
        ReadableError::ClosedStream => ReadEnd::Closed,
        ReadableError::IllegalOrderedRead => ReadEnd::IllegalOrder,
    }
}
