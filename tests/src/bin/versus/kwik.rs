//! KWIK's native streams, on either runtime.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use kwik_core::{
    ClientConfig, ServerConfig, SigningKey, TransportConfig,
    driver::{Connection, Endpoint, RecvStream, Runtime, SendStream},
};

use crate::{
    contender::{Acceptor, Client, Contender, Fallible, Host, Opener, Server, Sink, Source},
    hosts::{NAME, SEND_WINDOW, STREAM_WINDOW, Trust},
};

/// Makes endpoints of the runtime that it is called on.
pub(crate) struct Kwik<H, R> {
    host: H,
    trust: Trust,
    runtime: std::marker::PhantomData<fn() -> R>,
}

impl<H: Clone, R> Clone for Kwik<H, R> {
    fn clone(&self) -> Self {
        Self { host: self.host.clone(), trust: self.trust.clone(), runtime: self.runtime }
    }
}

impl<H: Host, R: Runtime> Kwik<H, R> {
    pub(crate) fn new(host: H) -> Self {
        Self { host, trust: Trust::new(), runtime: std::marker::PhantomData }
    }
}

/// The windows that all contenders have, and besides them KWIK's own defaults.
pub(crate) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(STREAM_WINDOW.into()).send_window(SEND_WINDOW.into());
    transport
}

/// Opens an endpoint on loopback. KWIK asks for the socket buffers that all have by itself.
pub(crate) fn endpoint<R: Runtime>(config: Option<ServerConfig>) -> Fallible<Endpoint<R>> {
    let runtime = R::current()?;
    let socket = runtime.bind(kwik_tests::raw::loopback())?;
    Ok(Endpoint::new_from_socket(config, socket, runtime)?)
}

impl<H: Host, R: Runtime> Contender for Kwik<H, R> {
    type Host = H;
    type Server = Endpoint<R>;
    type Client = Endpoint<R>;

    fn host(&self) -> &H {
        &self.host
    }

    async fn server(&self) -> Fallible<Endpoint<R>> {
        let config = ServerConfig::try_from(self.trust.server())?
            .primary(Arc::new(SigningKey::from_seed([1; 32])))
            .transport(transport());
        endpoint(Some(config))
    }

    async fn client(&self) -> Fallible<Endpoint<R>> {
        let mut endpoint = endpoint(None)?;
        endpoint
            .set_default_client_config(ClientConfig::try_from(self.trust.client())?.transport(transport()));
        Ok(endpoint)
    }
}

impl<R: Runtime> Server for Endpoint<R> {
    type Acceptor = Connection;

    fn address(&self) -> Fallible<SocketAddr> {
        Ok(self.local_addr()?)
    }

    async fn accept(&mut self) -> Option<Connection> {
        loop {
            if let Ok(connection) = Self::accept(self).await?.await {
                return Some(connection);
            }
        }
    }
}

impl<R: Runtime> Client for Endpoint<R> {
    type Opener = Connection;

    async fn connect(&self, server: SocketAddr) -> Fallible<Connection> {
        Ok(Self::connect(self, server, NAME)?.await?)
    }
}

impl Acceptor for Connection {
    type Sink = SendStream;
    type Source = RecvStream;

    async fn accept(&mut self) -> Option<(SendStream, RecvStream)> {
        self.accept_bi().await.ok()
    }
}

impl Opener for Connection {
    type Sink = SendStream;
    type Source = RecvStream;

    async fn open(&self) -> Fallible<(SendStream, RecvStream)> {
        Ok(self.open_bi().await?)
    }

    fn close(&self) {
        Self::close(self, 0_u32.into(), b"");
    }
}

impl Sink for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Fallible<()> {
        Ok(self.write_chunk(bytes).await?)
    }

    async fn finish(&mut self) -> Fallible<()> {
        Ok(Self::finish(self)?)
    }
}

impl Source for RecvStream {
    async fn read(&mut self) -> Fallible<Option<usize>> {
        let mut bufs: [Bytes; 32] = Default::default();
        let count = self.read_chunks(&mut bufs).await?;
        Ok(count.map(|count| bufs.iter().take(count).map(Bytes::len).sum()))
    }

    async fn read_exact(&mut self, buf: &mut [u8]) -> Fallible<()> {
        Ok(Self::read_exact(self, buf).await?)
    }
}
