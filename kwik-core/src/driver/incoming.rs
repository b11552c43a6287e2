//! Sessions that are not there yet: dialled, or asked for by a client.

use std::{
    any::Any,
    convert::Infallible,
    fmt,
    future::{Future, IntoFuture},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    connection::Connection,
    error::RetryError,
    primary::PrimarySession,
    secondary::SecondarySession,
    session::{Key, SessionRef, Slot, State, is_secondary},
};
use crate::{
    config::ServerConfig, endpoint as core, error::ConnectionError, quic::ConnectionId,
    session::HandshakeData,
};

/// A session being set up. Resolves when the peer is authenticated and the hello is done.
///
/// Dropping it closes the session.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Connecting {
    session: SessionRef,
    slot: Slot,
}

impl Connecting {
    pub(super) fn new(session: SessionRef) -> Self {
        let slot = Slot::new(session.shared(), Key::Connected);
        Self { session, slot }
    }

    /// Waits for what the TLS handshake tells before it is complete: a
    /// [`HandshakeData`](crate::crypto::rustls::HandshakeData). The application protocol is not in it: the hello comes later.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended first.
    pub async fn handshake_data(&mut self) -> Result<Box<dyn Any>, ConnectionError> {
        self.session
            .wait(Key::HandshakeData, |s| match s.core.handshake_data() {
                Some(data) => Some(Ok(data)),
                None => s.error.clone().map(Err),
            })
            .await
            .map(boxed)
    }

    /// Gives this back: KWIK sends nothing before the handshake is done, as that can be replayed.
    ///
    /// # Errors
    /// Always; await what it gives back.
    pub fn into_0rtt(self) -> Result<(Connection, ZeroRttAccepted), Self> {
        Err(self)
    }

    /// Returns the address the peer reached us at, where known.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.session.with(|s| s.core.local_ip())
    }

    /// Returns the peer's address.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.session.with(|s| s.core.remote_address())
    }

    /// Waits for the session in whichever role the client asked for.
    async fn any(mut self) -> Result<Accepted, ConnectionError> {
        let secondary = std::future::poll_fn(|cx| {
            self.slot.poll(cx, |s| match (s.connected, &s.error) {
                (true, _) => Some(Ok(is_secondary(s))),
                (false, Some(error)) => Some(Err(error.clone())),
                (false, None) => None,
            })
        })
        .await?;
        let session = self.session.clone();
        Ok(if secondary {
            Accepted::Secondary(SecondarySession::new(session))
        } else {
            Accepted::Primary(PrimarySession::new(session))
        })
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let session = &this.session;
        this.slot.poll(cx, connected).map(|connected| connected.map(|()| Connection::new(session.clone())))
    }
}

/// Tells whether the server took what was sent before the handshake was done. There is none, as nothing is.
#[derive(Debug)]
pub struct ZeroRttAccepted(Infallible);

impl Future for ZeroRttAccepted {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<bool> {
        match self.0 {}
    }
}

/// The results of a handshake in quinn's shape.
pub(super) fn boxed(data: HandshakeData) -> Box<dyn Any> {
    let protocol = data.protocol.map(Into::into);
    Box::new(crate::crypto::rustls::HandshakeData { protocol, server_name: data.server_name })
}

/// Returns whether the session is there, and no one's secondary.
fn connected(s: &mut State) -> Option<Result<(), ConnectionError>> {
    match (s.connected, &s.error) {
        (true, _) if is_secondary(s) => Some(Err(s.refuse_role())),
        (true, _) => Some(Ok(())),
        (false, Some(error)) => Some(Err(error.clone())),
        (false, None) => None,
    }
}

/// A session that a server accepted, in the role that the client's hello asked for.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a server has these two roles")]
pub enum Accepted {
    /// This server owns the session.
    Primary(PrimarySession),
    /// This server fills ranges for a session that another server owns.
    Secondary(SecondarySession),
}

/// Services of an endpoint for a client that waits.
pub(super) trait Host: Send + Sync {
    fn accept(
        &self,
        incoming: core::Incoming,
        config: Option<Arc<ServerConfig>>,
    ) -> Result<SessionRef, ConnectionError>;
    fn refuse(&self, incoming: core::Incoming);
    fn retry(&self, incoming: core::Incoming) -> Result<(), Box<core::Incoming>>;
    fn ignore(&self, incoming: core::Incoming);
}

/// A client that asks for a session. Await it, or decide otherwise; dropping it refuses.
///
/// Awaiting yields a [`Connection`] and refuses clients that want a secondary, with `INVALID_STREAM_ROLE`. Spec: RATIONALE §3.
#[must_use = "dropping it refuses the client"]
pub struct Incoming {
    inner: Option<core::Incoming>,
    host: Box<dyn Host>,
    remote_address: SocketAddr,
    remote_address_validated: bool,
    local_ip: Option<IpAddr>,
    may_retry: bool,
    orig_dst_cid: ConnectionId,
}

impl Incoming {
    pub(super) fn new(inner: core::Incoming, host: Box<dyn Host>) -> Self {
        Self {
            remote_address: inner.remote_address(),
            remote_address_validated: inner.remote_address_validated(),
            local_ip: inner.local_ip(),
            may_retry: inner.may_retry(),
            orig_dst_cid: inner.orig_dst_cid(),
            inner: Some(inner),
            host,
        }
    }

    /// Goes on with the handshake.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the client's first flight is unusable.
    pub fn accept(mut self) -> Result<Connecting, ConnectionError> {
        match self.inner.take() {
            Some(inner) => self.host.accept(inner, None).map(Connecting::new),
            None => Err(ConnectionError::LocallyClosed),
        }
    }

    /// Goes on with the handshake, with settings for this client alone. Limits of the whole endpoint stay as they are.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the client's first flight is unusable, or the settings are.
    pub fn accept_with(mut self, server_config: Arc<ServerConfig>) -> Result<Connecting, ConnectionError> {
        match self.inner.take() {
            Some(inner) => self.host.accept(inner, Some(server_config)).map(Connecting::new),
            None => Err(ConnectionError::LocallyClosed),
        }
    }

    /// Goes on with the handshake and serves either role.
    ///
    /// # Errors
    /// - [`ConnectionError`] if the session ended before the hello was accepted.
    pub async fn accept_any(self) -> Result<Accepted, ConnectionError> {
        self.accept()?.any().await
    }

    /// Turns the client away.
    pub fn refuse(mut self) {
        self.refuse_now();
    }

    /// Makes the client prove its address first; it will come back as another `Incoming`.
    ///
    /// # Errors
    /// - [`RetryError`] if it has done so already; the error gives this attempt back.
    pub fn retry(mut self) -> Result<(), RetryError> {
        match self.inner.take().map(|inner| self.host.retry(inner)) {
            Some(Err(inner)) => {
                self.inner = Some(*inner);
                Err(RetryError(Box::new(self)))
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Leaves the client without an answer.
    pub fn ignore(mut self) {
        if let Some(inner) = self.inner.take() {
            self.host.ignore(inner);
        }
    }

    /// Returns the address the client reached us at, where known.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip
    }

    /// Returns the client's address; it may be forged unless [`Self::remote_address_validated`].
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }

    /// Returns whether the client has proved that it receives at its address.
    #[must_use]
    pub fn remote_address_validated(&self) -> bool {
        self.remote_address_validated
    }

    /// Returns the destination id of the client's first packet.
    #[must_use]
    pub fn orig_dst_cid(&self) -> ConnectionId {
        self.orig_dst_cid
    }

    /// Returns whether [`Self::retry`] will work.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.may_retry
    }

    fn refuse_now(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.host.refuse(inner);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.refuse_now();
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("remote_address", &self.remote_address).finish_non_exhaustive()
    }
}

impl IntoFuture for Incoming {
    type Output = Result<Connection, ConnectionError>;
    type IntoFuture = IncomingFuture;

    fn into_future(self) -> IncomingFuture {
        IncomingFuture(self.accept())
    }
}

/// Future behind awaiting an [`Incoming`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct IncomingFuture(Result<Connecting, ConnectionError>);

impl Future for IncomingFuture {
    type Output = Result<Connection, ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Ok(connecting) => Pin::new(connecting).poll(cx),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}
