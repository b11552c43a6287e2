//! The primary: takes the request, brings the secondaries in, and hands out the ranges.

use std::{sync::Arc, time::Duration};

use kwik_tokio::{
    Accepted, Endpoint, Job, LeaseError, LeaseOutcome, NewJob, NewPath, PathError, PathId, PathInfo,
    PathState, PrimarySession, RangeWriteError, Ranges,
};
use tokio::{task::JoinSet, time};

use super::{
    REQUEST, WINDOW,
    roster::Roster,
    source::Source,
    work::{Board, Work, range_len},
};
use crate::failure::Failure;

/// Ranges queued on a path, so that it never waits a round trip for the next.
const LEASES_AT_ONCE: usize = 4;
/// Ranges the primary writes itself at once: one is read while the other is sent.
const RUNS_AT_ONCE: usize = 2;
/// Bytes that all servers together work on at once: far more than is on its way at any time, and not so much that a
/// client which falls behind is flooded.
const WORKED_ON_MAX: u64 = 6 * 1024 * 1024;
/// Longest range.
const RANGE_MAX: u64 = 1024 * 1024;
/// Distance by which servers work ahead of the first missing byte for a reader in order: less than its window, so that all of
/// them have credit although the client raises it in steps.
const AHEAD_ORDERED: u64 = WINDOW / 4 * 3;
/// Ranges lost in a row, without a single one arriving, before the transfer is given up.
const LOSSES_MAX: u32 = 256;
/// Time between looks at a path that takes no ranges at the moment.
const RECHECK: Duration = Duration::from_millis(5);

/// Means of the primary to serve the object once.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) endpoint: Endpoint,
    pub(super) source: Arc<Source>,
    pub(super) secondaries: Vec<NewPath>,
    pub(super) roster: Arc<Roster>,
    pub(super) ordered: bool,
}

impl Primary {
    /// Serves one client, until it has every byte. Returns what became of the paths.
    pub(super) async fn serve(self) -> Result<Vec<PathInfo>, Failure> {
        let incoming = self.endpoint.accept().await.ok_or_else(|| Failure::run("the primary was closed"))?;
        let session = match incoming.accept_any().await {
            Ok(Accepted::Primary(session)) => session,
            Ok(Accepted::Secondary(_)) => {
                return Err(Failure::run("the client took the primary for a secondary"));
            }
            Err(error) => return Err(failed("no session with the client")(error)),
        };
        let (mut send, mut recv) = session.accept_bi().await.map_err(failed("no request came"))?;
        let request = recv.read_to_end(REQUEST.len()).await.map_err(failed("no request came"))?;
        if request != REQUEST {
            return Err(Failure::run("the client asked for something else"));
        }

        let ahead = if self.ordered { AHEAD_ORDERED } else { u64::MAX };
        let size = self.source.size();
        let ranges_at_once = RUNS_AT_ONCE + LEASES_AT_ONCE * self.secondaries.len();
        let max = RANGE_MAX.min(WORKED_ON_MAX / ranges_at_once as u64);
        let work = Work::new(size, range_len(size, self.secondaries.len() + 1, max), ahead);
        let shared = Shared {
            session: session.clone(),
            ranges: send.ranges(),
            board: Board::new(work),
            source: self.source,
        };
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for _ in 0..RUNS_AT_ONCE {
            tasks.spawn(write_ranges(shared.clone(), self.roster.clone()));
        }
        for (index, path) in self.secondaries.into_iter().enumerate() {
            tasks.spawn(feed_secondary(shared.clone(), self.roster.clone(), index + 1, path));
        }

        // The client may learn the end of the stream before every range has arrived: one round trip saved.
        let mut ended = false;
        loop {
            tokio::select! {
                () = shared.board.finished() => break,
                () = shared.board.claimed(), if !ended => {
                    ended = true;
                    send.finish().map_err(failed("the client broke off"))?;
                }
                Some(done) = tasks.join_next() => done.map_err(failed("a task of the primary failed"))??,
            }
        }
        if !ended {
            send.finish().map_err(failed("the client broke off"))?;
        }
        if let Some(code) = send.stopped().await.map_err(failed("the client was lost"))? {
            return Err(Failure::run(format!("the client broke off with {code}")));
        }
        Ok(session.paths())
    }
}

/// State that the tasks of one transfer share.
struct Shared {
    session: PrimarySession,
    ranges: Ranges,
    board: Board,
    source: Arc<Source>,
}

/// Sends ranges from the primary itself, one after the other.
async fn write_ranges(shared: Arc<Shared>, roster: Arc<Roster>) -> Result<(), Failure> {
    while let Some(range) = shared.board.next().await {
        let mut writer = shared.ranges.write_at(range).map_err(failed("the primary cannot write"))?;
        shared.board.update(|work| work.claimed(range));
        let mut pieces = shared.source.pieces(range);
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|error| {
                Failure::run(format!("cannot read {} at {range}: {error}", shared.source.name()))
            })?;
            match writer.write_all_chunks(&mut [piece]).await {
                Ok(()) => {}
                Err(RangeWriteError::Ended(_)) => break, // what is missing is told below
                Err(error) => return Err(failed("the primary cannot write")(error)),
            }
        }
        let outcome = writer.finish().await.map_err(failed("the primary cannot write"))?;
        roster.count_run(outcome == LeaseOutcome::Done);
        settle(&shared.board, "the primary", range, outcome)?;
    }
    Ok(())
}

/// Attaches a secondary and keeps it busy. If that is not possible, the others go on without it.
async fn feed_secondary(
    shared: Arc<Shared>,
    roster: Arc<Roster>,
    server: usize,
    path: NewPath,
) -> Result<(), Failure> {
    let id = match shared.session.add_path(path).await {
        Ok(id) => id,
        Err(PathError::ConnectionLost(error)) => return Err(failed("the client was lost")(error)),
        Err(PathError::Dead { path, code }) => {
            roster.attached(server, path);
            roster.trouble(server, format!("could not be attached: {code}"));
            return Ok(());
        }
        Err(error) => {
            roster.trouble(server, format!("could not be attached: {error}"));
            return Ok(());
        }
    };
    roster.attached(server, id);
    let Some(all) = kwik_tokio::ByteRange::new(0, shared.source.size()) else {
        return Ok(()); // an empty object: nothing to do
    };
    let job = match shared.ranges.open_job(NewJob::new(id, all, REQUEST)) {
        Ok(job) => job,
        // The object may be complete by now, the path dead.
        Err(error) => {
            tracing::debug!(%error, "no job");
            return Ok(());
        }
    };
    let mut leases = JoinSet::new();
    for _ in 0..LEASES_AT_ONCE {
        leases.spawn(lease_ranges(shared.clone(), roster.clone(), server, id, job.clone()));
    }
    while let Some(done) = leases.join_next().await {
        done.map_err(failed("a task of the primary failed"))??;
    }
    Ok(())
}

/// Leases ranges to one path, one after the other, as long as it lives.
async fn lease_ranges(
    shared: Arc<Shared>,
    roster: Arc<Roster>,
    server: usize,
    path: PathId,
    job: Job,
) -> Result<(), Failure> {
    let board = &shared.board;
    loop {
        match state(&shared.session, path) {
            Some(PathState::Active) => {}
            Some(PathState::Dead(_)) | None => return Ok(()),
            // Silent: it gets nothing until it answers again.
            Some(_) => {
                time::sleep(RECHECK).await;
                continue;
            }
        }
        let Some(range) = board.next().await else {
            return Ok(());
        };
        let mut lease = match job.lease(range) {
            Ok(lease) => lease,
            Err(error) => {
                board.update(|work| work.give_back(range));
                if error == LeaseError::JobClosed {
                    roster.trouble(server, "takes no more work".to_owned());
                    return Ok(());
                }
                let passing = [LeaseError::PathDead, LeaseError::PathSilent, LeaseError::LimitExceeded];
                if !passing.contains(&error) {
                    return Err(failed("the primary cannot lease")(error));
                }
                time::sleep(RECHECK).await;
                continue;
            }
        };
        board.update(|work| work.claimed(range));
        let outcome = lease.outcome().await.map_err(failed("the client was lost"))?;
        if let LeaseOutcome::Lost { code, .. } = &outcome {
            roster.trouble(server, format!("lost ranges: {code}"));
        }
        settle(board, &roster.name(server), range, outcome)?;
    }
}

/// Enters how a range ended. If nothing arrives any more, the transfer is given up.
fn settle(
    board: &Board,
    server: &str,
    range: kwik_tokio::ByteRange,
    outcome: LeaseOutcome,
) -> Result<(), Failure> {
    let (code, missing) = match outcome {
        LeaseOutcome::Done => {
            board.update(|work| work.done(range));
            return Ok(());
        }
        LeaseOutcome::Lost { code, missing } => (code, missing),
        _ => return Err(Failure::run("a range ended in an unknown way")),
    };
    let losses = board.update(|work| {
        work.lost(range, &missing);
        work.losses()
    });
    if losses < LOSSES_MAX {
        return Ok(());
    }
    Err(Failure::run(format!(
        "bytes {range} do not arrive: lost {losses} times in a row, last by {server}: {code}"
    )))
}

fn state(session: &PrimarySession, path: PathId) -> Option<PathState> {
    session.paths().into_iter().find(|info| info.id == path).map(|info| info.state)
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::run(format!("{what}: {error}"))
}
