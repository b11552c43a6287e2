// Facts about a connection, and settings that change while it lives.
use std::{error::Error, net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{
    ClientConfig, Connection, Endpoint, ServerConfig, VarInt,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};

fn seen(connection: &Connection) -> Vec<String> {
    let data = connection.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
    let stats = connection.stats();
    vec![
        format!("{:?} {}", connection.side(), connection.side().is_client()),
        format!("{:?}", data.protocol.map(|name| String::from_utf8_lossy(&name).into_owned())),
        format!("{:?}", data.server_name),
        format!("{}", connection.rtt() < Duration::from_secs(10)),
        format!("{}", stats.path.sent_packets > 0 && stats.path.cwnd > 0 && stats.path.current_mtu >= 1200),
        format!("{}", stats.udp_tx.datagrams > 0 && stats.udp_rx.bytes > 0 && stats.udp_tx.ios > 0),
        format!("{}", stats.frame_tx.crypto > 0 && stats.frame_rx.acks > 0),
        format!("{}", connection.stable_id() == connection.clone().stable_id()),
        format!("{}", connection.datagram_send_buffer_space() > 0),
    ]
}

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key.into())?;
    tls.alpn_protocols = vec![b"other".to_vec(), b"ours".to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = server.local_addr()?;
    let serving = executor::spawn(async move {
        let incoming = server.accept().await.unwrap();
        let mut connecting = incoming.accept().unwrap();
        let early = connecting.handshake_data().await.unwrap().downcast::<HandshakeData>().unwrap();
        let mut said = vec![format!("{:?}", early.server_name)];
        let connection = connecting.await.unwrap();
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(20));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(20));
        connection.set_receive_window(VarInt::from_u32(16_000_000));
        connection.set_send_window(1_000_000);
        let mut recv = connection.accept_uni().await.unwrap();
        let text = recv.read_to_end(100).await.unwrap();
        let mut exported = [0; 32];
        connection.export_keying_material(&mut exported, b"EXPORTER-it", b"context").unwrap();
        said.push(format!("the same secret: {}", text == exported));
        said.extend(seen(&connection));
        said.push(format!("{}", connection.peer_identity().is_none()));
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let asked = recv.read_to_end(100).await.unwrap();
        send.write_all(&asked).await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
        said
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.clone())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"ours".to_vec()];
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    let connecting = client.connect(addr, "localhost")?;
    let connection = match connecting.into_0rtt() {
        Ok(_) => return Err("there is no ticket yet".into()),
        Err(connecting) => connecting.await?,
    };
    let mut exported = [0; 32];
    connection.export_keying_material(&mut exported, b"EXPORTER-it", b"context").map_err(|_| "no exporter")?;
    let mut send = connection.open_uni().await?;
    send.write_all(&exported).await?;
    send.finish()?;
    send.stopped().await?;
    connection.force_key_update();
    // To another socket, in the middle.
    client.rebind(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"still here").await?;
    send.finish()?;
    let mut said = vec![String::from_utf8(recv.read_to_end(100).await?)?];
    said.extend(seen(&connection));
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    said.push(format!("its certificate: {}", *chain == [der]));
    connection.close(0u32.into(), b"");
    client.wait_idle().await;
    said.extend(serving.await?);
    Ok(said)
}
