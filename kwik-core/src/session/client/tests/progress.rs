//! Reports of what comes of leases: to whoever asks, and no more than there is to tell. Spec: PROTOCOL §7.28.

use super::*;
use crate::{action::ReaderStatus, wire::ProgressReport};

fn asked(lease: LeaseGrant) -> Frame {
    Frame::LeaseGrant(LeaseGrant { progress: true, ..lease })
}

fn reports(actions: Vec<Action>) -> Vec<ProgressReport> {
    let report = |action| {
        let Action::Send { path: PathId::PRIMARY, frame: Frame::ProgressReport(report) } = action else {
            return None;
        };
        Some(report)
    };
    actions.into_iter().filter_map(report).collect()
}

#[test]
fn what_comes_of_a_lease_is_told_at_most_once_in_an_interval() {
    let mut machine = Machine::new();
    machine.primary(asked(lease(0, JOB, range(100, 1100))));
    machine.open(PATH, 0, 100);
    machine.bytes(10);
    machine.client.on_heard(machine.now, PATH, 1, Some(Duration::from_millis(7)));
    let window = machine.client.streams[&STREAM].window();
    let first = ProgressReport {
        path: PATH,
        rtt_us: Some(7000),
        late: 0,
        overlap: 0,
        leases: vec![(LeaseId::new(0), 10)],
        readers: vec![(STREAM, ReaderStatus { position: 100, window })],
    };
    assert_eq!(reports(machine.settled()), std::slice::from_ref(&first));
    // Again only once the interval is over, and then without what has not changed.
    machine.bytes(20);
    assert_eq!(reports(machine.settled()), []);
    let due = machine.now + limits::PROGRESS_INTERVAL;
    assert_eq!(machine.client.paths[&PATH].progress.deadline(), Some(due));
    assert!(machine.client.deadline().is_some_and(|at| at <= due), "it wakes up for that");
    machine.now = due;
    machine.client.handle_timeout(machine.now);
    let second = ProgressReport { leases: vec![(LeaseId::new(0), 30)], readers: Vec::new(), ..first };
    assert_eq!(reports(machine.settled()), [second]);
    machine.now += limits::PROGRESS_INTERVAL;
    assert_eq!(reports(machine.settled()), [], "nothing has changed");
    // What the last bytes bring is told by the lease's end.
    machine.bytes(970);
    assert_eq!(reports(machine.settled()), []);
    assert_eq!(machine.client.paths[&PATH].progress.deadline(), None);
}

#[test]
fn nothing_is_told_of_leases_that_nobody_asks_about() {
    let mut machine = Machine::new();
    machine.grant(0, range(100, 1100));
    machine.open(PATH, 0, 100);
    machine.bytes(10);
    assert_eq!(reports(machine.settled()), []);
}

/// More leases than a report has room for: those that were left out come first in the next.
#[test]
fn each_lease_has_its_turn() {
    const LEASES: usize = 100;
    let mut machine = Machine::new();
    for id in 0..LEASES as u64 {
        machine.primary(asked(lease(id, JOB, range(100 + id * 100, 200 + id * 100))));
    }
    machine.actions();
    let mut told = Vec::new();
    for round in 1..=2 {
        for id in 0..LEASES as u64 {
            let fill = StreamId::from_u64(FILL.into_inner() + id * 4).unwrap();
            if round == 1 {
                let header = StreamHeader::Secondary { lease: LeaseId::new(id), offset: 100 + id * 100 };
                machine.client.on_internal(PATH, fill, header);
            }
            machine.client.on_bytes(PATH, fill, Bytes::from_static(&[7]));
        }
        for report in reports(machine.settled()) {
            assert!(report.leases.len() <= limits::REPEATED_MAX);
            told.extend(report.leases.iter().map(|(id, _)| id.into_inner()));
        }
        machine.now += limits::PROGRESS_INTERVAL;
    }
    told.truncate(LEASES);
    told.sort_unstable();
    assert_eq!(told, (0..LEASES as u64).collect::<Vec<_>>());
}
