//! The ends of streams, call by call, on quinn and on KWIK: the same is said. Spec: DESIGN §2 (I4), RATIONALE §3.

use std::sync::Arc;

use kwik_tests::{authority::Authority, raw::loopback, run, soon, world::World};

/// Result of a call, in words that both libraries share.
fn words(said: &impl std::fmt::Debug) -> String {
    let said = format!("{said:?}").replace("ClosedStream { _private: () }", "ClosedStream");
    let said = said.replace(", source: Some(PathId(0))", "").replace(", source: None", ""); // quinn knows one server
    said.replace(" { offset: ", "(").replace(", bytes: ", ", ").replace("\" }", "\")")
}

/// The same program for both: `$c` and `$s` are the ends of one connection of the library `$lib`.
macro_rules! script {
    ($run:ident, $lib:ident) => {
        async fn $run(c: &$lib::Connection, s: &$lib::Connection) -> Vec<String> {
            use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
            let mut log = Vec::new();
            macro_rules! say {
                ($what:literal, $call:expr) => {
                    log.push(format!("{}: {}", $what, words(&soon($what, async { $call }).await)))
                };
            }

            // The peer stops, whether it has read everything or nothing.
            for read in [true, false] {
                let (mut tx, _rx) = c.open_bi().await.unwrap();
                tx.write_all(b"hello").await.unwrap();
                let (_stx, mut srx) = s.accept_bi().await.unwrap();
                if read {
                    srx.read_exact(&mut [0; 5]).await.unwrap();
                }
                say!("stop", srx.stop(3u32.into()));
                say!("stopped", tx.stopped().await);
                say!("write", tx.write(b"more").await);
                say!("write nothing", tx.write(b"").await);
                say!("shutdown", tx.shutdown().await);
                say!("finish", tx.finish());
                say!("finish again", tx.finish());
                say!("stopped after that", tx.stopped().await);
                say!("write after that", tx.write(b"more").await);
                say!("reset", tx.reset(4u32.into()));
                say!("reset again", tx.reset(4u32.into()));
                say!("write after the reset", tx.write(b"more").await);
                // Nothing that the reader itself has given up is news to it.
                say!("read after stop", srx.read(&mut [0; 5]).await);
                say!("read_chunk after stop", srx.read_chunk(5, true).await);
                say!("AsyncRead after stop", AsyncReadExt::read(&mut srx, &mut [0; 5]).await);
                say!("read_to_end after stop", srx.read_to_end(9).await);
                say!("stop again", srx.stop(3u32.into()));
            }

            // Somebody waits for the stop when it comes; and asks again.
            let (mut tx, _rx) = c.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, srx) = s.accept_bi().await.unwrap();
            let (stopped, ()) = tokio::join!(tx.stopped(), async { drop(srx) });
            say!("stopped by a drop", stopped);
            say!("and again", tx.stopped().await);

            // All is well.
            let (mut tx, _rx) = c.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            say!("finish once", tx.finish());
            say!("finish twice", tx.finish());
            say!("shutdown after that", tx.shutdown().await);
            say!("write after finish", tx.write(b"more").await);
            say!("write nothing after finish", tx.write(b"").await);
            let (_stx, mut srx) = s.accept_bi().await.unwrap();
            say!("read nothing", srx.read(&mut []).await);
            say!("read no chunks", srx.read_chunks(&mut []).await);
            say!("one byte", srx.read_chunk(1, true).await);
            say!("a look", srx.read_chunk(0, true).await);
            say!("the rest", srx.read_chunk(9, true).await);
            say!("a look at the end", srx.read_chunk(0, true).await);
            say!("the end", srx.read_chunk(9, true).await);
            say!("the end again", srx.read(&mut [0; 9]).await);
            say!("stop after the end", srx.stop(1u32.into()));
            say!("arrived", tx.stopped().await);
            say!("arrived still", tx.stopped().await);
            say!("reset after that", tx.reset(1u32.into()));

            // The writer gives up.
            let (mut tx, _rx) = c.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, mut srx) = s.accept_bi().await.unwrap();
            say!("reset before the end", tx.reset(7u32.into()));
            say!("reset twice", tx.reset(7u32.into()));
            say!("finish after reset", tx.finish());
            say!("write after reset", tx.write(b"more").await);
            while !matches!(srx.read(&mut [0; 5]).await, Err(error) if log.push(words(&error)) == ()) {}
            say!("read after it was told", srx.read(&mut [0; 5]).await);
            say!("read_chunk after it was told", srx.read_chunk(5, true).await);
            say!("AsyncRead after it was told", AsyncReadExt::read(&mut srx, &mut [0; 5]).await);
            say!("received_reset after it was told", srx.received_reset().await);
            say!("stop after it was told", srx.stop(1u32.into()));

            // The reader does not read; it only wants to know.
            let (mut tx, _rx) = c.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, mut srx) = s.accept_bi().await.unwrap();
            let (received, _) = tokio::join!(srx.received_reset(), async { tx.reset(8u32.into()) });
            say!("received_reset", received);
            say!("read after received_reset", srx.read(&mut [0; 5]).await);
            let (mut tx, _rx) = c.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, mut srx) = s.accept_bi().await.unwrap();
            srx.stop(1u32.into()).unwrap();
            say!("received_reset after stop", srx.received_reset().await);
            log
        }
    };
}

script!(on_quinn, quinn);
script!(on_kwik, kwik_tokio);

async fn quinns() -> (quinn::Endpoint, quinn::Endpoint, quinn::Connection, quinn::Connection) {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    let authority = Authority::new();
    let mut tls = authority.issue("quinn.test").tls;
    tls.alpn_protocols = vec![b"quinn".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let server = quinn::Endpoint::server(config, loopback()).unwrap();
    let mut tls = authority.client();
    tls.alpn_protocols = vec![b"quinn".to_vec()];
    let mut client = quinn::Endpoint::client(loopback()).unwrap();
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls).unwrap(),
    )));
    let connecting = client.connect(server.local_addr().unwrap(), "quinn.test").unwrap();
    let (here, there) = tokio::join!(connecting, async { server.accept().await.unwrap().await.unwrap() });
    (client, server, here.unwrap(), there)
}

/// After the peer had stopped a stream, `finish` and `shutdown` failed, so `copy_bidirectional` lost the answer; then
/// `stopped` said that all had arrived; `read_chunk(0)` said that the stream was over. Spec: RATIONALE §3.
#[test]
fn streams_end_as_they_do_in_quinn() {
    run(async {
        let (_client, _server, c, s) = quinns().await;
        let expected = on_quinn(&c, &s).await;
        let world = World::new(0);
        let (client, primary) = world.connect().await;
        let primary = kwik_tokio::Connection::from(primary);
        for (from, to) in [(&client, &primary), (&primary, &client)] {
            let said = on_kwik(from, to).await;
            for (expected, said) in expected.iter().zip(&said) {
                assert_eq!(said, expected);
            }
            assert_eq!(said.len(), expected.len());
        }
    });
}

/// Cases that quinn leaves open, or says otherwise than what happened.
#[test]
fn nobody_is_told_that_what_was_given_up_has_arrived() {
    run(async {
        let world = World::new(0);
        let (client, primary) = world.connect().await;
        let primary = kwik_tokio::Connection::from(primary);
        for (from, to) in [(&client, &primary), (&primary, &client)] {
            // Reset here: quinn waits for ever, or says that all has arrived once the reset has.
            let (mut tx, _rx) = from.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, mut srx) = soon("the stream", to.accept_bi()).await.unwrap();
            let waits = tx.stopped();
            tx.reset(1u32.into()).unwrap();
            assert_eq!(soon("the end", waits).await, Err(kwik_tokio::StoppedError::Reset));
            while srx.read(&mut [0; 5]).await.is_ok_and(|read| read.is_some()) {}
            assert_eq!(soon("the end", tx.stopped()).await, Err(kwik_tokio::StoppedError::Reset));
            // Stopped, and reset then.
            let (mut tx, _rx) = from.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, srx) = soon("the stream", to.accept_bi()).await.unwrap();
            drop(srx);
            assert_eq!(soon("the stop", tx.stopped()).await, Ok(Some(0u32.into())));
            tx.reset(1u32.into()).unwrap();
            assert_eq!(soon("the stop", tx.stopped()).await, Ok(Some(0u32.into())));
            // Whoever waits outlives the handle, and what it left of the stream.
            let (mut tx, _rx) = from.open_bi().await.unwrap();
            tx.write_all(b"hello").await.unwrap();
            let (_stx, mut srx) = soon("the stream", to.accept_bi()).await.unwrap();
            let waits = tx.stopped();
            drop(tx);
            assert_eq!(soon("all of it", srx.read_to_end(9)).await.unwrap(), b"hello");
            assert_eq!(soon("the end", waits).await, Ok(None));
        }
    });
}
