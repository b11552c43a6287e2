//! `-o -`: bytes in order to standard output, none before its leaf is verified.

use std::{
    io::{self, Write as _},
    mem,
};

use kwik_tokio::{Chunk, RecvStream};
use tokio::sync::mpsc;

use super::{
    ask::{self, Reply},
    checksum::{Checksum, Running},
    fetch::{Fetcher, blocking},
    show::Event,
};
use crate::{
    failure::{Cause, Failure},
    protocol::{LeafHasher, ObjectPath, Part, Tree, Want, Wanted},
};

/// Bytes handed to the thread that writes at once.
const BATCH: usize = 256 * 1024;
/// Batches that may wait for whoever reads the pipe.
const BATCHES: usize = 4;

impl Fetcher {
    /// Writes an object to standard output.
    pub(super) async fn pipe(&self, path: ObjectPath) -> Result<(), Failure> {
        let want = Want { path: path.clone(), wanted: Wanted::Whole };
        let Reply { parts, layout, stream } = ask::get(&self.connection, vec![want]).await?;
        let tree = match parts.into_iter().next() {
            Some(Part::Sent(tree)) => tree,
            Some(Part::Refused(refusal)) => return Err(ask::refused(&refusal, Some(&path))),
            None => return Err(Failure::run("the server answers for nothing")),
        };
        if let Some(checksum) = &self.checksum {
            checksum.check_version(&path, tree.version())?;
        }
        self.board.plan(1, tree.len());
        let (batches, incoming) = mpsc::channel(BATCHES);
        let out = Out {
            tree: tree.clone(),
            path: path.clone(),
            at: 0,
            leaf: Vec::new(),
            sum: self.checksum.clone().map(|checksum| (checksum, Running::new())),
        };
        let board = self.board.clone();
        let writing = tokio::spawn(blocking(move || out.run(incoming, |bytes| board.verified(bytes))));
        let read = self.read_in_order(stream, layout.base(), batches).await;
        let written = writing.await.map_err(|error| Failure::run(format!("a thread failed: {error}")))?;
        // If both failed, what came first is why.
        match (read, written) {
            (Err(failure), Ok(_)) => Err(failure),
            (_, Err(failure)) => Err(failure),
            (Ok(()), Ok(written)) if written == tree.len() => {
                self.board.object_done(Event::object(&path, None, tree.len(), tree.len(), tree.version()));
                Ok(())
            }
            (Ok(()), Ok(written)) => Err(Failure::new(
                Cause::NoSource,
                format!("the server ended {} bytes before the object's end", tree.len() - written),
            )),
        }
    }

    async fn read_in_order(
        &self,
        mut stream: RecvStream,
        base: u64,
        batches: mpsc::Sender<Vec<Chunk>>,
    ) -> Result<(), Failure> {
        let (mut batch, mut batched) = (Vec::new(), 0);
        loop {
            let chunk = stream.read_chunk(BATCH, true).await.map_err(|error| ask::broken(&error))?;
            let ended = chunk.is_none();
            if let Some(chunk) = chunk {
                self.pace.take(chunk.bytes.len()).await;
                batched += chunk.bytes.len();
                batch.push(chunk);
            }
            if batched >= BATCH || ended {
                self.board.came(&batch, base, 0);
                batched = 0;
                if batches.send(mem::take(&mut batch)).await.is_err() {
                    return Ok(()); // whoever writes says why
                }
            }
            if ended {
                return Ok(());
            }
        }
    }
}

/// The thread that verifies and writes.
struct Out {
    tree: Tree,
    path: ObjectPath,
    /// Bytes written.
    at: u64,
    /// Those of the next leaf, as far as they are here.
    leaf: Vec<u8>,
    sum: Option<(Checksum, Running)>,
}

impl Out {
    /// Writes what comes; `verified` is told of each leaf. Returns the number of bytes written.
    fn run(
        mut self,
        mut incoming: mpsc::Receiver<Vec<Chunk>>,
        verified: impl Fn(u64),
    ) -> Result<u64, Failure> {
        let mut stdout = io::stdout().lock();
        while let Some(batch) = incoming.blocking_recv() {
            for chunk in batch {
                let mut bytes: &[u8] = &chunk.bytes;
                while let Some((leaf, digest)) = self.tree.leaf_at(self.at).filter(|_| !bytes.is_empty()) {
                    let len = usize::try_from(leaf.len()).unwrap_or(usize::MAX);
                    let room = len - self.leaf.len().min(len);
                    let (now, later) = bytes.split_at(room.min(bytes.len()));
                    self.leaf.extend_from_slice(now);
                    bytes = later;
                    if self.leaf.len() == len {
                        self.write(&mut stdout, leaf.start(), digest)?;
                        verified(leaf.len());
                    }
                }
                if !bytes.is_empty() {
                    return Err(Failure::run("the server sends more bytes than it announced"));
                }
            }
        }
        stdout.flush().map_err(unwritten)?;
        if let Some((checksum, running)) = self.sum.take().filter(|_| self.at == self.tree.len()) {
            checksum.check_running(&self.path, running)?;
        }
        Ok(self.at)
    }

    fn write(&mut self, stdout: &mut impl io::Write, start: u64, digest: [u8; 32]) -> Result<(), Failure> {
        let mut hasher = LeafHasher::new(self.tree.len(), start);
        hasher.update(&self.leaf);
        if hasher.finish() != digest {
            return Err(Failure::new(
                Cause::Digest,
                format!("{}: the bytes from {start} on do not have their digest", self.path),
            )
            .remedy("what was written before them is right"));
        }
        if let Some((_, running)) = &mut self.sum {
            running.update(&self.leaf);
        }
        stdout.write_all(&self.leaf).map_err(unwritten)?;
        self.at += self.leaf.len() as u64;
        self.leaf.clear();
        Ok(())
    }
}

fn unwritten(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::run("standard output was closed before the object's end");
    }
    Failure::io("cannot write to standard output", &error)
}
