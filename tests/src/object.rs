//! Objects whose every byte is known, and the proof that a stream delivered one: each byte once, each right.

use std::collections::BTreeMap;

use bytes::Bytes;
use kwik_tokio::ByteRange;

/// An endless object: the byte at each offset follows from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object(pub u64);

impl Object {
    /// Returns the bytes of `range`.
    #[must_use]
    pub fn bytes(self, range: ByteRange) -> Bytes {
        let mut bytes = Vec::new();
        for index in range.start() / 8..range.end().div_ceil(8) {
            bytes.extend_from_slice(&self.word(index));
        }
        let skip = usize::try_from(range.start() % 8).expect("below 8");
        let len = usize::try_from(range.len()).expect("a range that fits memory");
        Bytes::from(bytes).slice(skip..skip + len)
    }

    /// Returns whether `bytes` are what the object has at `offset`.
    #[must_use]
    pub fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        ByteRange::new(offset, bytes.len() as u64).is_none_or(|range| self.bytes(range) == bytes)
    }

    /// Returns what a job says about the object.
    #[must_use]
    pub fn payload(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    /// Reads what [`Self::payload`] says.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Self {
        Self(u64::from_le_bytes(payload.try_into().expect("a seed")))
    }

    fn word(self, index: u64) -> [u8; 8] {
        Dice(self.0 ^ index.wrapping_mul(0xd129_42f2_6d4c_957d)).next().to_le_bytes()
    }
}

/// Bytes of an object that a reader has got.
#[derive(Debug)]
pub struct Receipt {
    object: Object,
    /// End of each run received, by its start; neighbours are merged.
    runs: BTreeMap<u64, u64>,
    received: u64,
}

impl Receipt {
    /// Starts with nothing.
    #[must_use]
    pub fn new(object: Object) -> Self {
        Self { object, runs: BTreeMap::new(), received: 0 }
    }

    /// Takes bytes that were read. Panics if any is wrong, or was read before.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        assert!(len > 0, "an empty chunk at {offset}");
        assert!(self.object.matches(offset, bytes), "wrong bytes in {len} bytes at {offset}");
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &before_end)) = self.runs.range(..=start).next_back() {
            assert!(before_end <= start, "{len} bytes at {offset} were read before");
            if before_end == start {
                start = before;
            }
        }
        if let Some((&after, &after_end)) = self.runs.range(offset..).next() {
            assert!(end <= after, "{len} bytes at {offset} were read before");
            if end == after {
                self.runs.remove(&after);
                end = after_end;
            }
        }
        self.runs.insert(start, end);
        self.received += len;
    }

    /// Returns how many bytes were read.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns whether exactly the first `size` bytes were read.
    #[must_use]
    pub fn is_complete(&self, size: u64) -> bool {
        self.received == size && (size == 0 || self.runs.get(&0) == Some(&size))
    }

    /// Returns whether any byte of `range` was read.
    #[must_use]
    pub fn touches(&self, range: ByteRange) -> bool {
        self.runs.iter().any(|(&start, &end)| start < range.end() && range.start() < end)
    }

    /// Returns where the first byte is that was not read.
    #[must_use]
    pub fn first_hole(&self) -> u64 {
        self.runs.get(&0).copied().unwrap_or_default()
    }

    /// Panics unless exactly the first `size` bytes were read.
    pub fn expect_complete(&self, size: u64) {
        assert!(self.is_complete(size), "{} bytes of {size}: {:?}", self.received, self.runs);
    }
}

/// A small generator: a test that prints its seed can be run again.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Returns the next number.
    #[expect(clippy::should_implement_trait, reason = "never ends, so no iterator is needed")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
