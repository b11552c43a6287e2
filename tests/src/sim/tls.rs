//! Real TLS in which nothing is random but what follows from the world's seed.
//!
//! rustls takes randomness from its provider, except in three places that go to the operating system whatever the
//! provider says: key exchange, RSA and ECDSA signatures. So the group is one of ours and the certificates are Ed25519,
//! made once and kept beside this file. rustls wants its provider `'static`, hence one stream of randomness per
//! thread: a thread runs one world at a time.

use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kwik_core::{SpkiHash, spki_hash};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use rustls::{
    NamedGroup, RootCertStore,
    crypto::{
        ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
        ring,
    },
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    time_provider::TimeProvider,
    version::TLS13,
};

/// The wall clock of every world at its start, since the Unix epoch.
pub const WALL_EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Servers there are certificates for; each has two, so that a certificate can change.
pub const SERVERS: usize = 10;

thread_local! {
    static RANDOM: RefCell<ChaCha20Rng> = RefCell::new(ChaCha20Rng::from_seed([0; 32]));
}

/// Starts this thread's randomness for TLS from `seed`. A world does it when it is built.
pub fn seed(seed: [u8; 32]) {
    RANDOM.with_borrow_mut(|random| *random = ChaCha20Rng::from_seed(seed));
}

/// Proof of a server's name: certificate and key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name the certificate is valid for.
    pub name: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Hash of its public key.
    pub key: SpkiHash,
    /// A TLS configuration that shows it.
    pub tls: rustls::ServerConfig,
}

/// Returns the identity of server `index`, the second one if `renewed`.
#[must_use]
pub fn identity(index: usize, renewed: bool) -> Identity {
    assert!((1..=SERVERS).contains(&index), "no certificate for server {index}");
    let store = store();
    let at = (index - 1) * 2 + usize::from(renewed);
    let certificate = store.certificates.get(at + 1).expect("two per server").clone();
    let secret = store.secrets.get(at).expect("one per certificate").clone_key();
    let tls = rustls::ServerConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], secret)
        .expect("key and certificate belong together");
    let key = spki_hash(&certificate).expect("a certificate");
    Identity { name: server_name(index), certificate, key, tls }
}

/// Returns the name in the certificates of server `index`.
#[must_use]
pub fn server_name(index: usize) -> String {
    format!("node{index}.kwik.test")
}

/// Returns the TLS configuration of a client that trusts the simulator's authority only.
#[must_use]
pub fn client() -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(store().certificates.first().expect("the authority").clone()).expect("a certificate");
    rustls::ClientConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

struct Store {
    /// The authority's, then two for each server.
    certificates: Vec<CertificateDer<'static>>,
    secrets: Vec<PrivateKeyDer<'static>>,
}

fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let pem = include_bytes!("certificates.pem");
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>();
        let secrets = PrivateKeyDer::pem_slice_iter(pem).collect::<Result<_, _>>();
        Store { certificates: certificates.expect("certificates"), secrets: secrets.expect("keys") }
    })
}

/// Makes what is kept in `certificates.pem`. The result differs each time.
///
/// # Errors
/// What rcgen says; there is nothing to fail.
pub fn generate() -> Result<String, rcgen::Error> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};
    let authority = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut pem = params.self_signed(&authority)?.pem();
    let issuer = Issuer::new(params, authority);
    for index in 1..=SERVERS {
        for _ in 0..2 {
            let key = KeyPair::generate_for(&PKCS_ED25519)?;
            let certificate = CertificateParams::new(vec![server_name(index)])?.signed_by(&key, &issuer)?;
            pem += &certificate.pem();
            pem += &key.serialize_pem();
        }
    }
    Ok(pem)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
            Arc::new(CryptoProvider {
                cipher_suites: suites,
                kx_groups: vec![&X25519],
                secure_random: &Seeded,
                ..ring::default_provider()
            })
        })
        .clone()
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        RANDOM.with_borrow_mut(|random| random.fill_bytes(buf));
        Ok(())
    }
}

/// Certificates are checked at the epoch of the world: they are valid for two thousand years.
#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(WALL_EPOCH))
    }
}

/// X25519 (RFC 7748) whose secrets come from this thread's randomness.
#[derive(Debug)]
struct X25519;

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        let mut secret = [0; 32];
        Seeded.fill(&mut secret)?;
        let public = x25519_dalek::x25519(secret, x25519_dalek::X25519_BASEPOINT_BYTES);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: [u8; 32],
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| rustls::PeerMisbehaved::InvalidKeyShare)?;
        let shared = x25519_dalek::x25519(self.secret, peer);
        if shared == [0; 32] {
            return Err(rustls::PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
