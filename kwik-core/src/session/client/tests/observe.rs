//! The counters agree with what was done. Spec: RATIONALE §12.

use super::*;
use crate::stats::{SessionStats, StreamStats};

const MS: Duration = Duration::from_millis(1);

impl Machine {
    fn stats(&self) -> SessionStats {
        let mut stats = SessionStats::default();
        self.client.add_stats(self.now, &mut stats);
        stats
    }

    fn stream_stats(&self) -> StreamStats {
        self.client.stream_stats(self.now, STREAM).expect("the stream is split")
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.settled();
    }

    fn read(&mut self, ordered: bool) -> Result<Option<Chunk>, ReadError> {
        self.client.read(self.now, STREAM, usize::MAX, ordered)
    }
}

/// Two leases, of which the second is filled first.
fn out_of_order() -> Machine {
    let mut machine = Machine::new();
    machine.grant(0, range(100, 200));
    machine.grant(1, range(200, 1000));
    let header = StreamHeader::Secondary { lease: LeaseId::new(1), offset: 200 };
    assert_eq!(machine.client.on_internal(PATH, RUN, header), Opened::Read);
    machine.client.on_bytes(PATH, RUN, Bytes::from(vec![7; 800]));
    machine.after(Duration::ZERO);
    machine
}

#[test]
fn bytes_behind_a_hole_are_the_reorder_depth_and_wait() {
    let mut machine = out_of_order();
    assert_eq!(machine.read(true), Err(ReadError::Blocked));
    machine.after(MS * 30);
    let stats = machine.stream_stats();
    assert_eq!(stats.missing, Some(range(100, 200)));
    assert_eq!((stats.held_bytes, stats.highest_offset, stats.extents), (800, 1000, 1));
    assert_eq!((stats.reassembly.reorder_depth, stats.reassembly.hole_time), (800, MS * 30));
    assert_eq!((stats.reassembly.reader_waits, stats.reassembly.reader_wait), (1, MS * 30));

    machine.open(PATH, 0, 100);
    machine.bytes(100);
    machine.after(MS * 10);
    machine.after(MS * 50);
    let stats = machine.stream_stats();
    assert_eq!((stats.missing, stats.leases), (None, 0));
    assert_eq!(stats.sources, BTreeMap::from([(PATH, 900)]));
    let reassembly = stats.reassembly;
    assert_eq!((reassembly.reorder_depth, reassembly.reorder_depth_max), (0, 800));
    assert_eq!((reassembly.hole_time, reassembly.hole_time_max), (MS * 40, MS * 40));
    assert_eq!(reassembly.delay_mean, MS * 40 * 800 / 900);
    assert_eq!(reassembly.reader_wait, MS * 40);
}

#[test]
fn nothing_is_held_up_for_a_reader_out_of_order() {
    let mut machine = out_of_order();
    machine.after(MS * 30);
    machine.now += MS * 10;
    assert_eq!(machine.read(false).unwrap().unwrap().offset, 200);
    machine.after(MS * 50);
    let reassembly = machine.stream_stats().reassembly;
    assert_eq!((reassembly.reorder_depth, reassembly.hole_time), (0, MS * 40));
}

#[test]
fn a_server_without_credit_waits_for_the_reader() {
    let mut machine = Machine::new();
    let window = machine.stream_stats().window;
    machine.grant(0, range(100, 100 + 2 * window));
    machine.settled();
    machine.open(PATH, 0, 100);
    machine.bytes(usize::try_from(window).unwrap());
    machine.after(Duration::ZERO);
    machine.after(MS * 70);
    assert_eq!(machine.stream_stats().reassembly.credit_wait, MS * 70);
    let lease = machine.client.lease_stats(LeaseId::new(0)).unwrap();
    assert_eq!((lease.placed, lease.credit, lease.begun), (window, window, true));

    assert!(machine.read(true).unwrap().is_some());
    machine.after(MS * 5);
    machine.after(MS * 1000);
    let credited = machine.client.lease_stats(LeaseId::new(0)).unwrap().credit;
    assert!(credited > window);
    assert_eq!(machine.stream_stats().reassembly.credit_wait, MS * 75);
}

#[test]
fn what_the_primary_takes_back_is_stolen_and_what_is_broken_is_a_fault() {
    let mut machine = Machine::new();
    for (lease, keep) in [(0, 0), (1, 10), (2, 1000)] {
        machine.grant(lease, range(100 + lease * 1000, 600 + lease * 1000));
        machine.primary(Frame::LeaseRevoke {
            lease: LeaseId::new(lease),
            keep,
            code: ErrorCode::LEASE_REVOKED,
        });
    }
    machine.secondary(OTHER, Frame::SplitAck { stream: STREAM, credit: 0 });
    let stats = machine.stats();
    let source = stats.sources[&PATH];
    assert_eq!((source.leases_stolen, source.leases_lost, source.leases), (2, 1, 2));
    assert_eq!(source.state, Some(crate::action::PathState::Active));
    let fault = PeerFault::FrameUnexpected;
    assert_eq!(stats.sources[&OTHER].state, Some(crate::action::PathState::Dead(fault.code())));
    assert_eq!(stats.faults, BTreeMap::from([(fault, 1)]));
    assert_eq!(stats.streams, 1);
}

/// Figures of ended streams stay in the session's, and what still goes on ends with them.
#[test]
fn figures_of_ended_streams_are_kept() {
    let mut machine = out_of_order();
    machine.after(MS * 30);
    machine.client.stop(STREAM, ErrorCode::from_u32(1));
    machine.after(MS * 100);
    assert_eq!(machine.client.stream_stats(machine.now, STREAM), None);
    let stats = machine.stats();
    assert_eq!((stats.streams, stats.held_bytes), (0, 0));
    assert_eq!((stats.reassembly.bytes, stats.reassembly.reorder_depth), (800, 0));
    assert_eq!((stats.reassembly.hole_time, stats.reassembly.reorder_depth_max), (MS * 30, 800));
}

#[test]
fn gaps_are_counted_and_have_an_age() {
    let mut machine = out_of_order();
    machine.primary(Frame::LeaseRevoke { lease: LeaseId::new(0), keep: 0, code: ErrorCode::LEASE_REVOKED });
    assert_eq!(machine.read(true), Err(ReadError::Blocked));
    machine.after(Duration::ZERO);
    machine.after(limits::STALL_MIN);
    machine.client.handle_timeout(machine.now);
    let stats = machine.stream_stats();
    assert_eq!((stats.gap_age, stats.reassembly.gaps_asked), (Some(limits::STALL_MIN), 1));
    machine.primary(Frame::OffsetSyncResponse { stream: STREAM, received: smallvec![], more: false });
    machine.after(limits::GAP_TIMEOUT);
    machine.client.handle_timeout(machine.now);
    assert!(matches!(machine.read(true), Err(ReadError::Incomplete { .. })));
    assert_eq!(machine.stream_stats().reassembly.gaps_told, 1);
}
