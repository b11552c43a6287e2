//! Changes of streams without the application's doing: opened, readable, finished, stopped, split.
//! Spec: PROTOCOL §4.

use super::{
    HOME, Machine, Session,
    kinds::{Inbound, Outbound},
    link::HeaderEnd,
    native::RecvHalf,
    streams::{SendHalf, flush_header},
};
use crate::{
    action::Event,
    error::{ErrorCode, PeerFault},
    id::{Dir, PathId, Side, StreamId},
    wire::{HeaderDecoder, StreamHeader, encode_header},
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
                link.inbound.insert(stream, Inbound::Header(HeaderDecoder::new()));
                self.on_header_bytes(path, stream);
            } else if path == HOME && self.serves_streams() {
                // One that is known already was opened by a `Split`.
                if self.links.home.inbound.get(stream).is_some() {
                    self.on_early_opened(stream);
                } else {
                    self.offer(stream, 0, false);
                }
                self.grow_streams();
            } else {
                // A secondary has no streams but control and relays. Spec: PROTOCOL §4.7.
                self.fault(path, PeerFault::StreamOfSecondary);
                return;
            }
        }
    }

    /// QUIC has opened a stream that a `Split` had opened before: does what had to wait for it. Its first frame comes
    /// with no other notice than this.
    fn on_early_opened(&mut self, stream: StreamId) {
        let home = &mut *self.links.home;
        match home.outbound.get_mut(stream) {
            Some(Outbound::Stream(half)) => {
                half.early = false;
                if half.finished && !home.quic.finish(stream) && self.finish_unheard(stream).is_err() {
                    tracing::debug!(%stream, "closed before its end was told");
                }
            }
            Some(&mut Outbound::ResetEarly(code)) => {
                home.outbound.remove(stream);
                home.quic.reset(stream, code);
            }
            Some(Outbound::Internal(_) | Outbound::Relay) | None => {}
        }
        let home = &mut *self.links.home;
        match home.inbound.get_mut(stream) {
            Some(Inbound::Stream(half)) => {
                half.early = false;
                self.check_native_reset(stream);
                self.notify(Event::Readable(stream));
            }
            Some(Inbound::Draining(half)) => {
                half.early = false;
                self.drain_native(stream);
            }
            Some(&mut Inbound::StopEarly(code)) => {
                home.inbound.remove(stream);
                home.quic.stop(stream, code);
            }
            Some(Inbound::Header(_) | Inbound::Internal { .. } | Inbound::Relay(_)) | None => {}
        }
    }

    /// Lets the application accept a stream of the peer, which QUIC has not opened if it is `early`.
    fn offer(&mut self, stream: StreamId, header: u64, early: bool) {
        let home = &mut self.links.home;
        home.inbound.insert(stream, Inbound::Stream(RecvHalf::new(header, early)));
        let dir = stream.dir();
        match dir {
            Dir::Bi => {
                let half = SendHalf { early, ..SendHalf::default() };
                home.outbound.insert(stream, Outbound::Stream(half));
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
        let others = u64::from(home.inbound.others());
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
            HeaderEnd::Bad(error) => self.on_bad_header(path, stream, error.into()),
            HeaderEnd::Header(StreamHeader::Relay(head)) => self.on_relay_header(path, stream, head),
            HeaderEnd::Header(StreamHeader::Public) if path == HOME && self.serves_streams() => {
                let header = encode_header(&StreamHeader::Public).len() as u64;
                self.offer(stream, header, false);
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
    fn on_bad_header(&mut self, path: PathId, stream: StreamId, fault: PeerFault) {
        match &mut self.machine {
            Machine::Client(client) if path != HOME => client.on_metadata_fault(path, fault),
            Machine::Greeting(_) | Machine::Client(_) | Machine::Primary(_) | Machine::Secondary(_) => {
                return self.fault(path, fault);
            }
        }
        if let Some(link) = self.links.get_mut(path) {
            link.quic.stop(stream, fault.code());
        }
        self.unsettled = true;
    }

    pub(super) fn on_readable(&mut self, path: PathId, stream: StreamId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        if stream == StreamId::CONTROL {
            link.control_ready = true;
            return;
        }
        match link.inbound.get_mut(stream) {
            Some(Inbound::Header(_)) => self.on_header_bytes(path, stream),
            Some(Inbound::Stream(half)) => {
                half.end_checked = false;
                self.check_native_reset(stream);
                self.notify(Event::Readable(stream));
            }
            Some(Inbound::Draining(_)) => self.drain_native(stream),
            Some(Inbound::Internal { waits: false } | Inbound::Relay(_)) => link.note_readable(stream),
            Some(Inbound::Internal { waits: true } | Inbound::StopEarly(_)) | None => {}
        }
    }

    /// A `Split` arrived and its machine has taken it.
    pub(super) fn on_split(&mut self, stream: StreamId) {
        let Machine::Client(client) = &mut self.machine else {
            return;
        };
        let base = client.split_base(stream).unwrap_or_default();
        let home = &mut *self.links.home;
        if let Some(half) = home.inbound.half(stream) {
            if let Some(policy) = half.conflict_policy {
                client.set_conflict_policy(stream, policy);
            }
            if half.read > base {
                self.fault(HOME, PeerFault::SplitTooLate);
            } else {
                self.check_native_reset(stream);
                self.notify(Event::Readable(stream));
            }
            return;
        }
        let unseen = match (stream.initiator(), stream.dir()) {
            // Split before, and given up by its reader before QUIC opened it.
            (Side::Server, Dir::Bi) => stream.index() >= self.seen_bi && home.inbound.get(stream).is_none(),
            (Side::Server, Dir::Uni) => {
                stream.index() >= self.seen_uni
                    || matches!(home.inbound.get(stream), Some(Inbound::Header(_)))
            }
            (Side::Client, _) => false,
        };
        if !unseen {
            client.split_of_closed(stream);
        } else if !home.quic.may_receive(stream) {
            self.fault(HOME, PeerFault::SplitNotPermitted);
        } else if stream.dir() == Dir::Bi {
            self.offer(stream, 0, true);
        }
        // A unidirectional stream is offered once its header is here.
    }

    pub(super) fn on_writable(&mut self, path: PathId, stream: StreamId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let half = match link.outbound.get_mut(stream) {
            Some(Outbound::Stream(half)) => half,
            Some(Outbound::Internal(internal)) => {
                let event = internal.owner.event();
                return self.notify(event);
            }
            Some(Outbound::ResetEarly(_) | Outbound::Relay) | None => return,
        };
        let flushed = flush_header(&mut link.quic, stream, &mut half.header).is_ok();
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
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let half = match link.outbound.remove(stream) {
            Some(Outbound::Relay) => return self.on_relay_end(path, stream, false),
            Some(Outbound::Internal(internal)) => return self.on_internal_sent(stream, &internal, None),
            Some(Outbound::Stream(half)) => Some(half),
            Some(Outbound::ResetEarly(_)) | None => None,
        };
        if let Machine::Primary(primary) = &mut self.machine {
            primary.forget_stream(stream);
        }
        // What a peer acknowledges that has stopped the stream does not reach anybody.
        if half.is_some_and(|half| half.stopped.is_none()) {
            self.notify(Event::Finished(stream));
        }
    }

    /// The peer wants no more of a stream we send.
    pub(super) fn on_stopped(&mut self, path: PathId, stream: StreamId) {
        if stream == StreamId::CONTROL {
            self.fault(path, PeerFault::ControlStopped);
            return;
        }
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let Some(code) = link.quic.stopped(stream).flatten() else {
            return;
        };
        match link.outbound.get(stream) {
            Some(Outbound::Stream(_)) => self.on_send_stopped(stream, code),
            Some(Outbound::Internal(_)) => {
                if let Some(Outbound::Internal(internal)) = link.outbound.remove(stream) {
                    self.on_internal_sent(stream, &internal, Some(code));
                }
            }
            Some(Outbound::Relay) => {
                link.outbound.remove(stream);
                self.on_relay_end(path, stream, true);
            }
            Some(Outbound::ResetEarly(_)) | None => {}
        }
    }

    /// The client has every byte of a split stream: lets the native FIN follow.
    pub(super) fn finish_native(&mut self, stream: StreamId) {
        self.links.home.quic.finish(stream);
        self.unsettled = true;
        if self.links.home.outbound.take_half(stream).is_some() {
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
            for writable in std::mem::take(&mut self.slot_waiters) {
                self.notify(writable);
            }
        }
        self.notify(Event::Available(dir));
    }
}
