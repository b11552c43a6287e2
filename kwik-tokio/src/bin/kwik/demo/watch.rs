//! Watches a transfer: shows how it goes, notices when it is stuck, and sums up what each server did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kwik_tokio::{Connection, PathInfo, PathState, SessionStats};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::{self, MissedTickBehavior},
};

use super::{
    progress::Progress,
    report::Share,
    roster::{Roster, Server},
};
use crate::failure::Failure;

/// Time between drawings of the progress line.
const TICK: Duration = Duration::from_millis(100);
/// Time without a single byte before the transfer counts as stuck.
const STUCK: Duration = Duration::from_secs(30);
/// Time for the primary to learn that everything has arrived.
const FAREWELL: Duration = Duration::from_secs(5);

/// Subject of the watch.
pub(super) struct Watch {
    pub(super) size: u64,
    pub(super) received: Arc<AtomicU64>,
    pub(super) roster: Arc<Roster>,
    pub(super) progress: Arc<Progress>,
}

/// Figures of a transfer.
pub(super) struct Done {
    /// Time from the request to the last byte.
    pub(super) took: Duration,
    /// The client's counters.
    pub(super) stats: SessionStats,
    /// The paths as the primary saw them.
    paths: Vec<PathInfo>,
}

impl Watch {
    /// Waits until the client has the object and the primary knows.
    pub(super) async fn until_done(
        self,
        fetching: JoinHandle<Result<Duration, Failure>>,
        serving: JoinHandle<Result<Vec<PathInfo>, Failure>>,
        mut connected: oneshot::Receiver<Connection>,
    ) -> Result<Done, Failure> {
        tokio::pin!(fetching, serving);
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connection = None;
        let mut paths = None;
        let started = Instant::now();
        let mut last = (0, started);
        let took = loop {
            tokio::select! {
                fetched = &mut fetching => break self.cleared(fetched)?,
                served = &mut serving, if paths.is_none() => paths = Some(self.cleared(served)?),
                _ = tick.tick() => {
                    connection = connection.or_else(|| connected.try_recv().ok());
                    let received = self.received.load(Ordering::Relaxed);
                    if received != last.0 {
                        last = (received, Instant::now());
                    } else if last.1.elapsed() > STUCK {
                        self.progress.clear();
                        let seconds = STUCK.as_secs();
                        return Err(Failure::run(format!("stuck: no byte for {seconds} s after {received} of {}", self.size)));
                    }
                    if let Some(connection) = &connection {
                        let bytes = self.bytes(&connection.stats());
                        self.progress.draw(received, self.size, started.elapsed().as_secs_f64(), &bytes);
                    }
                }
            }
        };
        let paths = match paths {
            Some(paths) => paths,
            None => match time::timeout(FAREWELL, &mut serving).await {
                Ok(served) => self.cleared(served)?,
                Err(_) => return Err(Failure::run("the primary does not learn that the object has arrived")),
            },
        };
        let connection = connection.or_else(|| connected.try_recv().ok());
        let stats = connection.map(|connection| connection.stats()).unwrap_or_default();
        Ok(Done { took, stats, paths })
    }

    /// Removes the progress line and looks at how a task ended.
    fn cleared<T>(&self, ended: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
        self.progress.clear();
        ended.map_err(|error| Failure::run(format!("a task failed: {error}"))).and_then(|done| done)
    }

    /// Bytes that each server has supplied, the primary first.
    fn bytes(&self, stats: &SessionStats) -> Vec<u64> {
        let of = |server: &Server| {
            server.path.and_then(|path| stats.sources.get(&path)).map(|source| source.bytes)
        };
        self.roster.servers().iter().map(|server| of(server).unwrap_or_default()).collect()
    }
}

impl Done {
    /// Contribution of each server, the primary first.
    pub(super) fn shares(&self, roster: &Roster) -> Vec<Share> {
        roster.servers().into_iter().enumerate().map(|(index, server)| self.share(index, server)).collect()
    }

    fn share(&self, index: usize, server: Server) -> Share {
        let source = server.path.and_then(|path| self.stats.sources.get(&path)).copied().unwrap_or_default();
        let info = self.paths.iter().find(|info| server.path == Some(info.id));
        let (leases_done, leases_lost) = match info {
            _ if index == 0 => server.runs,
            Some(info) => (info.leases_done, info.leases_lost),
            None => (0, 0),
        };
        let state = match info.map(|info| info.state) {
            _ if index == 0 => "active".to_owned(),
            Some(PathState::Active) => "active".to_owned(),
            Some(PathState::Degraded) => "degraded".to_owned(),
            Some(PathState::Draining) => "draining".to_owned(),
            Some(PathState::Dead(code)) => format!("dead ({code})"),
            Some(_) | None => server.trouble.unwrap_or_else(|| "connecting".to_owned()),
        };
        Share {
            address: server.address,
            bytes: source.bytes,
            leases_done,
            leases_lost,
            state,
            killed: server.killed,
        }
    }
}
