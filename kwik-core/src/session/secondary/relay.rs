//! Messages to and from the primary. Spec: KWIK §9.

use std::time::Instant;

use bytes::Bytes;

use super::Secondary;
use crate::{
    action::Relay,
    error::{ErrorCode, RelayError},
    lease::relay::{Direction, RelayClaims},
    session::relays::Unwelcome,
    wire::{Features, RelayOpen},
};

impl Secondary {
    /// Makes a message for the primary, signed if this server has a key for that.
    pub(in crate::session) fn seal_relay(
        &mut self,
        length: u32,
        payload: &[u8],
    ) -> Result<RelayOpen, RelayError> {
        if !self.features.contains(Features::RELAY) {
            return Err(RelayError::Unsupported);
        }
        let id = self.relays_sent;
        self.relays_sent += 1;
        let (session, path) = (self.session, self.path);
        let claims = RelayClaims { session, path, direction: Direction::ToPrimary, id, payload };
        let seal = self.signer.as_ref().map(|signer| claims.seal(&**signer));
        Ok(RelayOpen { path, id, length, seal })
    }

    /// Says whether a message that the client brings may be read.
    pub(in crate::session) fn check_relay(&self, head: &RelayOpen) -> Result<(), Unwelcome> {
        if head.path != self.path || head.seal.is_none() {
            return Err(Unwelcome::Fault(ErrorCode::RELAY_REFUSED));
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
        let sealed = head.seal.is_some_and(|seal| claims.verify(&self.primary, &seal));
        if !sealed {
            self.forged_relays.spend(1);
            return None;
        }
        self.relays_heard.insert(head.id).then_some(Relay { path, payload, sealed })
    }
}
