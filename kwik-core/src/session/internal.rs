//! Internal streams, both ends: what servers send them for, and how clients read them. Spec: PROTOCOL §4, §5.

use std::time::Instant;

use bytes::{Buf as _, Bytes};

use super::{
    HOME, Machine, Session,
    action::{InternalEnd, Opened},
    streams::{below_control, flush_header},
    subject::{internal_span, lease_span, stream_span},
};
use crate::{
    action::{Event, RunId},
    error::{ErrorCode, LeaseWriteError, WriteError},
    id::{Dir, LeaseId, PathId, StreamId},
    quic::{Connection, ReadEnd, WriteEnd, Written},
    wire::{StreamHeader, encode_header},
};

/// An internal stream that this server sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    owner: Owner,
    /// Part of the header that QUIC has not taken.
    header: Bytes,
}

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
            self.slot_waiters.insert(owner);
            return None;
        };
        self.links.home.quic.set_priority(internal, below_control(priority));
        let header = Bytes::copy_from_slice(&encode_header(&header));
        self.outgoing.insert(internal, Outgoing { owner, header });
        Some(internal)
    }

    /// Writes at most `limit` bytes of `chunks` to an internal stream.
    fn write_internal(
        &mut self,
        internal: StreamId,
        chunks: &mut [Bytes],
        limit: u64,
    ) -> Result<Written, WriteEnd> {
        let (home, Some(out)) = (&mut self.links.home, self.outgoing.get_mut(&internal)) else {
            return Err(WriteEnd::Closed);
        };
        home.flush();
        if home.is_backlogged() {
            self.control_waiters.insert(out.owner);
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
        let open = self.outgoing.iter().find(|(_, out)| out.owner == at).map(|(&internal, _)| internal);
        let internal = match open {
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
        if let Some(out) = self.outgoing.get_mut(&internal) {
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
        let open: Vec<StreamId> =
            self.outgoing.iter().filter(|(_, out)| ours(out.owner)).map(|(&internal, _)| internal).collect();
        for internal in open {
            self.links.home.quic.finish(internal);
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
        let open = self.outgoing.iter().find(|(_, out)| out.owner == owner).map(|(&internal, _)| internal);
        let priority = self.priority(stream).unwrap_or_default();
        if allowance.now == 0 && allowance.hedges {
            // The header alone tells the client that credit is wanted. Spec: PROTOCOL §6, "Credit".
            let internal = open.or_else(|| self.open_internal(owner, header, priority));
            let _told = internal.map(|internal| self.write_internal(internal, &mut [], 0));
            return Err(LeaseWriteError::Blocked);
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
        let rank = i32::try_from(allowance.start >> 20).unwrap_or(i32::MAX - 1);
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

    /// Event for the application when QUIC takes more of an internal stream. `None` if it is none of ours.
    pub(super) fn outgoing_event(&self, internal: StreamId) -> Option<Event> {
        self.outgoing.get(&internal).map(|out| out.owner.event())
    }

    /// An internal stream arrived whole, or the client stopped it with a code. Returns whether it is one of ours.
    pub(super) fn on_outgoing_end(&mut self, internal: StreamId, stopped: Option<ErrorCode>) -> bool {
        let Some(out) = self.outgoing.remove(&internal) else {
            return false;
        };
        if let Some(code) = stopped {
            self.links.home.quic.reset(internal, code);
        }
        match (&mut self.machine, out.owner) {
            (Machine::Secondary(secondary), Owner::Lease(lease)) => secondary.on_internal_end(lease, stopped),
            (Machine::Primary(primary), Owner::Run { run, .. }) => primary.on_run_end(run, stopped),
            (_, Owner::Lease(_) | Owner::Run { .. } | Owner::Sequential { .. }) => {}
        }
        self.notify(out.owner.event());
        true
    }

    pub(super) fn finish_internal(&mut self, internal: StreamId) {
        let ours = self.outgoing.contains_key(&internal);
        if ours {
            self.links.home.quic.finish(internal);
        }
        self.unsettled = true;
    }

    pub(super) fn reset_internal(&mut self, internal: StreamId, code: ErrorCode) {
        let ours = self.outgoing.remove(&internal).is_some();
        if ours {
            self.links.home.quic.reset(internal, code);
        }
        self.unsettled = true;
    }

    /// Gives up all internal streams that carry bytes of one of the primary's streams.
    pub(super) fn reset_internals_of(&mut self, stream: StreamId) {
        let of = self.outgoing.iter().filter(|(_, out)| out.owner.stream() == Some(stream));
        let of: Vec<StreamId> = of.map(|(&internal, _)| internal).collect();
        for internal in of {
            self.reset_internal(internal, ErrorCode::STREAM_CLOSED);
        }
    }

    /// Ends the internal stream of one run where it is: what was sent arrives, since the client counts it against credit.
    pub(super) fn end_run_stream(&mut self, run: RunId) {
        let of = |out: &Outgoing| matches!(out.owner, Owner::Run { run: id, .. } if id == run);
        let found = self.outgoing.iter().find(|(_, out)| of(out));
        match found.map(|(&internal, out)| (internal, out.header.is_empty())) {
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
            self.fault(path, ErrorCode::INVALID_STREAM_ROLE);
            return;
        };
        match client.on_internal(path, internal, header) {
            Opened::Wait => {}
            Opened::Read => {
                if let Some(link) = self.links.get_mut(path) {
                    link.note_readable(internal);
                }
            }
            Opened::Stop(code) => {
                if let Some(link) = self.links.get_mut(path) {
                    link.quic.stop(internal, code);
                }
            }
        }
        self.unsettled = true;
    }

    pub(super) fn resume_internal(&mut self, path: PathId, internal: StreamId) {
        if let Some(link) = self.links.get_mut(path) {
            link.note_readable(internal);
        }
        self.unsettled = true;
    }

    /// Hands what has arrived on internal streams to the machine: all of it, so that QUIC's windows never fill.
    pub(super) fn drain_internal(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        for internal in std::mem::take(&mut link.readable) {
            if self.read_relay(path, internal) {
                continue;
            }
            let _internal = internal_span(&self.machine, path, internal);
            let (Some(link), Machine::Client(client)) = (self.links.get_mut(path), &mut self.machine) else {
                return;
            };
            if client.is_waiting(internal) && path == HOME {
                continue;
            }
            let end = link.quic.read_all(internal, |bytes| client.on_bytes(path, internal, bytes));
            tracing::trace!(?end, "read");
            let end = match end {
                ReadEnd::Finished => InternalEnd::Fin,
                ReadEnd::Reset(code) => InternalEnd::Reset(code),
                ReadEnd::Blocked | ReadEnd::Closed | ReadEnd::IllegalOrder => continue,
            };
            client.on_internal_end(path, internal, end);
        }
        self.drain_actions();
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
