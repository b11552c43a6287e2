//! Things that an application's TLS configuration must not bring about: early data, a client's certificate in the hands of
//! whatever server its primary names, and protocols that were not agreed on. Spec: RATIONALE §3, §9.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kwik_proto::v1 as pb;
use kwik_tests::{
    raw::{self, ALPN, Control, RawServer},
    run, soon, stays_pending,
    world::{Settings, World, attach_raw},
};
use kwik_tokio::{Accepted, ClientConfig, ConnectionError, Endpoint, ErrorCode, PeerFault, ServerConfig};
use pb::FrameType;
use rustls::pki_types::CertificateDer;
use tokio::net::UdpSocket;

/// Passes datagrams on between one client and `server`; nothing to the client once `deaf` is set.
async fn relay(server: SocketAddr, deaf: Arc<AtomicBool>) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind(raw::loopback()).await.unwrap());
    let back = UdpSocket::bind(raw::loopback()).await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 2000], [0; 2000]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = front.recv_from(&mut up) => {
                    client = Some(from);
                    back.send_to(&up[..len], server).await.unwrap();
                }
                Ok((len, _)) = back.recv_from(&mut down) => {
                    if let Some(client) = client.filter(|_| !deaf.load(Ordering::Relaxed)) {
                        front.send_to(&down[..len], client).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

/// A server whose TLS configuration permits early data, as quinn's own helpers have it, and a client that sends some.
#[test]
fn nothing_is_read_before_the_handshake() {
    run(async {
        let world = World::new(0);
        let mut identity = world.authority.issue("early.test");
        identity.tls.max_early_data_size = u32::MAX;
        let config = ServerConfig::try_from(identity.tls).unwrap().primary(world.signer.clone());
        let server = Endpoint::server(config, raw::loopback()).unwrap();
        let deaf = Arc::new(AtomicBool::new(false));
        let front = relay(server.local_addr().unwrap(), deaf.clone()).await;
        let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    if let Ok(Accepted::Primary(session)) = incoming.accept_any().await {
                        told.send(()).unwrap();
                        session.closed().await;
                    }
                });
            }
        });

        let mut tls = world.authority.client();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.enable_early_data = true;
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let endpoint = raw::dialler();
        // The first session brings a TLS session ticket, for the second to send early with.
        let connecting = endpoint.connect_with(config.clone(), front, "early.test").unwrap();
        let first = soon("the handshake", connecting).await.unwrap();
        let _control = hello(&first).await;
        soon("a session", news.recv()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        first.close(0u32.into(), b"");

        // What the server says does not arrive: nothing but early data can be sent.
        deaf.store(true, Ordering::Relaxed);
        match endpoint.connect_with(config, front, "early.test").unwrap().into_0rtt() {
            Ok((early, _accepted)) => {
                let _control = hello(&early).await;
                let nothing = stays_pending(Duration::from_millis(500), news.recv()).await;
                assert!(nothing, "a session came of early data");
            }
            Err(connecting) => drop(connecting), // the ticket itself permits none
        }
    });
}

/// A primary names an application protocol that the client has not offered, and one that it has.
#[test]
fn a_client_takes_no_protocol_that_it_has_not_offered() {
    run(async {
        for (answer, taken) in [(Some("evil/9"), false), (Some("mine/1"), true), (None, true)] {
            let protocols = vec![b"mine/1".to_vec()];
            let world = World::with(0, Settings { client_protocols: protocols, ..Settings::default() });
            let server = RawServer::new(&world.authority, "primary.test");
            let connecting = world.client.connect(server.address(), "primary.test").unwrap();
            let (client, mut primary) =
                soon("a session", async { tokio::join!(connecting, server.accept()) }).await;
            let client = client.unwrap();
            let hello = pb::ServerHello {
                version: Some(1),
                features: Some(0),
                session: Some(vec![5; 16].into()),
                app_protocol: answer.map(Into::into),
            };
            primary.control.send(FrameType::ServerHello, &hello).await;
            if taken {
                soon("the answer", async {
                    while client.session_id().is_none() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
                .await;
                assert_eq!(client.handshake().unwrap().protocol, answer.map(Into::into));
            } else {
                assert_eq!(primary.closed().await, ErrorCode::VERSION.into_inner());
                let end = soon("the end", client.closed()).await;
                assert_eq!(end, ConnectionError::Fault(PeerFault::ProtocolNotOffered));
                assert_eq!(client.handshake().unwrap().protocol, None);
            }
        }
    });
}

/// A server with protocols of its own serves nobody who offers none; one without serves anybody.
#[test]
fn a_server_with_protocols_wants_one_of_them() {
    run(async {
        for (server, client, agreed) in
            [(vec![b"mine/1".to_vec()], vec![], false), (vec![], vec![b"mine/1".to_vec()], true)]
        {
            let settings =
                Settings { client_protocols: client, server_protocols: server, ..Settings::default() };
            let world = World::with(0, settings);
            let endpoint = world.primary.endpoint.clone();
            let connecting = world.client.connect(world.primary.address(), "primary.test").unwrap();
            let (_, accepted) = soon("an answer", async {
                tokio::join!(connecting, async { endpoint.accept().await.unwrap().accept_any().await })
            })
            .await;
            assert_eq!(accepted.is_ok(), agreed, "{accepted:?}");
        }
    });
}

async fn hello(connection: &quinn::Connection) -> Control {
    let (send, recv) = connection.open_bi().await.unwrap();
    let hello = pb::ClientHello {
        version: Some(1),
        features: Some(0x7f),
        client_key: Some(vec![1; 32].into()),
        split_streams_max: Some(1),
        app_protocols: vec![],
        attach: None,
    };
    let mut control = Control::new(send, recv);
    control.send(FrameType::ClientHello, &hello).await;
    control
}

/// A client has a certificate for its primary, and a secondary asks for it.
#[test]
fn a_clients_certificate_is_its_primarys_to_see() {
    run(async {
        for told in [false, true] {
            let mut world = World::new(0);
            let tls = world.authority.client_called("alice.test");
            let config = ClientConfig::try_from(tls).unwrap();
            let config = if told { config.authenticate_to_secondaries(true) } else { config };
            world.client.set_default_client_config(config);
            world.primary.identity = world.authority.issue_curious("primary.test");
            let config = ServerConfig::try_from(world.primary.identity.tls.clone()).unwrap();
            let config = config.primary(world.signer.clone());
            world.primary.endpoint = Endpoint::server(config, raw::loopback()).unwrap();

            let (_client, primary) = world.connect().await;
            let shown = primary.peer_certificates().expect("the client's chain");
            assert!(is_alices(&shown));

            let server = RawServer::with_alpn(world.authority.issue_curious("third-party.test"), ALPN);
            let (_path, peer) = attach_raw(&primary, &server).await;
            let shown = peer.connection.peer_identity();
            let shown = shown.map(|chain| chain.downcast::<Vec<CertificateDer<'_>>>().unwrap());
            assert_eq!(shown.is_some_and(|chain| is_alices(&chain)), told);
        }
    });
}

fn is_alices(chain: &[CertificateDer<'_>]) -> bool {
    String::from_utf8_lossy(&chain[0]).contains("alice.test")
}
