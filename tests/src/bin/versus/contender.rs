//! Shape that every contender is brought into: endpoints, connections, and streams of bytes, on a runtime.

use std::{error::Error, fmt, future::Future};

use bytes::Bytes;
use tokio::sync::oneshot;

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A transfer, a connection or a server was gone before its end.
#[derive(Debug)]
pub(crate) struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it ended early")
    }
}

impl Error for Ended {}

/// An executor.
pub(crate) trait Host: Clone + Send + Sync + 'static {
    /// Runs `work` on threads of this runtime and returns its result.
    fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T;

    /// Runs `task` to its end, apart from the caller.
    fn detach(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Runs `task` apart from the caller, who can wait for its result.
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = Fallible<T>> + Send + 'static,
    ) -> impl Future<Output = Fallible<T>> + Send + 'static {
        let (done, result) = oneshot::channel();
        self.detach(async move {
            // Whoever waited may have failed meanwhile.
            let _unheard = done.send(task.await);
        });
        async move { result.await.map_err(|_| Ended)? }
    }
}

/// A QUIC implementation, or what stands in for one, in one configuration.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    type Host: Host;
    type Server: Server;
    type Client: Client;

    fn host(&self) -> &Self::Host;

    /// Opens a server on loopback. Called on the host.
    fn server(&self) -> impl Future<Output = Fallible<Self::Server>> + Send;

    /// Opens a client that knows all servers of this contender. Called on the host.
    fn client(&self) -> impl Future<Output = Fallible<Self::Client>> + Send;
}

/// Listens for connections.
pub(crate) trait Server: Send + 'static {
    type Acceptor: Acceptor;

    fn address(&self) -> Fallible<std::net::SocketAddr>;

    /// Waits for a connection; `None` once there will be none.
    fn accept(&mut self) -> impl Future<Output = Option<Self::Acceptor>> + Send;
}

/// Makes connections.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    type Opener: Opener;

    fn connect(&self, server: std::net::SocketAddr) -> impl Future<Output = Fallible<Self::Opener>> + Send;
}

/// The client's end of a connection.
pub(crate) trait Opener: Clone + Send + Sync + 'static {
    type Sink: Sink;
    type Source: Source;

    fn open(&self) -> impl Future<Output = Fallible<(Self::Sink, Self::Source)>> + Send;

    fn close(&self);
}

/// The server's end of a connection.
pub(crate) trait Acceptor: Send + 'static {
    type Sink: Sink;
    type Source: Source;

    /// Waits for a stream; `None` once the connection has ended.
    fn accept(&mut self) -> impl Future<Output = Option<(Self::Sink, Self::Source)>> + Send;
}

/// The sending half of a stream.
pub(crate) trait Sink: Send + 'static {
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Fallible<()>> + Send;

    fn finish(&mut self) -> impl Future<Output = Fallible<()>> + Send;
}

/// The receiving half of a stream.
pub(crate) trait Source: Send + 'static {
    /// Waits for bytes and returns how many there were; `None` at the end.
    fn read(&mut self) -> impl Future<Output = Fallible<Option<usize>>> + Send;

    /// Waits for the next byte of a stream whose bytes matter.
    fn read_exact(&mut self, buf: &mut [u8]) -> impl Future<Output = Fallible<()>> + Send;
}
