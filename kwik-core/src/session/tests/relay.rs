//! Messages between servers, over real QUIC. Spec: KWIK §9.

use super::*;
use crate::{action::Relay, error::RelayError};

/// The longest message.
const LONGEST: usize = 64 * 1024;

fn take_all(session: &mut Session, taken: &mut Vec<Relay>) {
    taken.extend(std::iter::from_fn(|| session.take_relay()));
}

/// More than may be under way at once goes as there is room, and every message arrives once.
#[test]
fn whoever_waits_for_room_is_told_of_it() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let (mut sent, mut heard, mut answered, mut back) = (0_u32, Vec::new(), 0, Vec::new());
    let deadline = world.now + Duration::from_secs(20);
    let message = |number: u32| {
        let length = if number % 3 == 0 { 0 } else { LONGEST / (number as usize % 3) };
        Bytes::from(number.to_be_bytes().repeat(length / 4))
    };
    let (mut primary_waits, mut secondary_waits) = (false, false);
    while back.len() < 90 {
        assert!(
            world.now < deadline,
            "{sent} sent, {} heard, {answered} answered, {} back",
            heard.len(),
            back.len()
        );
        let now = world.now;
        let primary = world.session(PRIMARY);
        while sent < 90 && !primary_waits {
            match primary.relay(now, path, message(sent)) {
                Ok(()) => sent += 1,
                Err(RelayError::Blocked) => primary_waits = true,
                Err(error) => panic!("{error}"),
            }
        }
        take_all(primary, &mut back);
        let secondary = world.session(2);
        take_all(secondary, &mut heard);
        while answered < heard.len() && !secondary_waits {
            match secondary.relay(now, path, heard[answered].payload.clone()) {
                Ok(()) => answered += 1,
                Err(RelayError::Blocked) => secondary_waits = true,
                Err(error) => panic!("{error}"),
            }
        }
        world.drain();
        world.step();
        world.drain();
        for (node, waits) in [(PRIMARY, &mut primary_waits), (2, &mut secondary_waits)] {
            *waits &= !std::mem::take(&mut world.nodes[node].events).contains(&Event::RelaysUnblocked);
        }
    }
    assert!(heard.iter().all(|relay| relay.sealed) && back.iter().all(|relay| !relay.sealed));
    for arrived in [heard, back] {
        let mut got: Vec<Bytes> = arrived.into_iter().map(|relay| relay.payload).collect();
        let mut all: Vec<Bytes> = (0..90).map(message).collect();
        got.sort();
        all.sort();
        assert_eq!(got, all);
    }
}

/// A message would overtake the frame that names the path: the client would blame its primary. Simulator seed 1905.
#[test]
fn a_path_that_is_removed_while_it_is_attached_takes_no_message() {
    let mut world = World::new(1);
    world.connect();
    let path = world.add_path(2);
    let now = world.now;
    let primary = world.session(PRIMARY);
    assert_eq!(primary.relay(now, path, Bytes::from_static(b"early")), Err(RelayError::Blocked));
    primary.remove_path(now, path).unwrap();
    assert_eq!(primary.relay(now, path, Bytes::from_static(b"early")), Err(RelayError::PathDead));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(CLIENT).lost(), None);
}
