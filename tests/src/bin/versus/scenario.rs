//! The same work for every contender: one server that gives what it is asked for, and clients that ask.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use crate::{
    contender::{
        Acceptor as _, Client as _, Contender, Ended, Fallible, Host as _, Opener, Server as _, Sink, Source,
    },
    meter::Meter,
    report::{Measured, Unit},
};

/// Bytes handed to a stream at once.
const CHUNK: usize = 1024 * 1024;
/// Bytes of a request: what is asked for, and how many bytes.
const REQUEST: usize = 9;
const GIVE: u8 = 0;
const ECHO: u8 = 1;
/// Tasks that ask for small answers at once.
const ASKING: u64 = 32;
/// Handshakes at once.
const CONNECTING: u64 = 16;

/// Sends answers to whoever connects, until the server is gone.
pub(crate) async fn serve<C: Contender>(contender: C, mut server: C::Server) {
    while let Some(mut connection) = server.accept().await {
        let host = contender.host().clone();
        contender.host().detach(async move {
            while let Some((sink, source)) = connection.accept().await {
                host.detach(async move {
                    // A client that has gone wants no answer.
                    let _gone = answer(sink, source).await;
                });
            }
        });
    }
}

async fn answer(mut sink: impl Sink, mut source: impl Source) -> Fallible<()> {
    let mut request = [0; REQUEST];
    source.read_exact(&mut request).await?;
    let [kind, len @ ..] = request;
    if kind == ECHO {
        let mut byte = [0];
        while source.read_exact(&mut byte).await.is_ok() {
            sink.write(Bytes::copy_from_slice(&byte)).await?;
        }
        return sink.finish().await;
    }
    for chunk in chunks(u64::from_be_bytes(len)) {
        sink.write(chunk).await?;
    }
    sink.finish().await
}

fn request(kind: u8, len: u64) -> Bytes {
    let mut request = vec![kind];
    request.extend(len.to_be_bytes());
    request.into()
}

/// Pieces of an object: the same memory again and again, so that making bytes costs nothing.
pub(crate) fn chunks(size: u64) -> impl Iterator<Item = Bytes> + Send {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let mut left = size;
    std::iter::from_fn(move || {
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        left -= len as u64;
        ZEROS.get(..len).filter(|piece| !piece.is_empty()).map(Bytes::from_static)
    })
}

async fn fetch(connection: impl Opener, size: u64) -> Fallible<()> {
    let (mut sink, mut source) = connection.open().await?;
    sink.write(request(GIVE, size)).await?;
    sink.finish().await?;
    let mut received = 0;
    while let Some(count) = source.read().await? {
        received += count as u64;
    }
    if received == size { Ok(()) } else { Err(Ended.into()) }
}

/// Opens a server that serves.
async fn listen<C: Contender>(contender: &C) -> Fallible<SocketAddr> {
    let server = contender.server().await?;
    let address = server.address()?;
    contender.host().detach(serve(contender.clone(), server));
    Ok(address)
}

/// Fetches `size` bytes in all over `streams` streams of each of `connections` connections to as many as `servers`.
pub(crate) fn bulk<C: Contender>(
    contender: &C,
    size: u64,
    servers: u64,
    connections: u64,
    streams: u64,
) -> Fallible<Measured> {
    let me = contender.clone();
    contender.host().block_on(async move {
        let mut addresses = Vec::new();
        for _ in 0..servers {
            addresses.push(listen(&me).await?);
        }
        let client = me.client().await?;
        let mut open = Vec::new();
        for &address in addresses.iter().cycle().take(usize::try_from(connections)?) {
            open.push(client.connect(address).await?);
        }
        let meter = Meter::start()?;
        let each = size / connections / streams;
        let mut running = Vec::new();
        for connection in &open {
            for _ in 0..streams {
                running.push(me.host().spawn(fetch(connection.clone(), each)));
            }
        }
        for done in running {
            done.await?;
        }
        let used = meter.stop()?;
        open.iter().for_each(Opener::close);
        Ok(Measured::rate(each * streams * connections, &used))
    })
}

/// Has many small objects fetched, a stream each, and returns how many a second.
pub(crate) fn requests<C: Contender>(contender: &C, size: u64, count: u64) -> Fallible<Measured> {
    let me = contender.clone();
    contender.host().block_on(async move {
        let address = listen(&me).await?;
        let connection = me.client().await?.connect(address).await?;
        let meter = Meter::start()?;
        let mut running = Vec::new();
        for _ in 0..ASKING {
            let connection = connection.clone();
            running.push(me.host().spawn(async move {
                for _ in 0..count / ASKING {
                    fetch(connection.clone(), size).await?;
                }
                Ok(())
            }));
        }
        for done in running {
            done.await?;
        }
        let used = meter.stop()?;
        connection.close();
        Ok(Measured::count(count / ASKING * ASKING, Unit::RequestsPerSecond, &used))
    })
}

/// Sends one byte to and fro on one stream and returns quantiles of the time that it takes, in microseconds.
pub(crate) fn ping_pong<C: Contender>(contender: &C, count: u64) -> Fallible<[Measured; 3]> {
    let me = contender.clone();
    contender.host().block_on(async move {
        let address = listen(&me).await?;
        let connection = me.client().await?.connect(address).await?;
        let (mut sink, mut source) = connection.open().await?;
        sink.write(request(ECHO, 0)).await?;
        let mut took = Vec::new();
        let meter = Meter::start()?;
        for _ in 0..count {
            let sent = Instant::now();
            sink.write(Bytes::from_static(b"!")).await?;
            source.read_exact(&mut [0]).await?;
            took.push(sent.elapsed());
        }
        let used = meter.stop()?;
        connection.close();
        took.sort_unstable();
        let quantile = |permille: usize| {
            let at = took.len() * permille / 1000;
            Measured::time(took.get(at).copied().unwrap_or_default(), &used)
        };
        Ok([500, 990, 999].map(quantile))
    })
}

/// Connects and closes again and returns how often a second, `at_once` at a time or one by one.
pub(crate) fn connects<C: Contender>(contender: &C, count: u64, at_once: bool) -> Fallible<Measured> {
    let tasks = if at_once { CONNECTING } else { 1 };
    let me = contender.clone();
    contender.host().block_on(async move {
        let address = listen(&me).await?;
        let client = me.client().await?;
        client.connect(address).await?.close();
        let meter = Meter::start()?;
        let mut running = Vec::new();
        for _ in 0..tasks {
            let client = client.clone();
            running.push(me.host().spawn(async move {
                for _ in 0..count / tasks {
                    client.connect(address).await?.close();
                }
                Ok(())
            }));
        }
        for done in running {
            done.await?;
        }
        let used = meter.stop()?;
        Ok(Measured::count(count / tasks * tasks, Unit::ConnectsPerSecond, &used))
    })
}
