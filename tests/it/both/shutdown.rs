// A server that goes down in order: no new clients, the old ones are told, and nothing is left.
use std::{error::Error, net::Ipv4Addr, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{ApplicationClose, ClientConfig, ConnectError, ConnectionError, Endpoint, ServerConfig};

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let acceptor = server.clone();
    let accepting = executor::spawn(async move {
        let mut ends = Vec::new();
        while let Some(incoming) = acceptor.accept().await {
            let connection = incoming.await.unwrap();
            ends.push(executor::spawn(async move {
                let mut stream = connection.accept_uni().await.unwrap();
                stream.read_to_end(100).await.unwrap();
                match connection.closed().await {
                    ConnectionError::LocallyClosed => "closed here".to_owned(),
                    other => other.to_string(),
                }
            }));
        }
        let mut said = Vec::new();
        for end in ends {
            said.push(end.await.unwrap());
        }
        said
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let connection = client.connect(addr, "localhost")?.await?;
        let mut stream = connection.open_uni().await?;
        stream.write_all(b"hello").await?;
        stream.finish()?;
        said.push(format!("arrived: {:?}", stream.stopped().await?));
        said.push(format!("{:?}", connection.close_reason()));
        connections.push(connection);
    }
    said.push(format!("{} open", client.open_connections()));

    server.close(7u32.into(), b"going down");
    said.extend(accepting.await?);
    server.wait_idle().await;
    said.push(format!("{} open", server.open_connections()));
    for connection in &connections {
        match connection.closed().await {
            ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason, .. }) => {
                said.push(format!("{error_code} {}", String::from_utf8_lossy(&reason)));
            }
            other => said.push(format!("{other:?}")),
        }
        said.push(format!("{}", connection.close_reason().is_some()));
        said.push(match connection.open_bi().await {
            Err(error) => error.to_string(),
            Ok(_) => "a stream".to_owned(),
        });
        said.push(match connection.accept_uni().await {
            Err(error) => error.to_string(),
            Ok(_) => "a stream".to_owned(),
        });
    }
    said.push(match server.connect(addr, "localhost") {
        Err(ConnectError::NoDefaultClientConfig) => "no settings to dial with".to_owned(),
        other => format!("{:?}", other.err()),
    });
    client.close(0u32.into(), b"");
    client.wait_idle().await;
    said.push(match client.connect(addr, "localhost") {
        Err(ConnectError::EndpointStopping) => "stopping".to_owned(),
        other => format!("{:?}", other.err()),
    });
    let stats = client.stats();
    said.push(format!("{} dialled, {} accepted", stats.outgoing_handshakes, stats.accepted_handshakes));
    Ok(said)
}
