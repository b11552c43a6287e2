//! The price of control frames to whoever takes them, and what pays for them. Spec: PROTOCOL §11.2.
//!
//! A peer may send a burst of frames, and some per second. Everything an honest peer has to say beyond that is paid for by
//! what this end has sent it, or by what came of its frames: answers by what asks for them ([`answers_to`]), credit by the
//! bytes that were sent under it (`Link::allow_for_bytes`), new work by the end of old work ([`Account`]). Nothing is earned
//! by a frame alone, so no peer can pay for its frames with frames. What nobody paid for is left unread; QUIC holds the
//! peer back.

use crate::{limits, wire::Frame};

/// A lease that ended otherwise than by its giver's taking it back before a byte of it came: one like it may be given,
/// cut and taken back, and its job closed.
pub(super) const LEASE_OVER: u64 = 4;
/// A job that its primary has signed, or whose server accepts it: it may be closed, and one lease of it be noticed and
/// taken back before a byte is sent.
pub(super) const JOB_GENUINE: u64 = 4;
/// A split stream that is over: another may be split, and its end be said.
pub(super) const STREAM_OVER: u64 = 4;

/// Frames that a sealed job pays for besides, by the bytes that its leases may name: what is asked for and taken back before
/// a byte of it was sent costs two frames each time.
pub(super) fn for_total(total: u64) -> u64 {
    (total / BYTES_PER_ERRAND).min(ERRANDS_OF_JOB_MAX)
}

const BYTES_PER_ERRAND: u64 = 8 * 1024;
const ERRANDS_OF_JOB_MAX: u64 = 1024;

/// Frames that the peer may have to send because it was sent this one.
pub(super) fn answers_to(frame: &Frame) -> u64 {
    match frame {
        // Its reports: attached, silent and heard again a few times, dead.
        Frame::AddPath(_) => 8,
        Frame::RemovePath { .. } => 2,
        // Accepted, and later given up.
        Frame::JobOpen(_) => 2,
        // Begun, stalled and going on twice, its answer; and credit for the primary while nobody owns what lies ahead of
        // it, an eighth of a window each.
        Frame::LeaseGrant(_) => 16,
        // The place of the cut.
        Frame::LeaseRevoke { .. } => 1,
        // Refused, or given back.
        Frame::LeaseNotice { .. } => 1,
        // Its answer, its end, and some questions about holes.
        Frame::Split { .. } => 8,
        // Credit that a lost range needs, and the end.
        Frame::StreamFinal { .. } => 2,
        Frame::OffsetSyncRequest { .. } => SYNC_PAGES,
        Frame::ClientHello(_)
        | Frame::ServerHello(_)
        | Frame::Refuse { .. }
        | Frame::PathReport { .. }
        | Frame::Drain { .. }
        | Frame::JobAccepted { .. }
        | Frame::JobRefused { .. }
        | Frame::JobClose { .. }
        | Frame::LeaseRefused { .. }
        | Frame::LeaseDone { .. }
        | Frame::LeaseLost { .. }
        | Frame::SplitAck { .. }
        | Frame::StreamComplete { .. }
        | Frame::StreamStopped { .. }
        | Frame::Credit(_)
        | Frame::OffsetSyncResponse { .. }
        | Frame::StreamMappingUpdate { .. }
        | Frame::ProgressReport(_)
        | Frame::SessionClose { .. } => 0,
    }
}

/// Pages of what is here of a stream, at most.
const SYNC_PAGES: u64 = (limits::EXTENTS_PER_STREAM / limits::REPEATED_MAX) as u64 + 1;

/// The outcome of frames that the peer of the home connection has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Frames that it may send for that.
    pub(super) earned: u64,
    /// Frames beyond the one it sent that it cost.
    pub(super) charged: u64,
}

impl Account {
    pub(super) fn earn(&mut self, frames: u64) {
        self.earned = self.earned.saturating_add(frames);
    }

    pub(super) fn charge(&mut self, frames: u64) {
        self.charged = self.charged.saturating_add(frames);
    }
}
