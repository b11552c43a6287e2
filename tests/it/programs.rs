//! The programs of the README and of the crates' pages, as they stand there, run against each other.

use std::{net::SocketAddr, sync::Arc};

use kwik_tests::{authority::Authority, run, soon};
use kwik_tokio::{Endpoint, SecondaryConfig, ServerConfig, Signer as _, SigningKey};

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
            let Servers { authority, origin, object, served } = Servers::start();
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
    fn start() -> Self {
        let authority = Authority::new();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let whole: &'static [u8] =
            (0..3_000_001_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect::<Vec<_>>().leak();
        let identity = authority.issue("mirror.example");
        let trust = SecondaryConfig::new(signer.public_key(), &identity.certificate).unwrap();
        let config = ServerConfig::try_from(identity.tls.clone()).unwrap().secondary(trust);
        let mirror = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let mirror_address = mirror.local_addr().unwrap();
        let mirrored = tokio::spawn(async move {
            let incoming = mirror.accept().await.unwrap();
            // It fails where its lease was taken from it, as on a machine that is too busy for it.
            let _ended = mirror::serve(incoming, whole).await;
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
