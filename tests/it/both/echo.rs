// Echoes one message, with a certificate made a moment ago.
use std::{error::Error, net::{Ipv4Addr, SocketAddr}, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{ClientConfig, Endpoint, ServerConfig};

fn make_server_endpoint(addr: SocketAddr) -> Result<(Endpoint, CertificateDer<'static>), Box<dyn Error + Send + Sync>> {
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let cert_der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let mut server_config = ServerConfig::with_single_cert(vec![cert_der.clone()], key.into())?;
    let transport_config = Arc::get_mut(&mut server_config.transport).unwrap();
    transport_config.max_concurrent_uni_streams(0_u8.into());
    Ok((Endpoint::server(server_config, addr)?, cert_der))
}

fn make_client_endpoint(addr: SocketAddr, certs: &[&[u8]]) -> Result<Endpoint, Box<dyn Error + Send + Sync>> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in certs {
        roots.add(CertificateDer::from(*cert))?;
    }
    let mut endpoint = Endpoint::client(addr)?;
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    Ok(endpoint)
}

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let (server, cert) = make_server_endpoint((Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let serving = executor::spawn(async move {
        let incoming = server.accept().await.unwrap();
        let connection = incoming.await.unwrap();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let message = recv.read_to_end(64 * 1024).await.unwrap();
            send.write_all(&message).await.unwrap();
            send.finish().unwrap();
        }
        connection.closed().await.to_string()
    });
    let client = make_client_endpoint((Ipv4Addr::LOCALHOST, 0).into(), &[&cert])?;
    let connection = client.connect(addr, "localhost")?.await?;
    said.push(format!("to the right server: {}", connection.remote_address() == addr));
    for message in ["hello", ""] {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(message.as_bytes()).await?;
        send.finish()?;
        said.push(String::from_utf8(recv.read_to_end(100).await?)?);
    }
    connection.close(0u32.into(), b"done");
    said.push(connection.closed().await.to_string());
    client.wait_idle().await;
    said.push(serving.await?);
    // And somebody else's certificate is none.
    let (other, _) = make_server_endpoint((Ipv4Addr::LOCALHOST, 0).into())?;
    let there = other.local_addr()?;
    executor::spawn(async move { drop(other.accept().await.unwrap().await) });
    let refused = client.connect(there, "localhost")?.await;
    said.push(format!("{}", matches!(refused, Err(transport::ConnectionError::TransportError(error)) if error.code == transport::TransportErrorCode::crypto(48))));
    Ok(said)
}
