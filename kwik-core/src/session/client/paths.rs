//! Paths of a client: dialling, attaching, going silent, ending. Spec: PROTOCOL §8, §9.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Client, Path, dials::is_wrong_address};
use crate::{
    action::Event,
    budget::{Bucket, Rate},
    error::{ErrorCode, PeerFault},
    id::{LeaseId, PathId},
    limits,
    path::{
        dial,
        health::{Health, Verdict},
        state::State,
    },
    session::{action::Action, question::Addresses},
    wire::{AddPath, Features, Frame, PathStatus, ServerHello},
};

impl Client {
    /// The primary names one more server.
    pub(super) fn add_path(&mut self, now: Instant, add: AddPath) -> Result<(), PeerFault> {
        if add.path <= self.last_path {
            return Err(PeerFault::PathNotNew);
        }
        self.last_path = add.path;
        let live = self.paths.values().filter(|path| path.state.is_live()).count();
        let addresses: Addresses = add.addresses.iter().copied().map(dial::canonical).collect();
        let refused = match addresses.is_empty() {
            _ if live >= self.config.secondary_paths_max => Some(ErrorCode::LIMIT_EXCEEDED),
            true => Some(ErrorCode::DIAL_REFUSED),
            false => None,
        };
        if let Some(code) = refused {
            self.report(add.path, PathStatus::Dead(code));
            return Ok(());
        }
        let path = Path {
            state: State::Connecting,
            health: Health::new(now),
            race: None, // until it is known which addresses may be dialled
            server_name: add.server_name,
            pins: add.pins.to_vec(),
            ticket: add.ticket,
            features: Features::default(),
            deadline: Some(now + self.config.attach_timeout),
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
            progress: super::progress::Progress::default(),
        };
        self.paths.insert(add.path, Box::new(path));
        self.actions.push_back(Action::AskDial { path: add.path, addresses });
        Ok(())
    }

    /// A secondary accepts the hello.
    pub(super) fn on_secondary_hello(&mut self, id: PathId, hello: &ServerHello) -> Result<(), PeerFault> {
        if hello.version != limits::VERSION {
            return Err(PeerFault::HelloVersion);
        }
        if self.session != Some(hello.session) {
            return Err(PeerFault::WrongSession);
        }
        if hello.app_protocol.is_some() {
            return Err(PeerFault::ProtocolNotOffered);
        }
        let Some(path) = self.paths.get_mut(&id) else {
            return Ok(());
        };
        path.state.on_hello().map_err(|_| PeerFault::FrameUnexpected)?;
        path.deadline = None;
        path.features = hello.features;
        if let Some(race) = path.race.take() {
            race.running().iter().for_each(|&(_, address)| self.failed_dials.forget(address));
        }
        let jobs = std::mem::take(&mut path.held_jobs);
        self.report(id, PathStatus::Active);
        for job in jobs {
            self.send(id, Frame::JobOpen(job));
        }
        let leases: Vec<LeaseId> = self.leases.of_path(id).map(|(lease, _)| lease).collect();
        for lease in leases {
            self.notice(lease);
        }
        Ok(())
    }

    /// The primary wants a path gone, at once or when its leases are over. Spec: PROTOCOL §8.
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
        let draining = self.paths.iter().filter_map(|(&id, path)| match path.state {
            State::Draining(code) => Some((id, code)),
            State::Connecting | State::Authenticating | State::Active | State::Degraded | State::Dead(_) => {
                None
            }
        });
        let over: smallvec::SmallVec<[(PathId, ErrorCode); 1]> =
            draining.filter(|&(id, _)| self.leases.count_of_path(id) == 0).collect();
        for (id, code) in over {
            self.close_path(id, code);
        }
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
        if path.state.on_end(code).is_err() {
            return false;
        }
        if let Some(race) = path.race.take().filter(|_| is_wrong_address(code)) {
            race.running().iter().for_each(|&(_, address)| self.failed_dials.note(address));
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

    /// The path stayed silent though asked several times: its leases go to others, its connection is kept. Spec: PROTOCOL §8.
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
