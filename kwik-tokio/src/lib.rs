//! KWIK on tokio: several servers feed one client stream, behind the API of quinn.
//!
//! A program written for quinn moves here by changing its `use`: endpoints, connections, streams and datagrams have
//! quinn's names and meaning, and [`tokio::io::AsyncRead`] and [`tokio::io::AsyncWrite`] are there. What KWIK adds is on
//! the servers: [`PrimarySession`] brings other servers in, and [`SecondarySession`] is what those see.
//!
//! # Who trusts whom
//! - A **client** trusts certificates: the primary's, for the name that it dials, and each mirror's, for the name that the
//!   primary gives it. So it needs the roots of both. The primary also names the key that the mirror's certificate must have.
//! - A **mirror** trusts a [`PublicKey`]: that of the primary's [`SigningKey`]. What is signed with it says which client may
//!   attach, and which ranges of which stream it may fill; the mirror knows no client, and no primary by address.
//! - A **primary** trusts nobody. It needs each mirror's address, the name on its certificate, and the hash of that
//!   certificate's key ([`spki_hash`]).
//!
//! The [`SigningKey`] is made once, from 32 secret bytes of the operating system's entropy, and stored where only the primary
//! reads it: whoever has it can have every mirror that trusts it serve anybody. Its public half goes to the mirrors, as text
//! ([`Display`](std::fmt::Display), [`FromStr`](std::str::FromStr)) or bytes, with their configuration; to replace it, mirrors
//! are given the next one first ([`SecondaryConfig::primary`]). A primary with several machines gives all the same key, or keeps
//! it elsewhere and implements [`Signer`].
//!
//! # A client
//! The examples run as they stand: `cargo run -p kwik-tokio --example client`, and so on.
//!
//! ```no_run
#![doc = include_str!("../examples/client.rs")]
//! ```
//!
//! # A primary
//! ```no_run
#![doc = include_str!("../examples/primary.rs")]
//! ```
//!
//! # A mirror
//! ```no_run
#![doc = include_str!("../examples/mirror.rs")]
//! ```
//!
//! # Ranges by hand
//! [`SendStream::distribute`] decides who brings what. An application that wants to, leases ranges itself
//! ([`SendStream::open_job`], [`Job::lease`]) and writes others where they belong ([`SendStream::write_at`]).
//!
//! ```no_run
#![doc = include_str!("../programs/primary.rs")]
//! ```
//!
//! # Features
//! All are off by default; the library needs none.
//!
//! - `h3`: HTTP/3, by the crate of that name: the module `h3` is what `h3-quinn` is to quinn.
//! - `platform-verifier`: `ClientConfig::with_platform_verifier`, for the certificates that the operating system trusts.
//! - `qlog`: QUIC's and KWIK's own events as qlog traces.
//! - `cli`: the `kwik` program.
//!
//! This crate only supplies a socket, a timer, the clock and a way to spawn; the order of work is in
//! [`kwik_core::driver`], the protocol in the rest of [`kwik_core`].

#[cfg(feature = "h3")]
pub mod h3;
mod socket;
mod timer;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kwik_core::driver::{Runtime, udp};
use tokio::runtime::Handle;

#[cfg(feature = "qlog")]
pub use kwik_core::Qlog;
pub use kwik_core::{
    AckFrequencyConfig, AddPathError, AdmissionStats, AggregationFaults, ApiMisuse, ApplicationClose,
    ByteRange, Chunk, ClientConfig, ClosedStream, ConfigError, ConflictPolicy, ConnectError, ConnectionClose,
    ConnectionError, ConnectionId, ConnectionIdGenerator, DialPolicy, DialRequest, Dir, Ecn as EcnCodepoint,
    EndpointConfig, ErrorCode, FrameStats, FrameType, HandshakeData, IdleTimeout, JobId, JobInfo, LeaseError,
    LeaseId, LeaseInfo, LeaseOutcome, LeaseStats, LeaseStatus, MappingFaults, MetadataFaults,
    MtuDiscoveryConfig, NewJob, NewLease, NewPath, NoneTokenLog, NoneTokenStore, NotMorePrivate,
    ParseKeyError, PathDead, PathId, PathInfo, PathState, PathStats, PeerFault, PublicKey, ReadError,
    ReaderStatus, ReassemblyStats, Relay, RelayError, Role, SecondaryConfig, SendDatagramError, ServerConfig,
    SessionId, SessionStats, SessionStats as ConnectionStats, Side, Signature, Signer, SigningKey,
    SourceStats, SpkiHash, StdSystemTime, StreamId, StreamStats, TimeSource, TokenLog, TokenMemoryCache,
    TokenReuseError, TokenStore, TransportConfig, TransportError, TransportErrorCode, UdpStats,
    ValidationTokenConfig, VarInt, VarIntBoundsExceeded, WriteError, Written, congestion, crypto,
    distribute::{DistributeEvent, DistributeOptions},
    driver::{
        AcceptBi, AcceptUni, Accepted, Connecting, Connection, DistributeError, Distribution, EndpointStats,
        Incoming, IncomingFuture, Job, JobError, Lease, OpenBi, OpenUni, PathError, PrimarySession,
        RangeWriteError, RangeWriter, Ranges, ReadAt, ReadDatagram, ReadExactError, ReadToEndError,
        RecvStream, ResetError, RetryError, SecondaryJob, SecondaryLease, SecondarySession, SecondaryStream,
        SendDatagram, SendStream, StoppedError, ZeroRttAccepted,
    },
    limits, rustls, schedule, spki_hash,
};

pub use crate::{
    socket::{TokioSocket, TokioWritable},
    timer::TokioTimer,
};

/// A KWIK endpoint on tokio.
pub type Endpoint = kwik_core::driver::Endpoint<TokioRuntime>;

/// Future of [`Endpoint::accept`].
pub type Accept<'a> = kwik_core::driver::Accept<'a, TokioRuntime>;

/// Returns the runtime that the caller runs in, for [`Endpoint::new`]; `None` if it runs in none.
#[must_use]
pub fn default_runtime() -> Option<Arc<TokioRuntime>> {
    <TokioRuntime as Runtime>::current().ok().map(Arc::new)
}

/// A tokio runtime, as endpoints use it.
#[derive(Clone, Debug)]
pub struct TokioRuntime {
    handle: Handle,
}

impl TokioRuntime {
    /// Uses the runtime that `handle` belongs to.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Takes over a bound socket, for [`Endpoint::new_from_socket`] and [`Endpoint::rebind_abstract`].
    ///
    /// # Errors
    /// - Whatever the operating system says.
    pub fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<TokioSocket> {
        let _inside = self.handle.enter();
        TokioSocket::new(socket)
    }
}

impl Runtime for TokioRuntime {
    type Socket = TokioSocket;
    type Timer = TokioTimer;

    fn current() -> io::Result<Self> {
        let handle = Handle::try_current().map_err(io::Error::other)?;
        Ok(Self { handle })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn unix_now(&self) -> Duration {
        // A clock before 1970 makes every ticket look not yet valid, which is the safe side.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn seed(&self) -> io::Result<[u8; 32]> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(seed)
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<TokioSocket> {
        self.wrap_udp_socket(udp::bind(addr)?)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<TokioSocket> {
        self.wrap_udp_socket(socket)
    }

    fn source_for(&self, destination: SocketAddr) -> Option<IpAddr> {
        udp::source_for(destination)
    }

    fn timer(&self, at: Instant) -> TokioTimer {
        let _inside = self.handle.enter();
        TokioTimer::new(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task)); // runs on without its handle
    }

    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        drop(self.handle.spawn_blocking(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_goes_over_to_another_socket() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let local = socket.local_addr().unwrap();
            endpoint.rebind(socket).unwrap();
            assert_eq!(endpoint.local_addr().unwrap(), local);
            endpoint.network_changed();
            endpoint.abort();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(endpoint.rebind(socket).unwrap_err().kind(), io::ErrorKind::NotConnected);
        });
    }
}

/// The README's examples, compiled so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
