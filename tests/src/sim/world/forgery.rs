//! Packets that somebody who watches a link can make up: those that QUIC takes without a key of the connection.

use super::{World, fault::Forgery, network::Happening};
use crate::sim::{NodeId, machine::Arrival};

/// The version that KWIK speaks (RFC 9000 §15).
const VERSION: [u8; 4] = [0, 0, 0, 1];
/// One that nobody knows.
const STRANGE: [u8; 4] = [0xfa, 0xce, 0xb0, 0x0c];
/// Bytes of a stateless reset: as many as it takes to pass for a packet.
const RESET: usize = 60;

/// Returns destination and source id of a long header (RFC 8999 §5.1).
pub(crate) fn ids(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let rest = bytes.get(5..)?;
    let (len, rest) = rest.split_first()?;
    let (destination, rest) = rest.split_at_checked(usize::from(*len))?;
    let (len, rest) = rest.split_first()?;
    let (source, _) = rest.split_at_checked(usize::from(*len))?;
    Some((destination.to_vec(), source.to_vec()))
}

impl World {
    /// Sends `node` a packet that looks like one from `as_if_from`, if enough has passed between them to make one.
    pub(super) fn forge(&mut self, node: NodeId, as_if_from: NodeId, forgery: Forgery) {
        // An answer names the ids the other way round.
        let said = self.link(node, as_if_from).long.clone();
        let short = self.link(as_if_from, node).short;
        let known = said.map(|(destination, source)| [source, destination]);
        let mut bytes = match (forgery, known, short) {
            (Forgery::Versions, Some(ids), _) => long(0x80, [0; 4], &ids, &[STRANGE, VERSION].concat()),
            (Forgery::StrangeVersions, Some([_, server]), _) => {
                let mut strange = vec![0; 8];
                self.rubbish.fill(&mut strange);
                long(0x80, [0; 4], &[strange, server], &STRANGE)
            }
            (Forgery::Retry, Some([client, _]), _) => {
                let (mut server, mut token) = (vec![0; 8], vec![0; 60]);
                self.rubbish.fill(&mut server);
                self.rubbish.fill(&mut token);
                long(0xf0, VERSION, &[client, server], &token)
            }
            (Forgery::Reset, _, Some(start)) => {
                let mut bytes = vec![0; RESET];
                self.rubbish.fill(&mut bytes);
                bytes.splice(..start.len(), start);
                bytes
            }
            _ => return self.trace.count("nothing to forge"),
        };
        if let Some(first) = bytes.first_mut() {
            *first |= 0x40;
        }
        self.trace.count("forged");
        let (from, to) = (self.book.address(as_if_from), self.book.address(node));
        let arrival = Arrival { from, by: None, ecn: None, bytes };
        self.push(self.at, Happening::Datagram { to, arrival, answers: false });
    }
}

/// A packet with a long header.
fn long(first: u8, version: [u8; 4], ids: &[Vec<u8>; 2], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(version);
    for id in ids {
        bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        bytes.extend(id);
    }
    bytes.extend(rest);
    bytes
}
