//! Services that a client does its primary only as long as something comes of them, and what it says to whom.
//! Spec: PROTOCOL §6, §11.

use super::*;
use crate::{session::price as prices, wire::Credit};

fn notices(actions: &[Action]) -> usize {
    let notice = |action: &&Action| matches!(action, Action::Send { frame: Frame::LeaseNotice { .. }, .. });
    actions.iter().filter(notice).count()
}

/// A primary cannot use its clients to flood a server: what it gives and takes back comes to an end. Spec: PROTOCOL §9.
#[test]
fn leases_that_are_taken_back_are_soon_passed_on_no_more() {
    let mut machine = Machine::new();
    let mut told = 0;
    for lease in 0..20_000 {
        told += notices(&machine.grant(lease, range(200, 300)));
        machine.primary(Frame::LeaseRevoke {
            lease: LeaseId::new(lease),
            keep: 0,
            code: ErrorCode::NO_ERROR,
        });
        machine.actions();
    }
    assert!(told as u64 <= limits::ERRANDS_BURST, "{told} notices");
    assert_eq!(machine.client.take_account(), Account::default(), "nothing is earned by that");
    machine.now += Duration::from_secs(10);
    let told: usize = (20_000..21_000)
        .map(|lease| {
            let told = notices(&machine.grant(lease, range(200, 300)));
            machine.primary(Frame::LeaseRevoke {
                lease: LeaseId::new(lease),
                keep: 0,
                code: ErrorCode::NO_ERROR,
            });
            machine.actions();
            told
        })
        .sum();
    assert!(told as u64 <= 10 * limits::ERRANDS_RATE, "{told} notices in ten seconds");
}

/// Deadlines that nobody could meet, and streams that are reset, are no better than taking back.
#[test]
fn leases_without_a_chance_pay_for_nothing() {
    let mut machine = Machine::new();
    let hopeless = LeaseGrant { deadline_ms: Some(0), ..lease(0, JOB, range(200, 300)) };
    machine.primary(Frame::LeaseGrant(hopeless));
    machine.client.handle_timeout(machine.now);
    machine.grant(1, range(200, 300));
    machine.client.on_native_reset(STREAM);
    assert_eq!(machine.client.take_account().earned, prices::STREAM_OVER, "the stream is over, no more");
    machine.actions();
}

/// Whatever an honest primary does with small objects is paid for by the objects: one lease each, done, refused or stopped.
#[test]
fn what_comes_to_an_end_pays_for_the_next() {
    let mut machine = Machine::new();
    machine.client.take_account();
    for round in 0..3_000_u64 {
        let id = stream(1_000 * 4 + round * 4 + 3);
        let job = JobId::new(round + 10);
        let lease = LeaseId::new(round);
        machine.primary(Frame::Split { stream: id, offset: 0 });
        let open = JobOpen { stream: id, range: range(0, 1000), ..super::job(job, PATH) };
        machine.primary(Frame::JobOpen(open));
        let grant = LeaseGrant { job, ..super::lease(round, job, range(0, 1000)) };
        machine.primary(Frame::LeaseGrant(grant));
        let mut frames = 5; // the end and the closing of the job are yet to come
        machine.secondary(PATH, Frame::JobAccepted { job });
        assert_eq!(notices(&machine.settled()), 1, "round {round}");
        match round % 3 {
            0 => {
                let header = StreamHeader::Secondary { lease, offset: 0 };
                assert_eq!(machine.client.on_internal(PATH, FILL, header), Opened::Read);
                machine.client.on_bytes(PATH, FILL, Bytes::from(vec![7; 1000]));
                machine.client.on_internal_end(PATH, FILL, InternalEnd::Fin);
                machine.primary(Frame::StreamFinal { stream: id, size: 1000 });
                while let Ok(Some(_)) = machine.client.read(machine.now, id, usize::MAX, true) {}
            }
            1 => machine.client.stop(id, ErrorCode::from_u32(7)),
            _ => {
                machine.secondary(PATH, Frame::LeaseRefused { lease, code: ErrorCode::from_u32(404) });
                machine.primary(Frame::LeaseRevoke { lease, keep: 0, code: ErrorCode::LEASE_REVOKED });
                frames += 1;
                machine.client.stop(id, ErrorCode::from_u32(7));
            }
        }
        machine.primary(Frame::JobClose { job });
        machine.settled();
        let earned = machine.client.take_account().earned;
        assert!(earned >= frames, "round {round}: {earned} earned for {frames}");
    }
}

/// An answer is passed on once, and again only if it is another.
#[test]
fn a_job_that_is_accepted_twice_is_told_once() {
    let mut machine = Machine::new();
    machine.secondary(PATH, Frame::JobAccepted { job: JOB });
    assert_eq!(machine.actions(), [told(Frame::JobAccepted { job: JOB })]);
    machine.secondary(PATH, Frame::JobAccepted { job: JOB });
    assert!(machine.actions().is_empty());
    assert_eq!(machine.client.take_account().earned, prices::JOB_GENUINE, "and pays once");
    let code = ErrorCode::from_u32(404);
    machine.secondary(PATH, Frame::JobRefused { job: JOB, code });
    assert_eq!(machine.actions(), [told(Frame::JobRefused { job: JOB, code })]);
}

/// Credit goes to those who can use it. What secondaries are to bring, the primary does not write.
#[test]
fn a_primary_that_does_not_write_is_told_of_no_credit() {
    let credits = |actions: &[Action]| -> Vec<(PathId, u64)> {
        let credit = |action: &Action| {
            let Action::Send { path, frame: Frame::Credit(Credit::Offset { offset, .. }) } = action else {
                return None;
            };
            Some((*path, *offset))
        };
        actions.iter().filter_map(credit).collect()
    };
    let mut machine = Machine::new();
    let len = 4 * limits::STREAM_WINDOW;
    machine.grant(0, range(100, 100 + len));
    assert_eq!(machine.open(PATH, 0, 100), Opened::Read);
    machine.settled();
    let mut told = Vec::new();
    for _ in 0..len / 65_536 {
        machine.now += Duration::from_millis(100); // so that the window does not grow
        assert!(machine.bytes(65_536));
        let read = machine.client.read(machine.now, STREAM, usize::MAX, true);
        assert!(matches!(read, Ok(Some(_))), "{read:?}");
        told.extend(credits(&machine.settled()));
        if machine.client.leases.is_empty() {
            break;
        }
        let known = told.iter().any(|&(path, _)| path == PathId::PRIMARY);
        let beyond = machine.client.streams[&STREAM].max_offset() > 100 + len;
        assert!(!known || beyond, "told of what the lease is to bring");
    }
    let secondary = told.iter().filter(|(path, _)| *path == PATH).count();
    assert!(secondary >= 24, "an eighth of the window each");
    // What lies behind the lease is nobody's, so the primary may write it.
    assert!(told.iter().any(|&(path, offset)| path == PathId::PRIMARY && offset > 100 + len), "{told:?}");
    // A lease that is lost is the primary's to fill, and it has credit for that with the news.
    machine.grant(1, range(100 + len, 100 + 4 * len));
    machine.primary(Frame::Split { stream: stream(5), offset: 0 });
    machine.settled();
    let before = machine.client.streams[&STREAM].primary_offset();
    machine.client.streams.get_mut(&STREAM).unwrap().read(0, true);
    machine.secondary(PATH, Frame::LeaseRefused { lease: LeaseId::new(1), code: ErrorCode::from_u32(1) });
    machine.settled();
    let stream = &machine.client.streams[&STREAM];
    assert_eq!(stream.primary_offset(), stream.max_offset(), "{before}");
}
