//! Control never starves, whatever an application writes beside it. Spec: PROTOCOL §4.

use super::*;
use crate::{
    action::RunId,
    error::WriteError,
    wire::{Frame, PathStatus},
};

impl World {
    /// Has an application write into five streams, which it thinks more of than of anything else, until nothing more is taken.
    /// Returns how many bytes were.
    fn fill(&mut self, node: usize) -> usize {
        let (now, chunk) = (self.now, Bytes::from(vec![7; 64 * 1024]));
        let session = self.session(node);
        let mut taken = 0;
        for _ in 0..5 {
            let stream = session.open(Dir::Uni).unwrap();
            session.set_priority(stream, i32::MAX).unwrap();
            while let Ok(written) = session.write(now, stream, &mut [chunk.clone()]) {
                taken += written.bytes;
            }
        }
        taken
    }
}

/// Bytes of an application that QUIC keeps until they are acknowledged leave room for control.
#[test]
fn a_full_send_window_has_room_for_control() {
    let mut world = World::new(1);
    world.connect();
    for node in [PRIMARY, CLIENT] {
        let taken = world.fill(node);
        assert!(taken as u64 > limits::QUIC_SEND_WINDOW - 1024, "node {node} wrote {taken} bytes");
        let session = world.session(node);
        let home = &mut session.links.home;
        let frame = Frame::SessionClose { code: ErrorCode::from_u32(0), reason: "r".repeat(256) };
        for _ in 0..limits::CONTROL_RESERVE / 512 {
            home.send(&frame).unwrap();
            home.flush();
            assert!(!home.is_backlogged(), "node {node} cannot write control");
        }
    }
}

/// The primary names a path, and the client reports on one, while megabytes wait that the applications gave the highest
/// priority there is: the next packets that may be sent carry it.
#[test]
fn control_goes_before_all_that_waits() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    world.run_for(ONE_WAY * 4);
    world.fill(PRIMARY);
    world.fill(CLIENT);
    world.drain(); // as much of it is sent as congestion control lets out
    let told = world.now;
    let next = world.add_path(2);
    let home = &mut world.session(CLIENT).links.home;
    home.send(&Frame::PathReport { path, status: PathStatus::Degraded }).unwrap();
    home.flush();
    let known =
        |session: &Session| matches!(&session.machine, Machine::Client(client) if client.is_live(next));
    world.run(|w| {
        known(w.session(CLIENT)) && w.session(PRIMARY).path_state(path) == Some(PathState::Degraded)
    });
    // An acknowledgement has to come first, which may be held back for 25 ms, and pacing has its say.
    assert!(world.now - told <= ONE_WAY * 7, "{:?}", world.now - told);
}

/// While frames wait that QUIC does not take, since their reader has left too many unread, no application byte overtakes them:
/// neither of a native stream, nor behind a split, nor of a run.
#[test]
fn no_application_byte_overtakes_control_that_waits() {
    let (mut world, _, split, job) = World::at_work(Dir::Uni, range(0, 1000));
    let now = world.now;
    let native = world.session(PRIMARY).open(Dir::Uni).unwrap();
    let _lease = world.session(PRIMARY).lease(now, &NewLease::new(job, range(0, 1000))).unwrap();
    world.run_for(ONE_WAY * 3);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let run = primary.write_at(now, split, range(2000, 3000)).unwrap();
    let home = &mut primary.links.home;
    let pages = (0..64).map(|page| range(page * 1000, page * 1000 + 1));
    let frame = Frame::OffsetSyncResponse { stream: split, received: pages.collect(), more: false };
    while !home.is_backlogged() {
        home.send(&frame).unwrap();
        home.flush();
    }
    let written = |session: &mut Session, now, run: RunId| {
        let byte = || [Bytes::from_static(b"x")];
        [
            session.write(now, native, &mut byte()).map(|_| ()).map_err(|error| error == WriteError::Blocked),
            session.write(now, split, &mut byte()).map(|_| ()).map_err(|error| error == WriteError::Blocked),
            session
                .write_run(now, run, &mut byte())
                .map(|_| ())
                .map_err(|error| error == LeaseWriteError::Blocked),
        ]
    };
    assert_eq!(written(primary, now, run), [Err(true); 3], "something was written ahead of control");
    while primary.poll_event().is_some() {}
    // Once they are read all goes on, and whoever waited is told.
    world.nodes[PRIMARY].events.clear();
    world.run(|w| !w.session(PRIMARY).links.home.is_backlogged());
    world.run_for(ONE_WAY);
    let told = world.nodes[PRIMARY].events.clone();
    for event in [Event::Writable(native), Event::Writable(split), Event::RunWritable(run)] {
        assert!(told.contains(&event), "{event:?} of {told:?}");
    }
    let now = world.now;
    assert_eq!(written(world.session(PRIMARY), now, run), [Ok(()); 3]);
}
