//! Internal streams, both ends: what servers send them for, and how clients read them. Spec: PROTOCOL §4, §5.

use std::time::Instant;

use bytes::{Buf as _, Bytes};

use super::{
    Machine, Session,
    action::{InternalEnd, Opened},
    kinds::{Inbound, Internal, Outbound},
    link::Link,
    streams::{below_control, flush_header},
    subject::{internal_span, lease_span, stream_span},
};
use crate::{
    action::{Event, RunId},
    error::{ErrorCode, LeaseWriteError, PeerFault, WriteError},
    id::{Dir, LeaseId, PathId, StreamId},
    quic::{Connection, ReadEnd, WriteEnd, Written},
    stream::assemble::Pieces,
    wire::{StreamHeader, encode_header},
};

/// Owner of the bytes that an internal stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Lease(LeaseId),
    Run {
        run: RunId,
        stream: StreamId,
    },
    /// Sequential writing past the split; `next` is the stream offset of the next byte.
    Sequential {
        stream: StreamId,
        next: u64,
    },
}

/// Leases whose starts are this close, as a power of two in bytes, share a secondary's link evenly.
const LEASE_RANK_SHIFT: u32 = 16;

impl Owner {
    /// Event that tells the application that the stream may be written on.
    pub(super) fn event(self) -> Event {
        match self {
            Self::Lease(lease) => Event::LeaseWritable(lease),
            Self::Run { run, .. } => Event::RunWritable(run),
            Self::Sequential { stream, .. } => Event::Writable(stream),
        }
    }

    /// The application stream of the primary that the bytes belong to.
    fn stream(self) -> Option<StreamId> {
        match self {
            Self::Lease(_) => None,
            Self::Run { stream, .. } | Self::Sequential { stream, .. } => Some(stream),
        }
    }
}

impl Session {
    // Sending.

    /// Opens an internal stream. `None` if there is no slot now; the owner is told when there is.
    fn open_internal(&mut self, owner: Owner, header: StreamHeader, priority: i32) -> Option<StreamId> {
        let spare = self.spare.pop_front();
        let Some(internal) = spare.or_else(|| self.links.home.quic.open(Dir::Uni)) else {
            self.slot_waiters.insert(owner.event());
            return None;
        };
        self.links.home.quic.set_priority(internal, below_control(priority));
        let header = Bytes::copy_from_slice(&encode_header(&header));
        let kind = Outbound::Internal(Internal { owner, header });
        self.links.home.outbound.insert(internal, kind);
        Some(internal)
    }

    /// Writes at most `limit` bytes of `chunks` to an internal stream.
    fn write_internal(
        &mut self,
        internal: StreamId,
        chunks: &mut [Bytes],
        limit: u64,
    ) -> Result<Written, WriteEnd> {
        let home = &mut *self.links.home;
        home.flush();
        let backlogged = home.is_backlogged();
        let out = home.outbound.internal_mut(internal).ok_or(WriteEnd::Closed)?;
        if backlogged {
            self.control_waiters.insert(out.owner.event());
            return Err(WriteEnd::Blocked);
        }
        flush_header(&mut home.quic, internal, &mut out.header)?;
        let written = write_limited(&mut home.quic, internal, chunks, limit)?;
        home.allow_for_bytes(written.bytes);
        Ok(written)
    }

    /// Writes to a split stream where the last sequential write ended, skipping what others own.
    pub(super) fn write_sequential(
        &mut self,
        stream: StreamId,
        chunks: &mut [Bytes],
    ) -> Result<Written, WriteError> {
        let Machine::Primary(primary) = &mut self.machine else {
            return Err(WriteError::ClosedStream);
        };
        let (gap, allowed) = primary.sequential_allowance(stream).ok_or(WriteError::ClosedStream)?;
        if allowed == 0 {
            return Err(WriteError::Blocked); // credit says when
        }
        let at = Owner::Sequential { stream, next: gap.start() };
        let internal = match self.internal_of(at) {
            Some(internal) => internal,
            None => {
                self.finish_sequential(stream); // the last one ends where others own the bytes
                let priority = self.priority(stream).unwrap_or_default();
                let header = StreamHeader::Internal { stream, offset: gap.start() };
                self.open_internal(at, header, priority).ok_or(WriteError::Blocked)?
            }
        };
        let written = self.write_internal(internal, chunks, allowed).map_err(|end| match end {
            WriteEnd::Blocked => WriteError::Blocked,
            WriteEnd::Closed => WriteError::ClosedStream,
            WriteEnd::Stopped(code) => WriteError::Stopped(code),
        })?;
        let len = written.bytes as u64;
        if let Some(out) = self.links.home.outbound.internal_mut(internal) {
            out.owner = Owner::Sequential { stream, next: gap.start() + len };
        }
        if let Machine::Primary(primary) = &mut self.machine {
            primary.on_sequential_sent(stream, gap, len);
        }
        Ok(written)
    }

    /// Ends the internal stream of sequential writing, if one is open.
    pub(super) fn finish_sequential(&mut self, stream: StreamId) {
        let ours = |owner: Owner| matches!(owner, Owner::Sequential { stream: of, .. } if of == stream);
        let Link { outbound, quic, .. } = &mut *self.links.home;
        for (internal, _) in outbound.internals().filter(|(_, out)| ours(out.owner)) {
            quic.finish(internal);
        }
    }

    /// Writes to a run of the primary's own.
    pub(super) fn write_to_run(
        &mut self,
        now: Instant,
        run: RunId,
        chunks: &mut [Bytes],
    ) -> Result<Written, LeaseWriteError> {
        let _session = self.enter();
        self.touch(now);
        let Machine::Primary(primary) = &mut self.machine else {
            return Err(LeaseWriteError::Ended(ErrorCode::INVALID_STREAM_ROLE));
        };
        let allowance = primary.run_allowance(run).map_err(LeaseWriteError::Ended)?;
        let _stream = stream_span(allowance.stream);
        let stream = allowance.stream;
        let owner = Owner::Run { run, stream };
        let header = StreamHeader::Internal { stream, offset: allowance.offset };
        let open = self.internal_of(owner);
        let priority = self.priority(stream).unwrap_or_default();
        if allowance.now == 0 && allowance.hedges {
            // The header alone tells the client that credit is wanted. Spec: PROTOCOL §6, "Credit".
            let internal = open.or_else(|| self.open_internal(owner, header, priority));
            let _told = internal.map(|internal| self.write_internal(internal, &mut [], 0));
            return Err(LeaseWriteError::Blocked);
        }
        if let Some(hole) = allowance.behind {
            return Err(LeaseWriteError::Behind(hole));
        }
        let written = self.fill(owner, open, header, priority, chunks, allowance.left, allowance.now)?;
        let Machine::Primary(primary) = &mut self.machine else {
            return Ok(written.1);
        };
        let whole = primary.on_run_sent(run, written.1.bytes as u64);
        if whole {
            self.links.home.quic.finish(written.0);
        }
        Ok(written.1)
    }

    /// Writes to a lease of a secondary.
    pub(super) fn write_to_lease(
        &mut self,
        now: Instant,
        lease: LeaseId,
        chunks: &mut [Bytes],
    ) -> Result<Written, LeaseWriteError> {
        let (_session, _lease) = (self.enter(), lease_span(&self.machine, lease));
        self.touch(now);
        if let Some(cause) = &self.lost {
            return Err(LeaseWriteError::Ended(super::path_code(cause)));
        }
        let Machine::Secondary(secondary) = &mut self.machine else {
            return Err(LeaseWriteError::Ended(ErrorCode::INVALID_STREAM_ROLE));
        };
        let allowance = secondary.allowance(lease)?;
        let header = StreamHeader::Secondary { lease, offset: allowance.start };
        // Lowest offset first: what the reader waits for leaves before what it will want later. Spec: PROTOCOL §5.3.
        let rank = i32::try_from(allowance.start >> LEASE_RANK_SHIFT).unwrap_or(i32::MAX - 1);
        let owner = Owner::Lease(lease);
        let (internal, written) =
            self.fill(owner, allowance.internal, header, -rank, chunks, allowance.left, allowance.now)?;
        let Machine::Secondary(secondary) = &mut self.machine else {
            return Ok(written);
        };
        secondary.on_opened(lease, internal);
        let whole = secondary.on_sent(lease, written.bytes as u64);
        if whole {
            self.links.home.quic.finish(internal);
        }
        Ok(written)
    }

    /// Opens an internal stream if there is none, and writes what has credit.
    fn fill(
        &mut self,
        owner: Owner,
        open: Option<StreamId>,
        header: StreamHeader,
        priority: i32,
        chunks: &mut [Bytes],
        left: u64,
        allowed: u64,
    ) -> Result<(StreamId, Written), LeaseWriteError> {
        if chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>() > left {
            return Err(LeaseWriteError::PastEnd);
        }
        if allowed == 0 {
            return Err(LeaseWriteError::Blocked); // credit says when
        }
        let internal = match open {
            Some(internal) => internal,
            None => self.open_internal(owner, header, priority).ok_or(LeaseWriteError::Blocked)?,
        };
        if let (Owner::Lease(lease), Machine::Secondary(secondary)) = (owner, &mut self.machine) {
            secondary.on_opened(lease, internal);
        }
        match self.write_internal(internal, chunks, allowed) {
            Ok(written) => Ok((internal, written)),
            Err(WriteEnd::Blocked) => Err(LeaseWriteError::Blocked),
            Err(WriteEnd::Closed) => Err(LeaseWriteError::Ended(ErrorCode::STREAM_CLOSED)),
            Err(WriteEnd::Stopped(code)) => Err(LeaseWriteError::Ended(code)),
        }
    }

    /// The internal stream that carries the bytes of an owner, if one is open.
    fn internal_of(&self, owner: Owner) -> Option<StreamId> {
        let mut all = self.links.home.outbound.internals();
        all.find(|(_, out)| out.owner == owner).map(|(internal, _)| internal)
    }

    /// An internal stream arrived whole, or the client stopped it with a code. It is of no kind any more.
    pub(super) fn on_internal_sent(
        &mut self,
        internal: StreamId,
        out: &Internal,
        stopped: Option<ErrorCode>,
    ) {
        if let Some(code) = stopped {
            self.links.home.quic.reset(internal, code);
        }
        match (&mut self.machine, out.owner) {
            (Machine::Secondary(secondary), Owner::Lease(lease)) => secondary.on_internal_end(lease, stopped),
            (Machine::Primary(primary), Owner::Run { run, .. }) => primary.on_run_end(run, stopped),
            (_, Owner::Lease(_) | Owner::Run { .. } | Owner::Sequential { .. }) => {}
        }
        self.notify(out.owner.event());
    }

    pub(super) fn finish_internal(&mut self, internal: StreamId) {
        let home = &mut self.links.home;
        if home.outbound.internal_mut(internal).is_some() {
            home.quic.finish(internal);
        }
        self.unsettled = true;
    }

    pub(super) fn reset_internal(&mut self, internal: StreamId, code: ErrorCode) {
        let home = &mut self.links.home;
        if home.outbound.internal_mut(internal).is_some() {
            home.outbound.remove(internal);
            home.quic.reset(internal, code);
        }
        self.unsettled = true;
    }

    /// Gives up all internal streams that carry bytes of one of the primary's streams.
    pub(super) fn reset_internals_of(&mut self, stream: StreamId) {
        let all = self.links.home.outbound.internals();
        let of = all.filter(|(_, out)| out.owner.stream() == Some(stream));
        let of: Vec<StreamId> = of.map(|(internal, _)| internal).collect();
        for internal in of {
            self.reset_internal(internal, ErrorCode::STREAM_CLOSED);
        }
    }

    /// Ends the internal stream of one run where it is: what was sent arrives, since the client counts it against credit.
    pub(super) fn end_run_stream(&mut self, run: RunId) {
        let of = |out: &Internal| matches!(out.owner, Owner::Run { run: id, .. } if id == run);
        let found = self.links.home.outbound.internals().find(|(_, out)| of(out));
        match found.map(|(internal, out)| (internal, out.header.is_empty())) {
            Some((internal, true)) => self.finish_internal(internal),
            // Not even its header has left, so no byte of it has.
            Some((internal, false)) => self.reset_internal(internal, ErrorCode::LEASE_SHORT),
            None => {}
        }
    }

    // Receiving.

    /// The header of an internal stream is complete.
    pub(super) fn on_internal_header(&mut self, path: PathId, internal: StreamId, header: StreamHeader) {
        let Machine::Client(client) = &mut self.machine else {
            self.fault(path, PeerFault::StreamToServer);
            return;
        };
        let opened = client.on_internal(path, internal, header);
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        match opened {
            Opened::Wait => link.inbound.insert(internal, Inbound::Internal { waits: true }),
            Opened::Read => {
                link.inbound.insert(internal, Inbound::Internal { waits: false });
                link.note_readable(internal);
            }
            Opened::Stop(code) => drop(link.quic.stop(internal, code)),
        }
        self.unsettled = true;
    }

    pub(super) fn resume_internal(&mut self, path: PathId, internal: StreamId) {
        if let Some(link) = self.links.get_mut(path) {
            if let Some(Inbound::Internal { waits }) = link.inbound.get_mut(internal) {
                *waits = false;
                link.note_readable(internal);
            }
        }
        self.unsettled = true;
    }

    pub(super) fn stop_internal(&mut self, path: PathId, internal: StreamId, code: ErrorCode) {
        if let Some(link) = self.links.get_mut(path) {
            link.inbound.remove(internal);
            link.quic.stop(internal, code);
        }
    }

    /// Hands on what has arrived in streams that are not the application's: all of it, so that QUIC's windows never fill.
    pub(super) fn drain_internal(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        for stream in std::mem::take(&mut link.readable) {
            match self.links.get_mut(path).and_then(|link| link.inbound.get(stream)) {
                Some(Inbound::Internal { .. }) => self.read_internal(path, stream),
                Some(Inbound::Relay(_)) => self.read_relay(path, stream),
                Some(
                    Inbound::Header(_) | Inbound::Stream(_) | Inbound::Draining(_) | Inbound::StopEarly(_),
                )
                | None => {}
            }
        }
        self.drain_actions();
    }

    /// Reads on in an internal stream.
    fn read_internal(&mut self, path: PathId, internal: StreamId) {
        let _internal = internal_span(&self.machine, path, internal);
        let (Some(link), Machine::Client(client)) = (self.links.get_mut(path), &mut self.machine) else {
            return;
        };
        // Most of what one batch brings is next in a lease and nobody else's: that is checked and placed as one.
        let mut plain = client.plain_bytes(path, internal);
        let mut pieces = Pieces::new();
        let end = link.quic.read_all(internal, |bytes| match plain.checked_sub(bytes.len() as u64) {
            Some(rest) => {
                plain = rest;
                pieces.push(bytes);
                true
            }
            None => {
                plain = 0;
                client.on_plain_bytes(path, internal, std::mem::take(&mut pieces));
                client.on_bytes(path, internal, bytes)
            }
        });
        client.on_plain_bytes(path, internal, pieces);
        tracing::trace!(?end, "read");
        match end {
            ReadEnd::Blocked => return,
            ReadEnd::Finished => client.on_internal_end(path, internal, InternalEnd::Fin),
            ReadEnd::Reset(code) => client.on_internal_end(path, internal, InternalEnd::Reset(code)),
            ReadEnd::Closed | ReadEnd::IllegalOrder => {}
        }
        link.inbound.remove(internal);
    }
}

/// Writes at most `limit` bytes, more than zero, without copying any.
fn write_limited(
    quic: &mut Connection,
    stream: StreamId,
    chunks: &mut [Bytes],
    limit: u64,
) -> Result<Written, WriteEnd> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut fit = 0;
    let mut bytes: usize = 0;
    for chunk in chunks.iter() {
        match bytes.checked_add(chunk.len()).filter(|&sum| sum <= limit) {
            Some(sum) => bytes = sum,
            None => break,
        }
        fit += 1;
    }
    if fit > 0 || chunks.is_empty() {
        return quic.write(stream, chunks.get_mut(..fit).unwrap_or_default());
    }
    let Some(first) = chunks.first_mut() else {
        return Ok(Written::default());
    };
    let mut head = [first.slice(..limit)];
    let written = quic.write(stream, &mut head)?;
    first.advance(written.bytes);
    Ok(Written { bytes: written.bytes, chunks: 0 })
}
