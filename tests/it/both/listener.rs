// A listener that looks at each client first, with every setting there is.
use std::{error::Error, net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use transport::{
    AckFrequencyConfig, ClientConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    NoneTokenLog, NoneTokenStore, ServerConfig, StdSystemTime, TransportConfig, TransportErrorCode,
    ValidationTokenConfig, VarInt, congestion, default_runtime,
};

fn transport_config() -> Result<TransportConfig, Box<dyn Error + Send + Sync>> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(Duration::from_secs(300))
        .upper_bound(1400)
        .black_hole_cooldown(Duration::from_secs(30))
        .minimum_change(16);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(4))
        .max_ack_delay(Some(Duration::from_millis(20)))
        .reordering_threshold(VarInt::from_u32(2));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(10u8.into())
        .max_concurrent_uni_streams(5u16.into())
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(10))?))
        .stream_receive_window(VarInt::from_u64(1 << 20)?)
        .receive_window(VarInt::try_from(64_000_000u64)?)
        .send_window(8_000_000)
        .send_fairness(false)
        .packet_threshold(4)
        .time_threshold(1.25)
        .initial_rtt(Duration::from_millis(100))
        .initial_mtu(1300)
        .min_mtu(1200)
        .mtu_discovery_config(Some(mtu))
        .pad_to_mtu(false)
        .ack_frequency_config(Some(acks))
        .persistent_congestion_threshold(4)
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .crypto_buffer_size(32 * 1024)
        .allow_spin(false)
        .datagram_receive_buffer_size(Some(65_536))
        .datagram_send_buffer_size(65_536)
        .congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default()))
        .enable_segmentation_offload(true);
    Ok(config)
}

pub(super) async fn program() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut said = Vec::new();
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![der.clone()], key.into())?;
    let mut tokens = ValidationTokenConfig::default();
    tokens.lifetime(Duration::from_secs(60)).log(Arc::new(NoneTokenLog)).sent(0);
    config
        .transport_config(Arc::new(transport_config()?))
        .validation_token_config(tokens)
        .retry_token_lifetime(Duration::from_secs(10))
        .migration(false)
        .preferred_address_v4(None)
        .preferred_address_v6(None)
        .max_incoming(100)
        .incoming_buffer_size(100_000)
        .incoming_buffer_size_total(1_000_000)
        .time_source(Arc::new(StdSystemTime));
    let mut endpoint_config = EndpointConfig::default();
    endpoint_config
        .max_udp_payload_size(1472)?
        .supported_versions(vec![1])
        .grease_quic_bit(false)
        .min_reset_interval(Duration::from_millis(50))
        .rng_seed(None);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = socket.local_addr()?;
    let runtime = default_runtime().ok_or("no runtime")?;
    let with = Arc::new(config.clone());
    let server = Endpoint::new(endpoint_config, Some(config), socket, runtime)?;

    let listening = executor::spawn(async move {
        let mut said = Vec::new();
        // The first client is not wanted, the second is to prove its address, the third gets no answer.
        let incoming = server.accept().await.unwrap();
        said.push(format!("{} {}", incoming.remote_address_validated(), incoming.may_retry()));
        incoming.refuse();
        let incoming = server.accept().await.unwrap();
        incoming.retry().unwrap();
        let incoming = server.accept().await.unwrap();
        said.push(format!("{} {}", incoming.remote_address_validated(), incoming.may_retry()));
        said.push(format!("{}", incoming.orig_dst_cid().len() >= 8));
        let incoming = match incoming.retry() {
            Err(error) => {
                said.push(error.to_string());
                error.into_incoming()
            }
            Ok(()) => panic!("twice"),
        };
        let connection = incoming.accept_with(with).unwrap().await.unwrap();
        said.push(connection.closed().await.to_string());
        let stats = server.stats();
        said.push(format!("{} accepted, {} refused", stats.accepted_handshakes, stats.refused_handshakes));
        server.close(0u32.into(), b"");
        server.wait_idle().await;
        said
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client_config
        .transport_config(Arc::new(transport_config()?))
        .token_store(Arc::new(NoneTokenStore))
        .version(1);
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(client_config);
    match client.connect(addr, "localhost")?.await {
        Err(ConnectionError::ConnectionClosed(close)) => {
            said.push(format!("{} {:?}", close.error_code == TransportErrorCode::CONNECTION_REFUSED, close.error_code));
        }
        other => said.push(format!("{other:?}")),
    }
    let connection = client.connect(addr, "localhost")?.await?;
    said.push(format!("{:?}", connection.max_datagram_size().is_some_and(|most| most < 1472)));
    said.push(format!("{}", connection.congestion_state().window() > 0));
    connection.close(3u32.into(), b"seen");
    client.wait_idle().await;
    said.extend(listening.await?);
    Ok(said)
}
