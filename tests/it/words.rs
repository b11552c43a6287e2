//! Codes that peers choose: they come out as the peer's word, and never as what this end says itself. Spec: PROTOCOL §1.6, §8.3.

use kwik_proto::v1 as pb;
use kwik_tests::{
    raw::{self, ALPN, RawServer, close_code},
    run, soon,
    world::World,
};
use kwik_tokio::{Accepted, ApplicationClose, ConnectionError, ErrorCode, NewPath, PathError};
use pb::FrameType;

/// A secondary that turns the client away, or closes, for a reason that only the client itself could have.
#[test]
fn a_path_never_ends_with_a_word_that_is_not_its_servers() {
    run(async {
        let world = World::new(0);
        let (_client, primary) = world.connect().await;
        let cases = [
            (ErrorCode::INTERNAL, ErrorCode::PATH_DEAD),
            (ErrorCode::NO_ERROR, ErrorCode::PATH_DEAD),
            (ErrorCode::DIAL_REFUSED, ErrorCode::PATH_DEAD),
            (ErrorCode::PRIMARY_LOST, ErrorCode::PATH_DEAD),
            (ErrorCode::from_u32(5), ErrorCode::PATH_DEAD),
            (ErrorCode::INVALID_STREAM_ROLE, ErrorCode::INVALID_STREAM_ROLE),
            (ErrorCode::AUTH_FAILED, ErrorCode::AUTH_FAILED),
        ];
        for (said, told) in cases {
            for closes in [false, true] {
                let server = world.raw_secondary();
                let path = NewPath::new(server.address(), &server.identity.name, server.identity.key);
                let (added, _peer) = tokio::join!(primary.add_path(path), async {
                    let mut peer = server.accept().await;
                    if closes {
                        peer.connection.close(said.into_inner().try_into().unwrap(), b"");
                    } else {
                        let refuse =
                            pb::Refuse { code: Some(said.into_inner()), reason: Some(String::new()) };
                        peer.control.send(FrameType::Refuse, &refuse).await;
                        assert_eq!(peer.closed().await, ErrorCode::NO_ERROR.into_inner(), "no echo");
                    }
                    peer
                });
                let Err(PathError::Dead { code, .. }) = added else { panic!("attached? {added:?}") };
                assert_eq!(code, told, "{said}, by a close: {closes}");
            }
        }
        assert_eq!(primary.close_reason(), None);
    });
}

fn words() -> [(ErrorCode, &'static str); 3] {
    [(ErrorCode::INTERNAL, "x"), (ErrorCode::LEASE_VIOLATION, ""), (ErrorCode::from_u32(5), "bye")]
}

fn is_word(end: &ConnectionError, code: ErrorCode, reason: &str) {
    let ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason: said, .. }) = end else {
        panic!("told as our own word: {end:?}");
    };
    assert_eq!((*error_code, &said[..]), (code, reason.as_bytes()));
}

/// A client ends its session with words of ours.
#[test]
fn a_clients_reason_is_its_own() {
    run(async {
        let world = World::new(0);
        let endpoint = raw::dialler();
        for (code, reason) in words() {
            let address = world.primary.address();
            let ((connection, mut control), accepted) = tokio::join!(
                async {
                    let dialled = raw::dial(&endpoint, &world.authority, ALPN, address, "primary.test").await;
                    let (connection, mut control) = dialled.unwrap();
                    let hello = pb::ClientHello {
                        version: Some(1),
                        features: Some(0x7f),
                        client_key: Some(vec![1; 32].into()),
                        split_streams_max: Some(1),
                        app_protocols: vec![],
                        attach: None,
                    };
                    control.send(FrameType::ClientHello, &hello).await;
                    (connection, control)
                },
                world.primary.accept()
            );
            let Accepted::Primary(primary) = accepted else { panic!("a client that wants a primary") };
            let close = pb::SessionClose { code: Some(code.into_inner()), reason: Some(reason.to_owned()) };
            control.send(FrameType::SessionClose, &close).await;
            is_word(&soon("the end", primary.closed()).await, code, reason);
            assert_eq!(close_code(&connection).await, ErrorCode::NO_ERROR.into_inner());
        }
    });
}

/// A primary turns a client away, or ends its session, with words of ours.
#[test]
fn a_primarys_reason_is_its_own() {
    run(async {
        let world = World::new(0);
        for (code, reason) in words() {
            for welcome in [false, true] {
                let server = RawServer::new(&world.authority, "primary.test");
                let connecting = world.client.connect(server.address(), "primary.test").unwrap();
                let (client, mut primary) =
                    soon("a session", async { tokio::join!(connecting, server.accept()) }).await;
                let (code_sent, reason_sent) = (Some(code.into_inner()), Some(reason.to_owned()));
                if welcome {
                    primary.welcome_to(&[5; 16]).await;
                    let close = pb::SessionClose { code: code_sent, reason: reason_sent };
                    primary.control.send(FrameType::SessionClose, &close).await;
                } else {
                    let refuse = pb::Refuse { code: code_sent, reason: reason_sent };
                    primary.control.send(FrameType::Refuse, &refuse).await;
                }
                is_word(&soon("the end", client.unwrap().closed()).await, code, reason);
                assert_eq!(primary.closed().await, ErrorCode::NO_ERROR.into_inner());
            }
        }
    });
}
