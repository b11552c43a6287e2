//! Messages between servers, by way of the client. Spec: PROTOCOL §9.

use std::{collections::BTreeSet, sync::Arc};

use kwik_tests::{
    feed::{Plan, distribute, receive},
    object::Object,
    run, soon,
    world::{Server, World, serve_session},
};
use kwik_tokio::{
    Endpoint, ErrorCode, NewPath, PathId, PrimarySession, RelayError, SecondaryConfig, SecondarySession,
    ServerConfig, Signer as _, SigningKey,
};

const OBJECT: Object = Object(33);
const MIB: u64 = 1024 * 1024;
/// The longest message.
const LONGEST: usize = 64 * 1024;

/// A message that says which it is, of every length there may be.
fn message(number: u64) -> Vec<u8> {
    let length = [8, 9, 1200, 40_000, LONGEST][usize::try_from(number % 5).unwrap()];
    number.to_be_bytes().iter().copied().cycle().take(length).collect()
}

fn number(payload: &[u8]) -> u64 {
    let number = u64::from_be_bytes(payload[..8].try_into().unwrap());
    assert_eq!(payload, message(number), "message {number} is not what was sent");
    number
}

/// Attaches a secondary and gives both ends.
async fn attach(primary: &PrimarySession, server: &Server, path: NewPath) -> (PathId, SecondarySession) {
    let (path, session) =
        soon("a path", async { tokio::join!(primary.add_path(path), server.accept_secondary()) }).await;
    (path.unwrap(), session)
}

#[test]
fn messages_pass_both_ways_whole_and_once_beside_an_object() {
    run(async {
        const COUNT: u64 = 100;
        let world = World::new(2);
        let (client, primary) = world.connect().await;
        let mut paths = Vec::new();
        for server in &world.secondaries {
            let (path, session) = attach(&primary, server, server.new_path()).await;
            tokio::spawn(serve_session(session.clone()));
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                while let Ok(relay) = session.read_relay().await {
                    assert!(relay.sealed && relay.path == path);
                    assert!(seen.insert(number(&relay.payload)), "said twice");
                    session.relay(relay.payload).await.unwrap();
                }
            });
            paths.push(path);
        }
        let plan =
            Plan { object: OBJECT, size: 8 * MIB, head: 1, piece: 100_000, paths: paths.clone(), own: true };
        let stream = primary.open_uni().await.unwrap();
        let talk = async {
            let send = async {
                for number in 0..COUNT {
                    for &path in &paths {
                        primary.relay(path, message(number)).await.unwrap();
                    }
                }
            };
            let hear = async {
                let mut heard: BTreeSet<(PathId, u64)> = BTreeSet::new();
                while heard.len() < paths.len() * usize::try_from(COUNT).unwrap() {
                    let relay = primary.read_relay().await.unwrap();
                    assert!(!relay.sealed, "nobody has given these servers a key");
                    assert!(heard.insert((relay.path, number(&relay.payload))), "said twice");
                }
            };
            tokio::join!(send, hear)
        };
        let (report, _, ()) = tokio::join!(distribute(stream, plan), soon("all answers", talk), async {
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(8 * MIB));
        });
        assert_eq!(report.unwrap().lost, []);
    });
}

#[test]
fn a_secondary_with_a_key_is_known_by_it() {
    run(async {
        let world = World::new(0);
        let (_client, primary) = world.connect().await;
        let key = Arc::new(SigningKey::from_seed([5; 32]));
        let identity = world.authority.issue("signing.test");
        let trust = SecondaryConfig::new(world.signer.public_key(), &identity.certificate).unwrap();
        let config =
            ServerConfig::try_from(identity.tls.clone()).unwrap().secondary(trust.signer(key.clone()));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let server = Server { endpoint, identity };

        let (path, session) = attach(&primary, &server, server.new_path().relay_key(key.public_key())).await;
        session.relay(message(1)).await.unwrap();
        let relay = soon("a message", primary.read_relay()).await.unwrap();
        assert!(relay.sealed && relay.path == path && number(&relay.payload) == 1);

        // One that is expected to sign with another key is not believed.
        let other = SigningKey::from_seed([6; 32]).public_key();
        let (path, impostor) = attach(&primary, &server, server.new_path().relay_key(other)).await;
        impostor.relay(message(2)).await.unwrap();
        session.relay(message(3)).await.unwrap();
        let relay = soon("a message", primary.read_relay()).await.unwrap();
        assert!(relay.path != path && number(&relay.payload) == 3);
        while primary.stats().relays_refused == 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn what_cannot_be_relayed_is_an_error() {
    run(async {
        let world = World::serving(1);
        let (client, primary, paths) = world.connect_all().await;
        let path = paths[0];
        let too_long = vec![0; LONGEST + 1];
        assert!(matches!(primary.relay(path, too_long).await, Err(RelayError::Misuse(_))));
        let unknown = PathId::new(path.into_inner() + 1);
        assert_eq!(primary.relay(unknown, "words").await, Err(RelayError::PathDead));
        primary.remove_path(path).unwrap();
        soon("the end of the path", primary.path_dead(path)).await.unwrap();
        assert_eq!(primary.relay(path, "words").await, Err(RelayError::PathDead));
        client.close(ErrorCode::from_u32(0), b"");
        soon("the end of the session", primary.closed()).await;
        assert_eq!(primary.relay(path, "words").await, Err(RelayError::SessionClosed));
        assert!(primary.read_relay().await.is_err());
    });
}

/// An application that does not read its messages loses those beyond 1 MiB, and nothing else suffers.
#[test]
fn messages_that_nobody_reads_hold_nobody_up() {
    run(async {
        let world = World::new(1);
        let (client, primary) = world.connect().await;
        let server = &world.secondaries[0];
        let (path, session) = attach(&primary, server, server.new_path()).await;
        tokio::spawn(serve_session(session.clone()));
        for number in 0..40 {
            primary.relay(path, message(5 * number + 4)).await.unwrap();
        }
        while session.stats().relays_refused < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let stream = primary.open_uni().await.unwrap();
        let plan = Plan { object: OBJECT, size: MIB, head: 0, piece: 100_000, paths: vec![path], own: false };
        let (report, ()) = tokio::join!(distribute(stream, plan), async {
            let mut recv = soon("the stream", client.accept_uni()).await.unwrap();
            assert_eq!(receive(&mut recv, OBJECT, true).await, Ok(MIB));
        });
        assert_eq!(report.unwrap().lost, []);
        for _ in 0..16 {
            let relay = soon("what fits", session.read_relay()).await.unwrap();
            number(&relay.payload);
        }
        // There is room again.
        primary.relay(path, message(7)).await.unwrap();
        while number(&soon("one more", session.read_relay()).await.unwrap().payload) != 7 {}
    });
}
