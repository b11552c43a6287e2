//! The wall around quinn-proto: the only place that names it. Owns connections and their routing; knows no frame of
//! KWIK and decides nothing.

mod cid;
mod connection;
mod endpoint;
mod event;
#[cfg(feature = "qlog")]
mod qlog;
mod retry;
mod types;

pub(crate) use cid::TokenClock;
pub use connection::Written;
pub(crate) use connection::{Connection, ConnectionEvent, EndpointEvent};
pub(crate) use endpoint::{
    Accepting, Datagram, Dial, Endpoint, Incoming, check_client_tls, check_server_tls, keep_alive,
    native_streams,
};
#[cfg(feature = "qlog")]
pub use qlog::Qlog;

pub(crate) use event::{DatagramEnd, Event, ReadEnd, WriteEnd};
pub(crate) use quinn_proto::FrameStats;
pub(crate) use types::crypto;
pub use types::{
    ConnectionId, ConnectionIdGenerator, FrameType, NoneTokenLog, NoneTokenStore, StdSystemTime, TimeSource,
    TokenLog, TokenMemoryCache, TokenReuseError, TokenStore, TransportErrorCode, VarIntBoundsExceeded,
    congestion,
};
