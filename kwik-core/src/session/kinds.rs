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

/// The group that a stream is counted in.
pub(super) enum Group {
    /// The application may read or write it.
    Application,
    /// It is not the application's.
    Other,
    /// Only its end is to come, or its owner counts it.
    Uncounted,
}

/// A kind, by which a table counts its streams.
pub(super) trait Kind {
    fn group(&self) -> Group;
}

impl Kind for Inbound {
    fn group(&self) -> Group {
        match self {
            Self::Stream(_) => Group::Application,
            Self::Header(_) | Self::Internal { .. } | Self::Relay(_) => Group::Other,
            Self::Draining(_) | Self::StopEarly(_) => Group::Uncounted,
        }
    }
}

impl Kind for Outbound {
    fn group(&self) -> Group {
        match self {
            Self::Stream(_) => Group::Application,
            Self::Internal(_) => Group::Other,
            Self::ResetEarly(_) | Self::Relay => Group::Uncounted,
        }
    }
}

/// The streams of one connection in one direction, counted by group: what is asked at every datagram is not looked for.
#[derive(Debug)]
pub(super) struct Streams<K> {
    kinds: BTreeMap<StreamId, K>,
    application: u32,
    others: u32,
}

/// The streams that the peer sends.
pub(super) type InboundStreams = Streams<Inbound>;
/// The streams that this end sends.
pub(super) type OutboundStreams = Streams<Outbound>;

impl<K> Default for Streams<K> {
    fn default() -> Self {
        Self { kinds: BTreeMap::new(), application: 0, others: 0 }
    }
}

impl<K: Kind> Streams<K> {
    /// The stream is of this kind from now on.
    pub(super) fn insert(&mut self, stream: StreamId, kind: K) {
        self.count(&kind, 1);
        if let Some(before) = self.kinds.insert(stream, kind) {
            self.count(&before, -1);
        }
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
        self.count(&kind, -1);
        Some(kind)
    }

    fn count(&mut self, kind: &K, by: i32) {
        let count = match kind.group() {
            Group::Application => &mut self.application,
            Group::Other => &mut self.others,
            Group::Uncounted => return,
        };
        *count = count.saturating_add_signed(by);
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
        match self.remove(stream) {
            Some(Inbound::Stream(half)) => Some(half),
            _ => None, // looked at above
        }
    }

    /// Returns whether there is a stream that the application may read.
    pub(super) fn is_any_read(&self) -> bool {
        self.application > 0
    }

    /// Number of streams that are not the application's.
    pub(super) fn others(&self) -> u32 {
        self.others
    }

    /// Number of streams that bring messages.
    pub(super) fn relays(&self) -> usize {
        if self.others == 0 {
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
        match self.remove(stream) {
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
        let all = (self.others > 0).then(|| self.kinds.iter()).into_iter().flatten();
        all.filter_map(|(&stream, kind)| match kind {
            Outbound::Internal(internal) => Some((stream, internal)),
            Outbound::Stream(_) | Outbound::ResetEarly(_) | Outbound::Relay => None,
        })
    }

    /// Number of the internal streams.
    pub(super) fn internals_len(&self) -> usize {
        self.others as usize
    }

    /// Number of all streams.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }
}
