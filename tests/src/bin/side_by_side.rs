//! KWIK beside plain quinn: one path, no leases, one unidirectional stream from server to client, on loopback.
//!
//! Both run in this process, on the same kind of runtime, with the same certificate, ciphers, stream windows, send
//! windows and socket buffers; the runs alternate, so that a machine that slows down slows both. Usage:
//!
//! ```text
//! cargo run --release -p kwik-tests --bin side_by_side -- [MiB per run] [runs]
//! ```

use std::{
    error::Error,
    fmt,
    future::Future,
    io::{self, Write as _},
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kwik_tests::{
    authority::{Authority, Identity},
    raw::loopback,
};
use kwik_tokio::{ClientConfig, Endpoint, ServerConfig, SigningKey, TokioRuntime, TransportConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, Handle, Runtime};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Run = Pin<Box<dyn Future<Output = Fallible<Duration>>>>;

const MIB: u64 = 1024 * 1024;
/// Transferred per run unless the command line says otherwise.
const SIZE_MIB: u64 = 1024;
/// Runs of each unless the command line says otherwise.
const RUNS: usize = 5;
/// Bytes handed to a stream at once.
const CHUNK: usize = 1024 * 1024;
/// QUIC's receive window of a stream.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes in flight and waiting for it.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;
/// Bytes the kernel is asked to buffer per socket and direction; as KWIK asks.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let size = MIB * arguments.next().map_or(Ok(SIZE_MIB), |mib| mib.parse())?;
    let runs = arguments.next().map_or(Ok(RUNS), |runs| runs.parse())?;
    let mut out = io::stdout();
    writeln!(out, "one stream, one path, {} MiB, {runs} runs each, interleaved, MB/s", size / MIB)?;
    writeln!(out, "run    kwik   quinn")?;
    let (mut kwik, mut quinn) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        // Who goes first alternates as well.
        let (mine, theirs) = if run % 2 == 1 {
            let mine = measure(size, |handle| Box::pin(run_kwik(handle, size)))?;
            (mine, measure(size, |_| Box::pin(run_quinn(size)))?)
        } else {
            let theirs = measure(size, |_| Box::pin(run_quinn(size)))?;
            (measure(size, |handle| Box::pin(run_kwik(handle, size)))?, theirs)
        };
        writeln!(out, "{run:3} {mine:7.1} {theirs:7.1}")?;
        kwik.push(mine);
        quinn.push(theirs);
    }
    let (mine, theirs) = (median(kwik), median(quinn));
    writeln!(out, "med {mine:7.1} {theirs:7.1}")?;
    writeln!(out, "kwik / quinn: {:.2}", mine / theirs)?;
    Ok(())
}

/// Runs one transfer on a runtime of its own and returns its rate.
fn measure(size: u64, run: impl FnOnce(Handle) -> Run) -> Fallible<f64> {
    let runtime: Runtime = Builder::new_multi_thread().enable_all().build()?;
    let took = runtime.block_on(run(runtime.handle().clone()))?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for humans")]
    let bytes = size as f64;
    Ok(bytes / took.as_secs_f64() / 1e6)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// Creates what the two ends of a run have in common.
fn identity() -> (Authority, Identity) {
    let authority = Authority::new();
    let identity = authority.issue("server.test");
    (authority, identity)
}

fn socket() -> Fallible<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&loopback().into())?;
    Ok(socket.into())
}

/// Pieces of the transfer: the same memory again and again, so that making bytes costs nothing.
fn chunks(size: u64) -> impl Iterator<Item = Bytes> {
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    let mut left = size;
    std::iter::from_fn(move || {
        let len = left.min(CHUNK as u64);
        left -= len;
        (len > 0).then(|| chunk.slice(..usize::try_from(len).unwrap_or(CHUNK)))
    })
}

async fn run_kwik(handle: Handle, size: u64) -> Fallible<Duration> {
    let (authority, identity) = identity();
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(STREAM_WINDOW.into()).send_window(SEND_WINDOW);
    let transport = || transport.clone();
    let runtime = TokioRuntime::new(handle);
    let config = ServerConfig::try_from(identity.tls)?
        .primary(Arc::new(SigningKey::from_seed([1; 32])))
        .transport(transport());
    let wrapped = runtime.wrap_udp_socket(socket()?)?;
    let server = Endpoint::new_from_socket(Some(config), wrapped, runtime.clone())?;
    let client = Endpoint::new_from_socket(None, runtime.wrap_udp_socket(socket()?)?, runtime)?;
    let config = ClientConfig::try_from(authority.client())?.transport(transport());
    let connecting = client.connect_with(config, server.local_addr()?, "server.test")?;
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.ok_or(Ended)?.await?;
        let mut stream = connection.open_uni().await?;
        for chunk in chunks(size) {
            stream.write_chunk(chunk).await?;
        }
        stream.finish()?;
        connection.closed().await;
        Fallible::Ok(())
    });
    let connection = connecting.await?;
    let started = Instant::now();
    let mut stream = connection.accept_uni().await?;
    let mut received = 0;
    let mut bufs = vec![Bytes::new(); 32];
    while let Some(count) = stream.read_chunks(&mut bufs).await? {
        received += bufs.iter().take(count).map(|buf| buf.len() as u64).sum::<u64>();
    }
    let took = started.elapsed();
    connection.close(0u32.into(), b"");
    serving.await??;
    if received == size { Ok(took) } else { Err(Ended.into()) }
}

async fn run_quinn(size: u64) -> Fallible<Duration> {
    let (authority, identity) = identity();
    let transport = || {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(STREAM_WINDOW.into()).send_window(SEND_WINDOW);
        Arc::new(transport)
    };
    let mut tls = identity.tls;
    tls.alpn_protocols = vec![b"side/1".to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = |config| {
        let runtime = Arc::new(quinn::TokioRuntime);
        Fallible::Ok(quinn::Endpoint::new(quinn::EndpointConfig::default(), config, socket()?, runtime)?)
    };
    let server = endpoint(Some(config))?;
    let client = endpoint(None)?;
    let mut tls = authority.client();
    tls.alpn_protocols = vec![b"side/1".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let connecting = client.connect_with(config, server.local_addr()?, "server.test")?;
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.ok_or(Ended)?.await?;
        let mut stream = connection.open_uni().await?;
        for chunk in chunks(size) {
            stream.write_chunk(chunk).await?;
        }
        stream.finish()?;
        connection.closed().await;
        Fallible::Ok(())
    });
    let connection = connecting.await?;
    let started = Instant::now();
    let mut stream = connection.accept_uni().await?;
    let mut received = 0;
    let mut bufs = vec![Bytes::new(); 32];
    while let Some(count) = stream.read_chunks(&mut bufs).await? {
        received += bufs.iter().take(count).map(|buf| buf.len() as u64).sum::<u64>();
    }
    let took = started.elapsed();
    connection.close(0u32.into(), b"");
    serving.await??;
    if received == size { Ok(took) } else { Err(Ended.into()) }
}

/// The transfer ended before its end.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the transfer ended early")
    }
}

impl Error for Ended {}
