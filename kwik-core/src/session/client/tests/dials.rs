//! Dials that a primary can have its client make: how many, and to whom. Spec: PROTOCOL §9.11, §11.

use super::*;

/// The first of the paths that are added here.
const FIRST: u32 = 3;

impl Machine {
    /// Has the primary name a server at a port of this machine. Returns the code that the path ends with at once, if it does.
    fn name(&mut self, path: u32, port: u16) -> Option<ErrorCode> {
        ended(&self.name_any(path, &[port]), path)
    }

    /// Has the primary name a server at one of several ports of this machine. Returns what the client decides.
    fn name_any(&mut self, path: u32, ports: &[u16]) -> Vec<Action> {
        self.primary(Frame::AddPath(AddPath {
            path: PathId::new(path),
            addresses: ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect(),
            server_name: "secondary.test".to_owned(),
            pins: smallvec![SpkiHash::new([4; 32])],
            ticket: Bytes::from_static(b"ticket"),
        }));
        self.settled()
    }

    /// The handshake of a path's connection is done, with this key.
    fn shows(&mut self, path: u32, key: u8) {
        let link = first(PathId::new(path));
        let _taken = self.client.on_path_handshake(link, Some(SpkiHash::new([key; 32])), Some([1; 32]));
    }

    fn remove(&mut self, path: u32) {
        let path = PathId::new(path);
        self.primary(Frame::RemovePath { path, code: ErrorCode::NO_ERROR, deadline_ms: 0 });
    }
}

/// The code that a path has ended with.
fn ended(actions: &[Action], id: u32) -> Option<ErrorCode> {
    actions.iter().find_map(|action| {
        let Action::Send { frame: Frame::PathReport { path, status: PathStatus::Dead(code) }, .. } = action
        else {
            return None;
        };
        (*path == PathId::new(id)).then_some(*code)
    })
}

fn dials(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Dial { .. })).count()
}

/// A primary that names servers as fast as it can has its client dial so many of them, each attached and removed at once.
#[test]
fn a_primary_has_a_budget_of_dials() {
    let mut machine = Machine::new();
    let budget = u32::try_from(limits::DIALS_PER_MINUTE).unwrap();
    let spent = FIRST - 1; // the machine's own paths
    for path in FIRST..FIRST + budget - spent {
        assert_eq!(machine.name(path, 4430), None, "{path}");
        machine.shows(path, 4);
        machine.secondary(PathId::new(path), Frame::ServerHello(hello()));
        machine.remove(path);
    }
    for path in [budget + 1, budget + 2] {
        assert_eq!(machine.name(path, 4430), Some(ErrorCode::EXCESSIVE_LOAD), "{path}");
    }
    // One more for each sixteenth of a minute.
    machine.now += Duration::from_millis(3750);
    assert_eq!(machine.name(budget + 3, 4430), None);
    assert_eq!(machine.name(budget + 4, 4430), Some(ErrorCode::EXCESSIVE_LOAD));
}

/// Each address of a server that is tried is one dial.
#[test]
fn further_addresses_are_paid_for_as_well() {
    let mut machine = Machine::new();
    let left = usize::try_from(limits::DIALS_PER_MINUTE).unwrap() - 2;
    let mut made = 0;
    for path in FIRST..FIRST + 20 {
        let port = 5000 + 4 * u16::try_from(path).unwrap();
        let mut actions = machine.name_any(path, &[port, port + 1, port + 2, port + 3]);
        // Each fails at once, and the next has its turn.
        let dial = |action: &Action| {
            let Action::Dial { path, attempt, .. } = action else { return None };
            Some(LinkId { path: *path, attempt: *attempt })
        };
        while let Some(link) = actions.iter().find_map(dial) {
            made += 1;
            machine.client.on_attempt_lost(link, ErrorCode::PATH_DEAD);
            actions = machine.settled();
        }
    }
    assert_eq!(made, left, "dials");
}

/// A live server of somebody else's gets a handshake, and then is left alone for longer and longer, however fast the primary
/// names it.
#[test]
fn a_foreign_server_is_left_alone() {
    for wrong in [5, 6] {
        let mut machine = Machine::new();
        let mut path = FIRST;
        let mut seen = 0;
        for _ in 0..16 {
            machine.actions();
            if machine.name(path, 4430).is_none() {
                seen += 1;
                if wrong == 5 {
                    machine.shows(path, 5); // a certificate that is not the one that was named
                } else {
                    machine.client.on_attempt_lost(first(PathId::new(path)), ErrorCode::AUTH_FAILED); // or none of ours
                }
                assert_eq!(ended(&machine.settled(), path), Some(ErrorCode::AUTH_FAILED));
            }
            path += 1;
        }
        assert_eq!(seen, 1, "handshakes within a second");
        // Its neighbour is not held to account for it, and the client's patience comes back.
        assert_eq!(machine.name(path, 4431), None);
        machine.now += Duration::from_secs(1);
        assert_eq!(machine.name(path + 1, 4430), None);
    }
}

/// All at once, before the first has failed: as many as are dialled at once, and nobody waits to be the next.
#[test]
fn paths_that_wait_learn_that_their_server_is_none() {
    let mut machine = Machine::new();
    let paths = FIRST..FIRST + 6;
    for path in paths.clone() {
        assert_eq!(machine.name(path, 4430), None);
    }
    machine.actions();
    for path in paths.clone().take(limits::DIALS_AT_ONCE) {
        machine.shows(path, 5);
    }
    let actions = machine.settled();
    assert_eq!(dials(&actions), 0);
    let codes: Vec<_> = paths.map(|path| ended(&actions, path)).collect();
    let (failed, dead) = (Some(ErrorCode::AUTH_FAILED), Some(ErrorCode::PATH_DEAD));
    assert_eq!(codes, [failed, failed, failed, failed, dead, dead]);
    // What was not dialled costs nothing: 16, less the machine's two and these four.
    let mut left = 0;
    for path in 0.. {
        if machine.name(100 + path, 5000 + u16::try_from(path).unwrap()) == Some(ErrorCode::EXCESSIVE_LOAD) {
            break;
        }
        machine.remove(100 + path);
        left += 1;
    }
    assert_eq!(left, 10);
}

/// One goes, one comes.
#[test]
fn a_path_that_waits_is_dialled_when_another_has_ended() {
    let mut machine = Machine::new();
    for path in FIRST..FIRST + 6 {
        machine.name(path, 5000 + u16::try_from(path).unwrap());
    }
    machine.remove(FIRST);
    assert_eq!(dials(&machine.settled()), 1);
    machine.remove(FIRST + 1);
    machine.remove(FIRST + 2);
    assert_eq!(dials(&machine.settled()), 1, "nobody else waits");
}

/// Nor for an address that there is no dial left for.
#[test]
fn a_path_without_a_dial_left_ends() {
    let mut machine = Machine::new();
    machine.name_any(FIRST, &[4430, 4431]);
    let mut next = FIRST + 1;
    while machine.name(next, 5000 + u16::try_from(next).unwrap()) != Some(ErrorCode::EXCESSIVE_LOAD) {
        machine.remove(next);
        next += 1;
    }
    machine.client.on_attempt_lost(first(PathId::new(FIRST)), ErrorCode::PATH_DEAD);
    let actions = machine.settled();
    assert_eq!((dials(&actions), ended(&actions, FIRST)), (0, Some(ErrorCode::EXCESSIVE_LOAD)));
}

#[test]
fn only_a_connection_that_was_dialled_is_taken() {
    let mut machine = Machine::new();
    machine.name(FIRST, 4430);
    let (dialled, identity) = (first(PathId::new(FIRST)), Some(SpkiHash::new([4; 32])));
    for wrong in [LinkId { attempt: Attempt::FIRST.next(), ..dialled }, first(PathId::new(FIRST + 1))] {
        assert!(!machine.client.is_dialling(wrong));
        assert!(!machine.client.on_path_handshake(wrong, identity, Some([1; 32])));
    }
    assert!(machine.client.on_path_handshake(dialled, identity, Some([1; 32])));
}

#[test]
fn elsewhere_an_address_that_failed_may_be_dialled() {
    let mut machine = Machine::new();
    machine.name(FIRST, 4430);
    machine.client.on_attempt_lost(first(PathId::new(FIRST)), ErrorCode::PATH_DEAD);
    machine.settled();
    assert_eq!(machine.name(FIRST + 1, 4430), Some(ErrorCode::PATH_DEAD));
    machine.client.on_network_change();
    assert_eq!(machine.name(FIRST + 2, 4430), None);
}
