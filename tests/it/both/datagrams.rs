// Datagrams: how long they may be, what becomes of too many, and waiting for room.
use std::{error::Error, net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{ClientConfig, ConnectionError, Endpoint, SendDatagramError, ServerConfig, TransportConfig};

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let mut transport = TransportConfig::default();
    transport.datagram_receive_buffer_size(Some(1 << 20));
    config.transport_config(Arc::new(transport));
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let serving = executor::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let mut stream = connection.accept_uni().await.unwrap();
        let mut count = 0;
        let mut last = 0;
        while last != 199 {
            let datagram = executor::time::timeout(Duration::from_secs(20), connection.read_datagram()).await;
            let Ok(Ok(datagram)) = datagram else { break };
            last = datagram[0];
            count += 1;
        }
        let told = stream.read_to_end(10).await.unwrap();
        connection.close(1u32.into(), b"enough");
        server.wait_idle().await;
        (count > 0, last, told)
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    let mut transport = TransportConfig::default();
    transport.datagram_send_buffer_size(4096);
    client_config.transport_config(Arc::new(transport));
    let client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let connection = client.connect_with(client_config, addr, "localhost")?.await?;
    let mut stream = connection.open_uni().await?;
    stream.write_all(b"begin").await?;
    stream.finish()?;

    let most = connection.max_datagram_size().ok_or("no datagrams")?;
    said.push(format!("a kilobyte fits: {}", most >= 1000));
    match connection.send_datagram(Bytes::from(vec![0; 100_000])) {
        Err(SendDatagramError::TooLarge) => said.push("too large".to_owned()),
        other => said.push(format!("{other:?}")),
    }
    // As fast as there is room.
    for number in 0..200u8 {
        connection.send_datagram_wait(Bytes::from(vec![number; 1000])).await?;
    }
    let (some, last, told) = serving.await?;
    said.push(format!("{some} {last} {told:?}"));
    match connection.read_datagram().await {
        Err(ConnectionError::ApplicationClosed(close)) => {
            said.push(format!("{} {:?} {close}", close.error_code, close.reason));
        }
        other => said.push(format!("{other:?}")),
    }
    match connection.send_datagram(Bytes::from_static(b"late")) {
        Err(SendDatagramError::ConnectionLost(error)) => said.push(error.to_string()),
        other => said.push(format!("{other:?}")),
    }
    Ok(said)
}
