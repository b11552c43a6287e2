//! One session over loopback for a long time, through the handles that applications hold: streams of every kind by the
//! hundred thousand, one after another and many at once, ended in every way and let go of early.
//! `cargo run --release -p kwik-tests --bin soak`; [`kwik_tests::soak`] says how it is judged.
//!
//! Everything runs on one thread, whose heap is counted. How fast it is depends on the machine and on who else uses it:
//! `sim --profile soak` judges that better.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use kwik_tests::{
    object::Object,
    sim::heap,
    soak::{STRETCHES, Stretch, Tolerance, judge},
    world::World,
};
use kwik_tokio::{
    ByteRange, Connection, ErrorCode, Job, LeaseError, NewJob, PathId, PrimarySession, RecvStream, SendStream,
};
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Uses one session for very many streams and checks that the last cost what the first did.
#[derive(Clone, Copy, Debug, Parser)]
struct Args {
    /// About how many streams; a quarter of them has a lease.
    #[arg(long, default_value_t = 100_000)]
    streams: u64,
    /// Streams before those that are judged. quinn-proto keeps the receiving halves of ended streams for new ones, each with
    /// the room it once needed for pieces out of order: that grows until as many as are ever open at once have needed it.
    #[arg(long, default_value_t = 25_000)]
    warm_up: u64,
    /// Largest distance of a stretch's heap from that of the first ones, in parts per hundred.
    #[arg(long, default_value_t = 5)]
    heap: u32,
    /// Largest fall of the rate, in parts per hundred. That it rises says that the machine was busy before.
    #[arg(long, default_value_t = 5)]
    rate: u32,
}

/// Streams that are under way at once, in the second half of each stretch.
const AT_ONCE: u32 = 50;
/// Kinds of streams, in turn.
const KINDS: u64 = 20;
/// Time for which nothing may happen before a stream counts as stuck.
const STUCK: Duration = Duration::from_secs(60);
/// Time until nothing is under way any more, acknowledgements included.
const REST: Duration = Duration::from_millis(500);
/// The code that streams are given up with.
const GIVEN_UP: ErrorCode = ErrorCode::from_u32(77);
/// Bytes of a small stream, and of a large one.
const SMALL: u64 = 1000;
const LARGE: u64 = 200_000;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let runtime = Builder::new_current_thread().enable_all().build();
    let wrong = runtime.and_then(|runtime| runtime.block_on(soak(args, &mut out)));
    match wrong {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            let told = wrong.iter().try_for_each(|line| writeln!(out, "FAILED {line}"));
            drop(told);
            ExitCode::FAILURE
        }
        Err(error) => {
            let told = writeln!(io::stderr(), "soak: {error}");
            drop(told);
            ExitCode::from(2)
        }
    }
}

async fn soak(args: Args, out: &mut impl io::Write) -> io::Result<Vec<String>> {
    let world = World::serving(2);
    let (client, primary, paths) = world.connect_all().await;
    let ends = Arc::new(Ends { client, primary, paths, read: AtomicU64::new(0) });
    tokio::spawn(accept(ends.clone(), ends.client.clone()));
    tokio::spawn(accept(ends.clone(), Connection::clone(&ends.primary)));
    // Whole turns of all kinds in each half of each stretch, so that all stretches have the same work.
    let half = (args.streams / STRETCHES as u64 / 2).div_ceil(KINDS) * KINDS;
    let warm = stretch(&ends, (args.warm_up / 2).div_ceil(KINDS) * KINDS).await?;
    writeln!(out, "{warm}: the warm-up")?;
    let mut stretches = Vec::new();
    for _ in 0..STRETCHES {
        let stretch = stretch(&ends, half).await?;
        writeln!(out, "{stretch}")?;
        stretches.push(stretch);
    }
    writeln!(out, "{} streams were read to an end of their own", ends.read.load(Ordering::Relaxed))?;
    Ok(judge(&stretches, Tolerance { slower: args.rate, faster: u32::MAX, heap: args.heap }))
}

/// Runs so many streams one after another, and as many again several at once.
async fn stretch(ends: &Arc<Ends>, half: u64) -> io::Result<Stretch> {
    let begun = Instant::now();
    for index in 0..half {
        stuck("a stream", run(ends.clone(), index)).await?;
    }
    let gate = Arc::new(Semaphore::new(usize::try_from(AT_ONCE).unwrap_or(1)));
    let mut tasks = JoinSet::new();
    for index in 0..half {
        let room = stuck("room for one more stream", gate.clone().acquire_owned()).await?;
        let ends = ends.clone();
        tasks.spawn(async move {
            run(ends, index).await;
            drop(room);
        });
        while tasks.try_join_next().is_some() {}
    }
    while stuck("the last streams", tasks.join_next()).await?.is_some() {}
    let time = begun.elapsed();
    drop((tasks, gate));
    sleep(REST).await;
    let heap = vec![("all ends".to_owned(), heap::held())];
    Ok(Stretch { streams: half * 2, time, heap, ..Stretch::default() })
}

/// Waits for what must happen.
async fn stuck<T>(what: &str, future: impl Future<Output = T>) -> io::Result<T> {
    let ended = timeout(STUCK, future).await;
    ended.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("not within {STUCK:?}: {what}")))
}

/// The two ends of the session.
struct Ends {
    client: Connection,
    primary: PrimarySession,
    paths: Vec<PathId>,
    /// Streams read to their ends.
    read: AtomicU64,
}

/// Takes whatever the other end opens.
async fn accept(ends: Arc<Ends>, of: Connection) {
    let bi = {
        let (ends, of) = (ends.clone(), of.clone());
        async move {
            while let Ok((mut send, recv)) = of.accept_bi().await {
                let ends = ends.clone();
                tokio::spawn(async move {
                    read(&ends, recv).await;
                    // The peer may have stopped it, and every fourth is dropped as it is.
                    let written = send.write_all(&[7; 300]).await;
                    if written.is_ok() && send.id().into_inner() / 4 % 4 != 0 {
                        let _over = send.finish();
                    }
                });
            }
        }
    };
    let uni = async move {
        while let Ok(recv) = of.accept_uni().await {
            let ends = ends.clone();
            tokio::spawn(async move { read(&ends, recv).await });
        }
    };
    tokio::join!(bi, uni);
}

/// Reads a stream as its number says: to its end, in order or not; or stops it, or lets go of it, early.
async fn read(ends: &Ends, mut recv: RecvStream) {
    let index = recv.id().into_inner() / 4 / 3;
    let ordered = index.is_multiple_of(2);
    match index % 8 {
        3 => return,
        5 => {
            drop(recv.read_chunk(100, true).await);
            let _over = recv.stop(GIVEN_UP);
            return;
        }
        6 => {
            drop(recv.read_chunk(100, true).await);
            return;
        }
        _ => {}
    }
    loop {
        match recv.read_chunk(usize::MAX, ordered).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                ends.read.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(_) => return,
        }
    }
}

/// Runs one stream from its beginning to its end, of the kind that `index` says.
async fn run(ends: Arc<Ends>, index: u64) {
    let size = if index.is_multiple_of(3) { LARGE } else { SMALL };
    match index % KINDS {
        // What goes from client to primary and back.
        0 | 4 | 8 | 12 => {
            if let Ok((send, recv)) = ends.client.open_bi().await {
                tokio::join!(write(send, size, index), read(&ends, recv));
            }
        }
        2 | 6 | 14 => {
            if let Ok(send) = ends.client.open_uni().await {
                write(send, SMALL, index).await;
            }
        }
        1 | 5 | 9 | 13 => {
            if let Ok(send) = ends.primary.open_uni().await {
                write(send, size, index).await;
            }
        }
        10 | 18 => {
            if let Ok((send, recv)) = ends.primary.open_bi().await {
                tokio::join!(write(send, SMALL, index), read(&ends, recv));
            }
        }
        // Native streams that end without their last byte.
        16 => {
            if let Ok(mut send) = ends.primary.open_uni().await {
                drop(send.write_all(&[1; 500]).await);
                let _over = send.reset(GIVEN_UP);
            }
        }
        17 => {
            if let Ok(mut send) = ends.client.open_uni().await {
                drop(send.write_all(&[1; 500]).await);
                drop(send); // finished by that
            }
        }
        kind => {
            if let Ok(send) = ends.primary.open_uni().await {
                split(&ends, send, kind, index).await;
            }
        }
    }
}

/// Writes a native stream, and sees what becomes of it; or does not.
async fn write(mut send: SendStream, size: u64, index: u64) {
    let all = vec![1; usize::try_from(size).unwrap_or(0)];
    let written = send.write_all(&all).await;
    if index.is_multiple_of(2) || written.is_err() {
        return; // finished by that
    }
    let _over = send.finish();
    let _over = send.stopped().await;
}

/// Hands a stream out, and sees what becomes of it; or does not.
async fn split(ends: &Ends, mut send: SendStream, kind: u64, index: u64) {
    let size = if kind == 3 { LARGE } else { SMALL };
    let Some(range) = ByteRange::new(0, size) else {
        return;
    };
    let Some(job) = job(ends, &send, range, index).await else {
        return;
    };
    match kind {
        // A lease, seen to its end.
        3 | 7 => {
            if let Ok(mut lease) = job.lease(range) {
                drop(lease.outcome().await);
            }
            let _over = send.finish();
            let _over = send.stopped().await;
        }
        // A lease of which nobody knows how it ends.
        11 => {
            drop(job.lease(range));
            let _over = send.finish();
        }
        // One half given away and taken back, the other begun and let go of; then given up.
        15 => {
            let halves = (ByteRange::between(0, size / 2), ByteRange::between(size / 2, size));
            if let (Some(first), Some(second)) = halves {
                let lease = job.lease(first);
                if let Ok(mut own) = send.write_at(second) {
                    drop(own.write_all(&[1; 100]).await);
                }
                let _revoked = lease.map(|lease| lease.revoke());
            }
            let _over = send.reset(GIVEN_UP);
        }
        // Everything is let go of at once.
        _ => drop(job.lease(range)),
    }
}

/// Opens a job for one path or the other, as soon as there is room for one more stream.
async fn job(ends: &Ends, send: &SendStream, range: ByteRange, index: u64) -> Option<Job> {
    let path = *ends.paths.get(usize::try_from(index / KINDS).unwrap_or(0) % ends.paths.len())?;
    loop {
        match send.open_job(NewJob::new(path, range, Object(index).payload())) {
            Ok(job) => return Some(job),
            Err(LeaseError::LimitExceeded | LeaseError::NoCredit) => sleep(Duration::from_millis(1)).await,
            Err(_) => return None,
        }
    }
}
