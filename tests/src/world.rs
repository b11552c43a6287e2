//! Honest servers and a client on loopback, each on a socket of its own.

use std::{net::SocketAddr, sync::Arc};

use kwik_tokio::{
    Accepted, ClientConfig, Connection, Endpoint, NewPath, PathId, PrimarySession, SecondaryConfig,
    SecondarySession, SecondaryStream, ServerConfig, Signer as _, SigningKey, TransportConfig,
};
use tokio::task::JoinHandle;

use crate::{
    authority::{Authority, Identity},
    object::Object,
    raw::{RawServer, loopback},
    soon,
};

/// Bytes that servers write at once.
pub const WRITE: u64 = 64 * 1024;

/// Settings that a [`World`] is made with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The client's transport.
    pub client: TransportConfig,
    /// Every server's transport.
    pub server: TransportConfig,
    /// Application protocols of the client.
    pub client_protocols: Vec<Vec<u8>>,
    /// Application protocols of the primary.
    pub server_protocols: Vec<Vec<u8>>,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Its certificate.
    pub identity: Identity,
}

impl Server {
    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("a bound socket")
    }

    /// Returns what a primary says to have a client attach it.
    #[must_use]
    pub fn new_path(&self) -> NewPath {
        NewPath::new(self.address(), &self.identity.name, self.identity.key)
    }

    /// Waits for the next client and serves it in whichever role it asks for.
    pub async fn accept(&self) -> Accepted {
        soon("a client", async {
            let incoming = self.endpoint.accept().await.expect("the endpoint is open");
            incoming.accept_any().await.expect("the client's hello")
        })
        .await
    }

    /// Waits for the next client, which must want a secondary.
    pub async fn accept_secondary(&self) -> SecondarySession {
        match self.accept().await {
            Accepted::Secondary(session) => session,
            Accepted::Primary(_) => panic!("a client that wants a primary"),
        }
    }

    /// Fills whatever it is asked for, for all clients to come.
    pub fn serve(&self) -> JoinHandle<()> {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    if let Ok(Accepted::Secondary(session)) = incoming.accept_any().await {
                        serve_session(session).await;
                    }
                });
            }
        })
    }
}

/// Fills whatever a client's session asks for: a job's payload names the object.
pub async fn serve_session(session: SecondarySession) {
    while let Ok(mut job) = session.accept_job().await {
        tokio::spawn(async move {
            let object = Object::from_payload(job.payload());
            while let Some(lease) = job.next_lease().await {
                tokio::spawn(fill(lease.open(), object));
            }
        });
    }
}

/// Fills one lease, or what it still may.
pub async fn fill(mut stream: SecondaryStream, object: Object) {
    for piece in pieces(stream.range().start(), stream.range().end()) {
        if stream.write_all_chunks(&mut [object.bytes(piece)]).await.is_err() {
            return; // the lease has ended, and its primary knows
        }
    }
}

/// Cuts a range into pieces of [`WRITE`] bytes.
pub fn pieces(start: u64, end: u64) -> impl Iterator<Item = kwik_tokio::ByteRange> {
    (start..end)
        .step_by(usize::try_from(WRITE).expect("a small number"))
        .filter_map(move |at| kwik_tokio::ByteRange::between(at, end.min(at + WRITE)))
}

/// A client, a primary and some secondaries.
#[derive(Debug)]
pub struct World {
    /// Signs everybody's certificates.
    pub authority: Authority,
    /// Signs tickets and jobs.
    pub signer: Arc<SigningKey>,
    /// The client's endpoint, ready to dial.
    pub client: Endpoint,
    /// The primary.
    pub primary: Server,
    /// The secondaries.
    pub secondaries: Vec<Server>,
    /// Every server's transport.
    pub server: TransportConfig,
}

impl World {
    /// Opens all endpoints. The secondaries serve nobody yet.
    #[must_use]
    pub fn new(secondaries: usize) -> Self {
        Self::with(secondaries, Settings::default())
    }

    /// Opens all endpoints; the secondaries fill whatever they are asked for.
    #[must_use]
    pub fn serving(secondaries: usize) -> Self {
        Self::serving_with(secondaries, Settings::default())
    }

    /// As [`Self::serving`], with settings.
    #[must_use]
    pub fn serving_with(secondaries: usize, settings: Settings) -> Self {
        let world = Self::with(secondaries, settings);
        world.secondaries.iter().for_each(|server| drop(server.serve()));
        world
    }

    /// As [`Self::new`], with settings.
    #[must_use]
    pub fn with(secondaries: usize, settings: Settings) -> Self {
        let authority = Authority::new();
        let signer = Arc::new(SigningKey::from_seed([7; 32]));
        let mut tls = authority.client();
        tls.alpn_protocols = settings.client_protocols;
        let config =
            ClientConfig::try_from(tls).expect("a usable TLS configuration").transport(settings.client);
        let mut client = Endpoint::client(loopback()).expect("a free port");
        client.set_default_client_config(config);

        let mut identity = authority.issue("primary.test");
        identity.tls.alpn_protocols = settings.server_protocols;
        let config = ServerConfig::try_from(identity.tls.clone())
            .expect("a usable TLS configuration")
            .primary(signer.clone())
            .transport(settings.server.clone());
        let endpoint = Endpoint::server(config, loopback()).expect("a free port");
        let primary = Server { endpoint, identity };

        let mut world =
            Self { authority, signer, client, primary, secondaries: Vec::new(), server: settings.server };
        for index in 1..=secondaries {
            let identity = world.authority.issue(&format!("secondary{index}.test"));
            let secondary = world.secondary(identity);
            world.secondaries.push(secondary);
        }
        world
    }

    /// Opens one more secondary of this world's primary.
    #[must_use]
    pub fn secondary(&self, identity: Identity) -> Server {
        let trust = SecondaryConfig::new(self.signer.public_key(), &identity.certificate)
            .expect("the server's certificate");
        let config = ServerConfig::try_from(identity.tls.clone())
            .expect("a usable TLS configuration")
            .secondary(trust)
            .transport(self.server.clone());
        Server { endpoint: Endpoint::server(config, loopback()).expect("a free port"), identity }
    }

    /// Opens a secondary that is none: the test answers for it by hand.
    #[must_use]
    pub fn raw_secondary(&self) -> RawServer {
        RawServer::new(&self.authority, "evil.test")
    }

    /// Connects the client to the primary.
    pub async fn connect(&self) -> (Connection, PrimarySession) {
        let connecting =
            self.client.connect(self.primary.address(), "primary.test").expect("a valid address");
        soon("a session", async {
            let (client, accepted) = tokio::join!(connecting, self.primary.accept());
            match accepted {
                Accepted::Primary(primary) => (client.expect("a session"), primary),
                Accepted::Secondary(_) => panic!("a client that wants a secondary"),
            }
        })
        .await
    }

    /// Connects the client to the primary, and has all secondaries attached.
    pub async fn connect_all(&self) -> (Connection, PrimarySession, Vec<PathId>) {
        let (client, primary) = self.connect().await;
        let mut paths = Vec::new();
        for server in &self.secondaries {
            paths.push(attach(&primary, server).await);
        }
        (client, primary, paths)
    }
}

/// Has a session's client attach a server that somebody serves.
pub async fn attach(primary: &PrimarySession, server: &Server) -> PathId {
    soon("an attached path", primary.add_path(server.new_path())).await.expect("an active path")
}

/// Has a session's client attach a server that the test answers for by hand.
pub async fn attach_raw(primary: &PrimarySession, server: &RawServer) -> (PathId, crate::raw::RawPeer) {
    let path = NewPath::new(server.address(), &server.identity.name, server.identity.key);
    let (path, peer) = tokio::join!(primary.add_path(path), async {
        let mut peer = server.accept().await;
        peer.welcome().await;
        peer
    });
    (path.expect("an active path"), peer)
}
