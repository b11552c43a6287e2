//! Fetches objects: asks for what is missing of each until nothing is, and gives them their names.

use std::{fs, io, path::PathBuf, sync::Arc};

use kwik_tokio::{ByteRange, Chunk, Connection};
use tokio::{
    sync::mpsc,
    task::{self, JoinHandle},
};

use super::{
    ask::{self, Reply},
    board::Board,
    partial::{Names, Note, Partial},
    show::Event,
    sink::{Sink, is_object},
};
use crate::{
    failure::{Cause, Failure},
    pace::Pace,
    protocol::{Code, Layout, ObjectPath, Part, Ranges, Refusal, Tree, Want, Wanted},
};

/// Bytes handed to the thread that writes at once.
const BATCH: usize = 256 * 1024;
/// Batches that may wait for it.
const BATCHES: usize = 8;
/// Times that an object is asked for again though nothing of it was right the last time.
const VAIN_MAX: usize = 2;
/// Times that an object may become another before that is an error.
const CHANGES_MAX: usize = 1;
/// Shorter objects are not noted, and not forced to the disk before they get their names: there may be thousands.
const NOTED_FROM: u64 = 1024 * 1024 + 1;

/// State of fetching that all requests of a session share.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    pub(super) connection: Connection,
    pub(super) board: Arc<Board>,
    pub(super) pace: Arc<Pace>,
    /// Address of the objects, for people who read a note.
    pub(super) server: String,
    /// Held by every thread that writes: when the last is gone, all is saved.
    pub(super) saving: mpsc::Sender<()>,
    pub(super) checksum: Option<super::Checksum>,
}

/// An object to fetch, and where to.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) path: ObjectPath,
    pub(super) names: Names,
    /// Length as the listing says, and nothing if there was none: what the total counts for it.
    pub(super) counted: u64,
    /// A file of that name may be replaced.
    pub(super) replace: bool,
    /// The note that an earlier attempt has left.
    pub(super) note: Option<Note>,
}

/// An object on its way.
struct Job {
    goal: Goal,
    sink: Option<Sink>,
    /// The next request; `None` if it is complete.
    wanted: Option<Wanted>,
    resumed: u64,
    verified: u64,
    vain: usize,
    changes: usize,
}

impl Fetcher {
    /// Fetches some objects with as few requests as it takes.
    pub(super) async fn fetch(&self, goals: Vec<Goal>) -> Result<(), Failure> {
        let job = |goal: Goal| Job {
            wanted: Some(goal.note.as_ref().map_or(Wanted::Whole, wanted_of)),
            goal,
            sink: None,
            resumed: 0,
            verified: 0,
            vain: 0,
            changes: 0,
        };
        let mut jobs: Vec<Job> = goals.into_iter().map(job).collect();
        while !jobs.is_empty() {
            jobs = self.round(jobs).await?;
        }
        Ok(())
    }

    /// Asks once for what is missing of each. Returns the objects of which something still is.
    async fn round(&self, mut jobs: Vec<Job>) -> Result<Vec<Job>, Failure> {
        let want = |job: &Job| {
            let wanted = job.wanted.clone().unwrap_or(Wanted::Tree);
            Want { path: job.goal.path.clone(), wanted }
        };
        let reply = ask::get(&self.connection, jobs.iter().map(want).collect()).await?;
        let Reply { parts, layout, stream } = reply;
        for (job, part) in jobs.iter_mut().zip(parts) {
            match part {
                Part::Sent(tree) => self.begin(job, tree)?,
                Part::Refused(refusal) if refusal.code == Code::Changed => self.start_over(job, &refusal)?,
                Part::Refused(refusal) => return Err(ask::refused(&refusal, Some(&job.goal.path))),
            }
        }
        let layout = Arc::new(layout);
        let (writer, batches) = Writer::start(self, jobs, layout.clone());
        let read = self.read(stream, &layout, batches).await;
        let (jobs, written) = writer.finish().await?;
        let changed = match (written, read) {
            (Err(failure), _) => return Err(failure),
            (Ok(()), Err(failure)) if failure.cause() != Cause::Changed => return Err(failure),
            (Ok(()), read) => read.is_err(),
        };
        let mut left = Vec::new();
        for mut job in jobs {
            if changed && job.sink.as_ref().is_some_and(|sink| !sink.is_complete()) {
                self.start_over(&mut job, &Refusal::new(Code::Changed, ""))?;
            }
            left.extend(self.settle(job).await?);
        }
        Ok(left)
    }

    /// The digests of an object are known: makes its file, or goes on with it.
    fn begin(&self, job: &mut Job, tree: Tree) -> Result<(), Failure> {
        if job.sink.is_some() {
            return Ok(());
        }
        if let Some(checksum) = &self.checksum {
            checksum.check_version(&job.goal.path, tree.version())?;
        }
        self.board.correct(job.goal.counted, tree.len());
        job.goal.counted = tree.len();
        let note = job.goal.note.take();
        let keep = note.is_some();
        let partial = Partial::open(job.goal.names.clone(), tree.len(), keep, job.goal.replace)?;
        let from = format!("{}/{}", self.server, job.goal.path);
        let mut sink = Sink::new(partial, tree, from);
        if let Some(verified) = note.and_then(|note| note.verified()) {
            job.resumed = sink.resume(&verified).map_err(|error| read_back(&job.goal.names, &error))?;
            self.board.resumed(job.resumed);
        }
        job.sink = Some(sink);
        Ok(())
    }

    /// An object is not what it was: what there is of it is of no use.
    fn start_over(&self, job: &mut Job, refusal: &Refusal) -> Result<(), Failure> {
        job.changes += 1;
        if job.changes > CHANGES_MAX {
            return Err(ask::refused(refusal, Some(&job.goal.path)));
        }
        self.board.tell(Event::note(format!("{} has changed on the server: starting over", job.goal.path)));
        self.board.forget(job.resumed + job.verified);
        (job.resumed, job.verified) = (0, 0);
        (job.sink, job.goal.note) = (None, None);
        job.goal.names.discard();
        job.wanted = Some(Wanted::Whole);
        Ok(())
    }

    /// Reads the data and hands them to the thread that writes, which is not waited for longer than its queue is long.
    async fn read(
        &self,
        mut stream: kwik_tokio::RecvStream,
        layout: &Layout,
        batches: mpsc::Sender<Vec<Chunk>>,
    ) -> Result<(), Failure> {
        let place = self.board.lay_out(layout.end() - layout.base());
        let (mut batch, mut batched) = (Vec::new(), 0);
        let mut left = layout.end() - layout.base();
        loop {
            let read = stream.read_chunk(BATCH, false).await;
            let ended = match read {
                Ok(Some(chunk)) => {
                    let len = chunk.bytes.len();
                    left = left.checked_sub(len as u64).ok_or_else(|| {
                        Failure::run("the server does not follow the protocol: more bytes than it announced")
                    })?;
                    self.pace.take(len).await;
                    batched += len;
                    batch.push(chunk);
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(error) => Some(Err(ask::broken(&error))),
            };
            if batched >= BATCH || left == 0 || ended.is_some() {
                self.board.came(&batch, layout.base(), place);
                batched = 0;
                if batches.send(std::mem::take(&mut batch)).await.is_err() {
                    return Ok(()); // whoever writes says why
                }
            }
            if let Some(ended) = ended {
                return match ended {
                    Ok(()) if left > 0 => Err(Failure::new(
                        Cause::NoSource,
                        format!("the server ended {left} bytes before the end of what it announced"),
                    )),
                    ended => ended,
                };
            }
        }
    }

    /// All that was asked for has come. Gives a complete object its name; returns one that is not.
    async fn settle(&self, mut job: Job) -> Result<Option<Job>, Failure> {
        let Some(mut sink) = job.sink.take() else {
            return Ok(Some(job)); // it starts over
        };
        let rest = sink.rest();
        if rest.missing.is_empty() {
            self.finish(job, sink).await?;
            return Ok(None);
        }
        if rest.wrong > 0 {
            self.board.tell(Event::note(format!(
                "{}: {} pieces had another digest than they should; asking for them again",
                job.goal.path, rest.wrong
            )));
            job.vain += 1;
            if job.vain > VAIN_MAX {
                return Err(Failure::new(
                    Cause::Digest,
                    format!(
                        "{}: the bytes that come do not have the digests that the primary names",
                        job.goal.path
                    ),
                )
                .remedy("the object may be damaged on a server"));
            }
        }
        let (ranges, _asked) = Ranges::first(&rest.missing);
        job.wanted = Some(Wanted::Rest { version: sink.tree().version(), ranges });
        job.sink = Some(sink);
        Ok(Some(job))
    }

    async fn finish(&self, job: Job, sink: Sink) -> Result<(), Failure> {
        let tree = sink.tree().clone();
        let partial = sink.into_partial();
        let checksum = self.checksum.clone();
        let path = job.goal.path.clone();
        let saving = self.saving.clone();
        blocking(move || {
            let _saving = saving;
            if let Some(checksum) = checksum {
                checksum.check_file(&path, partial.file(), tree.len())?;
            }
            partial.finish(tree.len() >= NOTED_FROM)?;
            Ok(tree)
        })
        .await
        .map(|tree| {
            let Job { goal, resumed, .. } = job;
            let (len, version) = (tree.len(), tree.version());
            self.board.object_done(Event::object(
                &goal.path,
                Some(&goal.names.target),
                len,
                len - resumed,
                version,
            ));
        })
    }

    /// Says which of these files are the objects already; their numbers.
    pub(super) async fn compare(
        &self,
        files: Vec<(ObjectPath, PathBuf)>,
    ) -> Result<Vec<(usize, u64)>, Failure> {
        let wants = files.iter().map(|(path, _)| Want { path: path.clone(), wanted: Wanted::Tree }).collect();
        let reply = ask::get(&self.connection, wants).await?;
        let board = self.board.clone();
        blocking(move || {
            let mut same = Vec::new();
            for (number, ((path, file), part)) in files.into_iter().zip(reply.parts).enumerate() {
                let Part::Sent(tree) = part else {
                    continue; // asked for, it is refused again
                };
                let failed =
                    |error: io::Error| Failure::io(format_args!("cannot read {}", file.display()), &error);
                if is_object(&fs::File::open(&file).map_err(failed)?, &tree).map_err(failed)? {
                    board.resumed(tree.len());
                    board.object_done(Event::object(&path, Some(&file), tree.len(), 0, tree.version()));
                    same.push((number, tree.len()));
                }
            }
            Ok(same)
        })
        .await
    }
}

fn wanted_of(note: &Note) -> Wanted {
    match note.missing() {
        Some(ranges) => Wanted::Rest { version: note.version, ranges },
        // All was there when it was broken off: the digests are needed still.
        None => Wanted::Rest { version: note.version, ranges: Ranges::default() },
    }
}

fn read_back(names: &Names, error: &io::Error) -> Failure {
    Failure::io(format_args!("cannot read {}", names.partial.display()), error)
}

/// The thread that verifies and writes.
struct Writer {
    thread: JoinHandle<(Vec<Job>, Result<(), Failure>)>,
}

impl Writer {
    /// Starts it, and returns where it takes pieces from.
    fn start(fetcher: &Fetcher, mut jobs: Vec<Job>, layout: Arc<Layout>) -> (Self, mpsc::Sender<Vec<Chunk>>) {
        let (batches, mut incoming) = mpsc::channel::<Vec<Chunk>>(BATCHES);
        let (board, saving) = (fetcher.board.clone(), fetcher.saving.clone());
        let thread = task::spawn_blocking(move || {
            let _saving = saving;
            let written = (|| {
                while let Some(batch) = incoming.blocking_recv() {
                    write(&mut jobs, &layout, &board, &batch)?;
                    note(&mut jobs, false)?;
                }
                // Also when everything is broken off: then nobody waits for this thread but whoever saves.
                note(&mut jobs, true)
            })();
            (jobs, written)
        });
        (Self { thread }, batches)
    }

    async fn finish(self) -> Result<(Vec<Job>, Result<(), Failure>), Failure> {
        self.thread.await.map_err(|error| Failure::run(format!("a thread failed: {error}")))
    }
}

fn write(jobs: &mut [Job], layout: &Layout, board: &Board, batch: &[Chunk]) -> Result<(), Failure> {
    for chunk in batch {
        let Some(range) = ByteRange::new(chunk.offset, chunk.bytes.len() as u64) else {
            continue;
        };
        for place in layout.places(range) {
            let from = usize::try_from(place.at - chunk.offset).unwrap_or(usize::MAX);
            let len = usize::try_from(place.range.len()).unwrap_or(usize::MAX);
            let bytes: &[u8] = chunk.bytes.get(from..from.saturating_add(len)).unwrap_or_default();
            let Some(job) = jobs.get_mut(place.part) else {
                continue;
            };
            let Some(sink) = &mut job.sink else {
                continue;
            };
            let verified =
                sink.take(place.range.start(), bytes).map_err(|error| unwritten(&job.goal.names, &error))?;
            job.verified += verified;
            board.verified(verified);
        }
    }
    Ok(())
}

/// Notes what is there of objects that are long enough.
fn note(jobs: &mut [Job], now: bool) -> Result<(), Failure> {
    for Job { goal, sink, .. } in jobs {
        if let Some(sink) =
            sink.as_mut().filter(|sink| sink.tree().len() >= NOTED_FROM && !sink.is_complete())
        {
            sink.note(now).map_err(|error| unwritten(&goal.names, &error))?;
        }
    }
    Ok(())
}

fn unwritten(names: &Names, error: &io::Error) -> Failure {
    let failure = Failure::io(format_args!("cannot write {}", names.partial.display()), error);
    if failure.cause() == Cause::DiskFull {
        return failure.remedy("make room, and the same command goes on");
    }
    failure
}

/// Does work that waits for the disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    task::spawn_blocking(work).await.map_err(|error| Failure::run(format!("a thread failed: {error}")))?
}
