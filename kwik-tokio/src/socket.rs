//! A UDP socket that is registered with tokio.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use kwik_core::{
    Transmit,
    driver::{RecvMeta, Socket, Writable, udp::UdpState},
};
use tokio::{io::Interest, net::UdpSocket};

/// A UDP socket of one endpoint.
pub struct TokioSocket {
    io: UdpSocket,
    state: UdpState,
}

impl TokioSocket {
    /// Takes over a bound socket. To be called from within a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpState::new(&socket, Instant::now)?; // makes it non-blocking, too
        Ok(Self { io: UdpSocket::from_std(socket)?, state })
    }
}

impl Socket for TokioSocket {
    type Writable = TokioWritable;

    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit, bytes))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut asked = false;
        loop {
            let ready = self.io.poll_recv_ready(cx)?;
            let mut recv = || self.state.recv((&self.io).into(), bufs, meta);
            let result = match ready {
                Poll::Ready(()) => self.io.try_io(Interest::READABLE, recv),
                Poll::Pending if asked => return Poll::Pending,
                // What tokio knows is as old as the last time it looked. After a stall timers run before it looks again,
                // and peers must not be called silent for what the kernel has.
                Poll::Pending => recv(),
            };
            asked = true;
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_pending() => {
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // tokio forgets the readiness
                done => return Poll::Ready(done),
            }
        }
    }

    fn writable(self: &Arc<Self>) -> TokioWritable {
        TokioWritable { socket: self.clone(), waiting: None }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn only_v6(&self) -> bool {
        self.state.only_v6()
    }

    fn max_gso_segments(&self, destination: SocketAddr) -> usize {
        self.state.max_gso_segments(destination)
    }

    fn max_gro_segments(&self) -> usize {
        self.state.max_gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

impl fmt::Debug for TokioSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioSocket").field("local_addr", &self.local_addr().ok()).finish_non_exhaustive()
    }
}

/// One task's wait for room to send: tokio's poll functions remember one task only, its futures any number.
pub struct TokioWritable {
    socket: Arc<TokioSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
}

impl Writable for TokioWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let ready = waiting.as_mut().poll(cx);
        if ready.is_ready() {
            this.waiting = None; // a future is not polled after its end
        }
        ready
    }
}

impl fmt::Debug for TokioWritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioWritable").finish_non_exhaustive()
    }
}
