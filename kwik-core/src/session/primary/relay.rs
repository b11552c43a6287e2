//! Messages to and from the servers of a session. Spec: PROTOCOL §9.

use std::time::Instant;

use bytes::Bytes;

use super::Primary;
use crate::{
    action::{PathState, Relay},
    error::{ErrorCode, PeerFault, RelayError},
    id::PathId,
    lease::relay::{Direction, RelayClaims},
    session::relays::Unwelcome,
    wire::{Features, RelayOpen},
};

impl Primary {
    /// Returns the head of a message for the server of a path, not signed yet.
    pub(in crate::session) fn relay_head(
        &mut self,
        id: PathId,
        length: u32,
    ) -> Result<RelayOpen, RelayError> {
        if !self.features.contains(Features::RELAY) {
            return Err(RelayError::Unsupported);
        }
        let path = self.paths.get_mut(&id).ok_or(RelayError::PathDead)?;
        match path.state {
            PathState::Connecting => return Err(RelayError::Blocked),
            PathState::Dead(_) => return Err(RelayError::PathDead),
            // A message would overtake the frame that names the path, and nobody could say where it should go.
            PathState::Draining if !path.attached => return Err(RelayError::PathDead),
            PathState::Active | PathState::Degraded | PathState::Draining => {}
        }
        let number = path.relays_sent;
        path.relays_sent += 1;
        Ok(RelayOpen { path: id, id: number, length, seal: None })
    }

    /// Says whether a message that the client brings may be read.
    pub(in crate::session) fn check_relay(&self, head: &RelayOpen) -> Result<(), Unwelcome> {
        if head.path.is_primary() || head.path > self.last_path {
            return Err(Unwelcome::Fault(PeerFault::RelayToNobody));
        }
        // Of a path that has ended it may have been on its way; of one that is forgotten nothing is known.
        if self.paths.contains_key(&head.path) {
            Ok(())
        } else {
            Err(Unwelcome::Refuse(ErrorCode::PATH_DEAD))
        }
    }

    /// Returns what the application gets of a message; `None` if it is not from whom it should be, or came before.
    pub(in crate::session) fn open_relay(
        &mut self,
        now: Instant,
        head: &RelayOpen,
        payload: Bytes,
    ) -> Option<Relay> {
        let session = self.session;
        let path = self.paths.get_mut(&head.path)?;
        if !path.relay_keys.is_empty() {
            if path.relays_heard.contains(head.id) || self.forged_relays.ready(now, 1).is_err() {
                return None;
            }
            let claims = RelayClaims {
                session,
                path: head.path,
                direction: Direction::ToPrimary,
                id: head.id,
                payload: &payload,
            };
            let tally = &mut self.tally;
            let sealed = head.seal.is_some_and(|seal| {
                path.relay_keys.iter().any(|key| tally.verified(claims.verify(key, &seal)))
            });
            if !sealed {
                self.forged_relays.spend(1);
                return None;
            }
            path.relays_heard.insert(head.id);
        }
        Some(Relay { path: head.path, payload, sealed: !path.relay_keys.is_empty() })
    }
}
