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
//!
//! # An object over every path
//! A primary that has the object at hand does not have to deal ranges out itself: [`SendStream::distribute`] has every path
//! bring what it can, and gives what is lost to others.
//!
//! ```no_run
//! use std::{fs::File, error::Error};
//! use kwik_async_std::{DistributeOptions, NewPath, PrimarySession};
//!
//! async fn send(session: &PrimarySession, mirrors: Vec<NewPath>, name: &str) -> Result<(), Box<dyn Error>> {
//!     for mirror in mirrors {
//!         session.add_path(mirror).await?; // one that is added later joins in as well
//!     }
//!     let file = File::open(name)?;
//!     let len = file.metadata()?.len();
//!     let mut stream = session.open_uni().await?;
//!     let report = stream.distribute(file, len, DistributeOptions::new(name.to_owned())).await?;
//!     for (path, share) in report.paths {
//!         println!("{path}: {} bytes, {} pieces done, {} lost", share.bytes, share.done, share.lost);
//!     }
//!     Ok(())
//! }
//! ```

mod socket;
mod timer;

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kwik_core::driver::Runtime;
use socket2::{Domain, Protocol, Type};

pub use kwik_core::{
    AddPathError, AdmissionStats, AggregationFaults, ApiMisuse, ApplicationClose, ByteRange, Chunk,
    ClientConfig, ClosedStream, ConfigError, ConflictPolicy, ConnectError, ConnectionError, DialPolicy,
    DialRequest, Dir, ErrorCode, HandshakeData, JobId, LeaseError, LeaseId, LeaseOutcome, LeaseStats,
    LeaseStatus, MappingFaults, MetadataFaults, NewJob, NewLease, NewPath, NotMorePrivate, ParseKeyError,
    PathId, PathInfo, PathState, PublicKey, ReadError, ReaderStatus, ReassemblyStats, Relay, RelayError,
    Role, SecondaryConfig, SendDatagramError, ServerConfig, SessionId, SessionStats, Side, Signature, Signer,
    SigningKey, SourceStats, SpkiHash, StreamId, StreamStats, TransportConfig, WriteError, Written,
    driver::{
        Accepted, Connecting, Connection, DistributeError, DistributeEvent, DistributeOptions, Distribution,
        EndpointStats, Incoming, IncomingFuture, Job, JobError, Lease, PathError, PrimarySession,
        RangeWriteError, RangeWriter, Ranges, ReadAt, ReadExactError, ReadToEndError, RecvStream, ResetError,
        RetryError, SecondaryJob, SecondaryLease, SecondarySession, SecondaryStream, SendStream,
        StoppedError,
    },
    schedule, spki_hash,
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
    /// Takes over a bound socket, for [`Endpoint::new_from_socket`] and [`Endpoint::rebind_abstract`].
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
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            if let Err(error) = socket.set_only_v6(false) {
                tracing::debug!(%error, "socket reaches IPv6 only");
            }
        }
        socket.bind(&addr.into())?;
        self.wrap_udp_socket(socket.into())
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<AsyncStdSocket> {
        self.wrap_udp_socket(socket)
    }

    fn source_for(&self, destination: SocketAddr) -> Option<IpAddr> {
        let any = if destination.is_ipv4() {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(destination).ok()?; // sends nothing, and has the system choose
        socket.local_addr().ok().map(|local| local.ip())
    }

    fn timer(&self, at: Instant) -> AsyncStdTimer {
        AsyncStdTimer::new(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(task)); // runs on without its handle
    }

    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        drop(async_std::task::spawn_blocking(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kwik_core::driver::Socket as _;

    #[test]
    fn an_endpoint_goes_over_to_another_socket() {
        async_std::task::block_on(async {
            let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let local = socket.local_addr().unwrap();
            endpoint.rebind(socket).unwrap();
            assert_eq!(endpoint.local_addr().unwrap(), local);
            endpoint.network_changed();
            endpoint.abort();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(endpoint.rebind(socket).unwrap_err().kind(), io::ErrorKind::NotConnected);
        });
    }

    /// Whatever the system's default is, which most systems but Linux have the other way round.
    #[test]
    fn an_ipv6_socket_takes_ipv4_and_says_what_it_takes() {
        let mixed = match AsyncStdRuntime.bind("[::]:0".parse().unwrap()) {
            Ok(socket) => socket,
            Err(error) => {
                // No IPv6 at all here, and then that is what any such socket says.
                let again = UdpSocket::bind("[::]:0").unwrap_err();
                assert_eq!(again.kind(), error.kind());
                return;
            }
        };
        assert!(!mixed.only_v6());
        let socket = socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.bind(&SocketAddr::from(([0_u16; 8], 0)).into()).unwrap();
        assert!(AsyncStdRuntime.wrap_udp_socket(socket.into()).unwrap().only_v6());
    }
}
