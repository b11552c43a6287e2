//! KWIK on async-std and smol: several servers feed one client stream.
//!
//! The same API as `kwik-tokio`, with the IO traits of `futures-io`. **Minimal so far**, and honestly so:
//! - no segmentation offload, no coalesced receiving, no ECN: one system call per datagram, a fraction of `kwik-tokio`'s
//!   throughput;
//! - the address that a datagram was sent to is not known, so a server bound to a wildcard address may answer from
//!   another of its addresses;
//! - datagrams may be fragmented on the way, so path MTU discovery stays off;
//! - socket buffers keep the system's default size.
//!
//! async-std itself is discontinued (RUSTSEC-2025-0052). Only its `spawn` is used here; sockets and timers are those of
//! `async-io`, which smol uses too.
//!
//! ```no_run
#![doc = include_str!("../programs/client.rs")]
//! ```

mod socket;
mod timer;

use std::{
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kwik_core::driver::Runtime;

pub use kwik_core::{
    AddPathError, AggregationFaults, ApiMisuse, ApplicationClose, ByteRange, Chunk, ClientConfig,
    ClosedStream, ConfigError, ConflictPolicy, ConnectError, ConnectionError, DialPolicy, Dir, ErrorCode,
    HandshakeData, JobId, LeaseError, LeaseId, LeaseOutcome, LeaseStats, LeaseStatus, MappingFaults,
    MetadataFaults, NewJob, NewLease, NewPath, NotMorePrivate, PathId, PathInfo, PathState, PublicKey,
    ReadError, ReassemblyStats, Relay, RelayError, Role, SecondaryConfig, SendDatagramError, ServerConfig,
    SessionId, SessionStats, Side, Signature, Signer, SigningKey, SourceStats, SpkiHash, StreamId,
    StreamStats, TransportConfig, WriteError, Written,
    driver::{
        Accepted, Connecting, Connection, EndpointStats, Incoming, IncomingFuture, Job, JobError, Lease,
        PathError, PrimarySession, RangeWriteError, RangeWriter, Ranges, ReadExactError, ReadToEndError,
        RecvStream, ResetError, RetryError, SecondaryJob, SecondaryLease, SecondarySession, SecondaryStream,
        SendStream, StoppedError,
    },
    spki_hash,
};

pub use crate::{
    socket::{AsyncStdSocket, AsyncStdWritable},
    timer::AsyncStdTimer,
};

/// A KWIK endpoint on async-std.
pub type Endpoint = kwik_core::driver::Endpoint<AsyncStdRuntime>;

/// async-std's executor, as endpoints use it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AsyncStdRuntime;

impl AsyncStdRuntime {
    /// Takes over a bound socket, for [`Endpoint::new_from_socket`].
    ///
    /// # Errors
    /// - Whatever the operating system says.
    pub fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<AsyncStdSocket> {
        AsyncStdSocket::new(socket)
    }
}

impl Runtime for AsyncStdRuntime {
    type Socket = AsyncStdSocket;
    type Timer = AsyncStdTimer;

    fn current() -> io::Result<Self> {
        Ok(Self) // there is one per process, started when needed
    }

    fn now(&self) -> Instant {
        Instant::now()
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

    fn bind(&self, addr: SocketAddr) -> io::Result<AsyncStdSocket> {
        self.wrap_udp_socket(UdpSocket::bind(addr)?)
    }

    fn timer(&self, at: Instant) -> AsyncStdTimer {
        AsyncStdTimer::new(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(task)); // runs on without its handle
    }
}
