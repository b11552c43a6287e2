//! One session: finds the primary, plans, and has everything fetched.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use kwik_tokio::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    Args, Board, Event, Pace, Place, Trust, ask, existing,
    fetch::{Fetcher, Goal},
    object, place, plan,
};
use crate::{
    failure::{Cause, Failure},
    protocol::{PARTS_MAX, REQUESTS_AT_ONCE, codes},
};

/// The client's receive window for a stream, at its start.
const WINDOW: u64 = 16 * 1024 * 1024;
/// Bytes of a request that take one of the places for requests, as they take memory.
const PLACE: u64 = 4 * 1024 * 1024;
/// Objects of a request that do, as each is an open file.
const PLACE_OBJECTS: u64 = PARTS_MAX as u64 / 2;
/// Places that a request takes at most: two of the longest go on at once.
const PLACES_MAX: u64 = REQUESTS_AT_ONCE as u64 / 2;
/// Time for the primary to learn that the client is done.
const FAREWELL: Duration = Duration::from_secs(2);

/// A session that is to fetch what the arguments say.
#[derive(Debug)]
pub(super) struct Session<'a> {
    args: &'a Args,
    trust: Arc<Trust>,
    board: Arc<Board>,
    saving: mpsc::Sender<()>,
    tls: ClientConfig,
    connection: Arc<OnceLock<Connection>>,
    /// The socket lives as long as the session.
    endpoint: Option<Endpoint>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        args: &'a Args,
        trust: Arc<Trust>,
        board: Arc<Board>,
        saving: mpsc::Sender<()>,
    ) -> Result<Self, Failure> {
        let failed =
            |error: kwik_tokio::ConfigError| Failure::run(format!("cannot set up the client: {error}"));
        let transport = TransportConfig::default().stream_window(WINDOW);
        let tls = ClientConfig::try_from(trust.client()?).map_err(failed)?.transport(transport);
        Ok(Self { args, trust, board, saving, tls, connection: Arc::default(), endpoint: None })
    }

    /// Returns the place of the connection, which is empty before there is one.
    pub(super) fn connection(&self) -> Arc<OnceLock<Connection>> {
        self.connection.clone()
    }

    /// Does everything.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        let place = place(self.args);
        let existing = existing(self.args);
        // Mistakes here are told before anything is asked of the network.
        let one = match (&place, self.args.recursive) {
            (_, true) => None,
            (Place::Pipe, false) => Some(None),
            (_, false) => Some(Some(plan::one(&self.args.remote, object(self.args)?, &place, existing)?)),
        };
        let connection = self.connect().await?;
        let fetcher = Fetcher {
            connection: connection.clone(),
            board: self.board.clone(),
            pace: Arc::new(Pace::new(self.args.limit_rate)),
            server: self.server(),
            saving: self.saving.clone(),
            checksum: self.args.checksum.clone(),
        };
        match one {
            Some(None) => {
                self.begin(1, None);
                fetcher.pipe(object(self.args)?.clone()).await?;
            }
            Some(Some(step)) => {
                self.begin(1, None);
                self.board.plan(1, 0);
                self.fetch(fetcher, vec![step]).await?;
            }
            None => {
                let path = self.args.remote.path.as_ref();
                let (entries, left_out) = ask::list(&connection, path).await?;
                if left_out > 0 {
                    let text =
                        format!("{left_out} entries are no regular files, or links that lead out; left out");
                    self.board.tell(Event::note(text));
                }
                let bytes = entries.iter().map(|entry| entry.len).sum();
                self.board.plan(entries.len(), bytes);
                self.begin(entries.len(), Some(bytes));
                let Place::Directory(directory) = &place else {
                    return Err(Failure::input("--recursive needs a directory to write to"));
                };
                let steps = plan::many(&self.args.remote, entries, directory, existing)?;
                self.fetch(fetcher, steps).await?;
            }
        }
        connection.close(codes::DONE, b"done");
        if let Some(endpoint) = &self.endpoint {
            // If it does not learn of it, it finds out by itself.
            time::timeout(FAREWELL, endpoint.wait_idle()).await.unwrap_or_default();
        }
        Ok(())
    }

    fn begin(&self, objects: usize, bytes: Option<u64>) {
        let url = self.args.remote.to_string();
        self.board.tell(Event::Start { schema: 1, url, objects, bytes });
    }

    fn server(&self) -> String {
        let root = super::Remote { path: None, directory: true, ..self.args.remote.clone() };
        root.to_string().trim_end_matches('/').to_owned()
    }

    /// Fetches all that is not here already.
    async fn fetch(&self, fetcher: Fetcher, steps: Vec<plan::Step>) -> Result<(), Failure> {
        let goals = compare(&fetcher, steps).await?;
        let requests = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        let mut running = JoinSet::new();
        for group in plan::groups(goals) {
            let bytes: u64 = group.iter().map(|goal| goal.counted).sum();
            let places = bytes.div_ceil(PLACE).max((group.len() as u64).div_ceil(PLACE_OBJECTS));
            let weight = u32::try_from(places.clamp(1, PLACES_MAX)).unwrap_or(1);
            let permit = tokio::select! {
                permit = requests.clone().acquire_many_owned(weight) => permit,
                Some(done) = running.join_next(), if !running.is_empty() => {
                    joined(done)?;
                    requests.clone().acquire_many_owned(weight).await
                }
            };
            let permit = permit.map_err(|error| Failure::run(error.to_string()))?;
            let fetcher = fetcher.clone();
            running.spawn(async move {
                let _permit = permit;
                fetcher.fetch(group).await
            });
        }
        while let Some(done) = running.join_next().await {
            joined(done)?;
        }
        Ok(())
    }

    /// Connects to the first address of the primary that answers.
    async fn connect(&mut self) -> Result<Connection, Failure> {
        let until = Instant::now() + Duration::from_secs(self.args.connect_timeout);
        let remote = &self.args.remote;
        let unanswered = || {
            Failure::new(
                Cause::Unreachable,
                format!(
                    "{}:{} does not answer within {} s",
                    remote.host, remote.port, self.args.connect_timeout
                ),
            )
            .remedy("is kwik serve running there, and does a firewall let UDP through?")
        };
        let addresses =
            time::timeout_at(until, remote.addresses()).await.map_err(|_elapsed| unanswered())??;
        let mut failure = unanswered();
        for (number, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - number).unwrap_or(1);
            match time::timeout(share, self.dial(*address)).await {
                Ok(Ok((endpoint, connection))) => {
                    self.endpoint = Some(endpoint);
                    // The first and only one.
                    drop(self.connection.set(connection.clone()));
                    return Ok(connection);
                }
                Ok(Err(why)) => failure = why,
                Err(_elapsed) => {}
            }
        }
        Err(failure)
    }

    async fn dial(&self, address: SocketAddr) -> Result<(Endpoint, Connection), Failure> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut endpoint =
            Endpoint::client(any).map_err(|error| Failure::io("no socket for the client", &error))?;
        endpoint.set_default_client_config(self.tls.clone());
        let host = self.args.remote.host.as_str();
        let connecting = endpoint.connect(address, host).map_err(|error| {
            Failure::new(Cause::Unreachable, format!("cannot connect to {host}: {error}"))
        })?;
        let connection = connecting.await.map_err(|error| self.refused(address, &error))?;
        Ok((endpoint, connection))
    }

    /// Reason why there is no connection.
    fn refused(&self, address: SocketAddr, error: &ConnectionError) -> Failure {
        let host = &self.args.remote.host;
        // No other server was met yet.
        if let Some(why) = self.trust.refused().values().next() {
            return Failure::new(
                Cause::Untrusted,
                format!("the certificate of {host} is not trusted: {why}"),
            )
            .remedy("--pin names its key, --ca its authority");
        }
        let failure = |cause| Failure::new(cause, format!("cannot connect to {host} ({address}): {error}"));
        match error {
            ConnectionError::TimedOut | ConnectionError::Reset => {
                failure(Cause::Unreachable).remedy("is kwik serve running there?")
            }
            ConnectionError::ApplicationClosed(_) => failure(Cause::Refused),
            ConnectionError::CidsExhausted
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::LocallyClosed
            | ConnectionError::Fault(_)
            | ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch => failure(Cause::Refused).remedy("is it a kwik serve?"),
            _ => failure(Cause::Refused),
        }
    }
}

/// Leaves out what is here already.
async fn compare(fetcher: &Fetcher, steps: Vec<plan::Step>) -> Result<Vec<Goal>, Failure> {
    let (mut goals, mut maybe) = (Vec::new(), Vec::new());
    for step in steps {
        if step.compare { maybe.push(step.goal) } else { goals.push(step.goal) }
    }
    while !maybe.is_empty() {
        let rest = maybe.split_off(maybe.len().min(PARTS_MAX));
        let files = maybe.iter().map(|goal| (goal.path.clone(), goal.names.target.clone())).collect();
        let same = fetcher.compare(files).await?;
        for (number, goal) in maybe.into_iter().enumerate() {
            match same.iter().find(|(same, _)| *same == number) {
                Some((_, len)) => fetcher.board.correct(goal.counted, *len),
                None => goals.push(goal),
            }
        }
        maybe = rest;
    }
    Ok(goals)
}

fn joined(done: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    done.map_err(|error| Failure::run(format!("a task failed: {error}")))?
}
