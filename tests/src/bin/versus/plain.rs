//! quinn: as it is shipped, or with the windows and socket buffers that the others have.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use kwik_tests::raw::loopback;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use crate::{
    contender::{Acceptor, Client, Contender, Fallible, Opener, Server, Sink, Source},
    hosts::{NAME, SEND_WINDOW, STREAM_WINDOW, Tokio, Trust, socket},
};

#[derive(Clone)]
pub(crate) struct Quinn {
    host: Tokio,
    trust: Trust,
    equal: bool,
}

impl Quinn {
    /// With everything as it is by default.
    pub(crate) fn shipped(host: Tokio) -> Self {
        Self { host, trust: Trust::new(), equal: false }
    }

    /// With the windows and socket buffers that the others have.
    pub(crate) fn equal(host: Tokio) -> Self {
        Self { equal: true, ..Self::shipped(host) }
    }

    fn transport(&self) -> Arc<quinn::TransportConfig> {
        let mut transport = quinn::TransportConfig::default();
        if self.equal {
            transport.stream_receive_window(STREAM_WINDOW.into()).send_window(SEND_WINDOW.into());
        }
        Arc::new(transport)
    }

    fn endpoint(&self, config: Option<quinn::ServerConfig>) -> Fallible<quinn::Endpoint> {
        let socket = if self.equal { socket()? } else { std::net::UdpSocket::bind(loopback())? };
        let runtime = Arc::new(quinn::TokioRuntime);
        Ok(quinn::Endpoint::new(quinn::EndpointConfig::default(), config, socket, runtime)?)
    }
}

impl Contender for Quinn {
    type Host = Tokio;
    type Server = quinn::Endpoint;
    type Client = quinn::Endpoint;

    fn host(&self) -> &Tokio {
        &self.host
    }

    async fn server(&self) -> Fallible<quinn::Endpoint> {
        let crypto = QuicServerConfig::try_from(self.trust.named_server())?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(self.transport());
        self.endpoint(Some(config))
    }

    async fn client(&self) -> Fallible<quinn::Endpoint> {
        let crypto = QuicClientConfig::try_from(self.trust.named_client())?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport());
        let mut endpoint = self.endpoint(None)?;
        endpoint.set_default_client_config(config);
        Ok(endpoint)
    }
}

impl Server for quinn::Endpoint {
    type Acceptor = quinn::Connection;

    fn address(&self) -> Fallible<SocketAddr> {
        Ok(self.local_addr()?)
    }

    async fn accept(&mut self) -> Option<quinn::Connection> {
        loop {
            if let Ok(connection) = Self::accept(self).await?.await {
                return Some(connection);
            }
        }
    }
}

impl Client for quinn::Endpoint {
    type Opener = quinn::Connection;

    async fn connect(&self, server: SocketAddr) -> Fallible<quinn::Connection> {
        Ok(Self::connect(self, server, NAME)?.await?)
    }
}

impl Acceptor for quinn::Connection {
    type Sink = quinn::SendStream;
    type Source = quinn::RecvStream;

    async fn accept(&mut self) -> Option<(quinn::SendStream, quinn::RecvStream)> {
        self.accept_bi().await.ok()
    }
}

impl Opener for quinn::Connection {
    type Sink = quinn::SendStream;
    type Source = quinn::RecvStream;

    async fn open(&self) -> Fallible<(quinn::SendStream, quinn::RecvStream)> {
        Ok(self.open_bi().await?)
    }

    fn close(&self) {
        Self::close(self, 0_u32.into(), b"");
    }
}

impl Sink for quinn::SendStream {
    async fn write(&mut self, bytes: Bytes) -> Fallible<()> {
        Ok(self.write_chunk(bytes).await?)
    }

    async fn finish(&mut self) -> Fallible<()> {
        Ok(Self::finish(self)?)
    }
}

impl Source for quinn::RecvStream {
    async fn read(&mut self) -> Fallible<Option<usize>> {
        let mut bufs: [Bytes; 32] = Default::default();
        let count = self.read_chunks(&mut bufs).await?;
        Ok(count.map(|count| bufs.iter().take(count).map(Bytes::len).sum()))
    }

    async fn read_exact(&mut self, buf: &mut [u8]) -> Fallible<()> {
        Ok(Self::read_exact(self, buf).await?)
    }
}
