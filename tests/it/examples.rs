//! The adapters' examples, run against each other as a reader would run them.

use std::{fs, future::Future, net::SocketAddr, path::Path, time::Duration};

use kwik_tests::{run_for, within};

#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-async-std/examples/client.rs"]
mod async_std_client;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-async-std/examples/echo.rs"]
mod async_std_echo;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-async-std/examples/mirror.rs"]
mod async_std_mirror;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-async-std/examples/primary.rs"]
mod async_std_primary;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-tokio/examples/client.rs"]
mod tokio_client;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-tokio/examples/echo.rs"]
mod tokio_echo;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-tokio/examples/mirror.rs"]
mod tokio_mirror;
#[expect(dead_code, reason = "its main is for whoever runs the example")]
#[path = "../../kwik-tokio/examples/primary.rs"]
mod tokio_primary;

/// The tests of one adapter's examples.
macro_rules! examples {
    ($name:ident, $client:ident, $echo:ident, $mirror:ident, $primary:ident) => {
        mod $name {
            use super::{$client as client, $echo as echo, $mirror as mirror, $primary as primary};

            #[test]
            fn an_echo_comes_back() {
                super::timed(async { assert_eq!(echo::echo(b"hello").await.unwrap(), b"hello") });
            }

            #[test]
            fn a_client_a_primary_and_two_mirrors() {
                super::timed(async {
                    let (keys, bytes) = super::site(stringify!($name));
                    let local = super::local();
                    // The origin comes first: mirrors have to know its key.
                    let origin = primary::listen(&keys, local).unwrap();
                    let at = origin.local_addr().unwrap();
                    let mut mirrors = Vec::new();
                    for name in ["a.example", "b.example"] {
                        let endpoint = mirror::listen(&keys, name, local).unwrap();
                        mirrors.push((name.to_owned(), endpoint.local_addr().unwrap()));
                        tokio::spawn(mirror::serve(endpoint, bytes.clone().leak()));
                    }
                    let object = keys.join("object");
                    tokio::spawn(primary::serve(
                        origin,
                        primary::Site { keys: keys.clone(), object, mirrors },
                    ));
                    let got = client::fetch(&keys, at, "object").await.unwrap();
                    assert!(got == bytes, "other bytes");
                    std::fs::remove_dir_all(keys).unwrap();
                });
            }
        }
    };
}

examples!(on_tokio, tokio_client, tokio_echo, tokio_mirror, tokio_primary);
examples!(on_async_std, async_std_client, async_std_echo, async_std_mirror, async_std_primary);

fn timed(test: impl Future<Output = ()>) {
    const LIMIT: Duration = Duration::from_secs(60);
    run_for(LIMIT, within(LIMIT, "the example", test));
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A folder for keys, with an object in it.
fn site(name: &str) -> (std::path::PathBuf, Vec<u8>) {
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("examples-{name}-{}", std::process::id()));
    fs::create_dir_all(&keys).unwrap();
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    fs::write(keys.join("object"), &bytes).unwrap();
    (keys, bytes)
}
