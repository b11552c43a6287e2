//! Streams that are permitted, and the counters of those that are not.

use super::*;

/// Opens streams and writes a byte to each, until the peer permits no more for good. Returns how many there are.
fn open_all(world: &mut World, node: usize, dir: Dir) -> u64 {
    let mut count = 0;
    for _round in 0..10 {
        let now = world.now;
        let session = world.session(node);
        while let Some(stream) = session.open(dir) {
            session.write(now, stream, &mut [object(range(0, 1))]).unwrap();
            count += 1;
        }
        world.run_for(ONE_WAY * 3);
    }
    count
}

/// 85 of each kind were all that there could be, whatever was asked for; quinn has 100. Spec: PROTOCOL §11.
#[test]
fn as_many_streams_as_the_settings_say() {
    let mut asked = TransportConfig::default().streams_max(200);
    asked.receive_window(((200u32 * 6) << 20).into());
    for (transport, most) in [(TransportConfig::default(), 128), (asked, 200)] {
        let mut world = World::new(0);
        world.connect_with(transport);
        for dir in [Dir::Uni, Dir::Bi] {
            assert_eq!(open_all(&mut world, PRIMARY, dir), most, "{dir:?}");
        }
        assert!(world.session(PRIMARY).stats().opens_refused >= 2);
        assert!(world.session(CLIENT).stats().streams_exhausted >= 2);
        // A server's settings are its own: here the default, which does not count control.
        for dir in [Dir::Uni, Dir::Bi] {
            assert_eq!(open_all(&mut world, CLIENT, dir), 128, "{dir:?}");
        }
        assert!(world.session(CLIENT).stats().opens_refused >= 2);
        assert!(world.session(PRIMARY).stats().streams_exhausted >= 2);
    }
}

/// Whoever has room left is not said to have none.
#[test]
fn streams_that_are_permitted_are_not_counted() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().streams_start(4).streams_max(4));
    for count in 1..=4 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        primary.write(now, stream, &mut [object(range(0, 1))]).unwrap();
        world.run_for(ONE_WAY * 3);
        assert_eq!(world.session(PRIMARY).stats().opens_refused, 0);
        assert_eq!(world.session(CLIENT).stats().streams_exhausted, u64::from(count == 4));
    }
    assert_eq!(world.session(PRIMARY).open(Dir::Uni), None);
    assert_eq!(world.session(PRIMARY).stats().opens_refused, 1);
}

/// Clients that come while as many as may be wait at the door: ignored, as before, and counted now.
#[test]
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
fn clients_that_find_the_door_crowded_are_counted() {
    let now = Instant::now();
    let authority = Authority::new();
    let config =
        ServerConfig::try_from(authority.server("a.test").0).unwrap().accepts_max(2).retry_above(None);
    let mut server = Endpoint::new([1; 32], now, Some(config), true).unwrap();
    let mut client = Endpoint::new([2; 32], now, None, true).unwrap();
    let here = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut come = |server: &mut Endpoint| {
        let config = ClientConfig::try_from(authority.client()).unwrap();
        let (_, mut session) = client.connect(now, config, here, "a.test").unwrap();
        let mut first = Vec::new();
        assert!(session.poll_transmit(now, 1, &mut first).is_some());
        server.handle(now, here, None, None, BytesMut::from(&*first), &mut Vec::new())
    };
    let mut waiting = Vec::new();
    for _ in 0..2 {
        match come(&mut server) {
            Some(DatagramEvent::Incoming(incoming)) => waiting.push(incoming),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.initials_ignored(), 0);
    assert!(come(&mut server).is_none());
    assert_eq!(server.initials_ignored(), 1);
    // Each way to leave makes room.
    server.ignore(waiting.pop().unwrap());
    let Some(DatagramEvent::Incoming(third)) = come(&mut server) else {
        panic!("there is room");
    };
    assert!(come(&mut server).is_none());
    drop(server.refuse(third, &mut Vec::new()));
    assert!(matches!(come(&mut server), Some(DatagramEvent::Incoming(_))));
    assert_eq!(server.initials_ignored(), 2);
}
