//! Collects what happened since the last look, and tells the scheduler in its words.

use std::{task::Context, time::Instant};

use super::{DistributeError, DistributeEvent, Work};
use crate::{
    action::{LeaseOutcome, PathState},
    driver::session::{Key, SendEnd, State},
    error::{ErrorCode, LeaseError},
    id::{ByteRange, PathId},
    schedule::{Loss, PathNews, PieceId, Refusal},
};

impl Work {
    /// Tells the scheduler all that happened, and waits for more. Returns whether the client has the whole stream.
    pub(super) fn collect(&mut self, cx: &Context<'_>) -> Result<bool, DistributeError> {
        self.lease_digested(cx)?;
        let session = self.session.clone();
        session.with(|s| {
            s.check()?;
            let complete = match s.sent_end(self.stream) {
                Some(SendEnd::Arrived) => true,
                Some(SendEnd::Stopped(code)) => return Err(DistributeError::Stopped(code)),
                Some(SendEnd::Reset) => return Err(DistributeError::Lease(LeaseError::ClosedStream)),
                None => false,
            };
            let now = s.now();
            self.look_at_paths(s, now);
            self.look_at_leases(s, now, cx);
            for (piece, range, outcome) in self.writer.ended(s, cx) {
                self.on_end(now, piece, PathId::PRIMARY, range, outcome);
            }
            if complete {
                self.settle(now);
                return Ok(true);
            }
            if let Some(from) = s.core.take_gap(self.stream) {
                let rest = ByteRange::between(from, self.len);
                let holes = rest.map(|rest| s.core.unowned(self.stream, rest)).unwrap_or_default();
                self.scheduler.handle_gap(now, &holes);
            }
            s.wakers.wait(Key::Paths, &mut self.path_changed, cx.waker());
            s.wakers.wait(Key::Gap(self.stream), &mut self.gap, cx.waker());
            s.wakers.wait(Key::Finished(self.stream), &mut self.finished, cx.waker());
            Ok(false)
        })
    }

    fn look_at_paths(&mut self, s: &State, now: Instant) {
        if self.paths_seen == Some(s.paths_seen) {
            return;
        }
        self.paths_seen = Some(s.paths_seen);
        self.scheduler.handle_rtt(now, PathId::PRIMARY, s.core.rtt());
        for info in s.core.paths() {
            let (path, state) = (info.id, info.state);
            let before = self.paths.insert(path, state);
            if before == Some(state) || !self.options.wants(path) {
                continue;
            }
            let news = match state {
                PathState::Active => PathNews::Answers,
                PathState::Connecting | PathState::Degraded => PathNews::Silent,
                PathState::Draining => PathNews::Removed,
                PathState::Dead(_) if before.is_none() => continue,
                PathState::Dead(_) => PathNews::Dead,
            };
            self.scheduler.add_path(now, path, self.options.price_of(path));
            self.scheduler.handle_path(now, path, news);
            if state == PathState::Active {
                self.events.push_back(DistributeEvent::Joined(path));
            } else if before == Some(PathState::Active) {
                self.events.push_back(DistributeEvent::Left(path));
            }
        }
    }

    fn look_at_leases(&mut self, s: &mut State, now: Instant, cx: &Context<'_>) {
        let mut ended = Vec::new();
        for (&piece, leased) in &mut self.leases {
            let id = leased.id;
            if leased.cutting {
                if let Some(given_back) = s.core.take_cut(id) {
                    leased.cutting = false;
                    self.scheduler.handle_cut(now, piece, &given_back);
                }
            }
            if let Some(outcome) = s.core.lease_outcome(id) {
                for (key, place) in [(Key::Lease(id), leased.ended), (Key::LeaseStatus(id), leased.changed)] {
                    place.into_iter().for_each(|place| s.wakers.forget(key, place));
                }
                ended.push((piece, leased.path, leased.range, outcome));
                continue;
            }
            // Leases are given without `NewLease::progress` yet; its reports would go to `handle_progress` here.
            let stalled = s.core.lease_status(id).is_some_and(|status| status.stalled.is_some());
            if stalled != leased.stalled {
                leased.stalled = stalled;
                self.scheduler.handle_stalled(now, piece, stalled);
            }
            s.wakers.wait(Key::Lease(id), &mut leased.ended, cx.waker());
            s.wakers.wait(Key::LeaseStatus(id), &mut leased.changed, cx.waker());
        }
        for (piece, path, range, outcome) in ended {
            self.leases.remove(&piece);
            self.on_end(now, piece, path, range, outcome);
        }
    }

    /// The client has all of the stream, and so every piece of it.
    fn settle(&mut self, now: Instant) {
        let leased = self.leases.iter().map(|(&piece, leased)| (piece, leased.path, leased.range));
        let pieces: Vec<_> = leased.chain(self.writer.pieces()).collect();
        for (piece, path, range) in pieces {
            self.on_end(now, piece, path, range, LeaseOutcome::Done);
        }
    }

    fn on_end(
        &mut self,
        now: Instant,
        piece: PieceId,
        path: PathId,
        range: ByteRange,
        outcome: LeaseOutcome,
    ) {
        match outcome {
            LeaseOutcome::Done => {
                self.scheduler.handle_done(now, piece);
                self.events.push_back(DistributeEvent::Arrived { path, range });
            }
            LeaseOutcome::Lost { code, missing } => {
                self.scheduler.handle_lost(now, piece, loss(code, &missing), &missing);
                self.events.push_back(DistributeEvent::Lost { path, range, code });
            }
        }
    }
}

/// Returns what the scheduler makes of the end of a lease.
fn loss(code: ErrorCode, missing: &[ByteRange]) -> Loss {
    match code {
        _ if missing.is_empty() => Loss::Covered,
        ErrorCode::LEASE_REVOKED => Loss::TakenBack,
        ErrorCode::PATH_DEAD | ErrorCode::PATH_STALLED | ErrorCode::PATH_NOT_FOUND | ErrorCode::DRAINING => {
            Loss::Path
        }
        ErrorCode::AGGREGATION_TIMEOUT => Loss::TooLate,
        ErrorCode::DIGEST_MISMATCH | ErrorCode::DATA_CONFLICT => Loss::WrongDigest,
        ErrorCode::LEASE_SHORT => Loss::GivenUp,
        code if !code.is_reserved() => Loss::GivenUp, // the server's application said so
        _ => Loss::Other,
    }
}

/// Returns what the scheduler makes of a lease that was not given to a path in this state; an error if none ever will be.
pub(super) fn refusal(error: LeaseError, path: Option<PathState>) -> Result<Refusal, LeaseError> {
    match (error, path) {
        (LeaseError::PathSilent, _) | (LeaseError::PathDead, Some(PathState::Degraded)) => {
            Ok(Refusal::Silent)
        }
        (LeaseError::PathDead, Some(PathState::Active | PathState::Connecting))
        | (LeaseError::LimitExceeded | LeaseError::NoCredit | LeaseError::OutsideJob, _) => Ok(Refusal::Busy),
        // A server that refuses the job does not want this object.
        (LeaseError::PathDead | LeaseError::JobClosed, _) => Ok(Refusal::Gone),
        // The session's end, or the stream's, is told elsewhere.
        (
            LeaseError::NotLive
            | LeaseError::Overlap
            | LeaseError::Verified
            | LeaseError::SessionClosed
            | LeaseError::ClosedStream,
            _,
        ) => Ok(Refusal::Taken),
        (LeaseError::Misuse(_) | LeaseError::Unsupported, _) => Err(error),
    }
}
