//! Reactions to faults, by each strategy. Spec: PROTOCOL §6, §10.

use super::*;
use crate::{
    faults::{AggregationFaults, MappingFaults, MetadataFaults},
    stream::conflict::ConflictPolicy,
};

fn with(change: impl FnOnce(TransportConfig) -> TransportConfig) -> Machine {
    Machine::with(change)
}

fn closed(actions: &[Action]) -> Option<PeerFault> {
    actions.iter().find_map(|action| {
        if let Action::BreakPath { path: PATH, fault } = action { Some(*fault) } else { None }
    })
}

fn stopped(actions: &[Action]) -> Option<ErrorCode> {
    actions.iter().find_map(|action| {
        let Action::Send { frame: Frame::StreamStopped { stream: STREAM, code }, .. } = action else {
            return None;
        };
        Some(*code)
    })
}

/// A lease that is mapped twice, by each strategy.
#[test]
fn a_second_mapping_is_refused_retried_or_ends_the_path() {
    let conflict = ErrorCode::STREAM_MAPPING_CONFLICT;
    for strategy in [MappingFaults::Isolate, MappingFaults::Refuse, MappingFaults::Retry] {
        let mut machine = with(|config| config.mapping_faults(strategy));
        machine.grant(0, range(100, 200));
        assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
        machine.actions();
        let header = StreamHeader::Secondary { lease: LeaseId::new(0), offset: 100 };
        let second = machine.client.on_internal(PATH, stream(11), header);
        assert_eq!(second, Opened::Stop(conflict), "{strategy:?}");
        let actions = machine.actions();
        match strategy {
            MappingFaults::Isolate => assert_eq!(closed(&actions), Some(PeerFault::LeaseTwice)),
            MappingFaults::Refuse => {
                assert_eq!(actions, []);
                assert!(machine.bytes(100), "the first one goes on");
                assert!(machine.actions().contains(&told(Frame::LeaseDone { lease: LeaseId::new(0) })));
            }
            MappingFaults::Retry => {
                assert_eq!(closed(&actions), None);
                assert!(actions.contains(&lost(0, conflict, &[range(100, 200)])), "{actions:?}");
            }
        }
    }
}

#[test]
fn what_is_let_pass_adds_up_and_good_work_takes_it_off() {
    let mut machine = with(|config| config.metadata_faults(MetadataFaults::StopStream).fault_score_max(3));
    let fault = PeerFault::FrameMalformed;
    for lease in 0..4 {
        machine.client.on_metadata_fault(PATH, fault);
        let at = 100 + lease * 10;
        machine.grant(lease, range(at, at + 10));
        assert_eq!(machine.open(PATH, lease, at), Opened::Read);
        assert!(machine.bytes(10));
        machine.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
        assert_eq!(closed(&machine.actions()), None, "each is made up for");
    }
    machine.client.on_metadata_fault(PATH, fault);
    machine.client.on_metadata_fault(PATH, fault);
    assert_eq!(closed(&machine.actions()), None);
    machine.client.on_metadata_fault(PATH, fault);
    assert_eq!(closed(&machine.actions()), Some(fault));

    let mut strict = with(|config| config);
    strict.client.on_metadata_fault(PATH, fault);
    assert_eq!(closed(&strict.actions()), Some(fault));
}

fn lie(machine: &mut Machine, lease: u64, at: u64) -> Vec<Action> {
    machine.primary(Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(lease),
        job: JOB,
        range: range(at, at + 10),
        digest: Some(blake3::hash(b"something").into()),
        deadline_ms: None,
        hedge_of: None,
        progress: false,
    }));
    assert_eq!(machine.open(PATH, lease, at), Opened::Read);
    machine.bytes(10);
    machine.client.settle(machine.now);
    machine.client.audit().unwrap();
    machine.actions()
}

/// Bytes that are not what the primary had promised, by each strategy.
#[test]
fn a_liar_is_named_and_in_the_end_cut_off() {
    let code = ErrorCode::DIGEST_MISMATCH;
    let lost_lease = |lease, at| lost(lease, code, &[range(at, at + 10)]);
    let mut machine = with(|config| config);
    let actions = lie(&mut machine, 0, 100);
    assert!(actions.contains(&lost_lease(0, 100)) && closed(&actions).is_none(), "{actions:?}");
    let actions = lie(&mut machine, 1, 110);
    assert!(actions.contains(&lost_lease(1, 110)), "{actions:?}");
    assert_eq!(closed(&actions), Some(PeerFault::WrongDigest), "twice is enough");

    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::Ignore));
    for lease in 0..20 {
        assert_eq!(closed(&lie(&mut machine, lease, 100 + lease * 10)), None);
    }

    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::Isolate));
    assert_eq!(closed(&lie(&mut machine, 0, 100)), Some(PeerFault::WrongDigest));

    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::CloseStream));
    let actions = lie(&mut machine, 0, 100);
    assert_eq!((stopped(&actions), closed(&actions)), (Some(code), None));
    let missing = range(100, 110);
    let error = ReadError::Incomplete { stream: STREAM, missing, code };
    assert_eq!(machine.client.take_failure(STREAM), Some(error));
}

/// A lease has brought 50 bytes of 7; a hedging run of the primary brings the same range with `bytes`.
fn contradict(machine: &mut Machine, bytes: u8) -> Vec<Action> {
    machine.grant(0, range(100, 200));
    assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
    assert!(machine.bytes(50));
    let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![bytes; 80]));
    machine.client.settle(machine.now);
    machine.client.audit().unwrap();
    machine.actions()
}

#[test]
fn the_primarys_own_bytes_decide_who_was_wrong() {
    let code = ErrorCode::DATA_CONFLICT;
    let mut machine = with(|config| config);
    assert_eq!(closed(&contradict(&mut machine, 7)), None);
    assert_eq!(machine.client.paths[&PATH].score, 0, "they agree");

    let mut machine = with(|config| config);
    let actions = contradict(&mut machine, 8);
    // The run has brought what the lease was to bring up to 180.
    assert!(actions.contains(&lost(0, code, &[range(180, 200)])), "{actions:?}");
    assert_eq!((closed(&actions), machine.client.paths[&PATH].score), (None, 4));

    // However many pieces they come in.
    let mut machine = with(|config| config);
    machine.grant(0, range(100, 200));
    assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
    assert!(machine.bytes(50));
    let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    for _ in 0..10 {
        machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from_static(&[8; 5]));
    }
    assert_eq!((closed(&machine.actions()), machine.client.paths[&PATH].score), (None, 4));

    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::Isolate));
    assert_eq!(closed(&contradict(&mut machine, 8)), Some(PeerFault::Conflict));

    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::CloseStream));
    assert_eq!(stopped(&contradict(&mut machine, 8)), Some(code));
}

/// Bytes that a digest has proved take the place of what is held, whatever the policy, and show whose bytes were wrong.
/// Spec: PROTOCOL §5.4, §6.
#[test]
fn what_a_digest_has_proved_takes_the_place_of_a_lie() {
    let code = ErrorCode::DATA_CONFLICT;
    for policy in [ConflictPolicy::FirstWins, ConflictPolicy::LastWins, ConflictPolicy::PrimaryWins] {
        for liar in [PATH, OTHER] {
            let mut machine = with(|config| config.conflict_policy(policy));
            machine.client.set_conflict_policy(STREAM, policy);
            machine.primary(Frame::JobOpen(job(SECOND_JOB, OTHER)));
            let (honest, its_job, others) =
                if liar == PATH { (OTHER, JOB, SECOND_JOB) } else { (PATH, SECOND_JOB, JOB) };
            // What it lied about is done, and it goes on with the next.
            machine.primary(Frame::LeaseGrant(lease(0, its_job, range(100, 300))));
            machine.open(liar, 0, 100);
            machine.client.on_bytes(liar, FILL, Bytes::from(vec![9; 50]));
            machine.primary(Frame::LeaseGrant(hedging(0, verified(lease(1, others, range(100, 200))))));
            let header = StreamHeader::Secondary { lease: LeaseId::new(1), offset: 100 };
            machine.client.on_internal(honest, stream(11), header);
            machine.client.on_bytes(honest, stream(11), Bytes::from(vec![7; 100]));
            let actions = machine.settled();
            assert!(actions.contains(&lost(0, code, &[range(200, 300)])), "{actions:?}");
            assert!(actions.contains(&told(Frame::LeaseDone { lease: LeaseId::new(1) })), "{actions:?}");
            assert_eq!(machine.client.paths[&liar].score, 4);
            assert_eq!(machine.client.paths[&honest].score, 0);
            let read =
                std::iter::from_fn(|| machine.client.read(machine.now, STREAM, 1000, true).ok().flatten());
            assert!(read.flat_map(|chunk| chunk.bytes).eq([7; 100]), "{policy:?}");
            machine.client.audit().unwrap();
        }
    }
}

/// It is not forgotten because all that its lease was to bring is here now.
#[test]
fn a_lie_under_a_hedge_of_all_of_it_is_held_against_the_liar() {
    let mut machine = with(|config| config);
    machine.primary(Frame::JobOpen(job(SECOND_JOB, OTHER)));
    machine.grant(0, range(100, 200));
    machine.open(PATH, 0, 100);
    machine.client.on_bytes(PATH, FILL, Bytes::from(vec![9; 50]));
    machine.primary(Frame::LeaseGrant(hedging(0, verified(lease(1, SECOND_JOB, range(100, 200))))));
    let header = StreamHeader::Secondary { lease: LeaseId::new(1), offset: 100 };
    machine.client.on_internal(OTHER, stream(11), header);
    machine.actions();
    machine.client.on_bytes(OTHER, stream(11), Bytes::from(vec![7; 100]));
    assert!(machine.actions().contains(&lost(0, ErrorCode::DATA_CONFLICT, &[])));
    assert_eq!(machine.client.paths[&PATH].score, 4);
}

impl Machine {
    /// A path brings what is wrong, under a lease that is done.
    fn lie_before(&mut self) {
        self.grant(0, range(100, 150));
        self.open(PATH, 0, 100);
        self.client.on_bytes(PATH, FILL, Bytes::from(vec![9; 50]));
        self.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
    }
}

/// A server that lied and then brings what was promised keeps what it has done right.
#[test]
fn a_verified_lease_counts_though_its_own_server_lied_before() {
    let mut machine = with(|config| config);
    machine.lie_before();
    machine.primary(Frame::LeaseGrant(verified(lease(1, JOB, range(100, 200)))));
    machine.open(PATH, 1, 100);
    machine.actions();
    machine.bytes(100);
    let actions = machine.actions();
    assert!(actions.contains(&told(Frame::LeaseDone { lease: LeaseId::new(1) })), "{actions:?}");
    assert_eq!(machine.client.read(machine.now, STREAM, 50, true).unwrap().unwrap().bytes[..], [7; 50]);
    machine.client.audit().unwrap();
}

/// A lease is still its server's while its last piece is looked at.
#[test]
fn a_lie_in_the_last_piece_is_one_too() {
    let mut machine = with(|config| config);
    let header = StreamHeader::Internal { stream: STREAM, offset: 100 };
    machine.grant(0, range(100, 200));
    assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
    assert_eq!(machine.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    machine.client.on_bytes(PathId::PRIMARY, RUN, Bytes::from(vec![8; 50]));
    machine.actions();
    machine.bytes(100);
    let lost = lost(0, ErrorCode::DATA_CONFLICT, &[]);
    assert!(machine.actions().contains(&lost));
    assert_eq!(machine.client.paths[&PATH].score, 4);
}

/// Whoever is closed for what it did before has still brought what it has proved.
#[test]
fn what_was_proved_counts_whatever_becomes_of_its_server() {
    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::Isolate));
    machine.lie_before();
    machine.primary(Frame::LeaseGrant(verified(lease(1, JOB, range(100, 4900)))));
    machine.open(PATH, 1, 100);
    machine.actions();
    for _ in 0..4 {
        machine.bytes(1200);
    }
    let actions = machine.actions();
    assert!(actions.contains(&told(Frame::LeaseDone { lease: LeaseId::new(1) })), "{actions:?}");
    assert_eq!(closed(&actions), Some(PeerFault::Conflict));
    machine.client.audit().unwrap();
}

#[test]
fn a_stream_that_rejects_conflicts_names_both_sources() {
    let mut machine = with(|config| config.aggregation_faults(AggregationFaults::Ignore));
    machine.client.set_conflict_policy(STREAM, ConflictPolicy::Reject);
    let actions = contradict(&mut machine, 8);
    assert_eq!(stopped(&actions), Some(ErrorCode::DATA_CONFLICT));
    assert!(actions.contains(&Action::Notify(Event::Readable(STREAM))));
    let error = machine.client.take_failure(STREAM).unwrap();
    let sources = [Some(PATH), Some(PathId::PRIMARY)];
    assert_eq!(error, ReadError::Conflict { stream: STREAM, range: range(100, 150), sources });
    assert_eq!(error.to_string(), "stream 1: path 1 and the primary disagree about bytes 100..150");
    assert_eq!(machine.client.take_failure(STREAM), None);
    machine.client.audit().unwrap();

    let mut machine = with(|config| config);
    machine.client.set_conflict_policy(STREAM, ConflictPolicy::Reject);
    assert_eq!(stopped(&contradict(&mut machine, 7)), None, "the same bytes twice are no conflict");
}

/// A server that could not be reached is left alone for a while, and another address of its taken.
#[test]
fn an_address_that_failed_is_not_dialled_again_at_once() {
    let mut machine = Machine::new();
    let add = |path: u32, ports: &[u16]| {
        Frame::AddPath(AddPath {
            path: PathId::new(path),
            addresses: ports.iter().map(|&port| ([127, 0, 0, 1], port).into()).collect(),
            server_name: "secondary.test".to_owned(),
            pins: smallvec![],
            ticket: Bytes::from_static(b"ticket"),
        })
    };
    let dialled = |actions: &[Action]| {
        actions.iter().find_map(|action| {
            if let Action::Dial { remote, .. } = action { Some(remote.port()) } else { None }
        })
    };
    machine.primary(add(3, &[4433, 4434]));
    assert_eq!(dialled(&machine.actions()), Some(4433));
    machine.client.on_path_lost(PathId::new(3), ErrorCode::PATH_DEAD);
    machine.primary(add(4, &[4433, 4434]));
    assert_eq!(dialled(&machine.actions()), Some(4434), "the other address");
    machine.primary(add(5, &[4433]));
    let refused = PathStatus::Dead(ErrorCode::PATH_DEAD);
    assert!(machine.actions().contains(&told(Frame::PathReport { path: PathId::new(5), status: refused })));
    machine.settled();
    machine.now += Duration::from_secs(2);
    machine.primary(add(6, &[4433]));
    assert_eq!(dialled(&machine.actions()), Some(4433));
}

/// It is the primary that says where pieces lie: a server that was given too scattered ones loses a lease, and not its path.
#[test]
fn pieces_that_lie_too_scattered_are_not_held_against_their_server() {
    let mut machine = Machine::new();
    let mut lost = Vec::new();
    let mut earned = 0;
    for lease in 0..limits::EXTENTS_PER_STREAM as u64 + 10 {
        let start = 200 + lease * 2;
        machine.grant(lease, range(start, start + 1));
        assert_eq!(machine.open(PATH, lease, start), Opened::Read);
        machine.bytes(1);
        let actions = machine.settled();
        let closed = |action: &Action| {
            matches!(
                action,
                Action::BreakPath { .. } | Action::ClosePath { .. } | Action::CloseSession { .. }
            )
        };
        assert!(!actions.iter().any(closed), "{lease}: {actions:?}");
        lost.extend(actions.into_iter().filter_map(|action| {
            let Action::Send { frame: Frame::LeaseLost { lease, code, .. }, .. } = action else {
                return None;
            };
            Some((lease.into_inner(), code))
        }));
        earned += machine.client.take_account().earned;
        machine.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
    }
    assert_eq!(lost.len(), 10, "{lost:?}");
    assert!(lost.iter().all(|(_, code)| *code == ErrorCode::LIMIT_EXCEEDED), "{lost:?}");
    let paid = limits::EXTENTS_PER_STREAM as u64 * crate::session::price::LEASE_OVER;
    assert_eq!(earned, paid, "those that are lost pay for nothing");
}
