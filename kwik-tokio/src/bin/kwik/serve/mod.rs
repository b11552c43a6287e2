//! `kwik serve`: the primary, which clients ask, and which has mirrors help it.

mod mirrors;
mod request;
mod session;

use std::sync::Arc;

use kwik_tokio::{Endpoint, PublicKey, ServerConfig, Signer as _, SpkiHash};
use tokio::sync::watch;

use self::{mirrors::Mirror, session::serve_client};
use crate::{
    failure::Failure,
    keys,
    service::{self, Config, Guests, Metrics, Stop, Stopping},
    store::{Store, Trees},
};

/// Serves the files below a directory, together with mirrors that have them too
///
/// Clients fetch with `kwik get kwik://HOST/PATH`. Every mirror that is named is offered to every client; one that is away, or is lost, is
/// tried again, and what it owed is brought by others. Each range that a mirror brings is verified against the files
/// here. SIGTERM ends the server once the transfers under way are done.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kwik keygen primary --dir keys --name origin.example
  kwik serve --root /srv/files --keys keys
  kwik serve --root /srv/files --keys keys --mirror m1.example:5945#PIN --mirror m2.example:5945#PIN")]
pub(crate) struct Args {
    #[command(flatten)]
    service: service::Args,

    /// A mirror, and the pin that its `kwik keygen` printed; may be given up to 8 times
    #[arg(long = "mirror", value_name = "HOST:PORT#PIN")]
    mirrors: Vec<Mirror>,
}

/// Runs `kwik serve`.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let log = args.service.clone();
    service::run(&log, serve(args))
}

/// State that all sessions share.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    trees: Trees,
    mirrors: watch::Receiver<Vec<Mirror>>,
    guests: Arc<Guests>,
    metrics: Arc<Metrics>,
}

/// Settings that are read again while the server runs.
struct Settings {
    config: ServerConfig,
    pin: SpkiHash,
    public_key: PublicKey,
    mirrors: Vec<Mirror>,
}

impl Settings {
    fn read(args: &Args) -> Result<Self, Failure> {
        let path = args.service.config.as_deref();
        let file = Config::read(path)?;
        Config::check_unused(path, "trust", &file.trust)?;
        let mut mirrors = args.mirrors.clone();
        for text in &file.mirrors {
            let mirror = text
                .parse()
                .map_err(|why| Failure::input(format!("the mirror `{text}` in the configuration: {why}")))?;
            mirrors.push(mirror);
        }
        let identity = keys::load_identity(&args.service.keys)?;
        let signer = Arc::new(keys::load_signing_key(&args.service.keys)?);
        let public_key = signer.public_key();
        let config = ServerConfig::try_from(identity.tls).map_err(service::config_failed)?.primary(signer);
        Ok(Self { config, pin: identity.pin, public_key, mirrors })
    }
}

async fn serve(args: Args) -> Result<(), Failure> {
    let reload = args.service.reload()?;
    let Settings { config, pin, public_key, mirrors } = Settings::read(&args)?;
    let store = args.service.store()?;
    let endpoint = service::listen(config, args.service.listen)?;
    let address = endpoint.local_addr().map_err(|error| Failure::run(format!("no address: {error}")))?;
    tracing::info!(%address, %pin, %public_key, mirrors = mirrors.len(), "serving");

    let stop = Stop::new();
    let metrics = Metrics::of_primary();
    service::show(&args.service, &metrics, &stop).await?;
    let guests = args.service.guests(&metrics);
    let mirrors = watch::Sender::new(mirrors);
    let shared =
        Arc::new(Shared { store, trees: Trees::default(), mirrors: mirrors.subscribe(), guests, metrics });
    let accepting = tokio::spawn(accept(endpoint.clone(), shared, stop.listen()));
    let read_again = || {
        let Settings { config, pin, public_key, mirrors: named } = Settings::read(&args)?;
        tracing::info!(%pin, %public_key, mirrors = named.len(), "settings read again");
        mirrors.send_replace(named);
        Ok(config)
    };
    service::until_told(&args.service, &endpoint, &stop, reload, read_again).await?;
    drop(accepting); // it ended when it was told to
    Ok(())
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>, mut stopping: Stopping) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stopping.wait() => None,
        };
        let Some(incoming) = incoming else { break };
        let from = incoming.remote_address().ip();
        let Some(guest) = shared.guests.enter(from) else {
            tracing::warn!(client = %from, "turned away: as many clients as may be are served");
            incoming.refuse();
            continue;
        };
        let (shared, stopping) = (shared.clone(), stopping.clone());
        tokio::spawn(async move {
            let _place = guest;
            serve_client(incoming, &shared, stopping).await;
        });
    }
    service::close_door(&endpoint);
}
