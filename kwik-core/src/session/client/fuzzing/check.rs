//! Checks of what always holds in a client, whatever its peers have said.

use crate::{
    lease::table::Live,
    limits,
    path::state::State,
    session::client::{Client, ENDED_REMEMBERED, Lease},
};

impl Client {
    /// Looks at the whole state.
    ///
    /// # Panics
    /// If it is not sound.
    pub(super) fn check(&self) {
        self.check_leases();
        self.check_windows();
        self.check_bounds();
    }

    /// One owner per range, and a live path for every lease.
    fn check_leases(&self) {
        for (&id, path) in &self.paths {
            let of = self.leases.count_of_path(id);
            assert!(path.state.is_live() || of == 0, "{id} is dead and has leases");
            assert!(path.state != State::Degraded || of == 0, "{id} is silent and has leases");
            assert!(of <= limits::LEASES_PER_PATH);
            for (&internal, filling) in &path.internal {
                let lease = self.leases.get(filling.lease);
                assert!(lease.is_none_or(|lease| {
                    lease.state.internal == Some(internal)
                        && filling.next == lease.range().start() + lease.state.placed
                        && filling.next < lease.range().end()
                }));
            }
        }
        let live = |lease: &Live<Lease>| {
            self.paths.contains_key(&lease.path()) && self.streams.contains_key(&lease.stream())
        };
        assert!(self.leases.iter().all(|(_, lease)| live(lease)), "a lease without its path or stream");
    }

    /// Checks that what is held fits what was promised. Spec: DESIGN §2, I5.
    fn check_windows(&self) {
        assert_eq!(self.held, self.streams.values().map(|stream| stream.held()).sum::<u64>());
        for (id, stream) in &self.streams {
            assert!(stream.held() <= stream.window(), "{id} holds more than its window");
        }
        let streams = self.streams.values().map(|stream| stream.extra()).sum::<u64>();
        let extra = streams + self.leases.iter().map(|(_, lease)| lease.state.own_room).sum::<u64>();
        assert_eq!(self.extra_window, extra, "what streams and leases have beyond the guaranteed parts");
        let open = self.streams.values().filter(|stream| stream.is_open()).count();
        let promised = open as u64 * limits::GUARANTEED_CREDIT + extra;
        assert!(promised <= self.config.session_window, "windows of {promised} bytes");
        assert!(open <= usize::try_from(self.config.split_streams_max()).unwrap_or(usize::MAX));
    }

    /// Nothing grows without end.
    fn check_bounds(&self) {
        let live = self.paths.values().filter(|path| path.state.is_live()).count();
        assert!(live <= self.config.secondary_paths_max);
        assert!(self.paths.len() - live <= limits::DEAD_PATHS_LISTED);
        let dialling = self.paths.values().map(|path| path.dialling()).sum::<usize>();
        assert!(self.paths.values().all(|path| path.race.is_none() || path.state.is_attaching()));
        assert!(dialling <= limits::DIALS_AT_ONCE);
        let waiting =
            self.undialled.iter().any(|id| self.paths.get(id).is_some_and(|path| path.race.is_some()));
        assert!(!waiting || dialling == limits::DIALS_AT_ONCE, "a path waits that could be dialled");
        assert!(self.jobs.len() <= live * limits::JOBS_PER_PATH, "jobs outlive their paths");
        assert!(self.undialled.len() <= limits::SECONDARY_PATHS_MAX, "dials wait for paths that are gone");
        assert!(self.leases.len() <= limits::LEASES_PER_SESSION);
        assert!(self.ended.len() <= ENDED_REMEMBERED);
    }
}
