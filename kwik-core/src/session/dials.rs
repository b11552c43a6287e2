//! Connections to further servers while they are being made: several for one path, of which the first is taken.
//! Spec: PROTOCOL §8, RFC 8305.
//!
//! One that is not taken carries no frame: what is known of it is that it came through, or not.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    ClientSide, EXPORTER_LABEL, Machine, Session, dialled_mut, link::Link, server_code, subject::path_span,
};
use crate::{
    endpoint::{EndpointEvent, EndpointEventInner},
    error::{ConnectError, ErrorCode, PeerFault},
    id::LinkId,
    lease::ticket,
    quic,
};

impl Session {
    /// Returns a connection, taken or not.
    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        let taken = self.links.get(id.path).is_some_and(|link| link.attempt() == id.attempt);
        if taken { self.links.get_mut(id.path) } else { attempt(&mut self.client, id) }
    }

    /// Starts a connection.
    pub(super) fn dial(&mut self, link: LinkId, remote: SocketAddr, server_name: String) {
        let Some(ClientSide { config, .. }) = self.client.as_deref() else {
            return;
        };
        let (tls, transport) = (config.tls().clone(), config.transport.clone());
        let authenticate = config.authenticate_to_secondaries;
        let dial = quic::Dial {
            link,
            remote,
            server_name,
            tls,
            authenticate,
            transport,
            token_store: None, // one server's word about where the client is must not be shown to another
            initial_dst_cid: None,
            version: config.version,
        };
        self.endpoint_events.push_back(EndpointEvent(EndpointEventInner::Dial(dial)));
    }

    /// The endpoint has started a connection, or cannot.
    pub(super) fn on_dialled(&mut self, id: LinkId, dialled: Result<Box<quic::Connection>, ConnectError>) {
        let (Machine::Client(client), Some(side)) = (&mut self.machine, &mut self.client) else {
            return;
        };
        match dialled {
            Ok(connection) => {
                let mut link = Link::new(self.now, *connection, id.attempt);
                if !client.is_dialling(id) {
                    link.quic.close(self.now, ErrorCode::NO_ERROR, Bytes::new());
                }
                side.dialled.insert(id, Box::new(link));
            }
            Err(error) => {
                tracing::debug!(path = %id.path, %error, "not dialled");
                client.on_not_dialled(id);
            }
        }
    }

    /// Hands what the connections report that are not taken.
    pub(super) fn drain_dialled(&mut self) {
        let Some(dialled) =
            self.client.as_deref().map(|side| &side.dialled).filter(|dialled| !dialled.is_empty())
        else {
            return; // as at nearly every datagram
        };
        let ids: smallvec::SmallVec<[LinkId; 4]> = dialled.keys().copied().collect();
        for id in ids {
            let _path = path_span(&self.machine, id.path);
            while let Some(event) = attempt(&mut self.client, id).and_then(|link| link.quic.poll()) {
                match (event, &mut self.machine) {
                    (quic::Event::Connected, _) => self.on_attempt_connected(id),
                    (quic::Event::Lost(cause), Machine::Client(client)) => {
                        client.on_attempt_lost(id, server_code(&cause));
                    }
                    _ => {} // of the handshake, or of one that is closed
                }
            }
            // One that was taken has moved.
            let Some(ClientSide { dialled, .. }) = self.client.as_deref_mut() else {
                return;
            };
            let link = dialled.get_mut(&id);
            if link.is_some_and(|link| link.drain_endpoint_events(id.path, &mut self.endpoint_events)) {
                dialled.remove(&id);
            }
        }
    }

    /// The handshake is done: the path is this connection from now on, if its server is who it should be and none was taken
    /// before.
    fn on_attempt_connected(&mut self, id: LinkId) {
        let (Machine::Client(client), Some(side)) = (&mut self.machine, &mut self.client) else {
            return;
        };
        let Some(link) = side.dialled.get_mut(&id) else {
            return;
        };
        if link.quic.is_closed() {
            return; // by the peer in the same batch, or because another was taken
        }
        if !link.quic.speaks_kwik() {
            client.fail_attempt(id, PeerFault::NotKwik);
            return;
        }
        let identity = link.quic.peer_certificates();
        let identity =
            identity.as_ref().and_then(|chain| chain.first()).and_then(|own| ticket::spki_hash(own));
        if !client.on_path_handshake(id, identity, link.quic.exporter(EXPORTER_LABEL)) {
            return;
        }
        let control = link.open_control();
        if let Some(link) = side.dialled.remove(&id) {
            self.links.insert(id.path, link);
        }
        if !control {
            self.fault(id.path, PeerFault::ControlNotPermitted);
        }
    }

    /// Closes those of the connections that are not taken, and not closed, which `which` names.
    pub(super) fn close_dialled(&mut self, which: impl Fn(LinkId) -> bool, code: ErrorCode) {
        for (id, link) in dialled_mut(&mut self.client) {
            if which(id) && !link.quic.is_closed() {
                link.quic.close(self.now, code, Bytes::new());
                self.unsettled = true;
            }
        }
    }
}

/// One of the connections that are not taken; none on servers.
fn attempt(client: &mut Option<Box<ClientSide>>, id: LinkId) -> Option<&mut Link> {
    client.as_mut()?.dialled.get_mut(&id).map(Box::as_mut)
}
