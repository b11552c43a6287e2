//! `kwik demo`: one primary, some secondaries and a client in one process, over real UDP sockets.

mod buffers;
mod certs;
mod client;
mod gather;
mod network;
mod primary;
mod progress;
mod report;
mod roster;
mod secondary;
mod sink;
mod source;
mod watch;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use kwik_tokio::ErrorCode;
use tokio::{runtime, signal, sync::oneshot, task};

use self::{
    client::Fetch, network::Network, primary::Primary, progress::Progress, report::Report, roster::Roster,
    sink::Output, source::Source, watch::Watch,
};
use crate::{failure::Failure, size};

/// Request of the client, and subject of the secondaries' jobs.
const REQUEST: &[u8] = b"GET object";
/// The client's receive window for the stream.
const WINDOW: u64 = 16 * 1024 * 1024;
/// Secondary servers that a session may have: KWIK's default.
const SECONDARIES_MAX: usize = 8;
/// Sends one object from several servers to one client over a single stream, and checks what arrives
///
/// Everything runs in this process: a primary server, the secondary servers and a client, each with its own UDP socket.
/// The servers have certificates of an authority that is made at the start, and the client verifies them. The client
/// opens one stream to the primary, which leases ranges of it to the secondaries; the client reads an ordinary stream.
/// At the end the BLAKE3 hashes of source and result are compared.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 the object arrived and its hash matches, 1 the transfer failed, 2 bad input.

Examples:
  kwik demo                                  256 MiB of generated data from three servers
  kwik demo --kill-one                       the same, and one server dies half-way
  kwik demo --file movie.mkv --out copy.mkv  a file, kept once it is verified
  kwik demo --size 2GiB --ordered --json     read in order, result as JSON")]
pub(crate) struct Args {
    /// Bytes to generate and send: a number, or one with KiB, MiB, GiB, TiB, kB, MB, GB, TB
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "256MiB", conflicts_with = "file")]
    size: u64,

    /// Seed of the generated data; the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "file")]
    seed: u64,

    /// Send this file instead of generated data
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Keep what arrives under this name, once it is verified [default: a temporary file that is removed]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,

    /// Address of the primary; the secondaries take free ports of the same IP address
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// How many secondary servers help the primary, 0 to 8
    #[arg(long, value_name = "N", value_parser = parse_secondaries, default_value = "2")]
    secondaries: usize,

    /// Drop one secondary's socket half-way, without a goodbye
    #[arg(long)]
    kill_one: bool,

    /// Read the stream in order [default: take bytes as they come, with their offsets]
    #[arg(long)]
    ordered: bool,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

fn parse_secondaries(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number <= SECONDARIES_MAX => Ok(number),
        Ok(_) => Err(format!("a session has at most {SECONDARIES_MAX} secondary paths")),
        Err(_) => Err(format!("not a number from 0 to {SECONDARIES_MAX}")),
    }
}

/// Runs the demo.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let started = Instant::now();
    if args.kill_one && args.secondaries == 0 {
        return Err(Failure::input("--kill-one needs a secondary to kill, and --secondaries is 0"));
    }
    let source = Arc::new(match &args.file {
        Some(path) => Source::open(path)?,
        None => Source::generated(args.seed, args.size),
    });
    let output = Output::create(args.out.as_deref())?;
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = transfer(args, started, source, &output) => report,
            failure = interrupted() => Err(failure),
        }
    });
    // Tasks that still run are of no use to anybody.
    runtime.shutdown_background();
    finish(args, &report?, output)
}

/// Waits until the user, or the system, wants this process to end: temporary files are to be removed then.
async fn interrupted() -> Failure {
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await.map_or(Ok(()), Ok),
            Err(error) => Err(error),
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending();
    let received = tokio::select! {
        received = signal::ctrl_c() => received,
        received = terminated => received,
    };
    match received {
        Ok(()) => Failure::interrupted(),
        Err(error) => Failure::run(format!("cannot wait for interrupts: {error}")),
    }
}

/// Keeps the result if it is right, and says how it went.
fn finish(args: &Args, report: &Report, output: Output) -> Result<(), Failure> {
    if report.verified() {
        output.keep()?;
    }
    let mut stdout = io::stdout().lock();
    let written = if args.json { report.write_json(&mut stdout) } else { write!(stdout, "{report}") };
    match written.and_then(|()| stdout.flush()) {
        // Who closes the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::run(format!("cannot write the report: {error}")));
        }
        Ok(()) | Err(_) => {}
    }
    if report.verified() {
        return Ok(());
    }
    Err(Failure::run("what arrived is not what was sent (did the file change meanwhile?)"))
}

/// Sends the object, and hashes source and result.
async fn transfer(
    args: &Args,
    started: Instant,
    source: Arc<Source>,
    output: &Output,
) -> Result<Report, Failure> {
    let network = Network::start(args.listen, args.secondaries)?;
    let size = source.size();
    let progress = Arc::new(Progress::new());
    let roster = Arc::new(Roster::new(network.addresses, progress.clone()));
    for secondary in &network.secondaries {
        tokio::spawn(secondary::serve(secondary.clone(), source.clone()));
    }
    let primary = Primary {
        endpoint: network.primary.clone(),
        source: source.clone(),
        secondaries: network.paths,
        roster: roster.clone(),
        ordered: args.ordered,
    };
    let serving = tokio::spawn(primary.serve());

    let victim = network.secondaries.last().cloned().filter(|_| args.kill_one);
    let half_way = victim.map(|victim| {
        let (roster, number) = (roster.clone(), args.secondaries);
        Box::new(move || {
            victim.abort();
            roster.killed(number);
        }) as Box<dyn FnOnce() + Send>
    });
    if args.kill_one && size == 0 {
        progress.note("an empty object has no half-way: no server is killed");
    }
    let received = Arc::new(AtomicU64::new(0));
    let (connected, connection) = oneshot::channel();
    let fetch = Fetch {
        endpoint: network.client.clone(),
        server: network.address,
        server_name: network.server_name,
        ordered: args.ordered,
        size,
        half_way,
        received: received.clone(),
        connected,
        writer: output.writer(),
    };
    let fetching = tokio::spawn(fetch.run());

    let watch = Watch { size, received, roster: roster.clone(), progress };
    let done = watch.until_done(fetching, serving, connection).await?;
    for endpoint in [&network.client, &network.primary].into_iter().chain(&network.secondaries) {
        endpoint.close(ErrorCode::from_u32(0), b"done");
    }

    let source_hash = task::spawn_blocking(move || {
        source.hash().map_err(|error| Failure::run(format!("cannot read {}: {error}", source.name())))
    });
    let output = output.reader();
    let result_hash = task::spawn_blocking(move || {
        output.hash(size).map_err(|error| Failure::run(format!("cannot read the result back: {error}")))
    });
    let broken = |error: task::JoinError| Failure::run(format!("hashing failed: {error}"));
    Ok(Report {
        bytes: size,
        seconds: done.took.as_secs_f64(),
        source_hash: source_hash.await.map_err(broken)??,
        result_hash: result_hash.await.map_err(broken)??,
        command_seconds: started.elapsed().as_secs_f64(),
        ordered: args.ordered,
        peak_rss_mib: report::peak_rss_mib(),
        client_buffer_mib: done.stats.held_bytes_max as f64 / f64::from(1 << 20),
        servers: done.shares(&roster),
    })
}
