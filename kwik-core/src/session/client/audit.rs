//! A client's books.

use std::collections::BTreeMap;

use super::{Client, Lease};
use crate::{
    audit::{Contradiction, check},
    id::{LeaseId, PathId, StreamId},
    limits,
    path::state::State,
};

impl Client {
    /// Checks leases, paths, streams and windows against each other. Spec: KWIK §2 (I3, I5), §5, §6.
    pub(in crate::session) fn audit(&self) -> Result<(), Contradiction> {
        for (&id, lease) in &self.leases {
            self.audit_lease(id, lease)?;
        }
        self.audit_overlaps()?;
        for (&id, path) in &self.paths {
            for lease in &path.leases {
                let here = self.leases.get(lease).is_some_and(|lease| lease.path == id);
                check(here, || format!("{id} lists {lease}, which is gone or another's"))?;
            }
            check(path.leases.is_empty() || path.state.is_live(), || format!("{id} is dead and has leases"))?;
            for (internal, filling) in &path.internal {
                let lease = self.leases.get(&filling.lease);
                let mapped = lease.is_some_and(|lease| {
                    lease.internal == Some(*internal) && filling.next == lease.range.start() + lease.placed
                });
                check(mapped, || {
                    format!("{internal} of {id} is mapped to {}, which knows nothing of it", filling.lease)
                })?;
            }
        }
        self.audit_streams()
    }

    fn audit_lease(&self, id: LeaseId, lease: &Lease) -> Result<(), Contradiction> {
        let path = self.paths.get(&lease.path);
        check(path.is_some_and(|path| path.leases.contains(&id)), || {
            format!("{id} is not among the leases of {}", lease.path)
        })?;
        let stream = self.streams.get(&lease.stream);
        check(self.lost.is_some() || stream.is_some(), || format!("{id} lives, {} does not", lease.stream))?;
        check(lease.placed < lease.range.len(), || format!("{id} is full and lives"))?;
        let allowed = lease.allowed(stream.map_or(u64::MAX, |stream| stream.max_offset()));
        check(lease.placed <= allowed, || format!("{id} placed {} of {allowed} allowed", lease.placed))?;
        let noticed = path.and_then(|path| path.highest_noticed).is_some_and(|highest| id <= highest);
        check(!lease.noticed || noticed, || format!("{id} is noticed, and {} was not told", lease.path))?;
        let attaching =
            path.is_some_and(|path| matches!(path.state, State::Connecting | State::Authenticating));
        check(lease.noticed || attaching || self.lost.is_some(), || {
            format!("{id} waits for {}, which does not attach", lease.path)
        })
    }

    fn audit_overlaps(&self) -> Result<(), Contradiction> {
        let mut by_start: BTreeMap<(StreamId, u64), (LeaseId, u64)> = BTreeMap::new();
        for (&id, lease) in &self.leases {
            by_start.insert((lease.stream, lease.range.start()), (id, lease.range.end()));
        }
        let mut before: Option<(StreamId, LeaseId, u64)> = None;
        for ((stream, start), (id, end)) in by_start {
            let apart = before.is_none_or(|(of, _, until)| of != stream || until <= start);
            check(apart, || format!("{id} of {stream} overlaps the lease before it"))?;
            before = Some((stream, id, end));
        }
        Ok(())
    }

    fn audit_streams(&self) -> Result<(), Contradiction> {
        let (mut held, mut extents, mut extra) = (0, 0, 0);
        for (id, stream) in &self.streams {
            let max_offset = stream.max_offset();
            let of = self.leases.values().filter(|lease| lease.stream == *id && lease.noticed);
            let leased = of.map(|lease| lease.outstanding_above(max_offset)).sum();
            stream.audit(leased).map_err(|error| error.of(*id))?;
            check(stream.extents() <= limits::EXTENTS_PER_STREAM, || format!("{id} is in too many pieces"))?;
            held += stream.held();
            extents += stream.extents();
            extra += stream.extra();
        }
        check(held == self.held, || format!("{held} bytes held in streams, {} counted", self.held))?;
        check(held <= self.config.session_window, || format!("{held} bytes held, over the session window"))?;
        check(extents <= limits::EXTENTS_PER_SESSION, || format!("{extents} pieces held"))?;
        check(extra == self.extra_window, || {
            format!("{extra} bytes of window given out, {} counted", self.extra_window)
        })?;
        let open = self.streams.values().filter(|stream| stream.is_open()).count() as u64;
        check(open * limits::GUARANTEED_CREDIT + extra <= self.config.session_window, || {
            format!("{extra} bytes of window given out beyond what {open} streams are guaranteed")
        })?;
        check(!self.paths.contains_key(&PathId::PRIMARY), || {
            "the primary path is listed as a secondary".to_owned()
        })
    }
}
