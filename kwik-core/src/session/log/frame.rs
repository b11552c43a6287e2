//! Control frames as events. A frame that the client passes on is told twice, from where and to where it goes.

use std::time::Instant;

use super::{Log, Way, record::Record};
use crate::{
    id::{PathId, Role},
    session::subject::Subject,
    wire::{Credit, Frame, MappingOperation, PathStatus},
};

impl Log {
    pub(super) fn frame(&mut self, now: Instant, peer: PathId, frame: &Frame, way: Way) {
        self.learn(frame);
        let Some(name) = self.name(frame, way) else {
            return;
        };
        let peer = if self.own.is_primary() { peer } else { self.own };
        let subject = Subject::of_frame(peer, frame);
        let place = subject.lease.and_then(|lease| self.leases.get(&lease));
        let place = place.or_else(|| subject.job.and_then(|job| self.jobs.get(&job))).copied();
        let (path, stream) = place.unzip();
        self.event(now, name, |data| {
            let direction = if way == Way::In { "from" } else { "to" };
            data.number(direction, peer.into_inner().into());
            data.path(path.or(subject.path).unwrap_or(peer));
            data.maybe("stream", stream.or(subject.stream).map(|stream| stream.into_inner()));
            data.maybe("job", subject.job.map(|job| job.into_inner()));
            data.maybe("lease", subject.lease.map(|lease| lease.into_inner()));
            details(data, frame);
        });
        self.forget(frame, way);
    }

    /// Remembers where jobs and leases belong.
    fn learn(&mut self, frame: &Frame) {
        if let Frame::JobOpen(open) = frame {
            self.know_job(open.job, open.path, open.stream);
        } else if let Frame::LeaseGrant(grant) = frame {
            self.know_lease(grant.lease, grant.job);
        } else if let Frame::LeaseNotice { lease, job, .. } = frame {
            self.know_lease(*lease, *job);
        }
    }

    /// Forgets leases that are answered. On a secondary nobody says so, and the oldest make room.
    fn forget(&mut self, frame: &Frame, way: Way) {
        // What comes to a client is passed on, or answered otherwise, which is told next.
        let passed_on = (self.role, way) == (Role::Client, Way::In);
        if let Frame::LeaseDone { lease } | Frame::LeaseLost { lease, .. } = frame {
            self.leases.remove(lease);
        }
        if passed_on {
            return;
        }
        if let Frame::LeaseRefused { lease, .. } = frame {
            self.leases.remove(lease);
        } else if let Frame::JobClose { job } = frame {
            self.jobs.remove(job);
        }
    }

    /// Name of a frame's event; `None` if it has none.
    fn name(&self, frame: &Frame, way: Way) -> Option<&'static str> {
        // Both ends may ask: the client about a gap, the primary about what is there.
        let clients = (self.role == Role::Client) == (way == Way::Out);
        Some(match frame {
            Frame::AddPath(_) | Frame::PathReport { .. } | Frame::RemovePath { .. } | Frame::Drain { .. } => {
                "path_state"
            }
            // The one to a secondary shows the ticket; all others come before there is a log.
            Frame::ClientHello(_) => "path_state",
            Frame::JobOpen(_)
            | Frame::JobAccepted { .. }
            | Frame::JobRefused { .. }
            | Frame::JobClose { .. } => "job",
            Frame::LeaseGrant(_) => "lease_granted",
            Frame::LeaseNotice { .. } => "lease_noticed",
            Frame::LeaseRefused { .. } => "lease_refused",
            Frame::LeaseRevoke { .. } => "lease_revoked",
            Frame::LeaseDone { .. } => "lease_done",
            Frame::LeaseLost { .. } => "lease_lost",
            Frame::StreamMappingUpdate { operation, .. } => match operation {
                MappingOperation::Create => "lease_begun",
                MappingOperation::Update => "lease_cut",
                MappingOperation::Suspend => "lease_suspended",
                MappingOperation::Resume => "lease_resumed",
            },
            Frame::ProgressReport(_) => "progress",
            Frame::Split { .. } => "split",
            Frame::SplitAck { .. } => "split_acknowledged",
            Frame::StreamFinal { .. } => "final",
            Frame::StreamComplete { .. } => "complete",
            Frame::StreamStopped { .. } => "stopped",
            Frame::Credit(_) => "credit",
            Frame::OffsetSyncRequest { .. } => {
                if clients {
                    "gap_asked"
                } else {
                    "sync_asked"
                }
            }
            Frame::OffsetSyncResponse { .. } => {
                if clients {
                    "sync_answered"
                } else {
                    "gap_answered"
                }
            }
            Frame::SessionClose { .. } | Frame::Refuse { .. } => "session_closed",
            Frame::ServerHello(_) => return None,
        })
    }
}

/// Adds what a frame says beside what it is about. Nothing of it is text that a peer wrote.
fn details(data: &mut Record<'_>, frame: &Frame) {
    match frame {
        Frame::AddPath(add) => {
            data.text("state", &"connecting").number("addresses", add.addresses.len() as u64);
        }
        Frame::ClientHello(_) => {
            data.text("state", &"authenticating");
        }
        Frame::PathReport { status, .. } => {
            match status {
                PathStatus::Active => data.text("state", &"active"),
                PathStatus::Degraded => data.text("state", &"degraded"),
                PathStatus::Dead(code) => data.text("state", &"dead").code(*code),
            };
        }
        Frame::RemovePath { code, deadline_ms, .. } => {
            data.text("state", &"draining").number("deadline_ms", *deadline_ms).code(*code);
        }
        Frame::Drain { deadline_ms } => {
            data.text("state", &"draining").number("deadline_ms", *deadline_ms);
        }
        Frame::JobOpen(open) => {
            data.text("state", &"opened").range(open.range).number("total", open.total);
        }
        Frame::JobAccepted { .. } => {
            data.text("state", &"accepted");
        }
        Frame::JobRefused { code, .. } => {
            data.text("state", &"refused").code(*code);
        }
        Frame::JobClose { .. } => {
            data.text("state", &"closed");
        }
        Frame::LeaseGrant(grant) => {
            data.range(grant.range).flag("verified", grant.digest.is_some());
            data.maybe("deadline_ms", grant.deadline_ms);
            data.maybe("hedge_of", grant.hedge_of.map(|lease| lease.into_inner()));
        }
        Frame::LeaseNotice { range, credit, .. } => {
            data.range(*range).number("credit", *credit);
        }
        Frame::LeaseRevoke { keep, code, .. } => {
            data.number("keep", *keep).code(*code);
        }
        Frame::LeaseLost { code, missing, .. } => {
            data.code(*code).ranges("missing", missing);
        }
        Frame::StreamMappingUpdate { range, .. } => {
            data.range(*range);
        }
        Frame::ProgressReport(report) => {
            data.maybe("rtt_us", report.rtt_us).number("late", report.late).number("overlap", report.overlap);
            let bytes =
                report.leases.iter().map(|(_, bytes)| bytes).fold(0, |sum: u64, n| sum.saturating_add(*n));
            data.number("leases", report.leases.len() as u64).number("bytes", bytes);
        }
        Frame::Split { offset, .. } => {
            data.number("offset", *offset);
        }
        Frame::SplitAck { credit, .. } => {
            data.number("credit", *credit);
        }
        Frame::StreamFinal { size, .. } => {
            data.number("size", *size);
        }
        Frame::Credit(Credit::Offset { offset, .. }) => {
            data.text("kind", &"offset").number("offset", *offset);
        }
        Frame::Credit(Credit::Lease { bytes, .. }) => {
            data.text("kind", &"lease").number("bytes", *bytes);
        }
        Frame::Credit(Credit::Run { bytes, .. }) => {
            data.text("kind", &"run").number("bytes", *bytes);
        }
        Frame::OffsetSyncRequest { from, .. } => {
            data.number("offset", *from);
        }
        Frame::OffsetSyncResponse { received, more, .. } => {
            data.ranges("ranges", received).flag("more", *more);
        }
        Frame::LeaseRefused { code, .. }
        | Frame::StreamStopped { code, .. }
        | Frame::SessionClose { code, .. }
        | Frame::Refuse { code, .. } => {
            data.code(*code);
        }
        Frame::LeaseDone { .. } | Frame::StreamComplete { .. } | Frame::ServerHello(_) => {}
    }
}
