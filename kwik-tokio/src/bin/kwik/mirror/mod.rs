//! `kwik mirror`: a secondary, which brings what a primary asks it for.

mod work;

use std::{sync::Arc, time::Duration};

use kwik_tokio::{
    Accepted, Endpoint, Incoming, PublicKey, SecondaryConfig, SecondarySession, ServerConfig, SpkiHash,
};
use tokio::{task::JoinSet, time};
use tracing::Instrument as _;

use crate::{
    failure::Failure,
    keys,
    protocol::codes,
    service::{self, Config, Stop, Stopping},
    store::{Store, Trees},
};

/// Time in which the last bytes arrive, once everything is written.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Helps a primary to serve files that are here too
///
/// Nobody can ask a mirror for anything but by a ticket of a primary that it trusts. SIGTERM ends it: it finishes what it
/// has begun, and hands the rest back to the primary, so that no transfer fails.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kwik keygen mirror --dir keys --name m1.example
  kwik mirror --root /srv/files --keys keys --trust PUBLIC-KEY-OF-THE-PRIMARY")]
pub(crate) struct Args {
    #[command(flatten)]
    service: service::Args,

    /// Public key of a primary, as its `kwik keygen` printed it; may be given several times
    #[arg(long = "trust", value_name = "PUBLIC-KEY", value_parser = keys::parse_public_key)]
    primaries: Vec<PublicKey>,
}

/// Runs `kwik mirror`.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let log = args.service.clone();
    service::run(&log, serve(args))
}

/// State that all paths share.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    trees: Trees,
}

/// Reads what is read again while the mirror runs.
fn settings(args: &Args) -> Result<(ServerConfig, SpkiHash), Failure> {
    let path = args.service.config.as_deref();
    let file = Config::read(path)?;
    Config::check_unused(path, "mirrors", &file.mirrors)?;
    let mut primaries = args.primaries.clone();
    for text in &file.trust {
        let key = keys::parse_public_key(text)
            .map_err(|why| Failure::input(format!("the key `{text}` in the configuration: {why}")))?;
        primaries.push(key);
    }
    let identity = keys::load_identity(&args.service.keys)?;
    let mut primaries = primaries.into_iter();
    let first =
        primaries.next().ok_or_else(|| Failure::input("no primary is trusted: name one with --trust"))?;
    let role = SecondaryConfig::new(first, &identity.certificate).map_err(service::config_failed)?;
    let role = primaries.fold(role, SecondaryConfig::primary);
    let config = ServerConfig::try_from(identity.tls).map_err(service::config_failed)?.secondary(role);
    Ok((config, identity.pin))
}

async fn serve(args: Args) -> Result<(), Failure> {
    let (config, pin) = settings(&args)?;
    let store = args.service.store()?;
    let mut reload = args.service.reload()?;
    let endpoint = service::listen(config, args.service.listen)?;
    let address = endpoint.local_addr().map_err(|error| Failure::run(format!("no address: {error}")))?;
    tracing::info!(%address, %pin, "mirroring");

    let shared = Arc::new(Shared { store, trees: Trees::default() });
    let stop = Stop::new();
    let accepting = tokio::spawn(accept(endpoint.clone(), shared, args.service.sessions_max, stop.listen()));
    loop {
        tokio::select! {
            signalled = service::signalled() => {
                signalled?;
                break;
            }
            () = reload.wait() => {}
        }
        let changed = settings(&args).and_then(|(config, pin)| {
            endpoint.set_server_config(Some(config)).map_err(service::config_failed)?;
            Ok(pin)
        });
        match changed {
            Ok(pin) => tracing::info!(%pin, "settings read again"),
            Err(failure) => tracing::error!(%failure, "settings stay as they were"),
        }
    }
    tracing::info!("ending: no new work, what was begun is finished");
    stop.now();
    drop(accepting); // it ends by itself
    let patience = Duration::from_secs(args.service.drain_timeout);
    tokio::select! {
        all = stop.all_ended(patience) => {
            if !all {
                tracing::warn!("some work was not done in time; its primary gives it to others");
            }
        }
        again = service::signalled() => again?,
    }
    endpoint.close(codes::ENDING, b"the mirror is being stopped");
    // Clients hear of it, if they are still there.
    let _heard = time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    tracing::info!("ended");
    Ok(())
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>, sessions_max: usize, mut stopping: Stopping) {
    let mut paths = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stopping.wait() => None,
        };
        let Some(incoming) = incoming else { break };
        while paths.try_join_next().is_some() {}
        if paths.len() >= sessions_max {
            tracing::warn!(client = %incoming.remote_address(), "turned away: as many clients as may be are served");
            incoming.refuse();
            continue;
        }
        paths.spawn(serve_client(incoming, shared.clone(), stopping.clone()));
    }
    // Without a configuration the endpoint takes nobody in, and goes on with whom it has.
    if let Err(error) = endpoint.set_server_config(None) {
        tracing::error!(%error, "cannot turn clients away");
    }
    paths.detach_all();
}

async fn serve_client(incoming: Incoming, shared: Arc<Shared>, stopping: Stopping) {
    let span = tracing::info_span!("client", client = %incoming.remote_address());
    async {
        match incoming.accept_any().await {
            Ok(Accepted::Secondary(session)) => serve_path(session, shared, stopping).await,
            // Dropping the session closes it: nobody else is served here.
            Ok(Accepted::Primary(_)) => tracing::info!("turned away: it takes this mirror for a primary"),
            Err(error) => tracing::warn!(%error, "not attached"),
        }
    }
    .instrument(span)
    .await;
}

/// Does the jobs of one path until it is over.
async fn serve_path(session: SecondarySession, shared: Arc<Shared>, mut stopping: Stopping) {
    tracing::info!("attached");
    let mut jobs = JoinSet::new();
    let mut ending = false;
    loop {
        tokio::select! {
            job = session.accept_job() => match job {
                Ok(job) if ending => job.refuse(codes::ENDING),
                Ok(job) => {
                    jobs.spawn(work::fill(job, shared.clone(), stopping.clone()).in_current_span());
                }
                Err(error) => {
                    tracing::info!(%error, "gone");
                    return;
                }
            },
            () = stopping.wait(), if !ending => ending = true,
            Some(_) = jobs.join_next(), if !jobs.is_empty() => {}
        }
        if ending && jobs.is_empty() {
            break;
        }
    }
    // Nothing is left to be written; what is on its way arrives, unless the client leaves first.
    let _left = time::timeout(LAST_BYTES, session.closed()).await;
    session.close(codes::ENDING, b"the mirror is being stopped");
}
