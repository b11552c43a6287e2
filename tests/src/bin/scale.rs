//! One endpoint that holds many idle sessions and feeds many busy ones, over loopback: what a session costs, and whether
//! any is starved. `cargo run --release -p kwik-tests --bin scale`.
//!
//! The server is one process and its clients another, so that the memory that is told is the server's alone; each has as many
//! threads as `--threads` says. Fails if the busy sessions are served less fairly than `--index` says, or one is lost.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use kwik_tests::scale::{Fallible, Server, clients, feed, jain};
use serde_json::json;

/// Holds idle sessions, feeds busy ones, and says how fairly.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Sessions on which nothing happens.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Sessions that take whatever they are given.
    #[arg(long, default_value_t = 1_000)]
    active: usize,
    /// Time for which they are, once each has found its rate.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Threads of the server, and of its clients.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Least fairness of what busy sessions are given, by Jain's index.
    #[arg(long, default_value_t = 0.95)]
    index: f64,
    /// One JSON object in place of lines.
    #[arg(long)]
    json: bool,
    /// Runs the clients of the server at this address.
    #[arg(long, hide = true)]
    clients_of: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.worker_threads(args.threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let done = match args.clients_of {
        Some(server) => runtime.block_on(be_clients(server, args.idle + args.active)).map(|()| true),
        None => runtime.block_on(measure(&args)),
    };
    runtime.shutdown_background();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    drop(writeln!(io::stderr(), "scale: {error}"));
    ExitCode::from(2)
}

async fn be_clients(server: SocketAddr, sessions: usize) -> Fallible<()> {
    let mut root = Vec::new();
    io::stdin().read_to_end(&mut root)?;
    clients(server, &root, sessions).await
}

/// Another process of this program, with the clients; it ends with this value.
struct Clients(Child);

impl Clients {
    fn start(args: &Args, server: &Server) -> Fallible<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--clients-of").arg(server.address()?.to_string());
        for (name, value) in [("--idle", args.idle), ("--active", args.active), ("--threads", args.threads)] {
            command.arg(name).arg(value.to_string());
        }
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let root = child.stdin.take();
        let this = Self(child);
        root.ok_or("no pipe")?.write_all(server.root())?;
        Ok(this)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// Returns whether all was as it should be.
async fn measure(args: &Args) -> Fallible<bool> {
    let server = Server::start()?;
    let before = resident()?;
    let begun = Instant::now();
    let clients = Clients::start(args, &server)?;
    let count = args.idle + args.active;
    let sessions = server.accept(count).await?;
    let handshakes = begun.elapsed();
    let each = resident()?.saturating_sub(before) / count.max(1) as u64;

    // The busy ones are spread among the idle ones.
    let stride = count.checked_div(args.active).unwrap_or(1).max(1);
    let shares = feed(sessions.iter().step_by(stride).take(args.active));
    let time = Duration::from_secs(args.seconds);
    tokio::time::sleep(time / 4).await;
    let start = shares.read();
    tokio::time::sleep(time).await;
    let mut given: Vec<u64> = shares.read().iter().zip(start).map(|(end, start)| end - start).collect();
    given.sort_unstable();
    let lost = sessions.iter().filter(|session| session.close_reason().is_some()).count();
    drop(clients);

    let rate = given.iter().sum::<u64>() / 1024 / 1024 / args.seconds.max(1);
    let kib = |at: usize| given.get(at).map_or(0, |bytes| bytes / 1024);
    let (least, middle, most) = (kib(0), kib(given.len() / 2), kib(given.len().saturating_sub(1)));
    let index = jain(&given);
    let fair = index >= args.index && lost == 0;
    let mut out = io::stdout();
    if args.json {
        let told = json!({
            "idle": args.idle, "active": args.active, "seconds": args.seconds,
            "handshakes_seconds": handshakes.as_secs_f64(),
            "bytes_per_idle_session": each,
            "mib_per_second": rate,
            "least_kib": least, "median_kib": middle, "most_kib": most,
            "jain": index, "lost": lost, "dropped_datagrams": server.dropped(), "fair": fair,
        });
        writeln!(out, "{told}")?;
    } else {
        writeln!(
            out,
            "{count} sessions in {:.1} s; while idle each takes {} KiB",
            handshakes.as_secs_f64(),
            each / 1024
        )?;
        writeln!(
            out,
            "{} busy ones for {} s: {rate} MiB/s; {least} KiB for the least, {middle} the median, {most} the most; \
             Jain's index {index:.4}",
            args.active, args.seconds
        )?;
        writeln!(out, "{lost} sessions lost, {} datagrams dropped", server.dropped())?;
    }
    Ok(fair)
}

/// Memory of this process in bytes, as the system counts it.
fn resident() -> Fallible<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
