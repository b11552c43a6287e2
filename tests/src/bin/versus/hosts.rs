//! The runtimes, what all contenders have in common, and sockets.

use std::{future::Future, net::UdpSocket, sync::Arc};

use kwik_tests::{
    authority::{Authority, Identity},
    raw::loopback,
};
use rustls::crypto::aws_lc_rs;
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::contender::{Fallible, Host};

/// QUIC's receive window of a stream, in bytes; as much as no contender is held up by on loopback.
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes in flight and waiting for it, of a connection.
pub(crate) const SEND_WINDOW: u32 = 8 * 1024 * 1024;
/// Bytes the kernel is asked to buffer per socket and direction.
pub(crate) const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Bytes of a UDP payload that discovery may go up to, quinn's default.
pub(crate) const MTU: u16 = 1452;
/// Name of all servers.
pub(crate) const NAME: &str = "server.test";
/// Application protocol of those that do not choose it themselves.
pub(crate) const ALPN: &[u8] = b"versus/1";

/// A tokio runtime with as many threads as there are processors.
#[derive(Clone)]
pub(crate) struct Tokio(pub(crate) Handle);

impl Host for Tokio {
    fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.0.block_on(self.0.spawn(work)) {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn detach(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(task));
    }
}

/// async-std's executor: one for the whole process, with as many threads as there are processors.
#[derive(Clone)]
pub(crate) struct AsyncStd;

impl Host for AsyncStd {
    fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        async_std::task::block_on(async_std::task::spawn(work))
    }

    fn detach(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(task));
    }
}

/// Runs `f` with a runtime of its own.
pub(crate) fn on_tokio<T>(f: impl FnOnce(Tokio) -> Fallible<T>) -> Fallible<T> {
    let runtime: Runtime = Builder::new_multi_thread().enable_all().build()?;
    let result = f(Tokio(runtime.handle().clone()));
    runtime.shutdown_background();
    result
}

/// Certificate of the servers, and who signed it.
#[derive(Clone)]
pub(crate) struct Trust {
    authority: Arc<Authority>,
    identity: Identity,
}

impl Trust {
    /// Makes both. All contenders use one provider of cryptography: that of the one which has no choice.
    pub(crate) fn new() -> Self {
        let authority = Authority::with_provider(aws_lc_rs::default_provider());
        let identity = authority.issue(NAME);
        Self { authority: Arc::new(authority), identity }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn server(&self) -> rustls::ServerConfig {
        self.identity.tls.clone()
    }

    pub(crate) fn client(&self) -> rustls::ClientConfig {
        self.authority.client()
    }

    /// As [`Self::server`], with an application protocol.
    pub(crate) fn named_server(&self) -> rustls::ServerConfig {
        let mut tls = self.server();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }

    /// As [`Self::client`], with an application protocol.
    pub(crate) fn named_client(&self) -> rustls::ClientConfig {
        let mut tls = self.client();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }
}

/// Opens a UDP socket on loopback, with the buffers that all have.
pub(crate) fn socket() -> Fallible<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&loopback().into())?;
    Ok(socket.into())
}
