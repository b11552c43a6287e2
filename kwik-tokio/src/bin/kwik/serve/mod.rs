//! `kwik serve`: the primary, which clients ask, and which has mirrors help it.

mod mirrors;
mod request;
mod session;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kwik_tokio::{Endpoint, PublicKey, ServerConfig, Signer as _, SpkiHash};
use tokio::sync::watch;

use self::{mirrors::Mirror, session::serve_client};
use crate::{
    failure::Failure,
    keys,
    service::{self, Config, Stop, Stopping},
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
    guests: Guests,
}

/// What is read again while the server runs.
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
    let Settings { config, pin, public_key, mirrors } = Settings::read(&args)?;
    let store = args.service.store()?;
    let mut reload = args.service.reload()?;
    let endpoint = service::listen(config, args.service.listen)?;
    let address = endpoint.local_addr().map_err(|error| Failure::run(format!("no address: {error}")))?;
    tracing::info!(%address, %pin, %public_key, mirrors = mirrors.len(), "serving");

    let guests = Guests::new(args.service.sessions_max, args.service.sessions_per_client);
    let mirrors = watch::Sender::new(mirrors);
    let shared = Arc::new(Shared { store, trees: Trees::default(), mirrors: mirrors.subscribe(), guests });
    let stop = Stop::new();
    let accepting = tokio::spawn(accept(endpoint.clone(), shared, stop.listen()));
    loop {
        tokio::select! {
            signalled = service::signalled() => {
                signalled?;
                break;
            }
            () = reload.wait() => {}
        }
        let changed = Settings::read(&args).and_then(|settings| {
            endpoint.set_server_config(Some(settings.config)).map_err(service::config_failed)?;
            mirrors.send_replace(settings.mirrors);
            Ok((settings.pin, settings.public_key))
        });
        match changed {
            Ok((pin, public_key)) => {
                tracing::info!(%pin, %public_key, mirrors = mirrors.borrow().len(), "settings read again");
            }
            Err(failure) => tracing::error!(%failure, "settings stay as they were"),
        }
    }
    tracing::info!("ending: no new clients, what is under way goes on");
    stop.now();
    drop(accepting); // it ends by itself
    let patience = Duration::from_secs(args.service.drain_timeout);
    tokio::select! {
        all = stop.all_ended(patience) => {
            if !all {
                tracing::warn!("some clients were not done in time");
            }
        }
        again = service::signalled() => again?,
    }
    endpoint.close(crate::protocol::codes::ENDING, b"the server is being stopped");
    // Clients hear of it, if they are still there.
    let _heard = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    tracing::info!("ended");
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
            serve_client(incoming, &shared, stopping).await;
            shared.guests.leave(guest);
        });
    }
    // Without a configuration the endpoint takes nobody in, and goes on with whom it has.
    if let Err(error) = endpoint.set_server_config(None) {
        tracing::error!(%error, "cannot turn clients away");
    }
}

/// The clients that are served, by address.
#[derive(Debug)]
struct Guests {
    max: usize,
    per_client_max: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// The place of one client.
#[derive(Debug)]
#[must_use]
struct Guest(IpAddr);

impl Guests {
    fn new(max: usize, per_client_max: usize) -> Self {
        Self { max, per_client_max, present: Mutex::default() }
    }

    fn enter(&self, from: IpAddr) -> Option<Guest> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = present.by_address.get(&from).copied().unwrap_or_default();
        if present.all >= self.max || of_client >= self.per_client_max {
            return None;
        }
        present.all += 1;
        present.by_address.insert(from, of_client + 1);
        Some(Guest(from))
    }

    fn leave(&self, guest: Guest) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.all = present.all.saturating_sub(1);
        if let Some(count) = present.by_address.get_mut(&guest.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                present.by_address.remove(&guest.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_clients_are_served_and_no_more() {
        let guests = Guests::new(3, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = guests.enter(one).unwrap();
        let _second = guests.enter(one).unwrap();
        assert!(guests.enter(one).is_none());
        let _third = guests.enter(other).unwrap();
        assert!(guests.enter(other).is_none());
        guests.leave(first);
        let _fourth = guests.enter(other).unwrap();
        assert_eq!(guests.present.lock().unwrap().by_address.len(), 2);
    }
}
