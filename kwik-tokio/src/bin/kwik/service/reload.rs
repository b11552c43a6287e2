//! Files that a server reads again: when it is told to by SIGHUP, and when one of them has changed.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::time;

use crate::failure::Failure;

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Watches files.
#[derive(Debug)]
pub(crate) struct Reload {
    files: Vec<PathBuf>,
    seen: Vec<Option<SystemTime>>,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Reload {
    /// Watches these files from now on. To be called from within the runtime.
    pub(crate) fn new(files: Vec<PathBuf>) -> Result<Self, Failure> {
        #[cfg(unix)]
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
            .map_err(|error| Failure::run(format!("cannot wait for signals: {error}")))?;
        let mut reload = Self {
            files,
            seen: Vec::new(),
            #[cfg(unix)]
            hangup,
        };
        reload.seen = reload.look();
        Ok(reload)
    }

    /// Waits until the files are to be read again. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        loop {
            #[cfg(unix)]
            tokio::select! {
                _ = self.hangup.recv() => break,
                () = time::sleep(LOOK_EVERY) => {}
            }
            #[cfg(not(unix))]
            time::sleep(LOOK_EVERY).await;
            if self.look() != self.seen {
                // Whoever writes several of them is not done with the first.
                time::sleep(LOOK_EVERY / 4).await;
                break;
            }
        }
        self.seen = self.look();
    }

    fn look(&self) -> Vec<Option<SystemTime>> {
        self.files.iter().map(|file| fs::metadata(file).and_then(|of| of.modified()).ok()).collect()
    }
}
