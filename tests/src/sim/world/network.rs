//! Between the machines: what happens to a datagram on its way.

use std::net::SocketAddr;

use kwik_core::Ecn;

use super::{Fault, World, host::BACKLOG_MAX};
use crate::sim::{
    NodeId,
    link::{Damage, Fate, Link, Marking},
    machine::{Arrival, Outgoing},
};

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    Datagram {
        to: SocketAddr,
        arrival: Arrival,
        /// Whoever sent it had heard from the other end at this address before.
        answers: bool,
    },
    Fault(Fault),
}

/// Bytes that a machine got from an address and sent to it (RFC 9000 §8).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Egress {
    /// The first datagram from there began a connection. Where one moves to, quinn-proto challenges with whole datagrams,
    /// and the place that it came from as well.
    begins: bool,
    got: usize,
    /// Until the address was proved.
    sent: usize,
    /// Something sent there has arrived.
    reached: bool,
    /// Something came from there after that.
    proved: bool,
}

/// Bytes that a machine may be told beyond three times what it said, before it has proved its address.
const SLACK: usize = 1452;

impl World {
    pub(super) fn deliver(&mut self, to: SocketAddr, arrival: Arrival, answers: bool) {
        let Some(node) = self.book.find(to).filter(|_| self.book.is_current(to)) else {
            return self.trace.count("arrived at nobody");
        };
        self.count_arrival(node, &arrival, answers);
        if self.is_forgotten(node) {
            return self.trace.count("the NAT knows nobody");
        }
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        if host.machine.is_none() {
            return self.trace.count("arrived at a dead machine");
        }
        if let Some(egress) = arrival.by.and_then(|(by, _)| self.egress.get_mut(&(by, to))) {
            egress.reached = true;
        }
        if host.paused_until > self.at {
            if host.backlog.len() < BACKLOG_MAX {
                host.backlog.push_back(arrival);
            } else {
                self.trace.count("socket buffer full");
            }
            return;
        }
        self.turn(node, Some(arrival));
    }

    /// Counts what a machine got. What comes from wherever the other end of a connection is now counts, as quinn-proto
    /// has it, for where it was when the connection began as well.
    fn count_arrival(&mut self, node: NodeId, arrival: &Arrival, answers: bool) {
        let Self { egress, book, .. } = self;
        // An Initial packet, which is never short of 1,200 bytes (RFC 9000 §14.1).
        let initial = arrival.bytes.first().is_some_and(|first| first & 0xf0 == 0xc0);
        let begins = initial && arrival.bytes.len() >= 1200;
        let known =
            egress.entry((node, arrival.from)).or_insert_with(|| Egress { begins, ..Egress::default() });
        known.proved |= answers;
        let sender = book.find(arrival.from);
        let of_node = egress.iter_mut().filter(|((of, _), egress)| *of == node && !egress.proved);
        for ((_, address), egress) in of_node {
            if *address == arrival.from || (sender.is_some() && book.find(*address) == sender) {
                egress.got += arrival.bytes.len();
            }
        }
    }

    /// Returns whether a client has been silent for so long that its NAT has forgotten it.
    fn is_forgotten(&self, node: NodeId) -> bool {
        let silent = self.hosts.get(&node).map(|host| self.at.saturating_sub(host.sent_at));
        node.is_client() && silent.zip(self.setup.nat).is_some_and(|(silent, memory)| silent > memory)
    }

    pub(super) fn send(&mut self, node: NodeId, outgoing: Outgoing) {
        if self.is_forgotten(node) {
            self.trace.count("the NAT gives another port");
            self.book.rebind(node);
        }
        if let Some(host) = self.hosts.get_mut(&node) {
            host.sent_at = self.at;
        }
        let from = self.book.address(node);
        let Outgoing { to, mut bytes, ecn } = outgoing;
        self.trace.sent(self.at, node, &to, &bytes);
        let target = self.book.find(to);
        let egress = self.egress.entry((node, to)).or_default();
        // A client begins of itself; who answers must not be made to flood an address that has not asked.
        let judged = egress.begins && !egress.proved && !self.book.is_passed_on(to);
        if (!node.is_client() && judged) || target.is_none() {
            egress.sent += bytes.len();
            let Egress { got, sent, .. } = *egress;
            // quinn-proto fills the datagram that it has begun.
            let slack = if target.is_some() { SLACK } else { 0 };
            assert!(sent <= got * 3 + slack, "9: {node} sent {sent} bytes to {to}, which sent it {got}");
        }
        let Some(target) = target else {
            return;
        };
        let answers = self.egress.get(&(target, from)).is_some_and(|egress| egress.reached);
        let by = Some((node, self.book.session(from)));
        let default = self.setup.conditions;
        let link = self.links.entry((node, target)).or_insert_with(|| Link::new(default));
        let mut fates = std::mem::take(&mut self.fates);
        let reordered = link.reordered;
        link.watch(&bytes);
        link.send(self.at, bytes.len(), &mut self.network, &mut fates);
        if link.reordered > reordered {
            self.trace.count("out of order");
        }
        let last = fates.len();
        for (index, fate) in fates.drain(..).enumerate() {
            let (at, damage, marked) = match fate {
                Fate::Lost(why) => {
                    self.trace.lost(self.at, node, why);
                    continue;
                }
                Fate::Arrives(at, damage, marked) => (at, damage, marked),
            };
            if index > 0 {
                self.trace.count("delivered twice");
            }
            let mut copy = if index + 1 == last { std::mem::take(&mut bytes) } else { bytes.clone() };
            match damage {
                Damage::None => {}
                Damage::Flip(bit) => {
                    self.trace.count("damaged");
                    if let Some(byte) = copy.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
                Damage::Cut(len) => {
                    self.trace.count("cut short");
                    copy.truncate(len);
                }
            }
            let ecn = match self.links.get(&(node, target)).map(|link| link.conditions.ecn) {
                Some(Marking::Bleach) => None,
                _ if marked && ecn.is_some() => {
                    self.trace.count("marked");
                    Some(Ecn::Ce)
                }
                _ => ecn,
            };
            let arrival = Arrival { from, by, ecn, bytes: copy };
            self.push(at, Happening::Datagram { to, arrival, answers });
        }
        self.fates = fates;
    }

    /// Sends rubbish: random bytes, some of which look like the start of a QUIC packet.
    pub(super) fn junk(&mut self, node: NodeId, as_if_from: NodeId, len: usize) {
        let mut bytes = vec![0; len];
        self.rubbish.fill(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first |= self.rubbish.pick(&[0x00, 0x40, 0xc0]);
        }
        if self.rubbish.chance(300) && bytes.len() > 5 {
            bytes.splice(1..5, [0, 0, 0, 1]);
        }
        // Half of it comes from addresses that are nobody's, as a spoofer's does.
        let mut from = self.book.address(as_if_from);
        if self.rubbish.chance(500) {
            from = SocketAddr::from((
                [198, 51, 100, 7],
                1024 + u16::try_from(self.rubbish.below(60_000)).unwrap_or(0),
            ));
        }
        let to = self.book.address(node);
        let arrival = Arrival { from, by: None, ecn: None, bytes };
        self.push(self.at, Happening::Datagram { to, arrival, answers: false });
    }

    pub(super) fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let default = self.setup.conditions;
        self.links.entry((from, to)).or_insert_with(|| Link::new(default))
    }
}
