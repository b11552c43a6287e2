//! Look-ups of the lease that an internal stream, a name or a place belongs to. Spec: PROTOCOL §5, RATIONALE §12.

use std::{collections::BTreeMap, rc::Rc};

use super::{Body, shuffled};
use crate::{
    id::{ByteRange, Dir, LeaseId, PathId, Side, StreamId},
    lease::table::{LeaseTable, Live},
    limits::{LEASES_PER_PATH, LEASES_PER_STREAM},
};

const GROUP: &str = "lease";
/// Live leases: the only one, those of one path, and all that a session may have.
const COUNTS: [u64; 3] = [1, 256, 2048];
/// Look-ups per run.
const LOOKUPS: u64 = 1024;
/// Bytes of a lease.
const LEN: u64 = 1 << 20;

/// Full table of leases, as many as a session may have per path and stream, with the stream that carries each.
struct World {
    table: LeaseTable<()>,
    /// Entries that a client keeps per path, of all paths together: the lease that an internal stream fills, and its place.
    internal: BTreeMap<(PathId, StreamId), (LeaseId, u64)>,
    /// Leases that are looked for, in an order that no cache foresees.
    wanted: Vec<Wanted>,
}

/// Lease to look for, and what is known of it before.
struct Wanted {
    lease: LeaseId,
    internal: (PathId, StreamId),
    stream: StreamId,
    /// The place of a chunk in the middle of the lease.
    place: ByteRange,
}

pub(super) fn bodies() -> Vec<Body> {
    COUNTS.into_iter().flat_map(of_size).collect()
}

fn of_size(count: u64) -> Vec<Body> {
    let world = Rc::new(World::new(count));
    let found = |lease: Option<&Live<()>>| lease.map_or(0, |lease| lease.range().len());
    vec![
        lookup(&world, format!("by internal stream, {count} live"), move |world, wanted| {
            let filling = world.internal.get(&wanted.internal);
            filling.map_or(0, |(lease, next)| found(world.table.get(*lease)) + next)
        }),
        lookup(&world, format!("by id, {count} live"), move |world, wanted| {
            found(world.table.get(wanted.lease))
        }),
        lookup(&world, format!("by place, {count} live"), move |world, wanted| {
            world.table.overlapping(wanted.stream, wanted.place).map(|(_, lease)| found(Some(lease))).sum()
        }),
        give_and_end(count),
    ]
}

/// Looks for [`LOOKUPS`] leases, one after the other.
fn lookup(world: &Rc<World>, name: String, find: impl Fn(&World, &Wanted) -> u64 + 'static) -> Body {
    let world = world.clone();
    Body::new(GROUP, name, LOOKUPS, move || {
        let wanted = world.wanted.iter().cycle();
        wanted.take(usize::try_from(LOOKUPS).unwrap_or_default()).map(|wanted| find(&world, wanted)).sum()
    })
}

/// Ends a lease and gives its range to another, beside all that live.
fn give_and_end(count: u64) -> Body {
    let mut world = World::new(count);
    let mut next = count;
    Body::new(GROUP, format!("ended and given again, {count} live"), LOOKUPS, move || {
        let mut lengths = 0;
        for turn in 0..LOOKUPS {
            let at = usize::try_from(turn % count).unwrap_or_default();
            let Some(wanted) = world.wanted.get_mut(at) else { continue };
            let Some(ended) = world.table.remove(wanted.lease) else { continue };
            wanted.lease = LeaseId::new(next);
            next += 1;
            let (range, state) = (ended.range(), ());
            let given = world.table.insert(wanted.lease, ended.path(), ended.stream(), range, state);
            lengths += given.map_or(0, |()| range.len());
        }
        lengths
    })
}

impl World {
    fn new(count: u64) -> Self {
        let mut world = Self { table: LeaseTable::default(), internal: BTreeMap::new(), wanted: Vec::new() };
        for index in shuffled(count) {
            let path = PathId::new(1 + u32::try_from(index / LEASES_PER_PATH as u64).unwrap_or_default());
            let of = index / LEASES_PER_STREAM as u64;
            let stream = StreamId::from_parts(Side::Server, Dir::Bi, of);
            let internal = (path, StreamId::from_parts(Side::Server, Dir::Uni, index));
            let lease = LeaseId::new(index);
            let start = index % LEASES_PER_STREAM as u64 * LEN;
            let whole = ByteRange::new(start, LEN).expect("far below the last offset");
            let place = ByteRange::new(start + LEN / 2, 1200).expect("far below the last offset");
            world.table.insert(lease, path, stream, whole, ()).expect("ranges stand apart");
            world.internal.insert(internal, (lease, place.start()));
            world.wanted.push(Wanted { lease, internal, stream, place });
        }
        world
    }
}
