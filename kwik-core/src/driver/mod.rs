//! Runs sessions on any executor: the order of work, the budgets, the wakers, and the handles applications hold.
//!
//! An adapter implements [`Runtime`] (a clock, a timer, a socket, a way to spawn) and gets quinn's API back. This module
//! owns no socket, no clock and no thread, and decides nothing about the protocol: it moves facts into
//! [`Session`](crate::session::Session)s, moves datagrams out, and wakes whoever waits. What every adapter asks the system
//! for through its socket is in `udp` (feature `udp`).
//!
//! # Tasks
//! One task per endpoint reads the socket and routes datagrams; one task per session does all of that session's work, so
//! sessions run on all cores. A batch of datagrams costs a session one lock of its inbox and one wake.
//!
//! # Inboxes
//! Each session has one, bounded in bytes by what its windows let honest peers have under way, so that a burst waits
//! instead of being lost, however late the session's task is. A full one first keeps the endpoint from reading, so that
//! the kernel's buffer takes the rest and no work is done in vain; but the socket belongs to other sessions as well, so
//! that may last for a tenth of the time at most, and what finds no room in the rest is dropped and counted. Those of
//! sessions that were accepted share a pool besides, each as much as is left of it, and before the hello a small one.
//!
//! # Verdicts
//! After a stall timers, sockets and tasks are woken in any order. A deadline that may find a peer silent or gone runs
//! only when the socket has been found empty since it came due, and all that was read by then is worked off.
//!
//! # Locks
//! One per endpoint, one per session, and leaves (inboxes, spare buffers) under which nothing else is locked. A session's
//! lock may be held while the endpoint's is taken, never the other way round. No lock is held during a system call of a
//! session, while a waker is called or dropped, or while the application's code answers a question: dial policies run in
//! the session's task, signers in the call that needs the signature. What QUIC calls in the middle of things runs under
//! them all the same: rustls's hooks, subscribers of `tracing`, and what is dropped with an application's bytes. If such
//! code uses a handle of the very session, that call panics instead of waiting for itself.
//!
//! # Waiting
//! A future that has to wait leaves its waker in the session's table under the same lock under which it looked, so a
//! wake-up cannot fall between the two, and takes it back when it is dropped.

use std::time::Duration;

use crate::limits::COPY_BELOW;

mod connection;
mod distribute;
mod endpoint;
mod error;
mod futures;
mod hub;
mod inbox;
mod incoming;
#[cfg(feature = "futures-io")]
mod io_futures;
#[cfg(feature = "tokio")]
mod io_tokio;
mod lease;
mod lock;
mod primary;
mod ranges;
mod receive;
mod recv;
mod runtime;
mod secondary;
mod session;
mod source;
mod stream;
mod task;
#[cfg(feature = "udp")]
pub mod udp;

pub use connection::Connection;
pub use distribute::{DistributeError, Distribution};
pub use endpoint::{Accept, Endpoint, EndpointStats};

pub use crate::distribute::{DistributeEvent, DistributeOptions};
pub use error::{
    JobError, PathError, RangeWriteError, ReadExactError, ReadToEndError, ResetError, RetryError,
    StoppedError,
};
pub use futures::{AcceptBi, AcceptUni, OpenBi, OpenUni, ReadDatagram, SendDatagram};
pub use incoming::{Accepted, Connecting, Incoming, IncomingFuture, ZeroRttAccepted};
pub use lease::{SecondaryLease, SecondaryStream};
pub use primary::PrimarySession;
pub use ranges::{Job, Lease, RangeWriter, Ranges};
pub use recv::RecvStream;
pub use runtime::{RecvMeta, Runtime, Socket, Timer, Writable};
pub use secondary::{SecondaryJob, SecondarySession};
pub use source::ReadAt;
pub use stream::SendStream;

/// Datagrams asked of a session at once: 44 of 1,452 bytes fill the 64 KiB one send call carries.
const TRAIN: usize = 44;
/// Largest UDP payload over IPv4, and so the most that one send call carries with segmentation offload.
const SEND_MAX: usize = 65_507;
/// Send calls of one session before it lets other tasks run.
const SENDS_PER_POLL: usize = 8;
/// Rounds through facts, sends and news of one session before it lets other tasks run.
const TURNS_PER_POLL: usize = 32;
/// Datagrams a session handles before it looks at what there is to send.
const FACTS_PER_TURN: usize = 256;
/// Longest time that the socket stays unread while a session has no room for what came for it: a task that is merely
/// late has taken something by then.
const ROOM_WAIT: Duration = Duration::from_millis(10);
/// Of how much time that may be taken. What finds no room in the rest of it is dropped and counted, as a full socket
/// buffer would: one slow session must not cost the others more than a tenth of theirs.
const ROOM_WAIT_PERIOD: Duration = Duration::from_millis(100);
/// Receive calls of one endpoint before it lets other tasks run.
const RECVS_PER_POLL: usize = 64;
/// Datagrams collected before their sessions are woken, even if the socket has more.
const FLUSH: usize = 128;
/// Messages per receive call. With trains of 44 datagrams each is up to 64 KiB; more of them at once than a core's
/// second-level cache holds cost more in misses than they save in calls.
const RECV_BATCH: usize = 8;
/// Bytes of a message: one datagram, or a train of them that the kernel coalesced.
const MESSAGE_MAX: usize = 64 * 1024;
/// Receive errors in a row after which the socket is taken for dead; single ones are what ICMP reports look like.
const RECV_ERRORS_MAX: usize = 64;
/// Bytes of a piece of memory that received datagrams share: what a reader that keeps one of them pins at most.
const SLAB: usize = 16 * 1024;
/// Pieces shorter than `COPY_BELOW` are copied, so that none pins more than 32 times its length. Spec: RATIONALE §6.
const _: () = assert!(SLAB <= 32 * COPY_BELOW);
/// Pieces of memory kept for reuse by an endpoint.
const SLABS_KEPT: usize = 64;
/// Send buffers kept for reuse by an endpoint.
const BUFFERS_KEPT: usize = 16;
/// Bytes copied per `write` of borrowed bytes: more is not accepted at once, so that little is copied in vain.
const COPY_MAX: usize = 32 * 1024;

#[cfg(test)]
mod tests;
