//! Servers that have several addresses. Spec: PROTOCOL §8, RFC 8305.

use super::*;
use crate::{Families, path::race::ATTEMPT_DELAY};

/// An address of the secondary with nobody behind it.
const NOBODY: &str = "127.0.0.77:4002";
/// One more that the secondary has.
const SECOND: &str = "127.0.0.78";

/// A session, and a secondary with one more address.
fn world(one_way: Duration) -> World {
    let mut world = World::new(2);
    world.one_way = one_way;
    world.connect();
    world.nodes[2].also.push(SECOND.parse().unwrap());
    world
}

fn second() -> SocketAddr {
    SocketAddr::new(SECOND.parse().unwrap(), 4002)
}

/// Names the secondary by these addresses.
fn add(world: &mut World, addresses: &[SocketAddr]) -> PathId {
    let (now, identity) = (world.now, world.identities[2]);
    let first = NewPath::new(addresses[0], "node2.test", identity);
    let new = addresses[1..].iter().fold(first, |new, &address| new.address(address));
    world.session(PRIMARY).add_path(now, new).unwrap()
}

/// Waits until the path is attached; returns how long that took.
fn attached(world: &mut World, path: PathId) -> Duration {
    let begun = world.now;
    world.run(|w| match w.session(PRIMARY).path_state(path) {
        Some(PathState::Dead(code)) => panic!("{path} is dead: {code}"),
        state => state == Some(PathState::Active),
    });
    world.now - begun
}

/// The connections that are not taken.
fn dialled(session: &mut Session) -> impl Iterator<Item = &mut Link> {
    dialled_mut(&mut session.client).map(|(_, link)| link)
}

/// Checks what is left once all goodbyes were said: the path, and nothing of what was not taken.
fn check_rest(world: &mut World, links: usize, at_secondary: usize) {
    world.run_for(Duration::from_secs(5));
    let client = world.session(CLIENT);
    assert_eq!((client.links.len(), dialled(client).count()), (links, 0));
    assert_eq!(world.nodes[CLIENT].endpoint.sessions(), 1);
    assert_eq!(world.nodes[2].sessions.len(), at_secondary);
    assert!(world.nodes[2].sessions.values().all(|session| session.role() == Some(Role::Secondary)));
}

/// An address with nobody behind it costs 250 ms, and not the attach.
#[test]
fn an_address_that_does_not_answer_is_overtaken() {
    let mut world = world(ONE_WAY);
    let own = world.nodes[2].address;
    let path = add(&mut world, &[NOBODY.parse().unwrap(), own]);
    let took = attached(&mut world, path);
    assert!(took >= ATTEMPT_DELAY && took < ATTEMPT_DELAY + ONE_WAY * 8, "{took:?}");
    check_rest(&mut world, 2, 1);
}

/// On a long way both come through. One is taken and shows the ticket, whose nonce is good for one.
#[test]
fn one_of_two_that_answer_shows_the_ticket() {
    let mut world = world(Duration::from_millis(150));
    let own = world.nodes[2].address;
    let path = add(&mut world, &[own, second()]);
    world.run(|w| w.nodes[2].sessions.len() == 2);
    attached(&mut world, path);
    assert_eq!(world.nodes[2].events.iter().filter(|event| **event == Event::Connected).count(), 1);
    check_rest(&mut world, 2, 1);
    // The other is still good for the next attach.
    let path = add(&mut world, &[second()]);
    attached(&mut world, path);
    check_rest(&mut world, 3, 2);
}

/// A server that answers and is another one than was named is not the only one there is.
#[test]
fn the_wrong_server_at_one_address_does_not_matter() {
    let mut world = world(ONE_WAY);
    let (wrong, own) = (world.nodes[3].address, world.nodes[2].address);
    let path = add(&mut world, &[wrong, own]);
    let took = attached(&mut world, path);
    assert!(took < ATTEMPT_DELAY, "{took:?}: the next has its turn at once");
    check_rest(&mut world, 2, 1);
    // With nothing else it ends the attach, and at once.
    let path = add(&mut world, &[wrong]);
    world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Dead(ErrorCode::AUTH_FAILED)));
}

/// Addresses that the socket cannot send to are not tried, and count for nothing.
#[test]
fn families_that_the_socket_does_not_reach_are_skipped() {
    let mut world = world(ONE_WAY);
    let own = world.nodes[2].address;
    let v6 = "[::1]:4002".parse().unwrap();
    world.nodes[CLIENT].endpoint.set_families(Families::V4);
    for round in 0..10 {
        let path = add(&mut world, &[v6, own]);
        let took = attached(&mut world, path);
        assert!(took < ONE_WAY * 8, "round {round}: {took:?}");
        let now = world.now;
        world.session(PRIMARY).remove_path(now, path).unwrap();
        check_rest(&mut world, 1, 0);
    }
    let path = add(&mut world, &[v6]);
    world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Dead(ErrorCode::DIAL_REFUSED)));
    let config = ClientConfig::try_from(world.tls.clone()).unwrap();
    let now = world.now;
    let refused = world.nodes[CLIENT].endpoint.connect(now, config, v6, "node1.test");
    assert!(matches!(refused, Err(crate::error::ConnectError::InvalidRemoteAddress(_))));
}

/// Nobody anywhere: all addresses are tried within the time that one had, and remembered.
#[test]
fn an_attach_that_fails_everywhere_fails_in_time() {
    let mut world = world(ONE_WAY);
    world.nodes[2].dead = true;
    let own = world.nodes[2].address;
    let begun = world.now;
    let path = add(&mut world, &[NOBODY.parse().unwrap(), own, second()]);
    let dead = Some(PathState::Dead(ErrorCode::PATH_DEAD));
    world.run(|w| w.session(PRIMARY).path_state(path) == dead);
    assert!(world.now - begun < Duration::from_secs(3));
    // They have all just failed: nothing is sent to any of them.
    let begun = world.now;
    let path = add(&mut world, &[own, second()]);
    world.run(|w| w.session(PRIMARY).path_state(path) == dead);
    assert!(world.now - begun < ONE_WAY * 4);
    check_rest(&mut world, 1, 0);
}

/// The primary changes its mind while several are under way.
#[test]
fn a_path_that_is_removed_takes_its_attempts_with_it() {
    let mut world = world(ONE_WAY);
    world.nodes[2].dead = true;
    let own = world.nodes[2].address;
    let path = add(&mut world, &[NOBODY.parse().unwrap(), own, second()]);
    world.run_for(ATTEMPT_DELAY + ONE_WAY * 2);
    assert_eq!(dialled(world.session(CLIENT)).count(), 2);
    let now = world.now;
    world.session(PRIMARY).remove_path(now, path).unwrap();
    world.run_for(ONE_WAY * 2);
    assert!(dialled(world.session(CLIENT)).all(|link| link.quic.is_closed()));
    // Both are free again for others, whose addresses were not at fault.
    world.nodes[2].dead = false;
    let path = add(&mut world, &[own]);
    attached(&mut world, path);
    check_rest(&mut world, 2, 1);
}
