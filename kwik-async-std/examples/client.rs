//! Fetches an object: from an origin, and from the mirrors that the origin names, of which nothing is seen here.
//!
//! ```text
//! cargo run -p kwik-async-std --example async-std-client -- KEYS ORIGIN OBJECT OUT
//! ```
//! `KEYS` is the folder in which the servers have left their certificates: a client has to trust the origin's and the
//! mirrors', as it would by the authority that has signed them.

use std::{error::Error, fs, net::SocketAddr, path::Path};

use kwik_async_std::{ClientConfig, Endpoint};
use rustls::{RootCertStore, pki_types::CertificateDer};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Fallible<()> {
    async_std::task::block_on(async {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [keys, origin, object, out] = args.as_slice() else {
            return Err("usage: client KEYS ORIGIN OBJECT OUT".into());
        };
        fs::write(out, fetch(keys.as_ref(), origin.parse()?, object).await?)?;
        Ok(())
    })
}

pub(crate) async fn fetch(keys: &Path, origin: SocketAddr, object: &str) -> Fallible<Vec<u8>> {
    let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
    endpoint.set_default_client_config(ClientConfig::try_from(trust(keys)?)?);
    let connection = endpoint.connect(origin, "origin.example")?.await?;

    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(object.as_bytes()).await?;
    send.finish()?;
    let bytes = recv.read_to_end(1 << 30).await?;

    connection.closed().await; // the origin says goodbye once it knows that all has arrived
    endpoint.wait_idle().await;
    Ok(bytes)
}

/// Trusts the certificates in a folder.
fn trust(keys: &Path) -> Fallible<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for file in fs::read_dir(keys)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "cert") {
            roots.add(CertificateDer::from(fs::read(file)?))?;
        }
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
