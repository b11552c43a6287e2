//! Origin of the object's bytes: a file or a formula, read by offset and never held whole.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use blake3::{Hash, Hasher};
use bytes::Bytes;
use kwik_tokio::{ByteRange, ReadAt};
use tokio::{sync::mpsc, task};

use super::buffers::Buffers;
use crate::{failure::Failure, positioned};

/// Bytes read at a time on behalf of the network.
const CHUNK: u64 = 256 * 1024;
/// Chunks read ahead of the network, per range.
const AHEAD: usize = 2;
/// Bytes read at a time to hash.
const HASH_CHUNK: u64 = 1024 * 1024;

/// An object that can be read at any offset by many at once.
#[derive(Debug)]
pub(super) struct Source {
    size: u64,
    content: Content,
    buffers: Buffers,
}

#[derive(Debug)]
enum Content {
    File { file: File, path: PathBuf },
    Generated { seed: u64 },
}

impl Source {
    /// Opens a file. What is appended to it later is not part of the object.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let fail =
            |why: &dyn std::fmt::Display| Failure::input(format!("cannot read {}: {why}", path.display()));
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let metadata = path.metadata().map_err(|error| fail(&error))?;
        if metadata.is_dir() {
            return Err(fail(&"it is a directory"));
        }
        if !metadata.is_file() {
            return Err(fail(&"it is not a regular file"));
        }
        let file = File::open(path).map_err(|error| fail(&error))?;
        let size = file.metadata().map_err(|error| fail(&error))?.len();
        Ok(Self { size, content: Content::File { file, path: path.to_owned() }, buffers: Buffers::default() })
    }

    /// Makes up `size` bytes; the same seed gives the same bytes.
    pub(super) fn generated(seed: u64, size: u64) -> Self {
        Self { size, content: Content::Generated { seed }, buffers: Buffers::default() }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Names the object for error messages.
    pub(super) fn name(&self) -> String {
        match &self.content {
            Content::File { path, .. } => path.display().to_string(),
            Content::Generated { seed } => format!("the data generated from seed {seed}"),
        }
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// - [`io::ErrorKind::UnexpectedEof`] if the file has become shorter.
    /// - Whatever the operating system says.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.content {
            Content::File { file, .. } => positioned::read_exact(file, buf, offset).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    return io::Error::new(error.kind(), "the file has become shorter");
                }
                error
            }),
            Content::Generated { seed } => {
                generate(*seed, offset, buf);
                Ok(())
            }
        }
    }

    /// Reads `range` piece by piece on a thread of its own, a little ahead of the receiver. An error is the last item;
    /// dropping the receiver ends the reading.
    pub(super) fn pieces(self: &Arc<Self>, range: ByteRange) -> mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let source = self.clone();
        // Ends by itself: nobody waits for it.
        drop(task::spawn_blocking(move || {
            let mut offset = range.start();
            while offset < range.end() {
                let len = usize::try_from(CHUNK.min(range.end() - offset)).map_err(io::Error::other);
                let piece = len.and_then(|len| source.piece(offset, len));
                let failed = piece.is_err();
                offset += CHUNK;
                if pieces.blocking_send(piece).is_err() || failed {
                    break;
                }
            }
        }));
        receiver
    }

    /// Hashes the whole object.
    pub(super) fn hash(&self) -> io::Result<Hash> {
        hash(self.size, |offset, buf| self.read_at(offset, buf))
    }

    fn piece(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.buffers.fill(len, |buf| self.read_at(offset, buf))
    }
}

impl ReadAt for Source {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.piece(offset, len)
    }

    fn blocks(&self) -> bool {
        matches!(self.content, Content::File { .. })
    }
}

/// Hashes `size` bytes that `read_at` gives.
pub(super) fn hash(size: u64, read_at: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    let mut buf = vec![0; usize::try_from(HASH_CHUNK.min(size)).map_err(io::Error::other)?];
    let mut offset = 0;
    while offset < size {
        let len = usize::try_from(HASH_CHUNK.min(size - offset)).map_err(io::Error::other)?;
        let part = buf.get_mut(..len).unwrap_or_default();
        read_at(offset, part)?;
        hasher.update(part);
        offset += HASH_CHUNK;
    }
    Ok(hasher.finalize())
}

/// Bytes that the formula gives at once.
const WORD: u64 = 8;

/// Fills `buf` with the made-up bytes from `offset` on. No two words are alike, so a byte in a wrong place shows.
fn generate(seed: u64, offset: u64, buf: &mut [u8]) {
    let mut index = offset / WORD;
    let skip = usize::try_from(offset % WORD).unwrap_or_default();
    let (head, body) = buf.split_at_mut(if skip == 0 { 0 } else { (8 - skip).min(buf.len()) });
    if !head.is_empty() {
        let bytes = word(seed, index).to_le_bytes();
        head.iter_mut().zip(bytes.iter().skip(skip)).for_each(|(to, from)| *to = *from);
        index += 1;
    }
    let mut words = body.chunks_exact_mut(8);
    for to in &mut words {
        to.copy_from_slice(&word(seed, index).to_le_bytes());
        index += 1;
    }
    let tail = words.into_remainder();
    tail.iter_mut().zip(word(seed, index).to_le_bytes()).for_each(|(to, from)| *to = from);
}

/// One multiplication by an odd number and a shift: cheap, and one to one.
fn word(seed: u64, index: u64) -> u64 {
    let mixed = (index ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Write as _};

    use super::*;

    fn whole(source: &Source) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(source.size()).unwrap()];
        source.read_at(0, &mut all).unwrap();
        all
    }

    fn check_every_range(source: &Source) {
        let all = whole(source);
        for start in 0..all.len() {
            for end in start..=all.len().min(start + 40) {
                let mut part = vec![0xaa; end - start];
                source.read_at(start as u64, &mut part).unwrap();
                assert_eq!(part, all[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn generated_bytes_depend_on_their_offset_only() {
        check_every_range(&Source::generated(7, 133));
    }

    #[test]
    fn a_file_reads_the_same_at_any_offset() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&whole(&Source::generated(1, 133))).unwrap();
        let source = Source::open(file.path()).unwrap();
        assert_eq!(source.size(), 133);
        check_every_range(&source);
        let past = source.read_at(130, &mut [0; 4]).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn seeds_and_words_differ() {
        assert_ne!(whole(&Source::generated(1, 64)), whole(&Source::generated(2, 64)));
        let all = whole(&Source::generated(0, 8 << 12));
        assert_eq!(all.chunks(8).collect::<BTreeSet<_>>().len(), 1 << 12);
    }

    #[test]
    fn hashing_in_pieces_is_hashing() {
        let source = Source::generated(3, HASH_CHUNK + 5);
        assert_eq!(source.hash().unwrap(), blake3::hash(&whole(&source)));
        assert_eq!(Source::generated(3, 0).hash().unwrap(), blake3::hash(b""));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for (path, why) in [("/", "directory"), ("/no/such/file", "No such file"), ("/dev/null", "regular")] {
            let failure = Source::open(Path::new(path)).unwrap_err().to_string();
            assert!(failure.contains(why) && failure.contains(path), "{failure}");
        }
    }

    #[tokio::test]
    async fn pieces_make_up_the_range() {
        let source = Arc::new(Source::generated(9, 3 * CHUNK));
        let range = ByteRange::between(1000, 2 * CHUNK + 17).unwrap();
        let mut pieces = source.pieces(range);
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            got.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(got, whole(&source)[1000..usize::try_from(range.end()).unwrap()]);
    }
}
