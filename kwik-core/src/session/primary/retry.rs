//! Leases that are given again by themselves: what is missing of one that was lost goes to the same path once more, after a
//! pause that doubles. Spec: PROTOCOL §10.
//!
//! The application knows such a lease by the name it got first, whatever it is called on the wire by now.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{NewLease, Primary};
use crate::{
    action::{Event, LeaseOutcome, LeaseStatus},
    error::{ErrorCode, LeaseError},
    id::{ByteRange, LeaseId, StreamId},
    session::action::Action,
};

/// The pause before the first retry; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// All leases that are given again if they are lost.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// By the name that the application knows.
    by_name: BTreeMap<LeaseId, Retry>,
    /// The name of each that is called something else on the wire.
    names: BTreeMap<LeaseId, LeaseId>,
}

#[derive(Debug)]
struct Retry {
    /// As the application gave it.
    lease: NewLease,
    stream: StreamId,
    left: u32,
    pause: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Under this name on the wire.
    Live(LeaseId),
    /// Given again at a time; lost the last time with this code.
    Pausing { until: Instant, range: ByteRange, code: ErrorCode },
}

impl Retries {
    /// The name that the application knows a lease by.
    pub(super) fn name(&self, id: LeaseId) -> LeaseId {
        self.names.get(&id).copied().unwrap_or(id)
    }

    /// Name of a lease on the wire now; `None` while it pauses.
    pub(super) fn current(&self, name: LeaseId) -> Option<LeaseId> {
        match self.by_name.get(&name).map(|retry| &retry.state) {
            Some(State::Live(id)) => Some(*id),
            Some(State::Pausing { .. }) => None,
            None => Some(name),
        }
    }

    pub(super) fn insert(&mut self, id: LeaseId, lease: &NewLease, stream: StreamId) {
        let (left, lease) = (lease.retries, lease.clone());
        if left > 0 {
            let retry = Retry { lease, stream, left, pause: PAUSE_FIRST, state: State::Live(id) };
            self.by_name.insert(id, retry);
        }
    }

    /// The lease of this name is over for good, or nobody wants to know of it.
    pub(super) fn forget(&mut self, name: LeaseId) {
        if let Some(Retry { state: State::Live(id), .. }) = self.by_name.remove(&name) {
            self.names.remove(&id);
        }
    }

    /// A lease is lost. Returns whether it is given again.
    pub(super) fn on_lost(
        &mut self,
        now: Instant,
        id: LeaseId,
        code: ErrorCode,
        missing: &[ByteRange],
    ) -> bool {
        let name = self.name(id);
        let Some(retry) = self.by_name.get_mut(&name) else {
            return false;
        };
        match missing {
            [range] if retry.left > 0 && is_worth_it(code) => {
                self.names.remove(&id);
                retry.pause_again(now, *range, code);
                true
            }
            // Used up, hopeless, or in pieces, which others have hedged: that is the application's to mend.
            _ => false,
        }
    }

    /// Number of names that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len() + self.names.len()
    }

    fn deadline(&self) -> Option<Instant> {
        let pausing = self.by_name.values().filter_map(|retry| match retry.state {
            State::Pausing { until, .. } => Some(until),
            State::Live(_) => None,
        });
        pausing.min()
    }
}

impl Retry {
    fn pause_again(&mut self, now: Instant, range: ByteRange, code: ErrorCode) {
        self.left -= 1;
        self.state = State::Pausing { until: now + self.pause, range, code };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Returns whether the same path may do better next time.
fn is_worth_it(code: ErrorCode) -> bool {
    let passing = [
        ErrorCode::AGGREGATION_TIMEOUT,
        ErrorCode::DIGEST_MISMATCH,
        ErrorCode::LEASE_SHORT,
        ErrorCode::LEASE_VIOLATION,
        ErrorCode::LIMIT_EXCEEDED,
        ErrorCode::NO_CREDIT,
        ErrorCode::PATH_STALLED,
        ErrorCode::STREAM_MAPPING_CONFLICT,
    ];
    !code.is_reserved() || passing.contains(&code)
}

impl Primary {
    /// Instant at which the next lease is given again.
    pub(in crate::session) fn deadline(&self) -> Option<Instant> {
        self.retries.deadline()
    }

    /// Gives those leases again whose pause is over.
    pub(in crate::session) fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let due = |(&name, retry): (&LeaseId, &Retry)| match retry.state {
            State::Pausing { until, range, code } if until <= now => Some((name, range, code)),
            State::Pausing { .. } | State::Live(_) => None,
        };
        let due: Vec<(LeaseId, ByteRange, ErrorCode)> = self.retries.by_name.iter().filter_map(due).collect();
        for (name, range, code) in due {
            let Some(retry) = self.retries.by_name.get_mut(&name) else {
                continue;
            };
            let again = NewLease { range, hedge_of: None, retries: 0, ..retry.lease.clone() };
            // One that has made some way has another digest, or none that is known.
            let whole = range == retry.lease.range;
            let again = NewLease { digest: again.digest.filter(|_| whole), ..again };
            let given = if whole || retry.lease.digest.is_none() {
                self.lease(&again)
            } else {
                Err(LeaseError::Verified)
            };
            let passing = match given {
                Ok(id) => {
                    if let Some(retry) = self.retries.by_name.get_mut(&name) {
                        retry.state = State::Live(id);
                        self.retries.names.insert(id, name);
                    }
                    self.actions.push_back(Action::Notify(Event::LeaseChanged(name)));
                    continue;
                }
                Err(LeaseError::LimitExceeded | LeaseError::NoCredit | LeaseError::PathSilent) => true,
                Err(_) => false,
            };
            // A try all the same: a path that is full of leases further on may wait for the reader, who waits for this one.
            match self.retries.by_name.get_mut(&name).filter(|retry| passing && retry.left > 0) {
                Some(retry) => retry.pause_again(now, range, code),
                None => drop(self.end_pause(name, code)),
            }
        }
    }

    /// Status of a lease that waits to be given again.
    pub(super) fn pausing_status(&self, name: LeaseId) -> Option<LeaseStatus> {
        let retry = self.retries.by_name.get(&name)?;
        let State::Pausing { range, .. } = retry.state else {
            return None;
        };
        let path = self.jobs.get(&retry.lease.job)?.path;
        Some(LeaseStatus {
            path,
            stream: retry.stream,
            range,
            begun: false,
            arrived: 0,
            stalled: Some(range),
        })
    }

    /// Ends a lease that waits to be given again. Returns whether it did wait.
    pub(super) fn end_pause(&mut self, name: LeaseId, code: ErrorCode) -> bool {
        let pausing = |retry: &&Retry| matches!(retry.state, State::Pausing { .. });
        let Some(retry) = self.retries.by_name.get(&name).filter(pausing) else {
            return false;
        };
        let stream = retry.stream;
        let State::Pausing { range, .. } = retry.state else {
            return false;
        };
        self.retries.by_name.remove(&name);
        let missing = self.unowned(stream, range);
        self.outcomes.insert(name, LeaseOutcome::Lost { code, missing });
        self.actions.push_back(Action::Notify(Event::LeaseEnded(name)));
        true
    }

    /// Ends what waits to be given again of a stream that is over.
    pub(super) fn end_pauses_of(&mut self, stream: StreamId, code: ErrorCode) {
        let of = self.retries.by_name.iter().filter(|(_, retry)| retry.stream == stream);
        let names: Vec<LeaseId> = of.map(|(&name, _)| name).collect();
        for name in names {
            self.end_pause(name, code);
        }
    }
}
