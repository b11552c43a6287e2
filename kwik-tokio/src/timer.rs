//! tokio's timer.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use kwik_core::driver::Timer;
use tokio::time::Sleep;

/// A timer; as coarse as tokio's, which is a millisecond.
#[derive(Debug)]
pub struct TokioTimer(Pin<Box<Sleep>>);

impl TokioTimer {
    /// Creates a timer for `at`. To be called from within a tokio runtime.
    pub(crate) fn new(at: Instant) -> Self {
        Self(Box::pin(tokio::time::sleep_until(at.into())))
    }
}

impl Timer for TokioTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
