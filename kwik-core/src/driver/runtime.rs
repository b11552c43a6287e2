//! Interface that an adapter supplies: a clock, entropy, a timer, a socket, a way to spawn.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::action::{Ecn, Transmit};

/// An executor with its clock and sockets.
pub trait Runtime: Send + Sync + Sized + 'static {
    /// Its UDP socket.
    type Socket: Socket;
    /// Its timer.
    type Timer: Timer;

    /// Returns the runtime that the calling code runs in.
    ///
    /// # Errors
    /// - Any, if the caller runs in none.
    fn current() -> io::Result<Self>;

    /// Returns the time; never earlier than what it returned before.
    fn now(&self) -> Instant;

    /// Returns the wall clock, since the Unix epoch.
    fn unix_now(&self) -> Duration;

    /// Returns entropy from the operating system.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    fn seed(&self) -> io::Result<[u8; 32]>;

    /// Opens a socket bound to `addr`; an IPv6 one takes IPv4 too where the system allows it.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    fn bind(&self, addr: SocketAddr) -> io::Result<Self::Socket>;

    /// Takes over a bound socket, for [`Endpoint::rebind`](super::Endpoint::rebind).
    ///
    /// # Errors
    /// - [`io::ErrorKind::Unsupported`] if it takes none but its own, as by default.
    /// - Whatever the operating system says.
    #[expect(clippy::disallowed_types, reason = "the core only passes it on")]
    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Self::Socket> {
        drop(socket);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the address of this machine's own that datagrams to `destination` would leave from, without sending any.
    ///
    /// A client does not let its primary name hosts of its own IPv6 network unless the primary is there as well; an adapter
    /// that cannot tell, which is the default, leaves it without that check.
    fn source_for(&self, destination: SocketAddr) -> Option<IpAddr> {
        let _any = destination;
        None
    }

    /// Creates a timer that expires at `at`. Called from within tasks of this runtime only, or where the
    /// application awaits a handle's future.
    fn timer(&self, at: Instant) -> Self::Timer;

    /// Runs `task` to its end, apart from the caller.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Runs `work`, which may block, on a thread on which that does no harm. Dropping it instead is an answer, too.
    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static);
}

/// Expires once at a given time, and can be set anew before and after.
pub trait Timer: Send + 'static {
    /// Sets a new time.
    fn reset(self: Pin<&mut Self>, at: Instant);

    /// Waits for the time that was set last.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

/// A non-blocking UDP socket, shared by the tasks of one endpoint.
pub trait Socket: Send + Sync + Sized + 'static {
    /// Waits for room to send, on behalf of one task.
    type Writable: Writable;

    /// Sends `bytes` as `transmit` describes them; its `size` is `bytes.len()`.
    ///
    /// # Errors
    /// - [`io::ErrorKind::WouldBlock`] if there is no room; the bytes are offered again later.
    /// - Any other: the datagrams count as lost on the way.
    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bufs` and `meta`, as many of each, and returns how many of them. Only the endpoint's task calls this.
    ///
    /// `Pending` says that the operating system has none, asked in this very call: what a runtime remembers of an earlier
    /// time may be out of date, and peers are called silent for it.
    ///
    /// # Errors
    /// - Whatever the operating system says; the call is repeated a bounded number of times.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>>;

    /// Creates an object by which one task waits for room to send. Sockets keep one waker per direction, so each task
    /// needs its own.
    fn writable(self: &Arc<Self>) -> Self::Writable;

    /// Returns the address the socket is bound to.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Returns whether an IPv6 socket sends to IPv6 addresses only, and not to IPv4 ones in their mapped form as well.
    fn only_v6(&self) -> bool {
        false
    }

    /// Returns how many datagrams one `try_send` to `destination` may carry now; at least 1. One that carried more than this
    /// says after it has failed is repeated in pieces.
    fn max_gso_segments(&self, destination: SocketAddr) -> usize {
        let _any = destination;
        1
    }

    /// Returns how many datagrams one message may bring; at least 1.
    fn max_gro_segments(&self) -> usize {
        1
    }

    /// Returns whether datagrams may be fragmented on their way, which rules out MTU discovery.
    fn may_fragment(&self) -> bool {
        true
    }
}

/// Waits for room to send.
pub trait Writable: Send + 'static {
    /// Returns `Ready` once the socket may have room; wrong alarms are allowed.
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Origin and layout of a received message.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters fill every field")]
pub struct RecvMeta {
    /// The sender.
    pub addr: SocketAddr,
    /// Bytes in the buffer.
    pub len: usize,
    /// Length of each datagram in it but the last, which may be shorter.
    pub stride: usize,
    /// Congestion marks of all of them.
    pub ecn: Option<Ecn>,
    /// The address they were sent to, where the system tells.
    pub dst_ip: Option<IpAddr>,
}

impl Default for RecvMeta {
    fn default() -> Self {
        let addr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        Self { addr, len: 0, stride: 0, ecn: None, dst_ip: None }
    }
}

/// The part of a runtime that handles need, whatever its type.
pub(super) trait Clock: Send + Sync {
    /// Returns the time.
    fn now(&self) -> Instant;

    /// Returns the wall clock, since the Unix epoch.
    fn unix_now(&self) -> Duration;

    /// Returns where datagrams would leave from.
    fn source_for(&self, destination: SocketAddr) -> Option<IpAddr>;

    /// Creates a timer that expires at `at`.
    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>>;

    /// Runs `work` where it may block.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);
}

impl<R: Runtime> Clock for R {
    fn now(&self) -> Instant {
        Runtime::now(self)
    }

    fn unix_now(&self) -> Duration {
        Runtime::unix_now(self)
    }

    fn source_for(&self, destination: SocketAddr) -> Option<IpAddr> {
        Runtime::source_for(self, destination)
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        Box::pin(Runtime::timer(self, at))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        Runtime::spawn_blocking(self, work);
    }
}
