//! A secondary: fills the ranges that the primary leases to it.

use std::sync::Arc;

use kwik_tokio::{
    Accepted, Endpoint, ErrorCode, RangeWriteError, SecondaryJob, SecondaryLease, SecondarySession,
};
use tokio::sync::Semaphore;

use super::{REQUEST, source::Source};

/// Leases filled at once. The primary grants fewer.
const FILLED_AT_ONCE: usize = 16;
/// Tells the primary that the object cannot be read here. Nobody else uses it.
const UNREADABLE: ErrorCode = ErrorCode::from_u32(1);
/// Tells the primary that there is no such object here.
const UNKNOWN: ErrorCode = ErrorCode::from_u32(2);

/// Serves every client that has a ticket, until the endpoint is closed.
pub(super) async fn serve(endpoint: Endpoint, source: Arc<Source>) {
    while let Some(incoming) = endpoint.accept().await {
        let source = source.clone();
        tokio::spawn(async move {
            match incoming.accept_any().await {
                Ok(Accepted::Secondary(session)) => serve_path(session, source).await,
                // Dropping the session closes it: nobody else is served here.
                Ok(Accepted::Primary(_)) => {}
                Err(error) => tracing::debug!(%error, "no session"),
            }
        });
    }
}

async fn serve_path(session: SecondarySession, source: Arc<Source>) {
    while let Ok(job) = session.accept_job().await {
        if job.payload() == REQUEST {
            tokio::spawn(work(job, source.clone()));
        } else {
            job.refuse(UNKNOWN);
        }
    }
}

/// Fills the leases of a job, several at once: the one with the lowest offset is sent first, and one that waits for
/// credit does not hold up another that the reader needs now.
async fn work(mut job: SecondaryJob, source: Arc<Source>) {
    let places = Arc::new(Semaphore::new(FILLED_AT_ONCE));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Some(lease) = job.next_lease().await else {
            break;
        };
        let source = source.clone();
        tokio::spawn(async move {
            if let Err(error) = fill(lease, &source).await {
                // The primary has been told and gives what is missing to another.
                tracing::debug!(%error, "lease not filled");
            }
            drop(place);
        });
    }
}

async fn fill(lease: SecondaryLease, source: &Arc<Source>) -> Result<(), RangeWriteError> {
    let mut pieces = source.pieces(lease.range());
    let mut stream = lease.open();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(piece) => stream.write_all_chunks(&mut [piece]).await?,
            Err(error) => {
                tracing::debug!(%error, "cannot read");
                stream.reset(UNREADABLE);
                return Ok(());
            }
        }
    }
    stream.finish()
}
