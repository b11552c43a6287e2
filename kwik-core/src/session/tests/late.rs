//! A server that makes its path look long, to be given time. Spec: PROTOCOL §8.

use super::*;
use crate::stats::SourceStats;

/// Time for which the server holds back what it hears, its acknowledgements with it.
const HELD_BACK: Duration = Duration::from_secs(3);
/// Time between its turns.
const BEAT: Duration = Duration::from_millis(50);
/// The client gives credit in eighths of it, and so has something to say at all times.
const WINDOW: u64 = 128 * 1024;

/// A secondary that fills a lease, or only lets itself be heard.
struct Slow {
    lease: LeaseId,
    sent: u64,
}

impl Slow {
    /// Goes on for a beat; returns what the client says of it.
    fn beat(&mut self, w: &mut World, path: PathId, stream: StreamId, fills: bool) -> SourceStats {
        let now = w.now;
        if !w.nodes[2].dead {
            let secondary = w.session(2);
            let next = range(self.sent, self.sent + WINDOW);
            if fills {
                let written = secondary.write_lease(now, self.lease, &mut [object(next)]);
                self.sent += written.map_or(0, |written| written.bytes as u64);
            }
            secondary.links.get_mut(HOME).unwrap().quic.ping();
            secondary.unsettled = true;
        }
        w.run_for(BEAT);
        let now = w.now;
        let client = w.session(CLIENT);
        client.accept(Dir::Uni);
        while let Ok(Some(_)) = client.read(now, stream, usize::MAX, true) {}
        client.stats().sources[&path]
    }
}

/// It answers late, is heard all the time, and brings just enough for the client to have something to say: its round trips
/// look long. Then it brings nothing more, and at last it is gone. Neither takes longer to be noticed for that than on the
/// longest path that the client has really seen.
#[test]
fn late_acknowledgements_buy_no_time() {
    let mut world = World::new(1);
    world.connect_with(TransportConfig::default().stream_window(WINDOW).session_window(WINDOW));
    let path = world.attach(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let job = primary.open_job(now, stream, NewJob::new(path, range(0, 1 << 30), "object")).unwrap();
    primary.lease(now, &NewLease::new(job, range(0, 1 << 30))).unwrap();
    let mut lease = None;
    world.run(|w| {
        let now = w.now;
        let secondary = w.session(2);
        if let Some(job) = secondary.accept_job() {
            secondary.take_job(now, job.id);
        }
        lease = secondary.next_lease(job).ok().flatten();
        lease.is_some()
    });
    let mut slow = Slow { lease: lease.unwrap().id, sent: 0 };
    // Its congestion window grows first.
    for _ in 0..50 {
        slow.beat(&mut world, path, stream, true);
    }
    world.late = Some((world.nodes[2].address, HELD_BACK));
    for _ in 0..1200 {
        let x = slow.beat(&mut world, path, stream, true);
        if world.dice.below(20) == 0 {
            eprintln!("{:?} {x:?}", world.now - now);
        }
    }
    let source = world.session(CLIENT).stats().sources[&path];
    assert!(source.rtt >= HELD_BACK / 2, "the attack works: {source:?}");

    // What QUIC has taken still comes.
    let (mut last, mut known) = (world.now, source);
    loop {
        let seen = slow.beat(&mut world, path, stream, false);
        if seen.bytes > known.bytes {
            (last, known) = (world.now, seen);
        } else if seen.stalls > known.stalls {
            break;
        }
        assert!(world.now - last <= limits::STALL_MAX + BEAT * 2, "not found stalled: {seen:?}");
    }
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Active), "it is heard");

    world.nodes[2].dead = true;
    let died = world.now;
    while world.session(PRIMARY).path_state(path) != Some(PathState::Degraded) {
        slow.beat(&mut world, path, stream, false);
        assert!(world.now - died <= limits::STALL_MAX * 2 + BEAT * 4, "not found silent");
    }
}
