//! A UDP socket with segmentation offload, as `quinn-udp` gives it, registered with tokio.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use kwik_core::{
    Ecn, Transmit,
    driver::{RecvMeta, Socket, Writable},
};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, UdpSocketState};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use crate::offload::Offload;

/// Bytes the kernel is asked to buffer per direction: 50 ms at 80 MB/s. It may grant less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A UDP socket of one endpoint.
pub struct TokioSocket {
    io: UdpSocket,
    state: UdpSocketState,
    offload: Offload,
    only_v6: bool,
}

impl TokioSocket {
    /// Takes over a bound socket. To be called from within a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?; // makes it non-blocking, too
        for (what, set) in [
            ("send", state.set_send_buffer_size((&socket).into(), BUFFER_BYTES)),
            ("receive", state.set_recv_buffer_size((&socket).into(), BUFFER_BYTES)),
        ] {
            if let Err(error) = set {
                tracing::debug!(%error, what, "socket buffer stays at the system's default");
            }
        }
        let only_v6 = socket.local_addr()?.is_ipv6() && SockRef::from(&socket).only_v6().unwrap_or(false);
        let offload = Offload::new(state.max_gso_segments());
        Ok(Self { io: UdpSocket::from_std(socket)?, state, offload, only_v6 })
    }
}

impl Socket for TokioSocket {
    type Writable = TokioWritable;

    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let sent = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(|ecn| match ecn {
                Ecn::Ect0 => EcnCodepoint::Ect0,
                Ecn::Ect1 => EcnCodepoint::Ect1,
                Ecn::Ce => EcnCodepoint::Ce,
            }),
            contents: bytes,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let result = self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &sent));
        if transmit.segment_size.is_some() {
            self.offload.note(transmit.destination, &result);
        }
        result
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = [quinn_udp::RecvMeta::default(); BATCH_SIZE];
        let count = bufs.len().min(meta.len()).min(BATCH_SIZE);
        let (bufs, _) = bufs.split_at_mut(count);
        let (received, _) = received.split_at_mut(count);
        let mut asked = false;
        let received_now = loop {
            let ready = self.io.poll_recv_ready(cx)?;
            let mut recv = || self.state.recv((&self.io).into(), bufs, received);
            let result = match ready {
                Poll::Ready(()) => self.io.try_io(Interest::READABLE, recv),
                Poll::Pending if asked => return Poll::Pending,
                // What tokio knows is as old as the last time it looked. After a stall timers run before it looks again,
                // and peers must not be called silent for what the kernel has.
                Poll::Pending => recv(),
            };
            asked = true;
            match result {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_pending() => {
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // tokio forgets the readiness
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        for (to, from) in meta.iter_mut().zip(received).take(received_now) {
            *to = RecvMeta {
                addr: from.addr,
                len: from.len,
                stride: from.stride,
                ecn: from.ecn.map(|ecn| match ecn {
                    EcnCodepoint::Ect0 => Ecn::Ect0,
                    EcnCodepoint::Ect1 => Ecn::Ect1,
                    EcnCodepoint::Ce => Ecn::Ce,
                }),
                dst_ip: from.dst_ip,
            };
        }
        Poll::Ready(Ok(received_now))
    }

    fn writable(self: &Arc<Self>) -> TokioWritable {
        TokioWritable { socket: self.clone(), waiting: None }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn only_v6(&self) -> bool {
        self.only_v6
    }

    fn max_gso_segments(&self, destination: SocketAddr) -> usize {
        self.offload.segments(destination)
    }

    fn max_gro_segments(&self) -> usize {
        self.state.gro_segments()
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
