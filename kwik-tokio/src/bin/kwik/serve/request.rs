//! One request, and its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kwik_tokio::{
    DistributeError, DistributeOptions, PathId, RecvStream, SendStream, WriteError,
    schedule::{Digests, Report},
};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::{self, JoinHandle},
    time,
};
use tracing::Span;

use super::Shared;
use crate::{
    protocol::{
        Answer, Code, Entry, MessageError, ObjectPath, Part, Parts, Ranges, Reader, Refusal, Request,
        Supplied, Supply, Tree, Want, Wanted, codes, encode,
    },
    service::Data,
    store::{Hashed, Object, StoreError},
};

/// Time in which a client says what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two words about work under way.
const WORKING_EVERY: Duration = Duration::from_millis(500);
/// Objects in one message of a listing.
const ENTRIES_AT_ONCE: usize = 256;

/// Reasons that a request was not answered to the end.
#[derive(Debug, Error)]
enum RequestError {
    #[error("no request came in time")]
    TimedOut,
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the client takes no more: {0}")]
    Write(#[from] WriteError),
    #[error("{0}")]
    Distribute(#[from] DistributeError),
    #[error("a task failed: {0}")]
    Task(#[from] task::JoinError),
    #[error("more was asked for than a stream can carry")]
    TooMuch,
}

/// Reads a request and answers it.
pub(super) async fn answer(mut send: SendStream, mut recv: RecvStream, shared: &Arc<Shared>) {
    let mut reader = Reader::new(&mut recv);
    let request = match time::timeout(REQUEST_TIMEOUT, reader.next::<Request>()).await {
        Ok(request) => request.map_err(RequestError::from),
        Err(_) => Err(RequestError::TimedOut),
    };
    tracing::debug!("request");
    let answered = match request {
        Ok(Request::List { dir, recursive }) => list(&mut send, dir, recursive, shared).await,
        Ok(Request::Get(wants)) => get(&mut send, wants, shared).await,
        Err(error) => Err(error),
    };
    shared.metrics.on_request(answered.is_ok());
    if let Err(error) = answered {
        tracing::info!(%error, "request failed");
        if let RequestError::Message(_) | RequestError::TimedOut | RequestError::TooMuch = error {
            // It fails if the client is gone already.
            let _closed = send.reset(codes::MALFORMED);
        }
    }
}

async fn list(
    send: &mut SendStream,
    dir: Option<ObjectPath>,
    recursive: bool,
    shared: &Arc<Shared>,
) -> Result<(), RequestError> {
    let (batches, mut receiver) = mpsc::channel::<Vec<Entry>>(2);
    let store = shared.store.clone();
    let name = dir.clone();
    let listing = task::spawn_blocking(move || {
        let mut batch = Vec::new();
        let left_out = store.list(dir.as_ref(), recursive, &mut |entry| {
            batch.push(entry);
            batch.len() < ENTRIES_AT_ONCE || batches.blocking_send(std::mem::take(&mut batch)).is_ok()
        })?;
        if !batch.is_empty() {
            // Nobody takes it: whoever asked is gone.
            let _gone = batches.blocking_send(batch);
        }
        Ok::<_, StoreError>(left_out)
    });
    let mut count = 0;
    while let Some(batch) = receiver.recv().await {
        count += batch.len();
        send.write_chunk(encode(&Answer::Listing(batch))?).await?;
    }
    let dir = name.as_ref().map_or("the root", ObjectPath::as_str);
    let last = match listing.await? {
        Ok(left_out) => {
            tracing::info!(dir, count, left_out, "listed");
            Answer::ListingEnd { left_out }
        }
        Err(error) => {
            tracing::info!(dir, %error, "not listed");
            Answer::Refused(error.refusal())
        }
    };
    send.write_chunk(encode(&last)?).await?;
    finish(send);
    Ok(())
}

/// An object that was asked for.
enum Found {
    /// It is here, and these of its bytes are wanted; all of them, if this is `None`.
    Here {
        path: ObjectPath,
        object: Arc<dyn Object>,
        tree: Arc<Tree>,
        ranges: Option<Ranges>,
    },
    Refused(Refusal),
}

async fn get(send: &mut SendStream, wants: Parts<Want>, shared: &Arc<Shared>) -> Result<(), RequestError> {
    let started = Instant::now();
    let (first, count) = (wants.iter().next().map(|want| want.path.to_string()), wants.len());
    let progress = Arc::new(Progress::default());
    let finding: Vec<_> =
        wants.into_iter().map(|want| find(want, shared.clone(), progress.clone())).collect();
    let mut base = 0;
    let found = work(send, finding, &progress, &mut base).await?;

    let mut parts = Vec::new();
    let mut supplied = Vec::new();
    let mut objects = Vec::new();
    for found in found {
        parts.push(match found {
            Found::Here { path, object, tree, ranges } => {
                supplied.push(Supplied::new(path, &tree, ranges));
                objects.push(object);
                Part::Sent((*tree).clone())
            }
            Found::Refused(refusal) => Part::Refused(refusal),
        });
    }
    let head = encode(&Answer::Parts(Parts::new(parts).map_err(|_bad| RequestError::TooMuch)?))?;
    base += head.len() as u64;
    send.write_chunk(head).await?;
    let object = first.unwrap_or_default();
    let Ok(supplied) = Parts::new(supplied) else {
        tracing::info!(object, count, "refused");
        finish(send);
        return Ok(());
    };
    let supply = Supply::new(base, supplied).ok_or(RequestError::TooMuch)?;
    let end = supply.layout().end();
    if end == base {
        finish(send);
        return Ok(());
    }
    let options = match supply.encode() {
        Some(payload) => DistributeOptions::new(payload),
        // Mirrors cannot be told what it is.
        None => DistributeOptions::new("").only([PathId::PRIMARY]),
    };
    let options = options.offset(base).digests(Digests::Always).reset_code(codes::NO_SOURCE);
    let data = Data::new(supply.layout().clone(), objects);
    let report = send.distribute(data, end, options).await?;
    tell(&report, &object, count, end - base, started);
    for (path, share) in &report.paths {
        if *path == PathId::PRIMARY {
            shared.metrics.on_sent(share.bytes);
        } else {
            shared.metrics.on_sent_by_mirrors(share.bytes);
        }
    }
    Ok(())
}

fn tell(report: &Report, object: &str, count: usize, bytes: u64, started: Instant) {
    let shares: Vec<_> =
        report.paths.iter().map(|(path, share)| format!("{path}: {}", share.bytes)).collect();
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(object, count, bytes, seconds, shares = shares.join(", "), "sent");
}

/// The end of a stream whose reader may be gone: then nobody waits for it.
fn finish(send: &mut SendStream) {
    let _closed = send.finish();
}

/// Work of hashing, as far as it is done.
#[derive(Debug, Default)]
struct Progress {
    hashed: Hashed,
    total: AtomicU64,
}

/// Opens an object and computes its digests, where that may block.
fn find(want: Want, shared: Arc<Shared>, progress: Arc<Progress>) -> JoinHandle<Found> {
    let span = Span::current();
    task::spawn_blocking(move || {
        let _inside = span.enter();
        let path = want.path;
        let refuse = |error: StoreError| {
            tracing::info!(object = %path, %error, "not given");
            Found::Refused(error.refusal())
        };
        let object = match shared.store.open(&path) {
            Ok(object) => object,
            Err(error) => return refuse(error),
        };
        progress.total.fetch_add(object.len(), Ordering::Relaxed);
        let tree = match shared.trees.of(&path, &*object, &progress.hashed) {
            Ok(tree) => tree,
            Err(error) => return refuse(StoreError::Unreadable(error)),
        };
        let ranges = match want.wanted {
            Wanted::Tree => Some(Ranges::default()),
            Wanted::Whole => None,
            Wanted::Rest { version, .. } if version != tree.version() => {
                return Found::Refused(Refusal::new(Code::Changed, ""));
            }
            Wanted::Rest { ranges, .. } if ranges.end() > tree.len() => {
                return Found::Refused(Refusal::new(Code::Malformed, "a range beyond the object's end"));
            }
            Wanted::Rest { ranges, .. } => Some(ranges),
        };
        Found::Here { path, object, tree, ranges }
    })
}

/// Waits for all of it, and tells the client how far it is. `base` counts the bytes of that.
async fn work(
    send: &mut SendStream,
    finding: Vec<JoinHandle<Found>>,
    progress: &Progress,
    base: &mut u64,
) -> Result<Vec<Found>, RequestError> {
    let mut found = Vec::with_capacity(finding.len());
    let mut words = time::interval_at(time::Instant::now() + WORKING_EVERY, WORKING_EVERY);
    for mut one in finding {
        loop {
            tokio::select! {
                done = &mut one => {
                    found.push(done?);
                    break;
                }
                _ = words.tick() => {
                    let (done, total) = (progress.hashed.get(), progress.total.load(Ordering::Relaxed));
                    let word = encode(&Answer::Working { done, total })?;
                    *base += word.len() as u64;
                    send.write_chunk(word).await?;
                }
            }
        }
    }
    Ok(found)
}
