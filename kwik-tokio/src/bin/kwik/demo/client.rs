//! The client: one connection, one stream. It does not know how many servers there are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kwik_tokio::{Connection, Endpoint};
use tokio::sync::oneshot;

use super::{REQUEST, sink::Writer};
use crate::failure::Failure;

/// Bytes handed to the thread that writes at once.
const BATCH: usize = 256 * 1024;

/// One request.
pub(super) struct Fetch {
    pub(super) endpoint: Endpoint,
    pub(super) server: SocketAddr,
    pub(super) server_name: String,
    pub(super) ordered: bool,
    /// Size of the object in bytes. Only to know when the last byte has come and when half of them have.
    pub(super) size: u64,
    /// Call to make when half of the bytes have come.
    pub(super) half_way: Option<Box<dyn FnOnce() + Send>>,
    /// Bytes read so far, for whoever watches.
    pub(super) received: Arc<AtomicU64>,
    /// Gets the connection as soon as it is there, for its counters.
    pub(super) connected: oneshot::Sender<Connection>,
    pub(super) writer: Writer,
}

impl Fetch {
    /// Reads the object to its end. Returns the time from the request to the last byte.
    pub(super) async fn run(mut self) -> Result<Duration, Failure> {
        let connecting =
            self.endpoint.connect(self.server, &self.server_name).map_err(failed("cannot connect"))?;
        let connection = connecting.await.map_err(failed("cannot connect"))?;
        // Nobody watching is fine.
        drop(self.connected.send(connection.clone()));
        let started = Instant::now();
        let (mut send, mut recv) = connection.open_bi().await.map_err(failed("cannot ask for the object"))?;
        send.write_all(REQUEST).await.map_err(failed("cannot ask for the object"))?;
        send.finish().map_err(failed("cannot ask for the object"))?;

        let mut received = 0;
        let mut took = None;
        let (mut batch, mut batched) = (Vec::new(), 0);
        while let Some(chunk) =
            recv.read_chunk(BATCH, self.ordered).await.map_err(failed("the object did not arrive"))?
        {
            if self.ordered && chunk.offset != received {
                return Err(Failure::run(format!("byte {} came when {received} was next", chunk.offset)));
            }
            received += chunk.bytes.len() as u64;
            batched += chunk.bytes.len();
            batch.push(chunk);
            if batched >= BATCH || received >= self.size {
                self.received.store(received, Ordering::Relaxed);
                if received >= self.size {
                    took = Some(started.elapsed());
                }
                if received >= self.size.div_ceil(2) {
                    self.half_way.take().into_iter().for_each(|action| action());
                }
                if !self.writer.write(std::mem::take(&mut batch)).await {
                    break; // finishing tells why
                }
                batched = 0;
            }
        }
        let took = took.unwrap_or_else(|| started.elapsed());
        self.writer.finish().await?;
        if received != self.size {
            return Err(Failure::run(format!("{received} bytes came instead of {}", self.size)));
        }
        Ok(took)
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::run(format!("{what}: {error}"))
}
