//! A plain UDP socket on `async-io`'s reactor.

use std::{
    future::Future as _,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_io::{Async, WritableOwned};
use kwik_core::{
    Transmit,
    driver::{RecvMeta, Socket, Writable},
};
use socket2::SockRef;

/// A UDP socket of one endpoint.
#[derive(Debug)]
pub struct AsyncStdSocket {
    io: Arc<Async<UdpSocket>>,
    only_v6: bool,
}

impl AsyncStdSocket {
    /// Takes over a bound socket.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let only_v6 = socket.local_addr()?.is_ipv6() && SockRef::from(&socket).only_v6().unwrap_or(false);
        Ok(Self { io: Arc::new(Async::new(socket)?), only_v6 })
    }
}

impl Socket for AsyncStdSocket {
    type Writable = AsyncStdWritable;

    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        self.io.get_ref().send_to(bytes, transmit.destination).map(|_| ())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        loop {
            match self.io.get_ref().recv_from(buf) {
                Ok((len, addr)) => {
                    *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.io.poll_readable(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn writable(self: &Arc<Self>) -> AsyncStdWritable {
        AsyncStdWritable { io: self.io.clone(), waiting: None }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn only_v6(&self) -> bool {
        self.only_v6
    }
}

/// One task's wait for room to send.
#[derive(Debug)]
pub struct AsyncStdWritable {
    io: Arc<Async<UdpSocket>>,
    waiting: Option<Pin<Box<WritableOwned<UdpSocket>>>>,
}

impl Writable for AsyncStdWritable {
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
