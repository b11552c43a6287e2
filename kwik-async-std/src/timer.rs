//! `async-io`'s timer, moved as rarely as can be.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use kwik_core::driver::Timer;

/// A timer.
///
/// QUIC's deadlines move with nearly every packet, and mostly to a later time, while setting a timer of `async-io` wakes its
/// reactor. So the reactor is told of earlier times only: one that has become later is looked at when the old time comes.
#[derive(Debug)]
pub struct AsyncIoTimer {
    /// Set to `at` or to an earlier time.
    inner: async_io::Timer,
    set: Instant,
    at: Instant,
}

impl AsyncIoTimer {
    /// Creates a timer for `at`.
    pub(crate) fn new(at: Instant) -> Self {
        Self { inner: async_io::Timer::at(at), set: at, at }
    }

    fn arm(&mut self, at: Instant) {
        self.inner.set_at(at);
        self.set = at;
    }
}

impl Timer for AsyncIoTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.at = at;
        if at < self.set || !self.inner.will_fire() {
            self.arm(at);
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(Pin::new(&mut self.inner).poll(cx));
            if self.set == self.at {
                return Poll::Ready(());
            }
            let at = self.at;
            self.arm(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        time::{Duration, Instant},
    };

    use super::*;

    fn expire(timer: &mut AsyncIoTimer) -> Instant {
        async_io::block_on(poll_fn(|cx| Pin::new(&mut *timer).poll(cx)));
        Instant::now()
    }

    /// Later, earlier, before its time and after: it fires at the time that was set last, and not before.
    #[test]
    fn it_fires_at_the_time_that_was_set_last() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut timer = AsyncIoTimer::new(after(5));
        Pin::new(&mut timer).reset(after(40));
        assert!(expire(&mut timer) >= after(40));
        Pin::new(&mut timer).reset(after(60)); // once it has fired
        assert!(expire(&mut timer) >= after(60));
        Pin::new(&mut timer).reset(start + Duration::from_secs(3600));
        Pin::new(&mut timer).reset(after(80));
        let fired = expire(&mut timer);
        assert!(fired >= after(80) && fired < start + Duration::from_secs(1800));
        Pin::new(&mut timer).reset(start); // past already
        expire(&mut timer);
    }
}
