//! Messages between servers, by way of the client: each travels in a stream of its own, whole or not at all.
//!
//! What is on its way over one connection is in its [`Relays`]. The machine of each role says where a message may go and
//! whether it is believed; this moves the bytes. Best effort: a message is lost with its path, and where nobody takes
//! messages they are refused, so that they never take the place of anything else. Spec: PROTOCOL §9.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;

use super::{
    HOME, Machine, Session,
    kinds::{Inbound, Outbound},
    question::{Draft, Question, RelayDraft},
    streams::below_control,
};
use crate::{
    action::{Event, Relay},
    budget::{Bucket, Rate},
    error::{ApiMisuse, ErrorCode, PeerFault, RelayError},
    id::{Dir, PathId, Signature, StreamId},
    lease::relay::Direction,
    limits,
    quic::{Connection, ReadEnd, WriteEnd},
    timer::earliest,
    wire::{RelayOpen, StreamHeader, encode_header},
};

/// Relayed messages of one connection. Boxed by its owner: most sessions have none.
#[derive(Debug)]
pub(super) struct Relays {
    /// Messages that may come.
    taken: Bucket,
    /// Messages for the peer that have no stream yet, what they count for together, and how fast they go.
    given: Bucket,
    queue: VecDeque<Outgoing>,
    queued: u64,
    /// The application waits for room.
    wanted: bool,
    /// One of ours has arrived, so the peer has permitted slots for them.
    permitted: bool,
    /// Streams for the peer that it has not acknowledged.
    open: BTreeMap<StreamId, Sending>,
}

/// A message on its way to the peer.
#[derive(Debug)]
struct Sending {
    path: PathId,
    id: u64,
    /// Part that QUIC has not taken.
    left: Vec<Bytes>,
}

/// A message that comes, as far as it has.
pub(super) struct Message {
    head: RelayOpen,
    bytes: Vec<u8>,
}

crate::redact::debug_hiding!(Message { head; bytes });

/// A message that goes.
pub(super) struct Outgoing {
    pub(super) head: RelayOpen,
    pub(super) payload: Bytes,
    /// The application's key has not signed it yet.
    pub(super) unsigned: bool,
}

crate::redact::debug_hiding!(Outgoing { head, unsigned; payload });

impl Relays {
    fn new(now: Instant) -> Self {
        Self {
            // Twice what an honest peer sends, as clocks differ; and at once both its burst and what may have been under
            // way before.
            taken: Bucket::new(now, Rate::per_second(limits::RELAY_RATE * 2), limits::RELAY_BURST),
            given: Bucket::new(
                now,
                Rate::per_second(limits::RELAY_RATE),
                limits::RELAY_BURST - limits::RELAY_WINDOW,
            ),
            queue: VecDeque::new(),
            queued: 0,
            wanted: false,
            permitted: false,
            open: BTreeMap::new(),
        }
    }

    /// Returns whether messages wait for a stream, or for QUIC to take them.
    fn is_sending(&self) -> bool {
        !self.queue.is_empty() || self.open.values().any(|sending| !sending.left.is_empty())
    }

    /// Returns whether one more message of our own may be under way.
    fn has_room(&self) -> bool {
        self.queue.len() + self.open.len() < limits::RELAYS_AT_ONCE && self.queued < limits::RELAY_BURST
    }

    /// Size that the messages of one path that wait for a stream count for.
    fn queued_of(&self, path: PathId) -> u64 {
        let of = self.queue.iter().filter(|message| message.head.path == path);
        of.map(|message| cost(message.head.length)).sum()
    }

    /// Returns whether a message may go although earlier ones of its path are not acknowledged. Were it too far ahead, its
    /// receiver would take those for old ones that are said again.
    fn is_near(&self, head: &RelayOpen, client: bool) -> bool {
        let ahead = if client { AHEAD_MAX / 2 } else { AHEAD_MAX };
        let mut earlier = self.open.values().filter(|sending| sending.path == head.path);
        earlier.all(|sending| head.id < sending.id.saturating_add(ahead))
    }

    /// Number of slots to set aside for messages on the primary's connection, out of what the peer has permitted.
    pub(super) fn slots_wanted(&self) -> usize {
        if self.permitted { limits::RELAY_STREAMS.saturating_sub(self.open.len()) } else { 0 }
    }

    /// Hands QUIC what it has not taken of the open streams.
    fn flush(&mut self, quic: &mut Connection) {
        for (&stream, Sending { left, .. }) in &mut self.open {
            if left.is_empty() {
                continue;
            }
            match quic.write(stream, left) {
                Ok(written) => drop(left.drain(..written.chunks)),
                Err(WriteEnd::Blocked) => continue,
                Err(WriteEnd::Closed | WriteEnd::Stopped(_)) => left.clear(), // its end is told apart
            }
            if left.is_empty() {
                quic.finish(stream);
            }
        }
    }
}

/// Distance by which a server's messages may be ahead of one that is not acknowledged; half of it on the client's way on.
const AHEAD_MAX: u64 = 64;
const _: () =
    assert!(AHEAD_MAX + AHEAD_MAX / 2 < crate::lease::relay::WINDOW, "none is taken for a repetition");

/// Size that a message counts for in every bound: its bytes, and for the smallest what it costs to handle.
fn cost(length: u32) -> u64 {
    u64::from(length).max(limits::RELAY_COST_MIN)
}

const _: () = assert!(
    limits::RELAY_BURST > limits::RELAY_WINDOW + limits::RELAY_MAX as u64,
    "an honest sender has a burst of its own, and every message can be sent"
);

impl Session {
    // Commands.

    /// Sends a message to the server of a path, by way of the client: `path` is ignored on a secondary, which can only
    /// write to its primary. Delivered once or, should the path end or its application not read, not at all; messages
    /// do not keep their order. At most 64 KiB. A primary's are sealed, so that nobody else can have made them.
    /// Spec: PROTOCOL §9.
    ///
    /// # Errors
    /// - [`RelayError::Blocked`] while the path is being attached ([`Event::PathChanged`] follows), or while as many
    ///   messages as may be are on their way ([`Event::RelaysUnblocked`] follows).
    /// - [`RelayError::Misuse`] on a client, or if the message is too long.
    /// - [`RelayError::PathDead`] if there is no such path, or it is gone.
    /// - [`RelayError::SessionClosed`] once the session is over.
    /// - [`RelayError::Unsupported`] if the client carries no messages.
    pub fn relay(&mut self, now: Instant, path: PathId, payload: Bytes) -> Result<(), RelayError> {
        self.now = self.now.max(now); // as long as nothing is sent, nothing has to be worked off
        if self.lost.is_some() {
            return Err(RelayError::SessionClosed);
        }
        let fits = u32::try_from(payload.len()).ok().filter(|&length| length <= limits::RELAY_MAX);
        let length = fits.ok_or(RelayError::Misuse(ApiMisuse::TooLong))?;
        if !matches!(self.machine, Machine::Primary(_) | Machine::Secondary(_)) {
            return Err(RelayError::Misuse(ApiMisuse::WrongRole));
        }
        let link = &mut self.links.home;
        if let Some(relays) = link.relays.as_mut().filter(|relays| !relays.has_room()) {
            relays.wanted = true;
            return Err(RelayError::Blocked);
        }
        let (session, head, direction, signer) = match &mut self.machine {
            Machine::Primary(primary) => {
                let head = primary.relay_head(path, length)?;
                (primary.session(), head, Direction::ToSecondary, Some(primary.signer()))
            }
            Machine::Secondary(secondary) => {
                let head = secondary.relay_head(length)?;
                (secondary.session(), head, Direction::ToPrimary, secondary.signer())
            }
            Machine::Greeting(_) | Machine::Client(_) => {
                return Err(RelayError::Misuse(ApiMisuse::WrongRole));
            }
        };
        let unsigned = signer.is_some();
        if let Some(signer) = signer {
            let RelayOpen { path, id, .. } = head;
            let draft = RelayDraft { session, path, direction, id, payload: payload.clone() };
            self.questions.push_back(Question::sign(Draft::Relay(draft), signer));
        }
        self.queue_relay(HOME, Outgoing { head, payload, unsigned });
        Ok(())
    }

    /// Takes a message of another server; [`Event::RelayArrived`] tells when to ask. Those that nobody takes are
    /// refused once 1 MiB of them waits.
    pub fn take_relay(&mut self) -> Option<Relay> {
        let relay = self.relayed.pop_front()?;
        self.relayed_bytes = self.relayed_bytes.saturating_sub(cost(relay.length()));
        Some(relay)
    }

    // Receiving.

    /// A stream of the peer's brings a message.
    pub(super) fn on_relay_header(&mut self, path: PathId, stream: StreamId, head: RelayOpen) {
        if path == HOME {
            self.permit_relays(); // whatever becomes of this one: its sender goes by whether it arrived
        }
        let allowed = match &mut self.machine {
            Machine::Client(client) => client.check_relay(path, &head),
            Machine::Primary(primary) => primary.check_relay(&head).map(|()| HOME),
            Machine::Secondary(secondary) => secondary.check_relay(&head).map(|()| HOME),
            Machine::Greeting(_) => Err(Unwelcome::Fault(PeerFault::RelayOfStranger)),
        };
        let onward = match allowed {
            Ok(onward) => onward,
            Err(Unwelcome::Fault(fault)) => return self.fault(path, fault),
            Err(Unwelcome::Refuse(code)) => return self.refuse_relay(path, stream, code),
        };
        if self.is_full_of_relays(onward, &head) {
            return self.refuse_relay(path, stream, ErrorCode::RELAY_REFUSED);
        }
        let now = self.now;
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let relays = link.relays.get_or_insert_with(|| Box::new(Relays::new(now)));
        let fast = relays.taken.take(now, cost(head.length)).is_err();
        if fast || link.inbound.relays() >= limits::RELAY_STREAMS {
            return self.refuse_relay(path, stream, ErrorCode::RELAY_REFUSED);
        }
        link.inbound.insert(stream, Inbound::Relay(Message { head, bytes: Vec::new() }));
        link.note_readable(stream);
        self.unsettled = true;
    }

    /// Returns whether no more messages may wait where this one would go: for this application, or on a client for the
    /// connection `onward`. There each server has a part of its own, so that none takes it from the others.
    fn is_full_of_relays(&self, onward: PathId, head: &RelayOpen) -> bool {
        let (waiting, most) = match &self.machine {
            Machine::Client(_) => {
                let link = self.links.get(onward);
                let relays = link.and_then(|link| link.relays.as_ref());
                // What one sends at once, while what others have sent goes on at its rate.
                let most = if onward == HOME { limits::RELAY_BURST / 2 } else { limits::RELAY_BURST };
                (relays.map_or(0, |relays| relays.queued_of(head.path)), most)
            }
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => {
                (self.relayed_bytes, limits::RELAY_BURST)
            }
        };
        waiting.saturating_add(cost(head.length)) > most
    }

    fn refuse_relay(&mut self, path: PathId, stream: StreamId, code: ErrorCode) {
        self.relays_refused += 1;
        if let Some(link) = self.links.get_mut(path) {
            link.quic.stop(stream, code);
        }
        self.unsettled = true;
    }

    /// Reads on in a message.
    pub(super) fn read_relay(&mut self, path: PathId, stream: StreamId) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let Some(Inbound::Relay(message)) = link.inbound.get_mut(stream) else {
            return;
        };
        let length = message.head.length as usize;
        let end = link.quic.read_all(stream, |bytes| {
            message.bytes.extend_from_slice(&bytes);
            message.bytes.len() <= length
        });
        let come = message.bytes.len();
        if matches!(end, ReadEnd::Blocked) && come <= length {
            return;
        }
        let message = link.inbound.remove(stream);
        match (end, message) {
            (ReadEnd::Finished, Some(Inbound::Relay(Message { head, bytes }))) if come == length => {
                self.on_relay(path, head, bytes.into());
            }
            (ReadEnd::Blocked | ReadEnd::Finished, _) => {
                self.fault(path, PeerFault::RelayLength);
            }
            // The sender gave it up, or its path is closing.
            (ReadEnd::Reset(_) | ReadEnd::Closed | ReadEnd::IllegalOrder, _) => {}
        }
    }

    /// A message is here, whole.
    fn on_relay(&mut self, from: PathId, head: RelayOpen, payload: Bytes) {
        let relay = match &mut self.machine {
            Machine::Client(client) => {
                // Looked at again: the path may have ended since the header came.
                let onward = client.check_relay(from, &head).ok();
                match onward.filter(|&onward| !self.is_full_of_relays(onward, &head)) {
                    Some(onward) => self.queue_relay(onward, Outgoing { head, payload, unsigned: false }),
                    None => self.relays_refused += 1,
                }
                return;
            }
            Machine::Primary(primary) => primary.open_relay(self.now, &head, payload),
            Machine::Secondary(secondary) => secondary.open_relay(self.now, &head, payload),
            Machine::Greeting(_) => None,
        };
        match relay.filter(|_| !self.is_full_of_relays(HOME, &head)) {
            Some(relay) => {
                self.relayed_bytes += cost(head.length);
                self.relayed.push_back(relay);
                self.notify(Event::RelayArrived);
            }
            None => self.relays_refused += 1,
        }
    }

    // Sending.

    pub(super) fn queue_relay(&mut self, path: PathId, relay: Outgoing) {
        let now = self.now;
        let Some(link) = self.links.get_mut(path) else {
            self.relays_refused += 1;
            return;
        };
        let relays = link.relays.get_or_insert_with(|| Box::new(Relays::new(now)));
        relays.queued += cost(relay.head.length);
        relays.queue.push_back(relay);
        self.unsettled = true;
    }

    /// A message of ours is signed; without a seal it is not to be, and is not sent.
    pub(super) fn seal_relay(&mut self, path: PathId, id: u64, seal: Option<Signature>) {
        let Some(relays) = self.links.home.relays.as_mut() else {
            return;
        };
        let is = |message: &Outgoing| message.unsigned && message.head.path == path && message.head.id == id;
        let Some(at) = relays.queue.iter().position(is) else {
            return;
        };
        match (seal, relays.queue.get_mut(at)) {
            (Some(seal), Some(message)) => {
                message.head.seal = Some(seal);
                message.unsigned = false;
            }
            (None, Some(message)) => {
                relays.queued = relays.queued.saturating_sub(cost(message.head.length));
                relays.queue.remove(at);
                self.tell_of_room();
            }
            (_, None) => {}
        }
    }

    /// Sends what messages there are, behind control and ahead of the bytes of streams.
    pub(super) fn flush_relays(&mut self) {
        if self.links.iter().all(|(_, link)| link.relays.as_ref().is_none_or(|relays| !relays.is_sending())) {
            return;
        }
        self.keep_slots();
        let runs = self.run_slots_wanted();
        let client = matches!(self.machine, Machine::Client(_));
        for (path, link) in self.links.iter_mut() {
            if link.is_backlogged() || !link.control_open {
                continue;
            }
            let Some(relays) = &mut link.relays else {
                continue;
            };
            while relays.open.len() < limits::RELAY_STREAMS {
                let Some(next) = relays.queue.front().filter(|next| !next.unsigned) else {
                    break;
                };
                if !relays.is_near(&next.head, client) {
                    break; // acknowledgements let it go
                }
                if let Err(at) = relays.given.ready(self.now, cost(next.head.length)) {
                    self.resume_at = earliest(self.resume_at, Some(at));
                    break;
                }
                if path == HOME && self.spare.len() < runs {
                    break; // what there is is for runs, whose readers wait for them
                }
                let set_aside = path == HOME && self.spare.len() > runs;
                let spare = if set_aside { self.spare.pop_back() } else { None };
                let Some(stream) = spare.or_else(|| link.quic.open(Dir::Uni)) else {
                    break;
                };
                let Some(Outgoing { head, payload, .. }) = relays.queue.pop_front() else {
                    break;
                };
                let cost = cost(head.length);
                relays.queued = relays.queued.saturating_sub(cost);
                relays.given.spend(cost);
                // A client's own streams are not to wait for what others say.
                let priority = if client && path == HOME { 0 } else { below_control(i32::MAX) };
                link.quic.set_priority(stream, priority);
                let header = Bytes::copy_from_slice(&encode_header(&StreamHeader::Relay(head)));
                let left = if payload.is_empty() { vec![header] } else { vec![header, payload] };
                link.outbound.insert(stream, Outbound::Relay);
                relays.open.insert(stream, Sending { path: head.path, id: head.id, left });
            }
            relays.flush(&mut link.quic);
        }
        self.tell_of_room();
    }

    /// Tells an application that waited for room.
    fn tell_of_room(&mut self) {
        let relays = self.links.home.relays.as_mut();
        if relays.is_some_and(|relays| relays.has_room() && std::mem::take(&mut relays.wanted)) {
            self.notify(Event::RelaysUnblocked);
        }
    }

    /// A message of ours has arrived whole, or with `stopped` the peer wants no more of it.
    pub(super) fn on_relay_end(&mut self, path: PathId, stream: StreamId, stopped: bool) {
        let Some(link) = self.links.get_mut(path) else {
            return;
        };
        let Some(relays) = &mut link.relays else {
            return;
        };
        relays.open.remove(&stream);
        relays.permitted = true;
        if stopped {
            link.quic.reset(stream, ErrorCode::RELAY_REFUSED);
            self.relays_refused += 1;
        }
        self.tell_of_room();
        self.unsettled = true;
    }
}

/// Reasons why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwelcome {
    /// The peer broke a rule.
    Fault(PeerFault),
    /// It may happen to an honest one.
    Refuse(ErrorCode),
}
