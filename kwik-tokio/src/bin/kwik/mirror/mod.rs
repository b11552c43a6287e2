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
    pace::Pace,
    protocol::codes,
    service::{self, Config, Guests, Metrics, Stop, Stopping},
    size,
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

    /// Bytes a second at most, to all clients together, such as 10MB
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    limit_rate: Option<u64>,

    /// Bytes a second at most, to each client
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    limit_rate_per_client: Option<u64>,
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
    metrics: Arc<Metrics>,
    pace: Pace,
    /// Bytes a second to each client.
    limit_per_client: Option<u64>,
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
    let reload = args.service.reload()?;
    let (config, pin) = settings(&args)?;
    let store = args.service.store()?;
    let endpoint = service::listen(config, args.service.listen)?;
    let address = endpoint.local_addr().map_err(|error| Failure::run(format!("no address: {error}")))?;
    tracing::info!(%address, %pin, "mirroring");

    let stop = Stop::new();
    let metrics = Metrics::of_mirror();
    service::show(&args.service, &metrics, &stop).await?;
    let guests = args.service.guests(&metrics);
    let shared = Arc::new(Shared {
        store,
        trees: Trees::default(),
        metrics,
        pace: Pace::new(args.limit_rate),
        limit_per_client: args.limit_rate_per_client,
    });
    let accepting = tokio::spawn(accept(endpoint.clone(), shared, guests, stop.listen()));
    let read_again = || {
        let (config, pin) = settings(&args)?;
        tracing::info!(%pin, "settings read again");
        Ok(config)
    };
    service::until_told(&args.service, &endpoint, &stop, reload, read_again).await?;
    drop(accepting); // it ended when it was told to
    Ok(())
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>, guests: Arc<Guests>, mut stopping: Stopping) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stopping.wait() => None,
        };
        let Some(incoming) = incoming else { break };
        let from = incoming.remote_address().ip();
        let Some(guest) = guests.enter(from) else {
            tracing::warn!(client = %from, "turned away: as many clients as may be are served");
            incoming.refuse();
            continue;
        };
        let (shared, stopping) = (shared.clone(), stopping.clone());
        tokio::spawn(async move {
            let _place = guest;
            serve_client(incoming, shared, stopping).await;
        });
    }
    service::close_door(&endpoint);
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
    let pace = Arc::new(Pace::new(shared.limit_per_client));
    let mut ending = false;
    loop {
        tokio::select! {
            job = session.accept_job() => match job {
                Ok(job) if ending => job.refuse(codes::ENDING),
                Ok(job) => {
                    let filled = work::fill(job, shared.clone(), pace.clone(), stopping.clone());
                    jobs.spawn(filled.in_current_span());
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
