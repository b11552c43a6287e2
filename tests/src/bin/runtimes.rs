//! The same transfers on tokio, async-std and smol, and on quinn where it can, interleaved, on loopback.
//!
//! One stream over one path, from a server to a client; then the same stream over three, which an origin deals out to itself
//! and two mirrors. Everything else is as each comes by default. Usage:
//!
//! ```text
//! cargo run --release -p kwik-tests --bin runtimes -- [MiB per run] [runs] [part of a name]
//! ```
//!
//! Beside the rates stands the processor time of both ends together, which others on the machine disturb less.

use std::{
    error::Error,
    io::{self, Write as _},
    net::UdpSocket,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kwik_core::{
    ByteRange, ClientConfig, NewPath, SecondaryConfig, ServerConfig, Signer as _, SigningKey,
    driver::{Accepted, Connection, DistributeOptions, Endpoint, PrimarySession, ReadAt, SecondaryLease},
};
use kwik_tests::{
    authority::Authority,
    host::{AsyncStd, Host, Smol, TokioThreads},
    raw::loopback,
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use socket2::{Domain, Socket, Type};

type Case = fn(u64) -> Fallible<Duration>;
type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MIB: u64 = 1024 * 1024;
/// Transferred per run unless the command line says otherwise.
const SIZE_MIB: u64 = 512;
/// Runs of each unless the command line says otherwise.
const RUNS: usize = 5;
/// Bytes handed to a stream at once.
const CHUNK: usize = 1024 * 1024;
/// Bytes the kernel is asked to buffer per socket and direction; as KWIK asks.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Longest time of a run.
const LIMIT: Duration = Duration::from_secs(300);

/// A library on a runtime, and its number of paths.
const CASES: [(&str, Case); 7] = [
    ("tokio", |size| run::<TokioThreads>(size, 0)),
    ("async-std", |size| run::<AsyncStd>(size, 0)),
    ("smol", |size| run::<Smol>(size, 0)),
    ("quinn", run_quinn),
    ("tokio/3", |size| run::<TokioThreads>(size, 2)),
    ("async-std/3", |size| run::<AsyncStd>(size, 2)),
    ("smol/3", |size| run::<Smol>(size, 2)),
];

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let size = MIB * arguments.next().map_or(Ok(SIZE_MIB), |mib| mib.parse())?;
    let runs = arguments.next().map_or(Ok(RUNS), |runs| runs.parse())?;
    let which = arguments.next().unwrap_or_default();
    let cases: Vec<_> = CASES.into_iter().filter(|(name, _)| name.contains(&which)).collect();
    let mut out = io::stdout();
    writeln!(
        out,
        "one stream, {} MiB, {runs} runs each, interleaved; MB/s, and ms of processor per MB",
        size / MIB
    )?;
    let mut results: Vec<_> = cases.iter().map(|_| (Vec::new(), Vec::new())).collect();
    #[expect(clippy::cast_precision_loss, reason = "a rate for humans")]
    let megabytes = size as f64 / 1e6;
    for first in 0..runs {
        for at in 0..cases.len() {
            let at = (at + first) % cases.len(); // each begins in turn
            if let (Some((_, case)), Some((rates, costs))) = (cases.get(at), results.get_mut(at)) {
                let cpu = cpu_time::ProcessTime::now();
                rates.push(megabytes / case(size)?.as_secs_f64());
                costs.push(cpu.elapsed().as_secs_f64() * 1e3 / megabytes);
            }
        }
    }
    for ((name, _), (rates, costs)) in cases.iter().zip(results) {
        write!(out, "{name:>12}: {:7.1} {:6.2}  (", median(rates.clone()), median(costs))?;
        for rate in rates {
            write!(out, " {rate:.0}")?;
        }
        writeln!(out, " )")?;
    }
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// Runs one transfer, every task of it on a host of its own.
fn run<H: Host>(size: u64, mirrors: usize) -> Fallible<Duration> {
    let host = H::start();
    let authority = Authority::new();
    let signer = Arc::new(SigningKey::from_seed([7; 32]));
    let mut paths = Vec::new();
    for index in 0..mirrors {
        let identity = authority.issue(&format!("mirror{index}.test"));
        let trust = SecondaryConfig::new(signer.public_key(), &identity.certificate)?;
        let config = ServerConfig::try_from(identity.tls)?.secondary(trust);
        let endpoint = host.inside(|| Endpoint::<H::Runtime>::server(config, loopback()))?;
        paths.push(NewPath::new(endpoint.local_addr()?, &identity.name, identity.key));
        host.spawn(mirror(endpoint));
    }
    let config = ServerConfig::try_from(authority.issue("origin.test").tls)?.primary(signer);
    let origin = host.inside(|| Endpoint::<H::Runtime>::server(config, loopback()))?;
    let address = origin.local_addr()?;
    host.spawn(async move {
        if let Err(error) = serve(origin, paths, size).await {
            drop(writeln!(io::stderr(), "the origin: {error}"));
        }
    });
    let config = ClientConfig::try_from(authority.client())?;
    let client = host.inside(|| Endpoint::<H::Runtime>::client(loopback()))?;
    let (done, wait) = mpsc::channel();
    host.spawn(async move {
        let fetched = async {
            let connection = client.connect_with(config, address, "origin.test")?.await?;
            let took = fetch(&connection, size).await?;
            connection.close(0u32.into(), b"");
            client.wait_idle().await;
            Ok(took)
        };
        drop(done.send(fetched.await));
    });
    wait.recv_timeout(LIMIT)?
}

async fn fetch(connection: &Connection, size: u64) -> Fallible<Duration> {
    let mut stream = connection.accept_uni().await?;
    let started = Instant::now();
    let mut received = 0;
    let mut bufs = vec![Bytes::new(); 32];
    while let Some(count) = stream.read_chunks(&mut bufs).await? {
        received += bufs.iter().take(count).map(|buf| buf.len() as u64).sum::<u64>();
    }
    if received == size { Ok(started.elapsed()) } else { Err("the transfer ended early".into()) }
}

async fn serve<R: kwik_core::driver::Runtime>(
    origin: Endpoint<R>,
    paths: Vec<NewPath>,
    size: u64,
) -> Fallible<()> {
    let incoming = origin.accept().await.ok_or("closed")?;
    let Accepted::Primary(session) = incoming.accept_any().await? else {
        return Err("not a client of mine".into());
    };
    let shared = !paths.is_empty();
    for path in paths {
        session.add_path(path).await?;
    }
    send(&session, size, shared).await?;
    session.closed().await;
    Ok(())
}

async fn send(session: &PrimarySession, size: u64, shared: bool) -> Fallible<()> {
    let mut stream = session.open_uni().await?;
    if shared {
        // The client leaves as soon as it has everything, which may be before this server has heard so.
        drop(stream.distribute(Same(chunk()), size, DistributeOptions::new("object")).await);
        return Ok(());
    }
    let chunk = chunk();
    let mut left = size;
    while left > 0 {
        let len = left.min(CHUNK as u64);
        stream.write_chunk(chunk.slice(..usize::try_from(len)?)).await?;
        left -= len;
    }
    stream.finish()?;
    Ok(())
}

async fn mirror<R: kwik_core::driver::Runtime>(endpoint: Endpoint<R>) {
    let Some(incoming) = endpoint.accept().await else { return };
    let Ok(Accepted::Secondary(session)) = incoming.accept_any().await else { return };
    while let Ok(mut job) = session.accept_job().await {
        // Leases come in the order in which the reader wants them, and are small.
        while let Some(lease) = job.next_lease().await {
            if fill(lease).await.is_err() {
                tracing::debug!("a lease was taken back");
            }
        }
    }
}

async fn fill(lease: SecondaryLease) -> Fallible<()> {
    let chunk = chunk();
    let range: ByteRange = lease.range();
    let mut stream = lease.open();
    let mut left = range.len();
    while left > 0 {
        let len = left.min(CHUNK as u64);
        stream.write_all_chunks(&mut [chunk.slice(..usize::try_from(len)?)]).await?;
        left -= len;
    }
    Ok(())
}

/// The same memory again and again, so that making bytes costs nothing.
fn chunk() -> Bytes {
    static CHUNKS: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    CHUNKS.get_or_init(|| Bytes::from(vec![0x5a; CHUNK])).clone()
}

/// An object of the same byte, as a source of pieces no longer than a chunk, or of several in a copy.
struct Same(Bytes);

impl ReadAt for Same {
    fn read_at(&self, _: u64, len: usize) -> io::Result<Bytes> {
        Ok(if len <= self.0.len() { self.0.slice(..len) } else { vec![0x5a; len].into() })
    }

    fn blocks(&self) -> bool {
        false
    }
}

fn run_quinn(size: u64) -> Fallible<Duration> {
    let host = TokioThreads::start();
    let authority = Authority::new();
    let mut tls = authority.issue("origin.test").tls;
    tls.alpn_protocols = vec![b"side/1".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let endpoint = |config| {
        let runtime = Arc::new(quinn::TokioRuntime);
        let made = host
            .inside(|| quinn::Endpoint::new(quinn::EndpointConfig::default(), config, socket()?, runtime));
        Fallible::Ok(made?)
    };
    let server = endpoint(Some(config))?;
    let client = endpoint(None)?;
    let mut tls = authority.client();
    tls.alpn_protocols = vec![b"side/1".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let connecting = host.inside(|| {
        client
            .connect_with(config, server.local_addr()?, "origin.test")
            .map_err(Box::<dyn Error + Send + Sync>::from)
    })?;
    host.spawn(async move {
        let serving = async {
            let connection = server.accept().await.ok_or("closed")?.await?;
            let mut stream = connection.open_uni().await?;
            let chunk = chunk();
            let mut left = size;
            while left > 0 {
                let len = left.min(CHUNK as u64);
                stream.write_chunk(chunk.slice(..usize::try_from(len)?)).await?;
                left -= len;
            }
            stream.finish()?;
            connection.closed().await;
            Fallible::Ok(())
        };
        if let Err(error) = serving.await {
            drop(writeln!(io::stderr(), "quinn's server: {error}"));
        }
    });
    let (done, wait) = mpsc::channel();
    host.spawn(on_quinn(connecting, size, done));
    wait.recv_timeout(LIMIT)?
}

async fn on_quinn(connecting: quinn::Connecting, size: u64, done: mpsc::Sender<Fallible<Duration>>) {
    let fetched = async {
        let connection = connecting.await?;
        let mut stream = connection.accept_uni().await?;
        let started = Instant::now();
        let mut received = 0;
        let mut bufs = vec![Bytes::new(); 32];
        while let Some(count) = stream.read_chunks(&mut bufs).await? {
            received += bufs.iter().take(count).map(|buf| buf.len() as u64).sum::<u64>();
        }
        let took = started.elapsed();
        connection.close(0u32.into(), b"");
        if received == size { Ok(took) } else { Err("the transfer ended early".into()) }
    };
    drop(done.send(fetched.await));
}

fn socket() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&loopback().into())?;
    Ok(socket.into())
}
