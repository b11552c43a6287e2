//! The path to the primary while a client waits: when it is asked for a sign of life, and what becomes of all paths when
//! the client's machine is elsewhere. Spec: PROTOCOL §8.6.

use std::time::Instant;

use super::{Machine, Session};
use crate::quic;

impl Session {
    /// This machine may have another address or another way to its peers from now on. A client's connections all say so at
    /// once, each to its server, under connection ids that were not seen before; what it had learnt of its ways is
    /// forgotten. On a server nothing happens: its clients cannot follow. Spec: RATIONALE §8, "Moving".
    pub fn handle_network_change(&mut self, now: Instant) {
        let _session = self.enter();
        self.touch(now);
        let (Machine::Client(client), Some(side)) = (&mut self.machine, &mut self.client) else {
            return;
        };
        client.on_network_change();
        side.watch.on_change(now);
        for (_, link) in self.links.iter_mut() {
            link.quic.local_address_changed();
        }
    }

    /// Notes whether there is something that the primary may send for: leases, streams that are not read to their end, and
    /// streams that may still be written to, as room for that is something to send. Spec: PROTOCOL §8.6.
    pub(super) fn note_waits(&mut self) {
        let (Machine::Client(client), Some(side)) = (&self.machine, &mut self.client) else {
            return;
        };
        let home = &self.links.home;
        let open = || home.inbound.is_any_read() || home.outbound.is_any_written();
        let waits = self.lost.is_none() && (client.needs_primary() || open());
        side.watch.on_waits(self.now, waits);
    }

    /// Instant at which the path to the primary is to be asked for a sign of life, unless it gives one before.
    pub(super) fn watch_at(&self) -> Option<Instant> {
        self.client.as_ref()?.watch.deadline(quic::keep_alive(self.transport.idle_timeout))
    }

    /// Asks the primary for a sign of life if it is time.
    pub(super) fn watch_home(&mut self, now: Instant) {
        if self.watch_at().is_none_or(|at| at > now) {
            return;
        }
        if let Some(side) = &mut self.client {
            side.watch.on_asked(now, quic::keep_alive(self.transport.idle_timeout));
            self.links.home.quic.ping();
        }
    }
}
