//! Holds bytes to a rate: those that a client reads, as what is not read is not sent, and those that a mirror sends.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{self, Instant};

/// Time that may be caught up at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// A rate for all who share it.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; `None` is as fast as it goes.
    limit: Option<u64>,
    /// Instant of the next byte.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { limit, next: Mutex::new(Instant::now()) }
    }

    pub(crate) const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Waits until it is the turn of `bytes` more.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(limit) = self.limit else {
            return;
        };
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = (*next).max(now.checked_sub(BURST).unwrap_or(now));
            *next = from + Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
            from
        };
        time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let pace = Pace::new(Some(1000));
            let began = Instant::now();
            for _ in 0..100 {
                pace.take(100).await;
            }
            let took = began.elapsed().as_secs_f64();
            assert!((9.7..10.1).contains(&took), "{took}");
            time::sleep(Duration::from_secs(60)).await;
            let began = Instant::now();
            for _ in 0..20 {
                pace.take(100).await;
            }
            let took = began.elapsed().as_secs_f64();
            assert!((1.7..2.1).contains(&took), "a pause is not caught up: {took}");
            Pace::new(None).take(usize::MAX).await;
        });
    }
}
