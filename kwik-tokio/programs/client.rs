use std::{error::Error, net::SocketAddr};

use kwik_tokio::{ClientConfig, Endpoint};

/// Fetches an object, from one server or from many.
pub async fn fetch(origin: SocketAddr, tls: rustls::ClientConfig) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
    endpoint.set_default_client_config(ClientConfig::try_from(tls)?);
    let connection = endpoint.connect(origin, "origin.example")?.await?;

    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"weights.bin").await?;
    send.finish()?;
    let object = recv.read_to_end(1 << 30).await?;

    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(object)
}
