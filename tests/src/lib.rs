//! End-to-end tests of KWIK over real sockets, and measurements beside its peers.
//!
//! This library is what the tests in `it/` share: certificates of a throwaway authority ([`authority`]), an object
//! whose every byte is known ([`object`]), honest servers and clients on loopback ([`world`], [`feed`]), and peers
//! that speak `kwik/1` by hand over plain quinn, and so may break its rules ([`raw`], [`wire`]).
//!
//! [`sim`] is the other half: a deterministic simulator on the core alone, for these tests and for whoever links the
//! core into a loop of their own. Its page is the guide to writing a scenario.
//!
//! Helpers fail by panicking, as the tests that call them would.

#![expect(clippy::missing_panics_doc, clippy::panic, reason = "a helper that fails fails its test")]

pub mod authority;
pub mod feed;
pub mod host;
pub mod object;
pub mod raw;
pub mod scale;
pub mod sim;
pub mod soak;
pub mod wire;
pub mod world;

use std::{
    future::Future,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::runtime::Builder;

/// Longest time that a test may take unless it says otherwise.
pub const TEST_LIMIT: Duration = Duration::from_secs(30);

/// Runs a test on a runtime of its own with two threads, for at most [`TEST_LIMIT`].
pub fn run<T>(test: impl Future<Output = T>) -> T {
    run_for(TEST_LIMIT, test)
}

/// Runs a test on a runtime of its own with two threads, for at most `limit`.
pub fn run_for<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    run_on(Builder::new_multi_thread().worker_threads(2), limit, test)
}

/// Runs a test on one thread, where nothing happens between two lines without an await.
pub fn run_on_one_thread<T>(test: impl Future<Output = T>) -> T {
    run_on(&mut Builder::new_current_thread(), TEST_LIMIT, test)
}

fn run_on<T>(builder: &mut Builder, limit: Duration, test: impl Future<Output = T>) -> T {
    let runtime = builder.enable_all().build().expect("the system gives threads");
    let result = runtime.block_on(async { tokio::time::timeout(limit, test).await });
    runtime.shutdown_background();
    result.unwrap_or_else(|_| panic!("the test is not done after {limit:?}"))
}

/// Waits for `future`, for at most five seconds; `what` says what did not happen.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(Duration::from_secs(5), what, future).await
}

/// Waits for `future`, for at most `limit`; `what` says what did not happen.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Returns whether `future` stays pending for `time`: what must never happen has had its chance.
pub async fn stays_pending<T>(time: Duration, future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(time, future).await.is_err()
}

/// Polls a future once and drops it.
pub fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
