//! The secondaries of a fuzzed client: some fill their leases, late or in time, and some break every rule.

use bytes::Bytes;

use super::{Driver, SESSION, object};
use crate::{
    error::ErrorCode,
    fuzzing::{frames, source::Source},
    id::{JobId, LeaseId, LinkId, PathId},
    session::{
        action::{InternalEnd, Opened},
        client::Client,
    },
    stream::recv::By,
    wire::{Frame, StreamHeader},
};

impl Driver {
    /// Does what comes next for a path that is being attached.
    pub(super) fn attach(&mut self, path: PathId, op: &mut Source<'_>) {
        if !self.known.is_linked(path) {
            return;
        }
        let dialled: Vec<LinkId> =
            self.known.dialled.iter().copied().filter(|link| link.path == path).collect();
        let Some(&link) = dialled.get(usize::from(op.any::<u8>()) % dialled.len().max(1)) else {
            return;
        };
        if op.rarely(8) {
            self.known.dialled.remove(&link);
            self.client.on_attempt_lost(link, frames::code(op));
            self.settle();
            return;
        }
        let taken = self.client.on_path_handshake(link, None, (!op.rarely(16)).then_some([1; 32]));
        self.settle();
        assert!(
            !taken || self.known.dialled.iter().filter(|link| link.path == path).eq([&link]),
            "several are taken"
        );
        self.secondary(path, Frame::ServerHello(frames::server_hello(SESSION, op)));
        self.settle();
    }

    pub(super) fn path_moves(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(1 + u32::from(op.any::<u8>() % 4));
        match op.below(4) {
            0 | 1 => self.attach(path, op),
            2 if self.known.is_linked(path) => {
                self.known.linked.remove(&path);
                self.client.on_path_lost(path, frames::code(op));
                self.known.only_paths_end(&mut self.client, self.now);
            }
            _ => {}
        }
    }

    pub(super) fn secondary_answers(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(1 + u32::from(op.any::<u8>() % 3));
        let job = JobId::new(op.below(self.next_job.max(1)));
        let frame = match op.below(4) {
            0 => Frame::JobAccepted { job },
            1 if op.rarely(4) => Frame::JobRefused { job, code: frames::code(op) },
            2 => Frame::LeaseRefused { lease: self.any_lease(op), code: frames::code(op) },
            _ => return,
        };
        let honest = self.known.is_honest(path, &frame);
        let before = self.client.is_live(path);
        self.secondary(path, frame);
        assert!(!honest || before == self.client.is_live(path), "an honest answer costs nothing");
    }

    /// A secondary fills a lease as far as it knows to have credit; it may not know yet that the lease is over.
    pub(super) fn fill(&mut self, op: &mut Source<'_>) {
        if let Some((lease, _)) = self.known.nth_noticed(op.any::<u8>().into()) {
            let most = 1 + op.below(12 * 1024);
            let lie = op.rarely(16);
            self.send(lease, most, lie, op.rarely(2));
        }
    }

    /// Every secondary fills every lease as far as it may; returns whether there was anything to fill.
    pub(super) fn fill_all(&mut self) -> bool {
        let leases: Vec<LeaseId> = self.known.leases.keys().copied().collect();
        let mut sent = 0;
        for lease in leases {
            sent += self.send(lease, u64::MAX, false, false);
        }
        sent > 0
    }

    /// A secondary sends up to `most` bytes of a lease that it was told of; returns how many. It may not know yet that
    /// the lease was `cut`.
    fn send(&mut self, lease: LeaseId, most: u64, lie: bool, cut: bool) -> u64 {
        let Some(known) = self.known.leases.get(&lease).filter(|known| known.noticed) else { return 0 };
        let (path, stream, start) = (known.path, known.stream, known.range.start());
        if !self.known.is_linked(path) || !self.client.is_live(path) {
            return 0;
        }
        let over = known.answered;
        let internal = match self.known.fills.iter().find(|(_, fill)| **fill == (path, lease)) {
            Some((&internal, _)) => internal,
            None if known.sent > 0 => return 0, // ended before
            None => {
                let internal = self.fresh_uni();
                let header = StreamHeader::Secondary { lease, offset: start };
                let opened = self.client.on_internal(path, internal, header);
                let expected = if over { Opened::Stop(ErrorCode::LEASE_REVOKED) } else { Opened::Read };
                assert_eq!(opened, expected, "{lease} of {path}");
                if over {
                    return 0;
                }
                self.known.fills.insert(internal, (path, lease));
                internal
            }
        };
        let len = self.known.may_send(lease).min(most);
        if len == 0 {
            return 0;
        }
        let known = self.known.leases.get_mut(&lease).expect("noticed");
        let offset = start + known.sent;
        known.sent += len;
        known.lied |= lie;
        self.known.lies |= lie;
        let known = self.known.leases.get(&lease).expect("noticed");
        let whole = (start + known.sent == known.range.end()).then_some(known.range);
        let late = if cut && whole.is_some() { known.noticed_end - known.range.end() } else { 0 };
        let (digest, lied) = (known.digest, known.lied);
        let bytes = object(stream, offset, len + late.min(100), lie);
        let placed = |client: &Client| client.sources().get(&path).map_or(0, |source| source.bytes);
        let before = placed(&self.client);
        let taken = self.client.on_any_bytes(path, internal, bytes.clone());
        assert_eq!(taken, !over && late == 0, "bytes of a live lease are taken, late ones are not");
        assert!(self.client.is_live(path) || self.known.lies, "an honest secondary is not punished");
        let in_time = bytes.slice(..usize::try_from(len).expect("small"));
        let expected = match (digest, whole) {
            _ if over => 0,
            (None, _) => self.known.place(stream, (offset, &in_time), By::Lease),
            (Some(_), None) => 0, // staged
            (Some(digest), Some(range)) => {
                let promised = object(stream, range.start(), range.len(), false);
                let right = !lied && digest == *blake3::hash(&promised).as_bytes();
                if right { self.known.place(stream, (range.start(), &promised), By::Verified) } else { 0 }
            }
        };
        // Nothing is placed any more once the stream was given up because bytes differ.
        let given_up = self.known.lies && !self.client.is_split(stream);
        assert!(given_up || placed(&self.client) - before == expected, "placed");
        self.known.only_paths_end(&mut self.client, self.now); // it may have ended others
        len
    }

    pub(super) fn end_fill(&mut self, op: &mut Source<'_>) {
        let fills: Vec<_> = self.known.fills.iter().map(|(&internal, &(path, _))| (internal, path)).collect();
        if fills.is_empty() {
            return;
        }
        let (internal, path) = op.pick(&fills);
        self.known.fills.remove(&internal);
        if self.known.is_linked(path) {
            let end = if op.rarely(2) { InternalEnd::Reset(frames::code(op)) } else { InternalEnd::Fin };
            self.client.on_internal_end(path, internal, end);
            self.known.only_paths_end(&mut self.client, self.now);
        }
    }

    /// A secondary breaks a rule. Nothing of what it says is placed, and nobody but it pays.
    pub(super) fn hostile_secondary(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(1 + u32::from(op.any::<u8>() % 3));
        if !self.known.is_linked(path) {
            return;
        }
        let placed = |client: &Client| client.sources().values().map(|source| source.bytes).sum::<u64>();
        let before = placed(&self.client);
        match op.below(4) {
            0 => {
                let frame = frames::any(op);
                self.secondary(path, frame);
            }
            1 => {
                let internal = self.fresh_uni();
                let header = match self.known.nth_noticed(op.any::<u8>().into()) {
                    // Another's lease, or its own from the wrong place.
                    Some((lease, known)) if !op.rarely(2) => {
                        let offset = known.range.start() + u64::from(op.rarely(4));
                        StreamHeader::Secondary { lease, offset }
                    }
                    _ => frames::header(op),
                };
                if self.known.may_open(path, header) {
                    return;
                }
                let opened = self.client.on_internal(path, internal, header);
                assert!(matches!(opened, Opened::Stop(_)), "{header:?} is not for {path}");
                assert!(!self.client.on_bytes(path, internal, Bytes::from_static(b"late")));
            }
            _ => {
                let fills = self.known.fills.iter().filter(|(_, fill)| fill.0 == path);
                let fills: Vec<_> = fills.map(|(&internal, &(_, lease))| (internal, lease)).collect();
                if fills.is_empty() {
                    return;
                }
                let (internal, lease) = op.pick(&fills);
                let known = self.known.leases.get(&lease).expect("noticed");
                let credit = self.known.may_take(lease);
                let noticed = known.noticed_end - known.range.start();
                let within = op.rarely(2) && credit < known.range.len() && !known.answered;
                // Past its credit, or past its end.
                let end = if within && noticed == known.range.len() { credit } else { noticed };
                let len = end - known.sent.min(end) + 1 + op.below(if within { 1 } else { 64 });
                // What comes behind the end of a lease that was cut, or ended before it was full, is late.
                let over = known.answered && (known.lost || noticed > known.range.len());
                let bytes = object(known.stream, known.range.start() + known.sent, len, true);
                let live = self.client.is_live(path);
                assert!(!self.client.on_bytes(path, internal, bytes), "past the end of {lease}");
                assert!(
                    !self.client.is_live(path) || (over && live),
                    "a byte outside every lease costs the path"
                );
            }
        }
        assert_eq!(placed(&self.client), before, "nothing of it is placed");
        self.known.only_paths_end(&mut self.client, self.now);
    }
}
