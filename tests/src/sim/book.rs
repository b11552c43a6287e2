//! Addresses of every machine, past ones included.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{NodeId, tls::Identity};

/// The addresses and identities of a world.
#[derive(Debug, Default)]
pub struct Book {
    /// Machine that has, or had, each address, and the session it is for.
    owners: BTreeMap<SocketAddr, (NodeId, u32)>,
    current: BTreeMap<NodeId, SocketAddr>,
    identities: BTreeMap<NodeId, Identity>,
    changed: BTreeSet<NodeId>,
    /// Addresses that more than one machine has had.
    passed_on: BTreeSet<SocketAddr>,
    next: u16,
}

impl Book {
    /// Gives `node` an address that nobody has had, for its session number `session`, and returns it.
    pub fn assign(&mut self, node: NodeId, session: u32) -> SocketAddr {
        self.next += 1;
        let [high, low] = self.next.to_be_bytes();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 4433);
        self.set(node, session, address);
        address
    }

    /// Gives `node` another port at its present address, as a NAT does, and returns the address.
    pub fn rebind(&mut self, node: NodeId) -> SocketAddr {
        let before = self.address(node);
        let mut address = before;
        while self.owners.contains_key(&address) {
            address.set_port(address.port().wrapping_add(1).max(1024));
        }
        self.set(node, self.session(before), address);
        address
    }

    /// Gives `node` another address altogether, as another network does, and returns it.
    pub fn relocate(&mut self, node: NodeId) -> SocketAddr {
        self.assign(node, self.session(self.address(node)))
    }

    /// Gives `node` an address that was another's.
    pub fn take_over(&mut self, node: NodeId, address: SocketAddr) {
        self.passed_on.insert(address);
        self.set(node, self.session(self.address(node)), address);
    }

    fn set(&mut self, node: NodeId, session: u32, address: SocketAddr) {
        self.owners.insert(address, (node, session));
        self.current.insert(node, address);
    }

    /// Returns where `node` sends from.
    #[must_use]
    pub fn address(&self, node: NodeId) -> SocketAddr {
        *self.current.get(&node).expect("every machine has an address")
    }

    /// Returns whether more than one machine has had this address.
    #[must_use]
    pub fn is_passed_on(&self, address: SocketAddr) -> bool {
        self.passed_on.contains(&address)
    }

    /// Returns who has, or had, this address.
    #[must_use]
    pub fn find(&self, address: SocketAddr) -> Option<NodeId> {
        self.owners.get(&address).map(|(node, _)| *node)
    }

    /// Returns for which of its sessions a client has, or had, this address.
    #[must_use]
    pub fn session(&self, address: SocketAddr) -> u32 {
        self.owners.get(&address).map(|(_, session)| *session).unwrap_or_default()
    }

    /// Returns whether datagrams to `address` still reach its machine.
    #[must_use]
    pub fn is_current(&self, address: SocketAddr) -> bool {
        self.find(address).is_some_and(|node| self.current.get(&node) == Some(&address))
    }

    /// Says who a server is.
    pub fn set_identity(&mut self, node: NodeId, identity: Identity) {
        if self.identities.insert(node, identity).is_some() {
            self.changed.insert(node);
        }
    }

    /// Returns who a server is; `None` for clients.
    #[must_use]
    pub fn identity(&self, node: NodeId) -> Option<&Identity> {
        self.identities.get(&node)
    }

    /// Returns whether a server's certificate has changed since the beginning.
    #[must_use]
    pub fn has_changed(&self, node: NodeId) -> bool {
        self.changed.contains(&node)
    }
}
