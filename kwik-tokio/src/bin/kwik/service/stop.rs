//! The end of a server: asked for by a signal, heard everywhere.

use std::time::Duration;

use tokio::{sync::watch, time};

use crate::failure::Failure;

/// Has a server end.
#[derive(Debug)]
pub(crate) struct Stop(watch::Sender<bool>);

/// Hears of the end. Clones hear of the same.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Receiver<bool>);

/// Sees whether a server is to end; the server does not wait for it.
#[derive(Clone, Debug)]
pub(crate) struct Told(watch::Sender<bool>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn listen(&self) -> Stopping {
        Stopping(self.0.subscribe())
    }

    pub(crate) fn told(&self) -> Told {
        Told(self.0.clone())
    }

    /// Says that the server is to end.
    pub(crate) fn now(&self) {
        self.0.send_replace(true);
    }

    /// Waits until nobody listens any more: every task that does has ended. Returns whether that was within `patience`.
    pub(crate) async fn all_ended(&self, patience: Duration) -> bool {
        time::timeout(patience, self.0.closed()).await.is_ok()
    }
}

impl Told {
    pub(crate) fn get(&self) -> bool {
        *self.0.borrow()
    }
}

impl Stopping {
    /// Waits until the server is to end. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        // Whoever could say so being gone, the server is at its end.
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

/// Waits until the user or the system wants this process to end.
pub(crate) async fn signalled() -> Result<(), Failure> {
    let fail = |error| Failure::run(format!("cannot wait for signals: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_of_the_end_and_is_waited_for() {
        let stop = Stop::new();
        let (mut early, told) = (stop.listen(), stop.told());
        assert!(!told.get());
        let waiter = tokio::spawn(async move { early.wait().await });
        stop.now();
        waiter.await.unwrap();
        let mut late = stop.listen();
        late.wait().await;
        assert!(!stop.all_ended(Duration::from_millis(1)).await);
        drop(late);
        assert!(stop.all_ended(Duration::from_secs(60)).await && told.get());
    }
}
