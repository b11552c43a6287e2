//! Paths of a client: dialling, attaching, going silent, ending. Spec: KWIK §8, §9.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Client, Path};
use crate::{
    action::Event,
    budget::{Bucket, Rate},
    error::ErrorCode,
    id::{LeaseId, PathId, SpkiHash},
    lease::ticket::{self, Signer as _},
    limits,
    path::{
        dial::FailedDials,
        health::{Health, Verdict},
        state::State,
    },
    session::{action::Action, question::Addresses},
    wire::{AddPath, Attach, Features, Frame, PathStatus, ServerHello},
};

impl Client {
    /// The primary names one more server.
    pub(super) fn add_path(&mut self, now: Instant, add: AddPath) -> Result<(), ErrorCode> {
        if add.path <= self.last_path {
            return Err(ErrorCode::METADATA_PROTOCOL_VIOLATION);
        }
        self.last_path = add.path;
        let live = self.paths.values().filter(|path| path.state.is_live()).count();
        // Sockets tell canonical addresses only; a mapped one would never be recognised as the peer's.
        let canonical = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let addresses: Addresses = add.addresses.iter().map(canonical).collect();
        let refusal = match addresses.first() {
            _ if live >= self.config.secondary_paths_max => Err(ErrorCode::LIMIT_EXCEEDED),
            None => Err(ErrorCode::DIAL_REFUSED),
            Some(first) => Ok(*first),
        };
        let first = match refusal {
            Ok(first) => first,
            Err(code) => {
                self.report(add.path, PathStatus::Dead(code));
                return Ok(());
            }
        };
        let path = Path {
            state: State::Connecting,
            health: Health::new(now),
            remote: first, // until it is known which may be dialled
            server_name: add.server_name,
            pins: add.pins.to_vec(),
            ticket: add.ticket,
            features: Features::default(),
            deadline: Some(now + self.config.attach_timeout),
            dialled: false,
            held_jobs: Vec::new(),
            highest_noticed: None,
            internal: std::collections::BTreeMap::new(),
            permitted_uni: limits::UNI_START,
            touched: false,
            suspected: false,
            score: 0,
            stale: false,
            fronts: smallvec::SmallVec::new(),
            starved: smallvec::SmallVec::new(),
            errands: Bucket::new(now, Rate::per_second(limits::ERRANDS_RATE), limits::ERRANDS_BURST),
            begun: smallvec::SmallVec::new(),
            first_byte: None,
        };
        self.paths.insert(add.path, path);
        self.actions.push_back(Action::AskDial { path: add.path, addresses });
        Ok(())
    }

    /// The application has said which addresses of a path may be dialled.
    pub(in crate::session) fn on_dial_answer(&mut self, now: Instant, id: PathId, allowed: &[SocketAddr]) {
        // The path may have been removed meanwhile, or have waited for too long.
        let waits = |path: &Path| path.state == State::Connecting && !path.dialled;
        if !self.paths.get(&id).is_some_and(waits) || self.undialled.contains(&id) {
            return;
        }
        let untried = allowed.iter().find(|&&address| self.failed_dials.allows(now, address));
        let refusal = match untried {
            None if allowed.is_empty() => Err(ErrorCode::DIAL_REFUSED),
            None => Err(ErrorCode::PATH_DEAD), // it has just failed, and nothing else is known of it
            Some(_) if self.dials.take(now, 1).is_err() => Err(ErrorCode::EXCESSIVE_LOAD),
            Some(remote) => Ok(*remote),
        };
        match (refusal, self.paths.get_mut(&id)) {
            (Ok(remote), Some(path)) => {
                path.remote = remote;
                self.undialled.push_back(id);
                self.dial_next();
            }
            (Err(code), _) => drop(self.end_path(id, code)),
            (Ok(_), None) => {}
        }
    }

    /// Starts as many waiting dials as may be under way at once.
    fn dial_next(&mut self) {
        let under_way = self.paths.values().filter(|path| path.state.is_attaching() && path.dialled);
        let mut free = limits::DIALS_AT_ONCE.saturating_sub(under_way.count());
        while free > 0 {
            let Some(id) = self.undialled.pop_front() else {
                return;
            };
            // The path may have been removed while it waited.
            let Some(path) = self.paths.get_mut(&id).filter(|path| path.state == State::Connecting) else {
                continue;
            };
            path.dialled = true;
            self.actions.push_back(Action::Dial {
                path: id,
                remote: path.remote,
                server_name: path.server_name.clone(),
            });
            free -= 1;
        }
    }

    /// The QUIC handshake with a secondary is done. `identity` is its key, `exporter` what both ends alone know.
    pub(in crate::session) fn on_path_handshake(
        &mut self,
        id: PathId,
        identity: Option<SpkiHash>,
        exporter: Option<[u8; 32]>,
    ) {
        let Some(path) = self.paths.get_mut(&id) else {
            return;
        };
        let pinned = path.pins.is_empty() || identity.is_some_and(|identity| path.pins.contains(&identity));
        let Some(exporter) = exporter.filter(|_| pinned) else {
            self.fault(id, ErrorCode::AUTH_FAILED);
            return;
        };
        if path.state.on_handshake().is_err() {
            return;
        }
        let ticket = std::mem::take(&mut path.ticket);
        let Some(session) = self.session else {
            return;
        };
        let proof = self.key.sign(&ticket::attach_message(&exporter));
        let hello = self.client_hello(Some(Attach { session, path: id, ticket, proof }));
        self.send(id, hello);
    }

    /// A secondary accepts the hello.
    pub(super) fn on_secondary_hello(&mut self, id: PathId, hello: &ServerHello) -> Result<(), ErrorCode> {
        if hello.version != limits::VERSION {
            return Err(ErrorCode::VERSION);
        }
        if self.session != Some(hello.session) {
            return Err(ErrorCode::AUTH_FAILED);
        }
        let Some(path) = self.paths.get_mut(&id) else {
            return Ok(());
        };
        path.state.on_hello().map_err(|_| ErrorCode::FRAME_UNEXPECTED)?;
        path.deadline = None;
        path.features = hello.features;
        self.failed_dials.forget(path.remote);
        let jobs = std::mem::take(&mut path.held_jobs);
        self.report(id, PathStatus::Active);
        for job in jobs {
            self.send(id, Frame::JobOpen(job));
        }
        let leases: Vec<LeaseId> = self.leases.of_path(id).map(|(lease, _)| lease).collect();
        for lease in leases {
            self.notice(lease);
        }
        self.dial_next();
        Ok(())
    }

    /// The primary wants a path gone, at once or when its leases are over. Spec: KWIK §8.
    pub(super) fn remove_path(&mut self, now: Instant, id: PathId, code: ErrorCode, patience: Duration) {
        let busy = self.leases.count_of_path(id) > 0;
        let deadline = now.checked_add(patience).filter(|_| busy && !patience.is_zero());
        if let Some((path, deadline)) = self.paths.get_mut(&id).zip(deadline) {
            if matches!(path.state, State::Draining(_)) || path.state.on_drain(code).is_ok() {
                // Asked again, the shorter time counts.
                path.deadline = Some(path.deadline.map_or(deadline, |known| known.min(deadline)));
                let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                if path.features.contains(Features::DRAIN) {
                    self.send(id, Frame::Drain { deadline_ms });
                }
                self.actions.push_back(Action::Notify(Event::PathChanged(id)));
                return;
            }
        }
        self.close_path(id, code);
    }

    /// Closes the paths that were to be removed once their leases are over, where they are.
    pub(super) fn end_drained(&mut self) {
        let over = |(&id, path): (&PathId, &Path)| {
            let State::Draining(code) = path.state else {
                return None;
            };
            (self.leases.count_of_path(id) == 0).then_some((id, code))
        };
        let over: smallvec::SmallVec<[(PathId, ErrorCode); 1]> = self.paths.iter().filter_map(over).collect();
        for (id, code) in over {
            self.close_path(id, code);
        }
    }

    /// The client may be elsewhere: what could not be reached before may be reached from there.
    pub(in crate::session) fn on_network_change(&mut self) {
        self.failed_dials = FailedDials::default();
    }

    fn close_path(&mut self, id: PathId, code: ErrorCode) {
        if self.end_path(id, code) {
            self.actions.push_back(Action::ClosePath { path: id, code });
        } else {
            self.late_frames += 1;
        }
    }

    /// A path's connection is gone by itself.
    pub(in crate::session) fn on_path_lost(&mut self, id: PathId, code: ErrorCode) {
        let attaching = self.paths.get(&id).is_some_and(|path| path.state.is_attaching());
        let failed = code == ErrorCode::AUTH_FAILED && !attaching; // it had been let in: something else broke
        self.end_path(id, if failed { ErrorCode::PATH_DEAD } else { code });
    }

    /// Ends a path once: its leases are lost, the primary is told. Returns whether it was live.
    pub(super) fn end_path(&mut self, id: PathId, code: ErrorCode) -> bool {
        let Some(path) = self.paths.get_mut(&id) else {
            return false;
        };
        let attaching = path.state.is_attaching() && path.dialled;
        if path.state.on_end(code).is_err() {
            return false;
        }
        // Only what says that nobody is there who could answer: not a primary that has changed its mind, nor a ticket, name
        // or pin of its that was wrong.
        if attaching && [ErrorCode::PATH_DEAD, ErrorCode::AUTH_TIMEOUT].contains(&code) {
            self.failed_dials.note(path.remote);
        }
        path.deadline = None;
        path.held_jobs = Vec::new();
        path.ticket = Bytes::new();
        self.lose_leases_of(id, code);
        self.jobs.retain(|_, job| job.path != id);
        if let Some(path) = self.paths.get_mut(&id) {
            path.internal.clear();
        }
        self.report(id, PathStatus::Dead(code));
        self.dial_next();
        // Dead paths stay known, so that late frames are told from wrong ones; but not without end.
        while self.paths.values().filter(|path| !path.state.is_live()).count() > limits::DEAD_PATHS_LISTED {
            let oldest = self.paths.iter().find(|(_, path)| !path.state.is_live()).map(|(&id, _)| id);
            if let Some(oldest) = oldest {
                self.paths.remove(&oldest);
                self.sources.remove(&oldest);
            }
        }
        true
    }

    pub(super) fn report(&mut self, path: PathId, status: PathStatus) {
        if self.lost.is_none() {
            self.tell_primary(Frame::PathReport { path, status });
        }
        self.actions.push_back(Action::Notify(Event::PathChanged(path)));
    }

    /// Runs what is due: attaches that took too long, paths that have gone silent, leases that stall or are too late.
    pub(in crate::session) fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<PathId> = self
            .paths
            .iter()
            .filter(|(_, path)| path.state.is_live())
            .filter(|(_, path)| path.next_deadline().is_some_and(|at| at <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            let Some(path) = self.paths.get_mut(&id) else {
                continue;
            };
            if path.deadline.is_some_and(|at| at <= now) {
                let code = match path.state {
                    State::Authenticating => ErrorCode::AUTH_TIMEOUT,
                    State::Draining(code) => code,
                    State::Connecting | State::Active | State::Degraded | State::Dead(_) => {
                        ErrorCode::PATH_DEAD
                    }
                };
                self.close_path(id, code);
                continue;
            }
            match path.health.verdict(now) {
                Verdict::Wait => {}
                Verdict::Probe => self.probe(id),
                Verdict::Suspect => {
                    self.probe(id); // once more before it is called silent
                    self.suspect(id);
                }
                Verdict::Silent => self.degrade(id),
            }
            self.expire_fronts(now, id);
        }
        self.expire_leases(now);
        self.expire_gaps(now);
    }

    fn probe(&mut self, id: PathId) {
        self.source(id).probes += 1;
        self.actions.push_back(Action::Ping { path: id });
    }

    /// The path stayed silent though asked several times: its leases go to others, its connection is kept. Spec: KWIK §8.
    fn degrade(&mut self, id: PathId) {
        let Some(path) = self.paths.get_mut(&id) else {
            return;
        };
        if matches!(path.state, State::Draining(_)) {
            self.close_path(id, ErrorCode::PATH_STALLED); // nobody waits for it to come back
            return;
        }
        if path.state.on_silence().is_err() {
            return;
        }
        self.source(id).degraded += 1;
        // First the state, then the losses: the primary must not lease the ranges to the same path again.
        self.report(id, PathStatus::Degraded);
        self.lose_leases_of(id, ErrorCode::PATH_STALLED);
    }
}
