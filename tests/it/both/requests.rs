// A thousand requests at once on one connection.
use std::{error::Error, net::Ipv4Addr, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig, VarInt};

async fn answer(connection: Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        executor::spawn(async move {
            let request = recv.read_to_end(100).await.unwrap();
            let number: u64 = String::from_utf8(request).unwrap().parse().unwrap();
            send.write_all((number * number).to_string().as_bytes()).await.unwrap();
            send.finish().unwrap();
        });
    }
}

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1000))
        .stream_receive_window(VarInt::from_u32(64 * 1024))
        .receive_window(VarInt::from_u32(1 << 30));
    config.transport_config(Arc::new(transport));
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    executor::spawn(async move {
        while let Some(incoming) = server.accept().await {
            executor::spawn(async move { answer(incoming.await.unwrap()).await });
        }
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = client.connect(addr, "localhost")?.await?;
    let requests: Vec<_> = (0..1000u64)
        .map(|number| {
            let connection = connection.clone();
            executor::spawn(async move {
                let (mut send, mut recv) = connection.open_bi().await?;
                send.write_all(number.to_string().as_bytes()).await?;
                send.finish()?;
                let answer = recv.read_to_end(100).await?;
                let answer: u64 = String::from_utf8(answer)?.parse()?;
                Ok::<_, Box<dyn Error + Send + Sync>>((number, answer))
            })
        })
        .collect();
    let mut right = 0;
    for request in requests {
        let (number, answer) = request.await??;
        right += u64::from(number * number == answer);
    }
    connection.close(VarInt::from_u32(0), b"");
    client.wait_idle().await;
    Ok(vec![format!("{right} right answers")])
}
