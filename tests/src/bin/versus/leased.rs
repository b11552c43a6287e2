//! KWIK with other servers: one object leased piece by piece to one of them, or distributed over three.

use std::{collections::VecDeque, future::Future, io, sync::Arc};

use bytes::Bytes;
use kwik_core::{
    ByteRange, ClientConfig, LeaseOutcome, NewJob, NewPath, SecondaryConfig, ServerConfig, Signer as _,
    SigningKey,
    driver::{
        Accepted, DistributeOptions, Endpoint, PrimarySession, ReadAt, SecondarySession, SecondaryStream,
        SendStream,
    },
    schedule::Digests,
};
use kwik_tokio::TokioRuntime;

use crate::{
    contender::{Ended, Fallible, Host as _},
    hosts::{NAME, Tokio, Trust},
    kwik::{endpoint, transport},
    meter::Meter,
    report::Measured,
    scenario::chunks,
};

/// Bytes given out and not there yet, of a primary that leases pieces of one size.
const OUTSTANDING: u64 = 16 * 1024 * 1024;

/// Has one secondary send an object of `size` bytes, leased in pieces of `piece` bytes.
pub(crate) fn leased(host: &Tokio, size: u64, piece: u64) -> Fallible<Measured> {
    measure(host, size, 1, move |primary, stream| async move {
        let path = primary.paths().first().ok_or(Ended)?.id;
        let whole = ByteRange::new(0, size).ok_or(Ended)?;
        let job = stream.open_job(NewJob::new(path, whole, Bytes::new()))?;
        let mut pieces = (0..size.div_ceil(piece)).filter_map(|index| {
            let start = index * piece;
            ByteRange::between(start, size.min(start + piece))
        });
        let mut live = VecDeque::new();
        loop {
            while (live.len() as u64) < (OUTSTANDING / piece).max(2) {
                let Some(range) = pieces.next() else { break };
                live.push_back(job.lease(range)?);
            }
            let Some(mut oldest) = live.pop_front() else { break };
            if oldest.outcome().await? != LeaseOutcome::Done {
                return Err(Ended.into());
            }
        }
        let mut stream = stream;
        stream.finish()?;
        primary.closed().await; // a session ends with its last handle
        Ok(())
    })
}

/// Distributes an object of `size` bytes over the primary and two secondaries.
pub(crate) fn distributed(host: &Tokio, size: u64, digests: Digests) -> Fallible<Measured> {
    measure(host, size, 2, move |primary, mut stream| async move {
        stream.distribute(Zeros, size, DistributeOptions::new("").digests(digests)).await?;
        primary.closed().await;
        Ok(())
    })
}

/// Opens servers and a client, has all secondaries attached, and measures until the client has the whole object, in memory.
fn measure<W, F>(host: &Tokio, size: u64, secondaries: usize, work: W) -> Fallible<Measured>
where
    W: FnOnce(PrimarySession, SendStream) -> F + Send + 'static,
    F: Future<Output = Fallible<()>> + Send + 'static,
{
    let on = host.clone();
    host.block_on(async move {
        let (trust, key) = (Trust::new(), Arc::new(SigningKey::from_seed([1; 32])));
        let config = ServerConfig::try_from(trust.server())?.primary(key.clone()).transport(transport());
        let server: Endpoint<TokioRuntime> = endpoint(Some(config))?;
        let client: Endpoint<TokioRuntime> = endpoint(None)?;
        let config = ClientConfig::try_from(trust.client())?.transport(transport());
        let connecting = client.connect_with(config, server.local_addr()?, NAME)?;
        let accepting = on.spawn(async move {
            match server.accept().await.ok_or(Ended)?.accept_any().await? {
                Accepted::Primary(session) => Ok((server, session)),
                Accepted::Secondary(_) => Err(Ended.into()),
            }
        });
        let connection = connecting.await?;
        let (_server, primary) = accepting.await?;
        for _ in 0..secondaries {
            let trusted = SecondaryConfig::new(key.public_key(), &trust.identity().certificate)?;
            let config = ServerConfig::try_from(trust.server())?.secondary(trusted).transport(transport());
            let mirror: Endpoint<TokioRuntime> = endpoint(Some(config))?;
            let path = NewPath::new(mirror.local_addr()?, NAME, trust.identity().key);
            let here = on.clone();
            on.detach(async move {
                while let Some(incoming) = mirror.accept().await {
                    if let Ok(Accepted::Secondary(session)) = incoming.accept_any().await {
                        here.detach(fill(here.clone(), session));
                    }
                }
            });
            primary.add_path(path).await?;
        }
        let stream = primary.open_uni().await?;
        let meter = Meter::start()?;
        let sending = on.spawn(work(primary, stream));
        let mut stream = connection.accept_uni().await?;
        let mut received = 0;
        let mut chunks = Vec::new();
        while stream.read_many(&mut chunks, 32, false).await?.is_some() {
            received += chunks.drain(..).map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
        }
        let used = meter.stop()?;
        connection.close(0_u32.into(), b"");
        sending.await?;
        if received == size { Ok(Measured::rate(size, &used)) } else { Err(Ended.into()) }
    })
}

/// Fills whatever a session's primary asks for.
async fn fill(host: Tokio, session: SecondarySession) {
    while let Ok(mut job) = session.accept_job().await {
        let here = host.clone();
        host.detach(async move {
            while let Some(lease) = job.next_lease().await {
                here.detach(async move {
                    // A lease that ends early shows at its primary.
                    let _ended = write(lease.open()).await;
                });
            }
        });
    }
}

async fn write(mut stream: SecondaryStream) -> Fallible<()> {
    for chunk in chunks(stream.range().len()) {
        stream.write_all_chunks(&mut [chunk]).await?;
    }
    Ok(())
}

/// An object of zeros, of any length.
struct Zeros;

impl ReadAt for Zeros {
    fn read_at(&self, _offset: u64, len: usize) -> io::Result<Bytes> {
        match chunks(len as u64).next() {
            Some(whole) if whole.len() == len => Ok(whole),
            _ => Ok(vec![0; len].into()),
        }
    }

    fn blocks(&self) -> bool {
        false
    }
}
