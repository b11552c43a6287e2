//! An origin: sends an object over as many servers as it is given.
//!
//! ```text
//! cargo run -p kwik-tokio --example primary -- KEYS LISTEN OBJECT [MIRROR=ADDRESS]...
//! ```
//! `KEYS` is a folder that exists. The origin leaves its certificate there, for clients, and the public half of the key by
//! which mirrors know its signature; it finds the mirrors' certificates there, whose keys it names to its clients.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use kwik_tokio::{
    Accepted, DistributeOptions, Endpoint, Incoming, NewPath, ServerConfig, Signer as _, SigningKey,
    spki_hash,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The object that every client is served.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) keys: PathBuf,
    pub(crate) object: PathBuf,
    pub(crate) mirrors: Vec<(String, SocketAddr)>,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [keys, address, object, mirrors @ ..] = args.as_slice() else {
        return Err("usage: primary KEYS LISTEN OBJECT [MIRROR=ADDRESS]...".into());
    };
    let mirrors: Option<Vec<_>> = mirrors
        .iter()
        .map(|mirror| mirror.split_once('=').and_then(|(name, at)| Some((name.to_owned(), at.parse().ok()?))))
        .collect();
    let mirrors = mirrors.ok_or("a mirror is a name and an address, as in a.example=192.0.2.1:4433")?;
    let endpoint = listen(keys.as_ref(), address.parse()?)?;
    serve(endpoint, Site { keys: keys.into(), object: object.into(), mirrors }).await;
    Ok(())
}

pub(crate) fn listen(keys: &Path, address: SocketAddr) -> Fallible<Endpoint> {
    let config =
        ServerConfig::try_from(identity(keys, "origin.example")?)?.primary(Arc::new(signing_key(keys)?));
    Ok(Endpoint::server(config, address)?)
}

pub(crate) async fn serve(endpoint: Endpoint, site: Site) {
    let site = Arc::new(site);
    while let Some(incoming) = endpoint.accept().await {
        let site = site.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_client(incoming, &site).await {
                drop(writeln!(io::stderr(), "a client: {error}"));
            }
        });
    }
}

async fn serve_client(incoming: Incoming, site: &Site) -> Fallible<()> {
    let Accepted::Primary(session) = incoming.accept_any().await? else {
        return Err("wants a mirror".into());
    };
    let (mut send, mut recv) = session.accept_bi().await?;
    let name = recv.read_to_end(1000).await?;
    for (mirror, address) in &site.mirrors {
        let certificate = fs::read(site.keys.join(format!("{mirror}.cert")))?;
        let path = NewPath::new(*address, mirror, spki_hash(&certificate).ok_or("no certificate")?);
        // One that cannot be reached costs nothing but its share.
        if let Err(error) = session.add_path(path).await {
            writeln!(io::stderr(), "{mirror}: {error}")?;
        }
    }
    let file = File::open(&site.object)?;
    let len = file.metadata()?.len();
    let report = send.distribute(file, len, DistributeOptions::new(name)).await?;
    for (path, share) in report.paths {
        writeln!(io::stdout(), "{path}: {} bytes", share.bytes)?;
    }
    session.close(0u32.into(), b"done"); // all of it has arrived
    session.closed().await;
    Ok(())
}

/// Makes a certificate for `name`, which clients find in the folder, and keeps its key to itself.
fn identity(keys: &Path, name: &str) -> Fallible<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let certificate = made.cert.der().clone();
    fs::write(keys.join(format!("{name}.cert")), &certificate)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = rustls::ServerConfig::builder().with_no_client_auth();
    Ok(tls.with_single_cert(vec![certificate], key)?)
}

/// Returns the key that signs tickets and jobs. It is made once, and is a secret: who has it can have every mirror that trusts
/// it serve anybody. Its public half is all that mirrors get.
fn signing_key(keys: &Path) -> Fallible<SigningKey> {
    let secret = keys.join("origin.secret"); // in a real system for this server's eyes only
    let seed: [u8; 32] = match fs::read(&secret) {
        Ok(seed) => seed.try_into().map_err(|_| "32 bytes are a key")?,
        Err(_) => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)?;
            fs::write(&secret, seed)?;
            seed
        }
    };
    let key = SigningKey::from_seed(seed);
    fs::write(keys.join("origin.public"), key.public_key().to_string())?;
    Ok(key)
}
