//! Questions to the application's own code, which answers when it likes. Spec: RATIONALE §3.

use super::*;

impl World {
    /// Has a node's application answer the question that it got as the `nth` of those left.
    fn answer(&mut self, node: usize, nth: usize) {
        let (handle, question) = self.nodes[node].questions.remove(nth);
        let now = self.now;
        self.nodes[node].sessions.get_mut(&handle).unwrap().handle_answer(now, question.answer(UNIX));
    }

    /// Has it fail to answer.
    fn refuse(&mut self, node: usize, nth: usize) {
        let (handle, question) = self.nodes[node].questions.remove(nth);
        let now = self.now;
        self.nodes[node].sessions.get_mut(&handle).unwrap().handle_answer(now, question.refusal());
    }
}

/// A key may be kept far away. Whatever order its signatures come in, the client hears of paths and jobs before it hears of
/// what they bring, and nothing else waits for them.
#[test]
fn signatures_may_come_late_and_in_any_order() {
    let mut world = World::new(2);
    world.connect();
    let first = world.attach(2);
    world.nodes[PRIMARY].thinks = true;
    let second = world.add_path(3);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let whole = range(0, 300);
    let jobs =
        [first, second].map(|path| primary.open_job(now, stream, NewJob::new(path, whole, "")).unwrap());
    let leases = [(jobs[0], range(0, 100)), (jobs[1], range(100, 200))]
        .map(|(job, range)| primary.lease(now, &NewLease::new(job, range)).unwrap());
    primary.revoke_lease(now, leases[0], 0).unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.nodes[PRIMARY].questions.len(), 3, "a path and two jobs");
    assert_eq!(world.session(PRIMARY).job_answer(jobs[0]), None);
    // What needs no signature does not wait: the application's other streams, and what is here of this one.
    let now = world.now;
    let other = world.session(PRIMARY).open(Dir::Uni).unwrap();
    assert!(world.session(PRIMARY).write(now, other, &mut [Bytes::from_static(b"other")]).is_ok());
    world.run(|w| w.session(CLIENT).accept(Dir::Uni).is_some());
    for nth in [2, 1, 0] {
        world.answer(PRIMARY, nth);
        world.run_for(Duration::from_millis(200));
    }
    world.run(|w| w.session(PRIMARY).path_state(second) == Some(PathState::Active));
    world.run(|w| w.session(PRIMARY).lease_outcome(leases[0]).is_some());
    assert_eq!(world.session(PRIMARY).lost(), None);
    let mut filler = Filler::default();
    world.run(|w| {
        filler.turn(w.now, w.session(3));
        w.session(PRIMARY).lease_outcome(leases[1]) == Some(LeaseOutcome::Done)
    });
}

/// A key that fails, once: what it was to sign is over and the rest goes on.
#[test]
fn what_is_not_signed_is_over() {
    let mut world = World::new(2);
    world.connect();
    let first = world.attach(2);
    world.nodes[PRIMARY].thinks = true;
    let second = world.add_path(3);
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let whole = range(0, 300);
    let jobs = [second, first, first]
        .map(|path| primary.open_job(now, stream, NewJob::new(path, whole, "")).unwrap());
    let leases = [(jobs[0], range(0, 100)), (jobs[1], range(100, 200)), (jobs[2], range(200, 300))]
        .map(|(job, range)| primary.lease(now, &NewLease::new(job, range)).unwrap());
    primary.revoke_lease(now, leases[0], 0).unwrap();
    primary.close_job(now, jobs[1]);
    world.run_for(Duration::from_millis(1));
    world.refuse(PRIMARY, 0); // the path, and with it the first job
    world.refuse(PRIMARY, 1); // the second job; the first one's signature comes to nothing
    world.answer(PRIMARY, 0);
    world.answer(PRIMARY, 0);
    let code = ErrorCode::AUTH_FAILED;
    assert_eq!(world.session(PRIMARY).path_state(second), Some(PathState::Dead(code)));
    assert_eq!(world.session(PRIMARY).job_answer(jobs[0]), Some(Err(code)));
    for (lease, missing) in [(leases[0], range(0, 100)), (leases[1], range(100, 200))] {
        let lost = LeaseOutcome::Lost { code, missing: vec![missing] };
        assert_eq!(world.session(PRIMARY).lease_outcome(lease), Some(lost));
    }
    let mut filler = Filler::default();
    world.run(|w| {
        filler.turn(w.now, w.session(2));
        w.session(PRIMARY).lease_outcome(leases[2]) == Some(LeaseOutcome::Done)
    });
    world.nodes[PRIMARY].thinks = false;
    world.attach(3);
    assert_eq!(world.session(CLIENT).lost(), None);
}

/// A user who is asked may take a while, or never answer: the rest of the session goes on.
#[test]
fn a_dial_may_be_thought_over() {
    let mut world = World::new(3);
    world.connect();
    world.nodes[CLIENT].thinks = true;
    let paths = [2, 3, 4].map(|node| world.add_path(node));
    world.run(|w| w.nodes[CLIENT].questions.len() == 3);
    let now = world.now;
    world.session(PRIMARY).remove_path(now, paths[1]).unwrap();
    world.answer(CLIENT, 2);
    world.run(|w| w.session(PRIMARY).path_state(paths[2]) == Some(PathState::Active));
    world.refuse(CLIENT, 0);
    let refused = Some(PathState::Dead(ErrorCode::DIAL_REFUSED));
    world.run(|w| w.session(PRIMARY).path_state(paths[0]) == refused);
    world.answer(CLIENT, 0);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(PRIMARY).path_state(paths[1]), Some(PathState::Dead(ErrorCode::NO_ERROR)));
    assert!(world.nodes[3].sessions.is_empty(), "it was removed before the answer came");
    let late = world.add_path(3);
    world.run(|w| matches!(w.session(PRIMARY).path_state(late), Some(PathState::Dead(_))));
    world.answer(CLIENT, 0);
    world.run_for(Duration::from_secs(1));
    assert!(world.nodes[3].sessions.is_empty(), "it had taken too long");
}

/// Messages are signed, too: one that is not leaves no hole in what others wait for.
#[test]
fn a_message_that_is_not_signed_holds_nobody_up() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    world.nodes[PRIMARY].thinks = true;
    let now = world.now;
    for message in [&b"one"[..], b"two", b"three"] {
        world.session(PRIMARY).relay(now, path, Bytes::copy_from_slice(message)).unwrap();
    }
    world.run_for(Duration::from_millis(100));
    world.answer(PRIMARY, 2);
    world.refuse(PRIMARY, 0);
    world.answer(PRIMARY, 0);
    let mut heard = Vec::new();
    world.run(|w| {
        heard.extend(std::iter::from_fn(|| w.session(2).take_relay()).map(|relay| relay.payload));
        heard.len() == 2
    });
    heard.sort();
    assert_eq!(heard, [&b"three"[..], b"two"]);
}
