//! The core of KWIK: one client stream, fed by several servers at once.
//!
//! A client connects to a **primary**; the primary names **secondary** servers, to which the client opens paths of
//! their own; secondaries write byte ranges of the client's streams at exact offsets; the client's application sees
//! ordinary QUIC streams. The contract is `DESIGN.md`, the wire `proto/PROTOCOL.md`, reasons are in
//! `kwik-core/RATIONALE.md`; this page is the map of the code.
//!
//! # Map
//! - [`Endpoint`] routes datagrams to sessions, accepts and dials. It knows no frame of KWIK.
//! - [`Session`] is one session. It notes facts, lets the machine of its role decide, and carries the decisions out.
//!   - `session/client`, `session/primary`, `session/secondary`: the machines. They know no QUIC type.
//!   - `stream` puts ranges from many servers into one order; `path` knows whether a server answers; `lease` knows
//!     who may write what. None of the three knows another.
//! - [`distribute`] hands out an object as [`schedule`] decides, over a session that it is passed. It reads no source.
//! - [`schedule`] decides which path brings which range of an object. It knows no session: a primary's application drives it.
//! - `wire` turns bytes into frames that can only be valid; nothing else names the protobuf types.
//! - `quic` is the wall around quinn-proto; nothing else names it.
//! - [`driver`](https://docs.rs/kwik-core) (feature `driver`) is what all adapters share: wakers, handles, the order
//!   of work.
//!
//! # Where it is decided
//! - Which kind of stream an incoming one is: `session/arrivals.rs`, `on_opened` and `on_header_bytes`.
//! - Which addresses may be dialled: `path/dial.rs`; which of them when: `session/client/dials.rs`, `path/race.rs`.
//! - When a path is given up: `path/health.rs`, `verdict`; what follows: `session/client/paths.rs`, `handle_timeout`.
//! - How credit is shared: `session/client/credit.rs`; the arithmetic is in `stream/credit.rs`.
//! - What a hole does: `session/client/gaps.rs`; the primary's answer: `session/primary/sync.rs`.
//! - Where a frame is parsed: `wire/decode/control.rs`; who may send it: `handle_frame` of each machine.
//! - Where a ticket is checked: `session/hello.rs`, `check_attach`; the seals are in `lease/ticket.rs`.
//! - What a fault costs: `session/settle.rs`, `fault`; what a client lets pass: `session/client/faults.rs`.
//! - What is sent next: `session/link.rs`, `flush` (control), then `session/relays.rs`, `flush_relays`, then streams by
//!   their priority.
//! - Where time is read: nowhere here. Adapters read it for `driver/runtime.rs`, and it comes in as an argument.
//!
//! # What is absent, on purpose
//! No clock, thread, lock, socket, operating-system randomness or hash order: time, seeds and bytes are arguments, and
//! the same arguments give the same decisions. No `unsafe`. No panic on any input. No byte from a secondary reaches a
//! stream outside a lease. No missing byte is ever replaced. Nothing is cached.

#![forbid(unsafe_code)]

mod action;
mod admission;
#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;
#[cfg(any(test, feature = "__bench"))]
#[doc(hidden)]
pub mod bench;
mod budget;
mod config;
pub mod crypto;
pub mod distribute;
#[cfg(feature = "driver")]
pub mod driver;
mod endpoint;
mod error;
mod faults;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod id;
mod lease;
pub mod limits;
mod path;
mod quic;
mod redact;
mod rng;
pub mod schedule;
mod session;
mod stats;
mod stream;
mod timer;
mod wire;

pub use action::{
    Chunk, Ecn, Event, JobInfo, LeaseInfo, LeaseOutcome, LeaseStatus, PathInfo, PathState, ReaderStatus,
    Relay, RunId, Transmit,
};
pub use admission::AdmissionStats;
#[cfg(any(test, fuzzing, feature = "audit"))]
pub use audit::Contradiction;
pub use config::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, SecondaryConfig,
    ServerConfig, TransportConfig, ValidationTokenConfig,
};
pub use endpoint::{
    AcceptError, DatagramEvent, Endpoint, EndpointEvent, Families, Incoming, SessionEvent, SessionHandle,
};
pub use error::{
    AddPathError, ApiMisuse, ApplicationClose, ClosedStream, ConfigError, ConnectError, ConnectionClose,
    ConnectionError, ErrorCode, GiveUpError, LeaseError, LeaseWriteError, PathDead, PeerFault, ReadError,
    RelayError, SendDatagramError, TransportError, VarInt, WriteError,
};
pub use faults::{AggregationFaults, MappingFaults, MetadataFaults};
pub use id::{
    ByteRange, Dir, JobId, LeaseId, OFFSET_MAX, ParseKeyError, PathId, PublicKey, Role, SessionId, Side,
    Signature, SpkiHash, StreamId,
};
pub use lease::ticket::{Signer, SigningKey, spki_hash};
pub use path::dial::{DialPolicy, DialRequest, NotMorePrivate};
#[cfg(feature = "qlog")]
pub use quic::Qlog;
pub use quic::{
    ConnectionId, ConnectionIdGenerator, FrameType, NoneTokenLog, NoneTokenStore, StdSystemTime, TimeSource,
    TokenLog, TokenMemoryCache, TokenReuseError, TokenStore, TransportErrorCode, VarIntBoundsExceeded,
    congestion,
};
/// The TLS library, by which [`ClientConfig`] and [`ServerConfig`] are made.
pub use rustls;
#[cfg(any(test, fuzzing, feature = "audit"))]
pub use session::Effort;
pub use session::{Answer, HandshakeData, NewJob, NewLease, NewPath, Question, Session, Written};
pub use stats::{
    FrameStats, LeaseStats, PathStats, ReassemblyStats, SessionStats, SourceStats, StreamStats, UdpStats,
};
pub use stream::conflict::ConflictPolicy;
