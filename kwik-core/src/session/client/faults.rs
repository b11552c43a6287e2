//! Reactions to a secondary that breaks a rule, as far as the application has a say in them. Spec: PROTOCOL §10.

use super::Client;
use crate::{
    error::{ErrorCode, PeerFault, ReadError},
    faults::{AggregationFaults, MappingFaults, MetadataFaults},
    id::{ByteRange, LeaseId, PathId, StreamId},
    session::action::{Action, Opened},
    stream::{conflict::Difference, recv::By},
};

/// Weight of one breach that was let pass.
const BREACH: u32 = 1;
/// Weight of bytes that were not what they should be: somebody has relied on them.
const LIE: u32 = 4;

impl Client {
    /// An internal stream was opened for what its path may not fill, or fills already.
    pub(super) fn on_mapping_fault(
        &mut self,
        path: PathId,
        lease: Option<LeaseId>,
        fault: PeerFault,
    ) -> Opened {
        match self.config.mapping_faults {
            MappingFaults::Isolate => self.fault(path, fault),
            MappingFaults::Refuse => self.hold_against(path, BREACH, fault),
            MappingFaults::Retry => {
                let own = lease.filter(|&id| self.leases.get(id).is_some_and(|lease| lease.path() == path));
                if let Some(lease) = own {
                    self.lose_lease(lease, fault.code(), true);
                }
                self.hold_against(path, BREACH, fault);
            }
        }
        Opened::Stop(fault.code())
    }

    /// The header of an internal stream is no header, or one that its sender may not use. The stream is to be stopped.
    pub(in crate::session) fn on_metadata_fault(&mut self, path: PathId, fault: PeerFault) {
        match self.config.metadata_faults {
            MetadataFaults::Isolate => self.fault(path, fault),
            MetadataFaults::StopStream => self.hold_against(path, BREACH, fault),
        }
    }

    /// The bytes of a verified lease, which has ended, were not what the primary had promised.
    pub(super) fn on_wrong_digest(&mut self, path: PathId, stream: StreamId, range: ByteRange) {
        let fault = PeerFault::WrongDigest;
        match self.config.aggregation_faults {
            AggregationFaults::ReLease => self.hold_against(path, LIE, fault),
            AggregationFaults::Ignore => self.observed.on_fault(fault),
            AggregationFaults::CloseStream => {
                let failure = ReadError::Incomplete { stream, missing: range, code: fault.code() };
                self.fail_stream(stream, fault, failure);
            }
            AggregationFaults::Isolate => self.fault(path, fault),
        }
    }

    /// Two sources have brought different bytes. That is evidence and not guilt, unless the primary has spoken: it is one of
    /// them, or has promised what `source` brought.
    pub(super) fn on_difference(&mut self, source: PathId, stream: StreamId, difference: Difference, by: By) {
        let Difference { range, held } = difference;
        let fault = PeerFault::Conflict;
        let failure = ReadError::Conflict { stream, range, sources: [held, Some(source)] };
        if self.streams.get(&stream).is_some_and(|stream| stream.rejects_conflicts()) {
            return self.fail_stream(stream, fault, failure);
        }
        let liar = match (by, held) {
            (By::Run | By::Verified, Some(held)) if !held.is_primary() => held,
            (By::Lease, Some(PathId::PRIMARY)) => source,
            (By::Lease | By::Run | By::Verified, _) => return,
        };
        match self.config.aggregation_faults {
            AggregationFaults::ReLease => {
                // Once for each lease, however many pieces its bytes come in.
                let there = self.leases.overlapping(stream, range).find(|(_, lease)| lease.path() == liar);
                let lease = there.map(|(id, _)| id);
                if let Some(lease) = lease {
                    self.lose_lease(lease, fault.code(), true);
                    self.hold_against(liar, LIE, fault);
                }
            }
            AggregationFaults::Ignore => self.observed.on_fault(fault),
            AggregationFaults::CloseStream => self.fail_stream(stream, fault, failure),
            AggregationFaults::Isolate => self.fault(liar, fault),
        }
    }

    /// The reader of a stream has waited long enough for what nobody is to bring. Returns whether the stream goes on.
    pub(super) fn outlives_gap(&mut self, stream: StreamId, missing: ByteRange) -> bool {
        let fault = PeerFault::GapUnfilled;
        let goes_on = self.config.aggregation_faults != AggregationFaults::CloseStream;
        if !goes_on {
            self.fail_stream(stream, fault, ReadError::Incomplete { stream, missing, code: fault.code() });
        }
        goes_on
    }

    /// Counts a fault that is let pass. Past the threshold the path is closed, with the last one for a reason.
    fn hold_against(&mut self, path: PathId, weight: u32, fault: PeerFault) {
        let Some(state) = self.paths.get_mut(&path).filter(|path| path.state.is_live()) else {
            return;
        };
        state.score = state.score.saturating_add(weight);
        if state.score >= self.config.fault_score_max {
            self.fault(path, fault);
        } else {
            tracing::debug!(%path, %fault, score = state.score, "let pass");
            self.observed.on_fault(fault);
        }
    }

    /// A path has done what it should.
    pub(super) fn forgive(&mut self, path: PathId) {
        if let Some(path) = self.paths.get_mut(&path) {
            path.score = path.score.saturating_sub(BREACH);
        }
    }

    /// Gives a stream up on this end: its reader gets `error`, its leases end, the primary is told the code.
    fn fail_stream(&mut self, stream: StreamId, fault: PeerFault, error: ReadError) {
        if self.streams.contains_key(&stream) {
            self.observed.on_fault(fault);
            // The other servers' leases end for no fault of theirs.
            self.end_stream(stream, ErrorCode::STREAM_CLOSED);
            self.tell_primary(crate::wire::Frame::StreamStopped { stream, code: fault.code() });
            self.failed.insert(stream, error);
            self.actions.push_back(Action::Notify(crate::action::Event::Readable(stream)));
        }
    }

    /// Takes why a stream was given up, for its reader.
    pub(in crate::session) fn take_failure(&mut self, stream: StreamId) -> Option<ReadError> {
        self.failed.remove(&stream)
    }
}
