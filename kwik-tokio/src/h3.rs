//! HTTP/3: the QUIC traits of the crate `h3`, under the names that `h3-quinn` has for quinn.
//!
//! A client or server written for `h3-quinn` changes its `use`, and what makes its endpoint:
//!
//! ```no_run
//! use kwik_tokio::{Endpoint, h3 as h3_quinn};
//!
//! # async fn fetch(endpoint: Endpoint, address: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! let connection = endpoint.connect(address, "example.org")?.await?;
//! let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
//! # let _ = (&mut driver, &mut requests);
//! # Ok(())
//! # }
//! ```
//!
//! The TLS configurations of both ends name the protocol, `h3`, as ever. Responses are streams like any other: a primary's
//! [`SendStream`](crate::SendStream) may be split, one of h3's goes the native way.
#![expect(clippy::wildcard_enum_match_arm, reason = "what h3 has no name for is handed over as it is")]

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use bytes::{Buf, Bytes};

pub use crate::{self as quinn, AcceptBi, AcceptUni, Endpoint, OpenBi, OpenUni, VarInt};

/// A connection for `h3::client` and `h3::server`.
pub struct Connection {
    opening: OpenStreams,
    accepting_bi: Waiting<(crate::SendStream, crate::RecvStream)>,
    accepting_uni: Waiting<crate::RecvStream>,
}

impl Connection {
    /// Wraps a connection, whichever end of it this is.
    #[must_use]
    pub fn new(connection: crate::Connection) -> Self {
        Self {
            opening: OpenStreams::new(connection),
            accepting_bi: Waiting::default(),
            accepting_uni: Waiting::default(),
        }
    }
}

impl<B: Buf> quic::Connection<B> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = OpenStreams;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let connection = &self.opening.connection;
        let accepted = self.accepting_uni.poll(cx, connection, |c| async move { c.accept_uni().await });
        accepted.map_ok(RecvStream).map_err(lost)
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream<B>, ConnectionErrorIncoming>> {
        let connection = &self.opening.connection;
        let accepted = self.accepting_bi.poll(cx, connection, |c| async move { c.accept_bi().await });
        accepted.map_ok(BidiStream::new).map_err(lost)
    }

    fn opener(&self) -> OpenStreams {
        self.opening.clone()
    }
}

impl<B: Buf> quic::OpenStreams<B> for Connection {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream<B>, StreamErrorIncoming>> {
        self.opening.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        self.opening.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<B>::close(&mut self.opening, code, reason);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.opening.connection).finish()
    }
}

/// Opens streams of a connection. Clones open them of the same one.
pub struct OpenStreams {
    connection: crate::Connection,
    opening_bi: Waiting<(crate::SendStream, crate::RecvStream)>,
    opening_uni: Waiting<crate::SendStream>,
}

impl OpenStreams {
    fn new(connection: crate::Connection) -> Self {
        Self { connection, opening_bi: Waiting::default(), opening_uni: Waiting::default() }
    }
}

impl Clone for OpenStreams {
    fn clone(&self) -> Self {
        Self::new(self.connection.clone())
    }
}

impl<B: Buf> quic::OpenStreams<B> for OpenStreams {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream<B>, StreamErrorIncoming>> {
        let opened = self.opening_bi.poll(cx, &self.connection, |c| async move { c.open_bi().await });
        opened.map_ok(BidiStream::new).map_err(stream_lost)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        let opened = self.opening_uni.poll(cx, &self.connection, |c| async move { c.open_uni().await });
        opened.map_ok(SendStream::new).map_err(stream_lost)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

impl fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenStreams").field(&self.connection).finish()
    }
}

/// Both halves of a stream.
#[derive(Debug)]
pub struct BidiStream<B: Buf> {
    send: SendStream<B>,
    recv: RecvStream,
}

impl<B: Buf> BidiStream<B> {
    fn new((send, recv): (crate::SendStream, crate::RecvStream)) -> Self {
        Self { send: SendStream::new(send), recv: RecvStream(recv) }
    }
}

impl<B: Buf> quic::BidiStream<B> for BidiStream<B> {
    type SendStream = SendStream<B>;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream<B>, RecvStream) {
        (self.send, self.recv)
    }
}

impl<B: Buf> quic::RecvStream for BidiStream<B> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl<B: Buf> quic::SendStream<B> for BidiStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl<B: Buf> quic::SendStreamUnframed<B> for BidiStream<B> {
    fn poll_send<D: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut D,
    ) -> Poll<Result<usize, StreamErrorIncoming>> {
        self.send.poll_send(cx, buf)
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct RecvStream(crate::RecvStream);

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = self.0.poll_read_chunk(cx, usize::MAX, true);
        read.map_ok(|chunk| chunk.map(|chunk| chunk.bytes)).map_err(|error| match error {
            crate::ReadError::Reset(code) => terminated(code),
            crate::ReadError::ConnectionLost(error) => stream_lost(error),
            error => StreamErrorIncoming::Unknown(Box::new(error)),
        })
    }

    fn stop_sending(&mut self, error_code: u64) {
        // Stopped or read to its end before: then nobody sends.
        self.0.stop(varint(error_code)).unwrap_or_default();
    }

    fn recv_id(&self) -> StreamId {
        id(self.0.id())
    }
}

/// The sending half of a stream.
pub struct SendStream<B: Buf> {
    stream: crate::SendStream,
    /// Bytes that the stream has not taken yet.
    unsent: Option<WriteBuf<B>>,
}

impl<B: Buf> SendStream<B> {
    const fn new(stream: crate::SendStream) -> Self {
        Self { stream, unsent: None }
    }
}

impl<B: Buf> quic::SendStream<B> for SendStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.unsent.as_mut().filter(|data| data.has_remaining()) {
            ready!(write_some(&mut self.stream, cx, data))?;
        }
        self.unsent = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.unsent.is_some() {
            return Err(not_ready());
        }
        self.unsent = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(quic::SendStream::poll_ready(self, cx))?;
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        // Reset before, or all of it has arrived: then there is nothing to give up.
        self.stream.reset(varint(reset_code)).unwrap_or_default();
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl<B: Buf> quic::SendStreamUnframed<B> for SendStream<B> {
    fn poll_send<D: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut D,
    ) -> Poll<Result<usize, StreamErrorIncoming>> {
        if self.unsent.is_some() {
            return Poll::Ready(Err(not_ready()));
        }
        write_some(&mut self.stream, cx, buf)
    }
}

impl<B: Buf> fmt::Debug for SendStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendStream").field(&self.stream).finish()
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, crate::ConnectionError>> + Send + Sync>>;

/// A future of a connection, kept from one poll to the next: h3 asks by polling, and a future that was dropped would not
/// wake it.
struct Waiting<T>(Option<Boxed<T>>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Waiting<T> {
    fn poll<F>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &crate::Connection,
        begin: impl FnOnce(crate::Connection) -> F,
    ) -> Poll<Result<T, crate::ConnectionError>>
    where
        F: Future<Output = Result<T, crate::ConnectionError>> + Send + Sync + 'static,
    {
        let future = self.0.get_or_insert_with(|| Box::pin(begin(connection.clone())));
        let made = ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(made)
    }
}

/// Writes some of `buf`, and advances it by what was taken.
fn write_some(
    stream: &mut crate::SendStream,
    cx: &mut Context<'_>,
    buf: &mut impl Buf,
) -> Poll<Result<usize, StreamErrorIncoming>> {
    let written = ready!(Pin::new(stream).poll_write(cx, buf.chunk())).map_err(|error| match error {
        crate::WriteError::Stopped(code) => terminated(code),
        crate::WriteError::ConnectionLost(error) => stream_lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    })?;
    buf.advance(written);
    Poll::Ready(Ok(written))
}

/// A call of h3's that its own rules forbid: it closes the connection for it.
fn not_ready() -> StreamErrorIncoming {
    let connection_error = ConnectionErrorIncoming::InternalError("the stream is not ready".to_owned());
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn terminated(code: crate::ErrorCode) -> StreamErrorIncoming {
    StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
}

fn stream_lost(error: crate::ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
}

fn lost(error: crate::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        crate::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        crate::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

/// A code of h3's, which are all small enough.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(stream: crate::StreamId) -> StreamId {
    StreamId::try_from(u64::from(stream)).expect("both count up to 2^62")
}
