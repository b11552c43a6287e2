//! Handles dropped in any order, and runtimes that end under live sessions.

use std::time::Duration;

use kwik_core::{ConnectionError, TransportConfig, driver::Connection};
use kwik_tests::{
    host::{AsyncStd, Host, TokioThread, TokioThreads},
    run, within,
};

use super::{Bed, IDLE};

/// A client's handles of one session.
enum Held<E> {
    Connection(Connection),
    Endpoint(E),
    Recv(kwik_core::driver::RecvStream),
    Send(kwik_core::driver::SendStream),
}

/// A client's handles, in all 24 orders. The session ends with the last that keeps it, and nothing is left of it.
pub(crate) async fn in_any_order<C: Host, S: Host>(bed: Bed<C, S>) {
    for order in orders() {
        let (client, server) = bed.connect().await;
        let (mut send, recv) = client.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let (_answer, mut question) = server.accept_bi().await.unwrap();
        question.read_exact(&mut [0; 5]).await.unwrap();
        let mut held = [
            Some(Held::Connection(client)),
            Some(Held::Send(send)),
            Some(Held::Recv(recv)),
            Some(Held::Endpoint(bed.client.clone())),
        ];
        for at in order {
            match held[at].take().unwrap() {
                Held::Connection(connection) => drop(connection),
                Held::Endpoint(endpoint) => drop(endpoint),
                Held::Recv(recv) => drop(recv),
                Held::Send(send) => drop(send),
            }
        }
        let ended = server.closed().await;
        assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{order:?}: {ended}");
    }
    bed.client.wait_idle().await;
    bed.origin.wait_idle().await;
    assert_eq!((bed.client.open_connections(), bed.origin.open_connections()), (0, 0));
}

fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for code in 0..256_usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        if (0..4).all(|at| order.contains(&at)) {
            orders.push(order);
        }
    }
    assert_eq!(orders.len(), 24);
    orders
}

/// The client's runtime goes away under its session: its handles say so at once, and the server finds out.
fn ends_under_a_session<C: Host>(shut_down: impl FnOnce(C)) {
    let client_host = std::sync::Arc::new(C::start());
    run(async {
        let transport = TransportConfig::default().idle_timeout(IDLE);
        let bed =
            Bed::<C, AsyncStd>::new(client_host.clone(), std::sync::Arc::new(AsyncStd::start()), &transport);
        let (client, server) = bed.connect().await;
        let (mut send, mut recv) = client.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let waiting = tokio::spawn(async move { recv.read(&mut [0; 5]).await });
        let Bed { client_host: held, client: endpoint, origin, .. } = bed;
        drop(held);
        let host = std::sync::Arc::into_inner(client_host).expect("nobody else has it");
        shut_down(host);
        let limit = Duration::from_secs(20);
        within(limit, "the reader to be told", waiting).await.unwrap().unwrap_err();
        within(limit, "the client to be told", client.closed()).await;
        within(limit, "nothing to be left", endpoint.wait_idle()).await;
        assert!(send.write(b"more").await.is_err() && client.open_uni().await.is_err());
        assert_eq!(within(limit, "the server to find out", server.closed()).await, ConnectionError::TimedOut);
        drop(origin);
    });
}

#[test]
fn a_runtime_of_threads_ends_under_a_session() {
    ends_under_a_session(TokioThreads::shut_down);
}

#[test]
fn a_runtime_of_one_thread_ends_under_a_session() {
    ends_under_a_session(|host: TokioThread| drop(host));
}
