//! The payload of a job: what a mirror needs to know of the bytes it is to bring.

use bytes::Bytes;
use kwik_tokio::ByteRange;
use serde::{Deserialize, Serialize};

use super::{Layout, ObjectPath, Parts, Ranges, Tree};

/// Bytes of a job's payload. Spec: PROTOCOL §11.
const PAYLOAD_MAX: usize = 2 * 1024;
/// Bytes of the version that a mirror is told: enough to tell two versions of an object apart early. What it brings is
/// verified in any case.
const MARK: usize = 4;
/// Bytes of a payload that no part takes: the base, and the number of parts.
const FIXED: usize = 10 + 2;

/// The data of one answer, as mirrors are told of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub(crate) struct Supply {
    base: u64,
    parts: Parts<Supplied>,
    layout: Layout,
}

/// An object in the data, and the ranges of it that are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supplied {
    pub(crate) path: ObjectPath,
    pub(crate) len: u64,
    mark: [u8; MARK],
    /// All of it, if this is `None`.
    ranges: Option<Ranges>,
}

impl Supplied {
    pub(crate) fn new(path: ObjectPath, tree: &Tree, ranges: Option<Ranges>) -> Self {
        Self { path, len: tree.len(), mark: mark(tree), ranges }
    }

    /// Returns whether an object with these digests is the one that is meant.
    pub(crate) fn is(&self, tree: &Tree) -> bool {
        self.len == tree.len() && self.mark == mark(tree)
    }

    fn ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let all = if self.ranges.is_none() { ByteRange::between(0, self.len) } else { None };
        self.ranges.iter().flat_map(Ranges::iter).chain(all)
    }
}

fn mark(tree: &Tree) -> [u8; MARK] {
    tree.version().as_bytes().first_chunk().copied().unwrap_or_default()
}

impl Supply {
    /// Describes data that begin at the stream's offset `base`. `None` if a stream cannot carry them.
    pub(crate) fn new(base: u64, parts: Parts<Supplied>) -> Option<Self> {
        let ranges = parts
            .iter()
            .enumerate()
            .flat_map(|(number, part)| part.ranges().map(move |range| (number, range)));
        let layout = Layout::new(base, ranges)?;
        Some(Self { base, parts, layout })
    }

    pub(crate) fn parts(&self) -> &Parts<Supplied> {
        &self.parts
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the payload; `None` if it is longer than one may be, and the data can be had from the primary only.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        let bytes = postcard::to_allocvec(self).ok()?;
        (bytes.len() <= PAYLOAD_MAX).then(|| bytes.into())
    }

    /// Takes a payload.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        postcard::from_bytes(payload).ok()
    }
}

/// The room that is left in the payload of a request that is being put together.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    left: usize,
    before: String,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { left: PAYLOAD_MAX - FIXED, before: String::new() }
    }

    /// Takes the room for these bytes of an object, behind those that were taken before. Returns `false`, and takes
    /// nothing, if there is not enough.
    pub(crate) fn take(&mut self, path: &ObjectPath, len: u64, ranges: Option<&Ranges>) -> bool {
        let part = WirePart::new(&mut self.before, path, len, [u8::MAX; MARK], ranges.cloned());
        let left = postcard::to_allocvec(&part).ok().and_then(|bytes| self.left.checked_sub(bytes.len()));
        left.map(|left| self.left = left).is_some()
    }
}

/// Names share their beginnings: each says how much of the one before it is in it.
#[derive(Serialize, Deserialize)]
struct Wire {
    base: u64,
    parts: Parts<WirePart>,
}

#[derive(Clone, Serialize, Deserialize)]
struct WirePart {
    shared: usize,
    rest: String,
    len: u64,
    mark: [u8; MARK],
    ranges: Option<Ranges>,
}

impl WirePart {
    /// Describes a part behind one whose name is `before`, which is this one's from then on.
    fn new(
        before: &mut String,
        path: &ObjectPath,
        len: u64,
        mark: [u8; MARK],
        ranges: Option<Ranges>,
    ) -> Self {
        let path = path.as_str();
        let alike = path.char_indices().zip(before.chars()).find(|((_, a), b)| a != b);
        let shared = alike.map_or_else(|| path.len().min(before.len()), |((at, _), _)| at);
        let rest = path.get(shared..).unwrap_or_default().to_owned();
        path.clone_into(before);
        Self { shared, rest, len, mark, ranges }
    }
}

impl From<Supply> for Wire {
    fn from(supply: Supply) -> Self {
        let mut before = String::new();
        let mut part = |Supplied { path, len, mark, ranges }: Supplied| {
            WirePart::new(&mut before, &path, len, mark, ranges)
        };
        let parts = supply.parts.map(&mut part);
        Self { base: supply.base, parts }
    }
}

impl TryFrom<Wire> for Supply {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, &'static str> {
        let mut before = String::new();
        let parts = wire.parts.try_map(|part| {
            let path =
                before.get(..part.shared).ok_or("a name shares more than there is")?.to_owned() + &part.rest;
            before.clone_from(&path);
            let path = ObjectPath::try_from(path).map_err(|_bad| "a name that is none")?;
            if part.ranges.as_ref().is_some_and(|ranges| ranges.end() > part.len) {
                return Err("a range beyond the object's end");
            }
            Ok(Supplied { path, len: part.len, mark: part.mark, ranges: part.ranges })
        })?;
        Self::new(wire.base, parts).ok_or("more than a stream can carry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{LeafHasher, PARTS_MAX, Place};

    fn tree(bytes: &[u8]) -> Tree {
        let mut hasher = LeafHasher::new(bytes.len() as u64, 0);
        hasher.update(bytes);
        Tree::new(bytes.len() as u64, vec![hasher.finish()]).unwrap()
    }

    fn supplied(path: &str, bytes: &[u8], ranges: Option<Ranges>) -> Supplied {
        Supplied::new(ObjectPath::parse(path).unwrap(), &tree(bytes), ranges)
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[test]
    fn a_payload_comes_back() {
        let some = Ranges::new([range(1, 2), range(4, 6)]).unwrap();
        let parts = [
            supplied("models/a/weights-1", b"hello there", None),
            supplied("models/a/weights-12", b"", None),
            supplied("models/a/wëights", b"general", Some(some)),
            supplied("models/a/wê", b"x", Some(Ranges::default())),
            supplied("z", b"xyz", None),
        ];
        let supply = Supply::new(50, Parts::new(parts.to_vec()).unwrap()).unwrap();
        let payload = supply.encode().unwrap();
        assert_eq!(Supply::decode(&payload), Some(supply.clone()));
        for cut in 0..payload.len() {
            assert_eq!(Supply::decode(&payload[..cut]), None);
        }
        assert_eq!(supply.layout().end(), 50 + 11 + 3 + 3);
        let places: Vec<_> = supply.layout().places(range(60, 64)).collect();
        assert_eq!(
            places,
            [
                Place { part: 0, range: range(10, 11), at: 60 },
                Place { part: 2, range: range(1, 2), at: 61 },
                Place { part: 2, range: range(4, 6), at: 62 },
            ]
        );
        assert!(parts[0].is(&tree(b"hello there")));
        assert!(!parts[0].is(&tree(b"hello THERE")));
    }

    #[test]
    fn many_small_files_of_a_directory_fit() {
        let supply = |name: &dyn Fn(usize) -> String| {
            let parts = (0..PARTS_MAX).map(|n| supplied(&name(n), b"x", None));
            Supply::new(0, Parts::new(parts.collect()).unwrap()).unwrap()
        };
        assert!(supply(&|n| format!("some/where/deep/down/{n:05}.png")).encode().is_some());
        assert_eq!(supply(&|n| format!("{n}{}", "x".repeat(200))).encode(), None);
    }

    #[test]
    fn what_there_was_room_for_fits_and_not_much_more() {
        for name in ["a/{}", "weights/{}.safetensors", "{}/of/another/directory/each/and/with/a/long/name"] {
            let mut room = Room::new();
            let some = Ranges::new([range(1, 2), range(3, 1 << 40)]).unwrap();
            let mut parts = Vec::new();
            for n in 0..PARTS_MAX {
                let path = ObjectPath::parse(&name.replace("{}", &n.to_string())).unwrap();
                let (len, ranges) = (1 << (n % 40 + 1), (n % 3 == 0).then(|| some.clone()));
                let mark = [u8::MAX; MARK];
                let part = Supplied { path, len: len.max(1 << 40), mark, ranges };
                if !room.take(&part.path, part.len, part.ranges.as_ref()) {
                    break;
                }
                parts.push(part);
            }
            assert!(parts.len() > 20, "{name} {}", parts.len());
            let full = parts.len() < PARTS_MAX;
            let supply = Supply::new(1 << 60, Parts::new(parts).unwrap()).unwrap();
            let payload = supply.encode().unwrap();
            assert!(!full || payload.len() > PAYLOAD_MAX - 100, "{name} {}", payload.len());
        }
    }

    #[test]
    fn payloads_that_lie_are_refused() {
        let whole = |shared: usize, rest: &str, ranges: Option<Ranges>| {
            let part = WirePart { shared, rest: rest.into(), len: 5, mark: [0; MARK], ranges };
            let wire = Wire { base: 0, parts: Parts::new(vec![part]).unwrap() };
            Supply::decode(&postcard::to_allocvec(&wire).unwrap())
        };
        assert!(whole(0, "a", None).is_some());
        assert_eq!(whole(1, "a", None), None);
        assert_eq!(whole(usize::MAX, "a", None), None);
        assert_eq!(whole(0, "../a", None), None);
        assert_eq!(whole(0, "a", Some(Ranges::new([range(4, 6)]).unwrap())), None);
    }
}
