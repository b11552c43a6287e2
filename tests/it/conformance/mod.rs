//! One suite, run on every runtime and across them: what an application sees is the same wherever its endpoints live.

mod behaviour;
mod cancel;
mod drops;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use kwik_core::{
    ClientConfig, NewPath, SecondaryConfig, ServerConfig, Signer as _, SigningKey, TransportConfig,
    driver::{Accepted, Connection, Endpoint, PrimarySession, Runtime as _},
};
use kwik_tests::{
    TEST_LIMIT,
    authority::Authority,
    host::{AsyncStd, Host, Smol, TokioThread, TokioThreads},
    raw::loopback,
};

/// A client on one runtime, an origin and two mirrors on another.
pub(crate) struct Bed<C: Host, S: Host> {
    pub(crate) client_host: Arc<C>,
    pub(crate) server_host: Arc<S>,
    pub(crate) client: Endpoint<C::Runtime>,
    pub(crate) origin: Endpoint<S::Runtime>,
    pub(crate) mirrors: Vec<NewPath>,
}

/// Servers beside the origin.
const MIRRORS: usize = 2;
/// The one of them whose application drops its futures now and then.
const RESTLESS: usize = 1;

impl<C: Host, S: Host> Bed<C, S> {
    fn new(client_host: Arc<C>, server_host: Arc<S>, transport: &TransportConfig) -> Self {
        let authority = Authority::new();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let serve = |config: ServerConfig| {
            let config = config.transport(transport.clone());
            server_host.inside(|| Endpoint::<S::Runtime>::server(config, loopback())).unwrap()
        };
        let mut mirrors = Vec::new();
        for index in 0..MIRRORS {
            let identity = authority.issue(&format!("mirror{index}.test"));
            let trust = SecondaryConfig::new(signer.public_key(), &identity.certificate).unwrap();
            let mirror = serve(ServerConfig::try_from(identity.tls).unwrap().secondary(trust));
            mirrors.push(NewPath::new(mirror.local_addr().unwrap(), &identity.name, identity.key));
            // By its handle: a task that owned the runtime it runs on would be its end.
            let runtime = server_host.inside(S::Runtime::current).unwrap();
            server_host.spawn(async move {
                while let Some(incoming) = mirror.accept().await {
                    match incoming.accept_any().await {
                        Ok(Accepted::Secondary(session)) if index == RESTLESS => {
                            runtime.spawn(cancel::fill_restlessly(session));
                        }
                        Ok(Accepted::Secondary(session)) => runtime.spawn(fill(session)),
                        Ok(Accepted::Primary(_)) | Err(_) => {}
                    }
                }
            });
        }
        let config = ServerConfig::try_from(authority.issue("origin.test").tls).unwrap().primary(signer);
        let origin = serve(config);
        let mut client = client_host.inside(|| Endpoint::<C::Runtime>::client(loopback())).unwrap();
        client.set_default_client_config(
            ClientConfig::try_from(authority.client()).unwrap().transport(transport.clone()),
        );
        Self { client_host, server_host, client, origin, mirrors }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.origin.local_addr().unwrap()
    }

    /// Waits for the next client of the origin.
    pub(crate) async fn accept(&self) -> PrimarySession {
        match self.origin.accept().await.unwrap().accept_any().await.unwrap() {
            Accepted::Primary(session) => session,
            Accepted::Secondary(_) => panic!("a client that wants a secondary"),
        }
    }

    /// Starts a session.
    pub(crate) async fn connect(&self) -> (Connection, PrimarySession) {
        let connecting = self.client.connect(self.address(), "origin.test").unwrap();
        let (client, server) = tokio::join!(connecting, self.accept());
        (client.unwrap(), server)
    }
}

/// Runs one test's body on the client's runtime, and waits for it here, on no runtime at all.
pub(crate) fn on<C: Host, S: Host, F>(transport: &TransportConfig, body: impl FnOnce(Bed<C, S>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let hosts = (Arc::new(C::start()), Arc::new(S::start())); // a runtime must not end in a task of its own
    let body = body(Bed::new(hosts.0.clone(), hosts.1.clone(), transport));
    let (done, wait) = mpsc::channel();
    hosts.0.spawn(async move {
        body.await;
        done.send(()).expect("the test waits");
    });
    let why = match wait.recv_timeout(TEST_LIMIT) {
        Ok(()) => return,
        Err(mpsc::RecvTimeoutError::Timeout) => "is not done in time",
        Err(mpsc::RecvTimeoutError::Disconnected) => "panicked",
    };
    std::mem::forget(hosts); // its task may be the last to let go of them
    panic!("{} with {} {why}", C::NAME, S::NAME);
}

/// As a mirror's application: fills whatever it is asked for.
async fn fill(session: kwik_core::driver::SecondarySession) {
    while let Ok(mut job) = session.accept_job().await {
        let object = kwik_tests::object::Object::from_payload(job.payload());
        while let Some(lease) = job.next_lease().await {
            kwik_tests::world::fill(lease.open(), object).await;
        }
    }
}

/// Time for which nothing must happen until a session is given up; the tests of what then happens wait it out.
pub(crate) const IDLE: Duration = Duration::from_secs(1);

/// The suite, for one client's runtime and one of servers.
macro_rules! suite {
    ($($name:ident: $client:ty, $server:ty;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn streams_and_datagrams() {
                on(&TransportConfig::default(), behaviour::streams_and_datagrams::<$client, $server>);
            }

            #[test]
            fn an_object_from_three_servers() {
                on(&TransportConfig::default(), behaviour::an_object_from_three_servers::<$client, $server>);
            }

            #[test]
            fn ends_of_streams() {
                on(&TransportConfig::default(), behaviour::ends_of_streams::<$client, $server>);
            }

            #[test]
            fn ends_of_sessions() {
                on(&TransportConfig::default().idle_timeout(IDLE), behaviour::ends_of_sessions::<$client, $server>);
            }

            #[test]
            fn futures_that_are_dropped() {
                on(&cancel::near(), cancel::futures_of_sessions::<$client, $server>);
            }

            #[test]
            fn futures_of_bytes_that_are_dropped() {
                on(&cancel::narrow(), cancel::futures_of_bytes::<$client, $server>);
            }

            #[test]
            fn handles_dropped_in_any_order() {
                on(&TransportConfig::default(), drops::in_any_order::<$client, $server>);
            }
        })*
    };
}

suite! {
    tokio_on_threads: TokioThreads, TokioThreads;
    tokio_on_one_thread: TokioThread, TokioThread;
    on_async_std: AsyncStd, AsyncStd;
    on_smol: Smol, Smol;
    tokio_to_async_std: TokioThreads, AsyncStd;
    async_std_to_smol: AsyncStd, Smol;
    smol_to_tokio_on_one_thread: Smol, TokioThread;
}
