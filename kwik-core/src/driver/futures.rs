//! The futures of a connection, each with a name, as in quinn. All are cancel-safe: dropped early, nothing has happened.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    connection::Connection,
    recv::RecvStream,
    session::{Key, Slot, State},
    stream::SendStream,
};
use crate::{
    error::{ConnectionError, SendDatagramError},
    id::{Dir, StreamId},
};

/// Opens a stream once the peer permits one more.
fn open(s: &mut State, dir: Dir) -> Option<Result<StreamId, ConnectionError>> {
    match s.check() {
        Err(error) => Some(Err(error)),
        Ok(()) => s.core.open(dir).map(Ok),
    }
}

/// Takes the next stream of the peer.
fn accept(s: &mut State, dir: Dir) -> Option<Result<StreamId, ConnectionError>> {
    match s.core.accept(dir) {
        Some(stream) => {
            s.notify(); // the peer may be permitted one more
            Some(Ok(stream))
        }
        None => s.error.clone().map(Err),
    }
}

/// Takes the next datagram.
fn datagram(s: &mut State) -> Option<Result<Bytes, ConnectionError>> {
    match s.core.datagram_recv() {
        Some(data) => Some(Ok(data)),
        None => s.error.clone().map(Err),
    }
}

fn send(connection: &Connection, stream: StreamId) -> SendStream {
    SendStream::new(connection.session().clone(), stream)
}

fn recv(connection: &Connection, stream: StreamId) -> RecvStream {
    RecvStream::new(connection.session().clone(), stream)
}

fn both(connection: &Connection, stream: StreamId) -> (SendStream, RecvStream) {
    (send(connection, stream), recv(connection, stream))
}

macro_rules! future {
    ($name:ident, $of:literal, $output:ty, $key:expr, $check:expr, $make:expr) => {
        #[doc = concat!("Future of [`Connection::", $of, "`].")]
        #[must_use = "futures do nothing unless polled"]
        pub struct $name<'a> {
            connection: &'a Connection,
            slot: Slot,
        }

        impl<'a> $name<'a> {
            pub(super) fn new(connection: &'a Connection) -> Self {
                Self { connection, slot: Slot::new(connection.session().shared(), $key) }
            }
        }

        impl Future for $name<'_> {
            type Output = Result<$output, ConnectionError>;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let Self { connection, slot } = self.get_mut();
                slot.poll(cx, $check).map_ok(|made| $make(connection, made))
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

future!(OpenUni, "open_uni", SendStream, Key::Available(Dir::Uni), |s| open(s, Dir::Uni), send);
future!(OpenBi, "open_bi", (SendStream, RecvStream), Key::Available(Dir::Bi), |s| open(s, Dir::Bi), both);
future!(AcceptUni, "accept_uni", RecvStream, Key::Opened(Dir::Uni), |s| accept(s, Dir::Uni), recv);
future!(AcceptBi, "accept_bi", (SendStream, RecvStream), Key::Opened(Dir::Bi), |s| accept(s, Dir::Bi), both);
future!(ReadDatagram, "read_datagram", Bytes, Key::DatagramReceived, datagram, |_, data| data);

/// Future of [`Connection::send_datagram_wait`].
#[must_use = "futures do nothing unless polled"]
pub struct SendDatagram<'a> {
    connection: &'a Connection,
    slot: Slot,
    /// Taken once it is sent.
    unsent: Option<Bytes>,
}

impl<'a> SendDatagram<'a> {
    pub(super) fn new(connection: &'a Connection, data: Bytes) -> Self {
        let slot = Slot::new(connection.session().shared(), Key::DatagramsUnblocked);
        Self { connection, slot, unsent: Some(data) }
    }
}

impl Future for SendDatagram<'_> {
    type Output = Result<(), SendDatagramError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { slot, unsent, .. } = self.get_mut();
        slot.poll(cx, |s| {
            if let Err(error) = s.check() {
                return Some(Err(SendDatagramError::ConnectionLost(error)));
            }
            let now = s.now();
            match s.core.datagram_send(now, unsent.take()?, false) {
                Ok(()) => {
                    s.notify();
                    Some(Ok(()))
                }
                Err(SendDatagramError::Blocked(data)) => {
                    *unsent = Some(data);
                    None
                }
                Err(error) => Some(Err(error)),
            }
        })
    }
}

impl fmt::Debug for SendDatagram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendDatagram").field("connection", self.connection).finish_non_exhaustive()
    }
}
