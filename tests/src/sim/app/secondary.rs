//! A secondary's application: takes jobs and fills leases.

use std::{collections::BTreeMap, time::Duration};

use kwik_core::{ByteRange, Event, JobId, LeaseId, LeaseWriteError, Session, SessionHandle};

use super::{Cx, GIVEN_UP, sooner, talk::Echo};
use crate::object::Object;

/// Behaviour of a secondary's application. The default does all it is asked, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondaryPlan {
    /// Bytes handed over at once, at most.
    pub chunk: u64,
    /// Leases filled at the same time, at most. One that has no credit does not count: whoever waited for its credit
    /// alone would leave a lease that the reader needs first unfilled, and wait for ever.
    pub concurrent: usize,
    /// At most this many bytes, then a pause of this length: a slow disk.
    pub pace: Option<(u64, Duration)>,
    /// Jobs refused, per thousand.
    pub refuse: u16,
    /// Leases given up half-way, per thousand.
    pub give_up: u16,
}

impl Default for SecondaryPlan {
    fn default() -> Self {
        Self { chunk: 64 * 1024, concurrent: usize::MAX, pace: None, refuse: 0, give_up: 0 }
    }
}

impl SecondaryPlan {
    /// The same, but one byte a second.
    #[must_use]
    pub fn crawling(self) -> Self {
        Self { pace: Some((1, Duration::from_secs(1))), ..self }
    }
}

/// Reason why giving up cannot fail.
const OWN_CODE: &str = "the code is the application's";

/// Application of a secondary.
#[derive(Debug)]
pub struct SecondaryApp {
    plan: SecondaryPlan,
    sessions: BTreeMap<SessionHandle, Work>,
}

/// The work of one session.
#[derive(Debug, Default)]
struct Work {
    jobs: BTreeMap<JobId, Job>,
    leases: BTreeMap<LeaseId, Filling>,
    jobs_waiting: bool,
    resume_at: Option<Duration>,
    allowance: u64,
    echo: Echo,
}

#[derive(Debug)]
struct Job {
    object: Object,
    /// The core said that no lease waits, and has not said otherwise since.
    empty: bool,
}

#[derive(Debug)]
struct Filling {
    object: Object,
    range: ByteRange,
    sent: u64,
    blocked: bool,
    /// Give up here instead of going on.
    give_up_at: Option<u64>,
}

impl SecondaryApp {
    /// Creates an application that follows `plan`.
    #[must_use]
    pub fn new(plan: SecondaryPlan) -> Self {
        Self { plan, sessions: BTreeMap::new() }
    }

    pub(super) fn event(&mut self, _cx: &mut Cx<'_>, handle: SessionHandle, event: &Event) {
        let work = self.sessions.entry(handle).or_default();
        work.echo.event(event);
        match event {
            Event::Connected | Event::JobArrived => work.jobs_waiting = true,
            Event::LeaseArrived(job) => {
                if let Some(job) = work.jobs.get_mut(job) {
                    job.empty = false;
                }
            }
            Event::LeaseWritable(lease) | Event::LeaseEnded(lease) => {
                if let Some(lease) = work.leases.get_mut(lease) {
                    lease.blocked = false;
                }
            }
            Event::Lost(_) => {
                self.sessions.remove(&handle);
            }
            _ => {}
        }
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        let Some(work) = self.sessions.get_mut(&handle) else {
            return;
        };
        work.take_jobs(cx, session, &self.plan);
        work.echo.turn(cx, session);
        if work.resume_at.is_some_and(|at| at <= cx.at) {
            work.resume_at = None;
        }
        if work.resume_at.is_none() {
            work.take_leases(cx, session, &self.plan);
            work.fill(cx, session, &self.plan);
            // What was completed makes room for more.
            while work.resume_at.is_none() && work.take_leases(cx, session, &self.plan) {
                work.fill(cx, session, &self.plan);
            }
        }
    }

    /// Refuses its jobs and gives up its leases.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>, handle: SessionHandle, session: &mut Session) {
        let Some(work) = self.sessions.get_mut(&handle) else {
            return;
        };
        for lease in std::mem::take(&mut work.leases).into_keys() {
            cx.note(format_args!("gives {lease} up"));
            session.reset_lease(cx.now, lease, GIVEN_UP).expect(OWN_CODE);
        }
        for job in std::mem::take(&mut work.jobs).into_keys() {
            cx.note(format_args!("refuses {job}"));
            session.refuse_job(cx.now, job, GIVEN_UP).expect(OWN_CODE);
        }
    }

    pub(super) fn wake_at(&self, handle: SessionHandle) -> Option<Duration> {
        let work = self.sessions.get(&handle)?;
        let waits =
            work.leases.values().any(|lease| !lease.blocked) || work.jobs.values().any(|job| !job.empty);
        sooner(None, work.resume_at.filter(|_| waits))
    }

    pub(super) fn forget(&mut self, handle: SessionHandle) {
        self.sessions.remove(&handle);
    }
}

impl Work {
    fn take_jobs(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &SecondaryPlan) {
        if !std::mem::take(&mut self.jobs_waiting) {
            return;
        }
        while let Some(job) = session.accept_job() {
            if cx.dice.chance(plan.refuse) {
                cx.note(format_args!("refuses {}", job.id));
                cx.trace.count("job refused");
                session.refuse_job(cx.now, job.id, GIVEN_UP).expect(OWN_CODE);
                continue;
            }
            cx.note(format_args!("takes {}", job.id));
            session.take_job(cx.now, job.id);
            self.jobs.insert(job.id, Job { object: Object::from_payload(&job.payload), empty: false });
        }
    }

    /// Returns whether there was any to take.
    fn take_leases(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &SecondaryPlan) -> bool {
        let before = self.leases.len();
        let ids: Vec<JobId> = self.jobs.iter().filter(|(_, job)| !job.empty).map(|(&id, _)| id).collect();
        for id in ids {
            while self.leases.values().filter(|lease| !lease.blocked).count() < plan.concurrent {
                let Some(job) = self.jobs.get_mut(&id) else {
                    break;
                };
                match session.next_lease(id) {
                    Ok(Some(lease)) => {
                        cx.note(format_args!("begins {} {}", lease.id, lease.range));
                        let give_up_at =
                            cx.dice.chance(plan.give_up).then(|| cx.dice.below(lease.range.len()));
                        let (object, range) = (job.object, lease.range);
                        let filling = Filling { object, range, sent: 0, blocked: false, give_up_at };
                        self.leases.insert(lease.id, filling);
                    }
                    Ok(None) => {
                        job.empty = true;
                        break;
                    }
                    Err(_) => {
                        self.jobs.remove(&id);
                    }
                }
            }
        }
        self.leases.len() > before
    }

    fn fill(&mut self, cx: &mut Cx<'_>, session: &mut Session, plan: &SecondaryPlan) {
        let Self { leases, resume_at, allowance, .. } = self;
        leases.retain(|&id, lease| {
            loop {
                if lease.blocked || resume_at.is_some() || cx.is_interrupted() {
                    return true;
                }
                if lease.give_up_at.is_some_and(|at| lease.sent >= at) {
                    cx.note(format_args!("gives {id} up"));
                    cx.trace.count("lease given up");
                    session.reset_lease(cx.now, id, GIVEN_UP).expect(OWN_CODE);
                    return false;
                }
                if *allowance == 0 {
                    *allowance = plan.pace.map_or(u64::MAX, |(bytes, _)| bytes.max(1));
                }
                let len = plan.chunk.min(*allowance).min(lease.range.len() - lease.sent);
                let Some(range) = ByteRange::new(lease.range.start() + lease.sent, len) else {
                    return false; // written to its end
                };
                match session.write_lease(cx.now, id, &mut [lease.object.bytes(range)]) {
                    Ok(written) => {
                        cx.note(format_args!("writes {} of {range} of {id}", written.bytes));
                        lease.sent += written.bytes as u64;
                        *allowance = allowance.saturating_sub(written.bytes as u64);
                        if *allowance == 0 {
                            *resume_at = plan.pace.map(|(_, pause)| cx.at + pause);
                        }
                    }
                    Err(LeaseWriteError::Blocked) => lease.blocked = true,
                    Err(LeaseWriteError::Ended(code)) => {
                        cx.note(format_args!("loses {id}: {code}"));
                        session.reset_lease(cx.now, id, GIVEN_UP).expect(OWN_CODE);
                        return false;
                    }
                    Err(error) => panic!("10: {id} cannot be written: {error}"),
                }
            }
        });
    }
}
