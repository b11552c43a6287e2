// Streams that are given up, from either end, and what each end is told.
use std::{error::Error, net::Ipv4Addr, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ReadExactError, ReadToEndError, ServerConfig,
    StoppedError, VarInt, WriteError,
};

fn read(error: &ReadError) -> String {
    match error {
        ReadError::Reset(code) => format!("reset with {code}, {}", u64::from(*code)),
        ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close)) => {
            format!("closed with {} for {:?}", close.error_code, close.reason)
        }
        ReadError::ConnectionLost(error) => format!("lost: {error}"),
        ReadError::ClosedStream => "closed".to_owned(),
        ReadError::IllegalOrderedRead => "out of order".to_owned(),
        ReadError::ZeroRttRejected => "0-RTT".to_owned(),
        #[allow(unreachable_patterns, clippy::allow_attributes, reason = "KWIK has more of them")]
        other => format!("{other}"),
    }
}

fn written(error: &WriteError) -> String {
    match error {
        WriteError::Stopped(code) => format!("stopped with {}", code.into_inner()),
        WriteError::ConnectionLost(error) => format!("lost: {error}"),
        WriteError::ClosedStream => "closed".to_owned(),
        WriteError::ZeroRttRejected => "0-RTT".to_owned(),
        #[allow(unreachable_patterns, clippy::allow_attributes, reason = "KWIK has more of them")]
        other => format!("{other}"),
    }
}

async fn serve(connection: Connection) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    // The client gives this one up.
    let (mut send, mut recv) = connection.accept_bi().await?;
    let mut head = [0; 5];
    recv.read_exact(&mut head).await?;
    send.write_all(b"go on").await?;
    said.push(match recv.read(&mut head).await {
        Err(error) => format!("{} / {error}", read(&error)),
        Ok(count) => format!("{count:?}"),
    });
    said.push(format!("{:?}", recv.received_reset().await?));
    // And this one is not wanted.
    let (_send, mut recv) = connection.accept_bi().await?;
    recv.stop(VarInt::from_u32(21))?;
    said.push(format!("again: {}", recv.stop(VarInt::from_u32(22)).is_err()));
    // Shorter than expected, and longer than allowed.
    let mut recv = connection.accept_uni().await?;
    said.push(match recv.read_exact(&mut [0; 10]).await {
        Err(ReadExactError::FinishedEarly(count)) => format!("{count} bytes early"),
        other => format!("{other:?}"),
    });
    let mut recv = connection.accept_uni().await?;
    said.push(match recv.read_to_end(3).await {
        Err(ReadToEndError::TooLong) => "too long".to_owned(),
        other => format!("{other:?}"),
    });
    let mut recv = connection.accept_uni().await?;
    connection.open_uni().await?.finish()?;
    said.push(match recv.read_to_end(3).await {
        Err(ReadToEndError::Read(error)) => read(&error),
        other => format!("{other:?}"),
    });
    Ok(said)
}

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let serving = executor::spawn(async move { serve(server.accept().await.ok_or("closed")?.await?).await });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = client.connect(addr, "localhost")?.await?;

    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello").await?;
    recv.read_exact(&mut [0; 5]).await?;
    send.reset(VarInt::from_u32(11))?;
    said.push(match send.write(b"more").await {
        Err(error) => written(&error),
        Ok(count) => format!("{count}"),
    });

    let (mut send, _recv) = connection.open_bi().await?;
    send.write_all(b"unwanted").await?;
    said.push(match send.stopped().await {
        Ok(code) => format!("stopped: {code:?}"),
        Err(StoppedError::ConnectionLost(error)) => format!("lost: {error}"),
        Err(error) => format!("{error}"),
    });
    said.push(match send.write(b"more").await {
        Err(error) => format!("{} / {error}", written(&error)),
        Ok(count) => format!("{count}"),
    });

    // One after the other, so that they arrive in this order.
    for length in [4, 5] {
        let mut send = connection.open_uni().await?;
        send.write_all(&vec![7; length]).await?;
        send.finish()?;
        drop(send.stopped().await);
    }
    let _unfinished = {
        let mut send = connection.open_uni().await?;
        send.write_all(b"x").await?;
        send
    };
    connection.accept_uni().await?;
    connection.close(VarInt::from_u32(31), b"that is all");
    said.extend(serving.await??);
    Ok(said)
}
