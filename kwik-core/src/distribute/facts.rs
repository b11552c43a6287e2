//! Facts: what the session tells, in the scheduler's words. Looked at once each, and only what has news.

use std::time::Instant;

use super::{DistributeEvent, DistributeFailure, Distributor, News};
use crate::{
    action::{Event, LeaseOutcome, PathState},
    error::{ErrorCode, LeaseError},
    id::{ByteRange, PathId},
    schedule::{DuplicateReason, Loss, PathNews, PieceId, Refusal},
    session::Session,
};

impl Distributor {
    /// Something happened in the session. Returns whether it matters to this object: [`Self::poll`] and
    /// [`Self::unwritten`] have something new then.
    pub fn handle_event(&mut self, event: &Event) -> bool {
        match event {
            Event::LeaseChanged(lease) | Event::LeaseEnded(lease) => match self.pieces.get(lease) {
                Some(piece) => self.news.pieces.insert(*piece),
                None => false,
            },
            Event::RunWritable(run) => match self.own.piece_of(*run) {
                Some(piece) => self.news.pieces.insert(piece),
                None => false,
            },
            Event::PathChanged(path) => self.news.paths.insert(*path),
            Event::Progress(path) => self.options.wants(*path) && self.news.reports.insert(*path),
            Event::GapReported(stream) if *stream == self.stream => {
                self.news.gap = true;
                true
            }
            Event::Finished(stream) if *stream == self.stream => self.on_stream_over(Ok(())),
            Event::Stopped(stream, code) if *stream == self.stream => {
                self.on_stream_over(Err(DistributeFailure::Stopped(*code)))
            }
            Event::Lost(error) => self.on_stream_over(Err(DistributeFailure::ConnectionLost(error.clone()))),
            Event::Available(_)
            | Event::Connected
            | Event::DatagramReceived
            | Event::DatagramsUnblocked
            | Event::Draining
            | Event::Finished(_)
            | Event::GapReported(_)
            | Event::HandshakeDataReady
            | Event::JobAnswered(_)
            | Event::JobArrived
            | Event::LeaseArrived(_)
            | Event::LeaseWritable(_)
            | Event::Opened(_)
            | Event::Readable(_)
            | Event::RelayArrived
            | Event::RelaysUnblocked
            | Event::Stopped(..)
            | Event::Synced(_)
            | Event::Writable(_) => false,
        }
    }

    fn on_stream_over(&mut self, end: Result<(), DistributeFailure>) -> bool {
        self.news.end.get_or_insert(end);
        true
    }

    pub(super) fn has_news(&self) -> bool {
        let News { pieces, paths, reports, gap, end } = &self.news;
        !pieces.is_empty() || !paths.is_empty() || !reports.is_empty() || *gap || end.is_some()
    }

    /// Tells the scheduler all that happened. Returns whether the client has the whole stream.
    pub(super) fn look(&mut self, now: Instant, session: &mut Session) -> Result<bool, DistributeFailure> {
        let News { pieces, paths, reports, gap, end } = std::mem::take(&mut self.news);
        if let Some(Err(failure)) = end {
            return Err(failure);
        }
        for path in paths {
            self.look_at_path(session, now, path);
        }
        for path in reports {
            self.look_at_report(session, now, path);
        }
        for piece in pieces {
            self.look_at_piece(session, now, piece);
        }
        if let Some(Ok(())) = end {
            self.settle(now);
            return Ok(true);
        }
        if let Some(from) = session.take_gap(self.stream).filter(|_| gap) {
            let rest = ByteRange::between(from, self.len);
            let holes = rest.map(|rest| session.unowned(self.stream, rest)).unwrap_or_default();
            self.scheduler.handle_gap(now, &holes);
        }
        Ok(false)
    }

    fn look_at_path(&mut self, session: &Session, now: Instant, path: PathId) {
        let Some(info) = session.path(path).filter(|_| self.options.wants(path)) else {
            return;
        };
        let state = info.state;
        self.late.entry(path).or_insert(info.late_bytes);
        let before = self.paths.insert(path, state);
        if before == Some(state) {
            return;
        }
        let news = match state {
            PathState::Active => PathNews::Answers,
            PathState::Connecting | PathState::Degraded => PathNews::Silent,
            PathState::Draining => PathNews::Removed,
            PathState::Dead(_) if before.is_none() => return,
            PathState::Dead(_) => PathNews::Dead,
        };
        self.scheduler.add_path(now, path, self.options.price_of(path));
        self.scheduler.handle_path(now, path, news);
        if state == PathState::Active {
            self.tell(DistributeEvent::Joined(path));
        } else if before == Some(PathState::Active) {
            self.tell(DistributeEvent::Left(path));
        }
    }

    /// The client has said what came over a path, and how far the reader is.
    fn look_at_report(&mut self, session: &Session, now: Instant, path: PathId) {
        let Some(info) = session.path(path) else {
            return;
        };
        self.scheduler.handle_rtt(now, PathId::PRIMARY, session.rtt());
        if let Some(rtt) = info.rtt {
            self.scheduler.handle_rtt(now, path, rtt);
        }
        let before = self.late.insert(path, info.late_bytes).unwrap_or(info.late_bytes);
        let late = info.late_bytes.saturating_sub(before);
        if late > 0 {
            self.scheduler.handle_duplicate(path, DuplicateReason::Late, late);
        }
        for (&piece, leased) in self.leases.iter().filter(|(_, leased)| leased.path == path) {
            if let Some(status) = session.lease_status(leased.id).filter(|status| status.arrived > 0) {
                self.scheduler.handle_progress(now, piece, status.arrived);
            }
        }
        if self.options.window.is_some() {
            if let Some(reader) = session.reader(self.stream) {
                self.scheduler.handle_window(now, reader.window);
                self.scheduler.handle_read(now, reader.position);
            }
        }
    }

    fn look_at_piece(&mut self, session: &mut Session, now: Instant, piece: PieceId) {
        if let Some((range, outcome)) = self.own.look(session, piece) {
            self.on_end(now, piece, PathId::PRIMARY, range, outcome);
            return;
        }
        let Some(leased) = self.leases.get_mut(&piece) else {
            return;
        };
        let id = leased.id;
        if leased.cutting {
            if let Some(given_back) = session.take_cut(id) {
                leased.cutting = false;
                self.scheduler.handle_cut(now, piece, &given_back);
            }
        }
        if let Some(outcome) = session.lease_outcome(id) {
            let (path, range) = (leased.path, leased.range);
            self.leases.remove(&piece);
            self.pieces.remove(&id);
            self.on_end(now, piece, path, range, outcome);
            return;
        }
        let stalled = session.lease_status(id).is_some_and(|status| status.stalled.is_some());
        if stalled != leased.stalled {
            leased.stalled = stalled;
            self.scheduler.handle_stalled(now, piece, stalled);
        }
    }

    /// The client has all of the stream, and so every piece of it.
    fn settle(&mut self, now: Instant) {
        let leased = self.leases.iter().map(|(&piece, leased)| (piece, leased.path, leased.range));
        let pieces: Vec<_> = leased.chain(self.own.iter()).collect();
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
                self.tell(DistributeEvent::Arrived { path, range });
            }
            LeaseOutcome::Lost { code, missing } => {
                self.scheduler.handle_lost(now, piece, loss(code, &missing), &missing);
                self.tell(DistributeEvent::Lost { path, range, code });
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
