//! A client's books.

use super::{Client, Lease};
use crate::{
    audit::{Contradiction, check},
    id::{LeaseId, PathId},
    lease::table::Live,
    limits,
    path::state::State,
};

impl Client {
    /// Checks leases, paths, streams and windows against each other. Spec: DESIGN §2 (I3, I5), PROTOCOL §5, §6.
    pub(in crate::session) fn audit(&self) -> Result<(), Contradiction> {
        for (id, lease) in self.leases.iter() {
            self.audit_lease(id, lease)?;
        }
        for (&id, path) in &self.paths {
            check(self.leases.count_of_path(id) == 0 || path.state.is_live(), || {
                format!("{id} is dead and has leases")
            })?;
            for (internal, filling) in &path.internal {
                let lease = self.leases.get(filling.lease);
                // A lease that is done leaves its mapping to the FIN.
                let mapped = lease.is_none_or(|lease| {
                    lease.state.internal == Some(*internal)
                        && filling.next == lease.range().start() + lease.state.placed
                });
                check(mapped, || {
                    format!("{internal} of {id} is mapped to {}, which knows nothing of it", filling.lease)
                })?;
            }
        }
        self.audit_streams()
    }

    fn audit_lease(&self, id: LeaseId, lease: &Live<Lease>) -> Result<(), Contradiction> {
        let path = self.paths.get(&lease.path());
        let stream = self.streams.get(&lease.stream());
        check(self.lost.is_some() || stream.is_some(), || {
            format!("{id} lives, {} does not", lease.stream())
        })?;
        check(lease.state.placed < lease.range().len(), || format!("{id} is full and lives"))?;
        let allowed = lease.allowed(stream.map_or(u64::MAX, |stream| stream.max_offset()));
        check(lease.state.placed <= allowed, || {
            format!("{id} placed {} of {allowed} allowed", lease.state.placed)
        })?;
        let noticed = path.and_then(|path| path.highest_noticed).is_some_and(|highest| id <= highest);
        check(!lease.state.noticed || noticed, || {
            format!("{id} is noticed, and {} was not told", lease.path())
        })?;
        let attaching =
            path.is_some_and(|path| matches!(path.state, State::Connecting | State::Authenticating));
        check(lease.state.noticed || attaching || self.lost.is_some(), || {
            format!("{id} waits for {}, which does not attach", lease.path())
        })
    }

    fn audit_streams(&self) -> Result<(), Contradiction> {
        let (mut held, mut extents, mut extra) = (0, 0, 0);
        for (id, stream) in &self.streams {
            let leased = self.leases.of_stream(*id).map(|(_, lease)| self.outstanding(stream, lease)).sum();
            stream.audit(leased).map_err(|error| error.of(*id))?;
            check(stream.extents() <= limits::EXTENTS_PER_STREAM, || format!("{id} is in too many pieces"))?;
            held += stream.held();
            extents += stream.extents();
            extra += stream.extra();
        }
        check(held == self.held, || format!("{held} bytes held in streams, {} counted", self.held))?;
        let waiting = self.leases.iter().filter(|(_, lease)| lease.is_verified());
        let waiting: u64 = waiting.map(|(_, lease)| lease.state.placed).sum();
        check(held + waiting <= self.config.session_window, || {
            format!("{held} bytes held and {waiting} that wait for a digest, over the session window")
        })?;
        check(extents <= limits::EXTENTS_PER_SESSION, || format!("{extents} pieces held"))?;
        extra += self.leases.iter().map(|(_, lease)| lease.state.own_room).sum::<u64>();
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
