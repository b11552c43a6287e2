//! Counters of a session, and the snapshots it gives. Decides nothing. Spec: RATIONALE §12.

use std::{collections::BTreeMap, time::Instant};

use super::{Machine, Session, effort::Tally};
use crate::{
    error::PeerFault,
    id::{LeaseId, StreamId},
    stats::{LeaseStats, SessionStats, StreamStats, count_fault},
    wire::Frame,
};

/// Counters outside the machines.
#[derive(Debug, Default)]
pub(super) struct Observed {
    credit_frames: u64,
    pub(super) control_pauses: u64,
    pub(super) opens_refused: u64,
    pub(super) streams_exhausted: u64,
    faults: BTreeMap<PeerFault, u64>,
    pub(super) tally: Tally,
}

impl Observed {
    /// A frame goes out.
    pub(super) fn on_send(&mut self, frame: &Frame) {
        self.credit_frames += u64::from(matches!(frame, Frame::Credit(_)));
        self.tally.on_send();
    }

    /// The peer broke a rule, and no machine counts it.
    pub(super) fn on_fault(&mut self, fault: PeerFault) {
        count_fault(&mut self.faults, fault);
    }
}

impl Session {
    /// Returns what the peers have made the session do so far (feature `audit`).
    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub fn effort(&self) -> super::Effort {
        let mut effort = self.observed.tally.effort();
        effort.verifications = match &self.machine {
            Machine::Primary(primary) => primary.tally().effort().verifications,
            Machine::Secondary(secondary) => secondary.tally().effort().verifications,
            Machine::Greeting(_) | Machine::Client(_) => 0,
        };
        effort
    }

    /// Returns a snapshot of the session's counters. Its cost is that of a look at each path and split stream. Times
    /// count up to the latest instant that was passed in.
    pub fn stats(&self) -> SessionStats {
        self.stats_at(self.now)
    }

    /// Returns the snapshot of [`Self::stats`], with times that still run counted up to `now`.
    pub fn stats_at(&self, now: Instant) -> SessionStats {
        let home = &self.links.home.quic;
        let counters = home.counters();
        let mut stats = SessionStats {
            udp_tx: counters.udp_tx,
            udp_rx: counters.udp_rx,
            frame_tx: counters.frame_tx,
            frame_rx: counters.frame_rx,
            path: home.stats(),
            paths: self.links.iter().map(|(path, link)| (path, link.quic.stats())).collect(),
            relays_refused: self.relays_refused,
            credit_frames: self.observed.credit_frames,
            control_pauses: self.observed.control_pauses,
            opens_refused: self.observed.opens_refused,
            streams_exhausted: self.observed.streams_exhausted,
            faults: self.observed.faults.clone(),
            ..SessionStats::default()
        };
        match &self.machine {
            Machine::Client(client) => client.add_stats(self.now.max(now), &mut stats),
            Machine::Primary(primary) => stats.late_frames = primary.late_frames(),
            Machine::Secondary(secondary) => stats.late_frames = secondary.late_frames(),
            Machine::Greeting(_) => {}
        }
        stats
    }

    /// Returns a snapshot of a split stream that has not been read to its end; `None` on servers, and for streams that
    /// are QUIC's alone. Times that still run are counted up to `now`.
    pub fn stream_stats(&self, now: Instant, stream: StreamId) -> Option<StreamStats> {
        match &self.machine {
            Machine::Client(client) => client.stream_stats(self.now.max(now), stream),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => None,
        }
    }

    /// Lists the split streams that are not read to their end, of which [`Self::stream_stats`] tells; none on servers.
    pub fn split_streams(&self) -> Vec<StreamId> {
        match &self.machine {
            Machine::Client(client) => client.split_streams(),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => Vec::new(),
        }
    }

    /// Returns a snapshot of a live lease, as the client has it; `None` on servers. A primary asks
    /// [`Self::lease_status`].
    pub fn lease_stats(&self, lease: LeaseId) -> Option<LeaseStats> {
        match &self.machine {
            Machine::Client(client) => client.lease_stats(lease),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => None,
        }
    }

    /// Returns snapshots of all live leases of a client, at most 2,048; none on servers.
    pub fn leases(&self) -> BTreeMap<LeaseId, LeaseStats> {
        match &self.machine {
            Machine::Client(client) => client.lease_list(),
            Machine::Greeting(_) | Machine::Primary(_) | Machine::Secondary(_) => BTreeMap::new(),
        }
    }
}
