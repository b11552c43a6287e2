//! s2n-quic, with rustls, and the windows and socket buffers that the others have.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use kwik_tests::raw::loopback;
use s2n_quic::{
    connection::Handle,
    provider::{
        io::tokio::Provider,
        limits::Limits,
        tls::rustls::{Client as ClientTls, Server as ServerTls},
    },
    stream::{ReceiveStream, SendStream},
};
use tokio::io::AsyncReadExt;

use crate::{
    contender::{Acceptor, Client, Contender, Ended, Fallible, Opener, Server, Sink, Source},
    hosts::{MTU, NAME, SEND_WINDOW, SOCKET_BUFFER, STREAM_WINDOW, Tokio, Trust},
};

/// Headers of IPv4 and UDP, which s2n-quic counts into its MTU.
const HEADERS: u16 = 28;

#[derive(Clone)]
pub(crate) struct S2n {
    host: Tokio,
    trust: Trust,
}

impl S2n {
    pub(crate) fn new(host: Tokio) -> Self {
        Self { host, trust: Trust::new() }
    }
}

fn io() -> Fallible<Provider> {
    let builder = Provider::builder()
        .with_receive_address(loopback())?
        .with_send_buffer_size(SOCKET_BUFFER)?
        .with_recv_buffer_size(SOCKET_BUFFER)?
        .with_max_mtu(MTU + HEADERS)?;
    Ok(builder.build()?)
}

fn limits() -> Fallible<Limits> {
    let window = u64::from(STREAM_WINDOW);
    Ok(Limits::new()
        .with_data_window(u64::from(SEND_WINDOW) * 2)?
        .with_bidirectional_local_data_window(window)?
        .with_bidirectional_remote_data_window(window)?
        .with_max_send_buffer_size(SEND_WINDOW)?
        .with_max_idle_timeout(Duration::from_secs(30))?)
}

impl Contender for S2n {
    type Host = Tokio;
    type Server = s2n_quic::Server;
    type Client = s2n_quic::Client;

    fn host(&self) -> &Tokio {
        &self.host
    }

    async fn server(&self) -> Fallible<s2n_quic::Server> {
        #[expect(deprecated, reason = "the one way to give it a configuration that others have as well")]
        let tls = ServerTls::new(self.trust.named_server());
        let builder = s2n_quic::Server::builder().with_tls(tls)?.with_io(io()?)?.with_limits(limits()?)?;
        Ok(builder.start()?)
    }

    async fn client(&self) -> Fallible<s2n_quic::Client> {
        #[expect(deprecated, reason = "the one way to give it a configuration that others have as well")]
        let tls = ClientTls::new(self.trust.named_client());
        let builder = s2n_quic::Client::builder().with_tls(tls)?.with_io(io()?)?.with_limits(limits()?)?;
        Ok(builder.start()?)
    }
}

impl Server for s2n_quic::Server {
    type Acceptor = s2n_quic::connection::StreamAcceptor;

    fn address(&self) -> Fallible<SocketAddr> {
        Ok(self.local_addr()?)
    }

    async fn accept(&mut self) -> Option<Self::Acceptor> {
        let (_handle, acceptor) = Self::accept(self).await?.split();
        Some(acceptor)
    }
}

impl Client for s2n_quic::Client {
    type Opener = Handle;

    async fn connect(&self, server: SocketAddr) -> Fallible<Handle> {
        let connect = s2n_quic::client::Connect::new(server).with_server_name(NAME);
        Ok(Self::connect(self, connect).await?.handle())
    }
}

impl Acceptor for s2n_quic::connection::StreamAcceptor {
    type Sink = SendStream;
    type Source = ReceiveStream;

    async fn accept(&mut self) -> Option<(SendStream, ReceiveStream)> {
        let stream = self.accept_bidirectional_stream().await.ok()??;
        let (receive, send) = stream.split();
        Some((send, receive))
    }
}

impl Opener for Handle {
    type Sink = SendStream;
    type Source = ReceiveStream;

    async fn open(&self) -> Fallible<(SendStream, ReceiveStream)> {
        let (receive, send) = self.clone().open_bidirectional_stream().await?.split();
        Ok((send, receive))
    }

    fn close(&self) {
        Self::close(self, 0_u32.into());
    }
}

impl Sink for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Fallible<()> {
        Ok(self.send(bytes).await?)
    }

    async fn finish(&mut self) -> Fallible<()> {
        Ok(Self::finish(self)?)
    }
}

impl Source for ReceiveStream {
    async fn read(&mut self) -> Fallible<Option<usize>> {
        let mut bufs: [Bytes; 32] = Default::default();
        let (count, open) = self.receive_vectored(&mut bufs).await?;
        let bytes = bufs.iter().take(count).map(Bytes::len).sum();
        Ok((open || count > 0).then_some(bytes))
    }

    async fn read_exact(&mut self, buf: &mut [u8]) -> Fallible<()> {
        let count = AsyncReadExt::read_exact(self, buf).await?;
        if count == buf.len() { Ok(()) } else { Err(Ended.into()) }
    }
}
