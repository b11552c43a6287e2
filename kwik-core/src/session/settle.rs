//! The way from facts to decisions: what QUIC reports goes to the machine, what the machine answers is carried out.
//!
//! Called with nothing but the session itself; everything it works on was noted before.

use std::time::Instant;

use bytes::Bytes;

use super::{
    EXPORTER_LABEL, HOME, Machine, Session,
    action::Action,
    hello::Welcome,
    link::ControlEnd,
    price::{self, Account},
    server_code,
    subject::{action_span, frame_span, path_span},
};
use crate::{
    action::Event,
    endpoint::{EndpointEvent, EndpointEventInner},
    error::{ConnectionError, ErrorCode, PeerFault},
    id::{Dir, LinkId, PathId, StreamId},
    lease::nonces::NonceError,
    limits,
    quic::{self, native_streams},
    timer::earliest,
    wire::Frame,
};

impl Session {
    pub(super) fn touch(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.unsettled = true;
    }

    /// Works off everything that was noted, once.
    pub(super) fn settle(&mut self) {
        if !self.unsettled {
            return;
        }
        let _session = self.enter();
        while std::mem::take(&mut self.unsettled) {
            self.drain_dialled();
            let mut next = Some(HOME);
            while let Some(path) = next {
                self.drain_link(path);
                next = self.links.after(path);
            }
            if let Machine::Client(client) = &mut self.machine {
                client.settle(self.now);
            }
            self.permit_runs();
            self.drain_actions();
            self.flush_control();
            self.flush_relays();
        }
        self.note_waits();
    }

    /// Hands what one connection reports to the machine.
    pub(super) fn drain_link(&mut self, path: PathId) {
        let _path = path_span(&self.machine, path);
        loop {
            let Some(link) = self.links.get_mut(path) else {
                return;
            };
            let Some(event) = link.quic.poll() else {
                break;
            };
            self.on_quic_event(path, event);
        }
        self.drain_heard(path);
        self.drain_control(path);
        self.drain_internal(path);
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        if link.drain_endpoint_events(path, &mut self.endpoint_events) {
            link.drained = true;
            if path != HOME {
                self.links.remove(path); // of the path to the primary, what has arrived stays readable
            }
        }
    }

    /// Counts decrypted frames as life, and takes round-trip samples.
    pub(super) fn drain_heard(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let (frames, acks) = (link.quic.frames_heard(), link.quic.acks_heard());
        if frames == link.frames_heard {
            return;
        }
        let heard = std::mem::replace(&mut link.frames_heard, frames);
        link.on_heard(self.now);
        let fresh = acks != link.acks_heard;
        let news = frames.wrapping_sub(heard) != acks.wrapping_sub(link.acks_heard);
        link.acks_heard = acks;
        let rtt = (fresh && !link.quic.is_handshaking()).then(|| link.quic.rtt());
        if let Machine::Client(client) = &mut self.machine {
            if let (HOME, Some(side)) = (path, &mut self.client) {
                side.watch.on_heard(self.now, news, link.quic.rtt());
            }
            client.on_heard(self.now, path, frames, rtt);
        }
    }

    pub(super) fn on_quic_event(&mut self, path: PathId, event: quic::Event) {
        match event {
            quic::Event::Connected => self.on_connected(path),
            quic::Event::HandshakeDataReady if path == HOME => self.events.push(Event::HandshakeDataReady),
            quic::Event::Lost(cause) => self.on_link_lost(path, cause),
            quic::Event::Opened(dir) => self.on_opened(path, dir),
            quic::Event::Available(dir) => self.on_available(path, dir),
            quic::Event::Readable(stream) => self.on_readable(path, stream),
            quic::Event::Writable(stream) => self.on_writable(path, stream),
            quic::Event::Finished(stream) => self.on_finished(path, stream),
            quic::Event::Stopped(stream) => self.on_stopped(path, stream),
            quic::Event::DatagramReceived if self.serves_streams() => {
                self.events.push(Event::DatagramReceived)
            }
            quic::Event::DatagramsUnblocked if path == HOME => self.events.push(Event::DatagramsUnblocked),
            quic::Event::HandshakeDataReady
            | quic::Event::DatagramReceived
            | quic::Event::DatagramsUnblocked => {}
        }
    }

    /// Returns whether the application of this end has streams and datagrams at all.
    pub(super) fn serves_streams(&self) -> bool {
        matches!(self.machine, Machine::Client(_) | Machine::Primary(_))
    }

    pub(super) fn on_connected(&mut self, path: PathId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        if link.quic.is_closed() {
            return; // closed by the peer in the same batch: why is told next
        }
        if !link.quic.speaks_kwik() {
            self.fault(path, PeerFault::NotKwik);
            return;
        }
        let Machine::Client(client) = &mut self.machine else {
            return; // a server waits for the hello
        };
        if !link.open_control() {
            self.fault(path, PeerFault::ControlNotPermitted);
            return;
        }
        let sent = link.send(&client.hello());
        debug_assert_eq!(sent, Ok(()), "the first frame of a connection fits");
        self.events.push(Event::Connected);
    }

    pub(super) fn on_link_lost(&mut self, path: PathId, cause: ConnectionError) {
        if path == HOME {
            // What the peer said before it left still counts.
            self.drain_control(path);
            self.drain_internal(path);
            for link in self.links.others_mut() {
                link.quic.close(self.now, ErrorCode::PRIMARY_LOST, Bytes::new());
            }
            self.close_dialled(|_| true, ErrorCode::PRIMARY_LOST);
            self.on_lost(cause);
        } else if let Machine::Client(client) = &mut self.machine {
            client.on_path_lost(path, server_code(&cause));
        }
    }

    // Control.

    pub(super) fn drain_control(&mut self, path: PathId) {
        // What comes behind the frame that ended the session is not acted on: it could open paths that nobody closes.
        while self.lost.is_none() {
            let Some(link) = self.links.get_mut(path).filter(|link| link.control_ready) else {
                return;
            };
            match link.next_frame(self.now) {
                Ok(frame) => self.on_frame(path, frame),
                Err(ControlEnd::Blocked) => link.control_ready = false,
                Err(ControlEnd::Paused(at)) => {
                    (link.control_ready, link.control_paused) = (false, true);
                    self.observed.control_pauses += 1;
                    self.resume_at = earliest(self.resume_at, Some(at));
                }
                Err(ControlEnd::Bad(error)) => {
                    link.control_ready = false;
                    self.fault(path, error.into());
                }
                Err(ControlEnd::Closed) => {
                    link.control_ready = false;
                    self.fault(path, PeerFault::ControlEnded);
                }
            }
        }
    }

    pub(super) fn on_frame(&mut self, path: PathId, frame: Frame) {
        let _frame = frame_span(&self.machine, path, &frame);
        tracing::trace!(?frame, "received");
        #[cfg(feature = "qlog")]
        self.log(|log, now| log.on_frame(now, path, &frame));
        let handled = match &mut self.machine {
            Machine::Client(client) => {
                let unnamed = client.session().is_none();
                client.handle_frame(self.now, path, frame);
                if unnamed {
                    self.app_protocol = client.app_protocol().cloned();
                    self.on_named();
                    #[cfg(feature = "qlog")]
                    self.begin_log();
                }
                Ok(())
            }
            Machine::Primary(primary) => primary.handle_frame(self.now, frame),
            Machine::Secondary(secondary) => {
                secondary.handle_frame(self.now, self.wall.secs(self.now), frame)
            }
            Machine::Greeting(_) => self.on_hello(frame),
        };
        if let Err(fault) = handled {
            self.fault(path, fault);
        }
        self.drain_actions();
        let spent = self.links.get(path).map(|link| link.spent()).unwrap_or_default();
        self.observed.tally.on_frame(spent, self.events.len());
    }

    pub(super) fn on_hello(&mut self, frame: Frame) -> Result<(), PeerFault> {
        let Machine::Greeting(greeting) = &mut self.machine else {
            return Ok(());
        };
        let Frame::ClientHello(hello) = frame else {
            return Err(PeerFault::HelloAgain);
        };
        let unix = self.wall.secs(self.now);
        match greeting.on_hello(self.now, unix, hello, self.links.home.quic.exporter(EXPORTER_LABEL)) {
            Welcome::Refuse(fault) => Err(fault),
            Welcome::AskNonce { signer, nonce, expires, now } => {
                let ask = EndpointEventInner::Nonce { signer, nonce, expires, now };
                self.endpoint_events.push_back(EndpointEvent(ask));
                Ok(())
            }
            Welcome::Primary(primary, answer) => {
                self.app_protocol.clone_from(&answer.app_protocol);
                let start = self.transport.streams_start.unwrap_or(limits::SERVER_STREAMS_START);
                self.machine = Machine::Primary(Box::new(primary));
                self.permit_streams(start);
                self.greet(Frame::ServerHello(answer))
            }
        }
    }

    pub(super) fn on_nonce(&mut self, taken: Result<(), NonceError>) {
        let Machine::Greeting(greeting) = &mut self.machine else {
            return;
        };
        let welcomed = greeting.on_nonce(self.now, taken).and_then(|(secondary, answer)| {
            self.machine = Machine::Secondary(secondary);
            // The client sends nothing here but control and messages of the primary.
            self.links.home.quic.set_max_concurrent_streams(Dir::Uni, limits::RELAY_STREAMS as u64);
            self.links.home.quic.set_receive_window(limits::CONTROL_WINDOW + limits::RELAY_WINDOW);
            self.greet(Frame::ServerHello(answer))
        });
        if let Err(fault) = welcomed {
            self.fault(HOME, fault);
        }
    }

    /// Accepts the hello: says so, and lets the client's streams in.
    pub(super) fn greet(&mut self, answer: Frame) -> Result<(), PeerFault> {
        let home = &mut self.links.home;
        home.quic.set_priority(StreamId::CONTROL, i32::MAX);
        home.control_open = true;
        home.send(&answer)?;
        self.on_named();
        #[cfg(feature = "qlog")]
        self.begin_log();
        self.endpoint_events.push_back(EndpointEvent(EndpointEventInner::Welcomed));
        self.events.push(Event::Connected);
        self.on_opened(HOME, Dir::Bi);
        self.on_opened(HOME, Dir::Uni);
        Ok(())
    }

    /// Writes control ahead of everything else, and lets writers go on that waited for it.
    pub(super) fn flush_control(&mut self) {
        for (_, link) in self.links.iter_mut() {
            link.flush();
        }
        if !self.links.home.is_backlogged() {
            for writable in std::mem::take(&mut self.control_waiters) {
                self.notify(writable);
            }
        }
    }

    /// A peer broke a rule: on a client a secondary loses its path; any other fault ends the session.
    pub(super) fn fault(&mut self, path: PathId, fault: PeerFault) {
        if let (Machine::Client(client), false) = (&mut self.machine, path == HOME) {
            client.fault(path, fault);
        } else {
            tracing::debug!(%path, %fault, "closing the session");
            self.observed.on_fault(fault);
            #[cfg(feature = "qlog")]
            self.log(|log, now| log.on_fault(now, path, fault));
            self.close_for(fault);
        }
        self.unsettled = true;
    }

    pub(super) fn drain_actions(&mut self) {
        loop {
            let action = match &mut self.machine {
                Machine::Client(client) => client.poll_action(),
                Machine::Primary(primary) => primary.poll_action(),
                Machine::Secondary(secondary) => secondary.poll_action(),
                Machine::Greeting(_) => None,
            };
            let Some(action) = action else {
                break;
            };
            self.observed.tally.on_action();
            if let Action::Notify(event) = action {
                self.notify(event);
            } else if let Some(action) = self.outbox.hold(action) {
                self.carry_out(action);
            }
        }
        if self.outbox.is_overfull() && self.lost.is_none() {
            self.fault(HOME, PeerFault::SignaturesUnpaid);
        }
        let account = match &mut self.machine {
            Machine::Client(client) => client.take_account(),
            Machine::Secondary(secondary) => secondary.take_account(),
            Machine::Primary(primary) => primary.take_account(),
            Machine::Greeting(_) => Account::default(),
        };
        if account == Account::default() {
            return;
        }
        self.links.home.settle(account);
    }

    pub(super) fn carry_out(&mut self, action: Action) {
        let _action = action_span(&self.machine, &action);
        tracing::trace!(?action);
        #[cfg(feature = "qlog")]
        self.log(|log, now| log.on_action(now, &action));
        self.perform(action);
    }

    fn close_path(&mut self, path: PathId, code: ErrorCode, reason: &'static str) {
        if let Some(link) = self.links.get_mut(path) {
            link.quic.close(self.now, code, Bytes::from_static(reason.as_bytes()));
        }
        self.close_dialled(|id| id.path == path, code);
        self.unsettled = true;
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::AskDial { path, addresses } => self.ask_to_dial(path, addresses),
            Action::Notify(event) => self.notify(event),
            Action::Sign(draft) => self.ask_to_sign(*draft),
            Action::Send { path, frame } => {
                if let Some(link) = self.links.get_mut(path).filter(|link| !link.quic.is_closed()) {
                    self.observed.on_send(&frame);
                    link.allow_frames(price::answers_to(&frame));
                    if let Err(fault) = link.send(&frame) {
                        self.fault(path, fault);
                    }
                }
                self.unsettled = true;
            }
            Action::CloseAttempt { path, attempt, code } => {
                self.close_dialled(|id| id == LinkId { path, attempt }, code);
            }
            Action::BreakPath { path, fault } => self.close_path(path, fault.code(), fault.told()),
            Action::ClosePath { path, code } => self.close_path(path, code, ""),
            Action::CloseSession { fault } => self.close_for(fault),
            Action::PeerLeft { code, reason } => self.on_peer_left(code, reason),
            Action::Dial { path, attempt, remote, server_name } => {
                self.dial(LinkId { path, attempt }, remote, server_name);
            }
            Action::Ping { path } => {
                if let Some(link) = self.links.get_mut(path) {
                    link.quic.ping();
                }
            }
            Action::PermitUni { path, count } => {
                if let Some(link) = self.links.get_mut(path) {
                    link.quic.set_max_concurrent_streams(Dir::Uni, count);
                }
            }
            Action::FinishNative { stream } => self.finish_native(stream),
            Action::ResetNative { stream, code } => self.reset_native(stream, code),
            Action::FinishInternal { stream } => self.finish_internal(stream),
            Action::EndRun { run } => self.end_run_stream(run),
            Action::ResetInternal { stream, code } => self.reset_internal(stream, code),
            Action::ResumeInternal { path, stream } => self.resume_internal(path, stream),
            Action::StopInternal { path, stream, code } => {
                self.stop_internal(path, stream, code);
            }
            Action::SplitOpened { stream } => self.on_split(stream),
        }
    }

    /// Tells the application, once until it has heard.
    pub(super) fn notify(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Permits the peer `count` streams per direction, and the connection window that goes with them.
    pub(super) fn permit_streams(&mut self, count: u64) {
        let (streams, _) = native_streams(&self.transport, count);
        if streams <= self.permitted {
            return;
        }
        self.permitted = streams;
        self.permit_again();
    }

    /// Tells the peer what it is permitted now.
    pub(super) fn permit_again(&mut self) {
        // A client opens one bidirectional stream more than its application may use: control.
        let control = u64::from(self.client.is_none());
        let streams = self.transport.streams(Dir::Bi, self.permitted);
        self.links.home.quic.set_max_concurrent_streams(Dir::Bi, streams + control);
        self.permit_uni();
        self.unsettled = true;
    }

    fn permit_uni(&mut self) {
        let beyond = (self.run_slots + self.relay_slots) as u64;
        let count = self.transport.streams(Dir::Uni, self.permitted) + beyond;
        // quinn-proto tells of streams that may follow ended ones only once they are more than an eighth.
        let untold = if beyond > 0 { count / 7 + 1 } else { 0 };
        let (_, window) = native_streams(&self.transport, self.permitted);
        // Those that come early may be left unread as well; those for runs and messages are not.
        let early = untold.saturating_mul(self.transport.stream_receive_window.into());
        let relays = self.relay_slots as u64 * u64::from(limits::RELAY_MAX);
        self.links.home.quic.set_max_concurrent_streams(Dir::Uni, count + untold);
        self.links.home.quic.set_receive_window(window.saturating_add(early + relays));
    }

    /// Permits the primary what it writes into split streams, on top of what its application may send.
    fn permit_runs(&mut self) {
        let Machine::Client(client) = &self.machine else {
            return;
        };
        let slots = limits::run_slots(client.splits());
        if slots > self.run_slots {
            self.run_slots = slots;
            self.permit_uni();
        }
    }

    /// Permits the peer its messages on top of what its application may send: they would take the next slot each time one
    /// is free, before an application that waits for it can. Only once there was one, as most sessions have none.
    pub(super) fn permit_relays(&mut self) {
        if self.relay_slots > 0 || !self.serves_streams() {
            return; // a secondary's connection has them from the start
        }
        self.relay_slots = limits::RELAY_STREAMS;
        self.permit_uni();
    }
}
