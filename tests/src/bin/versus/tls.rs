//! TCP with TLS 1.3, what most people have today: one stream a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use kwik_tests::raw::loopback;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    contender::{Acceptor, Client, Contender, Ended, Fallible, Opener, Server, Sink, Source},
    hosts::{NAME, Tokio, Trust},
};

/// Bytes read at once.
const READ: usize = 256 * 1024;

#[derive(Clone)]
pub(crate) struct Tls {
    host: Tokio,
    trust: Trust,
}

impl Tls {
    pub(crate) fn new(host: Tokio) -> Self {
        Self { host, trust: Trust::new() }
    }
}

impl Contender for Tls {
    type Host = Tokio;
    type Server = Listener;
    type Client = Connector;

    fn host(&self) -> &Tokio {
        &self.host
    }

    async fn server(&self) -> Fallible<Listener> {
        let tls = TlsAcceptor::from(Arc::new(self.trust.server()));
        Ok(Listener { tcp: TcpListener::bind(loopback()).await?, tls })
    }

    async fn client(&self) -> Fallible<Connector> {
        let mut tls = self.trust.client();
        tls.resumption = rustls::client::Resumption::disabled(); // full handshakes, as everybody here makes
        Ok(Connector(TlsConnector::from(Arc::new(tls))))
    }
}

pub(crate) struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Server for Listener {
    type Acceptor = Once<server::TlsStream<TcpStream>>;

    fn address(&self) -> Fallible<SocketAddr> {
        Ok(self.tcp.local_addr()?)
    }

    async fn accept(&mut self) -> Option<Self::Acceptor> {
        let (tcp, _) = self.tcp.accept().await.ok()?;
        tcp.set_nodelay(true).ok()?;
        Some(Once::Handshake(self.tls.accept(tcp)))
    }
}

/// The server's end of a connection: its one stream, once the handshake is complete.
pub(crate) enum Once<S> {
    Handshake(tokio_rustls::Accept<TcpStream>),
    Over(std::marker::PhantomData<fn() -> S>),
}

impl Acceptor for Once<server::TlsStream<TcpStream>> {
    type Sink = WriteHalf<server::TlsStream<TcpStream>>;
    type Source = Reading<server::TlsStream<TcpStream>>;

    async fn accept(&mut self) -> Option<(Self::Sink, Self::Source)> {
        let Self::Handshake(handshake) = std::mem::replace(self, Self::Over(std::marker::PhantomData)) else {
            return None;
        };
        let (read, write) = split(handshake.await.ok()?);
        Some((write, Reading::new(read)))
    }
}

#[derive(Clone)]
pub(crate) struct Connector(TlsConnector);

type Stream = client::TlsStream<TcpStream>;

impl Client for Connector {
    type Opener = Connected;

    async fn connect(&self, server: SocketAddr) -> Fallible<Connected> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let stream = self.0.connect(ServerName::try_from(NAME)?, tcp).await?;
        Ok(Connected(Arc::new(Mutex::new(Some(stream)))))
    }
}

/// The client's end of a connection, whose one stream is opened once.
#[derive(Clone)]
pub(crate) struct Connected(Arc<Mutex<Option<Stream>>>);

impl Connected {
    fn take(&self) -> Option<Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Opener for Connected {
    type Sink = WriteHalf<Stream>;
    type Source = Reading<Stream>;

    async fn open(&self) -> Fallible<(Self::Sink, Self::Source)> {
        let (read, write) = split(self.take().ok_or(Ended)?);
        Ok((write, Reading::new(read)))
    }

    fn close(&self) {
        drop(self.take());
    }
}

impl<S: AsyncWrite + Send + 'static> Sink for WriteHalf<S> {
    async fn write(&mut self, bytes: Bytes) -> Fallible<()> {
        self.write_all(&bytes).await?;
        Ok(self.flush().await?)
    }

    async fn finish(&mut self) -> Fallible<()> {
        Ok(self.shutdown().await?)
    }
}

/// A half that is read into one buffer.
pub(crate) struct Reading<S> {
    half: ReadHalf<S>,
    buf: Vec<u8>,
}

impl<S> Reading<S> {
    fn new(half: ReadHalf<S>) -> Self {
        Self { half, buf: vec![0; READ] }
    }
}

impl<S: AsyncRead + Send + 'static> Source for Reading<S> {
    async fn read(&mut self) -> Fallible<Option<usize>> {
        let count = self.half.read(&mut self.buf).await?;
        Ok((count > 0).then_some(count))
    }

    async fn read_exact(&mut self, buf: &mut [u8]) -> Fallible<()> {
        self.half.read_exact(buf).await?;
        Ok(())
    }
}
