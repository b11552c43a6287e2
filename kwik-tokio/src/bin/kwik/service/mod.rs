//! The common part of `kwik serve` and `kwik mirror`: sockets, logs, signals, places of clients, and the bytes they send.

mod config;
mod data;
mod guests;
mod metrics;
mod reload;
mod stop;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kwik_tokio::{Endpoint, ServerConfig};
use tokio::runtime;
use tracing::level_filters::LevelFilter;

use self::stop::signalled;
pub(crate) use self::{
    config::Config,
    data::Data,
    guests::Guests,
    metrics::Metrics,
    reload::Reload,
    stop::{Stop, Stopping},
};
use crate::{
    failure::Failure,
    keys,
    protocol::codes,
    store::{Directory, Store},
};

/// Arguments of every server.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Directory whose files are served
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,

    /// Directory of the keys that `kwik keygen` made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) keys: PathBuf,

    /// TOML file with more settings (`mirrors`, `trust`), read again like the keys on SIGHUP and when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// UDP address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:5945")]
    pub(crate) listen: SocketAddr,

    /// Clients served at once; further ones are turned away
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) sessions_max: usize,

    /// Clients of one address served at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) sessions_per_client: usize,

    /// Seconds in which what is under way may end, once the server is told to
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,

    /// TCP address that shows counters for Prometheus at /metrics, and answers to /healthz and /readyz
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,

    /// Log lines as JSON objects
    #[arg(long)]
    pub(crate) log_json: bool,

    /// Least severe lines that are logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LevelFilter,
}

impl Args {
    /// Opens what is served.
    pub(crate) fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        Ok(Arc::new(Directory::open(&self.root)?))
    }

    /// Makes the places of clients.
    pub(crate) fn guests(&self, metrics: &Arc<Metrics>) -> Arc<Guests> {
        Guests::new(self.sessions_max, self.sessions_per_client, metrics.clone())
    }

    /// Watches the files that are read again; before they are read for the first time, or a change may be missed. To be called from within the runtime.
    pub(crate) fn reload(&self) -> Result<Reload, Failure> {
        Reload::new(keys::files(&self.keys).into_iter().chain(self.config.clone()).collect())
    }
}

/// Runs a server in a runtime of its own, with its log on standard error.
pub(crate) fn run(args: &Args, server: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(args.log_level);
    let set = if args.log_json {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_ansi(false).try_init()
    };
    set.map_err(|error| Failure::run(format!("cannot log: {error}")))?;
    #[cfg(unix)]
    raise_open_files();
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let end = runtime.block_on(server);
    // Tasks that still run are of no use to anybody.
    runtime.shutdown_background();
    end
}

/// Lets this process have as many files open as the system permits: each client has hundreds, if it fetches many small
/// ones, and systems start processes with a limit of 1,024 for the sake of programs that this is none of.
#[cfg(unix)]
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    match raised {
        Ok(()) => tracing::debug!(from = limit.current, to = limit.maximum, "limit of open files raised"),
        Err(error) => tracing::warn!(%error, limit = limit.current, "the limit of open files stays as it is"),
    }
}

/// Goes on until the process is told to end, and then until what is under way has ended, or for as long as that may take.
/// Meanwhile `read_again` is asked for new settings whenever they may have changed.
pub(crate) async fn until_told(
    args: &Args,
    endpoint: &Endpoint,
    stop: &Stop,
    mut reload: Reload,
    read_again: impl Fn() -> Result<ServerConfig, Failure>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            signalled = signalled() => {
                signalled?;
                break;
            }
            () = reload.wait() => {}
        }
        let applied =
            read_again().and_then(|config| endpoint.set_server_config(Some(config)).map_err(config_failed));
        if let Err(failure) = applied {
            tracing::error!(%failure, "settings stay as they were");
        }
    }
    tracing::info!("ending: nobody new is served, what is under way goes on");
    stop.now();
    tokio::select! {
        all = stop.all_ended(Duration::from_secs(args.drain_timeout)) => {
            if !all {
                tracing::warn!("not all that was under way was done in time");
            }
        }
        again = signalled() => again?,
    }
    endpoint.close(codes::ENDING, b"the server is being stopped");
    // Clients hear of it, if they are still there.
    let _heard = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    tracing::info!("ended");
    Ok(())
}

/// Shows a server's counters, if that is asked for.
pub(crate) async fn show(args: &Args, metrics: &Arc<Metrics>, stop: &Stop) -> Result<(), Failure> {
    match args.metrics {
        Some(address) => metrics::show(address, metrics.clone(), stop.told()).await,
        None => Ok(()),
    }
}

/// Lets nobody in any more; whoever is in stays.
pub(crate) fn close_door(endpoint: &Endpoint) {
    if let Err(error) = endpoint.set_server_config(None) {
        tracing::error!(%error, "cannot turn clients away");
    }
}

/// Opens the server's socket.
pub(crate) fn listen(config: ServerConfig, at: SocketAddr) -> Result<Endpoint, Failure> {
    let fail = |error: io::Error| Failure::input(format!("cannot listen on {at}: {error}"));
    match Endpoint::server(config.clone(), at) {
        // A system without IPv6: any address is then any of IPv4.
        Err(_) if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            Endpoint::server(config, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port())).map_err(fail)
        }
        opened => opened.map_err(fail),
    }
}

/// Turns what KWIK says of a configuration into a failure.
pub(crate) fn config_failed(error: kwik_tokio::ConfigError) -> Failure {
    Failure::input(format!("these settings cannot be used: {error}"))
}
