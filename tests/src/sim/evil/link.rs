//! One QUIC connection of a machine that need not keep to the rules: control by hand, streams as bytes.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kwik_proto::v1::FrameType;
use prost::Message;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, Event, ReadError, Side, StreamEvent, StreamId,
    VarInt, WriteError,
};

use crate::{sim::NodeId, wire};

/// The control stream: a client's first bidirectional stream.
pub(super) fn control() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

/// Something that a script hears of.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// The handshake is done.
    Connected,
    /// A control frame: its type and its body.
    Frame(FrameType, Vec<u8>),
    /// Bytes of a stream that is not control, next in its order.
    Bytes(StreamId, Bytes),
    /// The peer has ended a stream; with a code if it was reset.
    Ended(StreamId, Option<u64>),
    /// The peer wants no more of a stream.
    Stopped(StreamId, u64),
    /// The connection is over: the application code it was closed with, if it was.
    Closed(Option<u64>),
}

/// Bytes that wait to be written to a stream.
#[derive(Debug, Default)]
struct Pending {
    bytes: VecDeque<Bytes>,
    finish: bool,
}

/// A connection and what surrounds it.
pub(super) struct Link {
    pub(super) conn: Connection,
    pub(super) handle: ConnectionHandle,
    /// Whom it is with.
    pub(super) peer: NodeId,
    control_in: Vec<u8>,
    pending: BTreeMap<StreamId, Pending>,
    facts: VecDeque<Fact>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(conn: Connection, handle: ConnectionHandle, peer: NodeId) -> Self {
        Self { conn, handle, peer, control_in: Vec::new(), pending: BTreeMap::new(), facts: VecDeque::new() }
    }

    /// Sends a control frame.
    pub(super) fn send(&mut self, kind: FrameType, body: &impl Message) {
        self.write(control(), wire::frame(kind, body));
    }

    /// Opens a stream; `None` if the peer permits none.
    pub(super) fn open(&mut self, dir: Dir) -> Option<StreamId> {
        self.conn.streams().open(dir)
    }

    /// Opens a unidirectional stream and writes to it; `None` if the peer permits none.
    pub(super) fn open_with(&mut self, bytes: Vec<u8>) -> Option<StreamId> {
        let stream = self.open(Dir::Uni)?;
        self.write(stream, bytes);
        Some(stream)
    }

    /// Queues bytes of a stream.
    pub(super) fn write(&mut self, stream: StreamId, bytes: impl Into<Bytes>) {
        self.pending.entry(stream).or_default().bytes.push_back(bytes.into());
    }

    /// Ends a stream behind what is queued.
    pub(super) fn finish(&mut self, stream: StreamId) {
        self.pending.entry(stream).or_default().finish = true;
    }

    /// Gives a stream up.
    pub(super) fn reset(&mut self, stream: StreamId, code: u64) {
        self.pending.remove(&stream);
        // One that the peer has stopped and forgotten is gone already.
        let _gone = self.conn.send_stream(stream).reset(varint(code));
    }

    /// Wants no more of a stream.
    pub(super) fn stop(&mut self, stream: StreamId, code: u64) {
        let _gone = self.conn.recv_stream(stream).stop(varint(code));
    }

    /// Bytes that QUIC has not taken of a stream.
    pub(super) fn waiting(&self, stream: StreamId) -> usize {
        self.pending.get(&stream).map_or(0, |pending| pending.bytes.iter().map(Bytes::len).sum())
    }

    /// Hands to QUIC what it takes.
    pub(super) fn flush(&mut self) {
        let Self { conn, pending, .. } = self;
        pending.retain(|&stream, pending| {
            while let Some(front) = pending.bytes.front_mut() {
                match conn.send_stream(stream).write(front) {
                    Ok(len) if len == front.len() => {
                        pending.bytes.pop_front();
                    }
                    Ok(len) => drop(front.split_to(len)),
                    Err(WriteError::Blocked) => return true,
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return false,
                }
            }
            if pending.finish {
                let _gone = conn.send_stream(stream).finish();
            }
            false
        });
    }

    /// Returns the next thing that a script should hear of.
    pub(super) fn next_fact(&mut self) -> Option<Fact> {
        while let Some(event) = self.conn.poll() {
            match event {
                Event::Connected => self.facts.push_back(Fact::Connected),
                Event::ConnectionLost { reason } => {
                    let code = if let ConnectionError::ApplicationClosed(close) = reason {
                        Some(close.error_code.into_inner())
                    } else {
                        None
                    };
                    self.facts.push_back(Fact::Closed(code));
                }
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(stream) = self.conn.streams().accept(dir) {
                        self.read(stream);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    self.facts.push_back(Fact::Stopped(id, error_code.into_inner()));
                }
                Event::Stream(
                    StreamEvent::Available { .. }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Writable { .. },
                )
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        self.facts.pop_front()
    }

    fn read(&mut self, stream: StreamId) {
        let mut got = Vec::new();
        let mut end = None;
        let mut recv = self.conn.recv_stream(stream);
        let Ok(mut chunks) = recv.read(true) else {
            return;
        };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => got.push(chunk.bytes),
                Ok(None) => {
                    end = Some(None);
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    end = Some(Some(code.into_inner()));
                    break;
                }
            }
        }
        // What it asks to be sent goes out with this very turn.
        let _transmit = chunks.finalize();
        for bytes in got {
            if stream == control() {
                self.control_in.extend_from_slice(&bytes);
                while let Some((kind, body)) = wire::take_frame(&mut self.control_in) {
                    self.facts.push_back(Fact::Frame(kind, body));
                }
            } else {
                self.facts.push_back(Fact::Bytes(stream, bytes));
            }
        }
        if let Some(code) = end {
            self.facts.push_back(Fact::Ended(stream, code));
        }
    }
}

/// Returns `value` as QUIC carries it.
pub(super) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).expect("below 2^62")
}
