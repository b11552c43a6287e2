//! Messages between servers, over real QUIC. Spec: PROTOCOL §9.

use super::*;
use crate::{
    action::Relay,
    error::RelayError,
    id::{Role, Side, Signature},
    wire::RelayOpen,
};

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

/// A secondary's first message may come before its hello is read: they travel in streams of their own.
#[test]
fn a_secondary_may_speak_as_soon_as_it_is_connected() {
    for loss in [0, 300] {
        let mut world = World::new(1);
        world.connect();
        world.loss = loss;
        let path = world.add_path(2);
        let said = |world: &mut World| {
            let now = world.now;
            let connected =
                world.nodes[2].sessions.len() == 1 && world.session(2).role() == Some(Role::Secondary);
            connected && world.session(2).relay(now, path, Bytes::from_static(b"hello")).is_ok()
        };
        let mut spoken = false;
        let mut heard = None;
        world.run(|w| {
            spoken = spoken || said(w);
            heard = w.session(PRIMARY).take_relay();
            heard.is_some()
        });
        assert_eq!(&*heard.unwrap().payload, b"hello");
        world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
    }
}

/// QUIC may still tell of a stream that was read to its end meanwhile. On a server that once kept the streams that it told of
/// next from being read: a message waited there for ever. Simulator seed 257.
#[test]
fn a_late_word_of_one_stream_hides_no_other() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let now = world.now;
    world.session(2).relay(now, path, Bytes::from_static(b"hello")).unwrap();
    let over = StreamId::new(Side::Client, Dir::Bi, 7);
    let mut heard = None;
    world.run(|w| {
        w.session(PRIMARY).links.home.note_readable(over);
        heard = w.session(PRIMARY).take_relay();
        heard.is_some()
    });
    assert_eq!(&*heard.unwrap().payload, b"hello");
}

/// A primary's message with a wrong seal is not held against the client that carries it.
#[test]
fn a_wrong_seal_is_dropped_and_nobody_blamed() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let forged = RelayOpen { path, id: 0, length: 5, seal: Some(Signature::new([7; 64])) };
    let primary = world.session(PRIMARY);
    primary.queue_relay(
        HOME,
        relays::Outgoing { head: forged, payload: Bytes::from_static(b"words"), unsigned: false },
    );
    world.run(|w| w.session(2).relays_refused == 1);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(2).take_relay(), None);
    assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Active));
}

/// A small message must not run so far ahead of a large one that the large one is taken for a repetition.
#[test]
fn a_large_message_is_not_overtaken_by_too_many() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    world.loss = 100;
    let (mut sent, mut heard) = (0_u32, Vec::new());
    while heard.len() < 300 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        while sent < 300 {
            let length = if sent == 0 { LONGEST } else { 8 };
            match primary.relay(now, path, vec![1; length].into()) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, RelayError::Blocked);
                    break;
                }
            }
        }
        take_all(world.session(2), &mut heard);
        world.drain();
        world.step();
        world.drain();
        assert_eq!(world.session(2).relays_refused, 0);
    }
    assert!(heard.iter().any(|relay| relay.payload.len() == LONGEST));
}

/// Found by the simulator, seed 17998: where the client permits few streams, messages took each slot as it was freed, and the
/// application of a primary that talked on and on could open no stream.
#[test]
fn messages_leave_the_applications_slots_alone() {
    let mut world = World::new(1);
    world.connect_with(TransportConfig::default().streams_start(1).streams_max(1));
    let path = world.attach(2);
    let (mut opened, mut sent) = (0, 0);
    let end = world.now + ONE_WAY * 100;
    world.run(|w| {
        let now = w.now;
        let primary = w.session(PRIMARY);
        while primary.relay(now, path, Bytes::from_static(b"more")).is_ok() {
            sent += 1;
        }
        // The application sees what came only after the session has used it.
        if let Some(stream) = primary.open(Dir::Uni) {
            opened += 1;
            primary.finish(now, stream).unwrap();
        }
        let client = w.session(CLIENT);
        while let Some(stream) = client.accept(Dir::Uni) {
            read_all(now, client, stream, true, &mut Vec::new());
        }
        take_all(w.session(2), &mut Vec::new());
        now >= end
    });
    assert!(opened > 30 && sent > 200, "{opened} streams opened, {sent} messages sent in fifty round trips");
}

/// Slots that come on top of the streams that a client permits are not the application's: left unread, they would take the
/// connection window from control. Spec: PROTOCOL §4.
#[test]
fn slots_that_are_permitted_on_top_starve_no_control() {
    for (relays, splits) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new(1);
        world.connect_with(TransportConfig::default().streams_start(1).streams_max(1));
        let path = world.attach(2);
        let now = world.now;
        let bi = world.session(PRIMARY).open(Dir::Bi).unwrap();
        if relays {
            world.session(PRIMARY).relay(now, path, Bytes::from_static(b"hello")).unwrap();
        }
        if splits {
            world.session(PRIMARY).open_job(now, bi, NewJob::new(path, range(0, 1000), "")).unwrap();
        }
        world.run_for(ONE_WAY * 10);
        while world.session(2).accept_job().is_some() {}
        let (mut streams, end) = (Vec::new(), world.now + ONE_WAY * 200);
        world.run(|w| {
            let now = w.now;
            let primary = w.session(PRIMARY);
            streams.extend(std::iter::from_fn(|| primary.open(Dir::Uni)));
            for &stream in &streams {
                while primary.write(now, stream, &mut [Bytes::from(vec![1; 64 * 1024])]).is_ok() {}
            }
            now >= end
        });
        // Some more where QUIC tells of freed slots late.
        assert!(
            if splits { (1..=16).contains(&streams.len()) } else { streams.len() <= 3 },
            "{}",
            streams.len()
        );
        let now = world.now;
        world.session(PRIMARY).open_job(now, bi, NewJob::new(path, range(0, 1000), "")).unwrap();
        let end = world.now + ONE_WAY * 10;
        world.run(|w| w.session(2).accept_job().is_some() || w.now >= end);
        assert!(world.now < end, "relays {relays}, splits {splits}: the job does not arrive");
    }
}
