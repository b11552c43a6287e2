//! The endpoint: one socket, many sessions.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use super::{
    hub::{Bound, EndpointRef, Key, Slot},
    incoming::{Connecting, Incoming},
    receive::EndpointDriver,
    runtime::{Runtime, Socket as _},
    session::SessionRef,
    task::off_socket,
};
use crate::{
    admission::AdmissionStats,
    config::{ClientConfig, EndpointConfig, ServerConfig},
    endpoint as core,
    error::{ConfigError, ConnectError, ConnectionError, ErrorCode},
};

/// A KWIK endpoint: one UDP socket, and any number of sessions on it, dialled and accepted.
///
/// Clones name the same endpoint. When the last clone and the last session are gone, the socket is closed.
pub struct Endpoint<R: Runtime> {
    inner: EndpointRef<R>,
    default_client_config: Option<ClientConfig>,
}

impl<R: Runtime> Endpoint<R> {
    /// Opens an endpoint that only dials. `addr` is the local address, usually a wildcard such as `0.0.0.0:0` or `[::]:0`.
    ///
    /// # Errors
    /// - Any, if the caller runs in no such runtime or the socket cannot be bound.
    pub fn client(addr: SocketAddr) -> io::Result<Self> {
        let runtime = R::current()?;
        let socket = runtime.bind(addr)?;
        Self::new_from_socket(None, socket, runtime)
    }

    /// Opens an endpoint at the local address `addr` that accepts, and may dial too.
    ///
    /// # Errors
    /// - [`io::ErrorKind::InvalidInput`] if the configuration is impossible.
    /// - Any, if the caller runs in no such runtime or the socket cannot be bound.
    pub fn server(config: ServerConfig, addr: SocketAddr) -> io::Result<Self> {
        let runtime = R::current()?;
        let socket = runtime.bind(addr)?;
        Self::new_from_socket(Some(config), socket, runtime)
    }

    /// Opens an endpoint on a socket; it accepts if `server` is given.
    ///
    /// # Errors
    /// - [`io::ErrorKind::InvalidInput`] if the configuration is impossible.
    /// - Any, if the system yields no entropy or the socket has no address.
    pub fn new_from_socket(server: Option<ServerConfig>, socket: R::Socket, runtime: R) -> io::Result<Self> {
        Self::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(runtime))
    }

    /// Opens an endpoint on a bound UDP socket; it accepts if `server_config` is given.
    ///
    /// # Errors
    /// - As [`Self::new_from_socket`], and whatever the operating system says.
    #[expect(clippy::disallowed_types, reason = "quinn's signature: it goes to the runtime as it comes")]
    pub fn new(
        config: EndpointConfig,
        server_config: Option<ServerConfig>,
        socket: std::net::UdpSocket,
        runtime: Arc<R>,
    ) -> io::Result<Self> {
        let socket = runtime.wrap_udp_socket(socket)?;
        Self::new_with_abstract_socket(config, server_config, socket, runtime)
    }

    /// Opens an endpoint on a socket of the runtime's; it accepts if `server_config` is given.
    ///
    /// # Errors
    /// - As [`Self::new_from_socket`].
    pub fn new_with_abstract_socket(
        config: EndpointConfig,
        server_config: Option<ServerConfig>,
        socket: R::Socket,
        runtime: Arc<R>,
    ) -> io::Result<Self> {
        let seed = runtime.seed()?;
        let backlog_max = server_config.as_ref().map(|server| server.backlog_max);
        let (now, whole) = (runtime.now(), !socket.may_fragment());
        let mut core = core::Endpoint::with_config(config, seed, now, server_config, whole)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let bound = Bound::new(socket, 0, &mut core)?;
        let inner = EndpointRef::new(core, bound.clone(), runtime);
        backlog_max.into_iter().for_each(|max| inner.configure(max));
        inner.runtime.spawn(EndpointDriver::new((*inner).clone(), bound));
        Ok(Self { inner, default_client_config: None })
    }

    /// Sets the configuration that [`Self::connect`] uses, for this handle and its later clones.
    pub fn set_default_client_config(&mut self, config: ClientConfig) {
        self.default_client_config = Some(config);
    }

    /// Replaces the configuration for clients to come; `None` accepts no more.
    ///
    /// # Errors
    /// - [`ConfigError`] if the configuration is impossible; the old one stays.
    pub fn set_server_config(&self, server: Option<ServerConfig>) -> Result<(), ConfigError> {
        // What is in either is the application's, and so is the code that is run when it is dropped: not under the lock.
        let new = server.clone();
        let old = self.inner.with(|e| e.core.replace_server_config(server));
        if let (Ok(_), Some(server)) = (&old, &new) {
            self.inner.configure(server.backlog_max);
        }
        drop(new);
        old.map(drop)
    }

    /// Dials `addr`, whose certificate must be valid for `server_name`.
    ///
    /// # Errors
    /// - [`ConnectError::NoDefaultClientConfig`] if [`Self::set_default_client_config`] was not called.
    /// - As [`Self::connect_with`].
    pub fn connect(&self, addr: SocketAddr, server_name: &str) -> Result<Connecting, ConnectError> {
        let config = self.default_client_config.clone().ok_or(ConnectError::NoDefaultClientConfig)?;
        self.connect_with(config, addr, server_name)
    }

    /// Dials `addr` with a configuration of its own.
    ///
    /// # Errors
    /// - [`ConnectError::Config`] if the settings are impossible.
    /// - [`ConnectError::EndpointStopping`] after [`Self::close`], or if the socket is lost.
    /// - [`ConnectError::InvalidRemoteAddress`] if the socket cannot reach such an address.
    /// - [`ConnectError::InvalidServerName`] if no certificate can be valid for the name.
    /// - Others of [`ConnectError`] as quinn has them.
    pub fn connect_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        server_name: &str,
    ) -> Result<Connecting, ConnectError> {
        let kept = config.clone(); // were it refused, it would be dropped under the lock
        let made = self.inner.with(|e| {
            let Some(bound) = e.bound.clone().filter(|_| e.close.is_none()) else {
                return Err(ConnectError::EndpointStopping);
            };
            let now = self.inner.runtime.now();
            let (handle, core) = e.core.connect(now, config, off_socket(addr), server_name)?;
            e.stats.outgoing_handshakes += 1;
            let session = SessionRef::dialled(core, self.inner.runtime.clone());
            e.sessions.insert(handle, session.shared());
            Ok((handle, session, bound))
        });
        drop(kept);
        let (handle, session, bound) = made?;
        self.inner.drive(handle, &session, bound);
        Ok(Connecting::new(session))
    }

    /// Waits for the next client; `None` once the endpoint is closed. May be called from many tasks.
    pub fn accept(&self) -> Accept<'_, R> {
        Accept { endpoint: &self.inner, slot: Slot::new(&self.inner, Key::Incoming) }
    }

    /// Returns the address the socket is bound to.
    ///
    /// # Errors
    /// - [`io::ErrorKind::NotConnected`] after [`Self::abort`], or if the socket is lost.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.inner.with(|e| e.bound.clone()) {
            Some(bound) => bound.socket.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Goes over to another UDP socket, such as one on another network, without ending a session.
    ///
    /// The connections of clients follow at once, those to servers that the new socket does not reach are lost in time. Who
    /// has connected to this endpoint finds it no more unless the new socket has the old one's address. What still comes to
    /// the old socket is read until something has come to the new one. May be called at any time.
    /// Spec: RATIONALE §8, "Moving".
    ///
    /// # Errors
    /// - [`io::ErrorKind::NotConnected`] after [`Self::abort`], or if the socket is lost.
    /// - Whatever the operating system says; the old socket stays then.
    #[expect(clippy::disallowed_types, reason = "quinn's signature: it goes to the runtime as it comes")]
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        self.rebind_abstract(self.inner.runtime.wrap_udp_socket(socket)?)
    }

    /// Goes over to another socket of the runtime's, as [`Self::rebind`] does.
    ///
    /// # Errors
    /// - As [`Self::rebind`].
    pub fn rebind_abstract(&self, socket: R::Socket) -> io::Result<()> {
        self.inner.rebind(socket)
    }

    /// Says that the machine may have another address, or another way to its peers: it has changed networks, or woken up.
    ///
    /// A hint, for programs that the system tells: every connection of this endpoint's own making sends at once, so that its
    /// server learns where it is now. Without it, and without traffic, that takes as long again as nothing has come for, up
    /// to a third of the idle timeout. Costs a packet for each connection. The socket stays; one that is bound to an address
    /// that is gone needs [`Self::rebind`], which includes this. Spec: RATIONALE §8, "Moving".
    pub fn network_changed(&self) {
        self.inner.tell_network_change();
    }

    /// Returns how many QUIC connections are open, those still saying goodbye included.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.with(|e| e.core.sessions())
    }

    /// Returns counters of this endpoint since it was opened.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        let mut stats = self.inner.with(|e| EndpointStats {
            ignored_initials: e.core.initials_ignored(),
            admission: e.core.admission(),
            ..e.stats
        });
        stats.backlog_bytes = self.inner.backlog();
        stats.dropped_datagrams = self.inner.dropped.load(Ordering::Relaxed);
        stats
    }

    /// Closes all sessions with `code` and `reason`, and accepts and dials no more.
    ///
    /// A code of KWIK's reserved block is a mistake: it is logged, and code 0 is sent instead.
    pub fn close(&self, code: ErrorCode, reason: &[u8]) {
        let sessions = self.inner.with(|e| {
            e.close = Some((code, reason.to_vec()));
            e.wakers.wake(Key::Incoming);
            e.sessions.values().cloned().collect::<Vec<_>>()
        });
        for session in sessions {
            session.with(|s| s.close_always(code, reason));
        }
    }

    /// Waits until every session has ended and its goodbye has had time to arrive. Ends no session by itself.
    pub async fn wait_idle(&self) {
        let mut slot = Slot::new(&self.inner, Key::Idle);
        slot.wait(|e| e.sessions.is_empty().then_some(())).await;
    }

    /// Drops the socket and every session without a goodbye, as if the process had been killed. For tests of failures.
    ///
    /// All operations on this endpoint's sessions fail from here on. The socket is closed as soon as the endpoint's
    /// tasks, which are woken, have run once more.
    pub fn abort(&self) {
        self.inner.stop(&ConnectionError::LocallyClosed);
    }
}

impl<R: Runtime> Clone for Endpoint<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), default_client_config: self.default_client_config.clone() }
    }
}

impl<R: Runtime> fmt::Debug for Endpoint<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("local_addr", &self.local_addr().ok()).finish_non_exhaustive()
    }
}

/// Future of [`Endpoint::accept`].
#[must_use = "futures do nothing unless polled"]
pub struct Accept<'a, R: Runtime> {
    endpoint: &'a EndpointRef<R>,
    slot: Slot<'a, R>,
}

impl<R: Runtime> Future for Accept<'_, R> {
    type Output = Option<Incoming>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let Self { endpoint, slot } = self.get_mut();
        let next = slot.poll(cx, |e| match e.incoming.pop_front() {
            Some(incoming) => Some(Some(incoming)),
            None if e.close.is_some() || e.bound.is_none() => Some(None),
            None => None,
        });
        next.map(|next| next.map(|incoming| Incoming::new(incoming, Box::new((*endpoint).clone()))))
    }
}

impl<R: Runtime> fmt::Debug for Accept<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").finish_non_exhaustive()
    }
}

/// Counters of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Handshakes accepted.
    pub accepted_handshakes: u64,
    /// Handshakes started.
    pub outgoing_handshakes: u64,
    /// Handshakes refused.
    pub refused_handshakes: u64,
    /// Handshakes ignored.
    pub ignored_handshakes: u64,
    /// First packets of clients that got no answer because as many handshakes as
    /// [`ServerConfig::accepts_max`](crate::ServerConfig::accepts_max) waited for [`Endpoint::accept`]. A client sends several.
    pub ignored_initials: u64,
    /// Counters of half-open sessions, and of clients that found no room among them. Spec: RATIONALE §11.
    pub admission: AdmissionStats,
    /// Bytes of datagrams that wait now for the tasks of sessions that were accepted; see
    /// [`ServerConfig::backlog_max`](crate::ServerConfig::backlog_max).
    pub backlog_bytes: usize,
    /// Datagrams dropped because a session's task did not keep up and its inbox was full. Spec: RATIONALE §11.
    pub dropped_datagrams: u64,
}
