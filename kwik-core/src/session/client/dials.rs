//! Attaches before a connection is taken: which addresses are dialled when, and what becomes of those attempts.
//! Spec: PROTOCOL §8, §9, RFC 8305.

use std::{net::SocketAddr, time::Instant};

use smallvec::SmallVec;

use super::{Client, Path};
use crate::{
    error::{ErrorCode, PeerFault},
    id::{Attempt, LinkId, PathId, SpkiHash},
    lease::ticket::{self, Signer as _},
    limits,
    path::{dial::FailedDials, race::Race, state::State},
    session::action::Action,
    timer::earliest,
    wire::Attach,
};

/// Returns whether `code` says that no server of the primary's is at an address, but nobody who answers, or somebody else: not
/// that a primary has changed its mind, or that a ticket came late.
pub(super) fn is_wrong_address(code: ErrorCode) -> bool {
    [
        ErrorCode::PATH_DEAD,
        ErrorCode::AUTH_TIMEOUT,
        ErrorCode::AUTH_FAILED,
        ErrorCode::INVALID_STREAM_ROLE,
        ErrorCode::VERSION,
    ]
    .contains(&code)
}

impl Client {
    /// Starts as many connections as may be under way at once: first those of paths that have none, then further ones of
    /// paths whose others take long or have failed.
    pub(super) fn dial_next(&mut self, now: Instant) {
        if self.undialled.is_empty() && self.paths.values().all(|path| path.race.is_none()) {
            return; // as in most turns
        }
        let mut free = self.dials_free();
        while free > 0 {
            let Some(id) = self.undialled.pop_front() else {
                break;
            };
            // The path may have been removed while it waited.
            free -= usize::from(self.start_attempt(now, id));
        }
        let late = |path: &Path| path.race.as_ref().is_some_and(|race| !race.is_fresh() && race.is_due(now));
        let late: SmallVec<[PathId; 2]> =
            self.paths.iter().filter(|(_, path)| late(path)).map(|(&id, _)| id).take(free).collect();
        for id in late {
            if self.dials.take(now, 1).is_ok() {
                self.start_attempt(now, id);
            } else {
                self.give_up_waiting(id);
            }
        }
    }

    /// The application has said which addresses of a path may be dialled.
    pub(in crate::session) fn on_dial_answer(&mut self, now: Instant, id: PathId, allowed: &[SocketAddr]) {
        // The path may have been removed meanwhile, or have waited for too long.
        let waits = |path: &&mut Box<Path>| path.state == State::Connecting && path.race.is_none();
        let Some(path) = self.paths.get_mut(&id).filter(waits) else {
            return;
        };
        let untried = allowed.iter().copied().filter(|&address| self.failed_dials.allows(now, address));
        let race = Race::new(untried);
        let refused = match race.is_over() {
            true if allowed.is_empty() => Some(ErrorCode::DIAL_REFUSED),
            true => Some(ErrorCode::PATH_DEAD), // it has just failed, and nothing else is known of it
            false => self.dials.take(now, 1).is_err().then_some(ErrorCode::EXCESSIVE_LOAD),
        };
        if let Some(code) = refused {
            self.end_path(id, code);
            return;
        }
        path.race = Some(Box::new(race));
        self.undialled.push_back(id);
        self.dial_next(now);
    }

    fn dials_free(&self) -> usize {
        limits::DIALS_AT_ONCE.saturating_sub(self.paths.values().map(|path| path.dialling()).sum())
    }

    /// Dials the next address of a path. Returns whether there was one.
    fn start_attempt(&mut self, now: Instant, id: PathId) -> bool {
        let Some(path) = self.paths.get_mut(&id) else {
            return false;
        };
        let Some(race) = &mut path.race else {
            return false;
        };
        // What is not tried yet may have failed meanwhile, when another path tried it.
        race.retain_waiting(|address| self.failed_dials.allows(now, address));
        if let Some((attempt, remote)) = race.start(now) {
            let server_name = path.server_name.clone();
            self.actions.push_back(Action::Dial { path: id, attempt, remote, server_name });
            return true;
        }
        self.dials.earn(1); // what it was to be paid with
        if race.is_over() {
            self.end_path(id, ErrorCode::PATH_DEAD);
        }
        false
    }

    /// The session has dialled as often as it may for now: what is under way has to do.
    fn give_up_waiting(&mut self, id: PathId) {
        let race = self.paths.get_mut(&id).and_then(|path| path.race.as_mut());
        let over = race.is_some_and(|race| {
            race.give_up_waiting();
            race.is_over()
        });
        if over {
            self.end_path(id, ErrorCode::EXCESSIVE_LOAD);
        }
    }

    /// Instant at which the next address of some path has its turn.
    pub(super) fn dial_deadline(&self) -> Option<Instant> {
        if self.dials_free() == 0 {
            return None; // whoever makes room looks at it again
        }
        let races = self.paths.values().filter_map(|path| path.race.as_ref());
        races.fold(None, |at, race| earliest(at, race.deadline()))
    }

    /// Returns whether a connection is wanted that was asked for.
    pub(in crate::session) fn is_dialling(&self, link: LinkId) -> bool {
        let race = self.paths.get(&link.path).and_then(|path| path.race.as_ref());
        race.is_some_and(|race| race.running().iter().any(|(attempt, _)| *attempt == link.attempt))
    }

    /// A path's race, as long as none of its connections is taken.
    fn open_race(&mut self, id: PathId) -> Option<&mut Race> {
        let path = self.paths.get_mut(&id).filter(|path| path.state == State::Connecting)?;
        path.race.as_deref_mut()
    }

    /// The QUIC handshake of one of a path's connections is done. `identity` is its server's key, `exporter` what both ends
    /// alone know. Returns whether it is taken: only that one is shown the ticket, all others are closed.
    pub(in crate::session) fn on_path_handshake(
        &mut self,
        link: LinkId,
        identity: Option<SpkiHash>,
        exporter: Option<[u8; 32]>,
    ) -> bool {
        if !self.is_dialling(link) {
            return false;
        }
        let LinkId { path: id, attempt: won } = link;
        let (Some(path), Some(session)) = (self.paths.get_mut(&id), self.session) else {
            return false;
        };
        let pinned = path.pins.is_empty() || identity.is_some_and(|identity| path.pins.contains(&identity));
        let Some(exporter) = exporter.filter(|_| pinned) else {
            self.fail_attempt(link, if pinned { PeerFault::NoExporter } else { PeerFault::WrongIdentity });
            return false;
        };
        if path.state.on_handshake().is_err() {
            return false;
        }
        let ticket = std::mem::take(&mut path.ticket);
        let mut beaten: SmallVec<[Attempt; limits::PATH_ADDRESSES_MAX]> = SmallVec::new();
        if let Some(race) = &mut path.race {
            beaten
                .extend(race.running().iter().map(|(attempt, _)| *attempt).filter(|&attempt| attempt != won));
            race.on_won(won);
        }
        for attempt in beaten {
            self.actions.push_back(Action::CloseAttempt { path: id, attempt, code: ErrorCode::NO_ERROR });
        }
        let proof = self.key.sign(&ticket::attach_message(&exporter));
        let hello = self.client_hello(Some(Attach { session, path: id, ticket, proof }));
        self.send(id, hello);
        true
    }

    /// A connection that was not taken is gone by itself.
    pub(in crate::session) fn on_attempt_lost(&mut self, link: LinkId, code: ErrorCode) {
        let Some(race) = self.open_race(link.path) else {
            return;
        };
        let Some(address) = race.on_failed(link.attempt) else {
            return;
        };
        let over = race.is_over();
        if is_wrong_address(code) {
            self.failed_dials.note(address);
        }
        if over {
            self.end_path(link.path, code);
        }
    }

    /// The endpoint cannot even start a connection, as to an address that its socket does not reach: nothing was sent.
    pub(in crate::session) fn on_not_dialled(&mut self, link: LinkId) {
        self.dials.earn(1);
        self.on_attempt_lost(link, ErrorCode::DIAL_REFUSED);
    }

    /// Something else answers at an address than the server that was named: another one may be right.
    pub(in crate::session) fn fail_attempt(&mut self, link: LinkId, fault: PeerFault) {
        let Some(race) = self.open_race(link.path) else {
            return;
        };
        let Some(address) = race.on_failed(link.attempt) else {
            return;
        };
        let over = race.is_over();
        if is_wrong_address(fault.code()) {
            self.failed_dials.note(address);
        }
        if over {
            self.fault(link.path, fault);
        } else {
            self.observed.on_fault(fault);
            let code = fault.code();
            self.actions.push_back(Action::CloseAttempt { path: link.path, attempt: link.attempt, code });
        }
    }

    /// The client may be elsewhere: what could not be reached before may be reached from there.
    pub(in crate::session) fn on_network_change(&mut self) {
        self.failed_dials = FailedDials::default();
    }
}
