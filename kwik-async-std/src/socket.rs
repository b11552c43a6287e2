//! A UDP socket that is registered with `async-io`'s reactor.

use std::{
    future::Future as _,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use async_io::{Async, WritableOwned};
use kwik_core::{
    Transmit,
    driver::{RecvMeta, Socket, Writable, udp::UdpState},
};

/// A UDP socket of one endpoint.
#[derive(Debug)]
pub struct AsyncIoSocket {
    io: Arc<Async<UdpSocket>>,
    state: UdpState,
    /// Something has come since the socket was last found empty.
    busy: AtomicBool,
}

impl AsyncIoSocket {
    /// Takes over a bound socket.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpState::new(&socket, Instant::now)?;
        let io = Arc::new(Async::new_nonblocking(socket)?);
        Ok(Self { io, state, busy: AtomicBool::new(false) })
    }
}

impl Socket for AsyncIoSocket {
    type Writable = AsyncIoWritable;

    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        self.state.try_send(self.io.get_ref().into(), transmit, bytes)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.state.recv(self.io.get_ref().into(), bufs, meta) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Half a dozen system calls go into a wait for the reactor. While datagrams come in a stream, more of
                    // them are there once other tasks have had their turn.
                    if self.busy.swap(false, Ordering::Relaxed) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    ready!(self.io.poll_readable(cx))?;
                }
                done => {
                    self.busy.store(done.is_ok(), Ordering::Relaxed);
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn writable(self: &Arc<Self>) -> AsyncIoWritable {
        AsyncIoWritable { io: self.io.clone(), waiting: None }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
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

/// One task's wait for room to send.
#[derive(Debug)]
pub struct AsyncIoWritable {
    io: Arc<Async<UdpSocket>>,
    waiting: Option<Pin<Box<WritableOwned<UdpSocket>>>>,
}

impl Writable for AsyncIoWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let io = &this.io;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(io.clone().writable_owned()));
        let ready = waiting.as_mut().poll(cx);
        if ready.is_ready() {
            this.waiting = None; // a future is not polled after its end
        }
        ready
    }
}
