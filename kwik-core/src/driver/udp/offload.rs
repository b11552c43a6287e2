//! Segmentation offload that works on the way to one destination and not on the way to another.
//!
//! Whether a network interface takes trains of datagrams shows when one is sent. `quinn-udp` sends no more of them to
//! anybody once one has failed; that may have been a tunnel to a single peer, or a device that is gone since.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::driver::lock::{Lock, Owes};

/// Time that a destination gets no trains after one to it has failed; twice as long each time that the next fails as well.
const WAIT_FIRST: Duration = Duration::from_secs(10);
/// And how long at most.
const WAIT_MAX: Duration = Duration::from_secs(640);
/// Destinations remembered. While so many are out, nobody gets any: it is the socket's only interface, most likely.
const FAILURES_MAX: usize = 32;

/// Error numbers of a system whose network interface does not take trains: EIO and EINVAL, the same on all Unix systems.
const REFUSALS: [i32; 2] = [5, 22];

/// One destination that a train has not reached.
#[derive(Debug)]
struct Failure {
    destination: SocketAddr,
    until: Instant,
    wait: Duration,
}

impl Owes for Vec<Failure> {}

/// Trains that have failed on one socket, by destination.
#[derive(Debug)]
pub(super) struct Offload {
    /// Datagrams in one, at most.
    segments: usize,
    /// There are failures: the usual case takes no lock and reads no clock.
    failed: AtomicBool,
    failures: Lock<Vec<Failure>>,
    now: fn() -> Instant,
}

impl Offload {
    pub(super) const fn new(segments: usize, now: fn() -> Instant) -> Self {
        Self { segments, failed: AtomicBool::new(false), failures: Lock::new(Vec::new()), now }
    }

    /// Returns how many datagrams one call may send to `destination`.
    pub(super) fn segments(&self, destination: SocketAddr) -> usize {
        if self.failed.load(Ordering::Relaxed) {
            self.segments_at(destination, (self.now)())
        } else {
            self.segments
        }
    }

    /// Takes what became of a train.
    pub(super) fn note(&self, destination: SocketAddr, result: &io::Result<()>) {
        match result {
            Ok(()) if self.failed.load(Ordering::Relaxed) => self.on_sent(destination),
            Ok(()) => {}
            Err(error) if error.raw_os_error().is_some_and(|code| REFUSALS.contains(&code)) => {
                self.on_refused(destination, (self.now)());
            }
            Err(_) => {}
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Failure>) -> T) -> T {
        self.failures.with(|failures| {
            let value = f(failures);
            self.failed.store(!failures.is_empty(), Ordering::Relaxed);
            value
        })
    }

    fn segments_at(&self, destination: SocketAddr, now: Instant) -> usize {
        let out = self.with(|failures| {
            let out = |failure: &&Failure| failure.until > now;
            failures.iter().filter(out).count() >= FAILURES_MAX
                || failures.iter().filter(out).any(|failure| failure.destination == destination)
        });
        if out { 1 } else { self.segments }
    }

    fn on_sent(&self, destination: SocketAddr) {
        self.with(|failures| failures.retain(|failure| failure.destination != destination));
    }

    fn on_refused(&self, destination: SocketAddr, now: Instant) {
        self.with(|failures| {
            if let Some(known) = failures.iter_mut().find(|failure| failure.destination == destination) {
                if known.until <= now {
                    known.wait = (known.wait * 2).min(WAIT_MAX);
                    known.until = now + known.wait;
                }
                return; // otherwise it was on its way before
            }
            if failures.len() == FAILURES_MAX {
                let Some(over) = failures.iter().position(|failure| failure.until <= now) else {
                    return;
                };
                failures.swap_remove(over);
            }
            tracing::debug!(%destination, "no segmentation offload for a while");
            failures.push(Failure { destination, until: now + WAIT_FIRST, wait: WAIT_FIRST });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn host(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    /// One tunnel that takes no trains once cost every destination its offload, for good.
    #[test]
    fn a_train_that_failed_is_tried_again_and_nobody_else_pays() {
        let start = now();
        let offload = Offload::new(64, now);
        offload.on_refused(host(1), start);
        assert_eq!((offload.segments_at(host(1), start), offload.segments_at(host(2), start)), (1, 64));
        offload.on_refused(host(1), start); // was under way
        let again = start + WAIT_FIRST;
        assert_eq!(offload.segments_at(host(1), again - Duration::from_nanos(1)), 1);
        assert_eq!(offload.segments_at(host(1), again), 64);
        offload.on_refused(host(1), again);
        assert_eq!(offload.segments_at(host(1), again + WAIT_FIRST), 1, "twice as long the second time");
        assert_eq!(offload.segments_at(host(1), again + WAIT_FIRST * 2), 64);
        offload.on_sent(host(1));
        assert!(!offload.failed.load(Ordering::Relaxed));
    }

    #[test]
    fn an_interface_without_offload_does_not_fail_for_each_destination() {
        let start = now();
        let offload = Offload::new(64, now);
        (0..=u8::MAX).for_each(|last| offload.on_refused(host(last), start));
        assert_eq!(offload.with(|failures| failures.len()), FAILURES_MAX);
        assert_eq!(offload.segments_at(host(255), start), 1);
        assert_eq!(offload.segments_at(host(255), start + WAIT_FIRST), 64);
        for doublings in 0..12 {
            let at = start + WAIT_MAX * 2 * (doublings + 1);
            offload.on_refused(host(0), at);
            assert_eq!(offload.segments_at(host(0), at + WAIT_MAX), 64);
        }
    }

    /// Only what says that the interface cannot is taken for that.
    #[test]
    fn other_failures_are_no_reason() {
        let offload = Offload::new(64, now);
        for code in [1, 11, 101, 111, 113] {
            offload.note(host(1), &Err(io::Error::from_raw_os_error(code)));
        }
        assert_eq!(offload.segments(host(1)), 64);
        offload.note(host(1), &Err(io::Error::from_raw_os_error(5)));
        assert_eq!((offload.segments(host(1)), offload.segments(host(2))), (1, 64));
        offload.note(host(1), &Ok(()));
        assert_eq!(offload.segments(host(1)), 64);
    }
}
