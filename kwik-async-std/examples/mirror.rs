//! A mirror: brings those ranges of an object that an origin has its clients ask it for.
//!
//! ```text
//! cargo run -p kwik-async-std --example async-std-mirror -- KEYS NAME LISTEN OBJECT
//! ```
//! `KEYS` is the folder in which the origin has left its public key, and in which this mirror leaves its certificate. The
//! mirror trusts whomever the origin has signed a ticket for; what it may write, and where, the origin has signed as well.

use std::{error::Error, fs, net::SocketAddr, path::Path};

use kwik_async_std::{Accepted, Endpoint, Incoming, PublicKey, SecondaryConfig, ServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Fallible<()> {
    async_std::task::block_on(async {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [keys, name, address, object] = args.as_slice() else {
            return Err("usage: mirror KEYS NAME LISTEN OBJECT".into());
        };
        let endpoint = listen(keys.as_ref(), name, address.parse()?)?;
        serve(endpoint, fs::read(object)?.leak()).await;
        Ok(())
    })
}

pub(crate) fn listen(keys: &Path, name: &str, address: SocketAddr) -> Fallible<Endpoint> {
    let origin: PublicKey = fs::read_to_string(keys.join("origin.public"))?.trim().parse()?;
    let (certificate, tls) = identity(keys, name)?;
    let trust = SecondaryConfig::new(origin, &certificate)?;
    Ok(Endpoint::server(ServerConfig::try_from(tls)?.secondary(trust), address)?)
}

pub(crate) async fn serve(endpoint: Endpoint, object: &'static [u8]) {
    while let Some(incoming) = endpoint.accept().await {
        async_std::task::spawn(serve_client(incoming, object));
    }
}

/// Fills what the origin of one client asks for, until that client is gone.
async fn serve_client(incoming: Incoming, object: &'static [u8]) -> Fallible<()> {
    let Accepted::Secondary(session) = incoming.accept_any().await? else { return Ok(()) };
    while let Ok(mut job) = session.accept_job().await {
        // `job.payload()` says which object it is; this mirror has only one.
        async_std::task::spawn(async move {
            while let Some(lease) = job.next_lease().await {
                // Each in a task of its own: one that waits for credit must not hold up one that the reader needs first.
                async_std::task::spawn(async move {
                    let (start, end) = (lease.range().start(), lease.range().end());
                    let bytes = object.get(usize::try_from(start)?..usize::try_from(end)?);
                    lease.open().write_all(bytes.ok_or("another object")?).await?;
                    Fallible::Ok(())
                });
            }
        });
    }
    Ok(())
}

/// Makes a certificate for `name`, which clients and the origin find in the folder, and keeps its key to itself.
fn identity(keys: &Path, name: &str) -> Fallible<(CertificateDer<'static>, rustls::ServerConfig)> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let certificate = made.cert.der().clone();
    fs::write(keys.join(format!("{name}.cert")), &certificate)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = rustls::ServerConfig::builder().with_no_client_auth();
    Ok((certificate.clone(), tls.with_single_cert(vec![certificate], key)?))
}
