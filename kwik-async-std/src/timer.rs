//! `async-io`'s timer.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use kwik_core::driver::Timer;

/// A timer.
#[derive(Debug)]
pub struct AsyncStdTimer(async_io::Timer);

impl AsyncStdTimer {
    /// Creates a timer for `at`.
    pub(crate) fn new(at: Instant) -> Self {
        Self(async_io::Timer::at(at))
    }
}

impl Timer for AsyncStdTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}
