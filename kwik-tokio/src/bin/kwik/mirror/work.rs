//! One job: the bytes of one stream that this mirror is asked for.

use std::{io, sync::Arc};

use kwik_tokio::{ErrorCode, RangeWriteError, SecondaryJob, SecondaryLease};
use thiserror::Error;
use tokio::{sync::Semaphore, task};

use super::Shared;
use crate::{
    protocol::{Supply, codes},
    service::{Data, Stopping},
    store::{Hashed, StoreError, read_code},
};

/// Leases filled at once.
const FILLED_AT_ONCE: usize = 16;
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
pub(super) async fn fill(mut job: SecondaryJob, shared: Arc<Shared>, mut stopping: Stopping) {
    let payload = job.payload().clone();
    let range = job.range();
    let opened = task::spawn_blocking(move || open(&payload, &shared)).await;
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
    let places = Arc::new(Semaphore::new(FILLED_AT_ONCE));
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
        let data = data.clone();
        tokio::spawn(async move {
            if let Err(error) = fill_lease(lease, &data).await {
                // The primary has been told and gives what is missing to another.
                tracing::debug!(%error, "lease not filled");
            }
            drop(place);
        });
    }
    if ending {
        // Leases that were not begun are somebody else's from now on.
        job.refuse(codes::ENDING);
    }
    // All places free: all that was begun is written, or lost.
    let _all = places.acquire_many(u32::try_from(FILLED_AT_ONCE).unwrap_or(u32::MAX)).await;
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

async fn fill_lease(lease: SecondaryLease, data: &Arc<Data>) -> Result<(), RangeWriteError> {
    let range = lease.range();
    let mut pieces = data.pieces(range);
    let mut stream = lease.open();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(piece) => stream.write_all_chunks(&mut [piece]).await?,
            Err(error) => {
                cannot_read(&error);
                stream.reset(read_code(&error));
                return Ok(());
            }
        }
    }
    stream.finish()
}

fn cannot_read(error: &io::Error) {
    tracing::warn!(%error, "cannot read what was asked for");
}
