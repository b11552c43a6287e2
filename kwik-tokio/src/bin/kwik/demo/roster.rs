//! Servers, and what is known of each: kept by the primary's tasks, read by the display.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kwik_tokio::PathId;

use super::progress::Progress;

/// The servers of one transfer. The first is the primary; secondaries count from 1.
#[derive(Debug)]
pub(super) struct Roster {
    servers: Mutex<Vec<Server>>,
    progress: Arc<Progress>,
}

/// Knowledge of one server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Known once it was added.
    pub(super) path: Option<PathId>,
    /// The first thing that went wrong with it.
    pub(super) trouble: Option<String>,
    pub(super) killed: bool,
    /// Ranges that the primary wrote itself, arrived and lost.
    pub(super) runs: (u64, u64),
}

impl Roster {
    /// Takes the servers' addresses, the primary's first.
    pub(super) fn new(addresses: impl IntoIterator<Item = SocketAddr>, progress: Arc<Progress>) -> Self {
        let server = |address| Server { address, path: None, trouble: None, killed: false, runs: (0, 0) };
        let mut servers: Vec<Server> = addresses.into_iter().map(server).collect();
        if let Some(primary) = servers.first_mut() {
            primary.path = Some(PathId::PRIMARY);
        }
        Self { servers: Mutex::new(servers), progress }
    }

    pub(super) fn servers(&self) -> Vec<Server> {
        self.lock().clone()
    }

    pub(super) fn attached(&self, server: usize, path: PathId) {
        self.change(server, |server| server.path = Some(path));
    }

    pub(super) fn killed(&self, server: usize) {
        self.change(server, |server| server.killed = true);
        self.progress.note(&format!("{} was killed", name(server)));
    }

    /// A range that the primary wrote itself has ended.
    pub(super) fn count_run(&self, done: bool) {
        self.change(0, |primary| if done { primary.runs.0 += 1 } else { primary.runs.1 += 1 });
    }

    /// Something went wrong with a server; the first time it is told.
    pub(super) fn trouble(&self, server: usize, what: String) {
        let mut told = None;
        self.change(server, |known| {
            if known.trouble.is_none() {
                told = Some(format!("{} ({}) {what}", name(server), known.address));
                known.trouble = Some(what);
            }
        });
        if let Some(note) = told {
            self.progress.note(&note);
        }
    }

    /// The same, of the server at the end of a path.
    pub(super) fn trouble_on(&self, path: PathId, what: String) {
        let server = self.lock().iter().position(|server| server.path == Some(path));
        if let Some(server) = server {
            self.trouble(server, what);
        }
    }

    fn change(&self, server: usize, change: impl FnOnce(&mut Server)) {
        if let Some(server) = self.lock().get_mut(server) {
            change(server);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn name(server: usize) -> String {
    if server == 0 { "primary".to_owned() } else { format!("secondary {server}") }
}
