//! Changes of streams without the application's doing: opened, readable, finished, stopped, split.
//! Spec: PROTOCOL §4.

use super::{
    HOME, Machine, Session,
    link::HeaderEnd,
    native::RecvHalf,
    streams::{Deferred, SendHalf, flush_header},
};
use crate::{
    action::Event,
    error::ErrorCode,
    id::{Dir, PathId, Side, StreamId},
    wire::{StreamHeader, encode_header},
};

impl Session {
    /// The peer opened streams in `dir`.
    pub(super) fn on_opened(&mut self, path: PathId, dir: Dir) {
        loop {
            let before_hello = matches!(self.machine, Machine::Greeting(_));
            if before_hello && (dir == Dir::Uni || self.seen_bi > 0) {
                return; // held unaccepted until the hello is accepted
            }
            let Some(link) = self.links.get_mut(path) else {
                return;
            };
            let Some(stream) = link.quic.accept(dir) else {
                return;
            };
            if path == HOME {
                match dir {
                    Dir::Bi => self.seen_bi += 1,
                    Dir::Uni => self.seen_uni += 1,
                }
            }
            if stream == StreamId::CONTROL {
                link.control_ready = true;
            } else if dir == Dir::Uni {
                link.expect_header(stream);
                self.on_header_bytes(path, stream);
            } else if path == HOME && self.serves_streams() {
                match self.early.remove(&stream) {
                    Some(deferred) => self.on_early_opened(stream, &deferred),
                    None => self.offer(stream, 0),
                }
                self.grow_streams();
            } else {
                // A secondary has no streams but control and relays. Spec: PROTOCOL §4.7.
                self.fault(path, ErrorCode::INVALID_STREAM_ROLE);
                return;
            }
        }
    }

    /// QUIC has opened a stream that a `Split` had opened before: does what had to wait for it. Its first frame comes
    /// with no other notice than this.
    fn on_early_opened(&mut self, stream: StreamId, deferred: &Deferred) {
        let home = &mut self.links.home;
        if let Some(code) = deferred.stop {
            home.quic.stop(stream, code);
        }
        if let Some(code) = deferred.reset {
            home.quic.reset(stream, code);
        } else if deferred.finish && !home.quic.finish(stream) && self.finish_unheard(stream).is_err() {
            tracing::debug!(%stream, "closed before its end was told");
        }
        if self.draining.contains_key(&stream) {
            self.drain_native(stream);
        } else if self.recv.contains_key(&stream) {
            self.check_native_reset(stream);
            self.notify(Event::Readable(stream));
        }
    }

    /// Lets the application accept a stream of the peer.
    fn offer(&mut self, stream: StreamId, header: u64) {
        self.recv.insert(stream, RecvHalf::new(header));
        let dir = stream.dir();
        match dir {
            Dir::Bi => {
                self.send.insert(stream, SendHalf::default());
                self.accepts_bi.push_back(stream);
            }
            Dir::Uni => self.accepts_uni.push_back(stream),
        }
        self.notify(Event::Opened(dir));
    }

    /// Permits more streams once most are in use: quinn-proto pays for every permitted one. Spec: RATIONALE §11.
    fn grow_streams(&mut self) {
        let home = &mut self.links.home;
        // Those that the primary writes into split streams are permitted apart; it may have set some aside for that.
        let runs = if let Machine::Client(client) = &self.machine { client.runs_open() } else { 0 };
        let relays = home.relays.as_ref().map_or(0, |relays| relays.incoming());
        let others = (runs + relays + home.headers_expected()) as u64;
        let uni = home.quic.remote_open_streams(Dir::Uni).saturating_sub(others);
        // Control is no stream of the application's; it is the client that opens it.
        let bi = home.quic.remote_open_streams(Dir::Bi).saturating_sub(u64::from(self.client.is_none()));
        if bi.max(uni) * 2 > self.permitted {
            self.permit_streams(self.permitted * 2);
        }
        let transport = &self.transport;
        let exhausted = bi >= transport.streams(Dir::Bi, self.permitted)
            || uni >= transport.streams(Dir::Uni, self.permitted);
        self.observed.streams_exhausted += u64::from(exhausted);
    }

    /// Bytes of a unidirectional stream arrived whose header is incomplete.
    fn on_header_bytes(&mut self, path: PathId, stream: StreamId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        match link.read_header(stream) {
            HeaderEnd::Pending => {}
            HeaderEnd::Gone => {
                // Reset before its header came: if it was split, what servers place in it goes with it.
                if let (HOME, Machine::Client(client)) = (path, &mut self.machine) {
                    client.on_native_reset(stream);
                }
            }
            HeaderEnd::Bad(error) => self.on_bad_header(path, stream, error.code()),
            HeaderEnd::Header(StreamHeader::Relay(head)) => self.on_relay_header(path, stream, head),
            HeaderEnd::Header(StreamHeader::Public) if path == HOME && self.serves_streams() => {
                let header = encode_header(&StreamHeader::Public).len() as u64;
                self.offer(stream, header);
                self.grow_streams();
                // The stream may have been split before its header came.
                if matches!(&self.machine, Machine::Client(client) if client.is_split(stream)) {
                    self.notify(Event::Readable(stream));
                }
            }
            HeaderEnd::Header(header) => self.on_internal_header(path, stream, header),
        }
    }

    /// Handles a stream that does not begin with a header. Spec: PROTOCOL §10.
    fn on_bad_header(&mut self, path: PathId, stream: StreamId, code: ErrorCode) {
        match &mut self.machine {
            Machine::Client(client) if path != HOME => client.on_metadata_fault(path, code),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Primary(_) | Machine::Secondary(_) => {
                return self.fault(path, code);
            }
        }
        if let Some(link) = self.links.get_mut(path) {
            link.quic.stop(stream, code);
        }
        self.unsettled = true;
    }

    pub(super) fn on_readable(&mut self, path: PathId, stream: StreamId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        if stream == StreamId::CONTROL {
            link.control_ready = true;
        } else if link.expects_header(stream) {
            self.on_header_bytes(path, stream);
        } else if path != HOME {
            // Ids of another connection: one that the primary path knows too says nothing here.
            link.note_readable(stream);
        } else if self.draining.contains_key(&stream) {
            self.drain_native(stream);
        } else if !self.recv.contains_key(&stream) {
            link.note_readable(stream);
        } else {
            self.check_native_reset(stream);
            self.notify(Event::Readable(stream));
        }
    }

    /// A `Split` arrived and its machine has taken it.
    pub(super) fn on_split(&mut self, stream: StreamId) {
        let Machine::Client(client) = &mut self.machine else {
            return;
        };
        let base = client.split_base(stream).unwrap_or_default();
        if let Some(half) = self.recv.get(&stream) {
            if let Some(policy) = half.conflict_policy {
                client.set_conflict_policy(stream, policy);
            }
            if half.read > base {
                self.fault(HOME, ErrorCode::METADATA_PROTOCOL_VIOLATION);
            } else {
                self.check_native_reset(stream);
                self.notify(Event::Readable(stream));
            }
            return;
        }
        let home = &mut self.links.home;
        let unseen = match (stream.initiator(), stream.dir()) {
            (Side::Server, Dir::Bi) => stream.index() >= self.seen_bi,
            (Side::Server, Dir::Uni) => stream.index() >= self.seen_uni || home.expects_header(stream),
            (Side::Client, _) => false,
        };
        if !unseen {
            client.split_of_closed(stream);
        } else if !home.quic.may_receive(stream) {
            self.fault(HOME, ErrorCode::METADATA_PROTOCOL_VIOLATION);
        } else if stream.dir() == Dir::Bi {
            self.early.insert(stream, Deferred::default());
            self.offer(stream, 0);
        }
        // A unidirectional stream is offered once its header is here.
    }

    pub(super) fn on_writable(&mut self, path: PathId, stream: StreamId) {
        if path != HOME {
            return;
        }
        if let Some(event) = self.outgoing_event(stream) {
            self.notify(event);
            return;
        }
        let (Some(half), home) = (self.send.get_mut(&stream), &mut self.links.home) else {
            return;
        };
        let flushed = flush_header(&mut home.quic, stream, &mut half.header).is_ok();
        if std::mem::take(&mut half.finish_pending) {
            half.finish_pending = !flushed;
            half.finished = !flushed;
            let now = self.now;
            if flushed && self.finish(now, stream).is_err() {
                tracing::debug!(%stream, "stopped before its end was told");
            }
            return;
        }
        self.notify(Event::Writable(stream));
    }

    pub(super) fn on_finished(&mut self, path: PathId, stream: StreamId) {
        if self.on_relay_end(path, stream, false) || path != HOME || self.on_outgoing_end(stream, None) {
            return;
        }
        if let Machine::Primary(primary) = &mut self.machine {
            primary.forget_stream(stream);
        }
        // What a peer acknowledges that has stopped the stream does not reach anybody.
        if self.send.remove(&stream).is_some_and(|half| half.stopped.is_none()) {
            self.notify(Event::Finished(stream));
        }
    }

    /// The peer wants no more of a stream we send.
    pub(super) fn on_stopped(&mut self, path: PathId, stream: StreamId) {
        if stream == StreamId::CONTROL {
            self.fault(path, ErrorCode::METADATA_PROTOCOL_VIOLATION);
            return;
        }
        let Some(code) = self.links.get_mut(path).and_then(|link| link.quic.stopped(stream)).flatten() else {
            return;
        };
        if self.on_relay_end(path, stream, true) || path != HOME || self.on_outgoing_end(stream, Some(code)) {
            return;
        }
        self.on_send_stopped(stream, code);
    }

    /// The client has every byte of a split stream: lets the native FIN follow.
    pub(super) fn finish_native(&mut self, stream: StreamId) {
        self.links.home.quic.finish(stream);
        self.unsettled = true;
        if self.send.remove(&stream).is_some() {
            self.notify(Event::Finished(stream));
        }
    }

    /// The client wants no more of a split stream, and says so on control.
    pub(super) fn reset_native(&mut self, stream: StreamId, code: ErrorCode) {
        self.on_send_stopped(stream, code);
        self.unsettled = true;
    }

    /// Stream slots became free.
    pub(super) fn on_available(&mut self, path: PathId, dir: Dir) {
        if path != HOME {
            return;
        }
        if dir == Dir::Uni {
            for writer in std::mem::take(&mut self.slot_waiters) {
                self.notify(writer.event());
            }
        }
        self.notify(Event::Available(dir));
    }
}
