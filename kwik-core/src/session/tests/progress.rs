//! Reports of what comes of leases, from end to end, and what becomes of clients that make them up. Spec: PROTOCOL §7.28.

use super::*;
use crate::{
    action::ReaderStatus,
    session::price::Account,
    wire::{Frame, ProgressReport},
};

const SIZE: u64 = 3_000_000;

/// A lease of which the client is to report, or not, up to where half of it is at the client.
fn half_way(asks: bool) -> (World, PathId, StreamId, LeaseId, Filler) {
    let (mut world, path, stream, job) = World::at_work(Dir::Uni, range(0, SIZE));
    let now = world.now;
    let lease = NewLease::new(job, range(0, SIZE));
    let lease = if asks { lease.progress() } else { lease };
    let lease = world.session(PRIMARY).lease(now, &lease).unwrap();
    let mut filler = Filler::default();
    world.run(|w| {
        let now = w.now;
        filler.turn(now, w.session(2));
        w.session(CLIENT).stats().held_bytes >= SIZE / 2
    });
    world.run_for(ONE_WAY * 2);
    (world, path, stream, lease, filler)
}

#[test]
fn a_primary_that_asks_learns_what_has_come() {
    let (mut world, path, stream, lease, mut filler) = half_way(true);
    assert!(world.nodes[PRIMARY].events.contains(&Event::Progress(path)));
    let held = world.session(CLIENT).stats().held_bytes;
    let primary = world.session(PRIMARY);
    let status = primary.lease_status(lease).unwrap();
    assert!(status.arrived > 0 && status.arrived <= held, "{status:?} of {held}");
    let info = primary.paths().into_iter().find(|info| info.id == path).unwrap();
    let rtt = info.rtt.expect("measured");
    assert!(rtt >= ONE_WAY * 2 && rtt <= ONE_WAY * 6, "{rtt:?}");
    assert_eq!((info.late_bytes, info.overlap_bytes), (0, 0));
    let ReaderStatus { position, window } = primary.reader(stream).expect("told of");
    assert!(position == 0 && window > 0);
    assert!(primary.progress_reports() > 0);
    // Reports end with the lease, which has not cost its client a frame of what it may send.
    let now = world.now;
    world.session(PRIMARY).finish(now, stream).unwrap();
    let mut got = Vec::new();
    world.run(|w| {
        let now = w.now;
        filler.turn(now, w.session(2));
        let client = w.session(CLIENT);
        let _ = client.accept(Dir::Uni);
        read_all(now, client, stream, true, &mut got)
    });
    world.run_for(ONE_WAY * 3);
    let told = world.session(PRIMARY).progress_reports();
    world.run_for(Duration::from_secs(1));
    let primary = world.session(PRIMARY);
    assert_eq!((primary.progress_reports(), primary.reader(stream)), (told, None));
    assert_eq!(primary.stats().control_pauses, 0);
}

#[test]
fn a_primary_that_does_not_ask_hears_nothing() {
    let (mut world, path, stream, lease, _) = half_way(false);
    let primary = world.session(PRIMARY);
    assert_eq!((primary.progress_reports(), primary.reader(stream)), (0, None));
    assert_eq!(primary.lease_status(lease).unwrap().arrived, 0);
    assert!(!world.nodes[PRIMARY].events.contains(&Event::Progress(path)));
}

/// Reports at the rate at which a client may send them pay for themselves, and those beyond it do not.
#[test]
fn reports_are_paid_for_up_to_their_rate() {
    let (mut world, path, _, lease, _) = half_way(true);
    let arrived = world.session(PRIMARY).lease_status(lease).unwrap().arrived;
    let mut now = world.now;
    let Machine::Primary(primary) = &mut world.session(PRIMARY).machine else { panic!("no primary") };
    primary.take_account();
    let mut report = |now, more: u64| {
        let leases = vec![(lease, arrived + more)];
        let told = ProgressReport { path, rtt_us: None, late: 0, overlap: 0, leases, readers: Vec::new() };
        primary.handle_frame(now, Frame::ProgressReport(told)).unwrap();
        primary.take_account()
    };
    for more in 1..=2000 {
        now += limits::PROGRESS_INTERVAL;
        assert_eq!(report(now, more), Account { earned: 1, charged: 0 });
    }
    let paid = (1..=2000).filter(|more| report(now, 2000 + more) != Account::default()).count() as u64;
    assert!(paid <= limits::PROGRESS_BURST, "{paid} at once");
}

/// Spec: PROTOCOL §7.28: what no honest client says costs the session.
#[test]
fn reports_that_are_made_up_end_the_session() {
    type Forge = fn(&mut ProgressReport);
    let next = |report: &mut ProgressReport| report.leases[0].1 += 1;
    let forgeries: &[(&str, bool, PeerFault, Forge)] = &[
        ("nobody asked", false, PeerFault::ReportUnasked, |_| ()),
        ("a lease that was never given", true, PeerFault::LeaseUnknown, |report| {
            report.leases[0].0 = LeaseId::new(1)
        }),
        ("more than the lease", true, PeerFault::ReportFalls, |report| report.leases[0].1 = SIZE + 1),
        ("no more than before", true, PeerFault::ReportFalls, |report| report.leases[0].1 -= 1),
        ("twice the same", true, PeerFault::ReportFalls, |report| report.leases.push(report.leases[0])),
        ("nothing", true, PeerFault::ReportEmpty, |report| report.leases.clear()),
        ("another path", true, PeerFault::ReportPath, |report| report.path = PathId::new(9)),
        ("fewer late bytes", true, PeerFault::ReportFalls, |report| report.late = 0),
        ("a reader ahead of all that was given", true, PeerFault::ReportReader, |report| {
            report.readers[0].1.position = SIZE + 1
        }),
    ];
    for (name, asks, fault, forge) in forgeries {
        let (mut world, path, stream, lease, _) = half_way(*asks);
        let reader = ReaderStatus { position: 0, window: 1 };
        let mut report = ProgressReport {
            path,
            rtt_us: None,
            late: 1,
            overlap: 0,
            leases: vec![(lease, SIZE - 10)],
            readers: vec![(stream, reader)],
        };
        let primary = world.session(PRIMARY);
        if *asks {
            primary.on_frame(HOME, Frame::ProgressReport(report.clone()));
            assert_eq!(primary.lost(), None, "{name}: an honest one");
        }
        next(&mut report);
        report.readers.truncate(usize::from(name.contains("reader")));
        forge(&mut report);
        primary.on_frame(HOME, Frame::ProgressReport(report));
        let fault = ConnectionError::Fault(*fault);
        assert_eq!(primary.lost(), Some(&fault), "{name}");
    }
}
