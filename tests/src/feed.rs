//! An honest primary's and an honest client's application: one hands an object out range by range, the other reads it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kwik_tokio::{
    ByteRange, ConnectionError, ErrorCode, Job, LeaseError, LeaseOutcome, NewJob, PathId, RangeWriteError,
    Ranges, ReadError, RecvStream, SendStream,
};
use tokio::task::JoinSet;

use crate::{
    object::{Object, Receipt},
    world::pieces,
};

/// Plan for handing out an object.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The object.
    pub object: Object,
    /// Size of the object in bytes.
    pub size: u64,
    /// Bytes that the stream itself carries at its start.
    pub head: u64,
    /// Length of a lease in bytes.
    pub piece: u64,
    /// Paths that get leases.
    pub paths: Vec<PathId>,
    /// Set if the primary sends pieces itself, too. It does anyway when no path is left.
    pub own: bool,
}

/// Result of handing out an object.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Leases done, by path; the primary's own runs under its path.
    pub done: BTreeMap<PathId, u64>,
    /// Leases that were lost.
    pub lost: Vec<(PathId, ErrorCode, Vec<ByteRange>)>,
}

/// Leases of one path at once.
const LEASES_AT_ONCE: usize = 2;
/// Time for which a path that went silent gets no lease.
const REST: Duration = Duration::from_millis(50);

/// Hands out an object over a stream until the client has all of it, giving what is lost to somebody else.
///
/// # Errors
/// - [`ConnectionError`] if the session ends first.
pub async fn distribute(mut stream: SendStream, plan: Plan) -> Result<Report, ConnectionError> {
    if let Some(head) = ByteRange::between(0, plan.head) {
        // A lost session shows below.
        let _lost = stream.write_all(&plan.object.bytes(head)).await;
    }
    let whole = ByteRange::between(plan.head, plan.size);
    let mut feeder = Feeder { ranges: stream.ranges(), tasks: JoinSet::new(), report: Report::default() };
    let mut sources: BTreeMap<PathId, Source> = BTreeMap::new();
    for &path in &plan.paths {
        let job = whole.map(|whole| NewJob::new(path, whole, plan.object.payload()).total(1 << 40));
        if let Some(Ok(job)) = job.map(|job| feeder.ranges.open_job(job)) {
            sources.insert(path, Source { job, busy: 0 });
        }
    }
    let mut todo: VecDeque<ByteRange> = cut(plan.head, plan.size, plan.piece);
    let mut own_busy = 0;
    loop {
        while let Some(range) = todo.pop_front() {
            let own_max = if plan.own || sources.is_empty() { LEASES_AT_ONCE } else { 0 };
            let idlest = sources.iter_mut().filter(|(_, source)| source.busy < LEASES_AT_ONCE);
            let idlest = idlest.min_by_key(|(_, source)| source.busy);
            let given = match idlest {
                Some((&path, source)) if own_busy >= own_max || source.busy <= own_busy => {
                    source.busy += 1;
                    feeder.lease(path, source, range)
                }
                _ if own_busy < own_max => {
                    own_busy += 1;
                    feeder.write(plan.object, range)
                }
                _ => Err(None),
            };
            match given {
                Ok(()) => {}
                Err(None) => {
                    todo.push_front(range);
                    break;
                }
                Err(Some(path)) => {
                    sources.remove(&path); // dead, or silent for now: others do its work
                    todo.push_front(range);
                }
            }
        }
        let Some(ended) = feeder.tasks.join_next().await else {
            break;
        };
        let (path, outcome) = ended.expect("no task panics");
        match sources.get_mut(&path) {
            Some(source) => source.busy -= 1,
            None if path == PathId::PRIMARY => own_busy -= 1,
            None => {}
        }
        match outcome? {
            LeaseOutcome::Done => *feeder.report.done.entry(path).or_default() += 1,
            LeaseOutcome::Lost { code, missing } => {
                todo.extend(missing.iter().copied());
                feeder.report.lost.push((path, code, missing));
            }
            other => panic!("an outcome not known here: {other:?}"),
        }
    }
    assert!(todo.is_empty(), "nobody is left for {todo:?}");
    // It fails if the client has stopped the stream.
    let _stopped = stream.finish();
    if let Err(kwik_tokio::StoppedError::ConnectionLost(error)) = stream.stopped().await {
        return Err(error);
    }
    Ok(feeder.report)
}

/// A path that takes leases.
struct Source {
    job: Job,
    busy: usize,
}

struct Feeder {
    ranges: Ranges,
    tasks: JoinSet<(PathId, Result<LeaseOutcome, ConnectionError>)>,
    report: Report,
}

impl Feeder {
    /// Leases a range. The error names the path if it can have no more.
    fn lease(&mut self, path: PathId, source: &Source, range: ByteRange) -> Result<(), Option<PathId>> {
        let mut lease = match source.job.lease(range) {
            Ok(lease) => lease,
            Err(LeaseError::PathDead | LeaseError::PathSilent | LeaseError::JobClosed) => {
                return Err(Some(path));
            }
            Err(LeaseError::SessionClosed) => {
                self.tasks.spawn(async move { (path, Err(ConnectionError::LocallyClosed)) });
                return Ok(());
            }
            Err(error) => panic!("lease of {range} refused: {error}"),
        };
        self.tasks.spawn(async move {
            let outcome = lease.outcome().await;
            if !matches!(outcome, Ok(LeaseOutcome::Done)) {
                tokio::time::sleep(REST).await;
            }
            (path, outcome)
        });
        Ok(())
    }

    /// Writes a range itself.
    fn write(&mut self, object: Object, range: ByteRange) -> Result<(), Option<PathId>> {
        let mut writer = match self.ranges.write_at(range) {
            Ok(writer) => writer,
            Err(LeaseError::SessionClosed) => {
                self.tasks.spawn(async { (PathId::PRIMARY, Err(ConnectionError::LocallyClosed)) });
                return Ok(());
            }
            Err(error) => panic!("run of {range} refused: {error}"),
        };
        self.tasks.spawn(async move {
            let written = async {
                for piece in pieces(range.start(), range.end()) {
                    let mut chunk = [object.bytes(piece)];
                    loop {
                        match writer.write_all_chunks(&mut chunk).await {
                            // It was lost, and goes out as soon as somebody has room.
                            Err(RangeWriteError::Behind(_)) => tokio::time::sleep(REST).await,
                            written => break written?,
                        }
                    }
                }
                writer.finish().await
            };
            let outcome = match written.await {
                Ok(outcome) => Ok(outcome),
                Err(RangeWriteError::ConnectionLost(error)) => Err(error),
                Err(error) => panic!("own run of {range}: {error}"),
            };
            (PathId::PRIMARY, outcome)
        });
        Ok(())
    }
}

/// Cuts a range into pieces of `piece` bytes.
fn cut(start: u64, end: u64, piece: u64) -> VecDeque<ByteRange> {
    let step = usize::try_from(piece).expect("a piece that fits memory");
    (start..end).step_by(step).filter_map(|at| ByteRange::between(at, end.min(at + piece))).collect()
}

/// Reads a stream to its end and checks every byte. Returns how many there were.
///
/// # Errors
/// - [`ReadError`] as the stream ends with it.
pub async fn receive(recv: &mut RecvStream, object: Object, ordered: bool) -> Result<u64, ReadError> {
    let mut receipt = Receipt::new(object);
    receive_into(recv, &mut receipt, ordered).await?;
    let size = receipt.received();
    receipt.expect_complete(size);
    Ok(size)
}

/// Reads a stream to its end, one chunk after another, into a receipt.
///
/// # Errors
/// - [`ReadError`] as the stream ends with it.
pub async fn receive_into(
    recv: &mut RecvStream,
    receipt: &mut Receipt,
    ordered: bool,
) -> Result<(), ReadError> {
    while let Some(chunk) = recv.read_chunk(usize::MAX, ordered).await? {
        if ordered {
            assert_eq!(chunk.offset, receipt.received(), "an ordered read out of order");
        }
        receipt.add(chunk.offset, &chunk.bytes);
    }
    Ok(())
}
