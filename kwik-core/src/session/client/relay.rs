//! Ways that a message between servers may go: the client carries it and nothing else. Spec: PROTOCOL §9.

use super::Client;
use crate::{
    error::{ErrorCode, PeerFault},
    id::PathId,
    path::state::State,
    session::relays::Unwelcome,
    wire::{Features, RelayOpen},
};

impl Client {
    /// Says over which path a message goes on that came over `from`: one in, at most one out, and only between the
    /// primary and a server that it has named itself.
    pub(in crate::session) fn check_relay(
        &self,
        from: PathId,
        head: &RelayOpen,
    ) -> Result<PathId, Unwelcome> {
        if from.is_primary() {
            let named = !head.path.is_primary() && head.path <= self.last_path && self.session.is_some();
            if !named {
                return Err(Unwelcome::Fault(PeerFault::RelayToNobody));
            }
            if head.seal.is_none() {
                return Err(Unwelcome::Fault(PeerFault::RelayUnsealed)); // its receiver would blame the client
            }
            let path = self.paths.get(&head.path).filter(|path| path.state.is_live());
            let path = path.ok_or(Unwelcome::Refuse(ErrorCode::PATH_DEAD))?;
            let ready = !path.state.is_attaching() && path.features.contains(Features::RELAY);
            return if ready { Ok(head.path) } else { Err(Unwelcome::Refuse(ErrorCode::RELAY_REFUSED)) };
        }
        if head.path != from {
            return Err(Unwelcome::Fault(PeerFault::RelayOfOther));
        }
        match self.paths.get(&from).map(|path| path.state) {
            Some(State::Connecting) => Err(Unwelcome::Fault(PeerFault::RelayTooSoon)),
            // Its message may come before its hello is read: they travel in streams of their own.
            Some(State::Authenticating | State::Active | State::Degraded | State::Draining(_))
                if self.features.contains(Features::RELAY) && self.lost.is_none() =>
            {
                Ok(PathId::PRIMARY)
            }
            Some(_) | None => Err(Unwelcome::Refuse(ErrorCode::RELAY_REFUSED)),
        }
    }
}
