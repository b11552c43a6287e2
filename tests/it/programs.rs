//! The programs of the README and of the crates' pages, as they stand there, run against each other.

use std::{net::SocketAddr, sync::Arc};

use kwik_tests::{authority::Authority, run, soon};
use kwik_tokio::{Accepted, Endpoint, Incoming, SecondaryConfig, ServerConfig, Signer as _, SigningKey};

#[path = "../../kwik-async-std/programs/client.rs"]
#[expect(unreachable_pub, reason = "as users write it")]
mod async_std_client;
#[path = "../../kwik-tokio/programs/client.rs"]
#[expect(unreachable_pub, reason = "as users write it")]
mod client;
#[path = "../../kwik-tokio/programs/mirror.rs"]
#[expect(unreachable_pub, clippy::cast_possible_truncation, reason = "as users write it")]
mod mirror;
#[path = "../../kwik-tokio/programs/primary.rs"]
#[expect(unreachable_pub, clippy::cast_possible_truncation, reason = "as users write it")]
mod primary;

const README: &str = include_str!("../../README.md");
const SHOWN: [&str; 3] = [
    include_str!("../../kwik-tokio/programs/primary.rs"),
    include_str!("../../kwik-tokio/programs/mirror.rs"),
    include_str!("../../kwik-tokio/programs/client.rs"),
];

/// The primary of the README dropped its session as soon as it had finished the stream, and each of its clients got
/// `PRIMARY_LOST` in place of the object.
#[test]
fn the_programs_of_the_readme_bring_the_object() {
    run(async {
        for round in 0..4 {
            let Servers { authority, origin, object, served } =
                Servers::start(3_000_001, |incoming, object| async move {
                    // It fails where its lease was taken from it, as on a machine that is too busy for it.
                    let _ended = mirror::serve(incoming, object).await;
                });
            let got = if round % 2 == 0 {
                soon("the object", client::fetch(origin, authority.client())).await
            } else {
                soon("the object", async_std_client::fetch(origin, authority.client())).await
            };
            // Whoever brought it: a mirror that a busy machine kept waiting may have lost its half to the primary.
            assert!(got.unwrap() == object, "round {round}: other bytes");
            for server in served {
                soon("the server to be done", server).await.unwrap();
            }
        }
    });
}

/// The primary of the README wrote its own half before it looked at its lease: its client waited for what the mirror had not
/// brought, and the primary for room behind that.
#[test]
fn the_primary_of_the_readme_fills_what_its_mirror_leaves() {
    run(async {
        let Servers { authority, origin, object, served } =
            Servers::start(30_000_001, |incoming, object| async move {
                let Accepted::Secondary(session) = incoming.accept_any().await.unwrap() else {
                    panic!("not attached")
                };
                let mut job = session.accept_job().await.unwrap();
                let lease = job.next_lease().await.unwrap();
                lease.open().write_all(&object[..100_000]).await.unwrap();
                session.close(1_u32.into(), b"out of order");
            });
        let got = soon("the object", client::fetch(origin, authority.client())).await;
        assert!(got.unwrap() == object, "other bytes");
        for server in served {
            soon("the server to be done", server).await.unwrap();
        }
    });
}

/// The programs that are run are those that are read.
#[test]
fn the_readme_shows_what_is_run() {
    let blocks: Vec<&str> =
        README.split("```rust,no_run\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks, SHOWN);
    assert_eq!(README.matches("```rust").count(), SHOWN.len(), "another program, which nobody runs");
}

/// An origin and a mirror that run the README's programs, each for one client.
struct Servers {
    authority: Authority,
    origin: SocketAddr,
    object: Vec<u8>,
    served: Vec<tokio::task::JoinHandle<()>>,
}

impl Servers {
    fn start<F>(len: u32, serve_mirror: impl FnOnce(Incoming, &'static [u8]) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let authority = Authority::new();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let whole: &'static [u8] =
            (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect::<Vec<_>>().leak();
        let identity = authority.issue("mirror.example");
        let trust = SecondaryConfig::new(signer.public_key(), &identity.certificate).unwrap();
        let config = ServerConfig::try_from(identity.tls.clone()).unwrap().secondary(trust);
        let mirror = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let mirror_address = mirror.local_addr().unwrap();
        let mirrored = tokio::spawn(async move {
            let incoming = mirror.accept().await.unwrap();
            serve_mirror(incoming, whole).await;
        });

        let config = ServerConfig::try_from(authority.issue("origin.example").tls).unwrap().primary(signer);
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let origin = endpoint.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let incoming = endpoint.accept().await.unwrap();
            primary::serve(incoming, mirror_address, identity.key, whole).await.unwrap();
        });
        Self { authority, origin, object: whole.to_vec(), served: vec![served, mirrored] }
    }
}
