//! KWIK on async-std and smol: several servers feed one client stream.
//!
//! The same API as `kwik-tokio`, with the IO traits of `futures-io`. Sockets and timers are those of `async-io`; datagrams
//! travel in trains, with ECN, from the address that their peer knows, as on tokio.
//!
//! # async-std is discontinued
//! Its authors have stopped work on it and name smol in its place (RUSTSEC-2025-0052): it gets no fixes, whatever is found.
//! Only its `spawn` and `spawn_blocking` are used here, so little depends on that; but a new program takes smol, and an old one
//! can go over when it likes, a part at a time, as both wait on the same reactor.
//!
//! # Features
//! - `async-std` (by default): [`Endpoint`] runs its tasks on async-std's executor.
//! - `smol`: [`smol::Endpoint`] runs them on smol's. Without async-std: `default-features = false, features = ["smol"]`.
//! - `platform-verifier`: `ClientConfig::with_platform_verifier`, for the certificates that the operating system trusts.
//! - `qlog`: QUIC's and KWIK's own events as qlog traces.
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
//! The examples run as they stand: `cargo run -p kwik-async-std --example async-std-client`, and so on.
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

mod runtime;
mod socket;
mod timer;

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

#[cfg(feature = "async-std")]
pub use crate::runtime::AsyncStdRuntime;
pub use crate::{
    socket::{AsyncIoSocket, AsyncIoWritable},
    timer::AsyncIoTimer,
};

/// A KWIK endpoint on async-std.
#[cfg(feature = "async-std")]
pub type Endpoint = kwik_core::driver::Endpoint<AsyncStdRuntime>;

/// Future of [`Endpoint::accept`].
#[cfg(feature = "async-std")]
pub type Accept<'a> = kwik_core::driver::Accept<'a, AsyncStdRuntime>;

/// Returns the runtime that the caller runs in, for [`Endpoint::new`]; `None` if it runs in none.
#[cfg(feature = "async-std")]
#[must_use]
pub fn default_runtime() -> Option<std::sync::Arc<AsyncStdRuntime>> {
    <AsyncStdRuntime as kwik_core::driver::Runtime>::current().ok().map(std::sync::Arc::new)
}

/// Endpoints on smol's executor; everything else is the same.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// smol::block_on(async {
///     let endpoint = kwik_async_std::smol::Endpoint::client(([0, 0, 0, 0], 0).into())?;
///     // and on as anywhere
///     # drop(endpoint);
///     Ok(())
/// })
/// # }
/// ```
#[cfg(feature = "smol")]
pub mod smol {
    use std::sync::Arc;

    pub use crate::runtime::SmolRuntime;

    /// A KWIK endpoint on smol.
    pub type Endpoint = kwik_core::driver::Endpoint<SmolRuntime>;

    /// Future of [`Endpoint::accept`].
    pub type Accept<'a> = kwik_core::driver::Accept<'a, SmolRuntime>;

    /// Returns the runtime that the caller runs in, for [`Endpoint::new`].
    #[must_use]
    pub fn default_runtime() -> Option<Arc<SmolRuntime>> {
        <SmolRuntime as kwik_core::driver::Runtime>::current().ok().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::UdpSocket};

    use kwik_core::driver::{Endpoint, Runtime};

    fn goes_over<R: Runtime>() {
        async_io::block_on(async {
            let endpoint = Endpoint::<R>::client(([127, 0, 0, 1], 0).into()).unwrap();
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

    #[test]
    #[cfg(feature = "async-std")]
    fn an_endpoint_goes_over_to_another_socket() {
        goes_over::<crate::AsyncStdRuntime>();
    }

    #[test]
    #[cfg(feature = "smol")]
    fn an_endpoint_on_smol_goes_over_to_another_socket() {
        goes_over::<crate::smol::SmolRuntime>();
    }
}
