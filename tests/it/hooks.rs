//! The application's own code may want the session that it is called for. Spec: RATIONALE §3.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use kwik_tests::{
    object::Object,
    raw, run, soon,
    world::{World, attach, serve_session},
};
use kwik_tokio::{
    ByteRange, ClientConfig, Connection, DialPolicy, DialRequest, Endpoint, ErrorCode, NewJob, PathError,
    PublicKey, SecondaryConfig, ServerConfig, Signature, Signer, SigningKey,
};

/// The session that a hook is called for, once there is one.
#[derive(Clone, Default)]
struct Around {
    session: Arc<Mutex<Option<Connection>>>,
    endpoint: Arc<Mutex<Option<Endpoint>>>,
    calls: Arc<AtomicUsize>,
}

impl Around {
    fn know(&self, session: &Connection, endpoint: &Endpoint) {
        *self.session.lock().unwrap() = Some(session.clone());
        *self.endpoint.lock().unwrap() = Some(endpoint.clone());
    }

    /// Uses all that takes a lock of the session's or of its endpoint's.
    fn use_it(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let session = self.session.lock().unwrap().clone();
        if let Some(session) = session {
            let _ = (session.stats(), session.rtt(), session.remote_address(), session.peer_identity());
            let _sent = session.send_datagram(vec![1].into());
        }
        let endpoint = self.endpoint.lock().unwrap().clone();
        if let Some(endpoint) = endpoint {
            let _seen = (endpoint.open_connections(), endpoint.stats(), endpoint.local_addr());
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

#[derive(Debug)]
struct Nosy(Around);

impl DialPolicy for Nosy {
    fn allows(&self, _: &DialRequest) -> bool {
        self.0.use_it();
        true
    }
}

#[derive(Debug)]
struct Closes(Around);

impl DialPolicy for Closes {
    fn allows(&self, _: &DialRequest) -> bool {
        self.0.use_it();
        let session = self.0.session.lock().unwrap().clone().unwrap();
        session.close(ErrorCode::from_u32(7), b"not this one");
        true
    }
}

#[derive(Debug)]
struct NosySigner(Around, SigningKey);

impl Signer for NosySigner {
    fn public_key(&self) -> PublicKey {
        self.1.public_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.use_it();
        self.1.sign(message)
    }
}

/// It hung for ever: policies and signers ran under the lock of the session that they looked at.
#[test]
fn policies_and_signers_may_use_their_session() {
    run(async {
        let world = World::new(1);
        let [policy, primary_signer, secondary_signer] = std::array::from_fn(|_| Around::default());
        let signer =
            |around: &Around, seed| Arc::new(NosySigner(around.clone(), SigningKey::from_seed([seed; 32])));
        let config = ServerConfig::try_from(world.primary.identity.tls.clone()).unwrap();
        world.primary.endpoint.set_server_config(Some(config.primary(signer(&primary_signer, 7)))).unwrap();
        let server = &world.secondaries[0];
        let trust = SecondaryConfig::new(world.signer.public_key(), &server.identity.certificate).unwrap();
        let trust = trust.signer(signer(&secondary_signer, 8));
        let config = ServerConfig::try_from(server.identity.tls.clone()).unwrap().secondary(trust);
        server.endpoint.set_server_config(Some(config)).unwrap();
        let mut client = world.client.clone();
        let config = ClientConfig::try_from(world.authority.client()).unwrap();
        client.set_default_client_config(config.dial_policy(Arc::new(Nosy(policy.clone()))));
        let connecting = client.connect(world.primary.address(), "primary.test").unwrap();
        let (connection, accepted) =
            soon("a session", async { tokio::join!(connecting, world.primary.accept()) }).await;
        let connection = connection.unwrap();
        let kwik_tokio::Accepted::Primary(primary) = accepted else {
            panic!("a client that wants a secondary")
        };
        policy.know(&connection, &client);
        primary_signer.know(&primary, &world.primary.endpoint);
        let new = server.new_path().relay_key(SigningKey::from_seed([8; 32]).public_key());
        let (path, secondary) =
            soon("a path", async { tokio::join!(primary.add_path(new), server.accept_secondary()) }).await;
        let path = path.unwrap();
        primary.relay(path, &b"to the secondary"[..]).await.unwrap();
        assert_eq!(&*soon("a message", secondary.read_relay()).await.unwrap().payload, b"to the secondary");
        *secondary_signer.endpoint.lock().unwrap() = Some(server.endpoint.clone());
        secondary.relay(&b"to the primary"[..]).await.unwrap();
        assert!(soon("a message", primary.read_relay()).await.unwrap().sealed);
        tokio::spawn(serve_session(secondary));
        let object = Object(5);
        let stream = primary.open_uni().await.unwrap();
        let whole = ByteRange::new(0, 100_000).unwrap();
        let job = stream.open_job(NewJob::new(path, whole, object.payload())).unwrap();
        let mut lease = job.lease(whole).unwrap();
        assert_eq!(soon("the bytes", lease.outcome()).await, Ok(kwik_tokio::LeaseOutcome::Done));
        assert_eq!((policy.calls(), primary_signer.calls(), secondary_signer.calls()), (1, 3, 1));
    });
}

/// As above: a policy that closes its session.
#[test]
fn a_policy_may_close_its_session() {
    run(async {
        let world = World::serving(1);
        let around = Around::default();
        let mut client = world.client.clone();
        let config = ClientConfig::try_from(world.authority.client()).unwrap();
        client.set_default_client_config(config.dial_policy(Arc::new(Closes(around.clone()))));
        let connecting = client.connect(world.primary.address(), "primary.test").unwrap();
        let (connection, accepted) =
            soon("a session", async { tokio::join!(connecting, world.primary.accept()) }).await;
        let kwik_tokio::Accepted::Primary(primary) = accepted else {
            panic!("a client that wants a secondary")
        };
        around.know(&connection.unwrap(), &client);
        let added = soon("the end", primary.add_path(world.secondaries[0].new_path())).await;
        assert!(matches!(added, Err(PathError::ConnectionLost(_))), "{added:?}");
    });
}

/// A key that fails: the call that wanted it panics, as its caller's code has, and what it was to begin has not begun.
#[test]
fn a_signer_that_panics_costs_what_it_was_to_sign() {
    #[derive(Debug)]
    struct Fails(AtomicUsize, SigningKey);
    impl Signer for Fails {
        fn public_key(&self) -> PublicKey {
            self.1.public_key()
        }
        fn sign(&self, message: &[u8]) -> Signature {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the key is far away");
            self.1.sign(message)
        }
    }
    run(async {
        let world = World::serving(1);
        let signer = Arc::new(Fails(AtomicUsize::new(0), SigningKey::from_seed([7; 32])));
        let config = ServerConfig::try_from(world.primary.identity.tls.clone()).unwrap().primary(signer);
        world.primary.endpoint.set_server_config(Some(config)).unwrap();
        let (client, primary) = world.connect().await;
        let (session, new) = (primary.clone(), world.secondaries[0].new_path());
        assert!(soon("a panic", tokio::spawn(async move { session.add_path(new).await })).await.is_err());
        assert!(matches!(primary.paths()[0].state, kwik_tokio::PathState::Dead(ErrorCode::AUTH_FAILED)));
        attach(&primary, &world.secondaries[0]).await;
        assert_eq!(client.close_reason(), None);
    });
}

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<DialRequest>>);

impl DialPolicy for Recorder {
    fn allows(&self, dial: &DialRequest) -> bool {
        self.0.lock().unwrap().push(*dial);
        true
    }
}

/// A policy is told where the primary is, and from where its secondary would be dialled.
#[test]
fn a_policy_knows_the_way() {
    run(async {
        let mut world = World::serving(1);
        let policy = Arc::new(Recorder::default());
        let config = ClientConfig::try_from(world.authority.client()).unwrap().dial_policy(policy.clone());
        world.client.set_default_client_config(config);
        let (_client, primary) = world.connect().await;
        attach(&primary, &world.secondaries[0]).await;
        let seen = policy.0.lock().unwrap();
        let [dial] = seen[..] else { panic!("asked once: {seen:?}") };
        assert_eq!((dial.primary, dial.address), (world.primary.address(), world.secondaries[0].address()));
        assert_eq!(dial.source, Some(raw::loopback().ip()));
    });
}
