//! One endpoint with many sessions, of which some take all that they are given: who is given how much, and what one costs.
//! For the program `scale`, and in small for a test.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kwik_tokio::{
    Accepted, ClientConfig, Connection, Endpoint, PrimarySession, ServerConfig, TransportConfig,
};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{authority::Authority, raw::loopback};

/// Fails of what the system or a peer says.
pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Name of the server.
const NAME: &str = "origin.test";
/// Handshakes at once.
const DIALS: usize = 64;
/// Client endpoints: each is a socket, and a task that reads it.
const SOCKETS: usize = 8;
/// Sessions must outlive the making of all the others.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Small, so that what is written is soon read: it is written bytes that are counted.
const WINDOW: u32 = 256 * 1024;
/// Bytes of one write.
const CHUNK: usize = 16 * 1024;

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default().idle_timeout(IDLE_TIMEOUT);
    config.stream_receive_window(WINDOW.into());
    config
}

/// A server of nothing but [`feed`].
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    root: Vec<u8>,
}

impl Server {
    /// Starts one on loopback.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    pub fn start() -> Fallible<Self> {
        let authority = Authority::new();
        let config = ServerConfig::try_from(authority.issue(NAME).tls)?.transport(transport());
        let endpoint = Endpoint::server(config, loopback())?;
        Ok(Self { endpoint, root: authority.certificate().to_vec() })
    }

    /// Returns the certificate of the authority that vouches for it.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Returns where it is.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    pub fn address(&self) -> Fallible<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// Waits for so many sessions.
    ///
    /// # Errors
    /// - What ended one of them before it was there.
    pub async fn accept(&self, count: usize) -> Fallible<Vec<PrimarySession>> {
        let mut accepting = JoinSet::new();
        let mut sessions = Vec::with_capacity(count);
        while sessions.len() < count {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    accepting.spawn(incoming.ok_or("the endpoint is closed")?.accept_any());
                }
                Some(accepted) = accepting.join_next() => match accepted?? {
                    Accepted::Primary(session) => sessions.push(session),
                    Accepted::Secondary(_) => return Err("a client wants a mirror".into()),
                },
            }
        }
        Ok(sessions)
    }

    /// Returns how many datagrams found no room in a session's inbox.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.endpoint.stats().dropped_datagrams
    }
}

/// Bytes that each of some sessions was given so far.
#[derive(Clone, Debug)]
pub struct Shares(Vec<Arc<AtomicU64>>);

impl Shares {
    /// Returns them, in the order of the sessions.
    #[must_use]
    pub fn read(&self) -> Vec<u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// Sends each of `sessions` as much as it takes, until it ends.
pub fn feed<'a>(sessions: impl IntoIterator<Item = &'a PrimarySession>) -> Shares {
    let mut shares = Vec::new();
    for session in sessions {
        let count = Arc::new(AtomicU64::new(0));
        tokio::spawn(write(Connection::clone(session), count.clone()));
        shares.push(count);
    }
    Shares(shares)
}

async fn write(session: Connection, count: Arc<AtomicU64>) {
    let chunk = Bytes::from_static(&[0x5a; CHUNK]);
    let Ok(mut stream) = session.open_uni().await else { return };
    while stream.write_chunk(chunk.clone()).await.is_ok() {
        count.fetch_add(CHUNK as u64, Ordering::Relaxed);
    }
}

/// Starts so many sessions, and reads whatever comes on each until it ends.
///
/// # Errors
/// - What kept one of them from being made.
pub async fn clients(server: SocketAddr, root: &[u8], sessions: usize) -> Fallible<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(Arc::new(transport()));
    let endpoints = (0..SOCKETS).map(|_| Endpoint::client(loopback())).collect::<Result<Vec<_>, _>>()?;
    let slots = Arc::new(Semaphore::new(DIALS));
    let mut tasks = JoinSet::new();
    for endpoint in endpoints.iter().cycle().take(sessions) {
        let slot = slots.clone().acquire_owned().await?;
        let connecting = endpoint.connect_with(config.clone(), server, NAME)?;
        tasks.spawn(async move {
            let connection = connecting.await?;
            drop(slot);
            while let Ok(mut stream) = connection.accept_uni().await {
                while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
            }
            Fallible::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one of n has everything.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an index has few digits")]
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    sum * sum / (squares * shares.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_for_equals_and_a_part_for_one_alone() {
        assert!((jain(&[7; 10]) - 1.0).abs() < 1e-9);
        assert!((jain(&[0, 0, 0, 5]) - 0.25).abs() < 1e-9);
        assert!((jain(&[1, 3]) - 0.8).abs() < 1e-9);
    }
}
