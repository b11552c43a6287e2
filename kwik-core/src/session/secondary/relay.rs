//! Messages to and from the primary. Spec: PROTOCOL §9.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::Secondary;
use crate::{
    action::Relay,
    error::{PeerFault, RelayError},
    lease::{
        relay::{Direction, RelayClaims},
        ticket::Signer,
    },
    session::relays::Unwelcome,
    wire::{Features, RelayOpen},
};

impl Secondary {
    /// Returns the head of a message for the primary, not signed yet.
    pub(in crate::session) fn relay_head(&mut self, length: u32) -> Result<RelayOpen, RelayError> {
        if !self.features.contains(Features::RELAY) {
            return Err(RelayError::Unsupported);
        }
        let id = self.relays_sent;
        self.relays_sent += 1;
        Ok(RelayOpen { path: self.path, id, length, seal: None })
    }

    /// The signer of this server's messages, if it has one.
    pub(in crate::session) fn signer(&self) -> Option<Arc<dyn Signer>> {
        self.signer.clone()
    }

    /// Says whether a message that the client brings may be read.
    pub(in crate::session) fn check_relay(&self, head: &RelayOpen) -> Result<(), Unwelcome> {
        if head.path != self.path {
            return Err(Unwelcome::Fault(PeerFault::RelayOfOther));
        }
        if head.seal.is_none() {
            return Err(Unwelcome::Fault(PeerFault::RelayUnsealed));
        }
        Ok(())
    }

    /// Returns what the application gets of a message; `None` if the primary has not made it, or it came before. Whose
    /// fault that is cannot be told here: the client's, or that of a primary that would have the client blamed.
    pub(in crate::session) fn open_relay(
        &mut self,
        now: Instant,
        head: &RelayOpen,
        payload: Bytes,
    ) -> Option<Relay> {
        if self.relays_heard.contains(head.id) || self.forged_relays.ready(now, 1).is_err() {
            return None;
        }
        let (session, path) = (self.session, self.path);
        let claims =
            RelayClaims { session, path, direction: Direction::ToSecondary, id: head.id, payload: &payload };
        let sealed = head.seal.is_some_and(|seal| self.tally.verified(claims.verify(&self.primary, &seal)));
        if !sealed {
            self.forged_relays.spend(1);
            return None;
        }
        self.relays_heard.insert(head.id).then_some(Relay { path, payload, sealed })
    }
}
