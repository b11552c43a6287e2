//! Executors whose tasks wait on `async-io`'s reactor.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kwik_core::driver::{Runtime, udp};

use crate::{AsyncIoSocket, AsyncIoTimer};

/// Defines a runtime: its name, and how it spawns a task and work that blocks.
macro_rules! runtime {
    ($(#[$attribute:meta])* $name:ident, $spawn:expr, $spawn_blocking:expr) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default)]
        #[expect(clippy::exhaustive_structs, reason = "there is one executor per process, and nothing to set")]
        pub struct $name;

        impl $name {
            /// Takes over a bound socket, for [`Endpoint::new_from_socket`](kwik_core::driver::Endpoint::new_from_socket) and
            /// [`Endpoint::rebind_abstract`](kwik_core::driver::Endpoint::rebind_abstract).
            ///
            /// # Errors
            /// - Whatever the operating system says.
            pub fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<AsyncIoSocket> {
                AsyncIoSocket::new(socket)
            }
        }

        impl Runtime for $name {
            type Socket = AsyncIoSocket;
            type Timer = AsyncIoTimer;

            fn current() -> io::Result<Self> {
                Ok(Self) // there is one per process, started when needed
            }

            fn now(&self) -> Instant {
                Instant::now()
            }

            fn unix_now(&self) -> Duration {
                // A clock before 1970 makes every ticket look not yet valid, which is the safe side.
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
            }

            fn seed(&self) -> io::Result<[u8; 32]> {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed)?;
                Ok(seed)
            }

            fn bind(&self, addr: SocketAddr) -> io::Result<AsyncIoSocket> {
                AsyncIoSocket::new(udp::bind(addr)?)
            }

            fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<AsyncIoSocket> {
                AsyncIoSocket::new(socket)
            }

            fn source_for(&self, destination: SocketAddr) -> Option<IpAddr> {
                udp::source_for(destination)
            }

            fn timer(&self, at: Instant) -> AsyncIoTimer {
                AsyncIoTimer::new(at)
            }

            fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
                $spawn(task)
            }

            fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
                $spawn_blocking(work)
            }
        }
    };
}

#[cfg(feature = "async-std")]
runtime!(
    /// async-std's executor, as endpoints use it: as many threads as there are cores, or as `ASYNC_STD_THREAD_COUNT` says.
    AsyncStdRuntime,
    |task| drop(async_std::task::spawn(task)), // runs on without its handle
    |work| drop(async_std::task::spawn_blocking(work))
);

#[cfg(feature = "smol")]
runtime!(
    /// smol's executor, as endpoints use it: one thread, or as many as `SMOL_THREADS` says.
    SmolRuntime,
    |task| smol::spawn(task).detach(),
    |work| smol::unblock(work).detach()
);
