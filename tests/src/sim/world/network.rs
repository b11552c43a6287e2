//! Between the machines: what happens to a datagram on its way.

use std::net::SocketAddr;

use kwik_core::Ecn;

use super::{Fault, World, host::BACKLOG_MAX};
use crate::sim::{
    NodeId,
    link::{Damage, Fate, Link, Marking},
    machine::Outgoing,
};

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    Datagram { from: SocketAddr, to: SocketAddr, ecn: Option<Ecn>, bytes: Vec<u8> },
    Fault(Fault),
}

impl World {
    pub(super) fn deliver(&mut self, from: SocketAddr, to: SocketAddr, ecn: Option<Ecn>, bytes: Vec<u8>) {
        let Some(node) = self.book.find(to).filter(|_| self.book.is_current(to)) else {
            return self.trace.count("arrived at nobody");
        };
        if self.book.find(from).is_none() {
            self.strangers.entry((node, from)).or_default().0 += bytes.len();
        }
        if self.is_forgotten(node) {
            return self.trace.count("the NAT knows nobody");
        }
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        if host.machine.is_none() {
            return self.trace.count("arrived at a dead machine");
        }
        if host.paused_until > self.at {
            if host.backlog.len() < BACKLOG_MAX {
                host.backlog.push_back((from, ecn, bytes));
            } else {
                self.trace.count("socket buffer full");
            }
            return;
        }
        self.turn(node, Some((from, ecn, bytes)));
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
        let Some(target) = self.book.find(to) else {
            let (got, sent) = self.strangers.entry((node, to)).or_default();
            *sent += bytes.len();
            assert!(*sent <= *got * 3, "9: {node} sent {sent} bytes to {to}, which sent it {got}");
            return;
        };
        let default = self.setup.conditions;
        let link = self.links.entry((node, target)).or_insert_with(|| Link::new(default));
        let mut fates = std::mem::take(&mut self.fates);
        let reordered = link.reordered;
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
            self.push(at, Happening::Datagram { from, to, ecn, bytes: copy });
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
        self.push(self.at, Happening::Datagram { from, to, ecn: None, bytes });
    }

    pub(super) fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let default = self.setup.conditions;
        self.links.entry((from, to)).or_insert_with(|| Link::new(default))
    }
}
