// Every way to write and to read a stream.
use std::{error::Error, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use transport::{ClientConfig, Dir, Endpoint, ReadError, ServerConfig, Side};

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            tokio::spawn(async move {
                tokio::io::copy(&mut recv, &mut send).await.unwrap();
                send.shutdown().await.unwrap();
            });
        }
        connection.close_reason().map(|error| error.to_string())
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = client.connect(addr, "localhost")?.await?;

    // By pieces, without copying.
    let (mut send, mut recv) = connection.open_bi().await?;
    said.push(format!("{:?} {:?}", send.id().initiator() == Side::Client, recv.id().dir() == Dir::Bi));
    said.push(format!("{:?}", send.id() == recv.id()));
    send.set_priority(5)?;
    said.push(format!("{}", send.priority()?));
    let mut pieces = [Bytes::from_static(b"one "), Bytes::from_static(b"two "), Bytes::from_static(b"three")];
    send.write_all_chunks(&mut pieces).await?;
    send.write_chunk(Bytes::from_static(b"!")).await?;
    send.finish()?;
    said.push(format!("{}", send.finish().is_err()));
    let mut all = Vec::new();
    while let Some(chunk) = recv.read_chunk(5, true).await? {
        said.push(format!("in place: {}", chunk.offset == all.len() as u64 && chunk.bytes.len() <= 5));
        all.extend_from_slice(&chunk.bytes);
        if all.len() > 3 {
            break;
        }
    }
    all.extend(recv.read_to_end(100).await?);
    said.push(String::from_utf8(all)?);
    said.push(format!("{:?}", recv.read(&mut [0; 4]).await?));

    // A megabyte, in any order.
    let (mut send, mut recv) = connection.open_bi().await?;
    let object: Vec<u8> = (0..1_000_000usize).map(|at| (at / 7).to_le_bytes()[0]).collect();
    let writing = {
        let object = object.clone();
        tokio::spawn(async move {
            send.write_all(&object).await.unwrap();
            send.finish().unwrap();
            send.stopped().await.unwrap()
        })
    };
    let mut copy = vec![0; object.len()];
    let mut count = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, false).await? {
        let start = usize::try_from(chunk.offset)?;
        copy[start..start + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
        count += chunk.bytes.len();
    }
    said.push(format!("{count} bytes, {}", copy == object));
    said.push(format!("{:?}", writing.await?));

    // No order after that.
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"abc").await?;
    let chunk = recv.read_chunk(1, false).await?.ok_or("nothing")?;
    said.push(format!("{} {}", chunk.offset, chunk.bytes.len()));
    said.push(match recv.read(&mut [0; 1]).await {
        Err(ReadError::IllegalOrderedRead) => "too late for order".to_owned(),
        other => format!("{other:?}"),
    });

    // By the traits of tokio.
    let (mut send, mut recv) = connection.open_bi().await?;
    AsyncWriteExt::write_all(&mut send, b"by the traits").await?;
    AsyncWriteExt::flush(&mut send).await?;
    AsyncWriteExt::shutdown(&mut send).await?;
    let mut text = String::new();
    recv.read_to_string(&mut text).await?;
    said.push(text);
    said.push(format!("{}", recv.is_0rtt()));

    connection.close(9u32.into(), b"");
    client.wait_idle().await;
    said.push(format!("{:?}", serving.await?));
    Ok(said)
}
