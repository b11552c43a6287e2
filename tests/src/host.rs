//! Runtimes to run the same endpoints on: tokio with many threads and with one, async-std, smol.

use std::future::Future;

use kwik_async_std::{AsyncStdRuntime, smol::SmolRuntime};
use kwik_core::driver::Runtime;
use kwik_tokio::TokioRuntime;
use tokio::{runtime, sync::oneshot};

/// A runtime that endpoints live on, whoever awaits their handles.
pub trait Host: Send + Sync + Sized + 'static {
    /// Its adapter.
    type Runtime: Runtime;

    /// Its name, for messages.
    const NAME: &'static str;

    /// Starts it.
    fn start() -> Self;

    /// Runs `f` where [`Runtime::current`] finds this one.
    fn inside<T>(&self, f: impl FnOnce() -> T) -> T;

    /// Runs a task on it, apart from the caller.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
}

/// tokio with two threads.
#[derive(Debug)]
pub struct TokioThreads(runtime::Runtime);

impl Host for TokioThreads {
    type Runtime = TokioRuntime;

    const NAME: &'static str = "tokio";

    fn start() -> Self {
        let mut builder = runtime::Builder::new_multi_thread();
        Self(builder.worker_threads(2).enable_all().build().expect("the system gives threads"))
    }

    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        let _inside = self.0.enter();
        f()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(task));
    }
}

impl TokioThreads {
    /// Ends the runtime, and with it every task that runs on it, wherever it is.
    pub fn shut_down(self) {
        self.0.shutdown_background();
    }
}

/// tokio on one thread of its own.
#[derive(Debug)]
pub struct TokioThread {
    handle: runtime::Handle,
    /// Dropped to end it.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Host for TokioThread {
    type Runtime = TokioRuntime;

    const NAME: &'static str = "tokio, one thread";

    fn start() -> Self {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().expect("the system gives a poller");
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
        Self { handle, alive: Some(alive), thread: Some(thread) }
    }

    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        let _inside = self.handle.enter();
        f()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }
}

impl Drop for TokioThread {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(Err(panic)) = self.thread.take().map(std::thread::JoinHandle::join) {
            assert!(std::thread::panicking(), "the runtime's thread panicked: {panic:?}");
        }
    }
}

/// async-std's executor, one per process.
#[derive(Debug)]
pub struct AsyncStd;

impl Host for AsyncStd {
    type Runtime = AsyncStdRuntime;

    const NAME: &'static str = "async-std";

    fn start() -> Self {
        Self
    }

    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        f()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        AsyncStdRuntime.spawn(task);
    }
}

/// smol's executor, one per process.
#[derive(Debug)]
pub struct Smol;

impl Host for Smol {
    type Runtime = SmolRuntime;

    const NAME: &'static str = "smol";

    fn start() -> Self {
        Self
    }

    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        f()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        SmolRuntime.spawn(task);
    }
}
