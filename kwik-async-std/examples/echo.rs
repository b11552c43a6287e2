//! A server that says what it is told, and a client: as with quinn, on one path.
//!
//! ```text
//! cargo run -p kwik-async-std --example async-std-echo
//! ```

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use kwik_async_std::{ClientConfig, Endpoint, ServerConfig, SigningKey};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Fallible<()> {
    async_std::task::block_on(async {
        writeln!(io::stdout(), "{}", String::from_utf8(echo(b"hello").await?)?)?;
        Ok(())
    })
}

pub(crate) async fn echo(message: &[u8]) -> Fallible<Vec<u8>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = rustls::ServerConfig::builder().with_no_client_auth();
    let tls = tls.with_single_cert(vec![certificate.clone()], key)?;
    // A server that names no mirrors signs nothing either; a key for its life is enough.
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let config = ServerConfig::try_from(tls)?.primary(Arc::new(SigningKey::from_seed(seed)));
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Endpoint::server(config, local)?;
    let address = server.local_addr()?;
    async_std::task::spawn(async move {
        while let Some(incoming) = server.accept().await {
            let connection = incoming.await?;
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                send.write_all(&recv.read_to_end(64 * 1024).await?).await?;
                send.finish()?;
            }
        }
        Fallible::Ok(())
    });

    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut client = Endpoint::client(local)?;
    client.set_default_client_config(ClientConfig::try_from(tls)?);
    let connection = client.connect(address, "localhost")?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(message).await?;
    send.finish()?;
    let answer = recv.read_to_end(64 * 1024).await?;
    connection.close(0u32.into(), b"done");
    client.wait_idle().await;
    Ok(answer)
}
