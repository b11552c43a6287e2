//! The kind of each stream of a connection, by direction: what an event about the stream is about.
//!
//! A stream has one kind at a time, from when it begins to when QUIC has nothing more to say of it that matters. Control
//! is known by its number, and what is in neither table is nobody's business any more. Decides nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{internal::Owner, native::RecvHalf, relays::Message, streams::SendHalf};
use crate::{error::ErrorCode, id::StreamId, wire::HeaderDecoder};

/// Kind of a stream that the peer sends.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Unidirectional, and the header that tells its kind is incomplete.
    Header(HeaderDecoder),
    /// The application's.
    Stream(RecvHalf),
    /// Split and read to its end, but its native FIN has not come.
    Draining(RecvHalf),
    /// A `Split` opened it before QUIC did, and nobody reads it: it is stopped once QUIC has opened it.
    StopEarly(ErrorCode),
    /// Brings bytes of a split stream; left unread while it `waits`.
    Internal { waits: bool },
    /// Brings a message of another server.
    Relay(Message),
}

/// Kind of a stream that this end sends. Streams that are set aside for later have none yet.
#[derive(Debug)]
pub(super) enum Outbound {
    /// The application's.
    Stream(SendHalf),
    /// A `Split` opened it before QUIC did, and the application has reset it: so it is once QUIC has opened it.
    ResetEarly(ErrorCode),
    /// Carries bytes of a split stream.
    Internal(Internal),
    /// Carries a message, of which the connection's `Relays` has the rest.
    Relay,
}

/// An internal stream that this server sends.
#[derive(Debug)]
pub(super) struct Internal {
    pub(super) owner: Owner,
    /// Part of the header that QUIC has not taken.
    pub(super) header: Bytes,
}

impl Kind for Inbound {
    fn counts(&self) -> bool {
        match self {
            Self::Stream(_) | Self::Draining(_) | Self::StopEarly(_) => false,
            Self::Header(_) | Self::Internal { .. } | Self::Relay(_) => true,
        }
    }
}

impl Kind for Outbound {
    fn counts(&self) -> bool {
        matches!(self, Self::Internal(_))
    }
}

/// A kind, of which a table counts some streams.
pub(super) trait Kind {
    /// Returns whether a stream of this kind is counted.
    fn counts(&self) -> bool;
}

/// The streams of one connection in one direction.
#[derive(Debug)]
pub(super) struct Streams<K> {
    kinds: BTreeMap<StreamId, K>,
    counted: usize,
}

/// The streams that the peer sends; those that are not the application's are counted.
pub(super) type InboundStreams = Streams<Inbound>;
/// The streams that this end sends; the internal ones are counted.
pub(super) type OutboundStreams = Streams<Outbound>;

impl<K> Default for Streams<K> {
    fn default() -> Self {
        Self { kinds: BTreeMap::new(), counted: 0 }
    }
}

impl<K: Kind> Streams<K> {
    /// The stream is of this kind from now on.
    pub(super) fn insert(&mut self, stream: StreamId, kind: K) {
        self.counted += usize::from(kind.counts());
        let before = self.kinds.insert(stream, kind);
        self.counted -= usize::from(before.is_some_and(|kind| kind.counts()));
    }

    pub(super) fn get(&self, stream: StreamId) -> Option<&K> {
        self.kinds.get(&stream)
    }

    /// Returns the kind of a stream, for a change that leaves it of that kind.
    pub(super) fn get_mut(&mut self, stream: StreamId) -> Option<&mut K> {
        self.kinds.get_mut(&stream)
    }

    pub(super) fn remove(&mut self, stream: StreamId) -> Option<K> {
        let kind = self.kinds.remove(&stream)?;
        self.counted -= usize::from(kind.counts());
        Some(kind)
    }
}

impl InboundStreams {
    /// The half of a stream that the application may read.
    pub(super) fn half(&self, stream: StreamId) -> Option<&RecvHalf> {
        match self.kinds.get(&stream)? {
            Inbound::Stream(half) => Some(half),
            Inbound::Header(_)
            | Inbound::Draining(_)
            | Inbound::StopEarly(_)
            | Inbound::Internal { .. }
            | Inbound::Relay(_) => None,
        }
    }

    /// The half of a stream that the application may read.
    pub(super) fn half_mut(&mut self, stream: StreamId) -> Option<&mut RecvHalf> {
        match self.kinds.get_mut(&stream)? {
            Inbound::Stream(half) => Some(half),
            Inbound::Header(_)
            | Inbound::Draining(_)
            | Inbound::StopEarly(_)
            | Inbound::Internal { .. }
            | Inbound::Relay(_) => None,
        }
    }

    /// Forgets a stream that the application may read no more.
    pub(super) fn take_half(&mut self, stream: StreamId) -> Option<RecvHalf> {
        self.half(stream)?;
        match self.kinds.remove(&stream) {
            Some(Inbound::Stream(half)) => Some(half),
            _ => None, // looked at above
        }
    }

    /// Returns whether there is a stream that the application may read. The newest are looked at first.
    pub(super) fn is_any_read(&self) -> bool {
        self.kinds.values().rev().any(|kind| matches!(kind, Inbound::Stream(_)))
    }

    /// Number of streams that are not the application's.
    pub(super) fn others(&self) -> usize {
        self.counted
    }

    /// Number of streams that bring messages.
    pub(super) fn relays(&self) -> usize {
        if self.counted == 0 {
            return 0;
        }
        self.kinds.values().filter(|kind| matches!(kind, Inbound::Relay(_))).count()
    }

    /// Number of the streams whose kind is known: those that the primary has set aside have sent no header.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kinds.values().filter(|kind| !matches!(kind, Inbound::Header(_))).count()
    }
}

impl OutboundStreams {
    /// The half of a stream that the application writes.
    pub(super) fn half(&self, stream: StreamId) -> Option<&SendHalf> {
        match self.kinds.get(&stream)? {
            Outbound::Stream(half) => Some(half),
            Outbound::ResetEarly(_) | Outbound::Internal(_) | Outbound::Relay => None,
        }
    }

    /// The half of a stream that the application writes.
    pub(super) fn half_mut(&mut self, stream: StreamId) -> Option<&mut SendHalf> {
        match self.kinds.get_mut(&stream)? {
            Outbound::Stream(half) => Some(half),
            Outbound::ResetEarly(_) | Outbound::Internal(_) | Outbound::Relay => None,
        }
    }

    /// Forgets a stream of the application's.
    pub(super) fn take_half(&mut self, stream: StreamId) -> Option<SendHalf> {
        self.half(stream)?;
        match self.kinds.remove(&stream) {
            Some(Outbound::Stream(half)) => Some(half),
            _ => None, // looked at above
        }
    }

    /// Returns whether the application may still write to a stream. The newest are looked at first: they are the ones that
    /// are still written to.
    pub(super) fn is_any_written(&self) -> bool {
        let open = |kind: &Outbound| matches!(kind, Outbound::Stream(half) if !half.is_finished());
        self.kinds.values().rev().any(open)
    }

    pub(super) fn internal_mut(&mut self, stream: StreamId) -> Option<&mut Internal> {
        match self.kinds.get_mut(&stream)? {
            Outbound::Internal(internal) => Some(internal),
            Outbound::Stream(_) | Outbound::ResetEarly(_) | Outbound::Relay => None,
        }
    }

    /// The internal streams.
    pub(super) fn internals(&self) -> impl Iterator<Item = (StreamId, &Internal)> {
        let all = (self.counted > 0).then(|| self.kinds.iter()).into_iter().flatten();
        all.filter_map(|(&stream, kind)| match kind {
            Outbound::Internal(internal) => Some((stream, internal)),
            Outbound::Stream(_) | Outbound::ResetEarly(_) | Outbound::Relay => None,
        })
    }

    /// Number of the internal streams.
    pub(super) fn internals_len(&self) -> usize {
        self.counted
    }

    /// Number of all streams.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }
}
