//! The data of an answer, read from the objects that they are made of.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use kwik_tokio::{ByteRange, ErrorCode, ReadAt};
use tokio::{sync::mpsc, task};

use crate::{
    protocol::{Layout, Place},
    store::{Object, read_code},
};

/// Bytes read at a time.
const PIECE: u64 = 256 * 1024;
/// Pieces that are read ahead of whoever sends them.
const AHEAD: usize = 2;

/// Bytes of a stream that are ranges of objects, read at the stream's offsets.
pub(crate) struct Data {
    layout: Layout,
    /// By the number of the part.
    objects: Vec<Arc<dyn Object>>,
}

impl Data {
    pub(crate) fn new(layout: Layout, objects: Vec<Arc<dyn Object>>) -> Self {
        Self { layout, objects }
    }

    /// Returns whether all of the range is in the data.
    pub(crate) fn covers(&self, range: ByteRange) -> bool {
        self.layout.base() <= range.start() && range.end() <= self.layout.end()
    }

    /// Reads `range` piece by piece on a thread that may block, a little ahead of the receiver. An error is the last item;
    /// dropping the receiver ends the reading.
    pub(crate) fn pieces(self: &Arc<Self>, range: ByteRange) -> mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let data = self.clone();
        // Ends by itself: nobody waits for it.
        drop(task::spawn_blocking(move || {
            let mut at = range.start();
            while at < range.end() {
                let len = PIECE.min(range.end() - at);
                let piece =
                    usize::try_from(len).map_err(io::Error::other).and_then(|len| data.read_at(at, len));
                let failed = piece.is_err();
                at += len;
                if pieces.blocking_send(piece).is_err() || failed {
                    break;
                }
            }
        }));
        receiver
    }

    fn read_place(&self, place: Place) -> io::Result<Bytes> {
        let object = self.objects.get(place.part).ok_or_else(outside)?;
        object.read_at(place.range.start(), usize::try_from(place.range.len()).map_err(io::Error::other)?)
    }
}

impl ReadAt for Data {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let Some(range) = ByteRange::new(offset, len as u64) else {
            return if len == 0 { Ok(Bytes::new()) } else { Err(outside()) };
        };
        let mut places = self.layout.places(range);
        let first = places.next().ok_or_else(outside)?;
        if first.at == offset && first.range.len() == range.len() {
            return self.read_place(first);
        }
        let mut bytes = BytesMut::with_capacity(len);
        for place in std::iter::once(first).chain(places) {
            bytes.extend_from_slice(&self.read_place(place)?);
        }
        if bytes.len() == len { Ok(bytes.freeze()) } else { Err(outside()) }
    }

    fn reset_code(&self, error: &io::Error) -> Option<ErrorCode> {
        Some(read_code(error))
    }
}

/// Bytes that are not in the data were asked for: no object has changed for that.
fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "outside of the data")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        protocol::ObjectPath,
        store::{Directory, Store as _, is_change},
    };

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[tokio::test]
    async fn data_are_their_objects_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0_u8..251).cycle().take(600_000).collect();
        fs::write(dir.path().join("a"), "0123456789").unwrap();
        fs::write(dir.path().join("b"), &long).unwrap();
        let store = Directory::open(dir.path()).unwrap();
        let objects = ["a", "b"].map(|name| store.open(&ObjectPath::parse(name).unwrap()).unwrap());
        let parts = [(0, range(2, 5)), (0, range(7, 9)), (1, range(0, 600_000))];
        let data = Arc::new(Data::new(Layout::new(100, parts).unwrap(), objects.to_vec()));
        let whole = [&b"23478"[..], &long].concat();

        for (start, end) in [(100, 103), (101, 104), (100, 300), (104, 105), (105, 600_105), (100, 600_105)] {
            let bytes = data.read_at(start as u64, end - start).unwrap();
            assert!(*bytes == whole[start - 100..end - 100], "{start}..{end}");
        }
        for (start, len) in [(99, 2), (600_100, 10), (0, 10), (u64::MAX, 1)] {
            let error = data.read_at(start, len).unwrap_err();
            assert!(!is_change(&error), "{start} {error}");
        }
        let mut pieces = data.pieces(range(102, 600_100));
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            got.extend_from_slice(&piece.unwrap());
        }
        assert!(got == whole[2..600_000]);

        fs::write(dir.path().join("a"), "x").unwrap();
        let error = data.read_at(100, 5).unwrap_err();
        assert_eq!(data.reset_code(&error), Some(crate::protocol::codes::CHANGED));
    }
}
