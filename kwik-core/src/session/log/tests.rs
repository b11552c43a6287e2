//! Frames and decisions in, records out.

use std::sync::mpsc;

use smallvec::smallvec;

use super::*;
use crate::{
    error::{ErrorCode, PeerFault},
    wire::{Credit, JobOpen, LeaseGrant, MappingOperation, PathStatus},
};

const PATH: PathId = PathId::new(1);
const JOB: JobId = JobId::new(2);
const LEASE: LeaseId = LeaseId::new(7);

/// Hands on what is written; fails once nobody takes it.
struct Sink(mpsc::Sender<String>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Case {
    log: Log,
    now: Instant,
    written: mpsc::Receiver<String>,
}

impl Case {
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn new(role: Role, own: PathId) -> Self {
        let now = Instant::now();
        let (to, written) = mpsc::channel();
        let session = SessionId::new([9; 16]);
        let before = Duration::from_micros(1500);
        let log = Log::new(Box::new(Sink(to)), session, (role, own), now, before);
        Self { log, now, written }
    }

    fn sends(&mut self, path: PathId, frame: Frame) -> String {
        self.log.on_action(self.now, &Action::Send { path, frame });
        self.data()
    }

    fn takes(&mut self, path: PathId, frame: Frame) -> String {
        self.log.on_frame(self.now, path, &frame);
        self.data()
    }

    /// The last event without what all have in common.
    fn data(&self) -> String {
        let text = self.written.try_iter().last().unwrap_or_default();
        let start = "\u{1e}{\"time\":0.000,\"name\":\"kwik:";
        text.trim_end().trim_start_matches(start).replace('"', "")
    }
}

fn stream() -> StreamId {
    StreamId::from_u64(3).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).unwrap()
}

fn job() -> Frame {
    Frame::JobOpen(JobOpen {
        job: JOB,
        path: PATH,
        stream: stream(),
        range: range(0, 100),
        total: 400,
        expiry: 1,
        payload: bytes::Bytes::from_static(b"a secret"),
        seal: crate::id::Signature::new([0; 64]),
    })
}

fn grant() -> Frame {
    let (deadline_ms, hedge_of) = (None, Some(LeaseId::new(3)));
    Frame::LeaseGrant(LeaseGrant {
        lease: LEASE,
        job: JOB,
        range: range(0, 50),
        digest: Some([0; 32]),
        deadline_ms,
        hedge_of,
        progress: false,
    })
}

#[test]
fn the_header_says_whose_log_it_is() {
    let case = Case::new(Role::Client, PathId::PRIMARY);
    assert_eq!(
        case.written.recv().unwrap(),
        concat!(
            "\u{1e}{\"qlog_version\":\"0.3\",\"qlog_format\":\"JSON-SEQ\",\"trace\":{",
            "\"vantage_point\":{\"type\":\"client\"},\"common_fields\":{",
            "\"group_id\":\"09090909090909090909090909090909\",\"time_format\":\"relative\",",
            "\"reference_time\":1.500,\"role\":\"Client\"}}}\n"
        )
    );
}

/// A lease is known by its path and stream in every event, though its frames have but its number.
#[test]
fn the_life_of_a_lease() {
    let mut case = Case::new(Role::Client, PathId::PRIMARY);
    let primary = PathId::PRIMARY;
    let mapping = |operation| Frame::StreamMappingUpdate {
        operation,
        stream: stream(),
        lease: LEASE,
        range: range(0, 50),
    };
    let code = ErrorCode::LEASE_REVOKED;
    let told = [
        case.takes(primary, job()),
        case.sends(PATH, job()),
        case.takes(PATH, Frame::JobAccepted { job: JOB }),
        case.takes(primary, grant()),
        case.sends(PATH, Frame::LeaseNotice { lease: LEASE, job: JOB, range: range(0, 50), credit: 20 }),
        case.sends(primary, mapping(MappingOperation::Create)),
        case.sends(PATH, Frame::Credit(Credit::Lease { lease: LEASE, bytes: 50 })),
        case.sends(primary, mapping(MappingOperation::Suspend)),
        case.takes(primary, Frame::LeaseRevoke { lease: LEASE, keep: 0, code }),
        case.sends(primary, Frame::LeaseLost { lease: LEASE, code, missing: smallvec![range(30, 50)] }),
        case.sends(primary, Frame::LeaseDone { lease: LEASE }),
    ];
    let of = "path:1,stream:3,job:2";
    let lease = "path:1,stream:3,lease:7";
    assert_eq!(
        told,
        [
            format!("job,data:{{from:0,{of},state:opened,start:0,end:100,total:400}}}}"),
            format!("job,data:{{to:1,{of},state:opened,start:0,end:100,total:400}}}}"),
            format!("job,data:{{from:1,{of},state:accepted}}}}"),
            format!("lease_granted,data:{{from:0,{of},lease:7,start:0,end:50,verified:true,hedge_of:3}}}}"),
            format!("lease_noticed,data:{{to:1,{of},lease:7,start:0,end:50,credit:20}}}}"),
            format!("lease_begun,data:{{to:0,{lease},start:0,end:50}}}}"),
            format!("credit,data:{{to:1,{lease},kind:lease,bytes:50}}}}"),
            format!("lease_suspended,data:{{to:0,{lease},start:0,end:50}}}}"),
            format!("lease_revoked,data:{{from:0,{lease},keep:0,code:LEASE_REVOKED}}}}"),
            format!("lease_lost,data:{{to:0,{lease},code:LEASE_REVOKED,missing:[[30,50]]}}}}"),
            // It is over and forgotten: what would be said of it now has no more than its number.
            "lease_done,data:{to:0,path:0,lease:7}}".to_owned(),
        ]
    );
}

#[test]
fn faults_are_told_from_ends() {
    let mut case = Case::new(Role::Client, PathId::PRIMARY);
    case.data();
    let mut carried_out = |action| {
        case.log.on_action(case.now, &action);
        case.data()
    };
    assert_eq!(
        carried_out(Action::ClosePath { path: PATH, code: ErrorCode::LEASE_VIOLATION }),
        "",
        "no judgement"
    );
    let told = carried_out(Action::BreakPath { path: PATH, fault: PeerFault::BytesPastLease });
    assert_eq!(told, "fault,data:{path:1,code:LEASE_VIOLATION,rule:sent bytes outside its lease}}");
    let told = carried_out(Action::CloseSession { fault: PeerFault::RunTooFar });
    assert_eq!(told, "fault,data:{path:0,code:OFFSET_OVERFLOW,rule:wrote beyond the largest offset}}");
    let report = Frame::PathReport { path: PATH, status: PathStatus::Dead(ErrorCode::from_u32(5)) };
    assert_eq!(case.sends(PathId::PRIMARY, report), "path_state,data:{to:0,path:1,state:dead,code:5}}");
}

/// The only path of a secondary is known by what the primary calls it.
#[test]
fn a_secondary_knows_its_path() {
    let mut case = Case::new(Role::Secondary, PATH);
    let credit = Frame::Credit(Credit::Offset { stream: stream(), offset: 9 });
    assert_eq!(
        case.takes(PathId::PRIMARY, credit),
        "credit,data:{from:1,path:1,stream:3,kind:offset,offset:9}}"
    );
}

/// The role tells whose question it is: both are the same frame.
#[test]
fn a_gap_is_the_clients_question() {
    let ask = || Frame::OffsetSyncRequest { stream: stream(), from: 9 };
    let mut client = Case::new(Role::Client, PathId::PRIMARY);
    assert!(client.sends(PathId::PRIMARY, ask()).starts_with("gap_asked,"));
    assert!(client.takes(PathId::PRIMARY, ask()).starts_with("sync_asked,"));
    let mut primary = Case::new(Role::Primary, PathId::PRIMARY);
    assert!(primary.takes(PathId::PRIMARY, ask()).starts_with("gap_asked,"));
    assert!(primary.sends(PathId::PRIMARY, ask()).starts_with("sync_asked,"));
}

#[test]
fn what_is_remembered_of_leases_is_bounded() {
    let mut case = Case::new(Role::Secondary, PATH);
    case.takes(PathId::PRIMARY, job());
    for n in 0..limits::LEASES_PER_SESSION as u64 + 10 {
        let notice = Frame::LeaseNotice { lease: LeaseId::new(n), job: JOB, range: range(0, 1), credit: 0 };
        case.takes(PathId::PRIMARY, notice);
    }
    assert_eq!(case.log.leases.len(), limits::LEASES_PER_SESSION);
}

#[test]
fn a_writer_that_fails_is_not_tried_again() {
    let mut case = Case::new(Role::Client, PathId::PRIMARY);
    (case.written, _) = {
        let (to, from) = mpsc::channel();
        (from, to)
    };
    case.takes(PathId::PRIMARY, job());
    assert!(case.log.over);
    case.log.on_lost(case.now, &ConnectionError::TimedOut);
}
