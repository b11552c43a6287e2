//! The primary: takes the request, brings the secondaries in, and has all of them send the object.

use std::sync::Arc;

use kwik_tokio::{
    Accepted, DistributeError, DistributeEvent, DistributeOptions, Distribution, Endpoint, ErrorCode,
    NewPath, PathError, PathId, PathInfo, PrimarySession, schedule::InOrder,
};
use tokio::task::JoinSet;

use super::{REQUEST, WINDOW, roster::Roster, source::Source};
use crate::failure::Failure;

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

        // Each joins in as soon as it is attached.
        let mut attaching = JoinSet::new();
        for (index, path) in self.secondaries.into_iter().enumerate() {
            attaching.spawn(attach(session.clone(), self.roster.clone(), index + 1, path));
        }
        let mut options = DistributeOptions::new(REQUEST);
        if self.ordered {
            options = options.policy(InOrder).window(WINDOW);
        }
        let size = self.source.size();
        let on_its_way = send.distribute(self.source.clone(), size, options);
        watch(on_its_way, attaching, &self.roster).await?;
        if let Some(code) = send.stopped().await.map_err(failed("the client was lost"))? {
            return Err(Failure::run(format!("the client broke off with {code}")));
        }
        Ok(session.paths())
    }
}

/// Has the object sent, and tells the roster what happens to it.
async fn watch(
    mut on_its_way: Distribution<'_>,
    mut attaching: JoinSet<Result<(), Failure>>,
    roster: &Roster,
) -> Result<(), Failure> {
    loop {
        let event = tokio::select! {
            event = on_its_way.next() => event,
            Some(attached) = attaching.join_next() => {
                attached.map_err(failed("a task of the primary failed"))??;
                continue;
            }
        };
        match event.map_err(why)? {
            None => return Ok(()),
            Some(DistributeEvent::Arrived { path: PathId::PRIMARY, .. }) => roster.count_run(true),
            Some(DistributeEvent::Lost { path: PathId::PRIMARY, .. }) => roster.count_run(false),
            Some(DistributeEvent::Lost { path, code, .. }) if code != ErrorCode::LEASE_REVOKED => {
                roster.trouble_on(path, format!("lost ranges: {code}"));
            }
            Some(_) => {}
        }
    }
}

/// Attaches a secondary. If that is not possible, the others go on without it.
async fn attach(
    session: PrimarySession,
    roster: Arc<Roster>,
    server: usize,
    path: NewPath,
) -> Result<(), Failure> {
    match session.add_path(path).await {
        Ok(path) => roster.attached(server, path),
        Err(PathError::ConnectionLost(error)) => return Err(failed("the client was lost")(error)),
        Err(PathError::Dead { path, code }) => {
            roster.attached(server, path);
            roster.trouble(server, format!("could not be attached: {code}"));
        }
        Err(error) => roster.trouble(server, format!("could not be attached: {error}")),
    }
    Ok(())
}

/// Says why the object could not be brought.
#[expect(clippy::wildcard_enum_match_arm, reason = "what else there is, and may be added, is said alike")]
fn why(error: DistributeError) -> Failure {
    match error {
        DistributeError::Stopped(code) => Failure::run(format!("the client broke off with {code}")),
        DistributeError::Incomplete(range) => Failure::run(format!("bytes {range} do not arrive")),
        error => Failure::run(format!("the primary cannot send the object: {error}")),
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::run(format!("{what}: {error}"))
}
