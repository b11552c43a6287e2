//! Destination of the client's bytes: a file that gets its final name only once it is verified.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use blake3::Hash;
use kwik_tokio::Chunk;
use tempfile::{Builder, NamedTempFile};
use tokio::{
    sync::mpsc,
    task::{self, JoinHandle},
};

use super::{gather::Gather, source};
use crate::{failure::Failure, positioned};

/// Batches of chunks that may wait for the disk.
const BATCHES: usize = 4;

/// The file being written.
#[derive(Debug)]
pub(super) struct Output {
    file: Arc<File>,
    /// The same file under its temporary name, and its final one. Without: it has no name and vanishes when closed.
    named: Option<(NamedTempFile, PathBuf)>,
}

impl Output {
    /// Makes a file beside `out`, or one without a name in the system's folder for temporary files.
    pub(super) fn create(out: Option<&Path>) -> Result<Self, Failure> {
        let Some(out) = out else {
            let file = tempfile::tempfile().map_err(|error| {
                Failure::input(format!("cannot write in {}: {error}", std::env::temp_dir().display()))
            })?;
            return Ok(Self { file: Arc::new(file), named: None });
        };
        let fail =
            |why: &dyn std::fmt::Display| Failure::input(format!("cannot write {}: {why}", out.display()));
        let target = target(out).map_err(|why| fail(&why))?;
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = Builder::new();
        builder.prefix(".kwik-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any file
        let named = builder.tempfile_in(folder).map_err(|error| {
            // The library adds the temporary name, which says nothing to the user.
            let text = error.to_string();
            fail(&text.split_once(" at path ").map_or(text.as_str(), |(why, _)| why))
        })?;
        let file = named.as_file().try_clone().map_err(|error| fail(&error))?;
        Ok(Self { file: Arc::new(file), named: Some((named, target)) })
    }

    /// Starts a thread that writes what it is sent, wherever it belongs.
    pub(super) fn writer(&self) -> Writer {
        let (batches, mut receiver) = mpsc::channel::<Vec<Chunk>>(BATCHES);
        let file = self.file.clone();
        let thread = task::spawn_blocking(move || {
            let mut gather = Gather::new(|offset, bytes: &[u8]| positioned::write_all(&file, bytes, offset));
            while let Some(batch) = receiver.blocking_recv() {
                for chunk in batch {
                    gather.push(chunk.offset, &chunk.bytes)?;
                }
            }
            gather.finish()
        });
        Writer { batches, thread }
    }

    /// Returns what hashes the file.
    pub(super) fn reader(&self) -> Reader {
        Reader(self.file.clone())
    }

    /// Gives the file its final name, if it has one, in place of what was there.
    pub(super) fn keep(self) -> Result<Option<PathBuf>, Failure> {
        let Some((named, target)) = self.named else {
            return Ok(None);
        };
        match named.persist(&target) {
            Ok(_) => Ok(Some(target)),
            Err(error) => Err(Failure::run(format!("cannot write {}: {}", target.display(), error.error))),
        }
    }
}

/// Reads the file back.
#[derive(Debug)]
pub(super) struct Reader(Arc<File>);

impl Reader {
    /// Hashes the file; `None` if it is not `size` bytes long.
    pub(super) fn hash(&self, size: u64) -> io::Result<Option<Hash>> {
        if self.0.metadata()?.len() != size {
            return Ok(None);
        }
        source::hash(size, |offset, buf| positioned::read_exact(&self.0, buf, offset)).map(Some)
    }
}

/// Finds what a path names for writing: a file to be, or a file that may be replaced.
fn target(out: &Path) -> Result<PathBuf, String> {
    match out.metadata() {
        Ok(metadata) if metadata.is_dir() => Err("it is a directory".into()),
        // A device, pipe or socket would be replaced by a file, not written to.
        Ok(metadata) if !metadata.is_file() => Err("it is not a regular file".into()),
        // Behind links, so that they stay.
        Ok(_) => fs::canonicalize(out).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if out.file_name().is_none()
                || out.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR])
            {
                return Err("it names no file".into());
            }
            Ok(out.to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The way to the thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    batches: mpsc::Sender<Vec<Chunk>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writer {
    /// Hands over chunks, once there is room. Returns whether the thread still takes them; if not,
    /// [`Self::finish`] says why.
    pub(super) async fn write(&self, batch: Vec<Chunk>) -> bool {
        self.batches.send(batch).await.is_ok()
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.batches);
        let written = self.thread.await.map_err(io::Error::other).and_then(|written| written);
        written.map_err(|error| Failure::run(format!("cannot write the received bytes: {error}")))
    }
}
