//! One job: the bytes of one stream that this mirror is asked for.

use std::{io, sync::Arc};

use kwik_tokio::{ErrorCode, RangeWriteError, SecondaryJob, SecondaryLease};
use thiserror::Error;
use tokio::{sync::Semaphore, task};

use super::Shared;
use crate::{
    pace::Pace,
    protocol::{Supply, codes},
    service::{Data, Stopping},
    store::{Hashed, StoreError, read_code},
};

/// Leases filled at once.
const FILLED_AT_ONCE: usize = 16;
/// Bytes written at a time where there is a limit to the rate.
const PACED_AT_ONCE: usize = 16 * 1024;
/// Objects up to this length are hashed before anything of them is sent: that costs little. A longer one is known by its
/// length, and what is sent of it by the digest that each lease has.
const HASHED_AT_ONCE: u64 = 4 * 1024 * 1024;

/// Reasons that a job is refused.
#[derive(Debug, Error)]
enum Refused {
    #[error("its payload does not follow the protocol")]
    Malformed,
    #[error("no object {path} to be had here: {error}")]
    Store { path: String, error: StoreError },
    #[error("{path} is another here")]
    Other { path: String },
}

impl Refused {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed => codes::MALFORMED,
            Self::Store { error, .. } => error.code(),
            Self::Other { .. } => codes::CHANGED,
        }
    }
}

/// Fills the leases of a job, several at once, until it ends or the server does.
///
/// `pace` is the client's.
pub(super) async fn fill(
    mut job: SecondaryJob,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
    mut stopping: Stopping,
) {
    let payload = job.payload().clone();
    let range = job.range();
    let opened = {
        let shared = shared.clone();
        task::spawn_blocking(move || open(&payload, &shared)).await
    };
    shared.metrics.on_job(matches!(&opened, Ok(Ok(data)) if data.covers(range)));
    let data = match opened {
        Ok(Ok(data)) if data.covers(range) => Arc::new(data),
        Ok(Ok(_)) => return refuse(job, &Refused::Malformed),
        Ok(Err(refused)) => return refuse(job, &refused),
        Err(error) => {
            tracing::error!(%error, "a task failed");
            return job.refuse(codes::UNREADABLE);
        }
    };
    tracing::debug!(%range, "job");
    // At a limit one lease is filled after the other: of several at once none would come on.
    let at_once = if is_limited([&shared.pace, &pace]) { 1 } else { FILLED_AT_ONCE };
    let places = Arc::new(Semaphore::new(at_once));
    let mut ending = false;
    while let Ok(place) = places.clone().acquire_owned().await {
        let lease = tokio::select! {
            lease = job.next_lease() => lease,
            () = stopping.wait() => {
                ending = true;
                None
            }
        };
        let Some(lease) = lease else { break };
        let (data, shared, pace) = (data.clone(), shared.clone(), pace.clone());
        tokio::spawn(async move {
            let len = lease.range().len();
            let filled = fill_lease(lease, &data, [&shared.pace, &pace]).await;
            shared.metrics.on_lease(filled.is_ok());
            match filled {
                Ok(()) => shared.metrics.on_sent(len),
                // The primary has been told and gives what is missing to another.
                Err(error) => tracing::debug!(%error, "lease not filled"),
            }
            drop(place);
        });
    }
    if ending {
        // Leases that were not begun are somebody else's from now on.
        job.refuse(codes::ENDING);
    }
    // All places free: all that was begun is written, or lost.
    let _all = places.acquire_many(u32::try_from(at_once).unwrap_or(u32::MAX)).await;
}

fn refuse(job: SecondaryJob, refused: &Refused) {
    tracing::warn!(%refused, "job refused");
    job.refuse(refused.code());
}

/// Opens the objects that a job is about.
fn open(payload: &[u8], shared: &Shared) -> Result<Data, Refused> {
    let supply = Supply::decode(payload).ok_or(Refused::Malformed)?;
    let mut objects = Vec::with_capacity(supply.parts().len());
    for part in supply.parts().iter() {
        let refused = |error| Refused::Store { path: part.path.to_string(), error };
        let object = shared.store.open(&part.path).map_err(refused)?;
        let mut same = object.len() == part.len;
        if same && part.len <= HASHED_AT_ONCE {
            let tree = shared.trees.of(&part.path, &*object, &Hashed::default());
            same = part.is(&*tree.map_err(|error| refused(StoreError::Unreadable(error)))?);
        }
        if !same {
            return Err(Refused::Other { path: part.path.to_string() });
        }
        objects.push(object);
    }
    Ok(Data::new(supply.layout().clone(), objects))
}

fn is_limited(paces: [&Pace; 2]) -> bool {
    paces.into_iter().any(Pace::is_limited)
}

/// Reasons that a lease is not filled.
#[derive(Debug, Error)]
enum Unfilled {
    #[error("it is taken no more: {0}")]
    Write(#[from] RangeWriteError),
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

async fn fill_lease(lease: SecondaryLease, data: &Arc<Data>, paces: [&Pace; 2]) -> Result<(), Unfilled> {
    let range = lease.range();
    let mut pieces = data.pieces(range);
    let mut stream = lease.open();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(mut piece) => {
                let at_once = if is_limited(paces) { PACED_AT_ONCE } else { piece.len() };
                while !piece.is_empty() {
                    let part = piece.split_to(at_once.min(piece.len()));
                    for pace in paces {
                        pace.take(part.len()).await;
                    }
                    stream.write_all_chunks(&mut [part]).await?;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read what was asked for");
                stream.reset(read_code(&error));
                return Err(error.into());
            }
        }
    }
    Ok(stream.finish()?)
}
